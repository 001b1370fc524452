"""How good the masks from boxes are, and how fast: python -m benchmarks.segment [--images DIR] [--quick]

Single nuclei given their boxes: mean Dice per image, averaged over images, beside the ellipse inscribed in
the same box and OpenCV's GrabCut. Tight boxes touch the nucleus; loose ones have each side 0 to 5 whole px
further out. `--images DIR` scores any folder of NAME.png with NAME_inst.png. Times are of a 512 x 512 patch,
ViT-B's beside SamPredictor with the same random weights in the same run.
"""

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from scipy.stats import spearmanr

from allinsam.errors import InputError
from allinsam.sam.backbones import load_backbone, weights_path
from allinsam.sam.compact import FRAME_PX, MASK_STRIDE_PX, PATCH_PX, decode_crops
from allinsam.sam.frames import frame_starts
from allinsam.sam.segmenter import Segmentation, Segmenter, open_segmenter
from allinsam.training.pretrain import read_images, split_held_back
from benchmarks.report import figure, print_report, progress, shared_data
from benchmarks.segment_speed import compact_speed, published_speed

LOOSE_PX = 5
MIN_AREA_PX = 20  # smaller pieces are nuclei cut by the image's border
GRABCUT_EVERY = 12  # nuclei: it takes longer than all else together
GRABCUT_ROUNDS = 3


@dataclass(frozen=True)
class Picture:
    """An image (H, W, 3) uint8 with its instance labels (H, W)."""

    name: str
    rgb: np.ndarray
    labels: np.ndarray


@dataclass(frozen=True)
class Scores:
    """Per nucleus of one image, for one kind of box: Dice of model, ellipse and GrabCut (a part), IoUs."""

    dice: np.ndarray
    ellipse: np.ndarray
    grabcut: np.ndarray
    iou: np.ndarray
    predicted_iou: np.ndarray


def read_folder(folder: Path) -> list[Picture]:
    """Every NAME.png with its NAME_inst.png, in order of name; InputError where there is none."""
    pictures = []
    for path in sorted(folder.glob("*_inst.png")):
        pictures.append(read_picture(path.with_name(path.name.replace("_inst.png", ".png")), path))
    if not pictures:
        raise InputError(f"{folder} holds no NAME_inst.png. Point at a folder of images and label images.")
    return pictures


def read_picture(image_path: Path, labels_path: Path) -> Picture:
    bgr = cv2.imread(str(image_path))
    labels = cv2.imread(str(labels_path), cv2.IMREAD_UNCHANGED)
    if bgr is None or labels is None or bgr.shape[:2] != labels.shape:
        raise InputError(f"{image_path} and {labels_path.name} cannot be read as an image and its labels.")
    return Picture(image_path.stem, cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB), labels.astype(np.int32))


def data_sets(data: Path) -> dict[str, list[Picture]]:
    """The real images at hand, none of which shaped the compact weights; missing folders are left out."""
    found = {}
    if (data / "monuseg2018_train").is_dir():
        found["monuseg"] = read_folder(data / "monuseg2018_train")
        found["monuseg_kidney"] = [picture for picture in found["monuseg"] if "-B0-" in picture.name]
    if (data / "dsb2018_stained").is_dir():
        held_back = split_held_back(read_images(data / "dsb2018_stained"))[1]
        found["dsb"] = [Picture(image.name, image.rgb, image.labels) for image in held_back]
    lung = data / "deepliif_lung1"
    if lung.is_dir():
        found["lung"] = [read_picture(lung / "Lung1_hematoxylin.png", lung / "Lung1_inst.png")]
    return found


# --- scoring ---------------------------------------------------------------------------------------------


