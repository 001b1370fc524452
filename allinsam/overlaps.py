"""Every mark of every rater on a patch against every other, counted once.

All raters' marks are one sparse matrix (marks x pixels); multiplied with itself it says how many pixels any
two share. From these counts matched.py makes every figure, at any IoU threshold, without a look at a mask.

A look is one rater's finished work on a patch. Marks of one look and class do not overlap: a contested pixel
is the smaller mark's, then the earlier one's, as in `instances_to_labels`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cache
from typing import NamedTuple

import numpy as np
from scipy.sparse import csr_matrix

from allinsam.consensus import DEFAULTS, FEWEST_RATERS, as_found, decide_objects
from allinsam.errors import InputError
from allinsam.marks import Instance, RatedPatch, join_marks
from allinsam.masks import decode_places

LOWEST_IOU = 0.3  # marks are joined to nuclei from here up: no threshold may be lower


@dataclass(frozen=True)
class Work:
    """A look that is to be counted: the ids of the classes it finished, and its marks."""

    key: int
    rater: str
    classes: tuple[int, ...]
    marks: tuple[tuple[int, str], ...]  # class id, compressed run lengths


@dataclass(frozen=True)
class Majority:
    """What most of some raters marked, as a look under a key of its own. Numbers of works."""

    members: tuple[int, ...]
    compared_with: tuple[int, ...]


@dataclass(frozen=True)
class PatchOverlaps:
    """Looks and marks are numbered from 0; marks are in the order of their looks, classes and keys."""

    looks: np.ndarray  # (r,) int64, their keys
    finished: np.ndarray  # (k, 2) int32: look, class id
    mark_look: np.ndarray  # (n,) int32
    mark_class: np.ndarray  # (n,) int32, class id
    mark_area: np.ndarray  # (n,) int32, px
    first: np.ndarray  # (m,) int32: a mark, and one of a later look that shares pixels with it
    second: np.ndarray  # (m,) int32
    shared: np.ndarray  # (m,) int32, px
    seen: np.ndarray  # (q, 2) int32: circle, a look of it that finished every class asked for there
    joins: np.ndarray  # (j, 3) int32: circle, the first marks of two groups that are joined
    join_iou: np.ndarray  # (j,) float64: mean IoU between the groups, falling within a circle's part


PATCH_FIELDS = tuple(field.name for field in fields(PatchOverlaps))


def count_overlaps(
    works: Sequence[Work],
    size_hw: tuple[int, int],
    class_names: Mapping[int, str],
    circles: Mapping[int, Sequence[int]] | None = None,
    majorities: Mapping[int, Majority] | None = None,
) -> PatchOverlaps:
    """Count one patch. The order of `works` is that of the looks; order them by rater.

    Args:
        circles: number -> works, one of each rater, whose marks are joined to nuclei as in `marks.cluster`,
            all joins down to LOWEST_IOU.
        majorities: key -> members of at least FEWEST_RATERS, else it is left out. Where two classes have as
            many votes, the one that is commoner on the patch is taken.
    """
    marks = _disjoint_marks(works, size_hw)
    drawn = _as_matrix(marks, size_hw)
    first, second, shared = _shared_pixels(drawn)
    iou = _all_iou(marks, first, second, shared)
    apart = (first < second) & (marks.look[first] != marks.look[second])
    counted = [np.stack([first, second, shared], axis=1)[apart]]
    looks = [work.key for work in works]
    finished = [(look, class_id) for look, work in enumerate(works) for class_id in sorted(work.classes)]
    order = np.array(_by_place(works, marks, class_names), np.int64)
    joins_of = cache(lambda members: _joins(order[np.isin(marks.look[order], members)], marks, iou))
    seen, joins, join_iou = _join_circles(circles or {}, works, joins_of)
    added, n_marks = [marks], len(marks.look)
    for key, majority in (majorities or {}).items():
        if len(majority.members) < FEWEST_RATERS:
            continue
        classes, agreed = _agreed_marks(
            majority.members,
            works,
            marks,
            order,
            joins_of(tuple(sorted(majority.members))),
            size_hw,
            class_names,
        )
        agreed = agreed._replace(look=np.full(len(agreed.area), len(looks), np.int64))
        finished += [(len(looks), class_id) for class_id in classes]
        looks.append(key)
        between = (drawn @ _as_matrix(agreed, size_hw).T).tocoo()
        kept = np.isin(marks.look[between.row], majority.compared_with)
        columns = (between.row[kept], between.col[kept] + n_marks, between.data[kept])
        counted.append(np.stack(columns, axis=1))
        added.append(agreed)
        n_marks += len(agreed.look)
    table = np.concatenate(counted).astype(np.int32)
    return PatchOverlaps(
        looks=np.array(looks, np.int64),
        finished=np.array(finished, np.int32).reshape(-1, 2),
        mark_look=np.concatenate([part.look for part in added]).astype(np.int32),
        mark_class=np.concatenate([part.class_id for part in added]).astype(np.int32),
        mark_area=np.concatenate([part.area for part in added]).astype(np.int32),
        first=table[:, 0].copy(),
        second=table[:, 1].copy(),
        shared=table[:, 2].copy(),
        seen=seen,
        joins=joins,
        join_iou=join_iou,
    )


def majority_masks(
    works: Sequence[Work], size_hw: tuple[int, int], class_names: Mapping[int, str]
) -> tuple[list[int], list[tuple[int, np.ndarray]]]:
    """The classes that most of these raters looked for, and what most of them marked: class id and mask, bool
    (H, W). It is the majority whose overlaps `count_overlaps` counts.

    Raises:
        InputError: fewer than FEWEST_RATERS.
    """
    if len(works) < FEWEST_RATERS:
        raise InputError(f"{len(works)} people are no majority. It takes {FEWEST_RATERS}.")
    marks = _disjoint_marks(works, size_hw)
    drawn = _as_matrix(marks, size_hw)
    order = np.array(_by_place(works, marks, class_names), np.int64)
    joins = _joins(order, marks, _all_iou(marks, *_shared_pixels(drawn)))
    classes, agreed = _agreed_marks(range(len(works)), works, marks, order, joins, size_hw, class_names)
    found = []
    for class_id, places in zip(agreed.class_id.tolist(), agreed.pixels(), strict=True):
        mask = np.zeros(size_hw, bool)
        mask.flat[places] = True
        found.append((class_id, mask))
    return classes, found


# ---------------------------------------------------------------- marks


class _Marks(NamedTuple):
    look: np.ndarray  # (n,)
    class_id: np.ndarray  # (n,)
    area: np.ndarray  # (n,), none is 0
    places: np.ndarray  # (sum of areas,) of the flattened patch, mark after mark, in no order

    def pixels(self) -> list[np.ndarray]:
        return np.split(self.places, np.cumsum(self.area)[:-1]) if len(self.area) else []


def _disjoint_marks(works: Sequence[Work], size_hw: tuple[int, int]) -> _Marks:
    rows = [
        (look, class_id, counts)
        for look, work in enumerate(works)
        for class_id, counts in sorted(work.marks, key=lambda mark: mark[0])
        if class_id in work.classes
    ]
    look, class_id = np.array([row[:2] for row in rows], np.int64).reshape(-1, 2).T
    if not rows:
        return _Marks(look, class_id, look, look)
    number, places = decode_places([row[2] for row in rows], size_hw)
    area = np.bincount(number, minlength=len(rows))
    stops = np.cumsum(area)
    owner = np.empty(size_hw[0] * size_hw[1], np.int32)
    kept = np.empty(len(places), bool)
    opens = np.flatnonzero(np.append(True, (np.diff(look) != 0) | (np.diff(class_id) != 0)))
    for begin, end in zip(opens, np.append(opens[1:], len(rows)), strict=True):
        # The weakest claim is painted first, and every stronger one over it.
        for mark in sorted(range(begin, end), key=lambda i: (-area[i], -i)):
            owner[places[stops[mark] - area[mark] : stops[mark]]] = mark
        group = slice(stops[begin] - area[begin], stops[end - 1])
        kept[group] = owner[places[group]] == number[group]
    left = np.bincount(number[kept], minlength=len(rows))
    return _Marks(look[left > 0], class_id[left > 0], left[left > 0], places[kept])


def _as_matrix(marks: _Marks, size_hw: tuple[int, int]) -> csr_matrix:
    starts = np.concatenate([[0], np.cumsum(marks.area)])
    ones = np.ones(len(marks.places), np.int32)
    return csr_matrix((ones, marks.places, starts), shape=(len(marks.area), size_hw[0] * size_hw[1]))


def _shared_pixels(drawn: csr_matrix) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Every two rows that share columns, also a row with itself, in their order, and how many they share."""
    shared = drawn @ drawn.T
    shared.sort_indices()
    first = np.repeat(np.arange(drawn.shape[0]), np.diff(shared.indptr))
    return first, shared.indices.astype(np.int64), shared.data.astype(np.int64)


