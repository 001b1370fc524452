"""The search that needs no starting point: rotation x scale x flip, the shift by Fourier transform."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from allinsam.registration.transforms import (
    centre_matrix,
    corner_matrix,
    invert,
    linear_part,
    move_points,
)


@dataclass(frozen=True)
class Candidate:
    """One way in which two signals may fit.

    `matrix` is 2x3 from moving to fixed px; `sign` is -1 where dark of the one fits bright of the other;
    `score` is a correlation and falls with the overlap.
    """

    score: float
    matrix: np.ndarray
    sign: int


def search_grid(
    fixed: np.ndarray,
    moving: np.ndarray,
    rotations_deg: Iterable[float],
    scales: Sequence[float],
    flips: Sequence[bool],
) -> list[Candidate]:
    """The best shift of each rotation, scale and flip, for both signs. Signals are float32 (H, W), mean 0."""
    height_px, width_px = fixed.shape
    side_px = cv2.getOptimalDFTSize(2 * max(*fixed.shape, *moving.shape))
    canvas = np.zeros((side_px, side_px), np.float32)
    canvas[:height_px, :width_px] = fixed
    spectrum = cv2.dft(canvas)
    fixed_norm = float(np.linalg.norm(fixed))
    middle = np.full(2, side_px / 2)
    fixed_middle = np.array([width_px, height_px]) / 2
    moving_middle = np.array(moving.shape[::-1]) / 2
    found = []
    for rotation_deg in rotations_deg:
        for linear in (linear_part(scale, rotation_deg, flip) for scale in scales for flip in flips):
            about_middle = np.column_stack([linear, middle - linear @ moving_middle])
            turned = cv2.warpAffine(moving, centre_matrix(about_middle), (side_px, side_px))
            product = cv2.mulSpectrums(spectrum, cv2.dft(turned), 0, conjB=True)
            surface = cv2.idft(product, flags=cv2.DFT_SCALE)
            low, high, low_at, high_at = cv2.minMaxLoc(surface)
            norm = fixed_norm * float(np.linalg.norm(turned)) + 1e-9
            for value, at, sign in ((high, high_at, 1), (-low, low_at, -1)):
                # The surface wraps round: take the shift that brings the two centres nearest.
                centre = middle + at
                centre -= side_px * np.round((centre - fixed_middle) / side_px)
                matrix = np.column_stack([linear, centre - linear @ moving_middle])
                found.append(Candidate(value / norm, matrix, sign))
    return found


def distinct(
    candidates: Iterable[Candidate], size_hw: tuple[int, int], count: int, apart_share: float
) -> list[Candidate]:
    """The best candidates that are not neighbours of a better one.

    Args:
        apart_share: neighbours move the four inner corners by less than this share of the longer side.
    """
    height_px, width_px = size_hw
    inner = np.array([[x * width_px, y * height_px] for x in (0.2, 0.8) for y in (0.2, 0.8)])
    kept: list[Candidate] = []
    for candidate in sorted(candidates, key=lambda c: -c.score):
        seen = move_points(invert(candidate.matrix), inner)
        away = (np.linalg.norm(move_points(other.matrix, seen) - inner, axis=1).mean() for other in kept)
        if all(px > apart_share * max(size_hw) for px in away):
            kept.append(candidate)
            if len(kept) == count:
                break
    return kept


def climb(
    fixed: np.ndarray,
    moving: np.ndarray,
    candidate: Candidate,
    iterations: int,
    motion: int = cv2.MOTION_AFFINE,
) -> Candidate | None:
    """The nearest transform of the greatest correlation (ECC, Evangelidis and Psarakis 2008), or None."""
    start = invert(centre_matrix(candidate.matrix)).astype(np.float32)
    criteria = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, iterations, 1e-5)
    try:
        _, found = cv2.findTransformECC(
            fixed, moving * np.float32(candidate.sign), start, motion, criteria, None, 5
        )
    except cv2.error:  # it says so where the images do not overlap or do not fit at all
        return None
    if not np.isfinite(found).all() or abs(np.linalg.det(found[:, :2])) < 1e-3:
        return None
    matrix = corner_matrix(invert(found.astype(float)))
    correlation, overlap = agreement_of(fixed, moving, matrix, candidate.sign)
    return Candidate(correlation * np.sqrt(overlap), matrix, candidate.sign)


def agreement_of(fixed: np.ndarray, moving: np.ndarray, matrix: np.ndarray, sign: int) -> tuple[float, float]:
    """Correlation of two signals where both are, and the share of the smaller one that this is."""
    shared = seen_mask(moving.shape, matrix, fixed.shape)
    area = float(shared.sum())
    smaller = min(fixed.size, moving.size * abs(float(np.linalg.det(matrix[:, :2]))))
    if area < 64:
        return 0.0, 0.0
    warped = cv2.warpAffine(moving, centre_matrix(matrix), fixed.shape[::-1])[shared]
    one, other = fixed[shared], sign * warped
    one, other = one - one.mean(), other - other.mean()
    norm = float(np.linalg.norm(one) * np.linalg.norm(other))
    return float(one @ other) / (norm + 1e-9), min(1.0, area / smaller)


def seen_mask(moving_hw: tuple[int, int], matrix: np.ndarray, fixed_hw: tuple[int, int]) -> np.ndarray:
    """Where in the fixed frame the moving image is, bool (H, W)."""
    ones = np.ones(moving_hw, np.float32)
    return cv2.warpAffine(ones, centre_matrix(matrix), fixed_hw[::-1]) > 0.99
