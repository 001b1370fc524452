"""Reviews of what several raters marked: versions, decisions and what they came to. Append-only."""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sqlite_utils import Database

from allinsam.records import Mask
from allinsam.store.acts import NEWEST
from allinsam.store.connection import utc_now

REVIEW_QUERY = """
SELECT r.*, f.finished_at, f.person_id AS finished_by, f.comment, f.work_sha256,
       g.assignment_id AS gold_assignment_id, g.review_id IS NOT NULL AS is_gold, t.name AS patch,
       t.condition, s.name AS slide
FROM review r LEFT JOIN review_finish f ON f.review_id = r.id LEFT JOIN review_gold g ON g.review_id = r.id
JOIN patch t ON t.id = r.patch_id JOIN slide s ON s.id = t.slide_id
"""
DECISION_QUERY = """
SELECT d.*, r.patch_id, r.version, u.id AS undone_by, c.name AS class_name
FROM review_decision d JOIN review r ON r.id = d.review_id
LEFT JOIN review_decision u ON u.undoes = d.id LEFT JOIN cell_class c ON c.id = d.class_id
"""
# The newest row of every object, of production work. What was proposed wrong on purpose and kept as it was is
# nobody's mark.
WORK = f"""
FROM annotation n JOIN assignment a ON a.id = n.assignment_id
WHERE n.state = 'accepted' AND a.purpose = 'production' AND {NEWEST}
AND NOT EXISTS (
    SELECT 1 FROM suggestion g WHERE g.assignment_id = n.assignment_id AND g.object_id = n.object_id
    AND g.planted IS NOT NULL AND g.mask_counts = n.mask_counts AND g.class_id = n.class_id)
"""
OF_ASSIGNMENTS = "AND n.assignment_id IN (SELECT value FROM json_each(:assignments))"


# --- What the raters did --------------------------------------------------------------------------


def work_ids(db: Database, assignment_ids: Iterable[int]) -> dict[tuple[int, int], list[int]]:
    """(assignment, class) -> ids of the annotations that stand there now, of production work."""
    found: dict[tuple[int, int], list[int]] = {}
    query = f"SELECT n.assignment_id, n.class_id, n.id {WORK} {OF_ASSIGNMENTS} ORDER BY n.id"
    chosen = {"assignments": json.dumps(list(assignment_ids))}
    for assignment_id, class_id, annotation_id in db.execute(query, chosen).fetchall():
        found.setdefault((assignment_id, class_id), []).append(annotation_id)
    return found


def work_on(db: Database, assignment_ids: Iterable[int]) -> list[dict[str, Any]]:
    """The annotations behind `work_ids`, with their masks."""
    query = f"""SELECT n.id, n.assignment_id, n.object_id, n.class_id, n.mask_height_px, n.mask_width_px,
        n.mask_counts {WORK} {OF_ASSIGNMENTS} ORDER BY n.id"""
    return list(db.query(query, {"assignments": json.dumps(list(assignment_ids))}))


def newest_suggestion(db: Database) -> int:
    """Another number whenever there are more suggestions: they can make a mark nobody's."""
    return int(db.execute("SELECT ifnull(max(id), 0) FROM suggestion").fetchone()[0])


# --- Reviews --------------------------------------------------------------------------------------


def add_review(db: Database, patch_id: int, version: int, reviewer_id: str) -> int:
    row = {"patch_id": patch_id, "version": version, "reviewer_id": reviewer_id, "created_at": utc_now()}
    return int(db["review"].insert(row).last_pk)


def list_reviews(db: Database, patch_id: int | None = None) -> list[dict[str, Any]]:
    """Every version with its end, if it has one, oldest first."""
    where = "WHERE r.patch_id = :patch" if patch_id is not None else ""
    return list(db.query(f"{REVIEW_QUERY} {where} ORDER BY r.patch_id, r.version", {"patch": patch_id}))


def newest_finished(db: Database) -> dict[int, dict[str, Any]]:
    """Patch -> its newest finished version."""
    return {row["patch_id"]: row for row in list_reviews(db) if row["finished_at"]}


def add_finish(db: Database, review_id: int, person_id: str, comment: str, work_sha256: str) -> None:
    row = {
        "review_id": review_id,
        "person_id": person_id,
        "comment": comment,
        "work_sha256": work_sha256,
        "finished_at": utc_now(),
    }
    db["review_finish"].insert(row)


def add_gold(db: Database, review_id: int, assignment_id: int, person_id: str) -> None:
    row = {"review_id": review_id, "assignment_id": assignment_id, "person_id": person_id}
    db["review_gold"].insert({**row, "marked_at": utc_now()})


def gold_makers(db: Database) -> dict[int, set[str]]:
    """Gold assignment of a review -> everybody whose work is in it: raters and reviewers."""
    query = """SELECT g.assignment_id, a.person_id FROM review_gold g
        JOIN review_source x ON x.review_id = g.review_id JOIN assignment a ON a.id = x.assignment_id
        UNION SELECT g.assignment_id, r.reviewer_id FROM review_gold g JOIN review r ON r.id = g.review_id
        UNION SELECT g.assignment_id, f.person_id FROM review_gold g
        JOIN review_finish f ON f.review_id = g.review_id
        UNION SELECT g.assignment_id, d.person_id FROM review_gold g JOIN review r ON r.id = g.review_id
        JOIN review e ON e.patch_id = r.patch_id JOIN review_decision d ON d.review_id = e.id"""
    makers: dict[int, set[str]] = {}
    for assignment_id, person_id in db.execute(query).fetchall():
        makers.setdefault(assignment_id, set()).add(person_id)
    return makers


