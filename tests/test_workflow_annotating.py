"""Acts are kept in full, with their rows, or not at all."""

import json
import sqlite3
from pathlib import Path

import numpy as np
import pytest

from allinsam.errors import InputError, NotAllowedError, NotFoundError
from allinsam.masks import decode_rle, encode_rle
from allinsam.records import Act
from allinsam.store import Study, assignments
from allinsam.store import acts as act_store
from allinsam.workflow.annotating import (
    ActLog,
    assignment_state,
    marker_evidence,
    masks_for_boxes,
    next_assignment,
    record_acts,
)
from tests.studies import LEAD, MESANGIAL, PERSON, PODOCYTES, NoCache, box_of, disc, small_study

OBJECT = "7b0c9c66-0000-4000-8000-000000000001"


@pytest.fixture
def study(tmp_path: Path) -> Study:
    return small_study(tmp_path / "study")


def first_assignment(study: Study) -> int:
    return next_assignment(study, PERSON)["id"]


def drawn(study: Study, log: ActLog, object_id: str = OBJECT, centre: tuple = PODOCYTES[0]) -> list[Act]:
    """A box, its mask and the acceptance."""
    box = log.act("box", 1000.0, object_id, class_id=1, box=box_of(centre))
    answer = masks_for_boxes(study, NoCache(), 1, "WT1", np.array([box_of(centre)]))[0]
    return [box, log.answer(box, 1200.0, answer), log.act("accept", 2000.0, object_id)]


def table(study: Study, name: str) -> list[dict]:
    with study.science.read() as db:
        return list(db[name].rows)


def test_acts_and_their_rows_are_there_after_record_acts(study: Study) -> None:
    assignment_id = first_assignment(study)
    recorded = record_acts(study, assignment_id, PERSON, drawn(study, ActLog("tab", "test")))
    assert recorded.acknowledged == (1, 2, 3)
    assert [row["kind"] for row in table(study, "act")] == ["box", "mask_shown", "accept"]
    (row,) = table(study, "annotation")
    assert (row["object_id"], row["state"], row["act_id"]) == (OBJECT, "accepted", 3)
    assert json.loads(row["first_box"]) == box_of(PODOCYTES[0])
    assert row["origin"] == "sam" and row["backbone"] == "compact"
    assert row["predicted_iou"] == pytest.approx(0.9)
    # The disc is bright all over; the mask reaches at most 1 px beyond it.
    assert 0.8 < row["molecular_support"] <= 1.0
    assert row["threshold_id"] == 1 and row["registration_id"] == 1
    with study.science.read() as db:
        assert assignments.get_assignment(db, assignment_id)["state"] == "open"


def test_sending_acts_twice_changes_nothing(study: Study) -> None:
    assignment_id, acts = first_assignment(study), drawn(study, ActLog("tab", "test"))
    record_acts(study, assignment_id, PERSON, acts[:2])
    again = record_acts(study, assignment_id, PERSON, acts)
    assert again.acknowledged == (1, 2, 3)
    assert len(table(study, "act")) == 3 and len(table(study, "annotation")) == 1
    assert again.state == record_acts(study, assignment_id, PERSON, acts).state


def test_another_act_under_a_used_number_is_refused(study: Study) -> None:
    assignment_id = first_assignment(study)
    record_acts(study, assignment_id, PERSON, [Act("tab", 1, "load", 5.0)])
    with pytest.raises(InputError, match="another act under that number"):
        record_acts(study, assignment_id, PERSON, [Act("tab", 1, "load", 6.0)])
    second = assignments_of(study)[1]["id"]
    with pytest.raises(InputError, match="another act under that number"):
        record_acts(study, second, PERSON, [Act("tab", 1, "load", 5.0)])


def assignments_of(study: Study) -> list[dict]:
    with study.science.read() as db:
        return assignments.list_assignments(db, PERSON)


def test_one_bad_act_leaves_nothing_of_its_call(study: Study) -> None:
    assignment_id, log = first_assignment(study), ActLog("tab", "test")
    bad = log.act("box", 3000.0, "other", class_id=9, box=[0, 0, 9, 9])
    with pytest.raises(InputError, match="class 9"):
        record_acts(study, assignment_id, PERSON, [*drawn(study, log), bad])
    assert table(study, "act") == [] and table(study, "annotation") == []
    assert next_assignment(study, PERSON)["state"] == "waiting"


