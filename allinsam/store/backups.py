"""Backups of a study: each a dated folder that is a whole study, with a manifest of every file's hash.

The databases are copied while people go on working; server.sqlite first, then study.sqlite, then the files:
whatever a row needs was there before the row. A folder gets its name when all of it is on disk, so that one
with a date in its name is whole. What an earlier backup holds already is linked, not copied: twenty backups
need little more room than one. Embeddings, exports and logs are left out, since they can be made again.
"""

import contextlib
import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Protocol

from allinsam.errors import InputError, StorageError
from allinsam.files import write_file
from allinsam.locking import only_one
from allinsam.provenance import versions
from allinsam.store import images, runs
from allinsam.store.connection import DatabaseFile, utc_now

FOLDER = "backups"
MANIFEST = "backup.json"
MANIFEST_VERSION = 1
WITHDRAWALS = "withdrawals.jsonl"  # beside the dated folders
WITHDRAWAL_FIELDS = ("person_id", "kind", "reason", "by_person_id", "acts_removed", "at")
OTHER_FOLDERS = "other_folders.json"  # in the study's own backups folder: where else there are backups
FAILURE = "failed.json"  # in the study's own backups folder
UNDER_WAY, EXPIRED = ".making-", ".expired-"
DATABASES = ("server.sqlite", "study.sqlite")  # in this order: an account is made after its person
BY_HAND, AUTOMATIC, BEFORE = "by hand", "automatic", "before "
NEVER_COPIED = (
    "checkpoint",
    ".",
)  # of a run's folder: what only a run that goes on needs, and temporary files
COPIED_AT_ONCE_BYTES = 1 << 20
KEPT_FREE_BYTES = 200_000_000  # for those who annotate meanwhile


class AnyStudy(Protocol):
    """A study's folder, as `allinsam.store.Study` has it."""

    folder: Path

    @property
    def science(self) -> DatabaseFile: ...

    @property
    def server(self) -> DatabaseFile: ...

    def image_path(self, sha256: str) -> Path: ...

    def labels_path(self, sha256: str) -> Path: ...

    def run_folder(self, run_id: int) -> Path: ...


@dataclass(frozen=True)
class KeptFile:
    """One file of a backup. `mtime_ns` is of the file it was copied from."""

    path: str
    sha256: str
    bytes: int
    mtime_ns: int


@dataclass(frozen=True)
class Backup:
    """What a backup's manifest says.

    whole: False where only the databases were copied, as before a change of their schema.
    elsewhere: path -> sha256 of what the study's rows name and this backup does not hold.
    """

    folder: Path
    study: str
    made_at: str
    why: str
    whole: bool
    schema: Mapping[str, Sequence[str]]
    versions: Mapping[str, str]
    accounts_sha256: str
    files: tuple[KeptFile, ...]
    elsewhere: Mapping[str, str] = field(default_factory=dict)

    @property
    def bytes(self) -> int:
        return sum(file.bytes for file in self.files)

    @property
    def time(self) -> datetime:
        return datetime.fromisoformat(self.made_at)


# --- Making ---------------------------------------------------------------------------------------


def backups_folder(study: AnyStudy) -> Path:
    """Where a study's backups lie unless another folder is named."""
    return study.folder / FOLDER


def make_backup(
    study: AnyStudy,
    folder: Path | None = None,
    why: str = BY_HAND,
    only_if_changed: bool = False,
    databases_only: bool = False,
) -> Backup | None:
    """Copy a study as it is now into a new dated folder of `folder`; None where nothing has changed.

    Raises:
        StorageError: a database is damaged, or the disk is full; nothing is left behind.
        InputError: another backup into the same folder is under way.
    """
    folder = Path(folder or backups_folder(study)).resolve()
    with _disk_faults_told(folder):
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with only_one(folder / ".lock", f"The backups folder {folder}"):
            _clear_leftovers(folder)
            earlier = list_backups(folder)
            made_at = utc_now()
            making = folder / f"{UNDER_WAY}{_name_of(made_at)}"
            making.mkdir(mode=0o700)
            try:
                backup = _copy(study, making, made_at, why, earlier, only_if_changed, databases_only)
                if backup is None:
                    return None
                _sync_folders(making)
                named = _unused(folder, _name_of(made_at))
                os.rename(making, named)
                _sync_folder(folder)
            finally:
                shutil.rmtree(making, ignore_errors=True)
            _remember_folder(study, folder)
            keep_withdrawals(study)
    return read_manifest(named)


