"""People who have withdrawn: what goes with them, and the row that is left of it.

Who leaves the study (erase_identity) keeps their work in it, by pseudonym. Who withdraws consent (purge)
takes it all out: acts, annotations, assignments, answers, and what cannot be told apart from it: reviews of
patches they had drawn on or reviewed, and label sets with their outlines. Thresholds they signed,
registrations they settled and changes of the study they made stay, by pseudonym: others' work rests on them.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from time import sleep
from typing import Any

from sqlite_utils import Database

from allinsam.errors import NotFoundError
from allinsam.store.audit import erase_addresses
from allinsam.store.connection import DatabaseFile, utc_now
from allinsam.store.study import note_change

ERASE, PURGE = "erase_identity", "purge"
KINDS = (ERASE, PURGE)
LISTS = ("assignments", "reviews", "label_sets", "runs", "scored_runs", "files")

# Table -> the rows that a purge deletes. In an order that leaves no row pointing to one that is gone.
REMOVED: dict[str, str] = {
    "score": "label_set_id IN (SELECT value FROM json_each(:label_sets))",
    "label_set_member": """assignment_id IN (SELECT value FROM json_each(:assignments))
        OR review_id IN (SELECT value FROM json_each(:reviews))""",
    "review_gold": "review_id IN (SELECT value FROM json_each(:reviews))",
    "review_object": "review_id IN (SELECT value FROM json_each(:reviews))",
    "review_decision": "review_id IN (SELECT value FROM json_each(:reviews))",
    "review_source": "review_id IN (SELECT value FROM json_each(:reviews))",
    "review_finish": "review_id IN (SELECT value FROM json_each(:reviews))",
    "review": "id IN (SELECT value FROM json_each(:reviews))",
    "sent_back": "person_id = :person OR assignment_id IN (SELECT value FROM json_each(:assignments))",
    "settled": "person_id = :person",
    "suggestion": "assignment_id IN (SELECT value FROM json_each(:assignments))",
    "suggestion_set": "assignment_id IN (SELECT value FROM json_each(:assignments))",
    "annotation": "assignment_id IN (SELECT value FROM json_each(:assignments))",
    "act": "assignment_id IN (SELECT value FROM json_each(:assignments))",
    "consent": "person_id = :person",
    "lesson": "person_id = :person",
    "assignment_class": "assignment_id IN (SELECT value FROM json_each(:assignments))",
    "assignment": "id IN (SELECT value FROM json_each(:assignments))",
}
# What stays of a person, by pseudonym.
KEPT: dict[str, str] = {
    "threshold": "signed_by = :person",
    "registration": "person_id = :person",
    "study_change": "person_id = :person",
    "withdrawn_assignment": "person_id = :person",
}


@dataclass(frozen=True)
class Affected:
    """What a purge of a person removes, and what was made of it."""

    assignments: Sequence[int] = ()  # the person's, and gold that a removed review gave
    reviews: Sequence[int] = ()
    label_sets: Sequence[int] = ()
    runs: Sequence[int] = ()  # that learnt from these label sets
    scored_runs: Sequence[int] = ()  # scored against one of them, and not learnt from one
    patches: Sequence[int] = ()  # whose derived files are out of date
    removed: dict[str, int] = field(default_factory=dict)  # table -> rows
    kept: dict[str, int] = field(default_factory=dict)


def affected_by(db: Database, person_id: str) -> Affected:
    """What a purge of this person would remove and mark; nothing is changed."""
    reviews = _reviews_with(db, person_id)
    chosen = {"person": person_id, "reviews": json.dumps(reviews)}
    assignments = _ids(
        db,
        """SELECT id FROM assignment WHERE person_id = :person
        UNION SELECT assignment_id FROM review_gold
        WHERE review_id IN (SELECT value FROM json_each(:reviews))""",
        chosen,
    )
    chosen["assignments"] = json.dumps(assignments)
    label_sets = _ids(
        db,
        """SELECT DISTINCT label_set_id FROM label_set_member
        WHERE assignment_id IN (SELECT value FROM json_each(:assignments))
        OR review_id IN (SELECT value FROM json_each(:reviews))""",
        chosen,
    )
    chosen["label_sets"] = json.dumps(label_sets)
    runs = _ids(
        db, "SELECT id FROM run WHERE label_set_id IN (SELECT value FROM json_each(:label_sets))", chosen
    )
    scored = _ids(
        db,
        """SELECT DISTINCT run_id FROM score WHERE run_id IS NOT NULL
        AND reference_id IN (SELECT value FROM json_each(:label_sets))""",
        chosen,
    )
    patches = _ids(
        db,
        """SELECT patch_id FROM assignment WHERE id IN (SELECT value FROM json_each(:assignments))
        UNION SELECT patch_id FROM review WHERE id IN (SELECT value FROM json_each(:reviews))""",
        chosen,
    )
    removed = {table: db[table].count_where(where, chosen) for table, where in REMOVED.items()}
    kept = {table: db[table].count_where(where, chosen) for table, where in KEPT.items()}
    only_scored = [run for run in scored if run not in runs]
    return Affected(assignments, reviews, label_sets, runs, only_scored, patches, removed, kept)


def _reviews_with(db: Database, person_id: str) -> list[int]:
    """Every version of the reviews of patches where this person's marks were looked at, or where they
    reviewed: what came of these cannot be told apart from their work.
    """
    return _ids(
        db,
        """WITH mine AS (SELECT id FROM assignment WHERE person_id = :person),
        touched AS (
            SELECT id FROM review WHERE reviewer_id = :person
            UNION SELECT review_id FROM review_finish WHERE person_id = :person
            UNION SELECT review_id FROM review_gold WHERE person_id = :person OR assignment_id IN mine
            UNION SELECT review_id FROM review_source WHERE assignment_id IN mine
            UNION SELECT review_id FROM review_decision
                WHERE person_id = :person OR picked_assignment_id IN mine
            UNION SELECT d.review_id FROM review_decision d, json_each(d.sources) s
                WHERE json_extract(s.value, '$[0]') IN mine
            UNION SELECT o.review_id FROM review_object o, json_each(o.sources) s
                WHERE json_extract(s.value, '$[0]') IN mine
        )
        SELECT id FROM review WHERE patch_id IN (
            SELECT patch_id FROM review WHERE id IN (SELECT id FROM touched))""",
        {"person": person_id},
    )


def _ids(db: Database, query: str, chosen: dict[str, Any]) -> list[int]:
    return sorted(row[0] for row in db.execute(query, chosen).fetchall())


def find_withdrawal(db: Database, person_id: str, kind: str) -> dict[str, Any] | None:
    """The newest withdrawal of this kind by a person."""
    rows = db["withdrawal"].rows_where(
        "person_id = ? AND kind = ?", [person_id, kind], order_by="id DESC", limit=1
    )
    return next((_row(row) for row in rows), None)


def get_withdrawal(db: Database, person_id: str, kind: str) -> dict[str, Any]:
    """The same of who is known to have withdrawn."""
    row = find_withdrawal(db, person_id, kind)
    if row is None:
        raise NotFoundError(f"{person_id!r} has not withdrawn in this way.")
    return row


def list_withdrawals(db: Database) -> list[dict[str, Any]]:
    """Every withdrawal, oldest first, its lists and counts as plain data."""
    return [_row(row) for row in db["withdrawal"].rows_where(order_by="id")]


def _row(row: dict[str, Any]) -> dict[str, Any]:
    return {**row, **{name: json.loads(row[name]) for name in (*LISTS, "removed")}}


def add_erasure(db: Database, person_id: str, by: str | None, reason: str, at: str) -> int:
    """Keep that a person left; their work stays, by pseudonym."""
    return _add(db, {"person_id": person_id, "kind": ERASE, **_by(db, by, reason, at), "open": 0})


def purge(
    db: Database,
    person_id: str,
    by: str | None,
    reason: str,
    at: str,
    affected: Affected,
    files: Iterable[str],
) -> int:
    """Delete what is `affected_by` a person and keep the row that says so. Call inside one transaction.

    files: names of the files that are to be deleted, in the study's folder.
    """
    db.execute("PRAGMA secure_delete = ON")  # what is deleted is overwritten, not just unlinked
    lists = {name: json.dumps(list(getattr(affected, name))) for name in LISTS if name != "files"}
    last = {table: db.execute(f"SELECT ifnull(max(id), 0) FROM {table}").fetchone()[0] for table in NUMBERED}
    row = {"person_id": person_id, "kind": PURGE, **_by(db, by, reason, at), **lists, "open": 1}
    row |= {"files": json.dumps(list(files)), "removed": json.dumps(affected.removed)}
    row |= {"acts_removed": affected.removed["act"], **{f"last_{table}": n for table, n in last.items()}}
    withdrawal_id = _add(db, row)
    chosen = {"person": person_id} | lists
    for table, where in REMOVED.items():
        db.execute(f"DELETE FROM {table} WHERE {where}", chosen)
    db.execute(
        "UPDATE label_set SET withdrawal_id = :id WHERE id IN (SELECT value FROM json_each(:label_sets))",
        {"id": withdrawal_id, **chosen},
    )
    db["withdrawal"].update(withdrawal_id, {"open": 0})
    return withdrawal_id


# Numbers of these are never given again: manifests and reviews name them.
NUMBERED = ("act", "annotation")


def first_new_id(db: Database, table: str) -> int:
    """The number of the next row of `act` or `annotation`; none that a purge removed comes again."""
    query = f"""SELECT 1 + max((SELECT ifnull(max(id), 0) FROM {table}),
        (SELECT ifnull(max(last_{table}), 0) FROM withdrawal))"""
    return int(db.execute(query).fetchone()[0])


def _by(db: Database, by: str | None, reason: str, at: str) -> dict[str, Any]:
    """Who recorded it, where the study knows them; a restored study may not."""
    known = by is not None and db["person"].count_where("id = ?", [by]) > 0
    return {"by_person_id": by if known else None, "reason": reason, "at": at}


def _add(db: Database, row: dict[str, Any]) -> int:
    withdrawal_id = int(db["withdrawal"].insert(row).last_pk)
    person = row["person_id"]
    db.execute(
        "UPDATE person SET withdrawn_at = ifnull(withdrawn_at, :at) WHERE id = :person",
        {"at": row["at"] or utc_now(), "person": person},
    )
    # Also tells whatever is kept in memory that the study is another one.
    note_change(db, "withdrawal", None, f"{row['kind']} {person}", row["by_person_id"])
    return withdrawal_id


def work_withdrawn(db: Database) -> dict[str, dict[int, str]]:
    """runs, scored_runs and label_sets -> number -> when a person whose work is behind it withdrew."""
    found: dict[str, dict[int, str]] = {"runs": {}, "scored_runs": {}, "label_sets": {}}
    for row in list_withdrawals(db):
        for name, marked in found.items():
            marked |= {key: row["at"] for key in row[name]}
    return found


def erase_account(db: Database, person_id: str) -> bool:
    """Delete a person's name, password, sign-ins, links and failures from server.sqlite; whether there were
    any. Of the log their addresses go; it holds pseudonyms only.
    """
    db.execute("PRAGMA secure_delete = ON")
    names = [row["name"].lower() for row in db["account"].rows_where("person_id = ?", [person_id])]
    for name in names:
        db.execute("DELETE FROM sign_in_failure WHERE name = ?", [name])
    for table in ("sign_in", "invitation", "account"):
        db.execute(f"DELETE FROM {table} WHERE person_id = ?", [person_id])
    erase_addresses(db, person_id)
    return bool(names)


def empty_log(file: DatabaseFile, tries: int = 10) -> bool:
    """Bring deletions into the file itself and empty its write-ahead log, where rows would stay readable.

    False where others read all the while; SQLite writes over it later.
    """
    for _ in range(tries):
        db = file._connect()
        try:
            busy = db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
        finally:
            db.conn.close()
        if not busy:
            return True
        sleep(0.1)
    return False
