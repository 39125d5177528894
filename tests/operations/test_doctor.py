"""`so8t doctor` finds what was planted, names the fix and leaves with the documented code."""

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from so8t.operations import checklist, doctor, machine
from so8t.operations.checklist import STAGES
from so8t.operations.cli import STAGE_NAMES
from so8t.operations.line import Line
from so8t.params import load
from tests.fakes.clone import STEM, edit_params, make_clone, sealed_tiny
from tests.fakes.released import FAULTS, IDS

Plant = Callable[[Path, pytest.MonkeyPatch], None]


@pytest.fixture
def clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("OLLAMA_HOST", raising=False)
    monkeypatch.delenv("SO8T_DATABASE", raising=False)
    monkeypatch.delenv("DVC_ROOT", raising=False)
    folder = make_clone(tmp_path / "clone")
    monkeypatch.chdir(folder)
    return folder


def failures(root: Path, stage: str | None = None) -> list[Line]:
    return [line for line in doctor.examine(root, stage) if line.state == "fail"]


def misspelt_key(root: Path, _patch: pytest.MonkeyPatch) -> None:
    path = root / "params.yaml"
    path.write_text(
        path.read_text(encoding="utf-8").replace("  alpha: 0.05", "  alhpa: 0.05", 1),
        encoding="utf-8",
    )


def package_of_another_version(root: Path, patch: pytest.MonkeyPatch) -> None:
    folder = root / "elsewhere/peft-0.1.dist-info"
    folder.mkdir(parents=True)
    (folder / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: peft\nVersion: 0.1\n", encoding="utf-8"
    )
    patch.syspath_prepend(str(root / "elsewhere"))


def broken_torch(root: Path, patch: pytest.MonkeyPatch) -> None:
    (root / "shadow").mkdir()
    (root / "shadow/torch.py").write_text(
        "raise ImportError('libtorch_cpu.so: cannot open shared object file')\n", encoding="utf-8"
    )
    patch.setenv("PYTHONPATH", str(root / "shadow"))


def llama_built_for_another_cpu(root: Path, patch: pytest.MonkeyPatch) -> None:
    (root / "shadow").mkdir()
    (root / "shadow/llama_cpp.py").write_text(
        "import os, signal\nos.kill(os.getpid(), signal.SIGILL)\n", encoding="utf-8"
    )
    patch.setenv("PYTHONPATH", str(root / "shadow"))


def records_not_writable(root: Path, _patch: pytest.MonkeyPatch) -> None:
    (root / "database").write_text("a file where the folder should be", encoding="utf-8")


def clock_set_back(root: Path, _patch: pytest.MonkeyPatch) -> None:
    later = time.time() + 3 * 86400
    os.utime(root / "dvc.yaml", (later, later))


def more_threads_than_cores(root: Path, _patch: pytest.MonkeyPatch) -> None:
    edit_params(root, scoring__threads=999)


def ollama_named_but_silent(_root: Path, patch: pytest.MonkeyPatch) -> None:
    patch.setenv("OLLAMA_HOST", "127.0.0.1:9")


def lock_with_conflict(root: Path, _patch: pytest.MonkeyPatch) -> None:
    path = root / "dvc.lock"
    path.write_text(
        f"<<<<<<< HEAD\n{path.read_text(encoding='utf-8')}=======\n>>>>>>> other\n",
        encoding="utf-8",
    )


def remote_folder_gone(root: Path, _patch: pytest.MonkeyPatch) -> None:
    (root.parent / "store").rmdir()


def remote_that_does_not_verify(root: Path, _patch: pytest.MonkeyPatch) -> None:
    path = root / ".dvc/config"
    path.write_text(
        path.read_text(encoding="utf-8").replace("verify = true", "verify = false"),
        encoding="utf-8",
    )


def lock_of_a_dead_process(root: Path, _patch: pytest.MonkeyPatch) -> None:
    gone = subprocess.Popen([sys.executable, "-c", "pass"])
    gone.wait()
    (root / ".dvc/tmp").mkdir(exist_ok=True)
    (root / ".dvc/tmp/rwlock").write_text(
        json.dumps({"models/base": {"write": {"pid": gone.pid, "cmd": "dvc repro"}}}),
        encoding="utf-8",
    )


def no_training_rows(root: Path, _patch: pytest.MonkeyPatch) -> None:
    (root / "data/prepared/train.jsonl").unlink()


def rows_of_two_verdicts(root: Path, _patch: pytest.MonkeyPatch) -> None:
    rows = [
        {"id": verdict, "text": "", "verdict": verdict, "group": verdict}
        for verdict in ("ALLOW", "DENY")
    ]
    (root / "data/prepared/train.jsonl").write_text(
        "".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8"
    )


def weights_cut_short(root: Path, _patch: pytest.MonkeyPatch) -> None:
    path = root / "models/base/model.safetensors"
    path.write_bytes(path.read_bytes()[:-3])


def one_bit_of_the_model(root: Path, _patch: pytest.MonkeyPatch) -> None:
    path = root / f"models/gguf/{STEM}.gguf"
    data = bytearray(path.read_bytes())
    data[-100_000] ^= 1
    path.write_bytes(data)


def card_of_another_file(root: Path, _patch: pytest.MonkeyPatch) -> None:
    from tests.fakes.cards import make_card

    other = sealed_tiny(root / "other.gguf", seed=9)
    from so8t import card as cards
    from so8t.params import load
    from tests.fakes.released import sign

    cards.write(root / "models/release/card.json", make_card(other, load().data.system))
    sign(root / "models/release")


