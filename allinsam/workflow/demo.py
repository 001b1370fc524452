"""The simulated study every page can be tried on: tissue, truth, one expert and three students.

Everything in it is simulated and labelled so; its people cannot sign in. Figures on it are no
evidence for real tissue.
"""

import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from allinsam.masks import encode_rle
from allinsam.records import Act
from allinsam.sam.backbones import load_backbone
from allinsam.sam.embeddings import EmbeddingCache
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
from allinsam.store import Study, create_study, images, thresholds
from allinsam.store import acts as act_store
from allinsam.store import assignments as queue
from allinsam.store import study as study_store
from allinsam.thresholding import THRESHOLDS
from allinsam.workflow.annotating import ActLog, marker_evidence, masks_for_boxes, record_acts, write_image
from allinsam.workflow.importing import CLASS_LOOK

Report = Callable[[float, float, str], None]

TRUTH = "sim-truth"
EXPERT = "sim-expert"
NEWCOMER = "lead"


@dataclass(frozen=True)
class DemoSettings:
    """What the demo study holds. Two slides carry one marker only, as real ones often do."""

    seed: int = 11
    slides: int = 8
    patches_per_slide: int = 4
    size_px: int = 512
    one_marker_slides: tuple[tuple[int, str], ...] = ((2, "WT1"), (5, "GATA3"))
    fresh_patches: int = 3  # in the newcomer's queue, annotated by nobody yet
    shared_patches: int = 3  # in the newcomer's queue, annotated by the simulated people too

    def condition(self, slide: int) -> str:
        return "normal" if slide % 2 == 0 else "injured"

    def markers(self, slide: int) -> tuple[str, ...]:
        single = dict(self.one_marker_slides).get(slide)
        return (single,) if single else tuple(MARKER_OF_CLASS.values())


@dataclass(frozen=True)
class DemoPatch:
    patch_id: int
    number: int
    markers: tuple[str, ...]
    simulated: SimulatedPatch


def build_demo(folder: Path, settings: DemoSettings | None = None, report: Report | None = None) -> Study:
    """Make the demo study, slide by slide; the first slide can be worked on while the rest is made."""
    settings = settings or DemoSettings()
    report = report or (lambda done, total, message: None)
    loaded = load_backbone("compact")
    study = create_study(folder, "Simulated demo study", "compact", loaded.weights_sha256, simulated=True)
    cache = EmbeddingCache(study.embeddings_folder, Segmenter(loaded))
    class_ids = _add_people_and_classes(study)
    for slide in range(settings.slides):
        report(slide, settings.slides, f"drawing slide {slide + 1} of {settings.slides}")
        patches = _add_slide(study, settings, slide)
        _fill_newcomers_queue(study, settings, patches, class_ids)
        for step, patch in enumerate(patches):
            done = slide + (step + 1) / (len(patches) + 1)
            report(done, settings.slides, f"annotating slide {slide + 1} of {settings.slides}")
            _annotate(study, cache, settings, patch, class_ids)
    report(settings.slides, settings.slides, "done")
    return study


def _add_people_and_classes(study: Study) -> dict[str, int]:
    with study.science.write() as db:
        study_store.add_person(db, TRUTH, "truth", simulated=True)
        for name, habits in ANNOTATOR_HABITS.items():
            study_store.add_person(db, f"sim-{name}", habits.group, simulated=True)
        study_store.add_person(db, NEWCOMER, "student")
        return {
            name: study_store.add_class(db, name, marker, *CLASS_LOOK[name])
            for name, marker in MARKER_OF_CLASS.items()
        }


def _add_slide(study: Study, settings: DemoSettings, slide: int) -> list[DemoPatch]:
    """One slide's patches, channels, known misregistration and its Otsu thresholds, signed by the expert."""
    look = simulate_slide(settings.seed, slide, settings.condition(slide))
    markers = settings.markers(slide)
    drawn = []
    for number in range(settings.patches_per_slide):
        patch = simulate_patch(look, number, markers, settings.size_px)
        channels = {marker: write_image(study, patch.channels[marker]) for marker in markers}
        drawn.append((number, patch, write_image(study, patch.pas), channels))
    name = f"sim-{slide + 1:02d}"
    size = {"height_px": settings.size_px, "width_px": settings.size_px, "bits": 8}
    with study.science.write() as db:
        um_per_px = drawn[0][1].um_per_px
        slide_id = images.add_slide(db, name, settings.condition(slide), um_per_px)
        added = []
        for number, patch, pas_sha256, channels in drawn:
            patch_name = f"{name}-g{number + 1}"
            images.add_image(db, pas_sha256, source_name=f"{patch_name}_pas", **size)
            patch_id = images.add_patch(
                db,
                name=patch_name,
                slide_id=slide_id,
                glomerulus=f"g{number + 1}",
                um_per_px=um_per_px,
                condition=settings.condition(slide),
                image_sha256=pas_sha256,
            )
            for marker, sha256 in channels.items():
                images.add_image(db, sha256, source_name=f"{patch_name}_{marker}", **size)
                images.add_channel(db, patch_id, "marker", marker, sha256)
            images.add_registration(db, patch_id, patch.matrix, "simulated", accepted=True, quality=1.0)
            added.append(DemoPatch(patch_id, slide * settings.patches_per_slide + number, markers, patch))
        for marker in markers:
            pooled = np.stack([patch.channels[marker] for _, patch, _, _ in drawn])
            value = THRESHOLDS["otsu"](pooled.reshape(-1, settings.size_px))
            thresholds.add_threshold(db, slide_id, marker, value, "otsu", signed_by=EXPERT)
    return added


