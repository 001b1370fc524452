"""What a stained image and an IF channel have in common: where nuclei are."""

import cv2
import numpy as np

from allinsam.errors import InputError

# Optical density is cut here: pen marks and folds are darker than any stained nucleus.
DARKEST_OD = 1.5
DARK_GROUND = 60  # 8-bit level: the ground of a brightfield image is brighter, of a fluorescence one darker
# Grey levels outside these percentiles are dust and dead pixels.
DIM, BRIGHT = 0.5, 99.8
# Nuclei of a patch lie between these widths, px of the working image (Gaussian sigmas of a band pass).
FINE_SIGMA_PX, COARSE_SIGMA_PX = 0.8, 9.0


def stain_density(image: np.ndarray) -> np.ndarray:
    """How strongly a brightfield image (H, W, 3) is stained with hematoxylin: float32 (H, W).

    It is the optical density in red: hematoxylin and DAB absorb it, PAS and eosin let it pass
    (Ruifrok and Johnston 2001, table of stain vectors).
    """
    red = image[..., 0].astype(np.float32)
    glass = max(float(np.percentile(red, 99)), 1.0)
    return np.clip(-np.log10(np.maximum(red, 1) / glass), 0, DARKEST_OD)


def channel_light(channel: np.ndarray) -> np.ndarray:
    """An IF channel of any depth as float32 (H, W) about 0..1, bright cells compressed."""
    if channel.ndim != 2:
        raise InputError(f"An IF channel has two axes, not the shape {channel.shape}. Choose one channel.")
    values = channel.astype(np.float32)
    low, high = (float(v) for v in np.percentile(values, [DIM, BRIGHT]))
    if high <= low:
        low, high = float(values.min()), float(values.max())
    if high <= low:
        return np.zeros_like(values)
    return np.sqrt(np.clip((values - low) / (high - low), 0, 1))


def is_flat(signal: np.ndarray) -> bool:
    """True where there is nothing to register."""
    return float(signal.std()) < 1e-4


def band_pass(signal: np.ndarray, mask: np.ndarray | None = None) -> np.ndarray:
    """Nucleus-sized structure with the local contrast evened out, mean about 0, float32 (H, W).

    Args:
        mask: (H, W) float32, 1 where the image is; beyond it the result is 0.
    """
    if mask is None:
        mask = np.ones(signal.shape, np.float32)
    weight = cv2.GaussianBlur(mask, (0, 0), COARSE_SIGMA_PX, borderType=cv2.BORDER_CONSTANT) + 1e-3
    mean = cv2.GaussianBlur(signal * mask, (0, 0), COARSE_SIGMA_PX, borderType=cv2.BORDER_CONSTANT) / weight
    detail = (cv2.GaussianBlur(signal, (0, 0), FINE_SIGMA_PX) - mean) * mask
    power = cv2.GaussianBlur(detail**2, (0, 0), 2 * COARSE_SIGMA_PX, borderType=cv2.BORDER_CONSTANT)
    weight = cv2.GaussianBlur(mask, (0, 0), 2 * COARSE_SIGMA_PX, borderType=cv2.BORDER_CONSTANT) + 1e-3
    spread = np.sqrt(power / weight)
    # Empty places keep their small noise small.
    overall = float(np.sqrt((detail**2).sum() / max(mask.sum(), 1.0)))
    return np.clip(detail / (spread + 0.5 * overall + 1e-6), -3, 3) * mask


def fixed_signal(image: np.ndarray) -> np.ndarray:
    """Where nuclei are in the fixed image: stain on white, or light on black."""
    if image.ndim == 2:
        return channel_light(image)
    if float(np.median(image)) < DARK_GROUND:
        return channel_light(image.max(axis=2))
    return stain_density(image)
