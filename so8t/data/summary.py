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
from typing import Any, TypeAlias, TypedDict

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


# Value -> rows, or size -> groups.
ByValue: TypeAlias = dict[str, int]
# Value of a factor -> verdict -> rows.
FactorCounts: TypeAlias = defaultdict[str, Counter[str]]


# --- what `prepare` counted ---


def metrics_of(counts: Counts) -> dict[str, Any]:
    """Counts as they go into reports/metrics/prepare.json.

    What a certificate needs of them is not here: it belongs to `calibrate`, and must not make this
    file change with the wanted error rate.
    """
    rows = dict.fromkeys(SPLITS, 0)
    table: dict[str, dict[str, ByValue]] = {}
    for place, number in sorted(counts.kept.items()):
        split, domain, verdict = place
        rows[split] += number
        domains = table.setdefault(split, {})
        verdicts = domains.setdefault(domain, {})
        verdicts[verdict] = number
    characters = {}
    for name, lengths in counts.lengths.items():
        characters[name] = quantiles(lengths)
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
        # A domain of language rows alone needs no certificate.
        if verdict != "none":
            domains.add(domain)
    return {domain: len(counts.unsafe[domain]) for domain in sorted(domains)}


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
    kept = _listed({split: rows[split] for split in SPLITS})
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


def _listed(numbers: Mapping[str, int]) -> str:
    """Names with their numbers, as "train 12, valid 3"."""
    return ", ".join(f"{name} {number}" for name, number in numbers.items())


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


# --- what was written, by every field ---


def census(folder: Path) -> dict[str, Any]:
    """Counts by split of each field, by verdict of each factor's values, and how large groups are.

    Returns:
        `fields` {field: {split: {value: rows}}}, `factors` {name: {value: {verdict: rows}}, or null
        for more than `MOST_VALUES` values}, `group_sizes` {split: {rows in a group: groups}}.
    """
    fields: dict[str, dict[str, ByValue]] = {}
    factors: dict[str, FactorCounts] = {}
    sizes: dict[str, ByValue] = {}
    for split in SPLITS:
        groups: Counter[str] = Counter()
        authorities: Counter[str] = Counter()
        sources: Counter[str] = Counter()
        licenses: Counter[str] = Counter()
        thinking: Counter[str] = Counter()
        for row in read_rows(folder / f"{split}.jsonl"):
            groups[row.group] += 1
            authorities[row.authority or "none"] += 1
            sources[row.source or "none"] += 1
            licenses[row.license or "none"] += 1
            thinking["yes" if row.thinking else "no"] += 1
            _add_factors(factors, row)
        counted = {
            "authority": authorities,
            "source": sources,
            "license": licenses,
            "thinking": thinking,
        }
        for name, values in counted.items():
            fields.setdefault(name, {})[split] = _plain(values)
        sizes[split] = _sizes(groups)
    plain_factors = {}
    for name, counts in sorted(factors.items()):
        plain_factors[name] = _plain_factor(counts)
    return {
        "fields": fields,
        "factors": plain_factors,
        "group_sizes": sizes,
    }


def _add_factors(factors: dict[str, FactorCounts], row: Row) -> None:
    verdict = row.verdict or "none"
    for name, value in row.factors.items():
        counts = factors.setdefault(name, defaultdict(Counter))
        # One value beyond the limit is enough to know that there are too many.
        if len(counts) <= MOST_VALUES:
            counts[str(value)][verdict] += 1


def _plain_factor(counts: FactorCounts) -> dict[str, ByValue] | None:
    if len(counts) > MOST_VALUES:
        return None
    return {value: _plain(verdicts) for value, verdicts in sorted(counts.items())}


def _plain(counts: Counter[str]) -> ByValue:
    """Counts by value in the order of the values, so that the same data give the same bytes."""
    return {str(value): number for value, number in sorted(counts.items())}


def _sizes(groups: Counter[str]) -> ByValue:
    """How many groups there are of each size; the sizes are text, as keys of JSON are."""
    by_size = Counter(groups.values())
    return {str(size): number for size, number in sorted(by_size.items())}


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
    prompts: Counter[int] = Counter()
    responses: Counter[int] = Counter()
    conversations: Counter[int] = Counter()
    for split in SPLITS:
        for batch in _batches(folder / f"{split}.jsonl"):
            asked = _token_counts(
                template,
                [template.prompt(system, row.text) for row in batch],
            )
            whole = _token_counts(
                template,
                [template.conversation(system, row.text, row.response) for row in batch],
            )
            prompts.update(asked)
            conversations.update(whole)
            for prompt, conversation in zip(asked, whole, strict=True):
                # A conversation begins with its prompt; the rest is the response and its end.
                responses[conversation - prompt] += 1
    return {
        "tokenizer": sha256_file(model / "tokenizer.json"),
        "rows": prompts.total(),
        "prompt": dict(sorted(prompts.items())),
        "response": dict(sorted(responses.items())),
        "conversation": dict(sorted(conversations.items())),
    }


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
