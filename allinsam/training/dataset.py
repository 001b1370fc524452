"""Labelled patches -> frames and targets: fixed frames to score on, random ones to learn from."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from allinsam.errors import InputError
from allinsam.inference import pad_to_frame, resize_image
from allinsam.sam.frames import frame_starts

PARTS = ("train", "val")
# Optical density of grey levels: Beer-Lambert, so a factor on it is more or less of the same stain.
LIGHT = 255.0


@dataclass(frozen=True)
class Variety:
    """How far augmentation goes: ranges are drawn from evenly, shares are of the frames."""

    scale: tuple[float, float]  # size of the nuclei, on a log scale
    strength: tuple[float, float]  # amount of stain, on a log scale
    channel: float  # of each colour channel's density beside the others, +-
    hue: float  # standard deviation of how much of each colour's density is seen in the others
    glass: tuple[float, float]  # brightness
    tint: float  # of the light, per channel, +-
    one_stain: float = 0.0  # share: one stain only, of any colour
    contrast: float = 0.0  # share: density raised to a power of 0.8 to 1.25
    noise: float = 0.0  # share: noise of 1 to 8 grey levels
    blur: float = 0.15  # share: out of focus


VARIETIES: dict[str, Variety] = {
    # As the slides of one study differ.
    "study": Variety((0.8, 1.25), (0.75, 1.3), 0.15, 0.06, (0.94, 1.05), 0.03),
    # As slides of several hospitals, organs and scanners do: slower to learn.
    "hospitals": Variety((0.7, 1.4), (0.6, 1.6), 0.25, 0.15, (0.9, 1.08), 0.05, 0.15, 0.3, 0.2),
}


# (image uint8 (H, W, 3), bool layers (n, H, W), corner (x, y) of the frame, its side, rng) -> the frame's
# image and layers, changed. What the frame shows beyond the image is the image's mirror image.
Augment = Callable[
    [np.ndarray, np.ndarray, tuple[int, int], int, np.random.Generator], tuple[np.ndarray, np.ndarray]
]


@dataclass(frozen=True)
class TrainingPatch:
    """One patch and what was labelled on it.

    labels: class name -> bool mask or int32 label image (H, W). A class that is absent was not labelled here
    and teaches nothing; a class that is present and empty is a true negative.
    labelled_xyxy: the only window that was labelled, half-open px; what lies outside is seen, never learnt.
    """

    patch_id: str
    image_rgb: np.ndarray
    labels: dict[str, np.ndarray]
    part: str = "train"
    um_per_px: float | None = None
    labelled_xyxy: tuple[int, int, int, int] | None = None

    def __post_init__(self) -> None:
        image = self.image_rgb
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
            raise InputError(
                f"Patch {self.patch_id!r}: its image is {image.dtype} {image.shape}, not uint8 (H, W, 3)."
            )
        if self.part not in PARTS:
            raise InputError(f"Patch {self.patch_id!r}: unknown part {self.part!r}. Choose one of {PARTS}.")
        for name, labels in self.labels.items():
            if labels.shape != image.shape[:2]:
                raise InputError(
                    f"Patch {self.patch_id!r}: labels of {name!r} are {labels.shape}, the image is "
                    f"{image.shape[:2]}. Give labels on the patch's own pixels."
                )
        x0, y0, x1, y1 = self.window_xyxy
        if not (0 <= x0 < x1 <= image.shape[1] and 0 <= y0 < y1 <= image.shape[0]):
            raise InputError(
                f"Patch {self.patch_id!r}: the labelled window {self.window_xyxy} is empty or reaches out of "
                f"the image of {image.shape[1]}x{image.shape[0]} px. Give x0, y0, x1, y1 inside it."
            )

    @property
    def window_xyxy(self) -> tuple[int, int, int, int]:
        """What was labelled: the window, or all of the image."""
        return self.labelled_xyxy or (0, 0, self.image_rgb.shape[1], self.image_rgb.shape[0])


@dataclass(frozen=True)
class FrameBatch:
    """frames uint8 (B, F, F, 3); targets (B, C, f, f), covered share of each grid cell; known bool (B, C).

    seen: (B, 1, f, f), the share of each cell that lies in what was labelled at all.
    pairs: of frame and class that were labelled, in this process's part of the batch on average.
    """

    frames: Tensor
    targets: Tensor
    known: Tensor
    seen: Tensor
    pairs: float


@dataclass(frozen=True)
class PreparedPatch:
    """A patch at the network's resolution, at least one frame large."""

    image: np.ndarray  # uint8 (H, W, 3)
    masks: np.ndarray  # bool (C, H, W)
    seen: np.ndarray  # bool (H, W): what was labelled
    window: tuple[int, int, int, int]  # x0, y0, x1, y1 of what was labelled, half-open
    known: Tensor  # bool (C,)


