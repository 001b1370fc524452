"""Simulated stained tissue for pretraining the compact SAM: strong domain randomisation, no likeness meant.

Separate from the demo's simulator: other code, other seeds, a far wider range of looks. A frame is kept as
*amounts of stain* (nuclear stain, counterstain) and instance labels; colours are drawn anew each time a frame
is rendered, and real nuclei can be rendered over a simulated counterstain.
"""

from dataclasses import dataclass

import cv2
import numpy as np

# Frames are drawn from seeds above this, so no other simulator of the project meets them.
SEED_BASE = 7_000_000_000

# Optical density of one unit of stain in R, G, B (Ruifrok and Johnston 2001, and looks of PAS and DAB).
NUCLEAR_STAINS = np.array(
    [[0.65, 0.70, 0.29], [0.55, 0.78, 0.30], [0.75, 0.60, 0.25], [0.50, 0.75, 0.42], [0.68, 0.62, 0.40]]
)
COUNTERSTAINS = np.array(
    [[0.07, 0.99, 0.11], [0.20, 0.90, 0.38], [0.12, 0.80, 0.25], [0.27, 0.57, 0.78], [0.45, 0.50, 0.45]]
)


@dataclass(frozen=True)
class StainFrame:
    """Amounts of stain, uint8 with 100 = one unit, and labels: all (H, W)."""

    nuclear: np.ndarray
    counter: np.ndarray
    labels: np.ndarray


def smooth_noise(rng: np.random.Generator, size_hw: tuple[int, int], scale_px: float) -> np.ndarray:
    """Gaussian-looking noise of mean 0 and deviation 1 whose grain is about `scale_px`."""
    height, width = size_hw
    coarse = rng.standard_normal((int(height / scale_px) + 4, int(width / scale_px) + 4)).astype(np.float32)
    fine = cv2.resize(coarse, None, fx=scale_px, fy=scale_px, interpolation=cv2.INTER_CUBIC)
    top, left = int(scale_px), int(scale_px)
    noise = fine[top : top + height, left : left + width]
    return (noise - noise.mean()) / (noise.std() + 1e-6)


def fibres(rng: np.random.Generator, size_hw: tuple[int, int]) -> np.ndarray:
    """Wavy stripes: level lines of a warped ramp, deviation about 1."""
    height, width = size_hw
    angle = rng.uniform(0, np.pi)
    ys, xs = np.mgrid[0:height, 0:width].astype(np.float32)
    ramp = xs * np.cos(angle) + ys * np.sin(angle)
    ramp += smooth_noise(rng, size_hw, rng.uniform(30, 90)) * rng.uniform(5, 30)
    period = rng.uniform(4, 18)
    stripes = np.sin(2 * np.pi * ramp / period) * np.clip(smooth_noise(rng, size_hw, 40) + 0.3, 0, 2)
    return stripes.astype(np.float32)


def counterstain(rng: np.random.Generator, size_hw: tuple[int, int]) -> np.ndarray:
    """Amount of counterstain, about 0 to 1.5: cytoplasm, fibres, membranes, red cells and empty lumens."""
    amount = rng.uniform(0.1, 0.6) + rng.uniform(0.02, 0.2) * smooth_noise(rng, size_hw, rng.uniform(20, 80))
    amount = amount + rng.uniform(0, 0.12) * smooth_noise(rng, size_hw, rng.uniform(3, 9))
    amount += rng.uniform(0, 0.06) * smooth_noise(rng, size_hw, 1.7)
    if rng.random() < 0.5:
        amount += rng.uniform(0.03, 0.15) * fibres(rng, size_hw)
    if rng.random() < 0.5:
        # Membranes: thin bands along the level lines of smooth noise, as in PAS.
        field = smooth_noise(rng, size_hw, rng.uniform(15, 50))
        width = rng.uniform(0.03, 0.2)
        amount += rng.uniform(0.2, 0.9) * np.exp(-((field - rng.uniform(-0.5, 0.5)) ** 2) / (2 * width**2))
    if rng.random() < 0.25:
        amount += round_bodies(rng, size_hw, count=int(rng.integers(3, 40)), radius_px=(6, 16)) * rng.uniform(
            0.4, 1
        )
    if rng.random() < 0.6:
        field = smooth_noise(rng, size_hw, rng.uniform(15, 70))
        edge = (field - rng.uniform(0.2, 1.5)) * rng.uniform(3, 15)
        amount *= 1 - rng.uniform(0.7, 1) / (1 + np.exp(-np.clip(edge, -30, 30)))
    return np.clip(amount, 0, 2.5).astype(np.float32)


