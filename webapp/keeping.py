"""What `python -m webapp` does so that no work is lost: a check before it serves, and backups meanwhile."""

import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from allinsam.errors import StorageError
from allinsam.store import Study
from allinsam.store.backups import Backup, known_folders, newest_good

FIRST_BACKUP_S = 120.0  # after the start, which should not be slowed down


def check_before_serving(folder: Path, backups: Path | None) -> None:
    """Refuse a study whose databases are damaged, or whose accounts are gone though a backup has them.

    Raises:
        StorageError: it says what is damaged, and the command that restores the newest good backup.
    """
    study = Study(folder)
    if not study.science.path.exists() and not study.server.path.exists():
        return
    damage, good = [], None
    for file in (study.science, study.server):
        if file.path.exists():
            damage += file.damage(quick=True)
    if damage or not (study.science.path.exists() and study.server.path.exists()):
        good = newest_good([*known_folders(study), *([backups] if backups else [])])
    for file in (study.science, study.server):
        if good and not file.path.exists():
            damage.append(f"{file.path.name} is gone.")
    if damage:
        more = f" (and {len(damage) - 1} more)" if len(damage) > 1 else ""
        raise StorageError(
            f"The study in {folder} is damaged and is not served: {damage[0]}{more} {_way_back(folder, good)}"
        )


def _way_back(folder: Path, good: Backup | None) -> str:
    if good is None:
        return (
            "There is no good backup in the folders known here. Keep the folder as it is, and look for a "
            "backup of your own."
        )
    new = folder.with_name(f"{folder.name}-restored")
    return (
        f"The newest good backup is of {good.made_at}. Restore it with\n\n    "
        f"python -m allinsam restore {good.folder} --study {new}\n\nand start the app with --study {new}. "
        "Keep the damaged folder until you have seen that all is there."
    )


@dataclass
class Backups:
    """Every so many minutes a process of its own that makes a backup, if anything has changed."""

    study: Path
    folder: Path | None
    minutes: float
    start: Callable[[list[str]], subprocess.Popen[bytes]]
    process: subprocess.Popen[bytes] | None = None
    due_at: float = field(default_factory=lambda: time.monotonic() + FIRST_BACKUP_S)

    def look_after(self) -> None:
        """Begin a backup if one is due and none is under way."""
        if self.process is not None and self.process.poll() is not None:
            self.process = None
        if not self.minutes or self.process is not None or time.monotonic() < self.due_at:
            return
        self.due_at = time.monotonic() + 60 * self.minutes
        to = ["--to", str(self.folder)] if self.folder else []
        self.process = self.start([*COMMAND, "--study", str(self.study), *to])


# With --automatic it says nothing on success; what goes wrong stands on the server's standard error.
COMMAND = [sys.executable, "-m", "allinsam", "backup", "--automatic", "--quiet"]
