"""`so8t doctor`: the machine, the clone, and one stage's checklist, each line with a fix."""

from collections.abc import Iterator
from pathlib import Path

from so8t.errors import So8tError
from so8t.operations import checklist, clone, machine
from so8t.operations.line import Line, fail, ok
from so8t.params import Params, load


def examine(root: Path, stage: str | None = None) -> Iterator[Line]:
    """Every line; a params.yaml that cannot be read leaves the machine judged by the demo's needs."""
    params: Params | None = None
    try:
        params = load(root / "params.yaml")
        yield ok("params.yaml", f"profile {params.profile}")
    except So8tError as error:
        yield fail("params.yaml", error)
    kind = "scratch" if params is None else params.active.base.kind
    quantization = "nf4" if params is None else params.active.train.quantization
    yield from machine.lines(root, kind=kind, quantization=quantization, wanted_threads=1 if params is None else params.scoring.threads)
    yield from clone.lines(root)
    if params is not None and stage is not None:
        yield from checklist.lines(root, params, stage)


def exit_code(lines: list[Line]) -> int:
    """The code of the first failure, 0 without one."""
    return next((line.code for line in lines if line.state == "fail"), 0)
