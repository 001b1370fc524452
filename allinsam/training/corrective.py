"""Molecular-oriented corrective learning (MOCL): a loss that trusts a label where network and features agree.

Labels of lay annotators hold wrong pixels. Inside the annotation each pixel is weighted by the network's own
confidence W (Eq. 1) and by the similarity S of its features to the most confident annotated pixels (Eqs. 2
and 3); outside it the weight is 1. Equations are those of Deng 2023 and Li 2025: mode "average" is the loss
they released, "product" is Eq. 5 as printed.

Shapes: N = a frame and a class, h x w = the decoder's grid, M = channels of the decoder's upscaled features.
Logits, targets and weights are (N, h, w), features (N, M, h, w). Targets are soft: the share of the grid cell
that the annotation covers. Everything here is a pure function.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

EPSILON = 1e-6


@dataclass(frozen=True)
class CorrectiveSettings:
    """How labels are corrected. Defaults are those of the authors' released loss."""

    mode: str = "average"  # "average" (released code) or "product" (Eq. 5 of the paper)
    k: int = 100  # most confident annotated pixels of the prototype, in native pixels (released code)
    base: float = (
        1.5  # confidence weight = base ** W; the released code has 1.5, Eq. 4 has e ("product" uses e)
    )
    dice_weights_denominator: bool = False  # False: weights enter Dice's numerator only (released code)


def grid_k(k: int, stride_px: float) -> int:
    """`k` native pixels as cells of a grid whose cells are `stride_px` wide."""
    return max(1, round(k / stride_px**2))


def annotated_cells(coverage: Tensor) -> Tensor:
    """Bool (N, h, w): cells at least half covered; where that leaves none, every cell touched at all."""
    cells = coverage >= 0.5
    lost = ~cells.flatten(1).any(dim=1)
    return torch.where(lost[:, None, None], coverage > 0, cells)


def similarity(features: Tensor, confidence: Tensor, annotated: Tensor, k: int) -> Tensor:
    """S (N, h, w): cosine to the mean of the k most confident annotated cells, per image scaled to [0, 1].

    Fewer than k annotated cells: all of them. None at all: 1 everywhere.
    """
    n, channels = features.shape[:2]
    flat = features.detach().reshape(n, channels, -1)
    inside = annotated.reshape(n, -1)
    ranked = confidence.detach().reshape(n, -1).masked_fill(~inside, -1.0)
    top = ranked.topk(min(k, ranked.shape[1]), dim=1)
    used = (top.values >= 0).to(flat.dtype)
    chosen = flat.gather(2, top.indices[:, None].expand(-1, channels, -1))
    prototype = (chosen * used[:, None]).sum(2) / used.sum(1).clamp(min=1)[:, None]
    cosine = F.cosine_similarity(flat, prototype[:, :, None], dim=1, eps=1e-8)
    low, high = cosine.amin(1, keepdim=True), cosine.amax(1, keepdim=True)
    scaled = (cosine - low) / (high - low).clamp(min=EPSILON)
    flat_or_empty = (high - low <= EPSILON) | ~inside.any(dim=1, keepdim=True)
    return torch.where(flat_or_empty, torch.ones_like(scaled), scaled).reshape(confidence.shape)


def weighted_bce(logits: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
    """(N,): mean over the grid of weight x binary cross-entropy, not divided by the sum of weights."""
    losses = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    return (weights * losses).flatten(1).mean(1)


def weighted_dice(
    logits: Tensor, targets: Tensor, weights: Tensor, weigh_denominator: bool = False
) -> Tensor:
    """(N,): 1 - 2 sum(w p y) / (sum p + sum y + 1), as released; `weigh_denominator` keeps it in [0, 1]."""
    probability = logits.sigmoid()
    overlap = (weights * probability * targets).flatten(1).sum(1)
    sizes = (probability + targets) * (weights if weigh_denominator else 1.0)
    return 1.0 - 2.0 * overlap / (sizes.flatten(1).sum(1) + 1.0)


def average_loss(
    logits: Tensor, targets: Tensor, confidence: Tensor, alike: Tensor, settings: CorrectiveSettings
) -> Tensor:
    """(N,): half the loss weighted by base ** W plus half that weighted by S, both inside the annotation."""
    annotated = annotated_cells(targets)
    by_confidence = torch.where(annotated, settings.base**confidence, 1.0)
    by_similarity = torch.where(annotated, alike, 1.0)
    return 0.5 * sum(
        weighted_bce(logits, targets, weights)
        + weighted_dice(logits, targets, weights, settings.dice_weights_denominator)
        for weights in (by_confidence, by_similarity)
    )


def product_loss(
    logits: Tensor, targets: Tensor, confidence: Tensor, alike: Tensor, settings: CorrectiveSettings
) -> Tensor:
    """(N,): one loss weighted by exp(W) S inside the annotation (Eqs. 4, 5), 1 outside."""
    weights = torch.where(annotated_cells(targets), confidence.exp() * alike, 1.0)
    return weighted_bce(logits, targets, weights) + weighted_dice(
        logits, targets, weights, settings.dice_weights_denominator
    )


MOCL_MODES: dict[str, Callable[[Tensor, Tensor, Tensor, Tensor, CorrectiveSettings], Tensor]] = {
    "average": average_loss,
    "product": product_loss,
}


def corrective_loss(
    logits: Tensor, features: Tensor, targets: Tensor, stride_px: float, settings: CorrectiveSettings
) -> Tensor:
    """(N,): corrective loss of each frame and class. An empty target has weight 1 everywhere.

    No gradient flows through the weights: through S the network could lower its loss by making the
    nuclei's features unlike each other.
    """
    annotated = annotated_cells(targets)
    confidence = logits.detach().sigmoid()
    alike = similarity(features, confidence, annotated, grid_k(settings.k, stride_px))
    return MOCL_MODES[settings.mode](logits, targets, confidence, alike, settings)


def adapter_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """(N,): the adapter stage's mean cross-entropy + soft IoU; an empty target has cross-entropy only."""
    plain = weighted_bce(logits, targets, torch.ones_like(targets))
    probability = logits.sigmoid()
    overlap = (probability * targets).flatten(1).sum(1)
    union = (probability + targets).flatten(1).sum(1) - overlap
    present = targets.flatten(1).any(dim=1).to(plain.dtype)
    return plain + present * (1.0 - (overlap + EPSILON) / (union + EPSILON))
