"""How a database file is opened, read and written. Every transaction has a connection of its own."""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from sqlite_utils import Database
from sqlite_utils.migrations import Migrations

from allinsam.errors import InputError, NotFoundError

BUSY_TIMEOUT_S = 10.0


def utc_now() -> str:
    """Now as ISO 8601 in UTC with milliseconds, sortable as text."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


@dataclass(frozen=True)
class DatabaseFile:
    """One SQLite file and the migrations that make its schema."""

    path: Path
    migrations: Migrations

    @contextmanager
    def read(self) -> Iterator[Database]:
        """A consistent view of the file; nothing can be written through it."""
        db = self._connect()
        try:
            db.execute("PRAGMA query_only = ON")
            db.execute("BEGIN")
            yield db
        finally:
            db.conn.rollback()
            db.conn.close()

    @contextmanager
    def write(self) -> Iterator[Database]:
        """All or nothing: committed on leaving, rolled back on any exception.

        BEGIN IMMEDIATE takes the write lock at once, so that a read followed by a write in one
        transaction cannot fail half-way with "database is locked". Keep model calls and file
        I/O outside.
        """
        db = self._connect()
        try:
            db.execute("BEGIN IMMEDIATE")
            try:
                yield db
            except BaseException:
                db.conn.rollback()
                raise
            db.conn.execute("COMMIT")
        finally:
            db.conn.close()

    def create_or_migrate(self) -> None:
        """Bring the file to the newest schema; refuse a file written by a newer version."""
        db = self._connect(create=True)
        try:
            applied = {migration.name for migration in self.migrations.applied(db)}
            known = {migration.name for migration in self.migrations._migrations}
            if applied - known:
                raise InputError(
                    f"{self.path} was written by a newer allinsam (unknown schema step "
                    f"{sorted(applied - known)[0]!r}). Update allinsam to open it."
                )
            if known - applied:
                self.migrations.apply(db)
        finally:
            db.conn.close()

    def _connect(self, create: bool = False) -> Database:
        # Not connect(path): for a file that was moved away it would leave an empty one in its place.
        address = f"{self.path.resolve().as_uri()}?mode={'rwc' if create else 'rw'}"
        try:
            conn = sqlite3.connect(address, timeout=BUSY_TIMEOUT_S, isolation_level=None, uri=True)
        except sqlite3.OperationalError as error:
            if self.path.exists():
                raise
            raise NotFoundError(
                f"{self.path} is gone. Put it back, and stop the app before moving it."
            ) from error
        db = Database(conn)
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = FULL")
        db.execute("PRAGMA foreign_keys = ON")
        return db


def integrity_problems(db: Database) -> list[str]:
    """What SQLite's own checks find: damaged pages and rows that point nowhere."""
    found = [row[0] for row in db.execute("PRAGMA integrity_check").fetchall() if row[0] != "ok"]
    dangling = db.execute("PRAGMA foreign_key_check").fetchall()
    return found + [f"row {row[1]} of {row[0]} points to a missing row of {row[2]}" for row in dangling]
