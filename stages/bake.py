"""Merge LoRA, fold the rotations and heads into a stock model, and prove that its logits are the trained ones."""

from pathlib import Path

import click

from so8t.files import read_jsonl
from so8t.stage import stage


@click.command(help=__doc__)
@click.argument("base", type=click.Path(path_type=Path))
@click.argument("adapter", type=click.Path(path_type=Path))
@click.argument("texts", type=click.Path(path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
def main(base: Path, adapter: Path, texts: Path, out: Path) -> None:
    with stage("bake") as run:
        from so8t.template import Template
        from so8t.training.bake import bake
        from so8t.training.batches import example_of
        from so8t.training.load import base_dir

        folder = base_dir(run.params.active.base, base)
        template, system = Template.of(folder), run.params.data.system
        rows = [row for _, row in read_jsonl(texts)][: run.params.verify.prompts]
        report = bake(
            folder, adapter, out, [example_of(row, template, system) for row in rows], run.progress
        )
        facts, moved = report["parity"], report["drift"]
        drift = (
            (
                f"; {moved['quantization']} graph to full precision: KL {moved['kl_mean']:.1e}, {moved.get('verdict_flips', 0)} of "
                f"{moved.get('verdicts', 0)} verdicts flip"
            )
            if moved["measured"]
            else ""
        )
        run.summary = (
            f"{report['rotated_weights']} rotations and {report['lora_weights']} LoRA updates folded; gated = baked within "
            f"{facts['relative_error']:.1e} of the largest logit over {facts['positions']} positions{drift}"
        )


if __name__ == "__main__":
    main()
