"""Bake parity through the real forwards, for every architecture, with the adapter saved and reloaded in between."""

import shutil
from types import SimpleNamespace

import pytest
import torch

from so8t import rotation
from so8t.baking.bake import bake
from so8t.baking.parity import LIMIT
from so8t.base.batches import Example
from so8t.base.load import load_full
from so8t.errors import ArtifactError, GateError
from so8t.files import read_json
from so8t.progress import Progress
from so8t.template import Template
from so8t.training import adapter
from so8t.training.train import build
from tests.fakes.tuning import KINDS, params, stir, tiny_base

pytestmark = pytest.mark.parity
# the last text passes the original window of longrope
TEXTS = [
    Example(ids, 3, -1, -1)
    for ids in (
        (35, 17, 300, 42, 97, 11, 13, 200, 31, 77),
        (39, 38, 100, 4, 250),
        tuple(range(20, 330)),
    )
]


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    root = tmp_path_factory.mktemp("bases")
    return {kind: tiny_base(root / kind, kind) for kind in KINDS}


@pytest.fixture(autouse=True)
def _apart(tmp_path, monkeypatch):
    monkeypatch.setenv("SO8T_DATABASE", str(tmp_path / "database"))


def trained(base, folder, lora=True, heads=True, theta=0.4):
    """An adapter folder whose every tensor is far from its start, on a full-precision base."""
    settings = params(**{"train.lora_r": 4 if lora else 0, "heads.enabled": heads})
    trainee = build(base, settings, Template.of(base))
    stir(trainee, theta=theta)
    adapter.save(
        folder,
        trainee.objective.model,
        trainee.gates,
        trainee.heads,
        adapter.describe(settings, trainee.heads, "base", "data"),
    )
    return trainee


