"""The released file with its calibrated keys, card, manifest, Modelfile and model card. Always writes, certified or not."""

from pathlib import Path

import click

from so8t.stage import stage

PATH = click.Path(path_type=Path)


@click.command()
@click.argument("file", type=PATH)
@click.argument("out_dir", type=PATH)
@click.option("--card", type=PATH, required=True, help="calibration card of the file")
@click.option(
    "--metrics", type=PATH, required=True, help="directory of the metrics files, for the model card"
)
def main(file: Path, out_dir: Path, card: Path, metrics: Path) -> None:
    """Release FILE under its card into OUT_DIR."""
    with stage("release") as run:
        from so8t import card as cards
        from so8t.calibration.assess import assess
        from so8t.gguf.convert.keys import typed
        from so8t.release.make import Parts, calibrated_keys, release
        from so8t.release.rewrite import rewrite_keys

        held = cards.read(card)
        content = cards.to_dict(held)
        updates = typed(calibrated_keys(content, escalate=cards.float32_thresholds(held).escalate))
        missing = release(
            Parts(file, content, assess(held).sentence, metrics),
            out_dir,
            run.params,
            lambda source, copy: rewrite_keys(source, copy, updates),
        )
        run.summary = "; ".join(part for part in (f"{file.name} {held.status}", missing) if part)


if __name__ == "__main__":
    main()
