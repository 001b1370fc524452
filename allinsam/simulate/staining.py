"""From a layout to a PAS image: amounts of three stains, absorption, optics, camera."""

import cv2
import numpy as np
from scipy.special import ndtri

from .fields import grain, inside, line, smooth_noise
from .layout import Layout
from .nuclei import DENSE_KINDS, DrawnNuclei
from .settings import CONDITIONS, SlideLook

HEMATOXYLIN, PAS, COUNTERSTAIN = range(3)


def stain_tissue(rng: np.random.Generator, look: SlideLook, layout: Layout) -> np.ndarray:
    """Amounts (3, H, W) of hematoxylin, PAS and counterstain in everything but the nuclei."""
    size_px = layout.size_px
    fine = grain(rng, size_px, 0.8)
    medium = smooth_noise(rng, size_px, 7, octaves=2)
    coarse = smooth_noise(rng, size_px, 60)
    amounts = np.zeros((3, size_px, size_px), np.float32)
    _paint_stroma(rng, amounts, layout, fine, medium)
    _paint_tubules(rng, amounts, layout, fine, medium)
    _paint_glomerulus(rng, amounts, look, layout, fine, medium)
    amounts *= look.haze * (1 + 0.07 * coarse)
    return np.maximum(amounts, 0.0)


def _paint(amounts: np.ndarray, cover: np.ndarray, *values: np.ndarray | float) -> None:
    """Lay a tissue over what is there: `cover` 0..1, one amount for each stain."""
    for stain, value in zip(amounts, values, strict=True):
        stain += cover * (value - stain)


def _paint_stroma(
    rng: np.random.Generator, amounts: np.ndarray, layout: Layout, fine: np.ndarray, medium: np.ndarray
) -> None:
    size_px = layout.size_px
    fibres = np.sin(layout.tubules * 1.1 + 2.0 * smooth_noise(rng, size_px, 14))
    _paint(amounts, 1.0, 0.10 + 0.02 * fine, 0.30 + 0.05 * fibres + 0.04 * fine + 0.05 * medium, 0.25)
    vessel = 3.2 - layout.tubules + 2.0 * smooth_noise(rng, size_px, 22)
    vessel = np.maximum(vessel, 7.0 - layout.capsule)
    _paint(amounts, line(vessel, 2.0) * 0.6, 0.08, 0.55, 0.2)
    _paint(amounts, inside(vessel, 2.0), 0.01, 0.015, 0.03)


def _paint_tubules(
    rng: np.random.Generator, amounts: np.ndarray, layout: Layout, fine: np.ndarray, medium: np.ndarray
) -> None:
    size_px = layout.size_px
    number = len(layout.proximal)
    proximal = layout.proximal[layout.tubule_id]
    tone = rng.normal(0, 0.04, number).astype(np.float32)[layout.tubule_id]
    depth = -layout.tubules
    cover = inside(layout.tubules)
    granular = np.where(proximal, 0.085, 0.05) * fine + 0.04 * medium
    cytoplasm_h = np.where(proximal, 0.19, 0.15) + tone + 0.6 * granular
    cytoplasm_p = np.where(proximal, 0.15, 0.06) + 0.8 * granular + 0.5 * tone
    _paint(amounts, cover, cytoplasm_h, cytoplasm_p, 0.35)
    rough = smooth_noise(rng, size_px, 9, octaves=2)
    lumen = layout.epithelium_px[layout.tubule_id] - depth + 2.6 * rough
    brush = line(lumen - 2.0, 6.0) * np.where(proximal, 0.55, 0.12) * cover
    _paint(amounts, brush * (0.8 + 0.3 * medium), 0.12, 0.42, 0.3)
    debris = np.clip(smooth_noise(rng, size_px, 6, octaves=2) - 1.2, 0, 1) * 0.10
    _paint(amounts, inside(lumen, 3.5) * cover, 0.01 + debris, 0.02 + 0.6 * debris, 0.03 + debris)
    borders = smooth_noise(rng, size_px, 30)
    membrane = line(layout.tubules, 2.0 + 0.5 * borders) * (layout.capsule > 2)
    _paint(amounts, np.clip(membrane, 0, 1) * 0.95, 0.12, 0.82 + 0.08 * medium, 0.2)


