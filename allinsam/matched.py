"""Figures of agreement from counted overlaps (see overlaps.py), at any IoU threshold.

They say the same as the functions of agreement.py do of label images, which are the plain way there, but for
hundreds of patches and dozens of raters at once.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.optimize import linear_sum_assignment
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from allinsam.agreement import alpha_of_counts
from allinsam.errors import InputError
from allinsam.overlaps import LOWEST_IOU, PatchOverlaps

FIGURE_COLUMNS = ["pair", "class", "n_a", "n_b", "n_matched", "f1", "dice", "matched_dice", "pq"]
NOTHING = float("nan")


@dataclass(frozen=True)
class Overlaps:
    """The overlaps of many patches behind each other; looks, marks and classes are numbered over all."""

    class_ids: tuple[int, ...]  # what class number k is called
    look_key: np.ndarray  # (l,) int64
    look_patch: np.ndarray  # (l,) int32, number of the patch
    finished: np.ndarray  # (l, c) bool
    mark_look: np.ndarray  # (n,) int32
    mark_class: np.ndarray  # (n,) int32, number of the class
    areas: np.ndarray  # (l, c) int64, px of all marks
    counts: np.ndarray  # (l, c) int64, marks
    begin: np.ndarray  # (l, c) int64, the first mark of a look and class
    first: np.ndarray  # (m,) int32, marks
    second: np.ndarray  # (m,) int32
    shared: np.ndarray  # (m,) int32, px
    iou: np.ndarray  # (m,) float64
    slot: np.ndarray  # (m,) int32: which two looks these are marks of
    slot_of_patch: np.ndarray  # (p + 1,) where a patch's slots begin
    look_of_patch: np.ndarray  # (p + 1,) where a patch's looks begin
    seen: np.ndarray  # (q, 2) int32: circle, look
    joins: np.ndarray  # (j, 3) int32: circle, mark, mark
    join_iou: np.ndarray  # (j,)


def gather(patches: Sequence[PatchOverlaps], class_ids: Sequence[int]) -> Overlaps:
    """Number everything anew. `class_ids`: all classes, in the order of their names."""
    number_of = np.full(max(class_ids, default=0) + 1, -1, np.int32)
    number_of[list(class_ids)] = np.arange(len(class_ids))
    n_looks = np.array([len(patch.looks) for patch in patches], np.int64)
    n_marks = np.array([len(patch.mark_look) for patch in patches], np.int64)
    look_of_patch = np.concatenate([[0], np.cumsum(n_looks)])
    mark_of_patch = np.concatenate([[0], np.cumsum(n_marks)])
    slot_of_patch = np.concatenate([[0], np.cumsum(n_looks**2)])

    def joined(name: str, dtype: type, width: int = 0) -> np.ndarray:
        parts = [getattr(patch, name) for patch in patches]
        empty = np.zeros((0, width) if width else 0, dtype)
        return np.concatenate([empty, *parts]).astype(dtype, copy=False)

    def each(name: str, starts: np.ndarray) -> np.ndarray:
        """The patch's first number, for every row of a field."""
        return np.repeat(starts[:-1], [len(getattr(patch, name)) for patch in patches])

    finished_rows, finished = (
        joined("finished", np.int64, 2),
        np.zeros((look_of_patch[-1], len(class_ids)), bool),
    )
    finished[finished_rows[:, 0] + each("finished", look_of_patch), number_of[finished_rows[:, 1]]] = True
    mark_look = (joined("mark_look", np.int64) + each("mark_look", look_of_patch)).astype(np.int32)
    mark_class, mark_area = number_of[joined("mark_class", np.int32)], joined("mark_area", np.int64)
    first, second, slot = [], [], []
    for patch, n, mark, place in zip(patches, n_looks, mark_of_patch, slot_of_patch, strict=False):
        first.append(patch.first + np.int32(mark))
        second.append(patch.second + np.int32(mark))
        looks = patch.mark_look[patch.first].astype(np.int64), patch.mark_look[patch.second]
        slot.append((place + looks[0] * n + looks[1]).astype(np.int32))
    first, second, slot = (np.concatenate([np.zeros(0, np.int32), *parts]) for parts in (first, second, slot))
    shared = joined("shared", np.int32)
    cell, size = mark_look.astype(np.int64) * len(class_ids) + mark_class, finished.size
    begin = np.full(size, len(mark_look), np.int64)
    np.minimum.at(begin, cell, np.arange(len(cell)))
    seen, joins = joined("seen", np.int32, 2).copy(), joined("joins", np.int32, 3).copy()
    seen[:, 1] += each("seen", look_of_patch).astype(np.int32)
    joins[:, 1:] += each("joins", mark_of_patch).astype(np.int32)[:, None]
    return Overlaps(
        class_ids=tuple(class_ids),
        look_key=joined("looks", np.int64),
        look_patch=np.repeat(np.arange(len(patches), dtype=np.int32), n_looks),
        finished=finished,
        mark_look=mark_look,
        mark_class=mark_class,
        areas=np.bincount(cell, mark_area, size).astype(np.int64).reshape(finished.shape),
        counts=np.bincount(cell, minlength=size).reshape(finished.shape),
        begin=begin.reshape(finished.shape),
        first=first,
        second=second,
        shared=shared,
        iou=shared / (mark_area[first] + mark_area[second] - shared),
        slot=slot,
        slot_of_patch=slot_of_patch,
        look_of_patch=look_of_patch,
        seen=seen,
        joins=joins,
        join_iou=joined("join_iou", np.float64),
    )


