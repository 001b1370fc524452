"""Registering a study's patches: what is touched, who decides, and that a job can be stopped and go on."""

import os
import threading
from pathlib import Path

import numpy as np
import pytest

from allinsam import jobs
from allinsam.__main__ import main
from allinsam.errors import InputError, NotFoundError
from allinsam.registration import Registration, checked_position, identity_matrix, nudge, shift_matrix
from allinsam.store import Study, images, open_study
from allinsam.store.study_schema import migrations
from allinsam.workflow import registering
from allinsam.workflow.registering import (
    ASSUMED,
    accept_estimate,
    accept_position,
    register_patch,
    register_study,
    standings,
)
from tests.live import wait_until
from tests.studies import LEAD, PERSON, small_study

FOUND = Registration(shift_matrix(3, 1), True, (), 0.5, 0.4)
NOT_FOUND = Registration(shift_matrix(9, 9), False, ("One reason.", "Another."), 0.05, 7.0)


@pytest.fixture
def study(tmp_path: Path) -> Study:
    """Four patches: settled by hand, assumed, estimated, without IF."""
    made = small_study(tmp_path / "study", slides=4)
    with made.science.write() as db:
        images.add_registration(db, 2, identity_matrix(), ASSUMED, True)
        images.add_registration(db, 3, identity_matrix(), "grid and ECC on WT1", True, 0.5)
        db["channel"].delete_where("patch_id = 4")
    accept_position(made, 1, shift_matrix(1, 1), LEAD, seen_version=1)
    return made


@pytest.fixture
def estimates(monkeypatch: pytest.MonkeyPatch) -> list[Registration]:
    """What the next estimates find, the last one from then on."""
    found = [FOUND]
    monkeypatch.setattr(
        registering, "estimate", lambda fixed, moving: found.pop(0) if len(found) > 1 else found[0]
    )
    return found


def newest(study: Study, patch_id: int) -> dict:
    with study.science.read() as db:
        return images.list_registrations(db, patch_id)[0]


def test_where_every_patch_stands(study: Study) -> None:
    assert [(one.patch_id, one.state) for one in standings(study)] == [
        (2, "missing"),
        (1, "accepted"),
        (3, "accepted"),
        (4, "no_if"),
    ]


def test_all_leaves_alone_what_a_person_settled_and_what_has_no_if(
    study: Study, estimates: list[Registration]
) -> None:
    done = register_study(study)
    assert (done["registered"], done["kept"], done["without_if"]) == (2, ["slide-1-p1"], ["slide-4-p1"])
    assert newest(study, 1)["method"] == "by hand"
    named = register_study(study, ["slide-1-p1"])
    assert named["registered"] == 1 and newest(study, 1)["method"].startswith("grid")


def test_only_missing(study: Study, estimates: list[Registration]) -> None:
    done = register_study(study, only_missing=True)
    assert [row["patch"] for row in done["patches"]] == ["slide-2-p1"]
    assert register_study(study, only_missing=True)["registered"] == 0


def test_one_that_cannot_be_read_does_not_hold_up_the_rest(
    study: Study, estimates: list[Registration]
) -> None:
    with study.science.read() as db:
        os.remove(study.image_path(images.get_patch(db, 2)["image_sha256"]))
    done = register_study(study)
    assert [row["patch"] for row in done["failed"]] == ["slide-2-p1"] and done["failed"][0]["why"]
    assert [row["patch"] for row in done["patches"]] == ["slide-3-p1"]


def test_reasons_of_a_flagged_one_are_kept(study: Study, estimates: list[Registration]) -> None:
    estimates[:] = [NOT_FOUND]
    register_patch(study, 3, LEAD)
    row = newest(study, 3)
    assert (row["accepted"], row["reason"], row["person_id"]) == (0, "One reason. Another.", LEAD)
    assert standings(study)[0].patch_id == 3
    with study.science.read() as db:
        assert images.current_registration(db, 3)["version"] == 2  # what held before goes on holding


def test_accepting_a_flagged_estimate_needs_a_reason(study: Study, estimates: list[Registration]) -> None:
    estimates[:] = [NOT_FOUND]
    register_patch(study, 3)
    for reason in ("", "    ", "ok", "x" * 301):
        with pytest.raises(InputError, match="Give a reason of 5 to 300"):
            accept_estimate(study, 3, reason, LEAD, 3)
    accept_estimate(study, 3, "  the tear is \n outside ", LEAD, 3)
    row = newest(study, 3)
    assert (row["version"], row["accepted"], row["reason"]) == (4, 1, "the tear is outside")
    assert np.array_equal(row["matrix"], NOT_FOUND.matrix) and row["quality"] == 0.05
    with pytest.raises(InputError, match="Nothing of patch"):
        accept_estimate(study, 3, "once more", LEAD, 4)
    assert register_study(study)["kept"] == ["slide-1-p1", "slide-3-p1"]


