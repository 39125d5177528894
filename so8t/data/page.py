"""reports/data.md: what the data are, for people. Every number on it is in the metrics or in the table of lengths.

Japanese first, as far as words go. The same data give the same bytes.

The figures of reports/data.md, as SVG text that is the same byte for byte for the same data.

Drawn from the metrics and the table of lengths alone. Labels are English, because a Japanese font may be missing.
"""

import hashlib
import heapq
import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from so8t import drawing
from so8t.drawing import BLUE, LIMIT, ORANGE
from so8t.files import atomic_dir, read_jsonl, write_json, write_text
from so8t.rows import SPLITS
from so8t.verdict import VERDICTS

SHOWN = 10  # rows per verdict


def write(metrics: dict[str, Any], table: str, folder: Path, paths: Mapping[str, Path]) -> None:
    """Write metrics, table of lengths, figures and page.

    Args:
        metrics: what `prepare` counted, with `probes`, `census` and `tokens`.
        table: every length and how many rows have it, CSV.
        folder: prepared splits.
        paths: of `metrics`, `page` and the directory `plots`.
    """
    drawn, beside = (
        draw(metrics, table),
        Path(os.path.relpath(paths["plots"], paths["page"].parent)),
    )
    with atomic_dir(paths["plots"]) as plots:
        write_text(plots / "lengths.csv", table)
        for name, (svg, _) in drawn.items():
            write_text(plots / f"{name}.svg", svg)
    write_json(paths["metrics"], metrics)
    write_text(
        paths["page"],
        page(
            metrics,
            folder,
            {(beside / f"{name}.svg").as_posix(): title for name, (_, title) in drawn.items()},
        ),
    )


def page(metrics: Mapping[str, Any], folder: Path, titles: Mapping[str, str]) -> str:
    """The whole page.

    Args:
        metrics: what `prepare` counted, with `probes`, `census` and `tokens`.
        folder: prepared splits, for the rows that are shown.
        titles: title of each figure, by its path as the page refers to it.
    """
    parts = [
        "# データ / Data\n",
        "`prepare` が作ります。数は `reports/metrics/prepare.json`、長さは `reports/plots/data/lengths.csv` にあります。"
        " Made by `prepare`; every number is in those two files.\n",
        "## 件数 / Rows\n",
        _rows_table(metrics),
        "\n## 領域と分割 / Domains by split\n",
        _domains_table(metrics),
        "\n## 判定の割合 / Verdicts by domain\n",
        _balance_table(metrics),
        "\n## 除いた行 / Dropped\n",
        _pairs_table(("reason", "rows"), metrics["dropped"].items()),
        "\n## 重複 / Duplicates\n",
        _pairs_table(("kind", "rows dropped"), metrics["duplicates"].items()),
        "\n## 出所 / Sources\n",
        _sources(metrics),
        *_census(metrics["census"]),
        "\n## 較正の群 / Calibration groups\n",
        _pairs_table(("domain", "unsafe groups"), metrics["calibration"]["unsafe_groups"].items()),
        "\n## 長さ / Lengths\n",
        _lengths(metrics),
        "\n## 易しさの検査 / Probes\n",
        _probes(metrics.get("probes")),
        "\n## 図 / Figures\n",
        "\n\n".join(f"![{title}]({path})" for path, title in titles.items()),
        "\n## 例 / Examples\n",
        _examples(folder),
    ]
    return "\n".join(part for part in parts if part) + "\n"


def _table(head: Iterable[Any], rows: Iterable[Iterable[Any]]) -> str:
    head = list(head)
    lines = [head, ["---"] * len(head), *map(list, rows)]
    return "\n".join(
        "| " + " | ".join("-" if cell is None else str(cell) for cell in line) + " |"
        for line in lines
    )


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
    return _table(
        ["domain", *VERDICTS], ([d, *shares.values()] for d, shares in metrics["balance"].items())
    )


def _sources(metrics: Mapping[str, Any]) -> str:
    body = [
        [s["path"], file, n, s["use"], s["weight"]]
        for s in metrics["sources"]
        for file, n in s["files"].items()
    ]
    return _table(["source", "file", "rows read", "use", "weight"], body)


def _domains_table(metrics: Mapping[str, Any]) -> str:
    table = metrics["by_split_domain_verdict"]
    body = [
        [split, domain, sum(counts.values()), *(counts.get(v, 0) for v in (*VERDICTS, "none"))]
        for split in SPLITS
        for domain, counts in table.get(split, {}).items()
    ]
    return _table(["split", "domain", "rows", *VERDICTS, "no verdict"], body)


