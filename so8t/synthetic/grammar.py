"""From factors to text: one scenario becomes a request, private reasoning and an answer.

The reasoning is a list of lines. Every line but the last names factors only; the last names the
rule that decides. The demo's base model relies on this: it learns a neighbouring task, naming the
factors (`factor_lines`), without ever seeing a verdict.

Covered: rendering. Not covered: which scenarios are made and how they are balanced (`synthesize`),
what is right (`policy`).
"""

from dataclasses import dataclass, replace
from typing import Any, TypeAlias

from so8t.synthetic import long_tail, vocabulary
from so8t.synthetic.policy import POWER, Cell, Rule, decide
from so8t.verdict import Verdict

SLOTS = ("intent", "authorisation", "context", "frame")  # elements that have paraphrases
# A paraphrase index for each of SLOTS: of the usual phrasings, or TAIL + one of the rare ones.
Phrases: TypeAlias = tuple[int, int, int, int]
# A value of a factor, or (domain, asset).
Element: TypeAlias = str | tuple[str, str]
# Rare phrasings are numbered from here: more than any value has usual ones.
TAIL = 1_000
# Of one value, usual and rare; the numbers of `Scenario.code` leave room for so many.
MOST_PHRASES = 100_000


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
    phrases: Phrases
    style: str
    order: str
    number: str

    @property
    def cell(self) -> Cell:
        """What the policy looks at."""
        return Cell(
            sensitivity=self.sensitivity,
            intent=self.intent,
            authorisation=self.authorisation,
            context=self.context,
            frame=self.frame,
        )

    @property
    def rule(self) -> Rule:
        """The policy rule that decides."""
        return decide(self.cell)

    def code(self) -> tuple[int, int, int, int, int]:
        """The wording as small integers: asset, intent, authorisation, context, frame.

        Style, order and number are left out, because rows that share nearly all of the rest are
        near-duplicates whatever these are.
        """
        intent, authorisation, context, frame = self.phrases
        frame_code = _NUMBER[self.frame] + frame
        if self.frame == "plain":
            # All phrasings of the plain frame are the same words.
            frame_code = 0
        return (
            _NUMBER[self.domain, self.asset],
            _NUMBER[self.intent] + intent,
            _NUMBER[self.authorisation] + authorisation,
            _NUMBER[self.context] + context,
            frame_code,
        )


def _numbers() -> dict[Element, int]:
    """A number for every asset; for every other value, one that leaves room for its phrasings."""
    numbers: dict[Element, int] = {}
    for domain, assets in vocabulary.ASSETS.items():
        for asset, _ in assets:
            numbers[domain, asset] = len(numbers)
    for table in _tables():
        for index, value in enumerate(table):
            numbers[value] = MOST_PHRASES * index
    return numbers


def _tables() -> tuple[vocabulary.Phrasings, ...]:
    """The phrasings of each of SLOTS."""
    return (
        vocabulary.INTENTS,
        vocabulary.AUTHORISATIONS,
        vocabulary.CONTEXTS,
        vocabulary.FRAMES,
    )


_TABLES = dict(zip(SLOTS, _tables(), strict=True))
# Made once: `Scenario.code` is asked for every candidate group.
_NUMBER = _numbers()


def phrase_counts() -> Phrases:
    """How many phrasings the values of each of SLOTS have; the last one is held out."""
    counts = []
    for table in _tables():
        # Values of one factor may have different numbers of phrasings; all have the least.
        least = min(len(phrasings) for _, phrasings in table.values())
        counts.append(least)
    intent, authorisation, context, frame = counts
    return intent, authorisation, context, frame


def phrasing(slot: str, value: str, index: int) -> str:
    """A usual phrasing of a value, or from TAIL on a rare one."""
    if index >= TAIL:
        return long_tail.wordings(slot, value)[index - TAIL]
    _, usual = _TABLES[slot][value]
    return usual[index]


