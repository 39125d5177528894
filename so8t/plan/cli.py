"""`so8t plan`: what each stage will need on this machine, and what is missing.

Everything is counted from the parameters, the sources and the base model's config; nothing slow is
started and nothing is written.
"""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from so8t import params as params_module
from so8t.errors import So8tError
from so8t.model_check import check_base
from so8t.model_folder import read_object
from so8t.params import Params
from so8t.plan.costs import MODELS, Facts, matrix_rate, needs
from so8t.progress import Progress

# Japanese text, tokenizers of 2k to 32k pieces.
CHARACTERS_PER_TOKEN = 1.6
# Tokens of a conversation beside the row's own text.
TEMPLATE_TOKENS = 25
# Where the `synthesize` stage writes.
SYNTHETIC = "data/raw/synthetic.jsonl"


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows of each split, mean characters of a row, and sentences about the data.

    `missing` says what they lack, `warnings` what is left out of them.
    """

    counts: dict[str, int]
    characters: float
    missing: list[str]
    warnings: list[str]


def config_of(params: Params) -> dict[str, Any]:
    """The base model's config.json, or what it will say of a model that is trained from nothing.

    Raises:
        ArtifactError: the local model has no readable config.
    """
    scratch = params.active.scratch
    if scratch is None:
        return read_object(Path(params.active.base.path or ""))
    return {
        "hidden_size": scratch.hidden_size,
        "intermediate_size": scratch.intermediate_size,
        "num_hidden_layers": scratch.layers,
        "num_attention_heads": scratch.heads,
        "num_key_value_heads": scratch.kv_heads,
        "vocab_size": scratch.vocab_size,
        "tie_word_embeddings": False,
    }


def facts_of(
    params: Params,
    rows: dict[str, int],
    characters: float,
) -> Facts:
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


def rows_of(params: Params) -> Rows:
    """Count the rows that `prepare` will make; the sources are read, nothing is written."""
    from so8t.data.prepare import prepare
    from so8t.data.summary import certifiable, metrics_of, refused_warning

    if _is_synthetic_still_missing(params):
        counts = {}
        for split, share in params.data.split.model_dump().items():
            counts[split] = round(share * params.synthesize.rows)
        # About what the generator's rows measure.
        return Rows(counts, characters=200.0, missing=[], warnings=[])
    found = prepare(params.data, params.seed, None, Progress("plan"))
    counts = {}
    for split, count in metrics_of(found)["rows"].items():
        if split != "total":
            counts[split] = count
    characters = 0
    lengths = found.lengths["text"] + found.lengths["response"]
    for length, count in lengths.items():
        characters += length * count
    missing = []
    certificate = certifiable(found, params.calibration)
    if not certificate["can_certify"]:
        missing.append(
            f"the calibration split cannot certify {params.calibration.alpha:.0%}: "
            f"each domain needs {certificate['needed_unsafe_groups']} independent unsafe groups, "
            f"missing {certificate['missing']}; with so few the card will allow nothing"
        )
    refused = refused_warning(found.dropped)
    warnings = [refused] if refused else []
    kept = max(1, sum(found.kept.values()))
    return Rows(counts, characters / kept, missing, warnings)


def _is_synthetic_still_missing(params: Params) -> bool:
    """Whether the `synthesize` stage must first make a source."""
    named = any(source.path == SYNTHETIC for source in params.data.sources)
    return named and not Path(SYNTHETIC).exists()


def missing_things(params: Params, disk: float) -> list[str]:
    """What would stop the run: no base model, or too little room for `disk` bytes and a tenth."""
    found = []
    base = params.active.base
    config = Path(base.path or "") / "config.json"
    if base.kind == "local" and not config.is_file():
        found.append(
            f"base model not found at {base.path}: set profiles.{params.profile}.base.path"
        )
    free = shutil.disk_usage(Path.cwd()).free
    # A tenth more, because temporary files stand beside what they will replace.
    if free < disk * 1.1:
        needed = f"{disk / 1e9:.1f} GB of disk are needed"
        found.append(f"{needed}, but only {free / 1e9:.1f} GB are free here")
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
    # The whole card: a plan is made before anything else runs on it.
    total = torch.cuda.get_device_properties(0).total_memory
    wanted = memory.overrides(config, settings, float(total))
    advice = ""
    if wanted is None:
        advice = "; it does not fit"
    elif wanted:
        advice = f"; it fits with {' '.join(wanted)}"
    size = f"{total / memory.GIB:.1f} GiB"
    return f"{name}, {size}; {needed}{advice}"


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
        "warnings": rows.warnings,
        "graphics": graphics_note(params),
        "seconds": sum(need.seconds for need in table),
        "disk": disk,
        "stages": stages,
    }


@click.command()
@click.option("--json", "as_json", is_flag=True, help="print JSON")
def plan(as_json: bool) -> None:
    """Estimate the time, memory and disk of each stage on this machine, and say what is missing."""
    params = params_module.load()
    # Without a base model nothing can be counted. Its disk is not known yet: 0 always fits.
    problems = missing_things(params, 0.0)
    if problems:
        raise So8tError(
            "; ".join(problems), where="params.yaml", fix="mend that, then type `so8t plan` again"
        )
    base = params.active.base
    if base.kind == "local":
        # Here, where it costs a second, and not after hours of training.
        check_base(Path(base.path or ""), base.context_profile)
    result = whole_plan(params)
    if as_json:
        click.echo(json.dumps(result, ensure_ascii=False, indent=1))
        return
    size = f"{result['parameters'] / 1e6:,.1f} M parameters"
    click.echo(f"profile {result['profile']}: {size}; rows {result['rows']}")
    click.echo(result["graphics"])
    click.echo("stage".ljust(22) + "time".rjust(10) + "memory".rjust(12) + "disk".rjust(12))
    for need in result["stages"]:
        memory = f"{need['memory'] / 1e9:.1f} GB"
        line = _line(need["stage"], need["seconds"], memory, need["disk"])
        click.echo(line)
    # Stages run one after the other: their memory does not add up.
    line = _line("all", result["seconds"], "", result["disk"])
    click.echo(line)
    for line in result["missing"]:
        click.echo(f"missing: {line}")
    for line in result["warnings"]:
        click.echo(f"warning: {line}")


def _line(
    stage: str,
    seconds: float,
    memory: str,
    disk: float,
) -> str:
    duration = _time(seconds)
    room = f"{disk / 1e9:.2f} GB"
    return f"{stage:<22}{duration:>10}{memory:>12}{room:>12}"


def _time(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
