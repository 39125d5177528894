"""What a team meets after the first green run.

Diagnosis (doctor), going back (rollback), damage (fsck), cleaning (gc), handing over (bundle,
evidence), many runs (repro -j, sweep, ablation), and small commands around a clone (setup).
"""
