"""nnU-Net as a baseline: MONAI's DynUNet, planned by the published rules for 2-D images (Isensee 2021).

Taken over: patch size, depth, widths, batch size, deep supervision, optimizer and schedule (its row of
NETWORKS), and its augmentation (augmentation.py). Not taken over, since networks are compared on the same
data and loop here: five folds and their ensemble, 1000 epochs of 250 steps, a third of all patches drawn
about foreground, and mirrored copies at test time.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any

import torch
from torch import Tensor, nn

from allinsam.errors import InputError
from allinsam.sam.adapter import AdapterOutput, check_classes
from allinsam.training.networks import pack_state, restore_state

FIRST_WIDTH, LARGEST_WIDTH = 32, 512
KERNEL = 3
SMALLEST_MAP_PX = 4  # a map is halved as long as no side falls below this
SMALLEST_BATCH = 2
BATCH_SHARE = 0.05  # of the training pixels, at most, in one batch
LARGEST_START_PX = 2048
SMALLEST_PATCH_PX = 4 * SMALLEST_MAP_PX  # DynUNet has at least two halvings
# Budgets count the values of all feature maps of one batch. GPU: nnU-Net's own, 12 frames of 512 px in 8 GB.
GPU_BUDGET = 12 * 85_000_000
# Ours: a batch of 2 frames of 256 px, a few seconds a step on two cores.
CPU_BUDGET = 2 * 21_000_000


@dataclass(frozen=True)
class NnUNetPlan:
    """What nnU-Net decides before training."""

    patch_px: int  # side of the square frame
    batch_size: int
    strides: tuple[int, ...]  # of each stage, the same along both axes
    filters: tuple[int, ...]  # channels of each stage
    deep_supervision: tuple[float, ...]  # weight of each supervised output, finest first; sum 1

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "NnUNetPlan":
        """A plan from plain data, as `dataclasses.asdict` and JSON give it."""
        plain = {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}
        return cls(**plain)


def plan(median_size_hw: tuple[int, int], n_images: int, feature_budget: float = CPU_BUDGET) -> NnUNetPlan:
    """Plan by the median size of the training images, their number, and the memory for a batch.

    nnU-Net's patch has the images' aspect ratio; frames are square here, so the shorter side counts. It is
    made a multiple of the network's stride, then smaller until a batch of two is within the budget; what a
    small patch leaves of the budget makes the batch larger.
    """
    if min(median_size_hw) < 1 or n_images < 1:
        raise InputError(f"There is nothing to plan by: {n_images!r} images of {median_size_hw!r} px.")
    patch_px = _divisible(max(SMALLEST_PATCH_PX, min(*median_size_hw, LARGEST_START_PX)))
    while SMALLEST_BATCH * feature_values(patch_px) > feature_budget and patch_px > SMALLEST_PATCH_PX:
        # The stride of the next smaller depth: a patch of 512 px is followed by 448, not by 384.
        smaller = patch_px - 2 ** halvings(patch_px)
        patch_px = _divisible(patch_px - 2 ** halvings(max(smaller, SMALLEST_PATCH_PX)))
    fitting = round(feature_budget / feature_values(patch_px))
    share = round(BATCH_SHARE * n_images * median_size_hw[0] * median_size_hw[1] / patch_px**2)
    depth = halvings(patch_px)
    return NnUNetPlan(
        patch_px=patch_px,
        batch_size=max(SMALLEST_BATCH, min(fitting, share)),
        strides=(1, *[2] * depth),
        filters=_widths(depth),
        deep_supervision=supervision_weights(depth),
    )


def halvings(patch_px: int) -> int:
    """How often a map of this side is halved, an odd side rounded up."""
    count = 0
    while patch_px >= 2 * SMALLEST_MAP_PX:
        patch_px, count = ceil(patch_px / 2), count + 1
    return count


def _divisible(patch_px: int) -> int:
    """The side enlarged until each halving leaves whole pixels."""
    stride = 2 ** halvings(patch_px)
    return ceil(patch_px / stride) * stride


def _widths(depth: int) -> tuple[int, ...]:
    return tuple(min(LARGEST_WIDTH, FIRST_WIDTH * 2**level) for level in range(depth + 1))


def feature_values(patch_px: int) -> int:
    """Values in all feature maps of one frame, nnU-Net's measure of memory, without the outputs.

    Each level has two convolutions down; all but the deepest have two up and a transposed one.
    """
    depth = halvings(patch_px)
    return sum(
        (2 if level == depth else 5) * width * (patch_px // 2**level) ** 2
        for level, width in enumerate(_widths(depth))
    )


def supervision_weights(depth: int) -> tuple[float, ...]:
    """1, 1/2, 1/4, ... over all decoder levels but the deepest, divided by their sum."""
    raw = [0.5**level for level in range(max(1, depth - 1))]
    return tuple(weight / sum(raw) for weight in raw)


class PlannedUNet(nn.Module):
    """DynUNet after a plan. Each class has a sigmoid of its own, as in nnU-Net's region-based training.

    A softmax would need every pixel's one true class, but not every class is labelled on every patch.
    """

    def __init__(
        self,
        class_names: Sequence[str],
        plan: NnUNetPlan,
        channel_mean: Sequence[float],
        channel_std: Sequence[float],
        um_per_px: float | None = None,
    ) -> None:
        """`channel_mean` and `channel_std` are the training patches' grey levels, 0..255."""
        super().__init__()
        # Slow to import, and only this network needs it.
        from monai.networks.nets.dynunet import DynUNet

        self.class_names = check_classes(class_names)
        self.plan = plan
        self.frame_px = self.grid_px = plan.patch_px
        self.whole_patch, self.um_per_px = False, um_per_px
        coarser = len(plan.deep_supervision) - 1
        self.unet = DynUNet(
            spatial_dims=2,
            in_channels=3,
            out_channels=len(self.class_names),
            kernel_size=[KERNEL] * len(plan.strides),
            strides=plan.strides,
            upsample_kernel_size=plan.strides[1:],
            filters=plan.filters,
            deep_supervision=coarser > 0,
            deep_supr_num=max(1, coarser),
        )
        self.register_buffer("channel_mean", torch.tensor(channel_mean, dtype=torch.float32)[:, None, None])
        self.register_buffer("channel_std", torch.tensor(channel_std, dtype=torch.float32)[:, None, None])

    def normalise(self, frames_rgb: Tensor) -> Tensor:
        """uint8 (B, F, F, 3) -> float32 (B, 3, F, F), z-scores by the training patches' mean and deviation.

        nnU-Net takes each image's own; a frame is not an image, and its own would change with its content.
        """
        frames = frames_rgb.to(self.channel_mean.device).permute(0, 3, 1, 2).float()
        return (frames - self.channel_mean) / self.channel_std.clamp(min=1.0)

    def forward(self, frames: Tensor) -> AdapterOutput:
        """Logits and features (B, 32, F, F) of the last decoder level; in training mode coarser logits."""
        embedding = self.unet.skip_layers(frames)
        logits = self.unet.output_block(embedding)
        heads = self.unet.heads
        supervised = self.training and self.unet.deep_supervision
        coarser = tuple(heads) if supervised else ()
        # DynUNet leaves the coarser outputs in this list, which would keep the batch's whole graph alive.
        heads[:] = [torch.empty(0)] * len(heads)
        weights = self.plan.deep_supervision if supervised else (1.0,)
        return AdapterOutput(logits, embedding, coarser, weights)

    def trainable_parameters(self) -> dict[str, nn.Parameter]:
        """Name -> parameter: all of them learn."""
        return dict(self.named_parameters())

    def trained_state(self) -> dict[str, Tensor]:
        """All weights, the colours' statistics and the class names."""
        return pack_state(self._kept(), self.class_names)

    def load_trained_state(self, state: dict[str, Tensor]) -> None:
        """Put `trained_state` back; ModelError for other classes or tensors."""
        restore_state(self._kept(), state, self.class_names)

    def _kept(self) -> dict[str, Tensor]:
        return {**self.trainable_parameters(), **dict(self.named_buffers())}
