"""What a certificate covers is said wherever one is printed, and in the same words."""

import click
import pytest
from click.testing import CliRunner

from so8t.calibration.assess import assess
from so8t.calibration.fit import make_card
from so8t.coverage import COVERED, LIMITS, in_english, promise
from so8t.familiarity import Familiarity
from so8t.release.modelcard import Facts, Names, write
from so8t.serving.answer import Answer
from so8t.serving.cli import _explain
from so8t.verdict import Verdict
from tests.fakes.scores import INDEX, limits, make, meta

NAMES = Names("so8t", "base", "b.gguf", "card", "evaluate", "verify", "compare")


@pytest.fixture(scope="module")
def certified():
    scores = make(1200, 1, separation=3.0)
    return make_card(scores, meta(), limits(), INDEX, readout="prefill", seed=1)[0]


@pytest.fixture(scope="module")
def refused():
    scores = make(80, 1, separation=3.0)
    return make_card(scores, meta(), limits(), INDEX, readout="prefill", seed=1)[0]


def explained(card, answer):
    command = click.command()(lambda: _explain(card, answer))
    result = CliRunner().invoke(command, [])
    assert result.exit_code == 0, result.output
    return result.output


def answer(unfamiliar=()):
    familiarity = Familiarity(0.01, {"ngrams": 0.005, "length": 0.4}, unfamiliar)
    return Answer(Verdict.ESCALATE, None, None, "", familiarity=familiarity)


def test_the_gate_says_it_behind_the_rate(certified) -> None:
    sentence = assess(certified).sentence
    assert sentence.startswith(f"certified: {promise(certified.certificate)}, ")
    assert sentence.endswith(COVERED[1])


def test_the_gate_does_not_say_it_of_a_card_that_certifies_nothing(refused) -> None:
    assert refused.status == "not_certified"
    assert COVERED[1] not in assess(refused).sentence


def test_the_promise_is_the_cards_own() -> None:
    said = promise({"alpha": 0.02, "delta": 0.1, "guarantee": "pooled"})
    assert said == "false-allow rate <= 0.02 with confidence 0.9 (pooled)"


def test_asking_why_says_it_before_familiarity(certified, refused) -> None:
    said = explained(certified, answer(("ngrams",))).splitlines()
    assert said[0] == f"certificate  {promise(certified.certificate)}. {COVERED[1]}"
    assert said[1].startswith("familiarity  unfamiliar")
    assert explained(refused, answer()).startswith("familiarity  familiar")


def test_the_model_card_has_every_limit_in_words() -> None:
    facts = Facts({"card": {"limits": [*LIMITS, "of_another_version"]}})
    text = write(facts, NAMES, sentence="s", commands="c")
    for code, (_, english) in LIMITS.items():
        assert f"- {english}\n" in text
        assert code not in text
    assert "- of_another_version\n" in text


def test_a_code_of_another_version_stands_for_itself() -> None:
    assert in_english("new_code") == "new_code"
