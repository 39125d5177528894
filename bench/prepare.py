"""The generator and `prepare`: rows a second, peak memory, near-duplicates against datasketch.

    python bench/prepare.py [--rows 5000] [--generated 100000] [--prepared 200000] [--dry-run]

Everything is timed in CPU seconds of a child process (the machine may be shared). The peer of near-
duplicate search is `datasketch.MinHashLSH` with the same signatures and bands on the same texts;
both verify by exact Jaccard. The generator stands beside its budget (100,000 rows in a minute);
`prepare` as a whole has no peer. The large runs (`--generated`, `--prepared`; 0 leaves one out) are
made once: the generator's own wall time stands beside its CPU time, and `prepare` reads rows that
were written before, so that its time and memory are its own. Rows are of the grammar's eight
domains.
"""

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
DOMAINS = ["defense", "aerospace", "transport", "general"]
BUDGET_ROWS_PER_S = 100_000 / 60
RUNS = 5
RESULTS = ROOT / "bench" / "results" / "prepare.jsonl"


def texts_of(rows: int) -> list[str]:
    """Requests of the generator, and a near-duplicate of every tenth."""
    from so8t.synthetic.synthesize import generate

    texts = [r["text"] for r in generate(rows, DOMAINS, 42, cells_share=0.06, phrases_share=0.06)]
    return texts + [f"{t}ね" for t in texts[::10]]


def generator(rows: int) -> int:
    """Generate rows; how many."""
    return len(texts_of(rows))


def near_ours(rows: int) -> int:
    """Index and query every text; near-duplicates found."""
    from so8t.data.near_duplicates import NearIndex

    texts = texts_of(rows)
    index, found = NearIndex(0.8, texts.__getitem__), 0
    for text in texts:
        sketch = index.sketch(text)
        found += len(index.similar(sketch))
        index.add(sketch)
    return found


def near_peer(rows: int) -> int:
    """The same through datasketch.MinHashLSH."""
    from datasketch import MinHash, MinHashLSH

    from so8t.data.near_duplicates import BANDS, WIDTH, jaccard, shingles

    texts, found = texts_of(rows), 0
    lsh = MinHashLSH(num_perm=BANDS * WIDTH, params=(BANDS, WIDTH))
    for number, text in enumerate(texts):
        grams = shingles(text)
        minhash = MinHash(num_perm=BANDS * WIDTH, seed=1, hashfunc=int)
        minhash.update_batch(sorted(grams))
        found += sum(
            jaccard(grams, shingles(texts[other])) >= 0.8 for other in sorted(lsh.query(minhash))
        )
        lsh.insert(number, minhash)
    return found


def whole(rows: int) -> int:
    """Write generated rows and prepare them; rows kept."""
    from so8t.data.prepare import prepare
    from so8t.files import write_jsonl
    from so8t.params import Source, load
    from so8t.progress import Progress
    from so8t.synthetic.synthesize import generate

    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "rows.jsonl"
        write_jsonl(path, generate(rows, DOMAINS, 42, cells_share=0.06, phrases_share=0.06))
        data = load(ROOT / "params.yaml").data.model_copy(
            update={"sources": [Source(path=str(path), weight=1.0, use="auto")]}
        )
        return sum(prepare(data, 42, Path(name) / "out", Progress("bench")).kept.values())


def written(rows: int, path: str) -> int:
    """Generate rows of every domain of the vocabulary into a file; how many."""
    from so8t.files import write_jsonl
    from so8t.synthetic.synthesize import generate
    from so8t.synthetic.vocabulary import ASSETS

    return write_jsonl(
        Path(path), generate(rows, list(ASSETS), 42, cells_share=0.06, phrases_share=0.06)
    )


def prepared(_rows: int, path: str) -> int:
    """Prepare the rows of a file, with progress on stderr; rows kept."""
    from so8t.data.prepare import prepare
    from so8t.params import Source, load
    from so8t.progress import Progress

    data = load(ROOT / "params.yaml").data.model_copy(
        update={"sources": [Source(path=path, weight=1.0, use="auto")]}
    )
    with tempfile.TemporaryDirectory() as name:
        return sum(prepare(data, 42, Path(name) / "out", Progress("bench")).kept.values())


WORK = {"generator": generator, "near_ours": near_ours, "near_peer": near_peer, "prepare": whole}
ON_FILE = {"written": written, "prepared": prepared}


def child(what: str, rows: int, path: str) -> None:
    """Run one piece of work and print its CPU and wall seconds, peak memory and result."""
    began, wall = time.process_time(), time.perf_counter()
    result = ON_FILE[what](rows, path) if what in ON_FILE else WORK[what](rows)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    sys.stdout.write(
        json.dumps(
            {
                "seconds": time.process_time() - began,
                "wall": time.perf_counter() - wall,
                "mib": peak,
                "result": result,
            }
        )
        + "\n"
    )


def measure(what: str, rows: int, path: str = "") -> dict[str, float]:
    """One piece of work in a process of its own; its progress is passed on."""
    with tempfile.TemporaryDirectory() as database:
        environment = os.environ | {"PYTHONPATH": str(ROOT), "SO8T_DATABASE": database}
        out = subprocess.run(
            [sys.executable, __file__, "--child", what, "--rows", str(rows), "--path", path],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            check=True,
            text=True,
        )
    found: dict[str, float] = json.loads(out.stdout.splitlines()[-1])
    return found


