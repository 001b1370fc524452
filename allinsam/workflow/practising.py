"""Learning to annotate on patches whose gold is known."""

from collections.abc import Sequence
from typing import Any

from allinsam.errors import InputError, NotAllowedError
from allinsam.practice import Outlined, Verdict, judge
from allinsam.records import Mask
from allinsam.store import Study, images
from allinsam.store import acts as act_store
from allinsam.store import assignments as queue
from allinsam.store import study as study_store

# Whose gold counts first: the truth of simulated or imported patches, then an expert's.
GOLD_GROUPS = ("truth", "expert")


def practice_feedback(study: Study, assignment_id: int) -> list[Verdict]:
    """What was right and wrong on a practice patch that was handed in.

    Raises:
        NotAllowedError: it is no practice patch, or not handed in: gold is shown nowhere else.
    """
    with study.science.read() as db:
        assignment = queue.get_assignment(db, assignment_id)
        if assignment["purpose"] != "practice":
            raise NotAllowedError("Only practice patches say what was right and wrong.")
        if assignment["state"] != "submitted":
            raise NotAllowedError("Hand the practice patch in first; then it says what was right and wrong.")
        asked = queue.assignment_classes(db, assignment_id)
        drawn = act_store.current_annotations(db, assignment_id)
        gold = gold_assignment(queue.finished_classes(db), assignment["patch_id"], tuple(asked))
        if gold is None:
            raise InputError(f"Patch {assignment['patch']} has no finished gold for what was asked any more.")
        true = act_store.current_annotations(db, gold)
    return judge(_outlined(drawn, asked), _outlined(true, asked))


def give_practice(study: Study, person_id: str, count: int = 3) -> list[int]:
    """Put practice patches into a person's queue: those with most gold nuclei that they do not have yet.

    A patch asks only for the classes whose marker its slide has.

    Raises:
        InputError: too few patches have finished gold.
    """
    with study.science.write() as db:
        person = study_store.get_person(db, person_id)
        if person["simulated"] or person["withdrawn_at"]:
            raise InputError(
                f"{person_id!r} is simulated or has withdrawn. Choose somebody who can annotate."
            )
        finished, classes = queue.finished_classes(db), study_store.list_classes(db)
        markers: dict[int, set[str]] = {}
        for row in images.slide_markers(db):
            markers.setdefault(row["slide_id"], set()).add(row["marker"])
        mine = {row["patch_id"] for row in queue.list_assignments(db, person_id)}
        usable = []
        for patch_id in sorted({row["patch_id"] for row in finished if row["purpose"] == "gold"} - mine):
            there = markers.get(images.get_patch(db, patch_id)["slide_id"], set())
            class_ids = tuple(c["id"] for c in classes if c["marker"] in there)
            gold = gold_assignment(finished, patch_id, class_ids)
            if class_ids and gold is not None:
                usable.append((-len(act_store.current_annotations(db, gold)), patch_id, class_ids))
        if len(usable) < count:
            raise InputError(
                f"{len(usable)} patches with finished gold are left for {person_id!r}, not {count}. Let the "
                "expert finish more gold, or ask for fewer."
            )
        return [
            queue.add_assignment(db, person_id, patch_id, class_ids, purpose="practice")
            for _, patch_id, class_ids in sorted(usable)[:count]
        ]


def gold_assignment(
    finished: Sequence[dict[str, Any]], patch_id: int, class_ids: Sequence[int]
) -> int | None:
    """The gold assignment of a patch that is finished for all these classes, from `finished_classes` rows."""
    for group in GOLD_GROUPS:
        settled: dict[int, set[int]] = {}
        for row in finished:
            if (row["patch_id"], row["purpose"], row["group"]) == (patch_id, "gold", group):
                settled.setdefault(row["assignment_id"], set()).add(row["class_id"])
        for assignment_id in sorted(settled):
            if set(class_ids) <= settled[assignment_id]:
                return assignment_id
    return None


def _outlined(rows: Sequence[dict[str, Any]], class_ids: Sequence[int]) -> list[Outlined]:
    return [
        Outlined(
            row["object_id"],
            row["class_id"],
            Mask(row["mask_height_px"], row["mask_width_px"], row["mask_counts"]),
        )
        for row in rows
        if row["class_id"] in class_ids
    ]
