"""What the canvas component reports, in px of the patch, and what changed since it was last told.

The component keeps no names for its objects: a box is recognised by where it is. So that a report
can be matched to what the canvas showed when it was made, every drawing sent to it carries its
revision as the label of a box far outside the pane.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from webapp.surfaces.scene import BoxDrawn, BoxMoved, BoxRemoved, Clicked, Gesture, Window

MARK = "revision "
MARK_LEFT_PX = -10_000.0
CLICK_PX = 4.0  # on the screen: a shorter drag in both directions is a click
SAME_PX = 0.6  # on the screen: the component rounds
ORIGIN = {"left": 0.0, "top": 0.0, "center": 0.5, "right": 1.0, "bottom": 1.0}


@dataclass(frozen=True)
class NamedBox:
    """A box on the canvas (xyxy, px of the patch) and whose it is."""

    object_id: str
    box: tuple[float, ...]


@dataclass
class Report:
    """One message of the canvas. Boxes in px of the pane, lines and polygons too."""

    revision: str | None = None
    boxes: list[np.ndarray] = field(default_factory=list)
    lines: list[np.ndarray] = field(default_factory=list)
    polygons: list[np.ndarray] = field(default_factory=list)


def read_report(raw: Mapping[str, Any] | None) -> Report:
    """The drawing the component sent; objects of a kind that is not drawn here are left out."""
    report = Report()
    for item in (raw or {}).get("objects", []):
        kind = item.get("type")
        if kind == "LabeledRect" and str(item.get("label", "")).startswith(MARK):
            report.revision = item["label"].removeprefix(MARK)
        elif kind in ("LabeledRect", "Rect", "rect"):
            report.boxes.append(_box(item))
        elif kind in ("Path", "path"):
            line = _path_points(item.get("path", []))
            if len(line):
                report.lines.append(line)
        elif kind in ("Polygon", "polygon"):
            report.polygons.append(_polygon_points(item))
    return report


def revision_mark(revision: str) -> dict[str, Any]:
    """A box nobody sees whose label comes back with every report."""
    return {
        **_rectangle(np.array([MARK_LEFT_PX, MARK_LEFT_PX, MARK_LEFT_PX + 10, MARK_LEFT_PX + 10])),
        "label": MARK + revision,
        "stroke": "rgba(0,0,0,0)",
        "strokeWidth": 1,
    }


def canvas_box(box: np.ndarray, colour: str) -> dict[str, Any]:
    """A box (xyxy, px of the pane) as an object of the canvas."""
    return {**_rectangle(box), "label": "", "stroke": colour, "strokeWidth": STROKE_PX}


def canvas_polygon(points: np.ndarray, colour: str) -> dict[str, Any]:
    """An outline (n, 2) in px of the pane whose points can be moved."""
    return {
        "type": "Polygon",
        "points": [{"x": round(float(x), 2), "y": round(float(y), 2)} for x, y in points],
        "fill": "rgba(255,255,255,0.12)",
        "stroke": colour,
        "strokeWidth": STROKE_PX,
        "strokeUniform": True,
        "strokeLineJoin": "round",
    }


STROKE_PX = 1.5


@dataclass(frozen=True)
class Change:
    """A gesture, and the box as the canvas now shows it: it may reach beyond the patch."""

    gesture: Gesture
    shown: tuple[float, ...] | None = None


def changes(
    known: Sequence[NamedBox], report: Report, window: Window, size_hw: tuple[int, int]
) -> tuple[list[Change], list[NamedBox]]:
    """What the person did to the boxes since the canvas showed `known`, and those that are as they were.

    First boxes that are where they were; then of those left, each old box goes with the new one it
    overlaps most or that has its size (moved, resized); what is left over was deleted or drawn.
    """
    left, still, fresh = list(known), [], []
    for box in report.boxes:
        same = next((old for old in left if np.abs(window.box_to_pane(old.box) - box).max() < SAME_PX), None)
        if same is None:
            fresh.append(box)
        else:
            left.remove(same)
            still.append(same)
    found: list[Change] = []
    for old in left:
        place = _moved_to(window.box_to_pane(old.box), fresh)
        shown = None if place is None else _numbers(window.box_to_patch(fresh.pop(place)))
        inside = None if shown is None else _inside(shown, size_hw)
        if inside is None:
            found.append(Change(BoxRemoved(old.object_id)))
        else:
            found.append(Change(BoxMoved(old.object_id, inside), shown))
    for box in fresh:
        shown = _numbers(window.box_to_patch(box))
        if max(box[2] - box[0], box[3] - box[1]) <= CLICK_PX:
            found.append(Change(Clicked((shown[0] + shown[2]) / 2, (shown[1] + shown[3]) / 2)))
        elif inside := _inside(shown, size_hw):
            found.append(Change(BoxDrawn(inside), shown))
    return found, still


def _rectangle(box: np.ndarray) -> dict[str, Any]:
    x0, y0, x1, y1 = (round(float(v), 3) for v in box)
    return {
        "type": "LabeledRect",
        "left": x0,
        "top": y0,
        "width": x1 - x0,
        "height": y1 - y0,
        "originX": "left",
        "originY": "top",
        "fill": "rgba(0,0,0,0)",
        "strokeUniform": True,
        "lockRotation": True,
        "fontSize": 10,
    }


def _box(item: Mapping[str, Any]) -> np.ndarray:
    width = item.get("width", 0.0) * item.get("scaleX", 1.0)
    height = item.get("height", 0.0) * item.get("scaleY", 1.0)
    left = item.get("left", 0.0) - ORIGIN[item.get("originX", "left")] * width
    top = item.get("top", 0.0) - ORIGIN[item.get("originY", "top")] * height
    return np.array([left, top, left + width, top + height], float)


def _path_points(path: Sequence[Sequence[Any]]) -> np.ndarray:
    """The corners of a free-hand path; of a curve its end, of a quadratic one also its control point."""
    points = [
        command[1 + i : 3 + i]
        for command in path
        for i in range(0, len(command) - 1, 2)
        if isinstance(command[0], str) and command[0].upper() in "MLQC"
    ]
    return np.array(points, float).reshape(-1, 2)


def _polygon_points(item: Mapping[str, Any]) -> np.ndarray:
    """Corners where they are seen: the component keeps them relative to the polygon's middle."""
    points = np.array([[p["x"], p["y"]] for p in item.get("points", [])], float).reshape(-1, 2)
    if len(points) == 0:
        return points
    low, high = points.min(axis=0), points.max(axis=0)
    scale = np.array([item.get("scaleX", 1.0), item.get("scaleY", 1.0)])
    stroke = item.get("strokeWidth", 0.0) * (1.0 if item.get("strokeUniform") else scale)
    size = (high - low) * scale + stroke
    origin = np.array([ORIGIN[item.get("originX", "left")], ORIGIN[item.get("originY", "top")]])
    middle = np.array([item.get("left", 0.0), item.get("top", 0.0)]) + (0.5 - origin) * size
    angle = np.radians(item.get("angle", 0.0))
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return ((points - (low + high) / 2) * scale) @ turn.T + middle


