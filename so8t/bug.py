"""What a command does with an error that nobody foresaw: one line, a log, an exit code of its own.

Covered: errors of the file system and of memory, which are nobody's mistake, become errors of ours
here; all others are a bug. Not covered: what a library raises, which the boundary that calls it
translates, because only there is known what the file should have been.
"""

import os
import time
import traceback
from pathlib import Path

from so8t.errors import BUG, ResourceError, So8tError
from so8t.files import disk_error, unreadable
from so8t.progress import run_dir

# Set to 1, the traceback is shown too.
DEBUG = "SO8T_DEBUG"


def ours(error: Exception) -> So8tError | None:
    """The error that its reader can do something about; None for a bug."""
    if isinstance(error, So8tError):
        return error
    if isinstance(error, MemoryError):
        return ResourceError("not enough memory", fix="`so8t plan` says what each stage needs")
    if not isinstance(error, OSError):
        return None
    told = disk_error(error, Path(str(error.filename or ".")))
    if isinstance(told, So8tError):
        return told
    # Without a file it is a socket or a process, and which is not known here.
    return unreadable(error, Path(str(error.filename))) if error.filename else None


def report(label: str, error: Exception, log: Path | None = None) -> tuple[str, int]:
    """Write the traceback to a log.

    Args:
        label: the command or stage.
        error: what was raised.
        log: its log file; None for the one of the commands.

    Returns:
        What to print, and the exit code.
    """
    told = "".join(traceback.format_exception(error))
    path = log or run_dir() / "logs" / "so8t.log"
    says = f"log: {path}"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8", errors="backslashreplace") as out:
            out.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {label}\n{told}")
    except OSError as failed:
        says = f"no log could be written ({failed.strerror}); {DEBUG}=1 shows the traceback"
    # One line, whatever the error says.
    problem = " ".join(f"{type(error).__name__}: {error}".split())
    line = f"{label}: {problem}\n  this is a bug; {says}"
    if os.environ.get(DEBUG, "0") not in ("", "0"):
        line = f"{told}{line}"
    return line, BUG
