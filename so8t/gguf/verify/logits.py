"""Logits of a file against Hugging Face, or against the F16 file, on the project's conversations.

A probe is a rendered prompt with its answer. Logits are compared at the end of the prompt (where
verdicts are read) and at positions spread over the whole text. The logits of a model go to a
temporary file, so that only one model is in memory at a time.

Shapes: a *table* of logits is float32 [positions of all probes, vocabulary].
"""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from so8t.chat import prompt_of
from so8t.errors import DataError
from so8t.gguf.convert.keys import AUTHORITY_IDS, VERDICT_IDS
from so8t.gguf_file import read_keys
from so8t.llama import Engine
from so8t.params.results import Scoring
from so8t.rows import read_rows

MAX_POSITIONS = 64  # compared positions per probe
ALLOW = 0  # the first of the verdict ids
Floats = NDArray[np.float32]
Facts = dict[str, Any]  # numbers for the metrics file, as JSON
Ids = dict[str, list[int]]  # `verdict`: three token ids, `authority`: two; or empty lists
Doubles = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Probe:
    """One conversation that is compared.

    Attributes:
        ids: its tokens.
        prompt_end: index of the prompt's last token, where verdicts are read.
        positions: indices at which logits are compared, ascending; `prompt_end` is one of them.
    """

    ids: list[int]
    prompt_end: int
    positions: list[int]


class _Position(NamedTuple):
    """One row of a table: logits [vocabulary] after token `position` of a probe."""

    probe: Probe
    position: int
    logits: Doubles


def read_probes(path: Path, texts: Path, *, system: str, count: int, n_ctx: int) -> list[Probe]:
    """The first `count` conversations of a prepared JSONL, rendered with the file's own template.

    Args:
        path: the GGUF file, for its template and its tokens.
        texts: the conversations.
        system: the system prompt.
        count: how many.
        n_ctx: longest conversation, in tokens; longer ones are passed over.

    Raises:
        DataError: no row fits.
    """
    keys = read_keys(path)
    template = str(keys["tokenizer.chat_template"])
    bos = _token_text(keys, "tokenizer.ggml.bos_token_id")
    eos = _token_text(keys, "tokenizer.ggml.eos_token_id")
    probes: list[Probe] = []
    # Only the vocabulary is loaded, which is all that tokenising needs.
    with Engine(path, n_ctx=256, threads=1, vocab_only=True) as engine:
        for row in read_rows(texts):
            prompt = prompt_of(template, system, row.text, bos=bos, eos=eos)
            whole = prompt + row.response
            probe = _probe(engine.tokenize(prompt), engine.tokenize(whole), n_ctx)
            if probe is not None:
                probes.append(probe)
            if len(probes) == count:
                break
    if not probes:
        raise DataError(
            "no row is short enough to probe the model with",
            where=str(texts),
            fix="raise scoring.n_ctx, or look at the file",
        )
    return probes


def _token_text(keys: dict[str, object], key: str) -> str:
    """Text of the token whose id the key gives; empty where the file has no such key."""
    if key not in keys:
        return ""
    tokens = cast("list[str]", keys["tokenizer.ggml.tokens"])
    return str(tokens[cast("int", keys[key])])


def _probe(prompt: list[int], whole: list[int], n_ctx: int) -> Probe | None:
    """A probe, or None for a conversation that is too long or empty."""
    # The last token of the prompt may merge with the first of the answer: compare what is shared.
    shared = 0
    for left, right in zip(prompt, whole, strict=False):
        if left != right:
            break
        shared += 1
    if shared < 1 or len(whole) > n_ctx:
        return None
    prompt_end = shared - 1
    count = min(MAX_POSITIONS, len(whole))
    # Evenly spread, the first and the last token among them.
    spread = np.linspace(0, len(whole) - 1, count)
    positions = set(spread.round().astype(int).tolist())
    positions.add(prompt_end)
    return Probe(whole, prompt_end, sorted(positions))


