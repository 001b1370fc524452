"""New students learn first where the lead asks for it: once, before their work, and only with gold enough."""

from pathlib import Path

import pytest

from allinsam.__main__ import main
from allinsam.errors import InputError
from allinsam.store import Study, open_study
from allinsam.store import assignments as queue
from allinsam.store import study as study_rows
from allinsam.workflow.annotating import ActLog, next_assignment, record_acts
from allinsam.workflow.assigning import assign_patches
from allinsam.workflow.newcomers import (
    NewcomerTraining,
    newcomer_training,
    set_newcomer_training,
    start_training,
)
from allinsam.workflow.practising import give_practice
from tests.practising import add_gold
from tests.studies import LEAD, PERSON, small_study

NEW = "p-new"


@pytest.fixture
def study(tmp_path: Path) -> Study:
    """Five patches, gold on the last three, and a student with the first two to annotate."""
    study = small_study(tmp_path / "study", slides=1, patches_per_slide=5)
    for patch_id in (3, 4, 5):
        add_gold(study, patch_id)
    with study.science.write() as db:
        study_rows.add_person(db, NEW, "student")
    assign_patches(study, NEW, [1, 2])
    return study


def purposes(study: Study, person_id: str = NEW) -> list[str]:
    with study.science.read() as db:
        return [row["purpose"] for row in queue.list_assignments(db, person_id)]


def test_nobody_is_trained_unasked(study: Study) -> None:
    assert start_training(study, NEW).state == "not asked"
    assert purposes(study) == ["production"] * 2


def test_practice_then_qualification_then_work_and_only_once(study: Study) -> None:
    set_newcomer_training(study, LEAD, NewcomerTraining(2, 1))
    start = start_training(study, NEW)
    assert start.state == "given" and len(start.given) == 3
    assert purposes(study) == ["practice", "practice", "qualification", "production", "production"]
    assert next_assignment(study, NEW)["purpose"] == "practice"
    again = start_training(study, NEW)
    assert again.state == "given" and again.given == ()
    assert len(purposes(study)) == 5
    # What is assigned later comes after.
    with study.science.read() as db:
        patches = [row["patch_id"] for row in queue.list_assignments(db, NEW)]
    assert sorted(patches[:3]) == [3, 4, 5] and patches[3:] == [1, 2]


def test_too_little_gold_gives_nothing_and_the_next_visit_tries_again(study: Study) -> None:
    set_newcomer_training(study, LEAD, NewcomerTraining(3, 1))
    start = start_training(study, NEW)
    assert (start.state, start.left, start.wanted) == ("too little gold", 3, 4)
    assert purposes(study) == ["production"] * 2
    set_newcomer_training(study, LEAD, NewcomerTraining(3, 0))
    assert len(start_training(study, NEW).given) == 3


def test_who_is_at_work_or_no_student_is_left_alone(study: Study) -> None:
    set_newcomer_training(study, LEAD, NewcomerTraining(1, 0))
    assert start_training(study, LEAD).state == "not asked"
    first = next_assignment(study, NEW)["id"]
    record_acts(study, first, NEW, [ActLog("page-1", "test").act("load", 0.0)])
    assert start_training(study, NEW).state == "not asked"


def test_practice_given_by_hand_comes_before_the_work_that_waits(study: Study) -> None:
    first = next_assignment(study, NEW)["id"]
    record_acts(study, first, NEW, [ActLog("page-1", "test").act("load", 0.0)])
    give_practice(study, NEW, 1)
    # What was begun keeps its place.
    assert purposes(study) == ["production", "practice", "production"]


def test_who_works_in_one_arm_learns_in_it(study: Study) -> None:
    with study.science.write() as db:
        for key in (row["id"] for row in queue.list_assignments(db, NEW)):
            db["assignment"].update(key, {"guidance": "pas_only", "tool": "contour"})
    (given,) = give_practice(study, NEW, 1)
    with study.science.write() as db:
        row = queue.get_assignment(db, given)
        assert (row["guidance"], row["tool"]) == ("pas_only", "contour")
        # Of somebody in several arms, and of somebody without work, nothing follows.
        db["assignment"].update(queue.list_assignments(db, NEW)[-1]["id"], {"guidance": "if"})
    (given,) = give_practice(study, NEW, 1)
    with study.science.read() as db:
        assert queue.get_assignment(db, given)["guidance"] == "threshold"


@pytest.mark.parametrize("wrong", [(0, 0), (-1, 2), (2, -1)])
def test_training_without_patches_is_refused(wrong: tuple[int, int]) -> None:
    with pytest.raises(InputError, match="cannot be given"):
        NewcomerTraining(*wrong)


def test_the_command_line_sets_it_and_an_invitation_gives_it(
    study: Study, capsys: pytest.CaptureFixture
) -> None:
    folder = str(study.folder)
    assert main(["practice", "--newcomers", "1", "1", "--study", folder, "--json"]) == 0
    with open_study(study.folder).science.read() as db:
        assert newcomer_training(db) == NewcomerTraining(1, 1)
    capsys.readouterr()
    assert main(["people", "--add", "Ben", "--study", folder, "--json"]) == 0
    assert '"training": "given"' in capsys.readouterr().out
    assert main(["practice", "--newcomers", "0", "0", "--study", folder, "--json"]) == 0
    with study.science.read() as db:
        assert newcomer_training(db) is None
    assert purposes(study, PERSON) == ["production"] * 5
