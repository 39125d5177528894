"""Does a row stand alone, or does its request mean something only with what stands around it?

The verdict, its certificate and everything that serves it see one request under one system prompt
(`data.system`). A row that needs more than that is refused under a reason of its own. Reading its
last turn alone would keep the label and change what it is about, and nobody would see it.

Covered: fields beside the request, roles of messages, rendered conversations. Not covered: requests
that speak of an earlier turn in their own words ("それも送って"): only a reader finds those.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

# Reason -> what the row depends on, for warnings and for the page.
REASONS = {
    "several_turns": "earlier turns of a conversation",
    "own_system": "a system prompt other than data.system",
    "tools": "tools or functions",
    "media": "images, sound or video",
    "more_context": "text in a field that is not part of the request",
}
# Names of fields in lower case and without signs between words: "chat_history" and "chatHistory"
# are one. They are OpenAI's, ShareGPT's, LLaMA-Factory's, Dolly's, TRL's and MT-Bench's.
_FIELDS = {
    "several_turns": (
        "history chathistory conversationhistory dialoguehistory dialoghistory previousturns "
        "previousmessages turns dialogue dialog conversation"
    ),
    "own_system": "system systemprompt systemmessage systeminstruction persona",
    "tools": "tools functions functioncall toolcalls",
    "media": "image images imageurl imageurls imagepath audio audios video videos",
    "more_context": (
        "text instruction input inputs prompt query question context contexts passage passages "
        "background messages conversations"
    ),
}
_REASON_OF = {name: reason for reason, names in _FIELDS.items() for name in names.split()}
# Roles of messages with which the assistant calls something and is answered.
_TOOL_ROLES = ("tool", "function", "functioncall", "observation")
_SYSTEM_ROLES = ("system", "developer")
# The fixed words that Alpaca's "text" has around instruction, input and answer are fewer.
FRAME_CHARS = 250
# A conversation that some data sets keep rendered in one field.
_RENDERED = re.compile(r"<\|(system|user)\|>(.*?)(?=<\|)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Exchange:
    """A request and its answer, and which keys of the row the request is made of.

    `parts` are one below the other in the request; `answer` is "" where the row gives none.
    """

    keys: tuple[str, ...]
    parts: tuple[str, ...]
    answer: str

    @property
    def text(self) -> str:
        """The request."""
        return "\n".join(self.parts)


def dependence(raw: Mapping[str, Any], exchange: Exchange, system: str) -> str | None:
    """The reason why a row does not stand alone; None where it does.

    Args:
        raw: the row.
        exchange: what is read of it.
        system: data.system.
    """
    for key, value in raw.items():
        reason = _REASON_OF.get(_folded(key))
        if reason is None or key in exchange.keys or not _is_given(value):
            continue
        if reason == "own_system" and is_same_system(value, system):
            continue
        if reason == "more_context" and _says_nothing_new(value, exchange):
            continue
        return reason
    return _in_rendered(exchange.answer, system)


def dependence_of_message(message: Mapping[str, Any], system: str) -> str | None:
    """The reason why a conversation with this message does not stand alone, or None.

    Args:
        message: "role" and "content", or the ShareGPT names "from" and "value".
        system: data.system.
    """
    role = _folded(message.get("role", message.get("from")))
    content = message.get("content", message.get("value"))
    if role in _TOOL_ROLES:
        return "tools"
    if role in _SYSTEM_ROLES and not is_same_system(content, system):
        return "own_system"
    # A text may come in parts; a part that is not text is a picture or a sound.
    for part in content if isinstance(content, list) else ():
        if isinstance(part, dict) and part.get("type", "text") != "text":
            return "media"
    for key, value in message.items():
        reason = _REASON_OF.get(_folded(key))
        if reason in ("tools", "media") and _is_given(value):
            return reason
    return None


def is_system(message: Mapping[str, Any]) -> bool:
    """Whether a message is the system prompt, under any of its names."""
    return _folded(message.get("role", message.get("from"))) in _SYSTEM_ROLES


def is_same_system(value: Any, system: str) -> bool:
    """Whether a row's system prompt is none, or the one that every conversation has."""
    if not _is_given(value):
        return True
    return isinstance(value, str) and _words(value) == _words(system)


def _in_rendered(answer: str, system: str) -> str | None:
    """What a rendered conversation in the answer's field holds beside one exchange."""
    if "<|assistant|>" not in answer:
        return None
    found = _RENDERED.findall(answer)
    if any(role == "system" and not is_same_system(text, system) for role, text in found):
        return "own_system"
    if [role for role, _ in found].count("user") > 1:
        return "several_turns"
    return None


def _says_nothing_new(value: Any, exchange: Exchange) -> bool:
    """Whether every text of a field is in the request, or is the whole row as one text."""
    request = _words(exchange.text)
    pieces = [_words(piece) for piece in (*exchange.parts, exchange.answer)]
    for text in _texts(value):
        words = _words(text)
        around = len(words) - sum(map(len, pieces))
        is_whole_row = around <= FRAME_CHARS and all(piece in words for piece in pieces)
        if words not in request and not is_whole_row:
            return False
    return True


def _is_given(value: Any) -> bool:
    """Whether a value says anything; null, "", [], {} and [["", ""]] do not, nor does a count."""
    return any(text.strip() for text in _texts(value))


def _texts(value: Any) -> Iterator[str]:
    """Every text in a value, at any depth; a number within a list or an object counts as one."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, (list, dict)):
        for inner in value.values() if isinstance(value, dict) else value:
            if isinstance(inner, (int, float)) and not isinstance(inner, bool):
                yield str(inner)
            else:
                yield from _texts(inner)


def _folded(name: Any) -> str:
    """A name in lower case with its letters alone; "" of what is no text."""
    return re.sub(r"[^a-z]", "", name.lower()) if isinstance(name, str) else ""


def _words(text: str) -> str:
    """A text without the spaces and line ends in which two copies of it may differ."""
    return "".join(text.split())
