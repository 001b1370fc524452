"""When the students will have finished: a range, from their pace on recent days; or too early to tell."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from statistics import fmean, stdev

import pandas as pd

from allinsam.records import LEARNING_PURPOSES
from allinsam.store import Study, accounts
from allinsam.store import assignments as queue
from allinsam.store import study as study_store
from allinsam.workflow.planning import Pace

RECENT_DAYS = 10  # days with work that count, the newest
FEWEST_DAYS = 3  # days with work before a pace is believed
FEWEST_PATCHES = 5
# Half the width of an 80 % range, in standard errors of the mean.
RANGE_WIDTH = 1.2816
LONGEST_DAYS = 365  # nobody's pace of some days says anything about more


@dataclass(frozen=True)
class StudentWork:
    """What a forecast needs to know of one student.

    seconds_by_day: active seconds of the patches handed in on that day (UTC). left_s: expected active
    seconds of the patches that are left, None where no pace is known.
    """

    person_id: str
    patches_done: int
    patches_left: int
    seconds_by_day: Mapping[date, float]
    left_s: float | None


@dataclass(frozen=True)
class Forecast:
    """state: nobody (no student has patches), finished, early (too early to tell) or range.

    first, last: the days between which the last student finishes, in four of five cases if all go on as on
    recent days; `last` is None where it is more than LONGEST_DAYS away. early: students without a pace yet.
    hours_left: active hours of all patches left, None before there is a pace.
    """

    state: str
    first: date | None = None
    last: date | None = None
    early: tuple[str, ...] = ()
    hours_left: float | None = None


def days_left(work: StudentWork, today: date) -> tuple[int, float] | None:
    """Calendar days until a student has finished, at a fast and at a slow reading of their pace.

    The pace is active seconds per calendar day, from the first of the RECENT_DAYS newest days with work up
    to today: days without work count as zero, so that a pause makes it slower. Its 80 % range is that of the
    mean of these days. None: fewer than FEWEST_DAYS days with work or FEWEST_PATCHES patches.
    """
    if work.patches_left == 0:
        return 0, 0.0
    active = sorted(day for day, seconds in work.seconds_by_day.items() if seconds > 0)[-RECENT_DAYS:]
    if len(active) < FEWEST_DAYS or work.patches_done < FEWEST_PATCHES or work.left_s is None:
        return None
    span = [active[0] + timedelta(n) for n in range(max(0, (today - active[0]).days) + 1)]
    seconds = [work.seconds_by_day.get(day, 0.0) for day in span]
    pace = fmean(seconds)
    error = stdev(seconds) / math.sqrt(len(seconds)) if len(seconds) > 1 else pace
    slow = pace - RANGE_WIDTH * error
    soonest = math.ceil(work.left_s / (pace + RANGE_WIDTH * error))
    return max(1, soonest), math.ceil(work.left_s / slow) if slow > 0 else math.inf


def forecast(students: Sequence[StudentWork], today: date) -> Forecast:
    """When the last of these students finishes."""
    if not students:
        return Forecast("nobody")
    known = [work.left_s for work in students if work.patches_left]
    hours = sum(s for s in known if s is not None) / 3600.0 if None not in known else None
    if not known:
        return Forecast("finished", hours_left=0.0)
    ranges = {work.person_id: days_left(work, today) for work in students}
    early = tuple(sorted(person for person, found in ranges.items() if found is None))
    if early:
        return Forecast("early", early=early, hours_left=hours)
    soonest = max(found[0] for found in ranges.values() if found)
    latest = max(found[1] for found in ranges.values() if found)
    first = today + timedelta(min(soonest, LONGEST_DAYS))
    last = today + timedelta(int(latest)) if latest <= LONGEST_DAYS else None
    return Forecast("range", first, last, (), hours)


def student_work(study: Study, by_patch: pd.DataFrame, paces: Sequence[Pace]) -> list[StudentWork]:
    """Every real student who can annotate and has patches.

    by_patch: the first table of `work_times.work_times`. paces: as `planning.paces_of` finds them; a
    student's own seconds per patch count instead once they have handed in FEWEST_PATCHES, those to learn on
    left out.
    """
    with study.server.read() as db:
        off = {row["person_id"] for row in accounts.list_accounts(db) if not row["active"]}
    with study.science.read() as db:
        students = [
            person["id"]
            for person in study_store.list_people(db)
            if person["group"] == "student" and not (person["simulated"] or person["withdrawn_at"])
        ]
        assignments = queue.list_assignments(db)
    seconds = {
        (row["person_id"], row["patch"], row["purpose"]): float(row["active_s"])
        for row in by_patch.to_dict("records")
    }
    pace_of = {pace.tool: pace.seconds_per_patch for pace in paces}
    found = []
    for person_id in students:
        mine = [row for row in assignments if row["person_id"] == person_id]
        if mine and person_id not in off:
            found.append(_work_of(person_id, mine, seconds, pace_of))
    return found


def _work_of(
    person_id: str,
    mine: Sequence[Mapping],
    seconds: Mapping[tuple[str, str, str], float],
    pace_of: Mapping[str, float],
) -> StudentWork:
    by_day: Counter[date] = Counter()
    done = [row for row in mine if row["state"] == "submitted"]
    for row in done:
        day = date.fromisoformat(row["submitted_at"][:10])
        by_day[day] += seconds.get((person_id, row["patch"], row["purpose"]), 0.0)
    paced = [
        seconds.get((person_id, row["patch"], row["purpose"]), 0.0)
        for row in done
        if row["purpose"] not in LEARNING_PURPOSES
    ]
    own = fmean(paced) if len(paced) >= FEWEST_PATCHES else 0.0
    left = [row for row in mine if row["state"] != "submitted"]
    known = own > 0 or "" in pace_of
    left_s = sum(own or pace_of.get(row["tool"], pace_of[""]) for row in left) if known else None
    return StudentWork(person_id, len(done), len(left), dict(by_day), left_s)
