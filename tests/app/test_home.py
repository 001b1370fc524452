from pathlib import Path

import pytest

from allinsam import jobs
from allinsam.registration import identity_matrix
from allinsam.store import Study, images
from allinsam.store import assignments as queue
from allinsam.workflow.annotating import ActLog, record_acts
from allinsam.workflow.progress import StudyProgress
from allinsam.workflow.registering import ASSUMED
from tests.app.conftest import OpenPage
from tests.app.finished_pages import button, texts
from tests.finished import finished_study
from tests.studies import LEAD, PERSON
from webapp.home_parts import steps_of


@pytest.fixture
def study(tmp_path: Path) -> Study:
    return finished_study(tmp_path / "study")


def test_an_annotator_sees_the_next_patch_and_own_work_only(open_page: OpenPage, study: Study) -> None:
    app = open_page("home", role="annotator")
    assert not app.exception
    assert button(app, "Start: patch 1 of 8")
    metrics = {metric.label: metric.value for metric in app.metric}
    assert metrics == {"Patches done": "0", "Active minutes so far": "0"}
    written = texts(app)
    assert "Next steps" not in written and "s1" not in written and not app.dataframe


def test_work_that_was_begun_is_continued(open_page: OpenPage, study: Study) -> None:
    log = ActLog("page", "test")
    acts = [log.act("load", 0.0), log.act("nothing_here", 30_000.0, class_id=1)]
    acts += [log.act("nothing_here", 60_000.0, class_id=2)]
    acts += [log.act("submit", 90_000.0, classes={"1": "nothing_here", "2": "nothing_here"})]
    record_acts(study, 1, PERSON, acts)
    record_acts(study, 2, PERSON, [ActLog("other", "test").act("load", 0.0)])
    app = open_page("home", role="annotator")
    assert button(app, "Continue: patch 2 of 8")
    assert {m.label: m.value for m in app.metric} == {"Patches done": "1", "Active minutes so far": "2"}


def test_a_lead_sees_the_steps_and_everybodys_progress(open_page: OpenPage, study: Study) -> None:
    app = open_page("home", role="lead")
    assert not app.exception
    written = texts(app)
    for expected in (
        "every patch is settled",
        "8 of 8 signed",
        "24 of 32 assigned patches finished",
        "2 finished runs",
        "scored",
    ):
        assert expected in written
    assert "Invite people and give out patches" not in written  # it is done
    people = app.dataframe[0].value.set_index("Person")
    assert people.loc["s1", "Patches"] == "8 of 8" and people.loc["s1", "Done"] == 1.0
    assert people.loc["s1", "podocyte: patches"] == 8 and people.loc["s1", "podocyte: nuclei"] == 8 * 3
    assert people.loc["s1", "mesangial: nuclei"] == 8 * 3
    assert "Assign some on the People page" in written
    # PERSON has patches and no pace; s1 and s2 have finished.
    assert "Students finish" in written and "too early to tell" in written
    # The three raters differ about a podocyte and a mesangial cell of each patch.
    assert "Nothing is stuck." in written and "**Expert still needed**: about 2 min = 1 day" in written


def test_the_step_to_annotate_calls_only_who_has_a_patch(open_page: OpenPage, study: Study) -> None:
    assert open_page("home", role="lead").button(key="step-annotate").proto.type == "secondary"
    with study.science.write() as db:
        queue.add_assignment(db, LEAD, 1, [1])
    assert open_page("home", role="lead").button(key="step-annotate").proto.type == "primary"


def test_an_empty_study_leads_to_people_before_annotating() -> None:
    empty = StudyProgress(0, 0, (), 0, 0, 0, (), 0, False)
    steps = steps_of(empty, working=False)
    assert [page for page, *_ in steps][:5] == ["import", "registration", "thresholds", "people", "annotate"]
    assert steps[1][2:] == ("no patch imported", False)


def test_what_is_stuck_is_named_with_the_way_there(open_page: OpenPage, study: Study) -> None:
    with study.science.write() as db:
        images.add_registration(db, 1, identity_matrix(), "grid and ECC on WT1", False)
    app = open_page("home", role="lead")
    assert "1 patch held by registration, 1 assignment behind" in texts(app)
    assert "Nothing is stuck." not in texts(app)
    app.button(key="stuck-0").click().run()
    assert not app.exception and app.title[0].value == "Registration"


def test_a_reviewer_sees_what_ten_minutes_would_settle(open_page: OpenPage, study: Study) -> None:
    app = open_page("home", role="reviewer")
    assert "14 nuclei in dispute" in texts(app) and button(app, "Ten minutes: 14 wait, about 2 min")
    with study.science.write() as db:
        images.add_registration(db, 1, identity_matrix(), "grid and ECC on WT1", False)
        images.add_slide(db, "new", "normal")
        db["patch"].update(2, {"slide_id": 5})
    app = open_page("home", role="reviewer")
    assert "2 thresholds to sign, 1 registration to settle, 14 nuclei" in texts(app)
    assert "What is stuck" not in texts(app) and not app.dataframe


def test_practice_is_told_and_why_the_rest_waits(open_page: OpenPage, study: Study) -> None:
    with study.science.write() as db:
        for patch in images.list_patches(db):
            images.add_registration(db, patch["id"], identity_matrix(), "grid and ECC on WT1", False)
    assert "A patch opens when the study lead has checked that its two pictures fit." in texts(
        open_page("home", role="annotator")
    )
    with study.science.write() as db:
        queue.add_assignment(db, PERSON, 1, [1], purpose="practice", guidance="pas_only")
    app = open_page("home", role="annotator")
    assert "This one is for **practice**" in texts(app) and button(app, "Start: patch 9 of 9")


def test_patches_that_wait_for_their_registration_come_first(open_page: OpenPage, study: Study) -> None:
    with study.science.write() as db:
        images.add_registration(db, 1, identity_matrix(), "grid and ECC on WT1", False)
        images.add_registration(db, 2, identity_matrix(), ASSUMED, True)
    written = texts(open_page("home", role="lead"))
    assert "1. Check how the IF lies on the stain" in written and "1 waits, 1 not registered" in written


def test_a_running_job_is_told(open_page: OpenPage, study: Study) -> None:
    jobs.submit(study, "experiment", {"labels": ["expert"]}, None)
    app = open_page("home", role="lead")
    assert "a job is running" in texts(app)


def test_preparing_patches_is_no_training(open_page: OpenPage, study: Study) -> None:
    jobs.submit(study, "embed", {}, None)
    app = open_page("home", role="lead")
    assert "a job is running" not in texts(app)
    assert app.get("progress")[-1].proto.text == "Prepare patches (job 1): waits"


def test_a_demo_that_grows_is_told(open_page: OpenPage, study: Study) -> None:
    jobs.beat_as(study, "demo", 1)
    app = open_page("home", role="lead")
    assert "still being drawn: 4 slides with 8 patches so far" in app.info[0].value


def test_the_page_says_that_data_are_simulated(open_page: OpenPage, study: Study) -> None:
    assert "no evidence for real tissue" in texts(open_page("home", role="reviewer"))
