"""The part of Go's text/template that our Modelfiles use, so that each is evaluated before it is written.

Covered: text, trim markers, string constants, fields of the current item, `range .Messages`, `if`/`else if`/`else` with
a field, `eq`, `ne`, `and`, `or`, `not`. Not covered: everything else, which is refused; the judge of the rest is a real
server (`pytest -m ollama`).
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

_ACTION = re.compile(r"\{\{(-\s)?\s*(.*?)\s*(\s-)?\}\}", re.DOTALL)
_WORD = re.compile(r'"(?:[^"\\]|\\.)*"|\.[A-Za-z]+|\.|[a-z]+|\S')
_FUNCTIONS: dict[str, Callable[[list[Any]], Any]] = {
    "eq": lambda v: v[0] == v[1],
    "ne": lambda v: v[0] != v[1],
    "not": lambda v: not v[0],
    "and": lambda v: next((x for x in v if not x), v[-1]),
    "or": lambda v: next((x for x in v if x), v[-1]),
}


class GoTemplateError(ValueError):
    """The template does not parse, or uses what this evaluator does not know."""


@dataclass(slots=True)
class _Block:
    """`if` chains and `range`: branches of (condition, children); an `else` has the condition None."""

    kind: str
    branches: list[tuple[str | None, list["str | _Block | _Value"]]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Value:
    expression: str


_Node = str | _Block | _Value


def execute(template: str, data: Mapping[str, Any]) -> str:
    """Render a template.

    Args:
        template: Go template text.
        data: the fields, for example {"Messages": [{"Role": "user", "Content": "..."}]}.

    Raises:
        GoTemplateError: it does not parse or is outside the covered part.
    """
    return _render(_parse(template), data)


def messages(turns: Sequence[Mapping[str, str]]) -> dict[str, Any]:
    """What Ollama hands to a template for a conversation."""
    return {"Messages": [{"Role": turn["role"], "Content": turn["content"]} for turn in turns]}


def quote(text: str) -> str:
    """A Go string constant."""
    return json.dumps(text, ensure_ascii=False)


def _pieces(template: str) -> list[tuple[bool, str]]:
    """(is action, text) in order, with trim markers applied."""
    out: list[tuple[bool, str]] = []
    at, trim = 0, False
    for match in _ACTION.finditer(template):
        text = template[at : match.start()]
        text = text.lstrip() if trim else text
        out += [(False, text.rstrip() if match[1] else text), (True, match[2])]
        at, trim = match.end(), bool(match[3])
    tail = template[at:]
    if "{{" in tail:
        raise GoTemplateError("template: :1: unclosed action")
    return [*out, (False, tail.lstrip() if trim else tail)]


def _parse(template: str) -> list[_Node]:
    root: list[_Node] = []
    stack: list[_Block] = []
    here = root
    for is_action, text in _pieces(template):
        if not is_action:
            here.append(text)
            continue
        word, _, rest = text.partition(" ")
        if word in ("if", "range"):
            if not rest.strip():
                raise GoTemplateError(f"template: :1: missing value for {word}")
            block = _Block(word, [(rest.strip(), [])])
            here.append(block)
            stack.append(block)
        elif word == "else" and stack:
            condition = (
                rest.strip().removeprefix("if").strip() if rest.strip().startswith("if") else None
            )
            stack[-1].branches.append((condition, []))
        elif word == "end" and stack:
            stack.pop()
        else:
            here.append(_Value(text))
        here = stack[-1].branches[-1][1] if stack else root
    if stack:
        raise GoTemplateError("template: :1: unexpected EOF")
    return root


def _render(nodes: list[_Node], scope: Mapping[str, Any]) -> str:
    return "".join(_node(node, scope) for node in nodes)


def _node(node: _Node, scope: Mapping[str, Any]) -> str:
    if isinstance(node, str):
        return node
    if isinstance(node, _Value):
        return str(_evaluate(node.expression, scope))
    if node.kind == "range":
        condition, children = node.branches[0]
        return "".join(_render(children, item) for item in _evaluate(condition or "", scope))
    for condition, children in node.branches:
        if condition is None or _evaluate(condition, scope):
            return _render(children, scope)
    return ""


def _evaluate(expression: str, scope: Mapping[str, Any]) -> Any:
    words = _WORD.findall(expression)
    value, rest = _operand(words, scope)
    if rest:
        raise GoTemplateError(f"template: :1: unexpected {rest[0]!r}")
    return value


def _operand(words: list[str], scope: Mapping[str, Any]) -> tuple[Any, list[str]]:
    """Evaluate one operand or one call, which takes all operands up to the closing bracket."""
    if not words:
        raise GoTemplateError("template: :1: missing value")
    head, rest = words[0], words[1:]
    if head == "(":
        value, rest = _operand(rest, scope)
        if rest[:1] != [")"]:
            raise GoTemplateError("template: :1: unclosed left paren")
        return value, rest[1:]
    if head in _FUNCTIONS:
        return _call(head, rest, scope)
    if head.startswith('"'):
        return json.loads(head), rest
    if head.startswith(".") and len(head) > 1:
        if head[1:] not in scope:
            raise GoTemplateError(f"template: :1: can't evaluate field {head[1:]}")
        return scope[head[1:]], rest
    raise GoTemplateError(f"template: :1: function {head!r} not defined")


def _call(name: str, words: list[str], scope: Mapping[str, Any]) -> tuple[Any, list[str]]:
    values: list[Any] = []
    while words and words[0] != ")":
        value, words = _operand(words, scope)
        values.append(value)
    if len(values) < (1 if name == "not" else 2):
        raise GoTemplateError(f"template: :1: wrong number of args for {name}")
    return _FUNCTIONS[name](values), words
