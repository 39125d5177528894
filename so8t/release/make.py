"""models/release: the calibrated file, its card, manifest, Modelfile, model card, command lines.

Always written, certified or not; what the card says is checked where the model is used (`so8t
gate`, `so8t register`, `so8t ask`). The same inputs give the same bytes: no times, no commits, no
paths.
"""

import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from so8t.chat import final_cue, prompt_of
from so8t.errors import ArtifactError, ParamsError
from so8t.familiarity import read_index, write_index
from so8t.files import atomic_dir, read_json, write_json, write_text
from so8t.gguf_file import read_keys
from so8t.identity import semantic_digest
from so8t.params import Params
from so8t.release import modelcard, modelfile
from so8t.release.manifest import (
    CARD,
    FAMILIARITY,
    MODELFILE,
    SCHEMA,
    Manifest,
    Texts,
    write_manifest,
)
from so8t.release.modelfile import Entry, recipe_of

# (source, copy with calibrated keys) -> semantic digest of the copy
Rewrite = Callable[[Path, Path], str]
# A harmless request: "Please tell me about ordinary transport systems."
EXAMPLE = "一般的な交通システムについて教えてください。"


@dataclass(frozen=True, slots=True)
class Parts:
    """What is released.

    Attributes:
        file: the GGUF file.
        card: its calibration card as JSON.
        index: its familiarity index.
        sentence: what `so8t gate` says of the card.
        metrics: the directory of the metrics files.
    """

    file: Path
    card: Mapping[str, Any]
    index: Path
    sentence: str
    metrics: Path


def release(parts: Parts, out: Path, params: Params, rewrite: Rewrite) -> str:
    """Write the release folder, whole or not at all.

    Args:
        parts: what is released.
        out: the folder, which is replaced.
        params: names, prompts and limits.
        rewrite: writes a copy of the file with the calibrated keys.

    Returns:
        What could not be written; empty when everything was.

    Raises:
        ArtifactError: the card is of another file, or writing its numbers changed the file's
            semantic digest.
    """
    digest = str(parts.card["semantic_digest"])
    if semantic_digest(parts.file) != digest:
        raise ArtifactError(
            "the card is of another file", where=parts.file.name, fix="run `dvc repro calibrate`"
        )
    index = read_index(parts.index)
    if index.digest != parts.card["familiarity"]["index"]:
        raise ArtifactError(
            "the familiarity index is of another card",
            where=str(parts.index),
            fix="run `dvc repro calibrate`",
        )
    entry = _entry(parts.file, params)
    with atomic_dir(out) as folder:
        if rewrite(parts.file, folder / parts.file.name) != digest:
            raise ArtifactError(
                "writing the calibrated keys changed what the file does", where=parts.file.name
            )
        write_json(folder / CARD, parts.card)
        write_index(folder / FAMILIARITY, index)
        write_manifest(folder, _manifest(parts, entry, params))
        commands = _commands(entry, parts.card)
        missing = _write_modelfile(folder, entry)
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
    nearest = np.float32(value)
    if float(nearest) >= value:
        return float(nearest)
    return float(np.nextafter(nearest, np.float32(np.inf)))


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
        name=getattr(params.active.names, limits.model),
        file=file,
        system=params.data.system,
        format=params.data.format,
        parameters=parameters,
        answer_tokens=limits.answer_tokens,
        expose_thinking=False,
    )


def _manifest(parts: Parts, entry: Entry, params: Params) -> Manifest:
    limits = params.release
    return Manifest(
        schema=SCHEMA,
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
    """Write the Modelfile, or leave it out and say why.

    A chat template or system prompt that Ollama cannot carry is no reason to release nothing.
    """
    try:
        recipe = recipe_of(entry)
        text = modelfile.write(entry.file.name, recipe.go, entry.system, recipe.parameters)
    except (ArtifactError, ParamsError) as error:
        return f"no Modelfile: {error.problem}"
    write_text(folder / MODELFILE, text)
    return ""


# --- llama_cpp.md ---

COMMANDS = """\
With the certified decision:

```sh
so8t ask {example}
```

Without it (plain llama.cpp; the turn is opened at the final answer, so no thinking is printed):

```sh
{cli}
```

As a server on this machine, to be used with token-id prompts:

```sh
{server}
```

With Ollama:

```sh
so8t register {model}
```
"""


def _commands(entry: Entry, card: Mapping[str, Any]) -> str:
    """Ready command lines with the engine settings of the card."""
    engine = _engine_options(entry.file.name, card["engine"])
    greedy = ["--temp", "0", "-n", str(entry.answer_tokens)]
    prompt = ["-p", _example_prompt(entry)]
    cli = ["llama-cli", *engine, "-no-cnv", "--no-display-prompt", *greedy, *prompt]
    address = ["--host", "127.0.0.1", "--port", "8080"]
    server = ["llama-server", *engine, "--parallel", "1", "--no-slots", *address]
    return COMMANDS.format(
        example=shlex.quote(EXAMPLE),
        cli=shlex.join(cli),
        server=shlex.join(server),
        # A file is named after its model, `a` or `b`, and its type: b-Q4_K_M.gguf.
        model=entry.file.name[0],
    )


def _engine_options(file: str, engine: Mapping[str, Any]) -> list[str]:
    """The engine's settings as options of llama.cpp's programs; others could change a verdict."""
    options = {
        "-m": file,
        "-c": engine["n_ctx"],
        "-b": engine["n_batch"],
        "-ub": engine["n_batch"],
        "-t": engine["threads"],
        "-fa": "off",
        "-ctk": engine["type_k"],
        "-ctv": engine["type_v"],
    }
    words = []
    for option, value in options.items():
        words += [option, str(value)]
    return words


def _example_prompt(entry: Entry) -> str:
    chat_template = read_keys(entry.file).get("tokenizer.chat_template")
    if not chat_template:
        return EXAMPLE
    prompt = prompt_of(str(chat_template), entry.system, EXAMPLE)
    return prompt + final_cue(entry.format)


# --- README.md ---


def _model_card(parts: Parts, entry: Entry, commands: str) -> str:
    stem = parts.file.stem
    evaluate = f"evaluate-{stem}.json"
    verify = f"verify-{stem}.json"
    compare = "ab.json"
    files = {CARD: parts.card}
    for name in (evaluate, verify, compare):
        if (parts.metrics / name).is_file():
            files[name] = read_json(parts.metrics / name)
    base = read_keys(parts.file).get("so8t.base_model", "unknown")
    names = modelcard.Names(
        name=entry.name,
        base_model=str(base),
        file=parts.file.name,
        card=CARD,
        evaluate=evaluate,
        verify=verify,
        compare=compare,
    )
    facts = modelcard.Facts(files)
    return modelcard.write(facts, names, sentence=parts.sentence, commands=commands)
