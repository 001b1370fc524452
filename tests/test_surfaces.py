"""From the canvas's reports to gestures: nothing drawn is lost, nothing is invented."""

from typing import Any

import numpy as np
import pytest

from allinsam.masks import lasso_mask, stroke_mask
from tests.studies import disc
from webapp.surfaces.drawing import (
    NamedBox,
    canvas_box,
    canvas_polygon,
    changes,
    read_report,
    revision_mark,
)
from webapp.surfaces.scene import (
    BoxDrawn,
    BoxMoved,
    BoxRemoved,
    Clicked,
    Gesture,
    Reshaped,
    Scene,
    Stroked,
    Thing,
    Window,
    window_at,
)
from webapp.surfaces.simple_canvas import Memory, take_report

SIZE = (512, 512)
WHOLE = Window(0, 0, 512, 560)


def raw_box(window: Window, box: tuple[float, ...]) -> dict[str, Any]:
    return canvas_box(window.box_to_pane(np.array(box)), "#ffffff")


def raw(*objects: dict[str, Any]) -> dict[str, Any]:
    return {"objects": list(objects)}


def gestures(
    known: list[NamedBox], *objects: dict[str, Any], window: Window = WHOLE, size: tuple = SIZE
) -> list[Gesture]:
    found, _ = changes(known, read_report(raw(*objects)), window, size)
    return [change.gesture for change in found]


A, B = NamedBox("a", (10.0, 10.0, 30.0, 30.0)), NamedBox("b", (100.0, 100.0, 120.0, 130.0))


# --- Windows ------------------------------------------------------------------------------------


def test_a_window_turns_points_there_and_back() -> None:
    window = Window(100, 50, 128, 640)
    assert window.to_pane(np.array([[100, 50], [228, 178]])).tolist() == [[0, 0], [640, 640]]
    points = np.array([[101.5, 60.25], [200.0, 170.0]])
    assert np.allclose(window.to_patch(window.to_pane(points)), points)


@pytest.mark.parametrize(
    ("zoom", "centre", "expected"),
    [
        (1, (0, 0), (0, 0, 512)),
        (2, (256, 256), (128, 128, 256)),
        (2, (0, 0), (0, 0, 256)),
        (4, (511, 300), (384, 236, 128)),
    ],
)
def test_a_zoomed_window_stays_on_the_patch(zoom: float, centre: tuple, expected: tuple) -> None:
    window = window_at(SIZE, 560, zoom, centre)
    assert (window.x0, window.y0, window.side_px) == expected


def test_a_patch_that_is_not_square_is_shown_whole() -> None:
    window = window_at((300, 500), 560, 1, (0, 0))
    assert (window.x0, window.y0, window.side_px) == (0, -100, 500)


# --- Changes ------------------------------------------------------------------------------------


def test_nothing_changed() -> None:
    assert gestures([A, B], raw_box(WHOLE, B.box), raw_box(WHOLE, A.box)) == []


def test_a_new_box_is_drawn_in_px_of_the_patch() -> None:
    window = Window(256, 128, 128, 512)
    (drawn,) = gestures([], raw_box(window, (300.0, 200.0, 310.0, 215.0)), window=window)
    assert drawn == BoxDrawn((300.0, 200.0, 310.0, 215.0))


def test_several_new_boxes_in_one_report_are_all_drawn() -> None:
    new = [(40.0 * i, 40.0 * i, 40.0 * i + 20, 40.0 * i + 20) for i in range(1, 6)]
    assert gestures([A], raw_box(WHOLE, A.box), *(raw_box(WHOLE, b) for b in new)) == [
        BoxDrawn(box) for box in new
    ]


def test_a_moved_and_a_resized_box_keep_their_names() -> None:
    moved, resized = (15.0, 12.0, 35.0, 32.0), (100.0, 100.0, 140.0, 130.0)
    assert gestures([A, B], raw_box(WHOLE, moved), raw_box(WHOLE, resized)) == [
        BoxMoved("a", moved),
        BoxMoved("b", resized),
    ]


