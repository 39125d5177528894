"""Targets: what should hold, whether it does, the numbers behind it, and what would change it. Missed ones come first.

Only comparisons of numbers that stand in result files; a missing number leaves its target "not run", never met.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from so8t.report.conclusion import SIGNED, missing_groups
from so8t.report.document import Table, row
from so8t.report.page import AB, BAKE, HEADLINE, SPLITS, Page
from so8t.report.sources import PARAMS, Line, joined

Check = Callable[[Page], list["Target"]]


@dataclass(frozen=True, slots=True)
class Target:
    """One target; `met` null = not measured."""

    name: str
    split: str
    met: bool | None
    title: Line
    evidence: Line
    change: Line


def _judge(values: list[Any], holds: Callable[..., bool]) -> bool | None:
    return None if any(value is None for value in values) else holds(*values)


def _target(
    page: Page, name: str, met: bool | None, evidence: Line, *, split: str = "", **parts: str | Line
) -> Target:
    title = page.words.say(name, split=split, **{k: v for k, v in parts.items() if k != "need"})
    return Target(
        name,
        split,
        met,
        title,
        evidence,
        page.words.say(f"{name}_c", **parts) if met is False else (),
    )


def _bake(page: Page) -> list[Target]:
    source = page.sources
    met = _judge(
        [source.value(BAKE, f"/parity/{key}") for key in ("relative_error", "limit")],
        lambda error, limit: error <= limit,
    )
    evidence = page.words.say(
        "bake_parity_e",
        error=source.show(BAKE, "/parity/relative_error", "general"),
        limit=source.show(BAKE, "/parity/limit", "general"),
        top=source.show(BAKE, "/parity/top1_agreement", "percent"),
    )
    return [_target(page, "bake_parity", met, evidence)]


def _conversion(page: Page) -> list[Target]:
    file, source = page.verified(page.model, "F16"), page.sources
    met = _judge([source.value(file, "/problems")], lambda problems: not problems)
    evidence = page.words.say(
        "conversion_e",
        top=source.show(file, "/logits/top1", "percent"),
        error=source.show(file, "/logits/max_abs_error", "general"),
        verdict=source.show(file, "/logits/verdict_probability_max_error", "general"),
    )
    return [_target(page, "conversion", met, evidence)]


def _quantised(page: Page) -> list[Target]:
    file, source = page.verified(page.model, page.type), page.sources
    if page.type == "F16":
        return []
    met = _judge([source.value(file, "/problems")], lambda problems: not problems)
    evidence = page.words.say(
        "quantised_e",
        kl=source.show(file, "/drift/kl_mean", "general"),
        top=source.show(file, "/drift/top1", "percent"),
        flips=source.show(file, "/drift/verdict_flips", "count"),
        prompts=source.show(file, "/drift/prompts", "count"),
    )
    return [_target(page, "quantised", met, evidence)]


def _silent(page: Page) -> list[Target]:
    file, source = page.released, page.sources
    met = _judge([source.value(file, "/generation/reserved_emitted")], lambda emitted: emitted == 0)
    evidence = page.words.say(
        "silent_e",
        emitted=source.show(file, "/generation/reserved_emitted", "count"),
        tokens=source.show(file, "/generation/tokens", "count"),
    )
    return [_target(page, "silent", met, evidence)]


def _certificate(page: Page) -> list[Target]:
    file, source = page.released_card, page.sources
    met = _judge([source.value(file, "/status")], lambda status: status == "certified")
    evidence = page.words.say(
        "certificate_e",
        alpha=source.show(file, "/certificate/alpha", "percent"),
        groups=source.show(file, "/certificate/groups", "count"),
        errors=source.show(file, "/certificate/false_allows", "count"),
    )
    return [
        _target(
            page, "certificate", met, evidence, need=missing_groups(page) if met is False else ()
        )
    ]


def _useful(page: Page) -> list[Target]:
    source, key = page.sources, f"/splits/{HEADLINE}/allow_rate_on_allow"
    met = _judge(
        [
            source.value(page.released, f"{key}/value"),
            source.value(PARAMS, "/report/target_allow_rate"),
        ],
        lambda rate, target: rate >= target,
    )
    evidence = page.words.say(
        "useful_e",
        allow=source.rate(page.released, key),
        target=source.show(PARAMS, "/report/target_allow_rate", "percent"),
    )
    return [_target(page, "useful", met, evidence, split=HEADLINE)]


def _far(page: Page) -> list[Target]:
    source, found = page.sources, []
    for split in SPLITS:
        key = f"/splits/{split}/false_allow_rate"
        met = _judge(
            [
                source.value(page.released, f"{key}/value"),
                source.value(page.released_card, "/certificate/alpha"),
            ],
            lambda far, alpha: far <= alpha,
        )
        evidence = page.words.say(
            "far_e",
            far=source.rate(page.released, key),
            alpha=source.show(page.released_card, "/certificate/alpha", "percent"),
        )
        found.append(_target(page, "far", met, evidence, split=split))
    return found


def _better(page: Page) -> list[Target]:
    source, words, found = page.sources, page.words, []
    for split in SPLITS:
        differences = source.value(AB, f"/splits/{split}/differences") or {}
        primary = [name for name, one in differences.items() if one.get("primary")]
        outcomes = [differences[name]["outcome"] for name in primary]
        met = ("better" in outcomes and "worse" not in outcomes) if outcomes else None
        evidence = joined(
            [
                words.say(
                    "endpoint_e",
                    endpoint=words(name),
                    difference=source.show(
                        AB,
                        f"/splits/{split}/differences/{name}/difference",
                        SIGNED.get(name, "points"),
                    ),
                    p=source.show(AB, f"/splits/{split}/differences/{name}/p_adjusted", "p"),
                    outcome=words(f"o_{differences[name]['outcome']}"),
                )
                for name in primary
            ]
            + ([_allowed(page, split)] if primary else []),
            "; ",
        )
        found.append(_target(page, "better", met, evidence, split=split))
    return found


def _allowed(page: Page, split: str) -> Line:
    """Usefulness beside safety: a model that allows nothing has no false allows either."""
    key = f"/splits/{split}/differences/allow_rate_on_allow"
    return page.words.say(
        "allowed_e",
        **{side: page.sources.show(AB, f"{key}/{side}/value", "percent") for side in ("a", "b")},
    )


def _baselines(page: Page) -> list[Target]:
    source, found = page.sources, []
    if not source.has(AB, "/baselines/0"):
        unknown = page.words.say(
            "baseline_e",
            **{key: source.show(AB, f"/baselines/0/{key}", "percent") for key in ("b", "other")},
        )
        return [
            _target(page, "baseline", None, unknown, split=split, baseline=page.words(name))
            for name, split in (("keywords", HEADLINE), ("ngram", SPLITS[1]))
        ]
    for i, one in enumerate(source.value(AB, "/baselines")):
        met = None if one["outcome"] == "not_run" else one["outcome"].startswith("beats")
        evidence = page.words.say(
            "baseline_e",
            b=source.rate(AB, f"/baselines/{i}/b"),
            other=source.rate(AB, f"/baselines/{i}/baseline"),
        )
        found.append(
            _target(
                page,
                "baseline",
                met,
                evidence,
                split=one["split"],
                baseline=page.words(one["name"]),
            )
        )
    return found


def drift_index(page: Page, model: str, kind: str) -> int | None:
    """Place of one file in ab.json's drift list."""
    entries = page.sources.value(AB, "/drift") or []
    return next(
        (i for i, entry in enumerate(entries) if entry["file"] == f"{model}-{kind}.gguf"), None
    )


