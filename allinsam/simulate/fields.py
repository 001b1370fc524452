"""Small fields the tissue is drawn with: smooth noise, soft edges, scattered points."""

import cv2
import numpy as np

FAR_PX = 1e3  # a distance that reaches nothing in a patch


def smooth_noise(rng: np.random.Generator, size_px: int, scale_px: float, octaves: int = 1) -> np.ndarray:
    """Float32 (size, size) noise of unit deviation whose bumps are about `scale_px` wide."""
    total = np.zeros((size_px, size_px), np.float32)
    for octave in range(octaves):
        scale = max(scale_px / 2**octave, 1.0)
        cells = int(np.ceil(size_px / scale)) + 3
        coarse = rng.standard_normal((cells, cells), dtype=np.float32)
        width = int(np.ceil(cells * scale))
        fine = cv2.resize(coarse, (width, width), interpolation=cv2.INTER_CUBIC)
        start = int(scale)
        total += fine[start : start + size_px, start : start + size_px] * 0.6**octave
    return total / max(float(total.std()), 1e-6)


def grain(rng: np.random.Generator, size_px: int, sigma_px: float) -> np.ndarray:
    """White noise blurred to `sigma_px`, unit deviation."""
    noise = rng.standard_normal((size_px, size_px), dtype=np.float32)
    noise = cv2.GaussianBlur(noise, (0, 0), sigma_px)
    return noise / max(float(noise.std()), 1e-6)


def inside(signed_distance: np.ndarray, softness_px: float = 1.5) -> np.ndarray:
    """Coverage 0..1 of the region where the signed distance is negative, with a soft edge."""
    return np.clip(0.5 - signed_distance / softness_px, 0.0, 1.0)


def line(distance: np.ndarray, width_px: float) -> np.ndarray:
    """Coverage of a line of the given width along distance 0."""
    return np.exp(-((distance / (0.6 * width_px)) ** 2))


def signed_distance(mask: np.ndarray) -> np.ndarray:
    """Euclidean distance in px to the edge of a bool mask, negative inside."""
    mask = mask.astype(np.uint8)
    outer = cv2.distanceTransform(1 - mask, cv2.DIST_L2, 5)
    return outer - cv2.distanceTransform(mask, cv2.DIST_L2, 5)


def scatter(
    rng: np.random.Generator,
    allowed: np.ndarray,
    count: int,
    clearance_px: float,
    taken: np.ndarray,
    tries: int = 1500,
) -> np.ndarray:
    """Up to `count` positions (n, 2) in the bool field `allowed`, apart from each other and from `taken`.

    `taken` is (m, 3): x, y and radius of what stands there already; `clearance_px` is the distance kept
    between new points and, added to the radius, half of it from those.
    """
    candidates = np.flatnonzero(allowed)
    if count <= 0 or candidates.size == 0:
        return np.zeros((0, 2))
    picks = rng.choice(candidates, size=min(tries, candidates.size), replace=False)
    points = np.column_stack([picks % allowed.shape[1], picks // allowed.shape[1]]) + 0.5
    if len(taken):
        gaps = np.hypot(points[:, None, 0] - taken[None, :, 0], points[:, None, 1] - taken[None, :, 1])
        points = points[(gaps > taken[None, :, 2] + clearance_px / 2).all(axis=1)]
    chosen: list[np.ndarray] = []
    while len(points) and len(chosen) < count:
        chosen.append(points[0])
        points = points[np.hypot(*(points - points[0]).T) > clearance_px]
    return np.array(chosen).reshape(-1, 2)


def direction_at(field: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Angle (n,) of the field's level line at each point (x, y): the way a nucleus lies along an edge."""
    step = 3
    height, width = field.shape
    x = np.clip(points[:, 0].astype(int), step, width - 1 - step)
    y = np.clip(points[:, 1].astype(int), step, height - 1 - step)
    slope_x = field[y, x + step] - field[y, x - step]
    slope_y = field[y + step, x] - field[y - step, x]
    return np.arctan2(slope_y, slope_x) + np.pi / 2


def window_around(x: float, y: float, reach_px: float, shape: tuple[int, ...]) -> tuple[slice, slice]:
    """Rows and columns within reach of a point, cut at the image's edge."""
    height, width = shape
    return (
        slice(max(int(y - reach_px), 0), min(int(y + reach_px) + 1, height)),
        slice(max(int(x - reach_px), 0), min(int(x + reach_px) + 1, width)),
    )
