"""The gate: whether a registration may be believed. A failed one looks like any other matrix."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import cv2
import numpy as np

from allinsam.registration.search import seen_mask
from allinsam.registration.settings import RegistrationSettings
from allinsam.registration.transforms import centre_matrix

if TYPE_CHECKING:
    from allinsam.registration.estimate import Registration

# In working px; nuclei are about 13 px wide there.
REACH_PX = 10  # to which a window looks for a better place
FAR_PX = 64  # to which one looks that found none: the widest tear that is seen as one
TOGETHER_PX = 4.0  # by which neighbours beyond a tear differ
WINDOWS_ACROSS = 5


@dataclass(frozen=True)
class Window:
    """A part of the fixed image and the shift that would suit it better; all in px of the fixed image."""

    box_xyxy: tuple[float, float, float, float]
    dx_px: float
    dy_px: float
    weight: float  # how much structure the moving image has here

    @property
    def away_px(self) -> float:
        return float(np.hypot(self.dx_px, self.dy_px))


def measure_windows(
    fixed: np.ndarray, moving: np.ndarray, matrix: np.ndarray, sign: int, px: float
) -> list[Window]:
    """Each window's own best shift within REACH_PX, from signals (H, W) of the working size.

    Args:
        px: px of the fixed image per working px.
    """
    warped = cv2.warpAffine(moving, centre_matrix(matrix), fixed.shape[::-1]) * np.float32(sign)
    shared = seen_mask(moving.shape, matrix, fixed.shape)
    side = max(24, max(fixed.shape) // WINDOWS_ACROSS)
    found = []
    for y in _starts(fixed.shape[0], side):
        for x in _starts(fixed.shape[1], side):
            place = slice(y, y + side), slice(x, x + side)
            part = warped[place]
            if part.size == 0 or shared[place].mean() < 0.9 or part.std() < 0.05:
                continue
            dx, dy = _own_shift(fixed, part, (x, y), REACH_PX)
            box = tuple(v * px for v in (x, y, x + side, y + side))
            found.append(Window(box, dx * px, dy * px, float((part**2).sum())))
    return found


def _starts(length: int, side: int) -> list[int]:
    """Where windows begin that lie REACH_PX inside, spread evenly with overlap where they do not fit."""
    room = length - 2 * REACH_PX - side
    if room < 0:
        return []
    count = int(np.ceil(room / side)) + 1
    return [REACH_PX + round(v) for v in np.linspace(0, room, count)]


def _own_shift(
    fixed: np.ndarray, part: np.ndarray, corner_xy: tuple[int, int], reach_px: int
) -> tuple[float, float]:
    """The shift within reach that brings a part of the moving image into its place, to a part of a px."""
    x, y = corner_xy
    x0, y0 = max(0, x - reach_px), max(0, y - reach_px)
    around = fixed[y0 : y + part.shape[0] + reach_px, x0 : x + part.shape[1] + reach_px]
    surface = cv2.matchTemplate(around, part, cv2.TM_CCOEFF_NORMED)
    row, column = np.unravel_index(int(surface.argmax()), surface.shape)
    row_part = _vertex(surface[max(0, row - 1) : row + 2, column])
    column_part = _vertex(surface[row, max(0, column - 1) : column + 2])
    return column + column_part + x0 - x, row + row_part + y0 - y


def _vertex(three: np.ndarray) -> float:
    if len(three) < 3:
        return 0.0
    before, at, after = (float(v) for v in three)
    bend = before - 2 * at + after
    return 0.0 if bend >= 0 else float(np.clip(0.5 * (before - after) / bend, -0.5, 0.5))


def typical_shift_px(windows: list[Window]) -> float | None:
    """Median distance in fixed px by which windows would rather be moved; None without windows."""
    return float(np.median([window.away_px for window in windows])) if windows else None


def share_in_place(windows: list[Window], limit_px: float) -> float:
    """Share of the structure whose windows differ by at most `limit_px` fixed px, 0..1."""
    total = sum(window.weight for window in windows)
    if not total:
        return 0.0
    return sum(window.weight for window in windows if window.away_px <= limit_px) / total


def moved_together(
    fixed: np.ndarray, moving: np.ndarray, matrix: np.ndarray, sign: int, px: float, windows: list[Window]
) -> list[Window]:
    """Neighbouring windows that fit elsewhere, by the same shift: beyond a tear or a fold.

    A window without a place of its own finds a random one; two such neighbours agree to TOGETHER_PX once in
    some hundred times.
    """
    warped = cv2.warpAffine(moving, centre_matrix(matrix), fixed.shape[::-1]) * np.float32(sign)
    usual = float(np.median([window.weight for window in windows])) if windows else 0.0
    found = []
    for window in windows:
        if window.away_px <= TOGETHER_PX * px or window.weight < 0.5 * usual:
            continue
        x0, y0, x1, y1 = (round(v / px) for v in window.box_xyxy)
        dx, dy = _own_shift(fixed, warped[y0:y1, x0:x1], (x0, y0), FAR_PX)
        if np.hypot(dx, dy) > 2 * TOGETHER_PX:
            found.append(replace(window, dx_px=dx * px, dy_px=dy * px))
    return [one for one in found if any(_goes_with(one, other, TOGETHER_PX * px) for other in found)]


def _goes_with(one: Window, other: Window, limit_px: float) -> bool:
    (x0, y0, x1, _), (other_x, other_y, _, _) = one.box_xyxy, other.box_xyxy
    apart = abs(x0 - other_x) + abs(y0 - other_y)
    same_way = np.hypot(one.dx_px - other.dx_px, one.dy_px - other.dy_px) <= limit_px
    return one is not other and apart <= 1.3 * (x1 - x0) and bool(same_way)


def stretch_of(matrix: np.ndarray) -> float:
    """Longer over shorter axis of what a circle becomes."""
    longer, shorter = np.linalg.svd(matrix[:, :2], compute_uv=False)
    return float(longer / max(shorter, 1e-9))


def gate(judged: "Registration", settings: RegistrationSettings) -> tuple[str, ...]:
    """Why a registration may not be believed, one sentence each; empty where it may."""
    windows, stretch = len(judged.windows), stretch_of(judged.matrix)
    checks = (
        (
            judged.quality < settings.min_quality,
            f"The images hardly correlate: {judged.quality:.2f}, at least {settings.min_quality:.2f} needed.",
        ),
        (
            judged.overlap < settings.min_overlap,
            f"The images share {judged.overlap:.0%} of the smaller one's area, "
            f"at least {settings.min_overlap:.0%} needed.",
        ),
        (
            judged.rival > settings.max_rival,
            f"Another transform fits nearly as well: {judged.rival:.2f} of this one's score, "
            f"at most {settings.max_rival:.2f} allowed.",
        ),
        (
            windows < settings.min_windows,
            f"Only {windows} parts have structure to compare, at least {settings.min_windows} needed.",
        ),
        (
            judged.agreement < settings.min_agreement,
            f"Parts disagree: {judged.agreement:.0%} of the structure stays in place, "
            f"at least {settings.min_agreement:.0%} needed.",
        ),
        (
            bool(judged.elsewhere),
            f"{len(judged.elsewhere)} neighbouring parts belong elsewhere together: a tear or a fold.",
        ),
        (
            stretch > settings.max_stretch,
            f"The transform stretches by {stretch:.2f}, at most {settings.max_stretch:.2f} is believed.",
        ),
    )
    return tuple(sentence for failed, sentence in checks if failed)
