"""The part of Go's text/template that our Modelfiles use, to try each before it is written.

Covered: text, trim markers, string constants, fields of the current item, `range .Messages`,
`if`/`else if`/`else` with a field, `eq`, `ne`, `and`, `or`, `not`. Everything else is refused.
Whether a real server agrees is tested against one (`pytest -m ollama`).
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

# An action is {{ ... }}; a dash next to a brace trims the white space on that side of the action.
_ACTION = re.compile(r"\{\{(-\s)?\s*(.*?)\s*(\s-)?\}\}", re.DOTALL)
# A string constant, a field, the current item, a function's name, or one other character.
_WORD = re.compile(r'"(?:[^"\\]|\\.)*"|\.[A-Za-z]+|\.|[a-z]+|\S')


class GoTemplateError(ValueError):
    """The template does not parse, or uses what this evaluator does not know."""

    def __init__(self, problem: str) -> None:
        # Go's own words begin like this; all our templates are one line.
        super().__init__(f"template: :1: {problem}")


@dataclass(slots=True)
class _Branch:
    """What to render under a condition; an `else` has the condition None."""

    condition: str | None
    nodes: list["_Node"] = field(default_factory=list)


@dataclass(slots=True)
class _Block:
    """An `if` chain, or a `range` (one branch, whose condition is what it ranges over)."""

    kind: str
    branches: list[_Branch]


@dataclass(frozen=True, slots=True)
class _Value:
    """An expression whose value is printed."""

    expression: str


_Node = str | _Block | _Value


@dataclass(frozen=True, slots=True)
class _Piece:
    """A stretch of the template: text, or what stands inside an action."""

    is_action: bool
    text: str


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
    """What Ollama hands to a template for a conversation.

    Args:
        turns: with `role` and `content`, as our own code writes them.

    Returns:
        The fields that a template of Ollama may use.
    """
    found = []
    for turn in turns:
        found.append({"Role": turn["role"], "Content": turn["content"]})
    return {"Messages": found}


def quote(text: str) -> str:
    """A Go string constant; JSON's escapes are Go's too.

    Args:
        text: any text.
    """
    return json.dumps(text, ensure_ascii=False)


# --- parsing ---


def _pieces(template: str) -> list[_Piece]:
    """Texts and actions in order, with trim markers applied."""
    out: list[_Piece] = []
    at = 0
    trim_next = False
    for match in _ACTION.finditer(template):
        text = template[at : match.start()]
        if trim_next:
            # The dash of the action before this text.
            text = text.lstrip()
        if match[1]:
            # And the dash of the action after it.
            text = text.rstrip()
        out.append(_Piece(is_action=False, text=text))
        out.append(_Piece(is_action=True, text=match[2]))
        at = match.end()
        trim_next = bool(match[3])
    tail = template[at:]
    # Whatever matched no action is an action that never ends.
    if "{{" in tail:
        raise GoTemplateError("unclosed action")
    if trim_next:
        tail = tail.lstrip()
    out.append(_Piece(is_action=False, text=tail))
    return out


def _parse(template: str) -> list[_Node]:
    """The template as a tree.

    Args:
        template: Go template text.

    Returns:
        Nodes in order; blocks hold their own.

    Raises:
        GoTemplateError: a block or an action is not closed.
    """
    root: list[_Node] = []
    # The blocks that are open, innermost last; nodes go to the last branch of that one.
    stack: list[_Block] = []
    here = root
    for piece in _pieces(template):
        if piece.is_action:
            _open_or_close(piece.text, here, stack)
            here = stack[-1].branches[-1].nodes if stack else root
        else:
            here.append(piece.text)
    if stack:
        # Go's own words, which a person may look up.
        raise GoTemplateError("unexpected EOF")
    return root


def _open_or_close(action: str, here: list[_Node], stack: list[_Block]) -> None:
    """Add an action to the nodes, or open, continue or close a block.

    Args:
        action: what stands inside the braces.
        here: where nodes go now.
        stack: the open blocks, innermost last; changed in place.

    Raises:
        GoTemplateError: `if` or `range` without a value.
    """
    word, _, rest = action.partition(" ")
    rest = rest.strip()
    if word in ("if", "range"):
        if not rest:
            raise GoTemplateError(f"missing value for {word}")
        block = _Block(word, [_Branch(rest)])
        here.append(block)
        stack.append(block)
    elif word == "else" and stack:
        # `else if` stays in the same block: one `end` closes both.
        condition = rest.removeprefix("if").strip() if rest.startswith("if") else None
        stack[-1].branches.append(_Branch(condition))
    # An `end` without a block becomes a value, and is refused when it is printed.
    elif word == "end" and stack:
        stack.pop()
    else:
        here.append(_Value(action))


# --- rendering ---


def _render(nodes: list[_Node], scope: Mapping[str, Any]) -> str:
    return "".join(_render_node(node, scope) for node in nodes)


def _render_node(node: _Node, scope: Mapping[str, Any]) -> str:
    if isinstance(node, str):
        return node
    if isinstance(node, _Value):
        return str(_evaluate(node.expression, scope))
    if node.kind == "range":
        branch = node.branches[0]
        # Each item is the scope of the lines inside, as the dot is in Go.
        items = _evaluate(branch.condition or "", scope)
        return "".join(_render(branch.nodes, item) for item in items)
    for branch in node.branches:
        # The first that holds; an `else` always does.
        if branch.condition is None or _evaluate(branch.condition, scope):
            return _render(branch.nodes, scope)
    return ""


def _evaluate(expression: str, scope: Mapping[str, Any]) -> Any:
    """The value of an expression.

    Args:
        expression: one operand or one call.
        scope: the fields of the current item.

    Raises:
        GoTemplateError: something is left over.
    """
    words = _WORD.findall(expression)
    value, rest = _operand(words, scope)
    if rest:
        raise GoTemplateError(f"unexpected {rest[0]!r}")
    return value


def _operand(words: list[str], scope: Mapping[str, Any]) -> tuple[Any, list[str]]:
    """Evaluate one operand or one call; returns its value and the words after it.

    A call takes all operands up to the closing bracket, as in Go.

    Args:
        words: what is left of the expression.
        scope: the fields of the current item.

    Raises:
        GoTemplateError: a word that is not covered.
    """
    if not words:
        raise GoTemplateError("missing value")
    head = words[0]
    rest = words[1:]
    # The bracket belongs to this operand, so both ends are taken off here.
    if head == "(":
        value, rest = _operand(rest, scope)
        if rest[:1] != [")"]:
            raise GoTemplateError("unclosed left paren")
        return value, rest[1:]
    if head in _FUNCTIONS:
        return _call(head, rest, scope)
    if head.startswith('"'):
        # The escapes of Go's strings that we write are those of JSON.
        return json.loads(head), rest
    if head.startswith(".") and len(head) > 1:
        name = head[1:]
        # What Go says of a struct without that field, as Ollama's are.
        if name not in scope:
            raise GoTemplateError(f"can't evaluate field {name}")
        return scope[name], rest
    raise GoTemplateError(f"function {head!r} not defined")


def _call(name: str, words: list[str], scope: Mapping[str, Any]) -> tuple[Any, list[str]]:
    """Call a function with all operands up to the closing bracket.

    Args:
        name: of the function.
        words: what is left of the expression after it.
        scope: the fields of the current item.

    Raises:
        GoTemplateError: too few arguments.
    """
    values: list[Any] = []
    while words and words[0] != ")":
        value, words = _operand(words, scope)
        values.append(value)
    fewest = 1 if name == "not" else 2
    if len(values) < fewest:
        raise GoTemplateError(f"wrong number of args for {name}")
    return _FUNCTIONS[name](values), words


def _and(values: list[Any]) -> Any:
    """The first operand that is empty, else the last one: Go's `and` gives no boolean."""
    for value in values:
        if not value:
            return value
    return values[-1]


def _or(values: list[Any]) -> Any:
    """The first operand that is not empty, else the last one."""
    for value in values:
        if value:
            return value
    return values[-1]


_FUNCTIONS: dict[str, Callable[[list[Any]], Any]] = {
    "eq": lambda values: values[0] == values[1],
    "ne": lambda values: values[0] != values[1],
    "not": lambda values: not values[0],
    "and": _and,
    "or": _or,
}