# ---------------------------------------------------------------- the same nuclei, the same outline?


def pair_figures(overlaps: Overlaps, pairs: np.ndarray, iou_threshold: float = 0.5) -> pd.DataFrame:
    """`agreement.pairwise_agreement` of pairs of looks (n, 2) of one patch each: a row for each pair (its
    number) and class (its number) that both finished.
    """
    _check(iou_threshold)
    pairs, n_classes = np.asarray(pairs, np.int64).reshape(-1, 2), len(overlaps.class_ids)
    of_pair = _pair_of(overlaps, pairs)
    alike = overlaps.mark_class[overlaps.first] == overlaps.mark_class[overlaps.second]
    common = np.flatnonzero((of_pair >= 0) & alike)
    cell = of_pair[common] * np.int64(n_classes) + overlaps.mark_class[overlaps.first[common]]
    size = len(pairs) * n_classes
    tp = np.bincount(cell, overlaps.shared[common], size)
    above = overlaps.iou[common] > iou_threshold
    matched, cell = common[above], cell[above]
    matched, cell = _one_to_one(overlaps, matched, cell, pairs, iou_threshold)
    iou = overlaps.iou[matched]
    n_matched = np.bincount(cell, minlength=size)
    both = (overlaps.finished[pairs[:, 0]] & overlaps.finished[pairs[:, 1]]).ravel()
    n_a, n_b = (overlaps.counts[pairs[:, side]].ravel() for side in (0, 1))
    areas = overlaps.areas[pairs[:, 0]].ravel() + overlaps.areas[pairs[:, 1]].ravel()
    with np.errstate(invalid="ignore", divide="ignore"):
        f1 = np.where(n_a + n_b, 2 * n_matched / (n_a + n_b), 1.0)
        dice = np.where(areas, 2 * tp / areas, 1.0)
        matched_dice = np.bincount(cell, 2 * iou / (1 + iou), size) / n_matched
        mean_iou = np.where(n_matched, np.bincount(cell, iou, size) / n_matched, f1)
    rows = np.flatnonzero(both)
    pair, class_number = np.divmod(rows, max(1, n_classes))
    columns = (
        pair,
        class_number,
        *(v[rows] for v in (n_a, n_b, n_matched, f1, dice, matched_dice, f1 * mean_iou)),
    )
    return pd.DataFrame(dict(zip(FIGURE_COLUMNS, columns, strict=True)))


def _check(iou_threshold: float) -> None:
    if not LOWEST_IOU <= iou_threshold < 1:
        raise InputError(
            f"IoU threshold {iou_threshold} is not usable. Give {LOWEST_IOU:g} up to, not including, 1."
        )


