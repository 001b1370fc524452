"""A practice round tells what was right and wrong, to whom it belongs and to nobody else."""

from pathlib import Path

import numpy as np
import pytest

from allinsam.errors import InputError, NotAllowedError
from allinsam.masks import decode_rle, encode_rle
from allinsam.practice import Outlined, judge, mark
from allinsam.records import Mask
from allinsam.store import Study, assignments
from allinsam.workflow.annotating import ActLog
from allinsam.workflow.desk import Desk
from allinsam.workflow.practising import (
    PassMark,
    give_practice,
    practice_feedback,
    qualification,
    set_pass_mark,
)
from tests.practising import DRAWN, PLANTED, add_gold
from tests.studies import LEAD, PERSON, PODOCYTES, RADIUS_PX, NoCache, box_of, disc, small_study


def outlined(name: str, class_id: int, mask: np.ndarray) -> Outlined:
    return Outlined(name, class_id, Mask.from_rle(encode_rle(mask)))


def test_verdicts_by_hand():
    gold = [outlined(f"g{n}", 1, disc(centre)) for n, centre in enumerate(PODOCYTES[:3])]
    near = (PODOCYTES[0][0] + 3, PODOCYTES[0][1])
    far = (PODOCYTES[1][0] + RADIUS_PX, PODOCYTES[1][1])
    drawn = [
        outlined("near", 1, disc(near)),
        outlined("far", 1, disc(far)),
        outlined("other", 2, disc(PODOCYTES[2])),
    ]
    verdicts = judge(drawn, gold)
    told = [(v.kind, v.drawn and v.drawn.object_id, v.gold and v.gold.object_id) for v in verdicts]
    assert told == [
        ("right", "near", "g0"),
        ("extra", "far", None),
        ("wrong_class", "other", "g2"),
        ("missed", None, "g1"),
    ]
    found = mark(verdicts)
    assert found.f1 == pytest.approx(2 * 2 / (2 * 2 + 1 + 1)) and found.class_accuracy == 0.5
    assert found.counts == {"right": 1, "wrong_class": 1, "missed": 1, "extra": 1}


def test_two_outlines_of_one_nucleus_are_one_right_and_one_too_many():
    twice = [outlined(name, 1, disc(PODOCYTES[0])) for name in ("a", "b")]
    assert sorted(v.kind for v in judge(twice, [outlined("g", 1, disc(PODOCYTES[0]))])) == ["extra", "right"]


def test_nothing_drawn_and_nothing_there():
    assert judge([], []) == [] and mark([]).f1 == 1.0 and mark([]).class_accuracy is None
    (missed,) = judge([], [outlined("g", 1, disc(PODOCYTES[0]))])
    assert missed.kind == "missed" and mark([missed]).f1 == 0.0


@pytest.fixture
def study(tmp_path: Path) -> Study:
    study = small_study(tmp_path / "study", slides=1, patches_per_slide=3)
    for patch_id in (2, 3):
        add_gold(study, patch_id)
    return study


def at_practice(study: Study) -> Desk:
    with study.science.write() as db:
        own = assignments.add_assignment(db, LEAD, 2, [1, 2], purpose="practice")
    desk = Desk(study, own, LEAD, ActLog("page-1", "script"), NoCache())
    for centre, class_id in DRAWN:
        desk.draw_boxes(class_id, [box_of(centre, margin_px=0)])
    desk.fetch_masks()
    desk.accept(desk.acceptable())
    return desk


def test_three_planted_mistakes_are_exactly_those_three(study: Study) -> None:
    desk = at_practice(study)
    desk.submit()
    verdicts = practice_feedback(study, desk.assignment_id)
    wrong = set()
    for verdict in verdicts:
        if verdict.kind != "right":
            rows, columns = np.nonzero(decode_rle((verdict.drawn or verdict.gold).mask.as_rle()))
            wrong.add((verdict.kind, (round(columns.mean() + 0.5), round(rows.mean() + 0.5))))
    assert wrong == PLANTED
    assert mark(verdicts).counts == {"right": 5, "wrong_class": 1, "missed": 1, "extra": 1}


def test_gold_is_shown_after_handing_in_practice_and_nowhere_else(study: Study) -> None:
    desk = at_practice(study)
    with pytest.raises(NotAllowedError, match="Hand the practice patch in"):
        practice_feedback(study, desk.assignment_id)
    with pytest.raises(NotAllowedError, match="Only practice"):
        practice_feedback(study, 2)


def test_practice_is_given_from_finished_gold_that_is_new_to_the_person(study: Study) -> None:
    with pytest.raises(InputError, match="0 patches with finished gold are left for 'p-student', not 1"):
        give_practice(study, PERSON, 1)  # every patch is in this person's queue already
    given = give_practice(study, LEAD, 2)
    with study.science.read() as db:
        rows = [assignments.get_assignment(db, n) for n in given]
        assert sorted((row["patch_id"], row["purpose"]) for row in rows) == [(2, "practice"), (3, "practice")]
        assert set(assignments.assignment_classes(db, given[0])) == {1, 2}


def at_qualification(study: Study, drawn) -> None:
    with study.science.write() as db:
        own = assignments.add_assignment(db, PERSON, 3, [1, 2], purpose="qualification")
    desk = Desk(study, own, PERSON, ActLog(f"page-{own}", "script"), NoCache())
    for centre, class_id in drawn:
        desk.draw_boxes(class_id, [box_of(centre, margin_px=0)])
    desk.fetch_masks()
    desk.accept(desk.acceptable())
    for class_id in (1, 2):
        if not any(thing.class_id == class_id for thing in desk.state.accepted()):
            desk.do("nothing_here", class_id=class_id)
    desk.submit()


def stands(study: Study, person_id: str = PERSON):
    with study.science.read() as db:
        return qualification(db, person_id)


def test_production_opens_with_the_pass_mark(study: Study) -> None:
    assert stands(study).is_open  # nobody is asked
    set_pass_mark(study, LEAD, PassMark(f1=0.7, class_accuracy=0.8, attempts=2))
    assert not stands(study).is_open and stands(study, LEAD).is_open  # experts are not asked
    at_qualification(study, DRAWN[:2])
    assert not stands(study).is_open and stands(study).marks[0].f1 < 0.7
    at_qualification(study, DRAWN)
    found = stands(study).marks[1]
    assert found.f1 == pytest.approx(12 / 14) and found.class_accuracy == pytest.approx(5 / 6)
    assert stands(study).is_open
    set_pass_mark(study, LEAD, PassMark(f1=0.9, class_accuracy=0.8, attempts=2))
    assert not stands(study).is_open
    set_pass_mark(study, LEAD, None)
    assert stands(study).is_open


def test_more_tries_than_allowed_do_not_count(study: Study) -> None:
    set_pass_mark(study, LEAD, PassMark(attempts=1))
    at_qualification(study, DRAWN[:1])
    at_qualification(study, DRAWN)
    assert len(stands(study).marks) == 1 and not stands(study).is_open


@pytest.mark.parametrize("wrong", [{"f1": 1.2}, {"class_accuracy": -0.1}, {"attempts": 0}])
def test_a_pass_mark_that_nobody_can_mean_is_refused(wrong: dict) -> None:
    with pytest.raises(InputError, match="cannot be used"):
        PassMark(**wrong)
