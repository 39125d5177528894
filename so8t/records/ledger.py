"""The conversion ledger: which model became which file, tensor by tensor, and how it ended.

It is an SQLite database (tables: `records.schema`) that any number of processes may write. A
session is one conversion. It is `failed` when an exception ends it; one whose process died without
a word is marked `failed` by the next session that starts.
"""

import json
import os
import platform
import socket
import sqlite3
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any, Literal, Self

from so8t import __version__
from so8t.errors import DataError
from so8t.processes import alive
from so8t.progress import database_dir
from so8t.records import db
from so8t.records.schema import MIGRATIONS, TABLES

Status = Literal["completed", "failed", "cancelled"]
BATCH = 64  # tensors per transaction
LONGEST_ERROR = 2000  # characters of an exception that are kept
DIED = "its process died without ending the session"


@dataclass(frozen=True, slots=True)
class TensorRow:
    """One converted tensor.

    `source_name` and `source_type` are of the model that was read, `name` and `type` of the file
    that was written; `megabytes` and `sha256` are of the data written there.
    """

    name: str
    source_name: str
    shape: tuple[int, ...]
    source_type: str
    type: str
    milliseconds: float
    megabytes: float
    sha256: str


def default_path() -> Path:
    """`database/so8t_conversion.db`, or below `SO8T_DATABASE`."""
    return database_dir() / "so8t_conversion.db"


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def _this_process() -> str:
    """This process as `host:pid:now`; the time tells it from a later one with the same number."""
    return f"{socket.gethostname()}:{os.getpid()}:{time.time():.3f}"


def _is_alive(process: str) -> bool:
    """Whether the process still runs; one of another host counts as alive: we cannot know."""
    host, pid, started_by = process.rsplit(":", 2)
    if host != socket.gethostname():
        return True
    # Rows of older code hold ticks since the boot, or nothing: read as a time they are long past,
    # so such a process counts as dead.
    return alive(int(pid), by=float(started_by or 0))


def _torch_version() -> str | None:
    # From the metadata: importing torch takes seconds, and a conversion may not need it.
    try:
        return metadata.version("torch")
    except metadata.PackageNotFoundError:
        return None


def _layer_index(name: str) -> int | None:
    """N of `blk.N.…`, as GGUF names the tensors of a layer; None of any other tensor."""
    if not name.startswith("blk."):
        return None
    return int(name.split(".")[1])


