"""Gestures of a page that runs ahead of the server: applied once and in order, however often they are sent.

A page numbers its gestures from 1. A gesture becomes one or more acts, whose numbers follow from its own, so
that one sent again after a lost answer is known, and nothing about it has to be kept beside the acts.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from allinsam.acts import LARGEST_NUMBER
from allinsam.errors import AllinsamError, ConsentMissing, InputError, NotAllowedError, StorageError
from allinsam.masks import (
    clean_mask,
    decode_rle,
    fill_holes,
    largest_part,
    lasso_mask,
    polygons_to_mask,
    stroke_mask,
)
from allinsam.sam.embeddings import EmbeddingCache
from allinsam.store import Study
from allinsam.store import acts as act_store
from allinsam.workflow.annotating import ActLog
from allinsam.workflow.desk import Desk

SURFACE = "dual_pane"
# Act numbers of gesture n are n * 1000 + 1 and up.
ACTS_PER_GESTURE = 1000
MOST_POINTS = 20_000  # of one stroke
WIDEST_BRUSH_PX = 200.0
NEEDS_THE_PATCH = ("undo", "redo", "submit", "reopen")
OBSERVATIONS = ("load", "focus", "blur", "pause", "resume")


@dataclass(frozen=True)
class Gesture:
    """What a person did: its number in this page load, the page's own clock, and what belongs to its kind."""

    n: int
    kind: str
    at_ms: float
    data: Mapping[str, Any]

    @classmethod
    def from_json(cls, raw: Any) -> "Gesture":
        if not isinstance(raw, Mapping):
            raise InputError(f"A gesture is an object, not {type(raw).__name__}. Reload the page.")
        n, kind, at_ms = raw.get("n"), raw.get("kind"), raw.get("at_ms")
        if type(n) is not int or not 1 <= n < 2**40 or not isinstance(kind, str):
            raise InputError("A gesture needs a number n from 1 and a kind. Reload the page.")
        is_time = isinstance(at_ms, (int, float)) and not isinstance(at_ms, bool)
        if not is_time or not abs(at_ms) < LARGEST_NUMBER:
            raise InputError(f"Gesture {n} ({kind[:20]!r}) needs its time at_ms. Reload the page.")
        return cls(n, kind, float(at_ms), raw)


@dataclass(frozen=True)
class Taken:
    """acknowledged: the number up to which gestures are settled. refused: number -> why, for people."""

    desk: Desk
    acknowledged: int
    refused: dict[int, str]


def open_desk(
    study: Study,
    assignment_id: int,
    person_id: str,
    client: str,
    cache: EmbeddingCache | None = None,
    after_seq: int = 0,
) -> Desk:
    """A person's desk at one of their own patches."""
    desk = Desk(study, assignment_id, person_id, ActLog(client, SURFACE, after_seq), cache)
    if desk.assignment["person_id"] != person_id:
        raise NotAllowedError(f"Patch {assignment_id} is not in your queue. Open one of your own.")
    return desk


def take_gestures(
    study: Study,
    assignment_id: int,
    person_id: str,
    client: str,
    gestures: Sequence[Gesture],
    holds: bool = True,
) -> Taken:
    """Apply gestures in the order of their numbers; those already applied are skipped.

    One that cannot be applied is refused with its reason and the rest go on: the page has shown them already.
    When this returns, everything acknowledged is committed.

    Args:
        holds: False where another page works on the patch by now. What steps back or hands in is refused
            then: it would be done to that page's work.
    """
    with study.science.read() as db:
        if act_store.people_of_client(db, client) - {person_id}:
            raise NotAllowedError("This page load is somebody else's. Reload the page.")
        last = act_store.last_seq(db, client, assignment_id) // ACTS_PER_GESTURE
    desk = open_desk(study, assignment_id, person_id, client)
    acknowledged, refused = 0, {}
    for gesture in sorted(gestures, key=lambda gesture: gesture.n):
        acknowledged = gesture.n
        if gesture.n <= last:
            continue
        desk.log = ActLog(client, SURFACE, gesture.n * ACTS_PER_GESTURE)
        desk.clock_ms = lambda at_ms=gesture.at_ms: at_ms
        try:
            if gesture.kind in NEEDS_THE_PATCH and not holds:
                raise InputError("Another tab or window works on this patch by now: this was not done.")
            _apply(desk, gesture)
        except (ConsentMissing, StorageError):
            raise  # the text changed just now, or the disk is full: the browser has to keep what is left
        except AllinsamError as error:
            refused[gesture.n] = str(error)
    return Taken(desk, acknowledged, refused)


