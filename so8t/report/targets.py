"""Targets: what should hold, whether it does, the numbers behind it, and what would change it.

Each is a comparison of numbers that stand in result files. A missing number leaves its target "not
run", never met. Missed targets come first in the report.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from so8t.report.conclusion import missing_groups
from so8t.report.context import HEADLINE, SPLITS, UNQUANTISED, Context, styles_of
from so8t.report.document import Table, row
from so8t.report.sources import Line, joined

Check = Callable[[Context], list["Target"]]
# Not met comes first because it needs somebody, and not measured next because it may.
ORDER = {False: 0, None: 1, True: 2}
# Words of each outcome.
OUTCOMES = {False: "missed", None: "unknown", True: "met"}
GOALS = "/report/targets"
# The test splits whose share of allowed requests has a goal, and the key of each.
USEFUL = ((HEADLINE, "allow"), ("test_phrases", "allow_phrases"))
# The same for splits in which nothing may be allowed.
UNFAMILIAR = (("test_foreign", "foreign"), ("test_evasion", "evasion"))
# Which baseline B is compared with on which split, as long as no comparison was made.
BASELINES = (("keywords", HEADLINE), ("ngram", SPLITS[1]))


@dataclass(frozen=True, slots=True)
class Target:
    """One target.

    Attributes:
        name: in report.json.
        split: the test split it is about; empty when it is about none.
        met: null = not measured.
        title: what should hold.
        evidence: the numbers behind it.
        change: what would change it; empty unless it was missed.
    """

    name: str
    split: str
    met: bool | None
    title: Line
    evidence: Line
    change: Line


def targets(context: Context) -> list[Target]:
    """Every target, missed ones first, then those not measured.

    Args:
        context: result files, words, and which file is released.

    Returns:
        Sorted, so that what needs somebody comes first.
    """
    found: list[Target] = []
    for check in CHECKS:
        found.extend(check(context))
    return sorted(found, key=lambda target: ORDER[target.met])


def table(context: Context, found: list[Target]) -> Table:
    """The targets as a table.

    Args:
        context: result files, words, and which file is released.
        found: of `targets`.
    """
    rows = []
    for one in found:
        outcome = context.words(OUTCOMES[one.met])
        rows.append(row(one.title, outcome, one.evidence, one.change))
    head = context.heads("t_target", "t_outcome", "t_evidence", "t_change")
    return Table(head, rows, measured=False)


def _target(
    context: Context,
    name: str,
    met: bool | None,
    evidence: Line,
    *,
    split: str = "",
    baseline: str = "",
    need: Line = (),
) -> Target:
    """A target whose title is called `name` among the words, and what would change it `name_c`.

    Args:
        context: for the words.
        name: of the target, in report.json too.
        met: whether it holds.
        evidence: the numbers behind it.
        split: the test split it is about; empty when it is about none.
        baseline: what B is compared with, for that target's title.
        need: what is missing, for the advice of the certificate's target.
    """
    title = context.words.say(name, split=split, baseline=baseline)
    change: Line = ()
    if met is False:
        change = context.words.say(f"{name}_c", baseline=baseline, need=need)
    return Target(name, split, met, title, evidence, change)


def _at_most(value: Any, limit: Any) -> bool | None:
    """Whether a number is within a limit; null when either is missing."""
    if value is None or limit is None:
        return None
    return bool(value <= limit)


def _is_empty(found: Any) -> bool | None:
    """Whether nothing was found, of a list or a flag; null when it was not looked for."""
    if found is None:
        return None
    return not found


# --- the released file's verdicts ---


def _certificate(context: Context) -> list[Target]:
    card = context.released_card
    status = card.value("/status")
    met = None if status is None else status == "certified"
    evidence = context.words.say(
        "certificate_e",
        alpha=card.show("/certificate/alpha", "percent"),
        groups=card.show("/certificate/groups", "count"),
        errors=card.show("/certificate/false_allows", "count"),
    )
    need: Line = ()
    if met is False:
        need = missing_groups(context)
    return [_target(context, "certificate", met, evidence, need=need)]


def _useful(context: Context) -> list[Target]:
    # False allows alone are easily avoided: a model that allows nothing has none.
    goals = context.params.at(GOALS)
    metrics = context.released
    found = []
    for split, goal in USEFUL:
        key = f"/splits/{split}/allow_rate_on_allow"
        met = _at_most(goals.value(f"/{goal}"), metrics.value(f"{key}/value"))
        evidence = context.words.say(
            "useful_e",
            allow=metrics.rate(key),
            target=goals.show(f"/{goal}", "percent"),
        )
        found.append(_target(context, "useful", met, evidence, split=split))
    return found


def _far(context: Context) -> list[Target]:
    """The false-allow rate (FAR) of each split."""
    # The certificate is about requests like those of calibration; the other two splits show how
    # far its limit holds beyond them. New wordings have a goal of their own, which stays when
    # another limit is certified.
    certified = context.released_card.at("/certificate/alpha")
    limits = dict.fromkeys(SPLITS, certified)
    limits["test_phrases"] = context.params.at(f"{GOALS}/false_allow_phrases")
    metrics = context.released
    found = []
    for split, limit in limits.items():
        key = f"/splits/{split}/false_allow_rate"
        met = _at_most(metrics.value(f"{key}/value"), limit.value(""))
        evidence = context.words.say(
            "far_e",
            far=metrics.rate(key),
            limit=limit.show("", "percent"),
        )
        found.append(_target(context, "far", met, evidence, split=split))
    return found


def _unfamiliar(context: Context) -> list[Target]:
    """Requests of no domain, and disguised ones: a person has to see them."""
    goals = context.params.at(GOALS)
    found = []
    for split, goal in UNFAMILIAR:
        counted = context.released.at(f"/unfamiliar/{split}/all")
        met = _at_most(counted.value("/rate"), goals.value(f"/{goal}"))
        evidence = context.words.say(
            "unfamiliar_e",
            allowed=counted.show("/allowed", "count"),
            n=counted.show("/n", "count"),
            rate=counted.show("/rate", "percent"),
            low=counted.show("/ci95/0", "percent"),
            high=counted.show("/ci95/1", "percent"),
            limit=goals.show(f"/{goal}", "percent"),
        )
        found.append(_target(context, split, met, evidence, split=split))
    return found


def _calibrated(context: Context) -> list[Target]:
    ece = context.released.at(f"/splits/{HEADLINE}/calibrated/ece_width")
    met = _is_empty(ece.value("/worse_than_null"))
    evidence = context.words.say(
        "calibrated_e",
        ece=ece.rate("", "ratio"),
        null=ece.show("/null/q95", "ratio"),
    )
    return [_target(context, "calibrated", met, evidence, split=HEADLINE)]


# --- B against A and against trivial classifiers ---


def _better(context: Context) -> list[Target]:
    # On each split by itself, because each asks for another kind of generalisation.
    found = []
    for split in SPLITS:
        differences = context.ab.value(f"/splits/{split}/differences") or {}
        primary = [name for name, one in differences.items() if one.get("primary")]
        outcomes = [differences[name]["outcome"] for name in primary]
        met = None
        # One better endpoint does not make up for a worse one.
        if outcomes:
            met = "better" in outcomes and "worse" not in outcomes
        parts = []
        for name, outcome in zip(primary, outcomes, strict=True):
            parts.append(_endpoint(context, split, name, outcome))
        if primary:
            parts.append(_allowed(context, split))
        found.append(_target(context, "better", met, joined(parts, "; "), split=split))
    return found


def _endpoint(context: Context, split: str, name: str, outcome: str) -> Line:
    endpoint = context.ab.at(f"/splits/{split}/differences/{name}")
    style = styles_of(name)
    return context.words.say(
        "endpoint_e",
        endpoint=context.words(name),
        difference=endpoint.show("/difference", style.difference),
        p=endpoint.show("/p_adjusted", "p"),
        outcome=context.words(f"o_{outcome}"),
    )


def _allowed(context: Context, split: str) -> Line:
    """Usefulness beside safety: a model that allows nothing has no false allows either."""
    rates = context.ab.at(f"/splits/{split}/differences/allow_rate_on_allow")
    return context.words.say(
        "allowed_e",
        a=rates.show("/a/value", "percent"),
        b=rates.show("/b/value", "percent"),
    )


def _baselines(context: Context) -> list[Target]:
    ab = context.ab
    if not ab.has("/baselines/0"):
        return _unmeasured_baselines(context)
    found = []
    for place, one in enumerate(ab.value("/baselines")):
        met = None
        if one["outcome"] != "not_run":
            met = one["outcome"].startswith("beats")
        b = ab.rate(f"/baselines/{place}/b")
        other = ab.rate(f"/baselines/{place}/baseline")
        evidence = context.words.say("baseline_e", b=b, other=other)
        name = context.words(one["name"])
        target = _target(context, "baseline", met, evidence, split=one["split"], baseline=name)
        found.append(target)
    return found


def _unmeasured_baselines(context: Context) -> list[Target]:
    # Keys that lead nowhere, so that both numbers read "not run".
    b = context.ab.show("/baselines/0/b", "percent")
    other = context.ab.show("/baselines/0/other", "percent")
    evidence = context.words.say("baseline_e", b=b, other=other)
    found = []
    for name, split in BASELINES:
        baseline = context.words(name)
        target = _target(context, "baseline", None, evidence, split=split, baseline=baseline)
        found.append(target)
    return found


# --- what each step from the trained model to the released file changed ---


def _bake(context: Context) -> list[Target]:
    # The error is relative to the largest logit, because logits have no scale of their own.
    bake = context.bake
    error = bake.value("/parity/relative_error")
    limit = bake.value("/parity/limit")
    evidence = context.words.say(
        "bake_parity_e",
        error=bake.show("/parity/relative_error", "general"),
        limit=bake.show("/parity/limit", "general"),
        top=bake.show("/parity/top1_agreement", "percent"),
    )
    return [_target(context, "bake_parity", _at_most(error, limit), evidence)]


def _conversion(context: Context) -> list[Target]:
    # Always about F16, whatever is released: quantisation has a target of its own.
    file = context.verified(context.model, UNQUANTISED)
    met = _is_empty(file.value("/problems"))
    evidence = context.words.say(
        "conversion_e",
        top=file.show("/logits/top1", "percent"),
        error=file.show("/logits/max_abs_error", "general"),
        verdict=file.show("/logits/verdict_probability_max_error", "general"),
    )
    return [_target(context, "conversion", met, evidence)]


def _quantised(context: Context) -> list[Target]:
    # About the file's tensors and a few prompts; what its verdicts lost is the drift below.
    if context.type == UNQUANTISED:
        return []
    file = context.verified(context.model, context.type)
    met = _is_empty(file.value("/problems"))
    evidence = context.words.say(
        "quantised_e",
        kl=file.show("/drift/kl_mean", "general"),
        top=file.show("/drift/top1", "percent"),
        flips=file.show("/drift/verdict_flips", "count"),
        prompts=file.show("/drift/prompts", "count"),
    )
    return [_target(context, "quantised", met, evidence)]


def _drift(context: Context) -> list[Target]:
    if context.type == UNQUANTISED:
        return []
    drift = context.drift(context.model, context.type)
    met = _is_empty(drift.value("/violations"))
    evidence = context.words.say(
        "drift_e",
        flips=drift.rate("/flips/changed"),
        toward=drift.rate("/flips/toward_allow"),
    )
    return [_target(context, "drift", met, evidence)]


# --- what the released file writes ---


def _silent(context: Context) -> list[Target]:
    """The tokens reserved for verdicts are read, never written."""
    # They stand for verdicts in the output matrix and mean nothing in a text.
    metrics = context.released
    emitted = metrics.show("/generation/reserved_emitted", "count")
    tokens = metrics.show("/generation/tokens", "count")
    evidence = context.words.say("silent_e", emitted=emitted, tokens=tokens)
    return [_target(context, "silent", _is_empty(emitted.value), evidence)]


def _stable(context: Context) -> list[Target]:
    # Measured on texts that were forced on past the model's own end, which served answers are not.
    metrics = context.released
    unstable = metrics.show("/stability/unstable", "count")
    count = metrics.show("/stability/n", "count")
    tokens = metrics.show("/stability/tokens", "count")
    evidence = context.words.say("stable_e", unstable=unstable, n=count, tokens=tokens)
    return [_target(context, "stable", _is_empty(unstable.value), evidence)]


CHECKS: tuple[Check, ...] = (
    _certificate,
    _useful,
    _far,
    _unfamiliar,
    _better,
    _baselines,
    _bake,
    _conversion,
    _quantised,
    _drift,
    _silent,
    _calibrated,
    _stable,
)
