"""Read images from files, whatever wrote them, into the project's conventions."""

from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from allinsam.errors import InputError


def read_image(path: Path) -> np.ndarray:
    """Pixels as stored: (H, W) or (H, W, C), uint8 or uint16."""
    try:
        with Image.open(path) as image:
            image.load()
            pixels = np.asarray(image)
    except FileNotFoundError:
        raise InputError(f"{path} is not there. Check the path.") from None
    except (UnidentifiedImageError, OSError) as error:
        raise InputError(f"{path} cannot be read as an image ({error}). Export it again.") from error
    return pixels.astype(np.uint16) if pixels.dtype == np.int32 else pixels


def read_rgb(path: Path) -> np.ndarray:
    """An image as uint8 RGB (H, W, 3)."""
    pixels = read_image(path)
    if pixels.dtype != np.uint8:
        raise InputError(f"{path} is {pixels.dtype}; a stained image must have 8 bits per colour.")
    if pixels.ndim == 2:
        pixels = np.repeat(pixels[..., None], 3, axis=2)
    return np.ascontiguousarray(pixels[..., :3])


def read_channel(path: Path, index: int = 0) -> np.ndarray:
    """One channel (H, W), uint8 or uint16, grey levels untouched."""
    pixels = read_image(path)
    if pixels.ndim == 2:
        return pixels
    if not 0 <= index < pixels.shape[2]:
        raise InputError(f"{path} has {pixels.shape[2]} channels; there is no channel {index}.")
    return np.ascontiguousarray(pixels[..., index])
