"""Compare two scored files: every split apart, one conclusion from the first, drift beside it.

The conclusion as data: a code and the numbers behind it; words are the report's business.

| code | meaning |
|---|---|
| b_better | at least one primary endpoint better, none worse |
| b_worse | at least one primary endpoint worse, none better |
| mixed | one better and another worse |
| no_difference | neither; the minimum detectable effect says what could have been missed |
| b_collapsed | B no longer gives a verdict that A gives: nothing else counts |

Tables behind the comparison's DVC plots: verdict flips and the forest of differences on the primary split.

The report draws its own figures from ab.json; these say the same for `dvc plots`. Not covered: drawing.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from so8t import metrics
from so8t.comparison.drift import drift
from so8t.comparison.endpoints import Rules, collapsed, differences, emitted, flips, worst_flips
from so8t.comparison.sides import SPLITS, Arm, Judge, Side, arm_of, describe, require_paired
from so8t.files import atomic_dir, csv_text
from so8t.metrics import clopper_pearson
from so8t.metrics.intervals import POWER
from so8t.params import Compare
from so8t.verdict import VERDICTS

SCHEMA = "so8t.ab/1"
PRIMARY_SPLIT = SPLITS[0]


def rules_of(section: Compare, seed: int) -> Rules:
    """params.compare as the rules of a comparison."""
    return Rules(section.alpha, section.bootstrap, section.margin, tuple(section.primary), seed)


def _of(arm: Arm) -> dict[str, Any]:
    """Metrics of one arm; accuracy of the most probable verdict beside that of the decision."""
    return {
        **metrics.verdict_metrics(arm.scores.gold, arm.decided, arm.scores.domains),
        "argmax_accuracy": metrics.accuracy(arm.scores.gold, arm.top).to_dict(),
        "emitted": emitted(arm.decided),
        "argmax_emitted": emitted(arm.top),
    }


def compare_split(a: Arm, b: Arm, b_under_a: Arm, rules: Rules) -> dict[str, Any]:
    """Everything about one split."""
    return {
        "n": len(a.scores),
        "groups": len(set(a.scores.groups)),
        "a": _of(a),
        "b": _of(b),
        "b_under_a": _of(b_under_a),
        "differences": differences(a, b, rules),
        "flips": flips(a, b),
        "worst_flips": worst_flips(a, b),
        "collapsed": collapsed(a, b, rules.alpha),
    }


def compare(
    a: Side,
    b: Side,
    b_under_a: Judge,
    rules: Rules,
    *,
    prepare: Mapping[str, Any] | None,
    pairs: list[tuple[Side, Side]],
) -> dict[str, Any]:
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
    conclusion = conclude(
        splits[PRIMARY_SPLIT]["differences"],
        lost,
        closed,
        split=PRIMARY_SPLIT,
        margin=rules.margin,
        alpha=rules.alpha,
    )
    accuracies = {split: values["b"]["argmax_accuracy"] for split, values in splits.items()}
    return {
        "schema": SCHEMA,
        "conclusion": conclusion,
        "sides": sides,
        "splits": splits,
        "baselines": baselines(prepare, accuracies),
        "drift": drift(pairs, rules),
        "rules": {
            "alpha": rules.alpha,
            "bootstrap": rules.draws,
            "margin": rules.margin,
            "primary": list(rules.primary),
            "power": POWER,
        },
    }


BASELINES = (("keywords", "test_iid"), ("ngram", "test_cells"))
NUMBERS = ("a", "b", "difference", "ci95", "p_adjusted", "mde", "outcome", "n", "groups")


def conclude(
    differences: Mapping[str, Mapping[str, Any]],
    collapsed: list[str],
    closed: list[str],
    *,
    split: str,
    margin: float,
    alpha: float,
) -> dict[str, Any]:
    """Conclude from the primary endpoints of one split.

    Args:
        differences: of `endpoints.differences`.
        collapsed: verdicts that B no longer gives.
        closed: sides whose ALLOW gate is closed. A side that allows nothing has no false allows, which is no merit:
            with one side closed, the false-allow rate is `not_comparable`.
        split: name of the split.
        margin: increase of the false-allow rate that still counts as not worse.
        alpha: level.
    """
    primary = {
        name: {key: values[key] for key in NUMBERS}
        for name, values in differences.items()
        if values["primary"]
    }
    if len(closed) == 1 and "false_allow_rate" in primary:
        primary["false_allow_rate"]["outcome"] = "not_comparable"
    outcomes, far = (
        {values["outcome"] for values in primary.values()},
        differences["false_allow_rate"],
    )
    upper = far["ci95"][1] if far["ci95"] else None
    return {
        "code": _code(outcomes, collapsed),
        "split": split,
        "alpha": alpha,
        "primary": primary,
        "collapsed": collapsed,
        "closed": closed,
        "false_allow_not_worse": {
            "shown": upper is not None and upper <= margin,
            "margin": margin,
            "upper": upper,
        },
    }


def _code(outcomes: set[str], collapsed: list[str]) -> str:
    if collapsed:
        return "b_collapsed"
    if {"better", "worse"} <= outcomes:
        return "mixed"
    if "better" in outcomes:
        return "b_better"
    return "b_worse" if "worse" in outcomes else "no_difference"


def baselines(
    prepare: Mapping[str, Any] | None, b_accuracy: Mapping[str, Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Whether B, before thresholds, beats keyword rules on test_iid and the n-gram probe on test_cells.

    outcome: beats (intervals apart), beats_unclear (higher, intervals overlap), does_not_beat, not_run.
    """
    found = []
    for name, split in BASELINES:
        probe = ((prepare or {}).get("probes", {}).get(name) or {}).get(split) or {}
        baseline = _rate_of(probe.get("accuracy"), probe.get("n"))
        found.append(
            {
                "name": name,
                "split": split,
                "baseline": baseline,
                "b": b_accuracy[split],
                "outcome": _beats(b_accuracy[split], baseline),
            }
        )
    return found


