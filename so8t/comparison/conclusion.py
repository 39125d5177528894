"""The conclusion as data: a code and the numbers behind it; words are the report's business.

| code | meaning |
|---|---|
| b_better | at least one primary endpoint better, none worse |
| b_worse | at least one primary endpoint worse, none better |
| mixed | one better and another worse |
| no_difference | neither; the minimum detectable effect says what could have been missed |
| b_collapsed | B no longer gives a verdict that A gives: nothing else counts |
"""

from collections.abc import Mapping
from typing import Any

from so8t.metrics import clopper_pearson

BASELINES = (("keywords", "test_iid"), ("ngram", "test_cells"))
NUMBERS = ("a", "b", "difference", "ci95", "p_adjusted", "mde", "outcome", "n", "groups")


def conclude(differences: Mapping[str, Mapping[str, Any]], collapsed: list[str], closed: list[str], *, split: str,
             margin: float, alpha: float) -> dict[str, Any]:
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
    primary = {name: {key: values[key] for key in NUMBERS} for name, values in differences.items() if values["primary"]}
    if len(closed) == 1 and "false_allow_rate" in primary:
        primary["false_allow_rate"]["outcome"] = "not_comparable"
    outcomes, far = {values["outcome"] for values in primary.values()}, differences["false_allow_rate"]
    upper = far["ci95"][1] if far["ci95"] else None
    return {"code": _code(outcomes, collapsed), "split": split, "alpha": alpha, "primary": primary,
            "collapsed": collapsed, "closed": closed,
            "false_allow_not_worse": {"shown": upper is not None and upper <= margin, "margin": margin, "upper": upper}}


def _code(outcomes: set[str], collapsed: list[str]) -> str:
    if collapsed:
        return "b_collapsed"
    if {"better", "worse"} <= outcomes:
        return "mixed"
    if "better" in outcomes:
        return "b_better"
    return "b_worse" if "worse" in outcomes else "no_difference"


def baselines(prepare: Mapping[str, Any] | None, b_accuracy: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Whether B, before thresholds, beats keyword rules on test_iid and the n-gram probe on test_cells.

    outcome: beats (intervals apart), beats_unclear (higher, intervals overlap), does_not_beat, not_run.
    """
    found = []
    for name, split in BASELINES:
        probe = ((prepare or {}).get("probes", {}).get(name) or {}).get(split) or {}
        baseline = _rate_of(probe.get("accuracy"), probe.get("n"))
        found.append({"name": name, "split": split, "baseline": baseline, "b": b_accuracy[split],
                      "outcome": _beats(b_accuracy[split], baseline)})
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