def test_what_somebody_else_has_settled_meanwhile_is_not_covered(
    study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(InputError, match="got version 2 meanwhile"):
        accept_position(study, 3, identity_matrix(), LEAD, seen_version=1)

    def slow(fixed: np.ndarray, moving: np.ndarray) -> Registration:
        if newest(study, 3)["version"] == 2:
            accept_position(study, 3, shift_matrix(5, 5), LEAD, 2)
        return FOUND

    monkeypatch.setattr(registering, "estimate", slow)
    with pytest.raises(InputError, match="meanwhile"):
        register_patch(study, 3)
    assert newest(study, 3)["method"] == "by hand"


@pytest.mark.parametrize(
    "matrix",
    [
        np.eye(3),
        np.full((2, 3), np.nan),
        np.diag([1.0, 1.0, 1.0])[:2] * 900,
        np.array([[1.0, 1, 0], [1, 1, 0]]),
        shift_matrix(0, 3e5),
    ],
)
def test_positions_no_if_can_have_are_refused(study: Study, matrix: np.ndarray) -> None:
    with pytest.raises(InputError):
        accept_position(study, 3, matrix, LEAD, 2)
    assert newest(study, 3)["version"] == 2


def test_positions_an_if_can_have() -> None:
    turned = nudge(np.array([[-2.0, 0, 900], [0, 2, 4]]), (512, 512), rotation_deg=133, scale=0.7)
    assert np.array_equal(checked_position(turned), turned)


def test_strangers_and_patches_without_if(study: Study) -> None:
    with pytest.raises(NotFoundError, match="nobody"):
        accept_position(study, 3, identity_matrix(), "nobody", 2)
    for settle in (
        lambda: accept_position(study, 4, identity_matrix(), LEAD, 1),
        lambda: register_patch(study, 4),
    ):
        with pytest.raises(NotFoundError, match="no IF channel"):
            settle()


# --- As a job -------------------------------------------------------------------------------------


def test_a_job_stops_between_patches_and_goes_on_where_it_was(
    study: Study, estimates: list[Registration]
) -> None:
    told: list[tuple] = []
    done = register_study(
        study, report=lambda *one: told.append(one), should_stop=lambda: newest(study, 2)["version"] == 3
    )
    assert done["registered"] == 1 and told[-1][3] == {"registered": [2]}
    again = register_study(study, report=lambda *one: told.append(one), done_before=[2])
    assert [row["patch"] for row in again["patches"]] == ["slide-3-p1"]
    assert told[-1][:3] == (2, 2, "1 accepted, 0 waiting")


def test_the_command_runs_as_a_job(study: Study) -> None:
    """In a process of its own, as the worker starts it."""
    job_id = jobs.submit(study, "register", {"all": True, "person": PERSON}, PERSON)
    stop = threading.Event()
    worker = threading.Thread(target=jobs.run_worker, args=(study, stop))
    worker.start()
    try:
        wait_until(lambda: not jobs.get_view(study, job_id).is_active, "the job")
    finally:
        stop.set()
        worker.join()
    view = jobs.get_view(study, job_id)
    assert view.state == "finished", jobs.read_log(study, job_id)
    assert view.share == 1.0 and view.detail["registered"] == [2, 3]
    assert newest(study, 2)["person_id"] == PERSON and newest(study, 1)["method"] == "by hand"


@pytest.mark.parametrize(
    "words", [["--all", "--missing"], ["--missing", "--patch", "p"], ["a.png", "b.png", "--missing"]]
)
def test_one_way_to_choose_patches(study: Study, words: list[str], capsys: pytest.CaptureFixture) -> None:
    assert main(["register", *words, "--study", str(study.folder)]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


# --- Studies from before reasons were kept --------------------------------------------------------


def test_an_older_study_gets_its_reasons_column_and_keeps_its_rows(tmp_path: Path) -> None:
    study = small_study(tmp_path / "old", slides=2)
    with study.science.write() as db:
        images.add_registration(db, 2, shift_matrix(2, 2), "grid and ECC on WT1", False, 0.05, PERSON, 3.0)
        # As it was: without the column, and without the step that made it.
        db.execute("ALTER TABLE registration DROP COLUMN reason")
        db["_sqlite_migrations"].delete_where("name = 'm003_reason_of_a_registration'")
        before = list(db["registration"].rows)
    assert "reason" not in before[0] and len(before) == 3
    opened = open_study(study.folder)
    with opened.science.read() as db:
        after = list(db["registration"].rows)
        assert [row.name for row in migrations.pending(db)] == []
    assert after == [{**row, "reason": None} for row in before]
    assert accept_estimate(opened, 2, "the edges fit", LEAD, 2) == 4
    with pytest.raises(Exception, match="never changed"), opened.science.write() as db:
        db["registration"].update(1, {"reason": "another"})
