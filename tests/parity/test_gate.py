"""The gate on real models: nothing at step 0, peft's OFT given the same rotation, every architecture, no silent mistakes."""

import pytest
import torch

from so8t import rotation
from so8t.base.load import load_full
from so8t.errors import ArtifactError, ParamsError
from so8t.training import adapter, gate
from tests.fakes.tuning import params, tiny_base

pytestmark = pytest.mark.parity
IDS = torch.tensor([[5, 17, 300, 42, 7, 11, 13, 200]])


def logits(model, ids=IDS):
    with torch.no_grad():
        return model(input_ids=ids, use_cache=False).logits


def turn(gates, seed=1, scale=0.5):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for installed in gates.values():
            installed.theta.copy_(torch.randn(installed.theta.shape, generator=generator) * scale)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("bases")
    return {
        kind: tiny_base(root / kind, kind)
        for kind in ("phi3", "phi35", "phi4", "llama", "mistral", "qwen2", "qwen3", "tied")
    }


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    "kind", ["phi3", "phi35", "phi4", "llama", "mistral", "qwen2", "qwen3", "tied"]
)
def test_an_untrained_gate_and_lora_leave_every_bit_of_the_base(folders, kind, dtype):
    base = logits(load_full(folders[kind], dtype))
    model = adapter.attach_lora(load_full(folders[kind], dtype), params().active.train)
    gates = gate.install(model, "all")
    assert len(gates) == 2
    assert torch.equal(logits(model), base)
    turn(gates)
    assert (
        logits(model) - base
    ).abs().max() > 0.01 * base.abs().max()  # the hook is really in the path


@pytest.mark.parametrize("kind", ["phi3", "llama"])
def test_it_is_pefts_oft_given_the_same_rotation(folders, kind):
    """Exact Cayley with a block of eight on o_proj: the same 28 numbers per block, another map from them to R."""
    from peft import OFTConfig, get_peft_model

    config = OFTConfig(
        oft_block_size=8,
        target_modules=["o_proj"],
        use_cayley_neumann=False,
        module_dropout=0.0,
        bias="none",
    )
    oracle = get_peft_model(load_full(folders[kind]), config).eval()
    model = load_full(folders[kind])
    gates = gate.install(model, "all")
    for index, layer in enumerate(oracle.get_base_model().model.layers):
        oft = layer.self_attn.o_proj.oft_R["default"]
        with torch.no_grad():
            oft.weight.copy_(
                torch.randn(oft.weight.shape, generator=torch.Generator().manual_seed(index)) * 0.2
            )
        turned = oft._cayley_batch(oft.weight, 8, use_cayley_neumann=False).detach()
        gates[index].theta.data.copy_(_theta_of(turned.double()).float())
        # OFT multiplies row vectors: x R_oft = R_oft^T x, so that our R is the transpose
        assert torch.allclose(gates[index].matrix(), turned.mT, rtol=0, atol=1e-5)
    want = logits(oracle)
    assert torch.allclose(logits(model), want, rtol=0, atol=2e-5 * float(want.abs().max()))
    assert (want - logits(load_full(folders[kind]))).abs().max() > 0.01


def _theta_of(row_rotation):
    """The 28 numbers whose exponential is the transpose of a row-vector rotation, by the matrix logarithm."""
    rows, columns = torch.triu_indices(8, 8, 1)
    values, vectors = torch.linalg.eig(row_rotation.mT)
    logarithm = (vectors @ torch.diag_embed(values.log()) @ torch.linalg.inv(vectors)).real
    return logarithm[:, rows, columns]


@pytest.mark.parametrize("layers", [[2], [0, 0], [], "0-2", "1-x", "x", [-1]])
def test_a_layer_that_is_not_there_is_an_error(folders, layers):
    with pytest.raises(ParamsError, match=r"gates\.layers"):
        gate.install(load_full(folders["phi3"]), layers)


