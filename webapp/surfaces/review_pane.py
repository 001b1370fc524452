"""The review pane: everybody's outlines on stain and marker, settled by keys; it talks to the review routes.

Streamlit carries only which patch is open, and is told when something has been decided.
"""

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import streamlit as st

HERE = Path(__file__).resolve().parent


@lru_cache(maxsize=1)
def _component() -> Any:
    """Registered once; Streamlit must be running by then."""
    return st.components.v2.component(
        "allinsam_review_pane",
        html='<div class="review-pane"></div>',
        css=(HERE / "review_pane.css").read_text("utf-8"),
        js=(HERE / "review_pane.js").read_text("utf-8"),
    )


def show(patch_id: int, turn: str, key: str, on_decided: Callable[[], None]) -> None:
    """Mount the pane on a patch.

    Args:
        turn: another one makes the pane ask anew, as when the review was finished or reopened.
    """
    _component()(
        data={"patch_id": patch_id, "turn": turn},
        key=key,
        default={"decided": None},
        on_decided_change=on_decided,
    )
