"""Faults on the real graph, seeded and bounded: `python -m tests.pipeline.chaos --faults 24 --seed 1 --table docs/reliability.md`.

One fault strikes one stage of a built project. Then the stage is run again as its owner would, and its outputs must have
the digests of the undisturbed run; or it stopped with a clear message and lost nothing.
Not covered: a disk that lies about fsync (power loss is a copy of the files at a random moment), other machines.
"""

import argparse
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from so8t.operations import fsck
from so8t.operations.store import Out, cache_dir, entries, lock_here, object_path
from so8t.params import read_yaml

STAGES = (
    "synthesize",
    "prepare",
    "base",
    "train",
    "train_report",
    "bake",
    "convert@a",
    "convert@b",
    "quantize@a-Q4_K_M",
    "quantize@b-Q8_0",
    "verify@b",
    "verify_quantized@b-Q4_K_M",
    "score@b-Q4_K_M",
    "calibrate@b-Q4_K_M",
    "generate@b-Q4_K_M",
    "evaluate@b-Q4_K_M",
    "compare",
    "release",
    "report",
)
LIMIT_S = 600
BIN = Path(sys.executable).parent
PAGE = 4096
CLEAR = (
    "fix:",
    "interrupted",
    "stopped by",
    "Unable to acquire",
    "lock",
    "exited with",
    "failed to",
)
HOOK = Path(__file__).with_name(
    "power"
)  # a sitecustomize of its own: what the disk holds at a random fsync


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one fault did: what its owner saw, what brought things back, whether the digests are those of before."""

    stage: str
    fault: str
    seen: str
    recovery: str
    same: bool


@dataclass(slots=True)
class Scene:
    """A built project, the stage that is struck, and the seeded chance."""

    root: Path
    stage: str
    chance: random.Random

    @property
    def outs(self) -> list[Out]:
        return [out for out in lock_here(self.root) if out.stage == self.stage]

    def start(
        self, *command: str, root: Path | None = None, more: dict[str, str] | None = None
    ) -> subprocess.Popen[str]:
        return subprocess.Popen(
            command,
            cwd=root or self.root,
            env=environment(root or self.root) | (more or {}),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def run(self, *command: str, root: Path | None = None) -> tuple[int, str]:
        process = self.start(*command, root=root)
        said, _ = process.communicate(timeout=LIMIT_S)
        return process.returncode, said

    def repro(self) -> tuple[str, ...]:
        return ("dvc", "repro", "-f", "-s", self.stage)

    def command(self) -> str:
        """The stage's own command line."""
        held = read_yaml(self.root / "dvc.lock")["stages"][self.stage]
        return str(held["cmd"])


def environment(root: Path) -> dict[str, str]:
    keep = {k: v for k, v in os.environ.items() if not k.startswith(("SO8T_", "DVC_"))}
    return keep | {
        "PATH": f"{BIN}:{os.environ['PATH']}",
        "PYTHONPATH": str(root),
        "OMP_WAIT_POLICY": "passive",
        "SO8T_KEY": os.environ["SO8T_KEY"],
        "CI": "1",
    }


def last_line(said: str) -> str:
    """What a person remembers of the output."""
    lines = [line.strip() for line in said.replace("\r", "\n").splitlines() if line.strip()]
    telling = [line for line in lines if any(word in line for word in CLEAR)]
    return (telling or lines or ["(nothing)"])[0][:140].replace("|", "/")


def _wait_until_running(scene: Scene, process: subprocess.Popen[str]) -> None:
    """A random moment of the stage's own process: between its first event and as long as its last whole run took."""
    progress = scene.root / "database/progress"
    name = {"verify@b": "verify@b-F16"}.get(
        scene.stage, scene.stage.replace("verify_quantized", "verify")
    )
    began, last = time.time(), _seconds(progress / f"{name}.jsonl")
    while time.time() - began < 60 and process.poll() is None:
        if any(f.stat().st_mtime >= began - 0.5 for f in progress.glob("*.jsonl")):
            break
        time.sleep(0.02)
    time.sleep(scene.chance.uniform(0.0, 0.9) * last)


def _seconds(events: Path) -> float:
    """How long the last whole run of a stage took."""
    lines = events.read_text(encoding="utf-8").splitlines() if events.is_file() else []
    ends = [
        row["seconds"]
        for line in lines
        if line.startswith("{") and (row := json.loads(line)).get("event") == "end"
    ]
    return float(ends[-1]) if ends else 1.0


