"""Who annotates which patch, for which classes, and how far they are."""

import json
from collections.abc import Iterable
from typing import Any

from sqlite_utils import Database

from allinsam.errors import NotFoundError
from allinsam.records import LEARNING_PURPOSES
from allinsam.store.connection import utc_now

ASSIGNMENT_QUERY = """
SELECT a.*, p.name AS patch, p.slide_id, p.condition, p.image_sha256, s.name AS slide,
       i.height_px, i.width_px, n.grp AS "group", n.simulated
FROM assignment a JOIN patch p ON p.id = a.patch_id JOIN slide s ON s.id = p.slide_id
JOIN image i ON i.sha256 = p.image_sha256 JOIN person n ON n.id = a.person_id
"""


def add_assignment(
    db: Database,
    person_id: str,
    patch_id: int,
    class_ids: Iterable[int],
    purpose: str = "production",
    guidance: str = "threshold",
    tool: str = "box_sam",
    plan_id: int | None = None,
) -> int:
    """Put a patch at the end of a person's queue, asking for these classes. `plan_id`: the plan behind it."""
    position = (
        1
        + db.execute(
            "SELECT ifnull(max(position), 0) FROM assignment WHERE person_id = ?", [person_id]
        ).fetchone()[0]
    )
    row = {
        "id": _new_id(db),
        "person_id": person_id,
        "patch_id": patch_id,
        "purpose": purpose,
        "guidance": guidance,
        "tool": tool,
        "position": position,
        "state": "waiting",
        "created_at": utc_now(),
        "plan_id": plan_id,
    }
    assignment_id = int(db["assignment"].insert(row).last_pk)
    db["assignment_class"].insert_all(
        {"assignment_id": assignment_id, "class_id": class_id, "state": "open"} for class_id in class_ids
    )
    return assignment_id


def put_learning_first(db: Database, person_id: str) -> None:
    """Among a person's patches that wait, practice comes first, then qualification, then work."""
    waiting = [row for row in list_assignments(db, person_id) if row["state"] == "waiting"]
    turn = {purpose: place for place, purpose in enumerate(LEARNING_PURPOSES)}
    ordered = sorted(waiting, key=lambda row: turn.get(row["purpose"], len(turn)))
    for row, position in zip(ordered, [row["position"] for row in waiting], strict=True):
        if row["position"] != position:
            db["assignment"].update(row["id"], {"position": position})


def _new_id(db: Database) -> int:
    """An id that no assignment has or had: one that was withdrawn may still be open in a browser."""
    query = """SELECT 1 + max((SELECT ifnull(max(id), 0) FROM assignment),
        (SELECT ifnull(max(id), 0) FROM withdrawn_assignment),
        (SELECT ifnull(max(j.value), 0) FROM withdrawal w, json_each(w.assignments) j))"""
    return int(db.execute(query).fetchone()[0])


def get_assignment(db: Database, assignment_id: int) -> dict[str, Any]:
    """The assignment with its patch, slide, size in px and the person's group."""
    for row in db.query(f"{ASSIGNMENT_QUERY} WHERE a.id = :id", {"id": assignment_id}):
        return row
    raise NotFoundError(f"No assignment {assignment_id!r} in this study.")


def list_assignments(db: Database, person_id: str | None = None) -> list[dict[str, Any]]:
    """Assignments in queue order, of one person or of everyone."""
    where = "WHERE a.person_id = :person" if person_id is not None else ""
    return list(
        db.query(f"{ASSIGNMENT_QUERY} {where} ORDER BY a.person_id, a.position", {"person": person_id})
    )


def patch_assignments(db: Database, patch_id: int) -> list[dict[str, Any]]:
    """Who works on a patch, under which guidance."""
    return list(
        db.query(
            "SELECT id, person_id, purpose, guidance, tool, state FROM assignment WHERE patch_id = ?",
            [patch_id],
        )
    )


def assignment_classes(db: Database, assignment_id: int) -> dict[int, str]:
    """Class id -> open, complete, nothing_here, unsure or skipped."""
    rows = db["assignment_class"].rows_where("assignment_id = ?", [assignment_id], order_by="class_id")
    return {row["class_id"]: row["state"] for row in rows}


