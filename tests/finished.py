"""A study in which people have finished patches, runs are scored, and every figure can be worked out by hand.

Four slides with two patches each: slides 1 and 2 normal, 3 and 4 injured. The truth is every drawn nucleus.
The expert e1 finds them all; the student s1 misses the last podocyte of each patch, s2 the last mesangial.
"""

import shutil
import tempfile
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

import numpy as np

from allinsam.masks import encode_rle
from allinsam.metrics import score_all
from allinsam.store import Study, images, open_study, runs
from allinsam.store import assignments as queue
from allinsam.store import study as study_rows
from allinsam.training.settings import TrainingSettings
from allinsam.workflow.annotating import ActLog, record_acts
from allinsam.workflow.consenting import answer_consent, set_consent_text
from allinsam.workflow.labels import LabelRecipe, freeze_labels, make_split, read_labels
from allinsam.workflow.learning import SCORED_METRICS, keep_prediction
from allinsam.workflow.reviewing import clusters, decide
from allinsam.workflow.reviewing import finish as finish_review
from allinsam.workflow.settling import settle
from allinsam.workflow.touring import note_tour
from tests.studies import LEAD, MESANGIAL, PERSON, PODOCYTES, disc, small_study

TRUTH, EXPERT, STUDENTS = "sim-truth", "e1", ("s1", "s2")
PODOCYTE, MESANGIAL_ID = 1, 2
SECONDS_PER_NUCLEUS = 5.0

Centres = Mapping[int, Sequence[tuple[int, int]]]


@cache
def _templates() -> tempfile.TemporaryDirectory:
    return tempfile.TemporaryDirectory(prefix="allinsam-test-studies-")


def finished_study(folder: Path, scored: bool = True) -> Study:
    """Made once and copied from then on."""
    template = Path(_templates().name) / f"{scored}"
    if not template.exists():
        _make(template, scored)
    shutil.copytree(template, folder)
    return open_study(folder)


def _make(folder: Path, scored: bool) -> None:
    study = small_study(folder, slides=4, patches_per_slide=2)
    with study.science.write() as db:
        for slide_id in (3, 4):
            db["slide"].update(slide_id, {"condition": "injured"})
            for patch in images.list_patches(db, slide_id):
                db["patch"].update(patch["id"], {"condition": "injured"})
        patch_ids = [patch["id"] for patch in images.list_patches(db)]
    for patch_id in patch_ids:
        finish(study, TRUTH, "truth", patch_id, {PODOCYTE: PODOCYTES, MESANGIAL_ID: MESANGIAL}, "gold")
        finish(study, EXPERT, "expert", patch_id, {PODOCYTE: PODOCYTES, MESANGIAL_ID: MESANGIAL})
        finish(study, "s1", "student", patch_id, {PODOCYTE: PODOCYTES[:-1], MESANGIAL_ID: MESANGIAL})
        finish(study, "s2", "student", patch_id, {PODOCYTE: PODOCYTES, MESANGIAL_ID: MESANGIAL[:-1]})
    review(study, patch_ids[-1])
    settle(study, EXPERT, "page:1", "threshold", "1:WT1", "skip", {}, 2.0)
    if scored:
        add_scored_run(study, LabelRecipe(group="expert"), {PODOCYTE: PODOCYTES, MESANGIAL_ID: MESANGIAL})
        fewer = {PODOCYTE: PODOCYTES[:2], MESANGIAL_ID: MESANGIAL[:2]}
        add_scored_run(study, LabelRecipe(group="student"), fewer)
        add_scored_run(study, None, {PODOCYTE: (), MESANGIAL_ID: ()})


