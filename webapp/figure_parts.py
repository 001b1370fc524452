"""Figures on a page, and how they leave it: each has a button that saves it as a picture, PNG or SVG.

The picture is made in the browser, of what is drawn there: nothing is installed on the server for it.
"""

from typing import Any

import plotly.graph_objects as go
import streamlit as st

from allinsam.store import Study
from webapp import charts
from webapp.export_routes import file_name
from webapp.page_parts import SIMULATED, is_simulated, page_head

FORMATS = {"png": "PNG", "svg": "SVG"}
FORMAT_KEY = "picture-format"
PRINT_SCALE = 3  # px of a PNG for each px on the screen: a column of 600 px is 15 cm at 300 dpi


def ask_format() -> str:
    """The one choice for all figures of all pages, kept while the person is signed in."""
    with st.container(horizontal=True, horizontal_alignment="right"):
        return st.segmented_control(
            "Save figures as",
            list(FORMATS),
            default="png",
            format_func=FORMATS.get,
            key=FORMAT_KEY,
            required=True,
            persist_state="session",
            help="Point at a figure and press the camera in its corner. PNG: a picture, three times as fine "
            "as the screen. SVG: lines and text, for print and for drawing programs.",
        )


def page_head_with_format(title: str, purpose: str) -> None:
    """The head of a page with figures, and at its right how they are saved."""
    left, right = st.columns([5, 1], vertical_alignment="bottom")
    with left:
        page_head(title, purpose)
    with right:
        ask_format()


def show_figure(
    study: Study,
    figure: go.Figure,
    key: str,
    place: st.delta_generator.DeltaGenerator | None = None,
    **options: Any,
) -> None:
    """`st.plotly_chart` with a camera in its corner when it is pointed at; `key` also names the file."""
    if is_simulated(study):
        figure = charts.with_note(figure, SIMULATED)  # a picture that leaves has no text beneath it
    options |= {"config": config_of(study, key), "key": key}
    (place or st).plotly_chart(figure, **options)


def config_of(study: Study, key: str) -> dict[str, Any]:
    """What Plotly is told: the camera alone, the format chosen, a name such as `demo_forest_2026-11-23`."""
    chosen = st.session_state.get(FORMAT_KEY) or "png"
    name = file_name(study, key, chosen).removesuffix(f".{chosen}")
    picture = {"format": chosen, "filename": name, "scale": PRINT_SCALE if chosen == "png" else 1}
    return {**charts.CONFIG, "toImageButtonOptions": picture}
