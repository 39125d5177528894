"""Merge LoRA, fold the rotations and heads into a stock model, and prove that its logits are the
trained ones.
"""

from itertools import islice
from pathlib import Path
from typing import Any

import click

from so8t.stage import stage

FILE = click.Path(path_type=Path)


@click.command(help=__doc__)
@click.argument("base", type=FILE)
@click.argument("adapter", type=FILE)
@click.argument("texts", type=FILE)
@click.argument("out", type=FILE)
def main(base: Path, adapter: Path, texts: Path, out: Path) -> None:
    with stage("bake") as run:
        # Heavy imports stand inside, so that `--help` needs no torch.
        from so8t.baking.bake import bake
        from so8t.base.batches import example_of
        from so8t.model_folder import weights_dir
        from so8t.rows import read_rows
        from so8t.template import Template

        folder = weights_dir(run.params.active.base, base)
        template = Template.of(folder)
        system = run.params.data.system
        rows = islice(read_rows(texts), run.params.verify.prompts)
        examples = [example_of(row, template, system) for row in rows]
        report = bake(folder, adapter, out, examples, run.progress)
        run.summary = _summary(report)


def _summary(report: dict[str, Any]) -> str:
    proof = report["parity"]
    return (
        f"{report['rotated_weights']} rotations and {report['lora_weights']} LoRA updates folded; "
        f"gated = baked within {proof['relative_error']:.1e} of the largest logit "
        f"over {proof['positions']} positions{_drift(report['drift'])}"
    )


def _drift(facts: dict[str, Any]) -> str:
    """How far the quantised graph that was trained is from what is shipped, if it was quantised."""
    if not facts["measured"]:
        return ""
    return (
        f"; {facts['quantization']} graph to full precision: KL {facts['kl_mean']:.1e}, "
        f"{facts.get('verdict_flips', 0)} of {facts.get('verdicts', 0)} verdicts flip"
    )


if __name__ == "__main__":
    main()
