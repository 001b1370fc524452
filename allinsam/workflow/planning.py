"""A plan for a study: preview it, give it out, extend it, take back what nobody has begun."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
from sqlite_utils import Database

from allinsam.errors import InputError
from allinsam.planning import (
    FIRST_LOOKS,
    Plan,
    PlanPatch,
    PlanSettings,
    Task,
    imbalance,
    make_plan,
    shared_patches,
)
from allinsam.records import WORK_PURPOSES
from allinsam.store import Study, accounts, images, learning, plans
from allinsam.store import assignments as queue
from allinsam.store import study as study_store
from allinsam.workflow.assigning import asked_classes
from allinsam.workflow.suggesting import check_source
from allinsam.workflow.work_times import without_training, work_times

ATTEMPTS = 3


@dataclass(frozen=True)
class Pace:
    """What this study's own work says about time, per tool ("" for all): submitted patches with a clock."""

    tool: str
    patches: int
    objects_per_patch: float
    seconds_per_object: float

    @property
    def seconds_per_patch(self) -> float:
        return self.objects_per_patch * self.seconds_per_object


@dataclass(frozen=True)
class Preview:
    """What a plan would write. `had`: what these people have already and keep."""

    settings: PlanSettings
    people: tuple[str, ...]
    plan: Plan
    patches: tuple[PlanPatch, ...]
    had: tuple[Task, ...]
    withdrawn: tuple[int, ...]  # ids of assignments that would be dealt anew
    paces: tuple[Pace, ...]

    @property
    def rows(self) -> list[dict[str, Any]]:
        """One row for each person: patches they have, new ones by purpose and by arm, and expected hours."""
        return [self._row(person) for person in self.people]

    @property
    def arm_rows(self) -> list[dict[str, Any]]:
        """One row for each arm: its first looks on patches of each condition, what people have included."""
        condition = {patch.id: patch.condition for patch in self.patches}
        conditions = sorted(set(condition.values()))
        counts = Counter(
            (task.arm, condition[task.patch])
            for task in (*self.had, *self.plan.tasks)
            if task.purpose in FIRST_LOOKS and task.patch in condition
        )
        arms = [*self.settings.arms, *sorted({arm for arm, _ in counts} - set(self.settings.arms))]
        return [
            {
                "arm": arm,
                **{one: counts[arm, one] for one in conditions},
                "all": sum(counts[arm, one] for one in conditions),
            }
            for arm in arms
        ]

    def _row(self, person: str) -> dict[str, Any]:
        new = self.plan.queue(person)
        purposes, arms = Counter(task.purpose for task in new), Counter(task.arm for task in new)
        return {
            "person": person,
            "has": sum(task.person == person for task in self.had),
            **{purpose: purposes[purpose] for purpose in WORK_PURPOSES},
            "new": len(new),
            **{arm: arms[arm] for arm in self.settings.arms},
            "hours": self.hours(new),
        }

    def hours(self, tasks: Sequence[Task]) -> float | None:
        """Expected active hours, by the pace of each tool so far, else of all; None before there is any."""
        pace = {pace.tool: pace.seconds_per_patch for pace in self.paces}
        if not pace:
            return None
        return sum(pace.get(task.tool, pace[""]) for task in tasks) / 3600.0

    def to_dict(self) -> dict[str, Any]:
        tasks = [*self.had, *self.plan.tasks]
        shared = [n for pair, n in shared_patches(tasks).items() if set(pair) <= set(self.people)]
        return {
            "settings": self.settings.to_dict(),
            "people": self.rows,
            "arms": self.arm_rows,
            "patches": len(self.patches),
            "withdrawn": len(self.withdrawn),
            "imbalance": imbalance(tasks, self.patches),
            "shared_by_two": {"least": min(shared, default=0), "most": max(shared, default=0)},
            "hours": self.hours(self.plan.tasks),
            "pace": [{**vars(pace), "seconds_per_patch": pace.seconds_per_patch} for pace in self.paces],
            "gaps": list(self.plan.gaps),
        }


@dataclass(frozen=True)
class Applied:
    """What was written; `plan_id` is None where there was nothing to do."""

    plan_id: int | None
    added: int
    withdrawn: int


@dataclass(frozen=True)
class _Standing:
    """What a plan is made from, read at one moment."""

    people: tuple[str, ...]
    able: frozenset[str]  # everybody who can annotate
    patches: tuple[PlanPatch, ...]
    had: tuple[Task, ...]
    waiting: tuple[tuple[int, Task], ...]  # not begun, to be dealt anew
    class_ids: Mapping[int, tuple[int, ...]]  # patch -> classes to ask for


