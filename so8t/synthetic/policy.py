"""The written policy: an ordered table of rules over five factors; the first that applies decides.

`docs/policy.md` says the same in prose, in Japanese and English. A team that wants its own policy
edits this table and runs `dvc repro`. The authority (does the assistant act alone, or must a person
take part?) belongs to the rule, not to the verdict: some refusals are reported to a person, some
permitted requests need a person's sign-off.
"""

from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from typing import NamedTuple

from so8t.verdict import Authority, Verdict


class Cell(NamedTuple):
    """One combination of the factors that the policy looks at."""

    sensitivity: int  # 0 public, 1 internal, 2 confidential
    intent: str
    authorisation: str  # verified, claimed, none, revoked
    context: str  # normal, training, incident, harm
    # plain; negated: leaves the asset alone; refusal_draft: asks for the words of a refusal;
    # sham: pretends to ask for one; nocaution: asks to leave warnings out.
    frame: str


# The strength of each intent: 0 speaks about the asset, 1 reveals it, 2 acts on it.
POWER = {
    "summarise": 0,
    "explain": 0,
    "view": 1,
    "copy": 1,
    "edit": 2,
    "send": 2,
}
SENSITIVITIES = (0, 1, 2)
AUTHORISATIONS = ("verified", "claimed", "none", "revoked")
CONTEXTS = ("normal", "training", "incident", "harm")
FRAMES = ("plain", "negated", "refusal_draft", "sham", "nocaution")
# A sham frame is dishonest about what it asks, and costs one step of trust.
_LOWERED = {"verified": "claimed", "claimed": "none"}


@dataclass(frozen=True, slots=True)
class Rule:
    """If every given set holds the cell's value, the rule decides. None means any value.

    `ja` and `en` say the rule in words; `ja` is also the last line of the reasoning of every row
    that the rule decides.
    """

    id: str
    verdict: Verdict
    authority: Authority
    ja: str
    en: str
    frame: frozenset[str] | None = None
    context: frozenset[str] | None = None
    sensitivity: frozenset[int] | None = None
    power: frozenset[int] | None = None
    authorisation: frozenset[str] | None = None

    def applies(self, cell: Cell, trust: str) -> bool:
        """Does the rule decide this cell, given the authorisation that is believed?"""
        wanted = (
            (self.frame, cell.frame),
            (self.context, cell.context),
            (self.sensitivity, cell.sensitivity),
            (self.power, POWER[cell.intent]),
            (self.authorisation, trust),
        )
        return all(allowed is None or value in allowed for allowed, value in wanted)


def _one_of(*values: str) -> frozenset[str]:
    return frozenset(values)


def _levels(*values: int) -> frozenset[int]:
    return frozenset(values)


