"""Review: where people disagree about nuclei, one person settles it."""

from collections.abc import Callable
from typing import Any

import pandas as pd
import streamlit as st

from allinsam.accounts import SignedIn, demand
from allinsam.store import Study
from allinsam.workflow.reviewing import (
    AT_ONCE,
    ReviewState,
    clusters,
    finish,
    make_gold,
    patches_to_review,
    reopen,
    review_state,
    send_back,
    untallied,
)
from webapp.job_parts import duration, find_disputes
from webapp.page_parts import as_typed, attempt, empty_state, page_head, simulated_note
from webapp.session import current_study, require
from webapp.surfaces import review_pane

MOST_ROWS = 15  # before the list scrolls
STATES = {"new": "○ not reviewed", "begun": "◐ begun", "reviewed": "✓ reviewed", "changed": "⚠ changed since"}
STYLE = """<style>
.stMainBlockContainer { padding: 4.1rem 1.5rem .3rem 1.5rem; }
.stMainBlockContainer > .stVerticalBlock { gap: .4rem; }
.stMain::before { box-shadow: none !important; }
</style>"""
GOLD_HELP = (
    "Others are measured by gold: it serves practice and qualification, and models are scored against it. "
    "Nobody whose outlines or decisions are in it is measured by it."
)

Rows = list[dict[str, Any]]


def go_to(patch_id: int | None) -> None:
    """Take a patch in hand, or none: the list."""
    st.query_params.clear()
    if patch_id is not None:
        st.query_params["patch"] = str(patch_id)


def settle(person: SignedIn, do: Callable[[], Any], told: str) -> None:
    """Do what a reviewer may, or say why not."""

    def allowed() -> None:
        demand(person, "review")
        do()

    attempt(allowed, told)


# --- Every patch ----------------------------------------------------------------------------------


def show_list(rows: Rows) -> None:
    page_head("Review", "Where people disagree about nuclei, one person settles it. The most disputed first.")
    left = [row for row in rows if row["state"] != "reviewed"]
    disputed = [row for row in left if row["open"]]
    with st.container(horizontal=True, vertical_alignment="center"):
        if left:
            st.button(
                "Review the next patch",
                type="primary",
                key="start",
                on_click=go_to,
                args=(left[0]["patch_id"],),
            )
        seconds = sum(row["expected_seconds"] for row in disputed)
        words = f"**{len(disputed)}** of {len(rows)} patches have nuclei in dispute"
        words += f", about **{duration(seconds)}** of work" if disputed else ""
        done = len(rows) - len(left)
        st.markdown(f"{words}. **{done}** {'is' if done == 1 else 'are'} reviewed.", width="content")
    order = [row["patch_id"] for row in rows]

    def clicked() -> None:
        picked = st.session_state["review_list"]["selection"]
        places = [place for place, _ in picked["cells"]] or picked["rows"]
        if places:
            go_to(order[places[0]])

    number = st.column_config.NumberColumn
    st.dataframe(
        table_of(rows),
        hide_index=True,
        key="review_list",
        height="content" if len(rows) <= MOST_ROWS else 520,
        on_select=clicked,
        selection_mode=["single-row", "single-cell"],
        column_config={
            "Raters": number(help="People who have handed the patch in."),
            "In dispute": number(help="Not everybody marked it, the classes differ, or the outlines do."),
            "Left": number(help="In dispute and not decided yet."),
            "Share": st.column_config.ProgressColumn(
                format="percent", min_value=0, max_value=1, help="Of all nuclei, those in dispute."
            ),
            "About": st.column_config.TextColumn(help="As measured in ten minutes; before that, a guess."),
        },
    )
    st.caption("Click on a row to open the patch. Raters have letters here, others on every patch.")


def table_of(rows: Rows) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "Patch": row["patch"],
            "State": STATES[row["state"]],
            "Raters": row["raters"],
            "Nuclei": row["nuclei"],
            "In dispute": row["disputed"],
            "Left": row["open"],
            "Share": round(row["disagreement"], 2),
            "About": duration(row["expected_seconds"]) if row["open"] else "",
            "Note": ", ".join(notes_of(row)),
        }
        for row in rows
    )


def notes_of(row: dict[str, Any]) -> list[str]:
    gold = ["gold"] if row["is_gold"] else []
    return [*gold, *(["you annotated it yourself"] if row["own"] else [])]


# --- One patch ------------------------------------------------------------------------------------


@st.fragment
def show_patch(study: Study, person: SignedIn, patch_id: int, name: str, following: int | None) -> None:
    """The pane settles nuclei by itself; this runs again with every decision."""
    st.html(STYLE)
    state = review_state(study, patch_id, person.person_id)
    found = clusters(study, patch_id)
    still = sum(one.is_open for one in found)
    with st.container(key="head", horizontal=True, vertical_alignment="center", gap="small"):
        if st.button("All patches", key="back", icon=":material/arrow_back:"):
            go_to(None)
            st.rerun()
        st.markdown(head_text(state, name, len(found), still), width="content")
        st.space("stretch")
        if state.is_finished:
            show_finished(study, person, state, following)
        else:
            show_finish(study, person, state, still)
        show_send_back(study, person, state)
    if state.is_finished and state.comment:
        st.caption(f"Comment: {as_typed(state.comment)}")
    if state.own_letters:
        st.warning(
            f"You annotated this patch yourself, as rater {state.own_letters[0]}. Better let somebody else "
            "review it; if you go on, it is kept with the review."
        )
    # A hash, salted by Python: numbers of assignments, which were given out person by person, would tell
    # whose letters of several patches are one person's.
    turn = str(hash((state.version, state.state, str(sorted(state.raters.items())))))
    review_pane.show(patch_id, turn, "review_pane", lambda: None)


