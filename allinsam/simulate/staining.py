"""From a layout to a PAS image: amounts of three stains, absorption, optics, camera."""

import cv2
import numpy as np

from allinsam.simulate.fields import grain, inside, line, smooth_noise
from allinsam.simulate.glomerulus import ARTERIOLE_WALL_PX
from allinsam.simulate.layout import Layout
from allinsam.simulate.nuclei import DrawnNuclei
from allinsam.simulate.settings import CONDITIONS, SlideLook

HEMATOXYLIN, PAS, COUNTERSTAIN = range(3)
NUCLEAR_COUNTERSTAIN = 0.1


def stain_tissue(rng: np.random.Generator, look: SlideLook, layout: Layout) -> np.ndarray:
    """Amounts (3, H, W) of hematoxylin, PAS and counterstain in everything but the nuclei."""
    size_px = layout.size_px
    fine = grain(rng, size_px, 0.8)
    medium = smooth_noise(rng, size_px, 7, octaves=2)
    coarse = smooth_noise(rng, size_px, 60)
    amounts = np.zeros((3, size_px, size_px), np.float32)
    _paint_stroma(rng, amounts, layout, fine, medium)
    _paint_tubules(rng, amounts, layout, fine, medium)
    _paint_arteriole(rng, amounts, layout, fine, medium)
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
    fibres = np.sin(layout.tubules * 1.3 + 2.5 * smooth_noise(rng, size_px, 18))
    _paint(amounts, 1.0, 0.10 + 0.02 * fine, 0.26 + 0.06 * fibres + 0.04 * fine + 0.06 * medium, 0.10)
    # Peritubular capillaries open where the tubules leave room.
    vessel = 4.2 - layout.tubules + 2.6 * smooth_noise(rng, size_px, 26)
    vessel = np.maximum(vessel, 7.0 - layout.capsule)
    _paint(amounts, line(vessel, 1.6) * 0.5, 0.10, 0.42, 0.1)
    _paint(amounts, inside(vessel, 2.0), 0.01, 0.012, 0.01)


def _paint_tubules(
    rng: np.random.Generator, amounts: np.ndarray, layout: Layout, fine: np.ndarray, medium: np.ndarray
) -> None:
    size_px = layout.size_px
    number = len(layout.proximal)
    proximal = layout.proximal[layout.tubule_id]
    tone = rng.normal(0, 0.025, number).astype(np.float32)[layout.tubule_id]
    depth = -layout.tubules
    cover = inside(layout.tubules)
    cloud = smooth_noise(rng, size_px, 18, octaves=2)
    granules = np.clip(grain(rng, size_px, 0.9) - 0.9, 0, 3) * np.where(proximal, 0.16, 0.04)
    cytoplasm_h = np.where(proximal, 0.20, 0.16) + tone + 0.045 * fine + 0.025 * medium - 0.02 * cloud
    cytoplasm_p = np.where(proximal, 0.13, 0.05) + 0.5 * tone + granules + 0.02 * medium + 0.03 * cloud
    _paint(amounts, cover, cytoplasm_h, cytoplasm_p, 0.12)
    vacuoles = np.clip(smooth_noise(rng, size_px, 7) - 1.5, 0, 1) * np.where(proximal, 0.5, 1.1)
    _paint(amounts, np.clip(vacuoles, 0, 0.8) * cover, 0.03, 0.03, 0.02)
    rough = smooth_noise(rng, size_px, 10, octaves=3)
    lumen = layout.epithelium_px[layout.tubule_id] - depth + 3.4 * rough
    brush = line(lumen - 3.0, 7.0) * np.where(proximal, 0.6, 0.10) * cover
    _paint(amounts, np.clip(brush * (0.8 + 0.35 * cloud), 0, 1), 0.13, 0.33 + 0.05 * fine, 0.1)
    debris = (
        np.clip(smooth_noise(rng, size_px, 6, octaves=2) - 1.3, 0, 1)
        * 0.14
        * smooth_noise(rng, size_px, 70).clip(0.1, 2)
    )
    _paint(amounts, inside(lumen, 3.0) * cover, 0.01 + debris, 0.015 + 0.5 * debris, 0.01)
    borders = smooth_noise(rng, size_px, 30)
    membrane = line(layout.tubules, 1.9 + 0.5 * borders) * (layout.capsule > 2)
    _paint(amounts, np.clip(membrane, 0, 1) * 0.92, 0.14, 0.72 + 0.08 * medium, 0.1)


