"""No telemetry, no look-ups on a network, no chatter of dependencies.

Libraries read these settings when they are imported, so `quieten` runs before any of them is.
"""

import logging
import os
import warnings

OFF = (
    "HF_HUB_DISABLE_TELEMETRY",
    "DO_NOT_TRACK",
    "DVC_NO_ANALYTICS",
    "DISABLE_TELEMETRY",
    "HF_HUB_OFFLINE",
)

# It warns that an optional package of kernels is missing, which nothing here needs.
NOISE = ("bitsandbytes.backends.cpu.ops",)


def quieten() -> None:
    """Set what is not set yet; a user's own environment wins."""
    for key in OFF:
        os.environ.setdefault(key, "1")
    # Its threads would warn about every fork of a process that has used a tokenizer.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    # Threads that spin while they wait take the core from the ones that work.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    warnings.filterwarnings(
        "ignore",
        message=".*is_gradient_checkpointing.*",
        category=FutureWarning,
    )
    for name in NOISE:
        logging.getLogger(name).setLevel(logging.ERROR)
