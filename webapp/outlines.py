"""Found and reference outlines on a patch: solid in the class's colour, dashed in white, with a dark halo."""

from collections.abc import Sequence

import cv2
import numpy as np

from allinsam.errors import InputError
from allinsam.masks import labels_to_masks, mask_to_polygons

HALO = (16, 16, 24)
REFERENCE = (255, 255, 255)
DASH_PX, GAP_PX = 6.0, 5.0  # of the enlarged picture
FRACTION_BITS = 4


def found_and_reference(
    image_rgb: np.ndarray, found: np.ndarray, reference: np.ndarray, colour: str, scale: int = 2
) -> bytes:
    """PNG of the patch (H, W, 3), enlarged, with the outlines of two label images (H, W)."""
    return outlined_layers(image_rgb, [(found, colour)], [reference], scale)


def outlined_layers(
    image_rgb: np.ndarray,
    found: Sequence[tuple[np.ndarray, str]],
    reference: Sequence[np.ndarray] = (),
    scale: int = 2,
) -> bytes:
    """The same with label images of several classes, each in its colour, and any number of dashed ones."""
    size = (image_rgb.shape[1] * scale, image_rgb.shape[0] * scale)
    picture = cv2.resize(image_rgb, size, interpolation=cv2.INTER_CUBIC)
    layers = [([ring * scale for ring in _rings(one)], True, _rgb(colour)) for one, colour in found]
    dashes = [dash for one in reference for ring in _rings(one) for dash in dashed(ring * scale)]
    for paths, closed, shade in [*layers, (dashes, False, REFERENCE)]:
        # OpenCV's coordinate 0 is the first pixel's centre, ours its edge.
        points = [np.round((path - 0.5) * 2**FRACTION_BITS).astype(np.int32)[:, None] for path in paths]
        cv2.polylines(picture, points, closed, HALO, 4, cv2.LINE_AA, FRACTION_BITS)
        cv2.polylines(picture, points, closed, shade, 2, cv2.LINE_AA, FRACTION_BITS)
    done, encoded = cv2.imencode(".png", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
    if not done:
        raise InputError(f"An image of shape {picture.shape} cannot be written as PNG.")
    return encoded.tobytes()


def dashed(ring: np.ndarray, dash_px: float = DASH_PX, gap_px: float = GAP_PX) -> list[np.ndarray]:
    """A closed outline (n, 2) as dashes, each (m, 2); dash and gap stretch until they come out even."""
    closed = np.concatenate([ring, ring[:1]]).astype(float)
    along = np.concatenate([[0.0], np.hypot(*np.diff(closed, axis=0).T).cumsum()])
    count = max(1, round(along[-1] / (dash_px + gap_px)))
    period = along[-1] / count
    length = period * dash_px / (dash_px + gap_px)
    steps = np.linspace(0.0, length, max(2, int(length) + 1))
    return [
        np.stack([np.interp(k * period + steps, along, closed[:, axis]) for axis in (0, 1)], axis=1)
        for k in range(count)
    ]


def _rings(labels: np.ndarray) -> list[np.ndarray]:
    return [ring for mask in labels_to_masks(labels)[1] for ring in mask_to_polygons(mask)]


def _rgb(colour: str) -> tuple[int, ...]:
    return tuple(int(colour[i : i + 2], 16) for i in (1, 3, 5))