def _signalled(scene: Scene, number: int, *, whole_group: bool) -> str:
    process = scene.start(*scene.repro())
    _wait_until_running(scene, process)
    if process.poll() is None:
        if whole_group:
            os.killpg(process.pid, number)
        else:
            os.kill(process.pid, number)
    said, _ = process.communicate(timeout=LIMIT_S)
    return (
        f"code {process.returncode}: {last_line(said)}"
        if process.returncode
        else "it had finished before the signal"
    )


def kill_all(scene: Scene) -> str:
    return _signalled(scene, signal.SIGKILL, whole_group=True)


def sigterm(scene: Scene) -> str:
    return _signalled(scene, signal.SIGTERM, whole_group=True)


def kill_dvc(scene: Scene) -> str:
    """DVC alone dies; the stage is an orphan. Linux ends a training with it; other stages finish."""
    return _signalled(scene, signal.SIGKILL, whole_group=False)


def _elsewhere(scene: Scene, size: int | None) -> str:
    """Run the stage's command with its largest output on a disk of `size` bytes, or a read-only one: exit code 7, nothing left there."""
    options = f"size={-(-size // PAGE) * PAGE}" if size else "ro"
    small = scene.root.parent / f"small-{scene.chance.randrange(10**9)}"
    small.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(small)],
        capture_output=True,
        check=False,
    ).returncode:
        return "skipped: mounting needs root"
    try:
        ballast = small / "ballast"
        if size:  # tmpfs gives whole pages: what is more than wanted is filled
            ballast.write_bytes(b"\0" * (-size % PAGE))
        words = scene.command().split()
        place = {
            out.path: word
            for out in scene.outs
            for word in words
            if out.path == word or out.path.startswith(f"{word}/")
        }
        largest = place[
            max((out for out in scene.outs if out.path in place), key=lambda out: out.size).path
        ]
        code, said = scene.run(*[str(small / "out") if word == largest else word for word in words])
        left = [p.name for p in small.rglob("*") if p.is_file() and p != ballast]
        assert code == 7, (code, said[-1500:])
        assert "fix:" in said, said[-500:]
        assert not left, left
        says = re.findall(r"^(.*)\n\s+fix:", said, re.MULTILINE)[-1][
            -140:
        ]  # the line above the fix
        return f"code {code}: {says}".replace(str(small), "(small disk)").replace(
            small.name, "(small disk)"
        )
    finally:
        subprocess.run(["umount", str(small)], check=True)
        small.rmdir()


