"""Where everything lies in one simulated patch: glomerulus, tubules, stroma and the nuclei in them."""

from dataclasses import dataclass

import cv2
import numpy as np

from .fields import direction_at, scatter, signed_distance, smooth_noise
from .settings import CONDITIONS, Condition, SlideLook, TissueSettings

FAR_PX = 1e3
ARTERIOLE_WALL_PX = 8.0


@dataclass
class Nucleus:
    """An ellipse with a wavy outline; `kind` is where it lives, `class_name` what a marker would say."""

    kind: str
    x: float
    y: float
    long_px: float
    short_px: float
    angle: float

    @property
    def class_name(self) -> str:
        return self.kind if self.kind in ("podocyte", "mesangial") else "other"

    @property
    def radius_px(self) -> float:
        return float(np.sqrt(self.long_px * self.short_px))


@dataclass
class Layout:
    """Signed distances in px, (H, W) float32, negative inside, and the nuclei."""

    size_px: int
    capsule: np.ndarray
    tuft: np.ndarray  # the envelope of the loops
    loops: np.ndarray  # to the nearest capillary's wall
    loop_gap: np.ndarray  # distance to the second nearest minus distance to the nearest
    loop_id: np.ndarray
    mesangium: np.ndarray
    bodies: np.ndarray  # to the nearest podocyte nucleus, near those only
    arteriole: np.ndarray  # to its outer edge, at the vascular pole
    tubules: np.ndarray
    tubule_id: np.ndarray
    epithelium_px: np.ndarray  # per tubule
    proximal: np.ndarray  # per tubule: tall granular cells with a brush border
    nuclei: list[Nucleus]

    @property
    def solid(self) -> np.ndarray:
        """The tuft's own tissue: loops and mesangium together."""
        return np.minimum(self.loops, self.mesangium)


# kind -> (long semi-axis px, short semi-axis px): ranges; podocytes and mesangial cells overlap on purpose.
NUCLEUS_SIZE = {
    "podocyte": ((6.0, 8.8), (5.0, 7.0)),
    "mesangial": ((5.8, 8.6), (4.4, 6.6)),
    "endothelial": ((5.5, 8.0), (2.8, 3.8)),
    "parietal": ((6.5, 9.5), (2.7, 3.7)),
    "vascular": ((5.5, 8.0), (2.6, 3.6)),
    "tubular": ((6.0, 7.6), (5.4, 6.9)),
    "stromal": ((6.0, 10.0), (2.6, 4.2)),
}


def draw_layout(look: SlideLook, rng: np.random.Generator, size_px: int) -> Layout:
    """Draw the places of one patch: first the glomerulus, then what fills the rest."""
    settings, condition = look.settings, CONDITIONS[look.condition]
    capsule, tuft, pole = _capsule_and_tuft(rng, settings, size_px)
    arteriole = _arteriole(rng, pole, size_px)
    nuclei: list[Nucleus] = []
    mesangium = _mesangium(rng, condition, tuft, pole, nuclei)
    loops, loop_gap, loop_id = _capillary_loops(rng, settings, tuft, mesangium)
    layout = Layout(
        size_px,
        capsule,
        tuft,
        loops,
        loop_gap,
        loop_id,
        mesangium,
        np.full_like(tuft, FAR_PX),
        arteriole,
        *_tubules(rng, settings, np.minimum(capsule, arteriole)),
        nuclei,
    )
    _add_podocytes(rng, condition, layout)
    _add_endothelium(rng, layout)
    _add_parietal(rng, layout)
    _add_vascular(rng, layout)
    _add_tubular(rng, layout)
    _add_stromal(rng, layout)
    return layout


def _nucleus(rng: np.random.Generator, kind: str, point: np.ndarray, angle: float) -> Nucleus:
    long_range, short_range = NUCLEUS_SIZE[kind]
    long_px, short_px = rng.uniform(*long_range), rng.uniform(*short_range)
    return Nucleus(kind, point[0], point[1], max(long_px, short_px), min(long_px, short_px), angle)