def card_edited_by_hand(root: Path, _patch: pytest.MonkeyPatch) -> None:
    path = root / "models/release/card.json"
    path.write_text(
        path.read_text(encoding="utf-8").replace('"temperature": 2.0', '"temperature": 1.0'),
        encoding="utf-8",
    )


def gates_not_saved(root: Path, _patch: pytest.MonkeyPatch) -> None:
    (root / "models/adapter").mkdir()
    (root / "models/adapter/so8t_config.json").write_text("{}", encoding="utf-8")
    (root / "models/adapter/adapter_model.safetensors").write_bytes(
        (root / "models/base/model.safetensors").read_bytes()
    )


def loss_that_does_not_fall(root: Path, _patch: pytest.MonkeyPatch) -> None:
    (root / "data/train_log.csv").write_text(
        "step,lm\n" + "".join(f"{n},5.0\n" for n in range(20)), encoding="utf-8"
    )


PLANTED: list[
    tuple[Plant, str | None, str, int, str]
] = [  # fault, stage, check, code, what the line says
    (misspelt_key, None, "params.yaml", 3, "alhpa"),
    (package_of_another_version, None, "packages", 6, "peft 0.1"),
    (broken_torch, None, "torch", 6, "libtorch_cpu"),
    (llama_built_for_another_cpu, None, "llama.cpp", 6, "built for another CPU"),
    (records_not_writable, None, "records", 7, "cannot be written"),
    (clock_set_back, None, "clock", 6, "ahead of this machine's clock"),
    (more_threads_than_cores, None, "threads", 7, "999"),
    (ollama_named_but_silent, None, "ollama", 6, "no answer"),
    (lock_with_conflict, None, "dvc.lock", 5, "conflict markers"),
    (remote_folder_gone, None, "remote", 6, "does not exist"),
    (remote_that_does_not_verify, None, "remote", 6, "does not verify"),
    (lock_of_a_dead_process, None, "dvc locks", 6, "which is gone"),
    (no_training_rows, "train", "training rows", 4, "file not found"),
    (rows_of_two_verdicts, "train", "training rows", 4, "no row of ESCALATE"),
    (weights_cut_short, "train", "base model", 5, "does not fit the file"),
    (gates_not_saved, "bake", "adapter", 5, "so8t_gates.safetensors"),
    (loss_that_does_not_fall, "bake", "training log", 8, "did not fall"),
    (one_bit_of_the_model, "score", "GGUF files", 5, "does not match its seal"),
    (card_of_another_file, "ask", "release", 5, "the card is of another file"),
    (card_edited_by_hand, "ask", "release", 5, "card.json was changed"),
]


def test_a_clone_with_everything_in_place_has_no_failure(clone: Path) -> None:
    assert failures(clone, "ask") == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("plant", "stage", "check", "code", "says"), PLANTED, ids=[row[0].__name__ for row in PLANTED]
)
def test_a_planted_fault_is_found_with_its_fix(
    clone: Path,
    monkeypatch: pytest.MonkeyPatch,
    plant: Plant,
    stage: str | None,
    check: str,
    code: int,
    says: str,
) -> None:
    if plant not in (
        broken_torch,
        llama_built_for_another_cpu,
    ):  # the other faults need no library loaded: twice as quick
        monkeypatch.setattr(
            machine,
            "probe",
            lambda _code, _what: {
                "version": "0",
                "cuda": False,
                "quantize": True,
                "system": "",
                "gpu": False,
            },
        )
    plant(clone, monkeypatch)
    found = [line for line in failures(clone, stage) if line.check == check]
    assert found, failures(clone, stage)
    assert says in found[0].says
    assert found[0].fix
    assert found[0].code == code
    assert doctor.exit_code(found) == code


@pytest.mark.parametrize(
    ("look", "says"),
    [
        (lambda: machine.python((3, 10)), "not supported"),
        (lambda: machine.memory("local", 4.0), "4.0 GiB"),
    ],
)
def test_an_old_python_and_too_little_memory_are_named(look: Callable[[], str], says: str) -> None:
    from so8t.errors import So8tError

    with pytest.raises(So8tError, match=says):
        look()


@pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() != 0, reason="mounting a small disk needs root"
)
def test_a_full_disk_is_named_with_what_is_needed(tmp_path: Path) -> None:
    from so8t.errors import ResourceError

    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(tmp_path)],
        check=False,
        capture_output=True,
    ).returncode:
        pytest.skip("this container may not mount")
    try:
        with pytest.raises(ResourceError, match="of disk are free"):
            machine.disk(tmp_path, "scratch")
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


def test_the_command_line_knows_every_stage_that_has_a_checklist() -> None:
    assert set(STAGE_NAMES) == set(STAGES)
    scripts = {path.stem for path in (Path(__file__).parents[2] / "stages").glob("[a-z]*.py")} - {
        "train_report",
        "probe",
    }
    assert scripts <= set(STAGES)


@pytest.mark.parametrize(("fault", "says"), FAULTS, ids=IDS)
def test_a_release_that_is_not_as_it_was_signed_fails_the_checklist(
    clone: Path, fault: Callable[[Path], None], says: str
) -> None:
    fault(clone / "models/release")
    (line,) = [line for line in checklist.lines(clone, load(), "ask") if line.check == "release"]
    assert (line.state, line.code) == ("fail", 5)
    assert re.search(says, line.says)
    assert line.fix


def test_json_output_is_one_array_and_the_exit_code_is_the_first_failures(clone: Path) -> None:
    misspelt_key(clone, pytest.MonkeyPatch())
    done = subprocess.run(
        [sys.executable, "-m", "so8t.cli", "doctor", "--json"],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
    )
    lines = json.loads(done.stdout)
    assert done.returncode == 3
    assert {"check", "state", "says", "fix", "code"} == set(lines[0])
