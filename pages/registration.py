"""Registration: whether the fluorescence of every patch lies on its stain, and what a person does then."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import streamlit as st

from allinsam import jobs
from allinsam.accounts import SignedIn, demand
from allinsam.store import Study
from allinsam.workflow.registering import (
    LONGEST_REASON,
    Standing,
    accept_estimate,
    accept_position,
    register_patch,
    standings,
)
from webapp import registration_parts as parts
from webapp.job_parts import show_jobs
from webapp.page_parts import as_typed, attempt, empty_state, page_head, simulated_note
from webapp.session import current_study, require

PANE_PX = 490
ROW_PX = 35
STYLE = """<style>
.stMainBlockContainer { padding: 4.1rem 1.5rem .5rem 1.5rem; }
.stMainBlockContainer > .stVerticalBlock { gap: .5rem; }
.st-key-left, .st-key-look, .st-key-settle { flex: none; gap: .5rem; }
.st-key-settle .stAlertContainer { padding: .45rem .7rem; min-height: 0; }
.st-key-reasons { max-height: 8rem; overflow-y: auto; }
.st-key-arrows button { min-width: 2.2rem; padding: .1rem .5rem; }
</style>"""


def chosen_patch(everything: Sequence[Standing]) -> Standing:
    """The patch in hand; at first the first, which waits if any does."""
    known = {one.patch_id: one for one in everything}
    return known.get(st.session_state.setdefault("patch_at", everything[0].patch_id), everything[0])


def go_to(patch_id: int | None) -> None:
    """Take another patch in hand than the one clicked on in the table."""
    st.session_state.update(patch_at=patch_id, jumps=st.session_state.get("jumps", 0) + 1)


# --- Every patch ----------------------------------------------------------------------------------


def show_overview(study: Study, person: SignedIn, everything: Sequence[Standing], now: Standing) -> None:
    with st.container(horizontal=True, vertical_alignment="center"):
        following = parts.next_flagged(everything, now.patch_id)
        st.button(
            "Next that waits",
            key="next_flagged",
            icon=":material/skip_next:",
            shortcut="N",
            disabled=following is None,
            on_click=go_to,
            args=(following,),
        )
        # Left of what the table shows above its right end.
        st.markdown(parts.counts_text(everything), width="content")
    order = [one.patch_id for one in everything]
    # A new table whenever its rows move or another patch is taken in hand: an older one would keep its row.
    key = f"patches_{hash(tuple(order))}_{st.session_state.get('jumps', 0)}"

    def clicked() -> None:
        """Anywhere in a row takes its patch in hand, not only on its mark."""
        picked = st.session_state[key]["selection"]
        rows = [row for row, _ in picked["cells"]] or picked["rows"]
        if rows:
            st.session_state.update(patch_at=order[rows[0]])
            st.session_state[key] = {"selection": {"rows": rows[:1], "columns": [], "cells": []}}

    text, number = st.column_config.TextColumn, st.column_config.NumberColumn
    st.dataframe(
        parts.overview(everything, parts.people_names(study)),
        hide_index=True,
        placeholder="-",
        height=ROW_PX * min(len(order) + 1, 10) + 3,
        key=key,
        on_select=clicked,
        selection_mode=["single-row-required", "single-cell"],
        selection_default={"selection": {"rows": [order.index(now.patch_id)]}},
        column_config={
            "Patch": text(width=80),
            "State": text(width=104),
            "Quality": number(
                format="%.2f", width=60, help="Correlation of stain and IF where both are, up to 1."
            ),
            "Off, px": number(
                format="%.1f", width=56, help="By how many px parts would rather lie elsewhere."
            ),
            "How": text(width=104),
            "By": text(width=72),
            "Why": text(width=480),
        },
    )
    show_all_buttons(study, person, everything)
    show_jobs(study, 1, ("register",))


def show_all_buttons(study: Study, person: SignedIn, everything: Sequence[Standing]) -> None:
    """Both ways to register many patches, as a job."""
    busy = any(view.is_active and view.verb == "register" for view in jobs.list_views(study, 50))
    missing = sum(one.state == "missing" for one in everything)
    with_if = sum(one.state != "no_if" for one in everything)
    kept, nuclei = parts.left_alone(everything), sum(one.nuclei for one in everything)
    with st.container(horizontal=True):
        if st.button(
            f"Register all that have none ({missing})",
            type="primary" if missing else "secondary",
            disabled=busy or not missing,
            key="register_missing",
        ):
            submit(study, person, {"missing": True})
        with st.popover("Register all again", disabled=busy or not with_if):
            st.markdown(
                f"**{with_if - kept}** patches get a new estimate, one or two seconds each. Where it cannot "
                f"be believed, the patch waits. {kept} that somebody settled by hand keep their position."
            )
            if nuclei:
                st.markdown(f"{nuclei} nuclei were drawn under what holds now. They keep it.")
            if st.button("Register all again", type="primary", key="register_all"):
                submit(study, person, {"all": True})


def submit(study: Study, person: SignedIn, arguments: dict[str, Any]) -> None:
    def send() -> None:
        demand(person, "register")
        jobs.submit(study, "register", {**arguments, "person": person.person_id}, person.person_id)

    attempt(send, "")


# --- One patch ------------------------------------------------------------------------------------


@st.fragment
def show_patch(study: Study, person: SignedIn, now: Standing, following: int | None) -> None:
    """The pictures and what can be done; only this runs again while the IF is moved."""
    with st.container(horizontal=True, gap="small", wrap=False):
        if now.state == "no_if":
            st.info(f"Patch {as_typed(now.patch)} has no IF channel. Nothing can be registered.")
            return
        rows = parts.versions(study, now.patch_id)
        base = start_in_hand(now, rows)
        size_hw = parts.size_of(study, now.patch_id)
        by = {
            name: st.session_state.setdefault(nudge_key(name, now, base), one.start) for name, one in NUDGES
        }
        matrix = parts.moved(base["matrix"], size_hw, by)
        with st.container(key="look", width=PANE_PX):
            show_pictures(study, now, matrix, size_hw)
        with st.container(key="settle", width=270):
            show_state(study, person, now, rows[0])
            show_nudges(now, base, rows)
            show_decision(study, person, now, rows, base, matrix, following)


NUDGES = tuple(parts.NUDGES.items())


def start_key(now: Standing, newest: dict[str, Any]) -> str:
    return f"start-{now.patch_id}-{newest['version']}"


def start_in_hand(now: Standing, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The version the IF is moved from: the newest, until another is chosen."""
    wanted = st.session_state.get(start_key(now, rows[0]), rows[0]["version"])
    return next((row for row in rows if row["version"] == wanted), rows[0])


