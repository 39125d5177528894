"""Every command and stage with every input damaged in every way: a documented exit code, no traceback, nothing half-written."""

import json
import os
import re
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

from so8t import cli, generated, params
from so8t.operations import machine
from tests.fakes import results
from tests.fakes.clone import STEM, make_clone, make_monorepo

ROOT = Path(__file__).parents[2]
# Commands that take a second or more however their input is damaged: nightly, as is every second
# damage of the others. What is left takes a minute or two.
SLOW = (
    "gguf quantize",
    "gguf batch",
    "init",
    "plan",
    "repro",
    "score",
    "stages/prepare.py",
    "stages/quantize.py",
    "stages/release.py",
    "stages/report.py",
    "stages/score.py",
    "stages/synthesize.py",
    "stages/verify.py",
)
NIGHTLY = (pytest.mark.nightly, pytest.mark.slow)
DOCUMENTED = {0, 2, 3, 4, 5, 6, 7, 8}
# What a command may write whatever happens: records, and what git and DVC keep for themselves.
OWN = ("database", ".git", ".dvc/tmp", ".dvc/.gitignore", ".dvcignore")
GGUF = f"models/gguf/{STEM}.gguf"
CARD = f"models/calibration/{STEM}.json"


# --- damage ---


def put(content: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        before = path.read_bytes() if path.is_file() else b'{"a": 1}\n'
        remove(path)
        path.write_bytes(content(before))

    return damage


def remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def as_folder(path: Path) -> None:
    remove(path)
    path.mkdir()


def as_link_to_itself(path: Path) -> None:
    """Not even root can read it, whom file modes do not stop."""
    remove(path)
    path.symlink_to(path.name)


def with_values(value: Any) -> Callable[[bytes], bytes]:
    """The right keys, and a value of another type under each."""

    def change(before: bytes) -> bytes:
        lines = []
        for line in [before] if before[:2] == b"{\n" else before.splitlines()[:3]:
            try:
                row = json.loads(line)
            except ValueError:
                return b"a: [1"
            lines.append(json.dumps(dict.fromkeys(row, value) if isinstance(row, dict) else value))
        return "\n".join(lines).encode() + b"\n"

    return change


DAMAGES: dict[str, Callable[[Path], None]] = {
    "truncated": put(lambda data: data[: len(data) // 2]),
    "empty": put(lambda data: b""),
    "another JSON type": put(lambda data: b"[1]\n"),
    "not UTF-8": put(lambda data: b"\xff\xfe\x80" + data),
    "another schema": put(lambda data: b'{"unexpected": {"a": [1]}}\n'),
    "nulls": put(with_values(None)),
    "lists": put(with_values([1])),
    "zeros": put(lambda data: bytes(len(data))),
    "conflict": put(lambda data: b"<<<<<<< HEAD\n" + data[:200] + b"\n>>>>>>> side\n"),
    "a folder": as_folder,
    "missing": remove,
    "unreadable": as_link_to_itself,
}


# --- the projects ---


@pytest.fixture(scope="module")
def worlds(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Path]]:
    """One project of each kind, which no command may change."""
    top = tmp_path_factory.mktemp("worlds")
    found = {"clone": make_clone(top / "clone/project")}
    monorepo = make_monorepo(top / "monorepo/project")
    found["monorepo"] = top / "monorepo/project"
    (top / "monorepo/project/INNER").write_text(str(monorepo.relative_to(found["monorepo"])))
    _add_inputs(found["clone"])
    found["results"] = _results(top / "results")
    before = {name: seen(folder) for name, folder in found.items()}
    yield found
    for name, folder in found.items():
        now = seen(folder)
        files = before[name].keys() | now.keys()
        changed = [file for file in files if before[name].get(file) != now.get(file)]
        assert changed == [], name


def _add_inputs(folder: Path) -> None:
    """What commands read beside the files of a run."""
    import torch

    rows = [{"bench": "a", "what": "b", "unit": "s", "ours": 1.0}, {"arm": "lora"}]
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    files = {
        "bench/results/speed.jsonl": lines,
        "bench/results/ablation.jsonl": json.dumps(
            {"arm": "lora", "seed": 1, "scale": 1.0, "profile": "demo", "base_sha256": "b"}
        )
        + "\n",
        "models.yaml": "out: made\nmodels:\n- {source: models/base, name: a, types: [F16], context_profile: short}\n",
        "documents/a.txt": "手順を確認する。\n",
        "documents/b.html": "<html><body><p>手順を確認する。</p></body></html>",
        "dump.xml.bz2": "not a dump",
        "pages.txt": "http://127.0.0.1:9/page\n",
        "models/adapter/so8t_config.json": '{"lora": 1}',
        "database/checkpoints/train/run/step-000001/manifest.json": '{"step": 1, "files": {}}',
        "database/progress/train.jsonl": '{"event": "end", "seconds": 1.0}\n',
        "reports/report.html": "<html></html>",
        "reports/report.md": "# report\n",
        "data/train_log.csv": "step,lm,seconds,tokens\n1,5.0,1,10\n2,4.0,1,10\n",
        "texts.jsonl": '{"text": "a"}\n',
    }
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    torch.save({"model_state_dict": {"w": torch.zeros(2)}}, folder / "student.pt")


def _results(folder: Path) -> Path:
    folder.mkdir()
    loaded = params.load(ROOT / "params.yaml")
    small = {
        "evaluation": loaded.evaluation.model_copy(update={"bootstrap": 100}),
        "compare": loaded.compare.model_copy(update={"bootstrap": 100}),
    }
    # Few rows: what is measured here is not how well anything is decided.
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(results.SIZES, "calibration", 120)
        for split in ("test_iid", "test_cells", "test_phrases", "test_foreign", "test_evasion"):
            patch.setitem(results.SIZES, split, 40)
        patch.setenv("SO8T_DATABASE", str(folder / "database"))
        results.write_results(folder, loaded.model_copy(update=small), types=("F16", "Q4_K_M"))
    digest = "bQ4_K_M".ljust(64, "0")
    generated.save(results.ran("b", 0), digest, folder / "generated.json")
    generated.save_timings(results.timings(0), digest, folder / "timings.json")
    text = (folder / "params.yaml").read_text(encoding="utf-8")
    (folder / "params.yaml").write_text(
        re.sub(r"bootstrap: \d+", "bootstrap: 100", text), encoding="utf-8"
    )
    (folder / "data/raw").mkdir(parents=True, exist_ok=True)
    rows = [
        {"text": f"{n}番目の資料{n * 7919}を要約してください。", "label": label}
        for n in range(30)
        for label in ("ALLOW", "DENY")
    ]
    (folder / "data/raw/synthetic.jsonl").write_text(
        "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows[:40]), encoding="utf-8"
    )
    return folder


def seen(folder: Path) -> dict[str, tuple[int, int, int]]:
    """Kind, size and time of everything below a folder that is not a command's own."""
    found = {}
    for path in folder.rglob("*"):
        name = path.relative_to(folder).as_posix()
        if not name.startswith(OWN) and "__pycache__" not in name:
            stat = path.lstat()
            # A folder's size and time belong to its names, which are compared themselves.
            is_folder = path.is_dir() and not path.is_symlink()
            found[name] = (
                (stat.st_mode, 0, 0)
                if is_folder
                else (
                    stat.st_mode,
                    stat.st_size,
                    stat.st_mtime_ns,
                )
            )
    return found


# --- the commands ---


@dataclass(frozen=True)
class Command:
    """A command line, the project it runs in, and the inputs that are damaged."""

    line: str
    inputs: tuple[str, ...]
    world: str = "clone"


def command(line: str, *inputs: str, world: str = "clone") -> Command:
    return Command(line, inputs, world)


PARAMS, LOCK, CONFIG = "params.yaml", "dvc.lock", ".dvc/config"
RELEASE = tuple(
    f"models/release/{name}"
    for name in ("release.json", "card.json", "familiarity.json", f"{STEM}.gguf")
)
SCORES = "data/scores/b-Q4_K_M"
METRICS = "reports/metrics"
COMMANDS = [
    command("ask --json 要点", *RELEASE, "models/release"),
    command("drift texts.jsonl", "texts.jsonl", *RELEASE, "models/release/familiarity.json"),
    command(f"gate {CARD} --gguf {GGUF}", CARD, GGUF),
    command("plan --json", PARAMS, "models/base/config.json", "data/raw"),
    command("doctor --json", PARAMS, "dvc.yaml", LOCK, CONFIG, ".dvc/tmp/rwlock"),
    command("doctor --stage train", "data/prepared/train.jsonl", "models/base/model.safetensors"),
    command("doctor --stage bake", "models/adapter", "models/base/config.json"),
    command("doctor --stage evaluate", GGUF, CARD),
    command("doctor --stage ask", *RELEASE, "models/release/Modelfile"),
    command("rollback main --dry-run", LOCK, CONFIG, PARAMS, ".git/HEAD"),
    command("models list --json", "dvc.yaml", CONFIG, ".git/HEAD"),
    command("fsck", LOCK, CONFIG, "dvc.yaml"),
    command("gc", LOCK, CONFIG, ".git/HEAD"),
    command("bundle main out", CONFIG, ".git/HEAD", "object:release.json", "object:card.json"),
    command("evidence main out", CONFIG, ".git/HEAD", "object:card.json", "object:train.jsonl"),
    command("repro -j 1", LOCK, "dvc.yaml", PARAMS),
    command("ablation --dry-run", PARAMS, "bench/results/ablation.jsonl"),
    command("ablation --table", "bench/results/ablation.jsonl"),
    command("ablation --dry-run", "database/progress/train.jsonl"),
    command("bench-table", "bench/results/speed.jsonl", "bench/results"),
    command("report-path", "reports/report.html"),
    command("checkpoints list", "database/checkpoints/train/run/step-000001/manifest.json"),
    command(
        "checkpoints export run 1 out", "database/checkpoints/train/run/step-000001/manifest.json"
    ),
    command("ledger list", "database/so8t_conversion.db"),
    command("ledger export", "database/so8t_conversion.db"),
    command("register b --dry-run --host 127.0.0.1:9", "models/gguf", CARD, PARAMS),
    command(f"score {GGUF} out --max-samples 1", GGUF, "data/prepared/train.jsonl", PARAMS),
    command(f"gguf inspect {GGUF} --json", GGUF),
    command(f"gguf verify {GGUF} --json", GGUF),
    command(f"gguf diff {GGUF} models/gguf/a-Q4_K_M.gguf", GGUF),
    command(f"gguf quantize {GGUF} out.gguf --type Q8_0", GGUF),
    command("gguf batch models.yaml", "models.yaml"),
    command("convert-pt student.pt out.gguf --vocab-dir models/base", "student.pt"),
    command("data diff data/prepared texts.jsonl", "texts.jsonl", "data/prepared/train.jsonl"),
    command("data import-wikipedia dump.xml.bz2 out.jsonl", "dump.xml.bz2"),
    command(
        "data import-documents documents out.jsonl --license CC0",
        "documents",
        "documents/a.txt",
        "documents/b.html",
    ),
    command(
        "data collect pages.txt out.jsonl --license CC0 --session s --contact a@example.invalid",
        "pages.txt",
    ),
    command("init", CONFIG),
    command("sign", *RELEASE),
    command("rollback main --dry-run", LOCK, CONFIG, world="monorepo"),
    command("evidence main out", CONFIG, "dvc.yaml", world="monorepo"),
    command("gc", LOCK, world="monorepo"),
    # --- stages ---
    command(
        "stages/prepare.py data/made --metrics m.json --page p.md --plots plots",
        PARAMS,
        "data/raw/synthetic.jsonl",
        "data/raw",
        world="results",
    ),
    command("stages/synthesize.py data/made.jsonl", PARAMS, world="results"),
    command(
        f"stages/calibrate.py {SCORES} card.json --model b --train data/prepared/train.jsonl",
        f"{SCORES}/meta.json",
        f"{SCORES}/calibration.jsonl",
        SCORES,
        "data/prepared/train.jsonl",
        PARAMS,
        world="results",
    ),
    command(
        f"stages/compare.py data/scores models/calibration ab.json --prepare {METRICS}/prepare.json "
        "--answers data/answers --plots plots",
        f"{SCORES}/meta.json",
        f"{SCORES}/test_iid.jsonl",
        CARD,
        f"{METRICS}/prepare.json",
        world="results",
    ),
    command(
        "stages/report.py --out made",
        f"{METRICS}/ab.json",
        f"{METRICS}/train.json",
        f"{METRICS}/evaluate-b-Q4_K_M.json",
        CARD,
        METRICS,
        world="results",
    ),
    command(
        f"stages/evaluate.py {GGUF} --scores {SCORES} --card {CARD} --generated generated.json "
        "--timings timings.json --prepared data/prepared --out e.json --plots plots "
        "--speed s.json --speed-plots speed",
        f"{SCORES}/meta.json",
        f"{SCORES}/test_iid.jsonl",
        CARD,
        "data/prepared/test_foreign.jsonl",
        "generated.json",
        "timings.json",
        world="results",
    ),
    command("stages/train_report.py data/train_log.csv m.json p.csv s.csv", "data/train_log.csv"),
    command(
        f"stages/release.py {GGUF} made --card {CARD} --metrics {METRICS}",
        GGUF,
        CARD,
        METRICS,
    ),
    command(
        f"stages/score.py {GGUF} made --model b --type Q4_K_M --prepared data/prepared",
        GGUF,
        PARAMS,
        "data/prepared/train.jsonl",
    ),
    command(
        f"stages/verify.py {GGUF} made.json --model b --type Q4_K_M --f16 {GGUF} --texts texts.jsonl",
        GGUF,
        "texts.jsonl",
    ),
    command(f"stages/quantize.py {GGUF} made.gguf --type Q8_0", GGUF),
    command(
        f"recalibrate {CARD} {SCORES} new.json",
        CARD,
        f"{SCORES}/meta.json",
        f"{SCORES}/calibration.jsonl",
        world="results",
    ),
    command(
        f"gate {CARD} --scores {SCORES} --ab {METRICS}/ab.json",
        CARD,
        f"{SCORES}/test_iid.jsonl",
        f"{METRICS}/ab.json",
        world="results",
    ),
]


def cases() -> Iterator[Any]:
    """Every damage of each input."""
    pairs = [(known, name) for known in COMMANDS for name in known.inputs]
    for number, (known, name) in enumerate(pairs):
        for turn, damage in enumerate(DAMAGES):
            marks = NIGHTLY if known.line.startswith(SLOW) or (number + turn) % 2 else ()
            case = f"{known.line[:40]}|{name}|{damage}"
            yield pytest.param(known, name, damage, id=case, marks=marks)


def target(folder: Path, name: str) -> Path:
    """The input; `object:NAME` is the object of the cache that holds a file of that name."""
    kind, _, wanted = name.partition(":")
    if kind != "object":
        return folder / name
    from so8t.operations.store import entries, lock_here, object_path

    for out in lock_here(folder):
        for entry in entries(out, folder):
            if entry.path.endswith(wanted):
                return object_path(entry.md5, folder)
    raise AssertionError(name)


def invoke(line: str) -> Result:
    """In this process, as a shell would: without click's help of the proxy."""
    words = line.split()
    if words[0].startswith("stages/"):
        main = import_module(words[0].removesuffix(".py").replace("/", ".")).main
        return CliRunner().invoke(main, words[1:])

    @click.command(
        context_settings={"ignore_unknown_options": True, "help_option_names": []},
    )
    @click.argument("words", nargs=-1, type=click.UNPROCESSED)
    def proxy(words: tuple[str, ...]) -> None:
        sys.exit(cli.run(list(words)))

    return CliRunner().invoke(proxy, words)


@pytest.mark.parametrize(("known", "name", "damage"), list(cases()))
def test_damaged_input_ends_with_a_documented_code_and_changes_nothing(
    worlds: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    known: Command,
    name: str,
    damage: str,
) -> None:
    project = tmp_path / "project"
    # Hard links: a command that wrote in place would change the template, which is noticed.
    shutil.copytree(worlds[known.world], project, symlinks=True, copy_function=os.link)
    (tmp_path / "store").mkdir()
    if known.world == "monorepo":
        project /= (project / "INNER").read_text()
    for variable in ("SO8T_DATABASE", "DVC_ROOT", "OLLAMA_HOST", "SO8T_DEBUG"):
        monkeypatch.delenv(variable, raising=False)
    # The machine is not what is damaged, and asking it takes seconds.
    monkeypatch.setattr(
        machine,
        "probe",
        lambda *_: {"version": "0", "cuda": False, "quantize": True, "system": "", "gpu": False},
    )
    monkeypatch.chdir(project)
    path = target(project, name)
    path.parent.mkdir(parents=True, exist_ok=True)
    DAMAGES[damage](path)
    before = seen(project)
    handler = signal.getsignal(signal.SIGTERM)
    result = invoke(known.line)
    # A stage has one of its own, which would keep the test run from being ended.
    signal.signal(signal.SIGTERM, handler)
    said = result.output + (result.stderr if result.stderr_bytes is not None else "")
    assert result.exception is None or isinstance(result.exception, SystemExit), repr(
        result.exception
    )
    log = Path("database/logs/so8t.log")
    told = log.read_text(encoding="utf-8") if log.is_file() else ""
    assert result.exit_code in DOCUMENTED, f"{result.exit_code}: {said}\n{told}"
    assert "Traceback" not in said
    if result.exit_code:
        assert said.strip()
        # `repro` runs stages, of which those before the failing one have written their outputs.
        assert known.line.startswith("repro") or seen(project) == before
    assert not [held for held in seen(project) if held.endswith(".part")]


def test_the_table_holds_every_command_and_enough_cases() -> None:
    assert sum(not case.marks for case in cases()) >= 500
    assert len(list(cases())) >= 1500
    named = {known.line.split()[0] for known in COMMANDS}
    # `sweep` and the queue of `ablation` train; `compare` needs two models' answers.
    assert set(cli.COMMANDS) - named <= {"sweep", "compare"}
