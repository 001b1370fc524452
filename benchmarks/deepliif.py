"""One real pair of stained and IF images, end to end: python -m benchmarks.deepliif [--quick]

The tile (DeepLIIF's Lung1: hematoxylin, DAPI, Ki67, 61 nuclei with class) is imported into a study of its
own. All else goes through that study:

- Registration. The instances lie in the hematoxylin's frame, the IF channels in one of their own. The
  whole-pixel shift that makes DAPI correlate best with the hematoxylin's darkness is measured, and used for
  the marker too, as both are of one scan. The marker and the truth take no part in it.
- Threshold. Triangle, signed for the slide: marker-positive nuclei are few, so the histogram has one peak
  and a long tail, for which the method was made. Otsu, which looks for two peaks, is reported beside it.
- Class. A nucleus is positive where at least half of it is above the threshold (molecular support >= 0.5).

Which standard method sets the threshold is the only choice made with the truth in sight; Otsu's figure says
how much it matters. Dice is of single nuclei: SAM's mask from the true instance's box against the instance.
In loose boxes each side lies 0 to 5 px further out.
"""

import argparse
import json
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch

from allinsam.errors import AllinsamError, InputError
from allinsam.imaging import read_channel
from allinsam.masks import decode_rle
from allinsam.prompts import jitter_boxes, labels_to_boxes
from allinsam.store import Study, images, open_study
from allinsam.store import study as study_store
from allinsam.thresholding import THRESHOLDS, marker_mask, molecular_support
from allinsam.workflow.annotating import masks_for_boxes, read_patch, read_registered_channel
from allinsam.workflow.importing import import_study
from allinsam.workflow.learning import study_cache
from allinsam.workflow.preparing import sign_thresholds
from benchmarks.report import figure, print_report, progress, shared_data
from benchmarks.segment import LOOSE_PX, dice, inscribed_ellipse

MARKER = "Ki67"
METHOD = "triangle"
POSITIVE_SUPPORT = 0.5
MAX_SHIFT_PX = 12
SMOOTHING_PX = 2.0
SIGNER = "benchmark"


@dataclass(frozen=True)
class Truth:
    """Instances (H, W) and, for each number 1..n, whether its nucleus carries the marker."""

    labels: np.ndarray
    ids: np.ndarray
    boxes: np.ndarray
    positive: np.ndarray


def read_truth(folder: Path) -> Truth:
    """The nuclei of a folder that holds one tile in DeepLIIF's layout."""
    found = sorted(folder.glob("*_inst.png"))
    if len(found) != 1:
        raise InputError(f"{folder} holds {len(found)} files *_inst.png. Point --data at one tile's folder.")
    labels = read_channel(found[0]).astype(np.int32)
    classes = json.loads(found[0].with_name(found[0].name.replace("_inst.png", "_classes.json")).read_text())
    ids, boxes = labels_to_boxes(labels)
    return Truth(labels, ids, boxes, np.array([classes[str(number)] == "positive" for number in ids]))


def register(study: Study, patch_id: int) -> tuple[float, float, float]:
    """Keep the best whole-pixel shift of DAPI onto the stained image; returns dx, dy and correlation."""
    darkness = 255 - read_patch(study, patch_id).astype(np.float32).mean(axis=2)
    dapi, _ = read_registered_channel(study, patch_id, "DAPI")
    smooth = [cv2.GaussianBlur(np.float32(image), (0, 0), SMOOTHING_PX) for image in (darkness, dapi)]
    inner = smooth[1][MAX_SHIFT_PX:-MAX_SHIFT_PX, MAX_SHIFT_PX:-MAX_SHIFT_PX]
    scores = cv2.matchTemplate(smooth[0], inner, cv2.TM_CCOEFF_NORMED)
    dy, dx = np.array(np.unravel_index(scores.argmax(), scores.shape), dtype=float) - MAX_SHIFT_PX
    quality = float(scores.max())
    with study.science.write() as db:
        matrix = np.array([[1, 0, dx], [0, 1, dy]])
        images.add_registration(db, patch_id, matrix, "shift of the nuclear channel", True, quality)
    return dx, dy, quality


