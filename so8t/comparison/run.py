"""Compare two scored files: every split apart, one conclusion from the first, drift beside it."""

from collections.abc import Mapping
from typing import Any

from so8t import metrics
from so8t.comparison.arm import SPLITS, Arm, Judge, Side, arm_of, describe, require_paired
from so8t.comparison.conclusion import baselines, conclude
from so8t.comparison.drift import drift
from so8t.comparison.endpoints import Rules, differences
from so8t.comparison.flips import collapsed, emitted, flips, worst_flips
from so8t.params import Compare

SCHEMA = "so8t.ab/1"
PRIMARY_SPLIT = SPLITS[0]


def rules_of(section: Compare, seed: int) -> Rules:
    """params.compare as the rules of a comparison."""
    return Rules(section.alpha, section.bootstrap, section.margin, tuple(section.primary), seed)


def _of(arm: Arm) -> dict[str, Any]:
    """Metrics of one arm; accuracy of the most probable verdict beside that of the decision."""
    return {**metrics.verdict_metrics(arm.scores.gold, arm.decided, arm.scores.domains),
            "argmax_accuracy": metrics.accuracy(arm.scores.gold, arm.top).to_dict(),
            "emitted": emitted(arm.decided), "argmax_emitted": emitted(arm.top)}


def compare_split(a: Arm, b: Arm, b_under_a: Arm, rules: Rules) -> dict[str, Any]:
    """Everything about one split."""
    return {"n": len(a.scores), "groups": len(set(a.scores.groups)), "a": _of(a), "b": _of(b),
            "b_under_a": _of(b_under_a), "differences": differences(a, b, rules), "flips": flips(a, b),
            "worst_flips": worst_flips(a, b), "collapsed": collapsed(a, b, rules.alpha)}


def compare(a: Side, b: Side, b_under_a: Judge, rules: Rules, *, prepare: Mapping[str, Any] | None,
            pairs: list[tuple[Side, Side]]) -> dict[str, Any]:
    """Make ab.json.

    Args:
        a: the base, with its own card.
        b: the retrained model, with its own card.
        b_under_a: decides B's rows by A's thresholds.
        rules: params.compare.
        prepare: reports/metrics/prepare.json, for the baselines; null prints "not run".
        pairs: (F16 side, quantised side) for drift.

    Raises:
        ArtifactError: a card is not for its scores.
        DataError: A and B were not scored on the same rows.
    """
    sides: dict[str, dict[str, Any]] = {"a": describe(a), "b": describe(b)}
    splits = {}
    for split in SPLITS:
        first, second = arm_of(a, split), arm_of(b, split)
        require_paired(first, second, f"{b.folder}/{split}.jsonl")
        splits[split] = compare_split(first, second, second.judged_by(b_under_a), rules)
    lost = splits[PRIMARY_SPLIT]["collapsed"]
    sides["a"]["collapsed"], sides["b"]["collapsed"] = [], lost
    closed = [name for name, side in sides.items() if side["thresholds"]["escalate"] <= 0]
    conclusion = conclude(splits[PRIMARY_SPLIT]["differences"], lost, closed, split=PRIMARY_SPLIT,
                          margin=rules.margin, alpha=rules.alpha)
    accuracies = {split: values["b"]["argmax_accuracy"] for split, values in splits.items()}
    return {"schema": SCHEMA, "conclusion": conclusion, "sides": sides, "splits": splits,
            "baselines": baselines(prepare, accuracies), "drift": drift(pairs, rules),
            "rules": {"alpha": rules.alpha, "bootstrap": rules.draws, "margin": rules.margin,
                      "primary": list(rules.primary), "power": metrics.paired.POWER}}
