"""A study back from a backup: checked first, made beside its place, and there in full or not at all."""

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from allinsam.errors import InputError, StorageError
from allinsam.store import FOLDERS, Study, jobs, runs
from allinsam.store import accounts as account_store
from allinsam.store import study as study_store
from allinsam.store.backups import (
    DATABASES,
    WITHDRAWALS,
    Backup,
    backups_folder,
    file_problems,
    later_withdrawals,
    list_backups,
    newest_good,
    read_manifest,
    sha256_of,
)
from allinsam.workflow.checking import verify
from allinsam.workflow.withdrawing import apply_withdrawal

UNDER_WAY = ".restoring-"


def restore(backup_folder: Path, target: Path, accept_damage: bool = False) -> dict[str, Any]:
    """Make a study in `target`, a folder that is empty or not there, of a backup; the backup stays as it is.

    A file that the backup lacks, or that is damaged in it, is taken from a backup beside it or from the study
    it lies in, if one of them has it with the right hash. Everybody has to sign in again, links that were not
    used have ended, work that waited or ran is marked as interrupted, and whoever withdrew after the backup
    was made is withdrawn again.

    Args:
        accept_damage: restore although some pictures, labels or runs are nowhere to be had.

    Raises:
        StorageError: the backup is damaged beyond that, or there is no room; `target` is as it was.
        InputError: `target` holds something.
    """
    target = Path(target).resolve()
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise InputError(f"{target} is not empty. Name a new folder to restore into.")
    backup = read_manifest(Path(backup_folder).resolve())
    _demand_databases(backup)
    bad = {problem.split(": ")[0] for problem in file_problems(backup)}
    sources = {file.path: backup.folder / file.path for file in backup.files if file.path not in bad}
    needed = dict(backup.elsewhere) | {file.path: file.sha256 for file in backup.files if file.path in bad}
    found = _found_elsewhere(backup, needed)
    missing = sorted(set(needed) - set(found))
    if missing and not accept_damage:
        raise StorageError(
            f"{len(missing)} files of {backup.folder} are damaged or missing, and no other backup beside it "
            f"has them; the first: {missing[0]}. Choose another backup, or restore all the rest with "
            "--accept-damage."
        )
    sources |= found
    if not backup.whole:
        sources |= _run_files(backup)
    _demand_room(target, sources.values())
    target.parent.mkdir(parents=True, exist_ok=True)
    making = Path(tempfile.mkdtemp(dir=target.parent, prefix=UNDER_WAY))
    try:
        expected = {file.path: file.sha256 for file in backup.files} | needed
        for path, source in sources.items():
            _copy(source, making / path, expected.get(path))
        done = _make_ready(Study(making), backup)
        if target.exists():
            target.rmdir()
        os.rename(making, target)
    except OSError as error:
        raise StorageError(
            f"{target} could not be restored: {error.strerror or error}. Make room, or name another folder."
        ) from error
    finally:
        shutil.rmtree(making, ignore_errors=True)
    checked = verify(Study(target))
    return {
        "study": str(target),
        "backup": str(backup.folder),
        "made_at": backup.made_at,
        "files": len(sources),
        "from_elsewhere": sorted(found),
        "missing": missing,
        **done,
        **checked,
    }


def withdraw_again(study: Study, rows: Iterable[Mapping[str, Any]]) -> list[str]:
    """The one place where withdrawals that a backup does not know are carried out again; whose they were.

    Each row has person_id, kind, reason, by_person_id and at. Who was not there yet is passed over.
    """
    with study.science.read() as db:
        known = {person["id"] for person in study_store.list_people(db)}
    done = []
    for row in rows:
        if row["person_id"] in known:
            by = row["by_person_id"] if row["by_person_id"] in known else None
            apply_withdrawal(study, row["person_id"], row["kind"], by, row["reason"], row["at"])
            done.append(row["person_id"])
    return done


def _make_ready(study: Study, backup: Backup) -> dict[str, Any]:
    """What was true only of the server that the backup was made of is ended."""
    os.chmod(study.server.path, 0o600)
    for sub in FOLDERS:
        (study.folder / sub).mkdir(exist_ok=True)
    study.science.create_or_migrate()
    study.server.create_or_migrate()
    with study.server.write() as db:
        account_store.end_all_sign_ins(db)
        jobs.interrupt_all(db)
    with study.science.write() as db:
        for run in runs.list_runs(db):
            if run["state"] == "running":
                runs.update_run(db, run["id"], state="cancelled")
    told = backup.folder.parent / WITHDRAWALS
    if told.exists():
        backups_folder(study).mkdir(mode=0o700, exist_ok=True)
        shutil.copyfile(told, backups_folder(study) / WITHDRAWALS)
    again = withdraw_again(study, later_withdrawals(backup))
    for file in (study.science, study.server):
        file.close_log()
    return {"withdrawn_again": again}


def _demand_databases(backup: Backup) -> None:
    bad = file_problems(backup, databases_only=True)
    held = {file.path for file in backup.files}
    bad += [f"{name}: is not in the backup." for name in DATABASES if name not in held]
    if bad:
        other = newest_good([backup.folder.parent])
        remedy = f"The newest whole one is {other.folder}." if other else "No other one beside it is whole."
        raise StorageError(f"{backup.folder} cannot be restored: {bad[0]} {remedy}")


def _found_elsewhere(backup: Backup, needed: Mapping[str, str]) -> dict[str, Path]:
    """Path -> a file with the right hash, of another backup or of the study that the backups lie in."""
    found = {}
    if not needed:
        return found
    for folder in _beside(backup):
        for path, sha256 in needed.items():
            if path not in found and (folder / path).is_file() and sha256_of(folder / path) == sha256:
                found[path] = folder / path
    return found


def _run_files(backup: Backup) -> dict[str, Path]:
    """Of a copy of the databases alone: the folders of its finished runs, from wherever there is one."""
    with Study(backup.folder, frozen=True).science.read() as db:
        finished = [row["id"] for row in db["run"].rows_where("state = 'finished'")]
    found = {}
    for run_id in finished:
        for folder in _beside(backup):
            run = folder / "runs" / str(run_id)
            if run.is_dir():
                files = [path for path in run.rglob("*") if path.is_file() and not path.name.startswith(".")]
                found |= {path.relative_to(folder).as_posix(): path for path in files}
                break
    return found


def _beside(backup: Backup) -> list[Path]:
    """The study's folder that the backup lies in, where it does, and the other backups, the newest first."""
    others = [one.folder for one in list_backups(backup.folder.parent) if one.folder != backup.folder]
    around = backup.folder.parent.parent
    return [*([around] if (around / "images").is_dir() else []), *others]


def _demand_room(target: Path, sources: Iterable[Path]) -> None:
    parent = next(path for path in target.parents if path.exists())
    needed, free = sum(path.stat().st_size for path in sources), shutil.disk_usage(parent).free
    if free < needed:
        raise StorageError(
            f"Restoring needs {needed / 1e6:,.0f} MB in {parent}, where {free / 1e6:,.0f} MB are free. Make "
            "room, or name a folder on another disk."
        )


def _copy(source: Path, target: Path, sha256: str | None) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256()
    with open(source, "rb") as read, open(target, "xb") as file:
        while chunk := read.read(1 << 20):
            digest.update(chunk)
            file.write(chunk)
        file.flush()
        os.fsync(file.fileno())
    if sha256 not in (None, digest.hexdigest()):
        raise StorageError(f"{source} changed while it was read. Look at that disk's health, and try again.")
