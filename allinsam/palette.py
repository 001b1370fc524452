"""Colours of classes that every pair of eyes can tell apart, on tissue and from each other. Pure."""

import re
from collections.abc import Mapping

import numpy as np
from skimage.color import rgb2lab

from allinsam.errors import InputError

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
HALO = (16, 16, 24)  # the dark edge of every line
# Colours that differ enough from each other in all eyes; no fifth does.
CLEAR_COLOURS = ("#F0E442", "#56B4E9", "#961EFF", "#964B0F")
APART, SHOWN = 40.0, 25.0  # distances in CIE Lab


def as_rgb(colour: str) -> tuple[int, int, int]:
    """`#F0E442` as three numbers. InputError for anything else."""
    if not re.fullmatch("#[0-9a-fA-F]{6}", colour):
        raise InputError(f"{colour[:20]!r} is no colour. Give # and six digits or letters a to f.")
    return int(colour[1:3], 16), int(colour[3:5], 16), int(colour[5:], 16)


def seen(colours: np.ndarray, eyes: str) -> np.ndarray:
    """sRGB 0 to 255 (n, 3) as these eyes see it, in CIE Lab."""
    share = np.asarray(colours, float).reshape(-1, 3) / 255
    linear = np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)
    linear = np.clip(linear @ np.asarray(EYES[eyes]).T, 0, 1)
    return rgb2lab(np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055))


def least_distance(a: tuple[int, int, int], b: tuple[int, int, int]) -> float:
    """How far two colours are apart, in CIE Lab, for the eyes that tell them apart worst."""
    return min(float(np.linalg.norm(seen(np.array(a), eyes) - seen(np.array(b), eyes))) for eyes in EYES)


def colour_doubts(colour: str, others: Mapping[str, str]) -> list[str]:
    """What speaks against a class's colour, in words. others: class -> its colour."""
    mine = as_rgb(colour)
    found = [
        f"Some people cannot tell it from the colour of {name}."
        for name, other in others.items()
        if least_distance(mine, as_rgb(other)) <= APART
    ]
    if least_distance(mine, HALO) <= SHOWN:
        found.append("It is nearly as dark as the edge of the lines: they would not show on tissue.")
    return found
