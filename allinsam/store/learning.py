"""Who agreed to take part, and what people did to learn beside annotating: append-only rows."""

import json
from collections.abc import Mapping
from typing import Any

from sqlite_utils import Database

from allinsam.store.connection import utc_now

CARD_SHOWN = "card_shown"  # kind of a lesson: some of a patch's gold was seen


def add_consent(db: Database, person_id: str, version: int, sha256: str, agreed: bool) -> None:
    """Keep what a person answered to this version of the consent text."""
    row = {"person_id": person_id, "version": version, "sha256": sha256, "agreed": int(agreed)}
    db["consent"].insert({**row, "at": utc_now()})


def list_consents(db: Database, person_id: str | None = None) -> list[dict[str, Any]]:
    """Every answer, oldest first, of one person or of everyone, with the group of each."""
    where = "WHERE c.person_id = :person" if person_id is not None else ""
    return list(
        db.query(
            f"""SELECT c.*, p.grp AS "group" FROM consent c JOIN person p ON p.id = c.person_id
            {where} ORDER BY c.id""",
            {"person": person_id},
        )
    )


def last_consent(db: Database, person_id: str, version: int) -> dict[str, Any] | None:
    """A person's newest answer to a version."""
    rows = db["consent"].rows_where(
        "person_id = ? AND version = ?", [person_id, version], order_by="id DESC", limit=1
    )
    return next(iter(rows), None)


def add_lesson(db: Database, person_id: str, kind: str, payload: Mapping[str, Any]) -> int:
    """Keep a step of a person's learning; returns its number."""
    row = {"person_id": person_id, "kind": kind, "payload": json.dumps(dict(payload), sort_keys=True)}
    return int(db["lesson"].insert({**row, "at": utc_now()}).last_pk)


def list_lessons(db: Database, person_id: str | None = None, kind: str = "") -> list[dict[str, Any]]:
    """Steps of learning whose kind begins so, with payload and the person's group, oldest first."""
    query = """SELECT l.*, p.grp AS "group" FROM lesson l JOIN person p ON p.id = l.person_id
        WHERE (:person IS NULL OR l.person_id = :person) AND substr(l.kind, 1, length(:kind)) = :kind
        ORDER BY l.id"""
    rows = db.query(query, {"person": person_id, "kind": kind})
    return [{**row, "payload": json.loads(row["payload"])} for row in rows]


def patches_on_cards(db: Database, person_id: str | None = None) -> dict[int, set[str]]:
    """Patch -> who, of one person or of everyone, has seen some of its gold on a card."""
    seen: dict[int, set[str]] = {}
    for row in list_lessons(db, person_id, CARD_SHOWN):
        seen.setdefault(row["payload"]["patch_id"], set()).add(row["person_id"])
    return seen
