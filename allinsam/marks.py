"""What several raters marked on a patch, and which marks are the same nucleus.

A rater who finished a class on a patch has looked for it, whether or not any was found; a class that a rater
did not finish is missing. Neither the raters' names nor their order matter.

Marks of different raters are one object by average linkage: the two groups with the greatest mean IoU between
their marks are joined first, never two marks of one rater, and none at a mean of 0.5 or below. One linked
pair is not enough, because an outline over two touching nuclei would chain them together: if A and C do not
overlap, the IoU of B with both adds up to 1 at most, so C never joins A and B. To ask it of every pair
(complete linkage) would let one loose outline break an object up. 0.5 is where metrics.py, too, calls two
outlines one nucleus.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import connected_components

from allinsam.errors import InputError
from allinsam.masks import as_labels, as_mask, decode_window

UNDETECTED = "undetected"

# ---------------------------------------------------------------- what the raters marked


@dataclass(frozen=True)
class Instance:
    """One nucleus as one rater drew it."""

    rater: str
    class_name: str
    pixels: np.ndarray  # (n,) int64, ascending places in the flattened patch
    key: Any = None  # what the caller knows it by


@dataclass(frozen=True)
class RatedPatch:
    """What everybody marked on one patch."""

    size_hw: tuple[int, int]
    looked: Mapping[str, frozenset[str]]  # rater -> the classes finished here, whether or not any was found
    instances: tuple[Instance, ...]

    @property
    def asked(self) -> tuple[str, ...]:
        """The classes that anybody finished here."""
        return tuple(sorted(set().union(*self.looked.values())))

    def lookers(self, class_name: str) -> frozenset[str]:
        return frozenset(rater for rater, classes in self.looked.items() if class_name in classes)

    @property
    def full_lookers(self) -> frozenset[str]:
        """Those who finished every class asked for here: only they could choose between them."""
        return frozenset(rater for rater, classes in self.looked.items() if classes == set(self.asked))


Marked = tuple[
    str, str, np.ndarray | Mapping[str, Any], Any
]  # rater, class, mask or its run-length code, key


def rated_patch(
    size_hw: tuple[int, int], looked: Mapping[str, Iterable[str]], marked: Iterable[Marked]
) -> RatedPatch:
    """Collect a patch's masks, bool (H, W) or COCO run lengths. Raises InputError for a mask of another size
    and for one of a class that its rater did not finish; empty masks are left out.
    """
    looked = {rater: frozenset(classes) for rater, classes in looked.items()}
    instances = []
    for rater, class_name, mask, key in marked:
        shape, pixels = mask_places(mask)
        if shape != tuple(size_hw):
            raise InputError(f"A mask of {shape} px is not of this patch of {tuple(size_hw)} px.")
        if class_name not in looked.get(rater, ()):
            raise InputError(f"{rater!r} marked {class_name!r} without finishing it. Leave such masks out.")
        if len(pixels):
            instances.append(Instance(rater, class_name, pixels, key))
    return RatedPatch(tuple(size_hw), looked, tuple(instances))


def mask_places(mask: np.ndarray | Mapping[str, Any]) -> tuple[tuple[int, ...], np.ndarray]:
    """Size of a mask or run-length code, and its ascending places in the flattened patch."""
    if not isinstance(mask, Mapping):
        mask = as_mask(mask)
        return mask.shape, np.flatnonzero(mask)
    window, top, left = decode_window(mask)  # a hundred nuclei on a patch: none is worth all its pixels
    rows, columns = np.nonzero(window)
    height, width = (int(side) for side in mask["size"])
    return (height, width), (rows + top) * width + columns + left


def rated_labels(by_rater: Mapping[str, Mapping[str, np.ndarray]]) -> RatedPatch:
    """A patch as `{rater: {class: label image (H, W)}}`; an instance's key is its id there."""
    sizes = {np.shape(labels) for classes in by_rater.values() for labels in classes.values()}
    if len(sizes) != 1:
        raise InputError(f"Label images of sizes {sorted(sizes)} px are no patch. Give some, of one size.")
    instances = [
        Instance(rater, name, pixels, number)
        for rater, classes in by_rater.items()
        for name, labels in classes.items()
        for number, pixels in _pixels_of(as_labels(labels))
    ]
    looked = {rater: frozenset(classes) for rater, classes in by_rater.items()}
    return RatedPatch(sizes.pop(), looked, tuple(instances))


