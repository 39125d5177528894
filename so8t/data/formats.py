"""What the fields of a row mean: every accepted shape becomes one Row.

Shapes: {"text","label"}, {"text"}, {"instruction","output"} (with "input"), chat messages, four-class labels, rows that
already hold the thinking format, and the generator's own rows. Reasoning is never made up: a row without it trains the
answer only, and the two halves of an answer are never called thinking and answer.

Covered: fields, labels, thinking formats. Not covered: reading files (ingest), what is fit to keep (hygiene).
"""

import hashlib
from dataclasses import dataclass, field, replace
from typing import Any

from so8t.chat import has_marker, read_turn
from so8t.errors import DataError
from so8t.verdict import Authority, Verdict, verdict_of

LABEL_KEYS = ("verdict", "label", "judgment", "four_class_label", "label4")
THINKING_KEYS = ("thinking", "think", "reasoning")
ANSWER_KEYS = ("final", "output", "response", "answer")
ROLES = {
    "system": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
}
HELD_OUT = ("", "cells", "phrases")
TEMPLATES = {
    Verdict.ALLOW: "承知しました。この依頼にお答えします。",
    Verdict.ESCALATE: "このリクエストは追加の確認が必要です。担当者に引き継ぎます。",
    Verdict.DENY: "申し訳ありませんが、このご要望にはお応えできません。",
}
CONTINUE = "次の文に続く文章を書いてください。\n"
COLLECTED = (
    "url",
    "fetched_at",
    "retrieved_at",
)  # fields that say a row was collected from somewhere


@dataclass(frozen=True, slots=True)
class Row:
    """One sample in the project's own terms. `group` None: found from near-duplicates."""

    id: str
    text: str
    verdict: Verdict | None
    authority: Authority | None
    domain: str
    thinking: str | None
    final: str
    group: str | None
    pair: str | None
    factors: dict[str, Any]
    source: str
    license: str | None
    held_out: str
    where: str
    collected: bool = False
    flags: tuple[str, ...] = field(default=())


def _refuse(problem: str, where: str, fix: str) -> DataError:
    return DataError(problem, where=where, fix=fix)


def row_of(raw: dict[str, Any], where: str, source: str) -> Row | str:
    """Understand one JSON object; a string is the reason why the row is well-formed but cannot be used.

    Raises:
        DataError: unknown label, missing text, fields that contradict each other or are not text.
    """
    prompt = _prompt(raw, where)
    if isinstance(prompt, str):
        return prompt
    text, answer = prompt
    row = Row(
        id=_text(raw, "id", where) or f"row-{hashlib.sha256(text.encode()).hexdigest()[:16]}",
        text=text,
        verdict=_verdict(raw, where),
        authority=_authority(raw, where),
        domain=_text(raw, "domain", where) or "general",
        thinking=_first(raw, THINKING_KEYS, where),
        final="",
        group=_text(raw, "group", where),
        pair=_text(raw, "pair", where),
        factors=_factors(raw, where),
        source=_text(raw, "source", where) or source,
        license=_text(raw, "license", where),
        held_out=_held_out(raw, where),
        where=where,
        collected=any(k in raw for k in COLLECTED),
    )
    return _with_answer(row, answer)


def _with_answer(row: Row, answer: str) -> Row:
    """Split an answer that is already in a thinking format; otherwise it is the final answer as it stands."""
    if answer and has_marker(answer):
        turn = read_turn(_assistant_part(answer))
        if isinstance(turn, str):
            raise _refuse(
                f"the answer looks like the thinking format but is not well-formed: {turn}",
                row.where,
                "write `# 思考ステップ`, text, empty line, `# 最終回答`, text; or plain text without these headings",
            )
        named = None if turn.verdict is None else _label(turn.verdict, row.where)
        if named and row.verdict and named is not row.verdict:
            raise _refuse(
                "the label and the answer's own verdict differ", row.where, "make them agree"
            )
        return replace(
            row,
            verdict=row.verdict or named,
            thinking=turn.thinking or row.thinking,
            final=turn.final,
        )
    if not answer and row.verdict is None:
        raise _refuse(
            "neither a label nor an answer",
            row.where,
            'add "label" (ALLOW, ESCALATE, DENY) or "output"',
        )
    return replace(row, final=answer or TEMPLATES[row.verdict or Verdict.ESCALATE])


def _assistant_part(answer: str) -> str:
    """The last assistant turn of a whole chat text, or the text itself."""
    tail = answer.rpartition("<|assistant|>")[2]
    return tail.partition("<|end|>")[0].strip()


# --- prompt and answer ---