def nudge_key(name: str, now: Standing, base: dict[str, Any]) -> str:
    return f"{name}-{now.patch_id}-{base['version']}"


def show_pictures(study: Study, now: Standing, matrix: np.ndarray, size_hw: tuple[int, int]) -> None:
    state = st.session_state
    with st.container(horizontal=True, gap="small", vertical_alignment="center"):
        look = st.segmented_control(
            "Picture",
            list(parts.LOOKS),
            format_func=parts.LOOKS.__getitem__,
            default="checker",
            required=True,
            key="look_at",
            label_visibility="collapsed",
        )
        names = parts.channels_of(study, now.patch_id)
        channel = st.selectbox(
            "Channel", names, key=f"channel-{now.patch_id}", label_visibility="collapsed", width=110
        )
        stopped = bool(state.get("flicker_stopped"))
        if look == "flicker":
            st.button(
                "Go on" if stopped else "Stop",
                key="flicker_stop",
                icon=":material/play_arrow:" if stopped else ":material/pause:",
                on_click=lambda: state.update(flicker_stopped=not stopped),
            )
    with st.container(horizontal=True, gap="small", vertical_alignment="center"):
        place = st.segmented_control(
            "Part of the patch",
            list(parts.PLACES),
            default="Whole",
            required=True,
            key="place",
            label_visibility="collapsed",
        )
        still = None
        if look == "flicker" and stopped:
            still = st.segmented_control(
                "Shown",
                ["pas", "if"],
                format_func={"pas": "Stain", "if": "IF"}.__getitem__,
                default="pas",
                required=True,
                key="still",
                label_visibility="collapsed",
            )
    window = parts.window_of(size_hw, place, PANE_PX)
    st.html(parts.picture(now.patch_id, now.patch, channel, matrix, window, look, still))
    st.caption(parts.LOOK_NOTES[look])


def show_state(study: Study, person: SignedIn, now: Standing, newest: dict[str, Any]) -> None:
    """Where the patch stands, with the reason in words, and a new estimate by one click."""
    with st.container(horizontal=True, vertical_alignment="center"):
        st.markdown(f"**{as_typed(now.patch)}**", width="content")
        st.space("stretch")
        if st.button("Register this patch", key="register_one"):
            with st.spinner("Registering ..."):
                attempt(lambda: estimate_anew(study, person, now), "")
    if now.state == "flagged":
        with st.container(key="reasons"):
            st.warning(f"**It waits.** {as_typed(parts.why(newest))}")
    elif now.state == "missing":
        st.info("Nothing is measured: the IF is taken to lie as it was imported.")
    elif newest["reason"]:
        st.success(f"Accepted although it was flagged: {as_typed(newest['reason'])}")
    else:
        st.success(f"Version {newest['version']} is accepted ({parts.method_words(newest['method'])}).")


