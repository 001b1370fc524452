"""Slides, patches, their channels and registrations."""

import json
from typing import Any

import numpy as np
from sqlite_utils import Database

from allinsam.errors import NotFoundError
from allinsam.store.connection import utc_now

PATCH_QUERY = """
SELECT p.*, s.name AS slide, i.height_px, i.width_px
FROM patch p JOIN slide s ON s.id = p.slide_id JOIN image i ON i.sha256 = p.image_sha256
"""


def add_image(db: Database, sha256: str, height_px: int, width_px: int, bits: int, source_name: str) -> None:
    """Register a stored file; the same content twice is one image."""
    db["image"].insert(
        {
            "sha256": sha256,
            "height_px": height_px,
            "width_px": width_px,
            "bits": bits,
            "source_name": source_name,
        },
        ignore=True,
    )


def list_images(db: Database) -> list[dict[str, Any]]:
    return list(db["image"].rows_where(order_by="sha256"))


def add_slide(
    db: Database,
    name: str,
    condition: str,
    um_per_px: float | None = None,
    path: str | None = None,
    sha256: str | None = None,
    if_path: str | None = None,
    if_sha256: str | None = None,
) -> int:
    """`path` and `if_path` are of the files that patches were cut from; they stay where they are."""
    row = {"name": name, "condition": condition, "um_per_px": um_per_px}
    row |= {"path": path, "sha256": sha256, "if_path": if_path, "if_sha256": if_sha256}
    return int(db["slide"].insert(row).last_pk)


def list_slides(db: Database) -> list[dict[str, Any]]:
    return list(db["slide"].rows_where(order_by="name"))


def add_patch(db: Database, **fields: Any) -> int:
    """Fields: name, slide_id, condition, image_sha256 and optionally glomerulus, x0, y0, um_per_px."""
    return int(db["patch"].insert({**fields, "created_at": utc_now()}).last_pk)


def list_patches(db: Database, slide_id: int | None = None) -> list[dict[str, Any]]:
    """Every patch with its slide's name and its size in px."""
    where = "WHERE p.slide_id = :slide" if slide_id is not None else ""
    return list(db.query(f"{PATCH_QUERY} {where} ORDER BY s.name, p.name", {"slide": slide_id}))


def get_patch(db: Database, patch_id: int) -> dict[str, Any]:
    for row in db.query(f"{PATCH_QUERY} WHERE p.id = :patch", {"patch": patch_id}):
        return row
    raise NotFoundError(f"No patch {patch_id!r} in this study.")


def add_channel(db: Database, patch_id: int, role: str, marker: str, image_sha256: str) -> int:
    row = {"patch_id": patch_id, "role": role, "marker": marker, "image_sha256": image_sha256}
    return int(db["channel"].insert(row).last_pk)


def list_channels(db: Database, patch_id: int) -> list[dict[str, Any]]:
    return list(db["channel"].rows_where("patch_id = ?", [patch_id], order_by="id"))


def slide_markers(db: Database) -> list[dict[str, Any]]:
    """Every (slide_id, slide, marker) that has at least one marker channel, with its count of patches."""
    return list(
        db.query(
            """SELECT s.id AS slide_id, s.name AS slide, s.condition, c.marker, count(*) AS patches
            FROM channel c JOIN patch p ON p.id = c.patch_id JOIN slide s ON s.id = p.slide_id
            WHERE c.role = 'marker' GROUP BY s.id, c.marker ORDER BY s.name, c.marker"""
        )
    )


def add_registration(
    db: Database,
    patch_id: int,
    matrix: np.ndarray,
    method: str,
    accepted: bool,
    quality: float | None = None,
    person_id: str | None = None,
    residual_px: float | None = None,
    reason: str | None = None,
) -> int:
    """A new version of a patch's IF -> PAS transform (2x3). `residual_px` is in px of the patch.

    Args:
        reason: of one that is not accepted, why it was not believed; of one that a person accepted although
            it was not, why they did.
    """
    version = (
        1
        + db.execute(
            "SELECT ifnull(max(version), 0) FROM registration WHERE patch_id = ?", [patch_id]
        ).fetchone()[0]
    )
    row = {
        "patch_id": patch_id,
        "version": version,
        "matrix": json.dumps(np.asarray(matrix, dtype=float).tolist()),
        "method": method,
        "quality": quality,
        "residual_px": residual_px,
        "accepted": int(accepted),
        "reason": reason,
        "person_id": person_id,
        "created_at": utc_now(),
    }
    return int(db["registration"].insert(row).last_pk)


def current_registration(db: Database, patch_id: int) -> dict[str, Any] | None:
    """The newest accepted registration of a patch, `matrix` as a 2x3 array."""
    query = "SELECT * FROM registration WHERE patch_id = ? AND accepted = 1 ORDER BY version DESC LIMIT 1"
    for row in db.query(query, [patch_id]):
        return _registration(row)
    return None


def list_registrations(db: Database, patch_id: int) -> list[dict[str, Any]]:
    """Every version of a patch's registration, newest first, `matrix` as a 2x3 array."""
    rows = db["registration"].rows_where("patch_id = ?", [patch_id], order_by="version DESC")
    return [_registration(row) for row in rows]


def newest_registrations(db: Database) -> dict[int, dict[str, Any]]:
    """Patch id -> its newest registration, accepted or not."""
    query = """SELECT * FROM registration r
        WHERE version = (SELECT max(version) FROM registration WHERE patch_id = r.patch_id)"""
    return {row["patch_id"]: _registration(row) for row in db.query(query)}


def _registration(row: dict[str, Any]) -> dict[str, Any]:
    return {**row, "matrix": np.array(json.loads(row["matrix"]))}


def channel_counts(db: Database) -> dict[int, int]:
    """Patch id -> how many IF channels it has; patches without any are left out."""
    rows = db.execute("SELECT patch_id, count(*) FROM channel GROUP BY patch_id").fetchall()
    return {row[0]: row[1] for row in rows}


def patches_on_hold(db: Database) -> set[int]:
    """Patches whose newest registration was not accepted: nobody is to be guided by their IF."""
    query = """SELECT patch_id FROM registration r WHERE accepted = 0
        AND version = (SELECT max(version) FROM registration WHERE patch_id = r.patch_id)"""
    return {row["patch_id"] for row in db.query(query)}
