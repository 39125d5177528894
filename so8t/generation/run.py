"""Everything that needs the model to run: one GGUF, opened once, measured as it is served.

Covered: which rows are asked and the order of measurements. Not covered: how a prompt is made (scoring; the stage
brings it), verdict metrics (they read score files: `verdicts`), decisions (calibration).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, Self, TypeVar

from so8t.chat import ALLOW_PREFIX, CUE
from so8t.files import read_jsonl
from so8t.generated import Served
from so8t.generation import answers, perplexity, speed
from so8t.llama import Engine
from so8t.params import Evaluation, Params
from so8t.progress import Progress
from so8t.verdict import Verdict

Item = TypeVar("Item")
DECODE_TOKENS = 24  # per timed prompt


class Prompt(Protocol):
    """Token ids of a prompt and where its pieces end (so8t.llama)."""

    @property
    def ids(self) -> list[int]: ...  # noqa: D102
    @property
    def cuts(self) -> tuple[int, ...]: ...  # noqa: D102


class Prompter(Protocol):
    """Makes prompts exactly as the file was scored with; the stage brings it."""

    def prompt(self, text: str) -> Any:
        """The prompt of a user's text."""

    def after(self, prompt: Any, text: str) -> Any:
        """The prompt with the beginning of the assistant's turn."""


@dataclass(frozen=True, slots=True)
class Setup:
    """How the file is opened and what it is asked."""

    evaluation: Evaluation
    system: str
    reserved: tuple[str, ...]  # role tokens that must never be emitted
    threads: int
    n_ctx: int
    seed: int


@dataclass(frozen=True, slots=True)
class Row:
    """What one prepared row gives: the request and its reference answer."""

    text: str
    final: str
    verdict: str | None
    id: str = ""
    group: str = ""


@dataclass(frozen=True, slots=True)
class Rows:
    """What is asked: true ALLOW rows of a test split, and rows of `valid` for retention."""

    allowed: list[Row]
    valid: list[Row]

    @classmethod
    def read(cls, test: Path, valid: Path) -> Self:
        """From two prepared splits."""
        return cls(
            [row for row in read_rows(test) if row.verdict == Verdict.ALLOW], read_rows(valid)
        )


def setup_of(params: Params) -> Setup:
    """How these parameters run a file."""
    tokens = params.active.base.tokens.model_dump().values()
    return Setup(
        params.evaluation,
        params.data.system,
        tuple(tokens),
        params.scoring.threads,
        params.scoring.n_ctx,
        params.seed,
    )


def read_rows(path: Path) -> list[Row]:
    """Rows of a prepared split, in file order; rows without an answer are left out."""
    rows = (row for _, row in read_jsonl(path))
    whole = (row for row in rows if row.get("text") and row.get("final"))
    return [
        Row(
            str(row["text"]),
            str(row["final"]),
            row.get("verdict"),
            str(row.get("id", "")),
            str(row.get("group", "")),
        )
        for row in whole
    ]


