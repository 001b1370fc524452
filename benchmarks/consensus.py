"""Is a consensus better than one person, and are raters judged rightly: python -m benchmarks.consensus

Real raters: cells outlined by lay workers and experts (BU-BIL, sets 4 and 6), one cell in an image. Dice
against the set's gold, mean over its images: of a single lay worker, of what the lay workers agree on, and of
the experts' majority. In set 4 gold is the experts' majority itself. Left out where the data are not there.

Simulated raters: discs of two classes on a grid, and raters who miss, misname and draw wider or tighter at
rates that are known. What `allinsam.reliability` says of them, without the truth, is compared with these.
"""

import argparse
import sys
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from statistics import mean

import numpy as np

from allinsam.agreement import Ratings
from allinsam.consensus import RULES
from allinsam.errors import AllinsamError
from allinsam.latent_truth import staple
from allinsam.marks import rated_labels
from allinsam.metrics import METRICS
from allinsam.reliability import reliability
from benchmarks.raters import Masks, read_set
from benchmarks.report import figure, print_report, progress, shared_data

SETS = (4, 6)
CELL = "cell"
CLASSES = ("podocyte", "mesangial")
COMMONER = 0.6  # share of the first class


# ---------------------------------------------------------------- real raters


def agreed(masks: Masks, rule: str) -> np.ndarray:
    """The consensus of an image's raters, each of whom looked for its one cell."""
    patch = rated_labels({rater: {CELL: mask.astype(np.int32)} for rater, mask in masks.items()})
    return RULES[rule]({"": patch})[""].labels(CELL)


def dice(mask: np.ndarray, gold: np.ndarray) -> float:
    return METRICS["dice"]((mask > 0).astype(np.int32), gold.astype(np.int32))


def measure_set(path: Path) -> dict[str, tuple[list[float], str]]:
    """Name -> Dice of each image and a note."""
    found: dict[str, list[float]] = {}
    for _, by_rater in read_set(path):
        gold = by_rater["gold"]
        lay = {rater: mask for rater, mask in by_rater.items() if rater.startswith("lay")}
        experts = {rater: mask for rater, mask in by_rater.items() if rater.startswith("expert")}
        stack = np.stack(list(lay.values()))
        estimated = staple(stack).sensitivity
        true = [mask[gold].mean() for mask in stack]
        for name, value in {
            "lay_one": mean(dice(mask, gold) for mask in stack),
            "lay_pixel_majority": dice(stack.mean(axis=0) > 0.5, gold),
            "lay_majority": dice(agreed(lay, "majority"), gold),
            "lay_staple": dice(agreed(lay, "staple"), gold),
            "lay_staple_whole_image": dice(staple(stack).probability > 0.5, gold),
            "expert_one": mean(dice(mask, gold) for mask in experts.values()),
            "expert_majority": dice(agreed(experts, "majority"), gold),
            "lay_sensitivity_error": float(np.abs(estimated - true).mean()),
        }.items():
            found.setdefault(name, []).append(value)
    notes = {
        "lay_one": "one lay worker, mean over all",
        "lay_pixel_majority": "pixels of more than half of the lay workers",
        "lay_majority": "rule majority: only those whose outlines match have a say",
        "lay_staple": "rule staple, in the box round the cell",
        "lay_staple_whole_image": "STAPLE over the whole image",
        "expert_one": "one expert, mean over all",
        "expert_majority": "rule majority of the experts",
        "lay_sensitivity_error": "STAPLE's sensitivity of a lay worker in an image, off that against gold",
    }
    return {name: (values, notes[name]) for name, values in found.items()}


def real_figures(folder: Path) -> dict[str, dict]:
    figures = {}
    for number in SETS:
        path = folder / f"dataset{number}.npz"
        if not path.is_file():
            progress(f"no {path}: set {number} is left out (set ALLINSAM_SHARED_DATA)")
            continue
        progress(f"set {number}")
        measured = measure_set(path)
        one = mean(measured["lay_one"][0])
        for name, (values, note) in measured.items():
            is_error = name.endswith("error")
            unit, baseline = ("share", None) if is_error else ("Dice", one)
            whose = "" if is_error else "; baseline: one lay worker"
            row = figure(values, unit, baseline, f"mean over images; {note}{whose}")
            figures[f"set{number}_{name}"] = row | {"value": round(mean(values), 4)}
    return figures


# ---------------------------------------------------------------- simulated raters


