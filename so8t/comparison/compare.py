"""Compare two scored files: every split apart, one conclusion from the first, drift beside it.

The result is ab.json. Its conclusion is a code and the numbers behind it; the report has the words.

| code | meaning |
|---|---|
| b_better | at least one primary endpoint better, none worse |
| b_worse | at least one primary endpoint worse, none better |
| mixed | one better and another worse |
| no_difference | neither; the minimum detectable effect says what could have been missed |
| b_collapsed | B no longer gives a verdict that A gives: nothing else counts |

Beside it two CSV tables for `dvc plots`: verdict flips, and the differences of the primary split
with their intervals (a forest plot). The report draws its own figures from ab.json.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from so8t import metrics
from so8t.card import DecidedRows, decide_rows, thresholds_of
from so8t.comparison.drift import drift
from so8t.comparison.endpoints import Rules, differences
from so8t.comparison.flips import collapsed, emitted, flips, worst_flips
from so8t.comparison.sides import SPLITS, Side, describe, read_split, require_paired
from so8t.files import atomic_dir, csv_text
from so8t.metrics import clopper_pearson
from so8t.metrics.intervals import POWER
from so8t.params import Compare
from so8t.verdict import VERDICTS

SCHEMA = "so8t.ab/1"
PREPARED = "so8t.prepare/1"  # schema of prepare.json
# The conclusion is drawn from rows like those of training and calibration. The other two splits
# hold new combinations of factors ("cells") and new wordings ("phrases"); they are shown beside it.
PRIMARY_SPLIT = SPLITS[0]
# What B must beat, and on which split: keyword rules, and a probe on character n-grams.
BASELINES = (("keywords", "test_iid"), ("ngram", "test_cells"))
# Keys of an endpoint that the conclusion repeats.
NUMBERS = ("a", "b", "difference", "ci95", "p_adjusted", "mde", "outcome", "n", "groups")


def rules_of(section: Compare, seed: int) -> Rules:
    """params.compare as the rules of a comparison."""
    return Rules(
        alpha=section.alpha,
        draws=section.bootstrap,
        margin=section.margin,
        primary=tuple(section.primary),
        seed=seed,
    )


def compare(
    a: Side,
    b: Side,
    rules: Rules,
    *,
    prepare: Mapping[str, Any] | None,
    pairs: list[tuple[Side, Side]],
) -> dict[str, Any]:
    """Make ab.json.

    Args:
        a: the base, with its own card.
        b: the retrained model, with its own card.
        rules: params.compare.
        prepare: reports/metrics/prepare.json, for the baselines; null prints "not run".
        pairs: (F16 side, quantised side) for drift.

    Raises:
        ArtifactError: a card is not for its scores.
        DataError: A and B were not scored on the same rows.
    """
    sides = {"a": describe(a), "b": describe(b)}
    splits = {
        split: compare_split(
            a,
            b,
            split,
            rules,
        )
        for split in SPLITS
    }
    primary = splits[PRIMARY_SPLIT]
    # A is the reference of the collapse test, so it cannot have collapsed.
    sides["a"]["collapsed"] = []
    sides["b"]["collapsed"] = primary["collapsed"]
    # A closed gate is a card without certificate: escalate is 0.
    closed = [name for name, side in sides.items() if side["thresholds"]["escalate"] <= 0]
    conclusion = conclude(
        primary["differences"],
        primary["collapsed"],
        closed,
        split=PRIMARY_SPLIT,
        margin=rules.margin,
        alpha=rules.alpha,
    )
    # Before thresholds, because the baselines have none.
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


def compare_split(
    a: Side,
    b: Side,
    split: str,
    rules: Rules,
) -> dict[str, Any]:
    """Everything about one split.

    Raises:
        DataError: A and B were not scored on the same rows.
    """
    # Each by its own card, as it would be served.
    rows_a = read_split(a, split)
    rows_b = read_split(b, split)
    require_paired(rows_a, rows_b, f"{b.folder}/{split}.jsonl")
    # B under A's thresholds: what the model changed, without what its calibration changed.
    b_under_a = decide_rows(b.card, rows_b.scores, thresholds_of(a.card))
    return {
        "n": len(rows_a.scores),
        "groups": len(set(rows_a.scores.groups)),
        "a": _metrics_of(rows_a),
        "b": _metrics_of(rows_b),
        "b_under_a": _metrics_of(b_under_a),
        "differences": differences(rows_a, rows_b, rules),
        "flips": flips(rows_a, rows_b),
        "worst_flips": worst_flips(rows_a, rows_b),
        "collapsed": collapsed(rows_a, rows_b, rules.alpha),
    }


def _metrics_of(rows: DecidedRows) -> dict[str, Any]:
    """Metrics of one side; accuracy of the most probable verdict beside that of the decision."""
    scores = rows.scores
    return {
        **metrics.verdict_metrics(scores.gold, rows.decided, scores.domains),
        "argmax_accuracy": metrics.accuracy(scores.gold, rows.most_likely).to_dict(),
        "emitted": emitted(rows.decided),
        "argmax_emitted": emitted(rows.most_likely),
    }


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
        closed: sides whose ALLOW gate is closed.
        split: name of the split.
        margin: increase of the false-allow rate that still counts as not worse.
        alpha: level.
    """
    # Repeated, so that the conclusion can be read without the long list of endpoints.
    primary = {}
    for name, values in differences.items():
        if values["primary"]:
            primary[name] = {key: values[key] for key in NUMBERS}
    # A side that allows nothing has no false allows, which is no merit.
    if len(closed) == 1 and "false_allow_rate" in primary:
        primary["false_allow_rate"]["outcome"] = "not_comparable"
    outcomes = {values["outcome"] for values in primary.values()}
    # Non-inferiority: the whole interval must lie below the margin, not the estimate alone. The
    # exact one, for a bootstrap sees no risk where no row changed.
    interval = differences["false_allow_rate"]["ci95_exact"]
    upper = None
    if interval:
        upper = interval[1]
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
    # A model that never says DENY may still look better by every rate.
    if collapsed:
        return "b_collapsed"
    if {"better", "worse"} <= outcomes:
        return "mixed"
    if "better" in outcomes:
        return "b_better"
    if "worse" in outcomes:
        return "b_worse"
    return "no_difference"


