"""Give a file to an Ollama server and find out whether what it serves is what we gave.

Steps: upload the file unless it is there, create, compare the semantic digest of the server's own rewritten copy (when
it lies on this machine), compare the server's rendering with the chat template, one token as smoke test, the judged
prompts. Not covered: who may register what (the caller).
"""

from dataclasses import dataclass

from so8t.chat import prompt_of, render
from so8t.errors import ArtifactError, ToolError
from so8t.identity import semantic_digest
from so8t.ollama.client import Ollama
from so8t.ollama.smoke_test import CASES, Judgement, judge
from so8t.progress import Progress
from so8t.release.modelfile import Entry, Recipe, recipe_of


@dataclass(frozen=True, slots=True)
class Registered:
    """What registration found out.

    `copy_checked`: the server's copy was read and has the same semantic digest. `prompt_checked`: the server told how it
    renders a conversation, and it is the chat template's way.
    """

    name: str
    uploaded: bool
    copy_checked: bool
    prompt_checked: bool
    judgements: tuple[Judgement, ...]


def register(client: Ollama, entry: Entry, progress: Progress) -> Registered:
    """Register one model.

    Raises:
        ToolError: the server failed, rendered another prompt, or gave an empty answer.
        ArtifactError: its copy of the file has another semantic digest.
    """
    recipe = recipe_of(entry)
    progress.emit("upload", model=entry.name, file=entry.file.name)
    digest, uploaded = client.upload(entry.file)
    client.create(
        entry.name,
        files={entry.file.name: digest},
        template=recipe.go,
        system=entry.system,
        parameters=dict(recipe.parameters),
    )
    checked = _check_copy(client, entry)
    rendered = _check_rendering(client, entry, recipe)
    client.generate(
        entry.name,
        prompt_of(recipe.chat_template, entry.system, CASES[0].text),
        options={"num_predict": 1},
    )
    found = tuple(_judgements(client, entry, recipe, progress))
    return Registered(entry.name, uploaded, checked, rendered, found)


def _check_copy(client: Ollama, entry: Entry) -> bool:
    blob = client.blob_of(entry.name)
    if blob is None:
        return False
    if semantic_digest(blob) != semantic_digest(entry.file):
        raise ArtifactError(
            "the server's copy of the file behaves differently: its semantic digest is another",
            where=entry.name,
            fix="update Ollama, then register again",
        )
    return True


def _check_rendering(client: Ollama, entry: Entry, recipe: Recipe) -> bool:
    conversation = [
        {"role": "system", "content": entry.system},
        {"role": "user", "content": CASES[0].text},
    ]
    wanted = render(recipe.chat_template, conversation, add_generation_prompt=True) + recipe.begins
    found = client.rendered(entry.name, conversation)
    if found is not None and found != wanted:
        raise ToolError(
            "the server renders another prompt than the chat template",
            where=entry.name,
            fix="update Ollama, or serve the file with llama-server",
        )
    return found is not None


def _judgements(
    client: Ollama, entry: Entry, recipe: Recipe, progress: Progress
) -> list[Judgement]:
    stops = [text for text in _texts(recipe.parameters["stop"]) if not text.startswith("#")]

    def say(prompt: str, most: int, ends: list[str]) -> str:
        return client.generate(entry.name, prompt, options={"num_predict": most, "stop": ends})

    found: list[Judgement] = []
    for case in progress.bar(CASES, total=len(CASES), what=entry.name, unit="prompt"):
        prompt = prompt_of(recipe.chat_template, entry.system, case.text)
        found.append(
            judge(
                case, prompt, say, fmt=entry.format, answer_tokens=entry.answer_tokens, stops=stops
            )
        )
    if empty := [number for number, one in enumerate(found, start=1) if one.empty]:
        raise ToolError(
            f"{entry.name} is registered but answers nothing to prompts {empty}",
            where=client.host,
            fix="look at the server's log; an empty answer usually means a wrong template or stop text",
        )
    return found


def _texts(value: float | int | str | list[str]) -> list[str]:
    return value if isinstance(value, list) else [str(value)]
