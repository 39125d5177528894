"""PEFT's OFT as a way to train, for comparison: orthogonal, folded exactly, and refused beside a gate."""

import pytest
import torch
from pydantic import ValidationError

from so8t import rotation
from so8t.baking import bake, parity
from so8t.base.batches import example_of
from so8t.errors import ArtifactError
from so8t.files import read_json, write_json
from so8t.progress import Progress
from so8t.template import Template
from so8t.training import adapter, memory, train
from so8t.training.trainee import build, group_of
from tests.fakes.tuning import params, prepared, rows, stir, tiny_base

pytestmark = pytest.mark.parity
OFT = {"train.adapter": "oft", "gates.enabled": False}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    torch.set_num_threads(1)
    return tiny_base(tmp_path_factory.mktemp("base") / "b", "phi3")


@pytest.fixture
def saved(base, tmp_path):
    trainee = build(base, params(**OFT), Template.of(base))
    stir(trainee)
    adapter.save(
        tmp_path / "a",
        trainee.objective.model,
        {},
        trainee.heads,
        adapter.describe(params(**OFT), trainee.heads, "b", "d"),
    )
    return tmp_path / "a"


@pytest.mark.parametrize("kind", ["phi3", "phi4", "qwen2"])
def test_the_bake_of_oft_equals_peft_running(kind, tmp_path):
    base = tiny_base(tmp_path / "base", kind)
    trainee = build(base, params(**OFT), Template.of(base))
    stir(trainee)
    adapter.save(
        tmp_path / "a",
        trainee.objective.model,
        {},
        trainee.heads,
        adapter.describe(params(**OFT), trainee.heads, "b", "d"),
    )
    examples = [example_of(row, Template.of(base), "短く") for row in rows(4)]
    report = bake.bake(base, tmp_path / "a", tmp_path / "baked", examples, Progress("bake"))
    assert report["parity"]["relative_error"] <= parity.LIMIT
    assert report["rotated_weights"] == sum(".oft_" in name for name in trainee.tensors)


def test_its_rotations_are_orthogonal_and_are_pefts_own(base, saved):
    model, *_ = adapter.load(saved, adapter_free(base))
    recipe = bake.read_recipe(saved, 1.0)
    for name, blocks in recipe.rotations.items():
        assert rotation.orthogonality_error(blocks) < 1e-12
        owner = model.get_submodule(f"base_model.model.{name.removesuffix('.weight')}").oft_R[
            "default"
        ]
        assert torch.allclose(torch.block_diag(*blocks.mT).float(), owner.get_weight(), atol=1e-5)


def adapter_free(base):
    from so8t.base.load import load_full

    return load_full(base)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("quantization", ["none", "nf4"])
def test_it_trains_with_the_gates_rate_and_resumes_as_any_run(
    base, tmp_path, monkeypatch, quantization
):
    monkeypatch.setenv("SO8T_DATABASE", str(tmp_path / "database"))
    settings = params(**OFT | {"train.quantization": quantization})
    facts = train.train(
        base,
        prepared(tmp_path / "p"),
        tmp_path / "adapter",
        tmp_path / "log.csv",
        settings,
        Progress("train"),
    )
    trainee = build(base, settings, Template.of(base))
    assert {group_of(name) for name in trainee.tensors} == {"gate", "head"}
    assert facts["trainable"] == sum(tensor.numel() for tensor in trainee.tensors.values())
    assert (
        facts["trainable"] - 64 * 3 - 28 * 8
        == memory.trained_numbers(
            memory.Shape.of(read_json(base / "config.json"), 0), settings.active.train
        )["lora"]
    )
    stored = bake.read_recipe(tmp_path / "adapter", 1.0).rotations
    eye = torch.eye(8, dtype=torch.float64)
    assert all(
        float((blocks - eye).abs().max()) > 1e-3 for blocks in stored.values()
    )  # every one has learnt


def test_two_rotations_of_one_input_are_refused():
    with pytest.raises(ValidationError, match=r"gates\.enabled: false"):
        params(**{"train.adapter": "oft"})


def test_another_peft_method_is_refused_by_name(saved):
    write_json(
        saved / "adapter_config.json",
        read_json(saved / "adapter_config.json") | {"peft_type": "BOFT"},
    )
    with pytest.raises(ArtifactError, match="BOFT"):
        bake.read_recipe(saved, 1.0)
