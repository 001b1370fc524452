"""Tables behind the agreement, comparison and export pages."""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from allinsam.agreement import class_agreement, pairwise_agreement
from allinsam.comparison import cluster_bootstrap, holm, paired_test
from allinsam.errors import InputError
from allinsam.masks import decode_rle, instances_to_labels, rle_area
from allinsam.records import Mask
from allinsam.store import Study, images, runs
from allinsam.store import acts as act_store
from allinsam.store import assignments as queue
from allinsam.store import study as study_store
from allinsam.timing import active_seconds, model_wait_seconds, seconds_per_object
from allinsam.workflow.annotating import read_patch, write_file
from allinsam.workflow.learning import LabelRecipe, read_labels, read_prediction

SPREADSHEET_COMMANDS = ("=", "+", "-", "@", "\t", "\r")
PEOPLES_PURPOSES = ("production",)

# ---------------------------------------------------------------------------------------- agreement


def ratings(study: Study) -> dict[str, dict[str, dict[str, np.ndarray]]]:
    """patch -> person -> class -> label image, of all finished production work; the truth is nobody's rating."""
    with study.science.read() as db:
        claims = [
            row
            for row in queue.all_assignment_classes(db)
            if row["assignment_state"] == "submitted"
            and row["state"] in ("complete", "nothing_here")
            and row["purpose"] in PEOPLES_PURPOSES
            and row["group"] != "truth"
        ]
        objects = act_store.current_annotations(db)
        patches = {patch["id"]: patch for patch in images.list_patches(db)}
    masks: dict[tuple[int, int], list[np.ndarray]] = {}
    wanted = {(claim["assignment_id"], claim["class_id"]) for claim in claims}
    for row in objects:
        key = (row["assignment_id"], row["class_id"])
        if key in wanted:
            masks.setdefault(key, []).append(decode_rle(_rle(row)))
    found: dict[str, dict[str, dict[str, np.ndarray]]] = {}
    for claim in claims:
        patch = patches[claim["patch_id"]]
        mine = masks.get((claim["assignment_id"], claim["class_id"]), [])
        size_hw = (patch["height_px"], patch["width_px"])
        labels = instances_to_labels(mine, np.ones(len(mine))) if mine else np.zeros(size_hw, np.int32)
        found.setdefault(patch["name"], {}).setdefault(claim["person_id"], {})[claim["class_name"]] = labels
    return found


def _rle(row: dict[str, Any]) -> dict[str, Any]:
    return Mask(row["mask_height_px"], row["mask_width_px"], row["mask_counts"]).as_rle()


def slide_of_patch(study: Study) -> dict[str, str]:
    with study.science.read() as db:
        return {patch["name"]: patch["slide"] for patch in images.list_patches(db)}


def agreement_tables(study: Study) -> dict[str, pd.DataFrame]:
    """pairwise (a row per patch, class and pair), classes (kappa and AC1 per pair), times (per person)."""
    rated = ratings(study)
    return {
        "pairwise": pairwise_agreement(rated),
        "classes": class_agreement(rated),
        "times": times_by_person(study),
    }


# --------------------------------------------------------------------------------------------- time


def times_by_assignment(study: Study, idle_cutoff_s: float | None = None) -> pd.DataFrame:
    """Active seconds, model wait and objects of every assignment that people (not the truth) worked on."""
    with study.science.read() as db:
        cutoff = idle_cutoff_s or float(study_store.get_study(db)["plan"]["idle_cutoff_s"])
        assignments = [a for a in queue.list_assignments(db) if a["group"] != "truth"]
        acts = {a["id"]: act_store.list_acts(db, a["id"]) for a in assignments}
        kept = pd.Series([row["assignment_id"] for row in act_store.current_annotations(db)], dtype=int)
    objects = kept.value_counts()
    rows = []
    for assignment in assignments:
        mine = [asdict(act) for act in acts[assignment["id"]]]
        if not mine:
            continue
        keys = ("person_id", "group", "patch", "slide", "condition", "purpose", "guidance", "tool", "state")
        rows.append(
            {
                **{key: assignment[key] for key in keys},
                "objects": int(objects.get(assignment["id"], 0)),
                "active_s": active_seconds(mine, cutoff),
                "model_wait_s": model_wait_seconds(mine),
                "idle_cutoff_s": cutoff,
            }
        )
    columns = ["person_id", "group", "patch", "objects", "active_s", "model_wait_s", "idle_cutoff_s"]
    return pd.DataFrame(rows) if rows else pd.DataFrame(columns=columns)


