"""Losses of the networks trained from scratch: Dice + cross-entropy, and the same on coarser outputs too.

Shapes as in corrective.py: N = a frame and a class, targets soft, `seen` the share of a cell that was
labelled at all. Everything here is a pure function.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from allinsam.sam.adapter import AdapterOutput
from allinsam.training.corrective import adapter_loss, weighted_bce, weighted_dice

# (logits, targets, seen or None) -> (N,)
Loss = Callable[[Tensor, Tensor, Tensor | None], Tensor]


def dice_bce(
    logits: Tensor, targets: Tensor, seen: Tensor | None = None, weight: Tensor | None = None
) -> Tensor:
    """(N,): mean cross-entropy + soft Dice; `weight` (N, h, w) weighs pixels, 1 everywhere if None.

    Dice is per frame and class, as MOCL released it; nnU-Net sums it over the batch first.
    """
    weight = torch.ones_like(targets) if weight is None else weight
    return weighted_bce(logits, targets, weight, seen) + weighted_dice(logits, targets, weight, seen=seen)


def deep_supervised(
    loss: Loss,
    outputs: Sequence[Tensor],
    targets: Tensor,
    weights: Sequence[float],
    seen: Tensor | None = None,
) -> Tensor:
    """(N,): sum of weight x loss over logits (N, h_i, w_i) of falling size, one weight for each.

    Targets (N, h, w) are brought to each size by area; nnU-Net, whose targets are hard, takes the nearest.
    """

    def at(size: Sequence[int], layer: Tensor | None) -> Tensor | None:
        return None if layer is None else F.adaptive_avg_pool2d(layer[:, None], size)[:, 0]

    return sum(
        weight * loss(logits, at(logits.shape[-2:], targets), at(logits.shape[-2:], seen))
        for logits, weight in zip(outputs, weights, strict=True)
    )


def known_loss(
    loss: Loss, output: AdapterOutput, targets: Tensor, known: Tensor, seen: Tensor | None = None
) -> Tensor:
    """(N,): loss of the N pairs that `known` (B, C) names, of coarser outputs too where there are any.

    Logits come in any precision; targets are (B, C, g, g), seen (B, 1, g, g).
    """
    outputs = [logits.float()[known] for logits in (output.logits, *output.coarser)]
    seen = None if seen is None else seen.expand_as(targets)[known]
    return deep_supervised(loss, outputs, targets[known], output.weights, seen)


LOSSES: dict[str, Loss] = {"bce_iou": adapter_loss, "dice_bce": dice_bce}
