"""Masks: run-length code, outlines, clean-up, and instances to a label image and back.

Outlines follow pixel edges: pixel i covers [i, i + 1), so the outline of the single pixel (x=2, y=3) is the
square (2, 3), (3, 3), (3, 4), (2, 4). Drawn back with `polygons_to_mask`, which takes a pixel when its
centre is inside, an outline gives exactly the pixels it came from. Tools that trace pixel centres instead
(OpenCV's contours) lose half a pixel on each side, a fifth of the area of a small nucleus.
"""

from collections.abc import Sequence

import cv2
import numpy as np
from pycocotools import mask as coco
from shapely import LineString, Point, get_coordinates

from allinsam.errors import InputError

# ---------------------------------------------------------------- run-length code


def encode_rle(mask: np.ndarray) -> dict:
    """COCO compressed run-length code of a mask: `{"size": [h, w], "counts": ascii text}`, ready for JSON."""
    mask = as_mask(mask)
    encoded = coco.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {"size": [int(mask.shape[0]), int(mask.shape[1])], "counts": encoded["counts"].decode("ascii")}


def decode_rle(rle: dict) -> np.ndarray:
    """Mask, bool (H, W), of a COCO run-length code, compressed (text) or not (list of runs).

    Raises InputError where the runs do not cover exactly the size that the code states.
    """
    size_hw, runs = _read_rle(rle)
    values = np.arange(len(runs)) % 2 == 1
    return np.repeat(values, runs).reshape(size_hw[::-1]).T.copy()


def rle_area(rle: dict) -> int:
    """Number of mask pixels of a COCO run-length code, without decoding it."""
    return int(_read_rle(rle)[1][1::2].sum())


def encode_window(window: np.ndarray, top: int, left: int, size_hw: tuple[int, int]) -> dict:
    """Compressed run-length code over a patch of `size_hw` of a mask that is known in a window of it alone.

    Row 0 and column 0 of `window`, bool (h, w), lie at `top` and `left` of the patch. As `encode_rle`, but
    its time goes with the window and not with the patch.
    """
    window = as_mask(window)
    bottom, right = top + window.shape[0], left + window.shape[1]
    if min(top, left) < 0 or bottom > size_hw[0] or right > size_hw[1]:
        raise InputError(
            f"A window of rows {top} to {bottom} and columns {left} to {right} is not inside the patch of "
            f"{size_hw[1]} x {size_hw[0]} px."
        )
    # Runs go down the columns. A column that is full to the patch's edge goes on in the next one.
    steps = np.diff(np.pad(window.T.astype(np.int8), ((0, 0), (1, 1))), axis=1)
    offset = (np.arange(window.shape[1]) + left)[:, None] * size_hw[0] + top + np.arange(window.shape[0] + 1)
    starts, ends = offset[steps == 1], offset[steps == -1]
    apart = starts[1:] != ends[:-1]
    starts = np.concatenate([starts[:1], starts[1:][apart]])
    ends = np.concatenate([ends[:-1][apart], ends[-1:]])
    edges = np.concatenate([[0], np.stack([starts, ends], axis=1).reshape(-1)])
    size = int(size_hw[0]) * int(size_hw[1])
    counts = np.diff(edges if edges[-1] == size and size else np.append(edges, size)).tolist()
    sides = [int(side) for side in size_hw]
    packed = coco.frPyObjects({"size": sides, "counts": counts}, *sides)
    return {"size": sides, "counts": packed["counts"].decode("ascii")}


