"""Why people disagree, and who stands out: the tables behind the "Why" tab of the Agreement page."""

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from allinsam import causes, outliers
from allinsam.causes import Drawn
from allinsam.marks import RatedPatch, mask_places, rated_patch
from allinsam.records import Act, Mask
from allinsam.sam.embeddings import EmbeddingCache
from allinsam.store import Study, images
from allinsam.store import acts as act_store
from allinsam.store import assignments as queue
from allinsam.store import study as study_store
from allinsam.workflow.export_columns import COLUMNS
from allinsam.workflow.first_masks import Box, make_masks, read_masks
from allinsam.workflow.learning import never, say_nothing
from allinsam.workflow.rated import PEOPLES_PURPOSES, is_rating
from allinsam.workflow.work_times import work_times

TOOL_OF_ORIGIN = {"sam": "box", "edited": "box", "drawn": "hand"}


@dataclass(frozen=True)
class Rated:
    """Who marked what (as `rated.ratings`, with the identity of every mark), and how each was made."""

    patches: dict[str, RatedPatch]
    drawn: dict[tuple[int, str], Drawn]  # by assignment and object
    weights_sha256: str  # of the study's SAM
    unanswered: dict[int, list[Box]]  # patch -> first boxes without a mask by that SAM


def rated_marks(study: Study) -> Rated:
    with study.science.read() as db:
        claims = [row for row in queue.finished_classes(db) if is_rating(row)]
        # Of two pieces of work of one person on one patch the newest.
        newest = {(c["patch_id"], c["person_id"], c["class_id"]): c for c in claims}
        wanted = {(c["assignment_id"], c["class_id"]) for c in newest.values()}
        kept = [r for r in act_store.current_annotations(db) if (r["assignment_id"], r["class_id"]) in wanted]
        patches = {row["id"]: row for row in images.list_patches(db)}
        weights_sha256 = study_store.get_study(db)["backbone_sha256"]
        first = {}
        for assignment_id in sorted({assignment_id for assignment_id, _ in wanted}):
            answers = first_answers(act_store.list_acts(db, assignment_id))
            first |= {(assignment_id, object_id): payload for object_id, payload in answers.items()}
    looked: dict[str, dict[str, set[str]]] = {}
    for claim in newest.values():
        by_person = looked.setdefault(patches[claim["patch_id"]]["name"], {})
        by_person.setdefault(claim["person_id"], set()).add(claim["class_name"])
    marked: dict[str, list[tuple]] = {name: [] for name in looked}
    drawn, unanswered = {}, {}
    made: dict[int, dict[Box, dict[str, Any]]] = {}  # what was answered afterwards, by patch
    for row in kept:
        key, patch_id = (row["assignment_id"], row["object_id"]), row["patch_id"]
        mark = (row["person_id"], row["class_name"], Mask.from_row(row).as_rle(), key)
        marked[row["patch"]].append(mark)
        box = tuple(json.loads(row["first_box"])) if row["first_box"] else None
        answer = first.get(key)
        if box is not None and (answer is None or answer["weights_sha256"] != weights_sha256):
            if patch_id not in made:
                made[patch_id] = read_masks(study, patches[patch_id]["image_sha256"], weights_sha256)
            if box in made[patch_id]:
                answer = {"mask": made[patch_id][box], "weights_sha256": weights_sha256}
            else:
                unanswered.setdefault(patch_id, []).append(box)
        drawn[key] = _drawn(TOOL_OF_ORIGIN.get(row["origin"], "other"), box, answer)
    size_of = {row["name"]: (row["height_px"], row["width_px"]) for row in patches.values()}
    rated = {name: rated_patch(size_of[name], looked[name], marked[name]) for name in sorted(looked)}
    return Rated(rated, drawn, weights_sha256, unanswered)


def _drawn(tool: str, box: Box | None, answer: Mapping[str, Any] | None) -> Drawn:
    if box is None or answer is None:
        return Drawn(tool, box)
    return Drawn(tool, box, mask_places(answer["mask"])[1], answer["weights_sha256"])