def baselines(
    prepare: Mapping[str, Any] | None,
    b_accuracy: Mapping[str, Mapping[str, Any]],
) -> list[dict[str, Any]]:
    """Whether B, before thresholds, beats what needs no language model.

    Args:
        prepare: prepare.json, whose `probes` hold the baselines' accuracies.
        b_accuracy: of B's most probable verdicts, by split.

    Returns:
        One entry per baseline. `outcome` is beats (intervals apart), beats_unclear (higher, but the
        intervals overlap), does_not_beat, or not_run.
    """
    probes = _section(prepare, "probes")
    found = []
    for name, split in BASELINES:
        # A probe that was switched off is null, or is missing.
        probe = _section(_section(probes, name), split)
        baseline = _rate_of(probe.get("accuracy"), probe.get("n"))
        entry = {
            "name": name,
            "split": split,
            "baseline": baseline,
            "b": b_accuracy[split],
            "outcome": _beats(b_accuracy[split], baseline),
        }
        found.append(entry)
    return found


def _section(content: Mapping[str, Any] | None, name: str) -> Mapping[str, Any]:
    """A section of a file; empty where something else stands in its place."""
    found = (content or {}).get(name)
    return found if isinstance(found, dict) else {}


def _rate_of(accuracy: Any, n: Any) -> dict[str, Any] | None:
    """The probe's accuracy with its interval; null when it was not run."""
    if not isinstance(accuracy, int | float) or not isinstance(n, int) or n <= 0:
        return None
    # prepare.json holds the share rounded to four digits, so k is exact up to 10,000 rows.
    k = round(accuracy * n)
    return {"value": float(accuracy), "k": k, "n": n, "ci95": list(clopper_pearson(k, n))}


def _beats(b: Mapping[str, Any], baseline: Mapping[str, Any] | None) -> str:
    if baseline is None or b["value"] is None:
        return "not_run"
    # Intervals that do not touch: stricter than a paired test, for which prepare.json has no rows.
    if b["ci95"][0] > baseline["ci95"][1]:
        return "beats"
    if b["value"] > baseline["value"]:
        return "beats_unclear"
    return "does_not_beat"


def write_tables(folder: Path, split: Mapping[str, Any]) -> None:
    """Replace `folder` by flips.csv and forest.csv of one split of ab.json."""
    flipped = csv_text(("a", "b"), flip_rows(split["flips"]["matrix"]))
    forest = csv_text(("endpoint", "part", "difference"), forest_rows(split["differences"]))
    # Both tables or none: a plot must not mix two runs.
    with atomic_dir(folder) as temporary:
        _write_csv(temporary / "flips.csv", flipped)
        _write_csv(temporary / "forest.csv", forest)


def _write_csv(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8", newline="\n")


def flip_rows(matrix: list[list[int]]) -> Iterable[dict[str, Any]]:
    """One line per row of the split: what A decided and what B decided."""
    for was, counts in zip(VERDICTS, matrix, strict=True):
        for now, count in zip(VERDICTS, counts, strict=True):
            # `dvc plots` counts lines itself, so each row of the split is a line of its own.
            for _ in range(count):
                yield {"a": was.value, "b": now.value}


def forest_rows(differences: Mapping[str, Mapping[str, Any]]) -> Iterable[dict[str, Any]]:
    """Three lines per endpoint (low, difference, high), for those that have an interval."""
    for name, endpoint in differences.items():
        if not endpoint["ci95"]:
            continue
        low, high = endpoint["ci95"]
        parts = {"low": low, "difference": endpoint["difference"], "high": high}
        for part, value in parts.items():
            yield {"endpoint": name, "part": part, "difference": round(float(value), 6)}
