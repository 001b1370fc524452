"""From a marker's immunofluorescence channel to "the marker is bright here", and how much of a mask that
covers.

Everywhere a threshold t means: bright is `channel > t`. A pathologist sets t per slide and marker; the
automatic ones are a start.
"""

from collections.abc import Callable

import numpy as np
from skimage.filters import threshold_otsu, threshold_triangle

from allinsam.errors import InputError
from allinsam.masks import as_mask


def otsu(channel: np.ndarray) -> float:
    """Otsu's threshold (1979): the split with the greatest variance between the two sides."""
    return float(threshold_otsu(_as_channel(channel)))


def triangle(channel: np.ndarray) -> float:
    """Triangle threshold (Zack 1977): suits few bright pixels on a large dark background.

    Taken on 256 levels: the method looks at single histogram bins, and with one bin for each of 65,536 grey
    values most bins are empty by chance.
    """
    channel = _as_channel(channel)
    shift = max(0, int(channel.max()).bit_length() - 8)
    level = int(threshold_triangle(channel >> shift))
    # The highest grey value of that level, so that above it means exactly: on a higher level.
    return float(((level + 1) << shift) - 1)


def percentile_99(channel: np.ndarray) -> float:
    """The value that 99 % of the pixels do not exceed."""
    return float(np.percentile(_as_channel(channel), 99))


THRESHOLDS: dict[str, Callable[[np.ndarray], float]] = {
    "otsu": otsu,
    "triangle": triangle,
    "percentile_99": percentile_99,
}


def marker_mask(channel: np.ndarray, value: float) -> np.ndarray:
    """Where the channel is brighter than `value` (in the channel's own units), bool (H, W)."""
    if not np.isfinite(value):
        raise InputError(f"A threshold of {value} is not usable. Give a number in the channel's range.")
    return _as_channel(channel) > value


def molecular_support(mask: np.ndarray, marker: np.ndarray) -> float:
    """Share of the mask's pixels that are marker-positive, 0 to 1; an empty mask has none, 0."""
    mask, marker = as_mask(mask), as_mask(marker)
    if mask.shape != marker.shape:
        raise InputError(
            f"Mask {mask.shape} and marker {marker.shape} differ. Register the marker to the patch first."
        )
    area = np.count_nonzero(mask)
    return float(np.count_nonzero(mask & marker) / area) if area else 0.0


def histogram(channel: np.ndarray, bins: int = 256) -> tuple[np.ndarray, np.ndarray]:
    """Counts (bins,) and edges (bins + 1,) from 0 to the smallest power of two above the brightest pixel
    (256 at least).

    The power of two gives each bin a whole number of grey values, so that 12-bit data in uint16 shows no
    comb.
    """
    channel = _as_channel(channel)
    upper = max(256, 1 << int(channel.max()).bit_length())
    return np.histogram(channel, bins=bins, range=(0, upper))


def _as_channel(channel: np.ndarray) -> np.ndarray:
    channel = np.asarray(channel)
    if channel.ndim != 2 or channel.size == 0 or channel.dtype not in (np.uint8, np.uint16):
        raise InputError(
            f"A channel of shape {channel.shape} and type {channel.dtype} is not usable. "
            "Give one grey image (height, width) of uint8 or uint16."
        )
    return channel