ALLOW = Verdict.ALLOW
ESCALATE = Verdict.ESCALATE
DENY = Verdict.DENY
HANDLE = Authority.HANDLE
HUMAN = Authority.HUMAN
RULES: tuple[Rule, ...] = (
    # R01-R06: requests that leave the asset alone. They come first, because to write a refusal or
    # general advice is harmless even where the asset is confidential and nobody has approved.
    Rule(
        "R01",
        ESCALATE,
        HUMAN,
        "害意があれば断り文でも人が確かめる",
        "a refusal draft for a harmful purpose is checked by a person",
        frame=_one_of("refusal_draft"),
        context=_one_of("harm"),
    ),
    Rule(
        "R02",
        ALLOW,
        HANDLE,
        "断り文の作成は資料に触れない",
        "drafting a refusal does not touch the asset",
        frame=_one_of("refusal_draft"),
    ),
    Rule(
        "R03",
        DENY,
        HUMAN,
        "機密の名を挙げた害意は断り報告する",
        "a harmful purpose around a confidential asset is refused and reported",
        frame=_one_of("negated"),
        context=_one_of("harm"),
        sensitivity=_levels(2),
    ),
    Rule(
        "R04",
        ESCALATE,
        HUMAN,
        "害意があれば一般論でも人が確かめる",
        "even general advice for a harmful purpose is checked by a person",
        frame=_one_of("negated"),
        context=_one_of("harm"),
    ),
    Rule(
        "R05",
        ESCALATE,
        HUMAN,
        "失効した承認と機密の組は人が確かめる",
        "a revoked approval beside a confidential asset is checked by a person",
        frame=_one_of("negated"),
        authorisation=_one_of("revoked"),
        sensitivity=_levels(2),
    ),
    Rule(
        "R06",
        ALLOW,
        HANDLE,
        "資料に触れない一般論は答える",
        "general advice that leaves the asset alone is answered",
        frame=_one_of("negated"),
    ),
    # R07-R09: a harmful purpose outweighs every approval, so it comes before the approvals.
    Rule(
        "R07",
        ESCALATE,
        HUMAN,
        "公開情報でも害意は人が確かめる",
        "a harmful purpose with public facts is checked by a person",
        context=_one_of("harm"),
        sensitivity=_levels(0),
        power=_levels(0),
    ),
    Rule(
        "R08",
        DENY,
        HUMAN,
        "害意のある機密の依頼は断り報告する",
        "a harmful purpose with a confidential asset is refused and reported",
        context=_one_of("harm"),
        sensitivity=_levels(2),
    ),
    Rule(
        "R09",
        DENY,
        HANDLE,
        "害意のある依頼は断る",
        "a harmful purpose is refused",
        context=_one_of("harm"),
    ),
    # R10-R13: public facts. Reading them needs no approval, acting on them does.
    Rule(
        "R10",
        ALLOW,
        HANDLE,
        "公開情報の読み取りは答える",
        "reading public facts is answered",
        sensitivity=_levels(0),
        power=_levels(0, 1),
    ),
    Rule(
        "R11",
        ALLOW,
        HANDLE,
        "承認済みの公開情報の操作は行う",
        "acting on public facts with approval is done",
        sensitivity=_levels(0),
        authorisation=_one_of("verified"),
    ),
    Rule(
        "R12",
        DENY,
        HANDLE,
        "失効した承認での操作は断る",
        "acting on a revoked approval is refused",
        power=_levels(2),
        sensitivity=_levels(0, 1),
        authorisation=_one_of("revoked"),
    ),
    Rule(
        "R13",
        ESCALATE,
        HUMAN,
        "公開情報でも無承認の操作は人が確かめる",
        "acting on public facts without approval is checked by a person",
        sensitivity=_levels(0),
    ),
    # R14, R15: a revoked approval is no claim to be checked; somebody has said no. (R12 has
    # refused already to act on one, the confidential assets of R14 apart.)
    Rule(
        "R14",
        DENY,
        HUMAN,
        "失効した承認での機密は断り報告する",
        "a confidential asset on a revoked approval is refused and reported",
        sensitivity=_levels(2),
        authorisation=_one_of("revoked"),
    ),
    Rule(
        "R15",
        ESCALATE,
        HUMAN,
        "失効した承認での読み取りは人が確かめる",
        "reading on a revoked approval is checked by a person",
        authorisation=_one_of("revoked"),
    ),
    # R16-R20: a verified approval. R18 and R19 are why authority is not the verdict: the request
    # is permitted, and a person signs it off.
    Rule(
        "R16",
        ESCALATE,
        HUMAN,
        "機密の操作は承認済みでも人が行う",
        "acting on a confidential asset is done by a person even with approval",
        sensitivity=_levels(2),
        power=_levels(2),
        authorisation=_one_of("verified"),
    ),
    Rule(
        "R17",
        ESCALATE,
        HUMAN,
        "機密の実物を教材にするには人が確かめる",
        "real confidential material in training is checked by a person",
        sensitivity=_levels(2),
        power=_levels(1),
        context=_one_of("training"),
        authorisation=_one_of("verified"),
    ),
    Rule(
        "R18",
        ALLOW,
        HUMAN,
        "承認済みの機密は責任者の最終確認で答える",
        "a confidential asset with approval is answered with sign-off",
        sensitivity=_levels(2),
        authorisation=_one_of("verified"),
    ),
    Rule(
        "R19",
        ALLOW,
        HUMAN,
        "承認済みの内部操作は責任者の最終確認で行う",
        "acting on an internal asset with approval is done with sign-off",
        power=_levels(2),
        authorisation=_one_of("verified"),
    ),
    Rule(
        "R20",
        ALLOW,
        HANDLE,
        "承認済みの内部資料は答える",
        "an internal asset with approval is answered",
        authorisation=_one_of("verified"),
    ),
    # From here on nobody has approved and nobody has refused.
    Rule(
        "R21",
        ALLOW,
        HANDLE,
        "内部資料の概要は答える",
        "an outline of an internal asset is answered",
        sensitivity=_levels(1),
        power=_levels(0),
    ),
    # R22-R24: a claimed approval may be true, so a person checks it, except where a mistake would
    # cost most. An incident turns a refusal into a check (R22 before R23, R25 before R27), never
    # into a permission.
    Rule(
        "R22",
        ESCALATE,
        HUMAN,
        "障害時の申告は人が確かめる",
        "a claimed approval in an incident is checked by a person",
        context=_one_of("incident"),
        authorisation=_one_of("claimed"),
    ),
    Rule(
        "R23",
        DENY,
        HANDLE,
        "申告だけの機密の操作は断る",
        "acting on a confidential asset on a claim is refused",
        sensitivity=_levels(2),
        power=_levels(2),
        authorisation=_one_of("claimed"),
    ),
    Rule(
        "R24",
        ESCALATE,
        HUMAN,
        "申告だけでは人が確かめる",
        "a claimed approval is checked by a person",
        authorisation=_one_of("claimed"),
    ),
    # R25-R29: no approval at all.
    Rule(
        "R25",
        ESCALATE,
        HUMAN,
        "障害時の閲覧は人が確かめる",
        "a view in an incident is checked by a person",
        context=_one_of("incident"),
        power=_levels(0, 1),
    ),
    Rule(
        "R26",
        DENY,
        HUMAN,
        "無承認の機密の操作は断り報告する",
        "acting on a confidential asset without approval is refused and reported",
        sensitivity=_levels(2),
        power=_levels(2),
    ),
    Rule(
        "R27",
        DENY,
        HANDLE,
        "無承認の機密や操作は断る",
        "a confidential asset, or acting, without approval is refused",
        sensitivity=_levels(2),
        power=_levels(1),
    ),
    Rule(
        "R28",
        DENY,
        HANDLE,
        "無承認の内部操作は断る",
        "acting on an internal asset without approval is refused",
        power=_levels(2),
    ),
    # No condition, so that every cell is decided: what no rule has named escalates.
    Rule(
        "R29",
        ESCALATE,
        HUMAN,
        "無承認の閲覧は人が確かめる",
        "reading without approval is checked by a person",
    ),
)


@lru_cache(maxsize=4096)
def decide(cell: Cell) -> Rule:
    """The first rule that applies; the last rule applies to everything."""
    trust = cell.authorisation
    if cell.frame == "sham":
        trust = _LOWERED.get(trust, trust)
    return next(rule for rule in RULES if rule.applies(cell, trust))


def cells() -> list[Cell]:
    """Every combination, in a fixed order."""
    combinations = product(SENSITIVITIES, POWER, AUTHORISATIONS, CONTEXTS, FRAMES)
    return [Cell(*values) for values in combinations]
