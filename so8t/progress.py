"""Progress for people (tqdm on stderr) and for programs (one JSON line per event under `database/`)."""

import json
import logging
import os
import sys
import time
from collections.abc import Iterable, Iterator
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
    inside = root is not None and Path.cwd().is_relative_to((Path(root) / ".dvc/tmp/exps").resolve())
    return database_dir() / "experiments" / os.environ.get("DVC_EXP_NAME", str(os.getpid())) if inside else database_dir()


class Progress:
    """Events of one stage. Emitting never fails the stage: a full disk must not stop a training over its log."""

    def __init__(self, stage: str) -> None:
        self.stage = stage
        self.path = run_dir() / "progress" / f"{stage}.jsonl"

    def emit(self, event: str, **fields: Any) -> None:
        """Append one event."""
        line = json.dumps({"t": round(time.time(), 3), "stage": self.stage, "event": event, **fields}, ensure_ascii=False)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a", encoding="utf-8") as out:
                out.write(line + "\n")
        except OSError as error:
            log.warning("progress event not recorded: %s", error)

    def bar(self, items: Iterable[Item], *, total: int | None = None, what: str = "", unit: str = "it") -> Iterator[Item]:
        """Iterate with a bar: live on a terminal, one line every 30 s in a log."""
        from tqdm import tqdm

        interactive = sys.stderr.isatty()
        yield from tqdm(items, total=total, desc=what or self.stage, unit=unit, dynamic_ncols=interactive,
                        mininterval=0.2 if interactive else QUIET_INTERVAL_S, delay=0 if interactive else 3)
