from pathlib import Path

import pytest

from allinsam import jobs
from allinsam.registration import identity_matrix
from allinsam.store import Study, images
from allinsam.workflow.annotating import ActLog, record_acts
from allinsam.workflow.registering import ASSUMED
from tests.app.conftest import OpenPage
from tests.app.finished_pages import button, texts
from tests.finished import finished_study
from tests.people import signed_in_token
from tests.studies import LEAD, PERSON, small_study
from webapp import session


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
    people = app.dataframe[0].value.set_index("Person")
    assert people.loc["s1", "Patches"] == "8 of 8" and people.loc["s1", "Done"] == 1.0
    assert "Assign some on the People page" in written


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


def test_a_demo_that_grows_is_told(open_page: OpenPage, study: Study) -> None:
    jobs.beat_as(study, "demo", 1)
    app = open_page("home", role="lead")
    assert "still being drawn: 4 slides with 8 patches so far" in app.info[0].value


def test_the_page_says_that_data_are_simulated(open_page: OpenPage, study: Study) -> None:
    assert "no evidence for real tissue" in texts(open_page("home", role="reviewer"))


def test_a_lead_is_told_what_patches_wait_for(
    open_page: OpenPage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unsigned = small_study(tmp_path / "unsigned", slides=2, signed=False)
    monkeypatch.setenv(session.STUDY_VARIABLE, str(unsigned.folder))
    token = signed_in_token(unsigned, "lead", LEAD)
    app = open_page("home", token=token)
    assert not app.exception
    written = " ".join(caption.value for caption in app.caption)
    assert "Patches wait for thresholds: slide-1, GATA3 (1 patch of 1 person)" in written
    assert "; and 1 more." in written
