"""One training step: PET that is off is off, splitting a batch changes nothing, and what is reported is true."""

import pytest
import torch

from so8t.baking import parity
from so8t.baking.bake import bake
from so8t.base.batches import collate, example_of, read_examples, statistics
from so8t.progress import Progress
from so8t.template import Template
from so8t.training import adapter, train
from so8t.training.objective import Objective, weigh
from so8t.training.ranks import Ranks
from so8t.training.step import Moment, run_step, validate
from so8t.training.trainee import build
from tests.fakes.tuning import ROOT, params, prepared, rows, stir, tiny_base

pytestmark = pytest.mark.parity
ALONE = Ranks(0, 1)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    torch.set_num_threads(1)
    return tiny_base(tmp_path_factory.mktemp("base") / "b", "phi3")


@pytest.fixture(scope="module")
def examples(base):
    return [example_of(row, Template.of(base), "短く") for row in rows(8)]


@pytest.fixture(autouse=True)
def _apart(tmp_path, monkeypatch):
    monkeypatch.setenv("SO8T_DATABASE", str(tmp_path / "database"))


def weights_after(base, examples, split, settings, theta=0.05):
    trainee = build(base, settings, Template.of(base))
    stir(trainee, theta=theta)
    log = [
        run_step(
            trainee,
            [[[examples[i]] for i in part] for part in split],
            Moment(k, 10),
            settings,
            ALONE,
        )
        for k in range(3)
    ]
    return {name: tensor.detach().clone() for name, tensor in trainee.tensors.items()}, log


def test_lambda_zero_is_bit_identical_to_a_training_without_pet(base, examples, monkeypatch):
    split = [range(8)]
    zero, log = weights_after(base, examples, split, params(**{"pet.lambda": 0.0}))
    assert log[0]["pet"] == 0.0
    plain = Objective.__init__
    monkeypatch.setattr(
        Objective,
        "__init__",
        lambda self, model, heads, use_pet, autocast=None: plain(
            self, model, heads, False, autocast
        ),
    )
    never, _ = weights_after(base, examples, split, params(**{"pet.lambda": 0.0}))
    assert all(torch.equal(zero[name], never[name]) for name in zero)
    monkeypatch.undo()
    one, log = weights_after(base, examples, split, params(**{"pet.lambda": 0.5}))
    assert log[0]["pet"] > 0.1
    assert not all(torch.equal(zero[name], one[name]) for name in zero)


def test_watching_pet_with_weight_zero_changes_no_gradient(base, examples):
    grads = []
    for watched in (True, False):
        trainee = build(base, params(), Template.of(base))
        stir(trainee)
        objective = Objective(trainee.objective.model, trainee.heads, use_pet=watched)
        counts = {"lm": 10.0, "safety": 8.0, "authority": 8.0, "label": 24.0, "pet": 10.0}
        weigh(
            objective(collate([[e] for e in examples], 0)), counts, params().active.loss, 0.0
        ).backward()
        grads.append([t.grad.clone() for t in trainee.tensors.values()])
    assert all(torch.equal(a, b) for a, b in zip(*grads, strict=True))


@pytest.mark.parametrize(
    "split",
    [[range(4), range(4, 8)], [[i] for i in range(8)], [range(1), range(1, 8)]],
    ids=["halves", "ones", "uneven"],
)
def test_accumulation_changes_nothing_but_rounding(base, examples, split):
    whole, log = weights_after(base, examples, [range(8)], params())
    parts, parted = weights_after(base, examples, split, params())
    for key in ("loss", "lm", "safety", "authority", "label", "pet"):
        assert parted[0][key] == pytest.approx(log[0][key], rel=1e-4)
    assert all(torch.allclose(whole[n], parts[n], rtol=0, atol=2e-4) for n in whole)


def test_one_exponential_per_step_gives_the_gradients_of_one_per_forward(base, examples):
    grads = []
    for banked in (True, False):
        trainee = build(base, params(), Template.of(base))
        stir(trainee)
        batches = [collate([[e] for e in examples[:4]], 0), collate([[e] for e in examples[4:]], 0)]
        if banked:
            with trainee.bank.step():
                for batch in batches:
                    trainee.objective(batch).lm.backward()
                assert all(gate.theta.grad is None for gate in trainee.gates.values())
        else:
            for batch in batches:
                trainee.objective(batch).lm.backward()
        assert all(gate.held is None for gate in trainee.gates.values())
        grads.append({name: t.grad.clone() for name, t in trainee.tensors.items()})
    for name, grad in grads[0].items():
        assert torch.allclose(grad, grads[1][name], rtol=0, atol=1e-5 * float(grad.abs().max())), (
            name
        )


