"""People who draw boxes on a small study: SAM answers, some outlines are edited, some boxes moved at once."""

from allinsam.masks import encode_rle
from allinsam.store import Study
from allinsam.store import assignments as queue
from allinsam.store import study as study_rows
from allinsam.workflow.annotating import ActLog, record_acts
from tests.studies import PODOCYTES, box_of, disc

WEIGHTS = "0" * 64  # of a small study's SAM


def box_in(
    study: Study,
    person: str,
    patch_id: int,
    drawn: list[tuple],
    group: str = "student",
    moved: bool = False,
    weights: str = WEIGHTS,
) -> None:
    """Boxes answered by SAM, some edited: (centre, class, margin of the box, radius of the mask, edit).

    moved: each box is moved before its mask comes, so that the first is never answered.
    """
    with study.science.write() as db:
        if person not in {row["id"] for row in study_rows.list_people(db)}:
            study_rows.add_person(db, person, group)
        assignment_id = queue.add_assignment(db, person, patch_id, [1, 2])
    log = ActLog(f"{person}-{patch_id}", "test")
    acts = [log.act("load", 0.0)]
    for number, (centre, class_id, margin_px, radius_px, edit_px) in enumerate(drawn):
        now, object_id = 4000.0 * (number + 1), f"{person}-{patch_id}-{number}"
        box = log.act("box", now, object_id, class_id=class_id, box=box_of(centre, margin_px))
        mask = {"mask": encode_rle(disc(centre, radius_px)), "predicted_iou": 0.9}
        mask |= {"backbone": "compact", "weights_sha256": weights}
        acts.append(box)
        if moved:
            box = log.act("move", now, object_id, box=box_of(centre, margin_px + 1))
            acts.append(box)
        acts.append(log.answer(box, now, mask))
        if edit_px:
            edit = {"mask": encode_rle(disc(centre, edit_px)), "tool": "brush"}
            acts.append(log.act("mask_edit", now, object_id, **edit))
        acts.append(log.act("accept", now, object_id))
    acts.append(log.act("submit", now, classes={"1": "complete", "2": "complete"}))
    record_acts(study, assignment_id, person, acts)


def moved_and_answered(study: Study, weights: str = WEIGHTS) -> None:
    """The expert's first boxes have masks (by SAM of these weights); the student's were moved at once."""
    podocytes = [(centre, 1, 1.0, 10.0, None) for centre in PODOCYTES]
    box_in(study, "e", 1, podocytes, "expert", weights=weights)
    box_in(study, "s", 1, podocytes, moved=True)
