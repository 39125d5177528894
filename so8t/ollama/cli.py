"""Which model may be registered under which name: the door between a card and an Ollama server.

An uncertified file is refused, or with `--allow-uncertified` registered under a name that says so.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import click

from so8t import card as cards
from so8t.errors import ArtifactError, GateError
from so8t.identity import semantic_digest
from so8t.params import Params
from so8t.release.modelfile import Entry, Parameters

ModelName = Literal["a", "b"]
UNCERTIFIED = "-uncertified"


@dataclass(frozen=True, slots=True)
class Sources:
    """Where a model's file and card are."""

    file: Path
    card: Path


def sources_of(params: Params, model: ModelName, models: Path) -> Sources:
    """The file of one model in the released quant type, and its card."""
    stem = f"{model}-{params.release.type}"
    return Sources(models / "gguf" / f"{stem}.gguf", models / "calibration" / f"{stem}.json")


def entry_of(
    params: Params,
    model: ModelName,
    models: Path,
    *,
    allow_uncertified: bool,
    expose_thinking: bool,
) -> Entry:
    """Everything to register one model, after its card has been checked.

    Raises:
        GateError: the card is not certified and that was not allowed.
        ArtifactError: file or card is missing, or the card is of another file.
    """
    found = sources_of(params, model, models)
    card = cards.read(found.card)
    if card.semantic_digest != semantic_digest(found.file):
        raise ArtifactError(
            "the card is of another file: the semantic digests differ",
            where=str(found.card),
            fix=cards.FIX,
        )
    certified = card.status == "certified"
    if not certified and not allow_uncertified:
        raise GateError(
            f"{found.file.name} is not certified ({', '.join(card.reasons)})",
            where=str(found.card),
            fix="add labelled data and calibrate again, or pass --allow-uncertified, which marks the name",
        )
    name = getattr(params.active.names, model) + ("" if certified else UNCERTIFIED)
    return Entry(
        name,
        found.file,
        params.data.system,
        params.data.format,
        parameters_of(params),
        params.release.answer_tokens,
        expose_thinking,
    )


def parameters_of(params: Params) -> Parameters:
    """Sampling parameters of prose; never the verdict temperature."""
    release = params.release
    return {
        "temperature": release.temperature,
        "top_p": release.top_p,
        "top_k": release.top_k,
        "num_ctx": release.num_ctx,
        "num_predict": release.answer_tokens,
    }


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
@click.option("--expose-thinking", is_flag=True, help="let `ollama run` print the thinking")
@click.option("--dry-run", is_flag=True, help="print the Modelfiles and talk to nobody")
@click.option("--strict", is_flag=True, help="exit 8 unless all six prompts are judged right")
def register(
    models: tuple[str, ...],
    models_dir: Path,
    host: str | None,
    allow_uncertified: bool,
    expose_thinking: bool,
    dry_run: bool,
    strict: bool,
) -> None:
    """Register the base model (a), the retrained one (b), or both with Ollama."""
    from so8t import params as params_module
    from so8t.errors import GateError
    from so8t.ollama.client import Ollama
    from so8t.ollama.registration import register as give
    from so8t.progress import Progress
    from so8t.release import modelfile
    from so8t.release.modelfile import recipe_of

    params = params_module.load()
    entries = [
        entry_of(
            params,
            "a" if model == "a" else "b",
            models_dir,
            allow_uncertified=allow_uncertified,
            expose_thinking=expose_thinking,
        )
        for model in dict.fromkeys(models)
    ]
    if dry_run:
        for entry in entries:
            recipe = recipe_of(entry)
            click.echo(modelfile.write(entry.file.name, recipe.go, entry.system, recipe.parameters))
        return
    with Ollama(host) as client:
        done = [give(client, entry, Progress("register")) for entry in entries]
    for one in done:
        click.echo(
            f"{one.name}: {'uploaded' if one.uploaded else 'the server had the file'}; the server's copy "
            f"{'has the same semantic digest' if one.copy_checked else 'cannot be read from here: not compared'}; its prompt "
            f"{'equals the chat template' if one.prompt_checked else 'cannot be asked for: not compared'}"
        )
        for number, judged in enumerate(one.judgements, start=1):
            click.echo(f"  {number} {'pass' if judged.passed else 'FAIL'}  {judged.why}")
    failed = sum(not judged.passed for one in done for judged in one.judgements)
    if strict and failed:
        raise GateError(f"{failed} of the judged prompts failed", fix="see the table above")