@contextmanager
def stored(
    probes: list[Probe], n_vocab: int, rows_of: Callable[[Probe], Floats]
) -> Iterator[Floats]:
    """Evaluate all probes with `rows_of` and yield the table, from a temporary file.

    Args:
        probes: what is evaluated.
        n_vocab: columns of the table.
        rows_of: logits of one probe, [len(probe.positions), n_vocab].
    """
    # Known beforehand, so that rows need not be collected and stacked.
    total = sum(len(probe.positions) for probe in probes)
    # On the disk: a vocabulary of 200,000 makes 50 MB of logits per probe.
    with tempfile.NamedTemporaryFile(prefix="so8t-logits-", suffix=".f32") as file:
        table = np.memmap(file.name, dtype=np.float32, mode="w+", shape=(total, n_vocab))
        start = 0
        for probe in probes:
            end = start + len(probe.positions)
            table[start:end] = rows_of(probe)
            start = end
        yield table


@contextmanager
def engine_table(path: Path, probes: list[Probe], scoring: Scoring) -> Iterator[Floats]:
    """The table of a GGUF file; the model is out of memory when it is yielded.

    Args:
        path: the file.
        probes: what is evaluated.
        scoring: settings of the engine.
    """
    # A cache of keys and values in F16 would add an error of its own to every comparison.
    with (
        Engine(path, n_ctx=scoring.n_ctx, threads=scoring.threads, kv="f32") as engine,
        stored(probes, engine.n_vocab, engine_rows(engine)) as table,
    ):
        engine.close()
        yield table


def engine_rows(engine: Engine) -> Callable[[Probe], Floats]:
    """Logits of a GGUF at a probe's positions, evaluated with nothing kept from other probes."""
    return lambda probe: engine.logits(probe.ids, positions="all")[probe.positions]


def hf_rows(directory: Path, threads: int) -> Callable[[Probe], Floats]:
    """Logits of the Hugging Face model in float32 on the CPU.

    Args:
        directory: the model.
        threads: of the CPU.

    Returns:
        A function from a probe to its logits, [len(probe.positions), vocabulary].
    """
    import torch
    from transformers import AutoModelForCausalLM

    # Other numbers of threads add in other orders, and the last digits would differ.
    torch.set_num_threads(threads)
    model: Any = AutoModelForCausalLM.from_pretrained(
        directory,
        dtype=torch.float32,
        # The plain formula; fused kernels add in another order.
        attn_implementation="eager",
        local_files_only=True,
        trust_remote_code=False,
    )
    model.eval()

    def rows(probe: Probe) -> Floats:
        with torch.no_grad():
            logits = model(torch.tensor([probe.ids]), use_cache=False).logits[0, probe.positions]
        return np.asarray(logits.float().numpy())

    return rows


def compare(probes: list[Probe], reference: Floats, found: Floats, ids: Ids) -> Facts:
    """Agreement of two tables over all positions, and of the verdicts at the prompts' ends.

    Args:
        probes: what the tables hold.
        reference: the table of the original model.
        found: the table of the model that is looked at.
        ids: of the tokens whose logits are verdicts and authorities.
    """
    facts = _agreement(reference, found)
    if ids["verdict"]:
        facts |= _verdict_agreement(probes, reference, found, ids["verdict"])
    return facts | {"prompts": len(probes), "positions": len(reference)}


def _agreement(reference: Floats, found: Floats) -> Facts:
    """Agreement over all positions: largest difference, NMSE, top-1, KL divergence in nats.

    Row by row and in float64: a table may be larger than the memory, and float32 sums would drift.
    """
    largest = 0.0
    error = 0.0
    power = 0.0
    kl_sum = 0.0
    kl_max = 0.0
    same = 0
    for row, other in zip(reference, found, strict=True):
        x = row.astype(np.float64)
        y = other.astype(np.float64)
        difference = y - x
        largest = max(largest, float(np.abs(difference).max()))
        # A constant added to all logits changes no probability: it is no part of the power.
        centred = x - x.mean()
        error += float(difference @ difference)
        power += float(centred @ centred)
        same += int(x.argmax() == y.argmax())
        log_p = _log_softmax(x)
        log_q = _log_softmax(y)
        kl = float((np.exp(log_p) * (log_p - log_q)).sum())
        kl_sum += kl
        kl_max = max(kl_max, kl)
    count = max(1, len(reference))
    return {
        "max_abs_error": largest,
        "nmse": error / power if power else 0.0,
        "top1": same / count,
        "kl_mean": kl_sum / count,
        "kl_max": kl_max,
    }


