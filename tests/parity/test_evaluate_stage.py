"""The evaluate stage after real score and calibrate stages, on a tiny random GGUF."""

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from so8t import generated, rows
from so8t.errors import ArtifactError
from so8t.files import read_json
from tests.fakes.tiny_gguf import write_tiny

pytestmark = pytest.mark.parity
ROOT = Path(__file__).parents[2]
SPLITS = tuple(split for split in rows.SPLITS if split != "probe")


def prepared(folder):
    choose = random.Random(5)
    for split in SPLITS:
        made = [
            {
                "id": f"{split}-{i}",
                "text": f"request {split} {i}",
                "verdict": choose.choice(["ALLOW", "ESCALATE", "DENY"]),
                "authority": "handle",
                "domain": choose.choice(["defense", "general"]),
                "thinking": "t",
                "final": f"answer {i}",
                "response": "",
                "group": f"{split}-g{i // 2}",
                "pair": None,
                "factors": {},
            }
            for i in range(8)
        ]
        folder.mkdir(exist_ok=True)
        (folder / f"{split}.jsonl").write_text(
            "".join(json.dumps(row) + "\n" for row in made), encoding="utf-8"
        )
    # Most projects have no probe.
    (folder / "probe.jsonl").write_text("", encoding="utf-8")
    return folder


