"""What the familiarity gate and the reading in parts cost a request of a built project.

Usage, after `make demo`: python -m bench.familiarity [--rows 200] [--dry-run]

Each request of test_iid is read twice in one process, in turn: the whole alone, as before there
was a gate, and as `ask` and `score` do it now. Printed, and appended to
bench/results/familiarity.jsonl: our own time a request in milliseconds (canonical form, parts,
signals, p-values), the share of requests that have parts, and the time of the second reading over
that of the first, for requests without parts and for those with parts.
"""

import argparse
import json
import statistics
import time
from pathlib import Path

from so8t.familiarity import judge, text_strangeness
from so8t.request import request_of
from so8t.rows import read_rows
from so8t.scoring.reader import read_request
from so8t.serving.answer import Assistant

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "bench" / "results" / "familiarity.jsonl"


def measure(assistant: Assistant, text: str) -> tuple[bool, float, float, float]:
    """Whether the request has parts, and seconds: ours, the whole alone, everything."""
    reader = assistant.reader
    began = time.perf_counter()
    request = request_of(text)
    judge(text_strangeness(request.text, assistant.index.reference), assistant.index)
    ours = time.perf_counter() - began
    began = time.perf_counter()
    reader.read(text)
    whole = time.perf_counter() - began
    began = time.perf_counter()
    read_request(reader, request)
    everything = ours + time.perf_counter() - began
    return bool(request.parts), ours, whole, everything


def summary(found: list[tuple[bool, float, float, float]]) -> dict[str, float]:
    """The figures of one run."""
    ours = sorted(1e3 * seconds for _, seconds, _, _ in found)
    line = {
        "requests": len(found),
        "own_ms_median": statistics.median(ours),
        "own_ms_p95": ours[int(0.95 * (len(ours) - 1))],
        "share_with_parts": sum(parts for parts, *_ in found) / len(found),
    }
    for name, wanted in (("without_parts", False), ("with_parts", True)):
        ratios = [every / whole for parts, _, whole, every in found if parts is wanted]
        if ratios:
            line[f"time_{name}"] = statistics.median(ratios)
    return {name: round(value, 3) for name, value in line.items()}


def main() -> None:
    """Read the requests, print one JSON line and append it to the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=200)
    parser.add_argument("--dry-run", action="store_true", help="print, do not append")
    arguments = parser.parse_args()
    rows = read_rows(ROOT / "data" / "prepared" / "test_iid.jsonl")
    texts = [row.text for row in rows][: arguments.rows]
    with Assistant(ROOT / "models" / "release") as assistant:
        # The first reading fills the cache of the shared prefix.
        measure(assistant, texts[0])
        line = summary([measure(assistant, text) for text in texts])
    print(json.dumps(line))
    if not arguments.dry_run:
        with RESULTS.open("a", encoding="utf-8") as out:
            out.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    main()