def test_gradient_checkpointing_changes_no_bit_of_a_step(base, examples):
    plain, _ = weights_after(base, examples, [range(8)], params())
    saved, _ = weights_after(
        base, examples, [range(8)], params(**{"train.gradient_checkpointing": True})
    )
    assert all(torch.equal(plain[name], saved[name]) for name in plain)


def test_validation_is_a_mean_over_tokens_whatever_the_batch_size(base, examples):
    trainee = build(base, params(), Template.of(base))
    stir(trainee)
    one, many = validate(trainee, examples, 1, ALONE), validate(trainee, examples, 8, ALONE)
    assert one == pytest.approx(many, rel=1e-5)
    assert {name for name, t in trainee.tensors.items() if t.grad is not None} == set()


def test_token_statistics_count_what_is_learnt_and_what_is_padding(base, tmp_path):
    found, dropped = read_examples(
        prepared(tmp_path, train=7) / "train.jsonl", Template.of(base), "短く", 10_000
    )
    lengths = [len(e.ids) for e in found]
    seen = statistics(found, dropped, [[[0], [1]], [[2], [3]], [[4, 5, 6]]])
    assert seen["tokens"] == sum(lengths)
    assert seen["completion_tokens"] == sum(len(e.ids) - e.prompt for e in found)
    slots = 2 * max(lengths[:2]) + 2 * max(lengths[2:4]) + sum(lengths[4:])
    assert seen["padding_share"] == pytest.approx(1 - sum(lengths) / slots)


def test_full_fine_tuning_trains_saves_and_bakes_the_base_itself(base, examples, tmp_path):
    folder = prepared(tmp_path / "prepared", train=8, valid=4)
    settings = params(
        **{
            "train.quantization": "full",
            "train.lora_r": 0,
            "train.lr": 0.01,
            "train.compute_dtype": "bfloat16",
            "train.epochs": 3.0,
        }
    )
    facts = train.train(
        base, folder, tmp_path / "adapter", tmp_path / "log.csv", settings, Progress("train")
    )
    assert facts["trainable"] > 100_000
    report = bake(base, tmp_path / "adapter", tmp_path / "baked", examples[:3], Progress("bake"))
    assert report["parity"]["relative_error"] <= parity.LIMIT
    from safetensors.torch import load_file

    name = "model.layers.0.mlp.down_proj.weight"
    want = load_file(tmp_path / "adapter" / adapter.WEIGHTS)[name]
    assert torch.equal(load_file(tmp_path / "baked" / "model.safetensors")[name], want)
    assert not torch.equal(load_file(base / "model.safetensors")[name], want)


@pytest.mark.parametrize("quantization", ["nf4", "int8"])
def test_the_drift_of_quantised_training_is_measured(base, examples, tmp_path, quantization):
    settings = params(**{"train.quantization": quantization})
    trainee = build(base, settings, Template.of(base))
    stir(trainee)
    adapter.save(
        tmp_path / "a",
        trainee.objective.model,
        trainee.gates,
        trainee.heads,
        adapter.describe(settings, trainee.heads, "b", "d"),
    )
    drift = bake(base, tmp_path / "a", tmp_path / "baked", examples, Progress("bake"))["drift"]
    assert drift["measured"]
    assert 1e-8 < drift["kl_mean"] < 1.0
    assert 0 <= drift["verdict_flips"] <= drift["verdicts"] == len(examples)
    if quantization == "nf4":  # the image is the graph that was trained, to the bit of its weights
        from bitsandbytes.functional import dequantize_4bit

        from so8t.training.streamed import Shards

        linear = trainee.objective.model.get_base_model().model.layers[0].mlp.down_proj.base_layer
        name = "model.layers.0.mlp.down_proj.weight"
        image = parity.quantised_image("nf4", "float32")(name, Shards(base)(name))
        assert torch.equal(image, dequantize_4bit(linear.weight.data, linear.weight.quant_state))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["rtx3060", "h200", "run_l", "run_b", "run_p", "run_ab"])
def test_each_preset_trains_twenty_steps_on_a_tiny_model_of_its_architecture(name, tmp_path):
    from so8t.params import load

    preset = load(ROOT / "params.yaml", profile=name).train
    base = tiny_base(tmp_path / "base", "phi4" if name == "run_p" else "phi35")
    kept = {f"train.{key}": value for key, value in preset.model_dump().items()}
    settings = params(
        **kept
        | {
            "train.threads": 1,
            "train.max_length": 256,
            "train.accumulation": 1,
            "train.batch_size": 2,
            "train.epochs": 2.0,
            "pet.preset": name if name.startswith("run_") and name != "run_ab" else "run_b",
        }
    )
    facts = train.train(
        base,
        prepared(tmp_path / "prepared", train=20, valid=2),
        tmp_path / "adapter",
        tmp_path / "log.csv",
        settings,
        Progress("train"),
    )
    assert facts["steps"] >= (4 if preset.packing else 20)
    assert facts["max_angle"] > 0
