"""Nuclei: what they are, their exact instances, and their chromatin in amounts of stain."""

from dataclasses import dataclass

import numpy as np
from scipy.special import ndtri

from allinsam.simulate.fields import grain, window_around

EDGE_PX = 1.2
MIN_VISIBLE_PX = 30
DENSE_KINDS = ("stromal", "parietal", "endothelial", "vascular")


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


def new_nucleus(rng: np.random.Generator, kind: str, point: np.ndarray, angle: float) -> Nucleus:
    long_range, short_range = NUCLEUS_SIZE[kind]
    long_px, short_px = rng.uniform(*long_range), rng.uniform(*short_range)
    return Nucleus(kind, point[0], point[1], max(long_px, short_px), min(long_px, short_px), angle)


@dataclass(frozen=True)
class DrawnNuclei:
    labels: np.ndarray  # (H, W) int32
    nuclei: list[Nucleus]  # nuclei[i] has id i + 1
    coverage: np.ndarray  # (H, W) float32, 0..1
    hematoxylin: np.ndarray  # (H, W) float32, amount inside the nuclei
    pas: np.ndarray
    mean_hematoxylin: np.ndarray  # (n,) wanted mean amounts, the same law for every class with a marker
    mean_pas: np.ndarray


def draw_nuclei(rng: np.random.Generator, nuclei: list[Nucleus], size_px: int) -> DrawnNuclei:
    """Rasterise the nuclei; one that the edge or another nucleus hides almost wholly is left out."""
    labels = np.zeros((size_px, size_px), np.int32)
    coverage, hematoxylin, pas = (np.zeros((size_px, size_px), np.float32) for _ in range(3))
    texture = 0.8 * grain(rng, size_px, 0.8) + 0.8 * grain(rng, size_px, 1.6)
    kinds = np.array([n.kind for n in nuclei])
    blue = np.clip(0.60 + 0.085 * _even_normal(rng, kinds) + 0.17 * np.isin(kinds, DENSE_KINDS), 0.3, 1.0)
    # Tissue above and below the nucleus tints it, whatever its class.
    tint = np.clip(0.13 + 0.035 * _even_normal(rng, kinds), 0.03, 0.3)
    kept: list[int] = []
    for index, nucleus in enumerate(nuclei):
        window, distance = _outline(rng, nucleus, size_px)
        visible = (distance < 0) & (labels[window] == 0)
        if visible.sum() < MIN_VISIBLE_PX:
            continue
        kept.append(index)
        labels[window][visible] = len(kept)
        focus = rng.choice([1.0, 1.5, 2.4], p=[0.55, 0.3, 0.15])
        cover = np.clip(0.5 - distance / (EDGE_PX * focus), 0, 1)
        cover[(labels[window] > 0) & (labels[window] != len(kept))] = 0
        amount = _chromatin(distance, texture[window], nucleus.kind in DENSE_KINDS, focus)
        amount += blue[index] - amount[visible].mean()
        new = cover > coverage[window]
        hematoxylin[window][new] = np.maximum(amount, 0.2)[new]
        pas[window][new] = tint[index]
        coverage[window] = np.maximum(coverage[window], cover)
    chosen = [nuclei[index] for index in kept]
    return DrawnNuclei(labels, chosen, coverage, hematoxylin, pas, blue[kept], tint[kept])


def _even_normal(rng: np.random.Generator, kinds: np.ndarray) -> np.ndarray:
    """Standard normal draws, spread evenly over the quantiles within each kind."""
    values = np.zeros(len(kinds))
    for kind in sorted(set(kinds.tolist())):
        own = np.flatnonzero(kinds == kind)
        values[own] = ndtri(rng.permutation((np.arange(len(own)) + rng.random(len(own))) / len(own)))
    return np.clip(values, -2.5, 2.5)


def ellipse_distance(nucleus: Nucleus, window: tuple[slice, slice]) -> np.ndarray:
    """Signed distance in px to the nucleus's plain ellipse, negative inside."""
    return (np.hypot(*_in_radii(nucleus, window)) - 1.0) * nucleus.radius_px


def _in_radii(nucleus: Nucleus, window: tuple[slice, slice]) -> tuple[np.ndarray, np.ndarray]:
    """Position along the long and the short axis, in units of each."""
    rows, columns = np.mgrid[window].astype(np.float32) + 0.5
    dx, dy = columns - nucleus.x, rows - nucleus.y
    cos, sin = np.cos(nucleus.angle), np.sin(nucleus.angle)
    return (dx * cos + dy * sin) / nucleus.long_px, (dy * cos - dx * sin) / nucleus.short_px


def _outline(
    rng: np.random.Generator, nucleus: Nucleus, size_px: int
) -> tuple[tuple[slice, slice], np.ndarray]:
    """Signed distance (px, negative inside) to a wavy ellipse, in a window around it."""
    window = window_around(nucleus.x, nucleus.y, nucleus.long_px * 1.3 + 5, (size_px, size_px))
    u, v = _in_radii(nucleus, window)
    theta = np.arctan2(v, u)
    wave = 0.075 if nucleus.kind == "mesangial" else 0.045
    edge = np.ones_like(theta)
    for k in (2, 3, 4):
        edge += rng.normal(0, wave / (k - 1)) * np.cos(k * theta + rng.uniform(0, 6.3))
    return window, (np.hypot(u, v) / edge - 1.0) * nucleus.radius_px


def _chromatin(distance: np.ndarray, texture: np.ndarray, dense: bool, focus: float) -> np.ndarray:
    """Relative hematoxylin inside one nucleus: a rim and clumps, washed out when out of focus."""
    rim = (0.12 if dense else 0.30) * np.exp(-(((distance + 1.2) / 1.1) ** 2))
    return (rim + (0.07 if dense else 0.17) * texture) / focus