def counted(n: int, one: str, many: str) -> str:
    return f"{n} {one if n == 1 else many}"


def head_text(state: ReviewState, name: str, nuclei: int, still: int) -> str:
    parts = [
        f"**{as_typed(name)}**",
        counted(len(state.raters), "rater", "raters"),
        counted(nuclei, "nucleus", "nuclei"),
    ]
    parts += [f"{still} still in dispute"] if still else []
    if state.is_finished:
        parts += [f"version {state.version} finished" + (", gold" if state.is_gold else "")]
    if state.state == "changed":
        parts += ["⚠ raters have changed it since"]
    return " · ".join(parts)


def show_finish(study: Study, person: SignedIn, state: ReviewState, still: int) -> None:
    with st.popover("Finish", icon=":material/check:", key="finish_open"):
        if still:
            words = (
                "nucleus is still in dispute. Decide it"
                if still == 1
                else "nuclei are still in dispute. Decide them"
            )
            st.markdown(f"**{still}** {words} first.")
        else:
            st.markdown("Where all raters are at one, their consensus is taken.")
        comment = st.text_area(
            "Comment", key=f"comment-{state.patch_id}-{state.version}", max_chars=2000, height=80
        )
        gold = state.is_gold
        if gold:
            st.caption("An earlier version is gold: this one takes its place.")
        else:
            gold = st.checkbox("Make it gold", key=f"gold-{state.patch_id}-{state.version}", help=GOLD_HELP)
        if state.has_other_gold:
            st.caption("This patch has other gold already, which comes first.")
        if st.button("Finish the review", type="primary", key="finish", disabled=bool(still)):
            settle(
                person,
                lambda: finish(study, person.person_id, state.patch_id, comment, gold and not state.is_gold),
                "The review is finished.",
            )


def show_finished(study: Study, person: SignedIn, state: ReviewState, following: int | None) -> None:
    me, patch_id = person.person_id, state.patch_id
    if following is not None and st.button("Next patch", type="primary", key="following"):
        go_to(following)
        st.rerun()
    if not state.is_gold and st.button("Make gold", key="make_gold", help=GOLD_HELP):
        settle(person, lambda: make_gold(study, me, patch_id), "The review is gold now.")
    if st.button("Reopen", key="reopen", help="Begins the next version. This one stays as it is."):
        settle(person, lambda: reopen(study, me, patch_id), "A new version is begun.")


def show_send_back(study: Study, person: SignedIn, state: ReviewState) -> None:
    """One rater does the patch again: told why, and only once."""
    with st.popover("Send back", icon=":material/reply:", key="send_open"):
        st.markdown("The rater does this patch again, with your comment. Once for each rater.")
        able = [letter for letter in state.raters if letter not in state.sent_back]
        if state.sent_back:
            st.caption(f"Sent back before: {', '.join(state.sent_back)}.")
        letter = st.segmented_control("Rater", able, key=f"send_to-{state.patch_id}") if able else None
        comment = st.text_area(
            "What is to be done again",
            key=f"send_why-{state.patch_id}",
            max_chars=2000,
            height=80,
            placeholder="For instance: the lower left quarter is not done.",
        )
        ready = letter is not None and bool(comment.strip())
        if st.button("Send back", type="primary", key="send", disabled=not ready):
            settle(
                person,
                lambda: send_back(study, person.person_id, state.raters[letter], comment),
                f"Rater {letter} has the patch again.",
            )


def main() -> None:
    person, study = require("lead", "reviewer"), current_study()
    demand(person, "review")
    with st.spinner("Looking for what people disagree on ..."):
        rows = patches_to_review(study, person.person_id, AT_ONCE)
    if told := st.session_state.pop("told", ""):
        st.toast(told, icon=":material/check:")
    find_disputes(study, person)
    if not rows and untallied(study):
        return
    if not rows:
        page_head("Review", "Where people disagree about nuclei, one person settles it.")
        empty_state(
            "**Nobody has handed in a patch yet.** Review begins with patches that two people or more "
            "have annotated.",
            person,
            "people",
            "Assign patches",
        )
        return
    wanted = st.query_params.get("patch")
    now = next((row for row in rows if str(row["patch_id"]) == wanted), None)
    if now is None:
        show_list(rows)
        simulated_note(study)
        return
    left = [row["patch_id"] for row in rows if row["state"] != "reviewed" and row is not now]
    show_patch(study, person, now["patch_id"], now["patch"], left[0] if left else None)


main()
