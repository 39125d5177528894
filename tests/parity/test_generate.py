"""Measurements that run a file: on a real GGUF under libllama, small and random."""

import json
import math

import numpy as np
import pytest

from so8t.chat import ALLOW_PREFIX, parse
from so8t.generation import answers, perplexity, run, speed
from so8t.llama import Engine
from so8t.params import Evaluation
from so8t.progress import Progress
from so8t.prompts import Prompter
from tests.fakes.tiny_gguf import SPECIALS, write_tiny

pytestmark = pytest.mark.parity
RESERVED = tuple(SPECIALS[5:])


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return write_tiny(tmp_path_factory.mktemp("gguf") / "a.gguf")


@pytest.fixture(scope="module")
def engine(path):
    with Engine(path, n_ctx=512, threads=1) as opened:
        yield opened


def setup_of(**changed):
    counts = {
        "bootstrap": 200,
        "generate_rows": 3,
        "generate_tokens": 8,
        "long_rows": 1,
        "long_tokens": 40,
        "speed_rows": 3,
        "retention_rows": 4,
        **changed,
    }
    return run.Setup(Evaluation(**counts), "system", RESERVED, 1, 512, 7)


def split(path, count, verdict="ALLOW"):
    rows = [
        {
            "id": f"r{i}",
            "group": f"g{i}",
            "text": f"request {i}",
            "final": f"answer {i}",
            "verdict": verdict,
        }
        for i in range(count)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_retention_is_the_likelihood_of_the_answer_alone(engine):
    (found,) = perplexity.measure(engine, [("the request", "the")])
    context, target = (engine.tokenize(text, special=False) for text in ("the request\n", "the"))
    expected = 0.0
    for i, token in enumerate(target):
        row = engine.logits([*context, *target[:i]]).astype(np.float64)
        expected += math.log(np.exp(row - row.max()).sum()) + row.max() - row[token]
    assert found.tokens == len(target)
    assert found.nats == pytest.approx(expected, rel=1e-3)


def test_user_text_in_retention_is_never_read_as_control_tokens(engine):
    (found,) = perplexity.measure(engine, [("a", "<|end|>")])
    assert found.tokens == len("<|end|>")


def test_a_perplexity_without_rows_says_not_run():
    assert perplexity.summarise([], draws=100, seed=1) == {"n": 0, "status": "not_run"}


def test_the_answer_is_generated_after_the_fed_label(engine):
    prompt = Prompter(engine, "system").prompt("hello")
    fed = Prompter(engine, "system").after(prompt, ALLOW_PREFIX)
    made = answers.answer(engine, fed.ids, fed.cuts, reference="x", max_tokens=5)
    assert made.text.startswith(ALLOW_PREFIX)
    assert made.ids == engine.generate(
        fed.ids, max_tokens=5, stop=set(), forbid=set(), cuts=fed.cuts
    )


def test_rows_are_spread_over_the_whole_file():
    assert run.spread(range(10), 3) == [0, 3, 6]
    assert run.spread([1, 2], 5) == [1, 2]
    assert run.spread([1, 2], 0) == []


def test_timed_prompts_leave_one_number_each_behind(engine):
    prompter = Prompter(engine, "system")
    prompts = [prompter.prompt(f"request {i}") for i in range(4)]
    timings = speed.measure(engine, prompts, decode_tokens=4)
    assert len(timings) == 4
    assert [timing.prompt_tokens for timing in timings] == [len(p.ids) for p in prompts]
    assert all(timing.cue_s is None for timing in timings)
    for timing in timings:
        assert min(timing.prefill_s, timing.verdict_s, timing.decode_s) > 0


def test_the_timed_cue_is_what_the_reader_evaluates(engine, monkeypatch):
    from so8t.scoring.reader import GgufReader

    reader = GgufReader(engine, "system")
    prompt = reader.prompter.prompt("request")
    turns = run._labelled_turns(reader.prompter, prompt)
    fed = {tuple(turn.prompt.ids[:-1]) for turn in turns}
    asked, original = [], engine.logits_from
    monkeypatch.setattr(
        engine,
        "logits_from",
        lambda ids, start, cuts=(): (asked.append(tuple(ids)), original(ids, start, cuts=cuts))[1],
    )
    reader.read_prompt(prompt)
    assert fed <= set(asked)
    assert len(fed) == 3


def test_a_whole_file_is_measured_and_gives_the_same_prose_twice(path, tmp_path):
    rows = run.Rows.read(
        split(tmp_path / "test.jsonl", 6), split(tmp_path / "valid.jsonl", 5, None)
    )
    progress = Progress("t")
    (one, timed), (two, _) = (
        run.measure(path, rows=rows, setup=setup_of(), progress=progress) for _ in range(2)
    )
    first, second = one.sections, two.sections
    assert first["generation"]["n"] == 3
    assert first["stability"]["tokens"] == 40
    assert first["retention"]["n"] == 4
    assert timed.speed["verdict_s"]["p95"]["ci95"][1] is None  # three runs resolve no upper limit
    assert timed.speed["cue_s"]["n"] == timed.speed["verdict_s"]["n"] == len(timed.latencies) == 3
    assert set(first) == {"generation", "stability", "retention"}
    assert one == two
    assert first == second
    assert first["retention"]["plain"]["n"] == 3
    assert isinstance(first["retention"]["plain"]["beyond_chance"], bool)
    json.dumps(first, allow_nan=False)


def test_what_is_written_of_answers_is_final_text_and_numbers_and_never_thinking(
    path, tmp_path, monkeypatch
):
    secret = "極秘の思考"
    turn = f"{ALLOW_PREFIX}# 思考ステップ\n{secret}\n# 最終回答\n公開の答え"
    monkeypatch.setattr(
        answers,
        "answer",
        lambda *_, **given: answers.Answer([1], turn, parse(turn), given["reference"]),
    )
    rows = run.Rows.read(
        split(tmp_path / "test.jsonl", 6), split(tmp_path / "valid.jsonl", 5, None)
    )
    made, _ = run.measure(path, rows=rows, setup=setup_of(), progress=Progress("t"))
    said = made.answers
    assert [one["final"] for one in said if one["kind"] == "served"] == ["公開の答え"] * 3
    assert {one["kind"] for one in said} == {"served", "likelihood", "plain"}
    assert secret not in json.dumps(said, ensure_ascii=False)


def test_a_plain_answer_follows_the_request_alone(engine):
    (first, second) = perplexity.answers(engine, [("hello", "the he the"), ("other", "the")])
    context = engine.tokenize("hello\n", special=False, add_special=True)
    made = engine.generate(
        context, max_tokens=len(engine.tokenize("the he the")), stop=set(), forbid=set()
    )
    kept = made[: next((i for i, t in enumerate(made) if engine.is_control(t)), len(made))]
    text = engine.detokenize(kept).decode("utf-8", "replace").strip()
    from sacrebleu.metrics.chrf import CHRF

    assert first.chrf == CHRF().sentence_score(text, ["the he the"]).score
    assert first.chance == CHRF().sentence_score(text, ["the"]).score
    assert second.empty in (True, False)


def test_answers_that_fit_any_request_are_not_beyond_chance():
    rng = np.random.default_rng(1)
    noise = [
        perplexity.PlainAnswer(float(a), float(b), marked=False, empty=False)
        for a, b in rng.uniform(5, 15, (40, 2))
    ]
    able = [
        perplexity.PlainAnswer(one.chrf + 20, one.chance, marked=i < 4, empty=False)
        for i, one in enumerate(noise)
    ]
    none, some = (perplexity.summarise_answers(found, draws=500, seed=1) for found in (noise, able))
    assert not none["beyond_chance"]
    assert some["beyond_chance"]
    assert some["marked"]["k"] == 4
    assert (some["n"], some["chrf"]["n"]) == (40, 40)
    assert some["chrf"]["ci95"][0] < some["chrf"]["value"] < some["chrf"]["ci95"][1]
    assert perplexity.summarise_answers(noise[:1], draws=500, seed=1) == {
        "n": 1,
        "status": "not_run",
    }


def test_reserved_tokens_that_appear_are_counted(engine):
    emitted = engine.token_id(RESERVED[0])
    prompt = Prompter(engine, "s").prompt("t")
    made = answers.answer(engine, prompt.ids, prompt.cuts, reference="r", max_tokens=3)
    planted = answers.Answer([*made.ids, emitted], made.text, made.parsed, made.reference)
    assert (
        answers.summarise([planted], reserved={emitted}, max_tokens=99, seed=1)["reserved_emitted"]
        == 1
    )
