"""Which model may be registered with an Ollama server, and under which name.

A file whose calibration card says "certified" keeps its name. Any other is refused, or, where the
user allows it, registered under a name that says so. The card of the released model must be the one
in models/release, which is signed (so8t.released); nobody signs for the other model.
"""

from pathlib import Path
from typing import Literal

from so8t import card as cards
from so8t.errors import ArtifactError, GateError
from so8t.identity import semantic_digest
from so8t.params import Params
from so8t.release.modelfile import Entry, Parameters
from so8t.released import Release, open_release

ModelName = Literal["a", "b"]
UNCERTIFIED = "-uncertified"


def entry_of(
    params: Params,
    model: ModelName,
    models: Path,
    *,
    allow_uncertified: bool,
    expose_thinking: bool,
    release: Release | None = None,
) -> Entry:
    """Everything to register one model, after its card has been checked.

    Args:
        params: the project's parameters.
        model: the base model (a) or the retrained one (b), in the released quant type.
        models: directory with gguf/, calibration/ and release/.
        allow_uncertified: take a file without a certificate, marked in its name.
        expose_thinking: let `ollama run` print the thinking.
        release: of these models, when it is open already; else it is opened, and must be signed.

    Raises:
        GateError: the card is not certified and that was not allowed.
        ArtifactError: file or card is missing, or the card is of another file or not the released
            one.
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
    if model == params.release.model:
        opened = release or open_release(models / "release")
        if opened.card.digest != card.digest:
            raise ArtifactError(
                "the card is not the one that was released: their digests differ",
                where=str(card_file),
                fix="`dvc checkout` puts both back; after a calibration `dvc repro release`",
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
