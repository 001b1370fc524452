"""Learning to annotate on patches whose gold is known, and showing that one can."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from sqlite_utils import Database

from allinsam.errors import InputError, NotAllowedError
from allinsam.practice import Mark, Outlined, Verdict, judge, mark
from allinsam.records import WORK_PURPOSES, Mask
from allinsam.store import Study, images, learning, reviews
from allinsam.store import acts as act_store
from allinsam.store import assignments as queue
from allinsam.store import study as study_store
from allinsam.workflow.assigning import asked_classes, demand_annotator

# Whose gold counts first: the truth of simulated or imported patches, then an expert's.
GOLD_GROUPS = ("truth", "expert")


@dataclass(frozen=True)
class PassMark:
    """What a student must reach on a qualification patch before production is open to them.

    f1: of finding the nuclei, 0 to 1; class_accuracy: of those found, 0 to 1; attempts: patches they may try.
    """

    f1: float = 0.7
    class_accuracy: float = 0.8
    attempts: int = 2

    def __post_init__(self) -> None:
        shares = (self.f1, self.class_accuracy)
        if not all(0 <= share <= 1 for share in shares) or self.attempts < 1:
            raise InputError(
                f"A pass mark of F1 {self.f1:g}, class accuracy {self.class_accuracy:g} and {self.attempts} "
                "attempts cannot be used. Give shares from 0 to 1 and at least one attempt."
            )

    def is_met(self, found: Mark) -> bool:
        return found.f1 >= self.f1 and (found.class_accuracy or 0.0) >= self.class_accuracy


@dataclass(frozen=True)
class Qualification:
    """Where a person stands: a mark for each qualification patch handed in, in their order."""

    needed: PassMark | None  # None: this study asks nobody, or not this person
    marks: tuple[Mark, ...]

    @property
    def is_open(self) -> bool:
        """Whether production patches may be opened."""
        return self.needed is None or any(self.needed.is_met(found) for found in self.marks)


def set_pass_mark(study: Study, person_id: str | None, needed: PassMark | None) -> None:
    """Ask every student for a qualification from now on, or nobody (None); the change is kept, dated."""
    with study.science.write() as db:
        plan = study_store.get_study(db)["plan"]
        study_store.change_study(
            db, person_id, plan={**plan, "pass_mark": asdict(needed) if needed else None}
        )


def pass_mark(db: Database) -> PassMark | None:
    kept = study_store.get_study(db)["plan"].get("pass_mark")
    return PassMark(**kept) if kept else None


def set_paused(study: Study, by: str | None, person_id: str, paused: bool) -> None:
    """Close a person's patches until they are opened again; what they have begun is still taken in."""
    with study.science.write() as db:
        study_store.get_person(db, person_id)
        plan = study_store.get_study(db)["plan"]
        now = set(plan.get("paused", ())) - {person_id} | ({person_id} if paused else set())
        study_store.change_study(db, by, plan={**plan, "paused": sorted(now)})


def is_paused(db: Database, person_id: str) -> bool:
    return person_id in study_store.get_study(db)["plan"].get("paused", ())


def qualification(db: Database, person_id: str) -> Qualification:
    """Only students are asked: an expert's outlines are what others are measured by."""
    needed = pass_mark(db)
    if needed is None or study_store.get_person(db, person_id)["group"] != "student":
        return Qualification(None, ())
    tried = [
        row
        for row in queue.list_assignments(db, person_id)
        if row["purpose"] == "qualification" and row["state"] == "submitted"
    ]
    finished = queue.finished_classes(db, [row["patch_id"] for row in tried]) if tried else []
    marks = []
    for assignment in tried:
        verdicts = verdicts_of(db, assignment, finished)
        if verdicts is not None:
            marks.append(mark(verdicts))
    return Qualification(needed, tuple(marks[: needed.attempts]))


def has_qualification_waiting(db: Database, person_id: str) -> bool:
    """Whether a qualification patch in this person's queue is not handed in yet."""
    return any(
        row["purpose"] == "qualification" and row["state"] != "submitted"
        for row in queue.list_assignments(db, person_id)
    )


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
        verdicts = verdicts_of(db, assignment, queue.finished_classes(db, [assignment["patch_id"]]))
    if verdicts is None:
        raise InputError("This patch has no finished gold for what was asked any more. Tell the study lead.")
    return verdicts


