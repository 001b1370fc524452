"""Does corrective learning mend faulty labels? Simulated tissue, one fault of the annotators at a time.

For each condition and seed a network is trained on labels with that fault, then trained on twice from the
same weights, for as many epochs and with the same loss and frames: with MOCL's weights, and with weight 1
everywhere. The difference is what the weights do and nothing else. Scored on true labels of other slides.
"""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from allinsam.comparison import cluster_interval, interval_in_words
from allinsam.errors import InputError
from allinsam.files import write_file
from allinsam.inference import load_run, predict_patch
from allinsam.masks import instances_to_labels
from allinsam.metrics import METRICS
from allinsam.sam.segmenter import Segmenter
from allinsam.simulate import (
    ANNOTATOR_HABITS,
    MARKER_OF_CLASS,
    Habits,
    SimulatedPatch,
    simulate_boxes,
    simulate_patch,
    simulate_slide,
)
from allinsam.tables import to_csv
from allinsam.training.dataset import TrainingPatch
from allinsam.training.settings import TrainingSettings
from allinsam.training.train import train

RESULT_FILE = "result.json"
# A gain is a difference of two means, one for each seed: hardly skewed, unlike the scores of slides.
FEWEST_SEEDS = 3
FAULTLESS = replace(
    ANNOTATOR_HABITS["expert"],
    miss_rate=0.0,
    wrong_class_rate=0.0,
    false_box_rate=0.0,
    outward_px=0,
    comment="Boxes every nucleus tightly, as its class.",
)
# Fixed before any training; their hash stands in the table.
CONDITIONS: dict[str, Habits] = {
    "no fault": FAULTLESS,
    "expert": ANNOTATOR_HABITS["expert"],
    "misses 10 %": replace(FAULTLESS, miss_rate=0.1),
    "misses 30 %": replace(FAULTLESS, miss_rate=0.3),
    "wrong class 10 %": replace(FAULTLESS, wrong_class_rate=0.1),
    "wrong class 30 %": replace(FAULTLESS, wrong_class_rate=0.3),
    "boxes 3 px out": replace(FAULTLESS, outward_px=3),
    "boxes 6 px out": replace(FAULTLESS, outward_px=6),
    "false boxes 10 %": replace(FAULTLESS, false_box_rate=0.1),
}
CONTROL = "none"


@dataclass(frozen=True)
class NoiseSettings:
    """The tissue and the comparison. A seed deals the slides, draws the faults and starts the network."""

    conditions: tuple[str, ...] = tuple(CONDITIONS)
    modes: tuple[str, ...] = ("average",)  # of MOCL, each compared with weight 1
    seeds: tuple[int, ...] = (1, 2, 3, 4, 5)
    tissue_seed: int = 11  # the demo study's
    slides: int = 8
    patches_per_slide: int = 4
    size_px: int = 512
    test_slides: int = 2
    validation_slides: int = 1
    more_test_slides: int = 6  # drawn in addition, never dealt: one set for all, so that chance counts less

    def __post_init__(self) -> None:
        unknown = [name for name in self.conditions if name not in CONDITIONS]
        if unknown:
            raise InputError(f"Unknown condition {unknown[0]!r}. Choose from {', '.join(CONDITIONS)}.")
        if self.slides < self.test_slides + self.validation_slides + 1:
            raise InputError(f"{self.slides} slides leave none to train on. Give more.")


