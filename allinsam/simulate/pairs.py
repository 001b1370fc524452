"""PAS and IF of one simulated field that differ by a known transform, and whole slides with a tear."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from allinsam.simulate.fields import smooth_noise
from allinsam.simulate.settings import Range, TissueSettings, simulate_slide
from allinsam.simulate.tissue import SimulatedPatch, simulate_patch

NUCLEAR = "DAPI"
# Word 7 of every seed: no other part of the project draws these tissues.
PAIR_TISSUE = TissueSettings(stream=7, shift_px=(0.0, 0.0), rotation_deg=0.0)


@dataclass(frozen=True)
class PairSettings:
    """How far IF and PAS of a field lie apart, and how well the fluorescence camera saw it."""

    rotation_deg: Range = (-180.0, 180.0)
    scale: Range = (0.87, 1.15)  # PAS px per IF px
    shear: Range = (-0.01, 0.01)
    shift_px: Range = (-40.0, 40.0)
    flip: bool = False
    blur_px: Range = (0.5, 1.8)
    noise: Range = (1.0, 5.0)  # 8-bit levels
    lamp: Range = (0.0, 0.35)  # fall of the light from one side to the other, share
    stretch_px: float = 0.0  # amplitude of a smooth distortion that no affine follows


@dataclass(frozen=True)
class Field:
    """A piece of tissue: PAS (H, W, 3) uint8 and each channel's light (H, W) float32 in the same frame."""

    pas: np.ndarray
    light: dict[str, np.ndarray]


@dataclass(frozen=True)
class SimulatedPair:
    """`matrix` is the truth: 2x3, maps (x, y) of the channels to px of the PAS."""

    pas: np.ndarray
    channels: dict[str, np.ndarray]
    matrix: np.ndarray


def simulate_field(seed: int, size_px: int = 512) -> Field:
    """One patch of tissue with WT1, GATA3 and a nuclear channel."""
    condition = ("normal", "injured")[seed % 2]
    patch = simulate_patch(simulate_slide(seed, 0, condition, PAIR_TISSUE), seed, size_px=size_px)
    light = {name: channel.astype(np.float32) for name, channel in patch.channels.items()}
    rng = np.random.default_rng([PAIR_TISSUE.stream, seed, 99])
    return Field(patch.pas, {NUCLEAR: _nuclear_light(rng, patch), **light})