def _pair_of(overlaps: Overlaps, pairs: np.ndarray) -> np.ndarray:
    """For every two marks that share pixels, which of the pairs of looks they are of; else -1."""
    patch = overlaps.look_patch[pairs[:, 0]]
    if (patch != overlaps.look_patch[pairs[:, 1]]).any():
        raise InputError("A pair of looks is of two patches. Compare looks of one patch.")
    local = np.sort(pairs, axis=1) - overlaps.look_of_patch[patch][:, None]
    n_looks = np.diff(overlaps.look_of_patch)[patch]
    pair_of_slot = np.full(overlaps.slot_of_patch[-1] + 1, -1, np.int64)
    pair_of_slot[overlaps.slot_of_patch[patch] + local[:, 0] * n_looks + local[:, 1]] = np.arange(len(pairs))
    return pair_of_slot[overlaps.slot]


def _one_to_one(
    overlaps: Overlaps, matched: np.ndarray, cell: np.ndarray, pairs: np.ndarray, iou_threshold: float
) -> tuple[np.ndarray, np.ndarray]:
    """Without those that give a mark two partners: the greatest total IoU of the pair and class is taken.

    Only at or below 0.5 can a mark have two.
    """
    n_classes = len(overlaps.class_ids)
    doubtful = np.unique(cell[overlaps.iou[matched] <= 0.5])
    if not len(doubtful):
        return matched, cell
    suspect = np.flatnonzero(np.isin(cell, doubtful))
    suspect = suspect[np.argsort(cell[suspect], kind="stable")]
    dropped = []
    for rows in np.split(suspect, np.flatnonzero(np.diff(cell[suspect])) + 1):
        pair, number = divmod(int(cell[rows[0]]), n_classes)
        sides = [
            overlaps.begin[look, number] + np.arange(overlaps.counts[look, number]) for look in pairs[pair]
        ]
        dropped.append(rows[~_best(overlaps, matched[rows], pairs[pair], sides)])
    kept = np.ones(len(matched), bool)
    kept[np.concatenate(dropped)] = False
    return matched[kept], cell[kept]


def _best(overlaps: Overlaps, rows: np.ndarray, looks: np.ndarray, sides: list[np.ndarray]) -> np.ndarray:
    """Which of these rows of one pair belong to the one-to-one match of the two sides' marks, as
    `metrics.match_iou` takes it.
    """
    of_a, of_b = overlaps.first[rows], overlaps.second[rows]
    if looks[0] > looks[1]:
        of_a, of_b = of_b, of_a
    if len(np.unique(of_a)) == len(of_a) and len(np.unique(of_b)) == len(of_b):
        return np.ones(len(rows), bool)
    place = [{int(mark): i for i, mark in enumerate(side)} for side in sides]
    at = [[place[side][int(mark)] for mark in marks] for side, marks in enumerate((of_a, of_b))]
    allowed = np.zeros((len(sides[0]), len(sides[1])))
    allowed[at[0], at[1]] = overlaps.iou[rows]
    chosen = np.zeros(allowed.shape, bool)
    chosen[linear_sum_assignment(allowed, maximize=True)] = True
    return chosen[at[0], at[1]]


# ---------------------------------------------------------------- the same class?


def class_choices(
    overlaps: Overlaps, pairs: np.ndarray, iou_threshold: float = 0.5
) -> tuple[np.ndarray, np.ndarray]:
    """Of each pair of looks: whether both finished the same two classes or more, and how often the class of
    the first look (row) met that of the second (column) on nuclei that both found, whatever their class,
    int64 (n, c, c). Without such classes nothing is counted.
    """
    _check(iou_threshold)
    pairs, n_classes = np.asarray(pairs, np.int64).reshape(-1, 2), len(overlaps.class_ids)
    both = overlaps.finished[pairs[:, 0]] & overlaps.finished[pairs[:, 1]]
    comparable = both.sum(axis=1) >= 2
    of_pair = _pair_of(overlaps, pairs)
    rows = np.flatnonzero((of_pair >= 0) & (overlaps.iou > iou_threshold))
    classes = [overlaps.mark_class[side[rows]] for side in (overlaps.first, overlaps.second)]
    pair = of_pair[rows]
    shared = comparable[pair] & both[pair, classes[0]] & both[pair, classes[1]]
    rows, pair = rows[shared], pair[shared]
    kept = np.ones(len(rows), bool)
    for number in np.unique(
        np.concatenate([_twice(pair, overlaps.first[rows]), _twice(pair, overlaps.second[rows])])
    ):
        mine = np.flatnonzero(pair == number)
        sides = [_marks_of(overlaps, look, both[number]) for look in pairs[number]]
        kept[mine] = _best(overlaps, rows[mine], pairs[number], sides)
    rows, pair = rows[kept], pair[kept]
    a, b = (overlaps.mark_class[side[rows]] for side in (overlaps.first, overlaps.second))
    turned = pairs[pair, 0] > pairs[pair, 1]
    a, b = np.where(turned, b, a), np.where(turned, a, b)
    cells = (pair * n_classes + a) * n_classes + b
    counts = np.bincount(cells, minlength=len(pairs) * n_classes**2)
    return comparable, counts.reshape(len(pairs), n_classes, n_classes)


