"""A grid of trainings on fully annotated images: methods x labels x amounts of data x folds x seeds.

Every cell is a folder that is finished once it holds result.json, so a grid that was stopped goes on where it
was, and several processes may each take a part of it.
"""

import dataclasses
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from allinsam.errors import InputError
from allinsam.experiments.fields import Field, cut_window, deal_folds, labels_from_boxes
from allinsam.files import write_file
from allinsam.inference import RunModel, cut_instances, load_run, predict_probabilities
from allinsam.metrics import auc_pixel, best_f1_pixel, overlap, score_overlap
from allinsam.sam.segmenter import Segmenter
from allinsam.training.dataset import TrainingPatch
from allinsam.training.methods import METHODS, RANDOM_BOX_PX, settings_of
from allinsam.training.settings import TrainingSettings
from allinsam.training.train import train

CLASS_NAME = "nucleus"
RESULT_FILE = "result.json"
# Amounts of data: the share of each training image's area that is labelled, as one square.
SHARES = {"all": 1.0, "4%": 0.04, "0.5%": 0.005}
# Complete: as annotated. Weak: SAM's masks of the annotated nuclei's boxes.
LABELS = ("complete", "weak")
# Frames of an epoch at least: a few labelled squares are drawn again, for validation costs as much as ever.
LEAST_FRAMES = 100
# What suits the adapter on images of many hospitals; chosen on validation images.
ADAPTER_CHANGES = {"variety": "hospitals", "learning_rate": 2e-3, "decoder_learning_rate": 7e-4}
SCORE_COLUMNS = (
    "dice", "auc", "recall", "precision", "best_f1", "iou", "adj", "aji", "pq", "f1_instance",
)  # fmt: skip
COLUMNS = (
    "label", "method", "data", "split", "fold", "seed", "backbone", "mocl", "n_train", "n_test",
    *SCORE_COLUMNS, "minutes",
)  # fmt: skip

# What a training's minutes are counted with. A processor's minutes are those of the clock on a free machine,
# and the same on a busy one: methods stay comparable whatever else runs beside them.
TIMERS: dict[str, Callable[[], float]] = {
    "clock": time.monotonic,
    "processor": lambda: time.process_time() / torch.get_num_threads(),
}

Report = Callable[[float, float, str, Mapping[str, Any]], None]


@dataclass(frozen=True)
class GridSettings:
    """What is compared, and on which folds. A cell's seed also draws its windows and loose boxes."""

    methods: tuple[str, ...] = ("all_in_sam", "nnunet")
    labels: tuple[str, ...] = LABELS
    data: tuple[str, ...] = tuple(SHARES)
    folds: int = 4
    seeds: tuple[int, ...] = (1,)
    split_seed: int = 1
    spread: str = ""  # images with this in their name are spread over the folds
    validation: int = 2  # images of each fold
    um_per_px: float = 0.25  # of the images: MoNuSeg's are at 40x
    timer: str = "clock"  # of the budget, a row of TIMERS

    def __post_init__(self) -> None:
        for name, known in (("methods", METHODS), ("labels", LABELS), ("data", SHARES)):
            unknown = [value for value in getattr(self, name) if value not in known]
            if unknown:
                raise InputError(f"Unknown {name} {unknown[0]!r}. Choose from {', '.join(known)}.")
        if self.timer not in TIMERS:
            raise InputError(f"Unknown timer {self.timer!r}. Choose from {', '.join(TIMERS)}.")


@dataclass(frozen=True)
class Cell:
    """One training of the grid."""

    label: str
    method: str
    data: str
    fold: int
    seed: int

    @property
    def name(self) -> str:
        return f"{self.label}-{self.method}-{self.data.replace('%', 'pc')}-fold{self.fold}-seed{self.seed}"


def cells_of(grid: GridSettings) -> Iterator[Cell]:
    """Every training, those of one fold beside each other: stopped early, whole folds are there."""
    for seed in grid.seeds:
        for fold in range(grid.folds):
            for data in grid.data:
                for label in grid.labels:
                    for method in grid.methods:
                        yield Cell(label, method, data, fold, seed)


