"""What `prepare` says about the data: metrics as JSON, a page for people, and a warning when a certificate is out of reach."""

import hashlib
import heapq
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from so8t.corpus.prepare import Counts
from so8t.corpus.split import SPLITS
from so8t.files import read_jsonl
from so8t.params import Calibration
from so8t.verdict import VERDICTS

SHOWN = 10  # rows per verdict on the page


def groups_needed(alpha: float, delta: float) -> int:
    """Independent unsafe groups without a single false allow that certify FAR <= alpha with confidence 1 - delta."""
    return math.ceil(math.log(delta) / math.log(1.0 - alpha))


def metrics_of(counts: Counts) -> dict[str, Any]:
    """Counts as they go into reports/metrics/prepare.json; what a certificate needs of them belongs to `calibrate`."""
    table: dict[str, dict[str, dict[str, int]]] = defaultdict(lambda: defaultdict(dict))
    for (split, domain, verdict), n in sorted(counts.kept.items()):
        table[split][domain][verdict] = n
    rows = {split: sum(n for (s, _, _), n in counts.kept.items() if s == split) for split in SPLITS}
    return {"schema": "so8t.prepare/1", "rows": {**rows, "total": sum(rows.values())}, "groups": {s: len(counts.groups[s]) for s in SPLITS},
            "by_split_domain_verdict": table, "balance": balance(counts), "dropped": dict(sorted(counts.dropped.items())), "sources": counts.sources,
            "calibration": {"unsafe_groups": unsafe_groups(counts)}, "characters": {name: _quantiles(c) for name, c in counts.lengths.items()}}


def balance(counts: Counts) -> dict[str, dict[str, float]]:
    """Share of each verdict within each domain, all splits together."""
    totals: dict[str, Counter[str]] = defaultdict(Counter)
    for (_, domain, verdict), n in counts.kept.items():
        totals[domain][verdict] += n
    return {domain: {v: round(c[v] / total, 4) for v in VERDICTS} for domain, c in sorted(totals.items()) if (total := sum(c.values()))}


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
    return {"alpha": wanted.alpha, "delta": wanted.delta, "guarantee": wanted.guarantee, "needed_unsafe_groups": needed, "unsafe_groups": have,
            "missing": missing, "can_certify": bool(have) and not any(missing.values())}


def warning_of(certificate: Mapping[str, Any]) -> str | None:
    """One sentence if the calibration split cannot certify the target."""
    if certificate["can_certify"]:
        return None
    short = ", ".join(f"{domain} {n}" for domain, n in certificate["missing"].items() if n) or "no labelled rows"
    return (f"the calibration split cannot certify a false-allow rate of {certificate['alpha']:g}: each domain needs "
            f"{certificate['needed_unsafe_groups']} independent unsafe groups; missing: {short}")


def _quantiles(lengths: Counter[int]) -> dict[str, int]:
    ordered = sorted(lengths.elements())
    points = {"min": 0.0, "median": 0.5, "p95": 0.95, "max": 1.0}
    return {name: ordered[min(len(ordered) - 1, int(q * len(ordered)))] for name, q in points.items()} if ordered else {}


# --- the page ---


def page(metrics: Mapping[str, Any], folder: Path) -> str:
    """reports/data.md."""
    parts = ["# Data\n", "Made by `prepare`; every number is in `reports/metrics/prepare.json`.\n", "## Rows\n", _rows_table(metrics),
             "\n## Verdicts by domain\n", _balance_table(metrics), "\n## Dropped\n", _pairs_table(("reason", "rows"), metrics["dropped"].items()),
             "\n## Sources\n", _sources(metrics), "\n## Calibration groups\n",
             _pairs_table(("domain", "unsafe groups"), metrics["calibration"]["unsafe_groups"].items()),
             "\n## Lengths in characters\n", _lengths(metrics), "\n## Probes\n", _probes(metrics.get("probes")), "\n## Examples\n", _examples(folder)]
    return "\n".join(part for part in parts if part) + "\n"


def _table(head: Iterable[Any], rows: Iterable[Iterable[Any]]) -> str:
    head = list(head)
    lines = [head, ["---"] * len(head), *map(list, rows)]
    return "\n".join("| " + " | ".join("-" if cell is None else str(cell) for cell in line) + " |" for line in lines)


def _pairs_table(head: tuple[str, str], pairs: Iterable[tuple[str, Any]]) -> str:
    rows = list(pairs)
    return _table(head, rows) if rows else "None."


def _rows_table(metrics: Mapping[str, Any]) -> str:
    body = []
    for split in SPLITS:
        domains = metrics["by_split_domain_verdict"].get(split, {})
        verdicts = [sum(d.get(v, 0) for d in domains.values()) for v in (*VERDICTS, "none")]
        body.append([split, metrics["rows"][split], metrics["groups"][split], *verdicts])
    return _table(["split", "rows", "groups", *VERDICTS, "no verdict"], body)


def _balance_table(metrics: Mapping[str, Any]) -> str:
    return _table(["domain", *VERDICTS], ([d, *shares.values()] for d, shares in metrics["balance"].items()))


def _sources(metrics: Mapping[str, Any]) -> str:
    body = [[s["path"], file, n, s["use"], s["weight"]] for s in metrics["sources"] for file, n in s["files"].items()]
    return _table(["source", "file", "rows read", "use", "weight"], body)


def _lengths(metrics: Mapping[str, Any]) -> str:
    return _table(["what", "min", "median", "95 %", "max"], ([name, *q.values()] for name, q in metrics["characters"].items()))


def _probes(probes: Mapping[str, Any] | None) -> str:
    if not probes:
        return "Not run."
    lines = [f"Largest accuracy of a rule that looks at one factor: {probes['single_factor']['largest']}.\n"]
    body = [[name, split, *values.values()] for name in ("keywords", "ngram") for split, values in (probes[name] or {}).items()]
    return "\n".join([*lines, _table(["probe", "split", "n", "accuracy", "macro-F1", "false-allow rate", "pairs right"], body)])


def _examples(folder: Path) -> str:
    """Ten rows per verdict, drawn by the hash of their id from train."""
    chosen: dict[str, list[tuple[str, dict[str, Any]]]] = defaultdict(list)
    for _, row in read_jsonl(folder / "train.jsonl"):
        key = hashlib.sha256(row["id"].encode()).hexdigest()
        chosen[row["verdict"] or "none"] = heapq.nsmallest(SHOWN, [*chosen[row["verdict"] or "none"], (key, row)], key=lambda pair: pair[0])
    blocks = []
    for verdict in (*VERDICTS, "none"):
        body = [[r["domain"], _cell(r["text"]), _cell(r["final"])] for _, r in chosen.get(verdict, [])]
        if body:
            blocks.append(f"### {verdict}\n\n{_table(['domain', 'request', 'answer'], body)}\n")
    return "\n".join(blocks)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")[:200]


def brief(metrics: Mapping[str, Any]) -> str:
    """What a dry run prints: kept by split, dropped by reason, files read."""
    kept = ", ".join(f"{split} {metrics['rows'][split]}" for split in SPLITS)
    dropped = ", ".join(f"{reason} {n}" for reason, n in metrics["dropped"].items()) or "none"
    files = "\n".join(f"  {file}: {n} rows ({s['use']})" for s in metrics["sources"] for file, n in s["files"].items())
    return f"would keep: {kept}\nwould drop: {dropped}\nread:\n{files}"
