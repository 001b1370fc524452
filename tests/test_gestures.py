"""Gestures of the page are applied once, in order, and a refused one does not hold up the rest."""

from pathlib import Path

import numpy as np
import pytest

from allinsam.errors import InputError, NotAllowedError
from allinsam.masks import decode_rle
from allinsam.store import Study, assignments
from allinsam.store.acts import list_acts
from allinsam.workflow.checking import verify
from allinsam.workflow.gestures import GESTURES, OBSERVATIONS, Gesture, Taken, open_desk, take_gestures
from tests.studies import LEAD, MESANGIAL, PERSON, PODOCYTES, NoCache, box_of, disc, small_study


@pytest.fixture
def study(tmp_path: Path) -> Study:
    return small_study(tmp_path / "study", slides=1)


def gesture(n: int, kind: str, **data: object) -> Gesture:
    return Gesture.from_json({"n": n, "kind": kind, "at_ms": 10.0 * n, **data})


def assignment_id(study: Study) -> int:
    with study.science.read() as db:
        return next(iter(db["assignment"].rows))["id"]


def take(study: Study, *gestures: Gesture, client: str = "tab") -> Taken:
    return take_gestures(study, assignment_id(study), PERSON, client, gestures)


def box(n: int, object_id: str = "a", centre: tuple[int, int] = PODOCYTES[0], class_id: int = 1) -> Gesture:
    return gesture(n, "box", object_id=object_id, class_id=class_id, box=box_of(centre))


def fetch(study: Study) -> None:
    open_desk(study, assignment_id(study), PERSON, f"masks {len(acts(study))}", NoCache()).fetch_masks()


def acts(study: Study) -> list:
    with study.science.read() as db:
        return list_acts(db, assignment_id(study))


def mask_of(taken: Taken, object_id: str) -> np.ndarray:
    return decode_rle(taken.desk.state.objects[object_id].mask.as_rle())


def test_gestures_sent_again_are_applied_once(study: Study) -> None:
    first = [gesture(1, "load"), box(2), box(3, "b", PODOCYTES[1])]
    assert take(study, *first).acknowledged == 3
    again = take(study, *first, gesture(4, "delete", object_id="a"))
    assert again.acknowledged == 4 and again.refused == {}
    assert [(act.kind, act.seq, act.client_ms) for act in acts(study)] == [
        ("load", 1001, 10.0),
        ("box", 2001, 20.0),
        ("box", 3001, 30.0),
        ("delete", 4001, 40.0),
    ]
    assert {act.surface for act in acts(study)} == {"dual_pane"}


def test_gestures_are_applied_in_the_order_of_their_numbers(study: Study) -> None:
    moved = gesture(2, "move", object_id="a", box=[5, 5, 20, 20])
    taken = take(study, gesture(3, "delete", object_id="a"), box(1), moved)
    assert [act.kind for act in acts(study)] == ["box", "move", "delete"]
    assert taken.desk.state.objects["a"].box == (5, 5, 20, 20)


def test_two_page_loads_number_from_one(study: Study) -> None:
    take(study, box(1))
    take(study, box(1, "b", PODOCYTES[1]), client="another tab")
    assert [act.client for act in acts(study)] == ["tab", "another tab"]


def test_a_refused_gesture_is_told_and_the_rest_go_on(study: Study) -> None:
    taken = take(
        study,
        gesture(1, "accept", object_ids=["nobody"]),
        gesture(2, "dance"),
        gesture(3, "box", object_id="x"),
        gesture(4, "move", object_id=5, box=[1, 2, 3, 4]),
        box(5),
        gesture(6, "paint", object_id="a", points=[[1, 1]], width_px=-3),
        gesture(7, "outline", object_id="c", class_id=1, points=[[1]]),
        gesture(8, "points", object_id="a", points=[[1, 1, 7]]),
        gesture(9, "say", class_id=1, what="whatever"),
    )
    assert taken.acknowledged == 9
    assert sorted(taken.refused) == [1, 2, 3, 4, 6, 7, 8, 9]
    assert "unknown" in taken.refused[2] and "incomplete" in taken.refused[3]
    assert [act.kind for act in acts(study)] == ["box"]