def _census(census: Mapping[str, Any]) -> list[str]:
    """Authority, source, licence, thinking; group sizes; values of every factor."""
    body = [
        [name, value, *(splits[s].get(value, 0) for s in SPLITS)]
        for name, splits in census["fields"].items()
        for value in sorted({v for c in splits.values() for v in c})
    ]
    sizes = census["group_sizes"]
    body += [
        ["rows in a group", size, *(sizes[s].get(size, 0) for s in SPLITS)]
        for size in sorted({n for c in sizes.values() for n in c}, key=int)
    ]
    values = [
        [name, value, *(counts.get(v, 0) for v in (*VERDICTS, "none"))]
        for name, listed in census["factors"].items()
        for value, counts in (listed or {"(many values)": {}}).items()
    ]
    return [
        "\n## 項目ごと / By field\n",
        _table(["field", "value", *SPLITS], body),
        "\n## 要因ごと / By factor\n",
        _table(["factor", "value", *VERDICTS, "no verdict"], values) if values else "None.",
    ]


def _lengths(metrics: Mapping[str, Any]) -> str:
    head, tokens = ["what", "unit", "min", "median", "95 %", "max"], metrics.get("tokens")
    body = [[name, "characters", *q.values()] for name, q in metrics["characters"].items()]
    if not tokens:
        said = "まだトークナイザーがないので、文字数だけです。 In characters only: there is no tokenizer yet (the demo trains it on these data)."
        return f"{said}\n\n{_table(head, body)}"
    body += [
        [name, "tokens", *tokens[name].values()] for name in ("prompt", "response", "conversation")
    ]
    said = f"トークンは {tokens['rows']} 行を数えました。 Tokens of {tokens['rows']} rows; tokenizer.json is `{tokens['tokenizer_sha256'][:12]}`."
    return f"{said}\n\n{_table(head, body)}"


def _probes(probes: Mapping[str, Any] | None) -> str:
    if not probes:
        return "Not run."
    single = probes["single_factor"]
    lines = [
        f"一つの要因だけを見る規則の正解率の最大 / largest accuracy of a rule that looks at one factor: {single['largest']}.\n",
        _pairs_table(
            ("factor", "accuracy alone"),
            sorted(single["by_factor"].items(), key=lambda pair: (-pair[1], pair[0])),
        ),
        "",
    ]
    body = [
        [name, split, *values.values()]
        for name in ("keywords", "ngram")
        for split, values in (probes[name] or {}).items()
    ]
    return "\n".join(
        [
            *lines,
            _table(
                ["probe", "split", "n", "accuracy", "macro-F1", "false-allow rate", "pairs right"],
                body,
            ),
        ]
    )


def _examples(folder: Path) -> str:
    """Ten rows per verdict, drawn by the hash of their id from train."""
    chosen: dict[str, list[tuple[str, dict[str, Any]]]] = defaultdict(list)
    for _, row in read_jsonl(folder / "train.jsonl"):
        key = hashlib.sha256(row["id"].encode()).hexdigest()
        chosen[row["verdict"] or "none"] = heapq.nsmallest(
            SHOWN, [*chosen[row["verdict"] or "none"], (key, row)], key=lambda pair: pair[0]
        )
    blocks = []
    for verdict in (*VERDICTS, "none"):
        body = [
            [r["domain"], _cell(r["text"]), _cell(r["final"])] for _, r in chosen.get(verdict, [])
        ]
        if body:
            blocks.append(f"### {verdict}\n\n{_table(['domain', 'request', 'answer'], body)}\n")
    return "\n".join(blocks)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")[:200]


RED, GREY = "#b03a2e", "#8a8f94"
COLOURS = dict(zip((*map(str, VERDICTS), "none"), ("#2f8f5b", ORANGE, RED, GREY), strict=True))
NGRAM_LIMIT, FACTOR_LIMIT = 0.95, 0.5  # the generator's own limits on accuracy
FACTORS = 16  # bars of single factors shown
Table = list[tuple[str, int, int]]  # what, length, rows


def draw(metrics: Mapping[str, Any], lengths: str) -> dict[str, tuple[str, str]]:
    """SVG text and title of every figure that the data allow, by name.

    Args:
        metrics: what `prepare` counted, with `probes`.
        lengths: the table of lengths, CSV.
    """
    cells = [line.rsplit(",", 2) for line in lengths.splitlines()[1:]]
    table: Table = [(what, int(length), int(rows)) for what, length, rows in cells]
    drawn = drawing.draw({name: make for name, (_, make) in FIGURES.items()}, metrics, table)
    return {name: (text, FIGURES[name][0]) for name, text in drawn.items()}


def _axes(
    columns: int = 1, *, width: float = 6.4, height: float = 3.4
) -> tuple[Figure, list[Axes]]:
    figure, (axes,) = drawing.blank(columns, width=width, height=height)
    return figure, list(axes)


