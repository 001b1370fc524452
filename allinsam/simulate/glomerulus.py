"""The glomerulus: capsule, tuft, vascular pole, mesangial stalks and capillary loops."""

import cv2
import numpy as np

from allinsam.simulate.fields import FAR_PX, scatter, signed_distance, smooth_noise, window_around
from allinsam.simulate.nuclei import Nucleus, new_nucleus
from allinsam.simulate.settings import Condition, TissueSettings

ARTERIOLE_WALL_PX = 8.0


def capsule_and_tuft(
    rng: np.random.Generator, settings: TissueSettings, size_px: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Distances to Bowman's capsule and to the tuft's envelope, and where the vessels come in.

    The last is (x, y, direction outward).
    """
    centre = size_px / 2 + rng.uniform(-1, 1, 2) * settings.capsule_offset_px
    if rng.random() < settings.cut_share:
        away = rng.uniform(0, 2 * np.pi)
        centre += rng.uniform(*settings.cut_offset_px) * np.array([np.cos(away), np.sin(away)])
    y, x = np.mgrid[0:size_px, 0:size_px].astype(np.float32) + 0.5
    radius = np.hypot(x - centre[0], y - centre[1])
    theta = np.arctan2(y - centre[1], x - centre[0])
    size, pole_angle = rng.uniform(*settings.capsule_radius_px), rng.uniform(-np.pi, np.pi)
    outline = np.full_like(radius, size)
    lobes = np.zeros_like(radius)
    for k in range(2, 5):
        outline += 22.0 / k * rng.uniform(-1, 1) * np.cos(k * theta + rng.uniform(0, 6.3))
    for k in (5, 7, 9):
        lobes += rng.uniform(0.4, 1.0) * np.cos(k * theta + rng.uniform(0, 6.3))
    outline += 1.5 * smooth_noise(rng, size_px, 45)
    urinary_pole = 0.5 - 0.5 * np.cos(theta - pole_angle)
    space = rng.uniform(*settings.bowman_space_px) + 12 * urinary_pole**4 + 3.2 * lobes
    # At the vascular pole the tuft grows out of the capsule.
    off_pole = np.abs((theta - pole_angle + np.pi) % (2 * np.pi) - np.pi) * size
    space = np.maximum(space, 4.0) * np.clip((off_pole - 8) / 18, 0, 1)
    row, column = np.unravel_index(int(np.argmin(np.abs(radius - outline) + 3 * off_pole)), radius.shape)
    pole = np.array([column + 0.5, row + 0.5, pole_angle])
    return radius - outline, radius - outline + space, pole


def place_arteriole(rng: np.random.Generator, pole: np.ndarray, size_px: int) -> np.ndarray:
    """An oblique cut through the arteriole just outside the vascular pole; distance to its outer edge."""
    lean = pole[2] + rng.uniform(-0.5, 0.5)
    lumen_px = rng.uniform(5.0, 9.0)
    outer = lumen_px + ARTERIOLE_WALL_PX
    x, y = pole[:2] + (outer + 4.0) * np.array([np.cos(lean), np.sin(lean)])
    rows, columns = np.mgrid[0:size_px, 0:size_px].astype(np.float32) + 0.5
    dx, dy = columns - x, rows - y
    along, across = dx * np.cos(lean) + dy * np.sin(lean), dy * np.cos(lean) - dx * np.sin(lean)
    return np.hypot(along / rng.uniform(1.0, 1.5), across) - outer


def grow_mesangium(
    rng: np.random.Generator,
    condition: Condition,
    tuft: np.ndarray,
    pole: np.ndarray,
    nuclei: list[Nucleus],
) -> np.ndarray:
    """Branching stalks through the tuft, with the mesangial nuclei inside them; returns the distance."""
    size_px = len(tuft)
    nodes = scatter(rng, tuft < -20, 60, 43.0, np.zeros((0, 3)), tries=3000)
    if len(nodes) < 2:
        return np.full_like(tuft, FAR_PX)
    share = float((tuft < -20).sum()) / max(np.pi * 150.0**2, 1.0)
    wanted = round(rng.integers(condition.mesangial[0], condition.mesangial[1] + 1) * min(share, 1.1))
    mask = np.zeros((size_px, size_px), np.uint8)
    middles = []
    for start, end in _spanning_tree(nodes):
        bend = (start + end) / 2 + rng.normal(0, 4.0, 2)
        middles.append(bend)
        width = rng.uniform(*condition.matrix_half_width_px)
        _stroke(mask, [start, bend, end], width)
    root = nodes[np.hypot(*(nodes - pole[:2]).T).argmin()]
    if np.hypot(*(root - pole[:2])) < 60:
        _stroke(mask, [root, pole[:2]], 1.6 * condition.matrix_half_width_px[1])
    places = np.concatenate([nodes, middles]) + rng.normal(0, 3.0, (len(nodes) + len(middles), 2))
    for point in rng.permutation(places)[: wanted * 3]:
        angle = rng.uniform(0, np.pi)
        candidate = new_nucleus(rng, "mesangial", point, angle)
        if sum(n.kind == "mesangial" for n in nuclei) < wanted and _free(candidate, nuclei, size_px):
            nuclei.append(candidate)
            _stroke(mask, [point], candidate.long_px + rng.uniform(0.5, 3.0))
    if condition.sclerosis[1] > 0:
        _scar(rng, condition, tuft, mask)
    distance = signed_distance(mask > 0) + 2.3 * smooth_noise(rng, size_px, 20, octaves=3)
    return np.maximum(distance, tuft)


def _scar(rng: np.random.Generator, condition: Condition, tuft: np.ndarray, mask: np.ndarray) -> None:
    """Segmental sclerosis: one sector of the tuft is nothing but matrix."""
    size = rng.uniform(*condition.sclerosis)
    for spot in scatter(rng, np.abs(tuft + 35) < 4, 1, 1.0, np.zeros((0, 3))):
        for part in spot + rng.normal(0, 45 * size, (4, 2)):
            axes = (int(rng.uniform(55, 95) * size), int(rng.uniform(40, 75) * size))
            cv2.ellipse(mask, part.astype(int).tolist(), axes, rng.uniform(0, 180), 0, 360, 1, -1)


def _free(candidate: Nucleus, nuclei: list[Nucleus], size_px: int) -> bool:
    if not (1 < candidate.x < size_px - 1 and 1 < candidate.y < size_px - 1):
        return False
    x, y, reach = candidate.x, candidate.y, candidate.radius_px
    return all(np.hypot(x - n.x, y - n.y) > 0.95 * (reach + n.radius_px) for n in nuclei)


def _stroke(mask: np.ndarray, points: list[np.ndarray], half_width_px: float) -> None:
    fixed = [tuple(int(round(v * 16)) for v in p) for p in points]  # 4 fractional bits
    thickness = max(int(round(2 * half_width_px)), 1)
    for start, end in zip(fixed, fixed[1:], strict=False):
        cv2.line(mask, start, end, 1, thickness, cv2.LINE_8, 4)
    if len(fixed) == 1:
        cv2.circle(mask, fixed[0], int(round(half_width_px * 16)), 1, -1, cv2.LINE_8, 4)


def _spanning_tree(nodes: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """Edges of the shortest tree that joins all nodes (Prim)."""
    distance = np.hypot(*(nodes[:, None] - nodes[None]).transpose(2, 0, 1))
    best, parent = distance[0].copy(), np.zeros(len(nodes), int)
    outside = np.ones(len(nodes), bool)
    outside[0] = False
    edges = []
    while outside.any():
        node = int(np.where(outside, best, np.inf).argmin())
        edges.append((nodes[parent[node]], nodes[node]))
        outside[node] = False
        closer = distance[node] < best
        best[closer], parent[closer] = distance[node][closer], node
    return edges


def capillary_loops(
    rng: np.random.Generator, settings: TissueSettings, tuft: np.ndarray, mesangium: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pack loops against the mesangium; distance to the nearest wall, gap to the next loop, and its id."""
    size_px = len(tuft)
    first = np.full_like(tuft, FAR_PX)
    second = np.full_like(tuft, FAR_PX)
    identity = np.zeros(tuft.shape, np.int32)
    warp_x, warp_y = (3.6 * smooth_noise(rng, size_px, 17) for _ in range(2))
    candidates = np.flatnonzero((tuft < -5) & (mesangium > 3) & (mesangium < 24))
    if candidates.size == 0:
        return first, second, identity
    picks = rng.choice(candidates, min(2500, candidates.size), replace=False)
    rooms = np.minimum(-tuft.ravel()[picks], mesangium.ravel()[picks] + 2.5)
    rooms = np.minimum(rooms, rng.uniform(*settings.loop_radius_px, len(picks)))
    points = np.column_stack([picks % size_px, picks // size_px]) + 0.5
    loops = np.zeros((0, 3))
    for point, room in zip(points, rooms, strict=True):
        away = np.hypot(loops[:, 0] - point[0], loops[:, 1] - point[1]) - loops[:, 2] + 1.5
        radius = min(room, away.min(initial=FAR_PX))
        if radius >= settings.loop_radius_px[0]:
            loops = np.vstack([loops, (*point, radius)])
            _draw_loop(rng, loops[-1], len(loops), (warp_x, warp_y), (first, second, identity))
    return first, second - first, identity


def _draw_loop(
    rng: np.random.Generator,
    loop: np.ndarray,
    number: int,
    warp: tuple[np.ndarray, np.ndarray],
    fields: tuple[np.ndarray, np.ndarray, np.ndarray],
) -> None:
    x, y, radius = loop
    first, second, identity = fields
    window = window_around(x, y, 2.6 * radius + 8, first.shape)
    rows, columns = np.mgrid[window].astype(np.float32) + 0.5
    angle, squeeze = rng.uniform(0, np.pi), rng.uniform(0.55, 1.0)
    dx, dy = columns - x + warp[0][window], rows - y + warp[1][window]
    u, v = dx * np.cos(angle) + dy * np.sin(angle), dy * np.cos(angle) - dx * np.sin(angle)
    distance = np.hypot(u * squeeze**0.5, v / squeeze**0.5) - radius
    nearest = distance < first[window]
    second[window] = np.where(nearest, first[window], np.minimum(second[window], distance))
    first[window] = np.where(nearest, distance, first[window])
    identity[window][nearest] = number
