"""Which places of finished gold answer a beginner's six questions: chosen by rule, so that nobody has to."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from allinsam.masks import mask_to_polygons
from allinsam.prompts import mask_to_box

# What is a nucleus, where is its edge, two that touch, one cut by the border of the picture, marker light
# without a nucleus, a nucleus whose marker is dim.
CARDS = ("nucleus", "edge", "touching", "border", "bright_only", "dim")
NEEDS_MARKER = frozenset({"bright_only", "dim"})

CLEAR_SUPPORT, DIM_SUPPORT = 0.5, 0.25  # share of a nucleus that is bright
LEAST_FIT = 0.4  # smaller or larger than the typical nucleus by more than this factor shows something else
LARGEST_LIGHT = 4.0  # times the typical nucleus
RING_PX = 4  # round a nucleus, to see how clear its edge is


@dataclass(frozen=True, eq=False)
class GoldNucleus:
    """support: share of the mask where its marker is bright, 0 to 1; None where nobody signed a threshold."""

    class_id: int
    mask: np.ndarray  # bool (H, W)
    support: float | None


@dataclass(frozen=True, eq=False)
class GoldPatch:
    """A patch with its finished gold."""

    patch_id: int
    pas: np.ndarray  # (H, W, 3) uint8
    nuclei: Sequence[GoldNucleus]  # of every class that was finished
    bright: Mapping[int, np.ndarray]  # class -> where its marker is bright, bool (H, W)


@dataclass(frozen=True, eq=False)
class Card:
    """A place that answers one question. `score`: how well, among cards of one name."""

    name: str
    patch_id: int
    class_id: int
    box: tuple[float, float, float, float]  # xyxy px, round what it is about
    rings: tuple[np.ndarray, ...]  # outlines (n, 2) px, of the gold nuclei that it is about
    score: float


def choose_cards(found: Iterable[Sequence[Card]]) -> dict[str, Card]:
    """The best of each name over the candidates of many patches; no two on one nucleus."""
    best: dict[str, Card] = {}
    everything = sorted(
        (card for cards in found for card in cards), key=lambda c: (-c.score, c.patch_id, c.box)
    )
    for name in CARDS:
        shown = {(card.patch_id, card.box) for card in best.values()}
        chosen = [c for c in everything if c.name == name and (c.patch_id, c.box) not in shown]
        if chosen:
            best[name] = chosen[0]
    return best


def card_candidates(patch: GoldPatch, typical_px: float) -> list[Card]:
    """Every place of a patch that could be a card.

    Args:
        typical_px: area of the usual nucleus, px.
    """
    numbers = np.zeros(patch.pas.shape[:2], np.int32)
    for number, nucleus in enumerate(patch.nuclei, 1):
        numbers[nucleus.mask] = number
    grey = patch.pas.mean(axis=2)
    found = []
    for number, nucleus in enumerate(patch.nuclei, 1):
        if not nucleus.mask.any():
            continue
        fit = size_fit(float(nucleus.mask.sum()), typical_px)
        if fit < LEAST_FIT:
            continue
        if at_border(nucleus.mask):
            # Rather one whose marker is bright: it shows one thing at a time.
            lit = 1.0 if nucleus.support is None else nucleus.support
            found.append(_card("border", patch, nucleus.class_id, [nucleus.mask], fit * lit))
            continue
        ring = around(nucleus.mask, 1)
        beside = set(np.unique(numbers[ring]).tolist()) - {0, number}
        for other_number in sorted(n for n in beside if n > number):
            other = patch.nuclei[other_number - 1]
            other_fit = size_fit(float(other.mask.sum()), typical_px)
            if other_fit >= LEAST_FIT and not at_border(other.mask):
                masks = [nucleus.mask, other.mask]
                found.append(_card("touching", patch, nucleus.class_id, masks, fit * other_fit))
        if nucleus.support is not None and nucleus.support < DIM_SUPPORT:
            found.append(_card("dim", patch, nucleus.class_id, [nucleus.mask], fit * (1 - nucleus.support)))
        elif not beside:
            if nucleus.support is None or nucleus.support >= CLEAR_SUPPORT:
                score = fit + (nucleus.support or 0.0)
                found.append(_card("nucleus", patch, nucleus.class_id, [nucleus.mask], score))
            free = around(nucleus.mask, RING_PX) & (numbers == 0)
            contrast = float(grey[free].mean() - grey[nucleus.mask].mean()) if free.any() else 0.0
            if contrast > 0:
                found.append(_card("edge", patch, nucleus.class_id, [nucleus.mask], fit * contrast))
    for class_id, bright in patch.bright.items():
        for light in lights_without_nucleus(bright, numbers, typical_px):
            fit = size_fit(float(light.sum()), typical_px)
            found.append(_card("bright_only", patch, class_id, [], fit, light))
    return found


def lights_without_nucleus(bright: np.ndarray, numbers: np.ndarray, typical_px: float) -> list[np.ndarray]:
    """Bright areas about as large as a nucleus that meet none, and do not reach the border."""
    count, labels, stats, _ = cv2.connectedComponentsWithStats(bright.astype(np.uint8), connectivity=8)
    met = set(np.unique(labels[numbers > 0]).tolist())
    areas = stats[:, cv2.CC_STAT_AREA]
    fits = [n for n in range(1, count) if LEAST_FIT * typical_px <= areas[n] <= LARGEST_LIGHT * typical_px]
    lights = [labels == n for n in fits if n not in met]
    return [light for light in lights if not at_border(light)]


def size_fit(area_px: float, typical_px: float) -> float:
    """1 at the typical size, towards 0 the smaller or larger."""
    return min(area_px / typical_px, typical_px / area_px) if area_px and typical_px else 0.0


def at_border(mask: np.ndarray) -> bool:
    return bool(mask[0].any() or mask[-1].any() or mask[:, 0].any() or mask[:, -1].any())


def around(mask: np.ndarray, width_px: int) -> np.ndarray:
    """The pixels just outside a mask, corner to corner too; only its neighbourhood is looked at."""
    x0, y0, x1, y1 = (int(v) for v in mask_to_box(mask))
    rows = slice(max(0, y0 - width_px), y1 + width_px)
    columns = slice(max(0, x0 - width_px), x1 + width_px)
    part = mask[rows, columns].astype(np.uint8)
    ring = np.zeros_like(mask)
    side = 2 * width_px + 1
    ring[rows, columns] = (cv2.dilate(part, np.ones((side, side), np.uint8)) > 0) & (part == 0)
    return ring


def _card(
    name: str,
    patch: GoldPatch,
    class_id: int,
    masks: Sequence[np.ndarray],
    score: float,
    about: np.ndarray | None = None,
) -> Card:
    boxes = np.array([mask_to_box(mask) for mask in ([about] if about is not None else masks)])
    box = (*boxes[:, :2].min(axis=0).tolist(), *boxes[:, 2:].max(axis=0).tolist())
    rings = tuple(np.asarray(ring, np.float32) for mask in masks for ring in mask_to_polygons(mask))
    return Card(name, patch.patch_id, class_id, box, rings, score)
