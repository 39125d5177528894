"""The released file with its calibrated keys, card, manifest, Modelfile and model card.

Always writes, certified or not.
"""

from pathlib import Path

import click

from so8t.stage import stage

PATH = click.Path(path_type=Path)


@click.command()
@click.argument("file", type=PATH)
@click.argument("out_dir", type=PATH)
@click.option("--card", "card_file", type=PATH, required=True, help="calibration card of the file")
@click.option(
    "--metrics", type=PATH, required=True, help="directory of the metrics files, for the model card"
)
def main(file: Path, out_dir: Path, card_file: Path, metrics: Path) -> None:
    """Release FILE under its card into OUT_DIR."""
    with stage("release") as run:
        from so8t.calibration.assess import assess
        from so8t.calibration.calibrate import index_path
        from so8t.card import float32_thresholds, read, to_dict
        from so8t.gguf.convert.keys import typed
        from so8t.release.make import Parts, release
        from so8t.release.rewrite import rewrite_keys
        from so8t.released import calibrated_keys, is_signed, sign_release
        from so8t.signature import CannotSign

        card = read(card_file)
        content = to_dict(card)
        # GGUF keys hold float32, so the threshold is rounded to the stricter side first.
        escalate = float32_thresholds(card).escalate
        updates = typed(calibrated_keys(content, escalate=escalate))
        missing = release(
            Parts(file, content, index_path(card_file), assess(card).sentence, metrics),
            out_dir,
            run.params,
            lambda source, copy: rewrite_keys(source, copy, updates),
        )
        run.summary = f"{file.name} {card.status}"
        if missing:
            run.summary += f"; {missing}"
        try:
            sign_release(out_dir)
        except CannotSign as error:
            # The release is whole without it, and may be the very one that another machine signed.
            if not is_signed(out_dir):
                run.summary += f"; not signed: {error.problem}"


if __name__ == "__main__":
    main()