def spread(items: Sequence[Item], count: int) -> list[Item]:
    """`count` items at equal distances, so that every part of a file is asked; all when there are fewer."""
    if count >= len(items):
        return list(items)
    return [items[i * len(items) // count] for i in range(count)]


def _answers(
    engine: Engine, prompts: Sequence[tuple[Prompt, Row]], setup: Setup, progress: Progress
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    ask = setup.evaluation
    made = [
        answers.answer(
            engine, prompt.ids, prompt.cuts, reference=row.final, max_tokens=ask.generate_tokens
        )
        for prompt, row in progress.bar(prompts, total=len(prompts), what="answers", unit="answer")
    ]
    reserved = {engine.token_id(text) for text in setup.reserved}
    said = [
        {
            "kind": "served",
            "id": row.id,
            "group": row.group,
            "text": row.text,
            "final": answer.final,
        }
        for (_, row), answer in zip(prompts, made, strict=True)
    ]
    return answers.summarise(
        made, reserved=reserved, max_tokens=ask.generate_tokens, seed=setup.seed
    ), said


def _retention(
    engine: Engine, rows: Sequence[Row], setup: Setup
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Perplexity of `retention_rows` rows, plain answers to `generate_rows` of them."""
    ask, seed = setup.evaluation, setup.seed
    kept = spread(rows, ask.retention_rows)
    likely = [perplexity.measure(engine, [(row.text, row.final)]) for row in kept]
    asked = spread(kept, ask.generate_rows)
    plain = perplexity.answers(engine, [(row.text, row.final) for row in asked])
    section = perplexity.summarise(
        [one for found in likely for one in found], draws=ask.bootstrap, seed=seed
    )
    said = [
        {
            "kind": "likelihood",
            "id": row.id,
            "group": row.group,
            "nats": round(one.nats, 6),
            "tokens": one.tokens,
        }
        for row, found in zip(kept, likely, strict=True)
        for one in found
    ]
    said += [
        {"kind": "plain", "id": row.id, "group": row.group, "chrf": round(one.chrf, 4)}
        for row, one in zip(asked, plain, strict=True)
    ]
    return {
        **section,
        "plain": perplexity.summarise_answers(plain, draws=ask.bootstrap, seed=seed),
    }, said


def _long(engine: Engine, prompts: Sequence[tuple[Prompt, Row]], setup: Setup) -> dict[str, Any]:
    """Generate past the model's own end, so that every text has `long_tokens` tokens, and look for loops."""
    limit = setup.evaluation.long_tokens
    endless = {token for token in range(engine.n_vocab) if engine.is_eog(token)}
    checks = []
    for prompt, _ in prompts:
        made = engine.generate(
            prompt.ids, max_tokens=limit, stop=set(), forbid=endless, cuts=prompt.cuts
        )
        checks.append(
            answers.check(engine.detokenize(made).decode("utf-8", "replace"), made, limit=limit)
        )
    return answers.summarise_loops(checks)


def _cues(prompter: Prompter, prompt: Prompt) -> list[speed.Piece]:
    """The turn begun with each label, as the cue readout feeds it."""
    fed = prompter.after(prompt, CUE)
    return [
        (whole.ids, whole.cuts, len(fed.ids))
        for whole in (prompter.after(fed, f"{verdict}\n") for verdict in Verdict)
    ]


def measure(
    path: Path,
    make_prompter: Callable[[Engine, str], Prompter],
    *,
    rows: Rows,
    setup: Setup,
    progress: Progress,
) -> Served:
    """Run the file: answers, long texts, speed, retention.

    Args:
        path: the GGUF file.
        make_prompter: from the engine and the system prompt; the one that the scores were made with.
        rows: what is asked.
        setup: parameters.
        progress: where bars go.
    """
    ask = setup.evaluation
    with Engine(path, n_ctx=setup.n_ctx, threads=setup.threads) as engine:
        prompter = make_prompter(engine, setup.system)
        prompts = [prompter.prompt(row.text) for row in spread(rows.allowed, ask.speed_rows)]
        timings = speed.measure(
            engine,
            [(p.ids, p.cuts) for p in prompts],
            decode_tokens=DECODE_TOKENS,
            cues=[_cues(prompter, p) for p in prompts],
        )
        fed = [
            (prompter.after(prompter.prompt(row.text), ALLOW_PREFIX), row)
            for row in spread(rows.allowed, max(ask.generate_rows, ask.long_rows))
        ]
        prose, said = _answers(engine, spread(fed, ask.generate_rows), setup, progress)
        kept, plain = _retention(engine, rows.valid, setup)
        sections = {
            "generation": prose,
            "stability": _long(engine, spread(fed, ask.long_rows), setup),
            "retention": kept,
            "speed": speed.summarise(timings, threads=setup.threads),
        }
    return Served(sections, timings.verdict_s, said + plain)
