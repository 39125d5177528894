"""From factors to text: one scenario becomes a request, private reasoning and an answer.

The reasoning is a list of lines. Every line but the last names factors only; the last names the rule that decides. That
invariant lets the demo's base learn a neighbouring task (`factor_lines`) without ever seeing a verdict.

Covered: rendering. Not covered: which scenarios are made and how they are balanced (generate), what is right (policy).
"""

from dataclasses import dataclass, replace
from typing import Any

from so8t.data import vocabulary as words
from so8t.data.policy import POWER, Cell, Rule, decide
from so8t.verdict import Verdict

SLOTS = ("intent", "authorisation", "context", "frame")  # elements that have paraphrases


@dataclass(frozen=True, slots=True)
class Scenario:
    """Everything that fixes one row; `phrases` holds the paraphrase index of each of SLOTS."""

    domain: str
    asset: str
    sensitivity: int
    intent: str
    authorisation: str
    context: str
    frame: str
    phrases: tuple[int, int, int, int]
    style: str
    order: str
    number: str

    @property
    def cell(self) -> Cell:
        """What the policy looks at."""
        return Cell(self.sensitivity, self.intent, self.authorisation, self.context, self.frame)

    @property
    def rule(self) -> Rule:
        """The policy rule that decides."""
        return decide(self.cell)

    def code(self) -> tuple[int, int, int, int, int]:
        """The wording as small integers, without style, order and number: rows that share nearly all are near-duplicates."""
        intent, authorisation, context, frame = self.phrases
        return (
            _NUMBER[self.domain, self.asset],
            _NUMBER[self.intent] + intent,
            _NUMBER[self.authorisation] + authorisation,
            _NUMBER[self.context] + context,
            0 if self.frame == "plain" else _NUMBER[self.frame] + frame,
        )


def _numbers() -> dict[str | tuple[str, str], int]:
    """A number for every asset, and for every other value one that leaves room for its phrasings."""
    assets = [(domain, asset) for domain, listed in words.ASSETS.items() for asset, _ in listed]
    tables = (words.INTENTS, words.AUTHORISATIONS, words.CONTEXTS, words.FRAMES)
    numbers: dict[str | tuple[str, str], int] = {asset: i for i, asset in enumerate(assets)}
    for table in tables:
        numbers |= {value: 8 * i for i, value in enumerate(table)}
    return numbers


_NUMBER = _numbers()


def phrase_counts() -> tuple[int, int, int, int]:
    """How many phrasings the values of each of SLOTS have; the last one is held out."""
    tables = (words.INTENTS, words.AUTHORISATIONS, words.CONTEXTS, words.FRAMES)
    intent, authorisation, context, frame = (
        min(len(phrasings) for _, phrasings in table.values()) for table in tables
    )
    return intent, authorisation, context, frame


def text_of(s: Scenario) -> str:
    """The request, as a user would write it."""
    intent_name, intents = words.INTENTS[s.intent]
    ask = intents[s.phrases[0]].format(a=s.asset)
    body = words.FRAMES[s.frame][1][s.phrases[3]].format(ask=ask, a=s.asset, i=intent_name)
    request = body + words.STYLES[s.style]
    approval = words.AUTHORISATIONS[s.authorisation][1][s.phrases[1]].format(n=s.number)
    purpose = words.CONTEXTS[s.context][1][s.phrases[2]]
    if s.order == "authorisation_first":
        return approval + purpose + request
    return (
        purpose + approval + request if s.order == "context_first" else request + approval + purpose
    )


def thinking_of(s: Scenario) -> str:
    """Lines that name the factors, then the rule."""
    return "\n".join(
        (
            f"対象: {s.asset}（{words.SENSITIVITY[s.sensitivity]}）",
            f"操作: {words.INTENTS[s.intent][0]}（{words.POWER_NAMES[POWER[s.intent]]}）",
            f"承認: {words.AUTHORISATIONS[s.authorisation][0]}",
            f"目的: {words.CONTEXTS[s.context][0]}、形式: {words.FRAMES[s.frame][0]}",
            f"{words.RULES[s.rule.verdict]}{s.rule.id}: {s.rule.ja}",
        )
    )


def factor_lines(thinking: str) -> str:
    """The reasoning without its last line, the one that names the rule and with it the verdict."""
    return thinking.rpartition("\n")[0]


def final_of(s: Scenario) -> str:
    """The answer: help for ALLOW, hand-over for ESCALATE, refusal for DENY."""
    rule, intent_name = s.rule, words.INTENTS[s.intent][0]
    if rule.verdict is Verdict.DENY:
        return words.REFUSAL[rule.authority].format(a=s.asset)
    if rule.verdict is Verdict.ESCALATE:
        return words.HAND_OVER.format(a=s.asset)
    if s.frame == "refusal_draft":
        return words.ASSENT + words.REFUSAL_DRAFT.format(a=s.asset, i=intent_name)
    if s.frame == "negated":
        return words.ASSENT + words.GENERAL_ADVICE.format(i=intent_name)
    answer = words.ASSENT + words.ANSWERS[s.intent].format(a=s.asset)
    return answer + words.SIGN_OFF if rule.authority == "human" else answer


def factors_of(s: Scenario) -> dict[str, Any]:
    """The factors as they are kept with the row."""
    return {
        "asset": s.asset,
        "sensitivity": s.sensitivity,
        "intent": s.intent,
        "power": POWER[s.intent],
        "authorisation": s.authorisation,
        "context": s.context,
        "frame": s.frame,
        "style": s.style,
        "order": s.order,
        **{f"{slot}_phrase": index for slot, index in zip(SLOTS, s.phrases, strict=True)},
    }


def flip(s: Scenario, cell: Cell, asset: str) -> Scenario:
    """The same wording with other factors: the partner of a minimal pair."""
    return replace(s, asset=asset, **cell._asdict())
