"""Molecular-oriented corrective learning (MOCL): a loss that trusts a label where network and features agree.

Labels of lay annotators hold wrong pixels. Inside the annotation each pixel is weighted by the network's own
confidence W (Eq. 1) and by the similarity S of its features to the most confident annotated pixels (Eqs. 2
and 3); outside it the weight is 1. Equations are those of Deng 2023 and Li 2025: mode "average" is the loss
they released, "product" is Eq. 5 as printed.

Shapes: N = a frame and a class, h x w = the decoder's grid, M = channels of the decoder's upscaled features.
Logits, targets and weights are (N, h, w), features (N, M, h, w). Targets are soft: the share of the grid cell
that the annotation covers. `seen` (N, h, w) is the share of a cell that was labelled at all (default: all of
it); what lies elsewhere teaches nothing. Everything here is a pure function.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor
from torch.nn import functional as F

EPSILON = 1e-6
TYPICAL_KEPT = 0.98  # per batch, of the running mean of weights


@dataclass(frozen=True)
class CorrectiveSettings:
    """How labels are corrected. Defaults are those of the authors' released loss."""

    mode: str = "average"  # "average" (released code), "product" (Eq. 5 of the paper) or "none" (a control)
    k: int = 100  # most confident annotated pixels of the prototype, in native pixels (released code)
    base: float = (
        1.5  # confidence weight = base ** W; the released code has 1.5, Eq. 4 has e ("product" uses e)
    )
    dice_weights_denominator: bool = False  # False: weights enter Dice's numerator only (released code)
    whole_nuclei: bool = False  # True (ours): a nucleus is trusted as a whole, not more in its middle
    relative: bool = False  # True (ours): weights are divided by the class's typical one, so that 1 is usual
    shared: bool = False  # True (ours): what is doubted as one class is less sure to be none of the others


def grid_k(k: int, stride_px: float) -> int:
    """`k` native pixels as cells of a grid whose cells are `stride_px` wide."""
    return max(1, round(k / stride_px**2))


def annotated_cells(coverage: Tensor) -> Tensor:
    """Bool (N, h, w): cells at least half covered; where that leaves none, every cell touched at all."""
    cells = coverage >= 0.5
    lost = ~cells.flatten(1).any(dim=1)
    return torch.where(lost[:, None, None], coverage > 0, cells)


