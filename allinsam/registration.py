"""Bring an IF image into the frame of its PAS patch."""

import cv2
import numpy as np

from allinsam.errors import InputError

# OpenCV puts coordinates at pixel centres; this project puts pixel i at [i, i + 1).
HALF = 0.5


def identity_matrix() -> np.ndarray:
    """The transform of two images that share one frame."""
    return np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])


def centre_matrix(matrix: np.ndarray) -> np.ndarray:
    """The same transform for coordinates that are 0 at the first pixel's centre (OpenCV's)."""
    linear, shift_px = matrix[:, :2], matrix[:, 2]
    half = np.full(2, HALF)
    return np.column_stack([linear, linear @ half + shift_px - half])


def warp_to_pas(channel: np.ndarray, matrix: np.ndarray, size_hw: tuple[int, int]) -> np.ndarray:
    """Resample an IF channel (H, W) into the PAS frame; pixels from outside the IF image are 0.

    Args:
        matrix: 2x3, maps (x, y) of the IF to PAS px.
        size_hw: size of the PAS patch in px.
    """
    matrix = np.asarray(matrix, dtype=float)
    if matrix.shape != (2, 3) or not np.isfinite(matrix).all():
        raise InputError(f"A transform must be 2x3 finite numbers, not {matrix.tolist()!r}.")
    height_px, width_px = size_hw
    if channel.shape == tuple(size_hw) and np.allclose(matrix, identity_matrix()):
        return channel
    return cv2.warpAffine(
        channel,
        centre_matrix(matrix),
        (width_px, height_px),
        flags=cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_CONSTANT,
        borderValue=0,
    )
