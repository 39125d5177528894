"""The assistant turn: render, parse, and keep thinking apart from the answer.

The turn opens with text, `# 判定` and one label; then private thinking; then the final answer, as headings or as
quadruple tags. One reader serves both forms and fails closed: whatever is not exactly well-formed is ESCALATE with no
thinking and no answer.

Covered: the two thinking formats, the tokenizer's own chat template, control-token text in user data.
Not covered: token ids (tuning, scoring) and what policy makes of a verdict (calibration, agent).
"""

import json
import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal, NoReturn

from jinja2 import TemplateError, nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from so8t.errors import ArtifactError, DataError
from so8t.verdict import Verdict, verdict_of

Format = Literal["heading", "quadruple"]
Message = dict[str, str]
CUE = "# 判定\n"
ALLOW_PREFIX = f"{CUE}{Verdict.ALLOW}\n"  # fed after the prompt once the decision is ALLOW; generation goes on from here
THINKING_HEADING, FINAL_HEADING = "# 思考ステップ\n", "# 最終回答\n"
QUADRUPLE_TAGS = ("think-task", "think-safety", "think-policy")
_TAG = re.compile(r"<\s*/?\s*(?:think|final\b)")
_HEADING = re.compile(
    r"[ \t>*\-]*#+[ \t]*(?:判定|思考ステップ|最終回答)|[ \t#>*\-]*(?:思考ステップ|最終回答)[ \t*:]*$"
)
_CONTROL = re.compile(
    r"<\|[^|<>\s]{1,64}\|>|</?s>|<(?:unk|pad|bos|eos|mask)>|<(?:start|end)_of_turn>|\[/?INST\]|<</?SYS>>"
)


class Thinking:
    """Private reasoning: printing, formatting or logging it shows only its length."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        """The text itself; only rendering for training and keyed hashing may ask for it."""
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
    """The parts of a well-formed assistant turn; `verdict` is the label's text, None where the turn names none."""

    format: Format
    verdict: str | None
    thinking: str | None
    final: str


# --- rendering ---


def final_cue(fmt: Format) -> str:
    """The text after which the final answer begins."""
    return FINAL_HEADING if fmt == "heading" else "<final>"


def tidy(text: str) -> str:
    """Line ends as LF, no blank lines, no space at line ends: the form in which thinking survives a round trip."""
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    return "\n".join(stripped for line in lines if (stripped := line.strip()))


def response_of(
    verdict: Verdict | str | None, thinking: str | None, final: str, fmt: Format
) -> str:
    """Render the assistant turn, without the end token. No verdict: language only. No thinking: answer only.

    Raises:
        DataError: empty answer, or a part that holds a marker of either format (it could not be read back).
    """
    final = final.replace("\r\n", "\n").replace("\r", "\n").strip()
    thinking = tidy(thinking) if thinking else None
    if not final:
        raise DataError("the final answer is empty", fix="give every row an answer")
    if has_marker(final) or (thinking is not None and has_marker(thinking)):
        raise DataError(
            "the text holds a marker of the thinking format",
            fix="remove headings and <think> tags from the text",
        )
    head = f"{CUE}{Verdict(verdict)}\n" if verdict is not None else ""
    return head + (
        _heading_body(thinking, final) if fmt == "heading" else _quadruple_body(thinking, final)
    )


def _heading_body(thinking: str | None, final: str) -> str:
    private = f"{THINKING_HEADING}{thinking}\n\n" if thinking else ""
    return f"{private}{FINAL_HEADING}{final}"


def _quadruple_body(thinking: str | None, final: str) -> str:
    if not thinking:
        return f"<final>{final}</final>"
    lines = thinking.split("\n")  # first line: task; last line: policy; between them: safety
    parts = ("" if len(lines) == 1 else lines[0], "\n".join(lines[1:-1]), lines[-1])
    return (
        "".join(f"<{tag}>{part}</{tag}>" for tag, part in zip(QUADRUPLE_TAGS, parts, strict=True))
        + f"<final>{final}</final>"
    )


# --- reading ---