def text_of(scenario: Scenario) -> str:
    """The request, as a user would write it."""
    intent_name, _ = vocabulary.INTENTS[scenario.intent]
    intent, authorisation, context, frame = scenario.phrases
    asset = scenario.asset
    style = vocabulary.STYLES[scenario.style]

    ask = phrasing("intent", scenario.intent, intent).format(a=asset)
    approval = phrasing("authorisation", scenario.authorisation, authorisation)
    approval = approval.format(n=scenario.number)
    purpose = phrasing("context", scenario.context, context)
    # The frame stands around what is asked, and the style ends the sentence.
    framed = phrasing("frame", scenario.frame, frame).format(
        ask=ask,
        a=asset,
        i=intent_name,
    )
    request = framed + style
    if scenario.order == "authorisation_first":
        return approval + purpose + request
    if scenario.order == "context_first":
        return purpose + approval + request
    return request + approval + purpose


def thinking_of(scenario: Scenario) -> str:
    """Four lines that name the factors, and one that names the rule."""
    rule = scenario.rule
    intent, _ = vocabulary.INTENTS[scenario.intent]
    authorisation, _ = vocabulary.AUTHORISATIONS[scenario.authorisation]
    context, _ = vocabulary.CONTEXTS[scenario.context]
    frame, _ = vocabulary.FRAMES[scenario.frame]
    sensitivity = vocabulary.SENSITIVITY[scenario.sensitivity]
    power = POWER[scenario.intent]
    strength = vocabulary.POWER_NAMES[power]
    heading = vocabulary.RULES[rule.verdict]
    lines = (
        f"対象: {scenario.asset}（{sensitivity}）",
        f"操作: {intent}（{strength}）",
        f"承認: {authorisation}",
        f"目的: {context}、形式: {frame}",
        f"{heading}{rule.id}: {rule.ja}",
    )
    return "\n".join(lines)


def factor_lines(thinking: str) -> str:
    """The reasoning without its last line, the one that names the rule and with it the verdict."""
    return thinking.rpartition("\n")[0]


def final_of(scenario: Scenario) -> str:
    """The answer: help for ALLOW, hand-over for ESCALATE, refusal for DENY."""
    rule = scenario.rule
    asset = scenario.asset
    if rule.verdict is Verdict.DENY:
        return vocabulary.REFUSAL[rule.authority].format(a=asset)
    if rule.verdict is Verdict.ESCALATE:
        return vocabulary.HAND_OVER.format(a=asset)
    intent_name, _ = vocabulary.INTENTS[scenario.intent]
    # The two frames that leave the asset alone get a text, not the asset.
    if scenario.frame == "refusal_draft":
        draft = vocabulary.REFUSAL_DRAFT.format(a=asset, i=intent_name)
        return vocabulary.ASSENT + draft
    if scenario.frame == "negated":
        advice = vocabulary.GENERAL_ADVICE.format(i=intent_name)
        return vocabulary.ASSENT + advice
    answer = vocabulary.ANSWERS[scenario.intent]
    answer = vocabulary.ASSENT + answer.format(a=asset)
    if rule.authority == "human":
        answer += vocabulary.SIGN_OFF
    return answer


def factors_of(scenario: Scenario) -> dict[str, Any]:
    """The factors as they are kept with the row."""
    factors = {
        "asset": scenario.asset,
        "sensitivity": scenario.sensitivity,
        "intent": scenario.intent,
        "power": POWER[scenario.intent],
        "authorisation": scenario.authorisation,
        "context": scenario.context,
        "frame": scenario.frame,
        "style": scenario.style,
        "order": scenario.order,
    }
    for slot, index in zip(SLOTS, scenario.phrases, strict=True):
        factors[f"{slot}_phrase"] = index
    return factors


def flip(scenario: Scenario, cell: Cell, asset: str) -> Scenario:
    """The same wording with other factors: the partner of a minimal pair.

    A rare phrasing of the one value is a rare phrasing of the other, as far as it has any.
    """
    phrases = []
    for slot, index in zip(SLOTS, scenario.phrases, strict=True):
        rare = len(long_tail.wordings(slot, getattr(cell, slot)))
        if index < TAIL:
            phrases.append(index)
        elif rare:
            phrases.append(TAIL + (index - TAIL) % rare)
        else:
            phrases.append(0)
    intent, authorisation, context, frame = phrases
    fitting = (intent, authorisation, context, frame)
    return replace(scenario, asset=asset, phrases=fitting, **cell._asdict())
