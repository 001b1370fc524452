"""Tables of reviews and of what was decided in them."""

from collections import Counter
from typing import Any

import pandas as pd
from sqlite_utils import Database

from allinsam.masks import rle_area
from allinsam.records import Mask
from allinsam.store import Study, images, reviews
from allinsam.workflow.export_columns import COLUMNS


def reviews_table(study: Study) -> pd.DataFrame:
    """One row for each version of a review."""
    with study.science.read() as db:
        rows = [_review_row(db, row) for row in reviews.list_reviews(db)]
    return pd.DataFrame(rows, columns=list(COLUMNS["reviews"]))


def _review_row(db: Database, row: dict[str, Any]) -> dict[str, Any]:
    sources = reviews.review_sources(db, row["id"])
    objects = reviews.review_objects(db, row["id"])
    people = sorted({source["person_id"] for source in sources})
    decided = Counter(
        d["kind"] for d in reviews.list_decisions(db, row["patch_id"]) if d["review_id"] == row["id"]
    )
    return {
        **{key: row[key] for key in ("slide", "patch", "condition", "version", "created_at", "finished_at")},
        "person_id": row["reviewer_id"],
        "finished_by": row["finished_by"],
        "raters": len(people),
        "people": " ".join(people),
        "is_rater": row["reviewer_id"] in people,
        "classes": " ".join(sorted({source["class_name"] for source in sources})),
        "decisions": sum(n for kind, n in decided.items() if kind != "undo"),
        "undone": decided["undo"],
        "nuclei": len(objects) if row["finished_at"] else None,
        "unanimous": sum(thing["kind"] is None for thing in objects) if row["finished_at"] else None,
        "is_gold": bool(row["is_gold"]),
        "comment": row["comment"],
    }


def decisions_table(study: Study) -> pd.DataFrame:
    """Every decision in order, those that were taken back and their taking back included."""
    with study.science.read() as db:
        rows = reviews.list_decisions(db)
        patches = {patch["id"]: patch for patch in images.list_patches(db)}
    return pd.DataFrame(
        [_decision_row(row, patches[row["patch_id"]]) for row in rows], columns=list(COLUMNS["decisions"])
    )


def _decision_row(row: dict[str, Any], patch: dict[str, Any]) -> dict[str, Any]:
    sides = (row["mask_height_px"], row["mask_width_px"])
    keys = ("id", "version", "cluster_id", "kind", "picked_assignment_id", "undoes", "undone_by", "comment")
    keys += ("person_id", "decided_at")
    return {
        **{key: row[key] for key in keys},
        **{key: patch[key] for key in ("slide", "condition")},
        "patch": patch["name"],
        "class": row["class_name"],
        "sources": " ".join(f"{assignment}:{thing}" for assignment, thing, _ in row["sources"]),
        "area_px": rle_area(Mask(*sides, row["mask_counts"]).as_rle()) if row["mask_counts"] else None,
        "mask_rle": row["mask_counts"],
        "mask_height_px": sides[0],
        "mask_width_px": sides[1],
    }