def test_a_box_dragged_far_away_is_known_by_its_size() -> None:
    assert gestures([A, B], raw_box(WHOLE, B.box), raw_box(WHOLE, (300.0, 300.0, 320.0, 320.0))) == [
        BoxMoved("a", (300.0, 300.0, 320.0, 320.0))
    ]


def test_deleting_one_and_drawing_another_elsewhere_is_no_move() -> None:
    assert gestures([A, B], raw_box(WHOLE, B.box), raw_box(WHOLE, (300.0, 300.0, 311.0, 309.0))) == [
        BoxRemoved("a"),
        BoxDrawn((300.0, 300.0, 311.0, 309.0)),
    ]


def test_a_click_is_no_box() -> None:
    click = canvas_box(np.array([200.0, 200.0, 201.5, 201.5]), "#ffffff")
    (found,) = gestures([], click, window=Window(0, 0, 512, 512))
    assert found == Clicked(200.75, 200.75)


def test_a_box_is_clipped_to_the_patch_and_dropped_outside_it() -> None:
    assert gestures([], raw_box(WHOLE, (-8.0, 500.0, 12.0, 530.0))) == [BoxDrawn((0.0, 500.0, 12.0, 512.0))]
    assert gestures([], raw_box(WHOLE, (-30.0, 10.0, -2.0, 30.0))) == []


def test_scaled_and_centred_objects_are_read_where_they_are_seen() -> None:
    item = {"type": "LabeledRect", "left": 50, "top": 60, "width": 20, "height": 10, "scaleX": 2, "scaleY": 3}
    report = read_report(raw(item, {**item, "originX": "center", "originY": "center"}))
    assert report.boxes[0].tolist() == [50, 60, 90, 90]
    assert report.boxes[1].tolist() == [30, 45, 70, 75]


def test_an_unknown_object_is_left_out() -> None:
    report = read_report(raw({"type": "IText", "text": "endo"}, raw_box(WHOLE, A.box), revision_mark("r7")))
    assert len(report.boxes) == 1 and report.revision == "r7"
    assert read_report(None).boxes == []


# --- Strokes and outlines -----------------------------------------------------------------------


def test_a_stroke_covers_what_its_brush_passes() -> None:
    mask = stroke_mask(np.array([[10.0, 10.0], [20.0, 10.0]]), 4.0, (32, 32))
    rows, columns = np.nonzero(mask)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (8, 11, 8, 21)
    dot = stroke_mask(np.array([[16.0, 16.0]]), 6.0, (32, 32))
    assert abs(int(dot.sum()) - np.pi * 9) < 4


def test_a_lasso_takes_what_is_inside() -> None:
    ring = np.array([[4.0, 4.0], [12.0, 4.0], [12.0, 9.0], [4.0, 9.0]])
    mask = lasso_mask(ring, (16, 16))
    assert mask.sum() == 8 * 5 and mask[4:9, 4:12].all()
    assert not lasso_mask(ring[:2], (16, 16)).any()


def test_a_polygon_is_read_where_it_was_put() -> None:
    points = np.array([[10.0, 10.0], [40.0, 12.0], [30.0, 44.0]])
    item = canvas_polygon(points, "#ffffff")
    # What the component reports: the corner of the box round the polygon and its stroke.
    item |= {"left": 10 - item["strokeWidth"] / 2, "top": 10 - item["strokeWidth"] / 2}
    (read,) = read_report(raw(item)).polygons
    assert np.allclose(read, points)
    (shifted,) = read_report(raw({**item, "left": item["left"] + 7})).polygons
    assert np.allclose(shifted, points + (7, 0))


# --- What the canvas is given, and when ---------------------------------------------------------


def scene(*things: Thing, tool: str = "box", edited: str | None = None, window: Window = WHOLE) -> Scene:
    return Scene("k", window, SIZE, "/pas", "/marker", None, 0.0, things, tool, "#F0E442", edited=edited)