@dataclass(slots=True)
class Ledger:
    """An open ledger. Use as a context manager, or call `close`.

    Raises:
        ResourceError: the file cannot be opened or written.
        ArtifactError: it was written by a newer version, or is not a database.
    """

    path: Path
    connection: sqlite3.Connection = field(init=False)

    def __post_init__(self) -> None:
        self.connection = db.connect(self.path, MIGRATIONS)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self.connection.close()

    def start_conversion(self, model_name: str, model_type: str, source: Path, output: Path) -> str:
        """Open a session and return its id; sessions of dead processes are marked failed first."""
        session = f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{uuid.uuid4().hex[:12]}"
        with db.transaction(self.connection) as connection:
            _fail_dead_sessions(connection)
            row = {
                "session_id": session,
                "model_name": model_name,
                "model_type": model_type,
                "source_path": str(source),
                "output_path": str(output),
                "start_time": _now(),
                "so8t_version": __version__,
                "python_version": platform.python_version(),
                "torch_version": _torch_version(),
                "process": _this_process(),
            }
            db.insert(connection, "conversion_sessions", [row])
        return session

    def log_layer_conversion(self, session: str, rows: list[TensorRow]) -> None:
        """Record converted tensors, in one transaction."""
        values = []
        for row in rows:
            shape = json.dumps(list(row.shape))
            values.append(
                {
                    "session_id": session,
                    "layer_index": _layer_index(row.name),
                    "layer_name": row.name,
                    "tensor_name": row.source_name,
                    # The founders' table has both; converting changes no shape.
                    "original_shape": shape,
                    "converted_shape": shape,
                    "original_dtype": row.source_type,
                    # And both of these; here the type is the whole of the quantisation.
                    "target_dtype": row.type,
                    "quant_type": row.type,
                    "conversion_time": _now(),
                    "processing_time_ms": row.milliseconds,
                    "memory_usage_mb": row.megabytes,
                    "sha256": row.sha256,
                }
            )
        with db.transaction(self.connection) as connection:
            db.insert(connection, "layer_conversions", values)

    def log_metadata(self, session: str, values: dict[str, Any]) -> None:
        """Record keys of the file; lists as JSON."""
        rows = []
        for key, value in values.items():
            is_list = isinstance(value, list)
            text = json.dumps(value, ensure_ascii=False) if is_list else str(value)
            rows.append(
                {
                    "session_id": session,
                    "metadata_key": key,
                    "metadata_value": text,
                    "metadata_type": type(value).__name__,
                    "created_at": _now(),
                }
            )
        with db.transaction(self.connection) as connection:
            db.insert(connection, "metadata_entries", rows)

    def log_parameters(self, session: str, keys: dict[str, Any]) -> None:
        """Record the true values of the founders' parameters, from the file's so8t.* keys."""
        row = {
            "session_id": session,
            "rotation_dim": keys.get("so8t.rotation_dim"),
            "pet_lambda": keys.get("so8t.pet_lambda"),
            "safety_weight": keys.get("so8t.safety_weight"),
            "cmd_weight": keys.get("so8t.cmd_weight"),
            # The file holds flags as text.
            "triality_enabled": keys.get("so8t.triality_enabled") == "true",
            "multimodal_enabled": keys.get("so8t.multimodal") == "true",
            "ocr_enabled": keys.get("so8t.ocr_enabled") == "true",
            "safety_classes": keys.get("so8t.safety_classes"),
            "created_at": _now(),
        }
        with db.transaction(self.connection) as connection:
            db.insert(connection, "so8t_parameters", [row])

    def log_performance_metric(self, session: str, name: str, value: float, unit: str) -> None:
        """Record one number about the run."""
        row = {
            "session_id": session,
            "metric_name": name,
            "metric_value": float(value),
            "metric_unit": unit,
            "recorded_at": _now(),
        }
        with db.transaction(self.connection) as connection:
            db.insert(connection, "performance_metrics", [row])

    def end_conversion(
        self,
        session: str,
        status: Status,
        *,
        seconds: float,
        error: str | None = None,
        digests: dict[str, str] | None = None,
    ) -> None:
        """Close a session.

        Args:
            session: its id.
            status: how it ended.
            seconds: how long it took.
            error: what went wrong.
            digests: by the names of their columns: source_sha256, output_sha256, semantic_digest.

        Raises:
            DataError: it is unknown or already closed.
        """
        digests = digests or {}
        values = {
            "session": session,
            "status": status,
            "end_time": _now(),
            "seconds": round(seconds, 3),
            "error": error,
            "source_sha256": digests.get("source_sha256"),
            "output_sha256": digests.get("output_sha256"),
            "semantic_digest": digests.get("semantic_digest"),
        }
        with db.transaction(self.connection) as connection:
            changed = connection.execute(_END_SESSION, values).rowcount
        if not changed:
            raise DataError("no open session with this id", where=session, fix="so8t ledger list")

    def get_session_summary(self, session: str) -> dict[str, Any]:
        """One session with its tensor statistics, parameters and metrics.

        Raises:
            DataError: unknown id.
        """
        found = self.connection.execute(
            "SELECT * FROM conversion_sessions WHERE session_id = ?", (session,)
        ).fetchone()
        if found is None:
            raise DataError("no session with this id", where=session, fix="so8t ledger list")
        statistics = self.connection.execute(_TENSOR_STATISTICS, (session,)).fetchone()
        parameters = self.rows("so8t_parameters", session)
        metrics = {}
        for row in self.rows("performance_metrics", session):
            metrics[row["metric_name"]] = row["metric_value"]
        summary = dict(found)
        # `process` is only there to find dead sessions.
        summary.pop("process")
        summary["status"] = summary.pop("conversion_status")
        summary["stats"] = dict(statistics)
        summary["so8t_params"] = parameters[-1] if parameters else {}
        summary["metrics"] = metrics
        return summary

    def sessions(self) -> list[dict[str, Any]]:
        """All sessions, newest first."""
        found = self.connection.execute(
            "SELECT * FROM conversion_sessions ORDER BY start_time DESC, rowid DESC"
        )
        return [dict(row) for row in found]

    def rows(self, table: str, session: str | None = None) -> list[dict[str, Any]]:
        """Rows of one of the five tables, in insertion order, of one session or of all.

        Raises:
            DataError: another table.
        """
        # SQL takes no parameter for a table's name, so that the name must be one of ours.
        if table not in TABLES:
            raise DataError(f"no table {table}", fix=f"one of {', '.join(TABLES)}")
        if session:
            found = self.connection.execute(
                f"SELECT * FROM {table} WHERE session_id = ? ORDER BY rowid", (session,)
            )
        else:
            found = self.connection.execute(f"SELECT * FROM {table} ORDER BY rowid")
        return [dict(row) for row in found]


