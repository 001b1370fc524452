"""Draw the nuclei of a layout: exact instances, and their chromatin in amounts of stain."""

from dataclasses import dataclass

import numpy as np

from .fields import grain
from .layout import Nucleus

EDGE_PX = 1.2
MIN_VISIBLE_PX = 30
DENSE_KINDS = ("stromal", "parietal", "endothelial")


@dataclass(frozen=True)
class DrawnNuclei:
    labels: np.ndarray  # (H, W) int32
    nuclei: list[Nucleus]  # nuclei[i] has id i + 1
    coverage: np.ndarray  # (H, W) float32, 0..1
    hematoxylin: np.ndarray  # (H, W) float32, amount inside the nuclei
    pas: np.ndarray


def draw_nuclei(rng: np.random.Generator, nuclei: list[Nucleus], size_px: int) -> DrawnNuclei:
    """Rasterise the nuclei; one that the edge or another nucleus hides almost wholly is left out."""
    labels = np.zeros((size_px, size_px), np.int32)
    coverage, hematoxylin, pas = (np.zeros((size_px, size_px), np.float32) for _ in range(3))
    texture = 0.75 * grain(rng, size_px, 0.75) + 0.75 * grain(rng, size_px, 1.5)
    kept: list[Nucleus] = []
    for nucleus in nuclei:
        window, distance = _outline(rng, nucleus, size_px)
        visible = (distance < 0) & (labels[window] == 0)
        if visible.sum() < MIN_VISIBLE_PX:
            continue
        kept.append(nucleus)
        labels[window][visible] = len(kept)
        focus = rng.choice([1.0, 1.5, 2.4], p=[0.55, 0.3, 0.15])
        cover = np.clip(0.5 - distance / (EDGE_PX * focus), 0, 1)
        cover[(labels[window] > 0) & (labels[window] != len(kept))] = 0
        amount = _chromatin(rng, distance, texture[window], nucleus, focus)
        # Tissue above and below the nucleus tints it, whatever its class.
        tint = np.clip(rng.normal(0.10, 0.05), 0.0, 0.3)
        new = cover > coverage[window]
        hematoxylin[window][new] = amount[new]
        pas[window][new] = tint
        coverage[window] = np.maximum(coverage[window], cover)
    return DrawnNuclei(labels, kept, coverage, hematoxylin, pas)


def _outline(
    rng: np.random.Generator, nucleus: Nucleus, size_px: int
) -> tuple[tuple[slice, slice], np.ndarray]:
    """Signed distance (px, negative inside) to a wavy ellipse, in a window around it."""
    reach = int(nucleus.long_px * 1.3) + 5
    top, left = max(int(nucleus.y) - reach, 0), max(int(nucleus.x) - reach, 0)
    window = (
        slice(top, min(int(nucleus.y) + reach + 1, size_px)),
        slice(left, min(int(nucleus.x) + reach + 1, size_px)),
    )
    rows, columns = np.mgrid[window].astype(np.float32) + 0.5
    dx, dy = columns - nucleus.x, rows - nucleus.y
    cos, sin = np.cos(nucleus.angle), np.sin(nucleus.angle)
    u, v = (dx * cos + dy * sin) / nucleus.long_px, (dy * cos - dx * sin) / nucleus.short_px
    theta = np.arctan2(v, u)
    wave = 0.075 if nucleus.kind == "mesangial" else 0.045
    edge = np.ones_like(theta)
    for k in (2, 3, 4):
        edge += rng.normal(0, wave / (k - 1)) * np.cos(k * theta + rng.uniform(0, 6.3))
    return window, (np.hypot(u, v) / edge - 1.0) * nucleus.radius_px


def _chromatin(
    rng: np.random.Generator, distance: np.ndarray, texture: np.ndarray, nucleus: Nucleus, focus: float
) -> np.ndarray:
    """Hematoxylin inside one nucleus: a rim, clumps, now and then a nucleolus; pale when out of focus."""
    dense = nucleus.kind in DENSE_KINDS
    base = rng.normal(0.86 if dense else 0.70, 0.10)
    rim = 0.24 * np.exp(-(((distance + 1.3) / 1.2) ** 2))
    amount = base + (rim + (0.05 if dense else 0.13) * texture) / focus
    return np.maximum(amount * (1.0 if focus < 2 else 0.8), 0.25)
