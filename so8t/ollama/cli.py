"""`so8t register`: which model may be registered with an Ollama server, and under which name.

A file whose calibration card says "certified" keeps its name. Any other is refused, or with
`--allow-uncertified` registered under a name that says so.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from so8t import card as cards
from so8t.errors import ArtifactError, GateError
from so8t.identity import semantic_digest
from so8t.params import Params
from so8t.release.modelfile import Entry, Parameters

if TYPE_CHECKING:
    from so8t.ollama.registration import Registered

ModelName = Literal["a", "b"]
UNCERTIFIED = "-uncertified"


def entry_of(
    params: Params,
    model: ModelName,
    models: Path,
    *,
    allow_uncertified: bool,
    expose_thinking: bool,
) -> Entry:
    """Everything to register one model, after its card has been checked.

    Args:
        params: the project's parameters.
        model: the base model (a) or the retrained one (b), in the released quant type.
        models: directory with gguf/ and calibration/.
        allow_uncertified: take a file without a certificate, marked in its name.
        expose_thinking: let `ollama run` print the thinking.

    Raises:
        GateError: the card is not certified and that was not allowed.
        ArtifactError: file or card is missing, or the card is of another file.
    """
    stem = f"{model}-{params.release.type}"
    file = models / "gguf" / f"{stem}.gguf"
    card_file = models / "calibration" / f"{stem}.json"
    card = cards.read(card_file)
    if card.semantic_digest != semantic_digest(file):
        raise ArtifactError(
            "the card is of another file: the semantic digests differ",
            where=str(card_file),
            fix=cards.FIX,
        )
    name = getattr(params.active.names, model)
    if card.status != "certified":
        if not allow_uncertified:
            raise GateError(
                f"{file.name} is not certified ({', '.join(card.reasons)})",
                where=str(card_file),
                fix="add labelled data and calibrate again, "
                "or pass --allow-uncertified, which marks the name",
            )
        name += UNCERTIFIED
    return Entry(
        name=name,
        file=file,
        system=params.data.system,
        format=params.data.format,
        parameters=parameters_of(params),
        answer_tokens=params.release.answer_tokens,
        expose_thinking=expose_thinking,
    )


def parameters_of(params: Params) -> Parameters:
    """Sampling parameters of prose, by Ollama's names.

    The card's temperature is none of them: it turns a verdict's logits into probabilities.
    """
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
    from so8t.ollama.client import Ollama
    from so8t.ollama.registration import register_entry
    from so8t.params import load
    from so8t.progress import Progress

    params = load()
    # The same letter twice is one model.
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


def _modelfile_of(entry: Entry) -> str:
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
