"""The shell around a stage: exit codes, messages, one summary line; help stays quick."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = """
import sys, os, signal
sys.path.insert(0, {root!r}); os.chdir({root!r})
os.environ["SO8T_DATABASE"] = {database!r}
from so8t.stage import stage
from so8t import errors
with stage("demo") as run:
    {body}
"""


def run(tmp_path: Path, body: str) -> subprocess.CompletedProcess[str]:
    code = SCRIPT.format(root=str(ROOT), database=str(tmp_path), body=body)
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("ParamsError", 3),
        ("DataError", 4),
        ("ArtifactError", 5),
        ("ToolError", 6),
        ("ResourceError", 7),
        ("GateError", 8),
    ],
)
def test_each_error_has_its_exit_code_and_says_where_and_what_to_do(
    tmp_path: Path, name: str, code: int
) -> None:
    done = run(tmp_path, f"raise errors.{name}('broken', where='file:3', fix='mend it')")
    assert done.returncode == code
    assert "demo: file:3: broken\n  fix: mend it\n  log: " in done.stderr
    assert "Traceback" not in done.stderr


def test_a_bug_is_one_line_with_the_log_that_holds_its_traceback(tmp_path: Path) -> None:
    done = run(tmp_path, "raise KeyError('bug')")
    log = tmp_path / "logs/demo.log"
    assert done.returncode == 70
    assert done.stderr == f"demo: KeyError: 'bug'\n  this is a bug; log: {log}\n"
    assert "Traceback" in log.read_text(encoding="utf-8")


def test_a_bugs_traceback_is_shown_when_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SO8T_DEBUG", "1")
    done = run(tmp_path, "raise KeyError('bug')")
    assert done.returncode == 70
    assert "Traceback" in done.stderr


def test_a_bug_is_told_where_no_log_can_be_written(tmp_path: Path) -> None:
    (tmp_path / "logs").write_text("a file where the folder should be", encoding="utf-8")
    done = run(tmp_path, "raise KeyError('bug')")
    assert done.returncode == 70
    assert "SO8T_DEBUG=1 shows the traceback" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("body", "code", "says"),
    [
        ("raise MemoryError", 7, "not enough memory"),
        ("open('/nowhere/file')", 5, "/nowhere/file: file not found"),
        ("raise OSError(28, 'No space left on device', 'x')", 7, "the disk is full"),
    ],
)
def test_what_the_system_refuses_is_nobodys_bug(
    tmp_path: Path, body: str, code: int, says: str
) -> None:
    done = run(tmp_path, body)
    assert done.returncode == code
    assert says in done.stderr
    assert "bug" not in done.stderr


COMMAND = """
import sys; sys.path.insert(0, {root!r})
import os, signal, click
from so8t import cli
@click.command()
def broken():
    {body}
cli.LazyGroup.get_command = lambda *_: broken
cli.main(["broken"])
"""


@pytest.mark.parametrize(
    ("body", "code", "says"),
    [
        ("raise KeyError('bug')", 70, "so8t: KeyError: 'bug'\n  this is a bug; log: "),
        ("raise KeyboardInterrupt", 130, "so8t: interrupted"),
        ("raise click.FileError('x')", 2, "Could not open file"),
        ("raise BrokenPipeError", 141, ""),
        ("sys.exit(5)", 5, ""),
        ("pass", 0, ""),
    ],
)
def test_a_command_ends_with_a_documented_code_and_never_with_a_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: str, code: int, says: str
) -> None:
    monkeypatch.setenv("SO8T_DATABASE", str(tmp_path))
    script = COMMAND.format(root=str(ROOT), body=body)
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert done.returncode == code, done.stderr
    assert done.stderr.startswith(says) if says.startswith("so8t") else says in done.stderr
    assert "Traceback" not in done.stderr
    assert (tmp_path / "logs/so8t.log").is_file() == (code == 70)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_interruption_leaves_with_its_own_code(tmp_path: Path, number: int, code: int) -> None:
    done = run(tmp_path, f"os.kill(os.getpid(), {int(number)})\n    import time; time.sleep(5)")
    assert done.returncode == code
    assert "run the same command again" in done.stderr


def test_success_ends_with_one_line_and_its_key_figure(tmp_path: Path) -> None:
    done = run(tmp_path, "run.summary = '42 rows'")
    assert done.returncode == 0
    assert done.stdout.startswith("demo: 42 rows (")
    assert done.stdout.count("\n") == 1


@pytest.mark.parametrize("script", sorted(p.name for p in (ROOT / "stages").glob("[a-z]*.py")))
def test_help_imports_nothing_heavy(script: str) -> None:
    probe = (
        "import sys, runpy; sys.argv = ['x', '--help']\ntry:\n    runpy.run_path(sys.path[0] + '/stages/"
        + script
        + "', run_name='__main__')\n"
        "except SystemExit as e:\n    heavy = {'torch', 'transformers', 'peft', 'llama_cpp', 'sklearn', 'pandas', 'matplotlib'} & set(sys.modules)\n"
        "    sys.exit(str(heavy) if heavy or e.code else 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(ROOT)!r})\n{probe}"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_the_command_itself_imports_nothing_heavy() -> None:
    code = (
        "import sys, so8t.cli; heavy = {'torch', 'transformers', 'peft', 'llama_cpp', 'pydantic', 'numpy'} & set(sys.modules); "
        "sys.exit(str(heavy) if heavy else 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr
