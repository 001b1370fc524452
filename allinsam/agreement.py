"""Do people agree: on which nuclei there are, on their outline, and on their class?

Ratings are `{patch_id: {rater: {class_name: label image}}}`. A class that a rater did not finish on a patch
is absent (missing, never compared); a class with an empty label image was looked for and not found
(compared). Figures that are not defined are NaN, never 0, and every figure stands beside its n.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import pandas as pd
from sklearn.metrics import cohen_kappa_score

from allinsam.comparison import cluster_interval, cluster_means
from allinsam.errors import InputError
from allinsam.marks import UNDETECTED, cluster, rated_labels
from allinsam.masks import as_mask
from allinsam.metrics import match_iou, match_overlap, overlap, score_overlap

Ratings = Mapping[str, Mapping[str, Mapping[str, np.ndarray]]]
Nucleus = tuple[str, int]  # class name and id in that class's label image

PAIRWISE_COLUMNS = [
    "patch",
    "class",
    "rater_a",
    "rater_b",
    "n_a",
    "n_b",
    "n_matched",
    "f1",
    "dice",
    "matched_dice",
    "pq",
]
CLASS_COLUMNS = ["rater_a", "rater_b", "n_patches", "n_matched", "agree", "cohen_kappa", "gwet_ac1"]


# ---------------------------------------------------------------- the same nuclei, the same outline?


def pairwise_agreement(ratings: Ratings, iou_threshold: float = 0.5) -> pd.DataFrame:
    """One row for each patch, class and pair of raters who both finished that class there.

    n_a, n_b: nuclei of each; n_matched: pairs with IoU > threshold. f1: instance F1, needs no truth. dice:
    pixel Dice. Both are 1 where neither found anything and 0 where only one did. matched_dice: mean Dice of
    the matched nuclei, the outline alone; NaN where none match. pq: panoptic quality, F1 times the mean IoU
    of the matched nuclei.
    """
    rows = []
    for patch, by_rater in ratings.items():
        for rater_a, rater_b in combinations(sorted(by_rater), 2):
            for name in sorted(set(by_rater[rater_a]) & set(by_rater[rater_b])):
                counts = overlap(by_rater[rater_a][name], by_rater[rater_b][name])
                matching = match_overlap(counts, iou_threshold)
                n_matched = len(matching.pairs)
                rows.append(
                    {
                        "patch": patch,
                        "class": name,
                        "rater_a": rater_a,
                        "rater_b": rater_b,
                        "n_a": n_matched + len(matching.unmatched_pred),
                        "n_b": n_matched + len(matching.unmatched_true),
                        "n_matched": n_matched,
                        "f1": matching.f1,
                        **score_overlap(counts, ["dice"]),
                        "matched_dice": _mean(2 * matching.iou / (1 + matching.iou)),
                        "pq": matching.f1 * (float(matching.iou.mean()) if n_matched else matching.f1),
                    }
                )
    return pd.DataFrame(rows, columns=PAIRWISE_COLUMNS)


def summarise(
    pairwise: pd.DataFrame,
    by: Sequence[str] = ("class", "rater_a", "rater_b"),
    slide_of: Mapping[str, str] | None = None,
) -> pd.DataFrame:
    """Means over the rows of `pairwise_agreement`, grouped; `by=[]` gives one row for everything.

    n and n_patches: rows and patches behind the means. f1_pooled: F1 over all nuclei at once, which empty
    patches do not lift. f1_low, f1_high: 95 % interval of f1 over n_clusters slides (or patches, without
    `slide_of`); of too few it is NaN, and f1_by_slide has the mean of each, else it is empty.
    """
    by = list(by)
    if unknown := sorted(set(by) - set(pairwise.columns)):
        raise InputError(f"No column {unknown[0]!r} to group by. Choose from {list(pairwise.columns)}.")
    groups = pairwise.groupby(by, sort=True) if by else [((), pairwise)]
    rows = [
        dict(zip(by, key, strict=True)) | _summary(group, slide_of) for key, group in groups if len(group)
    ]
    return pd.DataFrame(rows, columns=[*by, *_summary(pairwise.iloc[:0], None)])


def _summary(group: pd.DataFrame, slide_of: Mapping[str, str] | None) -> dict:
    if slide_of is not None and (missing := sorted(set(group["patch"]) - set(slide_of), key=str)):
        raise InputError(f"Patch {missing[0]!r} has no slide. Give the slide of every patch.")
    clusters = [patch if slide_of is None else slide_of[patch] for patch in group["patch"]]
    n_nuclei = int(group["n_a"].sum() + group["n_b"].sum())
    values, members = group["f1"].to_numpy(dtype=float), np.array(clusters, dtype=object)
    low, high = cluster_interval(values, members, bounds=(0, 1))
    return {
        "n": len(group),
        "n_patches": group["patch"].nunique(),
        "n_clusters": len(set(clusters)),
        "n_matched": int(group["n_matched"].sum()),
        "f1": _mean(group["f1"]),
        "f1_low": low,
        "f1_high": high,
        "f1_by_slide": cluster_means(values, members) if np.isnan(low) else [],
        "f1_pooled": 2 * int(group["n_matched"].sum()) / n_nuclei if n_nuclei else float("nan"),
        "dice": _mean(group["dice"]),
        "matched_dice": _mean(group["matched_dice"]),
    }


def matrix(pairwise: pd.DataFrame, value: str, how: str = "mean") -> pd.DataFrame:
    """Rater x rater table of a column, for a heat map: symmetric, NaN on the diagonal and where no two met.

    `how` is a pandas aggregation of a pair's rows: "mean" (missing values left out), "sum", "count".
    """
    if value not in pairwise.columns:
        raise InputError(f"No column {value!r} to show. Choose from {list(pairwise.columns)}.")
    raters = sorted(set(pairwise["rater_a"]) | set(pairwise["rater_b"]))
    table = pd.DataFrame(np.nan, index=raters, columns=raters)
    for (rater_a, rater_b), figure in pairwise.groupby(["rater_a", "rater_b"])[value].agg(how).items():
        table.loc[rater_a, rater_b] = table.loc[rater_b, rater_a] = figure
    return table


# ---------------------------------------------------------------- one mask per rater


@dataclass(frozen=True)
class MeanDice:
    mean: float
    n: int  # pairs of masks


def mask_agreement(masks: Mapping[str, Mapping[str, np.ndarray]]) -> pd.DataFrame:
    """`pairwise_agreement` of one thing in each image, {image: {rater: mask, bool (H, W)}}: a row for each
    image and pair of raters."""
    thing = {
        image: {rater: {"": as_mask(mask).astype(np.int32)} for rater, mask in by_rater.items()}
        for image, by_rater in masks.items()
    }
    return pairwise_agreement(thing).drop(columns="class")


def dice_by_kind(pairwise: pd.DataFrame, kind_of: Callable[[str], str]) -> dict[tuple[str, str], MeanDice]:
    """Mean Dice of the rows of `pairwise`, by the kinds of the two raters, in alphabetical order."""
    sides = [pairwise[column].map(kind_of) for column in ("rater_a", "rater_b")]
    kinds = pd.Series(
        [tuple(sorted(pair)) for pair in zip(*sides, strict=True)], pairwise.index, dtype=object
    )
    return {kind: MeanDice(float(dice.mean()), len(dice)) for kind, dice in pairwise["dice"].groupby(kinds)}


def _mean(values: pd.Series | np.ndarray) -> float:
    """Mean of the known values; NaN where there is none."""
    values = np.asarray(values, dtype=float)
    values = values[~np.isnan(values)]
    return float(values.mean()) if values.size else float("nan")


# ---------------------------------------------------------------- the same class?


def class_agreement(
    ratings: Ratings, iou_threshold: float = 0.5, class_names: Sequence[str] | None = None
) -> pd.DataFrame:
    """Per pair of raters, agreement on the class of the nuclei that both found, matched regardless of class.

    Only patches where both finished the same two classes or more take part: with one class there is nothing
    to choose. agree: share with the same class. Kappa falls when one class is rare, AC1 does not: read
    both. `class_names`: all classes that could be chosen (default: all in `ratings`).
    """
    class_names = _class_names(ratings) if class_names is None else list(class_names)
    choices: dict[tuple[str, str], list[tuple[str, str]]] = {}
    patches: dict[tuple[str, str], int] = {}
    for by_rater in ratings.values():
        for pair in combinations(sorted(by_rater), 2):
            shared = sorted(set(by_rater[pair[0]]) & set(by_rater[pair[1]]))
            matched = matched_nuclei(
                *({name: by_rater[r][name] for name in shared} for r in pair), iou_threshold
            )
            comparable = len(shared) >= 2
            patches[pair] = patches.get(pair, 0) + comparable
            choices.setdefault(pair, []).extend((a[0], b[0]) for a, b, _ in matched if comparable)
    rows = []
    for pair, chosen in sorted(choices.items()):
        table = pd.DataFrame(chosen, columns=list(pair), dtype=object)
        rows.append(
            {
                "rater_a": pair[0],
                "rater_b": pair[1],
                "n_patches": patches[pair],
                "n_matched": len(table),
                "agree": _mean(table[pair[0]] == table[pair[1]]),
                "cohen_kappa": cohen_kappa(table[pair[0]], table[pair[1]]),
                "gwet_ac1": gwet_ac1(table, class_names),
            }
        )
    return pd.DataFrame(rows, columns=CLASS_COLUMNS)


def rated_nuclei(
    ratings: Ratings, iou_threshold: float = 0.5, undetected: str | None = UNDETECTED
) -> pd.DataFrame:
    """All nuclei that anybody found, one row each: the patch, and per rater the class that this rater gave
    it.

    A rater who worked on the patch without finding the nucleus has `undetected` there (None: a missing
    value, to look at classes alone). A rater who did not finish every class that somebody finished on the
    patch is missing on all of it. Feed the rater columns to `krippendorff_alpha` or `gwet_ac1`.
    """
    raters = sorted({rater for by_rater in ratings.values() for rater in by_rater})
    rows = []
    for patch, by_rater in ratings.items():
        asked = {name for labels in by_rater.values() for name in labels}
        present = {rater: labels for rater, labels in by_rater.items() if set(labels) == asked}
        marks = rated_labels(present).instances if present else ()
        for members in cluster(marks, iou_threshold):
            found = {member.rater: member.class_name for member in members}
            rows.append({"patch": patch, **dict.fromkeys(present, undetected), **found})
    return pd.DataFrame(rows, columns=["patch", *raters], dtype=object)


def cohen_kappa(choices_a: Sequence[str], choices_b: Sequence[str]) -> float:
    """Cohen's kappa of two raters' choices; NaN without any, or where both only ever chose one and the
    same.
    """
    if len(choices_a) == 0 or len(set(choices_a) | set(choices_b)) < 2:
        return float("nan")
    return float(cohen_kappa_score(list(choices_a), list(choices_b)))


def fleiss_kappa(table: pd.DataFrame, class_names: Sequence[str] | None = None) -> float:
    """Fleiss' kappa (1971) of raters (columns) over items (rows), of which each has equally many ratings.

    Which raters they are does not matter. Items without any rating are left out; where some have fewer
    ratings than others it is not defined: InputError names `krippendorff_alpha`, which is. NaN with fewer
    than two ratings an item, or where only one class was ever chosen.
    """
    counts = _rating_counts(table, class_names)
    counts = counts[counts.sum(axis=1) > 0]
    rated = counts.sum(axis=1)
    if len(set(rated.tolist())) > 1:
        raise InputError(
            f"Items have from {rated.min()} to {rated.max()} ratings. Fleiss' kappa needs equally many: use "
            "Krippendorff's alpha, or leave the others out."
        )
    if not len(counts) or rated[0] < 2 or np.count_nonzero(counts.sum(axis=0)) < 2:
        return float("nan")
    observed = ((counts**2).sum(axis=1) - rated).mean() / (rated[0] * (rated[0] - 1))
    chance = ((counts.sum(axis=0) / counts.sum()) ** 2).sum()
    return float((observed - chance) / (1 - chance))


def kappa_of_counts(counts: np.ndarray) -> float:
    """Cohen's kappa of how often one rater's class (row) met the other's (column); NaN as there."""
    used = counts.sum(axis=0) + counts.sum(axis=1)
    if (used > 0).sum() < 2:
        return float("nan")
    expected = np.outer(counts.sum(axis=1), counts.sum(axis=0)) / counts.sum()
    return float(1 - (counts.sum() - np.trace(counts)) / (expected.sum() - np.trace(expected)))


def ac1_of_counts(counts: np.ndarray) -> float:
    """Gwet's AC1 of two raters from the same table, which has a row and a column for every class to choose;
    NaN as there.
    """
    n = counts.sum()
    if len(counts) < 2 or not n:
        return float("nan")
    share = (counts.sum(axis=0) + counts.sum(axis=1)) / (2 * n)
    chance = (share * (1 - share)).sum() / (len(counts) - 1)
    return float((np.trace(counts) / n - chance) / (1 - chance))


def gwet_ac1(table: pd.DataFrame, class_names: Sequence[str] | None = None) -> float:
    """Gwet's AC1 (2008) of any number of raters (columns) over items (rows); missing ratings allowed.

    pa is the share of agreeing pairs of raters, a mean over items with two ratings or more. pe is the sum
    over the q classes of pi (1 - pi), divided by q - 1, with pi the class's mean share over all rated
    items. AC1 is (pa - pe) / (1 - pe). NaN without an item rated twice, or with fewer than two classes.
    Give `class_names` where a class may not have been chosen by anyone: q is how many there are to choose
    from.
    """
    counts = _rating_counts(table, class_names)
    rated = counts.sum(axis=1)
    counts, rated = counts[rated > 0], rated[rated > 0]
    twice = rated >= 2
    if counts.shape[1] < 2 or not twice.any():
        return float("nan")
    agreeing = (counts * (counts - 1)).sum(axis=1)[twice]
    observed = (agreeing / (rated * (rated - 1))[twice]).mean()
    share = (counts / rated[:, None]).mean(axis=0)
    chance = (share * (1 - share)).sum() / (counts.shape[1] - 1)
    return float((observed - chance) / (1 - chance))


