"""The dual pane: stain and marker in step, drawn on by a module of our own that talks to the desk routes.

Streamlit carries only which patch is open. Nothing is fetched from elsewhere and nothing is built.
"""

import json
from collections.abc import Callable
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


def show(
    assignment_id: int,
    study_key: str,
    key: str,
    on_patch: Callable[[int | None], None],
    simulated: bool,
) -> None:
    """Mount the surface on a patch.

    Args:
        study_key: tells studies apart in what the browser keeps; one address may serve one after another.
        on_patch: told the patch that the person has gone to, before the page runs again: a page that
            mounted the surface with the old one would call it back.
        simulated: the help shows simulated pictures; else cards from the study's own gold.
    """
    examples = [
        {"name": name, "good": row.good, "needs_marker": row.needs_marker}
        for name, row in EXAMPLES.items()
        if simulated
    ]
    told = (st.session_state.get(key) or {}).get("patch") or {}
    _component()(
        data={
            "assignment_id": assignment_id,
            "turn": told.get("turn", 0),
            "study": study_key,
            "strings": STRINGS,
            "examples": examples,
        },
        key=key,
        default={"patch": None},
        on_patch_change=lambda: on_patch(((st.session_state.get(key) or {}).get("patch") or {}).get("patch")),
    )
