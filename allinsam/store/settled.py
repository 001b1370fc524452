"""What somebody settled item by item, and how long each took: append-only."""

import json
from collections.abc import Mapping
from typing import Any

from sqlite_utils import Database

from allinsam.store.connection import utc_now


def add_settled(
    db: Database,
    client_key: str,
    person_id: str,
    kind: str,
    key: str,
    decision: str,
    detail: Mapping[str, Any],
    seconds: float,
    undoes: int | None = None,
) -> int:
    """Keep one decision. `client_key` must be new; `undoes`: the row that this one takes back."""
    row = {
        "client_key": client_key,
        "person_id": person_id,
        "kind": kind,
        "key": key,
        "decision": decision,
        "detail": json.dumps(dict(detail), sort_keys=True, allow_nan=False),
        "seconds": float(seconds),
        "undoes": undoes,
        "at": utc_now(),
    }
    return int(db["settled"].insert(row).last_pk)


def find_settled(db: Database, client_key: str) -> dict[str, Any] | None:
    """The row of a key press, if it came before."""
    return next((_row(row) for row in db["settled"].rows_where("client_key = ?", [client_key])), None)


def list_settled(db: Database) -> list[dict[str, Any]]:
    """Every row, oldest first; `undone` says whether a later one took it back."""
    query = """SELECT s.*, EXISTS (SELECT 1 FROM settled u WHERE u.undoes = s.id) AS undone
        FROM settled s ORDER BY s.id"""
    return [_row(row) for row in db.query(query)]


def last_standing(db: Database, person_id: str) -> dict[str, Any] | None:
    """The newest decision of a person that is neither taken back nor takes one back; opening is none."""
    query = """SELECT * FROM settled s WHERE person_id = ? AND undoes IS NULL AND decision <> 'open'
        AND NOT EXISTS (SELECT 1 FROM settled u WHERE u.undoes = s.id) ORDER BY id DESC LIMIT 1"""
    return next((_row(row) for row in db.query(query, [person_id])), None)


def _row(row: Mapping[str, Any]) -> dict[str, Any]:
    return {**row, "detail": json.loads(row["detail"])}
