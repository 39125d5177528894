"""The training log in a dozen numbers."""

import json

import pytest

from so8t.errors import DataError
from so8t.training.report import POINTS, read_log, speed, summarise, thin, to_csv

HEAD = (
    "step,progress,lr,loss,lm,safety,authority,label,pet,pet_raw,lambda,grad_norm_lora,grad_norm_gate,grad_norm_head,max_angle,"
    "mean_angle,orthogonality,tokens,valid_loss,valid_verdict"
)


def log(path, steps):
    lines = [HEAD]
    for step in range(1, steps + 1):
        valid = f"{2 - step / steps},{step / steps}" if step % 10 == 0 else ","
        lines.append(
            f"{step},{step / steps},0.001,{3 - step / steps},1,0.5,0.4,0.3,0.2,9,0.05,1,{step},1,{step / 100},0.01,1e-7,64,{valid}"
        )
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_first_and_last_losses_are_means_over_a_twentieth(tmp_path):
    found = summarise(read_log(log(tmp_path / "log.csv", 100)))
    assert found["first"]["loss"] == pytest.approx(3 - 3 / 100)  # steps 1 to 5
    assert found["last"]["loss"] == pytest.approx(3 - 98 / 100)
    assert (found["steps"], found["tokens"]) == (100, 6400)
    assert found["validation"]["best"] == {"step": 100, "loss": 1.0, "verdict_accuracy": 1.0}
    assert found["grad_norm_max"]["gate"] == 100
    json.dumps(found, allow_nan=False)


def test_a_run_without_validation_says_so(tmp_path):
    assert summarise(read_log(log(tmp_path / "log.csv", 5)))["validation"] == {
        "best": None,
        "last": None,
    }


def test_thinning_keeps_validated_steps_and_the_ends(tmp_path):
    rows = read_log(log(tmp_path / "log.csv", 5 * POINTS))
    kept = thin(rows)
    assert len(kept) < POINTS + len(rows) // 10 + 2
    assert kept[0] is rows[0]
    assert kept[-1] is rows[-1]
    assert sum(row["valid_loss"] is not None for row in kept) == len(rows) // 10
    (tmp_path / "thin.csv").write_text(to_csv(kept), encoding="utf-8")
    assert read_log(tmp_path / "thin.csv")[-1] == pytest.approx(rows[-1])


@pytest.mark.parametrize("text", [HEAD + "\n", HEAD + "\n1,x\n"], ids=["no step", "a word"])
def test_an_unreadable_log_is_a_data_error(tmp_path, text):
    (tmp_path / "log.csv").write_text(text, encoding="utf-8")
    with pytest.raises(DataError):
        read_log(tmp_path / "log.csv")


def test_tokens_per_second_are_those_of_the_last_time_a_step_was_done(tmp_path):
    events = [
        {"event": "start"},
        *(
            {"event": "step", "step": s, "tokens_per_s": t}
            for s, t in ((1, 10.0), (2, 20.0), (3, 30.0), (2, 25.0))
        ),
        {"event": "end"},
    ]
    (tmp_path / "train.jsonl").write_text(
        "".join(json.dumps(e) + "\n" for e in events) + '{"event": "st', encoding="utf-8"
    )
    assert [(row["step"], row["tokens_per_s"]) for row in speed(tmp_path / "train.jsonl")] == [
        (1, 10.0),
        (2, 25.0),
        (3, 30.0),
    ]
    assert speed(tmp_path / "absent.jsonl") == []