def _copy(
    study: AnyStudy,
    making: Path,
    made_at: str,
    why: str,
    earlier: Sequence[Backup],
    only_if_changed: bool,
    databases_only: bool,
) -> Backup | None:
    copied = [_copy_database(file, making) for file in (study.server, study.science)]
    frozen = {file.path.name: _frozen(file, making) for file in (study.server, study.science)}
    for file in frozen.values():
        if damage := file.damage(quick=True):
            raise StorageError(
                f"{study.folder} was not backed up, and older backups stay: {damage[0]}. Stop the app and "
                "restore the study from a backup: python -m allinsam restore"
            )
    wanted = _wanted(study, frozen["study.sqlite"])
    with frozen["study.sqlite"].read() as db:
        name = db["study"].get(1)["name"] if db["study"].count else ""
    files, elsewhere = list(copied), {}
    begun = Backup(
        folder=making,
        study=name,
        made_at=made_at,
        why=why,
        whole=not databases_only,
        schema={key: file.applied_steps() for key, file in frozen.items()},
        versions=versions(),
        accounts_sha256=_accounts_sha256(frozen["server.sqlite"]),
        files=tuple(copied),
    )
    if only_if_changed and earlier and _is_same(begun, earlier, wanted):
        return None
    if databases_only:
        elsewhere = {path: one.sha256 for path, one in wanted.items() if one.sha256}
    else:
        there = {file.path: (file, backup.folder) for backup in reversed(earlier) for file in backup.files}
        _demand_room(making, wanted, there)
        for path, one in wanted.items():
            kept = _link(making, one, there.get(path)) or _copy_file(making, path, one)
            if kept:
                files.append(kept)
            elif one.sha256:
                elsewhere[path] = one.sha256
    done = Backup(**{**vars(begun), "files": tuple(files), "elsewhere": elsewhere})
    write_file(making / MANIFEST, _manifest_text(done).encode())
    return done


@dataclass(frozen=True)
class _Wanted:
    source: Path
    sha256: str | None  # None: the file's content may change, and is told by its size and date
    bytes: int
    mtime_ns: int


def _wanted(study: AnyStudy, science: DatabaseFile) -> dict[str, _Wanted]:
    """Path -> file of everything that the rows of a copied database need, and of finished runs."""
    with science.read() as db:
        hashes = {study.image_path(row["sha256"]): row["sha256"] for row in images.list_images(db)}
        hashes |= {study.labels_path(row["sha256"]): row["sha256"] for row in runs.kept_label_sets(db)}
        finished = [row for row in runs.list_runs(db) if row["state"] == "finished"]
    for run in finished:
        for path in sorted(study.run_folder(run["id"]).rglob("*")):
            if path.is_file() and not path.name.startswith(NEVER_COPIED):
                hashes[path] = None
    found = {}
    for path, sha256 in hashes.items():
        size, mtime_ns = -1, -1
        with contextlib.suppress(FileNotFoundError):
            stat = path.stat()
            size, mtime_ns = stat.st_size, stat.st_mtime_ns
        found[path.relative_to(study.folder).as_posix()] = _Wanted(path, sha256, size, mtime_ns)
    return found


def _copy_database(file: DatabaseFile, making: Path) -> KeptFile:
    target = making / file.path.name
    os.close(os.open(target, os.O_CREAT | os.O_WRONLY, 0o600))
    file.copy_to(target)
    return KeptFile(target.name, sha256_of(target), target.stat().st_size, 0)


def _frozen(file: DatabaseFile, folder: Path) -> DatabaseFile:
    return DatabaseFile(folder / file.path.name, file.migrations, frozen=True)


def _is_same(begun: Backup, earlier: Sequence[Backup], wanted: Mapping[str, _Wanted]) -> bool:
    """Whether the newest whole backup holds all of this already; sign-ins, jobs and heartbeats apart."""
    last = next((backup for backup in earlier if backup.whole), None)
    if last is None or last.accounts_sha256 != begun.accounts_sha256 or last.schema != begun.schema:
        return False
    kept = {file.path: file for file in last.files}
    science = next(file for file in begun.files if file.path == "study.sqlite")
    if kept["study.sqlite"].sha256 != science.sha256:
        return False
    if {path for path in kept if path not in DATABASES} | set(last.elsewhere) != set(wanted):
        return False
    return all(_fits(one, kept[path]) for path, one in wanted.items() if path in kept)