def test_a_box_over_the_border_is_cut_at_it(study: Study) -> None:
    taken = take(study, gesture(1, "box", object_id="a", class_id=1, box=[-8, 500, 20, 530]))
    assert taken.desk.state.objects["a"].box == (0, 500, 20, 512)


def test_keeping_undoing_and_saying(study: Study) -> None:
    take(study, box(1), box(2, "b", PODOCYTES[1]))
    fetch(study)
    taken = take(study, gesture(3, "accept", object_ids=["a", "b"]))
    assert len(taken.desk.state.accepted()) == 2
    assert take(study, gesture(4, "undo")).desk.state.accepted() == []
    unsure = gesture(7, "say", class_id=2, what="unsure")
    taken = take(study, gesture(5, "redo"), gesture(6, "reject", object_id="b"), unsure)
    assert [thing.state for thing in taken.desk.state.objects.values()] == ["accepted", "rejected"]
    assert taken.desk.state.class_states == {2: "unsure"}
    taken = take(study, gesture(8, "unsay", class_id=2), gesture(9, "skip", class_id=2, reason="Blurred"))
    assert taken.desk.state.class_states == {2: "skipped"}
    taken = take(study, gesture(10, "comment", text="hm"), gesture(11, "submit"))
    assert taken.refused == {} and taken.desk.state.submitted
    assert not take(study, gesture(12, "reopen")).desk.state.submitted
    assert verify(study)["problems"] == []


def test_brush_outline_and_tidying(study: Study) -> None:
    ring = [[100 + 10 * np.cos(t), 100 + 10 * np.sin(t)] for t in np.linspace(0, 6.2, 40)]
    taken = take(study, gesture(1, "outline", object_id="a", class_id=1, points=ring, tool="lasso"))
    assert taken.desk.state.objects["a"].origin == "drawn"
    assert (mask_of(taken, "a") ^ disc((100, 100))).sum() < 20
    taken = take(
        study,
        gesture(2, "paint", object_id="a", points=[[110, 100], [125, 100]], width_px=6),
        gesture(3, "paint", object_id="a", points=[[100, 100]], width_px=4, erase=True),
    )
    assert mask_of(taken, "a")[100, 124]
    assert mask_of(taken, "a")[100, 100]  # a hole is filled again: a nucleus has none
    cut = gesture(4, "paint", object_id="a", points=[[116, 80], [116, 120]], width_px=6, erase=True)
    assert not mask_of(take(study, cut), "a")[100, 121:].any()  # the smaller part goes
    fresh = gesture(5, "paint", object_id="n", class_id=2, points=[[300, 300], [310, 300]], width_px=8)
    taken = take(study, fresh)
    assert taken.refused == {} and taken.desk.state.objects["n"].class_id == 2
    before = len(acts(study))
    taken = take(study, gesture(6, "fill_holes", object_id="n"), gesture(7, "drop_crumbs", object_id="n"))
    assert taken.refused == {} and len(acts(study)) == before  # nothing to tidy: nothing is recorded


def test_points_correct_a_mask_and_undo_gives_the_old_one_back(study: Study) -> None:
    take(study, box(1))
    fetch(study)
    old = take(study).desk.state.objects["a"].mask
    x, y = PODOCYTES[0]
    taken = take(study, gesture(2, "points", object_id="a", points=[[x + 30, y, 1]]))
    assert [thing.object_id for thing in taken.desk.state.waiting()] == ["a"]
    assert taken.desk.state.objects["a"].mask == old
    fetch(study)
    taken = take(study)
    assert taken.desk.state.objects["a"].points == ((x + 30.0, float(y), 1),)
    # The point lay outside the box, so SAM was asked for more than the box.
    assert mask_of(taken, "a")[:, x + 25].any()
    undone = take(study, gesture(3, "undo")).desk.state
    assert undone.objects["a"].mask == old and undone.waiting() == []
    assert verify(study)["problems"] == []


