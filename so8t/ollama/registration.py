"""Give a file to an Ollama server and find out whether what it serves is what we gave.

The file is uploaded unless the server has it, and a model is created of it. Ollama rewrites the
file, so the semantic digest of its copy is compared with ours, where the copy lies on this machine.
Then the server's rendering of a conversation is compared with the chat template, one token is
generated, and the replies to the smoke test's prompts are checked. Not covered: who may register
what (`so8t.ollama.cli`).
"""

from dataclasses import dataclass

from so8t.chat import prompt_of, render
from so8t.errors import ArtifactError, ToolError
from so8t.identity import semantic_digest
from so8t.ollama.client import Ollama
from so8t.ollama.smoke_test import CASES, Checked, check_reply
from so8t.progress import Progress
from so8t.release.modelfile import Entry, Recipe, recipe_of


@dataclass(frozen=True, slots=True)
class Registered:
    """What registration found out.

    Attributes:
        name: of the model on the server.
        uploaded: the file was sent; otherwise the server had it.
        copy_checked: the server's copy was read and has the same semantic digest.
        prompt_checked: the server told how it renders a conversation, and it is the chat
            template's way.
        replies: what came of each prompt of the smoke test.
    """

    name: str
    uploaded: bool
    copy_checked: bool
    prompt_checked: bool
    replies: tuple[Checked, ...]


def register_entry(client: Ollama, entry: Entry, progress: Progress) -> Registered:
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
    copy_checked = _check_copy(client, entry)
    prompt_checked = _check_rendering(client, entry, recipe)
    # One token first: a file that the server cannot load fails here, with the server's own words.
    prompt = prompt_of(recipe.chat_template, entry.system, CASES[0].text)
    client.generate(entry.name, prompt, options={"num_predict": 1})
    replies = _check_replies(client, entry, recipe, progress)
    return Registered(entry.name, uploaded, copy_checked, prompt_checked, tuple(replies))


def _check_copy(client: Ollama, entry: Entry) -> bool:
    """Whether the server's copy could be compared with the file; fails when they differ."""
    copy = client.blob_of(entry.name)
    if copy is None:
        return False
    if semantic_digest(copy) != semantic_digest(entry.file):
        raise ArtifactError(
            "the server's copy of the file behaves differently: its semantic digest is another",
            where=entry.name,
            fix="update Ollama, then register again",
        )
    return True


def _check_rendering(client: Ollama, entry: Entry, recipe: Recipe) -> bool:
    """Whether the server's rendering could be compared; fails when it is another."""
    conversation = [
        {"role": "system", "content": entry.system},
        {"role": "user", "content": CASES[0].text},
    ]
    wanted = render(recipe.chat_template, conversation, add_generation_prompt=True) + recipe.begins
    found = client.rendered(entry.name, conversation)
    if found is None:
        return False
    if found != wanted:
        raise ToolError(
            "the server renders another prompt than the chat template",
            where=entry.name,
            fix="update Ollama, or serve the file with llama-server",
        )
    return True


def _check_replies(
    client: Ollama, entry: Entry, recipe: Recipe, progress: Progress
) -> list[Checked]:
    """Put every prompt of the smoke test to the model.

    Raises:
        ToolError: the server failed, or a reply is empty.
    """
    # Headings are stop texts as well, but here one in an answer is a fault to be seen, not cut off.
    stops = [text for text in _texts(recipe.parameters["stop"]) if not text.startswith("#")]

    def say(prompt: str, most: int, ends: list[str]) -> str:
        return client.generate(entry.name, prompt, options={"num_predict": most, "stop": ends})

    replies: list[Checked] = []
    empty: list[int] = []
    cases = progress.bar(CASES, total=len(CASES), what=entry.name, unit="prompt")
    for number, case in enumerate(cases, start=1):
        reply = check_reply(
            case,
            prompt_of(recipe.chat_template, entry.system, case.text),
            say,
            fmt=entry.format,
            answer_tokens=entry.answer_tokens,
            stops=stops,
        )
        replies.append(reply)
        if reply.empty:
            empty.append(number)
    if empty:
        raise ToolError(
            f"{entry.name} is registered but answers nothing to prompts {empty}",
            where=client.host,
            fix="look at the server's log; "
            "an empty answer usually means a wrong template or stop text",
        )
    return replies


def _texts(value: float | int | str | list[str]) -> list[str]:
    return value if isinstance(value, list) else [str(value)]