def _fits(one: _Wanted, kept: KeptFile) -> bool:
    """Whether a file of an earlier backup is what is wanted now."""
    if one.sha256 is not None:
        return one.sha256 == kept.sha256
    return (one.bytes, one.mtime_ns) == (kept.bytes, kept.mtime_ns)


def _link(making: Path, one: _Wanted, there: tuple[KeptFile, Path] | None) -> KeptFile | None:
    """Give an earlier backup's file a second name; None where that cannot be."""
    if there is None or not _fits(one, there[0]):
        return None
    kept, folder = there
    target = making / kept.path
    try:
        if (folder / kept.path).stat().st_size != kept.bytes:
            return None
        target.parent.mkdir(parents=True, exist_ok=True)
        os.link(folder / kept.path, target)
    except OSError:  # a disk without links, or the earlier file is gone
        return None
    return kept


def _copy_file(making: Path, path: str, one: _Wanted) -> KeptFile | None:
    """Copy a file of the study; None where it is gone or is not what was stored."""
    target = making / path
    target.parent.mkdir(parents=True, exist_ok=True)
    digest, size = hashlib.sha256(), 0
    try:
        source = open(one.source, "rb")
    except FileNotFoundError:
        return None
    with source, open(target, "xb") as file:
        while chunk := source.read(COPIED_AT_ONCE_BYTES):
            digest.update(chunk)
            file.write(chunk)
            size += len(chunk)
        file.flush()
        os.fsync(file.fileno())
    if one.sha256 not in (None, digest.hexdigest()):
        target.unlink()
        return None
    return KeptFile(path, digest.hexdigest(), size, one.mtime_ns)


def _demand_room(
    making: Path, wanted: Mapping[str, _Wanted], there: Mapping[str, tuple[KeptFile, Path]]
) -> None:
    new = [one.bytes for path, one in wanted.items() if path not in there or not _fits(one, there[path][0])]
    needed, free = sum(size for size in new if size > 0), shutil.disk_usage(making).free
    if free < needed + KEPT_FREE_BYTES:
        raise StorageError(
            f"A backup needs {needed / 1e6:,.0f} MB more in {making.parent}, and "
            f"{KEPT_FREE_BYTES / 1e6:,.0f} MB stay free for those who annotate; {free / 1e6:,.0f} MB are "
            "free. Make room, or name a folder on another disk (--to; of the app: --backups)."
        )


def note_failure(study: AnyStudy, why: str | None) -> None:
    """Keep why the last backup could not be made, for the lead's page; None: it was."""
    path = backups_folder(study) / FAILURE
    if why is None:
        path.unlink(missing_ok=True)
        return
    with contextlib.suppress(OSError):  # the disk may be full: then the page says that
        write_file(path, json.dumps({"at": utc_now(), "why": why}).encode())


def last_failure(study: AnyStudy) -> dict[str, str] | None:
    """When and why the last backup could not be made; None where it was."""
    try:
        told = json.loads((backups_folder(study) / FAILURE).read_text("utf-8"))
        return {"at": str(told["at"]), "why": str(told["why"])}
    except (OSError, ValueError, KeyError, TypeError):
        return None


# --- Reading --------------------------------------------------------------------------------------