def krippendorff_alpha(table: pd.DataFrame) -> float:
    """Krippendorff's alpha for unordered classes, raters in columns, items in rows; missing ratings allowed.

    1 - observed / expected disagreement over the pairs of ratings of one item. NaN where no item has two
    ratings, or where only one class was ever chosen.
    """
    return alpha_of_counts(_rating_counts(table, None))


def alpha_of_counts(counts: np.ndarray) -> float:
    """The same of how many raters gave each item (row) each class (column)."""
    counts = counts[counts.sum(axis=1) >= 2]
    rated, of_class, n = counts.sum(axis=1), counts.sum(axis=0), counts.sum()
    expected = n * n - (of_class**2).sum()
    if not n or not expected:
        return float("nan")
    observed = ((rated**2 - (counts**2).sum(axis=1)) / (rated - 1)).sum()
    return float(1 - observed * (n - 1) / expected)


def _rating_counts(table: pd.DataFrame, class_names: Sequence[str] | None) -> np.ndarray:
    """How many raters gave each item (row) each class (column)."""
    values = table.to_numpy(dtype=object)
    known = ~pd.isna(values)
    names = sorted(set(values[known]), key=str) if class_names is None else list(class_names)
    if strangers := sorted(set(values[known]) - set(names), key=str):
        raise InputError(f"Rating {strangers[0]!r} is none of the classes {names}. Name every class.")
    return (
        np.stack([((values == name) & known).sum(axis=1) for name in names], axis=1)
        if names
        else (np.zeros((len(table), 0), dtype=int))
    )


def _class_names(ratings: Ratings) -> list[str]:
    return sorted({name for by_rater in ratings.values() for labels in by_rater.values() for name in labels})


def matched_nuclei(
    labels_a: Mapping[str, np.ndarray], labels_b: Mapping[str, np.ndarray], iou_threshold: float
) -> list[tuple[Nucleus, Nucleus, float]]:
    """Nuclei of two raters matched one to one across all classes: (nucleus of a, nucleus of b, IoU)."""
    counts = {(a, b): overlap(labels_a[a], labels_b[b]) for a in labels_a for b in labels_b}
    if not counts:
        return []
    iou = np.block([[counts[a, b].iou for b in labels_b] for a in labels_a])
    nuclei_a = [(a, int(i)) for a in labels_a for i in counts[a, next(iter(labels_b))].pred_ids]
    nuclei_b = [(b, int(i)) for b in labels_b for i in counts[next(iter(labels_a)), b].true_ids]
    matches = zip(*match_iou(iou, iou_threshold), strict=True)
    return [(nuclei_a[row], nuclei_b[column], float(value)) for row, column, value in matches]
