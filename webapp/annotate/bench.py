"""Where one person is on one patch: the nucleus selected, the tool in hand, the part in view."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

import numpy as np

from allinsam.acts import ObjectState
from allinsam.errors import AllinsamError, StorageError, by_name
from allinsam.masks import (
    clean_mask,
    decode_rle,
    lasso_mask,
    mask_to_polygons,
    polygons_to_mask,
    stroke_mask,
)
from allinsam.records import SHOWN_TO, Mask
from allinsam.workflow.desk import Desk
from allinsam.workflow.nuclei_in_doubt import LOW_PREDICTED_IOU, LOW_SUPPORT
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
from webapp.views import smoothed

# Boxes that overlap more are taken for one nucleus drawn twice.
SAME_NUCLEUS_IOU = 0.7
# A nucleus so many times the usual side of at least so many others on the patch, or less, is told.
STRANGE_SIZE, ENOUGH_TO_COMPARE = 2.5, 5
FAR_OUTSIDE_PX = 3.0
# Editing enlarges the nucleus until its box fills this share of the pane.
EDIT_SHARE = 0.4
SMALLEST_EDIT_SIDE_PX = 40
# Of many patches with hundreds of nuclei each: every answer looks at all of its patch.
OUTLINES_REMEMBERED = 65_536
EDIT_TOOLS = ("add", "erase", "lasso", "points")


class Urls(Protocol):
    """A layer's address for a window of the patch, with the marker of a class (else of the one in hand)."""

    def __call__(self, layer: str, window: Window, class_id: int | None = None) -> str | None: ...


@dataclass
class Bench:
    """Survives reruns of the page, not its reload: what counts is in the study."""

    class_id: int
    centre: tuple[float, float]
    tool: str = "box"
    selected: str | None = None
    edited: str | None = None
    zoom: float = 1.0
    brush_px: float = 3.0
    trouble: str | None = None  # what went wrong last, until the next gesture


@dataclass(frozen=True)
class ViewSettings:
    pane_px: int = 560
    outline_opacity: float = 0.8
    contrast: float = 1.0
    tint: str = "grey"


def new_bench(desk: Desk) -> Bench:
    height, width = desk.size_hw
    bench = Bench(class_id=next(iter(desk.classes)), centre=(width / 2, height / 2), tool=idle_tool(desk))
    select_next_open(bench, desk)
    return bench


def idle_tool(desk: Desk) -> str:
    """What a stroke does when nothing is being edited."""
    if desk.state.submitted:
        return "none"
    return "lasso" if desk.assignment["tool"] == "contour" else "box"


def attempt(bench: Bench, what: Callable[..., object], *args: object, **kwargs: object) -> bool:
    """Do something at the desk; what it refuses is told to the person. True if it was done."""
    bench.trouble = None
    try:
        what(*args, **kwargs)
    except StorageError as error:
        bench.trouble = f"Not saved: {by_name(str(error))} Tell the study lead, and try again."
        return False
    except AllinsamError as error:
        bench.trouble = str(error)
        return False
    return True


def take(bench: Bench, desk: Desk, gestures: Iterable[Gesture]) -> list[str | None]:
    """Keep what gestures mean; for each the object it drew or moved, None if there is none."""
    ids: list[str | None] = []
    for gesture in gestures:
        done: list[str | None] = []
        attempt(bench, lambda g=gesture, d=done: d.append(_take_one(bench, desk, g)))
        ids.append(done[0] if done else None)
    return ids


def _take_one(bench: Bench, desk: Desk, gesture: Gesture) -> str | None:
    if isinstance(gesture, BoxDrawn):
        if bench.tool == "redraw" and bench.edited is not None:
            desk.move_box(bench.edited, gesture.box)
            bench.selected = bench.edited
            put_down(bench, desk)
            return None
        (bench.selected,) = desk.draw_boxes(bench.class_id, [gesture.box])
        return bench.selected
    if isinstance(gesture, BoxMoved):
        desk.move_box(gesture.object_id, gesture.box)
        bench.selected = gesture.object_id
        return gesture.object_id
    if isinstance(gesture, BoxRemoved):
        desk.delete([gesture.object_id])
        return gesture.object_id
    if isinstance(gesture, Clicked):
        bench.selected = thing_at(desk, gesture.x, gesture.y)
        return bench.selected
    return _take_outline(bench, desk, gesture)


