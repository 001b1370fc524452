"""IF brought onto stained images whose true transform is known: python -m benchmarks.registration [--quick]

Simulated tissue of seeds that no threshold was chosen on (see RegistrationSettings), DeepLIIF's Lung1, and
a simulated slide. An error is the mean distance over a 15x15 grid of points of the stained image.

- Pairs: any rotation, scale 0.87 to 1.15, shear, shifts up to 40 px, uneven light, noise and blur; the
  nuclear channel, and WT1 alone, which is sparser. "hard" pairs have more blur and noise, light that falls
  by up to 60 %, and a smooth distortion of 2 px that no affine can follow.
- Unrelated: the stained image of one tissue, the IF of another. Each has to be flagged.
- Slide: turned by 173 degrees, upside down, at half the scale, torn. Every 512 px patch is registered; a
  patch is torn where the tear gapes by more than 5 px and leaves over a tenth of the patch on either side.
"""

import argparse
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import torch

from allinsam.errors import AllinsamError
from allinsam.imaging import read_channel, read_rgb
from allinsam.registration import (
    Registration,
    compose,
    estimate,
    estimate_slide,
    grid_error_px,
    move_points,
    refine_patch,
    shift_matrix,
)
from allinsam.simulate.pairs import (
    NUCLEAR,
    Field,
    PairSettings,
    SimulatedSlides,
    pair_of_fields,
    simulate_field,
    slides_of_fields,
)
from benchmarks.report import figure, print_report, progress, shared_data

FIRST_SEED = 100  # 0 to 19 were used for development
MARKER = "WT1"
HARD = PairSettings(blur_px=(0.5, 3.0), noise=(2.0, 12.0), lamp=(0.0, 0.6), stretch_px=2.0)
# Measured on the tiles by smoothed correlation, whole px: IF to stained px.
DEEPLIIF_SHIFT_PX = {"hematoxylin": (-3, 2), "ihc": (-3, -5)}
SLIDE_COLUMNS, SLIDE_ROWS, PATCH_PX = 6, 5, 512
OVERVIEW_UM_PER_PX, SLIDE_UM_PER_PX = 2.0, 0.5
TORN_PX, TORN_SHARE = 5.0, 0.1
MOST_GLASS, GLASS_LEVEL = 0.4, 238


def timed(fixed: np.ndarray, moving: np.ndarray) -> tuple[Registration, float]:
    """A registration and the seconds it took."""
    begun = time.perf_counter()
    return estimate(fixed, moving), time.perf_counter() - begun


def measure_pairs(fields: list[Field], around: list[Field]) -> dict[str, dict]:
    """Error, acceptance and time on pairs of one tissue, and how many pairs of two tissues are flagged."""
    figures = {}
    size_hw = fields[0].pas.shape[:2]
    related, unrelated, seconds = [], [], []
    for kind, settings in (("patch", None), ("hard", HARD)):
        pairs = [
            pair_of_fields(FIRST_SEED + number, field, around, settings)
            for number, field in enumerate(fields)
        ]
        for channel, name in ((NUCLEAR, kind), (MARKER, f"{kind}_marker")):
            progress(f"{name}: {len(pairs)} pairs")
            errors, accepted, flagged = [], [], []
            for number, pair in enumerate(pairs):
                found, taken = timed(pair.pas, pair.channels[channel])
                seconds.append(taken)
                related.append(found)
                accepted.append(found.accepted)
                errors.append(grid_error_px(found.matrix, pair.matrix, size_hw))
                other, _ = timed(pair.pas, pairs[(number + 1) % len(pairs)].channels[channel])
                unrelated.append(other)
                flagged.append(not other.accepted)
            figures[f"{name}_error_px_median"] = figure(errors, "px", note=f"{channel} onto PAS")
            p95 = [float(np.percentile(errors, 95))]
            figures[f"{name}_error_px_p95"] = figure(p95, "px", note=f"of {len(errors)} pairs")
            figures[f"{name}_accepted"] = _share(accepted)
            unrelated_name = "unrelated_flagged" if name == "patch" else f"unrelated_{name}_flagged"
            figures[unrelated_name] = _share(flagged)
    figures["patch_s"] = figure(seconds, "s", note="one estimate")
    for name, of in (("related", related), ("unrelated", unrelated)):
        for measure in ("rival", "agreement", "quality"):
            figures[f"{name}_{measure}"] = figure([getattr(one, measure) for one in of], "share")
    return figures


def _share(outcomes: list[bool]) -> dict:
    return figure([float(np.mean(outcomes))], "share", note=f"{sum(outcomes)} of {len(outcomes)}")


def measure_deepliif(folder: Path) -> dict[str, dict]:
    """Error against the known shifts of the real tile, and time."""
    errors, seconds, notes = [], [], []
    dapi = read_channel(folder / "Lung1_dapi.png")
    for stain, shift_px in DEEPLIIF_SHIFT_PX.items():
        image = read_rgb(folder / f"Lung1_{stain}.png")
        found, taken = timed(image, dapi)
        error = grid_error_px(found.matrix, shift_matrix(*shift_px), image.shape[:2])
        errors.append(error)
        seconds.append(taken)
        notes.append(f"{stain} {error:.2f} px, {'accepted' if found.accepted else 'flagged'}")
    note = "DAPI onto " + "; ".join(notes)
    return {"deepliif_error_px": figure(errors, "px", note=note), "deepliif_s": figure(seconds, "s")}


