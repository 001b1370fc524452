"""Thresholds: from which brightness on a marker counts, for every slide and marker, signed by a person."""

from typing import Any

import pandas as pd
import streamlit as st

from allinsam.accounts import SignedIn, demand, may
from allinsam.errors import AllinsamError
from allinsam.store import Study
from allinsam.workflow.preparing import LONGEST_REASON, sign_threshold
from allinsam.workflow.progress import waiting_on_thresholds
from webapp import threshold_parts as parts
from webapp.class_parts import show_classes
from webapp.clock import local_date_time
from webapp.figure_parts import page_head_with_format, show_figure
from webapp.page_parts import as_typed, empty_state, simulated_note
from webapp.session import current_study, require

PANE_PX = 430
STYLE = """<style>
.stMainBlockContainer { padding: 4.1rem 1.5rem .5rem 1.5rem; }
.stMainBlockContainer > .stVerticalBlock { gap: .5rem; }
.st-key-left { flex: none; gap: .45rem; }
.st-key-own { max-height: 5.5rem; overflow-y: auto; }
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


def name_of(pair: dict[str, Any]) -> str:
    """For keys of the session."""
    return f"{pair['slide_id']}-{pair['marker']}"


def patch_in_hand(pair: dict[str, Any], patches: list[dict[str, Any]]) -> dict[str, Any]:
    wanted = st.session_state.get(f"patch_at-{name_of(pair)}")
    return next((patch for patch in patches if patch["id"] == wanted), patches[0])


def scope(pair: dict[str, Any], patch: dict[str, Any], own: dict[int, dict[str, Any]]) -> dict[str, Any]:
    """The pair with what is signed where the threshold in hand holds: on the slide, or this patch alone."""
    only = st.toggle(
        f"Only for this patch, {as_typed(patch['name'])}",
        value=patch["id"] in own,
        key=f"only-{name_of(pair)}-{patch['id']}",
    )
    if not only:
        return {**pair, "patch_id": None, "of_slide": pair["signed"]}
    return {**pair, "patch_id": patch["id"], "signed": own.get(patch["id"]), "of_slide": pair["signed"]}


def value_in_hand(pair: dict[str, Any], found: dict[str, Any]) -> str:
    """Key of the session value that slider, number and buttons share."""
    key = f"threshold-{name_of(pair)}-{pair['patch_id']}"
    holds = pair["signed"] or pair["of_slide"]
    start = holds["value"] if holds else found["methods"]["otsu"]
    st.session_state.setdefault(key, float(start))
    return key


def set_value(key: str, value: float) -> None:
    st.session_state[key] = float(value)


def controls(study: Study, pair: dict[str, Any], found: dict[str, Any], key: str) -> None:
    """Histogram, slider, number, and the automatic starts."""
    state, signed = st.session_state, pair["signed"]
    figure = parts.histogram_figure(found, state[key], signed["value"] if signed else None)
    show_figure(study, figure, "histogram")
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


def sign(
    study: Study,
    person: SignedIn,
    pair: dict[str, Any],
    found: dict[str, Any],
    key: str,
    patch: dict[str, Any],
) -> None:
    """What is signed now, what signing anew would mean, and the button."""
    signed, value, patch_id = pair["signed"], st.session_state[key], pair["patch_id"]
    history = parts.versions(study, pair, patch_id)
    if signed is None and patch_id is not None and pair["of_slide"]:
        st.info(
            f"{as_typed(patch['name'])} has none of its own: the slide's {pair['of_slide']['value']:g} holds "
            "for it."
        )
    elif signed is None:
        with study.science.read() as db:
            waits = len(waiting_on_thresholds(db).get((pair["slide_id"], pair["marker"]), ()))
        st.info(
            "Not signed yet: nobody can start on patches that show this outline"
            + (f"; {waits} in queues wait." if waits > 1 else "; 1 in a queue waits." if waits else ".")
        )
    elif value == signed["value"]:
        where = "" if patch_id is None else f" for {as_typed(patch['name'])} alone"
        why = f": {as_typed(signed['reason'])}" if signed["reason"] else ""
        st.success(f"Version {signed['version']}, {value:g}, is signed{where} and shown to people{why}.")
    elif under := history[0][parts.UNDER]:
        st.warning(
            f"{under} nuclei were annotated under version {signed['version']} ({signed['value']:g}). "
            "They keep it; a new version holds for what is drawn from now on."
        )
    reason = None
    if patch_id is not None and (signed is None or value != signed["value"]):
        version = signed["version"] if signed else 0
        reason = st.text_input(
            "Why this patch needs its own",
            key=f"reason-{name_of(pair)}-{patch_id}-{version}",
            max_chars=LONGEST_REASON,
            placeholder="Why this patch needs its own",
            label_visibility="collapsed",
        )
    if st.button(
        f"Sign {value:g}"
        + ("" if patch_id is None else f" only for {as_typed(patch['name'])}")
        + ("" if signed is None else f" as version {signed['version'] + 1}"),
        type="primary",
        icon=":material/draw:",
        disabled=(signed is not None and value == signed["value"])
        or (reason is not None and not reason.strip()),
        key="sign",
    ):
        try:
            demand(person, "sign_threshold")
            method = parts.method_of(value, found["methods"])
            sign_threshold(
                study, pair["slide_id"], pair["marker"], value, method, person.person_id, patch_id, reason
            )
        except AllinsamError as error:
            st.error(str(error))
        else:
            st.rerun()
    if history:
        table = pd.DataFrame(history)
        table["When"] = [local_date_time(when) for when in table["When"]]
        st.dataframe(table, hide_index=True, height=min(38 + 35 * len(table), 180))


def show_own(patches: list[dict[str, Any]], own: dict[int, dict[str, Any]]) -> None:
    """Which patches of the slide have a threshold of their own, and why."""
    lines = [
        f"• **{as_typed(patch['name'])}** is shown under its own, {own[patch['id']]['value']:g}: "
        f"{as_typed(own[patch['id']]['reason'])}"
        for patch in patches
        if patch["id"] in own
    ]
    if lines:
        with st.container(key="own"):
            st.caption("  \n".join(lines))


def pictures(
    pair: dict[str, Any],
    value: float,
    patches: list[dict[str, Any]],
    patch: dict[str, Any],
    own: dict[int, dict[str, Any]],
) -> None:
    """One patch of the slide under the threshold in hand."""
    names = {one["id"]: as_typed(one["name"]) + (" •" if one["id"] in own else "") for one in patches}
    # A new chooser when a name in it changes: an older one would report a name that is gone.
    key = f"patch-{name_of(pair)}-{len(own)}"
    at = f"patch_at-{name_of(pair)}"
    with st.container(horizontal=True, vertical_alignment="bottom", wrap=False):
        st.segmented_control(
            "Patch",
            list(names),
            format_func=names.__getitem__,
            default=patch["id"],
            required=True,
            key=key,
            on_change=lambda: st.session_state.update({at: st.session_state[key]}),
        )
        st.space("stretch")
        opacity = st.slider("Outline", 0, 100, 90, 10, format="%d %%", width=120, key="outline_opacity")
        contrast = st.slider("Brightness", 0.5, 4.0, 1.0, 0.25, format="%gx", width=120, key="brightness")
    st.html(parts.picture(patch, pair["marker"], value, PANE_PX, opacity / 100, contrast))
    st.caption("White line: where the marker counts as bright. It should follow the bright nuclei, no more.")


def main() -> None:
    person, study = require("lead", "reviewer"), current_study()
    st.html(STYLE)
    page_head_with_format(
        "Thresholds", "How bright must a marker be to count? One answer per slide and marker."
    )
    everything = parts.pairs(study)
    if not everything:
        empty_state("**No slide has a marker channel yet.** Import PAS and IF images first.", person)
        return
    pair = choose(everything)
    found = parts.levels(study, str(study.folder), pair["slide_id"], pair["marker"], pair["patches"])
    patches = parts.patches_with(study, pair["slide_id"], pair["marker"])
    own, patch = parts.own_of_patches(study, pair), patch_in_hand(pair, patches)
    with st.container(horizontal=True, gap="medium", wrap=False):
        with st.container(key="left", width=400):
            pair = scope(pair, patch, own)
            key = value_in_hand(pair, found)
            controls(study, pair, found, key)
            sign(study, person, pair, found, key, patch)
        with st.container(key="right", width=2 * PANE_PX + 12):
            pictures(pair, st.session_state[key], patches, patch, own)
            show_own(patches, own)
    if may(person, "edit_classes"):
        show_classes(study, person)
    simulated_note(study)


main()