def make_first_masks(
    study: Study,
    report: Callable[[float, float, str, dict[str, Any]], None] = say_nothing,
    should_stop: Callable[[], bool] = never,
    cache: EmbeddingCache | None = None,
) -> dict[str, int]:
    """Ask the study's SAM for the masks of first boxes that it has not answered."""
    rated = rated_marks(study)
    return make_masks(study, rated.unanswered, rated.weights_sha256, report, should_stop, cache)


def first_answers(acts: Iterable[Act]) -> dict[str, Mapping[str, Any]]:
    """Object -> what SAM answered to its first box, as it was shown: before anything was moved, corrected or
    edited. A box that was moved before its mask came has none.
    """
    asked: dict[str, list] = {}
    fresh: set[str] = set()
    answers: dict[str, Mapping[str, Any]] = {}
    for act in acts:
        key = act.object_id or ""
        if act.kind == "box":
            asked[key] = [act.client, act.seq]
            fresh.add(key)
            continue
        if act.kind == "mask_shown" and key in asked and key not in answers:
            # Acts from before answers named their question follow it at once.
            named = act.payload.get("answers")
            if named == asked[key] or (named is None and key in fresh):
                answers[key] = act.payload
        fresh.discard(key)
    return answers


def groups_of_people(study: Study) -> dict[str, str]:
    with study.science.read() as db:
        return {person["id"]: person["group"] for person in study_store.list_people(db)}


def why_tables(study: Study) -> dict[str, pd.DataFrame]:
    """nuclei and boxes (rows of causes.py, rater_a of the group named first in `pair`), tools (agreement and
    seconds by how a nucleus was drawn), figures and out (of outliers.py), and unanswered (first boxes without
    a mask by the study's SAM, by patch).
    """
    rated, groups = rated_marks(study), groups_of_people(study)
    times = _times_of_ratings(study, rated)
    nuclei = causes.facing(causes.nuclei(rated.patches, rated.drawn), groups)
    boxes = causes.facing(causes.boxes_and_masks(rated.patches, rated.drawn), groups)
    measured = outliers.measure(rated.patches, rated.drawn)
    measured = pd.concat([measured, outliers.measure_seconds(times)], ignore_index=True)
    return {
        "nuclei": nuclei,
        "boxes": boxes,
        "tools": _tools_table(nuclei, times, rated),
        "figures": outliers.person_figures(measured),
        "out": outliers.who_stands_out(measured),
        "unanswered": pd.DataFrame(
            [(patch_id, len(boxes)) for patch_id, boxes in rated.unanswered.items()],
            columns=["patch_id", "boxes"],
        ),
    }


def summed_up(tables: dict[str, pd.DataFrame], slides: Mapping[str, str]) -> dict[str, pd.DataFrame]:
    """`why_tables` with boxes and masks compared (boxes_all, boxes_by_pair, boxes_by_class), and intervals:
    low and high of each part of the differences, for each kind of pair. slides: patch -> slide.
    """
    for name, by in (("all", []), ("by_pair", ["pair"]), ("by_class", ["pair", "class"])):
        tables[f"boxes_{name}"] = causes.compare_boxes_and_masks(tables["boxes"], by, slides)
    tables["intervals"] = pd.DataFrame(
        [
            (pair, part, *causes.share_interval(rows, of, slides))
            for pair, rows in tables["nuclei"].groupby("pair")
            for part, of in causes.CAUSES_OF.items()
        ],
        columns=["pair", "part", "low", "high"],
    )
    return tables


def _times_of_ratings(study: Study, rated: Rated) -> pd.DataFrame:
    """Active seconds of each nucleus on the patches that count as ratings, deleted ones too."""
    by_object = work_times(study)[1]
    looked = {(patch, person) for patch, row in rated.patches.items() for person in row.looked}
    mine = [key in looked for key in zip(by_object["patch"], by_object["person_id"], strict=True)]
    return by_object[by_object["purpose"].isin(PEOPLES_PURPOSES) & np.array(mine, bool)]


