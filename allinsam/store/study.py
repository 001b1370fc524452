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
        note_change(db, name, str(old[name]), str(stored), person_id)


def note_change(db: Database, field: str, old: str | None, new: str | None, person_id: str | None) -> None:
    """Keep that something of the study was changed, by whom and when."""
    values = {"field": field, "old_value": old, "new_value": new}
    db["study_change"].insert({**values, "person_id": person_id, "changed_at": utc_now()})


def has_changed(db: Database, field: str) -> bool:
    """Whether a field of the study was ever changed."""
    return db["study_change"].count_where("field = ?", [field]) > 0


def plan_changes(db: Database, key: str) -> list[dict[str, Any]]:
    """changed_at and person_id of every change of one entry of the plan, the oldest first."""
    rows = db["study_change"].rows_where("field = 'plan'", order_by="id")
    return [
        {"changed_at": row["changed_at"], "person_id": row["person_id"]}
        for row in rows
        if json.loads(row["old_value"]).get(key) != json.loads(row["new_value"]).get(key)
    ]


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


def change_class(db: Database, class_id: int, person_id: str | None, **fields: Any) -> None:
    """Change fields of a class; each change is kept as a dated row."""
    old = dict(db["cell_class"].get(class_id))
    for name, value in fields.items():
        if value != old[name]:
            db["cell_class"].update(class_id, {name: value})
            note_change(db, f"class {class_id} {name}", str(old[name]), str(value), person_id)


def names_of_classes(db: Database) -> dict[str, str]:
    """Every name a class has or had, the oldest of each class first -> its name now."""
    was = """SELECT x.old_value AS was, c.name AS now FROM study_change x
        JOIN cell_class c ON x.field = 'class ' || c.id || ' name' ORDER BY x.id"""
    return {row["was"]: row["now"] for row in db.query(was)} | {
        row["name"]: row["name"] for row in list_classes(db)
    }


def classes_in_use(db: Database) -> set[int]:
    """Classes that some assignment asks for."""
    return {row[0] for row in db.execute("SELECT DISTINCT class_id FROM assignment_class").fetchall()}