def _paint_glomerulus(
    rng: np.random.Generator,
    amounts: np.ndarray,
    look: SlideLook,
    layout: Layout,
    fine: np.ndarray,
    medium: np.ndarray,
) -> None:
    size_px = layout.size_px
    density = rng.uniform(*CONDITIONS[look.condition].matrix_density)
    _paint(amounts, inside(layout.capsule), 0.015, 0.02 + 0.006 * medium, 0.04)
    # Podocyte cytoplasm: a pale coat on the loops that fills the narrow clefts between them.
    coat = layout.solid - 4.5 - 2.2 * smooth_noise(rng, size_px, 12, octaves=2)
    coat = np.maximum(coat, layout.tuft - 4.0)
    _paint(amounts, inside(coat, 2.5), 0.13 + 0.03 * fine + 0.03 * medium, 0.10 + 0.02 * fine, 0.28)
    matrix = 0.50 + 0.09 * medium + 0.05 * fine
    _paint(amounts, inside(layout.mesangium, 2.2), 0.14 + 0.03 * fine, matrix * density, 0.25)
    # Loops: a thin endothelial film, then the lumen, here and there with red cells.
    lumen = np.maximum(layout.loops + 2.0, 1.6 - layout.loop_gap / 2)
    wall = inside(layout.loops) * (layout.loop_gap >= 0)
    _paint(amounts, wall, 0.12, 0.22, 0.25)
    _paint(amounts, inside(lumen, 1.8), 0.02 + 0.008 * fine, 0.035 + 0.01 * medium, 0.07)
    _paint_red_cells(rng, amounts, layout, lumen)
    membrane = np.maximum(line(layout.solid, 1.5), line(layout.loop_gap, 2.0) * (layout.loops < 0))
    membrane *= layout.capsule < -1
    strength = 0.80 + 0.18 * smooth_noise(rng, size_px, 30)
    _paint(amounts, np.clip(membrane * strength, 0, 1), 0.10, 0.66 * density, 0.2)
    thickness = 2.6 + 0.7 * smooth_noise(rng, size_px, 50)
    _paint(amounts, np.clip(line(layout.capsule, thickness), 0, 1), 0.12, 0.85 + 0.08 * medium, 0.2)


def _paint_red_cells(
    rng: np.random.Generator, amounts: np.ndarray, layout: Layout, lumen: np.ndarray
) -> None:
    filled = rng.random(int(layout.loop_id.max()) + 1) < 0.16
    discs = smooth_noise(rng, layout.size_px, 7) > 0.1
    cover = inside(lumen + 1.0, 2.0) * filled[layout.loop_id] * discs * (layout.loops < 0)
    _paint(amounts, cv2.GaussianBlur(cover.astype(np.float32), (0, 0), 0.8) * 0.8, 0.06, 0.10, 0.9)


def add_nuclei(amounts: np.ndarray, drawn: DrawnNuclei) -> None:
    """Nuclei replace the tissue they lie in."""
    _paint(amounts, drawn.coverage, drawn.hematoxylin, drawn.pas, 0.2)


def absorb(look: SlideLook, amounts: np.ndarray) -> np.ndarray:
    """Light (H, W, 3) float32 that passes the stained tissue."""
    density = np.einsum("shw,sc->hwc", amounts, look.stain_od, optimize=True)
    return look.glass_rgb * cv2.exp(-np.float32(np.log(10)) * density)


def level_nuclei(
    rng: np.random.Generator, look: SlideLook, light: np.ndarray, drawn: DrawnNuclei
) -> np.ndarray:
    """Give each nucleus a mean colour drawn without looking at its class.

    A nucleus in matrix and one beside white space differ at their soft edges; without this their mean
    colour would give the class away, and a network would learn colour instead of place and shape.
    """
    count = len(drawn.nuclei)
    labels = drawn.labels.ravel()
    area = np.maximum(np.bincount(labels, minlength=count + 1), 1)[:, None]
    kinds = np.array([n.kind for n in drawn.nuclei])
    blue = 0.68 + 0.085 * _even_normal(rng, kinds) + 0.12 * np.isin(kinds, DENSE_KINDS)
    tint = 0.13 + 0.035 * _even_normal(rng, kinds)
    stains = np.stack([blue, tint, np.full(count, 0.2)], 1)
    wanted = look.glass_rgb * 10 ** -(np.clip(stains, 0.03, 1.05) @ look.stain_od)
    hold = np.clip(drawn.coverage, 0.3, 1.0)[..., None] * (drawn.labels > 0)[..., None]
    for _ in range(3):  # the soft edge follows only in part, hence more than once
        sums = [np.bincount(labels, light[..., c].ravel(), minlength=count + 1) for c in range(3)]
        gain = wanted / (np.stack(sums, 1) / area)[1:]
        gain = np.concatenate([np.ones((1, 3)), gain]).astype(np.float32)
        light = light * (1 + (gain[drawn.labels] - 1) * hold)
    return light


def _even_normal(rng: np.random.Generator, kinds: np.ndarray) -> np.ndarray:
    """Standard normal draws, spread evenly over the quantiles within each kind."""
    values = np.zeros(len(kinds))
    for kind in sorted(set(kinds.tolist())):
        own = np.flatnonzero(kinds == kind)
        values[own] = ndtri(rng.permutation((np.arange(len(own)) + rng.random(len(own))) / len(own)))
    return np.clip(values, -2.5, 2.5)


def photograph(rng: np.random.Generator, look: SlideLook, light: np.ndarray) -> np.ndarray:
    """Uneven lamp and camera noise: uint8 RGB."""
    ramp = np.linspace(-1, 1, len(light), dtype=np.float32)
    lamp = 1 + look.illumination_xy[0] * ramp[None, :] + look.illumination_xy[1] * ramp[:, None]
    image = light * lamp[..., None]
    noise = rng.standard_normal(image.shape, dtype=np.float32)
    image += look.camera_noise * noise * np.sqrt(np.maximum(image, 1) / 200)
    return np.clip(np.rint(image), 0, 255).astype(np.uint8)


def focus(look: SlideLook, amounts: np.ndarray) -> np.ndarray:
    """The optics' blur, taken on the amounts of stain."""
    return np.stack([cv2.GaussianBlur(a, (0, 0), look.optics_sigma_px) for a in amounts])