def test_a_new_mask_leaves_out_what_is_kept_already(study: Study) -> None:
    x, y = PODOCYTES[0]
    take(study, box(1))
    fetch(study)
    take(study, gesture(2, "accept", object_ids=["a"]))
    beside = box_of((x + 14, y))
    take(study, gesture(3, "box", object_id="b", class_id=1, box=beside), box(4, "same"))
    fetch(study)
    taken = take(study)
    assert mask_of(taken, "b").any() and not (mask_of(taken, "a") & mask_of(taken, "b")).any()
    # The same nucleus once more is shown, not eaten up.
    assert (mask_of(taken, "a") & mask_of(taken, "same")).sum() == mask_of(taken, "a").sum()


def test_somebody_elses_patch_is_refused(study: Study) -> None:
    with pytest.raises(NotAllowedError):
        take_gestures(study, assignment_id(study), "p-lead", "tab", [box(1)])
    assert acts(study) == []


@pytest.mark.parametrize(
    "raw",
    [
        [],
        {},
        {"n": 0, "kind": "box", "at_ms": 1},
        {"n": "1", "kind": "box", "at_ms": 1},
        {"n": 1, "kind": None, "at_ms": 1},
        {"n": 1, "kind": "box"},
        {"n": 1, "kind": "box", "at_ms": float("nan")},
        {"n": True, "kind": "box", "at_ms": 1},
        {"n": 2**50, "kind": "box", "at_ms": 1},
    ],
)
def test_what_is_no_gesture_is_refused(raw: object) -> None:
    with pytest.raises(InputError, match="Reload the page|an object"):
        Gesture.from_json(raw)


@pytest.mark.parametrize("kind", [*GESTURES, *OBSERVATIONS])
def test_every_gesture_survives_nonsense(study: Study, kind: str) -> None:
    nonsense = {"object_id": "zz", "object_ids": [3], "class_id": "x", "box": "b", "points": {}}
    nonsense |= {"width_px": "w", "what": 3, "reason": "", "text": "", "tool": "knife"}
    assert take(study, gesture(1, kind, **nonsense)).acknowledged == 1
    assert verify(study)["problems"] == []


def test_masks_of_both_classes_wait_and_come(study: Study) -> None:
    taken = take(study, box(1), box(2, "m", MESANGIAL[0], class_id=2))
    assert len(taken.desk.state.waiting()) == 2
    fetch(study)
    assert take(study).desk.state.waiting() == []


def fetch_after(study: Study, *meanwhile: Gesture) -> None:
    """Masks that were asked for before, and come after, what the person does meanwhile."""
    desk = open_desk(study, assignment_id(study), PERSON, f"masks {len(acts(study))}", NoCache())
    get = desk.cache.get

    def slow(image: np.ndarray) -> np.ndarray:
        take(study, *meanwhile)
        return get(image)

    desk.cache.get = slow
    desk.fetch_masks()


def state(study: Study):
    return open_desk(study, assignment_id(study), PERSON, "reader-1").state


def test_a_late_mask_leaves_what_was_drawn_by_hand(study: Study) -> None:
    take(study, box(1))
    square = [[x, y] for x, y in ((80, 80), (120, 80), (120, 120), (80, 120))]
    drawn = gesture(2, "outline", object_id="a", points=square, tool="polygon")
    fetch_after(study, drawn, gesture(3, "accept", object_ids=["a"]))
    thing = state(study).objects["a"]
    assert (thing.state, thing.origin) == ("accepted", "edited")
    assert decode_rle(thing.mask.as_rle()).sum() == 1600
    take(study, gesture(4, "undo"), gesture(5, "undo"))
    assert (
        state(study).objects["a"].origin == "sam"
    )  # the mask that came is there once the edit is taken back
    assert verify(study)["problems"] == []


def test_a_late_mask_brings_the_evidence_of_the_class_as_it_is_now(study: Study) -> None:
    take(study, box(1))  # a podocyte's place: bright in WT1, dark in GATA3
    fetch_after(study, gesture(2, "class", object_id="a", class_id=2))
    thing = state(study).objects["a"]
    assert thing.class_id == 2 and thing.molecular_support < 0.1
    other = open_desk(study, assignment_id(study), PERSON, "reader-1")
    assert thing.threshold_id == other._evidence(2, decode_rle(thing.mask.as_rle()))["threshold_id"]


