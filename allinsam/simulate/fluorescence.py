"""The IF channels of a simulated patch, in the frame of the fluorescence camera."""

import cv2
import numpy as np

from allinsam.simulate.fields import smooth_noise
from allinsam.simulate.nuclei import DrawnNuclei
from allinsam.simulate.settings import CONDITIONS, MARKER_OF_CLASS, MarkerLook, SlideLook


def draw_channel(
    rng: np.random.Generator,
    look: SlideLook,
    marker: str,
    drawn: DrawnNuclei,
    tissue: np.ndarray,
    matrix: np.ndarray,
) -> np.ndarray:
    """One marker's uint8 channel. `tissue` (H, W) is what autofluoresces; `matrix` maps IF to PAS."""
    own = _nuclear_signal(rng, look, marker, drawn)
    other = sum(_nuclear_signal(rng, look, name, drawn) for name in look.markers if name != marker)
    camera = look.markers[marker]
    glow = camera.autofluorescence * tissue * (1 + 0.25 * smooth_noise(rng, len(tissue), 40))
    light = own + camera.bleed * other
    light = cv2.GaussianBlur(light, (0, 0), camera.sigma_px) + 0.06 * cv2.GaussianBlur(light, (0, 0), 9)
    light += cv2.GaussianBlur(glow.astype(np.float32), (0, 0), 1.5)
    return _expose(rng, camera, _to_if_frame(light, matrix))


def _nuclear_signal(rng: np.random.Generator, look: SlideLook, marker: str, drawn: DrawnNuclei) -> np.ndarray:
    """Light from the nuclei of the marker's class, about 1 in a typical cell."""
    brightness = np.zeros(len(drawn.nuclei) + 1, np.float32)
    spread = look.settings.cell_brightness_spread
    dimmed_share, remaining = CONDITIONS[look.condition].marker_loss.get(marker, (0.0, 1.0))
    for number, nucleus in enumerate(drawn.nuclei, start=1):
        level = np.exp(rng.normal(0, spread)) * (remaining if rng.random() < dimmed_share else 1.0)
        if MARKER_OF_CLASS.get(nucleus.class_name) == marker:
            brightness[number] = level
    speckle = 1 + 0.18 * smooth_noise(rng, len(drawn.labels), 3)
    return brightness[drawn.labels] * speckle


def _to_if_frame(light: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Sample the PAS frame at the place each IF pixel shows."""
    # cv2 counts from pixel centres, `matrix` from pixel corners.
    centred = matrix.copy()
    centred[:, 2] += matrix[:, :2] @ (0.5, 0.5) - 0.5
    size = light.shape[::-1]
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return cv2.warpAffine(light, centred, size, flags=flags, borderMode=cv2.BORDER_REFLECT_101)


def _expose(rng: np.random.Generator, camera: MarkerLook, light: np.ndarray) -> np.ndarray:
    level = camera.offset + camera.gain * light
    noise = rng.standard_normal(level.shape, dtype=np.float32)
    level += noise * np.sqrt(camera.noise**2 + 0.12 * np.maximum(level, 0))
    return np.clip(np.rint(level), 0, 255).astype(np.uint8)
