"""Logits of a file against Hugging Face, or against the F16 file, on the project's own conversations.

A probe is a rendered prompt with its answer; logits are compared at the end of the prompt (where verdicts are read)
and at positions spread over the whole text. Reference logits go to a temporary file, so that only one model is in
memory at a time.
"""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from so8t.chat import prompt_of
from so8t.errors import DataError
from so8t.files import read_jsonl
from so8t.gguf.convert.keys import AUTHORITY_IDS, VERDICT_IDS
from so8t.gguf_file import read_keys
from so8t.llama import Engine

MAX_POSITIONS = 64  # compared positions per probe
Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Probe:
    """Token ids, the index of the prompt's last token, and the positions that are compared (it is one of them)."""

    ids: list[int]
    prompt_end: int
    positions: list[int]


def read_probes(path: Path, texts: Path, *, system: str, count: int, n_ctx: int) -> list[Probe]:
    """The first `count` conversations of a prepared JSONL, rendered with the file's own template.

    Raises:
        DataError: no row fits.
    """
    keys = read_keys(path)
    template, tokens = str(keys["tokenizer.chat_template"]), keys["tokenizer.ggml.tokens"]
    bos, eos = (
        str(tokens[keys[key]]) if key in keys else ""
        for key in ("tokenizer.ggml.bos_token_id", "tokenizer.ggml.eos_token_id")  # type: ignore[index]
    )
    probes: list[Probe] = []
    with Engine(path, n_ctx=256, threads=1, vocab_only=True) as engine:
        for _, row in read_jsonl(texts):
            prompt = prompt_of(template, system, row["text"], bos=bos, eos=eos)
            probe = _probe(
                engine.tokenize(prompt), engine.tokenize(prompt + row["response"]), n_ctx
            )
            probes += [probe] if probe else []
            if len(probes) == count:
                break
    if not probes:
        raise DataError(
            "no row is short enough to probe the model with",
            where=str(texts),
            fix="raise scoring.n_ctx, or look at the file",
        )
    return probes


def _probe(prompt: list[int], whole: list[int], n_ctx: int) -> Probe | None:
    shared = next(
        (i for i, (a, b) in enumerate(zip(prompt, whole, strict=False)) if a != b),
        min(len(prompt), len(whole)),
    )
    if shared < 1 or len(whole) > n_ctx:
        return None
    spread = (
        np.linspace(0, len(whole) - 1, min(MAX_POSITIONS, len(whole))).round().astype(int).tolist()
    )
    return Probe(whole, shared - 1, sorted({*spread, shared - 1}))


@contextmanager
def stored(
    probes: list[Probe], n_vocab: int, rows_of: Callable[[Probe], Floats]
) -> Iterator[Floats]:
    """Evaluate all probes with `rows_of` ([len(positions), vocab] each) and yield them, stacked, from a temporary file."""
    total = sum(len(probe.positions) for probe in probes)
    with tempfile.NamedTemporaryFile(prefix="so8t-logits-", suffix=".f32") as file:
        table = np.memmap(file.name, dtype=np.float32, mode="w+", shape=(total, n_vocab))
        at = 0
        for probe in probes:
            table[at : at + len(probe.positions)] = rows_of(probe)
            at += len(probe.positions)
        yield table


def engine_rows(engine: Engine) -> Callable[[Probe], Floats]:
    """Logits of a GGUF at a probe's positions, evaluated with nothing kept from other probes."""
    return lambda probe: engine.logits(probe.ids, positions="all")[probe.positions]


