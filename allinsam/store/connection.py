"""How a database file is opened, read and written. Every transaction has a connection of its own."""

import os
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from sqlite_utils import Database
from sqlite_utils.migrations import Migrations

from allinsam.errors import InputError, NotFoundError, StorageError

BUSY_TIMEOUT_S = 10.0
FULL_BYTES = 1_000_000


DAMAGE = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
# SQLite's codes of what is no fault of the program's, in words with the remedy.
STORAGE_FAULTS = {
    sqlite3.SQLITE_FULL: "the disk is full. Make room on it and try again",
    sqlite3.SQLITE_READONLY: "it may only be read. Give this program the right to write to it and its folder",
    sqlite3.SQLITE_PERM: "it may not be used. Give this program the right to read and write it",
    sqlite3.SQLITE_CANTOPEN: "it cannot be opened. Give this program the right to write to its folder, "
    "and see that the disk is there and not full",
    sqlite3.SQLITE_IOERR: "the disk fails to read or write it. Make room on the disk and look at its health",
    sqlite3.SQLITE_BUSY: "another program holds it. Close that one and try again",
    sqlite3.SQLITE_LOCKED: "another program holds it. Close that one and try again",
    sqlite3.SQLITE_CORRUPT: "it is damaged. Stop the app and restore the study from a backup: "
    "python -m allinsam restore",
    sqlite3.SQLITE_NOTADB: "it is damaged: no database is in it. Stop the app and restore the study from a "
    "backup: python -m allinsam restore",
}


def utc_now() -> str:
    """Now as ISO 8601 in UTC with milliseconds, sortable as text."""
    return stamp(datetime.now(UTC))


def stamp(moment: datetime) -> str:
    """A moment in UTC as the store writes it."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


@dataclass(frozen=True)
class DatabaseFile:
    """One SQLite file and the migrations that make its schema.

    frozen: nobody writes to it, as in a backup: it is read without leaving a trace beside it or in it.
    """

    path: Path
    migrations: Migrations
    frozen: bool = False

    @contextmanager
    def read(self) -> Iterator[Database]:
        """A consistent view of the file; nothing can be written through it.

        Raises:
            StorageError: the file cannot be read now.
        """
        with self._faults_told():
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

        Raises:
            StorageError: the file cannot be written now; nothing of the transaction is kept.
        """
        with self._faults_told():
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
        with self._faults_told():
            db = self._connect(create=True)
            try:
                if self._pending(db):
                    self.migrations.apply(db)
            finally:
                db.conn.close()

    def copy_to(self, target: Path) -> None:
        """Copy the file as it is at one moment, while others go on writing.

        `target` is a database in a single file, on disk when this returns.

        Raises:
            StorageError: the file cannot be read, or the copy not be written.
        """
        with self.read() as db:
            copy = None
            try:
                copy = sqlite3.connect(target, isolation_level=None)
                db.conn.backup(copy)
                copy.execute("PRAGMA journal_mode = DELETE")
            except sqlite3.DatabaseError as error:
                raise StorageError(
                    f"{self.path} could not be copied to {target}: {error}. Make room on that disk, see that "
                    "it may be written to, and try again."
                ) from error
            finally:
                if copy is not None:
                    copy.close()
        with open(target, "rb+") as file:
            os.fsync(file.fileno())

    def close_log(self) -> None:
        """Bring what is still in the write-ahead log into the file itself. Nobody else may have it open."""
        with self._faults_told():
            db = self._connect()
            db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            db.conn.close()

    def applied_steps(self) -> list[str]:
        """Names of the schema steps that made the file, in order."""
        with self.read() as db:
            return [migration.name for migration in self.migrations.applied(db)]

    def damage(self, quick: bool = False) -> list[str]:
        """What SQLite's own checks find, one line each; also where damage lets nothing be read at all.

        quick: do not compare indexes with their tables, which takes longest.

        Raises:
            StorageError: the file cannot be read for another reason than damage, such as a full disk.
        """
        try:
            with self.read() as db:
                return [f"{self.path.name}: {line}" for line in integrity_problems(db, quick)]
        except NotFoundError as error:
            return [str(error)]
        except StorageError as error:
            if getattr(error.__cause__, "sqlite_errorcode", 0) & 0xFF not in DAMAGE:
                raise
            return [f"{self.path.name}: {error.__cause__}."]
        except sqlite3.DatabaseError as error:  # a schema that cannot be understood
            return [f"{self.path.name}: {error}."]

    def pending_steps(self) -> list[str]:
        """Names of the schema steps that an existing file lacks; refuse a file written by a newer version."""
        with self.read() as db:
            return self._pending(db)

    def _pending(self, db: Database) -> list[str]:
        applied = {migration.name for migration in self.migrations.applied(db)}
        known = [migration.name for migration in self.migrations._migrations]
        if unknown := applied - set(known):
            raise InputError(
                f"{self.path} was written by a newer allinsam (unknown schema step "
                f"{sorted(unknown)[0]!r}). Update allinsam to open it."
            )
        return [name for name in known if name not in applied]

    def _is_full(self, code: int) -> bool:
        """On a full disk not even what readers share can be made, which SQLite calls an error of the disk."""
        if code not in (sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN):
            return False
        try:
            return shutil.disk_usage(self.path.parent).free < FULL_BYTES
        except OSError:
            return False

    @contextmanager
    def _faults_told(self) -> Iterator[None]:
        """A full disk, a damaged file and the like in words, whoever ran into it."""
        try:
            yield
        except sqlite3.DatabaseError as error:
            code = getattr(error, "sqlite_errorcode", 0) & 0xFF
            if code not in STORAGE_FAULTS:
                raise
            said = STORAGE_FAULTS[sqlite3.SQLITE_FULL if self._is_full(code) else code]
            raise StorageError(f"{self.path} cannot be used now: {said}. ({error})") from error

    def _connect(self, create: bool = False) -> Database:
        # Not connect(path): for a file that was moved away it would leave an empty one in its place.
        mode = "ro&immutable=1" if self.frozen else "rwc" if create else "rw"
        address = f"{self.path.resolve().as_uri()}?mode={mode}"
        try:
            conn = sqlite3.connect(address, timeout=BUSY_TIMEOUT_S, isolation_level=None, uri=True)
        except sqlite3.OperationalError as error:
            if self.path.exists():
                raise
            raise NotFoundError(
                f"{self.path} is gone. Put it back, and stop the app before moving it."
            ) from error
        db = Database(conn)
        try:
            if not self.frozen:
                db.execute("PRAGMA journal_mode = WAL")
            db.execute("PRAGMA synchronous = FULL")
            db.execute("PRAGMA foreign_keys = ON")
        except BaseException:
            conn.close()
            raise
        return db


def integrity_problems(db: Database, quick: bool = False) -> list[str]:
    """What SQLite's own checks find: damaged pages, rows against their constraints or that point nowhere."""
    check = "quick_check" if quick else "integrity_check"
    found = [row[0] for row in db.execute(f"PRAGMA {check}").fetchall() if row[0] != "ok"]
    dangling = db.execute("PRAGMA foreign_key_check").fetchall()
    return found + [f"row {row[1]} of {row[0]} points to a missing row of {row[2]}" for row in dangling]
