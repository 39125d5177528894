"""The assistant turn: render it, read it back, and keep thinking apart from the answer.

A turn is text. It opens with the heading `# 判定` and one label; then comes private thinking; then
the final answer. Thinking and answer stand under Markdown headings, or in four tags (the
*quadruple* format). One reader serves both formats and fails closed: whatever is not exactly
well-formed is ESCALATE, with no thinking and no answer.

Covered: the two formats, the tokenizer's own chat template, control-token text in user data.
Not covered: token ids (so8t.prompts), and what is done about a verdict (so8t.card).
"""

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal, NoReturn

from jinja2 import TemplateError, nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from so8t import markers
from so8t.errors import ArtifactError, DataError
from so8t.verdict import Verdict, verdict_of

Format = Literal["heading", "quadruple"]
Message = dict[str, str]

# These texts are in the training data, in released models and in their cards' digests.
CUE = "# 判定\n"
# Fed after the prompt once the decision is ALLOW; generation goes on from here.
ALLOW_PREFIX = f"{CUE}{Verdict.ALLOW}\n"
THINKING_HEADING = "# 思考ステップ\n"
FINAL_HEADING = "# 最終回答\n"
QUADRUPLE_TAGS = ("think-task", "think-safety", "think-policy")

# Control tokens of the usual model families.
_CONTROL = re.compile(
    r"<\|[^|<>\s]{1,64}\|>"
    r"|</?s>"
    r"|<(?:unk|pad|bos|eos|mask)>"
    r"|<(?:start|end)_of_turn>"
    r"|\[/?INST\]"
    r"|<</?SYS>>"
)


class Thinking:
    """Private reasoning: printing, formatting or logging it shows only its length."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        """The text itself, for callers that compare with it or feed it back to the model."""
        return self._text

    def __repr__(self) -> str:
        return f"<thinking, {len(self._text)} characters>"

    def __len__(self) -> int:
        return len(self._text)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Thinking) and other._text == self._text

    def __hash__(self) -> int:
        return hash(self._text)


@dataclass(frozen=True, slots=True)
class Parsed:
    """What a completion says. With any error: ESCALATE, no thinking, no answer."""

    format: Format | None
    verdict: Verdict
    thinking: Thinking | None
    final: str | None
    errors: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Turn:
    """The parts of a well-formed turn; `verdict` is the label's text, None where it names none."""

    format: Format
    verdict: str | None
    thinking: str | None
    final: str


# --- rendering ---


def final_cue(fmt: Format) -> str:
    """The text after which the final answer begins."""
    if fmt == "heading":
        return FINAL_HEADING
    return "<final>"


def tidy(text: str) -> str:
    """Line ends as LF, no blank lines, no space at either end of a line.

    It is the form in which thinking survives being rendered and read.
    """
    lines = _lf(text).split("\n")
    stripped = (line.strip() for line in lines)
    return "\n".join(line for line in stripped if line)


def _lf(text: str) -> str:
    return text.replace("\r\n", "\n").replace("\r", "\n")


def response_of(
    verdict: Verdict | str | None, thinking: str | None, final: str, fmt: Format
) -> str:
    """Render the assistant turn, without the end token.

    Args:
        verdict: None renders a turn that teaches language only.
        thinking: None or empty renders an answer only.
        final: the answer.
        fmt: which markers stand between the parts.

    Raises:
        DataError: the answer is empty, or a part holds a marker of either format and could not be
            read back.
    """
    final = _lf(final).strip()
    thinking = tidy(thinking) if thinking else None
    if not final:
        raise DataError("the final answer is empty", fix="give every row an answer")
    if has_marker(final) or (thinking is not None and has_marker(thinking)):
        raise DataError(
            "the text holds a marker of the thinking format",
            fix="remove headings and <think> tags from the text",
        )
    render_body = _heading_body if fmt == "heading" else _quadruple_body
    body = render_body(thinking, final)
    # Rows of ordinary language keep the model's fluency and name no verdict.
    if verdict is None:
        return body
    return f"{CUE}{Verdict(verdict)}\n{body}"


