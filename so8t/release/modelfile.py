"""From the file's own chat template to a Modelfile: Go template, stop tokens, parameters.

Ollama renders conversations with a Go template, while a GGUF file stores a Jinja chat template. The
stored one is not translated, it is recognised: it must render a set of probe conversations exactly
like one of the families below. Then the family's Go template is written and evaluated on the same
probes. Any other chat template is refused by name.

By default the turn opens at the final answer, because a plain `ollama run` would print the model's
private thinking; `expose_thinking` leaves the turn's beginning to the model.

Probes begin with a system message, as everything we register does. Not covered: tools, images,
Llama-3's dated header.
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
# What families could differ in: line breaks and quotes in a text, what looks like an action, and
# how earlier turns of the assistant are written.
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
    """A way to write conversations.

    Attributes:
        name: for messages.
        before: what stands before each role's words.
        after: what stands after them.
        opening: what opens the answer.
        stops: texts that end an answer.
    """

    name: str
    before: Mapping[str, str]
    after: str
    opening: str
    stops: tuple[str, ...]


def _family(name: str, before: str, after: str, stops: tuple[str, ...]) -> Family:
    # Families name the role the same way for all three; only the frame differs.
    heads = {role: before.format(role) for role in ROLES}
    return Family(name, heads, after, heads["assistant"], stops)


# Every token that opens or closes a turn: a model may forget its own end.
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

    Args:
        chat_template: Jinja text.
        where: the file it is from, for the message.
    """
    for family in FAMILIES:
        # All probes: two families may agree on a conversation of one turn.
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
    # Some templates refuse a conversation by raising; then it is not this family.
    except ArtifactError:
        return False


def spell(family: Family, conversation: Sequence[Message]) -> str:
    """A conversation in a family's words, up to where the assistant begins.

    Args:
        family: whose words.
        conversation: messages from the system's on.
    """
    turns = []
    for message in conversation:
        before = family.before[message["role"]]
        turns.append(before + message["content"] + family.after)
    # Up to here the text is given; what follows is the model's.
    return "".join(turns) + family.opening


def opener(fmt: Format, *, expose_thinking: bool) -> str:
    """What the assistant's turn begins with in Ollama.

    Args:
        fmt: how thinking and answer are marked.
        expose_thinking: leave the beginning to the model.

    Returns:
        Text; empty where thinking is shown.
    """
    if expose_thinking:
        return ""
    return final_cue(fmt)


def go_template(family: Family, begins: str) -> str:
    """The Go template of a family, evaluated on the probes.

    Args:
        family: how conversations are written.
        begins: what opens the assistant's turn, after the family's own opening.

    Raises:
        ArtifactError: it does not render a probe as it should: a mistake of ours, never the user's.
    """
    parts = [_action("range .Messages")]
    for role in ROLES:
        # One chain: a message of any other role prints nothing.
        keyword = "if" if role == ROLES[0] else "else if"
        parts += [
            _action(f'{keyword} eq .Role "{role}"'),
            _print(family.before[role]),
            _action(".Content"),
            _print(family.after),
        ]
    parts += [
        _action("end"),
        _action("end"),
        _print(family.opening + begins),
    ]
    text = "".join(parts)
    for probe in PROBES:
        if gotemplate.execute(text, gotemplate.messages(probe)) != spell(family, probe) + begins:
            raise ArtifactError(
                f"the Go template of {family.name} does not render as the chat template does",
                where="so8t/release/modelfile.py",
            )
    return text


def _action(expression: str) -> str:
    return "{{ " + expression + " }}"


def _print(text: str) -> str:
    """An action that prints a constant, so that no line break of the template itself counts."""
    return _action(gotemplate.quote(text))