def class_names_of(patches: Sequence[TrainingPatch]) -> tuple[str, ...]:
    """Every class labelled on at least one training patch, sorted."""
    names = sorted({name for patch in patches if patch.part == "train" for name in patch.labels})
    if not names:
        raise InputError("No training patch has a labelled class. Put labelled patches in the part 'train'.")
    return tuple(names)


def touching(labels: np.ndarray) -> np.ndarray:
    """Bool (H, W): pixels of a nucleus beside a pixel of another one; a bool mask has one nucleus."""
    if labels.dtype == bool:
        return np.zeros(labels.shape, bool)
    ids = labels.astype(np.float32)  # exact for ids below 2 ** 24, and a type that erosion takes
    window = np.ones((3, 3), np.uint8)
    highest = cv2.dilate(ids, window)
    lowest = cv2.erode(np.where(labels == 0, np.inf, ids).astype(np.float32), window)
    return (labels != 0) & (highest != lowest)


def prepare_patch(
    patch: TrainingPatch,
    class_names: Sequence[str],
    frame_px: int,
    zoom: float = 1.0,
    separate: bool = False,
) -> PreparedPatch:
    """Resize by `zoom` and mirror up to a frame, once, before the loop.

    separate: leave a gap of about 2 px in the masks where two nuclei of a class touch.
    """
    size_hw = patch.image_rgb.shape[:2]
    blank, seen = np.zeros(size_hw, bool), np.zeros(size_hw, bool)
    x0, y0, x1, y1 = patch.window_xyxy
    seen[y0:y1, x0:x1] = True
    masks = []
    for name in class_names:
        labels = patch.labels.get(name, blank)
        masks.append((labels != 0) & ~touching(labels) if separate else labels != 0)
    layers = torch.from_numpy(np.stack([seen, *masks]))
    image = torch.from_numpy(np.array(patch.image_rgb))
    if zoom != 1.0:
        image = resize_image(image, zoom)
        layers = F.interpolate(layers[None].float(), size=image.shape[:2], mode="bilinear")[0] >= 0.5
    grown = [image.shape[1] / size_hw[1], image.shape[0] / size_hw[0]] * 2
    seen, *masks = pad_to_frame(layers.permute(1, 2, 0), frame_px).permute(2, 0, 1).contiguous().numpy()
    return PreparedPatch(
        image=pad_to_frame(image, frame_px).contiguous().numpy(),
        masks=np.stack(masks),
        seen=seen,
        window=tuple(round(value * times) for value, times in zip((x0, y0, x1, y1), grown, strict=True)),
        known=torch.tensor([name in patch.labels for name in class_names]),
    )


def frames_per_epoch(patches: Sequence[PreparedPatch], frame_px: int) -> int:
    """As many frames as cover what was labelled of every patch once."""
    return sum(len(_corners_of(patch, frame_px)) for patch in patches if patch.known.any())


def _corners_of(patch: PreparedPatch, frame_px: int) -> list[tuple[int, int]]:
    """(x, y) of the fewest frames that cover what was labelled."""
    x0, y0, x1, y1 = patch.window
    height, width = patch.image.shape[:2]
    return [
        (min(x0 + x, width - frame_px), min(y0 + y, height - frame_px))
        for y in frame_starts(y1 - y0, frame_px)
        for x in frame_starts(x1 - x0, frame_px)
    ]


def random_batches(
    patches: Sequence[PreparedPatch],
    frame_px: int,
    grid_px: int,
    batch_size: int,
    augment: Augment | None,
    rng: np.random.Generator,
    least_frames: int = 0,
    share: tuple[int, int] = (0, 1),
    fixed: bool = False,
) -> Iterator[FrameBatch]:
    """One epoch: each patch gives as many frames as cover it once, at random positions, in random order.

    Few patches are drawn again until there are `least_frames`. All batches are full. `share` (rank, of how
    many processes): every process draws the same batches and keeps its part of each. fixed: the frames are
    the same in every epoch.
    """
    once = [
        (patch, corner if fixed else None)
        for patch in patches
        for corner in _corners_of(patch, frame_px)
        if patch.known.any()
    ]
    count = math.ceil(max(len(once), least_frames) / batch_size) * batch_size
    order: list[tuple[PreparedPatch, tuple[int, int] | None]] = []
    while len(order) < count:
        order += [once[i] for i in rng.permutation(len(once))]
    rank, processes = share
    for first in range(0, count, batch_size):
        batch = order[first : first + batch_size]
        drawn = [(_draw_frame(patch, corner, frame_px, augment, rng), patch.known) for patch, corner in batch]
        drawn = drawn[rank::processes]
        layers = covered_share(torch.from_numpy(np.stack([layers for (_, layers), _ in drawn])), grid_px)
        yield FrameBatch(
            frames=torch.from_numpy(np.stack([image for (image, _), _ in drawn])),
            targets=layers[:, 1:],
            known=torch.stack([known for _, known in drawn]),
            seen=layers[:, :1],
            pairs=sum(int(patch.known.sum()) for patch, _ in batch) / processes,
        )


