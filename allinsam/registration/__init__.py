"""Bring an IF image into the frame of its stained image, and never in silence where that failed."""

from allinsam.registration.estimate import Registration, estimate
from allinsam.registration.settings import RegistrationSettings
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
    warp_to_pas,
)

__all__ = [
    "Registration",
    "RegistrationSettings",
    "centre_matrix",
    "compose",
    "corner_matrix",
    "estimate",
    "grid_error_px",
    "identity_matrix",
    "invert",
    "move_points",
    "nudge",
    "scale_of",
    "warp_to_pas",
]
