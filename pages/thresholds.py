"""Thresholds: from which brightness on a marker counts, for every slide and marker, signed by a person."""

from typing import Any

import pandas as pd
import streamlit as st

from allinsam.accounts import SignedIn, demand
from allinsam.errors import AllinsamError
from allinsam.store import Study
from allinsam.workflow.preparing import sign_threshold
from webapp import charts
from webapp import threshold_parts as parts
from webapp.clock import local_date_time
from webapp.page_parts import empty_state, page_head, simulated_note
from webapp.session import current_study, require

PANE_PX = 430
STYLE = """<style>
.stMainBlockContainer { padding: 4.1rem 1.5rem .5rem 1.5rem; }
.stMainBlockContainer > .stVerticalBlock { gap: .5rem; }
.st-key-left { flex: none; gap: .45rem; }
.st-key-left .stAlertContainer { padding: .45rem .7rem; min-height: 0; }
</style>"""


def choose(everything: list[dict[str, Any]]) -> dict[str, Any]:
    """Which slide and marker, how many are signed, and the way to the next that is not."""
    unsigned = [place for place, pair in enumerate(everything) if pair["signed"] is None]
    state = st.session_state
    # Where it starts is kept: signing must not jump to the next by itself.
    now = min(state.setdefault("pair_at", unsigned[0] if unsigned else 0), len(everything) - 1)
    done = len(everything) - len(unsigned)
    # A new chooser for every tick in its list: an older one would report a name that is gone.
    key = f"pair_{now}_{done}"
    with st.container(horizontal=True, vertical_alignment="center"):
        st.selectbox(
            "Slide and marker",
            range(len(everything)),
            index=now,
            key=key,
            format_func=lambda place: parts.pair_name(everything[place]),
            on_change=lambda: state.update(pair_at=state.get(key, now)),
            label_visibility="collapsed",
            width=260,
        )
        later = [place for place in unsigned if place > now]
        following = (later or [place for place in unsigned if place != now] or [None])[0]
        st.button(
            "Next unsigned",
            key="next_unsigned",
            icon=":material/skip_next:",
            shortcut="N",
            disabled=following is None,
            on_click=lambda: state.update(pair_at=following),
        )
        st.progress(done / len(everything), text=f"{done} of {len(everything)} signed", width=220)
    return everything[now]


def value_in_hand(pair: dict[str, Any], found: dict[str, Any]) -> str:
    """Key of the session value that slider, number and buttons share."""
    key = f"threshold-{pair['slide_id']}-{pair['marker']}"
    start = pair["signed"]["value"] if pair["signed"] else found["methods"]["otsu"]
    st.session_state.setdefault(key, float(start))
    return key


def set_value(key: str, value: float) -> None:
    st.session_state[key] = float(value)


def controls(pair: dict[str, Any], found: dict[str, Any], key: str) -> None:
    """Histogram, slider, number, and the automatic starts."""
    state, signed = st.session_state, pair["signed"]
    figure = parts.histogram_figure(found, state[key], signed["value"] if signed else None)
    st.plotly_chart(figure, config=charts.CONFIG, key="histogram")
    state["slide_to"] = state["type_in"] = min(state[key], found["top"])
    with st.container(horizontal=True, vertical_alignment="bottom"):
        st.slider(
            "Bright means above",
            0.0,
            found["top"],
            step=1.0 if found["top"] < 4096 else 8.0,
            format="%g",
            key="slide_to",
            on_change=lambda: set_value(key, state["slide_to"]),
        )
        st.number_input(
            "Grey level",
            0.0,
            found["top"],
            step=1.0,
            format="%g",
            key="type_in",
            label_visibility="collapsed",
            on_change=lambda: set_value(key, state["type_in"]),
            width=120,
        )
    with st.container(horizontal=True, gap="xsmall"):
        for name, value in found["methods"].items():
            chosen = "primary" if value == state[key] else "secondary"
            label = f"{parts.METHOD_NAMES.get(name, name)} {value:.4g}"
            st.button(label, key=f"method_{name}", type=chosen, on_click=set_value, args=(key, value))
    st.caption(
        f"Bright at {state[key]:g}: {100 * parts.share_above(found, state[key]):.1f} % of the slide's area."
    )


def sign(study: Study, person: SignedIn, pair: dict[str, Any], found: dict[str, Any], key: str) -> None:
    """What is signed now, what signing anew would mean, and the button."""
    signed, value = pair["signed"], st.session_state[key]
    history = parts.versions(study, pair)
    if signed is None:
        st.info("Not signed yet: people see no outline of this marker on this slide.")
    elif value == signed["value"]:
        st.success(f"Version {signed['version']}, {value:g}, is signed and shown to people.")
    elif under := history[0][parts.UNDER]:
        st.warning(
            f"{under} nuclei were annotated under version {signed['version']} ({signed['value']:g}). "
            "They keep it; a new version holds for what is drawn from now on."
        )
    if st.button(
        f"Sign {value:g}" + ("" if signed is None else f" as version {signed['version'] + 1}"),
        type="primary",
        icon=":material/draw:",
        disabled=signed is not None and value == signed["value"],
        key="sign",
    ):
        try:
            demand(person, "sign_threshold")
            method = parts.method_of(value, found["methods"])
            sign_threshold(study, pair["slide_id"], pair["marker"], value, method, person.person_id)
        except AllinsamError as error:
            st.error(str(error))
        else:
            st.rerun()
    if history:
        table = pd.DataFrame(history)
        table["When"] = [local_date_time(when) for when in table["When"]]
        st.dataframe(table, hide_index=True, height=min(38 + 35 * len(table), 180))


def pictures(study: Study, pair: dict[str, Any], value: float) -> None:
    """One patch of the slide under the threshold in hand."""
    patches = parts.patches_with(study, pair["slide_id"], pair["marker"])
    names = {patch["id"]: patch["name"] for patch in patches}
    with st.container(horizontal=True, vertical_alignment="bottom", wrap=False):
        chosen = st.segmented_control(
            "Patch",
            list(names),
            format_func=names.__getitem__,
            default=patches[0]["id"],
            required=True,
            key=f"patch-{pair['slide_id']}-{pair['marker']}",
        )
        st.space("stretch")
        opacity = st.slider("Outline", 0, 100, 90, 10, format="%d %%", width=120, key="outline_opacity")
        contrast = st.slider("Brightness", 0.5, 4.0, 1.0, 0.25, format="%gx", width=120, key="brightness")
    patch = next(patch for patch in patches if patch["id"] == chosen)
    st.html(parts.picture(patch, pair["marker"], value, PANE_PX, opacity / 100, contrast))
    st.caption("White line: where the marker counts as bright. It should follow the bright nuclei, no more.")


def main() -> None:
    person, study = require("lead", "reviewer"), current_study()
    st.html(STYLE)
    page_head("Thresholds", "How bright must a marker be to count? One answer per slide and marker.")
    everything = parts.pairs(study)
    if not everything:
        empty_state("**No slide has a marker channel yet.** Import PAS and IF images first.", person)
        return
    pair = choose(everything)
    found = parts.levels(study, str(study.folder), pair["slide_id"], pair["marker"], pair["patches"])
    key = value_in_hand(pair, found)
    with st.container(horizontal=True, gap="medium", wrap=False):
        with st.container(key="left", width=400):
            controls(pair, found, key)
            sign(study, person, pair, found, key)
        with st.container(key="right", width=2 * PANE_PX + 12):
            pictures(study, pair, st.session_state[key])
    simulated_note(study)


main()