def round_bodies(
    rng: np.random.Generator, size_hw: tuple[int, int], count: int, radius_px: tuple[float, float]
) -> np.ndarray:
    """Soft unlabelled discs, 0 to 1: red cells in the counterstain, nuclei out of focus."""
    canvas = np.zeros(size_hw, np.float32)
    for _ in range(count):
        centre = (int(rng.integers(0, size_hw[1])), int(rng.integers(0, size_hw[0])))
        axes = tuple(int(value) for value in rng.uniform(*radius_px, size=2))
        cv2.ellipse(canvas, centre, axes, float(rng.uniform(0, 180)), 0, 360, float(rng.uniform(0.4, 1)), -1)
    return cv2.GaussianBlur(canvas, (0, 0), float(rng.uniform(0.7, 3)))


@dataclass(frozen=True)
class NucleusLook:
    """What the nuclei of one frame have in common; single nuclei vary round it."""

    radius_px: float
    spread: float
    elongation: float
    lobes: float
    amount: float
    amount_spread: float
    rim: float
    hollow: float
    chromatin: float
    blur_px: float
    touching: float


def draw_look(rng: np.random.Generator) -> NucleusLook:
    return NucleusLook(
        radius_px=float(np.exp(rng.uniform(np.log(4.5), np.log(24)))),
        spread=rng.uniform(0.08, 0.35),
        elongation=rng.uniform(1.0, 2.2),
        lobes=rng.uniform(0.0, 0.1 if rng.random() < 0.5 else 0.03),
        amount=rng.uniform(0.4, 1.3),
        amount_spread=rng.uniform(0.1, 0.4),
        rim=rng.uniform(0, 0.9),
        hollow=rng.uniform(0, 0.9) * (rng.random() < 0.6),
        chromatin=rng.uniform(0.05, 0.45),
        blur_px=rng.uniform(0.5, 1.8),
        touching=rng.uniform(0.0, 0.25),
    )


def nucleus_distance(
    rng: np.random.Generator, look: NucleusLook, ys: np.ndarray, xs: np.ndarray, radius_px: float
) -> np.ndarray:
    """About the signed distance in px (positive inside) to a random outline centred at the origin."""
    stretch = np.sqrt(1 + (look.elongation - 1) * rng.uniform(0, 1.6))
    angle = rng.uniform(0, np.pi)
    u = (xs * np.cos(angle) + ys * np.sin(angle)) / (radius_px * stretch)
    v = (ys * np.cos(angle) - xs * np.sin(angle)) / (radius_px / stretch)
    # A bend turns ellipses into beans and commas.
    v = v + rng.normal(0, 0.15) * (u**2 - 0.4)
    theta = np.arctan2(v, u)
    outline = np.ones_like(u)
    for order in range(2, 7):
        outline += look.lobes * rng.normal(0, 1.5 / order) * np.cos(order * theta + rng.uniform(0, 2 * np.pi))
    power = rng.uniform(1.8, 2.6)
    rho = (np.abs(u) ** power + np.abs(v) ** power) ** (1 / power)
    return (outline - rho) * radius_px / stretch


def paint_nuclei(
    rng: np.random.Generator, size_hw: tuple[int, int], look: NucleusLook
) -> tuple[np.ndarray, np.ndarray]:
    """Nuclear stain and labels of one frame; later nuclei fill what earlier ones left free."""
    height, width = size_hw
    amount = np.zeros(size_hw, np.float32)
    labels = np.zeros(size_hw, np.int32)
    grain = smooth_noise(rng, size_hw, float(np.clip(look.radius_px * rng.uniform(0.15, 0.5), 1.5, 8)))
    where = smooth_noise(rng, size_hw, rng.uniform(25, 80)) + rng.normal(0.3, 0.6)
    cover = rng.uniform(0.05, 0.5)
    tries = int(cover * height * width / (np.pi * look.radius_px**2)) + 3
    for _ in range(min(3 * tries, 500)):
        cy, cx = rng.uniform(-5, height + 5), rng.uniform(-5, width + 5)
        if where[int(np.clip(cy, 0, height - 1)), int(np.clip(cx, 0, width - 1))] < 0:
            continue
        radius_px = float(np.clip(look.radius_px * np.exp(rng.normal(0, look.spread)), 3.5, 34))
        reach = int(2.2 * radius_px) + 4
        top, bottom = max(int(cy) - reach, 0), min(int(cy) + reach, height)
        left, right = max(int(cx) - reach, 0), min(int(cx) + reach, width)
        if bottom - top < 3 or right - left < 3:
            continue
        ys, xs = np.mgrid[top:bottom, left:right].astype(np.float32)
        distance = nucleus_distance(rng, look, ys - cy, xs - cx, radius_px)
        inside = distance > 0
        window = labels[top:bottom, left:right]
        area = int(inside.sum())
        if area < 25 or (window[inside] > 0).mean() > look.touching:
            continue
        free = inside & (window == 0)
        window[free] = labels.max() + 1
        paint = nucleus_amount(rng, look, distance, grain[top:bottom, left:right], radius_px)
        region = amount[top:bottom, left:right]
        np.maximum(region, paint, out=region)
        tries -= 1
        if tries <= 0:
            break
    return amount, labels