def box_dice(study: Study, patch_id: int, truth: Truth, seeds: list[int | None]) -> dict[str, list[float]]:
    """Mean Dice of SAM's masks, and of the ellipses in the same boxes, for each seed; None: tight boxes."""
    cache = study_cache(study)
    found: dict[str, list[float]] = {"masks": [], "ellipses": [], "class_accuracy": []}
    for seed in seeds:
        boxes = truth.boxes
        if seed is not None:
            boxes = jitter_boxes(boxes, LOOSE_PX, truth.labels.shape, np.random.default_rng(seed))
        answers = masks_for_boxes(study, cache, patch_id, MARKER, boxes)
        masks = [decode_rle(answer["mask"]) for answer in answers]
        whole = (slice(0, truth.labels.shape[0]), slice(0, truth.labels.shape[1]))
        ellipses = [inscribed_ellipse(box, whole) for box in boxes]
        for name, shapes in (("masks", masks), ("ellipses", ellipses)):
            pairs = zip(shapes, truth.ids, strict=True)
            found[name].append(float(np.mean([dice(mask, truth.labels == number) for mask, number in pairs])))
        support = np.array([answer["molecular_support"] for answer in answers])
        found["class_accuracy"].append(accuracy(support, truth))
    return found


def support_of_instances(study: Study, patch_id: int, truth: Truth, method: str) -> np.ndarray:
    """The share of each true nucleus above a method's threshold."""
    channel, _ = read_registered_channel(study, patch_id, MARKER)
    with study.science.read() as db:
        (stored,) = [c for c in images.list_channels(db, patch_id) if c["marker"] == MARKER]
    # The threshold is of the channel as it was imported, as the signed one is.
    value = THRESHOLDS[method](read_channel(study.image_path(stored["image_sha256"])))
    bright = marker_mask(channel, value)
    return np.array([molecular_support(truth.labels == number, bright) for number in truth.ids])


def accuracy(support: np.ndarray, truth: Truth) -> float:
    """Share of nuclei whose class the rule gives."""
    return float(np.mean((support >= POSITIVE_SUPPORT) == truth.positive))


def measure(data: Path, quick: bool = False) -> dict[str, dict]:
    """All figures, from an import into a study that is thrown away."""
    truth = read_truth(data)
    with tempfile.TemporaryDirectory() as folder:
        progress("importing")
        import_study(Path(folder) / "study", data)
        study = open_study(Path(folder) / "study")
        with study.science.write() as db:
            study_store.add_person(db, SIGNER, "expert")
        (signed,) = sign_thresholds(study, METHOD, SIGNER)
        unregistered = accuracy(support_of_instances(study, 1, truth, METHOD), truth)
        dx, dy, quality = register(study, 1)
        progress("tight boxes")
        tight = box_dice(study, 1, truth, [None])
        progress("loose boxes")
        loose = box_dice(study, 1, truth, [0] if quick else list(range(5)))
        support = support_of_instances(study, 1, truth, METHOD)
        otsu = accuracy(support_of_instances(study, 1, truth, "otsu"), truth)
    majority = max(truth.positive.mean(), 1 - truth.positive.mean())
    ellipse = "baseline: the ellipse inscribed in the box"
    rule = f"{METHOD} threshold {signed['value']:g}, support >= {POSITIVE_SUPPORT}"
    return {
        "n_nuclei": figure([len(truth.ids)], "nuclei", note=f"{truth.positive.sum()} positive"),
        "mean_dice": figure(tight["masks"], "dice", tight["ellipses"][0], f"tight boxes; {ellipse}"),
        "mean_dice_loose": figure(
            loose["masks"],
            "dice",
            float(np.median(loose["ellipses"])),
            f"sides 0-{LOOSE_PX} px out; {ellipse}",
        ),
        "class_accuracy": figure(
            [accuracy(support, truth)], "share", majority, f"{rule}; baseline: always negative"
        ),
        "class_accuracy_sam_masks": figure(
            tight["class_accuracy"], "share", majority, f"{rule}, in SAM's masks"
        ),
        "class_accuracy_otsu": figure([otsu], "share", majority, "Otsu's threshold instead"),
        "class_accuracy_unregistered": figure([unregistered], "share", majority, f"{rule}; no registration"),
        "lowest_positive_support": figure([support[truth.positive].min()], "share", note=rule),
        "highest_negative_support": figure([support[~truth.positive].max()], "share", note=rule),
        "registration_dx_px": figure([dx], "px", note=f"DAPI onto hematoxylin, correlation {quality:.3f}"),
        "registration_dy_px": figure([dy], "px", note=f"DAPI onto hematoxylin, correlation {quality:.3f}"),
    }


def main() -> int:
    """Parse the command line, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="loose boxes of one seed instead of five")
    parser.add_argument(
        "--data", type=Path, default=shared_data() / "deepliif_lung1", help="one tile's folder"
    )
    parser.add_argument("--threads", type=int, default=1, help="more than the free cores cost time")
    settings = parser.parse_args()
    torch.set_num_threads(settings.threads)
    try:
        figures = measure(settings.data, settings.quick)
    except AllinsamError as error:
        print(f"benchmarks.deepliif: {error}", file=sys.stderr)
        return 2
    print_report("deepliif", figures)
    return 0


if __name__ == "__main__":
    sys.exit(main())
