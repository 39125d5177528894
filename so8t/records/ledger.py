"""The conversion ledger: which model became which file, tensor by tensor, and how it ended.

The founders' five tables keep their names and columns; digests and milliseconds are added. A session is `failed` when
an exception ends it; one whose process died without a word is marked `failed` by the next session that starts.
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
from so8t.files import alive
from so8t.progress import database_dir
from so8t.records import db

Status = Literal["completed", "failed", "cancelled"]
TABLES = (
    "conversion_sessions",
    "layer_conversions",
    "metadata_entries",
    "performance_metrics",
    "so8t_parameters",
)
BATCH = 64  # tensors per transaction
MIGRATIONS = (
    """
CREATE TABLE conversion_sessions (
  session_id TEXT PRIMARY KEY, model_name TEXT NOT NULL, model_type TEXT NOT NULL, source_path TEXT NOT NULL, output_path TEXT,
  total_layers INTEGER, conversion_status TEXT NOT NULL DEFAULT 'in_progress'
    CHECK (conversion_status IN ('in_progress', 'completed', 'failed', 'cancelled')),
  start_time TIMESTAMP NOT NULL, end_time TIMESTAMP, duration_seconds REAL, error_message TEXT, so8t_version TEXT, python_version TEXT,
  torch_version TEXT, source_sha256 TEXT, output_sha256 TEXT, semantic_digest TEXT, process TEXT NOT NULL);
CREATE TABLE layer_conversions (
  conversion_id INTEGER PRIMARY KEY AUTOINCREMENT, session_id TEXT NOT NULL REFERENCES conversion_sessions (session_id),
  layer_index INTEGER, layer_name TEXT NOT NULL, tensor_name TEXT NOT NULL, original_shape TEXT NOT NULL, converted_shape TEXT,
  original_dtype TEXT NOT NULL, target_dtype TEXT, quant_type TEXT, conversion_time TIMESTAMP, processing_time_ms REAL,
  memory_usage_mb REAL, success BOOLEAN NOT NULL DEFAULT 1, error_message TEXT, sha256 TEXT);
CREATE TABLE metadata_entries (
  metadata_id INTEGER PRIMARY KEY AUTOINCREMENT, session_id TEXT NOT NULL REFERENCES conversion_sessions (session_id),
  metadata_key TEXT NOT NULL, metadata_value TEXT, metadata_type TEXT, created_at TIMESTAMP NOT NULL);
CREATE TABLE performance_metrics (
  metric_id INTEGER PRIMARY KEY AUTOINCREMENT, session_id TEXT NOT NULL REFERENCES conversion_sessions (session_id),
  metric_name TEXT NOT NULL, metric_value REAL NOT NULL, metric_unit TEXT, recorded_at TIMESTAMP NOT NULL);
CREATE TABLE so8t_parameters (
  param_id INTEGER PRIMARY KEY AUTOINCREMENT, session_id TEXT NOT NULL REFERENCES conversion_sessions (session_id),
  rotation_dim INTEGER, pet_lambda REAL, safety_weight REAL, cmd_weight REAL, triality_enabled BOOLEAN, multimodal_enabled BOOLEAN,
  ocr_enabled BOOLEAN, safety_classes TEXT, created_at TIMESTAMP NOT NULL);
