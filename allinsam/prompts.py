"""Box prompts: from masks, loosened at random, kept inside the patch. Boxes are xyxy, float32, px,
half-open.
"""

import numpy as np

from allinsam.errors import InputError
from allinsam.masks import as_labels, as_mask

MIN_BOX_PX = 2.0


def mask_to_box(mask: np.ndarray) -> np.ndarray:
    """Tight box around a mask, float32 (4,); a single pixel (x, y) gives (x, y, x + 1, y + 1)."""
    rows, columns = np.nonzero(as_mask(mask))
    if rows.size == 0:
        raise InputError("An empty mask has no box. Leave empty masks out before asking for boxes.")
    return np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1], dtype=np.float32)


def labels_to_boxes(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Ids present, ascending int32 (n,), and their tight boxes, float32 (n, 4)."""
    labels = as_labels(labels)
    rows, columns = np.nonzero(labels)
    ids, instance = np.unique(labels[rows, columns], return_inverse=True)
    boxes = np.empty((ids.size, 4), dtype=np.float32)
    boxes[:, :2] = np.inf
    boxes[:, 2:] = -np.inf
    for column, (operation, values) in enumerate(
        ((np.minimum, columns), (np.minimum, rows), (np.maximum, columns + 1), (np.maximum, rows + 1))
    ):
        operation.at(boxes[:, column], instance, values.astype(np.float32))
    return ids, boxes


def jitter_boxes(
    boxes: np.ndarray,
    outward_px: int,
    size_hw: tuple[int, int],
    rng: np.random.Generator,
    signed: bool = False,
) -> np.ndarray:
    """Boxes as a hasty hand draws them: each side moved outward by its own whole number of px from U{0 ..
    outward_px}.

    With `signed` each side moves by U{-outward_px .. outward_px} instead. The result is clipped to the
    patch and at least 2 px on a side. `outward_px` 0 returns the boxes clipped.
    """
    if outward_px < 0:
        raise InputError(
            f"outward_px is {outward_px}. Use 0 for tight boxes or a whole number of px above it."
        )
    boxes = _as_boxes(boxes)
    amount = rng.integers(-outward_px if signed else 0, outward_px, size=boxes.shape, endpoint=True)
    moved = boxes + amount * np.array([-1, -1, 1, 1])
    # Inward jitter can turn a small box inside out: collapse it to its middle, and clip_boxes gives it 2 px
    # again.
    middle = (moved[:, :2] + moved[:, 2:]) / 2
    moved[:, :2] = np.minimum(moved[:, :2], middle)
    moved[:, 2:] = np.maximum(moved[:, 2:], middle)
    return clip_boxes(moved, size_hw)


def clip_boxes(boxes: np.ndarray, size_hw: tuple[int, int], min_px: float = MIN_BOX_PX) -> np.ndarray:
    """Boxes inside the patch, float32 (n, 4), at least `min_px` on a side (or the patch's side, if smaller).

    Corners may come in any order, as when a box is dragged from right to left. A box outside the patch ends
    up as a `min_px` box at the nearest border.
    """
    boxes = _as_boxes(boxes)
    height, width = size_hw
    limit = np.array([width, height], dtype=np.float32)
    low = np.clip(np.minimum(boxes[:, :2], boxes[:, 2:]), 0, limit)
    high = np.clip(np.maximum(boxes[:, :2], boxes[:, 2:]), 0, limit)
    side = np.maximum(high - low, np.minimum(min_px, limit))
    small = side > high - low
    centred = np.clip((low + high - side) / 2, 0, limit - side)
    low = np.where(small, centred, low)
    high = np.where(small, centred + side, high)
    return np.concatenate([low, high], axis=1).astype(np.float32)


def _as_boxes(boxes: np.ndarray) -> np.ndarray:
    boxes = np.asarray(boxes, dtype=np.float32)
    boxes = boxes.reshape(-1, 4) if boxes.size % 4 == 0 and boxes.ndim < 3 else boxes
    if boxes.ndim != 2 or boxes.shape[1] != 4 or not np.isfinite(boxes).all():
        raise InputError(
            f"Boxes of shape {boxes.shape} are not usable. Give finite x0, y0, x1, y1 rows, shape (n, 4)."
        )
    return boxes