def _prompt(raw: dict[str, Any], where: str) -> tuple[str, str] | str:
    for key in ("messages", "conversations"):
        if key in raw:
            return _chat(raw[key], where)
    if "instruction" in raw:
        extra = _text(raw, "input", where)
        return _required(raw, "instruction", where) + (f"\n{extra}" if extra else ""), _first(
            raw, ANSWER_KEYS, where
        ) or ""
    if "text" not in raw:
        raise _refuse(
            "no text",
            where,
            'give "text" and "label", or "instruction" and "output", or "messages"',
        )
    text, answer = _required(raw, "text", where), _first(raw, ANSWER_KEYS, where) or ""
    if answer or any(raw.get(key) is not None for key in LABEL_KEYS):
        return text, answer
    return _continuation(text)


def _continuation(text: str) -> tuple[str, str] | str:
    """Plain text trains the language only: asked for what follows its first sentence."""
    head, stop, rest = text.partition("。")
    return (f"{CONTINUE}{head}{stop}", rest.strip()) if rest.strip() else "plain_text_too_short"


def _chat(messages: Any, where: str) -> tuple[str, str] | str:
    if (
        not isinstance(messages, list)
        or not messages
        or not all(isinstance(m, dict) for m in messages)
    ):
        raise _refuse(
            "messages must be a list of objects",
            where,
            '[{"role": "user", "content": "..."}, {"role": "assistant", "content": "..."}]',
        )
    turns = []
    for message in messages:
        role, content = (
            message.get("role", message.get("from")),
            message.get("content", message.get("value")),
        )
        if role not in ROLES or not isinstance(content, str) or not content.strip():
            raise _refuse(
                "a message has no known role or no text",
                where,
                "roles are system, user, assistant; content is text",
            )
        turns.append((ROLES[role], content.strip()))
    spoken = [turn for turn in turns if turn[0] != "system"]
    if [role for role, _ in spoken] in (["user"], ["user", "assistant"]):
        return spoken[0][1], spoken[1][1] if len(spoken) == 2 else ""
    if spoken and spoken[0][0] == "user":
        return "several_turns"
    raise _refuse(
        "the conversation does not begin with the user", where, "put the user's message first"
    )


# --- single fields ---


def _text(raw: dict[str, Any], key: str, where: str) -> str | None:
    value = raw.get(key)
    if value is not None and not isinstance(value, str):
        raise _refuse(
            f'"{key}" is {type(value).__name__}, not text', where, f'write "{key}": "..."'
        )
    return (
        value.replace("\r\n", "\n").replace("\r", "\n").strip() or None
        if value is not None
        else None
    )


def _required(raw: dict[str, Any], key: str, where: str) -> str:
    value = _text(raw, key, where)
    if value is None:
        raise _refuse(f'"{key}" is empty', where, "remove the row, or fill it in")
    return value


def _first(raw: dict[str, Any], keys: tuple[str, ...], where: str) -> str | None:
    found = [value for key in keys if (value := _text(raw, key, where)) is not None]
    if len(set(found)) > 1:
        raise _refuse(f"more than one of {', '.join(keys)}, and they differ", where, "keep one")
    return found[0] if found else None


def _label(label: Any, where: str) -> Verdict:
    try:
        return verdict_of(label if isinstance(label, str) else "")
    except ValueError:
        raise _refuse(
            "unknown label",
            where,
            "labels are ALLOW, ESCALATE (ESCALATION), DENY (REFUSE), in capitals, as text",
        ) from None


def _verdict(raw: dict[str, Any], where: str) -> Verdict | None:
    found = {_label(raw[key], where) for key in LABEL_KEYS if raw.get(key) is not None}
    if len(found) > 1:
        raise _refuse("two labels that differ", where, "keep one label per row")
    return found.pop() if found else None


def _authority(raw: dict[str, Any], where: str) -> Authority | None:
    value = raw.get("authority")
    if value not in (None, *Authority):
        raise _refuse("unknown authority", where, "authority is handle, human or absent")
    return None if value is None else Authority(value)


def _held_out(raw: dict[str, Any], where: str) -> str:
    value = raw.get("held_out") or ""
    if value not in HELD_OUT:
        raise _refuse("unknown held_out", where, "held_out is cells, phrases or absent")
    return str(value)


def _factors(raw: dict[str, Any], where: str) -> dict[str, Any]:
    value = raw.get("factors") or {}
    if not isinstance(value, dict):
        raise _refuse('"factors" is not an object', where, 'write "factors": {"name": "value"}')
    four = next((raw[key] for key in LABEL_KEYS if raw.get(key) == "REFUSE"), None)
    return {**value, "label4": four} if four else value