def _take_outline(bench: Bench, desk: Desk, gesture: Stroked | Reshaped) -> str | None:
    old = _mask_array(desk.state.objects.get(bench.edited or ""))
    tool = bench.tool
    if isinstance(gesture, Reshaped):
        mask = polygons_to_mask([gesture.polygon], desk.size_hw)
    elif tool == "lasso":
        mask = lasso_mask(gesture.points, desk.size_hw)
    else:
        stroke = stroke_mask(gesture.points, bench.brush_px, desk.size_hw)
        before = np.zeros(desk.size_hw, bool) if old is None else old
        mask = before | stroke if tool == "add" else before & ~stroke
    name = {"add": "brush", "erase": "brush", "points": "polygon", "lasso": "lasso"}[tool]
    class_id = None if bench.edited else bench.class_id
    bench.selected = desk.set_outline(clean_mask(mask, min_area_px=1), name, bench.edited, class_id)
    return bench.selected


def put_down(bench: Bench, desk: Desk) -> None:
    """Back from redrawing or editing to drawing."""
    bench.tool, bench.edited = idle_tool(desk), None


def pick_up(bench: Bench, desk: Desk, tool: str) -> None:
    """Take a tool to the selected nucleus."""
    if bench.selected is not None:
        bench.tool, bench.edited = tool, bench.selected


def visible(desk: Desk) -> list[ObjectState]:
    return [thing for thing in desk.state.objects.values() if thing.state != "deleted"]


def tidy(bench: Bench, desk: Desk) -> None:
    """Let go of what an undo, another tab or a submit has taken away."""
    there = {thing.object_id for thing in visible(desk)}
    if bench.selected not in there:
        bench.selected = None
    if bench.edited not in there | {None} or bench.tool == "none" or desk.state.submitted:
        put_down(bench, desk)
    if bench.class_id not in desk.classes:
        bench.class_id = next(iter(desk.classes))


def step_selection(bench: Bench, desk: Desk, step: int) -> None:
    """Select the next (1) or the previous (-1) nucleus of the list, round and round."""
    ids = [thing.object_id for thing in sorted(visible(desk), key=lambda thing: thing.state != "proposed")]
    if ids:
        now = ids.index(bench.selected) if bench.selected in ids else (-1 if step > 0 else 0)
        bench.selected = ids[(now + step) % len(ids)]


def select_next_open(bench: Bench, desk: Desk) -> None:
    """After one was settled: the next nucleus to check, behind it or from the start."""
    things = visible(desk)
    ids = [thing.object_id for thing in things]
    start = ids.index(bench.selected) if bench.selected in ids else 0
    rest = things[start:] + things[:start]
    bench.selected = next((t.object_id for t in rest if t.state == "proposed"), bench.selected)


def step_back(bench: Bench, desk: Desk, what: Callable[[], bool]) -> None:
    """Undo or redo, and select what changed, so that one sees it."""
    before = dict(desk.state.objects)
    if not attempt(bench, what):
        return
    changed = [thing.object_id for thing in visible(desk) if before.get(thing.object_id) != thing]
    if len(changed) == 1:
        bench.selected = changed[0]


def thing_at(desk: Desk, x: float, y: float) -> str | None:
    """The smallest nucleus whose outline or box holds this point."""
    found = []
    for thing in visible(desk):
        for x0, y0, x1, y1 in [box for box in (thing.box, _bounds(rings_of(thing))) if box is not None]:
            if x0 - 2 <= x <= x1 + 2 and y0 - 2 <= y <= y1 + 2:
                found.append(((x1 - x0) * (y1 - y0), thing.object_id))
    return min(found)[1] if found else None


# --- What is seen -------------------------------------------------------------------------------


def letters(desk: Desk) -> dict[int, str]:
    """One letter per class: its first, or its key where two classes share that."""
    first = {class_id: row["name"][:1].upper() for class_id, row in desk.classes.items()}
    shared = len(set(first.values())) < len(first)
    return {i: row["key"].upper() for i, row in desk.classes.items()} if shared else first


