"""A study's training taken elsewhere as a bundle, and what was trained there brought back as runs."""

import hashlib
import json
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from allinsam.errors import AllinsamError, InputError
from allinsam.files import write_file
from allinsam.inference import load_run
from allinsam.sam.backbones import LoadedBackbone, load_backbone
from allinsam.store import Study, images, runs
from allinsam.store import study as study_store
from allinsam.training.bundles import RUN_FILES, TrainedRun, read_trained, run_folders, write_bundle
from allinsam.training.methods import METHODS, method_of
from allinsam.training.networks import NETWORKS
from allinsam.training.settings import TrainingSettings
from allinsam.workflow.labels import LabelRecipe
from allinsam.workflow.learning import epochs_before, training_patches


def bundle_labels(
    study: Study, label_set_id: int, split_id: int, settings: TrainingSettings, folder: Path
) -> dict[str, Any]:
    """Write the train and val parts of a label set as a bundle; returns counts and hashes.

    The tested patches stay in the study.
    """
    patches = training_patches(study, label_set_id, split_id)
    loaded = load_backbone(settings.backbone)
    with study.science.read() as db:
        label_set = runs.get_label_set(db, label_set_id)
        (split,) = [row for row in runs.list_splits(db) if row["id"] == split_id]
    origin = {
        "label_set": {"sha256": label_set["sha256"], "recipe": label_set["recipe"]},
        "split": {"sha256": split_sha256(study, split_id), "rule": split["rule"], "seed": split["seed"]},
        "backbone": {"name": loaded.backbone.name, "sha256": loaded.weights_sha256},
    }
    manifest = write_bundle(folder, origin, settings, patches)
    parts = [patch.part for patch in patches]
    return {
        "out": str(folder),
        "labels": LabelRecipe.from_dict(label_set["recipe"]).title,
        "label_set": label_set["sha256"],
        "train": parts.count("train"),
        "val": parts.count("val"),
        "files": len(manifest["files"]) + 1,
    }


def split_sha256(study: Study, split_id: int) -> str:
    """Which picture is in which part of a split, as a hash: the same in every copy of the study."""
    with study.science.read() as db:
        parts = runs.split_parts(db, split_id)
        of_patch = {p["id"]: (p["name"], p["image_sha256"]) for p in images.list_patches(db)}
    dealt = sorted([*of_patch[patch_id], part] for patch_id, part in parts.items())
    return hashlib.sha256(json.dumps(dealt).encode()).hexdigest()


def import_runs(study: Study, folder: Path, name: str | None = None) -> list[int]:
    """Bring the runs that `train_bundle` left in a folder into the study; their ids.

    All of them or none. A run that is here already keeps its id.

    Raises:
        InputError: a run is not whole, or its labels, split, backbone or classes are not the study's.
    """
    found = [read_trained(path) for path in run_folders(folder)]
    places = [_place_of(study, trained) for trained in found]
    study.run_folder(0).parent.mkdir(exist_ok=True)
    made = Path(tempfile.mkdtemp(dir=study.run_folder(0).parent, prefix=".import-"))
    try:
        for number, trained in enumerate(found):
            for file_name in RUN_FILES:
                write_file(made / str(number) / file_name, (trained.folder / file_name).read_bytes())
        return _keep(study, list(zip(found, places, strict=True)), made, name)
    finally:
        shutil.rmtree(made, ignore_errors=True)


def _place_of(study: Study, trained: TrainedRun) -> dict[str, Any]:
    """The columns of a run's row that say what it was trained on, checked against the study."""
    origin, where = trained.origin, trained.folder
    with study.science.read() as db:
        label_sets = {row["sha256"]: row for row in runs.list_label_sets(db)}
        splits = [row["id"] for row in runs.list_splits(db)]
        known = set(study_store.names_of_classes(db))
    label_set = label_sets.get(origin["label_set"].get("sha256"))
    if label_set is None:
        raise InputError(
            f"{where} was trained on labels that are not this study's. Import it where they are."
        )
    split_id = next(
        (key for key in reversed(splits) if split_sha256(study, key) == origin["split"].get("sha256")), None
    )
    if split_id is None:
        raise InputError(f"{where} was trained on a split that is not this study's. Import it where it is.")
    loaded = load_backbone(trained.settings.backbone)
    if loaded.weights_sha256 != origin["backbone"].get("sha256"):
        raise InputError(
            f"{where} was trained on another {trained.settings.backbone} than is installed here. Use the "
            "same version of allinsam here and there."
        )
    unknown = sorted(set(_class_names(trained)) - known)
    if unknown:
        raise InputError(
            f"{where} knows the class {unknown[0][:80]!r}, which this study has not. Import it where it was "
            "made, or add the class."
        )
    _check_loads(trained, loaded)
    return {
        "label_set_id": label_set["id"],
        "split_id": split_id,
        "backbone": loaded.backbone.name,
        "backbone_sha256": loaded.weights_sha256,
        "name": _run_name(LabelRecipe.from_dict(label_set["recipe"]), trained.settings),
    }


def _class_names(trained: TrainedRun) -> list[str]:
    names = trained.run.get("class_names")
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise InputError(f"{trained.folder} does not name its classes. Train the bundle again.")
    return names


def _check_loads(trained: TrainedRun, loaded: LoadedBackbone) -> None:
    """The network can be built as the run says, and its weights fit."""
    try:
        load_run(trained.folder, loaded=loaded)
    except AllinsamError as error:
        raise InputError(f"{trained.folder} cannot be used: {error}") from error
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"{trained.folder} cannot be used: {reason}. Train the bundle again.") from error


def _run_name(recipe: LabelRecipe, settings: TrainingSettings) -> str:
    method = method_of(settings.to_dict(), recipe.masks)
    title = METHODS[method].title if method else NETWORKS[settings.network].title
    return f"{recipe.title}: {title}, seed {settings.seed}"


def _keep(
    study: Study, checked: list[tuple[TrainedRun, Mapping[str, Any]]], made: Path, name: str | None
) -> list[int]:
    """Rows and folders of all runs, in one transaction."""
    kept: list[int] = []
    moved: list[Path] = []
    try:
        with study.science.write() as db:
            for number, (trained, place) in enumerate(checked):
                settings = trained.settings
                here = [
                    run["id"]
                    for run in runs.list_runs(db)
                    if run["weights_sha256"] == trained.weights_sha256
                    and (run["label_set_id"], run["split_id"]) == (place["label_set_id"], place["split_id"])
                ]
                if here:
                    kept.append(here[-1])
                    continue
                run_id = runs.add_run(
                    db,
                    **{**place, "name": name or place["name"]},
                    kind="adapter",
                    settings=settings.to_dict(),
                    settings_version=settings.settings_version,
                )
                earlier = epochs_before(settings)
                for row in trained.run["history"]:
                    figures = {key: row.get(key) for key in ("loss", "val", "seconds", "scores")}
                    runs.put_epoch(db, run_id, earlier[row["stage"]] + row["epoch"], row["stage"], figures)
                runs.update_run(db, run_id, state="finished", weights_sha256=trained.weights_sha256)
                folder = study.run_folder(run_id)
                # Left behind by an import that was cut off: no run has had this number yet.
                shutil.rmtree(folder, ignore_errors=True)
                (made / str(number)).replace(folder)
                moved.append(folder)
                kept.append(run_id)
    except BaseException:
        for folder in moved:
            shutil.rmtree(folder, ignore_errors=True)
        raise
    return kept