def covered_share(masks: Tensor, grid_px: int) -> Tensor:
    """Bool masks (B, C, F, F) -> float (B, C, grid_px, grid_px): the share of each cell they cover."""
    return F.adaptive_avg_pool2d(masks.float(), grid_px)


def _draw_frame(
    patch: PreparedPatch,
    corner_xy: tuple[int, int] | None,
    frame_px: int,
    augment: Augment | None,
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """A frame's image (F, F, 3) uint8, and bool (1 + C, F, F): what was labelled, and a mask per class.

    corner_xy: where it begins; anywhere that holds what was labelled if None.
    """
    height, width = patch.image.shape[:2]
    if corner_xy is None:
        x = _draw_start(patch.window[0], patch.window[2], width, frame_px, rng)
        y = _draw_start(patch.window[1], patch.window[3], height, frame_px, rng)
    else:
        x, y = corner_xy
    layers = np.concatenate([patch.seen[None], patch.masks])
    if augment is not None:
        return augment(patch.image, layers, (x, y), frame_px, rng)
    part = slice(y, y + frame_px), slice(x, x + frame_px)
    return patch.image[part], layers[:, *part]


def _draw_start(low: int, high: int, length: int, frame_px: int, rng: np.random.Generator) -> int:
    """Where a frame begins that holds all of low..high, or lies in it where it is longer than a frame."""
    first, last = sorted((low, high - frame_px))
    last = min(last, length - frame_px)
    return int(rng.integers(min(max(first, 0), last), last + 1))


def augment_frame(
    image: np.ndarray,
    layers: np.ndarray,
    corner_xy: tuple[int, int],
    frame_px: int,
    rng: np.random.Generator,
    variety: Variety = VARIETIES["study"],
) -> tuple[np.ndarray, np.ndarray]:
    """The frame turned by any angle, mirrored, larger or smaller, stained otherwise, at times blurred."""
    turn, times = rng.uniform(0, 2 * np.pi), np.exp(rng.uniform(*np.log(variety.scale)))
    mirror = 1.0 if rng.integers(2) else -1.0
    cosine, sine = np.cos(turn) / times, np.sin(turn) / times
    to_patch = np.array([[mirror * cosine, -sine], [mirror * sine, cosine]])
    middle = (frame_px - 1) / 2
    offset = np.array(corner_xy) + middle - to_patch @ np.array([middle, middle])
    matrix = np.hstack([to_patch, offset[:, None]])

    def warp(layer: np.ndarray) -> np.ndarray:
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        size = (frame_px, frame_px)
        return cv2.warpAffine(layer, matrix, size, flags=flags, borderMode=cv2.BORDER_REFLECT_101)

    layers = np.stack([warp(layer.astype(np.uint8) * 255) >= 128 for layer in layers])
    image = shift_stain(warp(image), rng, variety)
    if rng.random() < variety.blur:
        image = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.5, 1.5))
    return image, layers


def shift_stain(image: np.ndarray, rng: np.random.Generator, variety: Variety) -> np.ndarray:
    """More or less stain per colour channel, of another hue, lighter or darker glass."""
    strength = np.exp(rng.uniform(*np.log(variety.strength)))
    strength = strength * rng.uniform(1 - variety.channel, 1 + variety.channel, 3)
    # A little of each colour's density is seen in the others: stains of another hue.
    mixed = np.diag(strength) + rng.normal(0, variety.hue, (3, 3))
    glass = rng.uniform(*variety.glass) * rng.uniform(1 - variety.tint, 1 + variety.tint, 3)
    density = -np.log((np.arange(256, dtype=np.float32) + 1.0) / (LIGHT + 1.0))[image]
    if rng.random() < variety.one_stain:
        density = density.mean(-1, keepdims=True) * rng.uniform(0.5, 1.5, 3).astype(np.float32)
    if rng.random() < variety.contrast:
        density = density ** rng.uniform(0.8, 1.25)
    transmitted = np.exp(-(density @ mixed.astype(np.float32).T))
    shifted = (transmitted * (LIGHT + 1.0) - 1.0) * glass.astype(np.float32)
    if rng.random() < variety.noise:
        shifted = shifted + rng.normal(0, rng.uniform(1, 8), shifted.shape)
    return shifted.round().clip(0, 255).astype(np.uint8)
