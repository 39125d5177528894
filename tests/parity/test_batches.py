"""Packing without contamination, completion-only labels, and an order that needs no state."""

from dataclasses import replace

import pytest
import torch

from so8t.base.batches import IGNORE, collate, epoch_order, example_of, pack, read_examples
from so8t.base.load import load_full
from so8t.errors import DataError
from so8t.template import Template
from so8t.training.objective import Objective, weigh
from tests.fakes.tuning import params, prepared, rows, tiny_base

pytestmark = pytest.mark.parity
SYSTEM = "短く答える"
KINDS = ("phi3", "phi35", "llama", "qwen2", "mistral")


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    root = tmp_path_factory.mktemp("bases")
    return {kind: tiny_base(root / kind, kind) for kind in KINDS}


@pytest.fixture(scope="module")
def examples(bases):
    template = Template.of(bases["phi3"])
    return [example_of(row, template, SYSTEM) for row in rows(5)]


def model_of(base):
    return load_full(base).requires_grad_(True)


@pytest.mark.parametrize("kind", KINDS)
def test_packed_rows_give_the_logits_and_gradients_of_separate_ones(bases, examples, kind):
    model = model_of(bases[kind])
    objective = Objective(model, None, use_pet=True)
    counts = {"lm": 50.0, "safety": 1.0, "authority": 1.0, "label": 15.0, "pet": 100.0}
    packed = collate([examples[:3], examples[3:]], 0)  # rows of unlike length: padding is there too
    parts = objective(packed)
    weigh(parts, counts, params().active.loss, 0.05).backward()
    together = [p.grad.clone() for p in model.parameters()]
    hidden = objective.hidden(packed)
    model.zero_grad()
    sums = torch.zeros(2)
    at = 0
    for number, example in enumerate(examples):
        alone = collate([[example]], 0)
        row, start = (0, at) if number < 3 else (1, at - sum(len(e.ids) for e in examples[:3]))
        want = objective.hidden(alone)[0]
        assert torch.allclose(
            hidden[row, start : start + len(example.ids)],
            want,
            rtol=0,
            atol=2e-5 * float(want.abs().max()),
        )
        at += len(example.ids)
        one = objective(alone)
        weigh(one, counts, params().active.loss, 0.05).backward()
        sums += torch.stack([one.lm.detach(), one.pet.detach()])
    assert torch.allclose(sums, torch.stack([parts.lm, parts.pet]).detach(), rtol=1e-4)
    for both, apart in zip(together, [p.grad for p in model.parameters()], strict=True):
        assert torch.allclose(both, apart, rtol=0, atol=1e-4 * float(apart.abs().max()) + 1e-7)


def test_the_contaminated_call_differs(bases, examples):
    """The same positions with a mask of ones mix samples and raise nothing: the test above can fail."""
    model = load_full(bases["phi3"])
    packed = collate([examples[:3]], 0)
    with torch.no_grad():
        clean = model.model(
            input_ids=packed.ids, position_ids=packed.positions, use_cache=False
        ).last_hidden_state
        mixed = model.model(
            input_ids=packed.ids,
            position_ids=packed.positions,
            use_cache=False,
            attention_mask=torch.ones_like(packed.ids),
        ).last_hidden_state
    assert (clean - mixed).abs().max() > 1e-2 * clean.abs().max()


def test_the_prompt_is_masked_and_the_end_token_is_learnt(bases, examples):
    template = Template.of(bases["phi3"])
    end = template.tokenizer.token_to_id("<|end|>")
    for example in examples:
        batch = collate([[example]], 0)
        learnt = batch.labels[0] != IGNORE
        assert not learnt[: example.prompt].any()
        assert learnt[example.prompt :].all()
        assert end in batch.labels[0][learnt].tolist()
        cue = template.tokenizer.decode(
            batch.ids[0, example.prompt :].tolist(), skip_special_tokens=False
        )
        assert cue.startswith("# 判定\n")
        assert batch.ends.tolist() == [[0, example.prompt - 1]]


def _spelt(batch, prompt):
    return [
        int(batch.ids[row, position])
        for row, position, number in batch.spelt.tolist()
        if number == prompt
    ]


@pytest.mark.parametrize("kind", KINDS)
def test_the_tokens_that_spell_the_verdict_are_found_also_where_rows_are_packed(bases, kind):
    template = Template.of(bases[kind])
    wanted = [
        replace(row, text=f"# 判定\n{row.verdict}\n{row.text}") for row in rows(6)
    ]  # a request may say it, too
    made = [example_of(row, template, SYSTEM) for row in wanted]
    batch = collate([made[:4], made[4:]], 0)
    for number, (row, example) in enumerate(zip(wanted, made, strict=True)):
        assert template.tokenizer.decode(_spelt(batch, number)).strip() == row.verdict
        assert example.label[0] > example.prompt