def measure_slide(fields: list[Field], seed: int) -> dict[str, dict]:
    """Error of the patches away from the tear, and how many torn patches are flagged."""
    progress("slide")
    slides = slides_of_fields(seed, fields, SLIDE_COLUMNS)
    moving = slides.channels[NUCLEAR]
    begun = time.perf_counter()
    base = estimate_slide(
        *(
            _overview(image, um)
            for image, um in ((slides.pas, SLIDE_UM_PER_PX), (moving, 2 * SLIDE_UM_PER_PX))
        ),
        fixed_times=OVERVIEW_UM_PER_PX / SLIDE_UM_PER_PX,
        moving_times=OVERVIEW_UM_PER_PX / (2 * SLIDE_UM_PER_PX),
    )
    base_s = time.perf_counter() - begun
    errors, accepted, torn_flagged, seconds = [], [], [], []
    for x, y in _corners(slides.pas):
        patch = slides.pas[y : y + PATCH_PX, x : x + PATCH_PX]
        begun = time.perf_counter()
        found = refine_patch(patch, (x, y), moving, base.matrix)
        seconds.append(time.perf_counter() - begun)
        if _is_torn(slides, x, y):
            torn_flagged.append(not found.accepted)
        else:
            accepted.append(found.accepted)
            errors.append(float(_errors_px(slides, compose(shift_matrix(x, y), found.matrix), x, y).mean()))
    whole = "baseline: the slide's one transform for all"
    one_for_all = [float(_errors_px(slides, base.matrix, x, y).mean()) for x, y in _corners(slides.pas)]
    return {
        "slide_error_px_median": figure(errors, "px at 20x", float(np.median(one_for_all)), whole),
        "slide_accepted": _share(accepted),
        "tear_flagged": _share(torn_flagged),
        "slide_base_s": figure([base_s], "s", note="from overviews at 2 um per px"),
        "slide_patch_s": figure(seconds, "s"),
    }


def _overview(image: np.ndarray, um_per_px: float) -> np.ndarray:
    share = um_per_px / OVERVIEW_UM_PER_PX
    size = round(image.shape[1] * share), round(image.shape[0] * share)
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA)


def _corners(pas: np.ndarray) -> list[tuple[int, int]]:
    """First pixels (x, y) of the patches that are not mostly glass."""
    glass = pas.min(axis=2) > GLASS_LEVEL
    height_px, width_px = glass.shape
    every = [
        (x, y)
        for y in range(0, height_px - PATCH_PX + 1, PATCH_PX)
        for x in range(0, width_px - PATCH_PX + 1, PATCH_PX)
    ]
    return [(x, y) for x, y in every if glass[y : y + PATCH_PX, x : x + PATCH_PX].mean() < MOST_GLASS]


def _grid(x: int, y: int) -> np.ndarray:
    columns, rows = np.meshgrid(np.linspace(x, x + PATCH_PX, 15), np.linspace(y, y + PATCH_PX, 15))
    return np.stack([columns.ravel(), rows.ravel()], -1)


def _errors_px(slides: SimulatedSlides, matrix: np.ndarray, x: int, y: int) -> np.ndarray:
    points = _grid(x, y)
    return np.linalg.norm(move_points(matrix, slides.true_moving_px(points)) - points, axis=1)


def _is_torn(slides: SimulatedSlides, x: int, y: int) -> bool:
    """Whether the tear parts a patch: it gapes there and leaves much of it on either side."""
    behind, aside = slides.tear.places(_grid(x, y))
    gapes = slides.tear.opening_px * np.clip(behind / slides.tear.closing_px, 0, 1) > TORN_PX
    return all(np.mean(gapes & side) > TORN_SHARE for side in (aside > 0, aside <= 0))


def measure(data: Path, quick: bool = False) -> dict[str, dict]:
    """All figures."""
    count = 6 if quick else 20
    progress("drawing tissue")
    fields = [simulate_field(FIRST_SEED + number) for number in range(count)]
    around = [simulate_field(FIRST_SEED + 900 + number) for number in range(8)]
    more = [
        simulate_field(FIRST_SEED + 800 + number) for number in range(SLIDE_COLUMNS * SLIDE_ROWS - count - 8)
    ]
    estimate(fields[0].pas, fields[0].light[NUCLEAR])  # the first call loads code
    figures = measure_pairs(fields, around)
    if data.exists():
        figures |= measure_deepliif(data)
    else:
        progress(f"{data} is not there: no figures of a real tile")
    return figures | measure_slide([*fields, *around, *more], FIRST_SEED)


def main() -> int:
    """Parse the command line, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="6 pairs of each kind instead of 20")
    parser.add_argument(
        "--data", type=Path, default=shared_data() / "deepliif_lung1", help="the real tile's folder"
    )
    parser.add_argument("--threads", type=int, default=1, help="more than the free cores cost time")
    settings = parser.parse_args()
    torch.set_num_threads(settings.threads)
    cv2.setNumThreads(settings.threads)
    try:
        figures = measure(settings.data, settings.quick)
    except AllinsamError as error:
        print(f"benchmarks.registration: {error}", file=sys.stderr)
        return 2
    print_report("registration", figures)
    return 0


if __name__ == "__main__":
    sys.exit(main())
