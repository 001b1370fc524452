"""From annotations to a trained and scored model: splits, frozen label sets, runs, evaluation."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from allinsam.errors import InputError, NotAllowedError, NotFoundError
from allinsam.imaging import read_rgb
from allinsam.inference import RunModel, load_run, predict_patch, untrained_model
from allinsam.masks import decode_rle, encode_rle, instances_to_labels
from allinsam.metrics import score_all
from allinsam.prompts import mask_to_box
from allinsam.records import GROUPS, Mask
from allinsam.sam.backbones import LoadedBackbone, load_backbone
from allinsam.sam.embeddings import EmbeddingCache
from allinsam.sam.segmenter import Segmenter
from allinsam.store import Study, images, runs
from allinsam.store import acts as act_store
from allinsam.store import assignments as queue
from allinsam.store import study as study_store
from allinsam.training.dataset import TrainingPatch
from allinsam.training.settings import TrainingSettings
from allinsam.training.train import train
from allinsam.workflow.annotating import read_patch, write_file

Report = Callable[[float, float, str, dict[str, Any]], None]
ShouldStop = Callable[[], bool]

SHARES = {"train": 6, "val": 1, "test": 3}
SCORED_METRICS = ("f1_instance", "dice", "iou", "pq", "aji")
MASK_SOURCES = ("edited", "weak")


def say_nothing(done: float, total: float, message: str, detail: Mapping[str, Any]) -> None:
    """A report nobody reads."""


def never() -> bool:
    return False


# ------------------------------------------------------------------------------------------ splits


def make_split(study: Study, seed: int = 1) -> int:
    """Deal whole slides into train, val and test (6:1:3), per condition; the same seed gives the same split.

    A patch never shares its slide with another part. Slides with all markers go to val and test
    first, so that every class is scored. A study with fewer than three slides is split by patch,
    and the rule says so.
    """
    with study.science.read() as db:
        patches = images.list_patches(db)
        markers = images.slide_markers(db)
    by_slide = len({patch["slide_id"] for patch in patches}) >= 3
    rule = f"{'slide' if by_slide else 'patch'} 6:1:3 of {len(patches)}"
    with study.science.read() as db:
        known = runs.find_split(db, rule, seed)
    if known is not None:
        return known
    if len(patches) < 3:
        raise InputError(f"A split needs at least 3 patches; this study has {len(patches)}. Import more.")
    unit = "slide_id" if by_slide else "id"
    count = {row["slide_id"]: 0 for row in markers}
    for row in markers:
        count[row["slide_id"]] += 1
    conditions = {patch[unit]: patch["condition"] for patch in patches}
    richness = {patch[unit]: count.get(patch["slide_id"], 0) for patch in patches}
    part_of = deal_parts(conditions, richness, seed)
    with study.science.write() as db:
        return runs.add_split(db, rule, seed, {patch["id"]: part_of[patch[unit]] for patch in patches})


def deal_parts(conditions: Mapping[int, str], richness: Mapping[int, int], seed: int) -> dict[int, str]:
    """Unit -> part. Test takes 30 % of each condition (at least one), val one unit in ten (at least one)."""
    rng = np.random.default_rng(seed)
    strata = {
        condition: [int(u) for u in rng.permutation([u for u in conditions if conditions[u] == condition])]
        for condition in sorted(set(conditions.values()))
    }
    for units in strata.values():
        units.sort(key=lambda unit: -richness[unit])  # stable: random among equals
    parts: dict[int, str] = {}
    for units in strata.values():
        for _ in range(max(1, round(0.3 * len(units))) if len(units) > 1 else 0):
            parts[units.pop(0)] = "test"
    wanted = max(1, round(0.1 * len(conditions)))
    for _ in range(wanted):
        fullest = max(strata.values(), key=lambda units: (len(units), -sorted(conditions).index(units[0])))
        parts[fullest.pop(0)] = "val"
    parts.update({unit: "train" for units in strata.values() for unit in units})
    if "test" not in parts.values():
        parts[max(unit for unit, part in parts.items() if part == "train")] = "test"
    return parts


# -------------------------------------------------------------------------------------- label sets


@dataclass(frozen=True)
class LabelRecipe:
    """Which finished annotations become labels.

    masks: "edited" takes each mask as it was accepted; "weak" runs SAM on each first box again.
    Of several people who finished a patch one is drawn by `seed` ("pooled").
    """

    group: str | None = None
    people: tuple[str, ...] | None = None
    masks: str = "edited"
    rule: str = "pooled"
    purposes: tuple[str, ...] = ("production",)
    guidances: tuple[str, ...] = ("if", "threshold")
    shuffle_classes: bool = False  # a control: every nucleus keeps its outline and gets a random class
    seed: int = 1

    def __post_init__(self) -> None:
        if self.masks not in MASK_SOURCES:
            raise InputError(f"Unknown masks {self.masks!r}. Choose one of {list(MASK_SOURCES)}.")
        if self.rule != "pooled":
            raise InputError(f"Unknown label rule {self.rule!r}. Choose 'pooled'.")
        if (self.group is None) == (self.people is None):
            raise InputError("A label recipe names either a group or people, not both.")

    @property
    def title(self) -> str:
        """How pages call labels made by this recipe."""
        who = self.group if self.group else ", ".join(self.people or ())
        plural = {"student": "students", "expert": "expert", "truth": "truth"}.get(who, who)
        return (
            plural
            + (", weak" if self.masks == "weak" else "")
            + (", shuffled" if self.shuffle_classes else "")
        )

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "LabelRecipe":
        lists = ("people", "purposes", "guidances")
        return cls(**{k: tuple(v) if k in lists and v is not None else v for k, v in values.items()})


def reference_recipe(study: Study) -> LabelRecipe:
    """What models are scored against: the simulated truth where there is one, else the expert's labels."""
    with study.science.read() as db:
        groups = {person["group"] for person in study_store.list_people(db)}
    if "truth" in groups:
        return LabelRecipe(group="truth", purposes=("gold",))
    return LabelRecipe(group="expert")


