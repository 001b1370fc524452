"""Patches into people's queues."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlite_utils import Database

from allinsam.errors import InputError
from allinsam.records import OFFERED_GUIDANCES, TOOLS
from allinsam.store import Study, images
from allinsam.store import assignments as queue
from allinsam.store import study as study_store


@dataclass(frozen=True)
class Assigned:
    """What became of each patch: ids of new assignments, and patches that were left out."""

    assignment_ids: tuple[int, ...]
    already: tuple[int, ...]  # in this person's queue, or done by them
    without_marker: tuple[int, ...]  # no class has its marker on the slide
    on_hold: tuple[int, ...] = ()  # their registration was not accepted


def assign_patches(
    study: Study,
    person_id: str,
    patch_ids: Sequence[int],
    guidance: str = "threshold",
    tool: str = "box_sam",
) -> Assigned:
    """Put patches at the end of a person's queue, in this order, all or none.

    A patch asks only for the classes whose marker its slide has, so that nobody is asked to guess. A patch
    this person has already is skipped, and so is one whose registration was not accepted, unless it is to
    be annotated on the stain alone.

    Raises:
        InputError: the guidance or tool is unknown, or the person is simulated or has withdrawn.
        NotFoundError: no such person or patch.
    """
    if guidance not in OFFERED_GUIDANCES:
        raise InputError(f"Guidance {guidance!r} cannot be assigned. Choose one of {OFFERED_GUIDANCES}.")
    if tool not in TOOLS:
        raise InputError(f"Unknown tool {tool!r}. Choose one of {TOOLS}.")
    new, already, without, held = [], [], [], []
    with study.science.write() as db:
        demand_annotator(db, person_id)
        asked = asked_classes(db)
        on_hold = set() if guidance == "pas_only" else images.patches_on_hold(db)
        mine = {a["patch_id"] for a in queue.list_assignments(db, person_id) if _holds(a)}
        for patch_id in dict.fromkeys(patch_ids):
            class_ids = asked[images.get_patch(db, patch_id)["id"]]
            if patch_id in mine:
                already.append(patch_id)
            elif not class_ids:
                without.append(patch_id)
            elif patch_id in on_hold:
                held.append(patch_id)
            else:
                new.append(
                    queue.add_assignment(db, person_id, patch_id, class_ids, guidance=guidance, tool=tool)
                )
    return Assigned(tuple(new), tuple(already), tuple(without), tuple(held))


def demand_annotator(db: Database, person_id: str) -> None:
    """Raise InputError for somebody who cannot be given patches."""
    person = study_store.get_person(db, person_id)
    if person["simulated"] or person["withdrawn_at"]:
        raise InputError(f"{person_id!r} is simulated or has withdrawn. Choose somebody who can annotate.")


def asked_classes(db: Database) -> dict[int, tuple[int, ...]]:
    """Patch -> the classes whose marker its slide has: nobody is asked to guess."""
    markers: dict[int, set[str]] = {}
    for row in images.slide_markers(db):
        markers.setdefault(row["slide_id"], set()).add(row["marker"])
    classes = study_store.list_classes(db)
    return {
        patch["id"]: tuple(c["id"] for c in classes if c["marker"] in markers.get(patch["slide_id"], ()))
        for patch in images.list_patches(db)
    }


def least_covered_patches(study: Study, person_id: str, count: int | None = None) -> list[int]:
    """Patches this person does not have, those that fewest real people have first, spread over the slides."""
    with study.science.read() as db:
        patches = images.list_patches(db)
        given = [a for a in queue.list_assignments(db) if _holds(a)]
    mine = {a["patch_id"] for a in given if a["person_id"] == person_id}
    people = Counter(a["patch_id"] for a in given if not a["simulated"])
    place, on_slide = {}, Counter()
    for patch in patches:
        place[patch["id"]] = on_slide[patch["slide_id"]]
        on_slide[patch["slide_id"]] += 1
    free = [p["id"] for p in patches if p["id"] not in mine]
    free.sort(key=lambda patch_id: (people[patch_id], place[patch_id], patch_id))
    return free if count is None else free[:count]


def _holds(assignment: Mapping[str, Any]) -> bool:
    """Whether its person has the patch: as production, or hidden among it by a plan."""
    return assignment["purpose"] == "production" or assignment["plan_id"] is not None
