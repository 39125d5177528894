"""reports/data.md: what the data are, for people. Every number on it is in the metrics or in the table of lengths.

Japanese first, as far as words go. The same data give the same bytes.
"""

import hashlib
import heapq
import os
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from so8t.corpus import figures
from so8t.corpus.split import SPLITS
from so8t.files import atomic_dir, read_jsonl, write_json, write_text
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
    drawn, beside = figures.draw(metrics, table), Path(os.path.relpath(paths["plots"], paths["page"].parent))
    with atomic_dir(paths["plots"]) as plots:
        write_text(plots / "lengths.csv", table)
        for name, (svg, _) in drawn.items():
            write_text(plots / f"{name}.svg", svg)
    write_json(paths["metrics"], metrics)
    write_text(paths["page"], page(metrics, folder, {(beside / f"{name}.svg").as_posix(): title for name, (_, title) in drawn.items()}))


def page(metrics: Mapping[str, Any], folder: Path, titles: Mapping[str, str]) -> str:
    """The whole page.

    Args:
        metrics: what `prepare` counted, with `probes`, `census` and `tokens`.
        folder: prepared splits, for the rows that are shown.
        titles: title of each figure, by its path as the page refers to it.
    """
    parts = ["# データ / Data\n", "`prepare` が作ります。数は `reports/metrics/prepare.json`、長さは `reports/plots/data/lengths.csv` にあります。"
             " Made by `prepare`; every number is in those two files.\n",
             "## 件数 / Rows\n", _rows_table(metrics),
             "\n## 領域と分割 / Domains by split\n", _domains_table(metrics), "\n## 判定の割合 / Verdicts by domain\n", _balance_table(metrics),
             "\n## 除いた行 / Dropped\n", _pairs_table(("reason", "rows"), metrics["dropped"].items()),
             "\n## 重複 / Duplicates\n", _pairs_table(("kind", "rows dropped"), metrics["duplicates"].items()),
             "\n## 出所 / Sources\n", _sources(metrics), *_census(metrics["census"]),
             "\n## 較正の群 / Calibration groups\n", _pairs_table(("domain", "unsafe groups"), metrics["calibration"]["unsafe_groups"].items()),
             "\n## 長さ / Lengths\n", _lengths(metrics), "\n## 易しさの検査 / Probes\n", _probes(metrics.get("probes")),
             "\n## 図 / Figures\n", "\n\n".join(f"![{title}]({path})" for path, title in titles.items()),
             "\n## 例 / Examples\n", _examples(folder)]
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


def _domains_table(metrics: Mapping[str, Any]) -> str:
    table = metrics["by_split_domain_verdict"]
    body = [[split, domain, sum(counts.values()), *(counts.get(v, 0) for v in (*VERDICTS, "none"))]
            for split in SPLITS for domain, counts in table.get(split, {}).items()]
    return _table(["split", "domain", "rows", *VERDICTS, "no verdict"], body)


def _census(census: Mapping[str, Any]) -> list[str]:
    """Authority, source, licence, thinking; group sizes; values of every factor."""
    body = [[name, value, *(splits[s].get(value, 0) for s in SPLITS)] for name, splits in census["fields"].items()
            for value in sorted({v for c in splits.values() for v in c})]
    sizes = census["group_sizes"]
    body += [["rows in a group", size, *(sizes[s].get(size, 0) for s in SPLITS)] for size in sorted({n for c in sizes.values() for n in c}, key=int)]
    values = [[name, value, *(counts.get(v, 0) for v in (*VERDICTS, "none"))] for name, listed in census["factors"].items()
              for value, counts in (listed or {"(many values)": {}}).items()]
    return ["\n## 項目ごと / By field\n", _table(["field", "value", *SPLITS], body),
            "\n## 要因ごと / By factor\n", _table(["factor", "value", *VERDICTS, "no verdict"], values) if values else "None."]


def _lengths(metrics: Mapping[str, Any]) -> str:
    head, tokens = ["what", "unit", "min", "median", "95 %", "max"], metrics.get("tokens")
    body = [[name, "characters", *q.values()] for name, q in metrics["characters"].items()]
    if not tokens:
        said = "まだトークナイザーがないので、文字数だけです。 In characters only: there is no tokenizer yet (the demo trains it on these data)."
        return f"{said}\n\n{_table(head, body)}"
    body += [[name, "tokens", *tokens[name].values()] for name in ("prompt", "response", "conversation")]
    said = f"トークンは {tokens['rows']} 行を数えました。 Tokens of {tokens['rows']} rows; tokenizer.json is `{tokens['tokenizer_sha256'][:12]}`."
    return f"{said}\n\n{_table(head, body)}"


def _probes(probes: Mapping[str, Any] | None) -> str:
    if not probes:
        return "Not run."
    single = probes["single_factor"]
    lines = [f"一つの要因だけを見る規則の正解率の最大 / largest accuracy of a rule that looks at one factor: {single['largest']}.\n",
             _pairs_table(("factor", "accuracy alone"), sorted(single["by_factor"].items(), key=lambda pair: (-pair[1], pair[0]))), ""]
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
