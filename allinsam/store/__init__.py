"""The only place with SQL: one folder is one study, with its two databases and its files."""

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from allinsam.errors import InputError, NotFoundError
from allinsam.store import backups, server_schema, study_schema
from allinsam.store.connection import DatabaseFile, utc_now

SHA256 = re.compile(r"[0-9a-f]{64}")
FOLDERS = ("images", "embeddings", "labels", "runs", "exports")


@dataclass(frozen=True)
class Study:
    """A study's folder. `science` can be handed over; `server` holds names and secrets and cannot.

    frozen: the folder is a backup, which is only read.
    """

    folder: Path
    frozen: bool = False

    @property
    def science(self) -> DatabaseFile:
        return DatabaseFile(self.folder / "study.sqlite", study_schema.migrations, self.frozen)

    @property
    def server(self) -> DatabaseFile:
        return DatabaseFile(self.folder / "server.sqlite", server_schema.migrations, self.frozen)

    def image_path(self, sha256: str) -> Path:
        if not SHA256.fullmatch(sha256):
            raise InputError(f"{sha256!r} is not the sha256 of an image.")
        return self.folder / "images" / sha256[:2] / f"{sha256}.png"

    def run_folder(self, run_id: int) -> Path:
        return self.folder / "runs" / str(int(run_id))

    def labels_path(self, sha256: str) -> Path:
        return self.folder / "labels" / f"{sha256}.jsonl"

    @property
    def embeddings_folder(self) -> Path:
        return self.folder / "embeddings"


def create_study(
    folder: Path, name: str, backbone: str, backbone_sha256: str, simulated: bool = False
) -> Study:
    """Make an empty study with its two databases; refuse a folder that already holds one."""
    study = Study(Path(folder).resolve())
    if study.science.path.exists():
        raise InputError(f"{study.folder} already holds a study. Choose another folder or open it.")
    for sub in FOLDERS:
        (study.folder / sub).mkdir(parents=True, exist_ok=True)
    study.science.create_or_migrate()
    study.server.create_or_migrate()
    os.chmod(study.server.path, 0o600)
    with study.science.write() as db:
        db["study"].insert(
            {
                "id": 1,
                "name": name,
                "simulated": int(simulated),
                "plan": json.dumps(DEFAULT_PLAN),
                "backbone": backbone,
                "backbone_sha256": backbone_sha256,
                "created_at": utc_now(),
            }
        )
    return study


# The analysis plan a study starts with; every change is a dated row of study_change.
DEFAULT_PLAN: dict[str, Any] = {
    "metric": "f1_instance",
    "equivalence_margin": 0.05,
    "idle_cutoff_s": 60,
    "exclusions": [],
}


def open_study(folder: Path) -> Study:
    """Open a study and bring its schema up to date, after a copy of its databases as they were."""
    study = Study(Path(folder).resolve())
    if not study.science.path.exists() and study.server.path.exists():
        raise NotFoundError(
            f"{study.science.path} is gone, and the rest of the study is there. Put it back, or restore the "
            "study from a backup: python -m allinsam restore"
        )
    if not study.science.path.exists():
        raise NotFoundError(
            f"No study in {study.folder}. Make one with `python -m allinsam demo --study {folder}` "
            "or `python -m allinsam import`."
        )
    for sub in FOLDERS:
        (study.folder / sub).mkdir(exist_ok=True)
    if study.server.path.exists() and (steps := study.server.pending_steps() + study.science.pending_steps()):
        backups.make_backup(study, why=f"{backups.BEFORE}{steps[-1]}", databases_only=True)
    study.science.create_or_migrate()
    study.server.create_or_migrate()
    return study