@pytest.mark.parametrize(
    ("layers", "want"), [("all", [0, 1]), ("1-1", [1]), ([1, 0], [0, 1]), ("0-1", [0, 1])]
)
def test_layers_are_chosen_by_list_range_or_all(folders, layers, want):
    assert list(gate.install(load_full(folders["phi3"]), layers)) == want


def test_heads_that_blocks_would_straddle_are_refused(folders, tmp_path):
    odd = tiny_base(
        tmp_path / "odd", "llama", hidden_size=60, num_attention_heads=5, num_key_value_heads=1
    )
    with pytest.raises(ArtifactError, match="multiple of 8"):
        gate.install(load_full(odd), "all")


def test_width_is_that_of_the_heads_not_of_the_hidden_state(folders):
    model = load_full(folders["qwen3"])  # four heads of 32 over a hidden size of 64
    gates = gate.install(model, "all")
    assert gates[0].theta.shape == (4 * 32 // 8, rotation.FREE)


@pytest.mark.parametrize("autocast", [None, torch.bfloat16, torch.float16])
def test_gradients_reach_the_gate_with_checkpointing_and_autocast(folders, autocast):
    model = adapter.attach_lora(
        load_full(folders["phi3"]).requires_grad_(False), params().active.train
    )
    gates = gate.install(model, "all")
    turn(gates, scale=0.1)
    grads = []
    for checkpointing in (False, True):
        if checkpointing:
            model.gradient_checkpointing_enable(
                gradient_checkpointing_kwargs={"use_reentrant": False}
            )
            model.enable_input_require_grads()
        model.train()
        with torch.autocast("cpu", dtype=autocast or torch.float32, enabled=autocast is not None):
            loss = model(input_ids=IDS, use_cache=False).logits.float().square().mean()
        loss.backward()
        assert gates[0].theta.dtype == torch.float32
        grads.append([g.theta.grad.clone() for g in gates.values()])
        model.zero_grad()
    for plain, checkpointed in zip(*grads, strict=True):
        assert plain.abs().max() > 0
        assert torch.equal(plain, checkpointed)


def test_a_lora_target_that_matches_nothing_is_an_error(folders):
    settings = params(**{"train.lora_targets": ["q_proj", "o_proj"]}).active.train
    with pytest.raises(ParamsError, match="q_proj"):
        adapter.attach_lora(load_full(folders["phi3"]), settings)  # Phi-3 has one fused qkv_proj
    adapter.attach_lora(load_full(folders["llama"]), settings)


def test_only_lora_gates_and_heads_are_trained(folders):
    model = adapter.attach_lora(
        load_full(folders["phi3"]).requires_grad_(False), params().active.train
    )
    gate.install(model, [1])
    names = set(adapter.trainable(model, None))
    assert names
    assert all(
        ".lora_" in name or name.endswith("layers.1.self_attn.so8t_gate.theta") for name in names
    )
    next(iter(model.get_base_model().model.norm.parameters())).requires_grad_(True)
    with pytest.raises(ArtifactError, match="norm"):
        adapter.trainable(model, None)


def test_what_is_saved_comes_back_and_a_missing_gate_file_is_refused(folders, tmp_path):
    model = adapter.attach_lora(
        load_full(folders["phi3"]).requires_grad_(False), params().active.train
    )
    gates = gate.install(model, "all")
    turn(gates)
    with torch.no_grad():
        for name, tensor in model.named_parameters():
            if ".lora_B." in name:
                tensor.normal_(generator=torch.Generator().manual_seed(9)).mul_(0.05)
    want = logits(model.eval())
    adapter.save(tmp_path / "adapter", model, gates, None, {"heads": None})
    back, *_ = adapter.load(tmp_path / "adapter", load_full(folders["phi3"]))
    assert torch.equal(logits(back), want)
    (tmp_path / "adapter" / adapter.GATES).unlink()
    with pytest.raises(ArtifactError, match="missing or changed"):
        adapter.load(tmp_path / "adapter", load_full(folders["phi3"]))
