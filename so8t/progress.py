"""Progress for people (tqdm on stderr) and for programs (one JSON line per event under `database/`).

Say that a long run has ended: SO8T_NOTIFY=off|bell|osc|sound|cmd:COMMAND. Never fails a stage, silent in CI.

`bell` rings the terminal, `osc` asks it for a desktop notification (OSC 9), `sound` plays the system's own sound,
`cmd:` runs a command of yours with the stage's name and outcome as its last two arguments.
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
QUIET_INTERVAL_S = 30.0  # seconds between bar updates when nobody watches


def database_dir() -> Path:
    """Where records live: outside the graph and git. `SO8T_DATABASE` overrides (queue workers, tests)."""
    root = os.environ.get("DVC_ROOT", ".")
    return Path(os.environ.get("SO8T_DATABASE", Path(root) / "database"))


def run_dir() -> Path:
    """Where one run's progress and logs go: a queue worker, whose folder is below `.dvc/tmp/exps`, has its own."""
    root = os.environ.get("DVC_ROOT")
    inside = root is not None and Path.cwd().is_relative_to(
        (Path(root) / ".dvc/tmp/exps").resolve()
    )
    return (
        database_dir() / "experiments" / os.environ.get("DVC_EXP_NAME", str(os.getpid()))
        if inside
        else database_dir()
    )


class Progress:
    """Events of one stage. Emitting never fails the stage: a full disk must not stop a training over its log."""

    def __init__(self, stage: str) -> None:
        self.stage = stage
        self.path = run_dir() / "progress" / f"{stage}.jsonl"

    def emit(self, event: str, **fields: Any) -> None:
        """Append one event."""
        line = json.dumps(
            {"t": round(time.time(), 3), "stage": self.stage, "event": event, **fields},
            ensure_ascii=False,
        )
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a", encoding="utf-8") as out:
                out.write(line + "\n")
        except OSError as error:
            log.warning("progress event not recorded: %s", error)

    def bar(
        self, items: Iterable[Item], *, total: int | None = None, what: str = "", unit: str = "it"
    ) -> Iterator[Item]:
        """Iterate with a bar: live on a terminal, one line every 30 s in a log."""
        from tqdm import tqdm

        interactive = sys.stderr.isatty()
        yield from tqdm(
            items,
            total=total,
            desc=what or self.stage,
            unit=unit,
            dynamic_ncols=interactive,
            mininterval=0.2 if interactive else QUIET_INTERVAL_S,
            delay=0 if interactive else 3,
        )


LONG_S = 60.0  # a shorter run ends while its starter still watches
SOUNDS = (
    ("paplay", "/usr/share/sounds/freedesktop/stereo/complete.oga"),
    ("afplay", "/System/Library/Sounds/Glass.aiff"),
    ("powershell", "-c", "[System.Media.SystemSounds]::Asterisk.Play(); Start-Sleep 1"),
)


def notify(
    stage: str, outcome: str, seconds: float, environment: Mapping[str, str] = os.environ
) -> str:
    """Notify in the way that SO8T_NOTIFY names; return what was done ("" for nothing)."""
    way = environment.get("SO8T_NOTIFY", "off")
    if way in ("", "off") or environment.get("CI") or seconds < LONG_S:
        return ""
    try:
        return _by(way, stage, outcome)
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        log.warning("SO8T_NOTIFY=%s did not work: %s", way, error)
        return ""


def _by(way: str, stage: str, outcome: str) -> str:
    if way == "bell":
        return _to_terminal("\a")
    if way == "osc":
        return _to_terminal(f"\033]9;so8t {stage}: {outcome}\a")
    if way == "sound":
        player = next((list(p) for p in SOUNDS if shutil.which(p[0])), None)
        return _start(player) if player else _to_terminal("\a")
    if way.startswith("cmd:"):
        return _start([*shlex.split(way[4:]), stage, outcome])
    raise ValueError("known: off, bell, osc, sound, cmd:COMMAND")


def _to_terminal(text: str) -> str:
    sys.stderr.write(text)
    sys.stderr.flush()
    return text


def _start(command: list[str]) -> str:
    subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        timeout=30,
        check=False,
    )
    return " ".join(command)