def _nuclear_light(rng: np.random.Generator, patch: SimulatedPatch) -> np.ndarray:
    """What DAPI shows: nearly every nucleus of the section, some that PAS does not show, and a haze."""
    count = int(patch.labels.max(initial=0))
    brightness = np.exp(rng.normal(0, 0.35, count + 1)) * (rng.random(count + 1) > 0.1)
    brightness[0] = 0
    texture = 1 + 0.25 * smooth_noise(rng, len(patch.labels), 4)
    light = 110 * brightness.astype(np.float32)[patch.labels] * texture
    hidden = np.zeros(patch.labels.shape, np.float32)
    for x, y in rng.uniform(0, len(patch.labels), (max(2, count // 8), 2)):
        axes = tuple(int(v) for v in rng.uniform(5, 9, 2))
        cv2.ellipse(hidden, (int(x), int(y)), axes, rng.uniform(0, 180), 0, 360, 60.0, -1)
    light += cv2.GaussianBlur(hidden, (0, 0), 2.5)
    return cv2.GaussianBlur(light, (0, 0), 1.2) + 0.10 * cv2.GaussianBlur(light, (0, 0), 12) + 8.0


def join_fields(fields: Sequence[Field], columns: int) -> Field:
    """Fields of one size laid out in rows of `columns`."""

    def joined(parts: Sequence[np.ndarray]) -> np.ndarray:
        rows = [np.concatenate(parts[i : i + columns], axis=1) for i in range(0, len(parts), columns)]
        return np.concatenate(rows, axis=0)

    names = fields[0].light
    return Field(
        joined([field.pas for field in fields]),
        {name: joined([field.light[name] for field in fields]) for name in names},
    )


def pair_of_fields(
    seed: int, field: Field, around: Sequence[Field], settings: PairSettings | None = None
) -> SimulatedPair:
    """PAS of a field, and its IF as a camera saw it that looked from elsewhere.

    Args:
        around: eight fields; the IF shows parts of these where it looks beyond the field.
    """
    settings = settings or PairSettings()
    rng = np.random.default_rng([PAIR_TISSUE.stream, seed, 1])
    whole = join_fields([*around[:4], field, *around[4:8]], 3)
    height_px, width_px = field.pas.shape[:2]
    matrix = draw_matrix(rng, (height_px, width_px), settings)
    in_whole = matrix + np.array([[0, 0, width_px], [0, 0, height_px]])
    channels = photograph(rng, whole.light, in_whole, (height_px, width_px), settings)
    return SimulatedPair(field.pas, channels, matrix)


def draw_matrix(rng: np.random.Generator, size_hw: tuple[int, int], settings: PairSettings) -> np.ndarray:
    """A transform about the centre of two images of this size, 2x3, IF to PAS px."""
    angle = np.deg2rad(rng.uniform(*settings.rotation_deg))
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    stretch = rng.uniform(*settings.scale) * np.array([[1.0, rng.uniform(*settings.shear)], [0.0, 1.0]])
    linear = turn @ stretch @ np.diag([-1.0 if settings.flip else 1.0, 1.0])
    centre = np.array(size_hw[::-1]) / 2
    return np.column_stack([linear, centre - linear @ centre + rng.uniform(*settings.shift_px, 2)])


def photograph(
    rng: np.random.Generator,
    light: Mapping[str, np.ndarray],
    matrix: np.ndarray,
    size_hw: tuple[int, int],
    settings: PairSettings,
    torn_xy: np.ndarray | None = None,
) -> dict[str, np.ndarray]:
    """Each channel uint8 as the camera sees it.

    Args:
        matrix: 2x3, maps (x, y) of the camera to px of `light`.
        torn_xy: (H, W, 2) px of `light` by which each camera pixel looks elsewhere; not finite: at nothing.
    """
    height_px, width_px = size_hw
    x, y = np.meshgrid(np.arange(width_px) + 0.5, np.arange(height_px) + 0.5)
    seen = np.stack([x, y], -1) @ matrix[:, :2].T + matrix[:, 2] - 0.5
    if settings.stretch_px:
        for axis in range(2):
            bend = cv2.GaussianBlur(rng.standard_normal((16, 16)).astype(np.float32), (0, 0), 3.0)
            bend = cv2.resize(bend / np.abs(bend).max(), (width_px, height_px), interpolation=cv2.INTER_CUBIC)
            seen[..., axis] += settings.stretch_px * bend
    if torn_xy is not None:
        seen = seen + torn_xy
    seen = np.where(np.isfinite(seen), seen, -1e4).astype(np.float32)
    direction = rng.uniform(0, 2 * np.pi)
    ramp = (x / width_px - 0.5) * np.cos(direction) + (y / height_px - 0.5) * np.sin(direction)
    lamp = 1 - rng.uniform(*settings.lamp) * (0.5 + ramp)
    channels = {}
    for name, channel in light.items():
        level = cv2.remap(channel, seen[..., 0], seen[..., 1], cv2.INTER_LINEAR, borderValue=3.0)
        level = cv2.GaussianBlur(level, (0, 0), rng.uniform(*settings.blur_px)) * lamp
        noise = rng.standard_normal(level.shape) * np.sqrt(rng.uniform(*settings.noise) ** 2 + 0.1 * level)
        channels[name] = np.clip(np.rint(level + noise), 0, 255).astype(np.uint8)
    return channels


@dataclass(frozen=True)
class Tear:
    """A cut in the IF's section that gapes: tissue on its far side has moved away from it.

    Lengths in PAS px. The line runs through `at_xy` along `angle_deg` and ends there; the gap closes towards
    that end and the tissue is back in place `reach_px` from the line.
    """

    at_xy: tuple[float, float]
    angle_deg: float = 75.0
    opening_px: float = 40.0
    reach_px: float = 1500.0
    closing_px: float = 800.0

    def places(self, points_xy: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """How far points (..., 2) lie along the line, behind its end, and beside it (far side positive)."""
        along = np.array([np.cos(np.deg2rad(self.angle_deg)), np.sin(np.deg2rad(self.angle_deg))])
        beside = np.array([-along[1], along[0]])
        from_end = points_xy - np.array(self.at_xy)
        return from_end @ along, from_end @ beside

    def moved(self, points_xy: np.ndarray) -> np.ndarray:
        """By how much the tissue that is now at points (..., 2) was moved, PAS px (..., 2)."""
        behind, aside = self.places(points_xy)
        amount = np.clip(behind / self.closing_px, 0, 1) * np.exp(-np.maximum(aside, 0) / self.reach_px)
        angle = np.deg2rad(self.angle_deg)
        return (self.opening_px * amount * (aside > 0))[..., None] * np.array([-np.sin(angle), np.cos(angle)])

    def came_from(self, points_xy: np.ndarray) -> np.ndarray:
        """What is seen at points (..., 2) of the torn section: PAS px, not a number in the gap."""
        source = points_xy - self.moved(points_xy)
        in_gap = (self.places(points_xy)[1] > 0) & (self.places(source)[1] <= 0)
        return np.where(in_gap[..., None], np.nan, source)

    def went_to(self, points_xy: np.ndarray) -> np.ndarray:
        """Where PAS points (n, 2) are in the torn section."""
        _, aside = self.places(points_xy)
        there = points_xy.astype(float)
        for _ in range(20):  # the strain is a few percent, so this converges
            shift = self.moved(np.where((self.places(there)[1] > 0)[:, None], there, there + 1e-6))
            there = points_xy + np.where((aside > 0)[:, None], shift, 0.0)
        return there


@dataclass(frozen=True)
class SimulatedSlides:
    """Two slides of one section. `matrix` (2x3, IF to PAS px) is true where the tear moved nothing."""

    pas: np.ndarray
    channels: dict[str, np.ndarray]
    matrix: np.ndarray
    tear: Tear

    def true_moving_px(self, points_xy: np.ndarray) -> np.ndarray:
        """Where points (n, 2) of the PAS slide are in the IF slide."""
        there = self.tear.went_to(points_xy)
        linear = np.linalg.inv(self.matrix[:, :2])
        return (there - self.matrix[:, 2]) @ linear.T


def slides_of_fields(
    seed: int,
    fields: Sequence[Field],
    columns: int,
    rotation_deg: float = 173.0,
    scale: float = 2.0,
    settings: PairSettings | None = None,
) -> SimulatedSlides:
    """A piece of tissue on glass made of fields, and its IF slide: turned, upside down, coarser and torn.

    Args:
        scale: PAS px per IF px.
    """
    settings = settings or PairSettings(blur_px=(0.5, 0.9), lamp=(0.0, 0.2))
    rng = np.random.default_rng([PAIR_TISSUE.stream, seed, 2])
    whole = join_fields(fields, columns)
    height_px, width_px = whole.pas.shape[:2]
    tissue = _outline(rng, (height_px, width_px))
    pas = np.where(tissue[..., None] > 0.5, whole.pas, np.uint8(243))
    light = {name: channel * tissue for name, channel in whole.light.items()}
    linear = _turned(rotation_deg, scale)
    size = np.ceil(np.abs(linear).T @ (width_px, height_px) / scale**2).astype(int)
    matrix = np.column_stack([linear, np.array([width_px, height_px]) / 2 - linear @ (size / 2)])
    matrix[:, 2] += rng.uniform(-30, 30, 2)
    tear = Tear(at_xy=(0.55 * width_px, 0.40 * height_px))
    x, y = np.meshgrid(np.arange(size[0]) + 0.5, np.arange(size[1]) + 0.5)
    plain = np.stack([x, y], -1) @ matrix[:, :2].T + matrix[:, 2]
    channels = photograph(rng, light, matrix, (size[1], size[0]), settings, tear.came_from(plain) - plain)
    return SimulatedSlides(pas, channels, matrix, tear)


def _turned(rotation_deg: float, scale: float) -> np.ndarray:
    angle = np.deg2rad(rotation_deg)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return scale * turn @ np.diag([-1.0, 1.0])


def _outline(rng: np.random.Generator, size_hw: tuple[int, int]) -> np.ndarray:
    """A rounded piece of tissue with an uneven edge, float32 (H, W), 1 inside."""
    small = [side // 16 for side in size_hw]
    y, x = np.mgrid[-1 : 1 : small[0] * 1j, -1 : 1 : small[1] * 1j]
    uneven = cv2.GaussianBlur(rng.standard_normal(small).astype(np.float32), (0, 0), max(small) / 14)
    depth = 1 - (np.abs(x) ** 3 + np.abs(y) ** 3) - 0.12 + 0.12 * uneven / np.abs(uneven).max()
    inside = np.clip(0.5 + 10 * depth, 0, 1).astype(np.float32)
    return cv2.resize(inside, size_hw[::-1], interpolation=cv2.INTER_CUBIC).clip(0, 1)