def _ascii(names: list[str]) -> list[str]:
    """Names that any font can draw."""
    return [name if name.isascii() else f"({index + 1})" for index, name in enumerate(names)]


def _stacked(axes: Axes, counts: Mapping[str, Mapping[str, int]]) -> None:
    names, base = list(counts), [0] * len(counts)
    for verdict, colour in COLOURS.items():
        heights = [counts[name].get(verdict, 0) for name in names]
        if any(heights):
            axes.bar(
                range(len(names)), heights, bottom=base, color=colour, label=verdict, width=0.7
            )
            base = [a + b for a, b in zip(base, heights, strict=True)]
    axes.set_xticks(range(len(names)), _ascii(names), rotation=30, ha="right")
    axes.set_ylabel("rows")


def rows(metrics: Mapping[str, Any], _table: Table) -> Figure | None:
    """Rows by split and by domain, stacked by verdict."""
    table = metrics["by_split_domain_verdict"]
    by_split: dict[str, dict[str, int]] = {s: defaultdict(int) for s in SPLITS if s in table}
    by_domain: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    for split, domains in table.items():
        for domain, counts in domains.items():
            for verdict, n in counts.items():
                by_split[split][verdict] += n
                by_domain[domain][verdict] += n
    if not by_split:
        return None
    figure, (left, right) = _axes(2, width=8.0)
    _stacked(left, by_split)
    _stacked(right, dict(sorted(by_domain.items())))
    left.legend(frameon=False)
    return figure


def lengths(_metrics: Mapping[str, Any], table: Table) -> Figure | None:
    """How long the parts are: one histogram each."""
    kinds = list(dict.fromkeys(what for what, _, _ in table))
    if not kinds:
        return None
    figure, axes = _axes(len(kinds), width=3.2 * len(kinds))
    for axis, kind in zip(axes, kinds, strict=True):
        points = [(length, n) for what, length, n in table if what == kind]
        axis.hist(
            [length for length, _ in points], weights=[n for _, n in points], bins=30, color=BLUE
        )
        axis.set(xlabel=kind, ylabel="rows")
    return figure


def probes(metrics: Mapping[str, Any], _table: Table) -> Figure | None:
    """Accuracy of the keyword rules and the n-gram probe on each split."""
    found = metrics.get("probes") or {}
    shown = {name: found[name] for name in ("keywords", "ngram") if found.get(name)}
    if not shown:
        return None
    figure, (axes,) = _axes()
    for index, (name, splits) in enumerate(shown.items()):
        places = [SPLITS.index(split) + 0.4 * index - 0.2 for split in splits]
        axes.bar(
            places,
            [splits[s]["accuracy"] or 0.0 for s in splits],
            width=0.38,
            label=name,
            color=(GREY, BLUE)[index],
        )
    axes.axhline(NGRAM_LIMIT, **LIMIT)
    axes.set(ylim=(0, 1.02), ylabel="accuracy")
    axes.set_xticks(range(len(SPLITS)), SPLITS, rotation=30, ha="right")
    axes.legend(frameon=False, loc="lower left")
    return figure


def factors(metrics: Mapping[str, Any], _table: Table) -> Figure | None:
    """Accuracy of the best rule that looks at one factor, for every factor."""
    alone = ((metrics.get("probes") or {}).get("single_factor") or {}).get("by_factor") or {}
    best = sorted(alone.items(), key=lambda pair: (-pair[1], pair[0]))[:FACTORS][::-1]
    if not best:
        return None
    figure, (axes,) = _axes(height=0.8 + 0.22 * len(best))
    axes.barh(range(len(best)), [value for _, value in best], color=BLUE)
    axes.set_yticks(range(len(best)), _ascii([name for name, _ in best]))
    axes.axvline(FACTOR_LIMIT, **LIMIT)
    axes.set(xlim=(0, 1), xlabel="accuracy of the verdict from this factor alone")
    return figure


def groups(metrics: Mapping[str, Any], _table: Table) -> Figure | None:
    """Unsafe calibration groups of each domain: what a certificate rests on."""
    have = metrics["calibration"]["unsafe_groups"]
    if not have:
        return None
    figure, (axes,) = _axes(height=2.8)
    axes.bar(range(len(have)), list(have.values()), color=RED, width=0.6)
    axes.set_xticks(range(len(have)), _ascii(list(have)), rotation=30, ha="right")
    axes.set_ylabel("unsafe calibration groups")
    return figure


Make = Callable[[Mapping[str, Any], Table], Figure | None]
FIGURES: dict[str, tuple[str, Make]] = {
    "rows": ("Rows by split and domain", rows),
    "lengths": ("Lengths", lengths),
    "probes": ("Probes (dashed: the n-gram limit)", probes),
    "factors": ("Single factors (dashed: the limit)", factors),
    "groups": ("Unsafe calibration groups", groups),
}