def _drift(page: Page) -> list[Target]:
    index, source = drift_index(page, page.model, page.type), page.sources
    if page.type == "F16":
        return []
    key = f"/drift/{index}"
    met = _judge(
        [None if index is None else source.value(AB, f"{key}/violations")],
        lambda violations: not violations,
    )
    evidence = page.words.say(
        "drift_e",
        flips=source.rate(AB, f"{key}/flips/changed"),
        toward=source.rate(AB, f"{key}/flips/toward_allow"),
    )
    return [_target(page, "drift", met, evidence)]


def _stable(page: Page) -> list[Target]:
    file, source = page.released, page.sources
    met = _judge([source.value(file, "/stability/unstable")], lambda unstable: unstable == 0)
    evidence = page.words.say(
        "stable_e",
        **{
            key: source.show(file, f"/stability/{key}", "count")
            for key in ("unstable", "n", "tokens")
        },
    )
    return [_target(page, "stable", met, evidence)]


def _calibrated(page: Page) -> list[Target]:
    source, key = page.sources, f"/splits/{HEADLINE}/calibrated/ece_width"
    met = _judge([source.value(page.released, f"{key}/worse_than_null")], lambda worse: not worse)
    evidence = page.words.say(
        "calibrated_e",
        ece=source.rate(page.released, key, "ratio"),
        null=source.show(page.released, f"{key}/null/q95", "ratio"),
    )
    return [_target(page, "calibrated", met, evidence, split=HEADLINE)]


CHECKS: tuple[Check, ...] = (
    _certificate,
    _useful,
    _far,
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
ORDER = {False: 0, None: 1, True: 2}
OUTCOMES = {False: "missed", None: "unknown", True: "met"}


def targets(page: Page) -> list[Target]:
    """Every target, missed ones first, then those not measured."""
    return sorted(
        (target for check in CHECKS for target in check(page)), key=lambda target: ORDER[target.met]
    )


def table(page: Page, found: list[Target]) -> Table:
    """The targets as a table."""
    words = page.words
    rows = [row(one.title, words(OUTCOMES[one.met]), one.evidence, one.change) for one in found]
    return Table(
        [words(name) for name in ("t_target", "t_outcome", "t_evidence", "t_change")],
        rows,
        measured=False,
    )
