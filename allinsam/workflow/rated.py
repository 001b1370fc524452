"""Who marked what, and how far people agree: the tables behind the Agreement page."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from allinsam.agreement import PAIRWISE_COLUMNS, summarise
from allinsam.masks import decode_rle, instances_to_labels
from allinsam.records import UNPROMPTED_GUIDANCES, Mask
from allinsam.store import Study, images
from allinsam.store import acts as act_store
from allinsam.store import assignments as queue
from allinsam.store import study as study_store
from allinsam.workflow.agreeing import Choice, choices_of, class_table, figures_of, peers
from allinsam.workflow.overlapping import study_overlaps
from allinsam.workflow.work_times import times_by_person

PEOPLES_PURPOSES = ("production",)


def is_rating(claim: Mapping[str, Any]) -> bool:
    """Whether a row of `finished_classes` is production of a person who was shown nobody's outlines."""
    return (
        claim["purpose"] in PEOPLES_PURPOSES
        and claim["guidance"] in UNPROMPTED_GUIDANCES
        and claim["group"] != "truth"
    )


def ratings(study: Study) -> dict[str, dict[str, dict[str, np.ndarray]]]:
    """patch -> person -> class -> label image of finished production work; the truth is nobody's rating.

    Work that began from suggestions is left out: people who were shown the same outlines agree by them.
    """
    with study.science.read() as db:
        claims = [row for row in queue.finished_classes(db) if is_rating(row)]
        objects = act_store.current_annotations(db)
        patches = {patch["id"]: patch for patch in images.list_patches(db)}
    masks: dict[tuple[int, int], list[np.ndarray]] = {}
    wanted = {(claim["assignment_id"], claim["class_id"]) for claim in claims}
    for row in objects:
        key = (row["assignment_id"], row["class_id"])
        if key in wanted:
            masks.setdefault(key, []).append(decode_rle(Mask.from_row(row).as_rle()))
    found: dict[str, dict[str, dict[str, np.ndarray]]] = {}
    for claim in claims:
        patch = patches[claim["patch_id"]]
        mine = masks.get((claim["assignment_id"], claim["class_id"]), [])
        size_hw = (patch["height_px"], patch["width_px"])
        labels = instances_to_labels(mine, np.ones(len(mine))) if mine else np.zeros(size_hw, np.int32)
        found.setdefault(patch["name"], {}).setdefault(claim["person_id"], {})[claim["class_name"]] = labels
    return found


def slide_of_patch(study: Study) -> dict[str, str]:
    with study.science.read() as db:
        return {patch["name"]: patch["slide"] for patch in images.list_patches(db)}


def agreement_tables(study: Study) -> dict[str, pd.DataFrame]:
    """pairwise (a row per patch, class and pair), classes (kappa and AC1 per pair), times (per person)."""
    made = study_overlaps(study)
    pairs = peers(made)
    return {
        "pairwise": figures_of(made, pairs)[PAIRWISE_COLUMNS],
        "classes": class_table(choices_of(made, pairs), Choice()),
        "times": times_by_person(study),
    }


def agreement_by_groups(study: Study, pairwise: pd.DataFrame) -> pd.DataFrame:
    """`pairwise` summarised per class and kind of pair ("student + student", "expert + student"), with
    the 95 % interval of F1 over slides."""
    with study.science.read() as db:
        group_of = {person["id"]: person["group"] for person in study_store.list_people(db)}
    sides = [pairwise[column].map(group_of) for column in ("rater_a", "rater_b")]
    kinds = [" + ".join(sorted(pair)) for pair in zip(*sides, strict=True)]
    return summarise(pairwise.assign(pair=kinds), ["class", "pair"], slide_of_patch(study))
