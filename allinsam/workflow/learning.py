"""From frozen labels to a trained and scored model: runs, evaluation, and the one click."""

import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from allinsam.errors import InputError, NotAllowedError, NotFoundError
from allinsam.files import write_file
from allinsam.imaging import encode_labels, read_channel, read_rgb
from allinsam.inference import (
    RUN_FILE,
    WEIGHTS_FILE,
    RunModel,
    load_run,
    predict_patch,
    untrained_model,
)
from allinsam.metrics import score_all
from allinsam.provenance import versions
from allinsam.sam.backbones import LoadedBackbone, load_backbone
from allinsam.sam.download import sha256_of_file
from allinsam.sam.embeddings import EmbeddingCache
from allinsam.sam.segmenter import open_segmenter
from allinsam.store import Study, images, runs
from allinsam.store import study as study_store
from allinsam.store.withdrawals import work_withdrawn
from allinsam.training.dataset import TrainingPatch
from allinsam.training.settings import TrainingSettings
from allinsam.training.train import train
from allinsam.workflow import mocl_doubts
from allinsam.workflow.annotating import read_patch
from allinsam.workflow.labels import (
    LabelRecipe,
    freeze_labels,
    make_split,
    read_labels,
    reference_recipe,
)
from allinsam.workflow.run_examples import start_examples

Report = Callable[[float, float, str, dict[str, Any]], None]
ShouldStop = Callable[[], bool]

# What the network before training depends on.
START_SETTINGS = ("backbone", "adapter_width", "seed", "device")
MOST_SEEDS = 10  # of one job
VERSIONS_FILE = "versions.json"
SCORED_METRICS = ("f1_instance", "dice", "iou", "pq", "aji")


def say_nothing(done: float, total: float, message: str, detail: Mapping[str, Any]) -> None:
    """A report nobody reads."""


def never() -> bool:
    return False


# ---------------------------------------------------------------------------------- runs and scores


def train_run(
    study: Study,
    label_set_id: int,
    split_id: int,
    settings: TrainingSettings,
    name: str,
    report: Report = say_nothing,
    should_stop: ShouldStop = never,
    run_id: int | None = None,
) -> int:
    """Train on a label set's train part and keep the run; `run_id` goes on with an interrupted one.

    Beside the network the run keeps what it found on a few validation patches on the way and, with MOCL,
    where it trusts its labels.
    """
    if run_id is not None and _is_finished(study, run_id):
        return run_id
    loaded = load_backbone(settings.backbone, device=settings.device)
    patches = training_patches(study, label_set_id, split_id)
    if run_id is None:
        with study.science.write() as db:
            run_id = runs.add_run(
                db,
                name=name,
                kind="adapter",
                label_set_id=label_set_id,
                split_id=split_id,
                settings=settings.to_dict(),
                settings_version=settings.settings_version,
                backbone=loaded.backbone.name,
                backbone_sha256=loaded.weights_sha256,
            )
    else:
        with study.science.write() as db:
            runs.update_run(db, run_id, state="running", finished_at=None)
    folder = study.run_folder(run_id)
    if not (folder / VERSIONS_FILE).exists():
        write_file(folder / VERSIONS_FILE, json.dumps(versions(), indent=1).encode())
    examples = start_examples(study, run_id, patches)

    earlier = epochs_before(settings)

    def pass_on(row: dict[str, Any]) -> None:
        if row["kind"] == "epoch":
            with study.science.write() as db:
                kept = {k: row[k] for k in ("loss", "val", "seconds", "scores")}
                runs.put_epoch(db, run_id, earlier[row["stage"]] + row["epoch"], row["stage"], kept)
            examples.keep(earlier[row["stage"]] + row["epoch"])
        total = row["seconds"] + row["seconds_left"]
        report(
            row["seconds"],
            total,
            f"{row['stage']} stage, epoch {row['epoch'] + 1}",
            {"run_id": run_id, **row},
        )

    result = train(settings, patches, folder, pass_on, should_stop, loaded=loaded, look=examples.look)
    examples.flush()
    done = result.state != "cancelled" and _keep_trust(
        study,
        run_id,
        lambda: load_run(folder, loaded=loaded),
        settings,
        patches,
        result.seconds,
        report,
        should_stop,
    )
    if not done:
        with study.science.write() as db:
            runs.update_run(db, run_id, state="cancelled")
        return run_id
    weights = sha256_of_file(folder / WEIGHTS_FILE)
    with study.science.write() as db:
        runs.update_run(db, run_id, state="finished", weights_sha256=weights)
    return run_id


