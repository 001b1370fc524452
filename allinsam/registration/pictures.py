"""What a person looks at to judge a registration."""

import numpy as np

from allinsam.errors import InputError
from allinsam.registration.signals import channel_light
from allinsam.registration.transforms import warp_to_pas

OVERLAY_RGB = (0, 200, 120)  # green is what a PAS stain never shows
OVERLAY_STRENGTH = 0.85


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
    rows, columns = (np.arange(length) // square_px for length in size_hw)
    of_channel = (rows[:, None] + columns) % 2 == 1
    return np.where(of_channel[..., None], as_stain(channel, matrix, size_hw), pas_rgb)


def as_stain(channel: np.ndarray, matrix: np.ndarray, size_hw: tuple[int, int]) -> np.ndarray:
    """The IF in the patch's frame, dark on white as nuclei are in the stain: uint8 RGB (H, W, 3)."""
    light = _light_in_pas(channel, matrix, size_hw)
    return np.repeat(np.rint(255 * (1 - light)).astype(np.uint8)[..., None], 3, axis=2)


def overlay(pas_rgb: np.ndarray, channel: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """The patch with its IF over it in green, stronger where it is brighter: uint8 RGB (H, W, 3)."""
    light = _light_in_pas(channel, matrix, pas_rgb.shape[:2])[..., None]
    share = OVERLAY_STRENGTH * light**2  # as bright as it is: the weak light between cells would veil all
    return np.rint(pas_rgb * (1 - share) + np.array(OVERLAY_RGB, np.float32) * share).astype(np.uint8)


def _light_in_pas(channel: np.ndarray, matrix: np.ndarray, size_hw: tuple[int, int]) -> np.ndarray:
    """The channel in the patch's frame, 0..1. Stretched before it is moved: its look stays the same."""
    return np.clip(warp_to_pas(channel_light(channel), matrix, size_hw), 0, 1)
