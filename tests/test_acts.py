"""What acts add up to, without a database."""

from dataclasses import replace

import numpy as np
import pytest

from allinsam import acts
from allinsam.acts import Replay, replay, validate
from allinsam.errors import InputError
from allinsam.masks import encode_rle
from allinsam.records import Act
from tests.studies import PODOCYTES, box_of, disc

SIZE = (512, 512)
RLE = encode_rle(disc(PODOCYTES[0]))


def act(seq: int, kind: str, object_id: str | None = None, **payload: object) -> Act:
    return Act("tab", seq, kind, 1000.0 * seq, payload, object_id)


def shown(seq: int, answers: int, object_id: str = "a") -> Act:
    source = {"backbone": "compact", "weights_sha256": "0" * 64, "predicted_iou": 0.9}
    return act(seq, "mask_shown", object_id, mask=RLE, answers=["tab", answers], **source)


BOX = act(1, "box", "a", class_id=1, box=box_of(PODOCYTES[0]))


def test_box_mask_accept_make_one_row() -> None:
    state, rows = replay([BOX, shown(2, 1), act(3, "accept", "a")])
    assert [row.state for row in rows] == ["accepted"]
    assert state.objects["a"].mask.as_rle() == RLE
    assert state.objects["a"].first_box == tuple(box_of(PODOCYTES[0]))


def test_undoing_a_box_takes_its_mask_along_and_redo_brings_both_back() -> None:
    player = Replay([BOX, shown(2, 1)])
    player.apply(act(3, "undo", act=["tab", 1]))
    assert player.state.objects == {}
    player.apply(act(4, "redo", act=["tab", 1]))
    assert player.state.objects["a"].mask is not None
    assert player.state.undo_stack == (("tab", 1),)


def test_a_new_gesture_ends_redo() -> None:
    player = Replay([BOX, act(2, "undo", act=["tab", 1])])
    assert player.state.redo_stack == (("tab", 1),)
    player.apply(act(3, "box", "b", class_id=1, box=box_of(PODOCYTES[1])))
    assert player.state.redo_stack == ()


def test_undo_costs_the_acts_of_its_object_however_long_the_assignment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    boxes = [act(n, "box", f"object {n}", class_id=1, box=[0, 0, 9, 9]) for n in range(1, 401)]
    player = Replay([*boxes, act(401, "class", "object 7", class_id=2)])
    applied = []
    step = acts._object_after
    monkeypatch.setattr(acts, "_object_after", lambda thing, act: applied.append(act) or step(thing, act))
    player.apply(act(402, "undo", act=["tab", 401]))
    assert [earlier.seq for earlier in applied] == [7]
    assert player.state.objects["object 7"].class_id == 1 and len(player.state.objects) == 400


def test_a_mask_that_answers_an_older_box_comes_too_late() -> None:
    moved = act(2, "move", "a", box=box_of(PODOCYTES[1]))
    state, _ = replay([BOX, moved, shown(3, 1)])
    assert state.objects["a"].mask is None
    assert [thing.object_id for thing in state.waiting()] == ["a"]
    state, _ = replay([BOX, moved, shown(3, 1), shown(4, 2)])
    assert state.objects["a"].mask is not None


def test_moving_an_accepted_box_ends_its_row_until_it_is_accepted_again() -> None:
    kept = [BOX, shown(2, 1), act(3, "accept", "a"), act(4, "move", "a", box=box_of(PODOCYTES[1]))]
    _, rows = replay([*kept, shown(5, 4), act(6, "accept", "a")])
    assert [(row.act[1], row.state) for row in rows] == [(3, "accepted"), (4, "deleted"), (6, "accepted")]


def test_a_new_box_takes_nothing_here_back() -> None:
    state, _ = replay([act(1, "nothing_here", class_id=1), act(2, "nothing_here", class_id=2)])
    assert state.class_states == {1: "nothing_here", 2: "nothing_here"}
    state, _ = replay([act(1, "nothing_here", class_id=1), act(2, "box", "a", class_id=1, box=[0, 0, 9, 9])])
    assert state.class_states == {}


def suggested(seq: int, object_id: str = "a", **changed: object) -> Act:
    source = {"backbone": "compact", "weights_sha256": "0" * 64, "predicted_iou": 0.9}
    told = {"class_id": 1, "box": box_of(PODOCYTES[0]), "mask": RLE, **source, **changed}
    return act(seq, "suggest", object_id, **told)


def test_a_suggestion_is_a_proposed_object_that_nobody_drew() -> None:
    state, rows = replay([suggested(1)])
    thing = state.objects["a"]
    assert (thing.state, thing.suggested, thing.first_box, thing.answered) == ("proposed", True, None, True)
    assert rows == [] and state.undo_stack == () and state.waiting() == []
    state, rows = replay([suggested(1), act(2, "accept", "a"), act(3, "delete", "a")])
    assert [(row.state, row.thing.origin) for row in rows] == [("accepted", "sam"), ("deleted", "sam")]