def check_tokens(
    tokenize: Callable[[str], list[int]], chat_template: str, go: str, begins: str
) -> int:
    """Compare token ids of both templates on the probes.

    Args:
        tokenize: the file's tokenizer, from text to ids.
        chat_template: the file's own template.
        go: the Go template made for it.
        begins: what opens the assistant's turn.

    Returns:
        How many tokens were compared.

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
        # Counted, so that a probe that renders to nothing does not pass for agreement.
        compared += len(wanted)
    return compared


def stops(family: Family, *, expose_thinking: bool) -> list[str]:
    """Texts that end an answer; where thinking stays private, also the headings before it.

    Args:
        family: of the chat template.
        expose_thinking: do not stop at the headings before the answer.
    """
    if expose_thinking:
        return list(family.stops)
    # A model that starts over with its thinking is cut off before it is read.
    return [*family.stops, THINKING_HEADING.strip(), CUE.strip()]


def write(file: str, go: str, system: str, parameters: Parameters) -> str:
    """The text of a Modelfile.

    Args:
        file: name of the GGUF file beside it.
        go: the Go template.
        system: the system prompt.
        parameters: sampling parameters by Ollama's names; a list becomes one line per item.

    Raises:
        ParamsError: a value that Ollama's parser would change.
    """
    _require_plain("FROM", file)
    _require_plain("TEMPLATE", go)
    _require_plain("SYSTEM", system)
    lines = [
        # In the file itself: it will be copied to where nobody reads our pages.
        "# Written by so8t. Verdicts are not enforced here: "
        "`so8t ask` and the server apply the card.",
        f"FROM ./{file}",
        f'TEMPLATE """{go}"""',
        f'SYSTEM """{system}"""',
    ]
    for key, setting in parameters.items():
        # Ollama takes a list as the same parameter several times.
        items = setting if isinstance(setting, list) else [setting]
        for item in items:
            _require_plain(f"PARAMETER {key}", str(item))
            value = gotemplate.quote(item) if isinstance(item, str) else str(item)
            lines.append(f"PARAMETER {key} {value}")
    return "\n".join(lines) + "\n"


def _require_plain(name: str, value: str) -> None:
    """Refuse what Ollama's parser would change.

    Three quotes end a value, and characters that are not printable are dropped: tabs, but also the
    ideographic space U+3000, which is common in Japanese text.

    Raises:
        ParamsError: the value holds such a thing.

    Args:
        name: of the entry, for the message.
        value: its text.
    """
    # A quote at the end would make four with the three that follow.
    if '"""' in value or value.endswith('"'):
        raise ParamsError(
            f"{name} holds three quotes, or ends with one, which ends the value in a Modelfile",
            where="Modelfile",
            fix="change data.system, or register through the API (`so8t register`)",
        )
    # Line breaks are kept by the parser, and are all that templates need.
    dropped = {char for char in value if not char.isprintable() and char != "\n"}
    if dropped:
        codes = ", ".join(sorted(f"U+{ord(char):04X}" for char in dropped))
        raise ParamsError(
            f"{name} holds {codes}, which Ollama drops without a word",
            where="Modelfile",
            fix="change data.system, or register through the API (`so8t register`)",
        )


@dataclass(frozen=True, slots=True)
class Entry:
    """One model to register: its file and what surrounds it.

    Attributes:
        name: what Ollama calls the model.
        file: the GGUF file.
        system: the system prompt.
        format: how thinking and answer are marked.
        parameters: sampling parameters by Ollama's names.
        answer_tokens: most tokens of an answer.
        expose_thinking: leave the turn's beginning to the model.
    """

    name: str
    file: Path
    system: str
    format: Format
    parameters: Parameters
    answer_tokens: int
    expose_thinking: bool


@dataclass(frozen=True, slots=True)
class Recipe:
    """What Ollama is told about a file.

    Attributes:
        chat_template: the file's own, for comparing renderings.
        go: the Go template.
        begins: what opens the assistant's turn.
        parameters: with the stop texts.
    """

    chat_template: str
    go: str
    begins: str
    parameters: Parameters


def recipe_of(entry: Entry) -> Recipe:
    """Read the file's chat template and make what Ollama needs.

    Raises:
        ArtifactError: the file has no chat template, or one of no known family.

    Args:
        entry: the model to register.
    """
    chat_template = read_keys(entry.file).get("tokenizer.chat_template")
    # llama.cpp would then assume a template of its own, which nobody compared.
    if not isinstance(chat_template, str):
        raise ArtifactError(
            "the file holds no chat template",
            where=str(entry.file),
            fix="convert it again with so8t",
        )
    # Asked of the file, not of params.yaml: the file is what will run.
    family = recognise(chat_template, entry.file)
    begins = opener(entry.format, expose_thinking=entry.expose_thinking)
    go = go_template(family, begins)
    ends = stops(family, expose_thinking=entry.expose_thinking)
    # Stop texts belong to the family, so no parameter of the user's replaces them.
    parameters: Parameters = {**entry.parameters, "stop": ends}
    return Recipe(chat_template, go, begins, parameters)
