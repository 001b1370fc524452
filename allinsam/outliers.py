"""Who stands out: whether one person misses nuclei, draws wide, swaps classes or is slow, beside the others.

Each person is measured by what the others agree on, without a vote of their own. Somebody always comes last,
so a name is given only where three things hold (see `who_stands_out`): people could be compared often enough,
the difference matters, and chance does not explain it. No truth is known: who differs from people who share
an error is named, too. Read it beside scores against gold.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from allinsam.causes import SAME_NUCLEUS_IOU, SAME_PLACE_IOU, UNKNOWN, DrawnOf, iou_table
from allinsam.comparison import FEWEST_NUCLEI, MIN_DIFFERING_PAIRS, holm, paired_test
from allinsam.consensus import build_consensus
from allinsam.marks import RatedPatch

FEWEST_OTHERS = 2  # who must have marked a nucleus, so that it is not one person's word against another's
FEWEST_PEOPLE = FEWEST_OTHERS + 1
LIKELY = 0.05


@dataclass(frozen=True)
class Figure:
    """A figure of a person. worst: the end of the scale that is named. margin: the least difference to the
    others that matters, of a share, or as a ratio where `is_ratio`.
    """

    title: str
    worst: str  # "low" | "high"
    margin: float
    is_ratio: bool = False
    centre: str = "mean"  # of a person's nuclei: "mean" | "median"


FIGURES: dict[str, Figure] = {
    "found": Figure("Misses nuclei", "low", 0.05),
    "alone": Figure("Marks what nobody else does", "high", 0.05),
    "right_class": Figure("Swaps classes", "low", 0.05),
    "box_size": Figure("Draws boxes wide", "high", 1.15, is_ratio=True),
    "outline_size": Figure("Outlines wide", "high", 1.10, is_ratio=True),
    "seconds": Figure("Is slow", "high", 1.25, is_ratio=True, centre="median"),
}

MEASURED_COLUMNS = ["person", "patch", "figure", "value"]
NAMED, NOBODY, TOO_FEW = "named", "nobody", "too few"
OUT_COLUMNS = [
    "figure",
    "verdict",
    "person",
    "value",
    "others_low",
    "others_high",
    "n",
    "patches",
    "p_holm",
]
NOTHING = float("nan")


def measure(patches: Mapping[str, RatedPatch], drawn: DrawnOf | None = None) -> pd.DataFrame:
    """One row for each nucleus, person and figure; a ratio is kept as its logarithm.

    The nuclei are the consensus of the others, that is, of everybody without this person: marked by more
    than half of those who looked, by FEWEST_OTHERS at least.

    found: 1 or 0, whether this person marked anything there (IoU above SAME_PLACE_IOU), of the classes they
        looked for.
    alone: 1 or 0 for each mark of this person, whether no other has one there, where FEWEST_OTHERS looked
        for its class.
    right_class: 1 or 0 for each mark on such a nucleus (IoU above SAME_NUCLEUS_IOU), whether its class is
        that of most others, where both classes were asked for.
    outline_size, box_size: of the same marks, the area to that of the others' outline; the area of the first
        box to that of the box round the others' outline.
    """
    drawn = drawn or {}
    rows = [row for name, patch in patches.items() for row in _alone_rows(name, patch)]
    for person in sorted({rater for patch in patches.values() for rater in patch.looked}):
        others = {
            name: without(patch, person)
            for name, patch in patches.items()
            if person in patch.looked and len(patch.looked) > FEWEST_OTHERS
        }
        for name, consensus in build_consensus(others).items():
            patch = patches[name]
            agreed = [thing for thing in consensus.objects if thing.votes >= FEWEST_OTHERS]
            own = [mark for mark in patch.instances if mark.rater == person]
            iou = iou_table([thing.pixels for thing in agreed], [mark.pixels for mark in own])
            looked = patch.looked[person]
            for i, thing in enumerate(agreed):
                if thing.choice.class_name in looked:
                    rows.append((person, name, "found", float((iou[i] > SAME_PLACE_IOU).any())))
            for j, mark in enumerate(own):
                if not agreed or iou[:, j].max() <= SAME_NUCLEUS_IOU:
                    continue
                thing = agreed[int(iou[:, j].argmax())]
                box = drawn.get(mark.key, UNKNOWN).box
                right = float(thing.choice.class_name == mark.class_name)
                if thing.choice.class_name in looked and len(looked) > 1 and not thing.choice.tie:
                    rows.append((person, name, "right_class", right))
                size = np.log(len(mark.pixels) / len(thing.pixels))
                rows.append((person, name, "outline_size", float(size)))
                if box is not None:
                    area = (box[2] - box[0]) * (box[3] - box[1])
                    around = _box_area(thing.pixels, patch.size_hw[1])
                    rows.append((person, name, "box_size", float(np.log(area / around))))
    return pd.DataFrame(rows, columns=MEASURED_COLUMNS)


def _alone_rows(name: str, patch: RatedPatch) -> Iterator[tuple[str, str, str, float]]:
    pixels, raters = [m.pixels for m in patch.instances], np.array([m.rater for m in patch.instances])
    there = iou_table(pixels, pixels) > SAME_PLACE_IOU
    for mark, others in zip(patch.instances, there, strict=True):
        if len(patch.lookers(mark.class_name)) > FEWEST_OTHERS:
            yield mark.rater, name, "alone", float(not (others & (raters != mark.rater)).any())


def measure_seconds(by_object: pd.DataFrame) -> pd.DataFrame:
    """The same rows of active seconds for each nucleus: columns person_id, patch and seconds."""
    kept = by_object[by_object["seconds"] > 0]
    return pd.DataFrame(
        {
            "person": kept["person_id"],
            "patch": kept["patch"],
            "figure": "seconds",
            "value": np.log(kept["seconds"].astype(float)),
        }
    )


def without(patch: RatedPatch, person: str) -> RatedPatch:
    """The patch as if this person had not worked on it."""
    looked = {rater: classes for rater, classes in patch.looked.items() if rater != person}
    return RatedPatch(patch.size_hw, looked, tuple(m for m in patch.instances if m.rater != person))


def _box_area(pixels: np.ndarray, width_px: int) -> int:
    y, x = np.divmod(pixels, width_px)
    return int((y.max() - y.min() + 1) * (x.max() - x.min() + 1))


def person_figures(measured: pd.DataFrame) -> pd.DataFrame:
    """Per figure and person: value (a ratio or seconds are geometric), n nuclei and patches behind it."""
    rows = []
    for (name, person), group in measured.groupby(["figure", "person"], sort=True):
        rows.append(
            {
                "figure": name,
                "person": person,
                "value": _shown(name, _centre(name, group["value"])),
                "n": len(group),
                "patches": group["patch"].nunique(),
            }
        )
    return pd.DataFrame(rows, columns=["figure", "person", "value", "n", "patches"])


def who_stands_out(measured: pd.DataFrame) -> pd.DataFrame:
    """Rows for each of FIGURES: everybody who stands out by it, the worst first, or why nobody is named.

    NAMED is who, over the patches they share, differs from the median of the others by the figure's margin
    in the mean, and patch by patch more than chance explains (Wilcoxon, p below 0.05 after Holm's correction
    over all people and figures). Without any, the one row has the worst person and NOBODY; or TOO_FEW where
    fewer than three people have FEWEST_NUCLEI on `fewest_patches`, below which nobody could be named.
    others_low, others_high: range of the others' values.
    """
    figures = person_figures(measured)
    compared = pd.DataFrame(
        [
            {"figure": name, "person": person, **vars(paired_test(*_beside_others(measured, name, person)))}
            for name, person in figures[["figure", "person"]].itertuples(index=False)
        ],
        columns=["figure", "person", "mean_difference", "p_value"],
    )
    compared["p_holm"] = holm(compared["p_value"].tolist())
    enough = fewest_patches(int(compared["p_value"].notna().sum()))
    table = figures.merge(compared, on=["figure", "person"])
    rows = [row for name in FIGURES for row in _rows_of(name, table[table["figure"] == name], enough)]
    return pd.DataFrame(rows, columns=OUT_COLUMNS)


def fewest_patches(n_tests: int) -> int:
    """On how many patches somebody has to differ, always the same way, to be named among so many tests."""
    return max(MIN_DIFFERING_PAIRS, int(np.floor(np.log2(2 * max(1, n_tests) / LIKELY))) + 1)


def _rows_of(name: str, people: pd.DataFrame, enough_patches: int) -> list[dict]:
    figure = FIGURES[name]
    # Somebody with three nuclei, or on three patches, is no extreme of anything.
    people = people[(people["n"] >= FEWEST_NUCLEI) & (people["patches"] >= enough_patches)]
    if len(people) < FEWEST_PEOPLE:
        return [{"figure": name, "verdict": TOO_FEW}]
    people = people.sort_values("value", ascending=figure.worst == "low", kind="stable")
    rows = []
    for row in people.to_dict("records"):
        others = people.loc[people["person"] != row["person"], "value"]
        row |= {"others_low": others.min(), "others_high": others.max()}
        rows.append(row | {"verdict": NAMED if _stands_out(figure, row) else NOBODY})
    named = [row for row in rows if row["verdict"] == NAMED]
    return named or rows[:1]


def _stands_out(figure: Figure, row: Mapping) -> bool:
    worse_by = row["mean_difference"] * (1 if figure.worst == "high" else -1)
    margin = np.log(figure.margin) if figure.is_ratio else figure.margin
    # Where p is not known, too few patches differ at all: then nothing is certain.
    return bool(row["p_holm"] < LIKELY and worse_by >= margin)


def _beside_others(measured: pd.DataFrame, name: str, person: str) -> tuple[pd.Series, pd.Series]:
    """Per patch this person's value and the median of the others'."""
    mine = measured[measured["figure"] == name]
    by_patch = mine.groupby(["patch", "person"])["value"].agg(FIGURES[name].centre).unstack()
    return by_patch[person], by_patch.drop(columns=person).median(axis=1)


def _centre(name: str, values: pd.Series) -> float:
    return float(values.agg(FIGURES[name].centre))


def _shown(name: str, value: float) -> float:
    return float(np.exp(value)) if FIGURES[name].is_ratio else value
