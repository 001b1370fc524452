"""What a practice round tells: every nucleus right, missed, too much, or of the wrong class, against gold."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from pycocotools import mask as coco

from allinsam.metrics import match_iou
from allinsam.records import Mask

# Two outlines are one nucleus above this IoU, as everywhere in the scores.
SAME_NUCLEUS_IOU = 0.5
KINDS = ("right", "wrong_class", "missed", "extra")


@dataclass(frozen=True)
class Outlined:
    """A nucleus that somebody outlined."""

    object_id: str
    class_id: int
    mask: Mask


@dataclass(frozen=True)
class Verdict:
    """kind is one of KINDS. A missed nucleus has no `drawn`, one too much no `gold`."""

    kind: str
    drawn: Outlined | None
    gold: Outlined | None


@dataclass(frozen=True)
class Mark:
    """f1: of finding the nuclei, whatever their class; 1 where there are none and none was drawn.

    class_accuracy: share of the nuclei found whose class is right; None where none was found.
    """

    f1: float
    class_accuracy: float | None
    counts: dict[str, int]

    @property
    def score(self) -> float:
        """F1 of nuclei found with their right class; 1 where there are none and none was drawn."""
        right, wrong = self.counts["right"], self.counts["wrong_class"]
        both = 2 * (right + wrong) + self.counts["missed"] + self.counts["extra"]
        return 2 * right / both if both else 1.0


def judge(drawn: Sequence[Outlined], gold: Sequence[Outlined]) -> list[Verdict]:
    """One verdict for each nucleus: of the drawn ones in their order, then those that were missed."""
    partner: dict[int, int] = {}
    if drawn and gold:
        codes = [[_code(thing) for thing in things] for things in (drawn, gold)]
        iou = np.asarray(coco.iou(*codes, [0] * len(gold)))
        rows, columns, _ = match_iou(iou, SAME_NUCLEUS_IOU)
        partner = dict(zip(rows.tolist(), columns.tolist(), strict=True))
    verdicts = []
    for row, thing in enumerate(drawn):
        true = gold[partner[row]] if row in partner else None
        if true is None:
            verdicts.append(Verdict("extra", thing, None))
        else:
            verdicts.append(
                Verdict("right" if thing.class_id == true.class_id else "wrong_class", thing, true)
            )
    found = set(partner.values())
    return verdicts + [Verdict("missed", None, true) for n, true in enumerate(gold) if n not in found]


def mark(verdicts: Sequence[Verdict]) -> Mark:
    """What verdicts add up to."""
    counts = {kind: Counter(verdict.kind for verdict in verdicts)[kind] for kind in KINDS}
    found = counts["right"] + counts["wrong_class"]
    drawn_and_gold = 2 * found + counts["missed"] + counts["extra"]
    return Mark(
        f1=2 * found / drawn_and_gold if drawn_and_gold else 1.0,
        class_accuracy=counts["right"] / found if found else None,
        counts=counts,
    )


def _code(thing: Outlined) -> dict:
    rle = thing.mask.as_rle()
    return {"size": rle["size"], "counts": rle["counts"].encode()}
