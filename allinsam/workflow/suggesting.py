"""Suggestions for a patch: made once, when it is first opened, and what became of them.

They come into the acts as proposed nuclei of nobody's page load. Which of them are wrong on purpose stands in
the store's `suggestion` rows alone.
"""

import threading
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import pandas as pd
from sqlite_utils import Database

from allinsam.acts import AssignmentState, ObjectState, replay
from allinsam.errors import InputError
from allinsam.inference import Prediction, RunModel, predict_patch
from allinsam.masks import decode_rle, encode_rle, labels_to_masks
from allinsam.planning import PlanSettings
from allinsam.prompts import mask_to_box
from allinsam.records import Act
from allinsam.sam.embeddings import EmbeddingCache
from allinsam.sam.prompting import Prompt
from allinsam.store import Study, images, open_study, plans, runs, suggestions
from allinsam.store import acts as act_store
from allinsam.store import assignments as queue
from allinsam.store import study as study_store
from allinsam.suggesting import (
    Place,
    Suggestion,
    automation_bias,
    bright_boxes,
    plant,
    plausible,
)
from allinsam.timing import seconds_per_object, seconds_until
from allinsam.workflow.annotating import (
    ActLog,
    MarkerEvidence,
    append_acts,
    marker_evidence,
    masks_for_prompts,
    read_patch,
)
from allinsam.workflow.export_columns import COLUMNS
from allinsam.workflow.learning import load_run_model
from allinsam.workflow.standing import standing

PREDICTIONS_REMEMBERED = 16  # patches in front of people, and the next of each


@dataclass(frozen=True)
class Proposals:
    """What a model found on a patch, and which model."""

    found: list[Suggestion]
    source: str  # sam or run
    run_id: int | None
    backbone: str
    weights_sha256: str


def propose(study: Study, assignment_id: int, cache: Callable[[], EmbeddingCache]) -> bool:
    """Make the suggestions of an assignment of that guidance that was never opened; True if it made them.

    The same seed, tissue, thresholds and weights give the same suggestions to everybody, and again on a
    repeat. Whoever opens the patch twice at the same moment gets the same.

    Args:
        cache: of the study's backbone; asked for only where SAM makes the suggestions.

    Raises:
        ModelError: the weights, or the run, cannot be used: without its suggestions a patch is not opened.
    """
    with study.science.read() as db:
        assignment = queue.get_assignment(db, assignment_id)
        if not _is_due(db, assignment):
            return False
        settings = _settings_of(db, assignment)
        asked = queue.assignment_classes(db, assignment_id)
        classes = [row for row in study_store.list_classes(db) if row["id"] in asked]
    patch_id = assignment["patch_id"]
    evidence = {row["id"]: marker_evidence(study, patch_id, row["marker"]) for row in classes}
    if settings.suggestions_from is None:
        made = _of_sam(study, cache(), patch_id, classes, evidence)
    else:
        made = _of_run(study, settings.suggestions_from, patch_id, classes)
    bright = {class_id: known.bright for class_id, known in evidence.items() if known is not None}
    place = Place(made.found, list(asked), read_patch(study, patch_id), bright)
    shown = plant(place, settings.planted, np.random.default_rng([settings.seed, patch_id]))
    # An id of its own for each assignment, drawn when their order is settled.
    ids = np.random.default_rng([settings.seed, patch_id, assignment_id])
    named = {str(uuid.UUID(bytes=ids.bytes(16), version=4)): one for one in shown}
    log = ActLog(f"suggestions-{assignment_id}", act_store.SUGGESTION_SURFACE)
    acts = [
        log.act("suggest", 0.0, object_id, **_payload(one, made, evidence))
        for object_id, one in named.items()
    ]
    return _keep(study, assignment, settings, made, named, acts)


def _is_due(db: Database, assignment: Mapping[str, Any]) -> bool:
    """Not where outlines were imported for somebody to check: an assignment with acts has been begun."""
    return (
        assignment["guidance"] == "suggestion"
        and assignment["state"] != "submitted"
        and not suggestions.has_suggestions(db, assignment["id"])
        and act_store.act_summary(db, assignment["id"])[0] == 0
    )


def _settings_of(db: Database, assignment: Mapping[str, Any]) -> PlanSettings:
    """Those of the plan that gave the patch out; of one given by hand the usual ones."""
    for plan in plans.list_plans(db):
        if plan["id"] == assignment["plan_id"]:
            return PlanSettings.from_dict(plan["settings"])
    return PlanSettings()


