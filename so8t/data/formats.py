"""What the fields of a user's row mean: every accepted shape becomes one `Sample`.

Accepted shapes:
    {"text", "label"}: a request and its verdict, which may be one of four classes.
    {"text"}: plain text, which trains language only.
    {"instruction", "output"}, with or without "input" or "context", which go below the instruction.
    {"messages"} or {"conversations"}: one exchange; a system message must be data.system.
    Answers that already are in one of the two thinking formats (`so8t.chat`).
    The generator's own rows, and rows that `prepare` wrote.

Reasoning is never made up: a row without it trains the answer only, and an answer is never cut in
half to call one half thinking.

Covered: fields, labels, thinking formats. Not covered: reading files (`ingest`), rows that do not
stand alone (`alone`), what is fit to keep (`hygiene`).
"""

import hashlib
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

from so8t.chat import has_marker, read_turn
from so8t.data.alone import Exchange, dependence, dependence_of_message, is_system
from so8t.errors import DataError
from so8t.verdict import Authority, Verdict, verdict_of

LABEL_KEYS = ("verdict", "label", "judgment", "four_class_label", "label4")
THINKING_KEYS = ("thinking", "think", "reasoning")
ANSWER_KEYS = ("final", "output", "response", "answer")
# What Alpaca and Dolly call the text that an instruction is about.
EXTRA_KEYS = ("input", "context")
# OpenAI's names, and those of the ShareGPT files.
ROLES = {
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
}
# The generator's own field: which test the row is held out for.
HELD_OUT = ("", "cells", "phrases", "exposure", "foreign")
# The answer of a labelled row that has none.
TEMPLATES = {
    Verdict.ALLOW: "承知しました。この依頼にお答えします。",
    Verdict.ESCALATE: "このリクエストは追加の確認が必要です。担当者に引き継ぎます。",
    Verdict.DENY: "申し訳ありませんが、このご要望にはお応えできません。",
}
# What plain text is asked for: see `_continuation`.
CONTINUE = "次の文に続く文章を書いてください。\n"
SHOWN = 60  # characters of a wrong value that an error repeats
# A row with one of these fields was collected from somewhere, and needs a licence.
COLLECTED = ("url", "fetched_at", "retrieved_at")

# Why a well-formed row cannot be used, as it is counted in the metrics: "several_turns".
Reason: TypeAlias = str


@dataclass(frozen=True, slots=True)
class Sample:
    """One row as the user brought it, in the project's terms, before it has a split.

    `group` is None where `prepare` must find it from near-duplicates. `where` is `file:line`.
    """

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


def sample_of(raw: dict[str, Any], where: str, source: str, system: str = "") -> Sample | Reason:
    """Understand one JSON object.

    Args:
        raw: the object.
        where: `file:line`, for errors.
        source: the sample's source where the object names none.
        system: data.system, the one system prompt that a row may have.

    Returns:
        The sample, or the reason why a well-formed row cannot be used.

    Raises:
        DataError: unknown label, missing text, fields that contradict each other or are not text.
    """
    exchange = _exchange(raw, where, system)
    if isinstance(exchange, str):
        return exchange
    reason = dependence(raw, exchange, system)
    if reason is not None:
        return reason
    digest = hashlib.sha256(exchange.text.encode()).hexdigest()
    sample = Sample(
        id=_text(raw, "id", where) or f"row-{digest[:16]}",
        text=exchange.text,
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
        collected=any(key in raw for key in COLLECTED),
    )
    return _with_answer(sample, exchange.answer)


def _with_answer(sample: Sample, answer: str) -> Sample:
    """The sample with its final answer, and with its thinking where the answer holds it."""
    if answer and has_marker(answer):
        return _with_turn(sample, answer)
    if answer:
        return replace(sample, final=answer)
    # A label alone is enough, since there is a fixed answer for it.
    if sample.verdict is None:
        raise DataError(
            "neither a label nor an answer",
            where=sample.where,
            fix='add "label" (ALLOW, ESCALATE, DENY) or "output"',
        )
    return replace(sample, final=TEMPLATES[sample.verdict])


