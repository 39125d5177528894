"""Times and memory of one file, in files of their own.

Everything else that is measured comes out the same on every machine; kept apart, these numbers
change no other file.
"""

from pathlib import Path

from so8t.evaluation.evaluate import Job
from so8t.evaluation.tables import latency, write_tables
from so8t.files import write_json
from so8t.generated import Timings, rounded

SCHEMA = "so8t.speed/1"


def write_speed(job: Job, timings: Timings, *, out: Path, plots: Path) -> None:
    """Write speed-{model}-{type}.json and the table of single verdict times.

    Args:
        job: the file.
        timings: of the `generate` stage, in seconds, tokens per second and bytes.
        out: the metrics file.
        plots: the directory of the table; it is replaced.
    """
    # Flat, because a file of times has no other section.
    content = {"schema": SCHEMA, **job.identity, **timings.speed}
    write_json(out, rounded(content))
    # In a folder of its own: the other tables come out the same everywhere.
    write_tables(plots, {"latency": latency(timings.latencies)})
