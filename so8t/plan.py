"""`so8t plan`: what each stage will need on this machine, and what is missing, before anything slow.

Times come from a matrix product timed here and from operation counts (6 N per trained token, 2 N per read one), so they
are right to a factor of two, which is what a plan needs. Not covered: the time to fetch or install anything.
"""

import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np

from so8t import params as params_module
from so8t.errors import So8tError
from so8t.files import read_json
from so8t.params import Params
from so8t.progress import Progress

CHARACTERS_PER_TOKEN = 1.6  # Japanese text, tokenizers of 2k to 32k pieces
TRAINED, READ = 6.4, 2.0  # operations per parameter and token, with and without backward
EFFICIENCY = 0.5  # share of the measured matrix rate that whole models reach
QUANTISE_S_PER_GP = 46.0  # CPU seconds per 1e9 parameters, measured on Q4_K_M
BITS = {
    "F16": 16.0,
    "Q8_0": 8.5,
    "Q6_K": 6.6,
    "Q5_K_M": 5.7,
    "Q5_0": 5.5,
    "Q4_K_M": 4.9,
    "Q4_K_S": 4.6,
    "Q4_0": 4.5,
    "Q4_1": 5.0,
}
OVERHEAD_S = 4.0  # imports and DVC, per stage


@dataclass(frozen=True, slots=True)
class Need:
    """One stage's needs: seconds, bytes of memory and of disk."""

    stage: str
    seconds: float
    memory: float
    disk: float


@dataclass(frozen=True, slots=True)
class Facts:
    """What the plan is computed from."""

    parameters: float
    rows: dict[str, int]
    tokens_per_row: float
    rate: float
    files: int
    training: float


def matrix_rate() -> float:
    """Floating point operations per second of a float32 matrix product here: the best of several tries, others may be busy."""
    a = np.ones((768, 768), dtype=np.float32)
    best = float("inf")
    for _ in range(20):
        began = time.perf_counter()
        a @ a
        best = min(best, time.perf_counter() - began)
    return 2.0 * 768**3 / best


def config_of(params: Params) -> dict[str, Any]:
    """The base model's config.json, or what it will be (scratch).

    Raises:
        ArtifactError: the local model has no readable config.
    """
    scratch = params.active.scratch
    if scratch is None:
        return dict(
            read_json(
                Path(params.active.base.path or "") / "config.json",
                fix="set profiles.<profile>.base.path to a local Hugging Face directory",
            )
        )
    return {
        "hidden_size": scratch.hidden_size,
        "intermediate_size": scratch.intermediate_size,
        "num_hidden_layers": scratch.layers,
        "num_attention_heads": scratch.heads,
        "num_key_value_heads": scratch.kv_heads,
        "vocab_size": scratch.vocab_size,
        "tie_word_embeddings": False,
    }


def facts_of(params: Params, rows: dict[str, int], characters: float) -> Facts:
    """What the plan is computed from, this machine's speed included."""
    from so8t.training import memory  # it knows the rotations, and they torch

    config = config_of(params)
    shape = memory.Shape.of(config, 0)
    training = memory.estimate(config, params.active.train)["total"]
    return Facts(
        float(shape.linear_numbers + shape.embedding_numbers),
        rows,
        characters / CHARACTERS_PER_TOKEN + 25,
        matrix_rate(),
        2 * len(params.scoring.types),
        training,
    )


def needs(params: Params, facts: Facts) -> Iterator[Need]:
    """Every stage of the graph."""
    n, train = facts.parameters, params.active.train
    speed = facts.rate * EFFICIENCY
    scored = sum(count for split, count in facts.rows.items() if split != "train")
    yield Need(
        "synthesize, prepare",
        OVERHEAD_S * 2 + sum(facts.rows.values()) / 500,
        5e8,
        3e3 * sum(facts.rows.values()),
    )
    scratch = params.active.scratch
    if scratch is not None:
        tokens = (
            scratch.epochs * facts.rows["train"] * facts.tokens_per_row * 2.5
        )  # five short tasks a row
        yield Need("base", OVERHEAD_S + tokens * TRAINED * n / speed, 16 * n + 1e9, 4 * n)
    else:
        yield Need("base", OVERHEAD_S + 2 * n / 5e8, 3e8, 2e7)
    tokens = train.epochs * facts.rows["train"] * facts.tokens_per_row
    yield Need("train", OVERHEAD_S + tokens * TRAINED * n / speed, facts.training, 0.05 * n)
    yield Need(
        "bake",
        OVERHEAD_S + 64 * facts.tokens_per_row * READ * 3 * n / speed,
        2 * n + 1e9,
        4 * n if scratch else 2 * n,
    )
    yield Need("convert", OVERHEAD_S * 2 + 2 * 2 * n / 1.5e8, 3e8, 2 * 2 * n)
    tokens = params.quant.imatrix_rows * facts.tokens_per_row if params.quant.imatrix else 0.0
    yield Need(
        "imatrix",
        2 * (OVERHEAD_S / 2 + tokens * READ * n / speed),
        4 * n + 1e9 if tokens else 2e8,
        1e8,
    )
    quantised = sum(BITS[t] / 8 for t in params.quant.types)
    yield Need(
        "quantize",
        2
        * len(params.quant.types)
        * (OVERHEAD_S / 4 + QUANTISE_S_PER_GP * n / 1e9 / params.scoring.threads),
        5e8,
        2 * quantised * n,
    )
    yield Need(
        "verify",
        facts.files
        * (OVERHEAD_S + params.verify.prompts * facts.tokens_per_row * READ * 2 * n / speed),
        4 * n + 1e9,
        0,
    )
    tail = facts.tokens_per_row * 0.4
    yield Need(
        "score",
        facts.files * (OVERHEAD_S / 2 + scored * (tail + 12) * READ * n / speed),
        2 * n + 5e8,
        400 * scored * facts.files,
    )
    yield Need("calibrate, evaluate, compare", OVERHEAD_S * (2 * facts.files + 1), 5e8, 1e6)
    made = (
        params.evaluation.generate_rows * params.evaluation.generate_tokens
        + params.evaluation.long_rows * params.evaluation.long_tokens
    )
    yield Need("serve", facts.files * OVERHEAD_S + 4 * made * READ * n / speed, 2 * n + 5e8, 1e6)
    yield Need("release, report", OVERHEAD_S * 3, 5e8, BITS[params.release.type] / 8 * n)


