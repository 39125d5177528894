"""From the file's own chat template to a Modelfile: Go template, stop tokens, parameters.

A chat template is not translated, it is *recognised*: it must render a set of probe conversations exactly like one of
the families below; then the family's Go template is written and evaluated on the same probes. Any other template is
refused by name. By default the turn opens at the final answer, because a plain `ollama run` would print the thinking;
`expose_thinking` leaves the turn's beginning to the model.

Probes begin with a system message, as everything we register does. Not covered: tools, images, Llama-3's dated header.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from so8t.chat import CUE, THINKING_HEADING, Format, Message, final_cue, render
from so8t.errors import ArtifactError, ParamsError
from so8t.gguf_file import read_keys
from so8t.release import gotemplate

Parameters = dict[str, float | int | str | list[str]]
ROLES = ("system", "user", "assistant")
PROBES: tuple[tuple[Message, ...], ...] = (
    ({"role": "system", "content": "規則。"}, {"role": "user", "content": "こんにちは"}),
    (
        {"role": "system", "content": "a\n\nb"},
        {"role": "user", "content": 'say "x" {{ .y }}'},
        {"role": "assistant", "content": "# 最終回答\nはい"},
        {"role": "user", "content": "もう一度"},
    ),
    (
        {"role": "system", "content": "s"},
        {"role": "user", "content": "1"},
        {"role": "assistant", "content": "2"},
        {"role": "user", "content": "3"},
        {"role": "assistant", "content": "4"},
        {"role": "user", "content": "5"},
    ),
)


@dataclass(frozen=True, slots=True)
class Family:
    """A way to write conversations: what stands before and after each role's words, and what opens the answer."""

    name: str
    before: Mapping[str, str]
    after: str
    opening: str
    stops: tuple[str, ...]


def _family(name: str, before: str, after: str, stops: tuple[str, ...]) -> Family:
    heads = {role: before.format(role) for role in ROLES}
    return Family(name, heads, after, heads["assistant"], stops)


_PHI_STOPS = ("<|end|>", "<|endoftext|>", "<|user|>", "<|system|>", "<|assistant|>")
FAMILIES = (
    _family("phi-3", "<|{}|>\n", "<|end|>\n", _PHI_STOPS),
    _family("phi-4-mini", "<|{}|>", "<|end|>", _PHI_STOPS),
    _family(
        "chatml",
        "<|im_start|>{}\n",
        "<|im_end|>\n",
        ("<|im_end|>", "<|im_start|>", "<|endoftext|>"),
    ),
)


def recognise(chat_template: str, where: Path) -> Family:
    """The family of a chat template.

    Raises:
        ArtifactError: none of the families writes conversations the way it does.
    """
    for family in FAMILIES:
        if all(_matches(chat_template, family, probe) for probe in PROBES):
            return family
    known = ", ".join(family.name for family in FAMILIES)
    raise ArtifactError(
        f"the chat template is of no family that can be written for Ollama ({known})",
        where=str(where),
        fix="serve the file with llama-server, which renders the stored template itself",
    )


def _matches(chat_template: str, family: Family, probe: Sequence[Message]) -> bool:
    try:
        return render(chat_template, probe, add_generation_prompt=True) == spell(family, probe)
    except ArtifactError:
        return False


def spell(family: Family, conversation: Sequence[Message]) -> str:
    """A conversation in a family's words, up to where the assistant begins."""
    turns = (f"{family.before[m['role']]}{m['content']}{family.after}" for m in conversation)
    return "".join(turns) + family.opening


def opener(fmt: Format, *, expose_thinking: bool) -> str:
    """What the assistant's turn begins with in Ollama."""
    return "" if expose_thinking else final_cue(fmt)


