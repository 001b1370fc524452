"""How far somebody is in the tour is kept, and its time is counted apart from work."""

from pathlib import Path

import pytest

from allinsam.errors import InputError
from allinsam.store import Study
from allinsam.workflow import touring
from allinsam.workflow.touring import note_tour, tour_standing
from allinsam.workflow.work_times import work_times
from tests.studies import LEAD, PERSON, small_study
from webapp.tour_pictures import steps_for

CLASSES = [{"name": "podocyte", "marker": "WT1"}, {"name": "mesangial", "marker": "GATA3"}]


@pytest.fixture
def study(tmp_path: Path) -> Study:
    return small_study(tmp_path / "study", slides=1)


def standing(study: Study, person_id: str = PERSON):
    with study.science.read() as db:
        return tour_standing(db, person_id)


def test_steps_are_remembered_and_their_time_is_training(
    study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [100.0]
    monkeypatch.setattr(touring.time, "monotonic", lambda: now[0])
    assert (standing(study).state, standing(study).step) == ("not begun", None)
    # 10 s, then a coffee that counts for a minute; another visit begins its own clock.
    for seconds, visit, step in ((0, "a", "pictures"), (10, "a", "types"), (900, "a", "draw")):
        now[0] = 100.0 + seconds
        note_tour(study, PERSON, visit, "tour_step", step)
    now[0] = 5000.0
    note_tour(study, PERSON, "b", "tour_step", "draw")
    assert (standing(study).state, standing(study).step, standing(study).is_settled) == (
        "begun",
        "draw",
        False,
    )
    now[0] = 5004.0
    note_tour(study, PERSON, "b", "tour_skipped", "draw")
    found = standing(study)
    assert (found.state, found.is_settled, found.seconds) == ("skipped", True, 10 + 60 + 4)
    note_tour(study, PERSON, "c", "tour_done", "hand_in")
    note_tour(study, PERSON, "d", "tour_step", "pictures")  # looked at once more
    assert standing(study).state == "done"
    assert standing(study, LEAD).state == "not begun"
    assert work_times(study)[0].empty


def test_an_unknown_kind_is_refused(study: Study) -> None:
    with pytest.raises(InputError, match="Unknown step"):
        note_tour(study, PERSON, "a", "tour_slept", "draw")


def test_who_works_without_the_marker_hears_nothing_of_it() -> None:
    told = steps_for(CLASSES, with_marker=False, by_hand=False)
    words = " ".join(step.title + step.text + step.drawing for step in told).lower()
    assert not [word for word in ("marker", "bright", "wt1", "light") if word in words]
    assert "podocyte" in words


@pytest.mark.parametrize("by_hand", [False, True])
@pytest.mark.parametrize("with_marker", [False, True])
def test_every_arm_has_eight_screens_of_its_tool(with_marker: bool, by_hand: bool) -> None:
    told = steps_for(CLASSES, with_marker, by_hand)
    assert len(told) == len({step.name for step in told}) == 8
    assert all(step.text and step.drawing for step in told if step.name != "cards")
    words = " ".join(step.title + step.text for step in told)
    assert ("box" in words) != by_hand and ("draw round" in words.lower()) == by_hand
