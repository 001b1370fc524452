"""The dual pane: stain and marker in step, drawn on by a module of our own that talks to the desk routes.

Streamlit carries only which patch is open. Nothing is fetched from elsewhere and nothing is built.
"""

import json
from functools import lru_cache
from pathlib import Path
from typing import Any

import streamlit as st

from webapp.guide_pictures import EXAMPLES

HERE = Path(__file__).resolve().parent
STRINGS = json.loads((HERE / "dual_pane.en.json").read_text("utf-8"))


@lru_cache(maxsize=1)
def _component() -> Any:
    """Registered once; Streamlit must be running by then."""
    return st.components.v2.component(
        "allinsam_dual_pane",
        html='<div class="dual-pane"></div>',
        css=(HERE / "dual_pane.css").read_text("utf-8"),
        js=(HERE / "dual_pane.js").read_text("utf-8"),
    )


def show(assignment_id: int, key: str) -> int | None:
    """Mount the surface on a patch; returns the patch the person has gone to, None at first."""
    examples = [
        {"name": name, "good": row.good, "needs_marker": row.needs_marker} for name, row in EXAMPLES.items()
    ]
    shown = _component()(
        data={"assignment_id": assignment_id, "strings": STRINGS, "examples": examples},
        key=key,
        default={"patch": None},
        on_patch_change=lambda: None,
    )
    return shown.get("patch") if shown else None