def seconds_by_object(study: Study) -> pd.DataFrame:
    """Active seconds of every object anybody touched: person_id, group, patch, object_id, seconds."""
    with study.science.read() as db:
        cutoff = float(study_store.get_study(db)["plan"]["idle_cutoff_s"])
        assignments = [a for a in queue.list_assignments(db) if a["group"] != "truth"]
        acts = {a["id"]: act_store.list_acts(db, a["id"]) for a in assignments}
    rows = [
        {key: a[key] for key in ("person_id", "group", "patch")}
        | {"object_id": object_id, "seconds": seconds}
        for a in assignments
        for object_id, seconds in seconds_per_object([asdict(act) for act in acts[a["id"]]], cutoff).items()
    ]
    return pd.DataFrame(rows, columns=["person_id", "group", "patch", "object_id", "seconds"])


def times_by_person(study: Study) -> pd.DataFrame:
    """Per person: patches, objects, median seconds per object, median active minutes per patch."""
    by_patch, by_object = times_by_assignment(study), seconds_by_object(study)
    columns = ["person_id", "group", "patches", "objects", "median_s_per_object", "median_min_per_patch"]
    if by_patch.empty:
        return pd.DataFrame(columns=columns)
    seconds = by_object.groupby("person_id")["seconds"].median()
    table = (
        by_patch.groupby(["person_id", "group"])
        .agg(patches=("patch", "nunique"), objects=("objects", "sum"), active=("active_s", "median"))
        .reset_index()
    )
    table["median_s_per_object"] = table["person_id"].map(seconds)
    table["median_min_per_patch"] = table.pop("active") / 60.0
    return table[columns]


# ------------------------------------------------------------------------------------------- scores


def scores_table(study: Study) -> pd.DataFrame:
    """Tidy scores: one row per scored thing, patch, class and metric.

    `kind` is "model" (a run, from PAS alone) or "people" (labels as drawn); `label` says whose labels.
    """
    with study.science.read() as db:
        stored = runs.list_scores(db)
        settings = {run["id"]: run for run in runs.list_runs(db)}
    rows = []
    for row in stored:
        run = settings.get(row["run_id"])
        recipe = run["recipe"] if run else json.loads(row["label_recipe"])
        label = LabelRecipe.from_dict(recipe).title if recipe else "untrained"
        reference = LabelRecipe.from_dict(json.loads(row["reference_recipe"])).title
        keys = ("run_id", "label_set_id", "patch", "slide", "condition", "class_name", "metric", "value", "n")
        named = {"kind": "model" if run else "people", "label": label, "run": row["run"] or label}
        rows.append({**named, "reference": reference, **{key: row[key] for key in keys}})
    columns = ["kind", "label", "run", "reference", "run_id", "label_set_id", "patch", "slide", "condition"]
    return pd.DataFrame(rows, columns=[*columns, "class_name", "metric", "value", "n"])


def newest_scores(scores: pd.DataFrame, kind: str = "model") -> pd.DataFrame:
    """Of several runs on the same kind of labels only the newest one's scores."""
    chosen = scores[scores["kind"] == kind]
    newest = chosen.groupby("label")["run_id" if kind == "model" else "label_set_id"].transform("max")
    return chosen[chosen["run_id" if kind == "model" else "label_set_id"] == newest]


def mean_scores(study: Study) -> pd.DataFrame:
    """Mean over test patches per run, class and metric, with its n and 95 % interval over slides."""
    scores = scores_table(study)
    groups = ["kind", "label", "run_id", "label_set_id", "reference", "class_name", "metric"]
    rows = []
    for keys, group in scores.groupby(groups, dropna=False):
        low, high = cluster_bootstrap(group["value"].to_numpy(dtype=float), group["slide"].to_numpy(), seed=0)
        figures = {"mean": group["value"].mean(), "low": low, "high": high, "patches": len(group)}
        rows.append({**dict(zip(groups, keys, strict=True)), **figures, "nuclei": int(group["n"].sum())})
    return pd.DataFrame(rows, columns=[*groups, "mean", "low", "high", "patches", "nuclei"])


def compare(study: Study, a: str, b: str, metric: str = "f1_instance", kind: str = "model") -> pd.DataFrame:
    """Paired test of a against b over the test patches, per class and condition ("all" first).

    `a` and `b` are labels of `scores_table` (expert, students, untrained, ...) or run ids.
    """
    scores = scores_table(study)
    scores = scores[scores["metric"] == metric]
    first, second = _scored_as(scores, a, kind), _scored_as(scores, b, kind)
    rows = []
    for name in sorted(set(first["class_name"]) & set(second["class_name"])):
        for condition in ["all", *sorted(set(first["condition"]))]:
            x, y = (_by_patch(table, name, condition) for table in (first, second))
            if x.empty or y.empty:
                continue
            means = {"mean_a": x.mean(), "mean_b": y.mean()}
            test = {"class_name": name, "condition": condition, **means, **asdict(paired_test(x, y))}
            rows.append(test)
    table = pd.DataFrame(rows)
    if not table.empty:
        table["p_holm"] = holm(table["p_value"].tolist())
    return table


