"""The annotation surface on streamlit-drawable-canvas: draw on the stained pane, see both.

The canvas is only where strokes come in. Outlines, tags and the marker's outline lie over it as one
transparent picture, so that they change without a reload of the canvas: a reload ends a drag and
takes back what the component has not sent yet. It is therefore reloaded only when the boxes it
shows are not those it should show.
"""

import html
import uuid
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import streamlit as st

from webapp import views
from webapp.surfaces.drawing import (
    SAME_PX,
    NamedBox,
    Report,
    canvas_box,
    canvas_polygon,
    changes,
    read_report,
    revision_mark,
)
from webapp.surfaces.scene import BoxDrawn, Clicked, Reshaped, Scene, Stroked, Take, Window

STROKE_TOOLS = ("add", "erase", "lasso")
BOX_TOOLS = ("box", "redraw", "none")
REVISIONS_KEPT = 12
BOX_ALPHA = "90"  # boxes stay fainter than outlines; hex


@dataclass
class Revision:
    """A drawing the canvas was given, what it meant, and the boxes known to be on it since."""

    window: Window
    tool: str
    edited: str | None
    drawing: dict[str, Any]
    boxes: list[NamedBox]
    polygon: np.ndarray | None  # px of the pane


@dataclass
class Memory:
    """What one canvas has been given and has reported."""

    revisions: OrderedDict[str, Revision] = field(default_factory=OrderedDict)
    dirty: bool = True  # the canvas shows something it should not, or was just opened
    outline: tuple[np.ndarray, ...] | None = None  # the edited outline the handles belong to
    adopt_outline: bool = False  # the handles were moved: the outline that comes of it is theirs

    @property
    def newest(self) -> str | None:
        return next(reversed(self.revisions), None)

    def reload(self, scene: Scene) -> None:
        """Give the canvas a new drawing."""
        name, boxes = uuid.uuid4().hex[:12], waiting_boxes(scene)
        drawing = _drawing(scene, boxes, name)
        polygon = _given_polygon(drawing)
        self.revisions[name] = Revision(scene.window, scene.tool, scene.edited, drawing, boxes, polygon)
        while len(self.revisions) > REVISIONS_KEPT:
            self.revisions.popitem(last=False)
        self.outline, self.adopt_outline, self.dirty = _edited_rings(scene), False, False

    def needs_reload(self, scene: Scene) -> bool:
        if self.dirty or self.newest is None:
            return True
        given = self.revisions[self.newest]
        if (given.window, given.tool, given.edited) != (scene.window, scene.tool, scene.edited):
            return True
        if scene.tool == "points" and not _same_rings(self.outline, _edited_rings(scene)):
            adopted, self.adopt_outline, self.outline = self.adopt_outline, False, _edited_rings(scene)
            return not adopted
        return scene.tool in BOX_TOOLS and not _shows_what_it_should(given.boxes, scene)


def _shows_what_it_should(shown: list[NamedBox], scene: Scene) -> bool:
    """Boxes of outlines that wait must be there; boxes of kept and dropped ones may still be, others not.

    Keeping or dropping must not reload the canvas: the next box is often being drawn by then.
    """
    waiting = {named.object_id: np.asarray(named.box) for named in waiting_boxes(scene)}
    settled = {thing.object_id for thing in scene.things if thing.state in ("accepted", "rejected")}
    near = SAME_PX / scene.window.scale
    for named in shown:
        if named.object_id in waiting:
            if np.abs(waiting.pop(named.object_id) - named.box).max() > near:
                return False
        elif named.object_id not in settled:
            return False
    return not waiting


def show(scene: Scene, take: Take) -> None:
    """Both panes side by side. `take` is called before the script runs again."""
    memory = memory_of(scene.key)
    if memory.needs_reload(scene):
        memory.reload(scene)
    _style(scene.window.pane_px)
    with st.container(key="surface", horizontal=True, gap="small", width="content", wrap=False):
        with st.container(key="pas_pane", width=scene.window.pane_px):
            _canvas(scene, memory, take)
            _over(scene, "pas_over")
        if scene.marker_url is not None:
            with st.container(key="marker_pane", width=scene.window.pane_px):
                size = scene.window.pane_px
                alt = "The marker's fluorescence at the same place"
                url = html.escape(scene.marker_url)
                st.html(f'<img class="under" src="{url}" width="{size}" height="{size}" alt="{alt}">')
                _over(scene, "marker_over", boxes=True)


def memory_of(key: str) -> Memory:
    return st.session_state.setdefault(f"canvas-memory-{key}", Memory())


def forget(key: str) -> None:
    """The page was opened anew: the browser's canvas starts from its drawing, not from where it was."""
    memory_of(key).dirty = True


def canvas_key(key: str) -> str:
    return f"canvas-{key}"


def take_report(memory: Memory, raw: dict[str, Any] | None, size_hw: tuple[int, int], take: Take) -> None:
    """Hand on what a report of the canvas says the person did.

    A report made on an older drawing counts only for what was drawn on it since: what it lacks was
    not taken away by the person, it came later.
    """
    report = read_report(raw)
    name = report.revision or memory.newest or ""
    given = memory.revisions.get(name)
    current = name == memory.newest
    if given is None:
        memory.dirty = True
    elif given.tool in STROKE_TOOLS:
        memory.dirty = memory.dirty or bool(report.lines)
        if current and report.lines:
            take([Stroked(given.window.to_patch(line)) for line in report.lines])
    elif given.tool == "points":
        _take_handles(memory, given, report, current, take)
    else:
        found, still = changes(given.boxes, report, given.window, size_hw)
        if current:
            given.boxes = still
        else:
            found = [change for change in found if isinstance(change.gesture, BoxDrawn)]
        ids = take([change.gesture for change in found]) if found else []
        for change, object_id in zip(found, ids, strict=True):
            if change.shown is not None and object_id is not None:
                given.boxes.append(NamedBox(object_id, change.shown))
        refused = any(change.shown is not None and i is None for change, i in zip(found, ids, strict=True))
        clicked = any(isinstance(change.gesture, Clicked) for change in found)
        memory.dirty = memory.dirty or not current or refused or clicked