def run_grid(
    fields: Sequence[Field],
    grid: GridSettings,
    settings: TrainingSettings,
    out: Path,
    segmenter: Segmenter,
    part: tuple[int, int] = (1, 1),
    report: Report = lambda *args: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> list[Cell]:
    """Train and score the cells that are not finished yet; returns those that are when this ends.

    segmenter: the SAM of weak labels. part: (number, of how many processes that share the grid).
    Everything a figure hangs on is kept in out/grid.json; a folder of another grid is refused.
    """
    out.mkdir(parents=True, exist_ok=True)
    _check_same(out, grid, settings, fields, segmenter)
    cells = list(cells_of(grid))
    number, processes = part
    mine = [cell for cell in cells[number - 1 :: processes] if not (out / cell.name / RESULT_FILE).exists()]
    for step, cell in enumerate(mine):
        if should_stop():
            break

        def pass_on(row: Mapping[str, Any], step: int = step, cell: Cell = cell) -> None:
            share = row["seconds"] / max(1e-9, row["seconds"] + row["seconds_left"])
            report(step + share, len(mine), f"{cell.name}: epoch {row['epoch']}", row)

        _run_cell(fields, grid, settings, cell, out / cell.name, segmenter, pass_on, should_stop)
    return [cell for cell in cells if (out / cell.name / RESULT_FILE).exists()]


def _check_same(
    out: Path, grid: GridSettings, settings: TrainingSettings, fields: Sequence[Field], segmenter: Segmenter
) -> None:
    """Keep what the figures hang on; methods, folds and seeds may be added later, the rest may not change."""
    growing = ("methods", "labels", "data", "seeds")
    about = {
        "grid": {name: value for name, value in dataclasses.asdict(grid).items() if name not in growing},
        "settings": settings.to_dict(),
        "adapter": ADAPTER_CHANGES,
        "images": [field.name for field in fields],
        "weak_labels_by": segmenter.loaded.weights_sha256,
    }
    path = out / "grid.json"
    if path.exists():
        kept = json.loads(path.read_text(encoding="utf-8"))
        differing = [name for name in about if kept.get(name) != json.loads(json.dumps(about[name]))]
        if differing:
            raise InputError(f"{out} holds a grid with other {', '.join(differing)}. Give an empty folder.")
    write_file(path, json.dumps(about, indent=1).encode())


def _run_cell(
    fields: Sequence[Field],
    grid: GridSettings,
    settings: TrainingSettings,
    cell: Cell,
    folder: Path,
    segmenter: Segmenter,
    report: Callable[[Mapping[str, Any]], None],
    should_stop: Callable[[], bool],
) -> None:
    names = [field.name for field in fields]
    parts = deal_folds(names, grid.folds, grid.split_seed, grid.spread, grid.validation)[cell.fold]
    patches = [
        training_patch(field, parts[field.name], cell, grid, segmenter)
        for field in fields
        if parts[field.name] != "test"
    ]
    changes = {"seed": cell.seed, "least_frames": LEAST_FRAMES}
    if METHODS[cell.method].network == "adapter":
        changes |= ADAPTER_CHANGES
    chosen = settings_of(cell.method, settings, changes)
    result = train(chosen, patches, folder, report, should_stop, timer=TIMERS[grid.timer])
    if result.state != "done":
        return
    model = load_run(folder)
    tested = [field for field in fields if parts[field.name] == "test"]
    images = [{"image": field.name, **score_field(model, field, grid.um_per_px)} for field in tested]
    about = {
        **dataclasses.asdict(cell),
        "split": f"{grid.folds} folds, seed {grid.split_seed}",
        "backbone": chosen.backbone if METHODS[cell.method].network == "adapter" else "",
        "mocl": chosen.mocl,
        "n_train": sum(patch.part == "train" for patch in patches),
        "n_test": len(tested),
        "minutes": result.seconds / 60,
    }
    kept = {"about": about, "images": images, "best": result.best}
    write_file(folder / RESULT_FILE, json.dumps(kept, indent=1).encode())


def training_patch(
    field: Field, part: str, cell: Cell, grid: GridSettings, segmenter: Segmenter
) -> TrainingPatch:
    """What a cell learns from an image, or validates on: validation has the whole true labels."""
    if part == "train":
        # Weak first: SAM is given whole boxes, not what a window leaves of them.
        if cell.label == "weak":
            field = labels_from_boxes(field, segmenter, 0, cell.seed)
        masks = METHODS[cell.method].masks
        if masks != "edited":
            outward = 0 if masks == "tight" else round(RANDOM_BOX_PX * 0.5 / grid.um_per_px)
            field = labels_from_boxes(field, segmenter, outward, cell.seed)
        field = cut_window(field, SHARES[cell.data], cell.seed)
    return TrainingPatch(
        field.name, field.image_rgb, {CLASS_NAME: field.labels}, part, grid.um_per_px, field.window_xyxy
    )


def score_field(model: RunModel, field: Field, um_per_px: float) -> dict[str, float]:
    """One image's scores at its own size: pixels at p >= 0.5, instances as the run cuts them.

    Every method predicts as nnU-Net does, averaged over mirror images.
    """
    maps = predict_probabilities(model.network, field.image_rgb, um_per_px, mirrored=True)
    truth = field.labels
    pixels = score_overlap(
        overlap((maps[0] >= 0.5).astype(np.int32), (truth > 0).astype(np.int32)),
        ("dice", "recall_pixel", "precision_pixel", "iou"),
    )
    (found,) = cut_instances(maps, um_per_px, model.instances)
    instances = score_overlap(overlap(found, truth), ("aji", "pq", "f1_instance"))
    return {
        "dice": pixels["dice"],
        "auc": auc_pixel(maps[0], truth),
        "recall": pixels["recall_pixel"],
        "precision": pixels["precision_pixel"],
        "best_f1": best_f1_pixel(maps[0], truth),
        "adj": pixels["iou"],
        **instances,
        "pixels_shared": float(((maps[0] >= 0.5) & (truth > 0)).sum()),
        "pixels_either": float(((maps[0] >= 0.5) | (truth > 0)).sum()),
    }


def grid_table(out: Path) -> pd.DataFrame:
    """One row (COLUMNS) for each finished cell: means over its test images; iou is pooled over pixels."""
    rows = []
    for path in sorted(out.glob(f"*/{RESULT_FILE}")):
        kept = json.loads(path.read_text(encoding="utf-8"))
        images = pd.DataFrame(kept["images"])
        means = {name: float(images[name].mean()) for name in SCORE_COLUMNS if name != "iou"}
        pooled = float(images["pixels_shared"].sum() / max(1.0, images["pixels_either"].sum()))
        rows.append({**kept["about"], **means, "iou": pooled})
    return pd.DataFrame(rows, columns=list(COLUMNS))


def image_table(out: Path) -> pd.DataFrame:
    """One row for each finished cell and test image; iou and adj are the same for one image."""
    rows = []
    for path in sorted(out.glob(f"*/{RESULT_FILE}")):
        kept = json.loads(path.read_text(encoding="utf-8"))
        rows += [{**kept["about"], **image, "iou": image["adj"]} for image in kept["images"]]
    keys = [name for name in COLUMNS if name not in (*SCORE_COLUMNS, "minutes")]
    return pd.DataFrame(rows, columns=[*keys, "image", *SCORE_COLUMNS])