def rows_of(params: Params) -> tuple[dict[str, int], float, list[str]]:
    """Rows of each split, mean characters per row, and what the data lack; sources are read, nothing is written."""
    from so8t.data.prepare import prepare
    from so8t.data.summary import certifiable, metrics_of

    generated = [
        s.path
        for s in params.data.sources
        if not Path(s.path).exists() and s.path == "data/raw/synthetic.jsonl"
    ]
    if generated:
        shares = params.data.split.model_dump()
        return (
            {name: round(share * params.synthesize.rows) for name, share in shares.items()},
            200.0,
            [],
        )
    counts = prepare(params.data, params.seed, None, Progress("plan"))
    metrics = metrics_of(counts)
    lengths = counts.lengths["text"] + counts.lengths["response"]
    kept = max(1, sum(counts.kept.values()))
    missing = []
    certificate = certifiable(counts, params.calibration)
    if not certificate["can_certify"]:
        missing.append(
            f"the calibration split cannot certify {params.calibration.alpha:.0%}: each domain needs "
            f"{certificate['needed_unsafe_groups']} independent unsafe groups, missing {certificate['missing']}; the card will close the ALLOW gate"
        )
    rows = {split: count for split, count in metrics["rows"].items() if split != "total"}
    return rows, sum(k * v for k, v in lengths.items()) / kept, missing


def missing_things(params: Params, disk: float) -> list[str]:
    """What would stop or spoil the run: a base model, a compiler of graphics, disk."""
    found = []
    base = params.active.base
    if base.kind == "local" and not (Path(base.path or "") / "config.json").is_file():
        found.append(
            f"base model not found at {base.path}: set profiles.{params.profile}.base.path"
        )
    free = shutil.disk_usage(Path.cwd()).free
    if free < disk * 1.1:
        found.append(f"{disk / 1e9:.1f} GB of disk are needed, {free / 1e9:.1f} GB are free here")
    return found


def graphics_note(params: Params) -> str:
    """Graphics memory that training needs, and the overrides that make it fit where it does not."""
    import torch

    from so8t.training import memory

    config, train = config_of(params), params.active.train
    needed = (
        f"training needs about {memory.estimate(config, train)['gib']:.1f} GiB of graphics memory"
    )
    if not torch.cuda.is_available():
        return f"no CUDA device: training runs on the CPU ({needed})"
    name, total = torch.cuda.get_device_name(0), torch.cuda.get_device_properties(0).total_memory
    wanted = memory.overrides(config, train, float(total))
    advice = (
        ""
        if wanted == []
        else "; it does not fit"
        if wanted is None
        else f"; it fits with {' '.join(wanted)}"
    )
    return f"{name}, {total / 2**30:.1f} GiB; {needed}{advice}"


def make(params: Params) -> dict[str, Any]:
    """The whole plan as data."""
    rows, characters, missing = rows_of(params)
    facts = facts_of(params, rows, characters)
    table = list(needs(params, facts))
    disk = sum(need.disk for need in table)
    return {
        "profile": params.profile,
        "parameters": facts.parameters,
        "rows": rows,
        "missing": missing + missing_things(params, disk),
        "graphics": graphics_note(params),
        "seconds": sum(need.seconds for need in table),
        "disk": disk,
        "stages": [
            {"stage": need.stage, "seconds": need.seconds, "memory": need.memory, "disk": need.disk}
            for need in table
        ],
    }


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def plan(as_json: bool) -> None:
    """What each stage will need on this machine (time, memory, disk), and what is missing."""
    params = params_module.load()
    problems = missing_things(params, 0.0)
    if problems:
        raise So8tError(
            "; ".join(problems), where="params.yaml", fix="edit that line, then `so8t plan` again"
        )
    result = make(params)
    if as_json:
        import json

        click.echo(json.dumps(result, ensure_ascii=False, indent=1))
        return
    click.echo(
        f"profile {result['profile']}: {result['parameters'] / 1e6:,.1f} M parameters; rows {result['rows']}\n{result['graphics']}"
    )
    click.echo(f"{'stage':<22}{'time':>10}{'memory':>12}{'disk':>12}")
    for need in result["stages"]:
        click.echo(
            f"{need['stage']:<22}{_time(need['seconds']):>10}{need['memory'] / 1e9:>9.1f} GB{need['disk'] / 1e9:>9.2f} GB"
        )
    click.echo(f"{'all':<22}{_time(result['seconds']):>10}{'':>12}{result['disk'] / 1e9:>9.2f} GB")
    for line in result["missing"]:
        click.echo(f"missing: {line}")


def _time(seconds: float) -> str:
    return (
        f"{seconds:.0f} s"
        if seconds < 120
        else f"{seconds / 60:.0f} min"
        if seconds < 7200
        else f"{seconds / 3600:.1f} h"
    )
