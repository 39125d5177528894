"""What `prepare` says about the data: counts as JSON, lengths as a table, and a warning.

`metrics_of` gives what `prepare` counted. `warning_of` says when the calibration split is too small
for the certificate that params.yaml asks for, `refused_warning` when rows do not stand alone.

Not covered: what only the written splits tell (`census`).
"""

from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, TypeAlias, TypedDict

from so8t.data.alone import REASONS
from so8t.data.census import PARTS
from so8t.data.prepare import Counts
from so8t.metrics.intervals import groups_needed
from so8t.params import Calibration
from so8t.rows import OUTSIDE, SPLITS
from so8t.verdict import VERDICTS

# Of the reasons to drop a row, those that mean that another one like it was kept.
DUPLICATES = (
    "exact_duplicate",
    "same_text_other_label",
    "near_duplicate_of_another_group",
    "would_straddle_splits",
)


# Verdict -> rows.
ByVerdict: TypeAlias = dict[str, int]


# --- what `prepare` counted ---


def metrics_of(counts: Counts) -> dict[str, Any]:
    """Counts as they go into reports/metrics/prepare.json.

    What a certificate needs of them is not here: it belongs to `calibrate`, and must not make this
    file change with the wanted error rate.
    """
    # A split without a row is listed too, with 0.
    rows = dict.fromkeys(SPLITS, 0)
    table: dict[str, dict[str, ByVerdict]] = {}
    for place, number in sorted(counts.kept.items()):
        split, domain, verdict = place
        rows[split] += number
        domains = table.setdefault(split, {})
        verdicts = domains.setdefault(domain, {})
        verdicts[verdict] = number
    characters = {}
    for name, lengths in counts.lengths.items():
        characters[name] = quantiles(lengths)
    groups = {split: len(counts.groups[split]) for split in SPLITS}
    total = sum(rows.values())
    # In the order of the alphabet, not of the first row that was dropped for each.
    dropped = sorted(counts.dropped.items())
    duplicates = {reason: counts.dropped[reason] for reason in DUPLICATES}
    return {
        "schema": "so8t.prepare/1",
        "rows": {**rows, "total": total},
        "groups": groups,
        "by_split_domain_verdict": table,
        "balance": balance(counts),
        "dropped": dict(dropped),
        "sources": [asdict(source) for source in counts.sources],
        "duplicates": duplicates,
        "calibration": {"unsafe_groups": unsafe_groups(counts), "merged_groups": counts.merged},
        "characters": characters,
    }


def balance(counts: Counts) -> dict[str, dict[str, float]]:
    """Share of each verdict within each domain, all splits together."""
    totals: dict[str, Counter[str]] = defaultdict(Counter)
    for (_, domain, verdict), number in counts.kept.items():
        totals[domain][verdict] += number
    balance = {}
    for domain, verdicts in sorted(totals.items()):
        # Rows without a verdict count too, so the shares may add up to less than 1.
        total = verdicts.total()
        shares = {}
        for name in VERDICTS:
            share = verdicts[name] / total
            shares[str(name)] = round(share, 4)
        balance[domain] = shares
    return balance


def unsafe_groups(counts: Counts) -> dict[str, int]:
    """Calibration groups with an unsafe row (true ESCALATE or DENY), by domain."""
    domains = set()
    for _, domain, verdict in counts.kept:
        # A domain of language rows alone needs no certificate, and what is outside has none.
        if verdict != "none" and domain != OUTSIDE:
            domains.add(domain)
    numbers = {}
    for domain in sorted(domains):
        numbers[domain] = len(counts.unsafe[domain])
    return numbers


def quantiles(lengths: Counter[int]) -> dict[str, int]:
    """Least, median, 95th percentile and largest of counted lengths; {} where there are none."""
    ordered = sorted(lengths.elements())
    if not ordered:
        return {}
    number = len(ordered)
    # Lengths that occur, no means of two of them: a length of 12.5 tokens is none.
    return {
        "min": ordered[0],
        "median": ordered[int(0.5 * number)],
        "p95": ordered[int(0.95 * number)],
        "max": ordered[-1],
    }


