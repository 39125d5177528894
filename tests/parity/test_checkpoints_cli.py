"""`so8t checkpoints`: what a run left is listed, and one step of it becomes an adapter that loads."""

import pytest
import torch
from click.testing import CliRunner

from so8t import params as params_module
from so8t.files import sha256_file
from so8t.progress import Progress
from so8t.training import adapter, checkpoint, train
from so8t.training.cli import checkpoints
from tests.fakes.tuning import params, prepared, tiny_base

pytestmark = pytest.mark.parity


def test_a_run_is_listed_and_a_step_of_it_exported(tmp_path, monkeypatch):
    torch.set_num_threads(1)
    monkeypatch.setenv("SO8T_DATABASE", str(tmp_path / "database"))
    base, data, settings = (
        tiny_base(tmp_path / "base", "phi3"),
        prepared(tmp_path / "prepared"),
        params(**{"train.save_steps": 4, "train.valid_steps": 4}),
    )
    monkeypatch.setattr(params_module, "load", lambda: settings)
    assert "no training run" in CliRunner().invoke(checkpoints, ["list"]).output
    facts = train.train(
        base, data, tmp_path / "adapter", tmp_path / "log.csv", settings, Progress("train")
    )
    shown = CliRunner().invoke(checkpoints, ["list"]).output
    run = shown.split()[0]
    assert {checkpoint.name_of(4), checkpoint.name_of(facts["steps"])} <= set(shown.split())
    for step in (4, facts["steps"]):
        done = CliRunner().invoke(
            checkpoints,
            [
                "export",
                run,
                str(step),
                str(tmp_path / f"a{step}"),
                "--base",
                str(base),
                "--prepared",
                str(data),
            ],
        )
        assert done.exit_code == 0, done.output
    last, early = tmp_path / f"a{facts['steps']}", tmp_path / "a4"
    for name in (adapter.PEFT, adapter.GATES, adapter.HEADS):
        assert sha256_file(last / name) == sha256_file(tmp_path / "adapter" / name)
        assert sha256_file(early / name) != sha256_file(last / name)
    assert adapter.read_config(early)["selected_step"] == 4
    (
        tmp_path / "database/checkpoints/train" / run / checkpoint.name_of(4) / "optimizer.pt"
    ).write_bytes(b"x")
    assert "step-00000004  broken" in CliRunner().invoke(checkpoints, ["list"]).output
    failed = CliRunner().invoke(
        checkpoints,
        ["export", run, "4", str(tmp_path / "b"), "--base", str(base), "--prepared", str(data)],
    )
    assert "no valid checkpoint" in str(failed.exception)
