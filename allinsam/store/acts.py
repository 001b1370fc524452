"""Acts and the annotation rows that come with them: append-only."""

import json
from collections.abc import Iterable
from typing import Any

from sqlite_utils import Database

from allinsam.acts import AnnotationRow
from allinsam.records import Act
from allinsam.store.connection import utc_now
from allinsam.store.withdrawals import first_new_id

# The surface of acts that nobody made on a page: annotations that came as a file.
IMPORT_SURFACE = "import"
# Of what a model proposed before anybody looked.
SUGGESTION_SURFACE = "suggestion"
NOBODYS_SURFACES = (IMPORT_SURFACE, SUGGESTION_SURFACE)

# Of annotation n: its object's newest row.
NEWEST = """n.id = (
    SELECT max(m.id) FROM annotation m WHERE m.assignment_id = n.assignment_id AND m.object_id = n.object_id)
"""
CURRENT_QUERY = f"""
SELECT n.*, c.name AS class_name, a.person_id, a.patch_id, a.purpose, a.guidance, a.tool,
       p.grp AS "group", t.name AS patch, s.name AS slide, t.condition, x.received_at,
       g.id IS NOT NULL AS suggested, g.planted,
       ifnull(g.mask_counts = n.mask_counts AND g.class_id = n.class_id, 0) AS as_suggested
FROM annotation n
JOIN assignment a ON a.id = n.assignment_id JOIN person p ON p.id = a.person_id
JOIN patch t ON t.id = a.patch_id JOIN slide s ON s.id = t.slide_id
JOIN cell_class c ON c.id = n.class_id JOIN act x ON x.id = n.act_id
LEFT JOIN suggestion g ON g.assignment_id = n.assignment_id AND g.object_id = n.object_id
WHERE n.state = 'accepted' AND {NEWEST}
"""


def list_acts(db: Database, assignment_id: int) -> list[Act]:
    """The acts of one assignment in the order they were applied."""
    rows = db["act"].rows_where("assignment_id = ?", [assignment_id], order_by="id")
    return [_act(row) for row in rows]


def acts_after(db: Database, assignment_id: int, act_id: int) -> list[tuple[int, Act]]:
    """The acts of one assignment with a higher id than this, with their ids, in order."""
    rows = db["act"].rows_where("assignment_id = ? AND id > ?", [assignment_id, act_id], order_by="id")
    return [(row["id"], _act(row)) for row in rows]


def is_act(db: Database, assignment_id: int, act_id: int, sender: tuple[str, int] | None) -> bool:
    """Whether the act of this id is still that of (client, seq) on this assignment."""
    query = "SELECT client, seq FROM act WHERE id = ? AND assignment_id = ?"
    return db.execute(query, [act_id, assignment_id]).fetchone() == sender


def act_rows(db: Database) -> list[dict[str, Any]]:
    """Every act of the study with person and patch, payload as text."""
    return list(
        db.query(
            """SELECT x.*, a.person_id, a.patch_id, a.purpose, p.grp AS "group" FROM act x
            JOIN assignment a ON a.id = x.assignment_id JOIN person p ON p.id = a.person_id ORDER BY x.id"""
        )
    )


def stored_act(db: Database, client: str, seq: int) -> tuple[int, Act] | None:
    """The assignment and the act kept under this (client, seq), if there is one."""
    for row in db["act"].rows_where("client = ? AND seq = ?", [client, seq]):
        return row["assignment_id"], _act(row)
    return None


def last_seq(db: Database, client: str, assignment_id: int) -> int:
    """The highest number of a page load's acts on an assignment; 0 where it has none."""
    query = "SELECT coalesce(max(seq), 0) FROM act WHERE client = ? AND assignment_id = ?"
    return int(db.execute(query, [client, assignment_id]).fetchone()[0])


def people_of_client(db: Database, client: str) -> set[str]:
    """Whose assignments the acts of a page load are on."""
    query = """SELECT DISTINCT a.person_id FROM act x JOIN assignment a ON a.id = x.assignment_id
        WHERE x.client = ?"""
    return {row[0] for row in db.execute(query, [client]).fetchall()}


def has_sources(db: Database, threshold_id: Any, registration_id: Any) -> bool:
    """Whether the threshold and the registration an act names are there; None names none."""
    query = """SELECT (:threshold IS NULL OR EXISTS (SELECT 1 FROM threshold WHERE id = :threshold))
        AND (:registration IS NULL OR EXISTS (SELECT 1 FROM registration WHERE id = :registration))"""
    named = {"threshold": threshold_id, "registration": registration_id}
    return bool(db.execute(query, named).fetchone()[0])


def act_summary(db: Database, assignment_id: int) -> tuple[int, str | None]:
    """How many acts an assignment has, and when the last one was received."""
    row = db.execute(
        "SELECT count(*), max(received_at) FROM act WHERE assignment_id = ?", [assignment_id]
    ).fetchone()
    return int(row[0]), row[1]


