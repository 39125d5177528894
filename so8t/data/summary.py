"""What `prepare` says about the data: counts as JSON, lengths as a table, and a warning.

`metrics_of` gives what `prepare` counted itself; `census` and `token_lengths` read the splits as
they were written, so rows that a weight above 1 repeats are counted as often as they stand there.
`warning_of` says when the calibration split is too small for the certificate that params.yaml asks
for.

The demo's tokenizer is trained on the data after `prepare`, so there lengths are in characters
only; a local base model has its tokenizer from the start. Tokens are counted as training renders
the conversations. Not covered: truncation and packing (`so8t.training`).
"""

import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any, TypedDict

from so8t.data.prepare import Counts
from so8t.files import sha256_file
from so8t.params import Calibration
from so8t.rows import SPLITS, Row, read_rows
from so8t.template import Template
from so8t.verdict import VERDICTS

MOST_VALUES = 64  # a factor with more values is only said to have many: it is a text or a number
MOST_TOKENISED = 20_000  # rows of each split at most; the page says how many
BATCH = 500  # rows tokenised at once
PARTS = ("prompt", "response", "conversation")
# Of the reasons to drop a row, those that mean that another one like it was kept.
DUPLICATES = (
    "exact_duplicate",
    "same_text_other_label",
    "near_duplicate_of_another_group",
    "would_straddle_splits",
)


# --- what `prepare` counted ---


def metrics_of(counts: Counts) -> dict[str, Any]:
    """Counts as they go into reports/metrics/prepare.json.

    What a certificate needs of them is not here: it belongs to `calibrate`, and must not make this
    file change with the wanted error rate.
    """
    rows = dict.fromkeys(SPLITS, 0)
    table: dict[str, dict[str, dict[str, int]]] = defaultdict(lambda: defaultdict(dict))
    for (split, domain, verdict), number in sorted(counts.kept.items()):
        rows[split] += number
        table[split][domain][verdict] = number
    return {
        "schema": "so8t.prepare/1",
        "rows": {**rows, "total": sum(rows.values())},
        "groups": {split: len(counts.groups[split]) for split in SPLITS},
        "by_split_domain_verdict": table,
        "balance": balance(counts),
        "dropped": dict(sorted(counts.dropped.items())),
        "sources": [asdict(source) for source in counts.sources],
        "duplicates": {reason: counts.dropped[reason] for reason in DUPLICATES},
        "calibration": {"unsafe_groups": unsafe_groups(counts)},
        "characters": {name: quantiles(lengths) for name, lengths in counts.lengths.items()},
    }


def balance(counts: Counts) -> dict[str, dict[str, float]]:
    """Share of each verdict within each domain, all splits together."""
    totals: dict[str, Counter[str]] = defaultdict(Counter)
    for (_, domain, verdict), number in counts.kept.items():
        totals[domain][verdict] += number
    shares = {}
    for domain, verdicts in sorted(totals.items()):
        total = verdicts.total()
        if total:
            shares[domain] = {str(name): round(verdicts[name] / total, 4) for name in VERDICTS}
    return shares


def unsafe_groups(counts: Counts) -> dict[str, int]:
    """Calibration groups with an unsafe row (true ESCALATE or DENY), by domain."""
    domains = sorted({domain for (_, domain, verdict) in counts.kept if verdict != "none"})
    return {domain: len(counts.unsafe[domain]) for domain in domains}


def quantiles(lengths: Counter[int]) -> dict[str, int]:
    """Least, median, 95th percentile and largest of counted lengths; {} where there are none."""
    ordered = sorted(lengths.elements())
    if not ordered:
        return {}
    points = {"min": 0.0, "median": 0.5, "p95": 0.95, "max": 1.0}
    last = len(ordered) - 1
    return {name: ordered[min(last, int(q * len(ordered)))] for name, q in points.items()}


def brief(metrics: Mapping[str, Any]) -> str:
    """What a dry run prints: kept by split, dropped by reason, files read."""
    kept = ", ".join(f"{split} {metrics['rows'][split]}" for split in SPLITS)
    dropped = ", ".join(f"{reason} {number}" for reason, number in metrics["dropped"].items())
    files = []
    for source in metrics["sources"]:
        for file, number in source["files"].items():
            files.append(f"  {file}: {number} rows ({source['use']})")
    listed = "\n".join(files)
    return f"would keep: {kept}\nwould drop: {dropped or 'none'}\nread:\n{listed}"


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
    missing = {domain: max(0, needed - number) for domain, number in have.items()}
    return {
        "alpha": wanted.alpha,
        "delta": wanted.delta,
        "guarantee": wanted.guarantee,
        "needed_unsafe_groups": needed,
        "unsafe_groups": have,
        "missing": missing,
        "can_certify": bool(have) and not any(missing.values()),
    }


def groups_needed(alpha: float, delta: float) -> int:
    """Independent unsafe groups, none falsely allowed, that certify FAR <= alpha.

    With a true rate of alpha, n groups without a false allow have probability (1 - alpha)^n; the
    least n with (1 - alpha)^n <= delta gives confidence 1 - delta (exact binomial bound of Clopper
    and Pearson, 1934). Groups count and not rows, because rows of one group are not independent.
    """
    return math.ceil(math.log(delta) / math.log(1.0 - alpha))


