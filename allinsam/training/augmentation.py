"""TABLE of nnU-Net's augmentations for 2-D images: each with its own probability, one after the other.

After the published trainer (probabilities and ranges). Colours are changed as z-scores, there as here; what
the dataset's own augmentation does (quarter turns, stain) is in dataset.py.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import cos, radians, sin

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

# Each changes a float image (3, F, F) of z-scores.
Change = Callable[[Tensor, np.random.Generator], Tensor]


@dataclass(frozen=True)
class Augmentation:
    probability: float  # of a frame
    change: Change


def _per_channel(
    image: Tensor, change: Callable[[Tensor], Tensor], share: float, rng: np.random.Generator
) -> Tensor:
    """Change each channel (F, F) with probability `share`."""
    return torch.stack([change(channel) if rng.random() < share else channel for channel in image])


def add_noise(image: Tensor, rng: np.random.Generator) -> Tensor:
    """Gaussian noise of one variance, 0 to 0.1."""
    noise = rng.standard_normal(tuple(image.shape), dtype=np.float32) * rng.uniform(0.0, 0.1) ** 0.5
    return image + torch.from_numpy(noise.astype(np.float32))


def blur(image: Tensor, rng: np.random.Generator) -> Tensor:
    """Gaussian blur, sigma 0.5 to 1 px, of half the channels."""

    def one(channel: Tensor) -> Tensor:
        sigma = rng.uniform(0.5, 1.0)
        kernel = torch.exp(-0.5 * (torch.arange(-4, 5) / sigma) ** 2)
        kernel = kernel / kernel.sum()
        padded = F.pad(channel[None, None], (4, 4, 4, 4), mode="reflect")
        return F.conv2d(F.conv2d(padded, kernel.reshape(1, 1, 1, 9)), kernel.reshape(1, 1, 9, 1))[0, 0]

    return _per_channel(image, one, 0.5, rng)


def scale_brightness(image: Tensor, rng: np.random.Generator) -> Tensor:
    """Each channel times 0.75 to 1.25."""
    return image * torch.from_numpy(rng.uniform(0.75, 1.25, (3, 1, 1)).astype(np.float32))


def change_contrast(image: Tensor, rng: np.random.Generator) -> Tensor:
    """Each channel's distance to its mean times 0.75 to 1.25, kept within the channel's range."""

    def one(channel: Tensor) -> Tensor:
        stretched = (channel - channel.mean()) * rng.uniform(0.75, 1.25) + channel.mean()
        return stretched.clamp(channel.min(), channel.max())

    return _per_channel(image, one, 1.0, rng)


def lower_resolution(image: Tensor, rng: np.random.Generator) -> Tensor:
    """Half the channels reduced to 0.5 to 1 of their size by the nearest pixel, then enlarged again."""

    def one(channel: Tensor) -> Tensor:
        zoom = rng.uniform(0.5, 1.0)
        small = [max(1, round(side * zoom)) for side in channel.shape]
        reduced = F.interpolate(channel[None, None], size=small, mode="nearest-exact")
        return F.interpolate(reduced, size=channel.shape, mode="bicubic")[0, 0]

    return _per_channel(image, one, 0.5, rng)


def change_gamma(image: Tensor, rng: np.random.Generator) -> Tensor:
    """Each channel to the power of 0.7 to 1.5 within its range; its mean and deviation stay."""

    def one(channel: Tensor) -> Tensor:
        gamma = rng.uniform(0.7, 1.0) if rng.random() < 0.5 else rng.uniform(1.0, 1.5)
        low, span = channel.min(), (channel.max() - channel.min()).clamp(min=1e-7)
        bent = ((channel - low) / span) ** gamma * span + low
        deviation = channel.std(correction=0) / bent.std(correction=0).clamp(min=1e-7)
        return (bent - bent.mean()) * deviation + channel.mean()

    return _per_channel(image, one, 1.0, rng)


def change_inverted_gamma(image: Tensor, rng: np.random.Generator) -> Tensor:
    """The same on the negative: bright parts are bent where dark ones were."""
    return -change_gamma(-image, rng)


NNUNET_COLOURS: dict[str, Augmentation] = {
    "noise": Augmentation(0.1, add_noise),
    "blur": Augmentation(0.2, blur),
    "brightness": Augmentation(0.15, scale_brightness),
    "contrast": Augmentation(0.15, change_contrast),
    "low resolution": Augmentation(0.25, lower_resolution),
    "inverted gamma": Augmentation(0.1, change_inverted_gamma),
    "gamma": Augmentation(0.3, change_gamma),
}
ROTATE_PROBABILITY, SCALE_PROBABILITY = 0.2, 0.2
SCALES = (0.7, 1.4)


def nnunet_augment(
    frame: np.ndarray, layers: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """A frame uint8 (F, F, 3) and its layers bool (L, F, F), both turned alike, the frame's colours changed.

    nnU-Net turns a larger patch and cuts the frame out; here what is turned in from outside is mirrored.
    """
    grey, masks = torch.from_numpy(np.ascontiguousarray(frame)).float(), torch.from_numpy(layers.copy())
    mean, std = grey.mean((0, 1)), grey.std((0, 1), correction=0).clamp(min=1.0)
    scores = ((grey - mean) / std).permute(2, 0, 1)
    degrees = rng.uniform(-180.0, 180.0) if rng.random() < ROTATE_PROBABILITY else 0.0
    scale = rng.uniform(*SCALES) if rng.random() < SCALE_PROBABILITY else 1.0
    if degrees or scale != 1.0:
        scores, masks = turn_and_scale(scores, masks, degrees, scale)
    for row in NNUNET_COLOURS.values():
        if rng.random() < row.probability:
            scores = row.change(scores, rng)
    for axis in (1, 2):
        if rng.random() < 0.5:
            scores, masks = scores.flip(axis), masks.flip(axis)
    grey = scores.permute(1, 2, 0) * std + mean
    return grey.round().clamp(0, 255).to(torch.uint8).numpy(), masks.numpy()


def nnunet_frame(
    image: np.ndarray,
    layers: np.ndarray,
    corner_xy: tuple[int, int],
    frame_px: int,
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """`nnunet_augment` of the frame cut from an image (H, W, 3) and its layers (L, H, W)."""
    x, y = corner_xy
    part = slice(y, y + frame_px), slice(x, x + frame_px)
    return nnunet_augment(image[part], layers[:, *part], rng)


def turn_and_scale(image: Tensor, masks: Tensor, degrees: float, scale: float) -> tuple[Tensor, Tensor]:
    """Both about the frame's centre; a scale above 1 shows more tissue, smaller, as in nnU-Net."""
    turn = [[cos(radians(degrees)), -sin(radians(degrees))], [sin(radians(degrees)), cos(radians(degrees))]]
    matrix = torch.tensor([[scale * value for value in row] + [0.0] for row in turn], dtype=torch.float32)
    both = torch.cat([image, masks.float()])[None]
    grid = F.affine_grid(matrix[None], list(both.shape), align_corners=False)
    moved = F.grid_sample(both, grid, mode="bilinear", padding_mode="reflection", align_corners=False)[0]
    return moved[: len(image)], moved[len(image) :] >= 0.5