def span_of_acts(db: Database) -> tuple[str | None, str | None, int]:
    """When the first and the last act of people was received, and how many there are."""
    query = f"""SELECT min(received_at), max(received_at), count(*) FROM act
        WHERE surface NOT IN {NOBODYS_SURFACES}"""
    return db.execute(query).fetchone()


def has_acted(db: Database, person_id: str) -> bool:
    """Whether a person has drawn anything in this study yet."""
    query = """SELECT 1 FROM act x JOIN assignment a ON a.id = x.assignment_id
        WHERE a.person_id = ? AND x.object_id IS NOT NULL AND x.surface <> ? LIMIT 1"""
    return db.execute(query, [person_id, SUGGESTION_SURFACE]).fetchone() is not None


def insert_act(db: Database, assignment_id: int, act: Act) -> int:
    """Append an act; its (client, seq) must be new."""
    row = {"id": first_new_id(db, "act"), **act_values(act)}
    row |= {"assignment_id": assignment_id, "received_at": utc_now()}
    return int(db["act"].insert(row).last_pk)


def act_values(act: Act) -> dict[str, Any]:
    """The columns of an act that its sender decides."""
    return {
        "client": act.client,
        "seq": act.seq,
        "object_id": act.object_id,
        "kind": act.kind,
        "payload": json.dumps(dict(act.payload), sort_keys=True, allow_nan=False),
        "payload_version": act.payload_version,
        "client_ms": float(act.client_ms),
        "surface": act.surface,
    }


def insert_annotations(db: Database, assignment_id: int, act_id: int, rows: Iterable[AnnotationRow]) -> None:
    first = first_new_id(db, "annotation")
    db["annotation"].insert_all(
        [
            {"id": number, "act_id": act_id, **annotation_values(assignment_id, row)}
            for number, row in enumerate(rows, start=first)
        ]
    )


def annotation_values(assignment_id: int, row: AnnotationRow) -> dict[str, Any]:
    """The columns of an annotation row, but for its own id and its act's id."""
    thing, mask = row.thing, row.thing.mask
    return {
        "assignment_id": assignment_id,
        "object_id": thing.object_id,
        "class_id": thing.class_id,
        "state": row.state,
        "first_box": json.dumps(thing.first_box) if thing.first_box else None,
        "prompts": json.dumps(thing.prompts),
        "mask_height_px": mask.height_px if mask else None,
        "mask_width_px": mask.width_px if mask else None,
        "mask_counts": mask.counts if mask else None,
        "origin": thing.origin,
        "backbone": thing.backbone,
        "weights_sha256": thing.weights_sha256,
        "predicted_iou": thing.predicted_iou,
        "threshold_id": thing.threshold_id,
        "registration_id": thing.registration_id,
        "molecular_support": thing.molecular_support,
    }


def stored_annotations(db: Database, assignment_id: int) -> list[dict[str, Any]]:
    """All annotation rows of one assignment, oldest first."""
    return list(db["annotation"].rows_where("assignment_id = ?", [assignment_id], order_by="id"))


def current_annotations(db: Database, assignment_id: int | None = None) -> list[dict[str, Any]]:
    """The newest accepted row of every object, with class, person, group, patch and slide."""
    query = CURRENT_QUERY
    if assignment_id is not None:
        query += " AND n.assignment_id = :assignment"
    return list(db.query(query + " ORDER BY n.assignment_id, n.object_id", {"assignment": assignment_id}))


def current_masks(db: Database, assignment_ids: Iterable[int]) -> list[tuple[int, int, int, int, str]]:
    """(assignment, class, height in px, width in px, run lengths) of every object of these assignments, in
    the order of `current_annotations`, without all that a hundred thousand of them need not carry.
    """
    query = f"""SELECT n.assignment_id, n.class_id, n.mask_height_px, n.mask_width_px, n.mask_counts
        FROM annotation n WHERE n.state = 'accepted' AND {NEWEST}
        AND n.assignment_id IN (SELECT value FROM json_each(?)) ORDER BY n.assignment_id, n.object_id"""
    return db.execute(query, [json.dumps(list(assignment_ids))]).fetchall()


def students_doubtful(
    db: Database, patch_ids: Iterable[int], below_iou: float, below_support: float
) -> list[dict[str, Any]]:
    """Current annotations of students' production on these patches whose predicted IoU or molecular support
    is low: id, patch_id, guidance, origin, predicted_iou and molecular_support.
    """
    query = f"""SELECT n.id, a.patch_id, a.guidance, n.origin, n.predicted_iou, n.molecular_support
        FROM annotation n JOIN assignment a ON a.id = n.assignment_id
        WHERE (n.predicted_iou < :iou OR n.molecular_support < :support) AND n.state = 'accepted' AND {NEWEST}
        AND n.assignment_id IN (
            SELECT x.id FROM assignment x JOIN person p ON p.id = x.person_id
            WHERE x.purpose = 'production' AND p.grp = 'student'
            AND x.patch_id IN (SELECT value FROM json_each(:patches)))"""
    chosen = {"iou": below_iou, "support": below_support, "patches": json.dumps(sorted(patch_ids))}
    return list(db.query(query, chosen))