def habits_sha256() -> str:
    """Of all conditions: what the table names, so that nobody can have moved them afterwards."""
    habits = {name: dataclasses.asdict(row) for name, row in CONDITIONS.items()}
    text = json.dumps(habits, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def draw_tissue(noise: NoiseSettings) -> dict[tuple[int, int], SimulatedPatch]:
    """(slide, number) -> patch: the demo study's tissue and more of its kind, both markers on every slide."""
    tissue = {}
    for slide in range(noise.slides + noise.more_test_slides):
        look = simulate_slide(noise.tissue_seed, slide, "normal" if slide % 2 == 0 else "injured")
        for number in range(noise.patches_per_slide):
            markers = tuple(MARKER_OF_CLASS.values())
            tissue[slide, number] = simulate_patch(look, number, markers, noise.size_px)
    return tissue


def deal_slides(noise: NoiseSettings, seed: int) -> dict[int, str]:
    """Slide -> train, val or test; normal and injured slides in turn, so that parts have both if they can.

    The slides drawn in addition are for testing, whatever the seed.
    """
    rng = np.random.default_rng([noise.tissue_seed, seed])
    normal, injured = (rng.permutation(range(start, noise.slides, 2)) for start in (0, 1))
    order = [int(s) for pair in zip(normal, injured, strict=False) for s in pair]
    order += [int(s) for s in normal[len(injured) :]]
    parts = ["test"] * noise.test_slides + ["val"] * noise.validation_slides
    dealt = dict(zip(order, parts + ["train"] * (noise.slides - len(parts)), strict=True))
    return dealt | dict.fromkeys(range(noise.slides, noise.slides + noise.more_test_slides), "test")


def lay_labels(
    patch: SimulatedPatch, habits: Habits, embedding: Any, segmenter: Segmenter, seed: Sequence[int]
) -> dict[str, np.ndarray]:
    """Class -> label image: SAM's masks of the boxes somebody with these habits draws."""
    labels = {}
    for rank, name in enumerate(MARKER_OF_CLASS):
        drawn_by = int(np.random.default_rng([*seed, rank]).integers(2**31))
        boxes = [drawn.box for drawn in simulate_boxes(habits, patch, name, drawn_by)]
        if boxes:
            found = segmenter.masks_from_boxes(embedding, np.array(boxes, np.float32))
            labels[name] = instances_to_labels(found.masks, found.predicted_iou)
        else:
            labels[name] = np.zeros(patch.labels.shape, np.int32)
    return labels


def run_noise(
    noise: NoiseSettings,
    settings: TrainingSettings,
    out: Path,
    segmenter: Segmenter,
    part: tuple[int, int] = (1, 1),
    report: Callable[[float, float, str, Mapping[str, Any]], None] = lambda *args: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> int:
    """Train and score what is not finished yet; returns how many conditions x seeds are.

    settings: `adapter_epochs` before, `corrective_epochs` with or without weights; not limited by time, so
    that both have the same steps.
    """
    if settings.budget_minutes is not None or not settings.mocl or not settings.stages.get("corrective"):
        raise InputError("This compares equal numbers of epochs. Leave budget_minutes empty, keep mocl on.")
    out.mkdir(parents=True, exist_ok=True)
    growing = ("conditions", "modes", "seeds")
    about = {
        "habits_sha256": habits_sha256(),
        "tissue": {k: v for k, v in dataclasses.asdict(noise).items() if k not in growing},
        "settings": settings.to_dict(),
        "labels_by": segmenter.loaded.weights_sha256,
    }
    path = out / "noise.json"
    if path.exists() and json.loads(path.read_text(encoding="utf-8")) != json.loads(json.dumps(about)):
        raise InputError(f"{out} holds figures made with other habits or settings. Give an empty folder.")
    write_file(path, json.dumps(about, indent=1).encode())

    cells = [(condition, seed) for seed in noise.seeds for condition in noise.conditions]
    number, processes = part
    tissue, embeddings = draw_tissue(noise), {}
    mine = cells[number - 1 :: processes]
    for step, (condition, seed) in enumerate(mine):
        if should_stop():
            break
        report(step, len(mine), f"{condition}, seed {seed}", {})
        parts = deal_slides(noise, seed)
        folder = out / _folder_of(condition, seed)
        wanted = [mode for mode in (CONTROL, *noise.modes) if not (folder / mode / RESULT_FILE).exists()]
        if not wanted:
            continue
        patches = []
        for place, patch in tissue.items():
            if parts[place[0]] == "test":
                continue
            if place not in embeddings:
                embeddings[place] = segmenter.embed(patch.pas)
            labels = lay_labels(patch, CONDITIONS[condition], embeddings[place], segmenter, [seed, *place])
            name = f"s{place[0]}p{place[1]}"
            patches.append(TrainingPatch(name, patch.pas, labels, parts[place[0]], patch.um_per_px))
        tested = {place: patch for place, patch in tissue.items() if parts[place[0]] == "test"}
        _run_cell(settings, seed, patches, tested, folder, wanted, should_stop)
    return sum((out / _folder_of(*cell) / CONTROL / RESULT_FILE).exists() for cell in cells)


def _folder_of(condition: str, seed: int) -> str:
    return f"{condition.replace(' %', 'pc').replace(' ', '_')}-seed{seed}"


def _run_cell(
    settings: TrainingSettings,
    seed: int,
    patches: Sequence[TrainingPatch],
    tested: Mapping[tuple[int, int], SimulatedPatch],
    folder: Path,
    modes: Sequence[str],
    should_stop: Callable[[], bool],
) -> None:
    first = replace(settings, mocl=False, seed=seed)
    if train(first, patches, folder / "first", should_stop=should_stop).state != "done":
        return
    for mode in modes:
        chosen = replace(settings, adapter_epochs=0, mocl_mode=mode, seed=seed)
        begun = folder / mode
        result = train(chosen, patches, begun, should_stop=should_stop, start=folder / "first")
        if result.state != "done":
            return
        write_file(begun / RESULT_FILE, json.dumps(_scores(begun, tested)).encode())


def _scores(folder: Path, tested: Mapping[tuple[int, int], SimulatedPatch]) -> list[dict[str, Any]]:
    model = load_run(folder)
    rows = []
    for (slide, number), patch in tested.items():
        found = predict_patch(model, patch.pas, patch.um_per_px)
        for name in MARKER_OF_CLASS:
            truth = patch.class_labels(name)
            scores = {m: METRICS[m](found[name].labels, truth) for m in ("f1_instance", "dice")}
            rows.append({"slide": slide, "patch": number, "class": name, **scores})
    return rows


def noise_table(out: Path) -> pd.DataFrame:
    """One row of scores for each condition, seed, mode (or control), test patch and class."""
    rows = []
    for path in sorted(out.glob(f"*/*/{RESULT_FILE}")):
        condition, _, seed = path.parents[1].name.rpartition("-seed")
        scores = json.loads(path.read_text(encoding="utf-8"))
        keys = {"condition": condition.replace("pc", " %").replace("_", " "), "seed": int(seed)}
        rows += [{**keys, "mode": path.parent.name, **row} for row in scores]
    columns = ["condition", "seed", "mode", "slide", "patch", "class", "f1_instance", "dice"]
    return pd.DataFrame(rows, columns=columns)


def gains(scores: pd.DataFrame, metric: str = "f1_instance") -> pd.DataFrame:
    """MOCL minus weight 1 by condition and mode: mean over seeds with its 95 % interval (t over seeds)."""
    keys = ["condition", "seed", "slide", "patch", "class"]
    wide = scores.pivot_table(index=keys, columns="mode", values=metric).reset_index()
    rows = []
    for mode in [name for name in wide.columns if name not in (*keys, CONTROL)]:
        for condition in [name for name in CONDITIONS if name in set(wide["condition"])]:
            mine = wide[wide["condition"] == condition].dropna(subset=[mode, CONTROL])
            if mine.empty:
                continue
            by_seed = mine.groupby("seed")[[CONTROL, mode]].mean()
            difference = by_seed[mode] - by_seed[CONTROL]
            low, high = cluster_interval(difference, difference.index, fewest=FEWEST_SEEDS)
            row = {"condition": condition, "mode": mode, "seeds": len(by_seed), "patches": len(mine) // 2}
            row |= {"without": by_seed[CONTROL].mean(), "with": by_seed[mode].mean()}
            rows.append(row | {"gain": difference.mean(), "low": low, "high": high})
    columns = ["condition", "mode", "seeds", "patches", "without", "with", "gain", "low", "high"]
    return pd.DataFrame(rows, columns=columns)


def write_noise_tables(out: Path) -> list[Path]:
    """Write scores.csv, gains.csv and gains.md; their paths."""
    scores = noise_table(out)
    if scores.empty:
        return []
    table = gains(scores)
    few = f"fewer than {FEWEST_SEEDS} seeds"
    lines = ["| Condition | MOCL | Seeds | F1 weight 1 | F1 MOCL | Gain | 95 % interval |", "|---" * 7 + "|"]
    for row in table.to_dict("records"):
        lines.append(
            f"| {row['condition']} | {row['mode']} | {row['seeds']} | {row['without']:.3f} "
            f"| {row['with']:.3f} | {row['gain']:+.4f} "
            f"| {interval_in_words(row['low'], row['high'], [], '{:+.4f}', few)} |"
        )
    note = (
        "Simulated tissue: no evidence for real tissue. Instance F1 against the exact truth on other slides, "
        "mean of both classes. Habits of the annotators were fixed before any training, sha256 "
        f"`{habits_sha256()}`. Weight 1 outside the labels cannot bring back a nucleus nobody marked."
    )
    files = {
        "scores.csv": to_csv(scores),
        "gains.csv": to_csv(table),
        "gains.md": ("\n".join(lines) + f"\n\n{note}\n").encode(),
    }
    for name, content in files.items():
        write_file(out / name, content)
    return [out / name for name in files]