def _heading_body(thinking: str | None, final: str) -> str:
    answer = f"{FINAL_HEADING}{final}"
    if not thinking:
        return answer
    return f"{THINKING_HEADING}{thinking}\n\n{answer}"


def _quadruple_body(thinking: str | None, final: str) -> str:
    answer = f"<final>{final}</final>"
    if not thinking:
        return answer
    # The first line names the task and the last one the policy; what lies between is safety.
    lines = thinking.split("\n")
    task = lines[0] if len(lines) > 1 else ""
    safety = "\n".join(lines[1:-1])
    policy = lines[-1]
    parts = zip(QUADRUPLE_TAGS, (task, safety, policy), strict=True)
    private = "".join(f"<{tag}>{part}</{tag}>" for tag, part in parts)
    return private + answer


# --- reading ---


def has_marker(text: str) -> bool:
    """Whether a marker of either format, or a disguise of one, is in the text (so8t.markers)."""
    return markers.has_marker(text)


def parse(completion: str) -> Parsed:
    """Read a whole assistant turn, its end token removed.

    Anything that is not well-formed gives ESCALATE and nothing of its text.
    """
    turn = read_turn(completion)
    if isinstance(turn, str):
        return _unreadable(None, turn)
    # Aliases are for data sets. A model must write the label that it was trained on.
    if turn.verdict not in tuple(Verdict):
        return _unreadable(turn.format, "no verdict line, or an unknown label")
    thinking = None if turn.thinking is None else Thinking(turn.thinking)
    return Parsed(turn.format, verdict_of(turn.verdict), thinking, turn.final, ())


def _unreadable(fmt: Format | None, error: str) -> Parsed:
    return Parsed(fmt, Verdict.ESCALATE, None, None, (error,))


def read_turn(text: str) -> Turn | str:
    """Take a turn apart, or say in one phrase why it is not well-formed.

    The phrase never quotes the turn, which may be private.
    """
    text = text.replace("\r\n", "\n").strip()
    verdict = None
    if text.startswith(CUE):
        verdict, newline, text = text.removeprefix(CUE).partition("\n")
        if not newline:
            return "nothing follows the verdict line"
    read_body = _read_quadruple if text.startswith("<") else _read_heading
    turn = read_body(verdict, text)
    if isinstance(turn, str):
        return turn
    # Text behind a second marker could be thinking that is shown as answer.
    if has_marker(turn.final) or (turn.thinking is not None and has_marker(turn.thinking)):
        return "a marker is repeated, nested, reordered or disguised"
    return turn


def _read_heading(verdict: str | None, text: str) -> Turn | str:
    thinking: str | None = None
    if text.startswith(THINKING_HEADING):
        # The final heading counts only at the beginning of a line.
        rest = text.removeprefix(THINKING_HEADING)
        thinking, marker, final = rest.partition(f"\n{FINAL_HEADING}")
        thinking = tidy(thinking)
    else:
        before, marker, final = text.partition(FINAL_HEADING)
        if before:
            return "text before the first heading"
    if not marker or not final.strip():
        return "no final answer section"
    if thinking == "":
        return "the thinking section is empty"
    return Turn("heading", verdict, thinking, final.strip())


def _read_quadruple(verdict: str | None, text: str) -> Turn | str:
    parts: list[str] = []
    # A turn without any thinking is well-formed; one with some of the three tags is not.
    has_thinking = text.startswith(f"<{QUADRUPLE_TAGS[0]}>")
    for tag in QUADRUPLE_TAGS if has_thinking else ():
        if not text.startswith(f"<{tag}>"):
            return "a thinking tag is missing or out of order"
        part, close, text = text.removeprefix(f"<{tag}>").partition(f"</{tag}>")
        if not close:
            return "a thinking tag is not closed"
        parts.append(part)
        text = text.lstrip()
    if not text.startswith("<final>") or not text.endswith("</final>"):
        return "no well-formed <final> section"
    final = text.removeprefix("<final>").removesuffix("</final>").strip()
    thinking = tidy("\n".join(parts)) if has_thinking else None
    if not final or thinking == "":
        return "an empty section"
    return Turn("quadruple", verdict, thinking, final)