_OPEN_SESSIONS = """
SELECT session_id, process FROM conversion_sessions WHERE conversion_status = 'in_progress'
"""
_FAIL_SESSION = """
UPDATE conversion_sessions
SET conversion_status = 'failed', end_time = ?, error_message = ?
WHERE session_id = ?
"""
_END_SESSION = """
UPDATE conversion_sessions
SET
  conversion_status = :status,
  end_time = :end_time,
  duration_seconds = :seconds,
  error_message = :error,
  source_sha256 = :source_sha256,
  output_sha256 = :output_sha256,
  semantic_digest = :semantic_digest,
  total_layers = (
    SELECT COUNT(DISTINCT layer_index) FROM layer_conversions
    WHERE layer_conversions.session_id = conversion_sessions.session_id
  )
WHERE session_id = :session AND conversion_status = 'in_progress'
"""
_TENSOR_STATISTICS = """
SELECT
  COUNT(*) AS total_conversions,
  COALESCE(SUM(success), 0) AS successful_conversions,
  AVG(processing_time_ms) AS avg_processing_time_ms,
  COALESCE(SUM(memory_usage_mb), 0.0) AS total_memory_usage_mb
FROM layer_conversions
WHERE session_id = ?
"""


def _fail_dead_sessions(connection: sqlite3.Connection) -> None:
    for row in connection.execute(_OPEN_SESSIONS).fetchall():
        if not _is_alive(row["process"]):
            connection.execute(_FAIL_SESSION, (_now(), DIED, row["session_id"]))


@dataclass(slots=True)
class Session:
    """One running conversion: tensors are recorded in batches, digests at the end."""

    ledger: Ledger
    id: str
    digests: dict[str, str] = field(default_factory=dict)
    _pending: list[TensorRow] = field(default_factory=list)

    def tensor(self, row: TensorRow) -> None:
        """Record one tensor."""
        self._pending.append(row)
        if len(self._pending) >= BATCH:
            self.flush()

    def flush(self) -> None:
        """Write the tensors that wait."""
        if self._pending:
            self.ledger.log_layer_conversion(self.id, self._pending)
            self._pending = []


@contextmanager
def conversion(
    model_name: str, model_type: str, source: Path, output: Path, *, path: Path | None = None
) -> Iterator[Session]:
    """A ledger session around some work.

    It ends as `completed` on success, as `cancelled` on Ctrl-C, as `failed` on any other exception.

    Args:
        model_name: as people call it.
        model_type: its architecture.
        source: what is read.
        output: what is written.
        path: the ledger's file; `default_path()` without one.
    """
    began = time.perf_counter()
    with Ledger(path or default_path()) as ledger:
        session = Session(ledger, ledger.start_conversion(model_name, model_type, source, output))
        try:
            yield session
            session.flush()
        except BaseException as error:
            # BaseException, because Ctrl-C and sys.exit must not leave an open session either.
            status: Status = "cancelled" if isinstance(error, KeyboardInterrupt) else "failed"
            session.flush()
            ledger.end_conversion(
                session.id,
                status,
                seconds=time.perf_counter() - began,
                error=f"{type(error).__name__}: {error}"[:LONGEST_ERROR],
            )
            raise
        seconds = time.perf_counter() - began
        ledger.log_performance_metric(session.id, "duration", seconds * 1000, "ms")
        ledger.end_conversion(session.id, "completed", seconds=seconds, digests=session.digests)