def thing(name: str, state: str = "proposed", box: tuple = A.box, rings: tuple = ()) -> Thing:
    return Thing(name, 1, "P", "#F0E442", state, box, rings)


class Taker:
    """Takes gestures and names what was drawn; `refuses` takes nothing."""

    def __init__(self, refuses: bool = False) -> None:
        self.taken: list[Gesture] = []
        self.refuses = refuses

    def __call__(self, gestures: list[Gesture]) -> list[str | None]:
        self.taken += gestures
        if self.refuses:
            return [None] * len(gestures)
        return [getattr(g, "object_id", f"new{i}") for i, g in enumerate(gestures)]


def report_of(memory: Memory, *boxes: tuple, revision: str | None = None) -> dict[str, Any]:
    """What the browser sends while it shows these boxes on a drawing (the newest if none is named)."""
    name = revision or memory.newest
    window = memory.revisions[name].window
    return raw(*(raw_box(window, box) for box in boxes), revision_mark(name))


def opened(*things: Thing, **more: Any) -> Memory:
    memory = Memory()
    assert memory.needs_reload(scene(*things, **more))
    memory.reload(scene(*things, **more))
    return memory


def test_the_echo_of_a_new_drawing_is_no_gesture() -> None:
    memory, taker = opened(thing("a")), Taker()
    take_report(memory, report_of(memory, A.box), SIZE, taker)
    assert taker.taken == [] and not memory.needs_reload(scene(thing("a")))


def test_drawing_on_does_not_reload_the_canvas() -> None:
    memory, taker = opened(), Taker()
    take_report(memory, report_of(memory, A.box), SIZE, taker)
    assert taker.taken == [BoxDrawn(A.box)]
    assert not memory.needs_reload(scene(thing("new0")))
    # Nor does keeping or dropping it: the next box may be half drawn by then.
    assert not memory.needs_reload(scene(thing("new0", "accepted")))
    assert not memory.needs_reload(scene(thing("new0", "rejected")))
    take_report(memory, report_of(memory, A.box, B.box), SIZE, taker)
    assert taker.taken == [BoxDrawn(A.box), BoxDrawn(B.box)]


def test_a_box_that_was_taken_back_reloads_the_canvas() -> None:
    memory = opened()
    take_report(memory, report_of(memory, A.box), SIZE, Taker())
    assert memory.needs_reload(scene())


def test_a_refused_box_is_taken_off_the_canvas() -> None:
    memory = opened()
    take_report(memory, report_of(memory, A.box), SIZE, Taker(refuses=True))
    assert memory.needs_reload(scene())


def test_a_clipped_box_is_shown_as_it_was_kept() -> None:
    memory, taker = opened(), Taker()
    take_report(memory, report_of(memory, (-8.0, 10.0, 20.0, 30.0)), SIZE, taker)
    assert taker.taken == [BoxDrawn((0.0, 10.0, 20.0, 30.0))]
    assert memory.needs_reload(scene(thing("new0", box=(0.0, 10.0, 20.0, 30.0))))


def test_a_late_report_on_an_older_drawing_loses_nothing_and_invents_nothing() -> None:
    memory, taker = opened(thing("a")), Taker()
    older = memory.newest
    memory.reload(scene(thing("b", box=B.box)))  # a was taken back, b came
    drawn = (300.0, 300.0, 330.0, 330.0)
    take_report(memory, report_of(memory, A.box, drawn, revision=older), SIZE, taker)
    # b is not in the report and is not deleted; a is and is not drawn again; the new box is kept.
    assert taker.taken == [BoxDrawn(drawn)]
    take_report(memory, report_of(memory, A.box, drawn, revision=older), SIZE, taker)
    assert taker.taken == [BoxDrawn(drawn)]
    assert memory.needs_reload(scene(thing("b", box=B.box), thing("new0", box=drawn)))


