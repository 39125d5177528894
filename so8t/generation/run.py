"""Everything that needs the model to run: one GGUF file, opened once, measured as it is served.

Covered: which rows are asked, and the order of measurements. Not covered: how a prompt is made
(so8t.prompts), verdict metrics (so8t.evaluation reads score files), decisions (calibration).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, TypeVar

from so8t.chat import ALLOW_PREFIX, CUE
from so8t.generated import Generated, Timings
from so8t.generation import answers, perplexity, speed
from so8t.llama import Engine
from so8t.params import Evaluation, Params
from so8t.progress import Progress
from so8t.prompts import LABELS, Prompt, Prompter
from so8t.rows import Row, read_rows
from so8t.verdict import Verdict

Item = TypeVar("Item")

# Generated for each timed prompt: enough to time, too few to slow the stage down.
DECODE_TOKENS = 24


@dataclass(frozen=True, slots=True)
class Setup:
    """How the file is opened and what it is asked.

    `reserved` are the texts of the role tokens, which must never be emitted.
    """

    evaluation: Evaluation
    system: str
    reserved: tuple[str, ...]
    threads: int
    n_ctx: int
    seed: int


@dataclass(frozen=True, slots=True)
class Rows:
    """What is asked: true ALLOW rows of a test split, and rows of `valid` for retention."""

    allowed: list[Row]
    valid: list[Row]

    @classmethod
    def read(cls, test: Path, valid: Path) -> Self:
        """From two prepared splits.

        Raises:
            DataError: a split is missing or malformed.
        """
        # Others are never answered by the model, but in the deployment's own words.
        allowed = [row for row in _answered(test) if row.verdict is Verdict.ALLOW]
        return cls(allowed, _answered(valid))


@dataclass(frozen=True, slots=True)
class _Asked:
    """A row and the prompt that asks it."""

    row: Row
    prompt: Prompt


@dataclass(frozen=True, slots=True)
class _Measured:
    """A section of the metrics file, and what was said row by row."""

    section: dict[str, Any]
    said: list[dict[str, Any]]


def setup_of(params: Params) -> Setup:
    """How these parameters run a file."""
    tokens = params.active.base.tokens.model_dump()
    return Setup(
        evaluation=params.evaluation,
        system=params.data.system,
        reserved=tuple(tokens.values()),
        threads=params.scoring.threads,
        n_ctx=params.scoring.n_ctx,
        seed=params.seed,
    )


def _answered(path: Path) -> list[Row]:
    """Rows of a prepared split that have an answer, in file order."""
    # Overlap with an empty reference, or perplexity of no text, is not defined.
    return [row for row in read_rows(path) if row.text and row.final]


def spread(items: Sequence[Item], count: int) -> list[Item]:
    """`count` items at equal distances, so that every part of a file is asked.

    All items, when there are fewer.
    """
    if count >= len(items):
        return list(items)
    # Division of whole numbers: no rounding error can lead behind the end.
    places = [number * len(items) // count for number in range(count)]
    return [items[place] for place in places]


def measure(
    path: Path, *, rows: Rows, setup: Setup, progress: Progress
) -> tuple[Generated, Timings]:
    """Run the file: answers, long texts, speed, retention.

    Args:
        path: the GGUF file.
        rows: what is asked.
        setup: parameters.
        progress: where bars go.

    Returns:
        Sections of the metrics file with what was said row by row; and, apart, the times.

    Raises:
        ArtifactError: the file cannot be opened, has no chat template, or gives logits that are not
            finite.
    """
    ask = setup.evaluation
    with Engine(path, n_ctx=setup.n_ctx, threads=setup.threads) as engine:
        # The prompter of `score`: what is measured here is asked as it was scored.
        prompter = Prompter(engine, setup.system)
        timings = _timings(prompter, spread(rows.allowed, ask.speed_rows))
        most = max(ask.generate_rows, ask.long_rows)
        asked = [_ask(prompter, row) for row in spread(rows.allowed, most)]
        asked_for_prose = spread(asked, ask.generate_rows)
        asked_for_long = spread(asked, ask.long_rows)
        prose = _answers(engine, asked_for_prose, setup, progress)
        retention = _retention(engine, rows.valid, setup)
        stability = _long(engine, asked_for_long, setup)
        sections = {
            "generation": prose.section,
            "stability": stability,
            "retention": retention.section,
        }
        # With the file still open, so that the peak of memory is that of all the measurements.
        summary = speed.summarise(timings, threads=setup.threads)
    # Single latencies are kept beside their summary: the report draws them.
    latencies = [timing.verdict_s for timing in timings]
    generated = Generated(sections, prose.said + retention.said)
    return generated, Timings(summary, latencies)


def _timings(prompter: Prompter[Engine], rows: Sequence[Row]) -> list[speed.Timing]:
    """Time the prompts of these rows, by both readouts."""
    prompts: list[Prompt] = []
    cues: list[list[speed.LabelledTurn]] = []
    for row in rows:
        # Tokenised before any time is taken: what is timed is evaluation alone.
        prompt = prompter.prompt(row.text)
        prompts.append(prompt)
        cues.append(_labelled_turns(prompter, prompt))
    return speed.measure(
        prompter.engine,
        prompts,
        decode_tokens=DECODE_TOKENS,
        cues=cues,
    )


def _labelled_turns(prompter: Prompter[Engine], prompt: Prompt) -> list[speed.LabelledTurn]:
    """The turn begun with each label, as the cue readout feeds it."""
    fed = prompter.after(prompt, CUE)
    start = len(fed.ids)
    return [speed.LabelledTurn(prompter.after(fed, label), start) for label in LABELS]


def _ask(prompter: Prompter[Engine], row: Row) -> _Asked:
    # After ALLOW, as an allowed request is answered: the verdict was decided before.
    prompt = prompter.after(prompter.prompt(row.text), ALLOW_PREFIX)
    return _Asked(row, prompt)


def _answers(
    engine: Engine, asked: Sequence[_Asked], setup: Setup, progress: Progress
) -> _Measured:
    """Answers as a user gets them, with their final text only: thinking is never written."""
    limit = setup.evaluation.generate_tokens
    made: list[answers.Answer] = []
    said: list[dict[str, Any]] = []
    for one in progress.bar(asked, total=len(asked), what="answers", unit="answer"):
        row = one.row
        prompt = one.prompt
        answer = answers.answer(
            engine,
            prompt.ids,
            prompt.cuts,
            reference=row.final,
            max_tokens=limit,
        )
        made.append(answer)
        said.append(
            {
                "kind": "served",
                "id": row.id,
                "group": row.group,
                "text": row.text,
                "final": answer.final,
            }
        )
    # By id, because their texts could also be spelled with ordinary tokens.
    reserved = {engine.token_id(text) for text in setup.reserved}
    section = answers.summarise(
        made,
        reserved=reserved,
        max_tokens=limit,
        seed=setup.seed,
    )
    return _Measured(section, said)


def _retention(engine: Engine, rows: Sequence[Row], setup: Setup) -> _Measured:
    """Perplexity of `retention_rows` rows, plain answers to `generate_rows` of them.

    What is said of a row holds numbers only.
    """
    ask = setup.evaluation
    kept = spread(rows, ask.retention_rows)
    likelihoods: list[perplexity.Likelihood] = []
    said: list[dict[str, Any]] = []
    for row in kept:
        # One row at a time, so that a number can be told to its row. The list is empty where the
        # answer has no room in the context.
        for one in perplexity.measure(engine, [(row.text, row.final)]):
            likelihoods.append(one)
            said.append(
                {
                    "kind": "likelihood",
                    "id": row.id,
                    "group": row.group,
                    "nats": round(one.nats, 6),
                    "tokens": one.tokens,
                }
            )
    asked = spread(kept, ask.generate_rows)
    pairs = [(row.text, row.final) for row in asked]
    plain = perplexity.answers(engine, pairs)
    # The text itself is not written: it is no answer that a user would get.
    for row, answer in zip(asked, plain, strict=True):
        said.append(
            {
                "kind": "plain",
                "id": row.id,
                "group": row.group,
                "chrf": round(answer.chrf, 4),
            }
        )
    section = perplexity.summarise(
        likelihoods,
        draws=ask.bootstrap,
        seed=setup.seed,
    )
    section["plain"] = perplexity.summarise_answers(
        plain,
        draws=ask.bootstrap,
        seed=setup.seed,
    )
    return _Measured(section, said)


def _long(engine: Engine, asked: Sequence[_Asked], setup: Setup) -> dict[str, Any]:
    """Generate `long_tokens` tokens for each, and say whether the texts loop."""
    limit = setup.evaluation.long_tokens
    # Past the model's own end: a loop shows only in a text that is long enough.
    endless = {token for token in range(engine.n_vocab) if engine.is_eog(token)}
    checks: list[answers.Stability] = []
    for one in asked:
        prompt = one.prompt
        made = engine.generate(
            prompt.ids,
            max_tokens=limit,
            stop=set(),
            forbid=endless,
            cuts=prompt.cuts,
        )
        text = engine.detokenize(made).decode("utf-8", "replace")
        checks.append(answers.check(text, made, limit=limit))
    return answers.summarise_loops(checks)
