"""Outlines stay visible on stained tissue, and the classes apart, also for colour-blind eyes."""

import numpy as np
import pytest
from skimage.color import rgb2lab

from allinsam.imaging import read_rgb
from allinsam.simulate import simulate_patch, simulate_slide
from allinsam.workflow.importing import CLASS_LOOK
from benchmarks.report import shared_data
from webapp.views import HALO, rgb

# Machado, Oliveira and Fernandes 2009, severity 1, for linear RGB.
EYES = {
    "usual": np.eye(3),
    "deuteranopia": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
    "protanopia": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "tritanopia": [
        [1.255528, -0.076749, -0.178779],
        [-0.078411, 0.930809, 0.147602],
        [0.004733, 0.691367, 0.303900],
    ],
}
COLOURS = {name: rgb(look[0]) for name, look in CLASS_LOOK.items()}


def seen(colours: np.ndarray, eyes: str) -> np.ndarray:
    """sRGB 0 to 255 (n, 3) as these eyes see it, in CIE Lab."""
    share = np.asarray(colours, float).reshape(-1, 3) / 255
    linear = np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)
    linear = np.clip(linear @ np.asarray(EYES[eyes]).T, 0, 1)
    return rgb2lab(np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055))


def tissues() -> list[np.ndarray]:
    found = [simulate_patch(simulate_slide(7, 0, "normal"), 0, ("WT1",), 256).pas]
    folder = shared_data() / "kidney_pas"
    found += [read_rgb(path) for path in sorted(folder.glob("*.png")) if "mask" not in path.name][:3]
    return found


@pytest.mark.parametrize("eyes", EYES)
def test_classes_differ_and_every_line_shows_on_tissue(eyes):
    own = {name: seen(np.array(colour), eyes)[0] for name, colour in COLOURS.items()}
    podocyte, mesangial = own["podocyte"], own["mesangial"]
    assert np.linalg.norm(podocyte - mesangial) > 40
    halo = seen(np.array(HALO), eyes)[0]
    for tissue in tissues():
        pixels = seen(tissue.reshape(-1, 3)[::53], eyes)
        for line in own.values():
            # A line shows where its colour or its dark halo stands out.
            stands_out = np.maximum(
                np.linalg.norm(pixels - line, axis=1), np.linalg.norm(pixels - halo, axis=1)
            )
            assert np.quantile(stands_out, 0.01) > 25


def test_a_palette_that_eyes_confuse_would_fail():
    red, green = seen(np.array((200, 60, 60)), "deuteranopia"), seen(np.array((112, 112, 40)), "deuteranopia")
    assert np.linalg.norm(red - green) < 40
