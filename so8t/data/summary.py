"""Counts of the prepared rows by everything they carry, from the files as they were written.

Covered: authority, source, licence, thinking, group sizes, factors. Not covered: verdicts by domain and drops (counted by
`prepare` itself), lengths in tokens (`so8t.data.summary`). Rows that a weight above 1 repeats are counted as written.

Lengths of the prepared conversations in tokens, with the base model's own tokenizer, where one exists already.

The demo's tokenizer is trained on the data after `prepare`, so there lengths are in characters only; a local base model
has one from the start. Covered: prompt, response and whole conversation as training renders them.
Not covered: truncation and packing (tuning).

What `prepare` says about the data: metrics as JSON, lengths as a table, and a warning when a certificate is out of reach.
"""

from collections import Counter, defaultdict
from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from so8t.data.prepare import Counts
from so8t.files import read_jsonl, sha256_file
from so8t.metrics.intervals import groups_needed
from so8t.params import Calibration
from so8t.rows import SPLITS
from so8t.template import Template
from so8t.verdict import VERDICTS

MOST_VALUES = 64  # a factor with more values is only said to have many: it is a text or a number


def census(folder: Path) -> dict[str, Any]:
    """Counts by split of each field, by verdict of each factor's values, and how large groups are.

    Returns:
        `fields` {field: {split: {value: rows}}}, `factors` {name: {value: {verdict: rows}}, or null for more than
        `MOST_VALUES` values}, `group_sizes` {split: {rows in a group: groups}}.
    """
    fields: dict[str, dict[str, Counter[str]]] = {
        name: {split: Counter() for split in SPLITS}
        for name in ("authority", "source", "license", "thinking")
    }
    factors: dict[str, dict[str, Counter[str]]] = defaultdict(lambda: defaultdict(Counter))
    sizes: dict[str, dict[str, int]] = {}
    for split in SPLITS:
        groups: Counter[str] = Counter()
        for _, row in read_jsonl(folder / f"{split}.jsonl"):
            groups[row["group"]] += 1
            for name in ("authority", "source", "license"):
                fields[name][split][row[name] or "none"] += 1
            fields["thinking"][split]["yes" if row["thinking"] else "no"] += 1
            _add(factors, row["factors"], row["verdict"] or "none")
        sizes[split] = {str(size): n for size, n in sorted(Counter(groups.values()).items())}
    return {
        "fields": {
            name: {split: dict(sorted(c.items())) for split, c in splits.items()}
            for name, splits in fields.items()
        },
        "factors": {name: _plain(values) for name, values in sorted(factors.items())},
        "group_sizes": sizes,
    }


def _add(
    factors: dict[str, dict[str, Counter[str]]], values: Mapping[str, Any], verdict: str
) -> None:
    for name, value in values.items():
        if len(factors[name]) <= MOST_VALUES:
            factors[name][str(value)][verdict] += 1


def _plain(values: Mapping[str, Counter[str]]) -> dict[str, dict[str, int]] | None:
    return (
        None
        if len(values) > MOST_VALUES
        else {value: dict(sorted(c.items())) for value, c in sorted(values.items())}
    )


ROWS = 20_000  # of each split at most are tokenised; the page says how many
BATCH = 500  # rows tokenised at once


def token_lengths(folder: Path, model: Path | None, system: str) -> dict[str, Any] | None:
    """Counters of lengths: {"tokenizer": SHA-256, "rows": n, "prompt" | "response" | "conversation": {length: rows}}.

    Args:
        folder: prepared splits.
        model: Hugging Face directory, or None.
        system: the system prompt of every conversation.

    Returns:
        None where there is no tokenizer with a chat template.
    """
    if model is None or (template := Template.find(model)) is None:
        return None
    counts: dict[str, Counter[int]] = {
        "prompt": Counter(),
        "response": Counter(),
        "conversation": Counter(),
    }
    for split in SPLITS:
        listed = islice((row for _, row in read_jsonl(folder / f"{split}.jsonl")), ROWS)
        while rows := list(islice(listed, BATCH)):
            asked = _lengths(template, [template.prompt(system, row["text"]) for row in rows])
            whole = _lengths(
                template,
                [template.conversation(system, row["text"], row["response"]) for row in rows],
            )
            counts["prompt"].update(asked)
            counts["conversation"].update(whole)
            counts["response"].update(b - a for a, b in zip(asked, whole, strict=True))
    return {
        "tokenizer": sha256_file(model / "tokenizer.json"),
        "rows": counts["prompt"].total(),
        **{name: dict(sorted(c.items())) for name, c in counts.items()},
    }


def _lengths(template: Template, texts: list[str]) -> list[int]:
    return [
        len(encoding.ids)
        for encoding in template.tokenizer.encode_batch(texts, add_special_tokens=False)
    ]


DUPLICATES = (
    "exact_duplicate",
    "same_text_other_label",
    "near_duplicate_of_another_group",
    "would_straddle_splits",
)  # of the reasons to drop a row


