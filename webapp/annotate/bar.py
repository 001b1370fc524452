"""Above the panes: which class is drawn, undo, zoom, and how the panes look."""

import html
from collections.abc import Callable
from typing import Any
from urllib.parse import urlencode

import streamlit as st

from allinsam.records import SHOWN_TO
from allinsam.workflow.desk import Desk
from webapp.annotate import bench as benches
from webapp.annotate import guidance, look
from webapp.annotate.bench import Bench, ViewSettings
from webapp.page_parts import as_typed
from webapp.views import TINTS

PANE_SIZES = {"Small": 480, "Medium": 560, "Large": 720, "Extra large": 900}
ZOOMS = (1, 2, 3, 4)
ARROWS = {"Left": (-1, 0), "Right": (1, 0), "Up": (0, -1), "Down": (0, 1)}


def view_settings() -> ViewSettings:
    """As chosen in this sign-in; the widgets are drawn elsewhere in the page."""
    chosen = st.session_state
    return ViewSettings(
        pane_px=PANE_SIZES[chosen.get("view_size") or "Medium"],
        outline_opacity=chosen.get("view_outline", 80) / 100,
        contrast=chosen.get("view_contrast", 1.0),
        tint=chosen.get("view_tint") or "grey",
    )


def show(bench: Bench, desk: Desk, mine: list[dict[str, Any]], go_to: Callable[[int | None], None]) -> None:
    with st.container(key="bar", horizontal=True, vertical_alignment="center", gap="small"):
        _classes(bench, desk)
        _undo(bench, desk)
        _zoom(bench, desk)
        st.space("stretch")
        look.patch_chooser(mine, desk.assignment_id, go_to)
        view_popover()
        guidance.help_popover(desk.study, desk.assignment)


def _classes(bench: Bench, desk: Desk) -> None:
    style, letter = [], benches.letters(desk)
    for class_id, row in desk.classes.items():
        key, chosen = f"class_{class_id}", class_id == bench.class_id
        look = f"box-shadow: inset 0 0 0 2px {row['colour']}, 0 0 0 1px #101018;" if chosen else ""
        style.append(
            f".st-key-{key} button {{ border-left: 1.1rem solid {row['colour']}; {look} "
            f"font-weight: {650 if chosen else 400}; }}"
        )
        st.button(
            f"{letter[class_id]} · {as_typed(row['name'].capitalize())}",
            key=key,
            shortcut=row["key"],
            on_click=_choose_class,
            args=(bench, class_id),
            disabled=desk.state.submitted,
            help=f"Draw {as_typed(row['name'])} nuclei next, and show their marker.",
        )
    st.html(f"<style>{html.unescape(' '.join(style))}</style>")


def _choose_class(bench: Bench, class_id: int) -> None:
    bench.class_id, bench.trouble = class_id, None


def _undo(bench: Bench, desk: Desk) -> None:
    st.button(
        "Undo",
        key="undo",
        icon=":material/undo:",
        shortcut="Ctrl+Z",
        on_click=benches.step_back,
        args=(bench, desk, desk.undo),
        disabled=not desk.state.undo_stack or desk.state.submitted,
    )
    st.button(
        "Redo",
        key="redo",
        icon=":material/redo:",
        shortcut="Ctrl+Y",
        on_click=benches.step_back,
        args=(bench, desk, desk.redo),
        disabled=not desk.state.redo_stack or desk.state.submitted,
    )


def _zoom(bench: Bench, desk: Desk) -> None:
    st.session_state["zoom"] = bench.zoom
    st.segmented_control(
        "Zoom",
        ZOOMS,
        key="zoom",
        format_func=lambda zoom: "Whole" if zoom == 1 else f"{zoom}x",
        required=True,
        label_visibility="collapsed",
        on_change=lambda: benches.set_zoom(bench, desk, st.session_state["zoom"]),
        disabled=bench.tool in benches.EDIT_TOOLS and bench.edited is not None,
    )
    if bench.zoom > 1 and bench.edited is None:
        for name, (dx, dy) in ARROWS.items():
            # The button shows its key, which is the arrow.
            st.button(
                "",
                key=f"move_{name}",
                shortcut=name,
                on_click=benches.move_view,
                args=(bench, desk, dx, dy),
                help=f"Move the view ({name.lower()} arrow key)",
            )


def pane_titles(desk: Desk, bench: Bench, view: ViewSettings) -> None:
    """A line over each pane: what it shows, and the sliders of the marker."""
    row = desk.classes[benches.class_in_hand(bench, desk)]
    guidance = desk.assignment["guidance"]
    with st.container(key="titles", horizontal=True, gap="small", width="content", wrap=False):
        with st.container(width=view.pane_px):
            st.html(f'<span class="pane-title">Stained tissue: {DO[bench.tool]}</span>')
        if guidance not in SHOWN_TO["marker"]:
            return
        with st.container(horizontal=True, vertical_alignment="center", width=view.pane_px, gap="xsmall"):
            title = f"{html.escape(row['marker'])} marker: bright in {html.escape(row['name'])} nuclei"
            st.html(f'<span class="pane-title">{title}</span>', width="content")
            st.space("stretch")
            if guidance in SHOWN_TO["bright"]:
                _slider("Outline", "view_outline", 0, 100, 80, 10)
            _slider("Brightness", "view_contrast", 0.5, 4.0, 1.0, 0.25)


DO = {
    "box": "drag boxes here",
    "redraw": "drag the new box",
    "add": "paint",
    "erase": "erase",
    "lasso": "draw round the nucleus",
    "points": "move the points",
    "none": "only to look at",
}


def _slider(name: str, key: str, low: float, high: float, start: float, step: float) -> None:
    st.html(f'<span class="pane-note">{name}</span>', width="content")
    st.slider(
        f"{name} of the marker",
        low,
        high,
        value=start,
        step=step,
        key=key,
        label_visibility="collapsed",
        width=86,
        persist_state="session",
    )


def view_popover() -> None:
    with st.popover("", icon=":material/tune:", help="Size of the pictures, colour of the marker"):
        here = html.escape(urlencode({"surface": "dual_pane", "patch": st.query_params.get("patch", "")}))
        st.html(f'<a href="/annotate?{here}" target="_self">Use the dual pane</a>')
        st.segmented_control(
            "Size of the pictures",
            list(PANE_SIZES),
            default="Medium",
            required=True,
            key="view_size",
            persist_state="session",
        )
        st.caption("Medium suits a screen of 1366 px, Large one of 1700, Extra large one of 2100.")
        st.segmented_control(
            "Colour of the marker",
            list(TINTS),
            default="grey",
            required=True,
            key="view_tint",
            persist_state="session",
        )
