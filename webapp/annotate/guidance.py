"""What to do when nothing has been done yet, or nothing is left to do."""

import html
from typing import Any

import numpy as np
import streamlit as st

from allinsam.masks import decode_rle
from allinsam.prompts import mask_to_box
from allinsam.store import Study
from allinsam.store import acts as act_store
from allinsam.store import assignments as queue
from allinsam.workflow.annotating import read_patch
from webapp import views
from webapp.surfaces.scene import window_at

STEPS = (
    "<b>1.</b> Find a nucleus whose place is <b>bright</b> in the right picture.",
    "<b>2.</b> <b>Drag a box</b> round it in the left picture, touching its edge on all four sides.",
    "<b>3.</b> Look at the outline that appears: <b>keep</b> it (A), mend it, or drop it (X).",
)
STEPS_WITHOUT_MARKER = (
    "<b>1.</b> Find a nucleus of the chosen class.",
    "<b>2.</b> <b>Drag a box</b> round it, touching its edge on all four sides.",
    STEPS[2],
)
STEPS_BY_HAND = (STEPS[0], "<b>2.</b> <b>Draw round</b> it in one stroke in the left picture.", STEPS[2])
# Boxes to learn from: how far each side lies outside (+) or inside (-) the nucleus, as a share of its size.
EXAMPLES = {
    "✓ Good: touches the edge": (0.04, "#1b6b4a"),
    "✕ Too tight: cuts the nucleus": (-0.2, "#9c4312"),
    "✕ Too loose: much else inside": (0.55, "#9c4312"),
}
EXAMPLE_PX, EXAMPLE_LINE = 120, "#F0E442"


def first_steps(study: Study, person_id: str, assignment: dict[str, Any]) -> None:
    """Three sentences for who has never drawn here; gone for good after the first nucleus."""
    with study.science.read() as db:
        if act_store.has_acted(db, person_id) or st.session_state.get("steps_read"):
            return
    with st.container(key="first_steps", horizontal=True, vertical_alignment="center", gap="small"):
        steps = "".join(f"<span>{step}</span>" for step in steps_for(assignment))
        st.html(f'<div class="steps">{steps}</div>')
        st.button("Got it", key="steps_done", on_click=lambda: st.session_state.update(steps_read=True))


def steps_for(assignment: dict[str, Any]) -> tuple[str, ...]:
    if assignment["tool"] == "contour":
        return STEPS_BY_HAND
    return STEPS_WITHOUT_MARKER if assignment["guidance"] == "pas_only" else STEPS


def help_popover(study: Study, person_id: str, assignment: dict[str, Any]) -> None:
    with st.popover("Help", icon=":material/help:", width="content"):
        st.html("".join(f'<p class="step">{step}</p>' for step in steps_for(assignment)))
        st.html(
            '<p class="step">In doubt, press <b>Unsure</b>: a guess is worse than no answer. '
            "A dashed outline waits for your check, a full one is kept.</p>"
        )
        with st.expander("What a good box looks like", expanded=True):
            pictures = example_pictures(study, str(study.folder), person_id)
            if not pictures:
                st.caption("Pictures appear here once the first nuclei of this study are kept.")
            for place, (name, (_, colour)) in zip(st.columns(3), EXAMPLES.items(), strict=True):
                if pictures:
                    place.image(pictures[name], width=EXAMPLE_PX)
                    place.html(f'<span style="color:{colour};font-size:.85rem">{html.escape(name)}</span>')


@st.cache_data(max_entries=16, ttl=600, show_spinner=False)
def example_pictures(_study: Study, folder: str, person_id: str) -> dict[str, bytes]:
    """One kept nucleus of the study with three boxes; never from a patch this person will annotate."""
    with _study.science.read() as db:
        own = {row["patch_id"] for row in queue.list_assignments(db, person_id)}
        kept = [
            row
            for row in act_store.current_annotations(db)
            if row["patch_id"] not in own and row["mask_counts"] and row["origin"] != "imported"
        ]
    if not kept:
        return {}
    best = max(kept, key=lambda row: (row["group"] == "expert", row["predicted_iou"] or 0.0, -row["id"]))
    size_hw = (best["mask_height_px"], best["mask_width_px"])
    mask = decode_rle({"size": list(size_hw), "counts": best["mask_counts"]})
    return draw_examples(read_patch(_study, best["patch_id"]), mask)


def draw_examples(image: np.ndarray, mask: np.ndarray) -> dict[str, bytes]:
    """A nucleus cut out of its patch, once with each box."""
    box = mask_to_box(mask)
    size = box[2:] - box[:2]
    middle = (float(box[0] + box[2]) / 2, float(box[1] + box[3]) / 2)
    window = window_at(
        image.shape[:2], 2 * EXAMPLE_PX, max(image.shape[:2]) / (3.2 * float(size.max())), middle
    )
    pictures = {}
    for name, (share, _) in EXAMPLES.items():
        out = np.concatenate([-size * share, size * share])
        shown = window.box_to_pane(box + out).astype(np.float32)
        drawn = views.outlined(views.crop(image, window), [(shown, EXAMPLE_LINE)], scale=1, line_px=3)
        pictures[name] = views.png(drawn)
    return pictures


def nothing_waits(study: Study, person_id: str, role: str) -> None:
    """The queue is empty or done: say so, and what comes next."""
    with study.science.read() as db:
        mine = queue.list_assignments(db, person_id)
    if not mine:
        st.subheader("No patches wait for you")
        if role == "lead":
            st.write(
                "You have not put any patch in your own queue. Give patches to people on the People page."
            )
        else:
            st.write("The study lead gives out patches. Ask them for your first ones, then come back here.")
        return
    st.subheader(f"All {len(mine)} patches are handed in. Thank you!")
    st.write("Nothing is left to do. You can look at a patch again, and reopen it to change something.")
