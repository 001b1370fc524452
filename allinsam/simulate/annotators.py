"""Simulated annotators: habits in a table, and the boxes they would draw."""

import zlib
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import find_objects

from allinsam.errors import InputError
from allinsam.simulate.settings import MARKER_OF_CLASS
from allinsam.simulate.tissue import SimulatedPatch

MIN_SEEN_PX = 40  # less of a nucleus than this is not boxed by anyone


@dataclass(frozen=True)
class Habits:
    """How somebody annotates. Rates are shares of the nuclei of the class in the patch."""

    group: str  # "expert" | "student"
    miss_rate: float
    wrong_class_rate: float  # boxes drawn on nuclei of another class
    false_box_rate: float  # boxes drawn where no nucleus is
    outward_px: int  # each side of a box lies U{0..this} px outside the nucleus
    seconds_median: float  # per box
    seconds_spread: float  # sigma of the log
    edit_rate: float  # share of masks whose outline is corrected afterwards
    comment: str


# One dominant fault each: hasty misses, loose draws wide and slowly, confused swaps classes and invents.
ANNOTATOR_HABITS: dict[str, Habits] = {
    "expert": Habits(
        group="expert",
        miss_rate=0.02,
        wrong_class_rate=0.01,
        false_box_rate=0.0,
        outward_px=1,
        seconds_median=4.0,
        seconds_spread=0.30,
        edit_rate=0.25,
        comment="Nephropathologist: sees nearly all.",
    ),
    "student_hasty": Habits(
        group="student",
        miss_rate=0.24,
        wrong_class_rate=0.03,
        false_box_rate=0.02,
        outward_px=2,
        seconds_median=2.4,
        seconds_spread=0.35,
        edit_rate=0.04,
        comment="Fast; misses every fourth nucleus.",
    ),
    "student_loose": Habits(
        group="student",
        miss_rate=0.05,
        wrong_class_rate=0.03,
        false_box_rate=0.02,
        outward_px=7,
        seconds_median=9.5,
        seconds_spread=0.45,
        edit_rate=0.15,
        comment="Slow; boxes are far too wide.",
    ),
    "student_confused": Habits(
        group="student",
        miss_rate=0.07,
        wrong_class_rate=0.20,
        false_box_rate=0.12,
        outward_px=2,
        seconds_median=5.0,
        seconds_spread=0.40,
        edit_rate=0.10,
        comment="Takes one class for the other and boxes what is no nucleus.",
    ),
}


@dataclass(frozen=True)
class SimulatedBox:
    class_name: str  # what the annotator calls it
    box: np.ndarray  # (4,) float32 xyxy px, half-open
    seconds: float
    truth_id: int | None  # the nucleus under the box, of whatever class; None where there is none


def simulate_boxes(habits: Habits, patch: SimulatedPatch, class_name: str, seed: int) -> list[SimulatedBox]:
    """The boxes one annotator draws for one class, in random order."""
    known = {*MARKER_OF_CLASS, "other"}
    if class_name not in known:
        raise InputError(f"Unknown class {class_name!r}. Choose one of {sorted(known)}.")
    rng = np.random.default_rng([seed, zlib.crc32(class_name.encode())])
    tight = _tight_boxes(patch.labels)
    own = [n for n in tight if patch.classes[n] == class_name]
    foreign = [n for n in tight if patch.classes[n] != class_name]
    seen = [n for n in own if rng.random() >= habits.miss_rate]
    swapped = _swap(rng, patch, foreign, rng.binomial(len(own), habits.wrong_class_rate))
    drawn: list[tuple[np.ndarray, int | None]] = [(tight[n], n) for n in [*seen, *swapped]]
    sizes = np.array([box[2:] - box[:2] for box in tight.values()]).reshape(-1, 2)
    for _ in range(rng.binomial(len(own), habits.false_box_rate)):
        drawn.append((_false_box(rng, patch.labels, sizes), None))
    return [
        SimulatedBox(
            class_name=class_name,
            box=_loosen(rng, drawn[i][0], habits.outward_px, patch.labels.shape),
            seconds=float(habits.seconds_median * np.exp(rng.normal(0, habits.seconds_spread))),
            truth_id=drawn[i][1],
        )
        for i in rng.permutation(len(drawn))
    ]


def _tight_boxes(labels: np.ndarray) -> dict[int, np.ndarray]:
    area = np.bincount(labels.ravel())
    boxes = {}
    for number, found in enumerate(find_objects(labels), start=1):
        if found is not None and area[number] >= MIN_SEEN_PX:
            rows, columns = found
            boxes[number] = np.array([columns.start, rows.start, columns.stop, rows.stop], np.float32)
    return boxes


def _swap(rng: np.random.Generator, patch: SimulatedPatch, foreign: list[int], count: int) -> list[int]:
    """Nuclei of other classes taken for this one: mostly the class with the other marker."""
    if not foreign or count == 0:
        return []
    weight = np.array([4.0 if patch.classes[n] in MARKER_OF_CLASS else 1.0 for n in foreign])
    chosen = rng.choice(foreign, size=min(count, len(foreign)), replace=False, p=weight / weight.sum())
    return [int(n) for n in chosen]


def _false_box(rng: np.random.Generator, labels: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """A box of a nucleus's size on a spot without one."""
    height, width = labels.shape
    size = sizes[rng.integers(len(sizes))] if len(sizes) else np.array([14.0, 14.0])
    best, best_share = np.zeros(4, np.float32), np.inf
    for _ in range(20):
        left, top = rng.integers(0, width - int(size[0])), rng.integers(0, height - int(size[1]))
        share = float((labels[top : top + int(size[1]), left : left + int(size[0])] > 0).mean())
        if share < best_share:
            best = np.array([left, top, left + size[0], top + size[1]], np.float32)
            best_share = share
    return best


def _loosen(
    rng: np.random.Generator, box: np.ndarray, outward_px: int, size_hw: tuple[int, int]
) -> np.ndarray:
    out = rng.integers(0, outward_px + 1, 4) * (-1, -1, 1, 1)
    height, width = size_hw
    return np.clip(box + out, 0, (width, height, width, height)).astype(np.float32)
