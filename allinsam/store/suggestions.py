"""What was proposed on a patch before anybody looked, and what of it is wrong on purpose: append-only."""

from collections.abc import Iterable, Mapping
from typing import Any

from sqlite_utils import Database

from allinsam.store.connection import utc_now


def add_suggestions(
    db: Database, assignment_id: int, made: Mapping[str, Any], rows: Iterable[Mapping[str, Any]]
) -> None:
    """Keep an assignment's suggestions, once.

    Args:
        made: source, run_id, backbone, weights_sha256, planted_share, seed.
        rows: object_id, class_id, mask_counts, planted (kind or None) of each.
    """
    db["suggestion_set"].insert({"assignment_id": assignment_id, **made, "made_at": utc_now()})
    db["suggestion"].insert_all({"assignment_id": assignment_id, **row} for row in rows)


def has_suggestions(db: Database, assignment_id: int) -> bool:
    """Whether they were made, though there may be none."""
    query = "SELECT 1 FROM suggestion_set WHERE assignment_id = ?"
    return db.execute(query, [assignment_id]).fetchone() is not None


def list_suggestions(db: Database) -> list[dict[str, Any]]:
    """Every suggestion with its source, class, person, patch and slide, by assignment and in their order."""
    return list(
        db.query(
            """SELECT g.*, m.source, m.run_id, m.backbone, m.weights_sha256, m.planted_share, m.seed,
                c.name AS class_name, a.person_id, n.grp AS "group", a.purpose, a.tool, a.state,
                p.name AS patch, p.condition, s.name AS slide
            FROM suggestion g JOIN suggestion_set m ON m.assignment_id = g.assignment_id
            JOIN cell_class c ON c.id = g.class_id JOIN assignment a ON a.id = g.assignment_id
            JOIN person n ON n.id = a.person_id JOIN patch p ON p.id = a.patch_id
            JOIN slide s ON s.id = p.slide_id ORDER BY g.assignment_id, g.id"""
        )
    )
