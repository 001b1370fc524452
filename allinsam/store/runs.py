"""Splits, frozen label sets, training runs and scores."""

import json
from collections.abc import Iterable, Mapping
from typing import Any

from sqlite_utils import Database

from allinsam.errors import NotFoundError
from allinsam.store.connection import utc_now
from allinsam.store.study import has_changed, note_change

FIRST_SCORES = "first scores"  # as a field of study_change


def add_split(db: Database, rule: str, seed: int, parts: Mapping[int, str]) -> int:
    """`parts` maps patch id -> train, val or test."""
    split_id = int(db["split"].insert({"rule": rule, "seed": seed, "created_at": utc_now()}).last_pk)
    db["split_member"].insert_all(
        {"split_id": split_id, "patch_id": patch_id, "part": part} for patch_id, part in parts.items()
    )
    return split_id


def find_split(db: Database, rule: str, seed: int) -> int | None:
    """The newest split made by this rule and seed."""
    query = "SELECT id FROM split WHERE rule = ? AND seed = ? ORDER BY id DESC LIMIT 1"
    for row in db.query(query, [rule, seed]):
        return int(row["id"])
    return None


def list_splits(db: Database) -> list[dict[str, Any]]:
    """id, rule, seed and date of every split, oldest first."""
    return list(db["split"].rows_where(order_by="id"))


def split_parts(db: Database, split_id: int) -> dict[int, str]:
    """Patch id -> part."""
    rows = db["split_member"].rows_where("split_id = ?", [split_id], order_by="patch_id")
    return {row["patch_id"]: row["part"] for row in rows}


def add_label_set(
    db: Database, recipe: Mapping[str, Any], sha256: str, members: Iterable[Mapping[str, Any]]
) -> int:
    """Keep a frozen label set; the same content twice is one set."""
    for row in db.query("SELECT id FROM label_set WHERE sha256 = ?", [sha256]):
        # Frozen anew from what is left, and yet the same: it holds nothing of who withdrew.
        db["label_set"].update(row["id"], {"withdrawal_id": None})
        return int(row["id"])
    row = {"recipe": json.dumps(recipe, sort_keys=True), "sha256": sha256, "created_at": utc_now()}
    label_set_id = int(db["label_set"].insert(row).last_pk)
    db["label_set_member"].insert_all({"label_set_id": label_set_id, **member} for member in members)
    return label_set_id


def get_label_set(db: Database, label_set_id: int) -> dict[str, Any]:
    for row in db.query("SELECT * FROM label_set WHERE id = ?", [label_set_id]):
        return {**row, "recipe": json.loads(row["recipe"])}
    raise NotFoundError(f"No label set {label_set_id!r} in this study.")


def list_label_sets(db: Database, with_withdrawn: bool = False) -> list[dict[str, Any]]:
    """Label sets with their recipe and counts of patches and objects.

    with_withdrawn: also those that went with a person's work, whose files are no more.
    """
    query = """SELECT l.*, count(DISTINCT m.patch_id) AS patches, count(m.annotation_id) AS objects
        FROM label_set l LEFT JOIN label_set_member m ON m.label_set_id = l.id
        WHERE :all OR l.withdrawal_id IS NULL GROUP BY l.id ORDER BY l.id"""
    rows = db.query(query, {"all": with_withdrawn})
    return [{**row, "recipe": json.loads(row["recipe"])} for row in rows]


def kept_label_sets(db: Database) -> list[dict[str, Any]]:
    """Rows of those whose file was not deleted because somebody in them withdrew; of any schema."""
    return [row for row in db["label_set"].rows_where(order_by="id") if row.get("withdrawal_id") is None]


def label_set_people(db: Database, label_set_id: int) -> set[str]:
    """Everyone whose own work is in a label set, those who settled a review of it included."""
    query = """SELECT a.person_id FROM label_set_member m
        JOIN assignment a ON a.id = m.assignment_id WHERE m.label_set_id = :labels
        UNION SELECT r.reviewer_id FROM label_set_member m
        JOIN review r ON r.id = m.review_id WHERE m.label_set_id = :labels
        UNION SELECT f.person_id FROM label_set_member m
        JOIN review_finish f ON f.review_id = m.review_id WHERE m.label_set_id = :labels
        UNION SELECT d.person_id FROM label_set_member m
        JOIN review r ON r.id = m.review_id
        JOIN review e ON e.patch_id = r.patch_id AND e.version <= r.version
        JOIN review_decision d ON d.review_id = e.id WHERE m.label_set_id = :labels"""
    return {row["person_id"] for row in db.query(query, {"labels": label_set_id})}


def label_set_assignments(db: Database, label_set_id: int) -> dict[int, list[int]]:
    """Patch -> the assignments whose work is in a label set."""
    query = """SELECT DISTINCT patch_id, assignment_id FROM label_set_member WHERE label_set_id = ?
        ORDER BY patch_id, assignment_id"""
    found: dict[int, list[int]] = {}
    for row in db.query(query, [label_set_id]):
        found.setdefault(row["patch_id"], []).append(row["assignment_id"])
    return found


def label_set_tools(db: Database, label_set_id: int) -> list[str]:
    """The tools with which the work in a label set was done, by name."""
    query = """SELECT DISTINCT a.tool FROM label_set_member m JOIN assignment a ON a.id = m.assignment_id
        WHERE m.label_set_id = ? ORDER BY a.tool"""
    return [row["tool"] for row in db.query(query, [label_set_id])]


