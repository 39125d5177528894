"""`so8t ask`: the released model on the command line."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from so8t.agent.answer import Answer, Assistant

WITHDRAWN = "（ここまでに表示した回答は取り消します。）"


@click.command()
@click.argument("text")
@click.option("--release", "folder", type=click.Path(path_type=Path), default=Path("models/release"), show_default=True,
              help="directory that `dvc repro release` made")
@click.option("--json", "as_json", is_flag=True, help="one JSON object instead of lines for people")
@click.option("--stream", is_flag=True, help="show an allowed answer while it is written; nothing of the thinking, and a few characters late")
def ask(text: str, folder: Path, as_json: bool, stream: bool) -> None:
    """Decide TEXT (`-` reads standard input); for ALLOW, answer it."""
    from so8t.agent.answer import Assistant

    if as_json and stream:
        raise click.UsageError("--json prints one object when all is done: leave out --stream")
    request = sys.stdin.read() if text == "-" else text
    with Assistant(folder) as assistant:
        if stream:
            _stream(assistant, request)
            return
        answer = assistant.answer(request)
    if as_json:
        click.echo(json.dumps(answer.to_dict(), ensure_ascii=False))
        return
    _head(answer)
    click.echo(f"\n{answer.text}{' …' if answer.cut else ''}")


def _head(answer: "Answer") -> None:
    """Decision, authority and reason, for people."""
    said = answer.to_dict()
    click.echo(f"{answer.verdict}  {_percent(said['probabilities'])}".rstrip())
    if said["authority"]:
        click.echo(f"authority  {_percent(said['authority'])} (not calibrated)")
    if answer.reason:
        click.echo(f"reason  {answer.reason}")


def _stream(assistant: "Assistant", request: str) -> None:
    """The decision first, then the answer as it is written; an answer that is withheld in the end is taken back in words."""
    begun: list[str] = []

    def decided(first: "Answer") -> None:
        begun.append(first.verdict)
        _head(first)
        click.echo()

    answer = assistant.answer(request, decided=decided, show=lambda piece: click.echo(piece, nl=False))
    if begun == [answer.verdict]:
        click.echo(answer.text if answer.verdict != "ALLOW" else " …" if answer.cut else "")
        return
    click.echo(f"\n{WITHDRAWN}")
    _head(answer)
    click.echo(f"\n{answer.text}")


def _percent(values: dict[str, float] | None) -> str:
    return "  ".join(f"{name} {value:.1%}" for name, value in (values or {}).items())


@click.command()
@click.argument("models", nargs=-1, required=True, type=click.Choice(["a", "b"]))
@click.option("--models-dir", type=click.Path(path_type=Path), default=Path("models"), show_default=True)
@click.option("--host", help="Ollama's address; default: OLLAMA_HOST, else this machine")
@click.option("--allow-uncertified", is_flag=True, help="register a file without a certificate, marked in its name")
@click.option("--expose-thinking", is_flag=True, help="let `ollama run` print the thinking")
@click.option("--dry-run", is_flag=True, help="print the Modelfiles and talk to nobody")
@click.option("--strict", is_flag=True, help="exit 8 unless all six prompts are judged right")
def register(models: tuple[str, ...], models_dir: Path, host: str | None, allow_uncertified: bool, expose_thinking: bool,
             dry_run: bool, strict: bool) -> None:
    """Register the base model (a), the retrained one (b), or both with Ollama."""
    from so8t import params as params_module
    from so8t.agent.register import entry_of
    from so8t.errors import GateError
    from so8t.progress import Progress
    from so8t.release import modelfile
    from so8t.release.ollama import Ollama
    from so8t.release.registration import recipe_of
    from so8t.release.registration import register as give

    params = params_module.load()
    entries = [entry_of(params, "a" if model == "a" else "b", models_dir, allow_uncertified=allow_uncertified,
                        expose_thinking=expose_thinking) for model in dict.fromkeys(models)]
    if dry_run:
        for entry in entries:
            recipe = recipe_of(entry)
            click.echo(modelfile.write(entry.file.name, recipe.go, entry.system, recipe.parameters))
        return
    with Ollama(host) as client:
        done = [give(client, entry, Progress("register")) for entry in entries]
    for one in done:
        click.echo(f"{one.name}: {'uploaded' if one.uploaded else 'the server had the file'}; the server's copy "
                   f"{'has the same semantic digest' if one.copy_checked else 'cannot be read from here: not compared'}; its prompt "
                   f"{'equals the chat template' if one.prompt_checked else 'cannot be asked for: not compared'}")
        for number, judged in enumerate(one.judgements, start=1):
            click.echo(f"  {number} {'pass' if judged.passed else 'FAIL'}  {judged.why}")
    failed = sum(not judged.passed for one in done for judged in one.judgements)
    if strict and failed:
        raise GateError(f"{failed} of the judged prompts failed", fix="see the table above")