def preview_plan(
    study: Study, settings: PlanSettings, people: Sequence[str] | None = None, redeal: bool = False
) -> Preview:
    """The plan that `apply_plan` would write.

    people: pseudonyms; every student who can annotate by default. Their patches so far count, and so do those
    that an earlier plan gave to others; nothing of it moves. redeal: what these people, or those who cannot
    annotate any more, have from plans and have not begun is dealt again.

    Raises:
        InputError: nobody or nothing to plan for; somebody named is simulated, withdrawn or deactivated; the
            run that is to make suggestions is no finished training.
        NotFoundError: no such person or run.
    """
    check_source(study, settings)
    return _preview(settings, _read(study, people, redeal), measured_paces(study))


def _preview(settings: PlanSettings, standing: _Standing, paces: tuple[Pace, ...] = ()) -> Preview:
    plan = make_plan(standing.patches, standing.people, settings, standing.had)
    had, waiting = standing.had, standing.waiting
    if waiting and tuple(task for _, task in waiting) == plan.tasks:
        # Dealt again it would be the same: leave it where it is.
        plan, had, waiting = Plan((), plan.gaps), (*had, *plan.tasks), ()
    return Preview(
        settings,
        standing.people,
        plan,
        standing.patches,
        tuple(task for task in had if task.person in standing.people),
        tuple(assignment_id for assignment_id, _ in waiting),
        paces,
    )


def apply_plan(
    study: Study,
    settings: PlanSettings,
    people: Sequence[str] | None = None,
    redeal: bool = False,
    accept_gaps: bool = False,
    by: str | None = None,
) -> Applied:
    """Write the plan in one transaction: all of it or nothing. Called again it finds nothing more to do.

    accept_gaps: give out although something asked for cannot be filled; the gaps are kept with the plan.
    by: whose decision it was.

    Raises:
        InputError: as `preview_plan`; or there are gaps; or queues went on changing meanwhile.
    """
    check_source(study, settings)
    for _ in range(ATTEMPTS):
        standing = _read(study, people, redeal)
        seen = _preview(settings, standing)
        if seen.plan.gaps and not accept_gaps:
            more = f" (and {len(seen.plan.gaps) - 1} more)" if len(seen.plan.gaps) > 1 else ""
            raise InputError(
                f"The plan cannot be filled: {seen.plan.gaps[0]}{more}. Change the "
                "settings, or accept the gaps."
            )
        if not seen.plan.tasks and not seen.withdrawn:
            return Applied(None, 0, 0)
        with study.science.write() as db:
            # The plan was made outside, so that nobody's acts wait for it.
            if _standing(db, standing.people, standing.able, redeal) != standing:
                continue
            withdrawn = plans.withdraw_assignments(db, seen.withdrawn, by)
            plan_id = plans.add_plan(db, settings.to_dict(), seen.people, seen.plan.gaps, by)
            for task in seen.plan.tasks:
                queue.add_assignment(
                    db,
                    task.person,
                    task.patch,
                    standing.class_ids[task.patch],
                    task.purpose,
                    task.guidance,
                    task.tool,
                    plan_id,
                )
        return Applied(plan_id, len(seen.plan.tasks), withdrawn)
    raise InputError("Somebody's queue kept changing while the plan was made. Try again.")


def withdraw_unbegun(study: Study, by: str | None = None, person_id: str | None = None) -> int:
    """Take back what plans gave out and nobody has begun, of everyone or of one person; returns how many."""
    with study.science.write() as db:
        waiting = set(plans.not_begun(db))
        mine = [a["id"] for a in queue.list_assignments(db, person_id) if a["id"] in waiting]
        return plans.withdraw_assignments(db, mine, by)


def _active_people(study: Study, people: Sequence[str] | None) -> tuple[tuple[str, ...], frozenset[str]]:
    """Those named, else every student; and everybody who can annotate."""
    with study.server.read() as db:
        off = {row["person_id"] for row in accounts.list_accounts(db) if not row["active"]}
    with study.science.read() as db:
        known = {person["id"]: person for person in study_store.list_people(db)}
        for person_id in people or ():
            study_store.get_person(db, person_id)
    # A deactivated account annotates nothing.
    able = {key for key, p in known.items() if not (p["simulated"] or p["withdrawn_at"]) and key not in off}
    if people is None:
        return tuple(sorted(key for key in able if known[key]["group"] == "student")), frozenset(able)
    if unable := sorted(set(people) - able):
        raise InputError(
            f"{unable[0]!r} is simulated, deactivated or has withdrawn. Choose people who can annotate."
        )
    return tuple(sorted(set(people))), frozenset(able)