def test_an_outline_of_ones_own_is_no_suggestion_any_more() -> None:
    drawn = act(2, "mask_edit", "a", mask=RLE)
    state, _ = replay([suggested(1), drawn])
    assert (state.objects["a"].suggested, state.objects["a"].origin) == (False, "edited")
    state, _ = replay([suggested(1), drawn, act(3, "undo", act=["tab", 2])])
    assert state.objects["a"].suggested and state.objects["a"].mask.as_rle() == RLE
    state, _ = replay([suggested(1), act(2, "class", "a", class_id=2)])
    assert state.objects["a"].suggested and state.objects["a"].class_id == 2


def test_nothing_is_suggested_twice_or_on_what_was_handed_in() -> None:
    with pytest.raises(InputError, match="exists already"):
        validate(suggested(2), replay([suggested(1)])[0], [1, 2], SIZE)
    done = replay([act(1, "submit", classes={"1": "nothing_here", "2": "nothing_here"})])[0]
    with pytest.raises(InputError, match="submitted"):
        validate(suggested(2), done, [1, 2], SIZE)
    with pytest.raises(InputError, match="neither accepted nor rejected"):
        submit = act(2, "submit", classes={"1": "complete", "2": "nothing_here"})
        validate(submit, replay([suggested(1)])[0], [1, 2], SIZE)


