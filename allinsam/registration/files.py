"""Two image files in, a transform out: no study needed."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from allinsam.errors import InputError
from allinsam.imaging import check_channel_index, image_header, read_image
from allinsam.registration.estimate import SMALLEST_PX, Registration, estimate
from allinsam.registration.settings import RegistrationSettings
from allinsam.registration.slides import refine_patch
from allinsam.registration.transforms import compose, scale_of, shift_matrix

MOST_CHANNELS = 8
# Where the pixel sizes are unknown: the ratios of common objectives, nearest first.
SCALES = (1.0, 0.5, 2.0, 0.71, 1.41)
SAME_SCALE = 1.1  # two scales closer than this are searched once
BRIGHT_8_BIT = 255.0


def register_files(
    fixed: Path,
    moving: Path,
    channel: int | None = None,
    fixed_um_per_px: float | None = None,
    moving_um_per_px: float | None = None,
    patch_px: int | None = None,
) -> dict[str, Any]:
    """The transform from an IF file to a stained file, px to px, as plain values.

    Pixel sizes come from the arguments, else from the files; where one is unknown, scales from 0.43 to 2.3
    are tried, the likely ones first. Without `channel`, the channel that fits best is taken.

    Args:
        patch_px: of slides: also give each square of the fixed image this size a transform of its own.

    Raises:
        InputError: a file cannot be read, there is no such channel, or `patch_px` is too small.
    """
    fixed, moving = Path(fixed), Path(moving)
    fixed_header, moving_header = image_header(fixed), image_header(moving)
    scales = _scales(
        (fixed_um_per_px, moving_um_per_px),
        (fixed_header.um_per_px, moving_header.um_per_px),
        max(fixed_header.size_hw) / max(moving_header.size_hw),
    )
    image, channels = read_fixed(fixed), read_channels(moving, channel)
    found, index = best_registration(image, channels, scales)
    linear = found.matrix[:, :2]
    patches = (
        {} if patch_px is None else {"patches": register_squares(image, channels[index], found, patch_px)}
    )
    return {
        **found.as_dict(),
        "moving_channel": index,
        "scale": scale_of(found.matrix),
        "rotation_deg": float(np.rad2deg(np.arctan2(-linear[0, 1], linear[1, 1]))),
        "flipped": bool(np.linalg.det(linear) < 0),
        "fixed_size_px": [fixed_header.width_px, fixed_header.height_px],
        "moving_size_px": [moving_header.width_px, moving_header.height_px],
        **patches,
    }


def register_squares(
    fixed: np.ndarray, channel: np.ndarray, base: Registration, patch_px: int
) -> list[dict[str, Any]]:
    """Each whole square of a slide from the slide's transform; none where that was not accepted.

    A square's `matrix` maps moving px to px of the whole fixed image, as the slide's does; boxes too are in
    px of the whole image.
    """
    if patch_px < SMALLEST_PX:
        raise InputError(f"Patches of {patch_px} px are too small. Give at least {SMALLEST_PX} px.")
    if not base.accepted:
        return []
    rows = []
    for y in range(0, fixed.shape[0] - patch_px + 1, patch_px):
        for x in range(0, fixed.shape[1] - patch_px + 1, patch_px):
            square = fixed[y : y + patch_px, x : x + patch_px]
            found = refine_patch(square, (x, y), channel, base.matrix)
            matrix = compose(shift_matrix(x, y), found.matrix)
            box = [x, y, x + patch_px, y + patch_px]
            values = found.as_dict()
            beyond = (np.array(values["elsewhere_xyxy"]).reshape(-1, 4) + [x, y, x, y]).tolist()
            rows.append({"box_xyxy": box, **values, "matrix": matrix.tolist(), "elsewhere_xyxy": beyond})
    return rows


def _scales(
    given: tuple[float | None, float | None], stated: tuple[float | None, float | None], size_ratio: float
) -> list[float]:
    """Fixed px per moving px to try, the likeliest first."""
    for um in given:
        if um is not None and not um > 0:
            raise InputError(f"A pixel size of {um!r} um cannot be used. Give a number above 0.")
    fixed_um, moving_um = (one or other for one, other in zip(given, stated, strict=True))
    likely = [moving_um / fixed_um] if fixed_um and moving_um else []
    # The same field at another magnification has the ratio of the sizes.
    likely += [] if all(given) else [1.0, size_ratio, *SCALES]
    kept: list[float] = []
    for scale in likely:
        if all(max(scale / other, other / scale) > SAME_SCALE for other in kept):
            kept.append(scale)
    return kept


def read_fixed(path: Path) -> np.ndarray:
    """A stained image as uint8 RGB; with other than three channels, the brightest of them in grey."""
    pixels = read_image(path)
    if pixels.ndim == 3 and pixels.shape[2] != 3:
        pixels = pixels.max(axis=2)
    if pixels.dtype != np.uint8:
        top = max(float(np.percentile(pixels, 99.9)), 1.0)
        pixels = np.clip(pixels * (BRIGHT_8_BIT / top), 0, BRIGHT_8_BIT).astype(np.uint8)
    return np.repeat(pixels[..., None], 3, axis=2) if pixels.ndim == 2 else pixels


def read_channels(path: Path, index: int | None) -> dict[int, np.ndarray]:
    """The channel asked for, or every channel that differs from those before it."""
    pixels = read_image(path)
    planes = pixels[..., None] if pixels.ndim == 2 else pixels
    if index is not None:
        check_channel_index(path, index, planes.shape[2])
        return {index: planes[..., index]}
    if planes.shape[2] > MOST_CHANNELS:
        raise InputError(f"{path} has {planes.shape[2]} channels. Name the nuclear one: --moving-channel N.")
    kept: dict[int, np.ndarray] = {}
    for number in range(planes.shape[2]):
        plane = planes[..., number]
        is_flat = plane.min() == plane.max() and number < planes.shape[2] - 1
        if not is_flat and not any(np.array_equal(plane, other) for other in kept.values()):
            kept[number] = plane
    return kept


def best_registration(
    fixed: np.ndarray, channels: dict[int, np.ndarray], scales: Sequence[float]
) -> tuple[Registration, int]:
    """The best registration over channels of the first scale, and way up, at which one is accepted."""
    failed: list[tuple[Registration, int]] = []
    for scale in scales:
        for flip in (False, True):
            settings = RegistrationSettings(scale=scale, flips=(flip,))
            tried = [(estimate(fixed, plane, settings), number) for number, plane in channels.items()]
            accepted = [one for one in tried if one[0].accepted]
            if accepted:
                return max(accepted, key=lambda one: one[0].credit)
            failed += tried
    return max(failed, key=lambda one: one[0].credit)