def warning_of(certificate: Certificate) -> str | None:
    """One sentence if the calibration split cannot certify the target."""
    if certificate["can_certify"]:
        return None
    missing = [f"{domain} {number}" for domain, number in certificate["missing"].items() if number]
    listed = ", ".join(missing) or "no labelled rows"
    return (
        "the calibration split cannot certify a false-allow rate of "
        f"{certificate['alpha']:g}: each domain needs {certificate['needed_unsafe_groups']} "
        f"independent unsafe groups; missing: {listed}"
    )


# --- what was written, by every field ---


def census(folder: Path) -> dict[str, Any]:
    """Counts by split of each field, by verdict of each factor's values, and how large groups are.

    Returns:
        `fields` {field: {split: {value: rows}}}, `factors` {name: {value: {verdict: rows}}, or null
        for more than `MOST_VALUES` values}, `group_sizes` {split: {rows in a group: groups}}.
    """
    fields: dict[str, dict[str, dict[str, int]]] = {
        "authority": {},
        "source": {},
        "license": {},
        "thinking": {},
    }
    factors: dict[str, dict[str, Counter[str]]] = defaultdict(lambda: defaultdict(Counter))
    sizes: dict[str, dict[str, int]] = {}
    for split in SPLITS:
        groups: Counter[str] = Counter()
        counts: dict[str, Counter[str]] = {name: Counter() for name in fields}
        for row in read_rows(folder / f"{split}.jsonl"):
            groups[row.group] += 1
            counts["authority"][str(row.authority or "none")] += 1
            counts["source"][row.source or "none"] += 1
            counts["license"][row.license or "none"] += 1
            counts["thinking"]["yes" if row.thinking else "no"] += 1
            _add_factors(factors, row)
        for name, values in counts.items():
            fields[name][split] = dict(sorted(values.items()))
        by_size = sorted(Counter(groups.values()).items())
        sizes[split] = {str(size): number for size, number in by_size}
    return {
        "fields": fields,
        "factors": {name: _plain(values) for name, values in sorted(factors.items())},
        "group_sizes": sizes,
    }


def _add_factors(factors: dict[str, dict[str, Counter[str]]], row: Row) -> None:
    verdict = str(row.verdict or "none")
    for name, value in row.factors.items():
        # One value beyond the limit is enough to know that there are too many.
        if len(factors[name]) <= MOST_VALUES:
            factors[name][str(value)][verdict] += 1


def _plain(values: Mapping[str, Counter[str]]) -> dict[str, dict[str, int]] | None:
    if len(values) > MOST_VALUES:
        return None
    return {value: dict(sorted(verdicts.items())) for value, verdicts in sorted(values.items())}


# --- lengths ---


def token_lengths(folder: Path, model: Path | None, system: str) -> dict[str, Any] | None:
    """Lengths of the prepared conversations in tokens of a base model.

    Args:
        folder: prepared splits.
        model: Hugging Face directory, or None.
        system: the system prompt of every conversation.

    Returns:
        {"tokenizer": SHA-256, "rows": n, "prompt" | "response" | "conversation": {length: rows}},
        or None where there is no tokenizer with a chat template.
    """
    if model is None:
        return None
    template = Template.find(model)
    if template is None:
        return None
    counts: dict[str, Counter[int]] = {part: Counter() for part in PARTS}
    for split in SPLITS:
        for batch in _batches(folder / f"{split}.jsonl"):
            prompts = [template.prompt(system, row.text) for row in batch]
            whole = [template.conversation(system, row.text, row.response) for row in batch]
            asked = _token_counts(template, prompts)
            total = _token_counts(template, whole)
            counts["prompt"].update(asked)
            counts["conversation"].update(total)
            # A conversation begins with its prompt, so the rest is the response and its end token.
            counts["response"].update(b - a for a, b in zip(asked, total, strict=True))
    found: dict[str, Any] = {
        "tokenizer": sha256_file(model / "tokenizer.json"),
        "rows": counts["prompt"].total(),
    }
    for part, lengths in counts.items():
        found[part] = dict(sorted(lengths.items()))
    return found


def _batches(path: Path) -> Iterator[list[Row]]:
    rows = islice(read_rows(path), MOST_TOKENISED)
    while batch := list(islice(rows, BATCH)):
        yield batch


def _token_counts(template: Template, texts: Sequence[str]) -> list[int]:
    # The chat template has written the special tokens already.
    encoded = template.tokenizer.encode_batch(texts, add_special_tokens=False)
    return [len(encoding.ids) for encoding in encoded]


def tokens_of(lengths: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Token lengths as they go into the metrics: which tokenizer, how many rows, quantiles."""
    if lengths is None:
        return None
    found: dict[str, Any] = {
        "tokenizer_sha256": lengths["tokenizer"],
        "rows": lengths["rows"],
    }
    for part in PARTS:
        found[part] = quantiles(Counter(lengths[part]))
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
    for what, rows_by_length in columns.items():
        for length, number in sorted(rows_by_length.items()):
            lines.append(f"{what},{length},{number}\n")
    return "".join(lines)