def decode_window(rle: dict) -> tuple[np.ndarray, int, int]:
    """The smallest window that holds a run-length code's mask: bool (h, w), its top row and left column.

    An empty mask gives one pixel at (0, 0) that is not set.
    """
    (height, _), runs = _read_rle(rle)
    edges = np.concatenate([[0], np.cumsum(runs)])
    starts, ends = edges[1:-1:2], edges[2::2]
    starts, ends = starts[ends > starts], ends[ends > starts]
    if not starts.size:
        return np.zeros((1, 1), bool), 0, 0
    left, right = int(starts[0] // height), int((ends[-1] - 1) // height) + 1
    columns = np.zeros((right - left) * height, np.int8)
    # Runs may meet at a column's edge, so steps are added up and not set.
    np.add.at(columns, starts - left * height, 1)
    inside = ends - left * height
    np.subtract.at(columns, inside[inside < columns.size], 1)
    window = (np.cumsum(columns, dtype=np.int8) > 0).reshape(right - left, height).T
    rows = np.flatnonzero(window.any(axis=1))
    return window[rows[0] : rows[-1] + 1].copy(), int(rows[0]), left


def decode_places(counts: Sequence[str], size_hw: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Where several masks of one patch lie, from their compressed run-length codes, all in one pass.

    Returns, for each set pixel, the number of its mask (ascending) and its place in the flattened patch,
    both int64. Within a mask places go down the columns. Raises InputError as `decode_rle` does.
    """
    height, width = (int(side) for side in size_hw)
    size = height * width
    lengths = np.array([len(text) for text in counts], np.int64)
    characters = np.frombuffer("".join(counts).encode("ascii", "replace"), np.uint8).astype(np.int64) - 48
    if not characters.size or (lengths == 0).any():
        return _places_one_by_one(counts, size_hw)
    last = (characters & 0x20) == 0
    starts = np.flatnonzero(np.append(True, last[:-1]))
    n_digits = np.diff(np.append(starts, characters.size))
    ends_of_masks = np.cumsum(lengths)
    if not (last[ends_of_masks - 1].all() and characters.min() >= 0 and characters.max() < 64):
        return _places_one_by_one(counts, size_hw)
    if n_digits.max() > 8:
        return _places_one_by_one(counts, size_hw)
    digit = np.arange(characters.size) - np.repeat(starts, n_digits)
    values = np.add.reduceat((characters & 0x1F) << (5 * digit), starts)
    negative = (characters[starts + n_digits - 1] & 0x10) > 0
    values -= negative.astype(np.int64) << (5 * n_digits)
    mask = np.searchsorted(ends_of_masks, starts, side="right")
    firsts = np.searchsorted(mask, np.arange(len(counts)))
    turn = np.arange(len(values)) - firsts[mask]
    runs = values.copy()
    for odd, begin in ((1, 1), (0, 2)):  # from the 4th on, the change to two before
        chain = np.flatnonzero((turn % 2 == odd) & (turn >= begin))
        added = np.cumsum(values[chain])
        opens = turn[chain] == begin
        before = np.where(opens, added - values[chain], 0)
        runs[chain] = added - before[opens][np.cumsum(opens) - 1] if len(chain) else 0
    covered = np.add.reduceat(runs, firsts)
    if (runs < 0).any() or (runs > size).any() or (covered != size).any():
        return _places_one_by_one(counts, size_hw)
    inside = turn % 2 == 1
    run_lengths, run_mask = runs[inside], mask[inside]
    run_starts = (np.cumsum(runs) - runs)[inside] - run_mask * size
    offset = np.repeat(run_starts - (np.cumsum(run_lengths) - run_lengths), run_lengths)
    down = np.arange(run_lengths.sum()) + offset
    column = down // height
    # Row times width plus column, the row being what is left of `down`.
    return np.repeat(run_mask, run_lengths), down * width - column * (size - 1)


def _places_one_by_one(counts: Sequence[str], size_hw: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """The same for codes that are not plain: each says what is wrong with it."""
    found = [np.flatnonzero(decode_rle({"size": list(size_hw), "counts": text}).T) for text in counts]
    numbers = np.repeat(np.arange(len(found)), [len(places) for places in found])
    column, row = np.divmod(np.concatenate([np.zeros(0, np.int64), *found]), max(1, int(size_hw[0])))
    return numbers, row * int(size_hw[1]) + column


def _read_rle(rle: dict) -> tuple[tuple[int, int], np.ndarray]:
    """Size (h, w) and run lengths (background first), checked.

    pycocotools does not check this: it returns uninitialised memory for runs that stop short of the size.
    """
    try:
        height, width = (int(value) for value in rle["size"])
        counts = rle["counts"]
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"Not a run-length code: {str(rle)[:60]!r}. Give a dict with size and counts."
        ) from error
    if isinstance(counts, bytes):
        counts = counts.decode("ascii", errors="replace")
    if isinstance(counts, str):
        counts = _unpack_runs(counts)
    try:
        runs = np.asarray(counts, dtype=np.int64).reshape(-1)
    except (OverflowError, TypeError, ValueError) as error:
        raise InputError(
            f"Not run lengths: {str(counts)[:60]!r}. Export the mask again as COCO RLE."
        ) from error
    # Each run by itself too: the sum of huge runs may overflow to just the right one.
    size = height * width
    if min(height, width) < 0 or ((runs < 0) | (runs > size)).any() or runs.sum() != size:
        raise InputError(
            f"Run-length code for {height} x {width} px covers {int(runs.sum())} px, not {height * width}. "
            "The mask is damaged or belongs to another image; export it again."
        )
    return (height, width), runs


def _unpack_runs(counts: str) -> list[int]:
    """Run lengths from COCO's text: 5 bits a character, low bits first; from the 4th on, the change to two
    before.
    """
    runs: list[int] = []
    value, shift = 0, 0
    for character in counts:
        code = ord(character) - 48
        if not 0 <= code < 64:
            raise InputError(
                f"Run-length code has the character {character!r}. Export the mask again as COCO RLE."
            )
        value |= (code & 0x1F) << shift
        shift += 5
        if code & 0x20 and shift < 64:
            continue
        if code & 0x20:
            raise InputError("Run-length code has a run beyond any image. Export the mask again as COCO RLE.")
        if code & 0x10:
            value -= 1 << shift
        runs.append(value + runs[-2] if len(runs) > 2 else value)
        value, shift = 0, 0
    return runs


# ---------------------------------------------------------------- outlines


def mask_to_polygons(mask: np.ndarray) -> list[np.ndarray]:
    """Outer outlines, one float32 (n, 2) of xy per part, along pixel edges; holes are left out.

    Parts that meet only at a corner are apart, so that every outline is simple (no self-touching). Use
    `mask_to_rings` where holes must survive.
    """
    return [rings[0] for rings in mask_to_rings(mask)]


def mask_to_rings(mask: np.ndarray) -> list[list[np.ndarray]]:
    """Parts of a mask, each `[outer outline, hole, hole ...]` as in GeoJSON; open rings, float32 (n, 2) of
    xy.

    In image coordinates (y down) outer outlines run clockwise as seen, holes the other way.
    """
    mask = as_mask(mask)
    # Objects are small in their patch: work on the part that holds them.
    window = _window(mask)
    offset = np.array([window[1].start, window[0].start], dtype=np.float32)
    mask = mask[window]
    part_of_pixel = cv2.connectedComponents(mask.astype(np.uint8), connectivity=4)[1]
    outer: dict[int, np.ndarray] = {}
    holes: dict[int, list[np.ndarray]] = {}
    for ring, (row, column) in _trace_edges(mask):
        part = int(part_of_pixel[row, column])
        if _signed_area(ring) > 0:
            outer[part] = ring + offset
        else:
            holes.setdefault(part, []).append(ring + offset)
    return [[outer[part], *holes.get(part, [])] for part in sorted(outer)]


def polygons_to_mask(polygons: Sequence[np.ndarray], size_hw: tuple[int, int]) -> np.ndarray:
    """Union of polygons, bool (H, W): a pixel belongs to one when its centre (i + 0.5) lies inside.

    Non-zero winding: a hand-drawn outline that crosses itself where it closes leaves no hole there.
    """
    mask = np.zeros(size_hw, bool)
    for polygon in polygons:
        _fill_polygon(mask, np.asarray(polygon, dtype=np.float64))
    return mask


def rings_to_mask(parts: Sequence[Sequence[np.ndarray]], size_hw: tuple[int, int]) -> np.ndarray:
    """Union of parts `[outer outline, hole, hole ...]`, the reverse of `mask_to_rings`, bool (H, W)."""
    mask = np.zeros(size_hw, bool)
    for rings in parts:
        mask |= polygons_to_mask(rings[:1], size_hw) & ~polygons_to_mask(rings[1:], size_hw)
    return mask


def _trace_edges(mask: np.ndarray) -> list[tuple[np.ndarray, tuple[int, int]]]:
    """Simple rings along the pixel edges, each with the (row, column) of a mask pixel on its inner side."""
    steps = _boundary_steps(mask)
    rings = []
    while steps:
        path = [next(iter(steps))]
        place = {path[0]: 0}
        pixel = None
        while path:
            end, pixel = _next_step(steps, path[-1], pixel)
            if end not in place:
                place[end] = len(path)
                path.append(end)
                continue
            # A corner met twice closes a ring: cut it off there, and go on with what came before.
            start = place[end]
            rings.append((_drop_straight(np.array(path[start:], dtype=np.float32)), pixel))
            for corner in path[start + 1 :]:
                del place[corner]
            del path[start + 1 :]
            if start == 0:
                break
    return rings


def _next_step(steps: dict, corner: tuple[int, int], pixel: tuple[int, int] | None) -> tuple:
    """Take a step away from a corner.

    Where two pixels meet only at this corner there are two: stay with `pixel`, so that a trace never leaves
    its 4-connected part.
    """
    choices = steps[corner]
    index = next((i for i, choice in enumerate(choices) if choice[1] == pixel), 0)
    step = choices.pop(index)
    if not choices:
        del steps[corner]
    return step


def _boundary_steps(mask: np.ndarray) -> dict[tuple[int, int], list[tuple[tuple[int, int], tuple[int, int]]]]:
    """Corner -> [(next corner, mask pixel beside the step)], the mask always on the right of the step."""
    padded = np.pad(mask, 1)
    steps: dict[tuple[int, int], list] = {}
    # For each side: where the neighbour lies, and the step's start and end from the pixel's upper left
    # corner (x, y).
    sides = (
        ((-1, 0), (0, 0), (1, 0)),
        ((0, 1), (1, 0), (1, 1)),
        ((1, 0), (1, 1), (0, 1)),
        ((0, -1), (0, 1), (0, 0)),
    )
    height, width = mask.shape
    for (d_row, d_column), (x0, y0), (x1, y1) in sides:
        neighbour = padded[1 + d_row : 1 + d_row + height, 1 + d_column : 1 + d_column + width]
        for row, column in np.argwhere(mask & ~neighbour).tolist():
            step = ((column + x1, row + y1), (row, column))
            steps.setdefault((column + x0, row + y0), []).append(step)
    return steps


def _drop_straight(ring: np.ndarray) -> np.ndarray:
    """The ring without the points in the middle of straight runs."""
    turns = ((ring - np.roll(ring, 1, axis=0)) != (np.roll(ring, -1, axis=0) - ring)).any(axis=1)
    return ring[turns]


def _signed_area(ring: np.ndarray) -> float:
    x, y = ring[:, 0].astype(np.float64), ring[:, 1].astype(np.float64)
    return float((x * np.roll(y, -1) - np.roll(x, -1) * y).sum() / 2)


def _fill_polygon(mask: np.ndarray, polygon: np.ndarray) -> None:
    """Set the pixels of `mask` whose centre has a non-zero winding number."""
    if polygon.ndim != 2 or polygon.shape[1] != 2 or not np.isfinite(polygon).all():
        raise InputError(
            f"A polygon of shape {polygon.shape} is not usable. Give finite (x, y) points, shape (n, 2)."
        )
    height, width = mask.shape
    start, end = polygon, np.roll(polygon, -1, axis=0)
    direction = np.sign(end[:, 1] - start[:, 1])
    # Rows whose centre line y = row + 0.5 an edge crosses; half-open, so a shared end point counts once.
    first = np.clip(np.ceil(np.minimum(start[:, 1], end[:, 1]) - 0.5), 0, height).astype(int)
    last = np.clip(np.ceil(np.maximum(start[:, 1], end[:, 1]) - 0.5), 0, height).astype(int)
    count = last - first
    if not count.any():
        return
    edge = np.repeat(np.arange(len(polygon)), count)
    row = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count) + first[edge]
    slope = (end[edge, 0] - start[edge, 0]) / (end[edge, 1] - start[edge, 1])
    crossing = start[edge, 0] + (row + 0.5 - start[edge, 1]) * slope
    column = np.clip(np.ceil(crossing - 0.5), 0, width).astype(int)
    top, left = row.min(), column.min()
    winding = np.zeros((row.max() - top + 1, column.max() - left + 1), dtype=np.int32)
    np.add.at(winding, (row - top, column - left), direction[edge].astype(np.int32))
    inside = np.cumsum(winding, axis=1)[:, :-1] != 0
    mask[top : row.max() + 1, left : column.max()] |= inside


# ---------------------------------------------------------------- clean-up


STROKE_PIECE_POINTS = 16


def stroke_mask(points: np.ndarray, width_px: float, size_hw: tuple[int, int]) -> np.ndarray:
    """The pixels a brush of this width covers along a line (n, 2), all in px of the patch."""
    covered = np.zeros(size_hw, bool)
    # Piece by piece: the outline of one long line that crosses itself often takes minutes.
    for first in range(0, max(1, len(points) - 1), STROKE_PIECE_POINTS):
        piece = points[first : first + STROKE_PIECE_POINTS + 1]
        line = LineString(piece) if len(piece) > 1 else Point(piece[0])
        outline = get_coordinates(line.buffer(width_px / 2).exterior)
        covered |= polygons_to_mask([outline.astype(np.float32)], size_hw)
    return covered


def lasso_mask(points: np.ndarray, size_hw: tuple[int, int]) -> np.ndarray:
    """The pixels inside a line drawn round them; its ends are joined."""
    if len(points) < 3:
        return np.zeros(size_hw, bool)
    return polygons_to_mask([np.asarray(points, np.float32)], size_hw)


def fill_holes(mask: np.ndarray) -> np.ndarray:
    """The mask with enclosed background filled; background that reaches the image's border is no hole."""
    filled = as_mask(mask).copy()
    window = _window(filled)
    background = cv2.connectedComponents((~np.pad(filled[window], 1)).astype(np.uint8), connectivity=4)[1]
    # Padding makes the outside one component, the one that holds the padded corner: always number 1.
    filled[window] |= background[1:-1, 1:-1] > 1
    return filled


def largest_part(mask: np.ndarray) -> np.ndarray:
    """The largest 8-connected part; of equal ones, the first in reading order."""
    kept = as_mask(mask).copy()
    window = _window(kept)
    count, labels, stats, _ = cv2.connectedComponentsWithStats(kept[window].astype(np.uint8), connectivity=8)
    if count > 2:
        kept[window] = labels == 1 + int(stats[1:, cv2.CC_STAT_AREA].argmax())
    return kept


def clean_mask(mask: np.ndarray, min_area_px: int = 10) -> np.ndarray:
    """Holes filled, largest part kept; empty where that is smaller than `min_area_px` (10 px suits 0.5
    um/px).
    """
    cleaned = largest_part(fill_holes(mask))
    return cleaned if np.count_nonzero(cleaned) >= min_area_px else np.zeros_like(cleaned)


def _window(mask: np.ndarray) -> tuple[slice, slice]:
    """Rows and columns that hold the mask; the first pixel where it is empty."""
    rows = np.flatnonzero(mask.any(axis=1))
    if rows.size == 0:
        return slice(0, 1), slice(0, 1)
    columns = np.flatnonzero(mask[rows[0] : rows[-1] + 1].any(axis=0))
    return slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)


# ---------------------------------------------------------------- instances and label images


def instances_to_labels(
    masks: np.ndarray | Sequence[np.ndarray],
    scores: np.ndarray | Sequence[float] | None = None,
    size_hw: tuple[int, int] | None = None,
) -> np.ndarray:
    """Label image, int32 (H, W): instance i of the input gets id i + 1.

    A contested pixel goes to the higher score (SAM's predicted IoU); at equal scores, or without scores, to
    the smaller mask; then to the earlier one. An instance can lose all its pixels: its id is then absent.
    `size_hw` is needed only where there may be no mask at all.
    """
    if len(masks) == 0:
        shape = np.shape(masks)[1:] if np.ndim(masks) == 3 else size_hw
        if shape is None:
            raise InputError("No masks and no image size. Give size_hw=(height, width) of the patch.")
        return np.zeros(shape, np.int32)
    masks = [as_mask(mask) for mask in masks]
    scores = np.zeros(len(masks)) if scores is None else np.asarray(scores, dtype=np.float64)
    if scores.shape != (len(masks),) or np.isnan(scores).any():
        raise InputError(f"{len(masks)} masks need as many scores that are numbers; got {scores.tolist()}.")
    if len({mask.shape for mask in masks}) > 1:
        raise InputError(
            f"Masks of different sizes {sorted({mask.shape for mask in masks})}. Use one patch's masks."
        )
    areas = [np.count_nonzero(mask) for mask in masks]
    labels = np.zeros(masks[0].shape, np.int32)
    # The weakest claim is painted first, and every stronger one over it.
    for index in sorted(range(len(masks)), key=lambda i: (scores[i], -areas[i], -i)):
        labels[masks[index]] = index + 1
    return labels


def labels_to_masks(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Ids present, ascending int32 (n,), and their masks, bool (n, H, W)."""
    labels = as_labels(labels)
    ids = np.unique(labels)
    ids = ids[ids > 0]
    return ids, labels[None] == ids[:, None, None]


# ---------------------------------------------------------------- checks


def as_mask(mask: np.ndarray) -> np.ndarray:
    """The mask as bool (H, W); InputError unless it is two-dimensional and holds only 0 and 1."""
    mask = np.asarray(mask)
    if mask.ndim != 2:
        raise InputError(f"A mask of shape {mask.shape} is not usable. Give one image (height, width).")
    if mask.dtype != bool:
        if not ((mask == 0) | (mask == 1)).all():
            raise InputError(f"A mask holds values up to {mask.max()}. Give bool, or only 0 and 1: mask > 0.")
        mask = mask.astype(bool)
    return mask


def as_labels(labels: np.ndarray) -> np.ndarray:
    """The label image as int32 (H, W); InputError unless it is two-dimensional, whole-numbered and >= 0."""
    labels = np.asarray(labels)
    if labels.ndim != 2 or labels.dtype.kind not in "biu":
        raise InputError(
            f"A label image of shape {labels.shape} and type {labels.dtype} is not usable. "
            "Give whole numbers (height, width), 0 = background."
        )
    if labels.size and (labels.min() < 0 or labels.max() > np.iinfo(np.int32).max):
        raise InputError(
            f"Label ids {labels.min()} to {labels.max()} are out of range. Use 0 = background, 1 ... n."
        )
    return labels.astype(np.int32, copy=False)
