"""What a person looks at to judge a registration."""

import numpy as np

from allinsam.errors import InputError
from allinsam.registration.signals import channel_light
from allinsam.registration.transforms import warp_to_pas


def checkerboard(
    pas_rgb: np.ndarray, channel: np.ndarray, matrix: np.ndarray, square_px: int = 64
) -> np.ndarray:
    """The patch and its IF in turn, square by square: uint8 RGB (H, W, 3). Edges go on where they fit.

    The IF is stretched to full contrast and shown dark on white, as nuclei are in the stain; the first
    square is the patch's.
    """
    if square_px < 1:
        raise InputError(f"Squares of {square_px} px cannot be drawn. Give 1 px or more.")
    size_hw = pas_rgb.shape[:2]
    light = channel_light(warp_to_pas(channel, matrix, size_hw))
    shown = np.rint(255 * (1 - light)).astype(np.uint8)
    rows, columns = (np.arange(length) // square_px for length in size_hw)
    of_channel = (rows[:, None] + columns) % 2 == 1
    return np.where(of_channel[..., None], shown[..., None], pas_rgb)
