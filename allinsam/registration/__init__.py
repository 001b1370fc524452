"""Bring an IF image into the frame of its stained image, and never in silence where that failed."""

from allinsam.registration.estimate import Registration, estimate
from allinsam.registration.pictures import checkerboard
from allinsam.registration.settings import RegistrationSettings
from allinsam.registration.slides import SLIDE_SETTINGS, estimate_slide, refine_patch
from allinsam.registration.transforms import (
    centre_matrix,
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
    "centre_matrix",
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
    "refine_patch",
    "scale_of",
    "shift_matrix",
    "warp_to_pas",
]