def _twice(pair: np.ndarray, mark: np.ndarray) -> np.ndarray:
    """The pairs in which a mark appears more than once."""
    span = int(mark.max(initial=0)) + 1
    keys = np.sort(pair * np.int64(span) + mark)
    return np.unique(keys[1:][np.diff(keys) == 0] // span)


def _marks_of(overlaps: Overlaps, look: int, classes: np.ndarray) -> np.ndarray:
    """A look's marks of these classes, class by class in the order of names."""
    return np.concatenate(
        [overlaps.begin[look, k] + np.arange(overlaps.counts[look, k]) for k in np.flatnonzero(classes)]
    )


# ---------------------------------------------------------------- everybody together


@dataclass(frozen=True)
class Nuclei:
    """What anybody of a circle of raters marked, one row each."""

    patch: np.ndarray  # (n,) number of the patch
    chosen: np.ndarray  # (n, c) how many gave it each class
    undetected: np.ndarray  # (n,) how many looked for every class and did not mark it


def find_nuclei(overlaps: Overlaps, circle: int, iou_threshold: float = 0.5) -> Nuclei:
    """`agreement.rated_nuclei` of a circle, counted: who gave which class does not matter to alpha."""
    _check(iou_threshold)
    present = np.zeros(len(overlaps.look_key), bool)
    present[overlaps.seen[overlaps.seen[:, 0] == circle, 1]] = True
    joins = overlaps.joins[(overlaps.joins[:, 0] == circle) & (overlaps.join_iou > iou_threshold)]
    marks = np.flatnonzero(present[overlaps.mark_look])
    n = len(overlaps.mark_look)
    graph = coo_matrix((np.ones(len(joins), bool), (joins[:, 1], joins[:, 2])), shape=(n, n))
    part = connected_components(graph, directed=False)[1] if n else np.zeros(0, np.int32)
    firsts, nucleus = np.unique(part[marks], return_index=True, return_inverse=True)[1:]
    n_classes = len(overlaps.class_ids)
    cells = nucleus * n_classes + overlaps.mark_class[marks]
    chosen = np.bincount(cells, minlength=len(firsts) * n_classes).reshape(len(firsts), n_classes)
    patch = overlaps.look_patch[overlaps.mark_look[marks[firsts]]]
    looking = np.bincount(overlaps.look_patch[present], minlength=len(overlaps.look_of_patch))
    return Nuclei(patch, chosen, looking[patch] - chosen.sum(axis=1))


def alphas(nuclei: Nuclei, chosen: np.ndarray) -> dict[str, float | int]:
    """Krippendorff's alpha of some nuclei (bool (n,)): with "undetected" as an answer, and of classes only,
    each with the number of nuclei that two raters or more answered about.
    """
    classes, missed = nuclei.chosen[chosen], nuclei.undetected[chosen]
    with_missed = np.column_stack([classes, missed])
    return {
        "alpha": alpha_of_counts(with_missed),
        "n": int((with_missed.sum(axis=1) >= 2).sum()),
        "alpha_class": alpha_of_counts(classes),
        "n_class": int((classes.sum(axis=1) >= 2).sum()),
    }
