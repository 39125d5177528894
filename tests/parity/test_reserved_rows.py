"""Where the heads' rows go in a vocabulary with reserved tokens, with spare rows only, and with neither."""

import re

import numpy as np
import pytest
import torch

from so8t.baking.bake import bake
from so8t.base.batches import collate, example_of
from so8t.errors import ArtifactError
from so8t.gguf.convert import key_values
from so8t.gguf.convert.write import Recipe, convert
from so8t.llama import Engine
from so8t.params import RoleTokens, spare_row
from so8t.progress import Progress
from so8t.template import Template
from so8t.training import adapter
from so8t.training.heads import role_token_ids
from so8t.training.trainee import build
from tests.fakes.tuning import params, rows, stir, tiny_base

pytestmark = pytest.mark.parity
ROLES = ("allow", "escalate", "deny", "handle", "human")


def vocabulary(*names):
    from tokenizers import Tokenizer, models

    return Tokenizer(
        models.WordLevel({name: i for i, name in enumerate(names)}, unk_token=names[0])
    )


def roles(*names):
    return RoleTokens(**dict(zip(ROLES, names, strict=True)))


def pads(first):
    return roles(*(f"[PAD{i}]" for i in range(first, first + 5)))


def test_rows_behind_the_last_token_are_named_and_no_token_is_taken_for_one():
    words = vocabulary(*"abcdefgh")
    assert role_token_ids(pads(8), words, 13) == [8, 9, 10, 11, 12]
    with pytest.raises(ArtifactError, match=r"\[PAD12\]"):
        role_token_ids(pads(8), words, 12)  # one row too few
    with pytest.raises(ArtifactError, match=r"\[PAD7\]"):
        role_token_ids(pads(7), words, 13)  # row 7 is the token h
    assert spare_row("PAD8", 8, 13) is None


def test_a_refusal_says_what_this_vocabulary_offers():
    wanted = roles(*(f"<|placeholder{i}|>" for i in range(1, 6)))
    reserved = vocabulary("a", *(f"<|reserved_special_token_{i}|>" for i in range(7)))
    few = vocabulary("a", "b")
    for words, size, says in (
        (reserved, 8, "7 reserved tokens"),
        (few, 64, r"\[PAD2\] to \[PAD63\]"),
        (few, 4, "use another base"),
    ):
        with pytest.raises(ArtifactError) as error:
            role_token_ids(wanted, words, size)
        assert re.search(says, error.value.fix), error.value.fix


@pytest.mark.parametrize("kind", ["llama", "tied"])
def test_heads_in_spare_rows_come_out_of_a_stock_engine(kind, tmp_path):
    base = tiny_base(tmp_path / "base", kind, vocab_size=528)
    used = max(Template.of(base).tokenizer.get_vocab().values()) + 1
    settings = params(**{"base.tokens": pads(used).model_dump()})
    trainee = build(base, settings, Template.of(base))
    stir(trainee, theta=0.2)
    ids = trainee.heads.token_ids
    assert ids == list(range(used, used + 5))
    assert [key_values.token_id(base, f"[PAD{i}]") for i in ids] == ids
    adapter.save(
        tmp_path / "a",
        trainee.objective.model,
        trainee.gates,
        trainee.heads,
        adapter.describe(settings, trainee.heads, "b", "d"),
    )
    examples = [example_of(row, Template.of(base), "短く") for row in rows(3)]
    report = bake(base, tmp_path / "a", tmp_path / "baked", examples, Progress("bake"))
    convert(tmp_path / "baked", tmp_path / "f32.gguf", Recipe("F32", "m", "short"))
    trainee.objective.eval()
    with torch.no_grad():
        want = (
            report["head_scale"]
            * trainee.heads(trainee.objective.hidden(collate([[examples[0]]], 0)))[0, -1].numpy()
        )
    with Engine(tmp_path / "f32.gguf", n_ctx=512, threads=1, kv="f32") as engine:
        found = engine.logits(list(examples[0].ids), positions="all")[-1]
    assert np.abs(found[ids] - want).max() <= 1e-4 * np.abs(found).max()
