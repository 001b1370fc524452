"""Is everything as it should be where a study lies, and where the app runs? Reads only."""

import os
import shutil
import sqlite3
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from allinsam.errors import AllinsamError, NotFoundError
from allinsam.jobs import LOST_AFTER_S
from allinsam.store import Study, jobs
from allinsam.store import study as study_store
from allinsam.store.backups import KEPT_FREE_BYTES, known_folders, last_failure, list_backups

OK, WARNING, PROBLEM = "ok", "warning", "problem"
# Locks and shared memory, which SQLite's write-ahead log needs, do not hold across machines.
NETWORK_SYSTEMS = ("nfs", "cifs", "smb", "9p", "afs", "ceph", "glusterfs", "lustre", "davfs")
# A program that copies files one by one tears a database and its log apart.
SYNCHRONISED = (
    "dropbox",
    "onedrive",
    "google drive",
    "googledrive",
    "icloud",
    "mobile documents",
    "nextcloud",
    "owncloud",
    "seafile",
    "syncthing",
)
OLDEST_SQLITE = (3, 37, 0)  # STRICT tables
BACKUP_STALE_DAYS = 2.0


@dataclass(frozen=True)
class Finding:
    """What one check found; `remedy` is empty where all is well."""

    check: str
    state: str
    said: str
    remedy: str = ""

    def __str__(self) -> str:
        return f"{self.state:8} {self.check}: {self.said}" + (f" {self.remedy}" if self.remedy else "")


def examine(folder: Path, backups: Path | None = None) -> list[Finding]:
    """Run every check, in order; one that fails itself is a problem.

    Args:
        backups: where backups go, besides the folders that the study knows of.

    Raises:
        NotFoundError: there is no study in the folder.
    """
    study = Study(Path(folder).resolve())
    if not study.science.path.exists():
        raise NotFoundError(f"No study in {study.folder}. Name its folder with --study.")
    folders = [*known_folders(study), *([backups.resolve()] if backups else [])]
    return [found for check in CHECKS for found in _run(check, study, folders)]


Check = Callable[[Study, list[Path]], Iterator[Finding]]


def _run(check: Check, study: Study, folders: list[Path]) -> list[Finding]:
    try:
        return list(check(study, folders))
    except (AllinsamError, OSError, sqlite3.Error) as error:
        name = check.__name__.strip("_").replace("_", " ")
        return [Finding(name, PROBLEM, str(error))]


def _place(study: Study, folders: list[Path]) -> Iterator[Finding]:
    yield from place_findings("study's folder", study.folder, file_system_of(study.folder))


def place_findings(check: str, folder: Path, system: str) -> Iterator[Finding]:
    """Whether a folder, on a file system of this type, is a place for a database."""
    lower = [part.lower() for part in folder.parts]
    cloud = next((name for name in SYNCHRONISED if any(name in part for part in lower)), None)
    if system.startswith(NETWORK_SYSTEMS):
        yield Finding(
            check,
            PROBLEM,
            f"{folder} is on a network ({system}), where SQLite's locks do not hold.",
            "Move the study to a disk of this machine; backups may go to the network.",
        )
    elif cloud:
        yield Finding(
            check,
            PROBLEM,
            f"{folder} is synchronised ({cloud}): a half-copied database is a damaged one.",
            "Move the study out of it; backups may be synchronised.",
        )
    elif system.startswith("fuse"):
        yield Finding(
            check,
            WARNING,
            f"{folder} is on {system}, which may be a network.",
            "Move the study to a disk of this machine if it is.",
        )
    else:
        yield Finding(check, OK, f"on a local disk ({system or 'type unknown'}).")


def file_system_of(folder: Path, mounts: Path = Path("/proc/mounts")) -> str:
    """Type of the file system that a folder is on; empty where the machine does not tell."""
    try:
        lines = mounts.read_text("utf-8").splitlines()
    except OSError:
        return ""
    best, system = -1, ""
    for line in lines:
        fields = line.split(" ")
        point = Path(fields[1].encode().decode("unicode_escape"))
        # The last of several on one point is the one in sight.
        if folder.is_relative_to(point) and len(point.parts) >= best:
            best, system = len(point.parts), fields[2]
    return system


