"""The expert's ten minutes in the browser: a module of our own that talks to the minutes routes."""

from functools import lru_cache
from pathlib import Path
from typing import Any

import streamlit as st

HERE = Path(__file__).resolve().parent


@lru_cache(maxsize=1)
def _component() -> Any:
    """Registered once; Streamlit must be running by then."""
    return st.components.v2.component(
        "allinsam_minutes",
        html='<div class="minutes"></div>',
        css=(HERE / "minutes.css").read_text("utf-8"),
        js=(HERE / "minutes.js").read_text("utf-8"),
    )


def show(pane_px: int, key: str) -> None:
    """Mount it; from then on it works without the page."""
    _component()(data={"pane_px": pane_px}, key=key)
