"""Where corrective learning trusts a label: W, S and the weight they make, over a whole labelled patch."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional as F

from allinsam.inference import frame_zoom
from allinsam.sam.adapter import features_by_class
from allinsam.sam.frames import frame_starts
from allinsam.training.corrective import MOCL_MODES, CorrectiveSettings, annotated_cells, trust_maps
from allinsam.training.dataset import TrainingPatch, covered_share, prepare_patch
from allinsam.training.networks import Network

# Of a frame without a label of the class: its S is 1 by definition and says nothing about its neighbours.
SAYS_LITTLE = 1e-3


@dataclass(frozen=True)
class Trust:
    """Maps of one class, float32 (H, W) in the patch's own pixels.

    confidence: W, similarity: S, both 0..1. weight: the mean of the mode's weights, as a label there would
    get it; what lies outside the labels is weighted 1 in the loss, whatever these say.
    """

    confidence: np.ndarray
    similarity: np.ndarray
    weight: np.ndarray


@torch.inference_mode()
def patch_trust(
    network: Network,
    patch: TrainingPatch,
    settings: CorrectiveSettings,
    separate: bool = False,
    overlap: float = 0.5,
    batch_size: int = 4,
) -> dict[str, Trust]:
    """Class name -> its maps, of every class labelled on the patch; blended over frames that share `overlap`
    of their side. separate: as `prepare_patch` has it.
    """
    native_hw, frame = patch.image_rgb.shape[:2], network.frame_px
    zoom = frame_zoom(network, native_hw, patch.um_per_px)
    prepared = prepare_patch(patch, network.class_names, frame, zoom, separate)
    height, width = prepared.image.shape[:2]
    layers = np.concatenate([prepared.seen[None], prepared.masks])
    starts = [
        (y, x) for y in frame_starts(height, frame, overlap) for x in frame_starts(width, frame, overlap)
    ]
    total = torch.zeros(len(network.class_names), 3, height, width)
    weight_sum = torch.zeros(len(network.class_names), 1, height, width)
    ramp = torch.minimum(torch.arange(1, frame + 1), torch.arange(frame, 0, -1)).float()
    window = torch.outer(ramp, ramp)
    for first in range(0, len(starts), batch_size):
        batch = starts[first : first + batch_size]
        images = np.stack([prepared.image[y : y + frame, x : x + frame] for y, x in batch])
        parts = np.stack([layers[:, y : y + frame, x : x + frame] for y, x in batch])
        covered = covered_share(torch.from_numpy(parts), network.grid_px)
        cell_px = frame / network.grid_px / zoom
        maps, told = _frame_maps(network, torch.from_numpy(images), covered, cell_px, settings)
        for (y, x), of_frame, labelled in zip(batch, maps, told, strict=True):
            share = torch.where(labelled, 1.0, SAYS_LITTLE)[:, None, None, None] * window
            total[..., y : y + frame, x : x + frame] += of_frame * share
            weight_sum[..., y : y + frame, x : x + frame] += share
    size_hw = [max(1, round(side * zoom)) for side in native_hw]
    blended = (total / weight_sum)[..., : size_hw[0], : size_hw[1]]
    if zoom != 1.0:
        blended = F.interpolate(blended, size=native_hw, mode="bilinear")
    return {
        name: Trust(*blended[number].numpy())
        for number, name in enumerate(network.class_names)
        if name in patch.labels
    }


def _frame_maps(
    network: Network,
    frames: torch.Tensor,
    covered: torch.Tensor,
    cell_px: float,
    settings: CorrectiveSettings,
) -> tuple[torch.Tensor, torch.Tensor]:
    """(B, C, 3, F, F): W, S and weight; bool (B, C): whether the frame holds a label of the class."""
    output = network(network.normalise(frames))
    seen, targets = covered[:, 0], covered[:, 1:]
    logits, features = output.logits.float().cpu(), features_by_class(output).float().cpu()
    found = []
    for number in range(targets.shape[1]):
        of_class = targets[:, number]
        both = trust_maps(logits[:, number], features[:, number], of_class, cell_px, settings.k, seen)
        weights = MOCL_MODES[settings.mode](*both, settings.base)
        found.append(torch.stack([*both, torch.stack(list(weights)).mean(0)], dim=1))
    maps = torch.stack(found, dim=1)
    grown = F.interpolate(maps.flatten(1, 2), size=frames.shape[1:3], mode="bilinear").view(
        *maps.shape[:3], *frames.shape[1:3]
    )
    told = annotated_cells(targets.flatten(0, 1)).flatten(1).any(1).view(targets.shape[:2])
    return grown, told


def mean_inside(trust: Trust, masks: Sequence[np.ndarray]) -> list[tuple[float, float, float]]:
    """For each mask, bool (H, W) and not empty, the means of W, S and the weight inside it."""
    maps = (trust.confidence, trust.similarity, trust.weight)
    return [tuple(float(one[mask].mean()) for one in maps) for mask in masks]
