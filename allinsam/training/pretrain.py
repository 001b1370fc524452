"""Train the compact SAM from simulated tissue and CC0 images: python -m allinsam.training.pretrain --help

The schedule follows the clock (`--minutes`), so the same command does what it can on a laptop or on a GPU. It
writes a checkpoint beside `--out` every few minutes, and `--resume` goes on from there.
"""

import argparse
import json
import logging
import math
import queue
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import cv2
import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from allinsam.errors import InputError, ModelError
from allinsam.sam.attention import use_quick_attention
from allinsam.sam.compact import (
    CROP_TOKENS,
    FRAME_PX,
    MASK_STRIDE_PX,
    PATCH_PX,
    PRIOR_LIMIT,
    Sam,
    build_compact,
    crop_origins,
    decode_crops,
    ellipse_prior,
)
from allinsam.training.pretraining_tissue import StainFrame, render, simulate_frame

log = logging.getLogger(__name__)
WINDOW_HW = (128, 256)
HELD_BACK_EVERY = 18
LONGEST_STEP_S = 60.0  # what is counted of a step at most
CROP_PX = CROP_TOKENS * PATCH_PX


@dataclass(frozen=True)
class PretrainSettings:
    """What a run is made of."""

    minutes: float = 60.0  # wall-clock length of the whole schedule
    seed: int = 20261
    windows: int = 2  # images per step and process, 128 x 256 px each
    boxes: int = 16  # prompts per window
    processes: int = 1  # each on its own core with `threads` threads; gradients are averaged
    learning_rate: float = 4e-4
    weight_decay: float = 0.02
    warmup_steps: int = 100
    average_decay: float = 0.998  # of the moving average of weights, which is what is saved
    frames: int = 400  # simulated frames kept in memory
    threads: int = 1
    checkpoint_minutes: float = 5.0


@dataclass(frozen=True)
class RealImage:
    """A real image with its nuclei, and its amount of nuclear stain for being stained anew."""

    name: str
    rgb: np.ndarray
    labels: np.ndarray
    nuclear: np.ndarray
    diameter_px: float


# --- data ------------------------------------------------------------------------------------------------


def read_images(folder: Path) -> list[RealImage]:
    """Every NAME.png with its NAME_inst.png, in order of name."""
    images = []
    for path in sorted(folder.glob("*_inst.png")):
        name = path.name.removesuffix("_inst.png")
        bgr = cv2.imread(str(folder / f"{name}.png"))
        labels = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        if bgr is None or labels is None:
            raise InputError(f"{folder / name}.png cannot be read. Restore it or remove its label image.")
        rgb = cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB)
        areas = np.bincount(labels.ravel())[1:]
        diameter = float(np.sqrt(np.median(areas[areas > 0]) * 4 / np.pi))
        images.append(RealImage(name, rgb, labels.astype(np.int32), nuclear_amount(rgb, labels), diameter))
    if not images:
        raise InputError(
            f"{folder} holds no NAME_inst.png. Point --dsb at the folder of images and label images."
        )
    return images