def _with_turn(sample: Sample, answer: str) -> Sample:
    """The sample with an answer that is in a thinking format, taken apart."""
    turn = read_turn(_assistant_part(answer))
    if isinstance(turn, str):
        raise DataError(
            f"the answer looks like the thinking format but is not well-formed: {turn}",
            where=sample.where,
            fix="write `# 思考ステップ`, text, empty line, `# 最終回答`, text; "
            "or plain text without these headings",
        )
    verdict = sample.verdict
    if turn.verdict is not None:
        named = _label(turn.verdict, sample.where)
        if verdict is not None and named is not verdict:
            raise DataError(
                "the label and the answer's own verdict differ",
                where=sample.where,
                fix="make them agree",
            )
        verdict = named
    thinking = turn.thinking or sample.thinking
    return replace(sample, verdict=verdict, thinking=thinking, final=turn.final)


def _assistant_part(answer: str) -> str:
    """The last assistant turn of a whole chat text, or the text itself."""
    # Some data sets keep the rendered conversation in "output".
    tail = answer.rpartition("<|assistant|>")[2]
    return tail.partition("<|end|>")[0].strip()


# --- request and answer ---


def _exchange(raw: dict[str, Any], where: str, system: str) -> Exchange | Reason:
    for key in ("messages", "conversations"):
        if key in raw:
            return _of_messages(raw, key, where, system)
    answer = _first(raw, ANSWER_KEYS, where) or ""
    if "instruction" in raw:
        parts = [_required(raw, "instruction", where)]
        parts += [extra for key in EXTRA_KEYS if (extra := _text(raw, key, where))]
        return Exchange(("instruction", *EXTRA_KEYS), tuple(parts), answer)
    if "text" not in raw:
        raise DataError(
            "no text",
            where=where,
            fix='give "text" and "label", or "instruction" and "output", or "messages"',
        )
    text = _required(raw, "text", where)
    labels = [raw.get(key) for key in LABEL_KEYS]
    is_labelled = any(label is not None for label in labels)
    if answer or is_labelled:
        return Exchange(("text",), (text,), answer)
    return _continuation(text)


def _continuation(text: str) -> Exchange | Reason:
    """Plain text as a request: write what follows its first sentence."""
    head, stop, rest = text.partition("。")
    rest = rest.strip()
    if not rest:
        return "plain_text_too_short"
    return Exchange(("text",), (f"{CONTINUE}{head}{stop}",), rest)


def _of_messages(raw: dict[str, Any], key: str, where: str, system: str) -> Exchange | Reason:
    roles = []
    texts = []
    for message in _listed(raw[key], where):
        reason = dependence_of_message(message, system)
        if reason is not None:
            return reason
        # The system prompt is the project's own (data.system), the same in every conversation.
        if is_system(message):
            continue
        role, text = _turn(message, where)
        roles.append(role)
        texts.append(text)
    if roles == ["user"]:
        return Exchange((key,), (texts[0],), _first(raw, ANSWER_KEYS, where) or "")
    if roles == ["user", "assistant"]:
        return Exchange((key,), (texts[0],), texts[1])
    if roles and roles[0] == "user":
        # A verdict belongs to one request; of which turn it would be is not known here.
        return "several_turns"
    raise DataError(
        "the conversation does not begin with the user",
        where=where,
        fix="put the user's message first",
    )


def _listed(messages: Any, where: str) -> list[dict[str, Any]]:
    objects = []
    if isinstance(messages, list):
        objects = [message for message in messages if isinstance(message, dict)]
    if not objects or len(objects) < len(messages):
        raise DataError(
            "messages must be a list of objects",
            where=where,
            fix='[{"role": "user", "content": "..."}, {"role": "assistant", "content": "..."}]',
        )
    return objects