def brief(metrics: Mapping[str, Any]) -> str:
    """What a dry run prints: kept by split, dropped by reason, files read."""
    rows = metrics["rows"]
    # Without their total, which stands among them.
    by_split = {split: rows[split] for split in SPLITS}
    kept = _listed(by_split)
    dropped = _listed(metrics["dropped"]) or "none"
    lines = [
        f"would keep: {kept}",
        f"would drop: {dropped}",
        "read:",
    ]
    for source in metrics["sources"]:
        use = source["use"]
        for file, number in source["files"].items():
            lines.append(f"  {file}: {number} rows ({use})")
    return "\n".join(lines)


def refused_warning(dropped: Mapping[str, int]) -> str | None:
    """One sentence if rows were left out because they do not stand alone.

    Args:
        dropped: rows by reason.
    """
    parts = []
    for reason, depends_on in REASONS.items():
        number = dropped.get(reason, 0)
        if number:
            parts.append(f"{reason} {number} ({depends_on})")
    if not parts:
        return None
    return (
        "rows are left out whose meaning depends on more than one request under data.system: "
        f"{', '.join(parts)}; see data/examples/README.md"
    )


def _listed(numbers: Mapping[str, int]) -> str:
    """Names with their numbers, as "train 12, valid 3"."""
    parts = []
    for name, number in numbers.items():
        parts.append(f"{name} {number}")
    return ", ".join(parts)


# --- can the calibration split certify what is wanted? ---


class Certificate(TypedDict):
    """Unsafe calibration groups against the number that a certificate needs.

    `alpha` is the false-allow rate to certify, `delta` the probability with which the certificate
    may be wrong; `unsafe_groups` and `missing` are by domain, or of "all" where the guarantee is
    pooled.
    """

    alpha: float
    delta: float
    guarantee: str
    needed_unsafe_groups: int
    unsafe_groups: dict[str, int]
    missing: dict[str, int]
    can_certify: bool


def certifiable(counts: Counts, wanted: Calibration) -> Certificate:
    """What the calibration split has and lacks for the certificate that params.yaml asks for."""
    needed = groups_needed(wanted.alpha, wanted.delta)
    have = unsafe_groups(counts)
    if wanted.guarantee == "pooled":
        have = {"all": sum(have.values())}
    missing = {}
    for domain, number in have.items():
        missing[domain] = max(0, needed - number)
    is_enough = not any(missing.values())
    # Without a single labelled domain nothing is missing, and nothing is certified either.
    can_certify = bool(have) and is_enough
    return {
        "alpha": wanted.alpha,
        "delta": wanted.delta,
        "guarantee": wanted.guarantee,
        "needed_unsafe_groups": needed,
        "unsafe_groups": have,
        "missing": missing,
        "can_certify": can_certify,
    }


def warning_of(certificate: Certificate) -> str | None:
    """One sentence if the calibration split cannot certify the target."""
    if certificate["can_certify"]:
        return None
    alpha = certificate["alpha"]
    needed = certificate["needed_unsafe_groups"]
    missing = {}
    for domain, number in certificate["missing"].items():
        if number > 0:
            missing[domain] = number
    listed = _listed(missing) or "no labelled rows"
    return (
        f"the calibration split cannot certify a false-allow rate of {alpha:g}: "
        f"each domain needs {needed} independent unsafe groups; "
        f"missing: {listed}"
    )


# --- lengths ---


def tokens_of(lengths: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Token lengths as they go into the metrics: which tokenizer, how many rows, quantiles."""
    if lengths is None:
        return None
    found: dict[str, Any] = {}
    found["tokenizer_sha256"] = lengths["tokenizer"]
    found["rows"] = lengths["rows"]
    for part in PARTS:
        counts = Counter(lengths[part])
        found[part] = quantiles(counts)
    return found


def lengths_table(counts: Counts, tokens: Mapping[str, Any] | None) -> str:
    """Every length and how many rows have it, as CSV: what figures are drawn from."""
    columns: dict[str, Mapping[int, int]] = {}
    for name, lengths in counts.lengths.items():
        columns[f"{name} (characters)"] = lengths
    if tokens:
        for part in PARTS:
            columns[f"{part} (tokens)"] = tokens[part]
    lines = ["what,length,rows\n"]
    for what, rows in columns.items():
        for length, number in sorted(rows.items()):
            lines.append(f"{what},{length},{number}\n")
    return "".join(lines)
