"""How much room a study takes, how much there is, and who works in it now. Reads only."""

import shutil
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from allinsam.store import FOLDERS, Study
from allinsam.store.acts import people_since
from allinsam.store.backups import known_folders, list_backups
from allinsam.store.connection import stamp

AT_WORK_MINUTES = 15
TITLES = {
    "study.sqlite": "Acts, annotations and scores",
    "server.sqlite": "Accounts, jobs and the log of who saw what",
    "images": "Images",
    "embeddings": "Embeddings (made again when they are missing)",
    "labels": "Label sets",
    "runs": "Trained runs",
    "exports": "Exports",
    "jobs": "What jobs said",
    "logs": "What the server said",
    "backups": "Backups in the study's own folder",
}


@dataclass(frozen=True)
class Room:
    """Bytes of one part of a study; a database with its write-ahead log."""

    name: str
    title: str
    bytes: int


def room_taken(study: Study) -> list[Room]:
    """What lies in the study's folder, part by part, those that are empty left out."""
    parts = []
    for file in (study.science, study.server):
        log = file.path.with_name(f"{file.path.name}-wal")
        name = file.path.name
        parts.append(Room(name, TITLES[name], _bytes_of(file.path) + _bytes_of(log)))
    for name in (*FOLDERS, "jobs", "logs", "backups"):
        parts.append(Room(name, TITLES[name], _bytes_of(study.folder / name)))
    return [part for part in parts if part.bytes]


def free_bytes(study: Study) -> int:
    return shutil.disk_usage(study.folder).free


def people_at_work(study: Study, now: datetime | None = None) -> list[str]:
    """Pseudonyms of who did something in the last 15 minutes."""
    since = (now or datetime.now(UTC)) - timedelta(minutes=AT_WORK_MINUTES)
    with study.science.read() as db:
        return people_since(db, stamp(since))


def newest_backup_at(study: Study) -> datetime | None:
    """When the newest whole backup was made, of those in the folders that the study knows."""
    times = [b.time for folder in known_folders(study) for b in list_backups(folder) if b.whole]
    return max(times, default=None)


def _bytes_of(path: Path) -> int:
    """Files that go while this counts are left out."""
    total, waiting = 0, [path]
    while waiting:
        one = waiting.pop()
        try:
            if one.is_dir():
                waiting += one.iterdir()
            else:
                total += one.stat().st_size
        except OSError:
            continue
    return total
