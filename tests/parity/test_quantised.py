"""NF4 and LLM.int8 on the CPU: evaluation destroys nothing, gradients are right, and the bake starts from the unquantised base."""

from pathlib import Path

import pytest
import torch

from so8t.base import load
from so8t.base.batches import collate, example_of
from so8t.template import Template
from so8t.training import adapter
from so8t.training.train import build
from tests.fakes.tuning import params, rows, stir, tiny_base

pytestmark = pytest.mark.parity
CPU = Path("/proc/cpuinfo")
AVX512_BF16 = CPU.is_file() and "avx512_bf16" in CPU.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return tiny_base(tmp_path_factory.mktemp("base") / "b", "phi3")


@pytest.fixture(scope="module")
def batch(base):
    template = Template.of(base)
    return collate([[example_of(row, template, "短く")] for row in rows(4)], 0)


def grad_norm(trainee, batch):
    trainee.objective.train()
    for tensor in trainee.tensors.values():
        tensor.grad = None
    parts = trainee.objective(batch)
    (parts.lm / parts.lm_count).backward()
    return float(
        torch.nn.utils.get_total_norm(
            [t.grad for t in trainee.tensors.values() if t.grad is not None]
        )
    )


def evaluate(trainee, batch):
    trainee.objective.eval()
    with torch.no_grad():
        return float(trainee.objective(batch).lm)


def norms(base, batch, **changes):
    trainee = build(base, params(**changes), Template.of(base))
    stir(trainee, theta=0.1)
    before = grad_norm(trainee, batch)
    first, second = evaluate(trainee, batch), evaluate(trainee, batch)
    return before, grad_norm(trainee, batch), first, second


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_an_evaluation_pass_leaves_gradients_of_a_4_bit_model_alone(base, batch, dtype):
    before, after, first, second = norms(
        base, batch, **{"train.quantization": "nf4", "train.compute_dtype": dtype}
    )
    assert before > 0
    assert after == before
    assert first == second


@pytest.mark.skipif(not AVX512_BF16, reason="the repacking needs a CPU with AVX512-BF16")
def test_without_our_fix_that_pass_does_destroy_them(base, batch, monkeypatch):
    monkeypatch.setattr(load, "keep_cpu_weights_plain", lambda _model: None)
    before, after, *_ = norms(
        base, batch, **{"train.quantization": "nf4", "train.compute_dtype": "bfloat16"}
    )
    assert after != before


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("quantization", ["nf4", "int8"])
def test_quantised_training_sees_the_gate_and_learns(base, batch, quantization):
    trainee = build(
        base,
        params(**{"train.quantization": quantization, "train.compute_dtype": "bfloat16"}),
        Template.of(base),
    )
    losses = []
    for _ in range(12):
        trainee.objective.train()
        parts = trainee.objective(batch)
        loss = parts.lm / parts.lm_count
        loss.backward()
        trainee.optimizer.step()
        trainee.optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 0.1
    assert all(float(g.theta.abs().max()) > 0 for g in trainee.gates.values())


def test_nothing_but_linear_layers_of_the_decoder_is_quantised(base):
    from bitsandbytes.nn import Linear4bit

    model = load.load_for_training(base, params(**{"train.quantization": "nf4"}).active.train)
    small = {
        name.rsplit(".", 1)[-1]
        for name, module in model.named_modules()
        if isinstance(module, Linear4bit)
    }
    assert small == {"qkv_proj", "o_proj", "gate_up_proj", "down_proj"}
    assert all(
        not m.support_avx512bf16_for_cpu for m in model.modules() if isinstance(m, Linear4bit)
    )
    assert not any(p.requires_grad for p in model.parameters())


def test_the_adapter_of_a_4_bit_run_goes_onto_the_unquantised_base(base, batch, tmp_path):
    settings = params(**{"train.quantization": "nf4"})
    trainee = build(base, settings, Template.of(base))
    stir(trainee)
    adapter.save(
        tmp_path / "a",
        trainee.objective.model,
        trainee.gates,
        trainee.heads,
        adapter.describe(settings, trainee.heads, "b", "d"),
    )
    model, gates, heads = adapter.load(tmp_path / "a", load.load_full(base))
    assert heads is not None
    assert all(torch.equal(gates[i].theta, trainee.gates[i].theta) for i in gates)
    assert {p.dtype for p in model.parameters()} == {torch.float32}