def _verdict_agreement(
    probes: list[Probe], reference: Floats, found: Floats, verdict_ids: list[int]
) -> Facts:
    """How far verdict probabilities move, and how many verdicts change."""
    ends = []
    start = 0
    for probe in probes:
        ends.append(start + probe.positions.index(probe.prompt_end))
        start += len(probe.positions)
    # Of the three verdicts only: this is what a decision is made from.
    first = _verdict_probabilities(reference, ends, verdict_ids)
    second = _verdict_probabilities(found, ends, verdict_ids)
    first_verdicts = first.argmax(axis=1)
    second_verdicts = second.argmax(axis=1)
    flips_to_allow = (first_verdicts != ALLOW) & (second_verdicts == ALLOW)
    return {
        "verdict_probability_max_error": float(np.abs(first - second).max()),
        "verdict_flips": int((first_verdicts != second_verdicts).sum()),
        "verdict_flips_to_allow": int(flips_to_allow.sum()),
    }


def _verdict_probabilities(table: Floats, ends: list[int], verdict_ids: list[int]) -> Doubles:
    """Probabilities of the verdicts among themselves, [probes, 3]."""
    # Only these rows and columns are read from the disk.
    logits = np.asarray(table[ends][:, verdict_ids], dtype=np.float64)
    return _softmax(logits)


def _answer_positions(probes: list[Probe], table: Floats) -> Iterator[_Position]:
    """The table's rows at which a token of the answer comes next."""
    start = 0
    for probe in probes:
        for offset, position in enumerate(probe.positions):
            if position >= probe.prompt_end:
                logits = table[start + offset].astype(np.float64)
                yield _Position(probe, position, logits)
        start += len(probe.positions)


def reserved_mass(probes: list[Probe], table: Floats, ids: list[int]) -> Facts:
    """Sampling probability of the reserved tokens where the answer is written.

    Those tokens carry verdicts and are no text.

    Args:
        probes: what the table holds.
        table: logits.
        ids: the reserved tokens.

    Returns:
        `mean` and `max` of the probability, and in `greedy` how often greedy decoding would write
        one, over `positions`.
    """
    masses = []
    greedy = 0
    for _, _, logits in _answer_positions(probes, table):
        probabilities = np.exp(_log_softmax(logits)[ids])
        masses.append(float(probabilities.sum()))
        if int(logits.argmax()) in ids:
            greedy += 1
    return {
        "mean": float(np.mean(masses)),
        "max": float(np.max(masses)),
        "greedy": greedy,
        "positions": len(masses),
    }


def perplexity(probes: list[Probe], table: Floats) -> float:
    """Perplexity of the answers: exp of the mean negative log-likelihood of the next token.

    Args:
        probes: what the table holds.
        table: logits.

    Returns:
        The perplexity over the compared positions; NaN where no answer has one.
    """
    losses = []
    for probe, position, logits in _answer_positions(probes, table):
        # Nothing follows the last token.
        if position < len(probe.ids) - 1:
            following = probe.ids[position + 1]
            losses.append(-float(_log_softmax(logits)[following]))
    if not losses:
        return float("nan")
    return float(np.exp(np.mean(losses)))


def readout_ids(path: Path) -> Ids:
    """The file's verdict and authority token ids; empty lists when it has none."""
    keys = read_keys(path)
    return {
        "verdict": _ids(keys.get(VERDICT_IDS)),
        "authority": _ids(keys.get(AUTHORITY_IDS)),
    }


def _ids(value: object) -> list[int]:
    """The value of a key of token ids; empty where the file has no such key."""
    return list(cast("list[int]", value or []))


def _log_softmax(row: Doubles) -> Doubles:
    """Log-probabilities of one row of logits."""
    # The largest is taken off first, so that no exponential overflows.
    shifted = row - row.max()
    return np.asarray(shifted - np.log(np.exp(shifted).sum()))


def _softmax(rows: Doubles) -> Doubles:
    """Probabilities of every row of logits."""
    shifted = np.exp(rows - rows.max(axis=1, keepdims=True))
    return np.asarray(shifted / shifted.sum(axis=1, keepdims=True))
