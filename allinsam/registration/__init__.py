"""Bring an IF image into the frame of its stained image, and never in silence where that failed."""

from allinsam.registration.estimate import Registration, estimate
from allinsam.registration.pictures import as_stain, checkerboard, overlay
from allinsam.registration.settings import RegistrationSettings
from allinsam.registration.slides import (
    SLIDE_SETTINGS,
    estimate_slide,
    refine_patch,
    refine_seen,
    seen_frame,
)
from allinsam.registration.transforms import (
    centre_matrix,
    checked_position,
    compose,
    corner_matrix,
    grid_error_px,
    identity_matrix,
    invert,
    move_points,
    nudge,
    scale_of,
    shift_matrix,
    warp_to_pas,
)

__all__ = [
    "SLIDE_SETTINGS",
    "Registration",
    "RegistrationSettings",
    "as_stain",
    "centre_matrix",
    "checked_position",
    "checkerboard",
    "compose",
    "corner_matrix",
    "estimate",
    "estimate_slide",
    "grid_error_px",
    "identity_matrix",
    "invert",
    "move_points",
    "nudge",
    "overlay",
    "refine_patch",
    "refine_seen",
    "scale_of",
    "seen_frame",
    "shift_matrix",
    "warp_to_pas",
]
