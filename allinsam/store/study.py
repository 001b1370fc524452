"""The study row, its people and its cell classes."""

import json
from typing import Any

from sqlite_utils import Database

from allinsam.errors import NotFoundError
from allinsam.store.connection import utc_now


def get_study(db: Database) -> dict[str, Any]:
    row = dict(db["study"].get(1))
    return {**row, "plan": json.loads(row["plan"])}


def change_study(db: Database, person_id: str | None, **fields: Any) -> None:
    """Change fields of the study; each change is kept as a dated row."""
    old = dict(db["study"].get(1))
    for name, value in fields.items():
        stored = json.dumps(value) if name == "plan" else value
        if stored == old[name]:
            continue
        db["study"].update(1, {name: stored})
        db["study_change"].insert(
            {
                "field": name,
                "old_value": str(old[name]),
                "new_value": str(stored),
                "person_id": person_id,
                "changed_at": utc_now(),
            }
        )


def has_changed(db: Database, field: str) -> bool:
    """Whether a field of the study was ever changed."""
    return db["study_change"].count_where("field = ?", [field]) > 0


def add_person(db: Database, person_id: str, group: str, simulated: bool = False) -> None:
    db["person"].insert({"id": person_id, "grp": group, "simulated": int(simulated), "created_at": utc_now()})


def list_people(db: Database) -> list[dict[str, Any]]:
    """id, group, simulated, withdrawn_at of everyone in the science."""
    return list(
        db.query('SELECT id, grp AS "group", simulated, created_at, withdrawn_at FROM person ORDER BY id')
    )


def get_person(db: Database, person_id: str) -> dict[str, Any]:
    for row in db.query(
        'SELECT id, grp AS "group", simulated, withdrawn_at FROM person WHERE id = ?', [person_id]
    ):
        return row
    raise NotFoundError(f"No person {person_id!r} in this study. See the People page for those there are.")


def add_class(db: Database, name: str, marker: str, colour: str, key: str) -> int:
    return int(
        db["cell_class"].insert({"name": name, "marker": marker, "colour": colour, "key": key}).last_pk
    )


def list_classes(db: Database) -> list[dict[str, Any]]:
    return list(db["cell_class"].rows_where(order_by="id"))