def nuclear_amount(rgb: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Optical density over the background's, uint8, 100 = the median of the nuclei."""
    background = np.median(rgb[labels == 0], axis=0)
    density = np.log((background + 1) / (rgb.astype(np.float32) + 1)).mean(axis=2)
    unit = max(float(np.median(density[labels > 0])), 0.05)
    return np.clip(density / unit * 100, 0, 255).astype(np.uint8)


def has_pink_background(image: RealImage) -> bool:
    """The one look with a strong pink counterstain; it is held back as a whole."""
    red, green, _ = np.median(image.rgb[image.labels == 0], axis=0)
    return bool(red - green > 60)


def split_held_back(images: list[RealImage]) -> tuple[list[RealImage], list[RealImage]]:
    """(train, held back): the pink look and every 18th image by name are never trained on."""
    train, held_back = [], []
    for position, image in enumerate(images):
        kept_out = position % HELD_BACK_EVERY == 0 or has_pink_background(image)
        (held_back if kept_out else train).append(image)
    return train, held_back


def warp_matrix(
    rng: np.random.Generator,
    source_hw: tuple[int, int],
    scale: float,
    target_hw: tuple[int, int],
    labels: np.ndarray | None = None,
) -> np.ndarray:
    """2x3 matrix from source to window px: scale, turn, flip, and a place that shows much of the source.

    With `labels` of the source, mostly a place with a nucleus in its inner part.
    """
    angle = rng.integers(4) * np.pi / 2 if rng.random() < 0.6 else rng.uniform(0, 2 * np.pi)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    stretch = np.diag(np.exp(rng.normal(0, 0.05, 2)))
    linear = scale * turn @ stretch @ np.diag([rng.choice([-1, 1]), 1])
    half = np.abs(np.linalg.inv(linear)) @ np.array([target_hw[1] / 2, target_hw[0] / 2])
    size = np.array([source_hw[1], source_hw[0]], float)
    low, high = np.minimum(half, size / 2), np.maximum(size - half, size / 2)
    centre = rng.uniform(low, high)
    if labels is not None and rng.random() < 0.8 and labels.any():
        row, column = divmod(int(rng.choice(np.flatnonzero(labels))), labels.shape[1])
        centre = np.clip((column, row) + half * rng.uniform(-0.6, 0.6, 2), low, high)
    offset = np.array([target_hw[1] / 2, target_hw[0] / 2]) - linear @ centre
    return np.hstack([linear, offset[:, None]])


def warp(image: np.ndarray, matrix: np.ndarray, size_hw: tuple[int, int], smooth: bool) -> np.ndarray:
    interpolation = cv2.INTER_LINEAR if smooth else cv2.INTER_NEAREST
    border = cv2.BORDER_REFLECT_101 if smooth else cv2.BORDER_CONSTANT
    return cv2.warpAffine(image, matrix, size_hw[::-1], flags=interpolation, borderMode=border)


@dataclass(frozen=True)
class Window:
    """One training window: RGB uint8, labels, and where it shows the source rather than its mirror image."""

    rgb: np.ndarray
    labels: np.ndarray
    valid: np.ndarray


def draw_window(
    rng: np.random.Generator, frames: list[StainFrame], images: list[RealImage], size_hw: tuple[int, int]
) -> Window:
    """40 % simulated, 35 % real nuclei over simulated counterstain, 25 % real as they are; then augmented."""
    kind = rng.choice(["simulated", "restained", "real"], p=[0.40, 0.35, 0.25])
    frame = frames[rng.integers(len(frames))]
    if kind == "simulated":
        labels, nuclear = frame.labels, frame.nuclear
        scale = float(np.exp(rng.uniform(np.log(0.7), np.log(1.6))))
    else:
        image = images[rng.integers(len(images))]
        labels, nuclear = image.labels, image.nuclear
        wanted_px = np.exp(rng.uniform(np.log(10), np.log(44)))
        scale = float(np.clip(wanted_px / image.diameter_px, 0.45, 2.2))
    matrix = warp_matrix(rng, labels.shape, scale, size_hw, labels)
    valid = warp(np.ones(labels.shape, np.uint8), matrix, size_hw, smooth=False).astype(bool)
    window_labels = warp(labels.astype(np.float32), matrix, size_hw, smooth=False).astype(np.int32)
    if kind == "real":
        rgb = warp(image.rgb, matrix, size_hw, smooth=True)
    else:
        other = warp_matrix(rng, frame.counter.shape, float(rng.uniform(0.7, 1.8)), size_hw)
        counter = warp(frame.counter, matrix if kind == "simulated" else other, size_hw, smooth=True)
        amount = warp(nuclear, matrix, size_hw, smooth=True).astype(np.float32) / 100
        inside = cv2.GaussianBlur((window_labels > 0).astype(np.float32), (0, 0), float(rng.uniform(0.6, 2)))
        rgb = render(rng, amount ** rng.uniform(0.7, 1.3), counter.astype(np.float32) / 100, inside)
    return Window(augment(rng, rgb), window_labels, valid)


def augment(rng: np.random.Generator, rgb: np.ndarray) -> np.ndarray:
    """Colour in optical density and in RGB, optics, noise, compression."""
    image = rgb.astype(np.float32)
    if rng.random() < 0.35:
        density = -np.log((image + 1) / 256)
        image = 256 * np.exp(-density @ (np.eye(3) + rng.normal(0, 0.12, (3, 3))).astype(np.float32)) - 1
    image = np.clip(image, 0, 255) / 255
    image = image ** np.exp(rng.normal(0, 0.25))
    image = (image - 0.5) * rng.uniform(0.7, 1.3) + 0.5 + rng.normal(0, 0.05) + rng.normal(0, 0.04, 3)
    if rng.random() < 0.12:
        image = image[..., rng.permutation(3)]
    if rng.random() < 0.08:
        image = np.repeat(image.mean(axis=2, keepdims=True), 3, axis=2)
    image = np.ascontiguousarray(np.clip(image, 0, 1) * 255, dtype=np.float32)
    if rng.random() < 0.25:
        image = cv2.GaussianBlur(image, (0, 0), float(rng.uniform(0.4, 1.4)))
    elif rng.random() < 0.2:
        image = image + rng.uniform(0.3, 1.5) * (image - cv2.GaussianBlur(image, (0, 0), 1.0))
    if rng.random() < 0.15:
        factor = rng.uniform(0.4, 0.8)
        small = cv2.resize(image, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA)
        image = cv2.resize(small, image.shape[1::-1], interpolation=cv2.INTER_LINEAR)
    if rng.random() < 0.3:
        image = image + rng.normal(0, rng.uniform(1, 8), image.shape).astype(np.float32)
    image = np.clip(image, 0, 255).astype(np.uint8)
    if rng.random() < 0.3:
        quality = [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(40, 92))]
        image = cv2.imdecode(cv2.imencode(".jpg", image, quality)[1], cv2.IMREAD_COLOR)
    return image


