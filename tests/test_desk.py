"""Annotating without a browser: gestures become acts, and undo takes gestures back."""

from pathlib import Path

import pytest

from allinsam.acts import ObjectState
from allinsam.errors import InputError
from allinsam.store import Study
from allinsam.store.acts import list_acts
from allinsam.workflow.annotating import ActLog, next_assignment
from allinsam.workflow.desk import Desk, final_states
from tests.studies import MESANGIAL, PERSON, PODOCYTES, DiscSegmenter, NoCache, box_of, disc, small_study


@pytest.fixture
def study(tmp_path: Path) -> Study:
    return small_study(tmp_path / "study", slides=1)


def desk_at(study: Study, client: str = "tab", cache: object | None = None) -> Desk:
    clock = iter(range(0, 10**6, 250))
    assignment_id = next_assignment(study, PERSON)["id"]
    log = ActLog(client, "test")
    return Desk(study, assignment_id, PERSON, log, cache or NoCache(), clock_ms=lambda: float(next(clock)))


def thing(desk: Desk, object_id: str) -> ObjectState:
    return desk.state.objects[object_id]


def test_a_box_is_kept_before_its_mask_comes(study: Study) -> None:
    desk = desk_at(study)
    (object_id,) = desk.draw_boxes(1, [box_of(PODOCYTES[0])])
    assert desk_at(study, "reader").state.objects[object_id].mask is None
    assert desk.fetch_masks() == 1
    assert desk.fetch_masks() == 0
    assert desk_at(study, "reader").state == desk.state
    assert thing(desk, object_id).mask is not None
    assert desk.n_acts == 2 and desk.saved_at.endswith("Z")


def test_masks_that_a_crash_left_out_come_at_the_next_opening(study: Study) -> None:
    desk_at(study).draw_boxes(1, [box_of(PODOCYTES[0])])
    later = desk_at(study, "after the crash")
    assert later.fetch_masks() == 1
    assert later.acceptable() == list(later.state.objects)


def test_one_wait_for_several_masks_counts_once(study: Study) -> None:
    desk = desk_at(study)
    desk.draw_boxes(1, [box_of(centre) for centre in PODOCYTES[:3]])
    desk.fetch_masks()
    with study.science.read() as db:
        shown = [act for act in list_acts(db, desk.assignment_id) if act.kind == "mask_shown"]
    # Nothing ticks this clock but looking at it: once before the model and once after.
    assert [act.payload["model_ms"] for act in shown] == [250.0, 0.0, 0.0]


def test_boxes_of_two_classes_get_evidence_from_their_own_markers(study: Study) -> None:
    desk = desk_at(study)
    (podocyte,) = desk.draw_boxes(1, [box_of(PODOCYTES[0])])
    (mesangial,) = desk.draw_boxes(2, [box_of(MESANGIAL[0])])
    (wrong,) = desk.draw_boxes(2, [box_of(PODOCYTES[1])])
    desk.fetch_masks()
    supports = [thing(desk, i).molecular_support for i in (podocyte, mesangial, wrong)]
    assert supports[0] > 0.8 and supports[1] > 0.8 and supports[2] == 0.0
    desk.change_class(wrong, 1)
    assert thing(desk, wrong).molecular_support > 0.8


def test_one_undo_takes_accept_all_back(study: Study) -> None:
    desk = desk_at(study)
    ids = desk.draw_boxes(1, [box_of(centre) for centre in PODOCYTES])
    desk.fetch_masks()
    desk.accept(desk.acceptable())
    assert len(desk.state.accepted()) == 4
    assert desk.undo()
    assert [thing(desk, i).state for i in ids] == ["proposed"] * 4
    assert desk.redo()
    assert len(desk.state.accepted()) == 4
    assert desk.undo() and desk.undo()
    assert desk.state.objects == {}
    assert not desk.undo()
    assert desk.redo() and len(desk.state.objects) == 4


def test_undo_works_after_a_reload(study: Study) -> None:
    desk_at(study).draw_boxes(1, [box_of(PODOCYTES[0])])
    later = desk_at(study, "second page load")
    assert later.undo() and later.state.objects == {}


def test_redrawing_a_box_fetches_a_new_mask(study: Study) -> None:
    desk = desk_at(study)
    (object_id,) = desk.draw_boxes(1, [box_of(PODOCYTES[0], margin_px=8)])
    desk.fetch_masks()
    desk.accept([object_id])
    old = thing(desk, object_id).mask
    desk.move_box(object_id, box_of(PODOCYTES[0]))
    assert thing(desk, object_id).state == "proposed"
    desk.fetch_masks()
    assert thing(desk, object_id).mask != old
    assert thing(desk, object_id).first_box == tuple(box_of(PODOCYTES[0], margin_px=8))


def test_outlines_by_hand(study: Study) -> None:
    desk = desk_at(study)
    drawn = desk.set_outline(disc(PODOCYTES[2]), "lasso", class_id=1)
    assert thing(desk, drawn).origin == "drawn" and thing(desk, drawn).box is None
    (boxed,) = desk.draw_boxes(1, [box_of(PODOCYTES[3])])
    desk.fetch_masks()
    desk.set_outline(disc(PODOCYTES[3], 5), "polygon", boxed)
    assert thing(desk, boxed).origin == "edited" and thing(desk, boxed).molecular_support == 1.0
    with pytest.raises(InputError, match="no pixel"):
        desk.set_outline(disc((-99, -99)), "polygon", boxed)


def test_an_empty_mask_cannot_be_accepted(study: Study) -> None:
    class Blind(DiscSegmenter):
        def masks_from_boxes(self, embedding, boxes):  # type: ignore[no-untyped-def]
            found = super().masks_from_boxes(embedding, boxes)
            found.masks[:] = False
            return found

    desk = desk_at(study, cache=NoCache(Blind()))
    (object_id,) = desk.draw_boxes(1, [box_of(PODOCYTES[0])])
    desk.fetch_masks()
    assert desk.acceptable() == []
    with pytest.raises(InputError, match="nothing was found in this box"):
        desk.accept([object_id])


def test_open_points_say_what_keeps_a_patch_from_being_submitted(study: Study) -> None:
    desk = desk_at(study)
    assert [(point.kind, point.class_id) for point in desk.open_points()] == [
        ("unanswered", 1),
        ("unanswered", 2),
    ]
    (object_id,) = desk.draw_boxes(1, [box_of(PODOCYTES[0])])
    desk.fetch_masks()
    desk.do("nothing_here", class_id=2)
    (point,) = desk.open_points()
    assert (point.kind, point.class_id, point.object_ids) == ("proposals", 1, (object_id,))
    with pytest.raises(InputError, match="podocyte"):
        desk.submit()
    desk.accept([object_id])
    assert desk.open_points() == []
    desk.submit()
    assert desk.state.submitted
    assert desk.state.class_states == {1: "complete", 2: "nothing_here"}
    desk.reopen()
    assert not desk.state.submitted and desk.state.accepted()


def test_a_class_set_aside_is_not_complete(study: Study) -> None:
    desk = desk_at(study)
    desk.draw_boxes(1, [box_of(PODOCYTES[0])])
    desk.do("unsure", class_id=1)
    desk.do("skip", class_id=2, reason="out of focus")
    assert desk.open_points() == []
    assert final_states(desk.state, [1, 2]) == {"1": "unsure", "2": "skipped"}
    desk.submit()
    assert next_assignment(study, PERSON) is None
