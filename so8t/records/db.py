"""SQLite as this project uses it: WAL, foreign keys on, numbered migrations, several processes.

WAL is the write-ahead log: readers go on while one process writes.
"""

import sqlite3
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from so8t.errors import ArtifactError, ResourceError

BUSY_SECONDS = 30.0  # how long a writer waits for another process
# Switching to WAL does not wait by itself when another process has the file.
WAL_ATTEMPTS = 100
WAL_PAUSE_S = 0.05


def connect(path: Path, migrations: Sequence[str]) -> sqlite3.Connection:
    """Open a database and bring it to the newest schema.

    Args:
        path: created with its directory when missing.
        migrations: SQL scripts; number n (from 1) brings schema n-1 to n. Applied ones are never
            edited. No statement may hold a semicolon.

    Returns:
        A connection that commits each statement by itself; use `transaction` for more.

    Raises:
        ResourceError: the file cannot be opened or written.
        ArtifactError: it was written by a newer version, or is not a database.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        connection = sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None)
        connection.row_factory = sqlite3.Row
        _use_wal(connection)
        # With WAL this is safe; only the newest commits are lost when the power fails.
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.execute("PRAGMA foreign_keys = ON")
        _migrate(connection, migrations, path)
    except (sqlite3.OperationalError, OSError) as error:
        raise ResourceError(
            f"the database cannot be used ({error})",
            where=str(path),
            fix="check its owner and free space, or set SO8T_DATABASE",
        ) from error
    except sqlite3.DatabaseError as error:
        raise ArtifactError(
            f"not a database ({error})",
            where=str(path),
            fix="move the file away; a new one is made",
        ) from error
    return connection


def _use_wal(connection: sqlite3.Connection) -> None:
    for attempt in range(WAL_ATTEMPTS):
        try:
            connection.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError:
            if attempt == WAL_ATTEMPTS - 1:
                raise
            time.sleep(WAL_PAUSE_S)
        else:
            return


def _migrate(connection: sqlite3.Connection, migrations: Sequence[str], path: Path) -> None:
    newest = len(migrations)
    if _version(connection) == newest:
        return
    with transaction(connection):
        # Again: another process may have migrated while we waited for the lock.
        current = _version(connection)
        if current > newest:
            raise ArtifactError(
                f"schema {current} is newer than this program's {newest}",
                where=str(path),
                fix="update the program",
            )
        for script in migrations[current:]:
            # Not `executescript`, which would commit the transaction first.
            for statement in filter(str.strip, script.split(";")):
                connection.execute(statement)
        connection.execute(f"PRAGMA user_version = {newest}")


def _version(connection: sqlite3.Connection) -> int:
    return int(connection.execute("PRAGMA user_version").fetchone()[0])


@contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[sqlite3.Connection]:
    """All statements or none."""
    # IMMEDIATE takes the write lock at once and waits for it. A plain BEGIN takes it at the first
    # write, and fails half-way when another process was quicker.
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield connection
    except BaseException:
        connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")


def insert(connection: sqlite3.Connection, table: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Insert rows, values by column; all rows have the columns of the first."""
    if not rows:
        return
    columns = list(rows[0])
    places = ", ".join(f":{column}" for column in columns)
    statement = f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({places})"
    connection.executemany(statement, rows)