def jitter(rng: np.random.Generator, boxes: np.ndarray, size_hw: tuple[int, int]) -> np.ndarray:
    """Boxes as people draw them: tight, outward by whole px, or loosely by a share of their size."""
    side = np.concatenate([boxes[:, 2:] - boxes[:, :2]] * 2, axis=1)
    outward = np.array([-1, -1, 1, 1])
    kind = rng.choice(3, size=(len(boxes), 1), p=[0.50, 0.38, 0.12])
    px = rng.integers(0, np.where(rng.random((len(boxes), 1)) < 0.6, 5, 3) + 1, size=boxes.shape)
    share = rng.uniform(-0.08, 0.28, boxes.shape) * side
    moved = boxes + outward * np.where(kind == 0, 0, np.where(kind == 1, px, share))
    limit = np.array([size_hw[1], size_hw[0]] * 2)
    return np.clip(moved, 0, limit).astype(np.float32)


def draw_prompts(rng: np.random.Generator, window: Window, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Ids and tight boxes of at most `count` nuclei of the window that do not touch mirrored parts."""
    ids, areas = np.unique(window.labels[window.labels > 0], return_counts=True)
    ids = ids[areas >= 30]
    rng.shuffle(ids)
    mirrored = cv2.dilate((~window.valid).astype(np.uint8), np.ones((3, 3), np.uint8)).astype(bool)
    chosen, boxes = [], []
    for nucleus in ids:
        if len(chosen) == count:
            break
        rows, columns = np.nonzero(window.labels == nucleus)
        box = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
        sides = (box[2] - box[0], box[3] - box[1])
        if min(sides) < 5 or max(sides) > CROP_PX - 16 or mirrored[rows, columns].any():
            continue
        chosen.append(nucleus)
        boxes.append(box)
    return np.array(chosen, np.int32), np.array(boxes, np.float32).reshape(-1, 4)


def shrink(mask: np.ndarray) -> np.ndarray:
    """Area average at the decoder's stride."""
    height, width = mask.shape
    blocks = mask.reshape(height // MASK_STRIDE_PX, MASK_STRIDE_PX, width // MASK_STRIDE_PX, MASK_STRIDE_PX)
    return blocks.mean(axis=(1, 3), dtype=np.float32)


def previous_mask(rng: np.random.Generator, truth: np.ndarray) -> np.ndarray:
    """Prior logits of an imperfect earlier mask, clamped px: the truth moved, scaled, cut or grown."""
    height, width = truth.shape
    rows, columns = np.nonzero(truth > 0.5)
    centre = (float(columns.mean()), float(rows.mean())) if len(rows) else (width / 2, height / 2)
    matrix = cv2.getRotationMatrix2D(centre, float(rng.normal(0, 12)), float(np.exp(rng.normal(0, 0.13))))
    matrix[:, 2] += rng.normal(0, 1.0, 2)
    mask = (cv2.warpAffine(truth, matrix, (width, height)) > 0.5).astype(np.uint8)
    fault = rng.random()
    if fault < 0.25 and len(rows):
        # A part is missing: everything on one side of a line near the middle.
        angle, across = rng.uniform(0, 2 * np.pi), np.arange(width)[None] - centre[0]
        side = across * np.cos(angle) + (np.arange(height)[:, None] - centre[1]) * np.sin(angle)
        mask[side > rng.uniform(-0.1, 0.8) * np.sqrt(len(rows) / np.pi)] = 0
    elif fault < 0.45 and len(rows):
        # A neighbour or some ground was taken along.
        place = int(rng.integers(len(rows)))
        radius = int(rng.uniform(0.2, 0.7) * np.sqrt(len(rows) / np.pi)) + 1
        cv2.circle(mask, (int(columns[place]), int(rows[place])), radius, 1, -1)
    inner = cv2.distanceTransform(mask, cv2.DIST_L2, 3)
    outer = cv2.distanceTransform(1 - mask, cv2.DIST_L2, 3)
    # An empty or full mask has no edge to measure from: clip before scaling.
    distance = np.clip(inner, 0, 99) - np.clip(outer, 0, 99)
    distance *= MASK_STRIDE_PX * rng.uniform(0.5, 1.5)
    return np.clip(distance, -PRIOR_LIMIT, PRIOR_LIMIT).astype(np.float32)


def correction(
    rng: np.random.Generator, truth: np.ndarray, earlier: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Where a person would correct an earlier mask: a point (2,) in px of the crop and SAM's label (1,)."""
    wrong = np.argwhere((truth > 0.5) != (earlier > 0))
    if not len(wrong):
        return np.zeros(2, np.float32), np.array([-1], np.float32)
    row, column = wrong[rng.integers(len(wrong))]
    point = (np.array([column, row], np.float32) + 0.5) * MASK_STRIDE_PX
    return point, np.array([truth[row, column] > 0.5], np.float32)


@dataclass(frozen=True)
class Batch:
    """One step's tensors. The prompts of all windows are in one row; `owner` says which window each is of."""

    images: Tensor  # (w, 3, H, W) uint8
    foreground: Tensor  # (w, H/2, W/2)
    valid: Tensor  # (w, H/2, W/2)
    owner: Tensor  # (n,)
    origins: Tensor  # (n, 2) tokens
    boxes: Tensor  # (n, 4) px of the crop
    points: Tensor  # (n, 1, 2) px of the crop
    truth: Tensor  # (n, 64, 64)
    earlier: Tensor  # (n, 1, 64, 64) prior logits of an imperfect mask
    corrections: Tensor  # (n, 1, 2) px of the crop, a point where that mask is wrong
    correction_labels: Tensor  # (n, 1) 1: belongs to the nucleus, 0: does not, -1: nothing to correct
    weight: Tensor  # (n, 64, 64)


def make_batch(
    rng: np.random.Generator, settings: PretrainSettings, frames: list[StainFrame], images: list[RealImage]
) -> Batch:
    """Draw windows and prompts and cut each prompt's truth; all on the CPU."""
    size_hw = WINDOW_HW if rng.random() < 0.5 else WINDOW_HW[::-1]
    grid_hw = (size_hw[0] // PATCH_PX, size_hw[1] // PATCH_PX)
    windows = [draw_window(rng, frames, images, size_hw) for _ in range(settings.windows)]
    rows: dict[str, list[np.ndarray]] = {
        name: []
        for name in ("origins", "boxes", "points", "truth", "earlier", "corrections", "correction_labels")
    }
    owner: list[int] = []
    for index, window in enumerate(windows):
        ids, tight = draw_prompts(rng, window, settings.boxes)
        if not len(ids):
            continue
        boxes = jitter(rng, tight, size_hw)
        origins = crop_origins(torch.from_numpy(boxes), grid_hw).numpy()
        for nucleus, box, (row, column) in zip(ids, boxes, origins, strict=True):
            y, x = row * PATCH_PX, column * PATCH_PX
            mask = window.labels[y : y + CROP_PX, x : x + CROP_PX] == nucleus
            truth = shrink(mask)
            inside = np.argwhere(mask)
            owner.append(index)
            rows["origins"].append(np.array([row, column]))
            rows["boxes"].append(box - np.array([x, y, x, y], np.float32))
            rows["points"].append(inside[rng.integers(len(inside))][None, ::-1].astype(np.float32))
            rows["truth"].append(truth)
            earlier = previous_mask(rng, truth)
            rows["earlier"].append(earlier[None])
            point, label = correction(rng, truth, earlier)
            rows["corrections"].append(point[None])
            rows["correction_labels"].append(label)
    if not owner:
        return make_batch(rng, settings, frames, images)
    stacked = {name: torch.from_numpy(np.stack(values)) for name, values in rows.items()}
    return Batch(
        images=torch.from_numpy(np.stack([w.rgb for w in windows])).permute(0, 3, 1, 2),
        foreground=torch.from_numpy(np.stack([shrink(w.labels > 0) for w in windows])),
        valid=torch.from_numpy(np.stack([shrink(w.valid) for w in windows])),
        owner=torch.tensor(owner),
        weight=box_weight(stacked["boxes"]),
        **stacked,
    )


def box_weight(boxes: Tensor) -> Tensor:
    """1 in the box grown by a quarter, 0.1 elsewhere, mean 1 per prompt: masks are cut to the grown box."""
    grown = (boxes[:, 2:] - boxes[:, :2]).repeat(1, 2) * torch.tensor([-0.25, -0.25, 0.25, 0.25])
    x0, y0, x1, y1 = (boxes + grown).unbind(1)
    place = (torch.arange(CROP_PX // MASK_STRIDE_PX) + 0.5) * MASK_STRIDE_PX
    across = (place >= x0[:, None]) & (place <= x1[:, None])
    down = (place >= y0[:, None]) & (place <= y1[:, None])
    weight = torch.where(down[:, :, None] & across[:, None, :], 1.0, 0.1)
    return weight / weight.mean(dim=(1, 2), keepdim=True)


def batches(
    seed: int, settings: PretrainSettings, frames: list[StainFrame], images: list[RealImage]
) -> Iterator[Batch]:
    """Batches drawn in a thread of its own, a few ahead of the model."""
    ready: queue.Queue[Batch] = queue.Queue(maxsize=4)

    def fill() -> None:
        rng = np.random.default_rng(seed)
        while True:
            ready.put(make_batch(rng, settings, frames, images))

    threading.Thread(target=fill, daemon=True).start()
    while True:
        yield ready.get()


# --- model and loss --------------------------------------------------------------------------------------


def normalise(sam: Sam, images: Tensor) -> Tensor:
    return (images.float() - sam.pixel_mean) / sam.pixel_std


def cut(features: Tensor, owner: Tensor, origins: Tensor, tokens: int = CROP_TOKENS) -> Tensor:
    """Each prompt's crop of its window's embedding, (n, C, tokens, tokens)."""
    # One gather instead of n slices: each slice's gradient would be as large as the whole embedding.
    _, channels, height, width = features.shape
    reach = torch.arange(tokens, device=features.device)
    rows = origins[:, :1] + reach
    columns = origins[:, 1:] + reach
    index = (owner[:, None, None] * height + rows[:, :, None]) * width + columns[:, None, :]
    flat = features.permute(0, 2, 3, 1).reshape(-1, channels)
    crops = flat.index_select(0, index.flatten()).view(len(owner), tokens, tokens, channels)
    return crops.permute(0, 3, 1, 2)


def mask_loss(logits: Tensor, iou: Tensor, truth: Tensor, weight: Tensor) -> Tensor:
    """Weighted cross-entropy, soft Dice, and the squared error of the predicted IoU."""
    logits = logits.float()
    entropy = nn.functional.binary_cross_entropy_with_logits(logits, truth, weight=weight)
    probability = logits.sigmoid() * (weight > 0)
    overlap = (probability * truth).sum((1, 2))
    dice = 1 - (2 * overlap + 1) / (probability.sum((1, 2)) + (truth * (weight > 0)).sum((1, 2)) + 1)
    with torch.no_grad():
        mask, real = (logits > 0) & (weight > 0), (truth > 0.5) & (weight > 0)
        union = (mask | real).sum((1, 2))
        true_iou = (mask & real).sum((1, 2)) / union.clamp(min=1)
    return 2 * entropy + dice.mean() + 2 * (iou.float() - true_iou).square().mean()


def prompt_loss(sam: Sam, batch: Batch, features: Tensor, rng: np.random.Generator) -> Tensor:
    """Three quarters of the prompts: box with its prior. The rest: box alone, points, or an earlier mask."""
    n = len(batch.owner)
    crops = cut(features, batch.owner, batch.origins)
    side = CROP_PX // MASK_STRIDE_PX
    room = FRAME_PX // PATCH_PX - CROP_TOKENS
    offset = None if rng.random() < 0.6 else (int(rng.integers(room + 1)), int(rng.integers(room + 1)))
    main = slice(0, n) if rng.random() < 0.25 else slice(0, math.ceil(0.75 * n))
    logits, iou = decode_crops(
        sam,
        crops[main],
        boxes=batch.boxes[main],
        prior=ellipse_prior(batch.boxes[main], (side, side)),
        offset_tokens=offset,
    )
    loss = mask_loss(logits, iou, batch.truth[main], batch.weight[main])
    rest = slice(main.stop, n)
    if main.stop == n:
        return loss
    kind = rng.choice(["box", "point", "mask and box", "mask and correction", "mask, box and correction"])
    points = None
    if kind == "point":
        points = (batch.points[rest], torch.ones_like(batch.points[rest][..., 0]))
    elif "correction" in kind:
        points = (batch.corrections[rest], batch.correction_labels[rest])
    logits, iou = decode_crops(
        sam,
        crops[rest],
        boxes=batch.boxes[rest] if "box" in kind else None,
        points=points,
        prior=batch.earlier[rest] if "mask" in kind else None,
        offset_tokens=offset,
    )
    return loss + 0.33 * mask_loss(logits, iou, batch.truth[rest], batch.weight[rest])


def promptless_loss(sam: Sam, batch: Batch, features: Tensor, rng: np.random.Generator) -> Tensor:
    """No prompt, the whole window, every nucleus as the target."""
    room = [FRAME_PX // PATCH_PX - size for size in features.shape[2:]]
    offset = (int(rng.integers(room[0] + 1)), int(rng.integers(room[1] + 1)))
    logits, iou = decode_crops(sam, features, offset_tokens=offset)
    return mask_loss(logits, iou, batch.foreground, batch.valid)


# --- held-back score -------------------------------------------------------------------------------------


def embed(sam: Sam, rgb: np.ndarray) -> Tensor:
    """(1, 128, h, w) embedding of a whole image, padded to full tokens."""
    height, width = rgb.shape[:2]
    device = sam.pixel_mean.device
    image = normalise(sam, torch.from_numpy(rgb).permute(2, 0, 1)[None].to(device))
    grid = [max(CROP_TOKENS, math.ceil(size / PATCH_PX)) for size in (height, width)]
    padding = (0, grid[1] * PATCH_PX - width, 0, grid[0] * PATCH_PX - height)
    return sam.image_encoder(nn.functional.pad(image, padding))


@torch.no_grad()
def boxes_to_logits(sam: Sam, features: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Logits (n, 64, 64), predicted IoU (n,) and crop origins (n, 2) in tokens, for boxes (n, 4)."""
    origins = crop_origins(boxes, tuple(features.shape[2:]))
    crops = cut(features, torch.zeros(len(boxes), dtype=torch.long), origins)
    local = boxes - (origins.flip(1) * PATCH_PX).repeat(1, 2)
    side = CROP_PX // MASK_STRIDE_PX
    logits, iou = decode_crops(sam, crops, boxes=local, prior=ellipse_prior(local, (side, side)))
    return logits, iou, origins


def held_back_score(sam: Sam, images: list[RealImage], seed: int = 0) -> dict[str, float]:
    """Mean Dice at the decoder's stride over nuclei of images never trained on: tight, loose, no prompt."""
    rng = np.random.default_rng(seed)
    figures: dict[str, list[float]] = {"tight": [], "loose": [], "promptless": []}
    for image in images:
        with torch.no_grad():
            features = embed(sam, image.rgb).float()
            scale = (features.shape[2] * PATCH_PX, features.shape[3] * PATCH_PX)
            window = Window(image.rgb, image.labels, np.ones(image.labels.shape, bool))
            ids, tight = draw_prompts(rng, window, 10_000)
            loose = tight + np.array([-1, -1, 1, 1]) * rng.integers(0, 6, tight.shape)
            loose = np.clip(loose, 0, np.array(image.labels.shape[::-1] * 2)).astype(np.float32)
            padded = np.zeros(scale, np.int32)
            padded[: image.labels.shape[0], : image.labels.shape[1]] = image.labels
            for name, boxes in (("tight", tight), ("loose", loose)):
                logits, _, origins = boxes_to_logits(sam, features, torch.from_numpy(boxes))
                for nucleus, mask, (row, column) in zip(ids, logits > 0, origins.tolist(), strict=True):
                    y, x = row * PATCH_PX, column * PATCH_PX
                    truth = shrink(padded[y : y + CROP_PX, x : x + CROP_PX] == nucleus) > 0.5
                    figures[name].append(dice(mask.numpy(), truth))
            rows, columns = (min(32, size) for size in features.shape[2:])
            logits, _ = decode_crops(sam, features[:, :, :rows, :columns])
            truth = shrink(padded[: rows * PATCH_PX, : columns * PATCH_PX] > 0) > 0.5
            figures["promptless"].append(dice(logits[0].numpy() > 0, truth))
    return {name: round(float(np.mean(values)), 4) for name, values in figures.items()}


def dice(mask: np.ndarray, truth: np.ndarray) -> float:
    total = int(mask.sum()) + int(truth.sum())
    return 1.0 if total == 0 else 2 * int((mask & truth).sum()) / total


# --- the run ---------------------------------------------------------------------------------------------


def learning_rate_at(settings: PretrainSettings, step: int, elapsed_minutes: float) -> float:
    warm = min(1.0, (step + 1) / settings.warmup_steps)
    share = min(1.0, elapsed_minutes / settings.minutes)
    return settings.learning_rate * warm * 0.5 * (1 + math.cos(math.pi * share))


def save_weights(sam_state: dict[str, Tensor], path: Path, note: dict[str, str]) -> None:
    """Half precision, written beside and renamed."""
    half = {name: value.to(torch.float16).contiguous() for name, value in sam_state.items()}
    temporary = path.with_suffix(".tmp")
    save_file(half, temporary, metadata=note)
    temporary.replace(path)


def load_weights(path: Path) -> Sam:
    """The compact SAM with the weights of `path`, float32, in evaluation mode."""
    sam = build_compact()
    try:
        sam.load_state_dict({name: value.float() for name, value in load_file(path).items()})
    except (OSError, RuntimeError) as error:
        raise ModelError(
            f"{path} is no weights file of this model: {error}. Train or download it again."
        ) from error
    return sam.eval()


@dataclass(frozen=True)
class Run:
    """Where a run reads, writes and computes."""

    dsb: Path
    out: Path
    init: Path | None = None  # weights to start from
    resume: bool = False
    device: str = "auto"

    @property
    def checkpoint(self) -> Path:
        return self.out.with_suffix(".checkpoint.pt")


def train(settings: PretrainSettings, run: Run) -> None:
    """Train for `settings.minutes` and write `run.out` and its checkpoint; scores go to the log."""
    if settings.processes == 1:
        _train_process(0, settings, run, None)
        return
    # Ended by a signal, the processes must end with it: two runs would write one checkpoint.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with tempfile.TemporaryDirectory() as folder:
        arguments = (settings, run, f"file://{folder}/meeting")
        started = torch.multiprocessing.spawn(_train_process, arguments, settings.processes, join=False)
        try:
            while not started.join():
                pass
        finally:
            for process in started.processes:
                process.kill()


def average_gradients(parameters: list[nn.Parameter], elapsed: float, processes: int) -> float:
    """Mean gradient over all processes, in place; returns the first one's clock so that all stop together."""
    if processes == 1:
        return elapsed
    clock = torch.tensor([elapsed if torch.distributed.get_rank() == 0 else 0.0])
    gradients = [p.grad if p.grad is not None else torch.zeros_like(p) for p in parameters]
    flat = torch.cat([clock, *[g.flatten() for g in gradients]])
    torch.distributed.all_reduce(flat)
    start = 1
    for parameter in parameters:
        size = parameter.numel()
        parameter.grad = flat[start : start + size].view_as(parameter) / processes
        start += size
    return float(flat[0])


def _train_process(rank: int, settings: PretrainSettings, run: Run, meeting: str | None) -> None:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(settings.threads)
    cv2.setNumThreads(1)
    torch.manual_seed(settings.seed)
    if meeting:
        torch.distributed.init_process_group("gloo", meeting, rank=rank, world_size=settings.processes)
    name = ("cuda" if torch.cuda.is_available() else "cpu") if run.device == "auto" else run.device
    device = torch.device(name)
    images, held_back = split_held_back(read_images(run.dsb))
    sam = (load_weights(run.init) if run.init else build_compact()).to(device).train()
    average = build_compact().to(device).eval()
    average.load_state_dict(sam.state_dict())
    use_quick_attention(sam.image_encoder)
    parameters = [p for p in sam.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=0.0, betas=(0.9, 0.99), weight_decay=settings.weight_decay)
    step, elapsed = 0, 0.0
    if run.resume and run.checkpoint.exists():
        checkpoint = torch.load(run.checkpoint, map_location=device, weights_only=True)
        sam.load_state_dict(checkpoint["model"])
        average.load_state_dict(checkpoint["average"])
        optimizer.load_state_dict(checkpoint["optimizer"])
        step, elapsed = checkpoint["step"], checkpoint["elapsed_minutes"]
    # Other draws in each process and after a resume: the stream of batches is not replayed.
    stream = settings.seed + 1_000_003 * step + 7919 * rank
    frames = [simulate_frame(stream * 10_000 + index) for index in range(settings.frames)]
    rng = np.random.default_rng(settings.seed + step)
    step_started, saved_at, losses = time.monotonic(), elapsed, [0.0]

    def save() -> None:
        score = held_back_score(_on_cpu(average), held_back)
        note = {"training": "simulated tissue + DSB-2018 stained (CC0)", "architecture": "compact"}
        save_weights(
            average.state_dict(),
            run.out,
            note | {"settings": json.dumps(asdict(settings)), "step": str(step)},
        )
        state = {
            "model": sam.state_dict(),
            "average": average.state_dict(),
            "optimizer": optimizer.state_dict(),
        }
        # Renamed when whole: a run killed while saving keeps its earlier checkpoint.
        unfinished = run.checkpoint.with_suffix(".partial")
        torch.save(state | {"step": step, "elapsed_minutes": elapsed}, unfinished)
        unfinished.replace(run.checkpoint)
        figures = {
            "step": step,
            "minutes": round(elapsed, 2),
            "loss": round(float(np.mean(losses[-300:])), 4),
        }
        log.info("held back %s", json.dumps(figures | score))

    for batch in batches(stream + 2, settings, frames, images):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate_at(settings, step, elapsed)
        batch = Batch(**{f.name: getattr(batch, f.name).to(device) for f in fields(Batch)})
        with torch.autocast(device.type, torch.bfloat16):
            features = sam.image_encoder(normalise(sam, batch.images))
            loss = prompt_loss(sam, batch, features, rng)
            if step % 2 == 0:
                loss = loss + 0.4 * promptless_loss(sam, batch, features, rng)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        # A paused process or a sleeping laptop must not use up the schedule.
        elapsed += min(time.monotonic() - step_started, LONGEST_STEP_S) / 60
        step_started = time.monotonic()
        elapsed = average_gradients(parameters, elapsed, settings.processes)
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        step += 1
        losses.append(loss.item())
        if rank == 0:
            decay = min(settings.average_decay, (1 + step) / (10 + step))
            with torch.no_grad():
                torch._foreach_lerp_(list(average.parameters()), list(sam.parameters()), 1 - decay)
            if step % 50 == 0:
                log.info("step %d, %.1f min, loss %.4f", step, elapsed, np.mean(losses[-50:]))
            if elapsed - saved_at >= settings.checkpoint_minutes:
                saved_at = elapsed
                save()
        if elapsed >= settings.minutes:
            break
    if rank == 0:
        save()
    if meeting:
        torch.distributed.destroy_process_group()


def _on_cpu(sam: Sam) -> Sam:
    copy = build_compact().eval()
    copy.load_state_dict({name: value.cpu() for name, value in sam.state_dict().items()})
    return copy


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dsb", type=Path, required=True, help="folder of NAME.png and NAME_inst.png (CC0)")
    parser.add_argument("--out", type=Path, required=True, help="safetensors file to write")
    parser.add_argument("--init", type=Path, help="weights of this architecture to start from")
    parser.add_argument(
        "--resume", action="store_true", help="go on from OUT's checkpoint where there is one"
    )
    parser.add_argument("--device", default="auto")
    for field in fields(PretrainSettings):
        flag = "--" + field.name.replace("_", "-")
        parser.add_argument(flag, type=field.type, default=field.default, help=f"default {field.default}")
    options = parser.parse_args(arguments)
    settings = PretrainSettings(**{f.name: getattr(options, f.name) for f in fields(PretrainSettings)})
    train(settings, Run(options.dsb, options.out, options.init, options.resume, options.device))


if __name__ == "__main__":
    main()
