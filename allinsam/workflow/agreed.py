"""Tables of what people agree on and how far each can be trusted: of each group, and of everyone together."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from allinsam.agreement import Ratings
from allinsam.consensus import RULES, PatchConsensus
from allinsam.marks import rated_labels
from allinsam.masks import encode_rle
from allinsam.reliability import reliability
from allinsam.store import Study, images
from allinsam.store import study as study_store
from allinsam.workflow.export_columns import COLUMNS

EVERYONE = "everyone"
EXPORTED_RULE = "majority"


def by_group(study: Study, rated: Ratings) -> dict[str, Ratings]:
    """The ratings of everyone, and of each group that has two people or more."""
    with study.science.read() as db:
        group_of = {person["id"]: person["group"] for person in study_store.list_people(db)}
    people = {rater for by_rater in rated.values() for rater in by_rater}
    found = {EVERYONE: dict(rated)}
    for group in sorted({group_of[rater] for rater in people}):
        members = {rater for rater in people if group_of[rater] == group}
        if len(members) > 1:
            kept = {p: {r: by[r] for r in by if r in members} for p, by in rated.items()}
            found[group] = {patch: by_rater for patch, by_rater in kept.items() if by_rater}
    return found


def consensus_table(study: Study, rated: Ratings) -> pd.DataFrame:
    """One row for each nucleus of the majority consensus."""
    with study.science.read() as db:
        patches = {patch["name"]: patch for patch in images.list_patches(db)}
    rows: list[dict[str, Any]] = []
    for group, ratings in by_group(study, rated).items():
        decided = RULES[EXPORTED_RULE]({name: rated_labels(by_rater) for name, by_rater in ratings.items()})
        for name, consensus in decided.items():
            rows += [{"raters": group, **row} for row in _object_rows(patches[name], consensus)]
    return pd.DataFrame(rows, columns=list(COLUMNS["consensus"]))


def _object_rows(patch: Mapping[str, Any], consensus: PatchConsensus) -> list[dict[str, Any]]:
    height_px, width_px = consensus.size_hw
    rows = []
    for number, thing in enumerate(consensus.objects, start=1):
        y, x = np.divmod(thing.pixels, width_px)
        um = patch["um_per_px"]
        rows.append(
            {
                **{key: patch[key] for key in ("slide", "condition")},
                "patch": patch["name"],
                "number": number,
                "class": thing.choice.class_name,
                "class_probability": round(thing.choice.probability, 4),
                "class_tie": thing.choice.tie,
                "votes": thing.votes,
                "looked": thing.n_looked,
                "people": " ".join(sorted(member.rater for member in thing.members)),
                "x_px": round(float(x.mean()) + 0.5, 2),
                "y_px": round(float(y.mean()) + 0.5, 2),
                "area_px": len(thing.pixels),
                "area_um2": round(len(thing.pixels) * um**2, 3) if um else None,
                "mask_rle": encode_rle(consensus.mask(thing))["counts"],
                "mask_height_px": height_px,
                "mask_width_px": width_px,
            }
        )
    return rows


def count_rows(study: Study, rated: Ratings) -> dict[str, int]:
    """Rows of both tables, without the time that reliability takes."""
    people = {
        (group, rater, name)
        for group, ratings in by_group(study, rated).items()
        for by_rater in ratings.values()
        for rater, classes in by_rater.items()
        for name in classes
    }
    return {"consensus": len(consensus_table(study, rated)), "reliability": len(people)}


def reliability_table(study: Study, rated: Ratings) -> pd.DataFrame:
    """`reliability` among everyone, and among the people of each group."""
    columns = list(COLUMNS["reliability"])
    tables = [
        reliability(ratings).rename(columns={"rater": "person_id"}).assign(raters=group)
        for group, ratings in by_group(study, rated).items()
    ]
    filled = [table for table in tables if len(table)]
    return pd.concat(filled, ignore_index=True)[columns] if filled else pd.DataFrame(columns=columns)