def similarity(
    features: Tensor, confidence: Tensor, annotated: Tensor, k: int, among: Tensor | None = None
) -> Tensor:
    """S (N, h, w): cosine to the mean of the k most confident annotated cells, per image scaled to [0, 1].

    Fewer than k annotated cells: all of them. None at all: 1 everywhere. `among`: bool (N, h, w), the cells
    whose cosines are scaled; all by default.
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
    counted = torch.ones_like(inside) if among is None else among.reshape(n, -1)
    low = cosine.masked_fill(~counted, torch.inf).amin(1, keepdim=True)
    high = cosine.masked_fill(~counted, -torch.inf).amax(1, keepdim=True)
    scaled = ((cosine - low) / (high - low).clamp(min=EPSILON)).clamp(0, 1)
    flat_or_empty = (high - low <= EPSILON) | ~inside.any(dim=1, keepdim=True)
    return torch.where(flat_or_empty, torch.ones_like(scaled), scaled).reshape(confidence.shape)


def weighted_bce(logits: Tensor, targets: Tensor, weights: Tensor, seen: Tensor | None = None) -> Tensor:
    """(N,): mean over the seen grid of weight x binary cross-entropy, not divided by the sum of weights."""
    losses = weights * F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    if seen is None:
        return losses.flatten(1).mean(1)
    return (seen * losses).flatten(1).sum(1) / seen.flatten(1).sum(1).clamp(min=EPSILON)


def weighted_dice(
    logits: Tensor,
    targets: Tensor,
    weights: Tensor,
    weigh_denominator: bool = False,
    seen: Tensor | None = None,
) -> Tensor:
    """(N,): 1 - 2 sum(w p y) / (sum p + sum y + 1), as released; `weigh_denominator` keeps it in [0, 1]."""
    counted = torch.ones_like(targets) if seen is None else seen
    probability = logits.sigmoid()
    overlap = (counted * weights * probability * targets).flatten(1).sum(1)
    sizes = counted * (probability + targets) * (weights if weigh_denominator else 1.0)
    return 1.0 - 2.0 * overlap / (sizes.flatten(1).sum(1) + 1.0)


def average_weights(confidence: Tensor, alike: Tensor, base: float) -> tuple[Tensor, ...]:
    """One weight by confidence, base ** W, and one by similarity, S, each of a loss of its own."""
    return base**confidence, alike


def product_weights(confidence: Tensor, alike: Tensor, base: float) -> tuple[Tensor, ...]:
    """One weight for one loss: exp(W) S (Eqs. 4, 5), whatever the base."""
    return (confidence.exp() * alike,)


def no_weights(confidence: Tensor, alike: Tensor, base: float) -> tuple[Tensor, ...]:
    """The control: the same stage and loss, every cell with weight 1."""
    return (torch.ones_like(confidence),)


# How annotated cells are weighted; the loss is the mean over the weights.
MOCL_MODES: dict[str, Callable[[Tensor, Tensor, float], tuple[Tensor, ...]]] = {
    "average": average_weights,
    "product": product_weights,
    "none": no_weights,
}


def trust_maps(
    logits: Tensor, features: Tensor, targets: Tensor, stride_px: float, k: int, seen: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """W and S (N, h, w) in [0, 1]: how sure the network is, and how alike the most certain nuclei (Eqs. 1-3).

    No gradient flows through them: through S the network could lower its loss by making the nuclei's features
    unlike each other.
    """
    confidence = logits.detach().sigmoid()
    among = None if seen is None else annotated_cells(seen)
    annotated = annotated_cells(targets if seen is None else targets * seen)
    return confidence, similarity(features, confidence, annotated, grid_k(k, stride_px), among)


def by_nucleus(weights: Tensor, annotated: Tensor) -> Tensor:
    """Weights (N, h, w) averaged over each annotated nucleus: cells of `annotated` that touch by a side."""
    if not len(annotated):
        return weights
    apart, last = [], 0  # numbers of their own in every frame, 0 outside
    for one in annotated.cpu().numpy():
        found, count = ndimage.label(one)
        apart.append(np.where(found > 0, found + last, 0))
        last += count
    ids = np.stack(apart)
    numbers = torch.from_numpy(ids).long().to(weights.device).flatten()
    sums = torch.bincount(numbers, weights.flatten().double())
    means = (sums / torch.bincount(numbers).clamp(min=1)).to(weights.dtype)
    return torch.where(annotated, means[numbers].reshape(weights.shape), weights)


class TypicalWeights:
    """What a weight inside a nucleus usually is, by class and term: a running mean to divide by.

    A class that is harder than another one is less sure everywhere; that is no reason to learn it less.
    """

    def __init__(self, n_classes: int, means: Sequence[Sequence[float]] | None = None) -> None:
        """means: as `to_list` gave them."""
        self.n_classes = n_classes
        self.means = None if not means else torch.tensor(means, dtype=torch.float64)

    def to_list(self) -> list[list[float]]:
        """Of each class its terms; NaN for a class without a nucleus so far."""
        return [] if self.means is None else self.means.tolist()

    def follow(
        self,
        weights: Sequence[Tensor],
        annotated: Tensor,
        classes: Tensor,
        add_up: Callable[[Tensor], Tensor] = lambda sums: sums,
    ) -> None:
        """Take in the weights (N, h, w) of a batch, whose rows are of `classes`; `add_up` over processes."""
        sums = torch.zeros(self.n_classes, len(weights) + 1, dtype=torch.float64, device=annotated.device)
        inside = torch.stack([*(one * annotated for one in weights), annotated.to(weights[0].dtype)])
        sums.index_add_(0, classes.to(sums.device), inside.flatten(2).sum(2).T.double())
        sums = add_up(sums).cpu()
        new = sums[:, :-1] / sums[:, -1:]  # NaN where a class has no nucleus
        if self.means is None:
            self.means = new
            return
        followed = TYPICAL_KEPT * self.means + (1 - TYPICAL_KEPT) * new
        known = torch.where(self.means.isnan(), new, self.means)
        self.means = torch.where(followed.isnan(), known, followed)

    def of(self, classes: Tensor) -> Tensor:
        """(N, terms) divisors of rows of these classes, 1 where nothing is known."""
        return self.means[classes.cpu()].nan_to_num(1.0).clamp(min=EPSILON)


def corrective_weights(
    logits: Tensor,
    features: Tensor,
    targets: Tensor,
    stride_px: float,
    settings: CorrectiveSettings,
    seen: Tensor | None = None,
) -> list[Tensor]:
    """A weight (N, h, w) for each term of the mode's loss; only those inside the annotation count."""
    maps = trust_maps(logits, features, targets, stride_px, settings.k, seen)
    weights = list(MOCL_MODES[settings.mode](*maps, settings.base))
    annotated = annotated_cells(targets)
    return [by_nucleus(one, annotated) for one in weights] if settings.whole_nuclei else weights


