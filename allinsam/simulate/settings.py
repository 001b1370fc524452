"""Ranges of appearance of the simulated tissue, and what one slide drew from them."""

from dataclasses import dataclass, field

import numpy as np

from allinsam.errors import InputError

Range = tuple[float, float]

MARKER_OF_CLASS = {"podocyte": "WT1", "mesangial": "GATA3"}


@dataclass(frozen=True)
class Condition:
    """What injury changes in a glomerulus. Counts are of a whole glomerular section."""

    podocytes: tuple[int, int]
    mesangial: tuple[int, int]
    matrix_half_width_px: Range
    matrix_density: Range
    sclerosis: Range  # share of the tuft's radius taken by one solid scar
    marker_loss: dict[str, tuple[float, float]]  # marker -> (share of its cells dimmed, remaining signal)


CONDITIONS: dict[str, Condition] = {
    "normal": Condition((17, 21), (15, 19), (2.4, 4.0), (0.85, 1.0), (0.0, 0.0), {}),
    "injured": Condition((12, 15), (17, 21), (4.5, 7.0), (0.95, 1.12), (0.25, 0.5), {"WT1": (0.25, 0.45)}),
}


@dataclass(frozen=True)
class TissueSettings:
    """Ranges a slide or a patch draws from; lengths in px at `um_per_px`, stain vectors in optical density.

    `stream` is the first word of every seed: tissue made for another purpose takes another number, so
    that no image is ever drawn twice.
    """

    stream: int = 1
    um_per_px: float = 0.5
    # Geometry.
    capsule_radius_px: Range = (182.0, 204.0)
    capsule_offset_px: float = 34.0
    cut_share: float = 0.25  # of the patches show a glomerulus cut by the edge ...
    cut_offset_px: Range = (75.0, 115.0)  # ... whose centre lies this far out
    bowman_space_px: Range = (7.0, 13.0)
    loop_radius_px: Range = (6.5, 19.0)
    tubule_spacing_px: Range = (98.0, 122.0)
    tubule_stretch: Range = (1.0, 1.55)
    # Brightfield.
    hematoxylin: tuple[Range, Range, Range] = ((0.62, 0.80), (0.62, 0.72), (0.26, 0.36))
    pas: tuple[Range, Range, Range] = ((0.14, 0.30), (0.62, 0.78), (0.20, 0.34))
    counterstain: tuple[Range, Range, Range] = ((0.10, 0.16), (0.20, 0.28), (0.14, 0.26))
    hematoxylin_strength: Range = (0.80, 1.10)
    pas_strength: Range = (0.75, 1.15)
    haze: Range = (0.75, 1.25)
    glass: Range = (234.0, 247.0)
    glass_tint: tuple[Range, Range, Range] = ((-2.0, 3.0), (-4.0, 0.0), (-2.0, 3.0))
    optics_sigma_px: Range = (0.55, 0.85)
    camera_noise: Range = (1.2, 2.6)
    # Fluorescence (8-bit levels unless said otherwise).
    marker_gain: Range = (90.0, 180.0)
    marker_offset: Range = (4.0, 22.0)
    autofluorescence: Range = (0.06, 0.13)  # of the gain
    bleed: Range = (0.02, 0.07)  # of the other marker
    marker_sigma_px: Range = (1.3, 2.2)
    cell_brightness_spread: float = 0.28  # sigma of the log
    # IF against PAS.
    shift_px: Range = (1.0, 4.0)
    rotation_deg: float = 0.8


@dataclass(frozen=True)
class MarkerLook:
    gain: float
    offset: float
    autofluorescence: float
    bleed: float
    sigma_px: float
    noise: float


@dataclass(frozen=True)
class SlideLook:
    """One slide's stain, camera, fluorescence and misregistration; every patch of the slide shares it."""

    seed: int
    slide_index: int
    condition: str
    stain_od: np.ndarray  # (3, 3): hematoxylin, PAS, counterstain x RGB
    glass_rgb: np.ndarray
    haze: float
    optics_sigma_px: float
    camera_noise: float
    illumination_xy: tuple[float, float]
    rotation_deg: float
    shift_xy: tuple[float, float]
    markers: dict[str, MarkerLook]
    settings: TissueSettings = field(default_factory=TissueSettings)

    def matrix(self, size_px: int) -> np.ndarray:
        """2x3 transform of (x, y) in the IF to PAS px: rotation about the centre, then the shift."""
        angle = np.deg2rad(self.rotation_deg)
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        centre = np.full(2, size_px / 2.0)
        return np.column_stack([turn, centre - turn @ centre + np.asarray(self.shift_xy)])


def simulate_slide(
    seed: int, slide_index: int, condition: str = "normal", settings: TissueSettings | None = None
) -> SlideLook:
    """Draw the look of one slide. The same arguments always give the same look."""
    if condition not in CONDITIONS:
        raise InputError(f"Unknown condition {condition!r}. Choose one of {sorted(CONDITIONS)}.")
    ranges = settings or TissueSettings()
    rng = np.random.default_rng([ranges.stream, seed, slide_index])
    strength = [rng.uniform(*ranges.hematoxylin_strength), rng.uniform(*ranges.pas_strength), 1.0]
    vectors = [_uniform_each(rng, v) for v in (ranges.hematoxylin, ranges.pas, ranges.counterstain)]
    direction = rng.uniform(0, 2 * np.pi)
    shift = rng.uniform(*ranges.shift_px)
    return SlideLook(
        seed=seed,
        slide_index=slide_index,
        condition=condition,
        stain_od=np.stack([s * v for s, v in zip(strength, vectors, strict=True)]).astype(np.float32),
        glass_rgb=(rng.uniform(*ranges.glass) + _uniform_each(rng, ranges.glass_tint)).astype(np.float32),
        haze=rng.uniform(*ranges.haze),
        optics_sigma_px=rng.uniform(*ranges.optics_sigma_px),
        camera_noise=rng.uniform(*ranges.camera_noise),
        illumination_xy=tuple(rng.uniform(-0.02, 0.02, 2).tolist()),
        rotation_deg=rng.uniform(-ranges.rotation_deg, ranges.rotation_deg),
        shift_xy=(shift * np.cos(direction), shift * np.sin(direction)),
        markers={marker: _draw_marker(rng, ranges) for marker in MARKER_OF_CLASS.values()},
        settings=ranges,
    )


def _draw_marker(rng: np.random.Generator, ranges: TissueSettings) -> MarkerLook:
    return MarkerLook(
        gain=rng.uniform(*ranges.marker_gain),
        offset=rng.uniform(*ranges.marker_offset),
        autofluorescence=rng.uniform(*ranges.autofluorescence),
        bleed=rng.uniform(*ranges.bleed),
        sigma_px=rng.uniform(*ranges.marker_sigma_px),
        noise=rng.uniform(1.0, 2.5),
    )


def _uniform_each(rng: np.random.Generator, ranges: tuple[Range, Range, Range]) -> np.ndarray:
    low, high = np.array(ranges).T
    return rng.uniform(low, high)