def hf_rows(directory: Path, threads: int) -> Callable[[Probe], Floats]:
    """Logits of the Hugging Face model in float32 on the CPU."""
    import torch
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(threads)
    model: Any = AutoModelForCausalLM.from_pretrained(
        directory,
        dtype=torch.float32,
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


def compare(
    probes: list[Probe], reference: Floats, found: Floats, ids: dict[str, list[int]]
) -> dict[str, Any]:
    """Agreement of two logit tables over all positions, and of the verdicts at the prompts' ends.

    Args:
        ids: `verdict` (3 token ids) and `authority` (2), possibly empty.
    """
    facts = _agreement(reference, found)
    ends, at = [], 0
    for probe in probes:
        ends.append(at + probe.positions.index(probe.prompt_end))
        at += len(probe.positions)
    if ids["verdict"]:
        first, second = (
            _softmax(np.asarray(t[ends][:, ids["verdict"]], dtype=np.float64))
            for t in (reference, found)
        )
        facts |= {
            "verdict_probability_max_error": float(np.abs(first - second).max()),
            "verdict_flips": int((first.argmax(1) != second.argmax(1)).sum()),
            "verdict_flips_to_allow": int(((first.argmax(1) != 0) & (second.argmax(1) == 0)).sum()),
        }
    return facts | {"prompts": len(probes), "positions": len(reference)}


def _agreement(reference: Floats, found: Floats) -> dict[str, Any]:
    """Row by row, in float64: largest difference, NMSE, top-1 agreement, KL divergence in nats."""
    largest = error = power = kl_sum = kl_max = 0.0
    same = 0
    for row, other in zip(reference, found, strict=True):
        x, y = row.astype(np.float64), other.astype(np.float64)
        difference = y - x
        largest = max(largest, float(np.abs(difference).max()))
        centred = x - x.mean()
        error, power = error + float(difference @ difference), power + float(centred @ centred)
        same += int(x.argmax() == y.argmax())
        p, q = _log_softmax(x), _log_softmax(y)
        kl = float((np.exp(p) * (p - q)).sum())
        kl_sum, kl_max = kl_sum + kl, max(kl_max, kl)
    count = max(1, len(reference))
    return {
        "max_abs_error": largest,
        "nmse": error / power if power else 0.0,
        "top1": same / count,
        "kl_mean": kl_sum / count,
        "kl_max": kl_max,
    }


def reserved_mass(probes: list[Probe], table: Floats, ids: list[int]) -> dict[str, Any]:
    """Sampling probability of the reserved tokens where the answer is written, and how often greedy decoding picks one."""
    masses, greedy, at = [], 0, 0
    for probe in probes:
        for offset, position in enumerate(probe.positions):
            if position >= probe.prompt_end:
                row = table[at + offset].astype(np.float64)
                masses.append(float(np.exp(_log_softmax(row)[ids]).sum()))
                greedy += int(int(row.argmax()) in ids)
        at += len(probe.positions)
    return {
        "mean": float(np.mean(masses)),
        "max": float(np.max(masses)),
        "greedy": greedy,
        "positions": len(masses),
    }


def perplexity(probes: list[Probe], table: Floats) -> float:
    """exp of the mean negative log-likelihood of the next token over the answers' compared positions."""
    losses, at = [], 0
    for probe in probes:
        for offset, position in enumerate(probe.positions):
            if probe.prompt_end <= position < len(probe.ids) - 1:
                losses.append(
                    -float(
                        _log_softmax(table[at + offset].astype(np.float64))[probe.ids[position + 1]]
                    )
                )
        at += len(probe.positions)
    return float(np.exp(np.mean(losses))) if losses else float("nan")


def readout_ids(path: Path) -> dict[str, list[int]]:
    """The file's verdict and authority token ids; empty lists when it has none."""
    keys = read_keys(path)
    return {
        name: list(keys.get(key) or [])
        for name, key in (("verdict", VERDICT_IDS), ("authority", AUTHORITY_IDS))  # type: ignore[call-overload]
    }


def _log_softmax(row: NDArray[np.float64]) -> NDArray[np.float64]:
    shifted = row - row.max()
    return np.asarray(shifted - np.log(np.exp(shifted).sum()))


def _softmax(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    shifted = np.exp(rows - rows.max(axis=1, keepdims=True))
    return np.asarray(shifted / shifted.sum(axis=1, keepdims=True))