def nucleus_amount(
    rng: np.random.Generator, look: NucleusLook, distance: np.ndarray, grain: np.ndarray, radius_px: float
) -> np.ndarray:
    """Nuclear stain of one nucleus: body, dark rim, pale centre, chromatin and nucleoli, blurred edge."""
    body = look.amount * np.exp(rng.normal(0, look.amount_spread))
    rim = look.rim * np.exp(-((distance - 1.2) ** 2) / (2 * max(0.08 * radius_px, 0.9) ** 2))
    depth = np.clip(distance / (0.6 * radius_px), 0, 1)
    inner = np.clip(1 - look.hollow * depth + rim + look.chromatin * grain * (0.4 + 0.6 * depth), 0.08, 2.5)
    if rng.random() < 0.4 and radius_px > 6:
        inner = inner + rng.uniform(0.4, 1.0) * (grain > rng.uniform(1.3, 2.2))
    edge = 1 / (1 + np.exp(-np.clip(distance / (0.45 * look.blur_px), -20, 20)))
    return (body * inner * edge).astype(np.float32)


def simulate_frame(seed: int, size_hw: tuple[int, int] = (256, 320)) -> StainFrame:
    """One frame of stain amounts with exact labels; a pure function of the seed."""
    rng = np.random.default_rng(SEED_BASE + seed)
    look = draw_look(rng)
    nuclear, labels = paint_nuclei(rng, size_hw, look)
    if rng.random() < 0.4:
        # A second population, smaller or larger.
        other = draw_look(rng)
        more, more_labels = paint_nuclei(rng, size_hw, other)
        crowded = np.unique(more_labels[(labels > 0) & (more_labels > 0)])
        keep = (more_labels > 0) & ~np.isin(more_labels, crowded)
        soft = cv2.GaussianBlur(keep.astype(np.float32), (0, 0), 0.8)
        nuclear = np.maximum(nuclear, more * soft)
        labels = np.where(keep, more_labels + labels.max(), labels)
    if rng.random() < 0.5:
        haze = round_bodies(
            rng, size_hw, int(rng.integers(1, 12)), (look.radius_px * 0.6, look.radius_px * 1.5 + 1)
        )
        haze = cv2.GaussianBlur(haze, (0, 0), float(rng.uniform(2, 6))) * (labels == 0)
        nuclear = nuclear + look.amount * rng.uniform(0.1, 0.5) * haze
    nuclear = nuclear + rng.uniform(0, 0.15) * np.clip(smooth_noise(rng, size_hw, rng.uniform(5, 40)), 0, 2)
    counter = counterstain(rng, size_hw)
    return StainFrame(
        nuclear=np.clip(nuclear * 100, 0, 255).astype(np.uint8),
        counter=np.clip(counter * 100, 0, 255).astype(np.uint8),
        labels=labels.astype(np.int32),
    )


def draw_stain(rng: np.random.Generator, table: np.ndarray, any_colour: float) -> np.ndarray:
    """One stain's optical density per channel: a row of the table varied, or by chance any colour."""
    if rng.random() < any_colour:
        vector = rng.uniform(0.05, 1, 3)
    else:
        vector = table[rng.integers(len(table))] * np.exp(rng.normal(0, 0.2, 3)) + rng.uniform(0, 0.08, 3)
    return vector / np.linalg.norm(vector)


def render(
    rng: np.random.Generator, nuclear: np.ndarray, counter: np.ndarray, inside: np.ndarray
) -> np.ndarray:
    """RGB uint8 of stain amounts (float, one unit = 1) under freshly drawn stains, light and optics.

    inside: soft mask of the nuclei, where part of the counterstain is displaced.
    """
    nuclear_vector = draw_stain(rng, NUCLEAR_STAINS, any_colour=0.12) * rng.uniform(0.6, 1.6)
    counter_vector = draw_stain(rng, COUNTERSTAINS, any_colour=0.15) * rng.uniform(0.1, 1.1)
    kept = 1 - rng.uniform(0.2, 1.0) * inside
    density = nuclear[..., None] * nuclear_vector + (counter * kept)[..., None] * counter_vector
    light = rng.uniform(205, 255) * (1 - rng.uniform(0, 0.12, 3))
    image = light * np.exp(-density)
    return np.clip(image, 0, 255).astype(np.uint8)
