"""Whole slides: found at about 5x, refined patch by patch, the IF resampled once."""

from dataclasses import replace

import numpy as np

from allinsam.errors import InputError
from allinsam.registration.estimate import Registration, estimate
from allinsam.registration.settings import RegistrationSettings
from allinsam.registration.transforms import compose, invert, move_points, scale_of, shift_matrix, warp_to_pas

# A slide may lie either way round and upside down; its tissue, not its nuclei, is what the grid sees.
# The base only has to bring a patch within reach of its own registration, so half the slide may be torn
# or bent away; each patch then has to pass the gate of patches.
SLIDE_SETTINGS = RegistrationSettings(
    flips=(False, True), coarse_px=224, fine_px=1024, min_agreement=0.4, in_place_px=6.0
)
# Round a patch, the IF is looked at this much further out, px of the patch.
MARGIN_PX = 64.0


def estimate_slide(
    fixed_rgb: np.ndarray,
    moving_channel: np.ndarray,
    fixed_times: float = 1.0,
    moving_times: float = 1.0,
    settings: RegistrationSettings = SLIDE_SETTINGS,
) -> Registration:
    """The transform between two whole slides, from an overview of each (about 2 um per px).

    Args:
        fixed_times: how many full px one px of the overview stands for; `moving_times` likewise.

    Returns:
        A registration whose matrix maps full px of the moving slide to full px of the fixed one.
    """
    for times in (fixed_times, moving_times):
        if not times > 0:
            raise InputError(f"An overview reduced by {times!r} cannot be used. Give a number above 0.")
    found = estimate(fixed_rgb, moving_channel, settings)
    grown = np.diag([fixed_times, fixed_times]) @ found.matrix
    grown[:, :2] /= moving_times
    windows, elsewhere = (
        tuple(
            replace(
                one,
                box_xyxy=tuple(v * fixed_times for v in one.box_xyxy),
                dx_px=one.dx_px * fixed_times,
                dy_px=one.dy_px * fixed_times,
            )
            for one in some
        )
        for some in (found.windows, found.elsewhere)
    )
    residual_px = None if found.residual_px is None else found.residual_px * fixed_times
    return replace(found, matrix=grown, residual_px=residual_px, windows=windows, elsewhere=elsewhere)


def refine_patch(
    patch_rgb: np.ndarray,
    corner_xy: tuple[float, float],
    moving_channel: np.ndarray,
    base: np.ndarray,
    settings: RegistrationSettings | None = None,
) -> Registration:
    """A patch's own transform, started from its slide's, where the whole moving channel (H, W) is at hand.

    Args:
        patch_rgb: (H, W, 3), cut from the fixed slide with its first pixel at `corner_xy`.
        base: 2x3, full px of the moving to full px of the fixed slide.

    Returns:
        As `refine_seen`.
    """
    to_patch = compose(shift_matrix(-corner_xy[0], -corner_xy[1]), base)
    to_seen, size_hw = seen_frame(to_patch, patch_rgb.shape[:2])
    return refine_seen(patch_rgb, warp_to_pas(moving_channel, to_seen, size_hw), to_patch, settings)


def seen_frame(to_patch: np.ndarray, size_hw: tuple[int, int]) -> tuple[np.ndarray, tuple[int, int]]:
    """What `refine_seen` looks at round a patch of this size: moving px -> px of the look, and its size."""
    height_px, width_px = (round(side + 2 * MARGIN_PX) for side in size_hw)
    return compose(shift_matrix(MARGIN_PX, MARGIN_PX), to_patch), (height_px, width_px)


def refine_seen(
    patch_rgb: np.ndarray,
    seen: np.ndarray,
    to_patch: np.ndarray,
    settings: RegistrationSettings | None = None,
) -> Registration:
    """A patch's own transform from a look at the moving channel, so that nobody needs the whole of it.

    Every rotation is searched, though the slide's is nearly right: what else fits as well is what tells a
    torn or empty patch from a good one.

    Args:
        patch_rgb: (H, W, 3), cut from the fixed slide.
        seen: (h, w), the moving channel resampled as `seen_frame` says. A copy to look at: what is shown
            and measured is resampled from the slide, once.
        to_patch: 2x3, moving px to px of the patch by the slide's transform alone.

    Returns:
        A registration whose matrix maps moving px to px of the patch: what `warp_to_pas` takes. One that is
        not accepted has `to_patch`.
    """
    to_seen, _ = seen_frame(to_patch, patch_rgb.shape[:2])
    found = estimate(patch_rgb, seen, settings)
    if found.residual_px is None:
        return replace(found, matrix=to_patch)
    matrix = compose(found.matrix, to_seen)
    far = _far_from(matrix, to_patch, patch_rgb.shape[:2])
    if not found.accepted or far:
        reasons = (*found.reasons, *([far] if far else []))
        return replace(found, accepted=False, reasons=reasons, matrix=to_patch)
    return replace(found, matrix=matrix)


def _far_from(matrix: np.ndarray, expected: np.ndarray, size_hw: tuple[int, int]) -> str:
    """Why a patch's transform contradicts its slide's, or nothing."""
    height_px, width_px = size_hw
    corners = np.array([[x * width_px, y * height_px] for x in (0, 1) for y in (0, 1)])
    moved = move_points(matrix, move_points(invert(expected), corners))
    away_px = float(np.linalg.norm(moved - corners, axis=1).max())
    if away_px <= 1.5 * MARGIN_PX and 0.9 < scale_of(matrix) / scale_of(expected) < 1.1:
        return ""
    return f"The patch lies {away_px:.0f} px from where its slide puts it, more than {1.5 * MARGIN_PX:.0f}."