def _read(study: Study, people: Sequence[str] | None, redeal: bool) -> _Standing:
    active, able = _active_people(study, people)
    with study.science.read() as db:
        return _standing(db, active, able, redeal)


def _standing(db: Database, people: tuple[str, ...], able: frozenset[str], redeal: bool) -> _Standing:
    gone = {person["id"] for person in study_store.list_people(db) if person["withdrawn_at"]}
    rows = [
        row for row in queue.list_assignments(db) if not row["simulated"] and row["person_id"] not in gone
    ]
    mine = {row["id"] for row in rows if row["person_id"] in people or row["person_id"] not in able}
    waiting = [key for key in plans.not_begun(db) if key in mine] if redeal else []
    tasks = {row["id"]: _task(row) for row in rows if _is_work(row)}
    # A patch that a lead gave by hand to somebody outside the plan, to the expert say, is not its overlap.
    counted = {row["id"] for row in rows if row["person_id"] in people or row["plan_id"] is not None}
    class_ids = asked_classes(db)
    return _Standing(
        people,
        able,
        _plan_patches(db, class_ids),
        tuple(task for key, task in tasks.items() if key in counted and key not in set(waiting)),
        tuple((key, tasks[key]) for key in waiting if key in tasks),
        class_ids,
    )


def _is_work(row: Mapping[str, Any]) -> bool:
    """Work to be compared: production, and what a plan hid in it. Other gold is what measures people."""
    return row["purpose"] == "production" or (row["purpose"] in WORK_PURPOSES and row["plan_id"] is not None)


def _task(row: Mapping[str, Any]) -> Task:
    return Task(row["person_id"], row["patch_id"], row["purpose"], row["guidance"], row["tool"])


def _plan_patches(db: Database, class_ids: Mapping[int, tuple[int, ...]]) -> tuple[PlanPatch, ...]:
    marker_of = {row["id"]: row["marker"] for row in study_store.list_classes(db)}
    rows, shown = queue.list_assignments(db), learning.patches_on_cards(db)
    finished: dict[int, set[int]] = {}
    for claim in queue.finished_classes(db):
        finished.setdefault(claim["assignment_id"], set()).add(claim["class_id"])
    gold: dict[int, set[str]] = {}
    closed: dict[int, set[str]] = {}
    for row in rows:
        if _is_work(row):
            continue
        closed.setdefault(row["patch_id"], set()).add(row["person_id"])
        complete = set(class_ids[row["patch_id"]]) <= finished.get(row["id"], set())
        if row["purpose"] == "gold" and row["group"] in ("expert", "truth") and complete:
            gold.setdefault(row["patch_id"], set()).add(row["person_id"])
    return tuple(
        PlanPatch(
            patch["id"],
            patch["slide"],
            tuple(sorted({marker_of[c] for c in class_ids[patch["id"]]})),
            patch["condition"],
            patch["glomerulus"],
            frozenset(gold.get(patch["id"], ())),
            frozenset(closed.get(patch["id"], ())),
            frozenset(shown.get(patch["id"], ())),
        )
        for patch in images.list_patches(db)
    )


def newest_plan(db: Database) -> tuple[PlanSettings, tuple[str, ...]] | None:
    """Settings of the plan given out last, and the people it was for; None before there is one."""
    kept = plans.list_plans(db)
    if not kept:
        return None
    return PlanSettings.from_dict(kept[-1]["settings"]), tuple(kept[-1]["people"])


def plan_patches(db: Database) -> tuple[PlanPatch, ...]:
    """Every patch as a plan sees it, with whose finished gold it has."""
    return _plan_patches(db, asked_classes(db))


def measured_paces(study: Study) -> tuple[Pace, ...]:
    """Seconds per object and objects per patch of the work handed in so far: of all, then of each tool."""
    return paces_of(work_times(study)[0])


def paces_of(by_patch: pd.DataFrame) -> tuple[Pace, ...]:
    """The same from the first table of `work_times`."""
    by_patch = without_training(by_patch)  # who learns is slower than who works
    done = by_patch[
        (by_patch["state"] == "submitted") & (by_patch["active_s"] > 0) & (by_patch["objects"] > 0)
    ]
    found = [("", done), *done.groupby("tool")]
    return tuple(
        Pace(
            str(tool),
            len(rows),
            float(rows["objects"].sum() / len(rows)),
            float(rows["active_s"].sum() / rows["objects"].sum()),
        )
        for tool, rows in found
        if len(rows)
    )