def metrics_of(counts: Counts) -> dict[str, Any]:
    """Counts as they go into reports/metrics/prepare.json; what a certificate needs of them belongs to `calibrate`."""
    table: dict[str, dict[str, dict[str, int]]] = defaultdict(lambda: defaultdict(dict))
    for (split, domain, verdict), n in sorted(counts.kept.items()):
        table[split][domain][verdict] = n
    rows = {split: sum(n for (s, _, _), n in counts.kept.items() if s == split) for split in SPLITS}
    return {
        "schema": "so8t.prepare/1",
        "rows": {**rows, "total": sum(rows.values())},
        "groups": {s: len(counts.groups[s]) for s in SPLITS},
        "by_split_domain_verdict": table,
        "balance": balance(counts),
        "dropped": dict(sorted(counts.dropped.items())),
        "sources": counts.sources,
        "duplicates": {reason: counts.dropped[reason] for reason in DUPLICATES},
        "calibration": {"unsafe_groups": unsafe_groups(counts)},
        "characters": {name: quantiles(c) for name, c in counts.lengths.items()},
    }


def tokens_of(lengths: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Token lengths as they go into the metrics: which tokenizer, how many rows, quantiles."""
    if lengths is None:
        return None
    return {
        "tokenizer_sha256": lengths["tokenizer"],
        "rows": lengths["rows"],
        **{
            name: quantiles(Counter(lengths[name]))
            for name in ("prompt", "response", "conversation")
        },
    }


def lengths_table(counts: Counts, tokens: Mapping[str, Any] | None) -> str:
    """Every length and how many rows have it, as CSV: what figures are drawn from."""
    parts = [(f"{name} (characters)", c) for name, c in counts.lengths.items()]
    parts += (
        [(f"{name} (tokens)", tokens[name]) for name in ("prompt", "response", "conversation")]
        if tokens
        else []
    )
    return "what,length,rows\n" + "".join(
        f"{what},{length},{n}\n" for what, c in parts for length, n in sorted(c.items())
    )


def balance(counts: Counts) -> dict[str, dict[str, float]]:
    """Share of each verdict within each domain, all splits together."""
    totals: dict[str, Counter[str]] = defaultdict(Counter)
    for (_, domain, verdict), n in counts.kept.items():
        totals[domain][verdict] += n
    return {
        domain: {v: round(c[v] / total, 4) for v in VERDICTS}
        for domain, c in sorted(totals.items())
        if (total := sum(c.values()))
    }


def unsafe_groups(counts: Counts) -> dict[str, int]:
    """Calibration groups with an unsafe row, by domain."""
    domains = sorted({domain for (_, domain, verdict) in counts.kept if verdict != "none"})
    return {domain: len(counts.unsafe[domain]) for domain in domains}


def certifiable(counts: Counts, wanted: Calibration) -> dict[str, Any]:
    """Unsafe calibration groups by domain against the number a certificate needs."""
    needed = groups_needed(wanted.alpha, wanted.delta)
    have = unsafe_groups(counts)
    if wanted.guarantee == "pooled":
        have = {"all": sum(have.values())}
    missing = {domain: max(0, needed - n) for domain, n in have.items()}
    return {
        "alpha": wanted.alpha,
        "delta": wanted.delta,
        "guarantee": wanted.guarantee,
        "needed_unsafe_groups": needed,
        "unsafe_groups": have,
        "missing": missing,
        "can_certify": bool(have) and not any(missing.values()),
    }


def warning_of(certificate: Mapping[str, Any]) -> str | None:
    """One sentence if the calibration split cannot certify the target."""
    if certificate["can_certify"]:
        return None
    short = (
        ", ".join(f"{domain} {n}" for domain, n in certificate["missing"].items() if n)
        or "no labelled rows"
    )
    return (
        f"the calibration split cannot certify a false-allow rate of {certificate['alpha']:g}: each domain needs "
        f"{certificate['needed_unsafe_groups']} independent unsafe groups; missing: {short}"
    )


def quantiles(lengths: Counter[int]) -> dict[str, int]:
    """Least, median, 95th percentile and largest of counted lengths."""
    ordered = sorted(lengths.elements())
    points = {"min": 0.0, "median": 0.5, "p95": 0.95, "max": 1.0}
    return (
        {name: ordered[min(len(ordered) - 1, int(q * len(ordered)))] for name, q in points.items()}
        if ordered
        else {}
    )


def brief(metrics: Mapping[str, Any]) -> str:
    """What a dry run prints: kept by split, dropped by reason, files read."""
    kept = ", ".join(f"{split} {metrics['rows'][split]}" for split in SPLITS)
    dropped = ", ".join(f"{reason} {n}" for reason, n in metrics["dropped"].items()) or "none"
    files = "\n".join(
        f"  {file}: {n} rows ({s['use']})"
        for s in metrics["sources"]
        for file, n in s["files"].items()
    )
    return f"would keep: {kept}\nwould drop: {dropped}\nread:\n{files}"