def test_numbers_count_for_each_patch_apart(tmp_path: Path) -> None:
    study = small_study(tmp_path / "two", slides=1, patches_per_slide=2)
    take_gestures(study, 2, PERSON, "tab", [box(9, "there")])
    late = take_gestures(study, 1, PERSON, "tab", [box(2, "here")])
    assert list(late.desk.state.objects) == ["here"]


def test_nobody_sends_in_another_persons_name(tmp_path: Path) -> None:
    study = small_study(tmp_path / "two", slides=1, patches_per_slide=2)
    take_gestures(study, 1, PERSON, "tab-of-a-student", [box(1)])
    with study.science.write() as db:
        own = assignments.add_assignment(db, LEAD, 1, [1, 2])
    with pytest.raises(NotAllowedError, match="somebody else's"):
        take_gestures(study, own, LEAD, "tab-of-a-student", [gesture(2**39, "load")])


def test_who_does_not_hold_the_patch_takes_nothing_back(study: Study) -> None:
    take(study, box(1))
    late = [gesture(2, "undo"), gesture(3, "submit"), box(4, "b", PODOCYTES[1])]
    taken = take_gestures(study, assignment_id(study), PERSON, "other-tab", late, holds=False)
    assert sorted(taken.refused) == [2, 3] and "Another tab" in taken.refused[2]
    assert list(taken.desk.state.objects) == ["a", "b"] and not taken.desk.state.submitted


def test_a_stroke_beside_the_nucleus_is_refused_and_one_that_changes_nothing_leaves_no_act(
    study: Study,
) -> None:
    take(study, box(1))
    fetch(study)
    x, y = PODOCYTES[0]
    far = gesture(2, "paint", object_id="a", points=[[x + 60, y], [x + 70, y]], width_px=4)
    inside = gesture(3, "paint", object_id="a", points=[[x - 2, y], [x + 2, y]], width_px=4)
    taken = take(study, far, inside)
    assert "does not touch" in taken.refused[2] and 3 not in taken.refused
    assert state(study).objects["a"].origin == "sam"


def test_a_kept_nucleus_whose_correction_is_on_its_way_is_not_handed_in(study: Study) -> None:
    take(study, box(1), gesture(2, "say", class_id=2, what="nothing_here"))
    fetch(study)
    x, y = PODOCYTES[0]
    take(
        study, gesture(3, "accept", object_ids=["a"]), gesture(4, "points", object_id="a", points=[[x, y, 1]])
    )
    assert [point.kind for point in open_desk(study, assignment_id(study), PERSON, "r").open_points()] == [
        "corrections"
    ]
    assert "not finished" in take(study, gesture(5, "submit")).refused[5]
    fetch(study)
    assert take(study, gesture(6, "submit")).refused == {}


@pytest.mark.parametrize(
    "raw", [{"n": 1, "kind": "load", "at_ms": 10**400}, {"n": 1, "kind": "\ud800", "at_ms": "soon"}]
)
def test_numbers_and_names_that_no_page_sends_are_refused_in_words(raw: dict) -> None:
    with pytest.raises(InputError, match="needs its time"):
        Gesture.from_json(raw)


def test_a_batch_sent_again_is_the_same_batch(study: Study) -> None:
    take(study, box(1), box(2, "b", PODOCYTES[1]))
    fetch(study)
    take(study, gesture(3, "accept", object_ids=["a", "b"]))
    batches = {act.payload.get("batch") for act in acts(study) if act.kind == "accept"}
    assert batches == {"tab:3001"}


def test_a_deleted_nucleus_stays_deleted_whatever_a_late_tab_does(study: Study) -> None:
    take(study, box(1))
    fetch(study)
    take(study, gesture(2, "delete", object_id="a"))
    late = [gesture(3, "accept", object_ids=["a"]), gesture(4, "reject", object_id="a")]
    late = take(study, *late, client="late")
    assert sorted(late.refused) == [3, 4] and late.desk.state.objects["a"].state == "deleted"
    assert take(study, gesture(5, "undo")).desk.state.objects["a"].state == "proposed"