def _apply(desk: Desk, gesture: Gesture) -> None:
    if gesture.kind in OBSERVATIONS:
        desk.do(gesture.kind)
        return
    apply = GESTURES.get(gesture.kind)
    if apply is None:
        raise InputError(f"This page did something unknown ({gesture.kind[:40]!r}). Reload it.")
    try:
        apply(desk, gesture.data)
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise InputError(
            f"Gesture {gesture.n} ({gesture.kind}) is incomplete: {str(error)[:120]}. Reload the page."
        ) from error


# --- What each gesture does ----------------------------------------------------------------------


def _box(desk: Desk, data: Mapping[str, Any]) -> None:
    desk.draw_box(_text(data["object_id"]), int(data["class_id"]), _on_patch(desk, data["box"]))


def _move(desk: Desk, data: Mapping[str, Any]) -> None:
    desk.move_box(_text(data["object_id"]), _on_patch(desk, data["box"]))


def _class(desk: Desk, data: Mapping[str, Any]) -> None:
    desk.change_class(_text(data["object_id"]), int(data["class_id"]))


def _accept(desk: Desk, data: Mapping[str, Any]) -> None:
    ids = [_text(object_id) for object_id in data["object_ids"]]
    if len(ids) >= ACTS_PER_GESTURE:
        raise InputError(f"{len(ids)} nuclei are too many at once. Keep them in smaller groups.")
    desk.accept(ids)


def _reject(desk: Desk, data: Mapping[str, Any]) -> None:
    desk.reject(_text(data["object_id"]))


def _delete(desk: Desk, data: Mapping[str, Any]) -> None:
    desk.delete([_text(data["object_id"])])


def _points(desk: Desk, data: Mapping[str, Any]) -> None:
    desk.point_at(_text(data["object_id"]), data["points"])


def _paint(desk: Desk, data: Mapping[str, Any]) -> None:
    """A stroke of brush or eraser on a nucleus, or with a new id and a class one painted from nothing."""
    object_id, width_px = _text(data["object_id"]), float(data["width_px"])
    if not 0 < width_px <= WIDEST_BRUSH_PX:
        raise InputError(
            f"A brush of {width_px:g} px cannot be used; choose one up to {WIDEST_BRUSH_PX:g} px."
        )
    stroke = stroke_mask(_line(data["points"]), width_px, desk.size_hw)
    before = _mask_of(desk, object_id)
    if before is None and data.get("erase"):
        raise InputError("There is nothing to erase here yet.")
    before = np.zeros(desk.size_hw, bool) if before is None else before
    if before.any() and not _touch(before, stroke):
        raise InputError(
            "The stroke does not touch the selected nucleus. Begin on it; or press Esc first, for a new one."
        )
    mask = before & ~stroke if data.get("erase") else before | stroke
    if object_id in desk.state.objects and np.array_equal(mask, before):
        return  # nothing was changed
    _set_outline(desk, object_id, data, clean_mask(mask, min_area_px=1), "brush")


def _outline(desk: Desk, data: Mapping[str, Any]) -> None:
    """An outline drawn by hand, of a new nucleus (with its class) or instead of a nucleus's own."""
    tool = str(data.get("tool", "polygon"))
    if tool not in ("lasso", "polygon"):
        raise InputError(f"Tool {tool[:20]!r} is unknown. Reload the page.")
    line = _line(data["points"])
    mask = lasso_mask(line, desk.size_hw) if tool == "lasso" else polygons_to_mask([line], desk.size_hw)
    _set_outline(desk, _text(data["object_id"]), data, clean_mask(mask, min_area_px=1), tool)


