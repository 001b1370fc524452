"""Outlines from outside to masks and back, in the window that holds them and not over the whole patch."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import shapely

from allinsam.errors import InputError
from allinsam.masks import decode_window, encode_window, mask_to_rings, polygons_to_mask
from allinsam.records import Mask

# A hand that closes an outline often crosses it by a pixel: 1,577 of 2,434 outlines of MoNuSeg do, and all
# but one keep 99 % of their area. Where more is lost it is not clear what lies inside.
CLEAR_SHARE = 0.9
GRID = 256  # cells on a side to judge that on
MOST_CROSSED_ROWS = 5_000_000  # rows that an outline's edges cross, all together: the memory to fill it

Ring = np.ndarray  # float64 (n, 2) of xy, px of the patch, open


def ring_of(path: Path, where: str, points: Any) -> Ring:
    """A list of [x, y] from outside as a ring, without a repeated last point.

    Raises:
        InputError: fewer than 3 points, or coordinates that are no finite numbers.
    """
    try:
        ring = np.array(points, dtype=np.float64)
    except (OverflowError, TypeError, ValueError) as error:
        raise InputError(f"{path}: {where}: its outline is no list of [x, y]. Export it again.") from error
    if ring.ndim != 2 or ring.shape[1] < 2:
        raise InputError(f"{path}: {where}: its outline is no list of [x, y]. Export it again.")
    ring = ring[:, :2]
    if not np.isfinite(ring).all():
        raise InputError(f"{path}: {where} has a coordinate that is not finite. Export it again.")
    if len(ring) > 1 and (ring[0] == ring[-1]).all():
        ring = ring[:-1]
    if len(ring) < 3:
        raise InputError(f"{path}: {where} is a polygon of {len(ring)} points; it needs 3. Draw it again.")
    return ring


def check_ring(path: Path, where: str, ring: Ring) -> None:
    """Refuse an outline that crosses itself so that it is not clear what lies inside."""
    if crosses_unclearly(ring):
        raise InputError(
            f"{path}: the outline of {where} crosses itself: it is not clear what lies inside. "
            "Mend it in the program that drew it."
        )


def crosses_unclearly(ring: Ring) -> bool:
    """Whether the loops of an outline that crosses itself take away more than a tenth of what it encloses."""
    if shapely.Polygon(ring).is_valid:
        return False
    # On a grid, not by cutting the outline at its crossings: there may be the square of its points.
    extent = np.ptp(ring, axis=0)
    if not extent.all():
        return False  # a line: it encloses nothing, and holds no pixel either
    scaled = (ring - ring.min(axis=0)) / extent * GRID
    if _crossed_rows(scaled) > MOST_CROSSED_ROWS:
        return True
    x, y = scaled[:, 0], scaled[:, 1]
    area = abs((x * np.roll(y, -1) - np.roll(x, -1) * y).sum()) / 2
    return bool(area < CLEAR_SHARE * polygons_to_mask([scaled], (GRID, GRID)).sum())


def _crossed_rows(ring: Ring) -> float:
    return float(np.abs(np.diff(ring[:, 1], append=ring[0, 1])).sum())


def mask_of_parts(
    path: Path, where: str, parts: Sequence[Sequence[Ring]], size_hw: tuple[int, int]
) -> tuple[Mask, bool]:
    """Mask of parts `[outer outline, hole ...]`, and whether they reach out of the patch and were cut there.

    A pixel is in when its centre is. Raises InputError where nothing lies inside the patch.
    """
    window, top, left = _window_of(path, where, [ring for rings in parts for ring in rings], size_hw)
    for rings in parts:
        shifted = [ring - (left, top) for ring in rings]
        window |= polygons_to_mask(shifted[:1], window.shape) & ~polygons_to_mask(shifted[1:], window.shape)
    return _finished(path, where, window, top, left, parts, size_hw)


def mask_of_even_odd(
    path: Path, where: str, rings: Sequence[Ring], size_hw: tuple[int, int]
) -> tuple[Mask, bool]:
    """The same of rings of which none is said to be a hole: a pixel in an odd number of rings is in."""
    window, top, left = _window_of(path, where, rings, size_hw)
    for ring in rings:
        window ^= polygons_to_mask([ring - (left, top)], window.shape)
    return _finished(path, where, window, top, left, [rings], size_hw)


def _window_of(
    path: Path, where: str, rings: Sequence[Ring], size_hw: tuple[int, int]
) -> tuple[np.ndarray, int, int]:
    """An empty window of the patch that holds these rings, its top and its left."""
    points = np.concatenate(rings)
    height, width = size_hw
    left, top = np.floor(np.clip(points.min(axis=0), 0, (width, height))).astype(int)
    right, bottom = np.ceil(np.clip(points.max(axis=0), 0, (width, height))).astype(int)
    if right <= left or bottom <= top:
        raise InputError(
            f"{path}: {where} lies outside the patch of {width} x {height} px, at x "
            f"{points[:, 0].min():.0f}, y {points[:, 1].min():.0f}. Give coordinates in px of this patch."
        )
    if any(_crossed_rows(np.clip(ring, 0, (width, height))) > MOST_CROSSED_ROWS for ring in rings):
        raise InputError(f"{path}: the outline of {where} is too intricate. Simplify it.")
    return np.zeros((bottom - top, right - left), bool), int(top), int(left)


def _finished(
    path: Path,
    where: str,
    window: np.ndarray,
    top: int,
    left: int,
    parts: Sequence[Sequence[Ring]],
    size_hw: tuple[int, int],
) -> tuple[Mask, bool]:
    points = np.concatenate([ring for rings in parts for ring in rings])
    cut = bool((points < 0).any() or (points > (size_hw[1], size_hw[0])).any())
    if not window.any():
        raise InputError(f"{path}: {where} holds no pixel of the patch. Remove it or draw it larger.")
    return Mask(*size_hw, encode_window(window, top, left, size_hw)["counts"]), cut


def parts_of_mask(mask: Mask) -> list[list[list[list[int]]]]:
    """Parts `[outer outline, hole ...]` of a mask along pixel edges, open rings of whole [x, y], px of the
    patch."""
    window, top, left = decode_window(mask.as_rle())
    return [[(ring.astype(int) + (left, top)).tolist() for ring in rings] for rings in mask_to_rings(window)]


def cut_note(count: int) -> tuple[str, ...]:
    """A line about objects that were cut at the patch's edge, if there are some."""
    if not count:
        return ()
    return (f"{count} object(s) reached out of the patch and were cut at its edge.",)