def rings_of(thing: ObjectState) -> tuple[np.ndarray, ...]:
    """A mask's outlines without the stairs of its pixels."""
    return rings_of_mask(thing.mask) if thing.mask is not None else ()


@lru_cache(maxsize=OUTLINES_REMEMBERED)
def rings_of_mask(mask: Mask) -> tuple[np.ndarray, ...]:
    return tuple(smoothed(ring) for ring in mask_to_polygons(decode_rle(mask.as_rle())))


def _mask_array(thing: ObjectState | None) -> np.ndarray | None:
    return decode_rle(thing.mask.as_rle()) if thing is not None and thing.mask is not None else None


def doubts(desk: Desk) -> dict[str, list[str]]:
    """Why the mask of an object deserves a second look, in plain words; of every object that is shown."""
    shown = visible(desk)
    beside = _beside_others([thing for thing in shown if thing.state != "rejected"])
    told = desk.assignment["guidance"] in SHOWN_TO["bright"]
    return {thing.object_id: _doubts(thing, beside.get(thing.object_id, []), told) for thing in shown}


def _doubts(thing: ObjectState, beside_others: list[str], with_support: bool) -> list[str]:
    # What speaks for or against an outline that was proposed is the person's to find.
    if thing.mask is None or thing.suggested:
        return []
    if not rings_of(thing):
        return ["No nucleus was found in this box. Draw the box again, outline it by hand, or delete it."]
    found = list(beside_others)
    if thing.origin == "sam" and (thing.predicted_iou or 0.0) < LOW_PREDICTED_IOU:
        found.insert(0, "The outline is uncertain. Check it closely.")
    bounds = _mask_bounds(thing.mask)
    if thing.box is not None and bounds is not None and thing.origin != "drawn":
        before = max(thing.box[0] - bounds[0], thing.box[1] - bounds[1])
        beyond = max(bounds[2] - thing.box[2], bounds[3] - thing.box[3])
        if max(before, beyond) > FAR_OUTSIDE_PX:
            found.append("The outline reaches beyond its box.")
    if with_support and thing.molecular_support is not None and thing.molecular_support < LOW_SUPPORT:
        found.append(f"Marker bright in only {100 * thing.molecular_support:.0f} % of this nucleus. Keep it?")
    return found


def _beside_others(things: list[ObjectState]) -> dict[str, list[str]]:
    """What looks wrong with a nucleus beside the others: drawn twice, or of a strange size."""
    extents = {thing.object_id: extent(thing) for thing in things}
    ids = [object_id for object_id, box in extents.items() if box is not None]
    if not ids:
        return {}
    boxes = np.array([extents[object_id] for object_id in ids])
    twice = (_box_ious(boxes) > SAME_NUCLEUS_IOU).sum(axis=1) > 1  # the first is its own
    sides = (boxes[:, 2:] - boxes[:, :2]).max(axis=1)
    usual = np.median(sides)
    enough = len(sides) > ENOUGH_TO_COMPARE
    found: dict[str, list[str]] = {}
    for object_id, again, side in zip(ids, twice, sides, strict=True):
        told = found[object_id] = []
        if again:
            told.append("There is another outline in nearly the same place. Is this nucleus drawn twice?")
        if enough and not usual / STRANGE_SIZE < side < usual * STRANGE_SIZE:
            told.append(f"Much {'larger' if side > usual else 'smaller'} than the other nuclei here.")
    return found


def _box_ious(boxes: np.ndarray) -> np.ndarray:
    """Of every box (n, 4) with every other (n, n)."""
    low, high = boxes[:, None, :2], boxes[:, None, 2:]
    shared = np.minimum(high, boxes[None, :, 2:]) - np.maximum(low, boxes[None, :, :2])
    overlap = shared.clip(0).prod(axis=2)
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    return overlap / (areas[:, None] + areas[None, :] - overlap)


