"""Prompts: what a person gives for one nucleus, checked, and what of the patch its mask may cover."""

import math
from dataclasses import dataclass

import cv2
import numpy as np

from allinsam.errors import InputError
from allinsam.sam.compact import PRIOR_LIMIT
from allinsam.sam.frames import Frame

# SAM's own logits of a sure pixel: what an earlier mask becomes for the published models.
EARLIER_MASK_LOGIT = 10.0


@dataclass(frozen=True)
class Prompt:
    """One nucleus asked for, all in px of the patch.

    box: xyxy, or None. points: (k, 2) xy, each with a label, 1 inside or 0 outside. earlier: a mask (H, W) to
    be corrected, or None.
    """

    box: np.ndarray | None = None
    points: np.ndarray | None = None
    labels: np.ndarray | None = None
    earlier: np.ndarray | None = None

    def extent(self) -> np.ndarray:
        """The box that holds whatever was given."""
        if self.box is not None:
            return self.box
        corners = [] if self.points is None else [self.points.min(0), self.points.max(0)]
        if self.earlier is not None and self.earlier.any():
            rows, columns = np.nonzero(self.earlier)
            corners += [[columns.min(), rows.min()], [columns.max() + 1, rows.max() + 1]]
        return np.concatenate([np.min(corners, axis=0), np.max(corners, axis=0)]).astype(np.float32)


def cut_window(prompt: Prompt, frame: Frame, growth: float) -> tuple[int, int, int, int]:
    """What of the frame's window a mask may cover: the grown box; all of it where no box was given."""
    x0, y0, x1, y1 = frame.extent
    if prompt.box is None:
        return x0, y0, x1, y1
    low_x, low_y, high_x, high_y = grown_window(prompt.box, (y1, x1), growth)
    return max(low_x, x0), max(low_y, y0), high_x, high_y


def grown_window(box: np.ndarray, size_hw: tuple[int, int], growth: float) -> tuple[int, int, int, int]:
    """Pixels (x0, y0, x1, y1) of the patch, half-open, whose centre lies in the grown box; at least one."""
    middle, half = (box[:2] + box[2:]) / 2, (box[2:] - box[:2]) / 2 * growth
    limit = np.array(size_hw[::-1])
    low = np.clip(np.ceil(middle - half - 0.5), 0, limit - 1).astype(int)
    high = np.clip(np.ceil(middle + half - 0.5), low + 1, limit).astype(int)
    return int(low[0]), int(low[1]), int(high[0]), int(high[1])


def earlier_prior(
    mask: np.ndarray, frame: Frame, cells: int, px_per_cell: float, as_logits: bool
) -> np.ndarray:
    """An earlier mask as a mask prompt (cells, cells): logits, or signed distance to its outline in px."""
    scaled = (frame.scaled_width_px / px_per_cell, frame.scaled_height_px / px_per_cell)
    size = tuple(max(1, math.ceil(side)) for side in scaled)
    window = mask[frame.window].astype(np.float32)
    cover = np.zeros((cells, cells), np.float32)
    cover[: size[1], : size[0]] = cv2.resize(window, size, interpolation=cv2.INTER_AREA)
    if as_logits:
        return (2 * cover - 1) * EARLIER_MASK_LOGIT
    inside = (cover > 0.5).astype(np.uint8)
    inner, outer = (cv2.distanceTransform(part, cv2.DIST_L2, 3) for part in (inside, 1 - inside))
    return np.clip((inner - outer) * px_per_cell, -PRIOR_LIMIT, PRIOR_LIMIT).astype(np.float32)


def as_image(image_rgb: np.ndarray) -> np.ndarray:
    """A read-only copy of the image; InputError unless it is uint8 (H, W, 3) with at least one pixel."""
    image_rgb = np.asarray(image_rgb)
    if image_rgb.ndim != 3 or image_rgb.shape[2] != 3 or image_rgb.dtype != np.uint8 or image_rgb.size == 0:
        raise InputError(
            f"An image of shape {image_rgb.shape} and type {image_rgb.dtype} is not usable. "
            "Give RGB as uint8 (height, width, 3)."
        )
    # An embedding keeps the image for large boxes: it must not change when the caller's array does.
    image_rgb = np.array(image_rgb, order="C")
    image_rgb.setflags(write=False)
    return image_rgb


def check_boxes(boxes: np.ndarray, size_hw: tuple[int, int]) -> np.ndarray:
    """Boxes as float32 (n, 4), clipped to the patch; InputError naming the first that cannot be used."""
    try:
        boxes = np.asarray(boxes, dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise InputError(
            f"Boxes are not numbers: {error}. Give x0, y0, x1, y1 rows, shape (n, 4)."
        ) from error
    if boxes.size == 0:
        return np.zeros((0, 4), np.float32)
    if boxes.ndim != 2 or boxes.shape[1] != 4:
        raise InputError(
            f"Boxes of shape {boxes.shape} are not usable. Give x0, y0, x1, y1 rows, shape (n, 4)."
        )
    height, width = size_hw
    for number, box in enumerate(boxes):
        x0, y0, x1, y1 = (float(value) for value in box)
        shown = f"Box {number} (x0 {x0:g}, y0 {y0:g}, x1 {x1:g}, y1 {y1:g})"
        if not np.isfinite(box).all():
            raise InputError(f"{shown} holds a value that is no number. Draw it again.")
        if x1 <= x0 or y1 <= y0:
            raise InputError(f"{shown} has no area. Give the upper left corner first, then the lower right.")
        if x0 >= width or y0 >= height or x1 <= 0 or y1 <= 0:
            raise InputError(
                f"{shown} lies outside the patch of {width} x {height} px. Draw it on the patch."
            )
    return np.clip(boxes, 0, np.array([width, height] * 2, dtype=np.float32))


def check_prompt(prompt: Prompt, size_hw: tuple[int, int]) -> Prompt:
    """A prompt with its parts as arrays; InputError where it says nothing or does not fit the patch."""
    box = None if prompt.box is None else check_boxes(np.asarray(prompt.box)[None], size_hw)[0]
    points = labels = None
    if prompt.points is not None and len(prompt.points):
        points = np.asarray(prompt.points, np.float32).reshape(-1, 2)
        labels = np.asarray(prompt.labels if prompt.labels is not None else np.ones(len(points)), np.float32)
        outside = ~((points >= 0) & (points < np.array(size_hw[::-1]))).all(axis=1)
        if outside.any():
            x, y = points[outside][0]
            raise InputError(
                f"Point (x {x:g}, y {y:g}) lies outside the patch of {size_hw[1]} x {size_hw[0]} px. "
                "Set it on the patch."
            )
        if labels.shape != (len(points),) or not np.isin(labels, (0, 1)).all():
            raise InputError(
                f"Labels {labels.tolist()} do not fit {len(points)} points. Give 1 or 0 for each."
            )
    earlier = None if prompt.earlier is None else np.asarray(prompt.earlier, bool)
    if earlier is not None and earlier.shape != tuple(size_hw):
        raise InputError(
            f"The mask so far is {earlier.shape}, the patch {tuple(size_hw)}. Give one of its size."
        )
    if box is None and points is None and (earlier is None or not earlier.any()):
        raise InputError("A prompt without box, point or mask asks for nothing. Give one of them.")
    return Prompt(box, points, labels, earlier)