def verdicts_of(
    db: Database,
    assignment: dict[str, Any],
    finished: Sequence[dict[str, Any]],
    class_ids: Sequence[int] | None = None,
) -> list[Verdict] | None:
    """What was drawn against the gold; None where there is no gold for these classes, all asked by default.

    finished: rows of `finished_classes`.
    """
    asked = queue.assignment_classes(db, assignment["id"]) if class_ids is None else class_ids
    # Nobody is measured by gold that holds their own marks.
    own = {key for key, people in reviews.gold_makers(db).items() if assignment["person_id"] in people}
    others = [row for row in finished if row["assignment_id"] not in own]
    gold = gold_assignment(others, assignment["patch_id"], tuple(asked))
    if gold is None:
        return None
    drawn, true = (act_store.current_annotations(db, n) for n in (assignment["id"], gold))
    return judge(_outlined(drawn, asked), _outlined(true, asked))


def give_practice(study: Study, person_id: str, count: int = 3) -> list[int]:
    """Put practice patches into a person's queue: each says after handing in what was right and wrong."""
    return _give(study, person_id, count, "practice")


def give_qualification(study: Study, person_id: str, count: int = 1) -> list[int]:
    """Put qualification patches into a person's queue: patches whose gold they have never seen, not even
    on a card."""
    return _give(study, person_id, count, "qualification")


def _give(study: Study, person_id: str, count: int, purpose: str) -> list[int]:
    """Put patches from `gold_for` before the person's work that waits.

    Raises:
        InputError: too few patches have finished gold.
    """
    with study.science.write() as db:
        demand_annotator(db, person_id)
        usable = gold_for(db, person_id)
        if purpose == "qualification":
            seen = learning.patches_on_cards(db, person_id)
            usable = [(patch_id, class_ids) for patch_id, class_ids in usable if patch_id not in seen]
        if len(usable) < count:
            raise InputError(
                f"{len(usable)} patches with finished gold are left for {person_id!r}, not {count}. Let the "
                "expert finish more gold, or ask for fewer."
            )
        return add_learning(db, person_id, usable[:count], purpose)


def gold_for(db: Database, person_id: str) -> list[tuple[int, tuple[int, ...]]]:
    """Patches with finished gold that are new to this person, with the classes to ask for.

    Those with most gold nuclei first; only classes whose marker is there.
    """
    finished, asked = queue.finished_classes(db), asked_classes(db)
    # What they know already, and what waits for its registration.
    not_these = {row["patch_id"] for row in queue.list_assignments(db, person_id)}
    not_these |= images.patches_on_hold(db)
    usable = []
    for patch_id in sorted({row["patch_id"] for row in finished if row["purpose"] == "gold"} - not_these):
        class_ids = asked[patch_id]
        gold = gold_assignment(finished, patch_id, class_ids)
        if class_ids and gold is not None:
            usable.append((-len(act_store.current_annotations(db, gold)), patch_id, class_ids))
    return [(patch_id, class_ids) for _, patch_id, class_ids in sorted(usable)]


def add_learning(
    db: Database, person_id: str, patches: Sequence[tuple[int, tuple[int, ...]]], purpose: str
) -> list[int]:
    """Assignments for practice or qualification; they come before the work that waits.

    Who works in one arm learns in it: a marker that they must not see is not shown to them here either.
    """
    arms = {
        (row["guidance"], row["tool"])
        for row in queue.list_assignments(db, person_id)
        if row["purpose"] in WORK_PURPOSES
    }
    arm = dict(zip(("guidance", "tool"), arms.pop(), strict=True)) if len(arms) == 1 else {}
    given = [
        queue.add_assignment(db, person_id, patch_id, class_ids, purpose=purpose, **arm)
        for patch_id, class_ids in patches
    ]
    queue.put_learning_first(db, person_id)
    return given


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
            Mask.from_row(row),
        )
        for row in rows
        if row["class_id"] in class_ids
    ]
