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

from so8t.chat import final_cue, prompt_of
from so8t.errors import ArtifactError, ParamsError
from so8t.familiarity import read_index, write_index
from so8t.files import atomic_dir, read_json, write_json, write_text
from so8t.gguf_file import read_keys
from so8t.identity import semantic_digest
from so8t.manifest import CARD, FAMILIARITY, MODELFILE, SCHEMA, Manifest, Texts, write_manifest
from so8t.params import Params
from so8t.release import modelcard, modelfile
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
        # The card is bound to what the file does: keys may change, behaviour may not.
        if rewrite(parts.file, folder / parts.file.name) != digest:
            raise ArtifactError(
                "writing the calibrated keys changed what the file does", where=parts.file.name
            )
        # The very card that was calibrated, every bit of it.
        write_json(folder / CARD, parts.card)
        write_index(folder / FAMILIARITY, index)
        write_manifest(folder, _manifest(parts, entry, params))
        # Written twice, to its own file and into the model card, from one text.
        commands = _commands(entry, parts.card)
        missing = _write_modelfile(folder, entry)
        write_text(folder / "llama_cpp.md", commands)
        write_text(folder / "README.md", _model_card(parts, entry, commands))
    return missing


def _entry(file: Path, params: Params) -> Entry:
    """The released model as a registry would be told of it.

    Args:
        file: the GGUF file.
        params: names, prompts and limits.
    """
    limits = params.release
    # By Ollama's names: they are written into the Modelfile as they stand.
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
        # A release never shows it; whoever wants it registers the file so.
        expose_thinking=False,
    )


def _manifest(parts: Parts, entry: Entry, params: Params) -> Manifest:
    """What `so8t ask` and a server need beside file and card.

    Args:
        parts: what is released.
        entry: its name and prompts.
        params: names and limits.
    """
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
        # Of the card, so that the two can be compared without opening the file.
        template_sha256=parts.card["template_sha256"],
        think_tokens=limits.think_tokens,
        answer_tokens=limits.answer_tokens,
        replies=Texts(escalate=limits.replies.escalate, deny=limits.replies.deny),
    )


def _write_modelfile(folder: Path, entry: Entry) -> str:
    """Write the Modelfile, or leave it out and say why.

    A chat template or system prompt that Ollama cannot carry is no reason to release nothing.

    Args:
        folder: the release.
        entry: the model.

    Returns:
        Why there is none; empty when it was written.
    """
    try:
        recipe = recipe_of(entry)
        text = modelfile.write(entry.file.name, recipe.go, entry.system, recipe.parameters)
    # Anything else is a mistake of ours and must not pass as a missing Modelfile.
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
    """Ready command lines with the engine settings of the card.

    Args:
        entry: the model.
        card: the card as JSON.

    Returns:
        Markdown.
    """
    engine = _engine_options(entry.file.name, card["engine"])
    # The same answer each time, as it was evaluated.
    greedy = ["--temp", "0", "-n", str(entry.answer_tokens)]
    prompt = ["-p", _example_prompt(entry)]
    cli = ["llama-cli", *engine, "-no-cnv", "--no-display-prompt", *greedy, *prompt]
    # This machine only: the server itself asks for no password.
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
    """The example as the model reads it, opened at the final answer.

    Args:
        entry: the model.
    """
    chat_template = read_keys(entry.file).get("tokenizer.chat_template")
    if not chat_template:
        return EXAMPLE
    prompt = prompt_of(str(chat_template), entry.system, EXAMPLE)
    return prompt + final_cue(entry.format)


# --- README.md ---


def _model_card(parts: Parts, entry: Entry, commands: str) -> str:
    """The model card from the result files that exist.

    Args:
        parts: what is released.
        entry: its name.
        commands: how to run it, as Markdown.
    """
    stem = parts.file.stem
    evaluate = f"evaluate-{stem}.json"
    verify = f"verify-{stem}.json"
    compare = "ab.json"
    files = {CARD: parts.card}
    for name in (evaluate, verify, compare):
        # What was not measured is "not run" on the card, and no reason to release nothing.
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
