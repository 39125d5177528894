"""reports/data.md: what the data are, for people.

Every number on the page is in the metrics or in the table of lengths. Japanese first, as far as
words go. The same data give the same bytes.
"""

import hashlib
import heapq
import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from operator import attrgetter
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from so8t.data.alone import REASONS
from so8t.data.figures import best_first, draw
from so8t.files import atomic_dir, write_json, write_text
from so8t.rows import SPLITS, Row, read_rows
from so8t.verdict import VERDICTS

EXAMPLES = 10  # rows shown per verdict
EXAMPLE_CHARS = 200  # of a request or an answer that are shown, so that a row stays readable
# The metrics count rows without a verdict under "none".
COUNTED = (*VERDICTS, "none")
ByValue: TypeAlias = Mapping[str, int]
COUNTED_HEAD = (*VERDICTS, "no verdict")


def write_page(
    metrics: dict[str, Any],
    lengths: str,
    prepared: Path,
    *,
    metrics_path: Path,
    page_path: Path,
    plots_path: Path,
) -> None:
    """Write metrics, table of lengths, figures and page.

    Args:
        metrics: what `prepare` counted, with `probes`, `census` and `tokens`.
        lengths: every length and how many rows have it, CSV.
        prepared: directory of the prepared splits.
        metrics_path: JSON.
        page_path: Markdown.
        plots_path: directory of the figures and the table of lengths.
    """
    figures = draw(metrics, lengths)
    with atomic_dir(plots_path) as plots:
        write_text(plots / "lengths.csv", lengths)
        for name, figure in figures.items():
            write_text(plots / f"{name}.svg", figure.svg)
    write_json(metrics_path, metrics)
    # Not `relative_to`: the figures may lie beside the page's folder.
    beside = os.path.relpath(plots_path, page_path.parent)
    titles = {}
    for name, figure in figures.items():
        # Markdown wants slashes on every system.
        path = Path(beside, f"{name}.svg")
        titles[path.as_posix()] = figure.title
    write_text(page_path, page_text(metrics, prepared, titles))


def page_text(metrics: Mapping[str, Any], prepared: Path, titles: Mapping[str, str]) -> str:
    """The whole page.

    Args:
        metrics: what `prepare` counted, with `probes`, `census` and `tokens`.
        prepared: directory of the prepared splits, for the rows that are shown.
        titles: title of each figure, by its path as the page refers to it.
    """
    calibration = metrics["calibration"]
    unsafe_groups = calibration["unsafe_groups"]
    dropped = metrics["dropped"]
    duplicates = metrics["duplicates"]
    census = metrics["census"]
    figures = []
    for path, title in titles.items():
        figures.append(f"![{title}]({path})")
    parts = [
        "# データ / Data\n",
        "`prepare` が作ります。数は `reports/metrics/prepare.json`、"
        "長さは `reports/plots/data/lengths.csv` にあります。"
        " Made by `prepare`; every number is in those two files.\n",
        "## 件数 / Rows\n",
        _rows_table(metrics),
        "\n## 領域と分割 / Domains by split\n",
        _domains_table(metrics),
        "\n## 判定の割合 / Verdicts by domain\n",
        _balance_table(metrics),
        "\n## 除いた行 / Dropped\n",
        _dropped(dropped),
        "\n## 重複 / Duplicates\n",
        _table_or_none(("kind", "rows dropped"), duplicates.items()),
        "\n## 出所 / Sources\n",
        _sources_table(metrics),
        "\n## 項目ごと / By field\n",
        _fields_table(census),
        "\n## 要因ごと / By factor\n",
        _factors_table(census),
        "\n## 較正の群 / Calibration groups\n",
        _table_or_none(("domain", "unsafe groups"), unsafe_groups.items()),
        "\n## 長さ / Lengths\n",
        _lengths(metrics),
        "\n## 易しさの検査 / Probes\n",
        _probes(metrics.get("probes")),
        "\n## 図 / Figures\n",
        "\n\n".join(figures),
        "\n## 例 / Examples\n",
        _examples(prepared),
    ]
    # Empty parts, such as the figures where there are none, would leave two empty lines.
    text = "\n".join(part for part in parts if part)
    return f"{text}\n"


