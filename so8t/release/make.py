"""models/release: the calibrated file, its card, its manifest, a Modelfile, the model card, command lines.

Always written, certified or not; what the card says is for the doors (`so8t gate`, `so8t register`, `so8t ask`).
The same inputs give the same bytes: no times, no commits, no paths.
"""

import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from so8t.chat import final_cue, prompt_of
from so8t.errors import ArtifactError, ParamsError
from so8t.files import atomic_dir, read_json, write_json, write_text
from so8t.gguf_file import read_keys
from so8t.identity import semantic_digest
from so8t.params import Params
from so8t.release import modelcard, modelfile
from so8t.release.manifest import CARD, Manifest, Texts, write_manifest
from so8t.release.modelfile import Entry, recipe_of

Rewrite = Callable[
    [Path, Path], str
]  # (source, copy with calibrated keys) -> semantic digest of the copy
EXAMPLE = "一般的な交通システムについて教えてください。"


@dataclass(frozen=True, slots=True)
class Parts:
    """What is released: the file, its card as JSON, the gate's sentence, the metrics directory."""

    file: Path
    card: Mapping[str, Any]
    sentence: str
    metrics: Path


def release(parts: Parts, out: Path, params: Params, rewrite: Rewrite) -> str:
    """Write the release; return what could not be written (empty: nothing).

    Raises:
        ArtifactError: the card is of another file, or writing its numbers changed the file's semantic digest.
    """
    digest = str(parts.card["semantic_digest"])
    if semantic_digest(parts.file) != digest:
        raise ArtifactError(
            "the card is of another file", where=parts.file.name, fix="run `dvc repro calibrate`"
        )
    entry = _entry(parts.file, params)
    with atomic_dir(out) as folder:
        if rewrite(parts.file, folder / parts.file.name) != digest:
            raise ArtifactError(
                "writing the calibrated keys changed what the file does", where=parts.file.name
            )
        write_json(folder / CARD, parts.card)
        write_manifest(folder, _manifest(parts, entry, params))
        commands, missing = _commands(entry, parts.card), _write_modelfile(folder, entry)
        write_text(folder / "llama_cpp.md", commands)
        write_text(folder / "README.md", _model_card(parts, entry, commands))
    return missing


def calibrated_keys(card: Mapping[str, Any], *, escalate: float) -> dict[str, Any]:
    """Values of the keys that `release` writes into the file.

    Args:
        card: the card as JSON.
        escalate: the card's threshold as float32 can hold it without being laxer.
    """
    thresholds = card["thresholds"]
    return {
        "so8t.safety_threshold": float32_up(1.0 - escalate),
        "so8t.escalation_threshold": escalate,
        "so8t.calibration.status": card["status"],
        "so8t.calibration.readout": card["readout"],
        "so8t.calibration.temperature": float(card["temperature"]),
        "so8t.calibration.deny": float(thresholds["deny"]),
        "so8t.calibration.escalate": float(thresholds["escalate"]),
        "so8t.calibration.card_sha256": card["digest"],
        "so8t.calibration.semantic_digest": card["semantic_digest"],
    }


def float32_up(value: float) -> float:
    """The smallest float32 that is not below `value`."""
    near = np.float32(value)
    return float(near if float(near) >= value else np.nextafter(near, np.float32(np.inf)))


def _entry(file: Path, params: Params) -> Entry:
    limits = params.release
    parameters: modelfile.Parameters = {
        "temperature": limits.temperature,
        "top_p": limits.top_p,
        "top_k": limits.top_k,
        "num_ctx": limits.num_ctx,
        "num_predict": limits.answer_tokens,
    }
    return Entry(
        getattr(params.active.names, limits.model),
        file,
        params.data.system,
        params.data.format,
        parameters,
        limits.answer_tokens,
        expose_thinking=False,
    )


def _manifest(parts: Parts, entry: Entry, params: Params) -> Manifest:
    limits = params.release
    return Manifest(
        schema="so8t.release/1",
        model=limits.model,
        type=limits.type,
        file=parts.file.name,
        name=entry.name,
        system=entry.system,
        format=entry.format,
        semantic_digest=parts.card["semantic_digest"],
        template_sha256=parts.card["template_sha256"],
        think_tokens=limits.think_tokens,
        answer_tokens=limits.answer_tokens,
        replies=Texts(escalate=limits.replies.escalate, deny=limits.replies.deny),
    )


def _write_modelfile(folder: Path, entry: Entry) -> str:
    """Write the Modelfile; a template or system prompt that Ollama cannot carry leaves it out and says so."""
    try:
        recipe = recipe_of(entry)
        text = modelfile.write(entry.file.name, recipe.go, entry.system, recipe.parameters)
    except (ArtifactError, ParamsError) as error:
        return f"no Modelfile: {error.problem}"
    write_text(folder / "Modelfile", text)
    return ""


def _commands(entry: Entry, card: Mapping[str, Any]) -> str:
    """Ready command lines with the engine settings of the card."""
    engine = card["engine"]
    common = [
        "-m",
        entry.file.name,
        "-c",
        str(engine["n_ctx"]),
        "-b",
        str(engine["n_batch"]),
        "-ub",
        str(engine["n_batch"]),
        "-t",
        str(engine["threads"]),
        "-fa",
        "off",
        "-ctk",
        engine["type_k"],
        "-ctv",
        engine["type_v"],
    ]
    chat = read_keys(entry.file).get("tokenizer.chat_template")
    prompt = (
        prompt_of(str(chat), entry.system, EXAMPLE) + final_cue(entry.format) if chat else EXAMPLE
    )
    cli = [
        "llama-cli",
        *common,
        "-no-cnv",
        "--no-display-prompt",
        "--temp",
        "0",
        "-n",
        str(entry.answer_tokens),
        "-p",
        prompt,
    ]
    server = [
        "llama-server",
        *common,
        "--parallel",
        "1",
        "--no-slots",
        "--host",
        "127.0.0.1",
        "--port",
        "8080",
    ]
    return "\n".join(
        [
            "With the certified decision:",
            "",
            "```sh",
            f"so8t ask {shlex.quote(EXAMPLE)}",
            "```",
            "",
            "Without it (plain llama.cpp; the turn is opened at the final answer, so no thinking is printed):",
            "",
            "```sh",
            shlex.join(cli),
            "```",
            "",
            "As a server on this machine, to be used with token-id prompts:",
            "",
            "```sh",
            shlex.join(server),
            "```",
            "",
            "With Ollama:",
            "",
            "```sh",
            f"so8t register {entry.file.name[0]}",
            "```",
            "",
        ]
    )


def _model_card(parts: Parts, entry: Entry, commands: str) -> str:
    stem = parts.file.stem
    found = {
        "card": CARD,
        "evaluate": f"evaluate-{stem}.json",
        "verify": f"verify-{stem}.json",
        "compare": "ab.json",
    }
    files = {
        name: read_json(parts.metrics / name)
        for name in found.values()
        if (parts.metrics / name).is_file()
    }
    base = str(read_keys(parts.file).get("so8t.base_model", "unknown"))
    names = {**found, "name": entry.name, "base_model": base, "file": parts.file.name}
    return modelcard.write(
        modelcard.Facts({**files, CARD: parts.card}),
        names,
        sentence=parts.sentence,
        commands=commands,
    )