def things(desk: Desk) -> tuple[Thing, ...]:
    letter, doubtful = letters(desk), doubts(desk)
    return tuple(
        Thing(
            object_id=thing.object_id,
            number=number,
            letter=letter.get(thing.class_id, "?"),
            colour=desk.classes[thing.class_id]["colour"] if thing.class_id in desk.classes else "#ffffff",
            state=thing.state,
            box=thing.box,
            rings=rings_of(thing),
            doubtful=bool(doubtful[thing.object_id]),
        )
        for number, thing in enumerate(desk.state.objects.values(), 1)
        if thing.state != "deleted"
    )


def window_of(bench: Bench, desk: Desk, pane_px: int) -> Window:
    """The part of the patch in view: round the edited nucleus, or where the person has gone."""
    edited = desk.state.objects.get(bench.edited or "")
    if edited is None or bench.tool not in EDIT_TOOLS:
        return window_at(desk.size_hw, pane_px, bench.zoom, bench.centre)
    box = extent(edited)
    if box is None:
        return window_at(desk.size_hw, pane_px, bench.zoom, bench.centre)
    side = max(SMALLEST_EDIT_SIDE_PX, max(box[2] - box[0], box[3] - box[1]) / EDIT_SHARE)
    middle = ((box[0] + box[2]) / 2, (box[1] + box[3]) / 2)
    return window_at(desk.size_hw, pane_px, max(desk.size_hw) / side, middle)


def extent(thing: ObjectState) -> tuple[float, ...] | None:
    """The box round a nucleus, from its box as drawn: it must not jump while the outline is edited."""
    return thing.box or (_mask_bounds(thing.mask) if thing.mask is not None else None)


@lru_cache(maxsize=OUTLINES_REMEMBERED)
def _mask_bounds(mask: Mask) -> tuple[float, ...] | None:
    return _bounds(rings_of_mask(mask))


def _bounds(rings: tuple[np.ndarray, ...]) -> tuple[float, ...] | None:
    if not rings:
        return None
    points = np.concatenate(rings)
    return (*(float(v) for v in points.min(axis=0)), *(float(v) for v in points.max(axis=0)))


def move_view(bench: Bench, desk: Desk, dx: int, dy: int) -> None:
    """Half a pane to the right (dx = 1) or down (dy = 1)."""
    now = window_at(desk.size_hw, 100, bench.zoom, bench.centre)
    half = now.side_px / 2
    wished = (now.x0 + half * (1 + dx), now.y0 + half * (1 + dy))
    there = window_at(desk.size_hw, 100, bench.zoom, wished)
    bench.centre = (there.x0 + half, there.y0 + half)


def set_zoom(bench: Bench, desk: Desk, zoom: float) -> None:
    """Closer to the selected nucleus if there is one, else to what is in the middle."""
    selected = desk.state.objects.get(bench.selected or "")
    box = extent(selected) if selected is not None else None
    if box is not None and zoom > bench.zoom:
        bench.centre = ((box[0] + box[2]) / 2, (box[1] + box[3]) / 2)
    bench.zoom = zoom


def scene(
    bench: Bench,
    desk: Desk,
    view: ViewSettings,
    key: str,
    urls: Urls,
) -> Scene:
    """What the surface shows. `urls` gives a layer's address, None where this person may not see it."""
    window = window_of(bench, desk, view.pane_px)
    guidance = desk.assignment["guidance"]
    return Scene(
        key=key,
        window=window,
        size_hw=desk.size_hw,
        pas_url=urls("pas", window) or "",
        marker_url=urls("marker", window) if guidance in SHOWN_TO["marker"] else None,
        bright_url=urls("bright", window) if guidance in SHOWN_TO["bright"] else None,
        bright_opacity=view.outline_opacity,
        things=things(desk),
        tool=bench.tool,
        colour=desk.classes[class_in_hand(bench, desk)]["colour"],
        selected=bench.selected,
        edited=bench.edited,
        brush_px=bench.brush_px,
    )


def class_in_hand(bench: Bench, desk: Desk) -> int:
    """The class whose colour and marker are shown: of the nucleus being edited, else the chosen one."""
    edited = desk.state.objects.get(bench.edited or "")
    return edited.class_id if edited is not None and edited.class_id in desk.classes else bench.class_id
