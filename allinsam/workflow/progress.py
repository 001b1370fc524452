"""How far a study is: for the home page, and for the numbers beside the train button."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlite_utils import Database

from allinsam.records import SHOWN_TO
from allinsam.store import Study, images, reviews, runs, thresholds
from allinsam.store import acts as act_store
from allinsam.store import assignments as queue
from allinsam.store import study as study_store
from allinsam.training.settings import TrainingSettings
from allinsam.workflow.annotating import waits_for_registration
from allinsam.workflow.labels import LABEL_GUIDANCES, SHARES
from allinsam.workflow.registering import is_missing

# Seconds to learn from one patch once, until a run on this machine has shown its own pace: the compact SAM
# on two laptop cores. Larger models are slower in proportion to their size.
GUESSED_SECONDS = {"compact": 0.8, "vit_b": 25.0, "vit_l": 70.0, "vit_h": 140.0}
# The same of networks without a SAM.
GUESSED_WITHOUT_SAM = {"unet": 3.0, "dynunet": 4.0}


@dataclass(frozen=True)
class PersonProgress:
    """One person's queue, in patches."""

    person_id: str
    group: str
    simulated: bool
    withdrawn: bool
    assigned: int
    finished: int
    opened: int


@dataclass(frozen=True)
class StudyProgress:
    """What has been done in a study, and what has not."""

    slides: int
    patches: int
    unsigned: tuple[tuple[str, str], ...]  # (slide, marker) without a signed threshold
    markers: int  # (slide, marker) in all
    held: int  # patches that wait for their registration
    unregistered: int  # patches with IF whose registration nobody measured
    people: tuple[PersonProgress, ...]  # without the simulated truth
    trained: int  # finished runs
    scored: bool

    @property
    def assigned(self) -> int:
        return sum(person.assigned for person in self.people)

    @property
    def finished(self) -> int:
        return sum(person.finished for person in self.people)


def study_progress(study: Study) -> StudyProgress:
    """Counts for the lead; a few small queries, so that a page may ask every second or two."""
    with study.science.read() as db:
        markers, signed = images.slide_markers(db), thresholds.signed(db)
        unsigned = [
            (row["slide"], row["marker"])
            for row in markers
            if (row["slide_id"], row["marker"], None) not in signed
        ]
        newest = images.newest_registrations(db)
        people = study_store.list_people(db)
        assignments = queue.list_assignments(db)
        finished = [run for run in runs.list_runs(db) if run["state"] == "finished"]
        return StudyProgress(
            slides=len(images.list_slides(db)),
            patches=len(images.list_patches(db)),
            unsigned=tuple(unsigned),
            markers=len(markers),
            held=len(images.patches_on_hold(db)),
            unregistered=sum(is_missing(newest.get(patch_id)) for patch_id in images.channel_counts(db)),
            people=tuple(_progress_of(p, assignments) for p in people if p["group"] != "truth"),
            trained=sum(run["kind"] != "untrained" for run in finished),
            scored=runs.last_score(db)[1] > 0,
        )


def waiting_on_thresholds(db: Database) -> dict[tuple[int, str], set[int]]:
    """(slide id, marker) without a signed threshold -> assignments that show it and are not handed in.

    A pair that nobody waits for is left out; an assignment may wait for several.
    """
    slide_of = {row["id"]: row["slide_id"] for row in queue.list_assignments(db)}
    waiting: dict[tuple[int, str], set[int]] = {}
    for assignment_id, markers in thresholds.unsigned_markers(db, SHOWN_TO["bright"]).items():
        for marker in markers:
            waiting.setdefault((slide_of[assignment_id], marker), set()).add(assignment_id)
    return waiting


def waiting_on_registration(db: Database) -> Counter[int]:
    """Patch on hold -> assignments that the IF guides and that wait for it; 0 where nobody has it."""
    on_hold = images.patches_on_hold(db)
    waiting = Counter(dict.fromkeys(on_hold, 0))
    waiting.update(
        row["patch_id"]
        for row in queue.list_assignments(db)
        if row["state"] != "submitted" and waits_for_registration(row, on_hold)
    )
    return waiting


def person_progress(study: Study, person_id: str) -> PersonProgress:
    with study.science.read() as db:
        person = study_store.get_person(db, person_id)
        return _progress_of({**person, "id": person_id}, queue.list_assignments(db, person_id))