def _paint_arteriole(
    rng: np.random.Generator, amounts: np.ndarray, layout: Layout, fine: np.ndarray, medium: np.ndarray
) -> None:
    """Rings of smooth muscle around a small lumen, at the vascular pole."""
    wall = layout.arteriole + 1.2 * smooth_noise(rng, layout.size_px, 14)
    rings = np.sin(wall * 1.9 + 1.5 * smooth_noise(rng, layout.size_px, 16))
    _paint(amounts, inside(wall, 2.5), 0.15 + 0.03 * fine, 0.33 + 0.07 * rings + 0.05 * medium, 0.12)
    lumen = wall + ARTERIOLE_WALL_PX
    _paint(amounts, line(lumen, 1.6) * 0.7, 0.15, 0.6, 0.1)
    _paint(amounts, inside(lumen, 1.8), 0.012, 0.015, 0.01)


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
    _paint(amounts, inside(layout.capsule), 0.01, 0.014 + 0.006 * medium, 0.01)
    # Podocyte cytoplasm: a pale coat on the loops that fills the narrow clefts between them.
    near = np.exp(-layout.solid.clip(-9, 60) / 3) + np.exp(-(layout.bodies.clip(-9, 60) + 0.5) / 3)
    coat = -3 * np.log(near) - 3.0 - 2.0 * smooth_noise(rng, size_px, 14, octaves=2)
    coat = np.maximum(coat, np.minimum(layout.tuft - 4.0, layout.bodies - 5.0))
    haze = smooth_noise(rng, size_px, 10, octaves=3)
    _paint(
        amounts, inside(coat, 2.5), 0.15 + 0.03 * fine + 0.04 * haze, 0.09 + 0.02 * fine + 0.03 * haze, 0.1
    )
    matrix = 0.46 + 0.08 * medium + 0.05 * fine + 0.06 * haze
    _paint(amounts, inside(layout.mesangium, 2.2), 0.15 + 0.03 * fine, matrix * density, 0.1)
    # Loops: a thin endothelial film, then the lumen, here and there with plasma or red cells.
    film = 1.6 + 0.9 * smooth_noise(rng, size_px, 9)
    lumen = np.maximum(layout.loops + film, film - 0.4 - layout.loop_gap / 2)
    plasma = rng.choice([0.0, 0.04, 0.08], int(layout.loop_id.max()) + 1, p=[0.65, 0.22, 0.13])
    plasma = plasma.astype(np.float32)[layout.loop_id] * np.clip(1 + 0.5 * haze, 0.2, 2)
    _paint(amounts, inside(layout.loops), 0.15, 0.14, 0.1)
    _paint(amounts, inside(lumen, 1.8), 0.012 + plasma, 0.02 + 0.008 * medium + 0.6 * plasma, 0.015)
    _paint_red_cells(rng, amounts, layout, lumen)
    membrane = np.maximum(line(layout.solid, 1.4), line(layout.loop_gap, 1.8) * (layout.loops < 0))
    membrane *= layout.capsule < -1
    strength = 0.68 + 0.24 * smooth_noise(rng, size_px, 22)
    _paint(amounts, np.clip(membrane * strength, 0, 1), 0.12, 0.66 * density, 0.1)
    thickness = 2.6 + 0.8 * smooth_noise(rng, size_px, 50)
    _paint(amounts, np.clip(line(layout.capsule, thickness), 0, 1), 0.14, 0.80 + 0.08 * medium, 0.1)


def _paint_red_cells(
    rng: np.random.Generator, amounts: np.ndarray, layout: Layout, lumen: np.ndarray
) -> None:
    filled = rng.random(int(layout.loop_id.max()) + 1) < 0.16
    discs = smooth_noise(rng, layout.size_px, 7) > 0.1
    cover = inside(lumen + 1.0, 2.0) * filled[layout.loop_id] * discs * (layout.loops < 0)
    _paint(amounts, cv2.GaussianBlur(cover.astype(np.float32), (0, 0), 0.8) * 0.8, 0.06, 0.10, 0.9)


def add_nuclei(amounts: np.ndarray, drawn: DrawnNuclei) -> None:
    """Nuclei replace the tissue they lie in."""
    _paint(amounts, drawn.coverage, drawn.hematoxylin, drawn.pas, NUCLEAR_COUNTERSTAIN)


def absorb(look: SlideLook, amounts: np.ndarray) -> np.ndarray:
    """Light (H, W, 3) float32 that passes the stained tissue."""
    density = np.einsum("shw,sc->hwc", amounts, look.stain_od, optimize=True)
    return look.glass_rgb * cv2.exp(-np.float32(np.log(10)) * density)


def level_nuclei(look: SlideLook, light: np.ndarray, drawn: DrawnNuclei) -> np.ndarray:
    """Bring each nucleus to the mean colour that was drawn for it without looking at its class.

    A nucleus in matrix and one beside white space differ at their soft edges; without this their mean
    colour would give the class away, and a network would learn colour instead of place and shape.
    """
    count = len(drawn.nuclei)
    labels = drawn.labels.ravel()
    area = np.maximum(np.bincount(labels, minlength=count + 1), 1)[:, None]
    stains = np.stack([drawn.mean_hematoxylin, drawn.mean_pas, np.full(count, NUCLEAR_COUNTERSTAIN)], 1)
    wanted = look.glass_rgb * 10 ** -(stains @ look.stain_od)
    hold = (drawn.coverage * (drawn.labels > 0))[..., None]
    for _ in range(3):  # the soft edge follows only in part, hence more than once
        sums = [np.bincount(labels, light[..., c].ravel(), minlength=count + 1) for c in range(3)]
        gain = wanted / (np.stack(sums, 1) / area)[1:]
        gain = np.concatenate([np.ones((1, 3)), gain]).astype(np.float32)
        light = light * (1 + (gain[drawn.labels] - 1) * hold)
    return light


def photograph(rng: np.random.Generator, look: SlideLook, light: np.ndarray) -> np.ndarray:
    """Uneven lamp and camera noise: uint8 RGB."""
    ramp = np.linspace(-1, 1, len(light), dtype=np.float32)
    lamp = 1 + look.illumination_xy[0] * ramp[None, :] + look.illumination_xy[1] * ramp[:, None]
    image = light * lamp[..., None]
    noise = rng.standard_normal(image.shape, dtype=np.float32)
    image += look.camera_noise * noise * np.sqrt(np.maximum(image, 1) / 200)
    return np.clip(np.rint(image), 0, 255).astype(np.uint8)


def focus(look: SlideLook, amounts: np.ndarray) -> np.ndarray:
    """The optics' blur and the scanner's slight sharpening, taken on the amounts of stain."""
    sharp = [cv2.GaussianBlur(stain, (0, 0), look.optics_sigma_px) for stain in amounts]
    return np.stack([1.45 * stain - 0.45 * cv2.GaussianBlur(stain, (0, 0), 1.5) for stain in sharp])
