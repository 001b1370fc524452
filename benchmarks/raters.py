"""How far people agree who outlined the same cells: python -m benchmarks.raters --set FILE.npz

FILE.npz holds one cell in each image and everybody's mask of it: `raters`, the names, and for each image ID
`ID__shape` (raters, height, width) and `ID__masks`, the masks packed to bits. Names begin with expert_ or
lay_; one is gold. Each figure is the mean Dice over all images and all pairs of two raters of these kinds, by
`allinsam.agreement`, and n is how many pairs of masks that are. Two tools of one expert count as two raters.
majority_gold: pixels that more than half of the lay workers drew, against gold.
"""

import argparse
import json
import math
import sys
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from allinsam.agreement import dice_by_kind, mask_agreement
from allinsam.consensus import majority_mask
from allinsam.errors import AllinsamError, InputError
from allinsam.metrics import METRICS
from benchmarks.report import machine

GOLD, EXPERT, LAY = "gold", "expert", "lay"
# Kinds of the two, in alphabetical order -> name of the figure.
PAIRS = {
    (EXPERT, EXPERT): "expert_expert",
    (LAY, LAY): "lay_lay",
    (EXPERT, LAY): "lay_expert",
    (GOLD, LAY): "lay_gold",
    (EXPERT, GOLD): "expert_gold",
}

Masks = Mapping[str, np.ndarray]  # rater -> bool (H, W)


def read_set(path: Path) -> Iterator[tuple[str, Masks]]:
    """Each image's name and its masks by rater.

    Raises InputError where the file is not what it should be.
    """
    try:
        with np.load(path, allow_pickle=False) as stored:
            raters = [str(name) for name in stored["raters"]]
            for image in (key.removesuffix("__masks") for key in stored.files if key.endswith("__masks")):
                shape = tuple(int(length) for length in stored[f"{image}__shape"])
                bits, known = stored[f"{image}__masks"], len(shape) == 3 and shape[0] == len(raters)
                if not known or bits.dtype != np.uint8 or bits.size != math.ceil(math.prod(shape) / 8):
                    raise InputError(
                        f"Image {image!r} of {path}: masks of shape {shape} do not belong to {len(raters)} "
                        "raters. Pack bool (raters, height, width) with numpy.packbits."
                    )
                masks = np.unpackbits(bits, count=math.prod(shape)).reshape(shape)
                yield image, dict(zip(raters, masks.astype(bool), strict=True))
    except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise InputError(
            f"{path} is no file of raters' masks: {error}. See --help for its format."
        ) from error


def kind_of(rater: str) -> str:
    """expert, lay or gold; any other beginning is a kind of its own and in no figure."""
    return rater.split("_", 1)[0]


def measure(path: Path) -> dict[str, float | int | None]:
    """Mean Dice and its n of each kind of pair, and of the lay workers' majority against gold."""
    images = dict(read_set(path))
    if not images:
        raise InputError(f"{path} holds no image with masks.")
    found: dict[str, float | int | None] = {"images": len(images)}
    pairs = dice_by_kind(mask_agreement(images), kind_of)
    for kinds, name in PAIRS.items():
        row = pairs.get(kinds)
        found |= {f"{name}_dice": row.mean if row else None, f"{name}_n": row.n if row else 0}
    majority = []
    for masks in images.values():
        lay = [mask for rater, mask in masks.items() if kind_of(rater) == LAY]
        if lay and GOLD in masks:
            majority.append(METRICS["dice"](majority_mask(lay), masks[GOLD]))
    mean = float(np.mean(majority)) if majority else None
    return found | {"majority_gold_dice": mean, "majority_gold_n": len(majority)}


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--set", type=Path, required=True, metavar="FILE.npz", help="everybody's masks")
    args = parser.parse_args(arguments)
    try:
        found = measure(args.set)
    except AllinsamError as error:
        print(f"benchmarks.raters: {error}", file=sys.stderr)
        return 2
    print(json.dumps({"benchmark": "raters", "set": args.set.name, **found, "machine": machine()}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