def freeze_labels(study: Study, recipe: LabelRecipe, cache: EmbeddingCache | None = None) -> int:
    """Freeze the labels a recipe gives today as a manifest with a hash; returns the label set's id.

    A class that is neither complete nor "nothing here" is missing, never empty.
    """
    chosen = _choose_assignments(study, recipe)
    if not chosen:
        raise InputError(
            f"No finished patch matches the labels {recipe.title!r}. Let {recipe.group or 'them'} submit "
            "at least one patch, or choose other labels."
        )
    with study.science.read() as db:
        names = {c["id"]: c["name"] for c in study_store.list_classes(db)}
        rows = {a: act_store.current_annotations(db, a) for a in {c["assignment_id"] for c in chosen}}
        patches = {patch["id"]: patch for patch in images.list_patches(db)}
    if recipe.masks == "weak" and cache is None:
        raise InputError("Weak labels run SAM on every box; give an embedding cache.")
    lines, members = [], []
    for claim in sorted(chosen, key=lambda c: (patches[c["patch_id"]]["name"], c["class_id"])):
        patch = patches[claim["patch_id"]]
        mine = [row for row in rows[claim["assignment_id"]] if row["class_id"] == claim["class_id"]]
        objects = _label_objects(study, patch, mine, recipe, cache)
        lines.append(
            {
                "patch_id": patch["id"],
                "patch": patch["name"],
                "class": names[claim["class_id"]],
                "image_sha256": patch["image_sha256"],
                "person": claim["person_id"],
                "objects": objects,
            }
        )
        keys = {key: claim[key] for key in ("patch_id", "class_id", "assignment_id")}
        members += [{**keys, "annotation_id": row["id"]} for row in mine] or [{**keys, "annotation_id": None}]
    if recipe.shuffle_classes:
        _shuffle(lines, recipe.seed)
    text = "\n".join(json.dumps(line, sort_keys=True) for line in [{"recipe": asdict(recipe)}, *lines]) + "\n"
    sha256 = hashlib.sha256(text.encode()).hexdigest()
    write_file(study.labels_path(sha256), text.encode())
    with study.science.write() as db:
        return runs.add_label_set(db, asdict(recipe), sha256, members)


