"""What a long run tells while it runs and when it ends.

While it runs: bars for people (tqdm on stderr), and for programs one JSON line per event, in files
under `database/`, the folder of records that belong to this machine and to no commit.

When it ends: a notification in the way that SO8T_NOTIFY names. `bell` rings the terminal, `osc`
asks it for a desktop notification (escape sequence OSC 9), `sound` plays the system's own sound,
`cmd:COMMAND` runs a command with the stage's name and outcome as its last two arguments, `off` does
nothing. It never fails a stage, and is silent in CI.
"""

import json
import logging
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

log = logging.getLogger(__name__)
Item = TypeVar("Item")


# --- where records live ---


def database_dir() -> Path:
    """Where records live: outside the graph and git. SO8T_DATABASE overrides it."""
    # A worker of DVC's queue runs in a copy of the project, and its records must outlive that.
    root = os.environ.get("DVC_ROOT", ".")
    default = Path(root) / "database"
    return Path(os.environ.get("SO8T_DATABASE", default))


def run_dir() -> Path:
    """Where one run's progress and logs go; each worker of DVC's queue has a folder of its own."""
    if not _in_queue_worker():
        return database_dir()
    name = os.environ.get("DVC_EXP_NAME", str(os.getpid()))
    return database_dir() / "experiments" / name


def _in_queue_worker() -> bool:
    # DVC sets DVC_ROOT for every stage. Only a worker's folder is below this one.
    root = os.environ.get("DVC_ROOT")
    if root is None:
        return False
    workers = Path(root) / ".dvc/tmp/exps"
    return Path.cwd().is_relative_to(workers.resolve())


# --- while it runs ---

# Seconds between two updates of a bar that nobody watches: a log keeps every one.
QUIET_INTERVAL_S = 30.0


class Progress:
    """Events and bars of one stage."""

    def __init__(self, stage: str) -> None:
        self.stage = stage
        self.path = run_dir() / "progress" / f"{stage}.jsonl"

    def emit(self, event: str, **fields: Any) -> None:
        """Append one event."""
        record = {"t": round(time.time(), 3), "stage": self.stage, "event": event, **fields}
        line = json.dumps(record, ensure_ascii=False)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a", encoding="utf-8") as out:
                out.write(line + "\n")
        except OSError as error:
            # A full disk must not stop a training over its log.
            log.warning("progress event not recorded: %s", error)

    def bar(
        self, items: Iterable[Item], *, total: int | None = None, what: str = "", unit: str = "it"
    ) -> Iterator[Item]:
        """Iterate with a bar: live on a terminal, one line every 30 s in a log."""
        # Imported on use: a stage's `--help` needs no bar.
        from tqdm import tqdm

        interactive = sys.stderr.isatty()
        interval = 0.2
        delay = 0
        if not interactive:
            interval = QUIET_INTERVAL_S
            # A bar that is full within seconds is not worth a line in a log.
            delay = 3
        yield from tqdm(
            items,
            total=total,
            desc=what or self.stage,
            unit=unit,
            dynamic_ncols=interactive,
            mininterval=interval,
            delay=delay,
        )


# --- when it ends ---

# Seconds. A shorter run ends while the one who started it still watches.
LONG_S = 60.0

# A command that hangs must not keep the stage from ending.
_COMMAND_TIMEOUT_S = 30

# Players of Linux desktops, macOS and Windows; the first that is installed is taken.
SOUNDS = (
    ("paplay", "/usr/share/sounds/freedesktop/stereo/complete.oga"),
    ("afplay", "/System/Library/Sounds/Glass.aiff"),
    ("powershell", "-c", "[System.Media.SystemSounds]::Asterisk.Play(); Start-Sleep 1"),
)


def notify(
    stage: str, outcome: str, seconds: float, environment: Mapping[str, str] = os.environ
) -> str:
    """Notify in the way that SO8T_NOTIFY names.

    Args:
        stage: its name.
        outcome: `done` or `failed`.
        seconds: how long it ran; short runs are silent.
        environment: where SO8T_NOTIFY and CI are looked up.

    Returns:
        What was written or run; "" for nothing.
    """
    way = environment.get("SO8T_NOTIFY", "off")
    if way in ("", "off") or environment.get("CI") or seconds < LONG_S:
        return ""
    try:
        return _notify_by(way, stage, outcome)
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        log.warning("SO8T_NOTIFY=%s did not work: %s", way, error)
        return ""


def _notify_by(way: str, stage: str, outcome: str) -> str:
    if way == "bell":
        return _to_terminal("\a")
    if way == "osc":
        return _to_terminal(f"\033]9;so8t {stage}: {outcome}\a")
    if way == "sound":
        return _play()
    if way.startswith("cmd:"):
        command = shlex.split(way.removeprefix("cmd:"))
        return _run([*command, stage, outcome])
    raise ValueError("known: off, bell, osc, sound, cmd:COMMAND")


def _play() -> str:
    for player in SOUNDS:
        if shutil.which(player[0]):
            return _run(list(player))
    return _to_terminal("\a")


def _to_terminal(text: str) -> str:
    # To stderr: stdout belongs to the stage's result, which may be piped.
    sys.stderr.write(text)
    sys.stderr.flush()
    return text


def _run(command: list[str]) -> str:
    subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        timeout=_COMMAND_TIMEOUT_S,
        check=False,
    )
    return " ".join(command)