def estimate_anew(study: Study, person: SignedIn, now: Standing) -> None:
    demand(person, "register")
    register_patch(study, now.patch_id, person.person_id)


def show_nudges(now: Standing, base: dict[str, Any], rows: list[dict[str, Any]]) -> None:
    """Arrows, numbers, and the version they start from."""
    state = st.session_state
    if len(rows) > 1:
        by_version = {row["version"]: row for row in rows}
        st.selectbox(
            "Move the IF, starting from",
            list(by_version),
            index=list(by_version).index(base["version"]),
            format_func=lambda version: parts.version_name(by_version[version]),
            key=start_key(now, rows[0]),
        )

    def push(name: str, step: float) -> None:
        state[nudge_key(name, now, base)] += step

    def reset() -> None:
        state.update({nudge_key(name, now, base): one.start for name, one in NUDGES})

    with st.container(key="arrows", horizontal=True, gap="xsmall", vertical_alignment="center"):
        step_px = state.get("arrow_step", parts.ARROW_STEPS_PX[0])
        for arrow, (name, sign) in parts.ARROWS.items():
            st.button(arrow, key=f"arrow_{arrow}", on_click=push, args=(name, sign * step_px))
        st.selectbox(
            "Step",
            parts.ARROW_STEPS_PX,
            format_func=lambda px: f"{px:g} px",
            key="arrow_step",
            label_visibility="collapsed",
            width=90,
        )
    for pair in (NUDGES[:2], NUDGES[2:]):
        for (name, one), place in zip(pair, st.columns(2), strict=True):
            place.number_input(
                one.label,
                one.low,
                one.high,
                step=one.step,
                format=one.shown,
                key=nudge_key(name, now, base),
            )
    by = {name: state[nudge_key(name, now, base)] for name, _ in NUDGES}
    st.button("Reset", key="reset", icon=":material/undo:", on_click=reset, disabled=not parts.is_moved(by))


def show_decision(
    study: Study,
    person: SignedIn,
    now: Standing,
    rows: list[dict[str, Any]],
    base: dict[str, Any],
    matrix: np.ndarray,
    following: int | None,
) -> None:
    newest = rows[0]
    by = {name: st.session_state[nudge_key(name, now, base)] for name, _ in NUDGES}
    changed = parts.is_moved(by) or base is not newest
    holds = next((row for row in rows if row["accepted"]), None)
    if now.nuclei and holds:
        st.caption(parts.nuclei_words(now.nuclei, holds["version"]))

    def accept() -> None:
        demand(person, "register")
        accept_position(study, now.patch_id, matrix, person.person_id, newest["version"])

    def believe() -> None:
        demand(person, "register")
        accept_estimate(study, now.patch_id, reason, person.person_id, newest["version"])

    if now.state == "flagged" and not changed:
        reason = st.text_input(
            "Why it is right all the same",
            key=f"reason-{now.patch_id}-{newest['version']}",
            max_chars=LONGEST_REASON,
            placeholder="Short reason, kept with it",
        )
        if st.button("Accept the estimate as it is", key="believe", disabled=not reason.strip()):
            attempt(believe, f"The estimate of {as_typed(now.patch)} is accepted.")
    elif st.button(
        "Accept this position",
        type="primary",
        key="accept",
        icon=":material/check:",
        disabled=now.state == "accepted" and not changed,
    ):
        attempt(accept, f"The position of {as_typed(now.patch)} is accepted.")
    if now.state == "flagged" and st.button("Keep waiting", key="keep_waiting"):
        st.session_state["told"] = f"{as_typed(now.patch)} keeps waiting."
        go_to(following or now.patch_id)
        st.rerun()


def main() -> None:
    person, study = require("lead", "reviewer"), current_study()
    st.html(STYLE)
    page_head(
        "Registration", "Does the fluorescence lie on the stain? Where it cannot be believed, a patch waits."
    )
    everything = standings(study)
    if all(one.state == "no_if" for one in everything):
        empty_state("**No patch has an IF channel yet.** Import PAS and IF images first.", person)
        return
    if told := st.session_state.pop("told", ""):
        st.toast(told, icon=":material/check:")
    now = chosen_patch(everything)
    with st.container(horizontal=True, gap="small", wrap=False):
        with st.container(key="left", width=516):
            show_overview(study, person, everything, now)
        show_patch(study, person, now, parts.next_flagged(everything, now.patch_id))
    simulated_note(study)


main()