def test_a_report_on_an_older_window_is_read_in_that_window() -> None:
    memory, taker = opened(), Taker()
    older = memory.newest
    memory.reload(scene(window=Window(100, 100, 128, 560)))
    take_report(memory, report_of(memory, A.box, revision=older), SIZE, taker)
    assert taker.taken == [BoxDrawn(A.box)]


def test_a_report_on_an_unknown_drawing_reloads_the_canvas() -> None:
    memory, taker = opened(thing("a")), Taker()
    take_report(memory, raw(revision_mark("of another day")), SIZE, taker)
    assert taker.taken == [] and memory.needs_reload(scene(thing("a")))


def test_deleting_on_the_canvas_deletes() -> None:
    memory, taker = opened(thing("a"), thing("b", box=B.box)), Taker()
    take_report(memory, report_of(memory, B.box), SIZE, taker)
    assert taker.taken == [BoxRemoved("a")]
    assert not memory.needs_reload(scene(thing("b", box=B.box)))


def test_a_click_selects_and_leaves_no_box() -> None:
    memory, taker = opened(thing("a")), Taker()
    take_report(memory, report_of(memory, A.box, (20.0, 20.0, 21.0, 21.0)), SIZE, taker)
    assert taker.taken == [Clicked(20.5, 20.5)]
    assert memory.needs_reload(scene(thing("a")))


def test_a_stroke_is_taken_once_and_wiped() -> None:
    window = Window(0, 0, 64, 640)
    at = {"tool": "add", "edited": "a", "window": window}
    memory, taker = opened(thing("a"), **at), Taker()
    path = [["M", 100, 100], ["Q", 150, 100, 200, 100], ["L", 200, 200]]
    stroke = raw({"type": "Path", "path": path}, revision_mark(memory.newest))
    take_report(memory, stroke, SIZE, taker)
    (found,) = taker.taken
    assert isinstance(found, Stroked)
    assert found.points.tolist() == [[10, 10], [15, 10], [20, 10], [20, 20]]
    assert memory.needs_reload(scene(thing("a"), **at))
    memory.reload(scene(thing("a"), **at))
    take_report(memory, {**stroke}, SIZE, taker)
    assert len(taker.taken) == 1


def test_moved_handles_keep_the_handles_but_an_undo_brings_new_ones() -> None:
    ring = np.array([[10.0, 10.0], [30.0, 10.0], [30.0, 30.0], [10.0, 30.0]], np.float32)
    window = Window(0, 0, 64, 640)
    at = {"tool": "points", "edited": "a", "window": window}
    memory, taker = opened(thing("a", rings=(ring,)), **at), Taker()
    points = window.to_pane(ring)
    item = canvas_polygon(points, "#ffffff")
    edge = item["strokeWidth"] / 2
    item |= {"left": points[:, 0].min() - edge, "top": points[:, 1].min() - edge}
    take_report(memory, raw(item, revision_mark(memory.newest)), SIZE, taker)
    assert taker.taken == []
    moved = {**item, "points": [{"x": 60, "y": 60}, *item["points"][1:]]}
    moved |= {"left": 60 - edge, "top": 60 - edge}
    take_report(memory, raw(moved, revision_mark(memory.newest)), SIZE, taker)
    (found,) = taker.taken
    assert isinstance(found, Reshaped)
    assert np.allclose(found.polygon, [[6, 6], [30, 10], [30, 30], [10, 30]])
    edited = thing("a", rings=(found.polygon.astype(np.float32),))
    assert not memory.needs_reload(scene(edited, **at))
    assert memory.needs_reload(scene(thing("a", rings=(ring,)), **at))


def test_a_disc_drawn_by_lasso_is_that_disc() -> None:
    angles = np.linspace(0, 2 * np.pi, 90, endpoint=False)
    ring = np.column_stack([100 + 10 * np.cos(angles), 100 + 10 * np.sin(angles)])
    assert (lasso_mask(ring, SIZE) ^ disc((100, 100))).sum() <= 8