def _scored_as(scores: pd.DataFrame, wanted: str, kind: str) -> pd.DataFrame:
    if str(wanted).isdigit():
        found = scores[scores["run_id"] == int(wanted)]
    else:
        newest = newest_scores(scores, kind)
        found = newest[newest["label"] == wanted]
    if found.empty:
        known = sorted(set(scores.loc[scores["kind"] == kind, "label"]))
        raise InputError(
            f"No scores for {wanted!r}. Choose from {known} or a run's id, or evaluate it first."
        )
    return found


def _by_patch(scores: pd.DataFrame, class_name: str, condition: str) -> pd.Series:
    mine = scores[scores["class_name"] == class_name]
    if condition != "all":
        mine = mine[mine["condition"] == condition]
    return mine.set_index("patch")["value"]


def worst_patches(
    study: Study, run_id: int, class_name: str, metric: str, count: int = 4
) -> list[dict[str, Any]]:
    """The test patches a run did worst on, with the picture and both sets of outlines as label images."""
    with study.science.read() as db:
        mine = [
            row
            for row in runs.list_scores(db)
            if row["run_id"] == run_id and row["class_name"] == class_name and row["metric"] == metric
        ]
    mine.sort(key=lambda row: (row["value"], -row["n"]))
    return [
        {
            **{key: row[key] for key in ("patch_id", "patch", "slide", "condition", "value", "n")},
            "image_rgb": read_patch(study, row["patch_id"]),
            "found": read_prediction(study, run_id, row["patch_id"], class_name),
            "truth": read_labels(study, row["reference_id"])[row["patch_id"]][class_name],
        }
        for row in mine[:count]
    ]


# ------------------------------------------------------------------------------------------ exports


def objects_table(study: Study) -> pd.DataFrame:
    """Every accepted object: who, where, class, first box, area, origin and molecular support."""
    with study.science.read() as db:
        rows = act_store.current_annotations(db)
        um = {patch["id"]: patch["um_per_px"] for patch in images.list_patches(db)}
    return pd.DataFrame([_object_row(row, um[row["patch_id"]]) for row in rows])


def _object_row(row: dict[str, Any], um_per_px: float | None) -> dict[str, Any]:
    keys = ("object_id", "person_id", "group", "slide", "patch", "condition", "purpose", "guidance", "tool")
    box = json.loads(row["first_box"]) if row["first_box"] else [None] * 4
    area_px = rle_area(_rle(row))
    return {
        **{key: row[key] for key in keys},
        "class": row["class_name"],
        "origin": row["origin"],
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
        return pd.DataFrame(act_store.act_rows(db))


EXPORTS: dict[str, Callable[[Study], pd.DataFrame]] = {
    "objects": objects_table,
    "acts": acts_table,
    "times": times_by_assignment,
    "agreement": lambda study: pairwise_agreement(ratings(study)),
    "classes": lambda study: class_agreement(ratings(study)),
    "scores": scores_table,
}


def to_csv(table: pd.DataFrame) -> bytes:
    """CSV (UTF-8) whose text cells a spreadsheet will not run as commands."""
    safe = table.copy()
    for column in safe.columns:
        if not pd.api.types.is_numeric_dtype(safe[column]):
            safe[column] = [_harmless(value) for value in safe[column]]
    return safe.to_csv(index=False).encode("utf-8")


def _harmless(value: Any) -> Any:
    return "'" + value if isinstance(value, str) and value.startswith(SPREADSHEET_COMMANDS) else value


def export_csv(study: Study, name: str) -> bytes:
    if name not in EXPORTS:
        raise InputError(f"Unknown table {name!r}. Choose one of {sorted(EXPORTS)}.")
    return to_csv(EXPORTS[name](study))


def write_exports(study: Study, folder: Path, names: Sequence[str] | None = None) -> dict[str, str]:
    """Write tables as CSV files; returns name -> path."""
    contents = {name: export_csv(study, name) for name in names or EXPORTS}
    for name, content in contents.items():
        write_file(Path(folder) / f"{name}.csv", content)
    return {name: str(Path(folder) / f"{name}.csv") for name in contents}
