"""SQLite as this project uses it: WAL, foreign keys on, numbered migrations, safe with several processes."""

import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from so8t.errors import ArtifactError, ResourceError

BUSY_SECONDS = 30.0  # how long a writer waits for another process
ATTEMPTS = 100  # switching to WAL does not wait by itself


def connect(path: Path, migrations: Sequence[str]) -> sqlite3.Connection:
    """Open a database, bring it to the newest schema, and return the connection (autocommit; use `transaction`).

    Args:
        path: created with its directory when missing.
        migrations: SQL scripts; number n brings schema n-1 to n. Applied ones are never edited.

    Raises:
        ResourceError: the file cannot be opened or written.
        ArtifactError: it was written by a newer version, or is not a database.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        connection = sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None)
        connection.row_factory = sqlite3.Row
        _use_wal(connection)
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
    for attempt in range(ATTEMPTS):
        try:
            connection.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError:
            if attempt == ATTEMPTS - 1:
                raise
            time.sleep(0.05)
        else:
            return


def _migrate(connection: sqlite3.Connection, migrations: Sequence[str], path: Path) -> None:
    if _version(connection) == len(migrations):
        return
    with transaction(connection):  # another process may have migrated while we waited
        current = _version(connection)
        if current > len(migrations):
            raise ArtifactError(
                f"schema {current} is newer than this program's {len(migrations)}",
                where=str(path),
                fix="update the program",
            )
        for script in migrations[current:]:
            for statement in filter(str.strip, script.split(";")):
                connection.execute(statement)
        connection.execute(f"PRAGMA user_version = {len(migrations)}")


def _version(connection: sqlite3.Connection) -> int:
    return int(connection.execute("PRAGMA user_version").fetchone()[0])


@contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[sqlite3.Connection]:
    """All statements or none; takes the write lock at once, so that it waits instead of failing half-way."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield connection
    except BaseException:
        connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")
