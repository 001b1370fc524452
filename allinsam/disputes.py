"""Every nucleus that any rater of a patch marked, and whether the raters are at one about it."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from string import ascii_uppercase

import numpy as np

from allinsam.consensus import DEFAULTS as CONSENSUS
from allinsam.consensus import (
    ClassChoice,
    count_votes,
    disjoint_outlines,
    find_objects,
    majority_classes,
    window_of,
)
from allinsam.marks import Instance, RatedPatch

# Of two outlines of one small nucleus, one px apart all round, the IoU is about 0.8.
OUTLINE_IOU = 0.7
REASONS = {
    "missed": "not everybody marked it",
    "class": "the classes differ",
    "outline": "the outlines differ",
}


@dataclass(frozen=True)
class Candidate:
    """One nucleus that somebody marked, with the outline and class of the majority of those who did."""

    members: tuple[Instance, ...]
    choice: ClassChoice
    pixels: np.ndarray  # (n,) ascending places in the flattened patch
    votes: int  # of those who looked for this class, how many marked it, whatever they called it
    n_looked: int
    alike: int  # the most outlines that one of them is like, itself among them
    reasons: tuple[str, ...]  # of REASONS; none: all are at one

    @property
    def in_dispute(self) -> bool:
        return bool(self.reasons)


def find_candidates(patch: RatedPatch, outline_iou: float = OUTLINE_IOU) -> list[Candidate]:
    """All of a patch by place, their outlines disjoint.

    outline_iou: two outlines of a nucleus are alike from this IoU on. Where one is like more than half of
    all, a single loose one is no dispute: the majority's outline leaves it out.
    """
    found = find_objects(patch)
    choices = majority_classes(found, CONSENSUS)
    votes = [
        count_votes(thing, patch, choice.class_name, 1) or (0, 0)
        for thing, choice in zip(found, choices, strict=True)
    ]
    claims = [(thing.members, counted[0]) for thing, counted in zip(found, votes, strict=True)]
    outlines = disjoint_outlines(claims, patch.size_hw, "majority") if claims else []
    candidates = []
    for thing, choice, (n, looked), pixels in zip(found, choices, votes, outlines, strict=True):
        alike = _most_alike(thing.members, outline_iou, patch.size_hw)
        reasons = (
            *(["missed"] if n < looked else []),
            *(["class"] if len(set(thing.said.values())) > 1 else []),
            *(["outline"] if 2 * alike <= len(thing.members) else []),
        )
        if not len(pixels):  # its neighbours have it all: what one rater drew is better than nothing
            pixels = max((member.pixels for member in thing.members), key=len)
        candidates.append(Candidate(thing.members, choice, pixels, n, looked, alike, reasons))
    return candidates


def _most_alike(members: Sequence[Instance], iou: float, size_hw: tuple[int, int]) -> int:
    drawn = window_of(members, size_hw)[1].reshape(len(members), -1).astype(np.float32)
    shared = (drawn @ drawn.T).astype(np.int64)  # counts of pixels: exact
    area = np.diag(shared)
    return int((shared / (area[:, None] + area[None, :] - shared) >= iou).sum(axis=1).max())


def letters(people: Iterable[str], patch: str) -> dict[str, str]:
    """A letter for each rater of a patch, in an order that tells nothing and is another on the next patch.

    patch: something of the patch that those who see the letters do not know.
    """
    order = sorted(people, key=lambda person: sha256(f"{patch}/{person}".encode()).digest())
    return {person: _letter(number) for number, person in enumerate(order)}


def _letter(number: int) -> str:
    again, place = divmod(number, len(ascii_uppercase))
    return ascii_uppercase[place] + (str(again + 1) if again else "")