def _taken(nuclei: list[Nucleus]) -> np.ndarray:
    return np.array([(n.x, n.y, n.long_px) for n in nuclei]).reshape(-1, 3)


def _capsule_and_tuft(
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


def _arteriole(rng: np.random.Generator, pole: np.ndarray, size_px: int) -> np.ndarray:
    """An oblique cut through the arteriole just outside the vascular pole; distance to its outer edge."""
    lean = pole[2] + rng.uniform(-0.5, 0.5)
    lumen_px = rng.uniform(5.0, 9.0)
    outer = lumen_px + ARTERIOLE_WALL_PX
    x, y = pole[:2] + (outer + 4.0) * np.array([np.cos(lean), np.sin(lean)])
    rows, columns = np.mgrid[0:size_px, 0:size_px].astype(np.float32) + 0.5
    dx, dy = columns - x, rows - y
    along, across = dx * np.cos(lean) + dy * np.sin(lean), dy * np.cos(lean) - dx * np.sin(lean)
    return np.hypot(along / rng.uniform(1.0, 1.5), across) - outer


def _mesangium(
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
        candidate = _nucleus(rng, "mesangial", point, angle)
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


def _capillary_loops(
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
    window = _window(x, y, 2.6 * radius + 8, first.shape)
    rows, columns = np.mgrid[window].astype(np.float32) + 0.5
    angle, squeeze = rng.uniform(0, np.pi), rng.uniform(0.55, 1.0)
    dx, dy = columns - x + warp[0][window], rows - y + warp[1][window]
    u, v = dx * np.cos(angle) + dy * np.sin(angle), dy * np.cos(angle) - dx * np.sin(angle)
    distance = np.hypot(u * squeeze**0.5, v / squeeze**0.5) - radius
    nearest = distance < first[window]
    second[window] = np.where(nearest, first[window], np.minimum(second[window], distance))
    first[window] = np.where(nearest, distance, first[window])
    identity[window][nearest] = number


def _window(x: float, y: float, reach: float, shape: tuple[int, ...]) -> tuple[slice, slice]:
    height, width = shape
    return (
        slice(max(int(y - reach), 0), min(int(y + reach) + 1, height)),
        slice(max(int(x - reach), 0), min(int(x + reach) + 1, width)),
    )


def _tubules(
    rng: np.random.Generator, settings: TissueSettings, capsule: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Rounded cells around jittered seeds, half resolution; distance, id, epithelium height, proximal."""
    size_px = len(capsule)
    half = size_px // 2
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
    seeds = seeds[clear if clear.any() else near]  # a small patch may be all glomerulus
    y, x = np.mgrid[0:half, 0:half].astype(np.float32) * 2 + 1
    x, y = x + 5 * smooth_noise(rng, half, 26), y + 5 * smooth_noise(rng, half, 26)
    points = np.stack([x, y], -1) @ turn.T.astype(np.float32)
    placed = (seeds @ turn.T).astype(np.float32)
    square = ((points[:, :, None, :] - placed) ** 2).sum(-1)
    identity = square.argmin(-1)
    apart = 2 * np.hypot(*(placed[:, None] - placed[None]).transpose(2, 0, 1)).astype(np.float32) + 1e-3
    own = np.take_along_axis(square, identity[..., None], -1)
    edge = (square - own) / apart[identity]
    softness = np.float32(7.0)
    crowd = np.exp(-edge / softness).sum(-1) - 1.0  # its own seed lies at 0 and counts 1
    outside = cv2.resize(capsule, (half, half), interpolation=cv2.INTER_AREA) - 5.0
    crowd += np.exp(-np.clip(outside, -40, None) / softness)
    depth = -softness * np.log(np.maximum(crowd, 1e-6))
    depth -= rng.uniform(1.5, 5.0, len(placed)).astype(np.float32)[identity]
    proximal = rng.random(len(placed)) < 0.62
    epithelium = np.where(proximal, rng.uniform(23, 31, len(placed)), rng.uniform(15, 20, len(placed)))
    depth = cv2.resize(depth, (size_px, size_px), interpolation=cv2.INTER_LINEAR)
    identity = cv2.resize(identity.astype(np.int16), (size_px, size_px), interpolation=cv2.INTER_NEAREST)
    return -depth, identity.astype(np.int32), epithelium.astype(np.float32), proximal


def _add(
    rng: np.random.Generator,
    layout: Layout,
    kind: str,
    allowed: np.ndarray,
    count: int,
    clearance_px: float,
    along: np.ndarray,
) -> None:
    """Scatter nuclei of one kind over `allowed`, each lying along the level lines of `along`."""
    points = scatter(rng, allowed, count, clearance_px, _taken(layout.nuclei))
    for point, angle in zip(points, direction_at(along, points), strict=True):
        layout.nuclei.append(_nucleus(rng, kind, point, angle + rng.normal(0, 0.2)))


def _add_podocytes(rng: np.random.Generator, condition: Condition, layout: Layout) -> None:
    """On the urinary side of the loops; the loops give way so that the wall passes around the nucleus."""
    urinary = signed_distance(layout.solid < 0)
    allowed = (urinary > 3.0) & (urinary < 7.0) & (layout.tuft < 4) & (layout.capsule < -8)
    share = float((layout.tuft < 0).sum()) / (np.pi * 172.0**2)
    wanted = round(rng.integers(condition.podocytes[0], condition.podocytes[1] + 1) * min(share, 1.1))
    before = len(layout.nuclei)
    _add(rng, layout, "podocyte", allowed, wanted, 23.0, urinary)
    for nucleus in layout.nuclei[before:]:
        window = _window(nucleus.x, nucleus.y, nucleus.long_px + 12, layout.loops.shape)
        distance = _ellipse_distance(nucleus, window)
        layout.bodies[window] = np.minimum(layout.bodies[window], distance)
        room = 2.2 - distance
        layout.loops[window] = np.maximum(layout.loops[window], room)
        layout.mesangium[window] = np.maximum(layout.mesangium[window], room)


def _ellipse_distance(nucleus: Nucleus, window: tuple[slice, slice]) -> np.ndarray:
    rows, columns = np.mgrid[window].astype(np.float32) + 0.5
    dx, dy = columns - nucleus.x, rows - nucleus.y
    cos, sin = np.cos(nucleus.angle), np.sin(nucleus.angle)
    rho = np.hypot((dx * cos + dy * sin) / nucleus.long_px, (dy * cos - dx * sin) / nucleus.short_px)
    return (rho - 1.0) * nucleus.radius_px


def _add_endothelium(rng: np.random.Generator, layout: Layout) -> None:
    allowed = (layout.loops < -2.5) & (layout.loops > -4.5) & (layout.loop_gap > 8)
    count = int(rng.integers(12, 20) * max(float((layout.tuft < 0).mean()) * 2.8, 0.2))
    _add(rng, layout, "endothelial", allowed, count, 30.0, layout.loops)


def _add_parietal(rng: np.random.Generator, layout: Layout) -> None:
    allowed = (layout.capsule < -3.2) & (layout.capsule > -4.8)
    _add(rng, layout, "parietal", allowed, int(rng.integers(8, 14)), 46.0, layout.capsule)


def _add_vascular(rng: np.random.Generator, layout: Layout) -> None:
    wall = (layout.arteriole < -3) & (layout.arteriole > 4 - ARTERIOLE_WALL_PX) & (layout.capsule > 4)
    _add(rng, layout, "vascular", wall, int(rng.integers(3, 6)), 17.0, layout.arteriole)


def _add_tubular(rng: np.random.Generator, layout: Layout) -> None:
    height = layout.epithelium_px[layout.tubule_id]
    depth = -layout.tubules
    allowed = (depth > 8.5) & (depth < np.minimum(height - 6, 15)) & (layout.capsule > 10)
    _add(rng, layout, "tubular", allowed, int(rng.integers(30, 42)), 26.0, layout.tubules)


def _add_stromal(rng: np.random.Generator, layout: Layout) -> None:
    stroma = (layout.tubules > 0.5) & (layout.capsule > 5) & (layout.arteriole > 4)
    _add(rng, layout, "stromal", stroma, int(rng.integers(9, 16)), 26.0, layout.tubules)