def _progress_of(person: Mapping[str, Any], assignments: Sequence[Mapping[str, Any]]) -> PersonProgress:
    states = [a["state"] for a in assignments if a["person_id"] == person["id"]]
    return PersonProgress(
        person_id=person["id"],
        group=person["group"],
        simulated=bool(person["simulated"]),
        withdrawn=person["withdrawn_at"] is not None,
        assigned=len(states),
        finished=states.count("submitted"),
        opened=states.count("open"),
    )


def class_progress(study: Study) -> dict[tuple[str, str], tuple[int, int]]:
    """(person, class) -> patches that are finished for the class, as complete or empty, and nuclei there.

    Of all purposes, as `PersonProgress` counts them.
    """
    with study.science.read() as db:
        finished = queue.finished_classes(db)
        objects = act_store.object_counts(db)
    found: dict[tuple[str, str], tuple[int, int]] = {}
    for row in finished:
        key = (row["person_id"], row["class_name"])
        patches, nuclei = found.get(key, (0, 0))
        found[key] = (patches + 1, nuclei + objects.get((row["assignment_id"], row["class_id"]), 0))
    return found


def label_standing(study: Study) -> list[dict[str, Any]]:
    """Per group and class: people and patches with finished labels as a usual recipe takes them, and their
    objects."""
    with study.science.read() as db:
        claims = [
            row
            for row in queue.finished_classes(db)
            if row["purpose"] == "production" and row["guidance"] in LABEL_GUIDANCES
        ]
        objects = act_store.object_counts(db)
    rows = []
    for group, class_name in sorted({(c["group"], c["class_name"]) for c in claims}):
        mine = [c for c in claims if (c["group"], c["class_name"]) == (group, class_name)]
        rows.append(
            {
                "group": group,
                "class": class_name,
                "people": len({c["person_id"] for c in mine}),
                "patches": len({c["patch_id"] for c in mine}),
                "objects": sum(objects.get((c["assignment_id"], c["class_id"]), 0) for c in mine),
            }
        )
    return rows


def labelled_patches(study: Study, labels: str) -> int:
    """Patches that labels of a group, of a person or "adjudicated" would come from."""
    with study.science.read() as db:
        if labels == "adjudicated":
            return len(reviews.newest_finished(db))
        return len(
            {
                row["patch_id"]
                for row in queue.finished_classes(db)
                if row["purpose"] == "production"
                and row["guidance"] in LABEL_GUIDANCES
                and labels in (row["group"], row["person_id"])
            }
        )


@dataclass(frozen=True)
class Estimate:
    """How long training should take; `measured` from an earlier run on this machine, else a guess."""

    minutes: float
    measured: bool


def estimate_training(study: Study, settings: TrainingSettings, label_patches: Sequence[int]) -> Estimate:
    """Minutes to train once on each of these numbers of labelled patches, at most the budget each, and to
    score the runs and the untrained network on the test patches.
    """
    with study.science.read() as db:
        pace = next((p for run in reversed(runs.list_runs(db)) if (p := _pace(db, run, settings))), None)
    guessed = GUESSED_SECONDS.get(settings.backbone, GUESSED_SECONDS["vit_b"])
    seconds = pace or GUESSED_WITHOUT_SAM.get(settings.network, guessed)
    epochs = sum(settings.stages.values())
    share = SHARES["train"] / sum(SHARES.values())
    limit = settings.budget_minutes or float("inf")
    minutes = sum(min(limit, seconds * epochs * max(1, n * share) / 60.0) for n in label_patches)
    if (
        "corrective" in settings.stages
    ):  # where MOCL trusts the labels: about one epoch more, beyond the budget
        minutes += sum(seconds * max(1, n * share) / 60.0 for n in label_patches)
    tested = max(label_patches, default=0) * SHARES["test"] / sum(SHARES.values())
    # Finding the nuclei of a patch, with its frames overlapping by half, costs about one epoch of it.
    minutes += (len(label_patches) + 1) * tested * seconds / 60.0
    return Estimate(minutes, pace is not None)


def _pace(db: Any, run: Mapping[str, Any], settings: TrainingSettings) -> float | None:
    """Seconds per epoch and training patch of a finished run of this network on this backbone."""
    if run["state"] != "finished" or run["kind"] != "adapter":
        return None
    if run["settings"].get("network", "adapter") != settings.network:
        return None
    if settings.network not in GUESSED_WITHOUT_SAM and run["backbone"] != settings.backbone:
        return None
    epochs = runs.run_epochs(db, run["id"])
    parts = runs.split_parts(db, run["split_id"])
    patches = sum(parts.get(p) == "train" for p in runs.label_set_patches(db, run["label_set_id"]))
    return epochs[-1]["seconds"] / (len(epochs) * patches) if epochs and patches else None