def _choose_assignments(study: Study, recipe: LabelRecipe) -> list[dict[str, Any]]:
    """The (assignment, class) claims a recipe takes: per patch one finished person, drawn by the seed."""
    with study.science.read() as db:
        claims = [
            row
            for row in queue.all_assignment_classes(db)
            if row["assignment_state"] == "submitted"
            and row["state"] in ("complete", "nothing_here")
            and row["purpose"] in recipe.purposes
            and (row["guidance"] in recipe.guidances or row["group"] == "truth")
            and (row["group"] == recipe.group or row["person_id"] in (recipe.people or ()))
        ]
    chosen = []
    for patch_id in sorted({claim["patch_id"] for claim in claims}):
        finished = sorted({c["assignment_id"] for c in claims if c["patch_id"] == patch_id})
        rng = np.random.default_rng([recipe.seed, patch_id])
        drawn = finished[int(rng.integers(len(finished)))]
        chosen += [claim for claim in claims if claim["assignment_id"] == drawn]
    return chosen


def _label_objects(
    study: Study,
    patch: Mapping[str, Any],
    rows: Sequence[Mapping[str, Any]],
    recipe: LabelRecipe,
    cache: EmbeddingCache | None,
) -> list[dict[str, Any]]:
    stored = [Mask(r["mask_height_px"], r["mask_width_px"], r["mask_counts"]).as_rle() for r in rows]
    if recipe.masks == "weak" and rows:
        boxes = [
            json.loads(row["first_box"]) if row["first_box"] else mask_to_box(decode_rle(rle)).tolist()
            for row, rle in zip(rows, stored, strict=True)
        ]
        embedding = cache.get(read_patch(study, patch["id"]))
        found = cache.segmenter.masks_from_boxes(embedding, np.array(boxes, np.float32))
        stored = [encode_rle(mask) for mask in found.masks]
    return [
        {"object_id": row["object_id"], "annotation_id": row["id"], "mask": rle}
        for row, rle in zip(rows, stored, strict=True)
    ]


def _shuffle(lines: list[dict[str, Any]], seed: int) -> None:
    """Deal the nuclei of each patch anew among the classes labelled on it, keeping every class's count."""
    rng = np.random.default_rng(seed)
    for patch_id in sorted({line["patch_id"] for line in lines}):
        mine = [line for line in lines if line["patch_id"] == patch_id]
        pool = [thing for line in mine for thing in line["objects"]]
        order = iter([pool[i] for i in rng.permutation(len(pool))])
        for line in mine:
            line["objects"] = [next(order) for _ in line["objects"]]