# --- tables ---


def _table(head: Sequence[str], rows: Iterable[Iterable[Any]]) -> str:
    """A Markdown table; None is "-"."""
    rule = ["---"] * len(head)
    lines = [_line(head), _line(rule)]
    for row in rows:
        cells = []
        for cell in row:
            if cell is None:
                cells.append("-")
            else:
                cells.append(str(cell))
        lines.append(_line(cells))
    return "\n".join(lines)


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _table_or_none(head: Sequence[str], rows: Iterable[Iterable[Any]]) -> str:
    body = list(rows)
    return _table(head, body) if body else "None."


def _dropped(dropped: ByValue) -> str:
    """Rows by reason; under them what the reasons mean that say that a row does not stand alone."""
    parts = [_table_or_none(("reason", "rows"), dropped.items())]
    meant = [(name, text) for name, text in REASONS.items() if dropped.get(name)]
    if meant:
        parts.append(
            "\n次の行は、一つの依頼だけでは意味が決まらないので使いません。"
            " These rows do not stand alone: each means something only with\n"
        )
        parts += [f"* `{name}`: {text}" for name, text in meant]
    return "\n".join(parts)


def _rows_table(metrics: Mapping[str, Any]) -> str:
    body = []
    for split in SPLITS:
        totals: Counter[str] = Counter()
        domains = metrics["by_split_domain_verdict"].get(split, {})
        for counts in domains.values():
            totals.update(counts)
        row = [
            split,
            metrics["rows"][split],
            metrics["groups"][split],
        ]
        body.append(row + _by_verdict(totals))
    head = ["split", "rows", "groups", *COUNTED_HEAD]
    return _table(head, body)


def _domains_table(metrics: Mapping[str, Any]) -> str:
    body = []
    for split in SPLITS:
        domains = metrics["by_split_domain_verdict"].get(split, {})
        for domain, counts in domains.items():
            total = sum(counts.values())
            row = [split, domain, total]
            body.append(row + _by_verdict(counts))
    head = ["split", "domain", "rows", *COUNTED_HEAD]
    return _table(head, body)


def _balance_table(metrics: Mapping[str, Any]) -> str:
    body = []
    for domain, shares in metrics["balance"].items():
        body.append([domain, *shares.values()])
    return _table(["domain", *VERDICTS], body)


def _sources_table(metrics: Mapping[str, Any]) -> str:
    body = []
    for source in metrics["sources"]:
        for file, number in source["files"].items():
            row = [
                source["path"],
                file,
                number,
                source["use"],
                source["weight"],
            ]
            body.append(row)
    head = ["source", "file", "rows read", "use", "weight"]
    return _table(head, body)


def _fields_table(census: Mapping[str, Any]) -> str:
    """Authority, source, licence and thinking by split; then the sizes of groups."""
    body = []
    for name, splits in census["fields"].items():
        for value in sorted(_values(splits)):
            counts = _by_split(splits, value)
            body.append([name, value, *counts])
    sizes = census["group_sizes"]
    # JSON's keys are text; sizes are sorted as the numbers that they are.
    for size in sorted(_values(sizes), key=int):
        counts = _by_split(sizes, size)
        body.append(["rows in a group", size, *counts])
    return _table(["field", "value", *SPLITS], body)


def _values(splits: Mapping[str, ByValue]) -> set[str]:
    """Every value that occurs in some split."""
    values: set[str] = set()
    for counts in splits.values():
        values.update(counts)
    return values


def _by_split(splits: Mapping[str, ByValue], value: str) -> list[int]:
    numbers = []
    for split in SPLITS:
        number = splits[split].get(value, 0)
        numbers.append(number)
    return numbers


def _by_verdict(counts: ByValue) -> list[int]:
    return [counts.get(verdict, 0) for verdict in COUNTED]