def _keep_trust(
    study: Study,
    run_id: int,
    load: Callable[[], RunModel],
    settings: TrainingSettings,
    patches: Sequence[TrainingPatch],
    seconds: float,
    report: Report,
    should_stop: ShouldStop,
) -> bool:
    """`mocl_doubts.keep_trust` of a run with MOCL that has not done it yet; False where it was stopped."""
    if not mocl_doubts.has_mocl(settings) or mocl_doubts.doubts_path(study, run_id).exists():
        return True

    def say(done: int, total: int) -> None:
        message = f"where MOCL trusts the labels, patch {done + 1} of {total}"
        report(seconds, seconds, message, {"run_id": run_id, "seconds_left": None})

    return mocl_doubts.keep_trust(study, run_id, load(), settings, patches, say, should_stop)


def train_seeds(
    study: Study,
    label_set_id: int,
    split_id: int,
    settings: TrainingSettings,
    seeds: Sequence[int],
    name: str,
    report: Report = say_nothing,
    should_stop: ShouldStop = never,
) -> list[int]:
    """One run for each seed, one after the other; those there are already are gone on with or kept.

    Raises:
        InputError: no seed, one twice, a negative one, or more than MOST_SEEDS.
    """
    check_seeds(seeds)
    trained: list[int] = []
    for number, seed in enumerate(seeds):
        mine = replace(settings, seed=seed)
        known = same_run(study, label_set_id, split_id, mine)

        def pass_on(
            done: float,
            total: float,
            message: str,
            detail: Mapping[str, Any],
            number: int = number,
            seed: int = seed,
        ) -> None:
            said = f"seed {seed} ({number + 1} of {len(seeds)}), {message}" if len(seeds) > 1 else message
            told = {**detail, "run_ids": [*trained, detail["run_id"]]}
            if told.get("seconds_left") is not None:
                told["seconds_left"] += (len(seeds) - number - 1) * total
            report(number + (done / total if total else 0.0), len(seeds), said, told)

        title = f"{name}, seed {seed}" if len(seeds) > 1 else name
        trained.append(
            train_run(study, label_set_id, split_id, mine, title, pass_on, should_stop, run_id=known)
        )
        if should_stop():
            break
    return trained


def check_seeds(seeds: Sequence[int]) -> None:
    """Raises InputError where these are no seeds of one job."""
    if not 1 <= len(seeds) <= MOST_SEEDS:
        raise InputError(f"{len(seeds)} seeds are given. Give 1 to {MOST_SEEDS}.")
    if len(set(seeds)) < len(seeds) or min(seeds) < 0:
        raise InputError(f"The seeds {' '.join(map(str, seeds))} must be whole numbers from 0, each once.")


def _is_finished(study: Study, run_id: int) -> bool:
    with study.science.read() as db:
        state = runs.get_run(db, run_id)["state"]
    return state == "finished" and (study.run_folder(run_id) / RUN_FILE).exists()


def training_patches(study: Study, label_set_id: int, split_id: int) -> list[TrainingPatch]:
    """The labelled patches of the train and val parts."""
    labels = read_labels(study, label_set_id)
    with study.science.read() as db:
        parts = runs.split_parts(db, split_id)
        patches = {p["id"]: p for p in images.list_patches(db)}
    chosen = [
        TrainingPatch(
            patches[patch_id]["name"],
            read_patch(study, patch_id),
            by_class,
            parts[patch_id],
            patches[patch_id]["um_per_px"],
        )
        for patch_id, by_class in sorted(labels.items())
        if parts.get(patch_id) in ("train", "val")
    ]
    if not any(patch.part == "train" for patch in chosen):
        raise InputError("None of these labels lies in the train part of the split. Annotate more patches.")
    return chosen


def epochs_before(settings: TrainingSettings) -> dict[str, int]:
    """Stage -> epochs planned before it: each stage counts from 1, in the store they go on counting."""
    earlier, planned = {}, 0
    for stage, epochs in settings.stages.items():
        earlier[stage], planned = planned, planned + epochs
    return earlier


def load_run_model(study: Study, run_id: int, loaded: LoadedBackbone | None = None) -> RunModel:
    """The network of a run; an "untrained" run is the network its training would start from."""
    with study.science.read() as db:
        run = runs.get_run(db, run_id)
    settings = run["settings"]
    # A run that was trained on a GPU can be looked at without one.
    device = "cpu" if settings["device"] == "cpu" else "auto"
    loaded = loaded or load_backbone(settings["backbone"], device=device)
    if run["kind"] == "untrained":
        width, seed = settings["adapter_width"], settings["seed"]
        return _with_names_of_now(study, untrained_model(loaded, settings["class_names"], width, seed))
    if run["state"] != "finished":
        raise NotFoundError(f"Run {run_id} is {run['state']}; only a finished run can predict.")
    return _with_names_of_now(study, load_run(study.run_folder(run_id), loaded=loaded))