def _pixels_of(labels: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """Id and places of each instance, from one pass over the label image."""
    places = np.flatnonzero(labels)
    ids = labels.ravel()[places]
    order = np.argsort(ids, kind="stable")
    present, first = np.unique(ids[order], return_index=True)
    yield from zip(present.tolist(), np.split(places[order], first[1:]), strict=bool(len(present)))


# ---------------------------------------------------------------- which marks are one object


def cluster(instances: Iterable[Instance], iou_threshold: float = 0.5) -> list[tuple[Instance, ...]]:
    """Groups of marks of the same nucleus, at most one of each rater, ordered by place (see the module)."""
    # By what was drawn and not by whom: then nothing below can depend on the raters' names or order.
    instances = sorted(instances, key=_place)
    if not instances:
        return []
    iou = _pairwise_iou(instances)
    # A mean above the threshold needs a pair above it: what no pair links never meets.
    n_parts, part = connected_components(iou > iou_threshold, directed=False)
    groups = []
    for number in range(n_parts):
        groups += _join(np.flatnonzero(part == number).tolist(), instances, iou, iou_threshold)
    return [tuple(instances[i] for i in group) for group in sorted(groups)]


def _place(instance: Instance) -> tuple:
    pixels = instance.pixels
    return int(pixels[0]), len(pixels), pixels.tobytes(), instance.class_name, instance.rater


def _pairwise_iou(instances: Sequence[Instance]) -> np.ndarray:
    areas = np.array([len(instance.pixels) for instance in instances])
    columns = np.concatenate([instance.pixels for instance in instances])
    starts = np.concatenate([[0], np.cumsum(areas)])
    drawn = csr_matrix((np.ones(len(columns)), columns, starts))
    shared = (drawn @ drawn.T).toarray()
    return shared / (areas[:, None] + areas[None, :] - shared)


def _join(
    members: list[int], instances: Sequence[Instance], iou: np.ndarray, threshold: float
) -> list[list[int]]:
    raters = np.unique([instances[i].rater for i in members], return_inverse=True)[1]
    classes = np.unique([instances[i].class_name for i in members], return_inverse=True)[1]
    groups = {i: [i] for i in members}
    for a, b, _ in join_order(iou[np.ix_(members, members)], raters, classes, threshold):
        groups[members[a]] = sorted(groups[members[a]] + groups.pop(members[b]))
    return list(groups.values())


def join_order(
    iou: np.ndarray, raters: np.ndarray, classes: np.ndarray, threshold: float
) -> list[tuple[int, int, float]]:
    """Which groups of marks are joined, one after the other: (first mark of one, of the other, mean IoU).

    The marks are ordered by place, `iou` is (n, n), `raters` and `classes` are numbers. Of equal means the
    pair comes first that agrees most about the class, then the one that lies first. No mean is above an
    earlier one, so that the joins at a higher threshold are the first of these.
    """
    n = len(iou)
    total, alike = iou.astype(float), (classes[:, None] == classes[None, :]).astype(float)
    apart = raters[:, None] != raters[None, :]
    size = np.ones(n)
    upper = np.triu(np.ones((n, n), bool), 1)
    link = np.where(upper & apart, np.round(total, 12), -1.0)
    joins = []
    while n > 1:
        best = link.max()
        if best <= threshold:
            break
        candidates = np.flatnonzero(link.ravel() == best)
        if len(candidates) > 1:
            rows, columns = np.divmod(candidates, n)
            share = alike[rows, columns] / (size[rows] * size[columns])
            candidates = candidates[share == share.max()]
        a, b = divmod(int(candidates[0]), n)
        joins.append((a, b, float(best)))
        size[a] += size[b]
        for sums in (total, alike):
            sums[a] += sums[b]
            sums[:, a] = sums[a]
        apart[a] &= apart[b]
        apart[:, a] = apart[a]
        size[b] = np.inf  # gone
        link[b], link[:, b] = -1.0, -1.0
        gone = np.isinf(size)
        mean = np.round(total[a] / (size[a] * size), 12)
        mean[gone | ~apart[a]] = -1.0
        link[a, a + 1 :], link[:a, a] = mean[a + 1 :], mean[:a]
    return joins
