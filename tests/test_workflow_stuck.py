from datetime import UTC, datetime, timedelta

import pytest

from allinsam import jobs
from allinsam.__main__ import main
from allinsam.planning import PlanSettings
from allinsam.registration import identity_matrix
from allinsam.store import Study, images
from allinsam.store import assignments as queue
from allinsam.store import jobs as job_rows
from allinsam.store import study as study_rows
from allinsam.workflow import stuck as stuck_module
from allinsam.workflow.annotating import ActLog, record_acts, why_closed
from allinsam.workflow.planning import apply_plan
from allinsam.workflow.practising import PassMark, give_qualification, set_pass_mark
from allinsam.workflow.stuck import find_stuck
from tests.people import signed_in_token
from tests.practising import add_gold
from tests.studies import LEAD, PERSON, small_study

NOW = datetime.now(UTC)


@pytest.fixture
def study(tmp_path) -> Study:
    return small_study(tmp_path / "study", slides=2, patches_per_slide=2)


def stuck(study: Study, now: datetime = NOW) -> dict[str, str]:
    return {one.kind: one.what for one in find_stuck(study, now)}


def test_nothing_is_stuck(study: Study) -> None:
    assert find_stuck(study, NOW) == []


def test_patches_held_by_registration_count_what_is_behind(study: Study) -> None:
    with study.science.write() as db:
        for patch_id in (1, 2):
            images.add_registration(db, patch_id, identity_matrix(), "grid and ECC on WT1", False)
        study_rows.add_person(db, "s2", "student")
        queue.add_assignment(db, "s2", 1, [1])
        queue.add_assignment(db, LEAD, 1, [1], guidance="pas_only")
    assert stuck(study) == {"registration": "2 patches held by registration, 3 assignments behind"}


def test_unsigned_thresholds_count_who_waits_for_them(tmp_path) -> None:
    study = small_study(tmp_path / "study", slides=2, patches_per_slide=2, signed=False)
    with study.science.write() as db:
        study_rows.add_person(db, "s2", "student")
        queue.add_assignment(db, "s2", 3, [1])  # patch 3 is on slide 2, class 1 is WT1's
        queue.add_assignment(db, "s2", 1, [1, 2], guidance="if")
    assert stuck(study) == {
        "threshold": "4 thresholds unsigned, 5 assignments behind, most of them slide-2, WT1"
    }


def test_unsigned_thresholds_nobody_waits_for_are_not_stuck(tmp_path) -> None:
    assert find_stuck(small_study(tmp_path / "study", signed=False, guidance="pas_only"), NOW) == []


def test_people_who_have_not_begun_are_named_after_two_days(study: Study) -> None:
    signed_in_token(study, "annotator", PERSON)
    signed_in_token(study, "annotator", name="without patches")
    now = datetime.now(UTC)  # the accounts are made now, which is later than NOW
    assert find_stuck(study, now + timedelta(days=1, hours=23)) == []
    [late] = find_stuck(study, now + timedelta(days=2, minutes=5))
    assert (late.kind, late.people, late.page) == ("not_begun", (PERSON,), "people")
    record_acts(study, 1, PERSON, [ActLog("page", "test").act("load", 0.0)])
    assert find_stuck(study, NOW + timedelta(days=3)) == []


def test_a_failed_qualification_closes(study: Study) -> None:
    add_gold(study, 1)
    with study.science.write() as db:
        study_rows.add_person(db, "s2", "student")
    set_pass_mark(study, LEAD, PassMark(attempts=1))
    [given] = give_qualification(study, "s2")
    assert find_stuck(study, NOW) == []
    log = ActLog("page", "test")
    acts = [log.act("load", 0.0), log.act("nothing_here", 1.0, class_id=1)]
    acts += [log.act("nothing_here", 2.0, class_id=2)]
    acts += [log.act("submit", 3.0, classes={"1": "nothing_here", "2": "nothing_here"})]
    record_acts(study, given, "s2", acts)
    [closed] = find_stuck(study, NOW)
    assert (closed.kind, closed.people) == ("closed", ("s2",))
    # With tries left they wait for another patch, and somebody has to give it.
    set_pass_mark(study, LEAD, PassMark(attempts=2))
    [between] = find_stuck(study, NOW)
    assert between.people == ("s2",) and "tries left" in between.what
    with study.science.write() as db:
        waiting = queue.add_assignment(db, "s2", 2, (1, 2))
        why = why_closed(db, queue.get_assignment(db, waiting))
        assert why == "Your qualification is not passed yet. Ask the study lead for another patch to try."
        queue.add_assignment(db, "s2", 1, (1, 2), "qualification")
        assert "comes first" in why_closed(db, queue.get_assignment(db, waiting))
    assert find_stuck(study, NOW) == []


def test_patches_below_overlap_and_gold_too_few(tmp_path) -> None:
    study = small_study(tmp_path / "study", slides=2, patches_per_slide=5)
    with study.science.write() as db:
        db["assignment_class"].delete_where()
        db["assignment"].delete_where()
        study_rows.add_person(db, "s2", "student")
    settings = PlanSettings(overlap=2, gold=0.1, repeats=0.0)
    apply_plan(study, settings, accept_gaps=True)
    assert stuck(study) == {"gold": "0 of 1 patches have the gold that the plan hides for each student"}
    add_gold(study, 1)
    assert stuck(study) == {}
    with study.science.write() as db:
        db["person"].update("s2", {"withdrawn_at": "2026-01-01T00:00:00.000Z"})
    assert stuck(study) == {"overlap": "10 patches have fewer than 2 people"}


def test_a_failed_job_is_stuck_until_a_later_one_went_well(study: Study) -> None:
    first = jobs.submit(study, "register", {"all": True}, LEAD)
    with study.server.write() as db:
        job_rows.update_job(db, first, state="failed", error="No space left\nmore")
    [failed] = find_stuck(study, NOW)
    assert failed.what == f"Job {first}, register, failed: No space left"
    assert failed.page == "registration"
    jobs.submit(study, "register", {"all": True}, LEAD)
    assert find_stuck(study, NOW) == []


def test_a_full_disk_and_a_backup_that_failed_come_first(
    study: Study, tmp_path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    blocked = tmp_path / "usb"
    blocked.write_bytes(b"a file where a folder should be")
    where = ["--study", str(study.folder), "--automatic"]
    assert main(["backup", *where, "--to", str(blocked)]) == 2
    assert "cannot hold a backup" in capsys.readouterr().err
    (first,) = find_stuck(study, NOW)
    assert first.kind == "backup" and "usb cannot hold a backup" in first.what
    assert str(tmp_path) not in first.what
    assert main(["backup", *where]) == 0
    assert find_stuck(study, NOW) == []
    monkeypatch.setattr(stuck_module, "KEPT_FREE_BYTES", 10**18)
    assert list(stuck(study)) == ["disk"]
