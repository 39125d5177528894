"""Figures: the same bytes for the same data, and none where data are missing."""

from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure

from so8t import drawing
from so8t.operations import sweep


def line(points: list[int]) -> Figure | None:
    figure, ((axes,),) = drawing.blank()
    axes.plot(points)
    return figure if points else None


def test_what_has_no_data_is_not_drawn_and_the_style_ends_with_the_drawing() -> None:
    before = dict(mpl.rcParams)
    assert list(drawing.draw({"line": line}, [1, 2])) == ["line"]
    assert drawing.draw({"line": line}, []) == {}
    assert dict(mpl.rcParams) == before


def test_a_sweeps_files_are_the_same_for_the_same_results(tmp_path: Path) -> None:
    rows = [
        dict.fromkeys(sweep.COLUMNS)
        | {"value": value, "false_allow_rate": 0.25, "certified": "certified"}
        for value in ("0.01", "0.1")
    ]
    for name in ("one", "two"):
        sweep.write("pet.lambda", rows, tmp_path / name)
    first, second = (
        {p.name: p.read_bytes() for p in (tmp_path / name).iterdir()} for name in ("one", "two")
    )
    assert first == second
    assert first["table.csv"].splitlines()[1] == b"0.01,0.25,,,,,certified"
    assert b"<svg" in first["plot.svg"]
