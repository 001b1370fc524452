"""What corrective learning made of a run's training labels: maps of W and S, and the nuclei it trusts least.

Computed once, at the end of the training, and kept in the run's folder; pages only read it.
"""

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd

from allinsam.errors import InputError, NotFoundError
from allinsam.files import write_file
from allinsam.imaging import encode_png, read_image
from allinsam.inference import RunModel
from allinsam.masks import decode_rle
from allinsam.store import Study, images, runs
from allinsam.store import study as study_store
from allinsam.tables import to_csv
from allinsam.training.dataset import TrainingPatch
from allinsam.training.settings import TrainingSettings
from allinsam.training.trust import Trust, mean_inside, patch_trust
from allinsam.workflow.labels import frozen_lines
from allinsam.workflow.reviewing import clusters

# A nucleus is doubted when its mean weight is below this share of its class's median in the run ...
LOW_SHARE = 0.8
# ... and it is among so many with the lowest share, of those that nobody is asked about anyway.
MOST_DOUBTS = 20
MOST_MAPS = 80  # files of a run, one per patch and class
MAP_SIDE_PX = 384
DOUBTS_FILE = "doubts.json"
NUCLEI_FILE = "mocl_nuclei.csv"
COLUMNS = (
    "patch_id", "patch", "class_id", "class_name", "object_id", "annotation_ids", "confidence", "similarity",
    "weight", "share_of_median",
)  # fmt: skip

ShouldStop = Callable[[], bool]


def has_mocl(settings: TrainingSettings) -> bool:
    return "corrective" in settings.stages


def doubts_path(study: Study, run_id: int) -> Path:
    return study.run_folder(run_id) / DOUBTS_FILE


def map_path(study: Study, run_id: int, patch_id: int, class_id: int) -> Path:
    return study.run_folder(run_id) / "trust" / f"{int(patch_id)}_{int(class_id)}.png"


def keep_trust(
    study: Study,
    run_id: int,
    model: RunModel,
    settings: TrainingSettings,
    patches: Sequence[TrainingPatch],
    say: Callable[[int, int], None],
    should_stop: ShouldStop,
) -> bool:
    """Work out where the run trusts its training labels, and keep it; False where it was told to stop.

    patches: what it learnt from. say: of how many patches how many are done.
    """
    with study.science.read() as db:
        run = runs.get_run(db, run_id)
        ids = {patch["name"]: patch["id"] for patch in images.list_patches(db)}
        now = {row["name"]: row["id"] for row in study_store.list_classes(db)}
        # What a class was called before stands for it, too.
        class_ids = {was: now[name] for was, name in study_store.names_of_classes(db).items()}
        name_of = {class_id: name for name, class_id in now.items()}
    learnt = [patch for patch in patches if patch.part == "train" and patch.labels]
    objects = label_objects(study, run["label_set_id"])
    rows: list[dict[str, Any]] = []
    maps = 0
    for number, patch in enumerate(learnt):
        if should_stop():
            return False
        say(number, len(learnt))
        patch_id = ids[patch.patch_id]
        found = patch_trust(model.network, patch, settings.corrective, settings.separate_touching)
        for name, trust in found.items():
            if maps < MOST_MAPS:
                write_file(map_path(study, run_id, patch_id, class_ids[name]), _small_png(trust))
                maps += 1
            name = name_of[class_ids[name]]
            things = objects.get((patch_id, name), [])
            means = mean_inside(trust, [decode_rle(thing["mask"]) for thing in things])
            where = {"patch_id": patch_id, "patch": patch.patch_id}
            where |= {"class_id": class_ids[name], "class_name": name}
            rows += [
                {
                    **where,
                    "object_id": thing["object_id"],
                    "annotation_ids": annotation_ids_of(thing),
                    **dict(zip(("confidence", "similarity", "weight"), mean, strict=True)),
                }
                for thing, mean in zip(things, means, strict=True)
            ]
    medians = add_shares(rows)
    low = [row for row in rows if row["share_of_median"] < LOW_SHARE]
    known = asked_anyway(study, {row["patch_id"] for row in low})
    table = pd.DataFrame(rows, columns=list(COLUMNS))
    table["annotation_ids"] = [" ".join(map(str, ids)) for ids in table["annotation_ids"]]
    write_file(study.run_folder(run_id) / NUCLEI_FILE, to_csv(table))
    told = {
        "mode": settings.mocl_mode,
        "nuclei": len(rows),
        "medians": medians,
        "low_share": LOW_SHARE,
        "low": len(low),
        "asked_anyway": sum(not known.isdisjoint(row["annotation_ids"]) for row in low),
        "doubts": most_doubted(low, known),
    }
    write_file(doubts_path(study, run_id), json.dumps(told, indent=1).encode())
    return True