def _all_iou(marks: _Marks, first: np.ndarray, second: np.ndarray, shared: np.ndarray) -> np.ndarray:
    """(n, n) of every two marks, from what `_shared_pixels` gives."""
    iou = np.zeros((len(marks.area), len(marks.area)))
    iou[first, second] = shared / (marks.area[first] + marks.area[second] - shared)
    return iou


# ---------------------------------------------------------------- nuclei


Joins = tuple[np.ndarray, np.ndarray]  # (m, 2) first marks of two groups, and (m,) their mean IoU
NO_JOINS = (np.zeros((0, 2), np.int64), np.zeros(0))


def _join_circles(
    circles: Mapping[int, Sequence[int]],
    works: Sequence[Work],
    joins_of: Callable[[tuple[int, ...]], Joins],
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """`seen`, `joins` and `join_iou` of all circles."""
    seen, joins, join_iou = [], [np.zeros((0, 3), np.int64)], [np.zeros(0)]
    for circle, members in circles.items():
        asked = {class_id for look in members for class_id in works[look].classes}
        present = tuple(sorted(look for look in members if set(works[look].classes) == asked))
        seen += [(circle, look) for look in present]
        pairs, mean = joins_of(present)
        joins.append(np.insert(pairs, 0, circle, axis=1))
        join_iou.append(mean)
    return (
        np.array(seen, np.int32).reshape(-1, 2),
        np.concatenate(joins).astype(np.int32),
        np.concatenate(join_iou),
    )


def _by_place(works: Sequence[Work], marks: _Marks, class_names: Mapping[int, str]) -> list[int]:
    """Numbers of the marks in the order in which `marks.cluster` takes them."""
    if not len(marks.area):
        return []
    starts = np.cumsum(marks.area) - marks.area
    begin = np.minimum.reduceat(marks.places, starts)

    def place(mark: int) -> tuple:
        rows = np.sort(marks.places[starts[mark] : starts[mark] + marks.area[mark]])
        name = class_names[int(marks.class_id[mark])]
        return int(begin[mark]), int(marks.area[mark]), rows.tobytes(), name, works[marks.look[mark]].rater

    order = np.lexsort((marks.area, begin))
    same = (np.diff(begin[order]) == 0) & (np.diff(marks.area[order]) == 0)
    if same.any():  # only those that begin alike are looked at
        like = np.flatnonzero(np.append(False, same) | np.append(same, False))
        order[like] = sorted(order[like].tolist(), key=place)
    return order.tolist()


def _joins(order: np.ndarray, marks: _Marks, iou: np.ndarray) -> Joins:
    """The joins among these marks, which are ordered by place; `iou` is of all marks."""
    if not len(order):
        return NO_JOINS
    mine = iou[np.ix_(order, order)]
    pairs, mean = join_marks(mine, marks.look[order], marks.class_id[order], LOWEST_IOU)
    return order[pairs], mean


def _agreed_marks(
    members: Sequence[int],
    works: Sequence[Work],
    marks: _Marks,
    order: np.ndarray,
    joins: Joins,
    size_hw: tuple[int, int],
    class_names: Mapping[int, str],
) -> tuple[list[int], _Marks]:
    """The classes that enough of the members looked for, and the marks of their majority, of no look yet."""
    id_of = {name: class_id for class_id, name in class_names.items()}
    looked = {works[i].rater: frozenset(class_names[c] for c in works[i].classes) for i in members}
    pixels = marks.pixels()
    instances = {
        mark: Instance(works[marks.look[mark]].rater, class_names[int(marks.class_id[mark])], pixels[mark])
        for mark in order.tolist()
        if marks.look[mark] in members
    }
    patch = RatedPatch(tuple(size_hw), looked, tuple(instances.values()))
    groups = {mark: [mark] for mark in instances}
    pairs, mean = joins
    for a, b in pairs[mean > DEFAULTS.iou_threshold].tolist():
        groups[a] += groups.pop(b)
    found = as_found(patch, [tuple(instances[mark] for mark in group) for group in groups.values()])
    agreed = decide_objects({"": patch}, {"": found})[""]
    things = sorted(agreed.objects, key=lambda thing: id_of[thing.choice.class_name])
    return sorted(id_of[name] for name in agreed.classes), _Marks(
        np.zeros(0, np.int64),
        np.array([id_of[thing.choice.class_name] for thing in things], np.int64),
        np.array([len(thing.pixels) for thing in things], np.int64),
        np.concatenate([np.zeros(0, np.int64), *(thing.pixels for thing in things)]),
    )
