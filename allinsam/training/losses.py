"""Losses of the networks trained from scratch: Dice + cross-entropy, and the same on coarser outputs too.

Shapes as in corrective.py: N = a frame and a class, targets soft. Everything here is a pure function.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from allinsam.training.corrective import adapter_loss, weighted_bce, weighted_dice


# (logits, targets, seen) (N, h, w) -> (N,); seen is the share of a cell that was labelled at all, None: all.
Loss = Callable[[Tensor, Tensor, Tensor | None], Tensor]


def dice_bce(logits: Tensor, targets: Tensor, seen: Tensor | None = None) -> Tensor:
    """(N,): mean cross-entropy + soft Dice.

    Dice is per frame and class, as MOCL released it; nnU-Net sums it over the batch first.
    """
    ones = torch.ones_like(targets)
    return weighted_bce(logits, targets, ones, seen) + weighted_dice(logits, targets, ones, seen=seen)


def deep_supervised(
    loss: Loss,
    outputs: Sequence[Tensor],
    targets: Tensor,
    weights: Sequence[float],
    seen: Tensor | None = None,
) -> Tensor:
    """(N,): sum of weight x loss over logits (N, h_i, w_i) of falling size, one weight for each.

    Targets and seen (N, h, w) are brought to each size by area; nnU-Net, whose targets are hard, takes the
    nearest.
    """

    def at(size: Sequence[int], cells: Tensor | None) -> Tensor | None:
        return None if cells is None else F.adaptive_avg_pool2d(cells, size)

    total = torch.zeros(len(targets), device=targets.device)
    for logits, weight in zip(outputs, weights, strict=True):
        size = logits.shape[-2:]
        total = total + weight * loss(logits, at(size, targets), at(size, seen))
    return total


LOSSES: dict[str, Loss] = {"bce_iou": adapter_loss, "dice_bce": dice_bce}
