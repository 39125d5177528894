"""Which model may be registered under which name: the door between a card and an Ollama server.

An uncertified file is refused, or with `--allow-uncertified` registered under a name that says so.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from so8t.calibration import card as cards
from so8t.errors import ArtifactError, GateError
from so8t.identity import semantic_digest
from so8t.params import Params
from so8t.release.modelfile import Parameters
from so8t.release.registration import Entry

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


def entry_of(params: Params, model: ModelName, models: Path, *, allow_uncertified: bool, expose_thinking: bool) -> Entry:
    """Everything to register one model, after its card has been checked.

    Raises:
        GateError: the card is not certified and that was not allowed.
        ArtifactError: file or card is missing, or the card is of another file.
    """
    found = sources_of(params, model, models)
    card = cards.read(found.card)
    if card.semantic_digest != semantic_digest(found.file):
        raise ArtifactError("the card is of another file: the semantic digests differ", where=str(found.card), fix=cards.FIX)
    certified = card.status == "certified"
    if not certified and not allow_uncertified:
        raise GateError(f"{found.file.name} is not certified ({', '.join(card.reasons)})", where=str(found.card),
                        fix="add labelled data and calibrate again, or pass --allow-uncertified, which marks the name")
    name = getattr(params.active.names, model) + ("" if certified else UNCERTIFIED)
    return Entry(name, found.file, params.data.system, params.data.format, parameters_of(params),
                 params.release.answer_tokens, expose_thinking)


def parameters_of(params: Params) -> Parameters:
    """Sampling parameters of prose; never the verdict temperature."""
    release = params.release
    return {"temperature": release.temperature, "top_p": release.top_p, "top_k": release.top_k,
            "num_ctx": release.num_ctx, "num_predict": release.answer_tokens}