@pytest.mark.parametrize("source", ["threshold_id", "registration_id"])
def test_evidence_from_nowhere_is_refused_before_an_accept_would_fail_on_it(
    study: Study, source: str
) -> None:
    log = ActLog("tab", "test")
    outline = log.act(
        "mask_edit", 1.0, OBJECT, class_id=1, mask=encode_rle(disc((100, 100))), **{source: 999}
    )
    with pytest.raises(InputError, match="not there"):
        record_acts(study, first_assignment(study), PERSON, [outline])


def test_no_empty_study_takes_the_place_of_one_that_was_moved_away(study: Study) -> None:
    moved = study.science.path.rename(study.folder / "elsewhere.sqlite")
    with pytest.raises(NotFoundError, match="is gone"):
        next_assignment(study, PERSON)
    assert not study.science.path.exists()
    moved.rename(study.science.path)
    assert next_assignment(study, PERSON) is not None


def test_somebody_elses_assignment_is_refused(study: Study) -> None:
    with pytest.raises(NotAllowedError, match=LEAD):
        record_acts(study, first_assignment(study), LEAD, [Act("tab", 1, "load", 0.0)])
    assert table(study, "act") == []


def test_an_unknown_kind_is_kept_and_reported(study: Study) -> None:
    wink = Act("tab", 1, "wink", 7.0, {"eye": "left"})
    recorded = record_acts(study, first_assignment(study), PERSON, [wink])
    assert recorded.unknown_kinds == ("wink",)
    (row,) = table(study, "act")
    assert row["kind"] == "wink" and json.loads(row["payload"]) == {"eye": "left"}
    assert recorded.state.objects == {}


def test_undo_and_redo_add_rows_and_take_none_away(study: Study) -> None:
    assignment_id, log = first_assignment(study), ActLog("tab", "test")
    state = record_acts(study, assignment_id, PERSON, drawn(study, log)).state
    assert state.undo_stack[-1] == ("tab", 3)
    undo = log.act("undo", 3000.0, act=list(state.undo_stack[-1]))
    state = record_acts(study, assignment_id, PERSON, [undo]).state
    assert state.objects[OBJECT].state == "proposed"
    redo = log.act("redo", 4000.0, act=list(state.redo_stack[-1]))
    state = record_acts(study, assignment_id, PERSON, [redo]).state
    assert state.objects[OBJECT].state == "accepted"
    rows = [(row["act_id"], row["state"]) for row in table(study, "annotation")]
    assert rows == [(3, "accepted"), (4, "deleted"), (5, "accepted")]
    assert assignment_state(study, assignment_id) == state


def test_a_changed_class_and_an_edited_outline_are_new_rows_of_the_same_object(study: Study) -> None:
    assignment_id, log = first_assignment(study), ActLog("tab", "test")
    small = disc(PODOCYTES[0], 6)
    evidence = marker_evidence(study, 1, "WT1").of_mask(small)
    edit = log.act("mask_edit", 3000.0, OBJECT, mask=encode_rle(small), tool="polygon", **evidence)
    recoloured = log.act("class", 4000.0, OBJECT, class_id=2)
    log = ActLog("tab2", "test")
    record_acts(study, assignment_id, PERSON, [*drawn(study, log), edit, recoloured])
    rows = table(study, "annotation")
    assert [(row["class_id"], row["origin"]) for row in rows] == [(1, "sam"), (1, "edited"), (2, "edited")]
    assert {row["object_id"] for row in rows} == {OBJECT}
    assert rows[1]["molecular_support"] == 1.0
    # What was known of the old class's marker says nothing about the new class.
    assert rows[2]["molecular_support"] is None
    mask = {"size": [rows[2]["mask_height_px"], rows[2]["mask_width_px"]], "counts": rows[2]["mask_counts"]}
    assert np.array_equal(decode_rle(mask), small)