# --- the tokenizer's own chat template ---


class _Generation(Extension):
    """Renders `{% generation %}` blocks, which mark the assistant's tokens, as their content."""

    tags = {"generation"}  # noqa: RUF012  (jinja2 declares it so)

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class _RefusedError(TemplateError):
    """What a template says when it refuses a conversation (`raise_exception`)."""


def _raise(message: str) -> NoReturn:
    raise _RefusedError(message)


def _tojson(value: Any, ensure_ascii: bool = False, indent: int | None = None) -> str:
    # jinja2's own filter escapes <, > and & for HTML; transformers replaces it likewise.
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent)


@lru_cache(maxsize=8)
def _compiled(template: str) -> Any:
    # The sandbox, because the template comes with a model that somebody else made.
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=[_Generation, loopcontrols],
    )
    environment.filters["tojson"] = _tojson
    environment.globals["raise_exception"] = _raise
    return environment.from_string(template)


def render(
    template: str,
    messages: Sequence[Message],
    *,
    add_generation_prompt: bool,
    bos: str = "",
    eos: str = "",
) -> str:
    """Render a conversation exactly as transformers' `apply_chat_template(tokenize=False)` does.

    Raises:
        ArtifactError: the template does not compile, refuses the conversation, or tries what the
            sandbox forbids.
    """
    try:
        text = _compiled(template).render(
            messages=list(messages),
            add_generation_prompt=add_generation_prompt,
            bos_token=bos,
            eos_token=eos,
        )
    except _RefusedError as error:
        raise ArtifactError(
            f"the chat template refuses the conversation: {_own_words(error, template)}",
            where="chat_template",
            fix="use a model whose chat template takes a system prompt and one turn",
        ) from None
    except (TemplateError, SecurityError, TypeError) as error:
        # The error's own words may quote the conversation.
        raise ArtifactError(
            f"the chat template cannot be rendered ({type(error).__name__})",
            where="chat_template",
            fix="use the template of the model's own tokenizer",
        ) from None
    return str(text)


def _own_words(error: TemplateError, template: str) -> str:
    """What a refusal says as far as it is the template's own text; the rest may be a quotation."""
    said = str(error.message or "")
    for end in range(len(said), 0, -1):
        if said[:end] in template:
            rest = "" if end == len(said) else "..."
            return said[:end] + rest
    return "(no words of its own)"


def prompt_of(template: str, system: str, text: str, *, bos: str = "", eos: str = "") -> str:
    """The prompt up to where the assistant begins. Control-token text in `text` is neutralised.

    Raises:
        ArtifactError: as `render`.
    """
    messages = [
        {"role": "system", "content": system},
        {"role": "user", "content": neutralise(text)},
    ]
    return render(template, messages, add_generation_prompt=True, bos=bos, eos=eos)


def neutralise(text: str, control_tokens: Iterable[str] = ()) -> str:
    """Break up text that a tokenizer would read as control tokens: `<|end|>` becomes `< |end|>`.

    Args:
        text: what a user wrote.
        control_tokens: a tokenizer's own, in addition to the usual families.
    """
    pattern = _CONTROL
    # A token of one character cannot be broken up.
    own = [token for token in control_tokens if len(token.strip()) > 1]
    if own:
        # The longest first: an alternation takes the first that fits.
        own.sort(key=len, reverse=True)
        pattern = re.compile("|".join([*map(re.escape, own), _CONTROL.pattern]))
    # Breaking one token up may complete another around it, as in `<<|end|>|>`.
    while pattern.search(text):
        text = pattern.sub(_with_space, text)
    return text


def _with_space(match: re.Match[str]) -> str:
    token = match[0]
    return f"{token[0]} {token[1:]}"