def add_run(db: Database, **fields: Any) -> int:
    """Fields: name, kind, label_set_id, split_id, settings (a dict) and version, backbone and its hash."""
    fields["settings"] = json.dumps(fields["settings"], sort_keys=True)
    return int(db["run"].insert({**fields, "state": "running", "created_at": utc_now()}).last_pk)


def update_run(db: Database, run_id: int, **fields: Any) -> None:
    if fields.get("state") in ("finished", "failed", "cancelled"):
        fields["finished_at"] = utc_now()
    db["run"].update(run_id, fields)


def get_run(db: Database, run_id: int) -> dict[str, Any]:
    for row in db.query("SELECT * FROM run WHERE id = ?", [run_id]):
        return {**row, "settings": json.loads(row["settings"])}
    raise NotFoundError(f"No run {run_id!r} in this study. See the Train page for those there are.")


def list_runs(db: Database) -> list[dict[str, Any]]:
    query = """SELECT r.*, l.recipe FROM run r LEFT JOIN label_set l ON l.id = r.label_set_id ORDER BY r.id"""
    return [
        {**row, "settings": json.loads(row["settings"]), "recipe": json.loads(row["recipe"] or "{}")}
        for row in db.query(query)
    ]


def put_epoch(db: Database, run_id: int, epoch: int, stage: str, metrics: Mapping[str, Any]) -> None:
    """Keep an epoch's figures; a resumed run may report an epoch again."""
    row = {"run_id": run_id, "epoch": epoch, "stage": stage, "metrics": json.dumps(metrics)}
    db["run_epoch"].upsert(row, pk=("run_id", "epoch"))


def run_epochs(db: Database, run_id: int) -> list[dict[str, Any]]:
    """One flat dict per epoch: epoch, stage and its metrics."""
    rows = db["run_epoch"].rows_where("run_id = ?", [run_id], order_by="epoch")
    return [{"epoch": r["epoch"], "stage": r["stage"], **json.loads(r["metrics"])} for r in rows]


def put_scores(db: Database, rows: Iterable[Mapping[str, Any]]) -> None:
    """Keep scores; scoring the same thing against the same reference again replaces the row.

    Each row: run_id or label_set_id, reference_id, split_id, patch_id, class_id, metric, value, n. When the
    first of a study were made is kept: what was decided afterwards was decided with results in sight.
    """
    rows = list(rows)
    if rows and not has_changed(db, FIRST_SCORES) and not db["score"].count:
        note_change(db, FIRST_SCORES, None, None, None)
    for row in rows:
        db.execute(
            """DELETE FROM score WHERE ifnull(run_id, 0) = ifnull(:run_id, 0)
            AND ifnull(label_set_id, 0) = ifnull(:label_set_id, 0) AND reference_id = :reference_id
            AND patch_id = :patch_id AND class_id = :class_id AND metric = :metric""",
            {"run_id": row.get("run_id"), "label_set_id": row.get("label_set_id"), **row},
        )
        db["score"].insert(dict(row))


def first_scores_at(db: Database) -> str | None:
    """When the first scores were made, UTC; None where there are none.

    Of a study older than this note: when the earliest scored run ended or scored labels were frozen, before
    which there were no scores.
    """
    noted = db.execute("SELECT min(changed_at) FROM study_change WHERE field = ?", [FIRST_SCORES])
    earliest = """SELECT min(coalesce(r.finished_at, r.created_at, l.created_at)) FROM score x
        LEFT JOIN run r ON r.id = x.run_id LEFT JOIN label_set l ON l.id = x.label_set_id"""
    return noted.fetchone()[0] or db.execute(earliest).fetchone()[0]


def list_scores(db: Database) -> list[dict[str, Any]]:
    """Every score with the names a reader needs."""
    return list(
        db.query(
            """SELECT x.*, c.name AS class_name, p.name AS patch, p.condition, s.name AS slide,
                r.name AS run, l.recipe AS label_recipe, f.recipe AS reference_recipe
            FROM score x JOIN cell_class c ON c.id = x.class_id JOIN patch p ON p.id = x.patch_id
            JOIN slide s ON s.id = p.slide_id LEFT JOIN run r ON r.id = x.run_id
            LEFT JOIN label_set l ON l.id = x.label_set_id JOIN label_set f ON f.id = x.reference_id
            ORDER BY x.id"""
        )
    )


def references_of_run(db: Database, run_id: int) -> set[int]:
    """The label sets that a run was scored against."""
    rows = db.query("SELECT DISTINCT reference_id FROM score WHERE run_id = ?", [run_id])
    return {row["reference_id"] for row in rows}


def last_score(db: Database) -> tuple[int, int, int]:
    """Numbers that differ whenever scores have been added or replaced, or a run has ended."""
    row = db.execute(
        "SELECT ifnull(max(id), 0), count(*), (SELECT count(*) FROM run WHERE state = 'finished') FROM score"
    ).fetchone()
    return int(row[0]), int(row[1]), int(row[2])


def label_set_patches(db: Database, label_set_id: int) -> set[int]:
    rows = db.query("SELECT DISTINCT patch_id FROM label_set_member WHERE label_set_id = ?", [label_set_id])
    return {row["patch_id"] for row in rows}