def finish(
    study: Study, person_id: str, group: str, patch_id: int, found: Centres, purpose: str = "production"
) -> int:
    """Draw discs at these centres, one every five seconds, accept each and submit the patch."""
    with study.science.write() as db:
        if person_id not in {person["id"] for person in study_rows.list_people(db)}:
            study_rows.add_person(db, person_id, group, simulated=group == "truth")
        assignment_id = queue.add_assignment(db, person_id, patch_id, found, purpose)
    page = f"{person_id}-{patch_id}" + ("" if purpose in ("production", "gold") else f"-{purpose}")
    log, now_ms = ActLog(page, "test"), 0.0
    acts = [log.act("load", now_ms)]
    for class_id, centres in found.items():
        for number, centre in enumerate(centres):
            now_ms += 1000 * SECONDS_PER_NUCLEUS
            object_id = f"{page}-{class_id}-{number}"
            mask = encode_rle(disc(centre))
            acts.append(log.act("mask_edit", now_ms, object_id, class_id=class_id, mask=mask, tool="polygon"))
            acts.append(log.act("accept", now_ms, object_id))
    states = {str(class_id): "complete" if centres else "nothing_here" for class_id, centres in found.items()}
    acts.append(log.act("submit", now_ms + 1000.0, classes=states))
    record_acts(study, assignment_id, person_id, acts)
    return assignment_id


def review(study: Study, patch_id: int) -> None:
    """What one of the students missed is kept."""
    for cluster in clusters(study, patch_id):
        if cluster.in_dispute:
            decide(study, EXPERT, patch_id, cluster.cluster_id, "consensus")
    finish_review(study, EXPERT, patch_id)


def add_scored_run(study: Study, recipe: LabelRecipe | None, found: Centres, seed: int = 2023) -> int:
    """A finished run (`recipe` None: the untrained one) that found these discs on every patch."""
    truth_id = freeze_labels(study, LabelRecipe(group="truth", purposes=("gold",)))
    truth = read_labels(study, truth_id)
    split_id = make_split(study)
    with study.science.read() as db:
        class_ids = {row["name"]: row["id"] for row in study_rows.list_classes(db)}
    settings = TrainingSettings(seed=seed)
    with study.science.write() as db:
        run_id = runs.add_run(
            db,
            name=recipe.title if recipe else "untrained",
            kind="adapter" if recipe else "untrained",
            label_set_id=None,
            split_id=split_id,
            settings=settings.to_dict(),
            settings_version=1,
            backbone="compact",
            backbone_sha256="0" * 64,
        )
    if recipe:
        label_set_id = freeze_labels(study, recipe)
        with study.science.write() as db:
            runs.update_run(db, run_id, label_set_id=label_set_id)
            for epoch in range(1, 5):
                stage = "adapter" if epoch < 4 else "corrective"
                figures = {"loss": 1.0 / epoch, "val": 0.2 * epoch, "seconds": 10.0 * epoch, "scores": {}}
                runs.put_epoch(db, run_id, epoch, stage, figures)
    with study.science.write() as db:
        runs.update_run(db, run_id, state="finished")
    rows = []
    for patch_id, by_class in truth.items():
        for name, labels in by_class.items():
            mine = np.zeros_like(labels)
            for number, centre in enumerate(found[class_ids[name]], start=1):
                mine[disc(centre)] = number
            keep_prediction(study, run_id, patch_id, name, mine)
            keys = {"run_id": run_id, "reference_id": truth_id, "split_id": split_id}
            keys |= {"patch_id": patch_id, "class_id": class_ids[name]}
            scores = score_all(mine, labels, SCORED_METRICS)
            rows += [{**keys, "metric": m, "value": v, "n": int(labels.max())} for m, v in scores.items()]
    with study.science.write() as db:
        runs.put_scores(db, rows)
    return run_id


def add_learning(study: Study) -> None:
    """A tour, and an answer to a consent text that nobody is asked for any more."""
    note_tour(study, PERSON, "visit", "tour_step", "pictures")
    set_consent_text(study, LEAD, "Read this.")
    answer_consent(study, PERSON, 1, True)
    set_consent_text(study, LEAD, "")