def all_assignment_classes(db: Database, where: str = "1", **values: Any) -> list[dict[str, Any]]:
    """One row per (assignment, class) of the whole study, with person, group, patch and class name."""
    return list(
        db.query(
            f"""SELECT ac.assignment_id, ac.class_id, ac.state, c.name AS class_name, a.person_id,
                n.grp AS "group", a.patch_id, a.purpose, a.guidance, a.tool, a.state AS assignment_state
            FROM assignment_class ac JOIN assignment a ON a.id = ac.assignment_id
            JOIN cell_class c ON c.id = ac.class_id JOIN person n ON n.id = a.person_id
            WHERE {where} ORDER BY ac.assignment_id, ac.class_id""",
            values,
        )
    )


def last_assignment(db: Database) -> tuple[int, int]:
    """Numbers that differ whenever assignments have been given or taken back."""
    row = db.execute("SELECT ifnull(max(id), 0), count(*) FROM assignment").fetchone()
    return int(row[0]), int(row[1])


def finished_classes(db: Database, patch_ids: Iterable[int] | None = None) -> list[dict[str, Any]]:
    """The rows of `all_assignment_classes` that may teach and be scored: handed in, and complete or empty;
    of the study or of some patches.
    """
    finished = "a.state = 'submitted' AND ac.state IN ('complete', 'nothing_here')"
    if patch_ids is None:
        return all_assignment_classes(db, finished)
    of_patches = "a.patch_id IN (SELECT value FROM json_each(:patches))"
    return all_assignment_classes(
        db, f"{finished} AND {of_patches}", patches=json.dumps(sorted(set(patch_ids)))
    )


def finished_work(db: Database, patch_id: int | None = None) -> list[dict[str, Any]]:
    """One row for each assignment handed in of which a class is complete or empty, with those classes' ids,
    and how many annotation rows it has and the newest of them; of the study or of a patch.
    """
    of_patch = "patch_id = :patch" if patch_id is not None else "1"
    query = f"""WITH kept AS (
            SELECT assignment_id, count(*) AS n_rows, max(id) AS newest FROM annotation
            WHERE assignment_id IN (SELECT id FROM assignment WHERE {of_patch}) GROUP BY assignment_id
        )
        SELECT a.id, a.person_id, a.patch_id, a.purpose, a.guidance, a.position, a.submitted_at,
            n.grp AS "group", json_group_array(ac.class_id) AS class_ids,
            ifnull(k.n_rows, 0) AS n_rows, ifnull(k.newest, 0) AS newest
        FROM assignment a JOIN assignment_class ac ON ac.assignment_id = a.id
        JOIN person n ON n.id = a.person_id LEFT JOIN kept k ON k.assignment_id = a.id
        WHERE a.state = 'submitted' AND ac.state IN ('complete', 'nothing_here') AND {of_patch}
        GROUP BY a.id ORDER BY a.id"""
    rows = db.query(query, {"patch": patch_id})
    return [{**row, "class_ids": sorted(json.loads(row["class_ids"]))} for row in rows]


def ask_for_classes(db: Database, assignment_id: int, class_ids: Iterable[int]) -> None:
    """Ask for these classes, too, where the assignment does not yet."""
    asked = assignment_classes(db, assignment_id)
    db["assignment_class"].insert_all(
        {"assignment_id": assignment_id, "class_id": class_id, "state": "open"}
        for class_id in class_ids
        if class_id not in asked
    )


def set_progress(
    db: Database, assignment_id: int, state: str, class_states: dict[int, str], submitted_at: str | None
) -> None:
    """Bring the assignment's rows in line with what its acts add up to."""
    db["assignment"].update(assignment_id, {"state": state, "submitted_at": submitted_at})
    for class_id in assignment_classes(db, assignment_id):
        db["assignment_class"].update(
            (assignment_id, class_id), {"state": class_states.get(class_id, "open")}
        )
