"""How a few validation patches get better while a run learns: what was found on them, epoch by epoch."""

import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from allinsam.errors import NotFoundError
from allinsam.files import write_file
from allinsam.imaging import encode_labels, read_channel
from allinsam.store import Study, images
from allinsam.store import study as study_store
from allinsam.training.dataset import TrainingPatch

MOST_PATCHES = 3
MOST_EPOCHS = 9  # of a run, about evenly apart
EVERY_S = 20.0


def examples_folder(study: Study, run_id: int) -> Path:
    return study.run_folder(run_id) / "examples"


@dataclass
class Examples:
    """Keeps examples in a folder: `look` is shown what an epoch found, `keep` writes it when it is time.

    patch_ids and class_ids: by name, of what is kept.
    """

    folder: Path
    patch_ids: Mapping[str, int]
    class_ids: Mapping[str, int]
    every_s: float = EVERY_S
    found: dict[tuple[int, int], np.ndarray] = field(default_factory=dict)
    waiting: int | None = None  # the newest epoch that was not written
    written_at: float | None = None

    def look(self, patch: TrainingPatch, found: Mapping[str, np.ndarray]) -> None:
        if patch.patch_id in self.patch_ids:
            for name, labels in found.items():
                self.found[self.patch_ids[patch.patch_id], self.class_ids[name]] = labels

    def keep(self, epoch: int) -> None:
        """Write what the epoch found, unless something was written a moment ago."""
        self.waiting = epoch
        if self.written_at is None or time.monotonic() - self.written_at >= self.every_s:
            self.flush()

    def flush(self) -> None:
        """Write the newest epoch, if it was not written yet."""
        if self.waiting is None or not self.found:
            return
        for (patch_id, class_id), labels in self.found.items():
            write_file(self.folder / f"{self.waiting}_{patch_id}_{class_id}.png", encode_labels(labels))
        self.waiting, self.written_at = None, time.monotonic()
        files = _files(self.folder)
        crowded = _crowded({epoch for epoch, _, _ in files})
        for (epoch, _, _), path in files.items():
            if epoch in crowded:
                path.unlink(missing_ok=True)


def _crowded(epochs: Collection[int]) -> set[int]:
    """Epochs beyond MOST_EPOCHS, each the one whose neighbours lie closest; never the first or the newest."""
    kept = sorted(epochs)
    while len(kept) > MOST_EPOCHS:
        gaps = [after - before for before, after in zip(kept[:-2], kept[2:], strict=True)]
        kept.pop(1 + gaps.index(min(gaps)))
    return set(epochs) - set(kept)


def start_examples(study: Study, run_id: int, patches: Sequence[TrainingPatch]) -> Examples:
    """For the validation patches with most labelled nuclei."""
    with study.science.read() as db:
        ids = {patch["name"]: patch["id"] for patch in images.list_patches(db)}
        class_ids = {row["name"]: row["id"] for row in study_store.list_classes(db)}
    validated = [patch for patch in patches if patch.part == "val" and patch.labels]
    validated.sort(key=lambda p: (-sum(int(image.max()) for image in p.labels.values()), p.patch_id))
    chosen = {patch.patch_id: ids[patch.patch_id] for patch in validated[:MOST_PATCHES]}
    return Examples(examples_folder(study, run_id), chosen, class_ids)


def _files(folder: Path) -> dict[tuple[int, int, int], Path]:
    """(epoch, patch, class) -> file."""
    return {
        tuple(map(int, parts)): path
        for path in (folder.glob("*.png") if folder.exists() else ())
        if len(parts := path.stem.split("_")) == 3 and all(part.isdecimal() for part in parts)
    }


def example_epochs(study: Study, run_id: int) -> dict[int, list[int]]:
    """Patch -> epochs of which there is an example, in order."""
    found: dict[int, set[int]] = {}
    for epoch, patch_id, _ in _files(examples_folder(study, run_id)):
        found.setdefault(patch_id, set()).add(epoch)
    return {patch_id: sorted(found[patch_id]) for patch_id in sorted(found)}


def first_middle_newest(epochs: Sequence[int]) -> list[int]:
    """Up to three of these epochs, in order: the first, the one nearest to half-way, the newest."""
    if len(epochs) < 3:
        return list(epochs)
    half = (epochs[0] + epochs[-1]) / 2
    return [epochs[0], min(epochs[1:-1], key=lambda epoch: abs(epoch - half)), epochs[-1]]


def read_example(study: Study, run_id: int, epoch: int, patch_id: int) -> dict[int, np.ndarray]:
    """Class id -> instances (H, W) int32 found on a patch at the end of an epoch."""
    files = _files(examples_folder(study, run_id))
    mine = {key[2]: path for key, path in files.items() if key[:2] == (epoch, patch_id)}
    if not mine:
        raise NotFoundError(f"Run {run_id} kept no example of patch {patch_id} at epoch {epoch}.")
    return {class_id: read_channel(path).astype(np.int32) for class_id, path in sorted(mine.items())}
