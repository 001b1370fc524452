"""How the annotate page is laid out: two panes and a panel have to fit a screen of 1366 x 768."""

from collections.abc import Callable
from typing import Any

import streamlit as st

# Streamlit disables its buttons while the server is away, the canvas would go on taking boxes: nobody
# must draw what cannot be saved.
STYLE = """<style>
.stMainBlockContainer { padding: 4.1rem 1rem .5rem 1rem; }
.stMainBlockContainer > .stVerticalBlock { gap: .4rem; }
.st-key-bar button, .st-key-footer button, .st-key-panel button { min-height: 2.1rem; padding: .1rem .6rem; }
.stMain::before { box-shadow: none !important; }
.st-key-card_title button { min-height: 1.8rem; padding: 0 .35rem; min-width: 0; }
.st-key-card_title { flex-wrap: nowrap; }
.st-key-desk { align-items: flex-start; }
.st-key-panes { flex: none; gap: .15rem; }
.st-key-panel { min-width: 188px; max-width: 340px; gap: .3rem; }
.st-key-card { gap: .3rem; }
.st-key-titles .stSlider { padding: 0; margin: -.35rem 0 -.5rem 0; }
.st-key-titles [data-testid="stSliderTickBar"] { display: none; }
.st-key-titles [data-testid="stSliderThumbValue"] { display: none; }
.pane-title { font-weight: 600; white-space: nowrap; }
.pane-note { color: #4d6268; font-size: .85rem; white-space: nowrap; }
.saved { color: #1b6b4a; font-size: .9rem; }
.counts, .hint { color: #3c5157; font-size: .92rem; margin: 0; }
.ready { background: #e6f3ec; color: #1b5e41; border-radius: .3rem; padding: .25rem .5rem; font-size: .9rem; }
.card-title { font-size: .95rem; white-space: nowrap; }
.card-title i, .class-state i { display: inline-block; width: .95rem; height: .95rem; margin-right: .35rem;
    border-radius: .2rem; box-shadow: 0 0 0 1px #101018; vertical-align: -.12rem; font: 600 .75rem sans-serif;
    text-align: center; color: #101018; }
.class-state { white-space: nowrap; font-weight: 600; margin-left: .35rem; }
.doubt { background: #fff3d6; color: #5c3d00; border-radius: .3rem; padding: .25rem .5rem; font-size: .9rem; }
.loupe { display: flex; gap: 6px; }
.loupe span { position: relative; width: 90px; height: 90px; }
.loupe img { position: absolute; top: 0; left: 0; border-radius: .2rem; }
.st-key-things { max-height: 9.4rem; overflow-y: auto; }
.stApp:has(.st-key-submit button:disabled) .st-key-pas_pane { pointer-events: none; }
.stApp:has(.st-key-submit button:disabled) .st-key-pas_pane::after { position: absolute; inset: 0;
    content: "No connection to the server. All that is saved is safe. Drawing goes on when it is back.";
    z-index: 30; background: rgba(255, 255, 255, .82); padding: 30% 20%; font-weight: 600;
    text-align: center; }
.st-key-things .stButtonGroup button, .st-key-things button { min-height: 1.7rem; padding: 0 .45rem; }
.steps { display: flex; gap: 1.6rem; background: #e9f4f5; border-left: .3rem solid #0d6b7a;
    padding: .4rem .8rem; border-radius: .3rem; }
.step { margin: .2rem 0; max-width: 26rem; }
.examples { font-size: .85rem; }
.examples div { display: flex; flex-wrap: wrap; gap: .5rem .8rem; margin-bottom: .6rem; }
.examples figure { margin: 0; width: 200px; }
.examples:not(.stain-only) img { max-width: 100%; height: auto; }
.examples .card-figure { width: auto; }
.examples.stain-only figure { width: 110px; }
.examples.stain-only img { width: 110px; object-fit: cover; object-position: left; }
</style>"""


def style() -> None:
    st.html(STYLE)


def patch_chooser(mine: list[dict[str, Any]], now: int, go_to: Callable[[int | None], None]) -> None:
    """Which of one's patches is open; also the progress."""
    names = {row["id"]: _patch_name(row, place, len(mine)) for place, row in enumerate(mine, 1)}
    # A new chooser for every patch and every tick in its list: one that changes under the browser still
    # reports its old choice, and the page would jump back to the patch that was just handed in.
    done = sum(row["state"] == "submitted" for row in mine)
    key = f"patch_choice_{now}_{done}"

    def chosen() -> None:
        wanted = st.session_state.get(key)
        if wanted in names and wanted != now:
            go_to(wanted)

    st.selectbox(
        "Patch",
        list(names),
        index=list(names).index(now) if now in names else None,
        key=key,
        format_func=names.__getitem__,
        label_visibility="collapsed",
        width=215,
        on_change=chosen,
    )


def _patch_name(row: dict[str, Any], place: int, total: int) -> str:
    """By its place in the queue: a name of its own would tell a patch that is seen again."""
    done = {"submitted": "✓ ", "open": "", "waiting": ""}[row["state"]]
    return f"{done}Patch {place} of {total}"


def finished_list(mine: list[dict[str, Any]], go_to: Callable[[int | None], None]) -> None:
    """The patches that were handed in, each with the way back to it."""
    for place, row in enumerate(mine, 1):
        if row["state"] != "submitted":
            continue
        with st.container(horizontal=True, vertical_alignment="center"):
            st.button("Look again", key=f"again_{row['id']}", on_click=go_to, args=(row["id"],))
            st.html(f"Patch {place}", width="content")