def add_shares(rows: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Give each row its weight as a share of its class's median; returns the medians."""
    medians = {
        name: float(np.median([row["weight"] for row in rows if row["class_name"] == name]))
        for name in sorted({row["class_name"] for row in rows})
    }
    for row in rows:
        row["share_of_median"] = row["weight"] / max(medians[row["class_name"]], 1e-6)
    return medians


def most_doubted(
    low: Sequence[Mapping[str, Any]], known: Collection[int] = frozenset()
) -> list[dict[str, Any]]:
    """The rows with the lowest share first, MOST_DOUBTS at most, without those of `known` annotations."""
    new = [dict(row) for row in low if not set(known) & set(row["annotation_ids"])]
    return sorted(new, key=lambda row: (row["share_of_median"], row["object_id"]))[:MOST_DOUBTS]


def asked_anyway(study: Study, patch_ids: Collection[int]) -> set[int]:
    """Annotations on these patches that raters disagree about, or that somebody has decided about."""
    found: set[int] = set()
    for patch_id in sorted(patch_ids):
        try:
            nuclei = clusters(study, patch_id)
        except InputError:  # nobody's production: only gold was learnt from
            continue
        found |= {
            member.source.annotation_id
            for nucleus in nuclei
            if nucleus.in_dispute or nucleus.decision is not None
            for member in nucleus.members
        }
    return found


def label_objects(study: Study, label_set_id: int) -> dict[tuple[int, str], list[dict[str, Any]]]:
    """(patch, class by its name now) -> the nuclei of a frozen label set that cover a pixel."""
    found: dict[tuple[int, str], list[dict[str, Any]]] = {}
    for line in frozen_lines(study, label_set_id):
        drawn = [thing for thing in line["objects"] if decode_rle(thing["mask"]).any()]
        found.setdefault((line["patch_id"], line["class"]), []).extend(drawn)
    return found


def annotation_ids_of(thing: Mapping[str, Any]) -> list[int]:
    """The annotations behind a nucleus of a frozen label set: one, or those of everybody who agreed."""
    return list(thing["annotation_ids"]) if "annotation_ids" in thing else [thing["annotation_id"]]


def _small_png(trust: Trust) -> bytes:
    """W in red and S in green, 0..255, small enough to be looked at and no more."""
    maps = np.stack([trust.confidence, trust.similarity, np.zeros_like(trust.similarity)], axis=2)
    scale = min(1.0, MAP_SIDE_PX / max(maps.shape[:2]))
    size = [max(1, round(side * scale)) for side in maps.shape[1::-1]]
    small = cv2.resize(maps, size, interpolation=cv2.INTER_AREA)
    return encode_png((small.clip(0, 1) * 255).round().astype(np.uint8))


# ------------------------------------------------------------------------------------------ reading


def read_doubts(study: Study, run_id: int) -> dict[str, Any] | None:
    """What `keep_trust` found: mode, nuclei, medians, doubts; None where a run kept none."""
    path = doubts_path(study, run_id)
    return json.loads(path.read_text("utf-8")) if path.exists() else None


def mapped_patches(study: Study, run_id: int) -> dict[int, list[int]]:
    """Patch -> classes of which a run kept maps of W and S."""
    found: dict[int, list[int]] = {}
    folder = map_path(study, run_id, 0, 0).parent
    names = [path.stem.split("_") for path in (folder.glob("*.png") if folder.exists() else ())]
    for patch_id, class_id in sorted((int(a), int(b)) for a, b in names):
        found.setdefault(patch_id, []).append(class_id)
    return found


def read_maps(study: Study, run_id: int, patch_id: int, class_id: int) -> tuple[np.ndarray, np.ndarray]:
    """W and S, float32 (h, w) in 0..1, at most MAP_SIDE_PX wide."""
    path = map_path(study, run_id, patch_id, class_id)
    if not path.exists():
        raise NotFoundError(f"Run {run_id} kept no map of W and S of patch {patch_id}.")
    pixels = read_image(path).astype(np.float32) / 255.0
    return pixels[..., 0], pixels[..., 1]


def newest_runs_with_doubts(study: Study) -> tuple[int, ...]:
    """Of each kind of labels the newest finished run that kept doubts, its number; oldest first."""
    with study.science.read() as db:
        finished = [run for run in runs.list_runs(db) if run["state"] == "finished"]
    newest: dict[str, int] = {}
    for run in finished:
        if run["kind"] != "untrained" and doubts_path(study, run["id"]).exists():
            newest[json.dumps(run["recipe"], sort_keys=True)] = run["id"]
    return tuple(sorted(newest.values()))