@pytest.mark.parametrize("heads", [True, False], ids=["heads", "no-heads"])
@pytest.mark.parametrize("lora", [True, False], ids=["lora", "no-lora"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_baked_model_is_the_trained_one(bases, tmp_path, kind, lora, heads):
    trainee = trained(bases[kind], tmp_path / "adapter", lora, heads)
    report = bake(
        bases[kind], tmp_path / "adapter", tmp_path / "baked", TEXTS[:2], Progress("bake")
    )
    assert report["parity"]["relative_error"] <= LIMIT
    stock = load_full(tmp_path / "baked")
    assert set(stock.state_dict()) == set(load_full(bases[kind]).state_dict())
    trainee.objective.eval()  # the very object that was trained, not the reloaded one
    ids = torch.tensor([TEXTS[2].ids])
    with torch.no_grad():
        hidden = (
            trainee.objective.model.get_base_model()
            .model(input_ids=ids, use_cache=False)
            .last_hidden_state
            if lora
            else trainee.objective.model.model(input_ids=ids, use_cache=False).last_hidden_state
        )
        want = trainee.objective.logits(hidden)[0]
        if heads:
            want[:, trainee.heads.token_ids] *= report["head_scale"]
        got = stock(input_ids=ids, use_cache=False).logits[0]
    assert float((want - got).abs().max()) <= LIMIT * float(want.abs().max())


def test_everything_but_the_weights_is_copied_byte_for_byte(bases, tmp_path):
    trained(bases["phi35"], tmp_path / "adapter")
    bake(bases["phi35"], tmp_path / "adapter", tmp_path / "baked", TEXTS[:1], Progress("bake"))
    for name in (
        "tokenizer.json",
        "tokenizer_config.json",
        "config.json",
        "generation_config.json",
    ):
        assert (tmp_path / "baked" / name).read_bytes() == (bases["phi35"] / name).read_bytes()


def test_a_transposed_fold_is_stopped(bases, tmp_path, monkeypatch):
    from so8t.baking import bake as module

    trained(bases["llama"], tmp_path / "adapter")
    right = rotation.fold
    monkeypatch.setattr(
        module,
        "rotation",
        SimpleNamespace(
            fold=lambda weight, turned: right(weight, turned.mT),
            exponential=rotation.exponential,
            skew=rotation.skew,
        ),
    )
    with pytest.raises(GateError, match="differ"):
        bake(bases["llama"], tmp_path / "adapter", tmp_path / "baked", TEXTS[:2], Progress("bake"))
    assert not (tmp_path / "baked").exists()


def test_lora_folded_after_the_rotation_is_stopped(bases, tmp_path, monkeypatch):
    from so8t.baking import bake as module

    trained(bases["llama"], tmp_path / "adapter")

    def wrong(self, name, weight):
        out = (
            rotation.fold(weight, self.rotations[name])
            if name in self.rotations
            else weight.double()
        )
        if name in self.lora:
            out = out + self.lora[name].delta()
        return out

    monkeypatch.setattr(module.Recipe, "apply", wrong)
    with pytest.raises(GateError, match="differ"):
        bake(bases["llama"], tmp_path / "adapter", tmp_path / "baked", TEXTS[:2], Progress("bake"))


def test_an_adapter_that_learnt_nothing_is_not_baked(bases, tmp_path):
    settings = params(**{"heads.enabled": False})
    trainee = build(bases["llama"], settings, Template.of(bases["llama"]))
    adapter.save(
        tmp_path / "adapter",
        trainee.objective.model,
        trainee.gates,
        None,
        adapter.describe(settings, None, "b", "d"),
    )
    with pytest.raises(GateError, match="equals its base"):
        bake(bases["llama"], tmp_path / "adapter", tmp_path / "baked", TEXTS[:1], Progress("bake"))


def test_an_adapter_of_another_model_is_refused(bases, tmp_path):
    trained(bases["llama"], tmp_path / "adapter")
    with pytest.raises((ArtifactError, ValueError, RuntimeError)):
        bake(bases["phi35"], tmp_path / "adapter", tmp_path / "baked", TEXTS[:1], Progress("bake"))
    assert not (tmp_path / "baked").exists()


def test_a_damaged_adapter_is_refused(bases, tmp_path):
    trained(bases["llama"], tmp_path / "adapter")
    whole = (tmp_path / "adapter" / adapter.HEADS).read_bytes()
    (tmp_path / "adapter" / adapter.HEADS).write_bytes(whole[:-4] + b"\0\0\0\1")
    with pytest.raises(ArtifactError, match="missing or changed"):
        bake(bases["llama"], tmp_path / "adapter", tmp_path / "baked", TEXTS[:1], Progress("bake"))


def test_sharded_and_bf16_bases_keep_their_shards_and_dtype(tmp_path):
    base = tiny_base(tmp_path / "base", "llama")
    sharded = tmp_path / "sharded"
    load_full(base, torch.bfloat16).save_pretrained(sharded, max_shard_size="60KB")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(base / name, sharded / name)
    trained(sharded, tmp_path / "adapter")
    bake(sharded, tmp_path / "adapter", tmp_path / "baked", TEXTS[:2], Progress("bake"))
    index = read_json(sharded / "model.safetensors.index.json")
    assert read_json(tmp_path / "baked" / "model.safetensors.index.json") == index
    assert {
        t.dtype for t in load_full(tmp_path / "baked", torch.bfloat16).state_dict().values()
    } == {torch.bfloat16}


def test_an_output_matrix_that_is_stored_beside_its_embedding_stays_the_same(bases, tmp_path):
    from safetensors.torch import load_file, save_file

    from so8t.model_check import EMBEDDING, OUTPUT, check_model

    base = shutil.copytree(bases["tied"], tmp_path / "base")
    stored = load_file(base / "model.safetensors")
    twice = stored | {OUTPUT: stored[EMBEDDING].clone()}
    save_file(twice, base / "model.safetensors", metadata={"format": "pt"})
    trained(base, tmp_path / "adapter")
    bake(base, tmp_path / "adapter", tmp_path / "baked", TEXTS[:1], Progress("bake"))
    baked = load_file(tmp_path / "baked" / "model.safetensors")
    assert torch.equal(baked[OUTPUT], baked[EMBEDDING])
    assert not torch.equal(baked[OUTPUT], stored[EMBEDDING])
    # transformers would train and run the two apart, and conversion refuses that.
    check_model(tmp_path / "baked", "short")


def test_a_base_that_lost_a_tensor_is_an_error_that_names_it(bases, tmp_path):
    from safetensors.torch import load_file, save_file

    base = shutil.copytree(bases["llama"], tmp_path / "base")
    trained(base, tmp_path / "adapter")
    stored = load_file(base / "model.safetensors")
    stored.pop("model.layers.1.mlp.up_proj.weight")
    save_file(stored, base / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ArtifactError, match=r"tensor model.layers.1.mlp.up_proj.weight is missing"):
        bake(base, tmp_path / "adapter", tmp_path / "baked", TEXTS[:1], Progress("bake"))
    assert not (tmp_path / "baked").exists()


def test_two_bakes_of_one_adapter_are_the_same_bytes(bases, tmp_path):
    from so8t.files import sha256_tree

    trained(bases["phi4"], tmp_path / "adapter")
    for name in ("one", "two"):
        bake(bases["phi4"], tmp_path / "adapter", tmp_path / name, TEXTS[:1], Progress("bake"))
    assert sha256_tree(tmp_path / "one") == sha256_tree(tmp_path / "two")