def draw_boxes(labels: np.ndarray, seed: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Ids (n,) of nuclei large enough to be annotated, and their boxes (n, 4), tight and loose."""
    areas = np.bincount(labels.ravel())
    ids = np.flatnonzero(areas >= MIN_AREA_PX)
    ids = ids[ids > 0]
    boxes = []
    for number in ids:
        rows, columns = np.nonzero(labels == number)
        boxes.append((columns.min(), rows.min(), columns.max() + 1, rows.max() + 1))
    tight = np.array(boxes, np.float32).reshape(-1, 4)
    moved = np.random.default_rng(seed).integers(0, LOOSE_PX + 1, tight.shape)
    loose = np.clip(tight + np.array([-1, -1, 1, 1]) * moved, 0, np.array(labels.shape[::-1] * 2))
    return ids, {"tight": tight, "loose": loose.astype(np.float32)}


def score(picture: Picture, ids: np.ndarray, boxes: np.ndarray, found: Segmentation) -> Scores:
    rows: list[tuple[float, float, float, float]] = []
    grabcut = []
    for position, (number, box, mask) in enumerate(zip(ids, boxes, found.masks, strict=True)):
        window = around(box, picture.labels.shape)
        truth, inside = picture.labels[window] == number, mask[window]
        # Boxes hold their nucleus, and no mask reaches beyond what is cut out here.
        ellipse = inscribed_ellipse(box, window)
        rows.append((dice(inside, truth), dice(ellipse, truth), iou(inside, truth)))
        if position % GRABCUT_EVERY == 0:
            grabcut.append(dice(grab_cut(picture.rgb[window], box, window), truth))
    dices, ellipses, ious = np.array(rows, np.float64).reshape(-1, 3).T
    return Scores(dices, ellipses, np.array(grabcut), ious, found.predicted_iou.astype(np.float64))


def around(box: np.ndarray, size_hw: tuple[int, int]) -> tuple[slice, slice]:
    """Rows and columns of a box and as much again round it."""
    half = (box[2:] - box[:2]) / 2 + 4
    low = np.maximum(np.floor(box[:2] - half), 0).astype(int)
    high = np.minimum(np.ceil(box[2:] + half), size_hw[::-1]).astype(int)
    return slice(low[1], high[1]), slice(low[0], high[0])


def dice(mask: np.ndarray, truth: np.ndarray) -> float:
    """Dice of two masks; 1 where both are empty."""
    total = np.count_nonzero(mask) + np.count_nonzero(truth)
    return 2 * np.count_nonzero(mask & truth) / total if total else 1.0


def iou(mask: np.ndarray, truth: np.ndarray) -> float:
    return np.count_nonzero(mask & truth) / max(np.count_nonzero(mask | truth), 1)


def inscribed_ellipse(box: np.ndarray, window: tuple[slice, slice]) -> np.ndarray:
    """The ellipse that touches a box's four sides, as a mask of a window of the image."""
    ys, xs = np.mgrid[window] + 0.5
    middle, half = (box[:2] + box[2:]) / 2, (box[2:] - box[:2]) / 2
    return ((xs - middle[0]) / half[0]) ** 2 + ((ys - middle[1]) / half[1]) ** 2 <= 1


def grab_cut(rgb: np.ndarray, box: np.ndarray, window: tuple[slice, slice]) -> np.ndarray:
    """OpenCV's GrabCut of a window, started from the box."""
    corner = np.array([window[1].start, window[0].start])
    x, y = np.floor(box[:2] - corner).astype(int)
    width, height = np.ceil(box[2:] - box[:2]).astype(int)
    marks = np.zeros(rgb.shape[:2], np.uint8)
    rectangle = (int(x), int(y), int(width), int(height))
    models = np.zeros((1, 65)), np.zeros((1, 65))
    try:
        cv2.setRNGSeed(0)
        bgr = np.ascontiguousarray(rgb[..., ::-1])
        cv2.grabCut(bgr, marks, rectangle, *models, GRABCUT_ROUNDS, cv2.GC_INIT_WITH_RECT)
    except cv2.error:  # a box without any ground beside it
        return np.zeros(marks.shape, bool)
    return (marks == cv2.GC_FGD) | (marks == cv2.GC_PR_FGD)


def accuracy(segmenter: Segmenter, name: str, pictures: list[Picture]) -> dict[str, dict]:
    """Figures of one data set."""
    scores: dict[str, list[Scores]] = {"tight": [], "loose": []}
    for seed, picture in enumerate(pictures):
        embedding = segmenter.embed(picture.rgb)
        ids, boxes = draw_boxes(picture.labels, seed)
        for kind in scores if len(ids) else ():
            found = segmenter.masks_from_boxes(embedding, boxes[kind])
            scores[kind].append(score(picture, ids, boxes[kind], found))
            progress(f"{name} {picture.name[:30]} {kind} {scores[kind][-1].dice.mean():.4f}")
    figures = {}
    for kind, of_images in scores.items():
        nuclei = sum(len(scores.dice) for scores in of_images)
        note = f"mean over images, {nuclei} nuclei"
        for suffix, values in (
            ("", [scores.dice.mean() for scores in of_images]),
            ("_ellipse", [scores.ellipse.mean() for scores in of_images]),
            ("_grabcut", [scores.grabcut.mean() for scores in of_images]),
        ):
            figures[f"{name}_{kind}_dice{suffix}"] = mean_figure(values, "Dice", note)
        gains = [scores.dice.mean() - scores.ellipse.mean() for scores in of_images]
        figures[f"{name}_{kind}_gain"] = mean_figure(gains, "Dice", "over the ellipse, paired by image")
    both = [*scores["tight"], *scores["loose"]]
    ranks = spearmanr(
        np.concatenate([scores.predicted_iou for scores in both]),
        np.concatenate([scores.iou for scores in both]),
    )
    figures[f"{name}_predicted_iou_spearman"] = figure(
        [float(ranks.statistic)], "rank correlation", note="predicted and true IoU of all nuclei and boxes"
    )
    return figures


def mean_figure(values: list[float], unit: str, note: str) -> dict:
    """A figure whose value is the mean, which is what the metric is defined by."""
    return figure(values, unit, note=note) | {"value": round(float(np.mean(values)), 4)}


@torch.inference_mode()
def promptless(segmenter: Segmenter, name: str, pictures: list[Picture]) -> dict[str, dict]:
    """Dice of all nuclei together, found without any prompt; only the compact model was trained for it."""
    sam, values = segmenter.loaded.sam, []
    frame, scale = FRAME_PX // PATCH_PX, PATCH_PX // MASK_STRIDE_PX
    for picture in pictures:
        features = segmenter.embed(picture.rgb).features
        rows, columns = features.shape[2:]
        total = np.zeros((rows * scale, columns * scale), np.float32)
        weight = np.zeros_like(total)
        for top in frame_starts(rows, frame, 0.5):
            for left in frame_starts(columns, frame, 0.5):
                logits, _ = decode_crops(sam, features[:, :, top : top + frame, left : left + frame])
                place = tuple(slice(scale * start, scale * (start + frame)) for start in (top, left))
                total[place] += logits[0].cpu().numpy()
                weight[place] += 1
        height, width = picture.labels.shape
        mask = cv2.resize(total / weight, None, fx=MASK_STRIDE_PX, fy=MASK_STRIDE_PX)[:height, :width] > 0
        values.append(dice(mask, picture.labels > 0))
    return {f"{name}_promptless_dice": mean_figure(values, "Dice", "all nuclei, no prompt")}


def agreement(quick: Segmenter, reference: Segmenter, pictures: list[Picture]) -> dict[str, dict]:
    """Masks of the default path beside those of `segment_anything`'s own modules in fp32."""
    ious, losses = [], []
    for seed, picture in enumerate(pictures):
        ids, boxes = draw_boxes(picture.labels, seed)
        progress(f"reference path, {picture.name[:30]}")
        ours, theirs = (
            segmenter.masks_from_boxes(segmenter.embed(picture.rgb), boxes["tight"]).masks
            for segmenter in (quick, reference)
        )
        truths = [picture.labels == number for number in ids]
        ious += [iou(a, b) for a, b in zip(ours, theirs, strict=True)]
        losses.append(
            np.mean([dice(b, t) - dice(a, t) for a, b, t in zip(ours, theirs, truths, strict=True)])
        )
    note = f"{len(ious)} tight boxes; encoder in {'bf16' if quick.half else 'fp32'}"
    return {
        "reference_iou": mean_figure(ious, "IoU", note),
        "reference_dice_loss": mean_figure(losses, "Dice", note),
    }


# --- the command -----------------------------------------------------------------------------------------


def main(arguments: list[str] | None = None) -> None:
    """Parse the command line, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--images", type=Path, help="score this folder alone, and measure no times")
    parser.add_argument("--quick", action="store_true", help="the first image of each set, fewer repeats")
    parser.add_argument("--backbone", default="compact", help="name in the table, or a path to weights")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--data", type=Path, default=shared_data(), help="folder of the sets of real images")
    parser.add_argument("--sets", nargs="*", help="data sets to score; none named: all")
    parser.add_argument("--no-speed", action="store_true", help="measure no times")
    parser.add_argument("--no-vit-b", action="store_true", help="leave out ViT-B, which takes minutes")
    chosen = parser.parse_args(arguments)
    torch.set_num_threads(chosen.threads)

    segmenter = open_segmenter(chosen.backbone, device=chosen.device)
    row = segmenter.loaded.backbone
    sets = {"images": read_folder(chosen.images)} if chosen.images else data_sets(chosen.data)
    if not sets:
        progress(f"No real images at {chosen.data}: Dice is left out. Point --data at them.")
    sets = {name: pictures for name, pictures in sets.items() if not chosen.sets or name in chosen.sets}
    if chosen.quick:
        sets = {name: pictures[:1] for name, pictures in sets.items()}
    parts: list[Callable[[], dict[str, dict]]] = []
    for name, pictures in sets.items():
        parts.append(lambda name=name, pictures=pictures: accuracy(segmenter, name, pictures))
        if not row.whole_patch:
            parts.append(lambda name=name, pictures=pictures: promptless(segmenter, name, pictures))
    if "monuseg" in sets:
        plain = load_backbone(chosen.backbone, device=chosen.device, reference=True)
        reference = Segmenter(plain, precision="fp32", reference=True)
        parts.append(lambda: agreement(segmenter, reference, sets["monuseg"]))
    if not chosen.images and not chosen.no_speed:
        parts.append(lambda: compact_speed(segmenter, 3 if chosen.quick else 15))
        if not chosen.no_vit_b:
            parts.append(lambda: published_speed("vit_b", 1 if chosen.quick else 3))
    figures: dict[str, dict] = {}
    for part in parts:
        figures |= part()
    if "monuseg_predicted_iou_spearman" in figures:
        figures["predicted_iou_spearman"] = figures["monuseg_predicted_iou_spearman"]
    if row.name == chosen.backbone:
        size = weights_path(row.name).stat().st_size / 1e6
        figures["weights_mb"] = figure([size], "MB")
    print_report("segment", figures)


if __name__ == "__main__":
    main()