def _tools_table(nuclei: pd.DataFrame, times: pd.DataFrame, rated: Rated) -> pd.DataFrame:
    """How a nucleus was drawn -> seconds (median, of n_seconds nuclei of n_people), and the mean IoU with
    another's outline where both drew it so (n_iou nuclei).
    """
    tool_of = {object_id: how.tool for (_, object_id), how in rated.drawn.items()}
    times = times.assign(tool=times["object_id"].map(tool_of)).dropna(subset=["tool"])
    agreed = causes.by_tool(nuclei).set_index("tools")
    rows = []
    for tool in ("box", "hand"):
        mine = times[times["tool"] == tool]
        both = f"{tool} + {tool}"
        rows.append(
            {
                "tool": tool,
                "seconds": mine["seconds"].median(),
                "n_seconds": len(mine),
                "n_people": mine["person_id"].nunique(),
                "iou": agreed["iou"].get(both, float("nan")),
                "n_iou": int(agreed["n"].get(both, 0)),
            }
        )
    return pd.DataFrame(rows)


CAUSES_BY = ["patch", "pair", "rater_a", "rater_b", "class"]


def causes_table(study: Study) -> pd.DataFrame:
    """Counts for every two people, patch and class."""
    rated = rated_marks(study)
    rows = causes.facing(causes.nuclei(rated.patches, rated.drawn), groups_of_people(study))
    return _with_places(study, causes.sum_causes(rows, CAUSES_BY), "causes")


def boxes_and_masks_table(study: Study) -> pd.DataFrame:
    """Every nucleus that two people both boxed."""
    rated = rated_marks(study)
    rows = causes.facing(causes.boxes_and_masks(rated.patches, rated.drawn), groups_of_people(study))
    return _with_places(study, rows, "boxes_and_masks")


OUT_UNITS = {
    "found": "share of the others' nuclei",
    "alone": "share of own nuclei",
    "right_class": "share with the others' class",
    "box_size": "times the others' area",
    "outline_size": "times the others' area",
    "seconds": "seconds per nucleus",
}


def standing_out_table(study: Study) -> pd.DataFrame:
    """Who stands out, by each figure; nobody's name where nobody does."""
    return out_table(why_tables(study))


def out_table(tables: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """`out` of `why_tables` as it may be read: a name only where the verdict is NAMED, else the range of
    everybody. Without anybody's work there are no rows.
    """
    rows = []
    for row in tables["out"].to_dict("records") if len(tables["figures"]) else ():
        named, figure = row["verdict"] == outliers.NAMED, outliers.FIGURES[row["figure"]]
        everyone = [row["others_low"], row["others_high"]] + ([] if named else [row["value"]])
        kept = {key: row[key] if named else None for key in ("value", "n", "patches", "p_holm")}
        rows.append(
            {
                "figure": row["figure"],
                "what": figure.title,
                "verdict": row["verdict"],
                "person_id": row["person"] if named else None,
                "low": min(everyone),
                "high": max(everyone),
                "unit": OUT_UNITS[row["figure"]],
                "margin": figure.margin,
                "margin_is": "times the others" if figure.is_ratio else "difference to the others",
                **kept,
            }
        )
    return pd.DataFrame(rows, columns=list(COLUMNS["standing_out"]))


def count_rows(study: Study) -> dict[str, int]:
    """Rows of both tables."""
    rated = rated_marks(study)
    nuclei = causes.nuclei(rated.patches)
    return {
        "causes": len(nuclei.groupby(["patch", "rater_a", "rater_b", "class"])),
        "boxes_and_masks": len(causes.boxes_and_masks(rated.patches, rated.drawn)),
    }


def _with_places(study: Study, table: pd.DataFrame, name: str) -> pd.DataFrame:
    with study.science.read() as db:
        patches = {patch["name"]: patch for patch in images.list_patches(db)}
    places = {key: [patches[patch][key] for patch in table["patch"]] for key in ("slide", "condition")}
    return table.assign(**places)[list(COLUMNS[name])]
