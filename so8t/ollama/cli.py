"""`so8t register`: give models to an Ollama server."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from so8t.ollama.registration import Registered
    from so8t.release.modelfile import Entry


@click.command()
@click.argument("models", nargs=-1, required=True, type=click.Choice(["a", "b"]))
@click.option(
    "--models-dir", type=click.Path(path_type=Path), default=Path("models"), show_default=True
)
@click.option("--host", help="Ollama's address; default: OLLAMA_HOST, else this machine")
@click.option(
    "--allow-uncertified",
    is_flag=True,
    help="register a file without a certificate, marked in its name",
)
@click.option("--unsigned", is_flag=True, help="register a release that nobody signed")
@click.option("--expose-thinking", is_flag=True, help="let `ollama run` print the thinking")
@click.option("--dry-run", is_flag=True, help="print the Modelfiles and talk to nobody")
@click.option("--strict", is_flag=True, help="exit 8 unless all six prompts are judged right")
def register(
    models: tuple[str, ...],
    models_dir: Path,
    host: str | None,
    allow_uncertified: bool,
    unsigned: bool,
    expose_thinking: bool,
    dry_run: bool,
    strict: bool,
) -> None:
    """Register the base model (a), the retrained one (b), or both with Ollama."""
    from so8t.errors import GateError
    from so8t.ollama.client import Ollama
    from so8t.ollama.entry import entry_of
    from so8t.ollama.registration import register_entry
    from so8t.params import load
    from so8t.progress import Progress
    from so8t.released import open_release

    params = load()
    released = None
    if params.release.model in models:
        released = open_release(models_dir / "release", allow_unsigned=unsigned)
        if released.warning:
            click.echo(released.warning, err=True)
    # The same letter twice is one model.
    entries = [
        entry_of(
            params,
            "a" if model == "a" else "b",
            models_dir,
            allow_uncertified=allow_uncertified,
            release=released,
            expose_thinking=expose_thinking,
        )
        for model in dict.fromkeys(models)
    ]
    if dry_run:
        for entry in entries:
            click.echo(_modelfile_of(entry))
        return
    with Ollama(host) as client:
        done = [register_entry(client, entry, Progress("register")) for entry in entries]
    failed = 0
    for one in done:
        click.echo(_registered(one))
        for number, reply in enumerate(one.replies, start=1):
            click.echo(f"  {number} {'pass' if reply.passed else 'FAIL'}  {reply.why}")
            failed += not reply.passed
    if strict and failed:
        raise GateError(f"{failed} of the judged prompts failed", fix="see the table above")


def _modelfile_of(entry: "Entry") -> str:
    from so8t.release import modelfile

    recipe = modelfile.recipe_of(entry)
    return modelfile.write(entry.file.name, recipe.go, entry.system, recipe.parameters)


def _registered(one: "Registered") -> str:
    """What registration found out, in one line."""
    uploaded = "uploaded" if one.uploaded else "the server had the file"
    copy = "cannot be read from here: not compared"
    if one.copy_checked:
        copy = "has the same semantic digest"
    prompt = "cannot be asked for: not compared"
    if one.prompt_checked:
        prompt = "equals the chat template"
    return f"{one.name}: {uploaded}; the server's copy {copy}; its prompt {prompt}"