def gold_review_of(db: Database, assignment_id: int) -> int | None:
    """The newest review whose gold an assignment is; None for any other."""
    query = "SELECT max(review_id) FROM review_gold WHERE assignment_id = ?"
    return db.execute(query, [assignment_id]).fetchone()[0]


# --- Decisions ------------------------------------------------------------------------------------


def add_decision(
    db: Database,
    review_id: int,
    cluster_id: str,
    kind: str,
    person_id: str,
    sources: Sequence[Sequence[Any]] = (),
    class_id: int | None = None,
    mask: Mask | None = None,
    comment: str = "",
    undoes: int | None = None,
    picked: int | None = None,
) -> int:
    """`sources`: [assignment, object, annotation] of every mark there; `picked`: the assignment of one."""
    row = {
        "review_id": review_id,
        "cluster_id": cluster_id,
        "kind": kind,
        "sources": json.dumps([list(source) for source in sources]),
        "picked_assignment_id": picked,
        "class_id": class_id,
        **_mask_columns(mask),
        "comment": comment,
        "undoes": undoes,
        "person_id": person_id,
        "decided_at": utc_now(),
    }
    return int(db["review_decision"].insert(row).last_pk)


def list_decisions(db: Database, patch_id: int | None = None) -> list[dict[str, Any]]:
    """Every decision with its version and the row that took it back, oldest first."""
    where = "WHERE r.patch_id = :patch" if patch_id is not None else ""
    rows = db.query(f"{DECISION_QUERY} {where} ORDER BY d.id", {"patch": patch_id})
    return [{**row, "sources": json.loads(row["sources"])} for row in rows]


def decided(db: Database, patch_id: int | None = None) -> dict[int, dict[str, dict[str, Any]]]:
    """Patch -> cluster -> the newest decision that stands."""
    found: dict[int, dict[str, dict[str, Any]]] = {}
    for row in list_decisions(db, patch_id):
        if row["kind"] != "undo" and row["undone_by"] is None:
            found.setdefault(row["patch_id"], {})[row["cluster_id"]] = row
    return found


# --- What a review came to ------------------------------------------------------------------------


def add_objects(db: Database, review_id: int, objects: Iterable[Mapping[str, Any]]) -> None:
    """Each with cluster_id, decision_id, sources, class_id and mask."""
    rows = [
        {
            **{key: thing[key] for key in ("cluster_id", "decision_id", "class_id")},
            "review_id": review_id,
            "sources": json.dumps([list(source) for source in thing["sources"]]),
            **_mask_columns(thing["mask"]),
        }
        for thing in objects
    ]
    db["review_object"].insert_all(rows)


def review_objects(db: Database, review_id: int | None = None) -> list[dict[str, Any]]:
    """The nuclei of a finished version, or of all, with the kind of decision behind each; None: unanimous."""
    where = "WHERE o.review_id = :review" if review_id is not None else ""
    query = f"""SELECT o.*, c.name AS class_name, d.kind, d.comment AS why FROM review_object o
        JOIN cell_class c ON c.id = o.class_id LEFT JOIN review_decision d ON d.id = o.decision_id
        {where} ORDER BY o.id"""
    rows = db.query(query, {"review": review_id})
    return [{**row, "sources": json.loads(row["sources"])} for row in rows]


def add_sources(db: Database, review_id: int, claims: Iterable[tuple[int, int]]) -> None:
    """(assignment, class): whose work was looked at, and for which classes."""
    db["review_source"].insert_all(
        {"review_id": review_id, "assignment_id": assignment_id, "class_id": class_id}
        for assignment_id, class_id in claims
    )


def review_sources(db: Database, review_id: int | None = None) -> list[dict[str, Any]]:
    """review_id, assignment_id, class_id, class_name and person_id of the work that a review looked at."""
    where = "WHERE x.review_id = :review" if review_id is not None else ""
    query = f"""SELECT x.*, a.person_id, c.name AS class_name FROM review_source x
        JOIN assignment a ON a.id = x.assignment_id JOIN cell_class c ON c.id = x.class_id
        {where} ORDER BY x.review_id, x.class_id, x.assignment_id"""
    return list(db.query(query, {"review": review_id}))


# --- Sent back ------------------------------------------------------------------------------------


def add_sent_back(db: Database, assignment_id: int, person_id: str, comment: str) -> None:
    row = {"assignment_id": assignment_id, "person_id": person_id, "comment": comment, "sent_at": utc_now()}
    db["sent_back"].insert(row)


def sent_back(db: Database) -> dict[int, dict[str, Any]]:
    """Assignment -> when and why it was sent back."""
    return {row["assignment_id"]: row for row in db["sent_back"].rows}


def last_change(db: Database) -> tuple[int, ...]:
    """Numbers that differ whenever anything has been reviewed."""
    query = """SELECT (SELECT count(*) FROM review), (SELECT ifnull(max(id), 0) FROM review_decision),
        (SELECT count(*) FROM review_finish), (SELECT count(*) FROM review_gold),
        (SELECT count(*) FROM sent_back), (SELECT count(*) FROM withdrawal)"""
    return tuple(db.execute(query).fetchone())


def _mask_columns(mask: Mask | None) -> dict[str, Any]:
    return {
        "mask_height_px": mask.height_px if mask else None,
        "mask_width_px": mask.width_px if mask else None,
        "mask_counts": mask.counts if mask else None,
    }
