"""A run that is stopped at any moment, even in the middle of a save, ends with the bits of an undisturbed one.

Each attempt is a forked child: it is killed, terminated or interrupted at an exact moment, and the next one resumes.
"""

import os
import shutil
import signal
from pathlib import Path

import pytest
import torch

from so8t.errors import ArtifactError, GateError
from so8t.files import read_jsonl, sha256_file
from so8t.progress import Progress
from so8t.training import adapter, checkpoint, step, train
from tests.fakes.tuning import params, prepared, tiny_base

pytestmark = [pytest.mark.parity, pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")]
SETTINGS = {
    "train.lora_dropout": 0.1,
    "train.accumulation": 2,
    "train.batch_size": 2,
    "train.save_steps": 3,
    "train.keep": 3,
    "train.valid_steps": 4,
}
STEPS = 12  # 24 rows, 2 x 2 a step, 2 epochs


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    root = tmp_path_factory.mktemp("run")
    tiny_base(root / "base", "phi3")
    prepared(root / "prepared")
    torch.set_num_threads(1)
    return root


def run(place, database, settings, sabotage=lambda: None):
    """One attempt in a child; its exit code, or minus the signal that killed it."""
    child = os.fork()
    if child == 0:
        code = 99
        try:
            os.environ["SO8T_DATABASE"] = str(database)
            sabotage()
            train.train(
                place / "base",
                place / "prepared",
                database / "adapter",
                database / "log.csv",
                settings,
                Progress("train"),
            )
            code = 0
        except train.Interrupted as error:
            code = 128 + error.signal_number
        except GateError:
            code = 8
        except ArtifactError:
            code = 5
        finally:
            os._exit(code)
    status = os.waitpid(child, 0)[1]
    return os.waitstatus_to_exitcode(status)


def digests(database):
    folder = database / "adapter"
    files = {
        name: sha256_file(folder / name)
        for name in (adapter.PEFT, adapter.GATES, adapter.HEADS, adapter.CONFIG)
    }
    return files | {"log": sha256_file(database / "log.csv")}


def steps_on_disk(database):
    return [
        folder.name
        for folder in sorted((database / "checkpoints").rglob("step-*"))
        if folder.is_dir()
    ]


def test_the_code_that_a_run_is_named_after_is_the_code_that_computes_it():
    names = train.code_of_a_run()
    wanted = {f"so8t.training.{name}" for name in ("step", "gate", "heads", "objective")}
    assert wanted | {"so8t.rotation"} <= set(names)
    assert checkpoint.code_digest(names) == checkpoint.code_digest(names[::-1])


@pytest.fixture(scope="module")
def undisturbed(place):
    assert run(place, place / "whole", params(**SETTINGS)) == 0
    return digests(place / "whole")


def at_step(number, act):
    """Act just before a step's update."""

    def arm():
        plain = step._guard

        def guard(t, sums, norms, moment, settings):
            plain(t, sums, norms, moment, settings)
            if moment.step == number:
                act()

        step._guard = guard

    return arm


def in_save(call, where):
    """Die in the given save: while its files are written, before the rename, after it, or while old ones are pruned."""

    def arm():
        count = iter(range(1000))
        die = lambda: os.kill(os.getpid(), signal.SIGKILL)  # noqa: E731
        name, owner = {
            "files": ("write_text", Path),
            "rename": ("replace", os),
            "renamed": ("prune", checkpoint),
            "pruning": ("rmtree", shutil),
        }[where]
        plain = getattr(owner, name)

        def trap(*args, **kwargs):
            subject = " ".join(map(str, args[:2]))
            if ("step-" in subject or where == "renamed") and next(count) == call:
                die()
            return plain(*args, **kwargs)

        setattr(owner, name, trap)

    return arm


def kill():
    os.kill(os.getpid(), signal.SIGKILL)


MOMENTS = [
    at_step(0, kill),
    at_step(4, kill),
    at_step(11, kill),
    in_save(0, "files"),
    in_save(1, "files"),
    in_save(2, "rename"),
    in_save(1, "renamed"),
    in_save(0, "pruning"),
]


@pytest.mark.parametrize("moment", range(len(MOMENTS)))
def test_a_killed_run_ends_with_the_same_bits(place, undisturbed, tmp_path, moment):
    assert run(place, tmp_path, params(**SETTINGS), MOMENTS[moment]) == -signal.SIGKILL
    assert run(place, tmp_path, params(**SETTINGS)) == 0
    assert digests(tmp_path) == undisturbed


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_finishes_the_step_saves_once_and_resumes_to_the_same_bits(
    place, undisturbed, tmp_path, number
):
    for when in (1, 7):
        code = run(
            place, tmp_path, params(**SETTINGS), at_step(when, lambda: os.kill(os.getpid(), number))
        )
        assert code == 128 + number
        assert steps_on_disk(tmp_path)[-1] == checkpoint.name_of(when + 1)
    assert run(place, tmp_path, params(**SETTINGS)) == 0
    assert digests(tmp_path) == undisturbed


def test_a_broken_newest_checkpoint_falls_back_to_the_one_before(place, undisturbed, tmp_path):
    assert (
        run(
            place,
            tmp_path,
            params(**SETTINGS),
            at_step(7, lambda: os.kill(os.getpid(), signal.SIGTERM)),
        )
        == 143
    )
    newest = sorted((tmp_path / "checkpoints").rglob("step-*"))[-1]
    whole = (newest / "optimizer.pt").read_bytes()
    (newest / "optimizer.pt").write_bytes(whole[:100])
    assert run(place, tmp_path, params(**SETTINGS)) == 0
    assert digests(tmp_path) == undisturbed


def test_how_often_it_saves_and_what_it_keeps_is_not_part_of_the_run(place, undisturbed, tmp_path):
    assert (
        run(
            place,
            tmp_path,
            params(**SETTINGS),
            at_step(5, lambda: os.kill(os.getpid(), signal.SIGTERM)),
        )
        == 143
    )
    changed = params(**SETTINGS | {"train.save_steps": 50, "train.keep": 1})
    assert run(place, tmp_path, changed) == 0
    assert digests(tmp_path) == undisturbed


def test_a_changed_parameter_starts_afresh(place, tmp_path):
    assert (
        run(
            place,
            tmp_path,
            params(**SETTINGS),
            at_step(5, lambda: os.kill(os.getpid(), signal.SIGTERM)),
        )
        == 143
    )
    assert run(place, tmp_path, params(**SETTINGS | {"pet.lambda": 0.01})) == 0
    runs = sorted(p for p in (tmp_path / "checkpoints" / "train").iterdir())
    assert len(runs) == 2
    assert "resume" not in {
        row["event"] for _, row in read_jsonl(tmp_path / "progress" / "train.jsonl")
    }


def test_a_finished_run_is_not_trained_again(place, undisturbed, tmp_path):
    assert run(place, tmp_path, params(**SETTINGS)) == 0
    assert run(place, tmp_path, params(**SETTINGS), at_step(11, kill)) == 0  # no step is done
    assert digests(tmp_path) == undisturbed


def test_a_chosen_checkpoint_is_resumed_and_an_absent_one_refused(place, undisturbed, tmp_path):
    assert run(place, tmp_path, params(**SETTINGS)) == 0
    assert run(place, tmp_path, params(**SETTINGS | {"train.resume_from": "step-9"})) == 0
    assert digests(tmp_path) == undisturbed
    resumed = [
        row["step"]
        for _, row in read_jsonl(tmp_path / "progress" / "train.jsonl")
        if row["event"] == "resume"
    ]
    assert resumed == [9]
    assert run(place, tmp_path, params(**SETTINGS | {"train.resume_from": "step-5"})) == 5


def test_another_runs_checkpoint_is_a_start_for_a_changed_run(place, tmp_path):
    assert run(place, tmp_path / "one", params(**SETTINGS)) == 0
    start = next((tmp_path / "one" / "checkpoints").rglob(checkpoint.name_of(9)))
    changed = {"train.lr": 1e-4, "train.resume_from": str(start)}
    assert run(place, tmp_path / "two", params(**SETTINGS | changed)) == 0
    assert digests(tmp_path / "two") != digests(tmp_path / "one")
    assert (
        run(place, tmp_path / "three", params(**SETTINGS | changed | {"train.lora_r": 2})) == 5
    )  # other shapes


def test_the_best_step_is_kept_and_can_become_the_adapter(place, tmp_path):
    settings = params(
        **SETTINGS
        | {
            "train.lr": 0.3,
            "train.keep": 1,
            "train.explode": 1e9,
            "train.select": "best_loss",
            "pet.lambda": 0.0,
        }
    )  # it gets worse
    assert run(place, tmp_path, settings) == 0
    config = adapter.read_config(tmp_path / "adapter")
    lines = [line.split(",") for line in (tmp_path / "log.csv").read_text().splitlines()]
    at = lines[0].index("valid_loss")
    best = min((float(line[at]), int(line[0])) for line in lines[1:] if line[at])[1]
    assert config["selected_step"] == best
    assert {checkpoint.name_of(best), checkpoint.name_of(STEPS)} <= set(steps_on_disk(tmp_path))
    from safetensors.torch import load_file

    stored = load_file(
        next((tmp_path / "checkpoints").rglob(checkpoint.name_of(best))) / "trainable.safetensors"
    )
    gates = load_file(tmp_path / "adapter" / adapter.GATES)
    name = next(key for key in stored if key.endswith("layers.0.self_attn.so8t_gate.theta"))
    assert torch.equal(gates["layers.0.theta"], stored[name])


@pytest.mark.parametrize("what", ["nan", "explosion"])
def test_a_loss_that_is_lost_stops_the_run_and_keeps_the_last_checkpoint(place, tmp_path, what):
    def poison():
        plain = step._backward

        def backward(t, *rest):
            sums = plain(t, *rest)
            if len(t.rows) == 10:
                sums["loss"] = float("nan") if what == "nan" else sums["loss"] * 100
            return sums

        step._backward = backward

    assert run(place, tmp_path, params(**SETTINGS), poison) == 8
    assert steps_on_disk(tmp_path)[-1] == checkpoint.name_of(9)
    assert not (tmp_path / "adapter").exists()
