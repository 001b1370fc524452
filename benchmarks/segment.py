"""How fast boxes become masks, and how good the masks are: python -m benchmarks.segment [--quick]

Times are for a 512 x 512 patch. Dice is of single nuclei given their boxes, on real images where they are at
hand, beside the ellipse inscribed in the same box. Tight boxes touch the nucleus; loose ones have each side 0
to 5 px further out.
"""

import argparse
import tempfile
from pathlib import Path
from statistics import median

import cv2
import numpy as np
import torch

from allinsam.prompts import jitter_boxes, labels_to_boxes
from allinsam.sam.backbones import load_backbone
from allinsam.sam.embeddings import EmbeddingCache
from allinsam.sam.segmenter import Segmenter
from benchmarks.report import figure, milliseconds, print_report, progress, shared_data

PATCH_PX = 512
LOOSE_PX = 5
MIN_AREA_PX = 30  # smaller pieces are nuclei cut by the crop's border


def timings(segmenter: Segmenter, repeats: int) -> dict[str, dict]:
    """Embedding a patch, decoding one box and 64 boxes on it, reading it back from disk."""
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (PATCH_PX, PATCH_PX, 3), dtype=np.uint8)
    corners = rng.uniform(10, PATCH_PX - 50, (64, 2))
    boxes = np.concatenate([corners, corners + rng.uniform(15, 40, (64, 2))], axis=1)
    embedding = segmenter.embed(image)

    progress("embedding a patch")
    embed_ms = milliseconds(lambda: segmenter.embed(image), repeats)
    progress("one box")
    one_ms = milliseconds(lambda: segmenter.masks_from_boxes(embedding, boxes[:1]), 4 * repeats)
    progress("64 boxes")
    many_ms = milliseconds(lambda: segmenter.masks_from_boxes(embedding, boxes), repeats)
    single_ms = milliseconds(
        lambda: [segmenter.masks_from_boxes(embedding, box[None]) for box in boxes], max(2, repeats // 3)
    )
    progress("reading an embedding from disk")
    with tempfile.TemporaryDirectory() as folder:
        EmbeddingCache(folder, segmenter).get(image)
        # A new cache each time has nothing in memory.
        read_ms = milliseconds(lambda: EmbeddingCache(folder, segmenter).get(image), repeats)
    without_cache = median(embed_ms) + median(one_ms)
    return {
        "embed_ms": figure(embed_ms, "ms", note=f"{len(embedding.frames)} frames"),
        "one_box_ms": figure(one_ms, "ms", without_cache, "baseline: the patch is embedded for the box"),
        "boxes_64_ms": figure(many_ms, "ms", median(single_ms), "baseline: the same boxes one at a time"),
        "read_embedding_ms": figure(read_ms, "ms", median(embed_ms), "baseline: embedding the patch"),
    }


def monuseg_crops(folder: Path, count: int, side_px: int = 256) -> list[tuple[np.ndarray, np.ndarray]]:
    """(image, labels) of one seeded crop of each of the first `count` images."""
    crops = []
    rng = np.random.default_rng(0)
    for path in sorted(folder.glob("*_inst.png"))[:count]:
        image, labels = _read(path.with_name(path.name.replace("_inst", "")), path)
        y0, x0 = rng.integers(0, image.shape[0] - side_px, 2)
        window = slice(y0, y0 + side_px), slice(x0, x0 + side_px)
        crops.append((image[window], labels[window]))
    return crops


def accuracy(segmenter: Segmenter, images: list[tuple[np.ndarray, np.ndarray]], name: str) -> dict[str, dict]:
    """Mean Dice over the nuclei of some images, for tight and for loose boxes."""
    figures = {}
    for kind, outward_px in (("tight", 0), ("loose", LOOSE_PX)):
        progress(f"{name}, {kind} boxes")
        found, ellipses = [], []
        for image, labels in images:
            ids, boxes = labels_to_boxes(labels)
            whole = np.bincount(labels.ravel())[ids] >= MIN_AREA_PX
            boxes = jitter_boxes(boxes[whole], outward_px, labels.shape, np.random.default_rng(1))
            masks = segmenter.masks_from_boxes(segmenter.embed(image), boxes).masks
            for number, mask, box in zip(ids[whole], masks, boxes, strict=True):
                found.append(dice(mask, labels == number))
                ellipses.append(dice(inscribed_ellipse(box, labels.shape), labels == number))
        note = f"mean over {len(found)} nuclei; baseline: the ellipse inscribed in the box"
        figures[f"{name}_{kind}_dice"] = figure([np.mean(found)], "dice", np.mean(ellipses), note)
    return figures


def dice(mask: np.ndarray, truth: np.ndarray) -> float:
    """Dice of two masks that are not both empty."""
    return 2 * np.count_nonzero(mask & truth) / (np.count_nonzero(mask) + np.count_nonzero(truth))


def inscribed_ellipse(box: np.ndarray, size_hw: tuple[int, int]) -> np.ndarray:
    """The ellipse that touches a box's four sides, as a mask."""
    ys, xs = np.mgrid[: size_hw[0], : size_hw[1]] + 0.5
    middle, half = (box[:2] + box[2:]) / 2, (box[2:] - box[:2]) / 2
    return ((xs - middle[0]) / half[0]) ** 2 + ((ys - middle[1]) / half[1]) ** 2 <= 1


def _read(image_path: Path, labels_path: Path) -> tuple[np.ndarray, np.ndarray]:
    image = cv2.cvtColor(cv2.imread(str(image_path)), cv2.COLOR_BGR2RGB)
    return image, cv2.imread(str(labels_path), cv2.IMREAD_UNCHANGED).astype(np.int32)


def main() -> None:
    """Parse the command line, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer repeats and images")
    parser.add_argument("--backbone", default="compact", help="name in the table, or a path to weights")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--threads", type=int, default=1, help="more than the free cores cost time")
    parser.add_argument("--data", type=Path, default=shared_data(), help="folder of real images")
    settings = parser.parse_args()
    torch.set_num_threads(settings.threads)

    segmenter = Segmenter(load_backbone(settings.backbone, device=settings.device))
    figures = timings(segmenter, repeats=3 if settings.quick else 10)
    monuseg, lung = settings.data / "monuseg2018_train", settings.data / "deepliif_lung1"
    if monuseg.is_dir():
        crops = monuseg_crops(monuseg, 3 if settings.quick else 13)
        figures |= accuracy(segmenter, crops, "monuseg")
    if lung.is_dir():
        tile = _read(lung / "Lung1_hematoxylin.png", lung / "Lung1_inst.png")
        figures |= accuracy(segmenter, [tile], "lung")
    if not monuseg.is_dir() and not lung.is_dir():
        progress(f"No real images at {settings.data}: Dice is left out. Point --data at them.")
    print_report("segment", figures)


if __name__ == "__main__":
    main()
