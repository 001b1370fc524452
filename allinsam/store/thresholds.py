"""Signed marker thresholds, per slide and marker, versioned; a patch may have its own with a reason."""

import json
from collections.abc import Iterable
from typing import Any

from sqlite_utils import Database

from allinsam.store.connection import utc_now


def add_threshold(
    db: Database,
    slide_id: int,
    marker: str,
    value: float,
    method: str,
    signed_by: str,
    patch_id: int | None = None,
    reason: str | None = None,
) -> int:
    """Sign a new version. `value` is in the channel's own grey levels."""
    version = (
        1
        + db.execute(
            "SELECT ifnull(max(version), 0) FROM threshold WHERE slide_id = ? AND marker = ? "
            "AND ifnull(patch_id, 0) = ?",
            [slide_id, marker, patch_id or 0],
        ).fetchone()[0]
    )
    row = {
        "slide_id": slide_id,
        "marker": marker,
        "patch_id": patch_id,
        "reason": reason,
        "version": version,
        "value": float(value),
        "method": method,
        "signed_by": signed_by,
        "signed_at": utc_now(),
    }
    return int(db["threshold"].insert(row).last_pk)


def current_threshold(
    db: Database, slide_id: int, marker: str, patch_id: int | None = None
) -> dict[str, Any] | None:
    """The newest threshold that holds for this patch: its own if it has one, else the slide's."""
    query = """SELECT * FROM threshold WHERE slide_id = :slide AND marker = :marker
        AND (patch_id IS NULL OR patch_id = :patch)
        ORDER BY patch_id IS NULL, version DESC LIMIT 1"""
    for row in db.query(query, {"slide": slide_id, "marker": marker, "patch": patch_id}):
        return row
    return None


def signed(db: Database) -> set[tuple[int, str, int | None]]:
    """(slide, marker, patch) with a signed threshold; patch None: of the whole slide."""
    return set(db.execute("SELECT DISTINCT slide_id, marker, patch_id FROM threshold").fetchall())


def own_thresholds(db: Database, slide_id: int, marker: str) -> dict[int, dict[str, Any]]:
    """Patch id -> the newest threshold signed for that patch alone, of those that have one."""
    rows = db["threshold"].rows_where(
        "slide_id = ? AND marker = ? AND patch_id IS NOT NULL", [slide_id, marker], order_by="version"
    )
    return {row["patch_id"]: row for row in rows}


def unsigned_markers(
    db: Database, guidances: Iterable[str], assignment_ids: Iterable[int] | None = None
) -> dict[int, list[str]]:
    """Assignment id -> markers it is asked about, that its slide has and nobody has signed a threshold for.

    Only assignments with one of these guidances that are not handed in, of those named or of all.
    """
    named = None if assignment_ids is None else json.dumps(list(assignment_ids))
    query = """SELECT DISTINCT a.id, c.marker
        FROM assignment a JOIN patch p ON p.id = a.patch_id
        JOIN assignment_class ac ON ac.assignment_id = a.id JOIN cell_class c ON c.id = ac.class_id
        WHERE a.state <> 'submitted' AND a.guidance IN (SELECT value FROM json_each(:guidances))
        AND (:named IS NULL OR a.id IN (SELECT value FROM json_each(:named)))
        AND EXISTS (SELECT 1 FROM channel h JOIN patch q ON q.id = h.patch_id
            WHERE q.slide_id = p.slide_id AND h.role = 'marker' AND h.marker = c.marker)
        AND NOT EXISTS (SELECT 1 FROM threshold t WHERE t.slide_id = p.slide_id AND t.marker = c.marker
            AND (t.patch_id IS NULL OR t.patch_id = p.id))
        ORDER BY a.id, c.marker"""
    found: dict[int, list[str]] = {}
    for row in db.query(query, {"guidances": json.dumps(list(guidances)), "named": named}):
        found.setdefault(row["id"], []).append(row["marker"])
    return found


def list_thresholds(db: Database) -> list[dict[str, Any]]:
    return list(
        db.query(
            """SELECT t.*, s.name AS slide FROM threshold t JOIN slide s ON s.id = t.slide_id
            ORDER BY s.name, t.marker, t.patch_id, t.version"""
        )
    )