def read_manifest(folder: Path) -> Backup:
    """What a backup holds. StorageError where it has no manifest that can be read."""
    path = Path(folder) / MANIFEST
    try:
        told = json.loads(path.read_text("utf-8"))
        if told["allinsam_backup"] != MANIFEST_VERSION:
            raise InputError(
                f"{path} is of version {told['allinsam_backup']}. Update allinsam to use this backup."
            )
        named = {key: told[key] for key in ("study", "made_at", "why", "whole", "schema", "versions")}
        files = tuple(KeptFile(**one) for one in told["files"])
        for file in files:
            parts = Path(file.path).parts
            if Path(file.path).is_absolute() or ".." in parts or not parts:
                raise ValueError(f"{file.path!r} leads out of the backup")
        return Backup(
            folder=Path(folder),
            accounts_sha256=told["accounts_sha256"],
            files=files,
            elsewhere=dict(told["elsewhere"]),
            **named,
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise StorageError(
            f"{folder} is no backup, or its {MANIFEST} is damaged ({type(error).__name__}: {error}). Choose "
            "another backup."
        ) from error


def list_backups(folder: Path) -> list[Backup]:
    """The backups in a folder whose manifest can be read, the newest first."""
    found = []
    for path in sorted(Path(folder).glob(f"*/{MANIFEST}")):
        if not path.parent.name.startswith("."):
            with contextlib.suppress(StorageError, InputError):
                found.append(read_manifest(path.parent))
    return sorted(found, key=lambda backup: (backup.time, backup.folder.name), reverse=True)


def file_problems(backup: Backup, databases_only: bool = False) -> list[str]:
    """Every file of a backup against its hash, one line for each that is not what it was."""
    problems = []
    for file in backup.files:
        if databases_only and file.path not in DATABASES:
            continue
        path = backup.folder / file.path
        if not path.is_file():
            problems.append(f"{file.path}: the file is gone from the backup.")
        elif path.stat().st_size != file.bytes or sha256_of(path) != file.sha256:
            problems.append(f"{file.path}: the file is not what was backed up.")
    return problems


def newest_good(folders: Iterable[Path]) -> Backup | None:
    """The newest backup whose databases are as they were written and whose files are all there."""
    found = [backup for folder in folders for backup in list_backups(folder)]
    for backup in sorted(found, key=lambda backup: backup.time, reverse=True):
        sizes_fit = all(_size(backup.folder / file.path) == file.bytes for file in backup.files)
        if sizes_fit and not file_problems(backup, databases_only=True):
            return backup
    return None


def sha256_of(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# --- Expiring -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class KeepRule:
    """Which backups made by themselves stay: the last, and the newest of each day and week."""

    last: int = 8
    days: int = 14
    weeks: int = 12


def times_to_keep(times: Sequence[datetime], now: datetime, rule: KeepRule = KeepRule()) -> set[datetime]:
    """Of the times of backups, those of backups to keep. Days and weeks are of UTC, weeks from Monday."""
    newest_first = sorted(set(times), reverse=True)
    kept = set(newest_first[: rule.last])
    of_day: dict[Any, datetime] = {}
    of_week: dict[Any, datetime] = {}
    for time in newest_first:
        if now - time < timedelta(days=rule.days):
            of_day.setdefault(time.date(), time)
        if now - time < timedelta(weeks=rule.weeks):
            of_week.setdefault(time.isocalendar()[:2], time)
    return kept | set(of_day.values()) | set(of_week.values())


def expire(folder: Path, now: datetime | None = None, rule: KeepRule = KeepRule()) -> list[str]:
    """Delete the backups that the rule does not keep; their names.

    Those made by hand stay until somebody deletes them, and so does the newest good one of all.
    """
    folder = Path(folder)
    with _disk_faults_told(folder), only_one(folder / ".lock", f"The backups folder {folder}"):
        _clear_leftovers(folder)
        backups = list_backups(folder)
        own = [backup for backup in backups if backup.why != BY_HAND]
        kept = times_to_keep([backup.time for backup in own], now or datetime.now(UTC), rule)
        gone = [backup for backup in own if backup.time not in kept]
        good = newest_good([folder]) if gone else None
        gone = [backup for backup in gone if good is None or backup.folder != good.folder]
        for backup in gone:
            # First out of the list, then file by file: half of a backup never looks like one.
            expired = backup.folder.with_name(f"{EXPIRED}{backup.folder.name}")
            os.rename(backup.folder, expired)
            shutil.rmtree(expired, ignore_errors=True)
    return [backup.folder.name for backup in gone]


# --- People who withdrew --------------------------------------------------------------------------


def keep_withdrawals(study: AnyStudy) -> None:
    """Write who withdrew beside all backups of a study: a restored older one must not bring them back.

    To be called after each withdrawal too, so that it is known even where no later backup is made.
    """
    with study.science.read() as db:
        rows = [
            {name: row[name] for name in WITHDRAWAL_FIELDS if name in row}
            for row in db["withdrawal"].rows_where(order_by="id")
        ]
    if not rows:
        return
    backups_folder(study).mkdir(mode=0o700, exist_ok=True)
    for folder in known_folders(study):
        known = {_key(row): row for row in [*_read_withdrawals(folder), *rows]}
        if folder.is_dir():
            lines = [json.dumps(row, sort_keys=True) for row in sorted(known.values(), key=_at)]
            write_file(folder / WITHDRAWALS, ("\n".join(lines) + "\n").encode())


def later_withdrawals(backup: Backup) -> list[dict[str, Any]]:
    """Who withdrew after a backup was made, the first to do so first, as far as is known beside it."""
    rows = [row for row in _read_withdrawals(backup.folder.parent) if row["at"] >= backup.made_at]
    with DatabaseFile(backup.folder / "study.sqlite", _no_migrations(), frozen=True).read() as db:
        held = {_key(row) for row in db["withdrawal"].rows}
    return [row for row in rows if _key(row) not in held]


def known_folders(study: AnyStudy) -> list[Path]:
    """Every folder that backups of a study were made in."""
    own = backups_folder(study)
    try:
        others = json.loads((own / OTHER_FOLDERS).read_text("utf-8"))
    except (OSError, ValueError):
        others = []
    return [own, *(Path(path) for path in others)]


def _remember_folder(study: AnyStudy, folder: Path) -> None:
    known = known_folders(study)
    if folder not in known:
        others = [str(path) for path in [*known[1:], folder]]
        write_file(backups_folder(study) / OTHER_FOLDERS, json.dumps(others).encode())


def _read_withdrawals(folder: Path) -> list[dict[str, Any]]:
    path = folder / WITHDRAWALS
    if not path.exists():
        return []
    try:
        rows = [json.loads(line) for line in path.read_text("utf-8").splitlines() if line.strip()]
        return sorted(rows, key=_at)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StorageError(
            f"{path} tells who withdrew and cannot be read ({error}). Repair it by hand: one JSON object on "
            "each line."
        ) from error


def _key(row: Mapping[str, Any]) -> tuple[Any, ...]:
    return row["person_id"], row.get("kind"), row["at"]


def _at(row: Mapping[str, Any]) -> str:
    return str(row["at"])


# --- Parts ----------------------------------------------------------------------------------------


def _manifest_text(backup: Backup) -> str:
    told = {key: value for key, value in vars(backup).items() if key not in ("folder", "files")}
    files = [asdict(file) for file in backup.files]
    return json.dumps({"allinsam_backup": MANIFEST_VERSION, **told, "files": files}, indent=1)


def _accounts_sha256(server: DatabaseFile) -> str:
    """Of what a server's database holds beside what changes by itself: sign-ins, jobs, heartbeats."""
    with server.read() as db:
        rows = [list(db[table].rows_where(order_by="rowid")) for table in ("account", "invitation")]
    return hashlib.sha256(json.dumps(rows, sort_keys=True).encode()).hexdigest()


def _name_of(made_at: str) -> str:
    return made_at[:19].replace(":", "-")


def _unused(folder: Path, name: str) -> Path:
    """The folder of this name, or with a number after it."""
    tried, number = folder / name, 1
    while tried.exists():
        number += 1
        tried = folder / f"{name}-{number}"
    return tried


def _clear_leftovers(folder: Path) -> None:
    """What a killed process left. Call with the folder's lock."""
    for prefix in (UNDER_WAY, EXPIRED):
        for path in folder.glob(f"{prefix}*"):
            shutil.rmtree(path, ignore_errors=True)


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except OSError:
        return None


def _sync_folders(top: Path) -> None:
    for path in [top, *(path for path in top.rglob("*") if path.is_dir())]:
        _sync_folder(path)


def _sync_folder(path: Path) -> None:
    """So that names survive a power cut, not contents alone. Windows does not know it."""
    if os.name == "nt":
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def _disk_faults_told(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        remedy = "Make room there" if full else "See that it is there and may be written to"
        raise StorageError(
            f"{folder} cannot hold a backup: {error.strerror or error}. {remedy}, or name a folder on "
            "another disk (--to; of the app: --backups)."
        ) from error


def _no_migrations() -> Any:
    from sqlite_utils.migrations import Migrations

    return Migrations("none")