def _keep(
    study: Study,
    assignment: dict[str, Any],
    settings: PlanSettings,
    made: Proposals,
    named: Mapping[str, Suggestion],
    acts: Sequence[Act],
) -> bool:
    with standing(study, assignment["id"]) as held, study.science.write() as db:
        if not _is_due(db, assignment):  # another tab was quicker
            return False
        about = {key: getattr(made, key) for key in ("source", "run_id", "backbone", "weights_sha256")}
        about |= {"planted_share": settings.planted, "seed": settings.seed}
        rows = [
            {
                "object_id": object_id,
                "class_id": one.class_id,
                "mask_counts": encode_rle(one.mask)["counts"],
                "planted": one.planted,
            }
            for object_id, one in named.items()
        ]
        suggestions.add_suggestions(db, assignment["id"], about, rows)
        append_acts(db, assignment, acts, held)
    return True


def _payload(
    one: Suggestion, made: Proposals, evidence: Mapping[int, MarkerEvidence | None]
) -> dict[str, Any]:
    known = evidence.get(one.class_id)
    return {
        "class_id": one.class_id,
        "box": mask_to_box(one.mask).tolist(),
        "mask": encode_rle(one.mask),
        "predicted_iou": round(float(one.predicted_iou), 4),
        "backbone": made.backbone,
        "weights_sha256": made.weights_sha256,
        **(known.of_mask(one.mask) if known else {}),
    }


# --------------------------------------------------------------------------------- where from


def _of_sam(
    study: Study,
    cache: EmbeddingCache,
    patch_id: int,
    classes: Sequence[Mapping[str, Any]],
    evidence: Mapping[int, MarkerEvidence | None],
) -> Proposals:
    """SAM's masks for boxes round the areas that are bright under each class's signed threshold."""
    um_per_px, found = _um_per_px(study, patch_id), []
    for row in classes:
        known = evidence[row["id"]]
        if known is None:
            continue
        prompts = [Prompt(box) for box in bright_boxes(known.bright, um_per_px)]
        for answer in masks_for_prompts(study, cache, patch_id, row["marker"], prompts):
            found.append(Suggestion(row["id"], decode_rle(answer["mask"]), answer["predicted_iou"]))
    loaded = cache.segmenter.loaded
    return Proposals(plausible(found, um_per_px), "sam", None, loaded.backbone.name, loaded.weights_sha256)


def _of_run(study: Study, run_id: int, patch_id: int, classes: Sequence[Mapping[str, Any]]) -> Proposals:
    """What a finished run finds on the stain alone."""
    um_per_px = _um_per_px(study, patch_id)
    with study.science.read() as db:
        run = runs.get_run(db, run_id)
        name_now = study_store.names_of_classes(db)
    predicted = {
        name_now.get(name, name): one for name, one in _predicted(str(study.folder), run_id, patch_id).items()
    }
    found = []
    for row in classes:
        if row["name"] not in predicted:
            continue
        one = predicted[row["name"]]
        ids, masks = labels_to_masks(one.labels)
        found += [
            Suggestion(row["id"], mask, float(one.scores[number - 1]))
            for number, mask in zip(ids, masks, strict=True)
        ]
    weights = run["weights_sha256"] or run["backbone_sha256"]
    return Proposals(plausible(found, um_per_px), "run", run_id, run["backbone"], weights)


def predict_ahead(study: Study, assignment_id: int) -> None:
    """Let a run look at a patch that somebody will open soon, where its suggestions are to come from one."""
    with study.science.read() as db:
        assignment = queue.get_assignment(db, assignment_id)
        run_id = _settings_of(db, assignment).suggestions_from if _is_due(db, assignment) else None
    if run_id is not None:
        _predicted(str(study.folder), run_id, assignment["patch_id"])


_predicting = threading.Lock()


def _predicted(folder: str, run_id: int, patch_id: int) -> Mapping[str, Prediction]:
    with _predicting:  # who opens a patch that is being looked at waits for that
        return _prediction(folder, run_id, patch_id)


@lru_cache(maxsize=PREDICTIONS_REMEMBERED)
def _prediction(folder: str, run_id: int, patch_id: int) -> Mapping[str, Prediction]:
    study = open_study(folder)
    model = _run_model(folder, run_id)
    return predict_patch(model, read_patch(study, patch_id), _um_per_px(study, patch_id))