def annotations_by_threshold(db: Database) -> dict[int, int]:
    """Threshold id -> how many current annotations were made under it."""
    query = f"SELECT threshold_id, count(*) FROM ({CURRENT_QUERY}) WHERE threshold_id IS NOT NULL GROUP BY 1"
    return {row[0]: row[1] for row in db.execute(query).fetchall()}


def annotations_by_registration(db: Database) -> dict[int, int]:
    """Registration id -> how many current annotations were made under it."""
    query = f"""SELECT registration_id, count(*) FROM ({CURRENT_QUERY})
        WHERE registration_id IS NOT NULL GROUP BY 1"""
    return {row[0]: row[1] for row in db.execute(query).fetchall()}


def act_ids(db: Database, assignment_id: int) -> dict[tuple[str, int], int]:
    """(client, seq) -> row id of the acts of one assignment."""
    rows = db.query("SELECT client, seq, id FROM act WHERE assignment_id = ?", [assignment_id])
    return {(row["client"], row["seq"]): row["id"] for row in rows}


def _act(row: dict[str, Any]) -> Act:
    return Act(
        client=row["client"],
        seq=row["seq"],
        kind=row["kind"],
        client_ms=row["client_ms"],
        payload=json.loads(row["payload"]),
        object_id=row["object_id"],
        surface=row["surface"],
        payload_version=row["payload_version"],
    )


def last_change(db: Database) -> tuple[int, int, int]:
    """Numbers that differ whenever what people annotated, or how it is to be analysed, has changed."""
    row = db.execute(
        """SELECT ifnull(max(id), 0), count(*), (SELECT ifnull(max(id), 0) FROM study_change) FROM act"""
    ).fetchone()
    return int(row[0]), int(row[1]), int(row[2])


def people_since(db: Database, since: str) -> list[str]:
    """Who did something since then, by their newest 50,000 acts; `since` is UTC as ISO 8601."""
    query = """SELECT DISTINCT n.person_id FROM act AS x JOIN assignment AS n ON n.id = x.assignment_id
        WHERE x.id > (SELECT ifnull(max(id), 0) FROM act) - 50000 AND x.received_at >= ? ORDER BY 1"""
    return [row[0] for row in db.execute(query, [since]).fetchall()]


def act_marks(db: Database, assignment_ids: Iterable[int]) -> dict[int, tuple[int, int, str, int]]:
    """Assignment -> its number of acts, and id, client and seq of the last: others as soon as acts are."""
    query = """SELECT g.assignment_id, g.n, x.id, x.client, x.seq FROM (
            SELECT assignment_id, count(*) AS n, max(id) AS last FROM act
            WHERE assignment_id IN (SELECT value FROM json_each(?)) GROUP BY assignment_id
        ) g JOIN act x ON x.id = g.last"""
    rows = db.execute(query, [json.dumps(list(assignment_ids))]).fetchall()
    return {row[0]: tuple(row[1:]) for row in rows}


def timed_acts(db: Database, assignment_ids: Iterable[int]) -> dict[int, list[tuple]]:
    """What time is worked out from, without outlines: the acts that people made on each of these, in order.

    Each is (client, kind, object_id, client_ms, received_at, the model's time of a `mask_shown` in ms).
    """
    query = f"""SELECT assignment_id, client, kind, object_id, client_ms, received_at,
            CASE kind WHEN 'mask_shown' THEN json_extract(payload, '$.model_ms') END AS model_ms
        FROM act WHERE assignment_id IN (SELECT value FROM json_each(?)) AND surface NOT IN {NOBODYS_SURFACES}
        ORDER BY assignment_id, id"""
    found: dict[int, list[tuple]] = {}
    for assignment_id, *act in db.execute(query, [json.dumps(list(assignment_ids))]):
        found.setdefault(assignment_id, []).append(tuple(act))
    return found


def newest_of_objects(db: Database) -> dict[tuple[int, str], dict[str, Any]]:
    """(assignment, object) -> state, origin and whether points were given, of all that was ever accepted."""
    query = f"""SELECT n.assignment_id, n.object_id, n.state, n.origin, n.prompts <> '[]' AS prompted
        FROM annotation n WHERE {NEWEST}"""
    return {(row["assignment_id"], row["object_id"]): row for row in db.query(query)}


def object_counts(db: Database, person_id: str | None = None) -> dict[tuple[int, int], int]:
    """(assignment, class) -> how many objects stand there now, of one person or of everyone."""
    mine = "WHERE assignment_id IN (SELECT id FROM assignment WHERE person_id = :person)" if person_id else ""
    query = f"""SELECT assignment_id, class_id, count(*) FROM annotation WHERE state = 'accepted' AND id IN (
        SELECT max(id) FROM annotation {mine} GROUP BY assignment_id, object_id) GROUP BY 1, 2"""
    rows = db.execute(query, {"person": person_id} if person_id else {}).fetchall()
    return {(row[0], row[1]): row[2] for row in rows}
