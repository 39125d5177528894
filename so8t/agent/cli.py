"""`so8t ask`: the released model on the command line."""

import json
import sys
from pathlib import Path

import click


@click.command()
@click.argument("text")
@click.option("--release", "folder", type=click.Path(path_type=Path), default=Path("models/release"), show_default=True,
              help="directory that `dvc repro release` made")
@click.option("--json", "as_json", is_flag=True, help="one JSON object instead of lines for people")
def ask(text: str, folder: Path, as_json: bool) -> None:
    """Decide TEXT (`-` reads standard input); for ALLOW, answer it."""
    from so8t.agent.answer import Answer, Assistant

    request = sys.stdin.read() if text == "-" else text
    with Assistant(folder) as assistant:
        answer: Answer = assistant.answer(request)
    if as_json:
        click.echo(json.dumps(answer.to_dict(), ensure_ascii=False))
        return
    said = answer.to_dict()
    click.echo(f"{answer.verdict}  {_percent(said['probabilities'])}".rstrip())
    if said["authority"]:
        click.echo(f"authority  {_percent(said['authority'])} (not calibrated)")
    if answer.reason:
        click.echo(f"reason  {answer.reason}")
    click.echo(f"\n{answer.text}{' …' if answer.cut else ''}")


def _percent(values: dict[str, float] | None) -> str:
    return "  ".join(f"{name} {value:.1%}" for name, value in (values or {}).items())