def test_an_answer_that_does_not_say_its_verdict_has_no_spelt_tokens(bases):
    template = Template.of(bases["phi3"])
    silent = [replace(row, response="# 最終回答\nはい。") for row in rows(2)]
    silent.append(replace(rows(3)[2], verdict=None))
    assert len(collate([[example_of(row, template, SYSTEM)] for row in silent], 0).spelt) == 0


def test_the_label_loss_is_the_language_loss_of_the_spelt_tokens_alone(bases, examples):
    objective, batch = (
        Objective(load_full(bases["phi3"]), None, use_pet=False),
        collate([examples[:3], examples[3:]], 0),
    )
    with torch.no_grad():
        losses = torch.log_softmax(objective.logits(objective.hidden(batch)).float(), -1)
        parts = objective(batch)
    want = sum(
        -float(losses[row, position - 1, batch.ids[row, position]])
        for row, position, _ in batch.spelt.tolist()
    )
    assert float(parts.label) == pytest.approx(want, rel=1e-5)
    assert 0.0 < want < float(parts.lm)


def test_without_heads_a_verdict_is_right_when_every_token_of_it_is(bases, examples):
    objective = Objective(load_full(bases["phi3"]), None, use_pet=False)
    batch = collate([[example] for example in examples], 0)
    rights = iter([1.0] * (len(batch.spelt) - 1) + [0.0])  # one token of the last verdict is wrong

    def logits(states):
        right = torch.tensor([next(rights) for _ in states])
        rows, positions, _ = batch.spelt.unbind(1)
        return torch.zeros(len(states), int(batch.ids.max()) + 1).scatter(
            1, batch.ids[rows, positions][:, None], (2 * right - 1)[:, None]
        )

    objective.logits = logits
    _, hits, count = objective._label(objective.hidden(batch), batch)
    assert (int(hits), int(count)) == (len(examples) - 1, len(examples))


def test_labels_of_packed_rows_do_not_cross_samples(examples):
    batch = collate([examples[:2]], 0)
    first = len(examples[0].ids)
    assert (
        batch.labels[0, first] == IGNORE
    )  # no token is predicted from another sample's last state
    assert batch.positions[0, first] == 0
    assert batch.samples[0].unique().tolist() == [0, 1]


def test_padding_is_never_learnt_and_does_not_change_the_loss(bases, examples):
    objective = Objective(load_full(bases["llama"]), None, use_pet=True)
    short = min(examples, key=lambda e: len(e.ids))
    long = max(examples, key=lambda e: len(e.ids))
    with torch.no_grad():
        alone = objective(collate([[short]], 0))
        beside = objective(collate([[short], [long]], 0))
        other = objective(collate([[long]], 0))
    assert torch.allclose(beside.lm, alone.lm + other.lm, rtol=1e-5)
    assert torch.allclose(beside.pet, alone.pet + other.pet, rtol=1e-4)


def test_the_order_of_an_epoch_is_a_function_of_seed_and_epoch_and_every_row_comes_once(examples):
    many = examples * 9
    one, again, other = (epoch_order(many, 4, 7, epoch) for epoch in (0, 0, 1))
    assert one == again != other
    assert sorted(i for batch in one for i in batch) == list(range(len(many)))


def test_bins_hold_every_row_once_and_never_overflow(examples):
    many = examples * 4
    bins = pack(many, list(range(len(many))), 200)
    assert sorted(i for members in bins for i in members) == list(range(len(many)))
    assert all(sum(len(many[i].ids) for i in members) <= 200 for members in bins)


def test_rows_that_are_too_long_are_counted_and_none_left_is_an_error(bases, tmp_path):
    folder, template = prepared(tmp_path, train=9), Template.of(bases["phi3"])
    lengths = sorted(
        len(e.ids) for e in read_examples(folder / "train.jsonl", template, SYSTEM, 10_000)[0]
    )
    kept, dropped = read_examples(folder / "train.jsonl", template, SYSTEM, lengths[4])
    assert dropped == sum(length > lengths[4] for length in lengths)
    assert len(kept) + dropped == 9
    with pytest.raises(DataError, match="no row fits"):
        read_examples(folder / "train.jsonl", template, SYSTEM, 5)
