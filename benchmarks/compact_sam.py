"""How good and how fast the compact SAM is on real images: python -m benchmarks.compact_sam --data FOLDER

Single nuclei given their boxes, beside the ellipse inscribed in the box. Tight boxes touch the nucleus; loose
boxes have each side moved outward by U{0..5} px. MoNuSeg and DeepLIIF never shaped or chose any weights.
"""

import argparse
import json
import math
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from scipy.stats import spearmanr
from torch import Tensor, nn

from allinsam.sam.compact_v2 import (
    FRAME_PX,
    MASK_STRIDE_PX,
    PATCH_PX,
    Sam,
    crop_origins,
    decode_crops,
    ellipse_prior,
    tokens_for,
)
from allinsam.training.pretrain import cut, dice, embed, load_weights, read_images, split_held_back

LOOSE_PX = 5
MIN_AREA_PX = 20
BATCH = 64


@dataclass(frozen=True)
class Nucleus:
    """A mask given as its place: the crop of the image that holds it."""

    top: int
    left: int
    mask: np.ndarray


Predictor = Callable[[np.ndarray, np.ndarray], tuple[list[Nucleus], np.ndarray]]


def progress(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


# --- the model -------------------------------------------------------------------------------------------


@torch.no_grad()
def decode_boxes(sam: Sam, features: Tensor, boxes: np.ndarray) -> tuple[list[Nucleus], np.ndarray]:
    """Masks at full resolution, cut to the grown box, and predicted IoU (n,)."""
    found: list[Nucleus | None] = [None] * len(boxes)
    scores = np.zeros(len(boxes), np.float32)
    sizes = np.array([tokens_for(max(x1 - x0, y1 - y0)) for x0, y0, x1, y1 in boxes], int)
    for tokens in np.unique(sizes):
        # A patch smaller than the crop is one crop.
        rows, columns = (min(int(tokens), side) for side in features.shape[2:])
        if rows != columns:
            rows = columns = min(rows, columns)
        chosen = np.nonzero(sizes == tokens)[0]
        for start in range(0, len(chosen), BATCH):
            index = chosen[start : start + BATCH]
            part = torch.from_numpy(boxes[index])
            origins = crop_origins(part, tuple(features.shape[2:]), rows)
            crops = cut(features, torch.zeros(len(part), dtype=torch.long), origins, rows)
            local = part - (origins.flip(1) * PATCH_PX).repeat(1, 2)
            side = rows * PATCH_PX // MASK_STRIDE_PX
            logits, iou = decode_crops(sam, crops, boxes=local, prior=ellipse_prior(local, (side, side)))
            full = nn.functional.interpolate(
                logits[:, None].float(), scale_factor=MASK_STRIDE_PX, mode="bilinear", align_corners=False
            )[:, 0]
            for position, logit, box, origin in zip(
                index, full.numpy(), local.numpy(), origins.tolist(), strict=True
            ):
                mask = (logit > 0) & grown_box(box, logit.shape)
                found[position] = Nucleus(origin[0] * PATCH_PX, origin[1] * PATCH_PX, mask)
            scores[index] = iou.float().numpy()
    return [nucleus for nucleus in found if nucleus is not None], scores


def grown_box(box: np.ndarray, size_hw: tuple[int, int]) -> np.ndarray:
    """Pixels of the box grown on each side by a tenth, at least 2 px."""
    x0, y0, x1, y1 = box
    grow_x, grow_y = max(2.0, 0.1 * (x1 - x0)), max(2.0, 0.1 * (y1 - y0))
    inside = np.zeros(size_hw, bool)
    top, left = max(0, math.floor(y0 - grow_y)), max(0, math.floor(x0 - grow_x))
    inside[top : math.ceil(y1 + grow_y), left : math.ceil(x1 + grow_x)] = True
    return inside


@torch.no_grad()
def promptless_mask(sam: Sam, features: Tensor) -> np.ndarray:
    """Every nucleus at once (H, W) at stride 2: overlapping frames, their logits averaged."""
    height, width = features.shape[2:]
    frame = FRAME_PX // PATCH_PX
    scale = PATCH_PX // MASK_STRIDE_PX
    total = np.zeros((height * scale, width * scale), np.float32)
    weight = np.zeros_like(total)
    for top in starts(height, frame):
        for left in starts(width, frame):
            logits, _ = decode_crops(sam, features[:, :, top : top + frame, left : left + frame])
            place = (slice(top * scale, (top + frame) * scale), slice(left * scale, (left + frame) * scale))
            total[place] += logits[0].float().numpy()
            weight[place] += 1
    return total / weight > 0


def starts(size: int, frame: int) -> list[int]:
    """Where frames half overlapping begin so that they cover `size`."""
    last = max(size - frame, 0)
    return sorted({*range(0, last, frame // 2), last})


# --- scoring ---------------------------------------------------------------------------------------------


def tight_boxes(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Ids and boxes of the nuclei large enough to be annotated."""
    ids, boxes = [], []
    areas = np.bincount(labels.ravel())
    for nucleus in range(1, len(areas)):
        if areas[nucleus] < MIN_AREA_PX:
            continue
        rows, columns = np.nonzero(labels == nucleus)
        ids.append(nucleus)
        boxes.append((columns.min(), rows.min(), columns.max() + 1, rows.max() + 1))
    return np.array(ids), np.array(boxes, np.float32).reshape(-1, 4)


def ellipse_in(box: np.ndarray, top: int, left: int, size_hw: tuple[int, int]) -> np.ndarray:
    """The ellipse inscribed in a box of the image, drawn in a crop of it."""
    ys = np.arange(size_hw[0])[:, None] + 0.5 + top
    xs = np.arange(size_hw[1])[None] + 0.5 + left
    x0, y0, x1, y1 = box
    return ((xs - (x0 + x1) / 2) / ((x1 - x0) / 2)) ** 2 + ((ys - (y0 + y1) / 2) / ((y1 - y0) / 2)) ** 2 <= 1


def score_boxes(predict: Predictor, rgb: np.ndarray, labels: np.ndarray, seed: int) -> dict[str, np.ndarray]:
    """Dice of model and ellipse, true and predicted IoU, for tight and loose boxes of one image."""
    ids, tight = tight_boxes(labels)
    rng = np.random.default_rng(seed)
    loose = tight + np.array([-1, -1, 1, 1]) * rng.integers(0, LOOSE_PX + 1, tight.shape)
    loose = np.clip(loose, 0, np.array(labels.shape[::-1] * 2)).astype(np.float32)
    sizes = np.bincount(labels.ravel(), minlength=int(labels.max()) + 1)
    scores: dict[str, list[float]] = {}
    for name, boxes in (("tight", tight), ("loose", loose)):
        nuclei, predicted = predict(rgb, boxes)
        scores[f"{name}_predicted"] = list(predicted)
        for nucleus_id, box, nucleus in zip(ids, boxes, nuclei, strict=True):
            height, width = nucleus.mask.shape
            region = (
                labels[nucleus.top : nucleus.top + height, nucleus.left : nucleus.left + width] == nucleus_id
            )
            mask = nucleus.mask[: region.shape[0], : region.shape[1]]
            ellipse = ellipse_in(box, nucleus.top, nucleus.left, region.shape)
            # The crop holds the box, so what it misses of the nucleus is missed by the mask too.
            missed = int(sizes[nucleus_id]) - int(region.sum())
            scores.setdefault(f"{name}_iou", []).append(overlap(mask, region, missed)[1])
            scores.setdefault(f"{name}_dice", []).append(overlap(mask, region, missed)[0])
            scores.setdefault(f"{name}_ellipse", []).append(overlap(ellipse, region, missed)[0])
    return {name: np.array(values, np.float64) for name, values in scores.items()}


def overlap(mask: np.ndarray, truth: np.ndarray, missed: int = 0) -> tuple[float, float]:
    """Dice and IoU of two masks of one crop; `missed` is how much of the truth lies outside it."""
    both = int((mask & truth).sum())
    total = int(mask.sum()) + int(truth.sum()) + missed
    return 2 * both / max(total, 1), both / max(total - both, 1)


def read_pairs(data: Path) -> dict[str, list[tuple[str, np.ndarray, np.ndarray]]]:
    """(name, image, labels) of each data set."""
    dsb = split_held_back(read_images(data / "dsb2018_stained"))[1]
    folder = data / "deepliif_lung1"
    lung = cv2.cvtColor(cv2.imread(str(folder / "Lung1_hematoxylin.png")), cv2.COLOR_BGR2RGB)
    lung_labels = cv2.imread(str(folder / "Lung1_inst.png"), cv2.IMREAD_UNCHANGED).astype(np.int32)
    monuseg = [(i.name, i.rgb, i.labels) for i in read_images(data / "monuseg2018_train")]
    return {
        "monuseg": monuseg,
        "dsb": [(i.name, i.rgb, i.labels) for i in dsb],
        "deepliif": [("Lung1_hematoxylin", lung, lung_labels)],
    }


def score_sets(
    predict: Predictor, sets: dict[str, list[tuple[str, np.ndarray, np.ndarray]]]
) -> dict[str, dict]:
    """Figures per data set: mean over images of the mean over nuclei; Spearman over all nuclei."""
    figures: dict[str, dict] = {}
    for set_name, pairs in sets.items():
        per_image = {}
        for position, (name, rgb, labels) in enumerate(pairs):
            per_image[name] = score_boxes(predict, rgb, labels, seed=position)
            means = {
                k: round(float(v.mean()), 4)
                for k, v in per_image[name].items()
                if k.endswith(("dice", "ellipse"))
            }
            progress(f"{set_name} {name[:24]} {means}")
        add_figures(figures, set_name, per_image)
        if set_name == "monuseg":
            kidney = {name: scores for name, scores in per_image.items() if "-B0-" in name}
            add_figures(figures, "monuseg_kidney", kidney)
    return figures


def add_figures(figures: dict[str, dict], prefix: str, per_image: dict[str, dict[str, np.ndarray]]) -> None:
    for kind in ("tight", "loose"):
        for suffix, key in (("", "dice"), ("_ellipse", "ellipse")):
            means = [scores[f"{kind}_{key}"].mean() for scores in per_image.values()]
            pooled = np.concatenate([scores[f"{kind}_{key}"] for scores in per_image.values()])
            figures[f"{prefix}_{kind}_dice{suffix}"] = {
                "value": round(float(np.mean(means)), 4),
                "unit": "Dice",
                "min": round(float(min(means)), 4),
                "max": round(float(max(means)), 4),
                "n": len(means),
                "note": f"mean over images; over all {len(pooled)} nuclei {pooled.mean():.4f}",
            }
    predicted, true = (
        np.concatenate(
            [scores[f"{kind}_{key}"] for scores in per_image.values() for kind in ("tight", "loose")]
        )
        for key in ("predicted", "iou")
    )
    figures[f"{prefix}_predicted_iou_spearman"] = {
        "value": round(float(spearmanr(predicted, true).statistic), 4),
        "unit": "rank correlation",
        "n": len(true),
        "note": "predicted and true IoU over nuclei, tight and loose boxes together",
    }


def promptless_figure(sam: Sam, pairs: list[tuple[str, np.ndarray, np.ndarray]], note: str) -> dict:
    values = []
    for _, rgb, labels in pairs:
        with torch.no_grad():
            mask = promptless_mask(sam, embed(sam, rgb).float())
        height, width = labels.shape
        truth = labels[: height // 2 * 2 : 2, : width // 2 * 2 : 2] > 0
        values.append(dice(mask[: truth.shape[0], : truth.shape[1]], truth))
    return {
        "value": round(float(np.mean(values)), 4),
        "unit": "Dice",
        "min": round(min(values), 4),
        "max": round(max(values), 4),
        "n": len(values),
        "note": note,
    }


def milliseconds(work: Callable[[], object], repeats: int) -> dict:
    work()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        times.append(1000 * (time.perf_counter() - start))
    return {
        "value": round(float(np.median(times)), 1),
        "unit": "ms",
        "min": round(min(times), 1),
        "max": round(max(times), 1),
        "n": repeats,
        "note": "eager float32, whole path in process",
    }


def speed_figures(sam: Sam) -> dict[str, dict]:
    rng = np.random.default_rng(0)
    image = rng.integers(0, 255, (512, 512, 3), dtype=np.uint8)
    corners = rng.uniform(0, 480, (64, 2)).astype(np.float32)
    boxes = np.concatenate([corners, corners + 24], axis=1)
    with torch.no_grad():
        features = embed(sam, image)
        return {
            "embed_512_ms": milliseconds(lambda: embed(sam, image), 7),
            "one_box_ms": milliseconds(lambda: decode_boxes(sam, features, boxes[:1]), 20),
            "boxes64_ms": milliseconds(lambda: decode_boxes(sam, features, boxes), 5),
        }


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--data", type=Path, required=True, help="folder with monuseg2018_train, dsb2018_stained, ..."
    )
    parser.add_argument("--weights", type=Path, required=True, help="a file that pretrain wrote")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument(
        "--sets", nargs="+", default=["monuseg", "dsb", "deepliif"], help="data sets to score"
    )
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    sam = load_weights(options.weights)
    sets = {name: pairs for name, pairs in read_pairs(options.data).items() if name in options.sets}
    embedded: dict[int, Tensor] = {}

    def predict(rgb: np.ndarray, boxes: np.ndarray) -> tuple[list[Nucleus], np.ndarray]:
        if id(rgb) not in embedded:
            embedded.clear()
            with torch.no_grad():
                embedded[id(rgb)] = embed(sam, rgb)
        return decode_boxes(sam, embedded[id(rgb)], boxes)

    figures = score_sets(predict, sets)
    for name, pairs in sets.items():
        figures[f"{name}_promptless_dice"] = promptless_figure(sam, pairs, "all nuclei, no prompt")
    figures |= speed_figures(sam)
    figures["weights_mb"] = {"value": round(options.weights.stat().st_size / 1e6, 2), "unit": "MB"}
    machine = {
        "cores": os.cpu_count(),
        "threads": options.threads,
        "torch": torch.__version__,
        "load": os.getloadavg()[0],
    }
    print(json.dumps({"benchmark": "compact_sam", "machine": machine, "figures": figures}))


if __name__ == "__main__":
    main()
