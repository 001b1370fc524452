"""What a browser is told of a desk: everything at first, then what has changed."""

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from threading import Lock
from typing import Any

import numpy as np

from allinsam.acts import ObjectState
from allinsam.records import SHOWN_TO
from allinsam.workflow.desk import Desk
from webapp.annotate import bench

# What so many page loads were last told is remembered; one that was forgotten is told everything again.
PAGES_REMEMBERED = 256


@dataclass(frozen=True)
class Told:
    """What one page load knows: how many acts that was, and each object with the number it is shown under."""

    n_acts: int
    objects: Mapping[str, tuple[ObjectState, int, tuple[str, ...]]]


class Telling:
    """Remembers what each page load was told, so that an answer holds only what is new."""

    def __init__(self) -> None:
        self._told: OrderedDict[tuple[int, str], Told] = OrderedDict()
        self._lock = Lock()

    def news(self, desk: Desk, client: str, knows_acts: int | None) -> dict[str, Any]:
        """The desk as JSON for one page load; `knows_acts` is the `n_acts` it was told last, if any."""
        key = (desk.assignment_id, client)
        now = numbered(desk)
        with self._lock:
            before = self._told.get(key)
            self._told[key] = Told(desk.n_acts, now)
            self._told.move_to_end(key)
            while len(self._told) > PAGES_REMEMBERED:
                self._told.popitem(last=False)
        known = before.objects if before is not None and before.n_acts == knows_acts else {}
        # Who works without the threshold is not told what it says.
        shows_support = desk.assignment["guidance"] in SHOWN_TO["bright"]
        changed = [object_id for object_id, seen in now.items() if known.get(object_id) != seen]
        return {
            "whole": not known,
            # What this news is about when it is not whole: a page that knows something else must ask anew.
            "since": before.n_acts if before is not None and known else None,
            "objects": [object_json(*now[object_id], shows_support) for object_id in changed],
            "removed": [object_id for object_id in known if object_id not in now],
            "waiting": [thing.object_id for thing in desk.state.waiting()],
            "class_states": {str(key): value for key, value in desk.state.class_states.items()},
            "can_undo": bool(desk.state.undo_stack),
            "can_redo": bool(desk.state.redo_stack),
            "submitted": desk.state.submitted,
            "open_points": [
                {"kind": point.kind, "class_id": point.class_id, "object_ids": list(point.object_ids)}
                for point in desk.open_points()
            ],
            "n_acts": desk.n_acts,
            "saved_at": desk.saved_at,
        }


def numbered(desk: Desk) -> dict[str, tuple[ObjectState, int, tuple[str, ...]]]:
    """Objects that are shown, each with its number on the patch and the doubts about it."""
    doubts = bench.doubts(desk)
    return {
        thing.object_id: (thing, number, tuple(doubts[thing.object_id]))
        for number, thing in enumerate(desk.state.objects.values(), 1)
        if thing.state != "deleted"
    }


def object_json(
    thing: ObjectState, number: int, doubts: tuple[str, ...], shows_support: bool
) -> dict[str, Any]:
    return {
        "id": thing.object_id,
        "number": number,
        "class_id": thing.class_id,
        "state": thing.state,
        "box": None if thing.box is None else [round(value, 2) for value in thing.box],
        "rings": [np.round(ring, 1).tolist() for ring in bench.rings_of(thing)],
        "origin": thing.origin,
        # Of an outline that was proposed nothing is told that could say whether it is right.
        "predicted_iou": None if thing.suggested else thing.predicted_iou,
        "support": thing.molecular_support if shows_support and not thing.suggested else None,
        "points": [list(point) for point in thing.points],
        "empty": thing.mask is not None and not bench.rings_of(thing),
        "doubts": list(doubts),
    }
