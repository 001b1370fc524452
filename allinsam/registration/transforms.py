"""Transforms between frames as 2x3 matrices, and the one resampling that applies them."""

import cv2
import numpy as np

from allinsam.errors import InputError

# OpenCV puts coordinates at pixel centres; this project puts pixel i at [i, i + 1).
HALF = 0.5
# Beyond these a transform is a mistake: objectives differ by less, and so do slides in size.
SMALLEST_SCALE = 0.02
FARTHEST_PX = 200_000.0


def identity_matrix() -> np.ndarray:
    """The transform of two images that share one frame."""
    return np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])


def shift_matrix(dx_px: float, dy_px: float) -> np.ndarray:
    """A pure shift, 2x3."""
    return np.array([[1.0, 0.0, dx_px], [0.0, 1.0, dy_px]])


def checked_matrix(matrix: np.ndarray) -> np.ndarray:
    """The matrix as floats, 2x3; InputError unless it is one."""
    matrix = np.asarray(matrix, dtype=float)
    if matrix.shape != (2, 3) or not np.isfinite(matrix).all():
        raise InputError(f"A transform must be 2x3 finite numbers, not {matrix.tolist()!r}.")
    return matrix


def checked_position(matrix: np.ndarray) -> np.ndarray:
    """A transform that somebody asks for, 2x3; InputError if no IF could lie like that."""
    matrix = checked_matrix(matrix)
    scale = scale_of(matrix)
    if not SMALLEST_SCALE <= scale <= 1 / SMALLEST_SCALE:
        raise InputError(
            f"A scale of {scale:.3g} is outside {SMALLEST_SCALE:g} to {1 / SMALLEST_SCALE:g}. "
            "Check the transform."
        )
    if np.abs(matrix[:, :2]).max() > 2 * scale or np.abs(matrix[:, 2]).max() > FARTHEST_PX:
        raise InputError(
            f"The transform {matrix.tolist()!r} shears too much or shifts by more than {FARTHEST_PX:g} px."
        )
    return matrix


def compose(outer: np.ndarray, inner: np.ndarray) -> np.ndarray:
    """The transform that does `inner` first and then `outer`, 2x3."""
    linear = outer[:, :2] @ inner[:, :2]
    return np.column_stack([linear, outer[:, :2] @ inner[:, 2] + outer[:, 2]])


def invert(matrix: np.ndarray) -> np.ndarray:
    """The transform back, 2x3."""
    if abs(np.linalg.det(matrix[:, :2])) < 1e-9:
        raise InputError(f"The transform {np.asarray(matrix).tolist()!r} cannot be turned round.")
    back = np.linalg.inv(matrix[:, :2])
    return np.column_stack([back, -back @ matrix[:, 2]])


def move_points(matrix: np.ndarray, points_xy: np.ndarray) -> np.ndarray:
    """Points (n, 2) through a transform."""
    return points_xy @ matrix[:, :2].T + matrix[:, 2]


def scale_of(matrix: np.ndarray) -> float:
    """Lengths after the transform over lengths before it."""
    return float(np.sqrt(abs(np.linalg.det(matrix[:, :2]))))


def linear_part(scale: float = 1.0, rotation_deg: float = 0.0, flip: bool = False) -> np.ndarray:
    """2x2: mirror x if `flip`, then turn (x towards y), then scale."""
    angle = np.deg2rad(rotation_deg)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return scale * turn @ np.diag([-1.0 if flip else 1.0, 1.0])


def nudge(
    matrix: np.ndarray,
    size_hw: tuple[int, int],
    dx_px: float = 0.0,
    dy_px: float = 0.0,
    rotation_deg: float = 0.0,
    scale: float = 1.0,
) -> np.ndarray:
    """A transform moved by hand: turned and scaled about the patch's centre, then shifted in PAS px."""
    if not scale > 0:
        raise InputError(f"A scale of {scale!r} cannot be used. Give a number above 0, 1 to leave it.")
    centre = np.array(size_hw[::-1], dtype=float) / 2
    linear = linear_part(scale, rotation_deg)
    shift_px = centre - linear @ centre + (dx_px, dy_px)
    return compose(checked_matrix(np.column_stack([linear, shift_px])), checked_matrix(matrix))


def grid_error_px(matrix: np.ndarray, truth: np.ndarray, size_hw: tuple[int, int], points: int = 15) -> float:
    """Mean distance in PAS px between two transforms over a grid of points of the PAS patch."""
    height_px, width_px = size_hw
    x, y = np.meshgrid(np.linspace(0, width_px, points), np.linspace(0, height_px, points))
    in_pas = np.stack([x.ravel(), y.ravel()], -1)
    found = move_points(matrix, move_points(invert(truth), in_pas))
    return float(np.linalg.norm(found - in_pas, axis=1).mean())


def centre_matrix(matrix: np.ndarray) -> np.ndarray:
    """The same transform for coordinates that are 0 at the first pixel's centre (OpenCV's)."""
    linear, shift_px = matrix[:, :2], matrix[:, 2]
    half = np.full(2, HALF)
    return np.column_stack([linear, linear @ half + shift_px - half])


def corner_matrix(matrix: np.ndarray) -> np.ndarray:
    """The opposite of `centre_matrix`: OpenCV's transform in the project's coordinates."""
    linear, shift_px = matrix[:, :2], matrix[:, 2]
    half = np.full(2, HALF)
    return np.column_stack([linear, half + shift_px - linear @ half])


def warp_to_pas(channel: np.ndarray, matrix: np.ndarray, size_hw: tuple[int, int]) -> np.ndarray:
    """Resample an IF channel (H, W) into the PAS frame; pixels from outside the IF image are 0.

    Args:
        matrix: 2x3, maps (x, y) of the IF to PAS px.
        size_hw: size of the PAS patch in px.
    """
    matrix = checked_matrix(matrix)
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
