"""Files that somebody sent to be imported: each in a folder of its own in the study, for a short while."""

import re
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from allinsam.errors import InputError, NotFoundError
from allinsam.importing import ImportLimits
from allinsam.store import Study, jobs

FOLDER = "uploads"
KEY = re.compile(r"[0-9a-f]{32}")
KEPT_S = 2 * 3600.0
# What a ZIP was unpacked to and a killed process could not remove; none is in use for so long.
UNPACKED = ".unpacked-"
UNPACKED_KEPT_S = 24 * 3600.0
LONGEST_NAME = 100
# A full disk would stop everybody who annotates: so much stays free, and so many files wait at most.
KEPT_FREE_BYTES = ImportLimits().kept_free_mb * 1_000_000
MOST_WAITING = 40


def new_upload(study: Study, name: str) -> tuple[str, Path]:
    """A key that nobody can guess, and where the file's bytes go.

    Args:
        name: the file's own; of it, what makes a plain file name is kept.
    """
    drop_old(study)
    waiting = sum(1 for _ in (study.folder / FOLDER).glob("*"))
    if waiting >= MOST_WAITING:
        raise InputError(
            f"{waiting} files that were sent wait to be imported. Import them, or try again in "
            f"{KEPT_S / 3600:g} hours, when they are gone."
        )
    demand_room(study)
    plain = re.sub(r"[^A-Za-z0-9._-]+", "_", re.split(r"[\\/]", name)[-1]).strip("._")[-LONGEST_NAME:]
    if not plain:
        raise InputError(f"{name[:40]!r} is no file name. Rename the file.")
    key = secrets.token_hex(16)
    folder = study.folder / FOLDER / key
    folder.mkdir(parents=True, mode=0o700)
    return key, folder / plain


def demand_room(study: Study, coming_bytes: int = 0) -> None:
    """Raise InputError where the disk would have too little room left for what is coming."""
    free = shutil.disk_usage(study.folder).free
    if free < coming_bytes + KEPT_FREE_BYTES:
        raise InputError(
            f"The server's disk has {free / 1e6:,.0f} MB left, too little for this file: "
            f"{KEPT_FREE_BYTES / 1e6:,.0f} MB are kept free for those who annotate. Make room there."
        )


def uploaded(study: Study, key: str) -> Path:
    """The file that was sent under a key."""
    if not KEY.fullmatch(key):
        raise InputError(f"{key[:40]!r} is no upload. Choose the file again.")
    folder = study.folder / FOLDER / key
    found = list(folder.iterdir()) if folder.is_dir() else []
    if len(found) != 1:
        raise NotFoundError("This file has been used or removed. Choose it again.")
    return found[0]


def drop_upload(study: Study, key: str) -> None:
    if KEY.fullmatch(key):
        shutil.rmtree(study.folder / FOLDER / key, ignore_errors=True)


def drop_old(study: Study, older_than_s: float = KEPT_S) -> None:
    """Remove uploads that nobody imported, so that images of patients do not lie about."""
    with study.server.read() as db:
        waiting = [row["arguments"] for row in jobs.list_jobs(db) if row["state"] in ("queued", "running")]
    wanted = {Path(str(arguments.get("from_job", ""))).parent.name for arguments in waiting}
    for folder in (study.folder / FOLDER).glob("*"):
        if KEY.fullmatch(folder.name) and folder.name not in wanted and _age_s(folder) > older_than_s:
            shutil.rmtree(folder, ignore_errors=True)
    for folder in study.folder.glob(f"{UNPACKED}*"):
        if _age_s(folder) > UNPACKED_KEPT_S:
            shutil.rmtree(folder, ignore_errors=True)


def _age_s(folder: Path) -> float:
    try:
        return time.time() - folder.stat().st_mtime
    except FileNotFoundError:  # somebody else has just removed it
        return 0.0


@contextmanager
def used_up(study_folder: Path, source: Path) -> Iterator[None]:
    """Remove the source after its import, however that ended, if it was sent as an upload."""
    try:
        yield
    finally:
        folder = Path(source).resolve().parent
        if folder.parent == Path(study_folder).resolve() / FOLDER and KEY.fullmatch(folder.name):
            shutil.rmtree(folder, ignore_errors=True)