def _free_space(study: Study, folders: list[Path]) -> Iterator[Finding]:
    names = ("study.sqlite", "server.sqlite", "images", "labels", "runs")
    needed = sum(_bytes_of(study.folder / name) for name in names)
    for folder in [study.folder, *(folder for folder in folders[1:] if folder.is_dir())]:
        free = shutil.disk_usage(folder).free
        said = f"{free / 1e6:,.0f} MB in {folder}; a first backup needs {needed / 1e6:,.0f} MB."
        if free < KEPT_FREE_BYTES:
            yield Finding("free space", PROBLEM, said, "Make room: nothing can be saved on a full disk.")
        elif free < needed + KEPT_FREE_BYTES and not list_backups(folders[0]):
            yield Finding(
                "free space", WARNING, said, "Make room, or keep backups on another disk (--backups)."
            )
        else:
            yield Finding("free space", OK, said)


def _databases(study: Study, folders: list[Path]) -> Iterator[Finding]:
    for file in (study.science, study.server):
        name = file.path.name
        if not file.path.exists():
            yield Finding(
                name, PROBLEM, "is gone.", "Restore the study from a backup: python -m allinsam restore"
            )
            continue
        if damage := file.damage(quick=True):
            yield Finding(
                name, PROBLEM, damage[0], "Restore the study from a backup: python -m allinsam restore"
            )
            continue
        with file.read() as db:
            mode = db.execute("PRAGMA journal_mode").fetchone()[0]
        if mode == "wal":
            yield Finding(name, OK, "whole, with a write-ahead log.")
        else:
            yield Finding(
                name,
                PROBLEM,
                f"is written without a write-ahead log (mode {mode}).",
                "Move the study to a local disk: this file system does not know it.",
            )


def _sqlite_version(study: Study, folders: list[Path]) -> Iterator[Finding]:
    if sqlite3.sqlite_version_info >= OLDEST_SQLITE:
        yield Finding("SQLite", OK, f"{sqlite3.sqlite_version}.")
    else:
        oldest = ".".join(map(str, OLDEST_SQLITE))
        yield Finding(
            "SQLite", PROBLEM, f"{sqlite3.sqlite_version}.", f"Use a Python with {oldest} or newer."
        )


def _permissions(study: Study, folders: list[Path]) -> Iterator[Finding]:
    if os.name == "nt" or not study.server.path.exists():
        return
    mode = stat.S_IMODE(study.server.path.stat().st_mode)
    if mode & 0o077:
        yield Finding(
            "server.sqlite's rights",
            PROBLEM,
            f"others on this machine may read names and password hashes ({mode:04o}).",
            f"chmod 600 {study.server.path}",
        )
    else:
        yield Finding("server.sqlite's rights", OK, f"{mode:04o}.")


def _newest_backup(study: Study, folders: list[Path]) -> Iterator[Finding]:
    if failure := last_failure(study):
        yield Finding("last backup", PROBLEM, f"failed on {failure['at'][:16]}: {failure['why']}")
    found = [backup for folder in folders for backup in list_backups(folder) if backup.whole]
    if not found:
        with study.science.read() as db:
            simulated = study_store.get_study(db)["simulated"]
        yield Finding(
            "backups",
            WARNING if simulated else PROBLEM,
            "there is none.",
            f"python -m allinsam backup --study {study.folder}; the app makes them too (--backup-minutes).",
        )
        return
    newest = max(found, key=lambda backup: backup.time)
    days = (datetime.now(UTC) - newest.time).total_seconds() / 86_400
    changed = datetime.fromtimestamp(_changed_at(study.science.path), UTC)
    said = f"{len(found)}; the newest is {newest.folder}, {days:.1f} days old."
    if days > BACKUP_STALE_DAYS and changed > newest.time:
        yield Finding("backups", WARNING, said, f"python -m allinsam backup --study {study.folder}")
    else:
        yield Finding("backups", OK, said)
    disks = {folder.stat().st_dev for folder in (backup.folder for backup in found)}
    if disks == {study.folder.stat().st_dev}:
        yield Finding(
            "backups' disk",
            WARNING,
            "all backups are on the study's own disk, and are lost with it.",
            "Keep some on another: python -m webapp --backups FOLDER, or backup --to FOLDER.",
        )
    else:
        yield Finding("backups' disk", OK, "some are on another disk than the study.")


