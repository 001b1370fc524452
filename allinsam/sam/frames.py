"""Frames: the squares that an encoder takes, cut out of a patch.

A backbone either sees the whole patch resized to one frame (SAM's published models), or frames at native
resolution that overlap (the compact model).
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from segment_anything.modeling import Sam

from allinsam.sam.backbones import Backbone

# Share of a native frame that its neighbour repeats. The place of a nucleus in a frame matters little (mean
# Dice of 156 real nuclei: 0.856 to 0.869), only that some frame holds it whole: this is enough for 50 px.
MIN_OVERLAP = 0.25


@dataclass(frozen=True)
class Frame:
    """A window of the patch (px), and the size it gets in the upper left corner of the frame (frame px)."""

    x0: int
    y0: int
    width_px: int
    height_px: int
    scaled_width_px: int
    scaled_height_px: int

    @property
    def scale_xy(self) -> tuple[float, float]:
        """Frame px per patch px."""
        return self.scaled_width_px / self.width_px, self.scaled_height_px / self.height_px

    @property
    def window(self) -> tuple[slice, slice]:
        """Rows and columns of the patch."""
        return slice(self.y0, self.y0 + self.height_px), slice(self.x0, self.x0 + self.width_px)

    def to_frame(self, boxes: np.ndarray) -> np.ndarray:
        """Boxes (n, 4) in patch px as float32 boxes in frame px."""
        offset = np.array([self.x0, self.y0] * 2, dtype=np.float64)
        return ((boxes - offset) * np.array(self.scale_xy * 2)).astype(np.float32)


def cover(backbone: Backbone, size_hw: tuple[int, int]) -> tuple[Frame, ...]:
    """Frames that cover a patch: one for the whole, or native ones that overlap by MIN_OVERLAP or more."""
    height, width = size_hw
    if backbone.whole_patch:
        return (_fitted(0, 0, width, height, backbone.frame_px),)
    frame_px = backbone.frame_px
    return tuple(
        Frame(x0, y0, *(min(width, frame_px), min(height, frame_px)) * 2)
        for y0 in frame_starts(height, frame_px, MIN_OVERLAP)
        for x0 in frame_starts(width, frame_px, MIN_OVERLAP)
    )


def frame_around(box: np.ndarray, backbone: Backbone, size_hw: tuple[int, int]) -> Frame:
    """A frame for one box that no native frame holds: twice its longest side, scaled down to fit."""
    height, width = size_hw
    side = max(backbone.frame_px, math.ceil(2 * max(box[2] - box[0], box[3] - box[1])))
    window_w, window_h = min(side, width), min(side, height)
    x0 = int(np.clip((box[0] + box[2] - window_w) / 2, 0, width - window_w))
    y0 = int(np.clip((box[1] + box[3] - window_h) / 2, 0, height - window_h))
    longest = max(window_w, window_h)
    if longest <= backbone.frame_px:
        return Frame(x0, y0, window_w, window_h, window_w, window_h)
    return _fitted(x0, y0, window_w, window_h, backbone.frame_px)


def cut_frames(
    image_rgb: np.ndarray, frames: tuple[Frame, ...], backbone: Backbone, sam: Sam
) -> torch.Tensor:
    """Frames of an image, float32 (n, 3, F, F) on SAM's device: resized, normalised and padded.

    SAM's published models pad with zeros after normalising. Native frames pad by mirroring: the compact model
    never saw blank space in training.
    """
    cut = []
    for frame in frames:
        window = image_rgb[frame.window]
        size = (frame.scaled_width_px, frame.scaled_height_px)
        if size != (frame.width_px, frame.height_px):
            window = np.asarray(Image.fromarray(window).resize(size, Image.Resampling.BILINEAR))
        if not backbone.whole_patch:
            rest = ((0, backbone.frame_px - size[1]), (0, backbone.frame_px - size[0]), (0, 0))
            window = np.pad(window, rest, mode="symmetric")
        tensor = torch.tensor(window, device=sam.device).permute(2, 0, 1)
        cut.append(sam.preprocess(tensor))
    return torch.stack(cut)


def _fitted(x0: int, y0: int, width: int, height: int, frame_px: int) -> Frame:
    """A window whose longest side becomes the frame's, rounded as SAM's ResizeLongestSide does."""
    scale = frame_px / max(width, height)
    scaled = (max(1, int(side * scale + 0.5)) for side in (width, height))
    return Frame(x0, y0, width, height, *scaled)


def frame_starts(length: int, frame_px: int, overlap: float = 0.0) -> list[int]:
    """Offsets of the fewest frames that cover `length`, evenly spread, none beyond the end.

    Neighbours share at least `overlap` of a frame.
    """
    if length <= frame_px:
        return [0]
    count = math.ceil((length - frame_px) / (frame_px * (1.0 - overlap))) + 1
    return [round(start) for start in np.linspace(0, length - frame_px, count)]
