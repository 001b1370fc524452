"""Estimate the transform from an IF channel to its stained image, and say whether it may be believed."""

from dataclasses import dataclass, field, replace

import cv2
import numpy as np

from allinsam.errors import InputError
from allinsam.registration.quality import (
    Window,
    gate,
    measure_windows,
    moved_together,
    share_in_place,
    typical_shift_px,
)
from allinsam.registration.search import Candidate, agreement_of, climb, distinct, search_grid
from allinsam.registration.settings import RegistrationSettings
from allinsam.registration.signals import band_pass, channel_light, fixed_signal, is_flat
from allinsam.registration.transforms import compose, identity_matrix, invert, move_points, scale_of

SMALLEST_PX = 48  # three nuclei across; less holds no pattern to recognise


@dataclass(frozen=True)
class Registration:
    """A transform and what speaks for it.

    `matrix` is 2x3 and maps (x, y) of the moving to px of the fixed image. Where nothing could be estimated
    it is the identity and `accepted` is False; `reasons` then says why, one sentence each.
    """

    matrix: np.ndarray
    accepted: bool
    reasons: tuple[str, ...] = ()
    quality: float = 0.0  # correlation of the two signals where both are, -1..1
    residual_px: float | None = None  # median shift that the windows would rather have, fixed px
    overlap: float = 0.0  # share of the smaller image that both show
    agreement: float = 0.0  # share of the structure whose windows stay where they are, 0..1
    rival: float = 1.0  # score of the best other transform over this one's, 0..1
    inverted: bool = False  # dark of the moving image fits nuclei
    windows: tuple[Window, ...] = field(default=(), repr=False)
    elsewhere: tuple[Window, ...] = field(default=(), repr=False)  # parts beyond a tear or a fold

    @property
    def credit(self) -> float:
        """How much speaks for it, to choose among several, 0..1."""
        return max(self.quality, 0.0) * self.overlap * self.agreement * (1 - self.rival)

    def as_dict(self) -> dict:
        """Plain values for JSON, with the boxes of the parts beyond a tear but without the windows."""
        names = ("accepted", "reasons", "quality", "residual_px", "overlap", "agreement", "rival", "inverted")
        values = {name: getattr(self, name) for name in names}
        boxes = [list(window.box_xyxy) for window in self.elsewhere]
        return {"matrix": self.matrix.tolist(), **values, "elsewhere_xyxy": boxes}


@dataclass(frozen=True)
class _Level:
    """Both signals at one working size, and the matrices from image px to working px."""

    fixed: np.ndarray
    moving: np.ndarray
    of_fixed: np.ndarray
    of_moving: np.ndarray

    def inward(self, found: Candidate) -> Candidate:
        return replace(found, matrix=compose(self.of_fixed, compose(found.matrix, invert(self.of_moving))))

    def outward(self, found: Candidate) -> Candidate:
        return replace(found, matrix=compose(invert(self.of_fixed), compose(found.matrix, self.of_moving)))


def estimate(
    fixed: np.ndarray, moving_channel: np.ndarray, settings: RegistrationSettings | None = None
) -> Registration:
    """The transform of an IF channel onto a stained image, without a starting point.

    A grid of rotations, scales and flips, each with its best shift, at a coarse size; the best few climb to
    the greatest correlation, at three sizes; the winner is measured in windows and goes through the gate.

    Args:
        fixed: uint8 RGB (H, W, 3), brightfield or fluorescence, or one channel (H, W).
        moving_channel: (H, W), any depth; nuclei bright, or dark on bright.

    Raises:
        InputError: a shape is wrong, or an image has no side of SMALLEST_PX.
    """
    settings = settings or RegistrationSettings()
    _check_size(fixed, "fixed")
    _check_size(moving_channel, "moving")
    fixed_light, moving_light = fixed_signal(fixed), channel_light(moving_channel)
    for light, name in ((fixed_light, "fixed"), (moving_light, "moving")):
        if is_flat(light):
            return _failed(f"The {name} image is all of one grey level.")
    longest = max(*fixed_light.shape, *(settings.scale * side for side in moving_light.shape))
    sizes = [min(1.0, settings.coarse_px / longest)]
    sizes += [min(1.0, 2 * sizes[0]), min(1.0, max(settings.fine_px / longest, 2 * sizes[0]))]
    found = _coarse(fixed_light, moving_light, sizes[0], settings)
    if not found:
        return _failed("The images share no structure.")
    for share, keep in zip(sizes[1:], (5, 1), strict=True):
        climbed = [_climbed(fixed_light, moving_light, one, share, settings) for one in found[:keep]]
        climbed = sorted((one for one in climbed if one), key=lambda one: -one.score)
        if not climbed or climbed[0].score <= 0:
            return _failed("The images share no structure.", found[0].matrix)
        if keep > 1:
            rivals = distinct(climbed, fixed_light.shape, 2, settings.distinct_share)[1:]
            rival = max(0.0, *(one.score / climbed[0].score for one in rivals)) if rivals else 0.0
        found = climbed
    best = found[0]
    return _judged(fixed_light, moving_light, best, rival, sizes[-1], settings)


