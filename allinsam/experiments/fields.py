"""Fully annotated images (MoNuSeg's, or any with label images): read, dealt into folds, labelled in part."""

import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from allinsam.errors import InputError
from allinsam.imaging import read_channel, read_rgb
from allinsam.interchange.monuseg import read_monuseg
from allinsam.masks import decode_rle, instances_to_labels
from allinsam.prompts import jitter_boxes, labels_to_boxes
from allinsam.sam.segmenter import Segmenter

LABELS_ENDING = "_inst.png"
IMAGE_FOLDER, XML_FOLDER = "Tissue Images", "Annotations"
IMAGE_ENDINGS = (".tif", ".tiff", ".png")


@dataclass(frozen=True)
class Field:
    """An image uint8 (H, W, 3), the label image (H, W) of its nuclei, and the window of it that teaches."""

    name: str
    image_rgb: np.ndarray
    labels: np.ndarray
    window_xyxy: tuple[int, int, int, int] | None = None


def read_fields(folder: Path) -> list[Field]:
    """Every image with its nuclei: NAME.png beside NAME_inst.png, or MoNuSeg's two folders; by name.

    Raises:
        InputError: neither is there, or an image and its labels differ in size.
    """
    if (folder / XML_FOLDER).is_dir():
        fields = [_read_published(path) for path in sorted((folder / XML_FOLDER).glob("*.xml"))]
    else:
        fields = [_read_beside(path) for path in sorted(folder.glob(f"*{LABELS_ENDING}"))]
    if not fields:
        raise InputError(
            f"{folder} holds neither NAME.png with NAME{LABELS_ENDING} nor MoNuSeg's folders "
            f"{IMAGE_FOLDER!r} and {XML_FOLDER!r}. Point at one of the two."
        )
    return fields


def _read_beside(labels_path: Path) -> Field:
    name = labels_path.name.removesuffix(LABELS_ENDING)
    image = read_rgb(labels_path.with_name(f"{name}.png"))
    labels = read_channel(labels_path).astype(np.int32)
    if labels.shape != image.shape[:2]:
        raise InputError(f"{labels_path} is {labels.shape} px, its image {image.shape[:2]}. Make them equal.")
    return Field(name, image, labels)


def _read_published(xml: Path) -> Field:
    folder = xml.parents[1] / IMAGE_FOLDER
    path = next(
        (folder / (xml.stem + end) for end in IMAGE_ENDINGS if (folder / (xml.stem + end)).exists()), None
    )
    if path is None:
        raise InputError(f"{xml.name} has no image in {folder}. Put {xml.stem}.tif there.")
    image = read_rgb(path)
    found = read_monuseg(xml, image.shape[:2], xml.stem)
    masks = [decode_rle(thing.mask.as_rle()) for thing in found.objects]
    return Field(xml.stem, image, instances_to_labels(masks, size_hw=image.shape[:2]))


def deal_folds(
    names: Sequence[str], folds: int, seed: int, spread: str = "", validation: int = 2
) -> list[dict[str, str]]:
    """One name -> train, val or test for each fold; every image is tested once.

    spread: images with this in their name come first, so that no fold gets two before each has one.
    validation: how many of the images that are not tested choose epoch and threshold.
    """
    if folds < 2 or len(names) - math.ceil(len(names) / folds) - validation < 1:
        raise InputError(
            f"{len(names)} images cannot be dealt into {folds} folds with {validation} for validation. "
            "Give more images, or fewer folds."
        )
    rng = np.random.default_rng(seed)
    first = sorted(name for name in names if spread and spread in name)
    rest = sorted(set(names) - set(first))
    order = [group[i] for group in (first, rest) for i in rng.permutation(len(group))]
    dealt = []
    for fold in range(folds):
        tested = set(order[fold::folds])
        others = sorted(set(names) - tested)
        chosen = {others[i] for i in rng.choice(len(others), validation, replace=False)}
        dealt.append(
            {
                name: "test" if name in tested else "val" if name in chosen else "train"
                for name in sorted(names)
            }
        )
    return dealt


def cut_window(field: Field, share: float, seed: int) -> Field:
    """The field with one random square of `share` of its area as all that is labelled; 1 is all of it.

    Of 1000 x 1000 px, 4 % are 200 x 200 and 0.5 % 71 x 71.
    """
    if not 0 < share <= 1:
        raise InputError(f"A share of {share!r} is not usable. Give one above 0, up to 1.")
    if share == 1:
        return field
    height, width = field.labels.shape
    side = min(round((share * height * width) ** 0.5), height, width)
    rng = np.random.default_rng([seed, zlib.crc32(field.name.encode())])
    x, y = (int(rng.integers(0, length - side + 1)) for length in (width, height))
    return replace(field, window_xyxy=(x, y, x + side, y + side))


def labels_from_boxes(field: Field, segmenter: Segmenter, outward_px: int, seed: int) -> Field:
    """The field with SAM's masks of its nuclei's boxes as labels; each side lies 0 to outward_px further out.

    A contested pixel goes to the mask with the higher predicted IoU.
    """
    ids, boxes = labels_to_boxes(field.labels)
    if not len(ids):
        return field
    rng = np.random.default_rng([seed, zlib.crc32(field.name.encode())])
    boxes = jitter_boxes(boxes, outward_px, field.labels.shape, rng)
    found = segmenter.masks_from_boxes(segmenter.embed(field.image_rgb), boxes)
    return replace(field, labels=instances_to_labels(found.masks, found.predicted_iou))