def go_template(family: Family, begins: str) -> str:
    """The Go template of a family, with the assistant's turn opened by `begins`; evaluated on the probes.

    Raises:
        ArtifactError: it does not render a probe as it should (a mistake of ours, never the user's).
    """
    turns = [
        f'eq .Role "{role}" }}}}{{{{ {gotemplate.quote(family.before[role])} }}}}{{{{ .Content }}}}'
        f"{{{{ {gotemplate.quote(family.after)} }}}}"
        for role in ROLES
    ]
    body = "{{ if " + "{{ else if ".join(turns) + "{{ end }}"
    text = (
        "{{ range .Messages }}"
        + body
        + "{{ end }}{{ "
        + gotemplate.quote(family.opening + begins)
        + " }}"
    )
    for probe in PROBES:
        if gotemplate.execute(text, gotemplate.messages(probe)) != spell(family, probe) + begins:
            raise ArtifactError(
                f"the Go template of {family.name} does not render as the chat template does",
                where="so8t/release/modelfile.py",
            )
    return text


def check_tokens(
    tokenize: Callable[[str], list[int]], chat_template: str, go: str, begins: str
) -> int:
    """Compare token ids of both templates on the probes; return how many tokens were compared.

    Raises:
        ArtifactError: they differ.
    """
    compared = 0
    for probe in PROBES:
        wanted = tokenize(render(chat_template, probe, add_generation_prompt=True) + begins)
        found = tokenize(gotemplate.execute(go, gotemplate.messages(probe)))
        if wanted != found:
            raise ArtifactError(
                "the Modelfile's template and the chat template give different tokens",
                where="Modelfile",
            )
        compared += len(wanted)
    return compared


def stops(family: Family, *, expose_thinking: bool) -> list[str]:
    """Texts that end an answer; without exposed thinking also the headings that belong before it."""
    private = () if expose_thinking else (THINKING_HEADING.strip(), CUE.strip())
    return [*family.stops, *private]


def write(file: str, go: str, system: str, parameters: Parameters) -> str:
    """The text of a Modelfile.

    Raises:
        ParamsError: a value that Ollama's parser would change: it drops what is not printable, and ends at three quotes.
    """
    for name, value in (("FROM", file), ("TEMPLATE", go), ("SYSTEM", system)):
        _require_plain(name, value)
    lines = [
        "# Written by so8t. Verdicts are not enforced here: `so8t ask` and the server apply the card.",
        f"FROM ./{file}",
        f'TEMPLATE """{go}"""',
        f'SYSTEM """{system}"""',
    ]
    for key, setting in parameters.items():
        for item in setting if isinstance(setting, list) else [setting]:
            _require_plain(f"PARAMETER {key}", str(item))
            lines.append(
                f"PARAMETER {key} {gotemplate.quote(item) if isinstance(item, str) else item}"
            )
    return "\n".join(lines) + "\n"


def _require_plain(name: str, value: str) -> None:
    if '"""' in value or value.endswith('"'):
        raise ParamsError(
            f"{name} holds three quotes, or ends with one, which ends the value in a Modelfile",
            where="Modelfile",
            fix="change data.system, or register through the API (`so8t register`)",
        )
    if bad := sorted({f"U+{ord(c):04X}" for c in value if not (c.isprintable() or c == "\n")}):
        raise ParamsError(
            f"{name} holds {', '.join(bad)}, which Ollama drops without a word",
            where="Modelfile",
            fix="change data.system, or register through the API (`so8t register`)",
        )


@dataclass(frozen=True, slots=True)
class Entry:
    """One model to register: its file and what surrounds it."""

    name: str
    file: Path
    system: str
    format: Format
    parameters: Parameters
    answer_tokens: int
    expose_thinking: bool


@dataclass(frozen=True, slots=True)
class Recipe:
    """What Ollama is told about a file: Go template, parameters with stop texts, and where the turn opens."""

    chat_template: str
    go: str
    begins: str
    parameters: Parameters


def recipe_of(entry: Entry) -> Recipe:
    """Read the file's chat template and make what Ollama needs.

    Raises:
        ArtifactError: the file has no chat template, or one of no known family.
    """
    chat_template = read_keys(entry.file).get("tokenizer.chat_template")
    if not isinstance(chat_template, str):
        raise ArtifactError(
            "the file holds no chat template",
            where=str(entry.file),
            fix="convert it again with so8t",
        )
    family = recognise(chat_template, entry.file)
    begins = opener(entry.format, expose_thinking=entry.expose_thinking)
    ends: list[str] = stops(family, expose_thinking=entry.expose_thinking)
    return Recipe(
        chat_template,
        go_template(family, begins),
        begins,
        {**entry.parameters, "stop": ends},
    )
