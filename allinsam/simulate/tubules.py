"""Tubules: rounded cells packed around what stands there already."""

import cv2
import numpy as np

from allinsam.simulate.fields import smooth_noise
from allinsam.simulate.settings import TissueSettings


def pack_tubules(
    rng: np.random.Generator, settings: TissueSettings, capsule: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Rounded cells around jittered seeds, half resolution; distance, id, epithelium height, proximal."""
    size_px = len(capsule)
    half = size_px // 2
    seeds, turn = _seeds(rng, settings, capsule)
    y, x = np.mgrid[0:half, 0:half].astype(np.float32) * 2 + 1
    x, y = x + 5 * smooth_noise(rng, half, 26), y + 5 * smooth_noise(rng, half, 26)
    points = np.stack([x, y], -1) @ turn.T.astype(np.float32)
    placed = (seeds @ turn.T).astype(np.float32)
    outside = cv2.resize(capsule, (half, half), interpolation=cv2.INTER_AREA) - 5.0
    depth, identity = _rounded_cells(points, placed, outside)
    depth -= rng.uniform(1.5, 5.0, len(placed)).astype(np.float32)[identity]
    proximal = rng.random(len(placed)) < 0.62
    epithelium = np.where(proximal, rng.uniform(23, 31, len(placed)), rng.uniform(15, 20, len(placed)))
    depth = cv2.resize(depth, (size_px, size_px), interpolation=cv2.INTER_LINEAR)
    identity = cv2.resize(identity.astype(np.int16), (size_px, size_px), interpolation=cv2.INTER_NEAREST)
    return -depth, identity.astype(np.int32), epithelium.astype(np.float32), proximal


def _seeds(
    rng: np.random.Generator, settings: TissueSettings, capsule: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Jittered hexagonal seeds (n, 2), and the 2x2 turn and stretch in which tubules are round."""
    size_px = len(capsule)
    spacing, stretch = rng.uniform(*settings.tubule_spacing_px), rng.uniform(*settings.tubule_stretch)
    angle = rng.uniform(0, np.pi)
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    turn *= np.array([[stretch**-0.5], [stretch**0.5]])
    n = int(size_px * 1.5 / spacing) + 2
    grid = np.stack(np.meshgrid(np.arange(-n, n), np.arange(-n, n)), -1).reshape(-1, 2).astype(float)
    grid[:, 0] += 0.5 * (grid[:, 1] % 2)
    seeds = (grid * (1, 0.87) + rng.uniform(-0.27, 0.27, grid.shape)) * spacing
    seeds = seeds @ np.linalg.inv(turn).T + size_px / 2
    near = ((seeds > -spacing) & (seeds < size_px + spacing)).all(axis=1)
    clipped = np.clip(seeds.astype(int), 0, size_px - 1)
    clear = near & (capsule[clipped[:, 1], clipped[:, 0]] > 12)
    return seeds[clear if clear.any() else near], turn  # a small patch may be all glomerulus


def _rounded_cells(
    points: np.ndarray, seeds: np.ndarray, outside: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Depth of each point in its seed's cell and that seed's number.

    The depth is a soft minimum over the borders with all other seeds and with what `outside` measures
    the distance to: that rounds the corners.
    """
    softness = np.float32(7.0)
    square = ((points[:, :, None, :] - seeds) ** 2).sum(-1)
    identity = square.argmin(-1)
    apart = 2 * np.hypot(*(seeds[:, None] - seeds[None]).transpose(2, 0, 1)).astype(np.float32) + 1e-3
    own = np.take_along_axis(square, identity[..., None], -1)
    crowd = np.exp((own - square) / apart[identity] / softness).sum(-1) - 1.0  # its own seed counts 1
    crowd += np.exp(-np.clip(outside, -40, None) / softness)
    return -softness * np.log(np.maximum(crowd, 1e-6)), identity
