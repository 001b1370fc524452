"""Plans that were given out, and assignments that were taken back before anybody began them."""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sqlite_utils import Database

from allinsam.store.connection import utc_now

NOT_BEGUN = """state = 'waiting'
    AND NOT EXISTS (SELECT 1 FROM act WHERE act.assignment_id = assignment.id)
    AND NOT EXISTS (SELECT 1 FROM suggestion_set s WHERE s.assignment_id = assignment.id)"""


def add_plan(
    db: Database,
    settings: Mapping[str, Any],
    people: Sequence[str],
    gaps: Sequence[str],
    person_id: str | None,
) -> int:
    """Keep a plan's settings and seed, for whom it was, and the gaps that were accepted."""
    row = {
        "settings": json.dumps(settings, sort_keys=True),
        "seed": settings["seed"],
        "people": json.dumps(list(people)),
        "gaps": json.dumps(list(gaps)),
        "person_id": person_id,
        "created_at": utc_now(),
    }
    return int(db["plan"].insert(row).last_pk)


def list_plans(db: Database) -> list[dict[str, Any]]:
    """Every plan with its settings, people and gaps as plain data, oldest first."""
    return [
        {**row, **{key: json.loads(row[key]) for key in ("settings", "people", "gaps")}}
        for row in db["plan"].rows_where(order_by="id")
    ]


def not_begun(db: Database) -> list[int]:
    """Assignments from plans that wait and have no act, in queue order of each person."""
    rows = db["assignment"].rows_where(f"plan_id IS NOT NULL AND {NOT_BEGUN}", order_by="person_id, position")
    return [row["id"] for row in rows]


def list_withdrawn(db: Database) -> list[dict[str, Any]]:
    """Assignments that were taken back before anybody began them."""
    return list(db["withdrawn_assignment"].rows_where(order_by="id"))


def withdraw_assignments(db: Database, assignment_ids: Iterable[int], by: str | None) -> int:
    """Take assignments back that nobody has begun; what they were is kept. Returns how many."""
    taken = 0
    kept = ("id", "person_id", "patch_id", "purpose", "guidance", "tool", "position", "plan_id")
    for assignment_id in assignment_ids:
        for row in db["assignment"].rows_where(f"id = ? AND {NOT_BEGUN}", [assignment_id]):
            log = {"withdrawn_by": by, "withdrawn_at": utc_now()}
            db["withdrawn_assignment"].insert({key: row[key] for key in kept} | log)
            db["assignment_class"].delete_where("assignment_id = ?", [assignment_id])
            db["assignment"].delete(assignment_id)
            taken += 1
    return taken