def _with_names_of_now(study: Study, model: RunModel) -> RunModel:
    """Classes that were renamed since the training, by their names now."""
    with study.science.read() as db:
        name_now = study_store.names_of_classes(db)
    model.network.class_names = tuple(name_now.get(name, name) for name in model.class_names)
    return model


def _test_labels(
    study: Study, reference_id: int, parts: Mapping[int, str]
) -> dict[int, dict[str, np.ndarray]]:
    """The reference's labels on the test part of a split."""
    labels = read_labels(study, reference_id)
    truth = {patch_id: by_class for patch_id, by_class in labels.items() if parts.get(patch_id) == "test"}
    if not truth:
        raise InputError(
            "The reference has no label on the test part of this split. Annotate some of its patches, or "
            "choose another reference or seed of the split."
        )
    return truth


def check_tested(study: Study, reference_id: int, split_id: int) -> None:
    """Raise InputError unless the reference has labels on the test part of a split."""
    with study.science.read() as db:
        parts = runs.split_parts(db, split_id)
    _test_labels(study, reference_id, parts)


def evaluate_run(
    study: Study,
    run_id: int,
    reference_id: int,
    report: Report = say_nothing,
    should_stop: ShouldStop = never,
) -> list[dict[str, Any]]:
    """Score a run on the test part, from PAS alone, against a reference; keeps and returns the rows."""
    model = load_run_model(study, run_id)
    with study.science.read() as db:
        split_id = runs.get_run(db, run_id)["split_id"]
        parts = runs.split_parts(db, split_id)
        patches = {p["id"]: p for p in images.list_patches(db)}
        class_ids = {c["name"]: c["id"] for c in study_store.list_classes(db)}
    truth = _test_labels(study, reference_id, parts)
    rows: list[dict[str, Any]] = []
    for step, (patch_id, by_class) in enumerate(sorted(truth.items())):
        if should_stop():
            return []
        report(step, len(truth), f"scoring patch {step + 1} of {len(truth)}", {"run_id": run_id})
        found = predict_patch(model, read_patch(study, patch_id), patches[patch_id]["um_per_px"])
        for name in sorted(by_class.keys() & found.keys()):
            keep_prediction(study, run_id, patch_id, name, found[name].labels)
            keys = {
                "run_id": run_id,
                "reference_id": reference_id,
                "split_id": split_id,
                "patch_id": patch_id,
                "class_id": class_ids[name],
            }
            rows += _score_rows(keys, found[name].labels, by_class[name])
    with study.science.write() as db:
        runs.put_scores(db, rows)
    return rows


def _score_rows(keys: Mapping[str, Any], found: np.ndarray, truth: np.ndarray) -> list[dict[str, Any]]:
    n = len(np.unique(truth[truth > 0]))
    scores = score_all(found, truth, SCORED_METRICS)
    return [{**keys, "metric": metric, "value": value, "n": n} for metric, value in scores.items()]


def _people_of_both(study: Study, label_set_id: int, reference_id: int) -> set[str]:
    with study.science.read() as db:
        return runs.label_set_people(db, label_set_id) & runs.label_set_people(db, reference_id)


def score_labels(study: Study, label_set_id: int, reference_id: int, split_id: int | None = None) -> None:
    """Score people's labels against a reference that holds none of their own work, and keep the rows."""
    both = _people_of_both(study, label_set_id, reference_id)
    with study.science.read() as db:
        class_ids = {c["name"]: c["id"] for c in study_store.list_classes(db)}
    if both:
        raise NotAllowedError(
            f"{sorted(both)[0]!r} is in the labels and in the reference; nobody is scored against themselves."
        )
    mine, truth = read_labels(study, label_set_id), read_labels(study, reference_id)
    rows = [
        row
        for patch_id in sorted(mine.keys() & truth.keys())
        for name in sorted(mine[patch_id].keys() & truth[patch_id].keys())
        for row in _score_rows(
            {
                "label_set_id": label_set_id,
                "reference_id": reference_id,
                "split_id": split_id,
                "patch_id": patch_id,
                "class_id": class_ids[name],
            },
            mine[patch_id][name],
            truth[patch_id][name],
        )
    ]
    with study.science.write() as db:
        runs.put_scores(db, rows)