def _queued(settings: DemoSettings) -> tuple[set[int], set[int]]:
    """Numbers of the newcomer's patches: fresh ones and shared ones, spread over the slides."""
    wanted = settings.fresh_patches + settings.shared_patches
    total = settings.slides * settings.patches_per_slide
    spread = sorted({int(n) for n in np.linspace(0, total - 1, min(wanted, total)).round()})
    return set(spread[1::2]), set(spread[0::2])


def _fill_newcomers_queue(
    study: Study, settings: DemoSettings, patches: list[DemoPatch], class_ids: dict[str, int]
) -> None:
    fresh, shared = _queued(settings)
    with study.science.write() as db:
        for patch in patches:
            if patch.number in fresh | shared:
                wanted = _asked_classes(patch, class_ids)
                queue.add_assignment(db, NEWCOMER, patch.patch_id, wanted.values())


def _asked_classes(patch: DemoPatch, class_ids: dict[str, int]) -> dict[str, int]:
    """Only a class whose marker is on the slide can be asked for."""
    return {name: class_ids[name] for name, marker in MARKER_OF_CLASS.items() if marker in patch.markers}


def _annotate(
    study: Study,
    cache: EmbeddingCache,
    settings: DemoSettings,
    patch: DemoPatch,
    class_ids: dict[str, int],
) -> None:
    asked = _asked_classes(patch, class_ids)
    _record_truth(study, settings, patch, class_ids)
    if patch.number in _queued(settings)[0]:
        return
    for rank, (name, habits) in enumerate(ANNOTATOR_HABITS.items()):
        rng = np.random.default_rng([settings.seed, patch.number, rank])
        acts = _annotator_acts(study, cache, patch, habits, asked, f"sim-{name}", rng)
        with study.science.write() as db:
            assignment_id = queue.add_assignment(db, f"sim-{name}", patch.patch_id, asked.values())
        record_acts(study, assignment_id, f"sim-{name}", acts)


def _record_truth(study: Study, settings: DemoSettings, patch: DemoPatch, class_ids: dict[str, int]) -> None:
    """The exact truth of both classes, also where the slide has only one marker."""
    rng = np.random.default_rng([settings.seed, patch.number, 99])
    log = ActLog(_identifier(rng), act_store.IMPORT_SURFACE)
    acts = [log.act("load", 0.0)]
    for name, class_id in class_ids.items():
        labels = patch.simulated.class_labels(name)
        for number in np.unique(labels[labels > 0]):
            object_id, mask = _identifier(rng), encode_rle(labels == number)
            drawn = {"class_id": class_id, "mask": mask, "tool": "simulation", "origin": "imported"}
            acts.append(log.act("mask_edit", 0.0, object_id, **drawn))
            acts.append(log.act("accept", 0.0, object_id))
    acts.append(log.act("submit", 0.0, classes={str(i): "complete" for i in class_ids.values()}))
    with study.science.write() as db:
        assignment_id = queue.add_assignment(
            db, TRUTH, patch.patch_id, class_ids.values(), "gold", tool="contour"
        )
    record_acts(study, assignment_id, TRUTH, acts)


def _annotator_acts(
    study: Study,
    cache: EmbeddingCache,
    patch: DemoPatch,
    habits: Habits,
    asked: dict[str, int],
    person_id: str,
    rng: np.random.Generator,
) -> list[Act]:
    """Everything one simulated person does on one patch, from opening to submitting it."""
    log = ActLog(_identifier(rng), "simulated")
    now_ms = 0.0
    acts = [log.act("load", now_ms)]
    for name, class_id in asked.items():
        marker = MARKER_OF_CLASS[name]
        evidence = marker_evidence(study, patch.patch_id, marker)
        boxes = simulate_boxes(habits, patch.simulated, name, int(rng.integers(2**31)))
        answers = masks_for_boxes(study, cache, patch.patch_id, marker, np.array([b.box for b in boxes]))
        for drawn, answer in zip(boxes, answers, strict=True):
            now_ms += 1000.0 * drawn.seconds
            object_id = _identifier(rng)
            box = log.act("box", now_ms, object_id, class_id=class_id, box=[float(v) for v in drawn.box])
            acts += [box, log.answer(box, now_ms + 200.0, {**answer, "model_ms": 200.0})]
            now_ms += 200.0
            if drawn.truth_id is not None and rng.random() < habits.edit_rate:
                now_ms += 1000.0 * float(rng.lognormal(np.log(6.0), 0.3))
                outline = patch.simulated.labels == drawn.truth_id
                edit = {"mask": encode_rle(outline), "tool": "polygon", **evidence.of_mask(outline)}
                acts.append(log.act("mask_edit", now_ms, object_id, **edit))
            now_ms += 700.0
            acts.append(log.act("accept", now_ms, object_id))
    acts.append(log.act("submit", now_ms + 900.0, classes={str(i): "complete" for i in asked.values()}))
    return acts


def _identifier(rng: np.random.Generator) -> str:
    """A UUID drawn from the seed, so that the same seed makes the same study."""
    return str(uuid.UUID(bytes=rng.bytes(16), version=4))