def _factors_table(census: Mapping[str, Any]) -> str:
    body = []
    for name, listed in census["factors"].items():
        # The census has null for a factor of more values than it lists.
        values = listed or {"(many values)": {}}
        for value, counts in values.items():
            verdicts = _by_verdict(counts)
            body.append([name, value, *verdicts])
    return _table_or_none(["factor", "value", *COUNTED_HEAD], body)


# --- lengths, probes, examples ---


def _lengths(metrics: Mapping[str, Any]) -> str:
    head = ["what", "unit", "min", "median", "95 %", "max"]
    body = []
    for name, quantiles in metrics["characters"].items():
        row = [name, "characters", *quantiles.values()]
        body.append(row)
    tokens = metrics.get("tokens")
    if not tokens:
        said = (
            "まだトークナイザーがないので、文字数だけです。"
            " In characters only: there is no tokenizer yet (the demo trains it on these data)."
        )
        return f"{said}\n\n{_table(head, body)}"
    for name in ("prompt", "response", "conversation"):
        quantiles = tokens[name]
        row = [name, "tokens", *quantiles.values()]
        body.append(row)
    number = tokens["rows"]
    # The beginning is enough to see whether two pages counted with the same tokenizer.
    digest = tokens["tokenizer_sha256"][:12]
    said = (
        f"トークンは {number} 行を数えました。"
        f" Tokens of {number} rows; tokenizer.json is `{digest}`."
    )
    return f"{said}\n\n{_table(head, body)}"


def _probes(probes: Mapping[str, Any] | None) -> str:
    if not probes:
        return "Not run."
    single = probes["single_factor"]
    largest = single["largest"]
    said = (
        "一つの要因だけを見る規則の正解率の最大"
        f" / largest accuracy of a rule that looks at one factor: {largest}.\n"
    )
    best = best_first(single["by_factor"])
    factors = _table_or_none(("factor", "accuracy alone"), best)
    body = []
    for name in ("keywords", "ngram"):
        # The n-gram probe is null where train has fewer than two verdicts.
        splits = probes[name] or {}
        for split, values in splits.items():
            row = [name, split, *values.values()]
            body.append(row)
    head = [
        "probe",
        "split",
        "n",
        "accuracy",
        "macro-F1",
        "false-allow rate",
        "pairs right",
    ]
    parts = [said, factors, "", _table(head, body)]
    return "\n".join(parts)


class Candidate(NamedTuple):
    """A row that may be shown; `draw` says nothing of it and is the same in every run."""

    draw: str
    row: Row  # held whole: there are forty of them


def _examples(prepared: Path) -> str:
    """Ten rows per verdict from train, drawn by the hash of their id."""
    chosen: dict[str, list[Candidate]] = defaultdict(list)
    for row in read_rows(prepared / "train.jsonl"):
        verdict = row.verdict or "none"
        # By id, so that rows that are added change the examples little.
        draw = hashlib.sha256(row.id.encode()).hexdigest()
        candidate = Candidate(draw, row)
        candidates = [*chosen[verdict], candidate]
        # Ten are kept while the file goes by, so that memory never holds the split.
        chosen[verdict] = heapq.nsmallest(EXAMPLES, candidates, key=attrgetter("draw"))
    blocks = []
    for verdict in COUNTED:
        examples = chosen[verdict]
        if not examples:
            continue
        body = []
        for _, row in examples:
            cells = [
                row.domain,
                _cell(row.text),
                _cell(row.final),
            ]
            body.append(cells)
        table = _table(["domain", "request", "answer"], body)
        blocks.append(f"### {verdict}\n\n{table}\n")
    return "\n".join(blocks)


def _cell(text: str) -> str:
    """Text that does not break the table that it stands in."""
    escaped = text.replace("|", "\\|")
    # Markdown has no way to break a line within a cell.
    line = escaped.replace("\n", " ")
    return line[:EXAMPLE_CHARS]