def _take_handles(memory: Memory, given: Revision, report: Report, current: bool, take: Take) -> None:
    if not report.polygons:
        memory.dirty = True
        return
    polygon, before = report.polygons[0], given.polygon
    unchanged = before is not None and before.shape == polygon.shape and np.abs(before - polygon).max() < 0.3
    if current and not unchanged:
        given.polygon, memory.adopt_outline = polygon, True
        take([Reshaped(given.window.to_patch(polygon))])


def waiting_boxes(scene: Scene) -> list[NamedBox]:
    """Boxes of nuclei that are neither kept nor dropped."""
    if scene.tool not in BOX_TOOLS:
        return []
    return [
        NamedBox(thing.object_id, tuple(thing.box))
        for thing in scene.things
        if thing.box is not None and thing.state == "proposed"
    ]


def _canvas(scene: Scene, memory: Memory, take: Take) -> None:
    # Importing the component needs a running Streamlit.
    from streamlit_drawable_canvas import st_canvas

    key = canvas_key(scene.key)

    def changed() -> None:
        state = st.session_state.get(key) or {}
        take_report(memory, (state.get("drawing") or {}).get("raw"), scene.size_hw, take)

    strokes = scene.tool in STROKE_TOOLS
    st_canvas(
        background_image=absolute(scene.pas_url),
        width=scene.window.pane_px,
        height=scene.window.pane_px,
        drawing_mode="freedraw" if strokes else "labeled_rect",
        stroke_color=_stroke_colour(scene),
        stroke_width=_stroke_width(scene),
        fill_color="rgba(0,0,0,0)",
        font_size=10,
        initial_drawing=memory.revisions[memory.newest or ""].drawing,
        disabled=scene.tool == "none",
        key=key,
        on_change=changed,
    )


def _over(scene: Scene, key: str, boxes: bool = False) -> None:
    """Everything that lies over a pane and takes no clicks."""
    size = scene.window.pane_px
    bright = ""
    if scene.bright_url is not None and scene.bright_opacity > 0:
        url, style = html.escape(scene.bright_url), f"opacity:{scene.bright_opacity:.2f}"
        bright = f'<img src="{url}" width="{size}" height="{size}" style="{style}" alt="">'
    # While handles are on the outline, a second outline under them would only be in the way.
    things = [t for t in scene.things if scene.tool != "points" or t.object_id != scene.edited or boxes]
    svg = views.overlay_svg(things, scene.window, scene.selected, boxes=boxes)
    with st.container(key=key):
        outlines = f'<img src="{views.data_url(svg)}" width="{size}" height="{size}" alt="">'
        st.html(f'<div class="over">{bright}{outlines}</div>')


def _drawing(scene: Scene, boxes: list[NamedBox], revision: str) -> dict[str, Any]:
    by_id = {thing.object_id: thing for thing in scene.things}
    objects: list[dict[str, Any]] = []
    for named in boxes:
        thing = by_id[named.object_id]
        colour = thing.colour + BOX_ALPHA
        objects.append(canvas_box(scene.window.box_to_pane(np.asarray(named.box)), colour))
    thing = scene.edited_thing
    if scene.tool == "points" and thing is not None and thing.rings:
        ring = max(thing.rings, key=len)
        objects.append(canvas_polygon(scene.window.to_pane(ring), thing.colour))
    return {"objects": [*objects, revision_mark(revision)]}


def _given_polygon(drawing: dict[str, Any]) -> np.ndarray | None:
    for item in drawing["objects"]:
        if item["type"] == "Polygon":
            return np.array([[point["x"], point["y"]] for point in item["points"]])
    return None


def _edited_rings(scene: Scene) -> tuple[np.ndarray, ...] | None:
    thing = scene.edited_thing
    return thing.rings if thing is not None else None


def _same_rings(one: tuple[np.ndarray, ...] | None, other: tuple[np.ndarray, ...] | None) -> bool:
    if one is None or other is None:
        return one is other
    return len(one) == len(other) and all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


def _stroke_colour(scene: Scene) -> str:
    if scene.tool == "erase":
        return "rgba(40,40,48,0.75)"
    return scene.colour + (BOX_ALPHA if scene.tool in BOX_TOOLS else "")


def _stroke_width(scene: Scene) -> int:
    if scene.tool in ("add", "erase"):
        return max(2, round(scene.brush_px * scene.window.scale))
    return 2


def absolute(url: str) -> str:
    """The component takes a path without a host for a file on the server."""
    parts = urlsplit(st.context.url or "http://localhost")
    return f"{parts.scheme}://{parts.netloc}{url}"


def _style(pane_px: int) -> None:
    st.html(
        f"""<style>
        .st-key-surface {{ position: relative; z-index: 5; overflow: visible; }}
        .st-key-pas_pane, .st-key-marker_pane {{ position: relative; height: {pane_px}px; gap: 0; }}
        .st-key-pas_over, .st-key-marker_over {{ position: absolute; top: 0; left: 0; width: {pane_px}px;
            height: {pane_px}px; pointer-events: none; z-index: 15; overflow: hidden; }}
        .over {{ position: relative; width: {pane_px}px; height: {pane_px}px; }}
        .over img {{ position: absolute; top: 0; left: 0; max-width: none; }}
        .under {{ display: block; max-width: none; background: #000; }}
        </style>"""
    )