def _turn(message: dict[str, Any], where: str) -> tuple[str, str]:
    """Role and text of one message; "from" and "value" are the ShareGPT names of its fields."""
    role = message.get("role", message.get("from"))
    content = message.get("content", message.get("value"))
    text = content.strip() if isinstance(content, str) else ""
    # A list has no hash, so it is no key of ROLES to ask for.
    if not isinstance(role, str) or role not in ROLES or not text:
        raise DataError(
            f"a message has no known role or no text: {shown(role)}",
            where=where,
            fix="roles are system, user, assistant; content is text",
        )
    return ROLES[role], text


# --- single fields ---


def shown(value: Any) -> str:
    """A value of a row as an error shows it: in quotes, and cut where it is long."""
    text = repr(value)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]} ..."


def _text(raw: dict[str, Any], key: str, where: str) -> str | None:
    """A field's text with LF line ends; None where it is absent, null or blank."""
    value = raw.get(key)
    if value is None:
        return None
    if not isinstance(value, str):
        raise DataError(
            f'"{key}" is {type(value).__name__}, not text',
            where=where,
            fix=f'write "{key}": "..."',
        )
    plain = value.replace("\r\n", "\n")
    plain = plain.replace("\r", "\n")
    return plain.strip() or None


def _required(raw: dict[str, Any], key: str, where: str) -> str:
    value = _text(raw, key, where)
    if value is None:
        raise DataError(f'"{key}" is empty', where=where, fix="remove the row, or fill it in")
    return value


def _first(raw: dict[str, Any], keys: tuple[str, ...], where: str) -> str | None:
    """The value that stands under one of several names of the same field."""
    found = []
    for key in keys:
        value = _text(raw, key, where)
        if value is not None:
            found.append(value)
    if len(set(found)) > 1:
        raise DataError(
            f"more than one of {', '.join(keys)}, and they differ",
            where=where,
            fix="keep one",
        )
    return found[0] if found else None


def _label(label: Any, where: str) -> Verdict:
    try:
        # Anything but text is as unknown as an unknown word.
        return verdict_of(label if isinstance(label, str) else "")
    except ValueError:
        raise DataError(
            # In quotes, so that "DENY " and a full-width "ＤＥＮＹ" are seen for what they are.
            f"unknown label {shown(label)}",
            where=where,
            fix="labels are ALLOW, ESCALATE (ESCALATION), DENY (REFUSE), in capitals, as text",
        ) from None


def _verdict(raw: dict[str, Any], where: str) -> Verdict | None:
    found = set()
    for key in LABEL_KEYS:
        label = raw.get(key)
        if label is not None:
            found.add(_label(label, where))
    # The same verdict under two names, as in files with a three-class and a four-class label, is
    # no contradiction.
    if len(found) > 1:
        raise DataError("two labels that differ", where=where, fix="keep one label per row")
    return found.pop() if found else None


def _authority(raw: dict[str, Any], where: str) -> Authority | None:
    value = raw.get("authority")
    if value is None:
        return None
    if value not in tuple(Authority):
        raise DataError(
            f"unknown authority {shown(value)}",
            where=where,
            fix="authority is handle, human or absent",
        )
    return Authority(value)


def _held_out(raw: dict[str, Any], where: str) -> str:
    value = raw.get("held_out") or ""
    if value not in HELD_OUT:
        raise DataError(
            f"unknown held_out {shown(value)}",
            where=where,
            fix=f"held_out is one of {sorted(HELD_OUT)[1:]}, or absent",
        )
    return str(value)


def _factors(raw: dict[str, Any], where: str) -> dict[str, Any]:
    value = raw.get("factors") or {}
    if not isinstance(value, dict):
        raise DataError(
            '"factors" is not an object', where=where, fix='write "factors": {"name": "value"}'
        )
    # REFUSE becomes DENY; the original class is kept, so that the four can still be told apart.
    labels = [raw.get(key) for key in LABEL_KEYS]
    if "REFUSE" in labels:
        return {**value, "label4": "REFUSE"}
    return value