def _check_size(image: np.ndarray, name: str) -> None:
    if image.ndim not in (2, 3) or min(image.shape[:2]) < SMALLEST_PX:
        raise InputError(
            f"The {name} image has the shape {image.shape}. Both sides need at least {SMALLEST_PX} px."
        )


def _failed(reason: str, matrix: np.ndarray | None = None) -> Registration:
    return Registration(identity_matrix() if matrix is None else matrix, False, (reason,))


def _level(fixed: np.ndarray, moving: np.ndarray, share: float, scale: float) -> _Level:
    """Signals with the same working px per micrometre: a moving px is `scale` fixed px."""
    fixed, of_fixed = _resized(fixed, share)
    moving, of_moving = _resized(moving, share * scale)
    return _Level(band_pass(fixed), band_pass(moving), of_fixed, of_moving)


def _resized(image: np.ndarray, share: float) -> tuple[np.ndarray, np.ndarray]:
    height_px, width_px = image.shape
    size = max(16, round(width_px * share)), max(16, round(height_px * share))
    how = cv2.INTER_AREA if share < 1 else cv2.INTER_LINEAR
    matrix = np.array([[size[0] / width_px, 0, 0], [0, size[1] / height_px, 0]])
    return cv2.resize(image, size, interpolation=how), matrix


def _coarse(
    fixed: np.ndarray, moving: np.ndarray, share: float, settings: RegistrationSettings
) -> list[Candidate]:
    """The best distinct candidates of the grid after their first climb, best first, in image px."""
    level = _level(fixed, moving, share, settings.scale)
    grid = search_grid(level.fixed, level.moving, settings.rotations_deg(), settings.scales(), settings.flips)
    few = distinct(grid, level.fixed.shape, settings.candidates, 2 * settings.distinct_share)
    climbed = [climb(level.fixed, level.moving, one, 30) for one in few]
    kept = [one for one in climbed if one and one.score > 0 and _plausible_scale(one, level, settings)]
    return [level.outward(one) for one in distinct(kept, level.fixed.shape, 5, settings.distinct_share)]


def _plausible_scale(found: Candidate, level: _Level, settings: RegistrationSettings) -> bool:
    scale = scale_of(level.outward(found).matrix) / settings.scale
    limit = (1 + settings.scale_share) * 1.1
    return 1 / limit < scale < limit


def _climbed(
    fixed: np.ndarray, moving: np.ndarray, found: Candidate, share: float, settings: RegistrationSettings
) -> Candidate | None:
    level = _level(fixed, moving, share, scale_of(found.matrix))
    better = climb(level.fixed, level.moving, level.inward(found), 50)
    return level.outward(better) if better and _plausible_scale(better, level, settings) else None


def _judged(
    fixed: np.ndarray,
    moving: np.ndarray,
    best: Candidate,
    rival: float,
    share: float,
    settings: RegistrationSettings,
) -> Registration:
    level = _level(fixed, moving, share, scale_of(best.matrix))
    inner = level.inward(best)
    windows = _windows(level, inner, share)
    plain = _pure_shift(level, inner, settings)
    if plain is not None:
        of_plain = _windows(level, plain, share)
        left_px, left_of_plain_px = typical_shift_px(windows), typical_shift_px(of_plain)
        if None not in (left_px, left_of_plain_px) and left_px > settings.shift_residual * left_of_plain_px:
            inner, windows = plain, of_plain
    matrix = level.outward(inner).matrix
    quality, overlap = agreement_of(level.fixed, level.moving, inner.matrix, inner.sign)
    judged = Registration(
        matrix=matrix,
        accepted=False,
        quality=quality,
        residual_px=typical_shift_px(windows),
        overlap=overlap,
        agreement=share_in_place(windows, settings.in_place_px / share),
        rival=min(rival, 1.0),
        inverted=inner.sign < 0,
        windows=tuple(windows),
        elsewhere=tuple(
            moved_together(level.fixed, level.moving, inner.matrix, inner.sign, 1 / share, windows)
        ),
    )
    reasons = gate(judged, settings)
    return replace(judged, accepted=not reasons, reasons=reasons)


def _windows(level: _Level, found: Candidate, share: float) -> list[Window]:
    return measure_windows(level.fixed, level.moving, found.matrix, found.sign, 1 / share)


def _pure_shift(level: _Level, found: Candidate, settings: RegistrationSettings) -> Candidate | None:
    """The best shift near an affine that hardly turns and correlates hardly better, or None."""
    linear = level.outward(found).matrix[:, :2]
    if np.abs(linear - np.eye(2)).max() > settings.shift_tolerance:
        return None
    height_px, width_px = level.fixed.shape
    middle = np.array([width_px, height_px]) / 2
    plain = level.inward(Candidate(0.0, identity_matrix(), found.sign)).matrix[:, :2]
    shift_px = middle - plain @ move_points(invert(found.matrix), middle)
    start = replace(found, matrix=np.column_stack([plain, shift_px]))
    shifted = climb(level.fixed, level.moving, start, 50, cv2.MOTION_TRANSLATION)
    if shifted is None or shifted.score < (1 - settings.shift_gain) * found.score:
        return None
    return shifted
