"""`so8t plan`: what each stage will need on this machine, and what is missing.

Times come from a matrix product that is timed here and from operation counts: about 6 N per trained
token and 2 N per read token for a model of N parameters (Kaplan et al. 2020, arXiv 2001.08361).
They are right to a factor of two, which is enough for a plan.

Not covered: the time to fetch or install anything.
"""

import json
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

# Japanese text, tokenizers of 2k to 32k pieces.
CHARACTERS_PER_TOKEN = 1.6
# Tokens of a conversation beside the row's own text.
TEMPLATE_TOKENS = 25
# Operations per parameter and token, with and without a backward pass.
TRAINED = 6.4
READ = 2.0
# Share of the measured matrix rate that whole models reach.
EFFICIENCY = 0.5
# CPU seconds per 1e9 parameters, measured on Q4_K_M.
QUANTISE_S_PER_GP = 46.0
# Bits per weight of each file type.
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
# Seconds per stage for imports and DVC.
OVERHEAD_S = 4.0
# Side of the square matrices that are multiplied to time this machine.
SIDE = 768
# Models A and B go through most stages.
MODELS = 2
SYNTHETIC = "data/raw/synthetic.jsonl"


@dataclass(frozen=True, slots=True)
class Need:
    """One stage's needs: seconds, bytes of memory and of disk."""

    stage: str
    seconds: float
    memory: float
    disk: float


