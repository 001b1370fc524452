"""Several raters of one patch of a small study: at one about most nuclei, and not about four."""

from collections.abc import Sequence

from allinsam.masks import encode_rle
from allinsam.store import Study, assignments
from allinsam.store import study as study_rows
from allinsam.workflow.annotating import ActLog, record_acts
from tests.studies import MESANGIAL, PODOCYTES, UNMARKED, disc

RATERS = ("p-rater-1", "p-rater-2", "p-rater-3")
Drawn = tuple[tuple[int, int], int, float]  # centre, class, radius in px

ALL = tuple((centre, 1, 10.0) for centre in PODOCYTES) + tuple((centre, 2, 10.0) for centre in MESANGIAL)
# One misses a podocyte, one takes a mesangial cell for a podocyte, one draws a nucleus far too large, and one
# marks a nucleus that is neither.
DRAWN: tuple[Sequence[Drawn], ...] = (
    tuple(thing for thing in ALL if thing[0] != PODOCYTES[2]),
    tuple((c, 1 if c == MESANGIAL[0] else k, r) for c, k, r in ALL) + ((UNMARKED[0], 1, 10.0),),
    tuple((c, k, 13.5 if c == PODOCYTES[0] else r) for c, k, r in ALL),
)
MISSED, OTHER_CLASS, TOO_LARGE, EXTRA = PODOCYTES[2], MESANGIAL[0], PODOCYTES[0], UNMARKED[0]


def hand_in(study: Study, person: str, patch_id: int, drawn: Sequence[Drawn], **arms: str) -> int:
    """Somebody's production of both classes on a patch; returns the assignment's id."""
    with study.science.write() as db:
        if person not in {row["id"] for row in study_rows.list_people(db)}:
            study_rows.add_person(db, person, "student")
        given = {(row["person_id"], row["patch_id"]): row["id"] for row in assignments.list_assignments(db)}
        assignment_id = given.get((person, patch_id))
        if assignment_id is None:
            assignment_id = assignments.add_assignment(db, person, patch_id, [1, 2], **arms)
    log = ActLog(f"{person}-{patch_id}", "test")
    acts = [log.act("load", 0.0)]
    for number, (centre, class_id, radius) in enumerate(drawn):
        outline = {"class_id": class_id, "mask": encode_rle(disc(centre, radius))}
        object_id = f"{person}-{patch_id}-{number}"
        acts.append(log.act("mask_edit", 1000.0 * number, object_id, tool="lasso", **outline))
        acts.append(log.act("accept", 1000.0 * number + 500, object_id))
    found = {class_id for _, class_id, _ in drawn}
    states = {str(i): "complete" if i in found else "nothing_here" for i in (1, 2)}
    acts.append(log.act("submit", 1000.0 * len(drawn) + 2000, classes=states))
    record_acts(study, assignment_id, person, acts)
    return assignment_id


def hand_in_all(study: Study, patch_id: int, drawn: Sequence[Sequence[Drawn]] = DRAWN) -> list[int]:
    return [hand_in(study, person, patch_id, things) for person, things in zip(RATERS, drawn, strict=False)]