def prediction_path(study: Study, run_id: int, patch_id: int, class_name: str) -> Path:
    # By the oldest name of the class, so that its predictions are found under any.
    with study.science.read() as db:
        name_now = study_store.names_of_classes(db)
    now = name_now.get(class_name, class_name)
    oldest = next((was for was, name in name_now.items() if name == now), class_name)
    digest = hashlib.sha256(oldest.encode()).hexdigest()[:12]
    return study.run_folder(run_id) / "predictions" / f"{int(patch_id)}_{digest}.png"


def keep_prediction(study: Study, run_id: int, patch_id: int, class_name: str, labels: np.ndarray) -> None:
    """Keep a prediction's instances (16-bit PNG), so that pages can draw them beside the reference."""
    write_file(prediction_path(study, run_id, patch_id, class_name), encode_labels(labels))


def read_prediction(study: Study, run_id: int, patch_id: int, class_name: str) -> np.ndarray:
    """Instances (H, W) int32 that a run found on a test patch."""
    path = prediction_path(study, run_id, patch_id, class_name)
    if not path.exists():
        raise NotFoundError(f"Run {run_id} has no prediction for this patch. Evaluate the run again.")
    return read_channel(path).astype(np.int32)


# ---------------------------------------------------------------------------------------- one click


def add_untrained_run(study: Study, split_id: int, settings: TrainingSettings) -> int:
    """The baseline every trained run is compared with: the same network before training."""
    loaded = load_backbone(settings.backbone)
    with study.science.write() as db:
        class_names = sorted(c["name"] for c in study_store.list_classes(db))
        start = {name: getattr(settings, name) for name in START_SETTINGS} | {"class_names": class_names}
        for run in runs.list_runs(db):
            same = run["split_id"] == split_id and run["backbone_sha256"] == loaded.weights_sha256
            if run["kind"] == "untrained" and same and run["settings"] == start:
                return run["id"]
        run_id = runs.add_run(
            db,
            name="untrained",
            kind="untrained",
            split_id=split_id,
            settings=start,
            settings_version=settings.settings_version,
            backbone=loaded.backbone.name,
            backbone_sha256=loaded.weights_sha256,
        )
        runs.update_run(db, run_id, state="finished")
        return run_id


def one_click(
    study: Study,
    settings: TrainingSettings,
    recipes: Sequence[LabelRecipe] = (LabelRecipe(group="expert"), LabelRecipe(group="student")),
    split_seed: int = 1,
    report: Report = say_nothing,
    should_stop: ShouldStop = never,
) -> dict[str, Any]:
    """Train on each recipe's labels with one split, seed and budget, and score all on the test part.

    Called again with the same arguments it goes on where it stopped. Returns ids: split, reference, runs
    (one per recipe) and the untrained baseline.
    """
    split_id = make_split(study, split_seed)
    cache = study_cache(study) if any(recipe.masks != "edited" for recipe in recipes) else None
    reference_id = freeze_labels(study, reference_recipe(study))
    with study.science.read() as db:
        _test_labels(study, reference_id, runs.split_parts(db, split_id))  # said now, not after the training
    label_sets = [freeze_labels(study, recipe, cache) for recipe in recipes]
    steps = len(recipes) + 1
    trained: list[int] = []
    for step, (recipe, label_set_id) in enumerate(zip(recipes, label_sets, strict=True)):
        earlier = same_run(study, label_set_id, split_id, settings)

        def pass_on(
            done: float, total: float, message: str, detail: Mapping[str, Any], step: int = step
        ) -> None:
            share = done / total if total else 0.0
            title = recipes[step].title
            report(step + 0.9 * share, steps, f"{title}: {message}", {"label": title, **detail})

        run_id = train_run(
            study, label_set_id, split_id, settings, recipe.title, pass_on, should_stop, run_id=earlier
        )
        trained.append(run_id)
        if should_stop():
            return {"split": split_id, "reference": reference_id, "runs": trained, "untrained": None}
        evaluate_run(study, run_id, reference_id, report=say_nothing, should_stop=should_stop)
        if not _people_of_both(study, label_set_id, reference_id):
            score_labels(study, label_set_id, reference_id, split_id)
    report(steps - 1, steps, "scoring the untrained model", {})
    untrained = add_untrained_run(study, split_id, settings)
    evaluate_run(study, untrained, reference_id, should_stop=should_stop)
    report(steps, steps, "done", {})
    return {"split": split_id, "reference": reference_id, "runs": trained, "untrained": untrained}


