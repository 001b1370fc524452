"""Labelled patches -> frames and targets: fixed frames to score on, random ones to learn from."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

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
class TrainingPatch:
    """One patch and what was labelled on it.

    labels: class name -> bool mask or int32 label image (H, W). A class that is absent was not labelled here
    and teaches nothing; a class that is present and empty is a true negative.
    """

    patch_id: str
    image_rgb: np.ndarray
    labels: dict[str, np.ndarray]
    part: str = "train"
    um_per_px: float | None = None

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


@dataclass(frozen=True)
class FrameBatch:
    """frames uint8 (B, F, F, 3); targets (B, C, f, f), covered share of each grid cell; known bool (B, C)."""

    frames: Tensor
    targets: Tensor
    known: Tensor


@dataclass(frozen=True)
class PreparedPatch:
    """A patch at the network's resolution, at least one frame large."""

    image: Tensor  # uint8 (H, W, 3)
    masks: Tensor  # bool (C, H, W)
    known: Tensor  # bool (C,)


def class_names_of(patches: Sequence[TrainingPatch]) -> tuple[str, ...]:
    """Every class labelled on at least one training patch, sorted."""
    names = sorted({name for patch in patches if patch.part == "train" for name in patch.labels})
    if not names:
        raise InputError("No training patch has a labelled class. Put labelled patches in the part 'train'.")
    return tuple(names)


def prepare_patch(
    patch: TrainingPatch, class_names: Sequence[str], frame_px: int, zoom: float = 1.0
) -> PreparedPatch:
    """Resize by `zoom` and mirror up to a frame, once, before the loop."""
    blank = np.zeros(patch.image_rgb.shape[:2], bool)
    masks = torch.from_numpy(np.stack([patch.labels.get(name, blank) != 0 for name in class_names]))
    image = torch.from_numpy(np.ascontiguousarray(patch.image_rgb))
    if zoom != 1.0:
        image = resize_image(image, zoom)
        masks = F.interpolate(masks[None].float(), size=image.shape[:2], mode="bilinear")[0] >= 0.5
    return PreparedPatch(
        image=pad_to_frame(image, frame_px),
        masks=pad_to_frame(masks.permute(1, 2, 0), frame_px).permute(2, 0, 1).contiguous(),
        known=torch.tensor([name in patch.labels for name in class_names]),
    )


def frames_per_epoch(patches: Sequence[PreparedPatch], frame_px: int) -> int:
    """As many frames as cover every patch once."""
    return sum(
        len(frame_starts(patch.image.shape[0], frame_px)) * len(frame_starts(patch.image.shape[1], frame_px))
        for patch in patches
    )


def random_batches(
    patches: Sequence[PreparedPatch],
    frame_px: int,
    grid_px: int,
    batch_size: int,
    augment: bool,
    rng: np.random.Generator,
) -> Iterator[FrameBatch]:
    """One epoch: each patch gives as many frames as cover it once, at random positions, in random order."""
    order = [
        patch for patch in patches for _ in range(frames_per_epoch([patch], frame_px)) if patch.known.any()
    ]
    rng.shuffle(order)
    for first in range(0, len(order), batch_size):
        drawn = [_draw_frame(patch, frame_px, augment, rng) for patch in order[first : first + batch_size]]
        yield FrameBatch(
            frames=torch.stack([image for image, _ in drawn]),
            targets=covered_share(torch.stack([masks for _, masks in drawn]), grid_px),
            known=torch.stack([patch.known for patch in order[first : first + batch_size]]),
        )


def covered_share(masks: Tensor, grid_px: int) -> Tensor:
    """Bool masks (B, C, F, F) -> float (B, C, grid_px, grid_px): the share of each cell they cover."""
    return F.adaptive_avg_pool2d(masks.float(), grid_px)


def _draw_frame(
    patch: PreparedPatch, frame_px: int, augment: bool, rng: np.random.Generator
) -> tuple[Tensor, Tensor]:
    y, x = (int(rng.integers(0, side - frame_px + 1)) for side in patch.image.shape[:2])
    image = patch.image[y : y + frame_px, x : x + frame_px]
    masks = patch.masks[:, y : y + frame_px, x : x + frame_px]
    if not augment:
        return image, masks
    turns, mirrored = int(rng.integers(4)), bool(rng.integers(2))
    image, masks = torch.rot90(image, turns, (0, 1)), torch.rot90(masks, turns, (1, 2))
    if mirrored:
        image, masks = image.flip(1), masks.flip(2)
    return shift_stain(image, rng), masks


def shift_stain(image: Tensor, rng: np.random.Generator) -> Tensor:
    """More or less stain per colour channel, lighter or darker glass: what differs between two slides."""
    strength = rng.uniform(0.85, 1.15) * rng.uniform(0.93, 1.07, 3)
    glass = rng.uniform(0.96, 1.04) * rng.uniform(0.98, 1.02, 3)
    density = -torch.log((image.float() + 1.0) / (LIGHT + 1.0))
    shifted = torch.exp(-density * torch.tensor(strength, dtype=torch.float32)) * (LIGHT + 1.0) - 1.0
    return (shifted * torch.tensor(glass, dtype=torch.float32)).round().clamp(0, 255).to(torch.uint8)