def _fill_holes(desk: Desk, data: Mapping[str, Any]) -> None:
    _tidy(desk, data, fill_holes, "fill holes")


def _drop_crumbs(desk: Desk, data: Mapping[str, Any]) -> None:
    _tidy(desk, data, largest_part, "drop crumbs")


def _tidy(desk: Desk, data: Mapping[str, Any], change: Callable[[np.ndarray], np.ndarray], tool: str) -> None:
    object_id = _text(data["object_id"])
    mask = _mask_of(desk, object_id)
    if mask is None:
        raise InputError("This nucleus has no outline yet.")
    changed = change(mask)
    if not np.array_equal(changed, mask):
        desk.set_outline(changed, tool, object_id)


def _say(desk: Desk, data: Mapping[str, Any]) -> None:
    kind = data["what"]
    if kind not in ("nothing_here", "unsure"):
        raise InputError(f"{str(kind)[:20]!r} cannot be said of a class. Reload the page.")
    desk.do(kind, class_id=int(data["class_id"]))


def _unsay(desk: Desk, data: Mapping[str, Any]) -> None:
    desk.clear_class_state(int(data["class_id"]))


def _skip(desk: Desk, data: Mapping[str, Any]) -> None:
    desk.do("skip", class_id=int(data["class_id"]), reason=str(data["reason"]))


def _comment(desk: Desk, data: Mapping[str, Any]) -> None:
    desk.do("comment", text=str(data["text"]))


# TABLE: what a page may send, beside the observations.
GESTURES: dict[str, Callable[[Desk, Mapping[str, Any]], object]] = {
    "box": _box,
    "move": _move,
    "class": _class,
    "accept": _accept,
    "reject": _reject,
    "delete": _delete,
    "points": _points,
    "paint": _paint,
    "outline": _outline,
    "fill_holes": _fill_holes,
    "drop_crumbs": _drop_crumbs,
    "undo": lambda desk, data: desk.undo(),
    "redo": lambda desk, data: desk.redo(),
    "say": _say,
    "unsay": _unsay,
    "skip": _skip,
    "comment": _comment,
    "submit": lambda desk, data: desk.submit(),
    "reopen": lambda desk, data: desk.reopen(),
}


# --- Parts ----------------------------------------------------------------------------------------


def _touch(mask: np.ndarray, stroke: np.ndarray) -> bool:
    """Whether a stroke meets a mask or lies right beside it."""
    return bool((cv2.dilate(mask.astype(np.uint8), np.ones((3, 3), np.uint8)) & stroke).any())


def _set_outline(desk: Desk, object_id: str, data: Mapping[str, Any], mask: np.ndarray, tool: str) -> None:
    if object_id in desk.state.objects:
        desk.set_outline(mask, tool, object_id)
    else:
        desk.set_outline(mask, tool, class_id=int(data["class_id"]), new_id=object_id)


def _mask_of(desk: Desk, object_id: str) -> np.ndarray | None:
    thing = desk.state.objects.get(object_id)
    return None if thing is None or thing.mask is None else decode_rle(thing.mask.as_rle())


def _on_patch(desk: Desk, box: Sequence[float]) -> list[float]:
    """A box cut at the patch's border; what is wrong with it otherwise is said by the act's own rules."""
    x0, y0, x1, y1 = (float(value) for value in box)
    height, width = desk.size_hw
    return [max(x0, 0.0), max(y0, 0.0), min(x1, float(width)), min(y1, float(height))]


def _line(points: Any) -> np.ndarray:
    line = np.asarray(points, np.float32)
    is_line = line.ndim == 2 and line.shape[1] == 2 and 1 <= len(line) <= MOST_POINTS
    if not is_line or not np.isfinite(line).all():
        raise InputError(f"A line needs 1 to {MOST_POINTS} points [x, y]. Draw it again.")
    return line


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is no object's id")
    return value