def _jobs(study: Study, folders: list[Path]) -> Iterator[Finding]:
    with study.server.read() as db:
        running = jobs.running_jobs(db)
    now = datetime.now(UTC)
    for job in running:
        beat = job["heartbeat_at"]
        age_s = (now - datetime.fromisoformat(beat)).total_seconds() if beat else float("inf")
        if age_s > LOST_AFTER_S:
            yield Finding(
                "jobs",
                WARNING,
                f"job {job['id']} ({job['verb']}) says that it runs, and was last heard of at {beat}.",
                "Start the app: it ends the job, which can then be resumed.",
            )
            return
    yield Finding("jobs", OK, f"{len(running)} running.")


def _torch(study: Study, folders: list[Path]) -> Iterator[Finding]:
    check, remedy = "torch and torchvision", "python -m pip install -r requirements.txt"
    try:
        import torch

        from allinsam.sam.torchvision_shim import ensure_torchvision

        kind = ensure_torchvision()
        import torchvision
    except (ImportError, RuntimeError, OSError) as error:
        first = (str(error).splitlines() or [type(error).__name__])[0]
        yield Finding(check, PROBLEM, f"cannot be imported: {first}.", f"Install the pair again: {remedy}")
        return
    both = f"{torch.__version__} and {torchvision.__version__}"
    if kind == "native":
        yield Finding(check, OK, f"{both}.")
    else:
        said = f"{both} are of different builds; the program does without torchvision's compiled part."
        yield Finding(check, WARNING, said, f"For the pair: {remedy}")


def _weights(study: Study, folders: list[Path]) -> Iterator[Finding]:
    from allinsam.sam.backbones import BACKBONES, weights_path
    from allinsam.sam.download import sha256_of_file

    with study.science.read() as db:
        row = study_store.get_study(db)
    name = row["backbone"]
    path = weights_path(name) if name in BACKBONES else Path(name)
    if not path.is_file():
        remedy = "It comes with the program: restore it, or install allinsam again."
        if name in BACKBONES and BACKBONES[name].weights_url:
            remedy = f"python -m allinsam weights --backbone {name}"
        yield Finding("weights", PROBLEM, f"{path} of the study's SAM ({name}) is not there.", remedy)
        return
    digest = sha256_of_file(path)
    if digest == row["backbone_sha256"]:
        yield Finding("weights", OK, f"{name}, {digest[:12]}.")
    else:
        yield Finding(
            "weights",
            PROBLEM,
            f"{path} is {digest[:12]}, and the study's masks were made by {row['backbone_sha256'][:12]}.",
            "Put the file back that the study was begun with.",
        )


def _browser(study: Study, folders: list[Path]) -> Iterator[Finding]:
    yield Finding("Chromium", OK, "not needed to run the app; only its browser tests use one.")


# TABLE: in the order in which they are shown.
CHECKS: tuple[Check, ...] = (
    _place,
    _free_space,
    _databases,
    _sqlite_version,
    _permissions,
    _newest_backup,
    _jobs,
    _torch,
    _weights,
    _browser,
)


def _bytes_of(path: Path) -> int:
    if path.is_file():
        return path.stat().st_size
    return sum(one.stat().st_size for one in path.rglob("*") if one.is_file())


def _changed_at(database: Path) -> float:
    """When a database was last written: what is new stands in its log first."""
    log = database.with_name(f"{database.name}-wal")
    return max(path.stat().st_mtime for path in (database, log) if path.exists())
