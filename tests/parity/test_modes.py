"""Training under torch.compile and accelerate gives the step of plain eager code; the gate breaks no graph.

(fp16 and bf16 autocast and gradient checkpointing: test_gate.py, test_training.py; several processes: test_ranks.py.)
"""

import shutil

import pytest
import torch

from so8t.base.batches import collate, example_of
from so8t.base.load import decoder_layers
from so8t.template import Template
from so8t.training import gate
from so8t.training.trainee import build
from tests.fakes.tuning import params, rows, stir, tiny_base

pytestmark = pytest.mark.parity
COMPILER = shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    torch.set_num_threads(1)
    return tiny_base(tmp_path_factory.mktemp("base") / "b", "phi3")


@pytest.fixture(scope="module")
def batch(base):
    return collate([[example_of(row, Template.of(base), "短く")] for row in rows(4)], 0)


@pytest.fixture(autouse=True)
def _fresh():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def step_grads(base, batch, arm=lambda trainee: None):
    trainee = build(base, params(), Template.of(base))
    stir(trainee, theta=0.2)
    arm(trainee)
    trainee.objective.train()
    with trainee.bank.step():
        parts = trainee.objective(batch)
        (parts.lm / parts.lm_count + parts.safety + 0.1 * parts.pet).backward()
    return {name: tensor.grad.clone() for name, tensor in trainee.tensors.items()}


def close(found, wanted):
    assert found.keys() == wanted.keys()
    for name, grad in wanted.items():
        assert torch.allclose(
            found[name], grad, rtol=0, atol=1e-4 * float(grad.abs().max()) + 1e-9
        ), name


@pytest.mark.filterwarnings("ignore")
def test_the_gate_is_one_graph_with_its_backward_pass():
    turned, x = gate.Gate(64), torch.randn(2, 5, 64, generator=torch.Generator().manual_seed(0))
    torch.nn.init.normal_(turned.theta, std=0.2)
    turned.held = turned.matrix().detach().requires_grad_()  # as the bank lends it
    want = turned(x)
    (wanted,) = torch.autograd.grad(want.square().sum(), turned.held)
    compiled = torch.compile(turned, fullgraph=True, backend="aot_eager")
    found = compiled(x)
    (grad,) = torch.autograd.grad(found.square().sum(), turned.held)
    assert torch.allclose(found, want, atol=1e-6)
    assert torch.allclose(grad, wanted, atol=1e-4)


def _compile_layers(trainee, backend):
    for layer in decoder_layers(trainee.objective.model):
        layer.forward = torch.compile(layer.forward, backend=backend)


@pytest.mark.filterwarnings("ignore")
def test_compiled_layers_with_gates_break_no_more_graphs_than_without(base, batch):
    counts = {}
    for gated in (True, False):
        torch._dynamo.reset()
        torch._dynamo.utils.counters.clear()
        trainee = build(
            base, params(**{"gates.enabled": gated, "pet.lambda": 0.0}), Template.of(base)
        )
        _compile_layers(trainee, "aot_eager")
        with trainee.bank.step():
            trainee.objective(batch).lm.backward()
        counts[gated] = sum(torch._dynamo.utils.counters["graph_break"].values())
    assert counts[True] == counts[False]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "backend",
    [
        "aot_eager",
        pytest.param(
            "inductor",
            marks=[
                pytest.mark.slow,
                pytest.mark.skipif(COMPILER is None, reason="inductor needs a C++ compiler"),
            ],
        ),
    ],
)
def test_a_compiled_step_has_the_gradients_of_the_plain_one(base, batch, backend):
    close(
        step_grads(base, batch, lambda trainee: _compile_layers(trainee, backend)),
        step_grads(base, batch),
    )


@pytest.mark.filterwarnings("ignore")
def test_accelerate_prepares_the_objective_and_its_optimiser(base, batch):
    from accelerate import Accelerator

    wanted = step_grads(base, batch)
    accelerator = Accelerator(cpu=True)
    trainee = build(base, params(), Template.of(base))
    stir(trainee, theta=0.2)
    objective, optimizer = accelerator.prepare(trainee.objective, trainee.optimizer)
    objective.train()
    with trainee.bank.step():
        parts = objective(batch)
        accelerator.backward(parts.lm / parts.lm_count + parts.safety + 0.1 * parts.pet)
    close({name: tensor.grad.clone() for name, tensor in trainee.tensors.items()}, wanted)
    before = trainee.gates[0].theta.detach().clone()
    optimizer.step()
    assert not torch.equal(trainee.gates[0].theta, before)