def test_submit_settles_the_classes_and_undo_reopens(study: Study) -> None:
    assignment_id, log = first_assignment(study), ActLog("tab", "test")
    submit = log.act("submit", 9000.0, classes={"1": "complete", "2": "nothing_here"})
    with pytest.raises(InputError, match="neither accepted nor rejected"):
        record_acts(study, assignment_id, PERSON, [*drawn(study, ActLog("t", "test"))[:2], submit])
    record_acts(study, assignment_id, PERSON, [*drawn(study, ActLog("t", "test")), submit])
    with study.science.read() as db:
        assert assignments.get_assignment(db, assignment_id)["state"] == "submitted"
        assert assignments.get_assignment(db, assignment_id)["submitted_at"] is not None
        assert assignments.assignment_classes(db, assignment_id) == {1: "complete", 2: "nothing_here"}
    assert next_assignment(study, PERSON)["id"] != assignment_id
    record_acts(study, assignment_id, PERSON, [log.act("undo", 9500.0, act=[submit.client, submit.seq])])
    with study.science.read() as db:
        assert assignments.get_assignment(db, assignment_id)["state"] == "open"
        assert assignments.assignment_classes(db, assignment_id) == {1: "open", 2: "open"}
    assert len(table(study, "annotation")) == 1


def test_rows_can_be_rebuilt_from_the_acts(study: Study) -> None:
    from allinsam.acts import replay

    assignment_id, log = first_assignment(study), ActLog("tab", "test")
    acts = drawn(study, log)
    acts += [log.act("delete", 5000.0, OBJECT), log.act("undo", 6000.0, act=["tab", 4])]
    record_acts(study, assignment_id, PERSON, acts)
    with study.science.read() as db:
        stored = act_store.stored_annotations(db, assignment_id)
        _, rebuilt = replay(act_store.list_acts(db, assignment_id))
        ids = act_store.act_ids(db, assignment_id)
    assert [row["state"] for row in stored] == ["accepted", "deleted", "accepted"]
    for row, again in zip(stored, rebuilt, strict=True):
        values = {"act_id": ids[again.act], **act_store.annotation_values(assignment_id, again)}
        assert {key: row[key] for key in values} == values


@pytest.mark.parametrize("name", ["act", "annotation", "threshold", "registration"])
@pytest.mark.parametrize("statement", ["UPDATE {} SET id = id + 100", "DELETE FROM {}"])
def test_append_only_tables_refuse_update_and_delete(study: Study, name: str, statement: str) -> None:
    record_acts(study, first_assignment(study), PERSON, drawn(study, ActLog("tab", "test")))
    before = table(study, name)
    with pytest.raises(sqlite3.IntegrityError, match=f"{name} rows are never"), study.science.write() as db:
        db.execute(statement.format(name))
    assert table(study, name) == before and before


def test_masks_come_with_the_evidence_of_their_marker(study: Study) -> None:
    boxes = np.array([box_of(PODOCYTES[1]), box_of(MESANGIAL[1])])
    own, other = masks_for_boxes(study, NoCache(), 1, "WT1", boxes)
    assert own["molecular_support"] > 0.8 and other["molecular_support"] == 0.0
    assert masks_for_boxes(study, NoCache(), 1, "WT1", np.zeros((0, 4))) == []


def test_without_a_signed_threshold_there_is_no_evidence(tmp_path: Path) -> None:
    study = small_study(tmp_path / "unsigned", slides=1, signed=False)
    assert marker_evidence(study, 1, "WT1") is None
    (answer,) = masks_for_boxes(study, NoCache(), 1, "WT1", np.array([box_of(PODOCYTES[0])]))
    assert "molecular_support" not in answer and answer["mask"]["size"] == [512, 512]


def test_the_queue_gives_open_patches_first_and_none_when_all_are_submitted(study: Study) -> None:
    one, two = assignments_of(study)
    assert next_assignment(study, PERSON)["id"] == one["id"]
    log = ActLog("tab", "test")
    record_acts(study, two["id"], PERSON, [log.act("load", 0.0)])
    assert next_assignment(study, PERSON)["id"] == two["id"]
    for row in (one, two):
        nothing = log.act("submit", 1.0, classes={"1": "nothing_here", "2": "nothing_here"})
        record_acts(study, row["id"], PERSON, [nothing])
    assert next_assignment(study, PERSON) is None
    assert next_assignment(study, LEAD) is None