def same_run(study: Study, label_set_id: int, split_id: int, settings: TrainingSettings) -> int | None:
    """The run that already trains (or trained) exactly this, so that a resumed job goes on with it."""
    with study.science.read() as db:
        for run in reversed(runs.list_runs(db)):
            same = (run["label_set_id"], run["split_id"], run["settings"]) == (
                label_set_id,
                split_id,
                settings.to_dict(),
            )
            if same and run["state"] != "failed":
                return run["id"]
    return None


# ------------------------------------------------------------------------- for the command line and pages


def study_cache(study: Study) -> EmbeddingCache:
    """The embedding cache of the study's pinned backbone."""
    with study.science.read() as db:
        backbone = study_store.get_study(db)["backbone"]
    return EmbeddingCache(study.embeddings_folder, open_segmenter(backbone))


def evaluate_all(
    study: Study,
    run_ids: Sequence[int] | None = None,
    report: Report = say_nothing,
    should_stop: ShouldStop = never,
) -> dict[str, Any]:
    """Score these finished runs (all by default) and, for each of their splits, the untrained model."""
    with study.science.read() as db:
        finished = {run["id"]: run for run in runs.list_runs(db) if run["state"] == "finished"}
    chosen = list(run_ids) if run_ids else [run_id for run_id in finished]
    missing = [run_id for run_id in chosen if run_id not in finished]
    if missing or not chosen:
        raise NotFoundError(f"No finished run {missing[0] if missing else ''} to evaluate. Train one first.")
    reference_id = freeze_labels(study, reference_recipe(study))
    trained = [finished[run_id] for run_id in chosen if finished[run_id]["kind"] != "untrained"]
    for run in trained:
        baseline = add_untrained_run(study, run["split_id"], TrainingSettings.from_dict(run["settings"]))
        chosen = [*chosen, *([baseline] if baseline not in chosen else [])]
    for step, run_id in enumerate(chosen):

        def pass_on(done: float, total: float, message: str, detail: Any, step: int = step) -> None:
            report(step + done / total, len(chosen), message, detail)

        evaluate_run(study, run_id, reference_id, report=pass_on, should_stop=should_stop)
    for run in trained:
        _trust_of_earlier(study, run, report, should_stop)
    return {"runs": chosen, "reference": reference_id}


def _trust_of_earlier(study: Study, run: Mapping[str, Any], report: Report, should_stop: ShouldStop) -> None:
    """Where MOCL trusts the labels, of a run that was trained before that was kept."""
    settings = TrainingSettings.from_dict(run["settings"])
    with study.science.read() as db:
        if run["label_set_id"] in work_withdrawn(db)["label_sets"]:
            return
    if mocl_doubts.has_mocl(settings) and not mocl_doubts.doubts_path(study, run["id"]).exists():
        patches = training_patches(study, run["label_set_id"], run["split_id"])
        _keep_trust(
            study,
            run["id"],
            lambda: load_run_model(study, run["id"]),
            settings,
            patches,
            1.0,
            report,
            should_stop,
        )


def predict_file(
    study: Study, run_id: int, image_path: Path, out: Path, um_per_px: float | None = None
) -> dict[str, Any]:
    """Predict one image file; writes `<class>.png` (16-bit label image) and `objects.csv` into `out`."""
    found = predict_patch(load_run_model(study, run_id), read_rgb(image_path), um_per_px)
    out.mkdir(parents=True, exist_ok=True)
    rows = []
    for name, prediction in found.items():
        file_name = re.sub(r"[^\w .+-]", "_", name)  # a class may be called "CD3/CD20"
        write_file(out / f"{file_name}.png", encode_labels(prediction.labels))
        areas = np.bincount(prediction.labels.ravel())[1:]
        for number, (area, score) in enumerate(zip(areas, prediction.scores, strict=True), start=1):
            ys, xs = np.nonzero(prediction.labels == number)
            centre = {"x_px": float(xs.mean() + 0.5), "y_px": float(ys.mean() + 0.5)}
            rows.append({"class": name, "id": number, **centre, "area_px": int(area), "score": float(score)})
    columns = ["class", "id", "x_px", "y_px", "area_px", "score"]
    pd.DataFrame(rows, columns=columns).to_csv(out / "objects.csv", index=False)
    counts = {name: int(prediction.labels.max()) for name, prediction in found.items()}
    return {"run": run_id, "counts": counts, "out": str(out)}