def line(
    what: str,
    unit: str,
    ours: list[float],
    peer: list[float],
    peer_name: str | None,
    *,
    higher: bool,
) -> dict[str, object]:
    """One result line; the ratio is the median of the pairs, null where there is no peer."""
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    ).stdout.strip()
    return {
        "bench": "prepare",
        "what": what,
        "unit": unit,
        "ours": round(statistics.median(ours), 2),
        "peer": round(statistics.median(peer), 2) if peer else None,
        "peer_name": peer_name,
        "ratio": round(statistics.median(a / b for a, b in zip(ours, peer, strict=True)), 3)
        if peer
        else None,
        "higher_is_better": higher,
        "runs": len(ours),
        "commit": commit,
        "machine": f"{platform.machine()}, {platform.system()}",
        "date": datetime.now(UTC).date().isoformat(),
    }


def lines(rows: int) -> list[dict[str, object]]:
    """Every figure."""
    made = [measure("generator", rows) for _ in range(RUNS)]
    pairs = [(measure("near_ours", rows), measure("near_peer", rows)) for _ in range(RUNS)]
    if any(a["result"] != b["result"] for a, b in pairs):
        raise SystemExit("the two near-duplicate searches found different rows")
    kept = [measure("prepare", rows) for _ in range(3)]
    speed, budget = [rows / m["seconds"] for m in made], [BUDGET_ROWS_PER_S] * RUNS
    return [
        line(
            f"generator, {rows} rows",
            "rows/s",
            speed,
            budget,
            "budget: 100,000 rows in 60 s",
            higher=True,
        ),
        line(
            f"near-duplicates, {rows} rows: time",
            "s CPU",
            [a["seconds"] for a, _ in pairs],
            [b["seconds"] for _, b in pairs],
            "datasketch.MinHashLSH",
            higher=False,
        ),
        line(
            f"near-duplicates, {rows} rows: memory",
            "MiB peak",
            [a["mib"] for a, _ in pairs],
            [b["mib"] for _, b in pairs],
            "datasketch.MinHashLSH",
            higher=False,
        ),
        line(
            f"generate and prepare, {rows} rows: speed",
            "rows/s",
            [rows / m["seconds"] for m in kept],
            [],
            None,
            higher=True,
        ),
        line(
            f"generate and prepare, {rows} rows: memory",
            "MiB peak",
            [m["mib"] for m in kept],
            [],
            None,
            higher=False,
        ),
    ]


def large(generated: int, prepared_rows: int) -> list[dict[str, object]]:
    """The runs that are made once; 0 rows leaves one out."""
    found: list[dict[str, object]] = []
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "rows.jsonl")
        if generated:
            made = measure("written", generated, path)
            speed, wall = [generated / made["seconds"]], [generated / made["wall"]]
            name = "budget: 100,000 rows in 60 s"
            found += [
                line(
                    f"generate, {generated} rows: speed",
                    "rows/s",
                    speed,
                    [BUDGET_ROWS_PER_S],
                    name,
                    higher=True,
                ),
                line(
                    f"generate, {generated} rows: speed by the clock",
                    "rows/s",
                    wall,
                    [BUDGET_ROWS_PER_S],
                    name,
                    higher=True,
                ),
                line(
                    f"generate, {generated} rows: memory",
                    "MiB peak",
                    [made["mib"]],
                    [],
                    None,
                    higher=False,
                ),
            ]
        if prepared_rows:
            measure("written", prepared_rows, path)
            kept = measure("prepared", prepared_rows, path)
            found += [
                line(
                    f"prepare, {prepared_rows} rows: speed",
                    "rows/s",
                    [prepared_rows / kept["seconds"]],
                    [],
                    None,
                    higher=True,
                ),
                line(
                    f"prepare, {prepared_rows} rows: memory",
                    "MiB peak",
                    [kept["mib"]],
                    [],
                    None,
                    higher=False,
                ),
                line(
                    f"prepare, {prepared_rows} rows: kept",
                    "rows",
                    [kept["result"]],
                    [],
                    None,
                    higher=True,
                ),
            ]
    return found


def main() -> None:
    """Measure and append to bench/results/prepare.jsonl."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--rows", type=int, default=5000, help="of the repeated comparison; 0 leaves it out"
    )
    parser.add_argument("--generated", type=int, default=100_000)
    parser.add_argument("--prepared", type=int, default=200_000)
    parser.add_argument("--child", choices=sorted(WORK | ON_FILE))
    parser.add_argument("--path", default="")
    parser.add_argument("--dry-run", action="store_true", help="print only")
    args = parser.parse_args()
    if args.child:
        child(args.child, args.rows, args.path)
        return
    found = (lines(args.rows) if args.rows else []) + large(args.generated, args.prepared)
    text = "".join(json.dumps(result, ensure_ascii=False) + "\n" for result in found)
    sys.stdout.write(text)
    if not args.dry_run:
        with RESULTS.open("a", encoding="utf-8") as out:
            out.write(text)


if __name__ == "__main__":
    main()