def stage(place, name, *args):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "SO8T_DATABASE": str(place / "database")}
    return subprocess.run(
        [sys.executable, str(ROOT / "stages" / f"{name}.py"), *map(str, args)],
        cwd=place,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A project directory with a scored and calibrated file of the released type."""
    root = tmp_path_factory.mktemp("project")
    text = (ROOT / "params.yaml").read_text(encoding="utf-8")
    for before, after in (
        ("bootstrap: 10000", "bootstrap: 200"),
        ("generate_rows: 24", "generate_rows: 2"),
        ("threads: 2", "threads: 1"),
        ("generate_tokens: 160", "generate_tokens: 6"),
        ("long_tokens: 1024", "long_tokens: 32"),
        ("speed_rows: 24", "speed_rows: 2"),
        ("n_ctx: 2048", "n_ctx: 1024"),
        ("num_ctx: 2048", "num_ctx: 1024"),
    ):
        text = text.replace(before, after)
    (root / "params.yaml").write_text(text, encoding="utf-8")
    write_tiny(root / "b-Q4_K_M.gguf")
    prepared(root / "prepared")
    (root / "nothing").mkdir()
    for name, args in (
        (
            "score",
            [
                "b-Q4_K_M.gguf",
                "b-Q4_K_M",
                "--model",
                "b",
                "--type",
                "Q4_K_M",
                "--prepared",
                "prepared",
            ],
        ),
        (
            "calibrate",
            ["b-Q4_K_M", "card.json", "--train", "prepared/train.jsonl", "--model", "b"],
        ),
        (
            "generate",
            [
                "b-Q4_K_M.gguf",
                "not_run.json",
                "--prepared",
                "nothing",
                "--answers",
                "no_answers.jsonl",
                "--timings",
                "not_timed.json",
                "--no-generate",
            ],
        ),
    ):
        done = stage(root, name, *args)
        assert done.returncode == 0, done.stderr
    return root


def evaluate(
    place, file="b-Q4_K_M.gguf", card="card.json", ran="not_run.json", timed="not_timed.json", to=""
):
    return stage(
        place,
        "evaluate",
        file,
        "--scores",
        "b-Q4_K_M",
        "--card",
        card,
        "--generated",
        ran,
        "--timings",
        timed,
        "--prepared",
        "prepared",
        "--out",
        f"{to}out.json",
        "--plots",
        f"{to}plots",
        "--speed",
        f"{to}speed.json",
        "--speed-plots",
        f"{to}speed-plots",
    )


def generate(place, to):
    ran = stage(
        place,
        "generate",
        "b-Q4_K_M.gguf",
        f"{to}generated.json",
        "--prepared",
        "prepared",
        "--answers",
        f"{to}answers.jsonl",
        "--timings",
        f"{to}timings.json",
    )
    assert ran.returncode == 0, ran.stderr


def test_the_released_type_is_run_and_bad_numbers_do_not_fail(place):
    generate(place, "first-")
    done = evaluate(place, ran="first-generated.json", timed="first-timings.json")
    assert done.returncode == 0, done.stderr
    found = read_json(place / "out.json")
    assert (found["model"], found["type"], found["readout"]) == ("b", "Q4_K_M", "prefill")
    assert {found[name]["status"] for name in ("generation", "stability", "retention")} == {"run"}
    timed = read_json(place / "speed.json")
    assert (timed["schema"], timed["model"], timed["type"]) == ("so8t.speed/1", "b", "Q4_K_M")
    assert timed["status"] == "run"
    assert timed["verdict_s"]["p50"]["value"] > 0
    assert (
        found["splits"]["test_iid"]["allow_rate_on_allow"]["k"] == 0
    )  # eight rows certify nothing: the gate is closed
    assert sorted(p.name for p in (place / "plots").iterdir()) == [
        "confusion.csv",
        "domains.csv",
        "familiarity.csv",
        "far_allow.csv",
        "reliability.csv",
    ]
    table = (place / "speed-plots/latency.csv").read_text(encoding="utf-8").splitlines()
    assert table[0] == "seconds,share"
    assert len(table) == 1 + timed["n"]


def test_two_runs_of_a_file_differ_in_nothing_but_their_times(place):
    for to in ("one-", "two-"):
        generate(place, to)
        done = evaluate(place, ran=f"{to}generated.json", timed=f"{to}timings.json", to=to)
        assert done.returncode == 0, done.stderr
    differing = set()
    for path in place.rglob("one-*"):
        for file in [path] if path.is_file() else path.iterdir():
            name = file.relative_to(place).as_posix()
            other = place / name.replace("one-", "two-")
            if file.read_bytes() != other.read_bytes():
                differing.add(name)
    assert differing == {"one-timings.json", "one-speed.json", "one-speed-plots/latency.csv"}


def test_each_test_split_is_written_down_as_a_look(place):
    assert evaluate(place).returncode == 0
    looks = [
        json.loads(line)
        for line in (place / "database" / "looks.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    # Calibration for the picture of familiarity; a probe without rows was not looked at.
    assert {entry["split"] for entry in looks if entry["stage"] == "evaluate"} == {
        "calibration",
        "test_iid",
        "test_cells",
        "test_phrases",
        "test_foreign",
        "test_evasion",
    }


def test_a_file_that_is_not_run_says_so_without_reading_a_row(place):
    assert evaluate(place).returncode == 0
    found = read_json(place / "out.json")
    assert {found[name]["status"] for name in ("generation", "stability", "retention")} == {
        "not_run"
    }
    assert read_json(place / "speed.json")["status"] == "not_run"
    assert (place / "speed-plots/latency.csv").read_text(encoding="utf-8") == "seconds,share\n"
    assert (place / "no_answers.jsonl").read_bytes() == b""


def test_another_file_than_the_scored_one_is_refused(place):
    write_tiny(place / "b-other.gguf", seed=1)
    done = evaluate(place, file="b-other.gguf")
    assert done.returncode == 5
    assert "another file" in done.stderr


def test_an_edited_card_is_refused(place):
    card = read_json(place / "card.json")
    card["thresholds"]["escalate"] = 0.9
    (place / "edited.json").write_text(json.dumps(card), encoding="utf-8")
    assert evaluate(place, card="edited.json").returncode == 5


@pytest.mark.parametrize(("name", "given"), [("not_run", "ran"), ("not_timed", "timed")])
def test_what_was_measured_of_another_file_is_refused(place, name, given):
    held = read_json(place / f"{name}.json")
    (place / "other.json").write_text(
        json.dumps({**held, "semantic_digest": "0" * 64}), encoding="utf-8"
    )
    done = evaluate(place, **{given: "other.json"}, to="refused-")
    assert done.returncode == 5
    assert "measured of another file" in done.stderr
    assert list(place.glob("refused-*")) == []


def test_help_is_quick_enough_to_be_asked_for(place):
    done = stage(place, "evaluate", "--help")
    assert done.returncode == 0
    assert (
        "numpy"
        not in subprocess.run(
            [sys.executable, "-X", "importtime", str(ROOT / "stages/evaluate.py"), "--help"],
            cwd=place,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            check=True,
        ).stderr
    )


def test_numbers_of_any_width_survive_the_hand_over(tmp_path):
    path = tmp_path / "held.json"
    found = generated.Generated({"retention": {"ci95": [np.float32(0.5), 1 / 3]}})
    generated.save(found, "d" * 64, path)
    again = generated.Generated({"retention": {"ci95": [0.5, 0.333333333]}})
    assert generated.load(path, "d" * 64) == again
    timed = generated.Timings({"n": 1}, [np.float64(0.25), 1 / 3])
    generated.save_timings(timed, "d" * 64, path)
    again = generated.Timings({"n": 1}, [0.25, 0.333333333])
    assert generated.load_timings(path, "d" * 64) == again
    path.write_text(path.read_text().replace('"latencies"', '"other"'))
    with pytest.raises(ArtifactError, match="`latencies` is missing or damaged"):
        generated.load_timings(path, "d" * 64)
    path.write_text("[1]")
    with pytest.raises(ArtifactError, match="expected a JSON object"):
        generated.load(path, "d" * 64)