def _rate_of(accuracy: Any, n: Any) -> dict[str, Any] | None:
    """The probe's accuracy with the interval that its rounded share of n rows has; null when it was not run."""
    if not isinstance(accuracy, int | float) or not isinstance(n, int) or n <= 0:
        return None
    k = round(accuracy * n)
    return {"value": float(accuracy), "k": k, "n": n, "ci95": list(clopper_pearson(k, n))}


def _beats(b: Mapping[str, Any], baseline: Mapping[str, Any] | None) -> str:
    if baseline is None or b["value"] is None:
        return "not_run"
    if b["ci95"][0] > baseline["ci95"][1]:
        return "beats"
    return "beats_unclear" if b["value"] > baseline["value"] else "does_not_beat"


def flip_rows(matrix: list[list[int]]) -> list[dict[str, Any]]:
    """One line per row of the split: what A decided and what B decided."""
    return [
        {"a": was.value, "b": now.value}
        for was, counts in zip(VERDICTS, matrix, strict=True)
        for now, count in zip(VERDICTS, counts, strict=True)
        for _ in range(count)
    ]


def forest(differences: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Three lines per endpoint (low, difference, high), for those that have an interval."""
    return [
        {"endpoint": name, "part": part, "difference": round(float(value), 6)}
        for name, one in differences.items()
        if one["ci95"]
        for part, value in (
            ("low", one["ci95"][0]),
            ("difference", one["difference"]),
            ("high", one["ci95"][1]),
        )
    ]


def write_tables(folder: Path, split: Mapping[str, Any]) -> None:
    """Replace `folder` by flips.csv and forest.csv of one split of ab.json."""
    tables = {
        "flips": (("a", "b"), flip_rows(split["flips"]["matrix"])),
        "forest": (("endpoint", "part", "difference"), forest(split["differences"])),
    }
    with atomic_dir(folder) as temporary:
        for name, (columns, rows) in tables.items():
            (temporary / f"{name}.csv").write_text(
                csv_text(columns, rows), encoding="utf-8", newline="\n"
            )