def read_labels(study: Study, label_set_id: int) -> dict[int, dict[str, np.ndarray]]:
    """Patch id -> class name -> label image (H, W), from the frozen manifest. A missing class is absent."""
    with study.science.read() as db:
        label_set = runs.get_label_set(db, label_set_id)
        sizes = {p["id"]: (p["height_px"], p["width_px"]) for p in images.list_patches(db)}
    path = study.labels_path(label_set["sha256"])
    content = path.read_bytes() if path.exists() else b""
    if hashlib.sha256(content).hexdigest() != label_set["sha256"]:
        raise NotFoundError(
            f"The frozen labels {path.name} are missing or changed. Restore them or freeze again."
        )
    labels: dict[int, dict[str, np.ndarray]] = {}
    for line in content.decode().splitlines()[1:]:
        row = json.loads(line)
        masks = [decode_rle(thing["mask"]) for thing in row["objects"]]
        size_hw = sizes[row["patch_id"]]
        image = instances_to_labels(masks, np.ones(len(masks))) if masks else np.zeros(size_hw, np.int32)
        labels.setdefault(row["patch_id"], {})[row["class"]] = image
    return labels


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
    """Train on a label set's train part and keep the run; `run_id` goes on with an interrupted one."""
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

    # Each stage counts its epochs from 1; in the store they go on counting.
    earlier, planned = {}, 0
    for stage, epochs in settings.stages.items():
        earlier[stage], planned = planned, planned + epochs

    def pass_on(row: dict[str, Any]) -> None:
        if row["kind"] == "epoch":
            with study.science.write() as db:
                kept = {k: row[k] for k in ("loss", "val", "seconds", "scores")}
                runs.put_epoch(db, run_id, earlier[row["stage"]] + row["epoch"], row["stage"], kept)
        total = row["seconds"] + row["seconds_left"]
        report(
            row["seconds"],
            total,
            f"{row['stage']} stage, epoch {row['epoch'] + 1}",
            {"run_id": run_id, **row},
        )

    folder = study.run_folder(run_id)
    result = train(settings, patches, folder, pass_on, should_stop, loaded=loaded)
    if result.state == "cancelled":
        with study.science.write() as db:
            runs.update_run(db, run_id, state="cancelled")
        return run_id
    weights = hashlib.sha256((folder / "adapter.safetensors").read_bytes()).hexdigest()
    with study.science.write() as db:
        runs.update_run(db, run_id, state="finished", weights_sha256=weights)
    return run_id


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


def load_run_model(study: Study, run_id: int, loaded: LoadedBackbone | None = None) -> RunModel:
    """The network of a run; an "untrained" run is the network its training would start from."""
    with study.science.read() as db:
        run = runs.get_run(db, run_id)
    if run["kind"] == "untrained":
        loaded = loaded or load_backbone(run["backbone"])
        return untrained_model(loaded, run["settings"]["class_names"], seed=run["settings"]["seed"])
    if run["state"] != "finished":
        raise NotFoundError(f"Run {run_id} is {run['state']}; only a finished run can predict.")
    return load_run(study.run_folder(run_id), loaded=loaded)


def evaluate_run(
    study: Study,
    run_id: int,
    reference_id: int,
    split_id: int | None = None,
    report: Report = say_nothing,
    should_stop: ShouldStop = never,
) -> list[dict[str, Any]]:
    """Score a run on the test part, from PAS alone, against a reference; keeps and returns the rows."""
    model = load_run_model(study, run_id)
    with study.science.read() as db:
        split_id = split_id or runs.get_run(db, run_id)["split_id"]
        parts = runs.split_parts(db, split_id)
        patches = {p["id"]: p for p in images.list_patches(db)}
        class_ids = {c["name"]: c["id"] for c in study_store.list_classes(db)}
    truth = {
        p: by_class for p, by_class in read_labels(study, reference_id).items() if parts.get(p) == "test"
    }
    if not truth:
        raise InputError(
            "The reference has no label on the test part of this split. Choose another reference."
        )
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


def score_labels(study: Study, label_set_id: int, reference_id: int, split_id: int | None = None) -> None:
    """Score people's labels against a reference that holds none of their own work, and keep the rows."""
    with study.science.read() as db:
        both = runs.label_set_people(db, label_set_id) & runs.label_set_people(db, reference_id)
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
    digest = hashlib.sha256(class_name.encode()).hexdigest()[:12]
    return study.run_folder(run_id) / "predictions" / f"{int(patch_id)}_{digest}.png"


def keep_prediction(study: Study, run_id: int, patch_id: int, class_name: str, labels: np.ndarray) -> None:
    """Keep a prediction's instances (16-bit PNG), so that pages can draw them beside the reference."""
    path = prediction_path(study, run_id, patch_id, class_name)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".part")
    Image.fromarray(labels.astype(np.uint16)).save(temporary, format="PNG")
    temporary.replace(path)