REFUSED = {
    "a suggestion of no class": suggested(1, class_id=9),
    "a suggestion of no model": suggested(1, backbone=None),
    "an empty suggestion": suggested(1, mask=encode_rle(np.zeros(SIZE, bool))),
    "a suggestion outside": suggested(1, box=[0.0, 0.0, 600.0, 9.0]),
    "outside": act(1, "box", "a", class_id=1, box=[500.0, 0.0, 513.0, 9.0]),
    "no area": act(1, "box", "a", class_id=1, box=[5.0, 0.0, 5.0, 9.0]),
    "not a number": act(1, "box", "a", class_id=1, box=[0.0, 0.0, float("nan"), 9.0]),
    "foreign class": act(1, "box", "a", class_id=3, box=[0.0, 0.0, 9.0, 9.0]),
    "no object": act(1, "accept", "a"),
    "no id": act(1, "box", None, class_id=1, box=[0.0, 0.0, 9.0, 9.0]),
    "mask of another size": act(1, "mask_edit", "a", class_id=1, mask={"size": [64, 64], "counts": "0"}),
    "skip without a reason": act(1, "skip", class_id=1),
    "empty comment": act(1, "comment", text="  "),
    "undo of nothing": act(1, "undo", act=["tab", 9]),
    "submit without a class": act(1, "submit", classes={"1": "complete"}),
    "submit in an unknown state": act(1, "submit", classes={"1": "complete", "2": "done"}),
    "seq 0": act(0, "load"),
    "a huge coordinate": act(1, "box", "a", class_id=1, box=[0, 0, 10**400, 9]),
    "a class that is a list": act(1, "box", "a", class_id=[1], box=[0, 0, 9, 9]),
    "a class that is true": act(1, "box", "a", class_id=True, box=[0, 0, 9, 9]),
    "an id that is no text": act(1, "box", 5, class_id=1, box=[0, 0, 9, 9]),  # type: ignore[arg-type]
    "damaged run lengths": act(1, "mask_edit", "a", class_id=1, mask={**RLE, "counts": RLE["counts"][:-2]}),
    "no run lengths": act(1, "mask_edit", "a", class_id=1, mask={**RLE, "counts": "P" * 40}),
    "a size that is a number": act(1, "mask_edit", "a", class_id=1, mask={**RLE, "size": 512}),
    "an unknown origin": act(1, "mask_edit", "a", class_id=1, mask=RLE, origin="sam"),
    "evidence that is text": act(1, "mask_edit", "a", class_id=1, mask=RLE, molecular_support="much"),
    "a mask of no model": act(1, "mask_shown", "a", mask=RLE, predicted_iou=0.9),
    "a mask of unknown quality": replace(shown(1, 1), payload={**shown(1, 1).payload, "predicted_iou": None}),
    "an answer to no act": replace(shown(1, 1), payload={**shown(1, 1).payload, "answers": [[]]}),
    "a text cut inside a character": act(1, "comment", text="a\ud83d"),
    "a payload of many megabytes": act(1, "load", note="x" * 6_000_000),
    "a submit of no class": act(1, "submit", classes={"x": "complete"}),
    "a submit with a class twice": act(
        1, "submit", classes={"1": "complete", " 1": "skipped", "2": "complete"}
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_cannot_be_kept_is_refused_by_name(what: str) -> None:
    with pytest.raises(InputError, match=rf"Act {REFUSED[what].seq} \({REFUSED[what].kind}\)"):
        validate(REFUSED[what], Replay().state, [1, 2], SIZE)


@pytest.mark.parametrize(
    "field",
    [
        {"seq": 2**63},
        {"seq": True},
        {"seq": "1"},
        {"client": "\ud800"},
        {"client_ms": 10**400},
        {"client_ms": None},
        {"kind": 5},
        {"surface": None},
        {"payload_version": "x"},
    ],
    ids=str,
)
def test_what_does_not_fit_a_column_is_refused_as_input(field: dict) -> None:
    with pytest.raises(InputError, match=r"Act .* needs"):
        validate(replace(BOX, **field), Replay().state, [1, 2], SIZE)


def test_an_empty_mask_is_not_accepted() -> None:
    empty = replace(shown(2, 1), payload={**shown(2, 1).payload, "mask": encode_rle(np.zeros(SIZE, bool))})
    with pytest.raises(InputError, match="empty"):
        validate(act(3, "accept", "a"), Replay([BOX, empty]).state, [1], SIZE)


def test_a_late_mask_changes_nothing_that_was_submitted() -> None:
    state = Replay(
        [BOX, shown(2, 1), act(3, "accept", "a"), act(4, "submit", classes={"1": "complete"})]
    ).state
    with pytest.raises(InputError, match="submitted"):
        validate(shown(5, 1), state, [1], SIZE)


def test_accept_needs_a_mask() -> None:
    with pytest.raises(InputError, match="no mask yet"):
        validate(act(2, "accept", "a"), Replay([BOX]).state, [1], SIZE)


def test_submit_waits_for_open_proposals() -> None:
    open_state = Replay([BOX, shown(2, 1)]).state
    with pytest.raises(InputError, match="1 proposed nuclei of class 1"):
        validate(act(3, "submit", classes={"1": "complete"}), open_state, [1], SIZE)
    # A class that is set aside may keep them.
    validate(act(3, "submit", classes={"1": "unsure"}), open_state, [1], SIZE)
    settled = Replay([BOX, shown(2, 1), act(3, "accept", "a")]).state
    validate(act(4, "submit", classes={"1": "complete"}), settled, [1], SIZE)
    with pytest.raises(InputError, match="nothing here"):
        validate(act(4, "submit", classes={"1": "nothing_here"}), settled, [1], SIZE)


def test_a_submitted_patch_only_takes_its_submit_back() -> None:
    kept = [BOX, shown(2, 1), act(3, "accept", "a"), act(4, "submit", classes={"1": "complete"})]
    state = Replay(kept).state
    assert state.submitted
    for refused in (act(5, "delete", "a"), act(5, "undo", act=["tab", 3])):
        with pytest.raises(InputError, match="submitted"):
            validate(refused, state, [1], SIZE)
    reopen = act(5, "undo", act=["tab", 4])
    validate(reopen, state, [1], SIZE)
    assert not Replay([*kept, reopen]).state.submitted


def test_an_answer_to_a_box_that_is_gone_changes_nothing() -> None:
    validate(shown(1, 1, "gone"), Replay().state, [1], SIZE)
    state, rows = replay([shown(1, 1, "gone")])
    assert state.objects == {} and rows == []


def test_an_edit_of_a_box_taken_back_changes_nothing():
    rle = {"size": [4, 4], "counts": "052"}
    acts = [
        Act("c", 1, "box", 1.0, {"class_id": 1, "box": [0, 0, 2, 2]}, "a"),
        Act("c", 2, "mask_edit", 2.0, {"mask": rle, "tool": "polygon"}, "a"),
        Act("c", 3, "undo", 3.0, {"act": ["c", 1]}),
    ]
    state, rows = replay(acts)
    assert state.objects == {} and rows == []


@pytest.mark.parametrize("kind", ["box", "class", "mask_edit"])
def test_a_nucleus_put_into_a_class_takes_back_that_there_is_none(kind):
    rle = {"size": [4, 4], "counts": "052"}
    into = {"class_id": 2, "box": [0, 0, 2, 2], "mask": rle, "tool": "polygon"}
    acts = [
        Act("c", 1, "box", 1.0, {"class_id": 1, "box": [0, 0, 2, 2]}, "a"),
        Act("c", 2, "nothing_here", 2.0, {"class_id": 2}),
        Act("c", 3, kind, 3.0, into, "a" if kind == "class" else "b"),
    ]
    assert replay(acts[:2])[0].class_states == {2: "nothing_here"}
    assert replay(acts)[0].class_states == {}
