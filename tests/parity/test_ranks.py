"""Two CPU processes (gloo) train like one: losses, weights in step, signals, and a checkpoint that either can resume."""

import os
import signal
import socket
import subprocess
import sys

import pytest
import torch
from pydantic import ValidationError

from so8t.params import Params
from so8t.progress import Progress
from so8t.training import adapter, step, train
from tests.fakes.tuning import ROOT, params, prepared, tiny_base

pytestmark = [pytest.mark.parity, pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")]
SETTINGS = {
    "train.batch_size": 3,
    "train.accumulation": 2,
    "train.save_steps": 3,
    "train.valid_steps": 4,
}  # 3 rows on 2 ranks: uneven shares


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    root = tmp_path_factory.mktemp("run")
    tiny_base(root / "base", "phi3")
    prepared(root / "prepared", train=25)  # the last micro-batch has one row: a rank without any
    torch.set_num_threads(1)
    return root


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def spawn(place, database, settings, world, sabotage=lambda rank: None):
    """Fork `world` ranks with the environment that torchrun and accelerate set; their exit codes."""
    port, children = free_port(), []
    for rank in range(world):
        child = os.fork()
        if child == 0:
            code = 99
            try:
                os.environ.update(
                    {
                        "SO8T_DATABASE": str(database),
                        "WORLD_SIZE": str(world),
                        "RANK": str(rank),
                        "LOCAL_RANK": str(rank),
                        "MASTER_ADDR": "127.0.0.1",
                        "MASTER_PORT": str(port),
                    }
                )
                sabotage(rank)
                facts = train.train(
                    place / "base",
                    place / "prepared",
                    database / "adapter",
                    database / "log.csv",
                    settings,
                    Progress("train"),
                )
                (database / f"rank{rank}").write_text(str(facts["steps"]))
                code = 0
            except train.Interrupted as error:
                code = 128 + error.signal_number
            finally:
                os._exit(code)
        children.append(child)
    return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]


def log(database):
    lines = [line.split(",") for line in (database / "log.csv").read_text().splitlines()]
    return [dict(zip(lines[0], line, strict=True)) for line in lines[1:]]


def gates(database):
    from safetensors.torch import load_file

    return load_file(database / "adapter" / adapter.GATES)


@pytest.fixture(scope="module")
def alone(place):
    (place / "one").mkdir()
    assert spawn(place, place / "one", params(**SETTINGS), 1) == [0]
    return place / "one"


def test_two_processes_follow_the_loss_curve_of_one(place, alone, tmp_path):
    assert spawn(place, tmp_path, params(**SETTINGS), 2) == [0, 0]
    assert sorted(p.name for p in tmp_path.glob("rank*")) == ["rank0", "rank1"]
    one, two = log(alone), log(tmp_path)
    assert len(one) == len(two)
    for left, right in zip(one, two, strict=True):
        for key in ("loss", "lm", "safety", "authority", "label", "pet", "tokens"):
            assert float(right[key]) == pytest.approx(float(left[key]), rel=2e-3, abs=1e-5), (
                left["step"],
                key,
            )
    assert float(two[-1]["valid_loss"]) == pytest.approx(float(one[-1]["valid_loss"]), rel=1e-3)
    for name, theta in gates(alone).items():
        assert torch.allclose(
            theta, gates(tmp_path)[name], rtol=0, atol=2e-2 * float(theta.abs().max())
        )


def test_weights_stay_in_step_on_every_rank(place, tmp_path):
    def arm(rank):
        plain = step.run_step

        def watched(t, micro, moment, settings, ranks):
            row = plain(t, micro, moment, settings, ranks)
            digest = torch.stack([tensor.detach().double().sum() for tensor in t.tensors.values()])
            (tmp_path / f"sums-{rank}-{moment.step}").write_text(str(digest.tolist()))
            return row

        train.run_step = watched

    assert spawn(place, tmp_path, params(**SETTINGS), 2, arm) == [0, 0]
    for path in tmp_path.glob("sums-0-*"):
        assert path.read_text() == (tmp_path / path.name.replace("sums-0", "sums-1")).read_text()


def test_a_signal_to_one_rank_stops_all_and_one_process_finishes_the_run(place, alone, tmp_path):
    def arm(rank):
        plain = step._guard

        def guard(t, sums, norms, moment, settings):
            plain(t, sums, norms, moment, settings)
            if rank == 1 and moment.step == 4:
                os.kill(os.getpid(), signal.SIGTERM)

        step._guard = guard

    assert spawn(place, tmp_path, params(**SETTINGS), 2, arm) == [143, 143]
    assert spawn(place, tmp_path, params(**SETTINGS), 1) == [0]
    steps = [row["step"] for row in log(tmp_path)]
    assert steps == [row["step"] for row in log(alone)]
    assert float(log(tmp_path)[-1]["loss"]) == pytest.approx(
        float(log(alone)[-1]["loss"]), rel=5e-3
    )


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_sharded_base_trains_like_a_whole_one(place, alone, tmp_path, checkpointing):
    """FSDP: a rank holds half of every layer's frozen weights; the rank without a row takes part all the same."""
    from torch.distributed.tensor import DTensor

    def arm(rank):
        plain = train._loop

        def watched(trainee, *rest):
            frozen = [
                p
                for name, p in trainee.objective.model.named_parameters()
                if ".layers." in name and not p.requires_grad
            ]
            assert all(
                isinstance(p, DTensor) and p.to_local().numel() <= p.numel() // 2 + p.shape[-1]
                for p in frozen
            )
            assert not any(isinstance(p, DTensor) for p in trainee.tensors.values())
            (tmp_path / f"sharded{rank}").touch()
            return plain(trainee, *rest)

        train._loop = watched

    changes = SETTINGS | {
        "train.shard": True,
        "train.gradient_checkpointing": checkpointing,
        "heads.enabled": True,
    }
    assert spawn(place, tmp_path, params(**changes), 2, arm) == [0, 0]
    assert len(list(tmp_path.glob("sharded*"))) == 2
    one, two = log(alone), log(tmp_path)
    assert len(one) == len(two)
    assert [float(row["loss"]) for row in two] == pytest.approx(
        [float(row["loss"]) for row in one], rel=2e-3
    )
    assert float(two[-1]["valid_loss"]) == pytest.approx(float(one[-1]["valid_loss"]), rel=1e-3)
    for name, theta in gates(alone).items():
        assert torch.allclose(
            theta, gates(tmp_path)[name], rtol=0, atol=2e-2 * float(theta.abs().max())
        )


def test_a_quantised_base_is_not_sharded():
    with pytest.raises(ValidationError, match="shard: false"):
        params(**{"train.shard": True, "train.quantization": "nf4"})


@pytest.mark.slow
def test_the_stage_starts_torchrun_itself(place, tmp_path):
    """params.yaml with train.launcher: torchrun; the assertion on two ranks is that both of them joined a group of two."""
    from ruamel.yaml import YAML

    settings: Params = params(
        **SETTINGS | {"train.launcher": "torchrun", "train.processes": 2, "train.epochs": 0.4}
    )
    with (tmp_path / "params.yaml").open("w", encoding="utf-8") as out:
        YAML().dump(settings.model_dump(by_alias=True), out)
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "SO8T_DATABASE": str(tmp_path / "database"),
    }
    done = subprocess.run(
        [
            sys.executable,
            str(ROOT / "stages" / "train.py"),
            str(place / "base"),
            str(place / "prepared"),
            "adapter",
            "--log",
            "log.csv",
        ],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "2 processes" in done.stdout
    assert adapter.read_config(tmp_path / "adapter")["gates"] == [0, 1]