CREATE INDEX layer_conversions_session ON layer_conversions (session_id);
CREATE INDEX metadata_entries_session ON metadata_entries (session_id);
CREATE INDEX performance_metrics_session ON performance_metrics (session_id)
""",
)


@dataclass(frozen=True, slots=True)
class TensorRow:
    """One converted tensor."""

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


def _process() -> str:
    """This process as `host:pid:now`; the time tells it from a later process with the same number."""
    return f"{socket.gethostname()}:{os.getpid()}:{time.time():.3f}"


def _is_alive(process: str) -> bool:
    """Whether the process still runs; one of another host counts as alive, because we cannot know."""
    host, pid, then = process.rsplit(":", 2)
    return host != socket.gethostname() or alive(
        int(pid), by=float(then or 0)
    )  # rows of older code hold ticks since the boot, or nothing: dead


def _torch_version() -> str | None:
    try:
        return metadata.version("torch")
    except metadata.PackageNotFoundError:
        return None


@dataclass(slots=True)
class Ledger:
    """An open ledger. Use as a context manager, or call `close`."""

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
            self._fail_dead_sessions(connection)
            connection.execute(
                "INSERT INTO conversion_sessions (session_id, model_name, model_type, source_path, output_path, start_time, so8t_version,"
                " python_version, torch_version, process) VALUES (?,?,?,?,?,?,?,?,?,?)",
                (
                    session,
                    model_name,
                    model_type,
                    str(source),
                    str(output),
                    _now(),
                    __version__,
                    platform.python_version(),
                    _torch_version(),
                    _process(),
                ),
            )
        return session

    def _fail_dead_sessions(self, connection: sqlite3.Connection) -> None:
        open_ones = connection.execute(
            "SELECT session_id, process FROM conversion_sessions WHERE conversion_status = 'in_progress'"
        ).fetchall()
        for row in open_ones:
            if not _is_alive(row["process"]):
                connection.execute(
                    "UPDATE conversion_sessions SET conversion_status = 'failed', end_time = ?, error_message = ? WHERE session_id = ?",
                    (_now(), "its process died without ending the session", row["session_id"]),
                )

    def log_layer_conversion(self, session: str, rows: list[TensorRow]) -> None:
        """Record converted tensors, in one transaction."""
        values = [
            (
                session,
                _layer_index(r.name),
                r.name,
                r.source_name,
                json.dumps(list(r.shape)),
                json.dumps(list(r.shape)),
                r.source_type,
                r.type,
                r.type,
                _now(),
                r.milliseconds,
                r.megabytes,
                r.sha256,
            )
            for r in rows
        ]
        with db.transaction(self.connection) as connection:
            connection.executemany(
                "INSERT INTO layer_conversions (session_id, layer_index, layer_name, tensor_name, original_shape, converted_shape,"
                " original_dtype, target_dtype, quant_type, conversion_time, processing_time_ms, memory_usage_mb, sha256)"
                " VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?)",
                values,
            )

    def log_metadata(self, session: str, values: dict[str, Any]) -> None:
        """Record keys of the file; lists as JSON."""
        rows = [
            (
                session,
                key,
                json.dumps(v, ensure_ascii=False) if isinstance(v, list) else str(v),
                type(v).__name__,
                _now(),
            )
            for key, v in values.items()
        ]
        with db.transaction(self.connection) as connection:
            connection.executemany(
                "INSERT INTO metadata_entries (session_id, metadata_key, metadata_value, metadata_type, created_at)"
                " VALUES (?,?,?,?,?)",
                rows,
            )

    def log_parameters(self, session: str, keys: dict[str, Any]) -> None:
        """Record the true values of the founders' parameters."""
        flags = [
            keys.get(f"so8t.{name}") == "true"
            for name in ("triality_enabled", "multimodal", "ocr_enabled")
        ]
        with db.transaction(self.connection) as connection:
            connection.execute(
                "INSERT INTO so8t_parameters (session_id, rotation_dim, pet_lambda, safety_weight, cmd_weight, triality_enabled,"
                " multimodal_enabled, ocr_enabled, safety_classes, created_at) VALUES (?,?,?,?,?,?,?,?,?,?)",
                (
                    session,
                    keys.get("so8t.rotation_dim"),
                    keys.get("so8t.pet_lambda"),
                    keys.get("so8t.safety_weight"),
                    keys.get("so8t.cmd_weight"),
                    *flags,
                    keys.get("so8t.safety_classes"),
                    _now(),
                ),
            )

    def log_performance_metric(self, session: str, name: str, value: float, unit: str) -> None:
        """Record one number about the run."""
        with db.transaction(self.connection) as connection:
            connection.execute(
                "INSERT INTO performance_metrics (session_id, metric_name, metric_value, metric_unit, recorded_at) VALUES (?,?,?,?,?)",
                (session, name, float(value), unit, _now()),
            )

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

        Raises:
            DataError: it is unknown or already closed.
        """
        digests = digests or {}
        with db.transaction(self.connection) as connection:
            changed = connection.execute(
                "UPDATE conversion_sessions SET conversion_status = ?, end_time = ?, duration_seconds = ?, error_message = ?, source_sha256 = ?,"
                " output_sha256 = ?, semantic_digest = ?, total_layers = (SELECT COUNT(DISTINCT layer_index) FROM layer_conversions"
                " WHERE layer_conversions.session_id = conversion_sessions.session_id) WHERE session_id = ? AND conversion_status = 'in_progress'",
                (
                    status,
                    _now(),
                    round(seconds, 3),
                    error,
                    digests.get("source_sha256"),
                    digests.get("output_sha256"),
                    digests.get("semantic_digest"),
                    session,
                ),
            ).rowcount
        if not changed:
            raise DataError("no open session with this id", where=session, fix="so8t ledger list")

    def get_session_summary(self, session: str) -> dict[str, Any]:
        """One session with its tensor statistics and parameters.

        Raises:
            DataError: unknown id.
        """
        found = self.connection.execute(
            "SELECT * FROM conversion_sessions WHERE session_id = ?", (session,)
        ).fetchone()
        if found is None:
            raise DataError("no session with this id", where=session, fix="so8t ledger list")
        stats = self.connection.execute(
            "SELECT COUNT(*) AS total_conversions, COALESCE(SUM(success), 0) AS successful_conversions, AVG(processing_time_ms) AS avg_processing_time_ms,"
            " COALESCE(SUM(memory_usage_mb), 0.0) AS total_memory_usage_mb FROM layer_conversions WHERE session_id = ?",
            (session,),
        ).fetchone()
        summary = {
            key: found[key] for key in found.keys() if key not in ("conversion_status", "process")
        }  # noqa: SIM118 (Row iterates values)
        return summary | {
            "status": found["conversion_status"],
            "stats": dict(stats),
            "so8t_params": self._last("so8t_parameters", session),
            "metrics": {
                r["metric_name"]: r["metric_value"]
                for r in self.rows("performance_metrics", session)
            },
        }

    def _last(self, table: str, session: str) -> dict[str, Any]:
        rows = self.rows(table, session)
        return dict(rows[-1]) if rows else {}

    def sessions(self) -> list[dict[str, Any]]:
        """All sessions, newest first."""
        return [
            dict(row)
            for row in self.connection.execute(
                "SELECT * FROM conversion_sessions ORDER BY start_time DESC, rowid DESC"
            )
        ]

    def rows(self, table: str, session: str | None = None) -> list[dict[str, Any]]:
        """Rows of one of the five tables, in insertion order, of one session or of all.

        Raises:
            DataError: another table.
        """
        if table not in TABLES:
            raise DataError(f"no table {table}", fix=f"one of {', '.join(TABLES)}")
        where, values = (" WHERE session_id = ?", (session,)) if session else ("", ())
        return [
            dict(row)
            for row in self.connection.execute(
                f"SELECT * FROM {table}{where} ORDER BY rowid", values
            )
        ]


def _layer_index(name: str) -> int | None:
    return int(name.split(".")[1]) if name.startswith("blk.") else None


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
    """A ledger session around some work: `completed` on success, `failed` (or `cancelled`) on any exception."""
    began = time.perf_counter()
    with Ledger(path or default_path()) as ledger:
        session = Session(ledger, ledger.start_conversion(model_name, model_type, source, output))
        try:
            yield session
            session.flush()
        except BaseException as error:
            status: Status = "cancelled" if isinstance(error, KeyboardInterrupt) else "failed"
            session.flush()
            ledger.end_conversion(
                session.id,
                status,
                seconds=time.perf_counter() - began,
                error=f"{type(error).__name__}: {error}"[:2000],
            )
            raise
        seconds = time.perf_counter() - began
        ledger.log_performance_metric(session.id, "duration", seconds * 1000, "ms")
        ledger.end_conversion(session.id, "completed", seconds=seconds, digests=session.digests)
