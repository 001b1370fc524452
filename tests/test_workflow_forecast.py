from dataclasses import replace
from datetime import date, timedelta

import pandas as pd
import pytest

from allinsam import accounts
from allinsam.store import Study
from allinsam.store import assignments as queue
from allinsam.store import study as study_rows
from allinsam.workflow.forecast import Forecast, StudentWork, days_left, forecast, student_work
from allinsam.workflow.planning import measured_paces, paces_of
from allinsam.workflow.work_times import work_times
from tests.finished import finished_study
from tests.people import CHEAP
from tests.studies import MESANGIAL, PERSON, PODOCYTES

TODAY = date(2026, 11, 23)


def student(seconds: list[float], left: int = 10, person: str = "a", done: int = 20) -> StudentWork:
    """`seconds` of the days up to today; 60 s a patch."""
    days = {TODAY - timedelta(len(seconds) - 1 - n): s for n, s in enumerate(seconds)}
    return StudentWork(person, done, left, days, left * 60.0)


def test_an_even_pace_gives_a_day() -> None:
    """Two patches of a minute a day, ten left: five days, and no doubt about it."""
    assert days_left(student([120.0] * 6), TODAY) == (5, 5)


def test_an_uneven_pace_gives_a_range_round_the_mean() -> None:
    soonest, latest = days_left(student([60.0, 180.0] * 3), TODAY)
    # Mean 120 s a day, standard deviation 65.7, standard error 26.8, 80 % range 34.4.
    assert (soonest, latest) == (4, 8)


def test_days_without_work_make_it_slower() -> None:
    paused = student([120.0] * 6 + [0.0] * 6)
    assert days_left(paused, TODAY)[0] > days_left(student([120.0] * 6), TODAY)[0]


def test_only_recent_days_with_work_count() -> None:
    """Ten slow days long ago say nothing about now."""
    assert days_left(student([1.0] * 10 + [120.0] * 10), TODAY) == (5, 5)


@pytest.mark.parametrize(
    "work",
    [
        student([120.0, 120.0]),
        student([120.0, 0.0, 120.0, 0.0]),
        student([120.0] * 6, done=4),
        replace(student([120.0] * 6), left_s=None),
    ],
)
def test_too_little_work_is_too_early_to_tell(work: StudentWork) -> None:
    assert days_left(work, TODAY) is None
    assert forecast([work, student([120.0] * 6, person="b")], TODAY).early == ("a",)


def test_the_last_student_decides() -> None:
    found = forecast([student([120.0] * 6), student([120.0] * 6, left=40, person="b")], TODAY)
    assert found == Forecast("range", TODAY + timedelta(20), TODAY + timedelta(20), (), 50 * 60 / 3600)


def test_a_year_is_the_most_that_is_told() -> None:
    found = forecast([student([3600.0, 1.0, 1.0, 1.0], left=9000)], TODAY)
    assert (found.state, found.last) == ("range", None)
    assert found.first <= TODAY + timedelta(365)


def test_who_has_finished_or_nobody_needs_no_pace() -> None:
    assert forecast([], TODAY).state == "nobody"
    assert forecast([student([], left=0, done=1)], TODAY).state == "finished"


# ---------------------------------------------------------------------------------- from a study


@pytest.fixture
def study(tmp_path) -> Study:
    """s1 and s2 have handed in 8 patches each on one day; PERSON has 8 and has not begun."""
    return finished_study(tmp_path / "study", scored=False)


def test_work_is_read_from_acts_and_assignments(study: Study) -> None:
    by_patch, _ = work_times(study)
    found = {work.person_id: work for work in student_work(study, by_patch, measured_paces(study))}
    assert set(found) == {PERSON, "s1", "s2"}
    nuclei = len(PODOCYTES) + len(MESANGIAL) - 1
    [(_, seconds)] = found["s1"].seconds_by_day.items()
    assert seconds == pytest.approx(8 * (5.0 * nuclei + 1.0))
    assert (found["s1"].patches_done, found["s1"].patches_left, found["s1"].left_s) == (8, 0, 0)
    # Who has not begun is expected to take what everybody took.
    mean = float(by_patch["active_s"].mean())
    assert found[PERSON].left_s == pytest.approx(8 * mean)


def test_ones_own_pace_counts_once_there_is_one(study: Study) -> None:
    with study.science.write() as db:
        queue.add_assignment(db, "s1", 1, [1, 2], purpose="repeat")
    by_patch, _ = work_times(study)
    by_patch.loc[by_patch["person_id"] == "s2", "active_s"] = 1000.0
    [mine] = [w for w in student_work(study, by_patch, paces_of(by_patch)) if w.person_id == "s1"]
    assert mine.left_s == pytest.approx(5.0 * (len(PODOCYTES) + len(MESANGIAL) - 1) + 1.0)


def test_time_to_learn_is_no_pace(study: Study) -> None:
    by_patch, _ = work_times(study)
    with study.science.write() as db:
        queue.add_assignment(db, "s1", 2, [1, 2], purpose="repeat")
        slow = queue.add_assignment(db, "s1", 1, [1, 2], purpose="practice")
        queue.set_progress(db, slow, "submitted", {1: "complete", 2: "complete"}, "2026-11-20T10:00:00Z")
    row = by_patch[by_patch["person_id"] == "s1"].iloc[:1].assign(purpose="practice", active_s=9000.0)
    by_patch = pd.concat([by_patch, row.assign(patch="slide-1-p1")])
    [mine] = [w for w in student_work(study, by_patch, paces_of(by_patch)) if w.person_id == "s1"]
    assert mine.left_s == pytest.approx(5.0 * (len(PODOCYTES) + len(MESANGIAL) - 1) + 1.0)
    assert sum(mine.seconds_by_day.values()) > 9000  # but it was a day's work


def test_without_any_work_no_time_is_known(study: Study) -> None:
    nothing = pd.DataFrame(columns=list(work_times(study)[0].columns))
    work = {w.person_id: w.left_s for w in student_work(study, nothing, ())}
    assert work[PERSON] is None


def test_who_left_or_is_simulated_is_not_waited_for(study: Study) -> None:
    accounts.invite(study, "s one", "annotator", "student", "s1", CHEAP)
    accounts.deactivate(study, "s1")
    with study.science.write() as db:
        study_rows.add_person(db, "sim-x", "student", simulated=True)
        queue.add_assignment(db, "sim-x", 1, [1])
        db["person"].update("s2", {"withdrawn_at": "2026-01-01T00:00:00.000Z"})
    assert [w.person_id for w in student_work(study, work_times(study)[0], ())] == [PERSON]