def has_marker(text: str) -> bool:
    """True if a marker of either format, or a look-alike (full-width, other case, hidden characters), is in the text."""
    visible = "".join(c for c in text if unicodedata.category(c) != "Cf")
    folded = unicodedata.normalize("NFKC", visible).casefold()
    return bool(_TAG.search(folded)) or any(_HEADING.match(line) for line in folded.splitlines())


def parse(completion: str) -> Parsed:
    """Read a whole assistant turn (end token removed). Anything not well-formed gives ESCALATE and nothing of its text."""
    turn = read_turn(completion)
    if isinstance(turn, str):
        return Parsed(None, Verdict.ESCALATE, None, None, (turn,))
    if turn.verdict not in tuple(Verdict):
        return Parsed(
            turn.format, Verdict.ESCALATE, None, None, ("no verdict line, or an unknown label",)
        )
    thinking = None if turn.thinking is None else Thinking(turn.thinking)
    return Parsed(turn.format, verdict_of(turn.verdict), thinking, turn.final, ())


def read_turn(text: str) -> Turn | str:
    """Take a turn apart, or say in one phrase why it is not well-formed (never quoting it)."""
    text = text.replace("\r\n", "\n").strip()
    verdict = None
    if text.startswith(CUE):
        verdict, newline, text = text.removeprefix(CUE).partition("\n")
        if not newline:
            return "nothing follows the verdict line"
    turn = _read_quadruple(verdict, text) if text.startswith("<") else _read_heading(verdict, text)
    if isinstance(turn, str):
        return turn
    if has_marker(turn.final) or (turn.thinking is not None and has_marker(turn.thinking)):
        return "a marker is repeated, nested, reordered or disguised"
    return turn


def _read_heading(verdict: str | None, text: str) -> Turn | str:
    thinking: str | None = None
    if text.startswith(THINKING_HEADING):
        thinking, marker, final = text.removeprefix(THINKING_HEADING).partition(
            f"\n{FINAL_HEADING}"
        )
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
    for tag in QUADRUPLE_TAGS if text.startswith(f"<{QUADRUPLE_TAGS[0]}>") else ():
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
    thinking = tidy("\n".join(parts))
    if not final or (parts and not thinking):
        return "an empty section"
    return Turn("quadruple", verdict, thinking if parts else None, final)


# --- the tokenizer's own chat template ---


class _Generation(Extension):
    """`{% generation %}` blocks, which some templates use to mark the assistant's tokens, render as their content."""

    tags = {"generation"}  # noqa: RUF012  (jinja2 declares it so)

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _raise(message: str) -> NoReturn:
    raise TemplateError(message)


def _tojson(value: Any, ensure_ascii: bool = False, indent: int | None = None) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent)


@lru_cache(maxsize=8)
def _compiled(template: str) -> Any:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols]
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
        ArtifactError: the template does not compile, refuses the conversation, or tries what the sandbox forbids.
    """
    try:
        return str(
            _compiled(template).render(
                messages=list(messages),
                add_generation_prompt=add_generation_prompt,
                bos_token=bos,
                eos_token=eos,
            )
        )
    except (TemplateError, SecurityError, TypeError) as error:
        raise ArtifactError(
            f"the chat template cannot be rendered ({type(error).__name__})",
            where="chat_template",
            fix="use the template of the model's own tokenizer",
        ) from None


def prompt_of(template: str, system: str, text: str, *, bos: str = "", eos: str = "") -> str:
    """The prompt up to where the assistant begins. Control-token text in `text` is neutralised first."""
    messages = [
        {"role": "system", "content": system},
        {"role": "user", "content": neutralise(text)},
    ]
    return render(template, messages, add_generation_prompt=True, bos=bos, eos=eos)


def neutralise(text: str, control_tokens: Iterable[str] = ()) -> str:
    """Break up text that a tokenizer would read as control tokens: `<|end|>` becomes `< |end|>`.

    The usual families are always covered; `control_tokens` adds a tokenizer's own.
    """
    extra = sorted((t for t in control_tokens if len(t.strip()) > 1), key=len, reverse=True)
    pattern = (
        re.compile("|".join([*map(re.escape, extra), _CONTROL.pattern])) if extra else _CONTROL
    )
    while pattern.search(text):
        text = pattern.sub(lambda match: f"{match[0][0]} {match[0][1:]}", text)
    return text