@lru_cache(maxsize=1)
def _run_model(folder: str, run_id: int) -> RunModel:
    """A finished run does not change; everybody's patches of a plan ask for the same one."""
    return load_run_model(open_study(folder), run_id)


def _um_per_px(study: Study, patch_id: int) -> float | None:
    with study.science.read() as db:
        return images.get_patch(db, patch_id)["um_per_px"]


def check_source(study: Study, settings: PlanSettings) -> None:
    """Refuse a plan whose suggestions could not be made.

    Raises:
        NotFoundError: no such run.
        InputError: the run is not a finished training.
    """
    wants = any(arm.startswith("suggestion/") for arm in settings.arms)
    if settings.suggestions_from is None or not wants:
        return
    with study.science.read() as db:
        run = runs.get_run(db, settings.suggestions_from)
    if run["state"] != "finished" or run["kind"] == "untrained":
        raise InputError(
            f"Run {run['id']} ({run['kind']}, {run['state']}) cannot make suggestions. Name a finished "
            "training, or none: then SAM makes them."
        )


# -------------------------------------------------------------------------- what became of them


def suggestions_table(study: Study) -> pd.DataFrame:
    """One row for each suggestion: what it was, whether wrong on purpose, and what its annotator did."""
    with study.science.read() as db:
        cutoff = float(study_store.get_study(db)["plan"]["idle_cutoff_s"])
        rows = suggestions.list_suggestions(db)
        names = {row["id"]: row["name"] for row in study_store.list_classes(db)}
        acts = {a: act_store.list_acts(db, a) for a in {row["assignment_id"] for row in rows}}
    told: dict[int, dict[str, dict[str, Any]]] = {
        assignment_id: _what_became(mine, cutoff, names) for assignment_id, mine in acts.items()
    }
    columns = list(COLUMNS["suggestions"])
    table = []
    for row in rows:
        became = told[row["assignment_id"]].get(row["object_id"], {})
        fate = _fate(row, became.get("thing"))
        settled = {} if fate == "open" else became
        table.append(
            {
                **{key: row.get(key) for key in columns},
                "class": row["class_name"],
                "fate": fate,
                **{key: settled.get(key) for key in ("class_now", "decided_s", "kept_together")},
                "seconds": became.get("seconds"),
            }
        )
    return pd.DataFrame(table, columns=columns)


def _fate(row: Mapping[str, Any], thing: ObjectState | None) -> str:
    """What became of a suggestion; "kept": accepted with the outline and the class it was proposed with."""
    if thing is None or thing.state == "proposed":
        return "open"
    if thing.state != "accepted":
        return {"rejected": "dropped", "deleted": "deleted"}[thing.state]
    if thing.mask is None or thing.mask.counts != row["mask_counts"]:
        return "edited"
    return "kept" if thing.class_id == row["class_id"] else "class_changed"


def _what_became(acts: Sequence[Act], cutoff: float, names: Mapping[int, str]) -> dict[str, dict[str, Any]]:
    """object_id -> its state now and how its annotator came there."""
    state: AssignmentState = replay(acts)[0]
    worked = [vars(act) for act in acts if act.surface not in act_store.NOBODYS_SURFACES]
    seconds, standing_acts = seconds_per_object(worked, cutoff), set(state.undo_stack)
    decided: dict[str, float] = {}
    batch: dict[str, str] = {}
    for act, at_s in zip(worked, seconds_until(worked, cutoff), strict=True):
        settles = act["kind"] in ("accept", "reject", "delete")
        if settles and (act["client"], act["seq"]) in standing_acts:
            decided[act["object_id"]] = at_s
            batch[act["object_id"]] = act["payload"].get("batch", act["object_id"])
    together = pd.Series(batch, dtype=object).value_counts().to_dict()
    return {
        object_id: {
            "thing": thing,
            "class_now": names.get(thing.class_id),
            "seconds": seconds.get(object_id),
            "decided_s": decided.get(object_id),
            "kept_together": together.get(batch.get(object_id)),
        }
        for object_id, thing in state.objects.items()
    }


def automation_bias_table(study: Study) -> pd.DataFrame:
    """`automation_bias` of every suggestion of the study."""
    return pd.DataFrame(automation_bias(suggestions_table(study)), columns=list(COLUMNS["automation_bias"]))