@dataclass(frozen=True, slots=True)
class Facts:
    """What the plan is computed from.

    Attributes:
        parameters: numbers in the base model.
        rows: rows of each split.
        tokens_per_row: mean length of a conversation.
        rate: float32 operations per second of this machine.
        files: GGUF files that are scored, of both models.
        training: bytes that training holds.
    """

    parameters: float
    rows: dict[str, int]
    tokens_per_row: float
    rate: float
    files: int
    training: float

    @property
    def speed(self) -> float:
        """Operations per second that a whole model reaches."""
        return self.rate * EFFICIENCY


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows of each split, mean characters of a row, and sentences about what the data lack."""

    counts: dict[str, int]
    characters: float
    missing: list[str]


def matrix_rate() -> float:
    """Floating point operations per second of a float32 matrix product on this machine."""
    a = np.ones((SIDE, SIDE), dtype=np.float32)
    best = float("inf")
    # The best of several tries, because other processes may be busy.
    for _ in range(20):
        began = time.perf_counter()
        a @ a
        best = min(best, time.perf_counter() - began)
    return 2.0 * SIDE**3 / best


def config_of(params: Params) -> dict[str, Any]:
    """The base model's config.json, or what it will say of a model that is trained from nothing.

    Raises:
        ArtifactError: the local model has no readable config.
    """
    scratch = params.active.scratch
    if scratch is None:
        path = Path(params.active.base.path or "") / "config.json"
        fix = "set profiles.<profile>.base.path to a local Hugging Face directory"
        return dict(read_json(path, fix=fix))
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
    """What the plan is computed from, this machine's speed included.

    Args:
        params: of the active profile.
        rows: rows of each split.
        characters: mean characters of a row.
    """
    # Here and not above: it imports torch, and the command's help must be quick.
    from so8t.training import memory

    config = config_of(params)
    shape = memory.Shape.of(config, 0)
    return Facts(
        parameters=float(shape.linear_numbers + shape.embedding_numbers),
        rows=rows,
        tokens_per_row=characters / CHARACTERS_PER_TOKEN + TEMPLATE_TOKENS,
        rate=matrix_rate(),
        files=MODELS * len(params.scoring.types),
        training=memory.estimate(config, params.active.train).total,
    )


def needs(params: Params, facts: Facts) -> Iterator[Need]:
    """Every stage of the graph, in order."""
    rows = sum(facts.rows.values())
    yield Need("synthesize, prepare", OVERHEAD_S * 2 + rows / 500, 5e8, 3e3 * rows)
    yield _base(params, facts)
    yield _train(params, facts)
    yield _bake(params, facts)
    yield from _files(params, facts)
    yield from _results(params, facts)


def _base(params: Params, facts: Facts) -> Need:
    n = facts.parameters
    scratch = params.active.scratch
    if scratch is None:
        # Two bytes a weight are digested at about 500 MB a second; only a description is written.
        return Need("base", OVERHEAD_S + 2 * n / 5e8, 3e8, 2e7)
    # Five short tasks a row, together about two and a half times as long as the row.
    tokens = scratch.epochs * facts.rows["train"] * facts.tokens_per_row * 2.5
    seconds = tokens * TRAINED * n / facts.speed
    return Need("base", OVERHEAD_S + seconds, 16 * n + 1e9, 4 * n)


def _train(params: Params, facts: Facts) -> Need:
    n = facts.parameters
    tokens = params.active.train.epochs * facts.rows["train"] * facts.tokens_per_row
    seconds = tokens * TRAINED * n / facts.speed
    return Need("train", OVERHEAD_S + seconds, facts.training, 0.05 * n)


def _bake(params: Params, facts: Facts) -> Need:
    n = facts.parameters
    # The proof that baked and trained logits are equal reads 64 texts with three variants.
    seconds = 64 * facts.tokens_per_row * READ * 3 * n / facts.speed
    # The demo's base is float32, a real one 16-bit.
    disk = 4 * n if params.active.scratch else 2 * n
    return Need("bake", OVERHEAD_S + seconds, 2 * n + 1e9, disk)


def _files(params: Params, facts: Facts) -> Iterator[Need]:
    """The stages that make GGUF files and prove them."""
    n = facts.parameters
    # Two models of two bytes a weight, written at about 150 MB a second.
    yield Need("convert", OVERHEAD_S * 2 + 2 * 2 * n / 1.5e8, 3e8, 2 * 2 * n)

    tokens = 0.0
    memory = 2e8
    if params.quant.imatrix:
        tokens = params.quant.imatrix_rows * facts.tokens_per_row
        memory = 4 * n + 1e9
    seconds = 2 * (OVERHEAD_S / 2 + tokens * READ * n / facts.speed)
    yield Need("imatrix", seconds, memory, 1e8)

    types = params.quant.types
    one = OVERHEAD_S / 4 + QUANTISE_S_PER_GP * n / 1e9 / params.scoring.threads
    bytes_per_weight = sum(BITS[kind] / 8 for kind in types)
    yield Need("quantize", 2 * len(types) * one, 5e8, 2 * bytes_per_weight * n)

    # Each prompt is read by the file's engine and by its reference.
    reading = params.verify.prompts * facts.tokens_per_row * READ * 2 * n / facts.speed
    yield Need("verify", facts.files * (OVERHEAD_S + reading), 4 * n + 1e9, 0)


def _results(params: Params, facts: Facts) -> Iterator[Need]:
    """The stages that measure the files, and what is written of them."""
    n = facts.parameters
    scored = 0
    for split, count in facts.rows.items():
        if split != "train":
            scored += count
    # Prompts begin alike, and what they share is read once; the labels add a dozen tokens.
    tail = facts.tokens_per_row * 0.4
    reading = scored * (tail + 12) * READ * n / facts.speed
    seconds = facts.files * (OVERHEAD_S / 2 + reading)
    yield Need("score", seconds, 2 * n + 5e8, 400 * scored * facts.files)

    yield Need("calibrate, evaluate, compare", OVERHEAD_S * (2 * facts.files + 1), 5e8, 1e6)

    wanted = params.evaluation
    made = wanted.generate_rows * wanted.generate_tokens + wanted.long_rows * wanted.long_tokens
    seconds = facts.files * OVERHEAD_S + 4 * made * READ * n / facts.speed
    yield Need("serve", seconds, 2 * n + 5e8, 1e6)

    yield Need("release, report", OVERHEAD_S * 3, 5e8, BITS[params.release.type] / 8 * n)


def rows_of(params: Params) -> Rows:
    """Count the rows that `prepare` will make; the sources are read, nothing is written."""
    from so8t.data.prepare import prepare
    from so8t.data.summary import certifiable, metrics_of

    if _is_synthetic_still_missing(params):
        counts = {}
        for split, share in params.data.split.model_dump().items():
            counts[split] = round(share * params.synthesize.rows)
        return Rows(counts, characters=200.0, missing=[])
    found = prepare(params.data, params.seed, None, Progress("plan"))
    counts = {}
    for split, count in metrics_of(found)["rows"].items():
        if split != "total":
            counts[split] = count
    characters = 0
    for length, count in (found.lengths["text"] + found.lengths["response"]).items():
        characters += length * count
    missing = []
    certificate = certifiable(found, params.calibration)
    if not certificate["can_certify"]:
        missing.append(
            f"the calibration split cannot certify {params.calibration.alpha:.0%}: "
            f"each domain needs {certificate['needed_unsafe_groups']} independent unsafe groups, "
            f"missing {certificate['missing']}; the card will close the ALLOW gate"
        )
    return Rows(counts, characters / max(1, sum(found.kept.values())), missing)


def _is_synthetic_still_missing(params: Params) -> bool:
    """Whether the `synthesize` stage must first make a source."""
    named = any(source.path == SYNTHETIC for source in params.data.sources)
    return named and not Path(SYNTHETIC).exists()


def missing_things(params: Params, disk: float) -> list[str]:
    """What would stop the run: no base model, or too little room for `disk` bytes and a tenth."""
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

    config = config_of(params)
    settings = params.active.train
    gib = memory.estimate(config, settings).gib
    needed = f"training needs about {gib:.1f} GiB of graphics memory"
    if not torch.cuda.is_available():
        return f"no CUDA device: training runs on the CPU ({needed})"
    name = torch.cuda.get_device_name(0)
    total = torch.cuda.get_device_properties(0).total_memory
    wanted = memory.overrides(config, settings, float(total))
    advice = ""
    if wanted is None:
        advice = "; it does not fit"
    elif wanted:
        advice = f"; it fits with {' '.join(wanted)}"
    return f"{name}, {total / memory.GIB:.1f} GiB; {needed}{advice}"


def whole_plan(params: Params) -> dict[str, Any]:
    """The whole plan as JSON."""
    rows = rows_of(params)
    facts = facts_of(params, rows.counts, rows.characters)
    table = list(needs(params, facts))
    disk = sum(need.disk for need in table)
    stages = []
    for need in table:
        stages.append(
            {
                "stage": need.stage,
                "seconds": need.seconds,
                "memory": need.memory,
                "disk": need.disk,
            }
        )
    return {
        "profile": params.profile,
        "parameters": facts.parameters,
        "rows": rows.counts,
        "missing": rows.missing + missing_things(params, disk),
        "graphics": graphics_note(params),
        "seconds": sum(need.seconds for need in table),
        "disk": disk,
        "stages": stages,
    }


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def plan(as_json: bool) -> None:
    """What each stage will need on this machine (time, memory, disk), and what is missing."""
    params = params_module.load()
    # Without a base model nothing can be counted. Its disk is not known yet: 0 always fits.
    problems = missing_things(params, 0.0)
    if problems:
        raise So8tError(
            "; ".join(problems), where="params.yaml", fix="edit that line, then `so8t plan` again"
        )
    result = whole_plan(params)
    if as_json:
        click.echo(json.dumps(result, ensure_ascii=False, indent=1))
        return
    millions = result["parameters"] / 1e6
    click.echo(f"profile {result['profile']}: {millions:,.1f} M parameters; rows {result['rows']}")
    click.echo(result["graphics"])
    click.echo(f"{'stage':<22}{'time':>10}{'memory':>12}{'disk':>12}")
    for need in result["stages"]:
        memory = f"{need['memory'] / 1e9:>9.1f} GB"
        click.echo(_line(need["stage"], need["seconds"], memory, need["disk"]))
    click.echo(_line("all", result["seconds"], f"{'':>12}", result["disk"]))
    for line in result["missing"]:
        click.echo(f"missing: {line}")


def _line(stage: str, seconds: float, memory: str, disk: float) -> str:
    return f"{stage:<22}{_time(seconds):>10}{memory}{disk / 1e9:>9.2f} GB"


def _time(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
