"""Every table that leaves as CSV."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from allinsam.errors import NotFoundError
from allinsam.files import write_file
from allinsam.masks import rle_area
from allinsam.records import Mask
from allinsam.store import Study, images, learning, settled
from allinsam.store import accounts as account_store
from allinsam.store import acts as act_store
from allinsam.store import study as study_store
from allinsam.tables import to_csv
from allinsam.workflow.agreed import consensus_table, reliability_table
from allinsam.workflow.agreeing import agreement_export, alpha_export, classes_export, intra_export
from allinsam.workflow.caused import boxes_and_masks_table, causes_table, standing_out_table
from allinsam.workflow.export_columns import COLUMNS
from allinsam.workflow.figures import figures_table
from allinsam.workflow.label_costs import minutes_and_scores
from allinsam.workflow.paces import learning_curve_table
from allinsam.workflow.progress import study_progress
from allinsam.workflow.rated import ratings
from allinsam.workflow.reviewed import decisions_table, reviews_table
from allinsam.workflow.scored import scores_table
from allinsam.workflow.suggesting import automation_bias_table, suggestions_table
from allinsam.workflow.taught import learning_table
from allinsam.workflow.work_times import times_by_assignment


def objects_table(study: Study) -> pd.DataFrame:
    """Every accepted object: who, where, class, first box, area, origin and molecular support."""
    with study.science.read() as db:
        rows = act_store.current_annotations(db)
        um = {patch["id"]: patch["um_per_px"] for patch in images.list_patches(db)}
    columns = list(COLUMNS["objects"])
    return pd.DataFrame([_object_row(row, um[row["patch_id"]]) for row in rows], columns=columns)


def _object_row(row: dict[str, Any], um_per_px: float | None) -> dict[str, Any]:
    keys = ("object_id", "person_id", "group", "slide", "patch", "condition", "purpose", "guidance", "tool")
    box = json.loads(row["first_box"]) if row["first_box"] else [None] * 4
    area_px = rle_area(Mask.from_row(row).as_rle())
    return {
        **{key: row[key] for key in keys},
        "class": row["class_name"],
        "origin": row["origin"],
        "suggested": bool(row["suggested"]),
        "planted": row["planted"],
        **dict(zip(("x0_px", "y0_px", "x1_px", "y1_px"), box, strict=True)),
        "area_px": area_px,
        "area_um2": round(area_px * um_per_px**2, 3) if um_per_px else None,
        "predicted_iou": row["predicted_iou"],
        "molecular_support": row["molecular_support"],
        "threshold_id": row["threshold_id"],
        "registration_id": row["registration_id"],
        "backbone": row["backbone"],
        "saved_at": row["received_at"],
        "mask_rle": row["mask_counts"],
        "mask_height_px": row["mask_height_px"],
        "mask_width_px": row["mask_width_px"],
    }


def acts_table(study: Study) -> pd.DataFrame:
    with study.science.read() as db:
        return pd.DataFrame(act_store.act_rows(db), columns=list(COLUMNS["acts"]))


def consents_table(study: Study) -> pd.DataFrame:
    """Every answer to every version of the consent text, by pseudonym."""
    with study.science.read() as db:
        return pd.DataFrame(learning.list_consents(db), columns=list(COLUMNS["consents"]))


def people_table(study: Study) -> pd.DataFrame:
    """Everybody by pseudonym, and how far they are."""
    with study.science.read() as db:
        joined = {row["id"]: row for row in study_store.list_people(db)}
    rows = [
        {**joined[one.person_id], **vars(one), "joined_at": joined[one.person_id]["created_at"]}
        for one in study_progress(study).people
    ]
    return pd.DataFrame(rows, columns=list(COLUMNS["people"]))


def named_people_table(study: Study) -> pd.DataFrame:
    """The same with sign-in names and roles: the only table with names, for the lead alone."""
    with study.server.read() as db:
        known = {row["person_id"]: row for row in account_store.list_accounts(db)}
    table = people_table(study)
    for place, column in enumerate(("name", "role")):
        table.insert(place, column, [known.get(one, {}).get(column) for one in table["person_id"]])
    return table


def settled_table(study: Study) -> pd.DataFrame:
    with study.science.read() as db:
        rows = [{**row, "detail": json.dumps(row["detail"])} for row in settled.list_settled(db)]
    return pd.DataFrame(rows, columns=list(COLUMNS["settled"]))


EXPORTS: dict[str, Callable[[Study], pd.DataFrame]] = {
    "figures": figures_table,
    "objects": objects_table,
    "acts": acts_table,
    "times": times_by_assignment,
    "learning_curve": learning_curve_table,
    "agreement": agreement_export,
    "classes": classes_export,
    "intra_rater": intra_export,
    "alpha": alpha_export,
    "consensus": lambda study: consensus_table(study, ratings(study)),
    "reliability": lambda study: reliability_table(study, ratings(study)),
    "standing_out": standing_out_table,
    "causes": causes_table,
    "boxes_and_masks": boxes_and_masks_table,
    "learning": learning_table,
    "people": people_table,
    "consents": consents_table,
    "reviews": reviews_table,
    "decisions": decisions_table,
    "settled": settled_table,
    "scores": scores_table,
    "minutes_and_scores": minutes_and_scores,
    "suggestions": suggestions_table,
    "automation_bias": automation_bias_table,
}


def export_table(study: Study, name: str) -> pd.DataFrame:
    if name not in EXPORTS:
        raise NotFoundError(f"Unknown table {name!r}. Choose one of {sorted(EXPORTS)}.")
    return EXPORTS[name](study)


def export_csv(study: Study, name: str) -> bytes:
    return to_csv(export_table(study, name))


def write_exports(study: Study, folder: Path, names: Sequence[str] | None = None) -> dict[str, str]:
    """Write tables as CSV files; returns name -> path."""
    contents = {name: export_csv(study, name) for name in names or EXPORTS}
    for name, content in contents.items():
        write_file(Path(folder) / f"{name}.csv", content)
    return {name: str(Path(folder) / f"{name}.csv") for name in contents}
