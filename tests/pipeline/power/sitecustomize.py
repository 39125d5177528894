"""Python imports this by itself where its folder is on PYTHONPATH: at a random fsync of a stage the project is copied as a disk would hold it.

Of the n-th fsync a copy is taken with chance 1/n and replaces the one before: every fsync of the run is equally likely. In the
copy, files written since the stage began and not synced are cut in half: that is what the power takes. Files from the future (another
fault's clock) are left alone. Not covered: SQLite (it syncs by itself, unseen here), what the kernel wrote out unasked.
"""

import json
import os
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path


class Watch:
    """The fsyncs of this process."""

    def __init__(self, root: Path, copy: Path, seed: int) -> None:
        self.root, self.copy, self.chance = root, copy, random.Random(seed)
        self.began, self.count, self.synced = time.time(), 0, set[tuple[int, int]]()
        self.fsync = os.fsync

    def __call__(self, descriptor: int) -> None:
        """fsync, then perhaps the power cut."""
        self.fsync(descriptor)
        stat = os.fstat(descriptor)
        self.synced.add((stat.st_dev, stat.st_ino))
        self.count += 1
        if self.chance.random() < 1 / self.count:
            self.cut(self.count)
        elif self.copy.is_dir():
            held = json.loads((self.copy / ".chaos.json").read_text(encoding="utf-8"))
            (self.copy / ".chaos.json").write_text(
                json.dumps(held | {"of": self.count}), encoding="utf-8"
            )

    def cut(self, number: int) -> None:
        """Copy everything; tear what was not synced."""
        shutil.rmtree(self.copy, ignore_errors=True)
        subprocess.run(
            ["cp", "-a", str(self.root), str(self.copy)], check=False, capture_output=True
        )
        torn = []
        for path in self.root.rglob("*"):
            if (
                path.is_symlink()
                or not path.is_file()
                or ".git" in path.parts
                or ".dvc" in path.parts
                or ".db" in path.name
            ):
                continue
            stat, twin = path.stat(), self.copy / path.relative_to(self.root)
            if (
                self.began < stat.st_mtime <= time.time() + 1
                and (stat.st_dev, stat.st_ino) not in self.synced
                and twin.is_file()
            ):
                os.truncate(twin, twin.stat().st_size // 2)
                torn.append(str(path.relative_to(self.root)))
        (self.copy / ".chaos.json").write_text(
            json.dumps({"number": number, "of": number, "torn": torn}), encoding="utf-8"
        )


if "CHAOS_COPY" in os.environ and any(word.startswith("stages/") for word in sys.orig_argv):
    os.fsync = Watch(
        Path(os.environ["CHAOS_ROOT"]),
        Path(os.environ["CHAOS_COPY"]),
        int(os.environ["CHAOS_SEED"]),
    )  # type: ignore[assignment]
