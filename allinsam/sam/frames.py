"""Frames: what part of a patch the decoder sees at once, and how big.

SAM's published models see the whole patch resized to one frame. The compact model encodes a patch of any size
as it is, and each prompt is decoded on a square crop of the embedding round it.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from segment_anything.modeling import Sam

from allinsam.sam.backbones import Backbone

# A box longer than this share of the crop is shown smaller: the model needs to see what lies round it.
LARGEST_BOX_SHARE = 0.75


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

    @property
    def extent(self) -> tuple[int, int, int, int]:
        """x0, y0, x1, y1 of the window, half-open."""
        return self.x0, self.y0, self.x0 + self.width_px, self.y0 + self.height_px

    def to_frame(self, xy: np.ndarray) -> np.ndarray:
        """Points (n, 2) or boxes (n, 4) in patch px as float32 in frame px."""
        repeats = xy.shape[1] // 2
        offset = np.array([self.x0, self.y0] * repeats, dtype=np.float64)
        return ((xy - offset) * np.array(self.scale_xy * repeats)).astype(np.float32)


def whole_frame(backbone: Backbone, size_hw: tuple[int, int]) -> Frame:
    """The whole patch, its longest side as long as the frame."""
    return _fitted(0, 0, size_hw[1], size_hw[0], backbone.frame_px)


def crop_frame(box: np.ndarray, backbone: Backbone, size_hw: tuple[int, int]) -> Frame | None:
    """The crop of whole tokens with the box nearest its middle; None where the box is too large for it."""
    side = max(box[2] - box[0], box[3] - box[1])
    if side > LARGEST_BOX_SHARE * backbone.crop_px:
        return None
    corner = []
    for middle, length in zip(((box[0] + box[2]) / 2, (box[1] + box[3]) / 2), size_hw[::-1], strict=True):
        tokens = (backbone.crop_px // backbone.patch_px, math.ceil(length / backbone.patch_px))
        start = round(float(middle) / backbone.patch_px - tokens[0] / 2)
        corner.append(min(max(start, 0), max(tokens[1] - tokens[0], 0)) * backbone.patch_px)
    width, height = (
        min(backbone.crop_px, size_hw[1] - corner[0]),
        min(backbone.crop_px, size_hw[0] - corner[1]),
    )
    return Frame(*corner, width, height, width, height)


def frame_around(box: np.ndarray, backbone: Backbone, size_hw: tuple[int, int]) -> Frame:
    """A frame for a box too large for a crop: twice its longest side, scaled down to the crop's size."""
    height, width = size_hw
    side = max(backbone.crop_px, math.ceil(2 * max(box[2] - box[0], box[3] - box[1])))
    window_w, window_h = min(side, width), min(side, height)
    x0 = int(np.clip((box[0] + box[2] - window_w) / 2, 0, width - window_w))
    y0 = int(np.clip((box[1] + box[3] - window_h) / 2, 0, height - window_h))
    if max(window_w, window_h) <= backbone.crop_px:
        return Frame(x0, y0, window_w, window_h, window_w, window_h)
    return _fitted(x0, y0, window_w, window_h, backbone.crop_px)


def encoder_input(image_rgb: np.ndarray, frame: Frame, backbone: Backbone, sam: Sam) -> torch.Tensor:
    """Float32 (1, 3, H, W) on SAM's device: a frame's window resized, normalised and padded.

    SAM's published models pad with zeros after normalising. The compact one never saw blank space:
    it gets the mirror image, up to whole tokens and at least one crop.
    """
    window = image_rgb[frame.window]
    size = (frame.scaled_width_px, frame.scaled_height_px)
    if size != (frame.width_px, frame.height_px):
        window = np.asarray(Image.fromarray(window).resize(size, Image.Resampling.BILINEAR))
    if backbone.crop_px is None:
        return sam.preprocess(torch.tensor(window, device=sam.device).permute(2, 0, 1))[None]
    padded = [max(backbone.crop_px, math.ceil(side / backbone.patch_px) * backbone.patch_px) for side in size]
    window = np.pad(window, ((0, padded[1] - size[1]), (0, padded[0] - size[0]), (0, 0)), mode="symmetric")
    pixels = torch.tensor(window, device=sam.device).permute(2, 0, 1)
    return ((pixels - sam.pixel_mean) / sam.pixel_std)[None]


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