def trusted_elsewhere(weights: Sequence[Tensor], annotated: Tensor, frame: Tensor) -> Tensor:
    """(N, h, w), 0..1: how far the other classes' labels of the same frame are to be believed.

    A nucleus labelled as one class teaches every other class that it is background. Where its label is
    doubted, weight below 1, that lesson is doubted as much; where a class has a label of its own, it counts.
    frame: (N,), whose rows these are.
    """
    doubted = torch.where(annotated, torch.stack(list(weights)).mean(0).clamp(max=1.0), 1.0)
    row = torch.arange(len(frame), device=frame.device)
    others = [doubted[(frame == of) & (row != number)].prod(0) for number, of in enumerate(frame.tolist())]
    return torch.where(annotated, 1.0, torch.stack(others)) if others else doubted


def corrective_loss(
    logits: Tensor,
    features: Tensor,
    targets: Tensor,
    stride_px: float,
    settings: CorrectiveSettings,
    seen: Tensor | None = None,
    weights: Sequence[Tensor] | None = None,
) -> Tensor:
    """(N,): weighted cross-entropy + Dice of each frame and class; outside the annotation the weight is 1.

    Mode "average" is half the loss weighted by base ** W plus half that weighted by S; "product" is one loss
    weighted by both. An empty target has weight 1 everywhere. weights: as `corrective_weights` gives them.
    """
    if weights is None:
        weights = corrective_weights(logits, features, targets, stride_px, settings, seen)
    annotated = annotated_cells(targets)
    weights = [torch.where(annotated, one, 1.0) for one in weights]
    return sum(
        weighted_bce(logits, targets, one, seen)
        + weighted_dice(logits, targets, one, settings.dice_weights_denominator, seen)
        for one in weights
    ) / len(weights)


def adapter_loss(logits: Tensor, targets: Tensor, seen: Tensor | None = None) -> Tensor:
    """(N,): the adapter stage's mean cross-entropy + soft IoU; an empty target has cross-entropy only."""
    plain = weighted_bce(logits, targets, torch.ones_like(targets), seen)
    counted = torch.ones_like(targets) if seen is None else seen
    probability = logits.sigmoid()
    overlap = (counted * probability * targets).flatten(1).sum(1)
    union = (counted * (probability + targets)).flatten(1).sum(1) - overlap
    present = (counted * targets).flatten(1).any(dim=1).to(plain.dtype)
    return plain + present * (1.0 - (overlap + EPSILON) / (union + EPSILON))