def read_prediction(study: Study, run_id: int, patch_id: int, class_name: str) -> np.ndarray:
    """Instances (H, W) int32 that a run found on a test patch."""
    path = prediction_path(study, run_id, patch_id, class_name)
    if not path.exists():
        raise NotFoundError(f"Run {run_id} has no prediction for this patch. Evaluate the run again.")
    return np.asarray(Image.open(path)).astype(np.int32)


# ---------------------------------------------------------------------------------------- one click


def add_untrained_run(study: Study, split_id: int, settings: TrainingSettings) -> int:
    """The baseline every trained run is compared with: the same network before training."""
    loaded = load_backbone(settings.backbone)
    with study.science.write() as db:
        class_names = [c["name"] for c in study_store.list_classes(db)]
        for run in runs.list_runs(db):
            if run["kind"] == "untrained" and run["split_id"] == split_id:
                return run["id"]
        run_id = runs.add_run(
            db,
            name="untrained",
            kind="untrained",
            split_id=split_id,
            settings={"class_names": sorted(class_names), "seed": settings.seed},
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
    cache = EmbeddingCache(study.embeddings_folder, Segmenter(load_backbone(settings.backbone)))
    reference_id = freeze_labels(study, reference_recipe(study))
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
        if label_set_id != reference_id:
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


def recipe_of(labels: str, **options: Any) -> LabelRecipe:
    """A recipe from a word: a group (expert, student, truth) or a person's id."""
    if labels == "truth":
        options["purposes"] = ("gold",)
    if labels in GROUPS:
        return LabelRecipe(group=labels, **options)
    return LabelRecipe(people=(labels,), **options)


def study_cache(study: Study) -> EmbeddingCache:
    """The embedding cache of the study's pinned backbone."""
    with study.science.read() as db:
        backbone = study_store.get_study(db)["backbone"]
    return EmbeddingCache(study.embeddings_folder, Segmenter(load_backbone(backbone)))


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
    for split_id in sorted({finished[run_id]["split_id"] for run_id in chosen}):
        settings = TrainingSettings.from_dict(
            next(r["settings"] for r in finished.values() if r["kind"] == "adapter")
        )
        baseline = add_untrained_run(study, split_id, settings)
        chosen = [*chosen, *([baseline] if baseline not in chosen else [])]
    for step, run_id in enumerate(chosen):

        def pass_on(done: float, total: float, message: str, detail: Any, step: int = step) -> None:
            report(step + done / total, len(chosen), message, detail)

        evaluate_run(study, run_id, reference_id, report=pass_on, should_stop=should_stop)
    return {"runs": chosen, "reference": reference_id}


def predict_file(
    study: Study, run_id: int, image_path: Path, out: Path, um_per_px: float | None = None
) -> dict[str, Any]:
    """Predict one image file; writes `<class>.png` (16-bit label image) and `objects.csv` into `out`."""
    found = predict_patch(load_run_model(study, run_id), read_rgb(image_path), um_per_px)
    out.mkdir(parents=True, exist_ok=True)
    rows = []
    for name, prediction in found.items():
        Image.fromarray(prediction.labels.astype(np.uint16)).save(out / f"{name}.png")
        areas = np.bincount(prediction.labels.ravel())[1:]
        for number, (area, score) in enumerate(zip(areas, prediction.scores, strict=True), start=1):
            ys, xs = np.nonzero(prediction.labels == number)
            centre = {"x_px": float(xs.mean() + 0.5), "y_px": float(ys.mean() + 0.5)}
            rows.append({"class": name, "id": number, **centre, "area_px": int(area), "score": float(score)})
    columns = ["class", "id", "x_px", "y_px", "area_px", "score"]
    pd.DataFrame(rows, columns=columns).to_csv(out / "objects.csv", index=False)
    counts = {name: int(prediction.labels.max()) for name, prediction in found.items()}
    return {"run": run_id, "counts": counts, "out": str(out)}