@dataclass(frozen=True)
class Simulated:
    """How a simulated rater works: the known rates."""

    sees: float  # share of nuclei marked
    names: tuple[float, float]  # chance of the right name, for each of CLASSES
    outward_px: float  # how much wider than the truth each outline is


RATERS = {
    "careful": Simulated(0.98, (0.97, 0.95), 0.0),
    "hasty": Simulated(0.75, (0.92, 0.90), -1.0),
    "wide": Simulated(0.95, (0.90, 0.92), 1.5),
    "one_sided": Simulated(0.92, (0.95, 0.65), 0.5),
    "average": Simulated(0.90, (0.88, 0.85), -0.5),
}
SPACING_PX, RADIUS_PX, GRID = 28, 8.0, 12


def simulate_ratings(patches: int, seed: int) -> tuple[Ratings, dict[tuple[str, str], float]]:
    """What the raters draw, and the true pixel sensitivity of each (rater, class as named)."""
    rng = np.random.default_rng(seed)
    size_px = SPACING_PX * GRID
    rows, columns = np.mgrid[:SPACING_PX, :SPACING_PX] + 0.5 - SPACING_PX / 2
    truth = np.hypot(rows, columns) <= RADIUS_PX
    ratings: dict[str, dict[str, dict[str, np.ndarray]]] = {}
    pixels: dict[tuple[str, str], np.ndarray] = {}
    for number in range(patches):
        drawn = {r: {c: np.zeros((size_px, size_px), np.int32) for c in CLASSES} for r in RATERS}
        for index, (i, j) in enumerate(product(range(GRID), repeat=2), start=1):
            kind = int(rng.random() > COMMONER)
            cell = tuple(slice(SPACING_PX * k, SPACING_PX * (k + 1)) for k in (i, j))
            for rater, habit in RATERS.items():
                if rng.random() > habit.sees:
                    continue
                named = CLASSES[kind if rng.random() < habit.names[kind] else 1 - kind]
                y, x = rng.normal(0, 0.7, 2)
                radius = RADIUS_PX + habit.outward_px + rng.normal(0, 0.3)
                mask = np.hypot(rows - y, columns - x) <= radius
                drawn[rater][named][cell][mask] = index
                counts = pixels.setdefault((rater, named), np.zeros(2))
                counts += (mask & truth).sum(), truth.sum()
        ratings[f"p{number}"] = drawn
    return ratings, {key: float(inside / total) for key, (inside, total) in pixels.items()}


def simulated_figures(patches: int, seeds: int) -> dict[str, dict]:
    """Mean errors of the raters' figures, one value for each seed."""
    errors: dict[str, list[float]] = {}
    for seed in range(seeds):
        progress(f"simulated raters, seed {seed}")
        ratings, sensitivity = simulate_ratings(patches, seed)
        table = reliability(ratings).set_index(["rater", "class"])
        found: dict[str, list[float]] = {}
        for (rater, name), row in table.iterrows():
            habit = RATERS[rater]
            names = habit.names[CLASSES.index(name)]
            for figure_name, value in {
                "accuracy_error": row["class_accuracy"] - names,
                "detected_accuracy_error": row["detected_accuracy"] - habit.sees * names,
                "found_error": row["found_share"] - habit.sees,
                "sensitivity_error": row["staple_sensitivity"] - sensitivity[rater, name],
            }.items():
                found.setdefault(figure_name, []).append(abs(value))
        for figure_name, values in found.items():
            errors.setdefault(figure_name, []).append(mean(values))
    notes = {
        "accuracy_error": "Dawid-Skene's chance of the right name, off the known one",
        "detected_accuracy_error": "the same with a miss as an answer, off sees x names right",
        "found_error": "share found of the others' consensus, off the share known to be seen",
        "sensitivity_error": "STAPLE's pixel sensitivity, off the true one",
    }
    n = f"mean over {len(RATERS)} raters and 2 classes, {patches * GRID**2} nuclei"
    return {f"simulated_{k}": figure(v, "share", None, f"{notes[k]}; {n}") for k, v in errors.items()}


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer simulated nuclei and seeds")
    parser.add_argument("--data", type=Path, default=None, help="folder of dataset4.npz and dataset6.npz")
    args = parser.parse_args(arguments)
    try:
        figures = real_figures(args.data or shared_data() / "bubil_raters")
        figures |= simulated_figures(*(1, 1) if args.quick else (4, 5))
    except AllinsamError as error:
        print(f"benchmarks.consensus: {error}", file=sys.stderr)
        return 2
    print_report("consensus", figures)
    return 0


if __name__ == "__main__":
    sys.exit(main())
