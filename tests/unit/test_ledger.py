"""The conversion ledger: the founders' tables, honest endings, several processes."""

import os
import signal
import socket
import sqlite3
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from so8t.errors import ArtifactError, DataError
from so8t.records import cli
from so8t.records.ledger import Ledger, Session, TensorRow, conversion
from so8t.records.schema import TABLES

ROOT = Path(__file__).parents[2]
ROW = TensorRow(
    "blk.3.attn_output.weight",
    "model.layers.3.self_attn.o_proj.weight",
    (4, 4),
    "BF16",
    "F16",
    1.5,
    0.1,
    "ab" * 32,
)
FOUNDING = {
    "conversion_sessions": "session_id model_name model_type source_path output_path total_layers conversion_status start_time end_time"
    " duration_seconds error_message so8t_version python_version torch_version",
    "layer_conversions": "conversion_id session_id layer_index layer_name tensor_name original_shape converted_shape original_dtype target_dtype"
    " quant_type conversion_time processing_time_ms memory_usage_mb success error_message",
    "metadata_entries": "metadata_id session_id metadata_key metadata_value metadata_type created_at",
    "performance_metrics": "metric_id session_id metric_name metric_value metric_unit recorded_at",
    "so8t_parameters": "param_id session_id rotation_dim pet_lambda safety_weight cmd_weight triality_enabled multimodal_enabled ocr_enabled"
    " safety_classes created_at",
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.db"


def run(path: Path, **_: object) -> str:
    with conversion("m", "Phi3ForCausalLM", Path("in"), Path("out"), path=path) as session:
        session.tensor(ROW)
        session.ledger.log_metadata(
            session.id, {"so8t.rotation_dim": 8, "so8t.baked_layers": [1, 2]}
        )
        session.ledger.log_parameters(
            session.id,
            {
                "so8t.rotation_dim": 8,
                "so8t.triality_enabled": "true",
                "so8t.safety_classes": "ALLOW,ESCALATE,DENY",
            },
        )
        session.digests = {"output_sha256": "cd" * 32}
    return session.id


def test_the_founding_tables_keep_their_columns(path: Path) -> None:
    with Ledger(path) as book:
        for table, columns in FOUNDING.items():
            assert set(columns.split()) <= {
                row["name"] for row in book.connection.execute(f"PRAGMA table_info({table})")
            }


def test_a_session_records_tensors_digests_and_milliseconds(path: Path) -> None:
    session = run(path)
    with Ledger(path) as book:
        summary = book.get_session_summary(session)
    assert summary["status"] == "completed"
    assert summary["total_layers"] == 1
    assert summary["stats"] == {
        "total_conversions": 1,
        "successful_conversions": 1,
        "avg_processing_time_ms": 1.5,
        "total_memory_usage_mb": 0.1,
    }
    assert summary["so8t_params"]["triality_enabled"] == 1
    assert summary["output_sha256"] == "cd" * 32
    assert 0 < summary["duration_seconds"] < 5
    assert summary["start_time"].split(".")[1][:3].isdigit()


def explode(session: Session) -> None:
    session.tensor(ROW)
    raise ZeroDivisionError("boom")


def test_any_exception_ends_the_session_as_failed_and_keeps_its_tensors(path: Path) -> None:
    with (
        pytest.raises(ZeroDivisionError, match="boom"),
        conversion("m", "t", Path("in"), Path("out"), path=path) as session,
    ):
        explode(session)
    with Ledger(path) as book:
        summary = book.get_session_summary(session.id)
    assert (summary["status"], summary["error_message"], summary["stats"]["total_conversions"]) == (
        "failed",
        "ZeroDivisionError: boom",
        1,
    )


def test_ctrl_c_ends_the_session_as_cancelled(path: Path) -> None:
    with (
        pytest.raises(KeyboardInterrupt),
        conversion("m", "t", Path("in"), Path("out"), path=path) as session,
    ):
        raise KeyboardInterrupt
    with Ledger(path) as book:
        assert book.get_session_summary(session.id)["status"] == "cancelled"


def test_foreign_keys_are_enforced_and_the_journal_is_wal(path: Path) -> None:
    with Ledger(path) as book:
        assert book.connection.execute("PRAGMA journal_mode").fetchone()[0] == "wal"
        with pytest.raises(sqlite3.IntegrityError):
            book.log_layer_conversion("nobody", [ROW])


def test_ending_twice_is_an_error(path: Path) -> None:
    session = run(path)
    with Ledger(path) as book, pytest.raises(DataError, match="no open session"):
        book.end_conversion(session, "completed", seconds=1.0)


def child(path: Path, body: str) -> subprocess.Popen[bytes]:
    code = (
        f"from pathlib import Path\nfrom so8t.records.ledger import *\nimport time\npath = Path({str(path)!r})\n"
        + textwrap.dedent(body)
    )
    return subprocess.Popen(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
    )


def test_a_killed_process_is_marked_failed_at_the_next_start(path: Path) -> None:
    process = child(
        path,
        """
        with conversion("victim", "t", Path("in"), Path("out"), path=path) as session:
            print("open", flush=True)
            time.sleep(60)
    """,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"open\n"
    with Ledger(path) as book:
        assert book.sessions()[0]["conversion_status"] == "in_progress"
    alive = run(path)  # a session that starts while the other lives leaves it alone
    with Ledger(path) as book:
        assert {s["model_name"]: s["conversion_status"] for s in book.sessions()} == {
            "victim": "in_progress",
            "m": "completed",
        }
    process.send_signal(signal.SIGKILL)
    process.communicate()
    run(path)
    with Ledger(path) as book:
        dead = next(s for s in book.sessions() if s["model_name"] == "victim")
    assert (dead["conversion_status"], dead["error_message"]) == (
        "failed",
        "its process died without ending the session",
    )
    assert alive


def test_a_row_of_older_code_is_read_and_one_of_another_machine_is_left_alone(path: Path) -> None:
    run(path)
    host = socket.gethostname()
    processes = {
        "mine": f"{host}:{os.getpid()}:{time.time()}",
        "ticks": f"{host}:{os.getpid()}:3456789",
        "none": f"{host}:{os.getpid()}:",
        "far": "other:1:5",
    }
    with Ledger(path) as book:
        for name, process in processes.items():
            book.connection.execute(
                "INSERT INTO conversion_sessions (session_id, model_name, model_type, source_path, start_time, process)"
                " VALUES (?, ?, 't', 'in', '2026-01-01', ?)",
                (name, name, process),
            )
    run(path)
    with Ledger(path) as book:
        found = {
            s["session_id"]: s["conversion_status"]
            for s in book.sessions()
            if s["session_id"] in processes
        }
    assert found == {
        "mine": "in_progress",
        "ticks": "failed",
        "none": "failed",
        "far": "in_progress",
    }


def test_processes_write_at_once_without_lock_errors(path: Path) -> None:
    body = """
        row = TensorRow("blk.0.x", "y", (2,), "F32", "F16", 0.1, 0.1, "00")
        for number in range(8):
            with conversion(f"m{number}", "t", Path("in"), Path("out"), path=path) as session:
                for _ in range(130):
                    session.tensor(row)
    """
    processes = [child(path, body) for _ in range(2)]
    for process in processes:
        process.communicate(timeout=120)
    assert [process.returncode for process in processes] == [0, 0]
    with Ledger(path) as book:
        assert [s["conversion_status"] for s in book.sessions()] == ["completed"] * 16
        assert len(book.rows("layer_conversions")) == 16 * 130


def test_a_newer_schema_is_refused(path: Path) -> None:
    run(path)
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(ArtifactError, match="newer"):
        Ledger(path)


def test_a_file_that_is_no_database_is_refused(path: Path) -> None:
    path.write_bytes(b"not a database at all" * 100)
    with pytest.raises(ArtifactError, match="not a database"):
        Ledger(path)


def test_list_show_and_export_print_it(path: Path) -> None:
    session = run(path)
    runner = CliRunner()
    assert session in runner.invoke(cli.ledger, ["--db", str(path), "list"]).output
    assert (
        '"status": "completed"'
        in runner.invoke(cli.ledger, ["--db", str(path), "show", session]).output
    )
    exported = runner.invoke(cli.ledger, ["--db", str(path), "export"]).output
    assert all(f'"{table}"' in exported for table in TABLES)
    csv = runner.invoke(
        cli.ledger, ["--db", str(path), "export", "--format", "csv", "--table", "layer_conversions"]
    ).output
    assert csv.splitlines()[0].startswith("conversion_id,session_id,layer_index")
    assert time.strptime(session[:15], "%Y%m%dT%H%M%S")
