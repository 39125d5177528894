"""`so8t drift` on requests: what it finds, which lines it names, and what it refuses to read."""

import json
from pathlib import Path

import numpy as np
import pytest

from so8t.errors import ArtifactError, DataError
from so8t.familiarity import Index, Reference, familiarity_of, text_strangeness
from so8t.monitoring.drift import Watched, watch
from so8t.monitoring.plot import as_csv, as_svg
from so8t.monitoring.served import Served, served_of
from so8t.request import canonical_form

KNOWN = [
    f"{what}を{how}してください。"
    for what in ("議事録", "広報資料", "契約書")
    for how in ("要約", "確認", "翻訳")
]
FOREIGN = "How do I hotwire a car quickly"
ROWS, REQUESTS, SINCE = 200, 160, 100


def index(rows: int = ROWS) -> Index:
    """To which the known sentences, one or two in a request, are familiar."""
    reference = Reference.of(KNOWN)
    held = [text_strangeness(canonical_form(text), reference) for text in usual(rows, 0)]
    calibration = {
        signal: {"general": sorted(row[signal] for row in held)} for signal in ("ngrams", "length")
    }
    return Index(0.02, ("ngrams", "length"), reference, calibration)


def usual(count: int, seed: int) -> list[str]:
    random = np.random.default_rng(seed)
    return ["".join(random.choice(KNOWN, random.integers(1, 3))) for _ in range(count)]


def served(texts: list[str]) -> list[Served]:
    # Two lines for each, as where blank lines stand between them.
    return [Served(2 * number + 1, text, {}) for number, text in enumerate(texts)]


def drifting() -> list[str]:
    """From SINCE on every other request has characters of no training row, at usual length."""
    texts = usual(REQUESTS, 1)
    for place in range(SINCE, REQUESTS, 2):
        texts[place] = "".join(chr(ord(letter) + 300) for letter in texts[place][:-1]) + "。"
    return texts


def watched(texts: list[str]) -> Watched:
    return watch(served(texts), index(), 0.05, name="f")


def test_quiet_requests_are_no_drift() -> None:
    found = watched(usual(REQUESTS, 1))
    assert not found.drifted
    assert found.texts == REQUESTS


def test_a_drift_is_found_and_its_signal_and_line_are_named() -> None:
    found = watched(drifting())
    assert [track.signal for track in found.drifted] == ["ngrams"]
    track = found.drifted[0]
    assert track.alarm is not None
    assert SINCE < track.alarm < SINCE + 50
    told = found.to_dict()["signals"]["ngrams"]
    assert told["alarm_line"] == 2 * track.alarm + 1
    assert abs(told["since_line"] - (2 * SINCE + 1)) <= 4


def test_a_drift_of_length_is_found_in_length() -> None:
    texts = usual(60, 1) + ["".join(KNOWN)] * 40
    assert [track.signal for track in watched(texts).drifted] == ["length"]


def test_more_lines_do_not_change_what_earlier_ones_showed() -> None:
    texts = drifting()
    whole, part = watched(texts), watched(texts[:50])
    for one, other in zip(whole.tracks, part.tracks, strict=True):
        assert (one.evidence[:50] == other.evidence).all()


def test_recorded_p_values_are_taken_and_find_the_drift() -> None:
    held = index()
    rows = []
    for text in drifting():
        by_signal = dict(familiarity_of(canonical_form(text), held).by_signal)
        rows.append(json.loads(json.dumps({"familiarity": {"by_signal": by_signal}})))
    found = watch(served_of(enumerate(rows, 1), "f"), held, 0.05, name="f")
    assert found.texts == 0
    assert [track.signal for track in found.drifted] == ["ngrams"]
    assert abs((found.to_dict()["signals"]["ngrams"]["since_line"] or 0) - (SINCE + 1)) <= 2


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({}, "f:7: neither a request nor p-values"),
        ({"text": 3}, "`text` must be a text, found int"),
        ({"text": None, "prompt": "a"}, "`text` must be a text, found NoneType"),
        ({"familiarity": None}, "neither"),
        ({"familiarity": {"by_signal": {}}}, "neither"),
        ({"familiarity": {"by_signal": {"ngrams": "1"}}}, "`ngrams` is not a number"),
        ({"familiarity": {"by_signal": {"ngrams": True, "length": 1}}}, "`ngrams` is not a number"),
        ({"familiarity": {"by_signal": {"ngrams": 1.0}}}, "this release has length, ngrams"),
        ({"familiarity": {"by_signal": {"ngrams": 1.0, "length": 0.5001}}}, "recorded by another"),
        ({"familiarity": {"by_signal": {"ngrams": 1.0, "length": 1.5}}}, "none that this release"),
        ({"familiarity": {"by_signal": {"ngrams": 1.0, "length": 0.0}}}, "none that this release"),
        (
            {"familiarity": {"by_signal": {"ngrams": 1.0, "length": float("nan")}}},
            "none that this release",
        ),
    ],
)
def test_a_bad_row_is_an_error_with_its_line(row: dict, says: str) -> None:
    with pytest.raises(DataError, match=says) as caught:
        watch(served_of([(7, row)], "f"), index(), 0.05, name="f")
    assert caught.value.where == "f:7"


def test_a_prompt_is_a_text() -> None:
    assert next(served_of([(1, {"prompt": "依頼"})], "f")).text == "依頼"


def test_no_request_is_an_error() -> None:
    with pytest.raises(DataError, match="no requests"):
        watch([], index(), 0.05, name="f")


def test_with_too_few_calibration_rows_nothing_is_promised_in_silence() -> None:
    with pytest.raises(ArtifactError, match="too few calibration rows"):
        watch(served(usual(5, 1)), index(rows=8), 0.05, name="f")


def test_a_text_of_half_a_character_is_read(tmp_path: Path) -> None:
    assert not watched(["\ud83d", FOREIGN]).drifted


def test_the_table_and_the_figure_show_every_request() -> None:
    found = watched(usual(20, 1))
    table = as_csv(found).splitlines()
    assert table[0] == "line,ngrams,length"
    assert [line.split(",")[0] for line in table[1:]] == [str(2 * n + 1) for n in range(20)]
    assert float(table[-1].split(",")[1]) == pytest.approx(
        found.to_dict()["signals"]["ngrams"]["log10_evidence"]
    )
    assert as_svg(found).startswith("<?xml")
    assert as_svg(found) == as_svg(found)
