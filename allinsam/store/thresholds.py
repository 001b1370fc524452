"""Signed marker thresholds, per slide and marker, versioned; a patch may have its own with a reason."""

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


def own_thresholds(db: Database, slide_id: int, marker: str) -> dict[int, dict[str, Any]]:
    """Patch id -> the newest threshold signed for that patch alone, of those that have one."""
    rows = db["threshold"].rows_where(
        "slide_id = ? AND marker = ? AND patch_id IS NOT NULL", [slide_id, marker], order_by="version"
    )
    return {row["patch_id"]: row for row in rows}


def list_thresholds(db: Database) -> list[dict[str, Any]]:
    return list(
        db.query(
            """SELECT t.*, s.name AS slide FROM threshold t JOIN slide s ON s.id = t.slide_id
            ORDER BY s.name, t.marker, t.patch_id, t.version"""
        )
    )