def disk_full(scene: Scene) -> str:
    """Room for half of the largest output."""
    return _elsewhere(scene, max(out.size for out in scene.outs) // 2)


def read_only(scene: Scene) -> str:
    return _elsewhere(scene, None)


def bit_rot(scene: Scene) -> str:
    """One bit of the cached object flips under its old time; DVC calls it up to date, fsck does not."""
    outs = [out for out in scene.outs if out.cached] or [
        out for out in lock_here(scene.root) if out.cached
    ]  # of an uncached stage: any
    target = next(
        held
        for out in outs
        for _name, md5 in entries(out, scene.root)
        if (held := object_path(md5, scene.root)).stat().st_size
    )
    stat = target.stat()
    target.chmod(0o644)
    data = bytearray(target.read_bytes())
    data[scene.chance.randrange(len(data))] ^= 1 << scene.chance.randrange(8)
    target.write_bytes(data)
    os.utime(target, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    found = list(fsck.cache(scene.root))
    assert found, "fsck did not see the flipped bit"
    code, said = scene.run("so8t", "fsck", "--repair")
    return f"so8t fsck: code {code}: {last_line(said)}"


def half_push(scene: Scene) -> str:
    """`dvc push` is killed between two objects; the next push completes and leaves none damaged.

    The first object of a directory is created under its name before DVC finds that the disk cannot reflink: killed at
    that moment it leaves an empty one, never half of one.
    """
    store = scene.root.parent / f"store-{scene.chance.randrange(10**9)}"
    scene.run("dvc", "remote", "add", "-f", "chaos", str(store))
    try:
        wanted, code = sum(1 for _ in cache_dir(scene.root).glob("??/*")) // 2, 0
        while not code and wanted:  # it may have been quicker than we
            shutil.rmtree(store, ignore_errors=True)
            process = scene.start("dvc", "push", "-r", "chaos")
            while process.poll() is None and _objects(store) < wanted:
                time.sleep(0.002)
            process.kill()
            process.communicate(timeout=LIMIT_S)
            code, wanted = process.returncode, wanted // 2
        held = _objects(store)
        damaged = list(fsck.remote(scene.root, "chaos"))
        assert not any(Path(finding.path).stat().st_size for finding in damaged), (
            f"half of an object is in the remote: {damaged}"
        )
        done, said = scene.run("dvc", "push", "-r", "chaos")
        assert done == 0, said
        assert not list(fsck.remote(scene.root, "chaos"))
        assert not fsck.missing_in_remote(scene.root, "chaos")
        return f"code {code} with {held} of {_objects(store)} objects there, {len(damaged)} empty; the next push completes"
    finally:
        scene.run("dvc", "remote", "remove", "chaos")
        shutil.rmtree(store, ignore_errors=True)


def _objects(store: Path) -> int:
    return sum(
        1
        for path in store.glob("files/md5/??/*")
        if path.suffix != ".tmp" and not path.name.startswith(".")
    )


def clock_jump(scene: Scene) -> str:
    """Inputs carry times three days ahead, as after a wrong clock."""
    later = time.time() + 3 * 86400
    for dep in read_yaml(scene.root / "dvc.lock")["stages"][scene.stage].get("deps", []):
        os.utime(scene.root / dep["path"], (later, later))
    code, said = scene.run("dvc", "repro", "-s", scene.stage)
    assert code == 0, said[-1000:]
    assert "Running stage" not in said, said[-1000:]
    return f"files from the future are hashed again: {last_line(said)}"


def two_at_once(scene: Scene) -> str:
    """Two `dvc repro` of one stage: both finish, or one says that the other holds the lock."""
    both = [scene.start(*scene.repro()) for _ in range(2)]
    ends = [(process.communicate(timeout=LIMIT_S)[0], process.returncode) for process in both]
    assert any(code == 0 for _, code in ends), [said[-800:] for said, _ in ends]
    lost = [said for said, code in ends if code]
    return f"codes {', '.join(str(code) for _, code in ends)}" + (
        f": {last_line(lost[0])}" if lost else ""
    )


def power_cut(scene: Scene) -> str:
    """What the disk holds when the power goes at a random fsync of the stage: files that were not synced are torn in half."""
    copy = scene.root.with_name(f"{scene.root.name}-cut-{scene.chance.randrange(10**9)}")
    process = scene.start(
        *scene.repro(),
        more={
            "PYTHONPATH": f"{HOOK}:{scene.root}",
            "CHAOS_COPY": str(copy),
            "CHAOS_ROOT": str(scene.root),
            "CHAOS_SEED": str(scene.chance.randrange(10**9)),
        },
    )
    said, _ = process.communicate(timeout=LIMIT_S)
    assert process.returncode == 0, said[-1500:]
    if not copy.is_dir():
        return "skipped: the stage never calls fsync"
    torn = json.loads((copy / ".chaos.json").read_text(encoding="utf-8"))
    code, said = scene.run(*scene.repro(), root=copy)
    assert code == 0, said[-1500:]
    assert digests(copy, scene.stage) == digests(scene.root, scene.stage)
    shutil.rmtree(copy)
    return f"at fsync {torn['number']} of {torn['of']}, {len(torn['torn'])} unsynced files torn: the copy ran on to the same digests"


FAULTS: dict[str, Callable[[Scene], str]] = {
    f.__name__: f
    for f in (
        kill_all,
        sigterm,
        kill_dvc,
        disk_full,
        read_only,
        bit_rot,
        half_push,
        clock_jump,
        two_at_once,
        power_cut,
    )
}


def digests(root: Path, stage: str) -> dict[str, str]:
    """Digests of a stage's outputs, but of those that hold times: no two runs take the same."""
    outs = (out for out in lock_here(root) if out.stage == stage)
    return {out.path: out.md5 for out in outs if not Path(out.path).name.startswith("speed-")}


def strike(root: Path, stage: str, fault: str, chance: random.Random) -> Outcome:
    """One fault, then the stage again; the project is as before afterwards, or this raises."""
    scene, before = Scene(root, stage, chance), digests(root, stage)
    with kept(root):
        seen = FAULTS[fault](scene)
        recovery = "dvc repro"
        code, said = scene.run(*scene.repro())
        if code and "dvc.lock" in said:  # DVC was killed while it wrote it
            recovery = "so8t fsck --repair, dvc repro"
            scene.run("so8t", "fsck", "--repair")
            code, said = scene.run(*scene.repro())
        if code:
            raise AssertionError(f"{stage} did not recover from {fault}: {said[-2500:]}")
        left = [
            str(p)
            for folder in ("models", "data", "reports")
            for p in (root / folder).glob("**/.*.part")
        ]
        wrong = [*left, *(f.path for f in (*fsck.cache(root), *fsck.workspace(root)))]
        after = digests(root, stage)
        wrong += [name for name, digest in before.items() if after.get(name) != digest]
    return Outcome(
        stage,
        fault,
        (seen + f"; NOT THE SAME: {wrong}" * bool(wrong))
        .replace(f"{root}/", "")
        .replace(f"{BIN}/", ""),
        recovery,
        not wrong,
    )


@contextmanager
def kept(root: Path) -> Iterator[None]:
    """Put back afterwards what differs from run to run and what later stages depend on: times in reports, dvc.lock, the count of looks at test rows."""
    aside = root.with_name(f"{root.name}-kept")
    shutil.copytree(root / "reports", aside)
    files = {
        root / name: (root / name).read_bytes() for name in ("dvc.lock", "database/looks.jsonl")
    }
    try:
        yield
    finally:
        shutil.rmtree(root / "reports")
        aside.rename(root / "reports")
        for path, held in files.items():
            path.write_bytes(held)


def choose(count: int, chance: random.Random) -> Iterator[tuple[str, str]]:
    """Pairs of stage and fault: every stage and every fault comes before any comes twice as often."""
    stages, faults = list(STAGES), list(FAULTS)
    chance.shuffle(stages)
    chance.shuffle(faults)
    for number in range(count):
        round_of, at = divmod(number, len(stages))
        yield stages[at], faults[(at + round_of) % len(faults)]


@contextmanager
def built(where: Path | None) -> Iterator[Path]:
    """A built project: the given one, or one made here on the reduced profile."""
    import tempfile

    from tests.pipeline.conftest import REDUCED, copy_of_project, runner

    with tempfile.TemporaryDirectory() as folder:
        # Under pytest a fixture has set it.
        os.environ.setdefault("SO8T_KEY", str(Path(folder) / "signing.key"))
        root = Path(folder) / "project"
        if where is not None:
            shutil.copytree(where, root, symlinks=True)
        else:
            runner(copy_of_project(root, REDUCED))("dvc", "repro")
        yield root


def table(outcomes: list[Outcome]) -> str:
    """The outcomes as Markdown."""
    lines = ["| stage | fault | what is seen | then | same digests |", "|---|---|---|---|---|"]
    return (
        "\n".join(
            [
                *lines,
                *(
                    f"| {o.stage} | {o.fault} | {o.seen} | {o.recovery} | {'yes' if o.same else 'NO'} |"
                    for o in outcomes
                ),
            ]
        )
        + "\n"
    )


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--faults", type=int, default=24)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--only", nargs=2, metavar=("STAGE", "FAULT"), help="one fault on one stage, --faults times"
    )
    parser.add_argument("--project", type=Path)
    parser.add_argument("--table", type=Path)
    given = parser.parse_args()
    chance, outcomes = random.Random(given.seed), []
    with built(given.project) as root:
        for stage, fault in (
            [given.only] * given.faults if given.only else choose(given.faults, chance)
        ):
            try:
                outcomes.append(strike(root, stage, fault, chance))
            except (
                AssertionError,
                subprocess.TimeoutExpired,
            ) as error:  # the others are still worth knowing
                outcomes.append(
                    Outcome(
                        stage,
                        fault,
                        str(error).replace("\n", " ").replace("|", "/")[-600:],
                        "none",
                        same=False,
                    )
                )
            print(f"{len(outcomes)}/{given.faults}", outcomes[-1], flush=True)
    if given.table:
        head, mark, _ = given.table.read_text(encoding="utf-8").partition("<!-- chaos -->\n")
        given.table.write_text(head + mark + table(outcomes), encoding="utf-8")
    return 0 if all(o.same for o in outcomes) else 1


if __name__ == "__main__":
    sys.exit(main())
