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
from allinsam.masks import as_labels, as_mask, decode_places, decode_window

UNDETECTED = "undetected"
CELLS_AT_ONCE = 1 << 18  # pairs of marks whose parts are joined at once

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
    marked = list(marked)
    for (rater, class_name, _, key), (shape, pixels) in zip(marked, _all_places(marked), strict=True):
        if shape != tuple(size_hw):
            raise InputError(f"A mask of {shape} px is not of this patch of {tuple(size_hw)} px.")
        if class_name not in looked.get(rater, ()):
            raise InputError(f"{rater!r} marked {class_name!r} without finishing it. Leave such masks out.")
        if len(pixels):
            instances.append(Instance(rater, class_name, pixels, key))
    return RatedPatch(tuple(size_hw), looked, tuple(instances))


def _all_places(marked: Sequence[Marked]) -> Iterator[tuple[tuple[int, ...], np.ndarray]]:
    """`mask_places` of each; run-length codes as they are stored are read all at once."""
    masks = [mask for _, _, mask, _ in marked]
    first = masks[0] if masks else None
    if not all(_is_stored(mask) and mask["size"] == first["size"] for mask in masks):
        yield from (mask_places(mask) for mask in masks)
        return
    if masks:
        size_hw = tuple(int(side) for side in first["size"])
        number, places = decode_places([mask["counts"] for mask in masks], size_hw)
        cuts = np.searchsorted(number, np.arange(1, len(masks)))
        yield from ((size_hw, np.sort(mine)) for mine in np.split(places, cuts))


def _is_stored(mask: np.ndarray | Mapping[str, Any]) -> bool:
    if not isinstance(mask, Mapping):
        return False
    return isinstance(mask.get("counts"), str) and len(mask.get("size", ())) == 2


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
    raters, classes = (
        np.unique([getattr(mark, name) for mark in instances], return_inverse=True)[1]
        for name in ("rater", "class_name")
    )
    pairs, _ = join_marks(_pairwise_iou(instances), raters, classes, iou_threshold)
    groups = {number: [number] for number in range(len(instances))}
    for a, b in pairs.tolist():
        groups[a] += groups.pop(b)
    return [tuple(instances[i] for i in group) for group in sorted(sorted(g) for g in groups.values())]


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


def join_marks(
    iou: np.ndarray, raters: np.ndarray, classes: np.ndarray, threshold: float
) -> tuple[np.ndarray, np.ndarray]:
    """Which groups of marks are joined: (m, 2) the first mark of one group and of the other, and (m,) the
    mean IoU between the groups.

    The marks are ordered by place, `iou` is (n, n), `raters` and `classes` are numbers. Marks that no pair
    above the threshold links never meet: the joins are those of one such part after the other, within a part
    in the order in which they are made. Of equal means the pair comes first that agrees most about the class,
    then the one that lies first. No mean is above an earlier one of its part, so that the joins at a higher
    threshold are the first of these.
    """
    part = connected_components(csr_matrix(iou > threshold), directed=False)[1]
    sizes = np.bincount(part, minlength=1)
    order = np.argsort(part, kind="stable")
    starts = np.cumsum(sizes) - sizes
    pairs, means, parts = [np.zeros((0, 2), np.int64)], [np.zeros(0)], [np.zeros(0, np.int64)]
    for chosen in _alike_in_size(sizes):
        place = np.arange(sizes[chosen].max())
        inside = place < sizes[chosen, None]
        members = order[np.where(inside, starts[chosen, None] + place, 0)]
        found = _join_parts(iou, members, inside, raters, classes, threshold)
        rows, a, b, mean = (np.concatenate(column) for column in zip(*found, strict=True))
        pairs.append(np.stack([members[rows, a], members[rows, b]], axis=1))
        means.append(mean)
        parts.append(chosen[rows])
    by_part = np.argsort(np.concatenate(parts), kind="stable")
    return np.concatenate(pairs)[by_part], np.concatenate(means)[by_part]


def _alike_in_size(sizes: np.ndarray) -> Iterator[np.ndarray]:
    """Numbers of the parts of two marks or more, those together that are worked on at once."""
    doublings = np.ceil(np.log2(np.maximum(sizes, 1))).astype(int)
    for doubling in np.unique(doublings[sizes > 1]):
        alike = np.flatnonzero(doublings == doubling)
        at_once = max(1, CELLS_AT_ONCE >> (2 * int(doubling)))
        yield from (alike[start : start + at_once] for start in range(0, len(alike), at_once))


def _join_parts(
    iou: np.ndarray,
    members: np.ndarray,
    inside: np.ndarray,
    raters: np.ndarray,
    classes: np.ndarray,
    threshold: float,
) -> list[tuple[np.ndarray, ...]]:
    """The joins of several parts, one of each at a time: rows of `members`, two columns, mean IoU.

    members: (p, n) numbers of marks; inside: which of them there are.
    """
    n = members.shape[1]
    total = iou[members[:, :, None], members[:, None, :]].astype(float)
    rater, named = raters[members], classes[members]
    alike = (named[:, :, None] == named[:, None, :]).astype(float)
    apart = (rater[:, :, None] != rater[:, None, :]) & inside[:, :, None] & inside[:, None, :]
    size = np.ones(members.shape)
    link = np.where(np.triu(np.ones((n, n), bool), 1) & apart, np.round(total, 12), -1.0)
    rows, columns, found = np.arange(len(members)), np.arange(n), []
    while True:
        flat = link.reshape(len(link), n * n)
        first = flat.argmax(axis=1)
        best = flat[np.arange(len(flat)), first]
        goes_on = best > threshold
        if not goes_on.all():
            total, alike, apart, size, link, rows = (
                kept[goes_on] for kept in (total, alike, apart, size, link, rows)
            )
            flat, first, best = link.reshape(len(link), n * n), first[goes_on], best[goes_on]
        if not len(rows):
            return found or [(rows, first, first, best)]
        equal = flat == best[:, None]
        tied = np.flatnonzero(equal.sum(axis=1) > 1)
        if len(tied):
            share = alike[tied] / (size[tied, :, None] * size[tied, None, :])
            first[tied] = np.where(equal[tied], share.reshape(len(tied), -1), -1.0).argmax(axis=1)
        a, b = np.divmod(first, n)
        found.append((rows, a, b, best))
        each = np.arange(len(rows))
        size[each, a] += size[each, b]
        for sums in (total, alike):
            sums[each, a] += sums[each, b]
            sums[each, :, a] = sums[each, a]
        apart[each, a] &= apart[each, b]
        apart[each, :, a] = apart[each, a]
        size[each, b] = np.inf  # gone
        link[each, b], link[each, :, b] = -1.0, -1.0
        mean = np.round(total[each, a] / (size[each, a][:, None] * size), 12)
        mean[np.isinf(size) | ~apart[each, a]] = -1.0
        link[each, a] = np.where(columns > a[:, None], mean, -1.0)
        link[each, :, a] = np.where(columns < a[:, None], mean, -1.0)