def _moved_to(old: np.ndarray, fresh: Sequence[np.ndarray]) -> int | None:
    """Which of the new boxes an old one has become, if any."""
    best, best_iou = None, 0.05
    for place, box in enumerate(fresh):
        if (iou := _iou(old, box)) > best_iou:
            best, best_iou = place, iou
    if best is not None:
        return best
    size = old[2:] - old[:2]
    alike = [i for i, box in enumerate(fresh) if np.abs((box[2:] - box[:2]) - size).max() < SAME_PX]
    return alike[0] if alike else None


def _iou(one: np.ndarray, other: np.ndarray) -> float:
    overlap = np.minimum(one[2:], other[2:]) - np.maximum(one[:2], other[:2])
    shared = float(np.prod(np.clip(overlap, 0, None)))
    areas = float(np.prod(one[2:] - one[:2]) + np.prod(other[2:] - other[:2]))
    return shared / (areas - shared) if areas > shared else 0.0


def _numbers(box: np.ndarray) -> tuple[float, ...]:
    return tuple(round(float(v), 2) for v in box)


def _inside(box: Sequence[float], size_hw: tuple[int, int]) -> tuple[float, ...] | None:
    """The part of a box on the patch; None where that is thinner than 1 px."""
    height, width = size_hw
    x0, x1 = np.clip([box[0], box[2]], 0, width)
    y0, y1 = np.clip([box[1], box[3]], 0, height)
    if x1 - x0 < 1 or y1 - y0 < 1:
        return None
    return _numbers(np.array([x0, y0, x1, y1]))
