"""What to do when nothing has been done yet, or nothing is left to do."""

import html
import time
from collections.abc import Callable
from typing import Any

import streamlit as st

from allinsam.store import Study
from allinsam.store import acts as act_store
from allinsam.store import assignments as queue
from allinsam.store.study import get_study
from allinsam.workflow.annotating import next_assignment, why_the_rest_waits
from allinsam.workflow.refreshing import Refresh, dismiss_refresh
from allinsam.workflow.teaching import cards_for
from allinsam.workflow.touring import tour_standing
from webapp.guide_pictures import EXAMPLES, PANE_PX
from webapp.page_parts import as_typed
from webapp.surfaces.dual_pane import STRINGS

STEPS = (
    "<b>1.</b> Find a nucleus whose place is <b>bright</b> in the right picture.",
    "<b>2.</b> <b>Drag a box</b> round it in the left picture, touching its edge on all four sides.",
    "<b>3.</b> Look at the outline that appears: <b>keep</b> it (A), mend it, or drop it (X).",
)
# Where both pictures can be drawn on.
STEPS_IN_BOTH = (STEPS[0], STEPS[1].replace("the left picture", "either picture"), STEPS[2])
STEPS_WITHOUT_MARKER = (
    "<b>1.</b> Find a nucleus of the chosen class.",
    "<b>2.</b> <b>Drag a box</b> round it, touching its edge on all four sides.",
    STEPS[2],
)
STEPS_BY_HAND_WITHOUT_MARKER = (
    STEPS_WITHOUT_MARKER[0],
    "<b>2.</b> <b>Draw round</b> it in one stroke.",
    STEPS[2],
)
STEPS_BY_HAND = (STEPS[0], "<b>2.</b> <b>Draw round</b> it in one stroke in the left picture.", STEPS[2])

STEPS_SUGGESTED = (
    "<b>1.</b> Outlines are <b>there already</b>. Some are wrong: look at each of them.",
    "<b>2.</b> <b>Keep</b> it (A), mend it, or drop it (X).",
    "<b>3.</b> Then <b>drag a box</b> round each nucleus that was missed.",
)
STEPS_SUGGESTED_BY_HAND = (
    *STEPS_SUGGESTED[:2],
    "<b>3.</b> Then <b>draw round</b> each nucleus that was missed.",
)


def first_steps(study: Study, person_id: str, assignment: dict[str, Any], in_both: bool) -> None:
    """Three sentences for who has never drawn here; gone for good after the first nucleus."""
    with study.science.read() as db:
        if act_store.has_acted(db, person_id) or st.session_state.get("steps_read"):
            return
    with st.container(key="first_steps", horizontal=True, vertical_alignment="center", gap="small"):
        told = steps_for(assignment)
        told = STEPS_IN_BOTH if in_both and told is STEPS else told
        steps = "".join(f"<span>{step}</span>" for step in told)
        st.html(f'<div class="steps">{steps}</div>')
        st.button("Got it", key="steps_done", on_click=lambda: st.session_state.update(steps_read=True))


def tour_comes_first(study: Study, person_id: str, assignment: dict[str, Any]) -> bool:
    """Whether to show the tour now: before the first practice patch of who has not read or skipped it."""
    if assignment["purpose"] != "practice" or assignment["state"] != "waiting":
        return False
    with study.science.read() as db:
        return not (act_store.has_acted(db, person_id) or tour_standing(db, person_id).is_settled)


def sent_back(why: str | None) -> None:
    """What the reviewer asks for, above a patch that is to be done again."""
    if why is not None:
        st.warning(
            f"**A reviewer sent this patch back:** {as_typed(why)}  \n"
            "All you drew is still here. Mend it, then hand the patch in again.",
            icon=":material/reply:",
        )


def steps_for(assignment: dict[str, Any]) -> tuple[str, ...]:
    on_stain_alone = assignment["guidance"] == "pas_only"
    if assignment["guidance"] == "suggestion":
        return STEPS_SUGGESTED_BY_HAND if assignment["tool"] == "contour" else STEPS_SUGGESTED
    if assignment["tool"] == "contour":
        return STEPS_BY_HAND_WITHOUT_MARKER if on_stain_alone else STEPS_BY_HAND
    return STEPS_WITHOUT_MARKER if on_stain_alone else STEPS


def patch_waits(study: Study, person_id: str, why: str, go_to: Callable[[int | None], None]) -> None:
    """The patch in the address must not be opened now: why, and the way to another."""
    st.info(f"**{why}** What you have drawn is kept.", icon=":material/hourglass_top:")
    if following := next_assignment(study, person_id):
        st.button("Go to the next patch", type="primary", on_click=go_to, args=(following["id"],))


def help_popover(study: Study, assignment: dict[str, Any]) -> None:
    with st.popover("Help", icon=":material/help:", width="content"):
        st.html("".join(f'<p class="step">{step}</p>' for step in steps_for(assignment)))
        st.html(
            '<p class="step">In doubt, press <b>Unsure</b>: a guess is worse than no answer. '
            "A dashed outline waits for your check, a full one is kept.</p>"
        )
        with study.science.read() as db:
            simulated = get_study(db)["simulated"]
        if simulated:
            with st.expander("What good and bad look like", expanded=True):
                st.html(pictures_html(study, assignment))
        elif st.toggle("Show how the expert drew", key="show_cards"):  # takes some seconds the first time
            st.html(pictures_html(study, assignment))


def examples_html(with_marker: bool) -> str:
    """The good and the bad pictures, each with its sentence; who works without a marker sees none here."""
    captions, say = STRINGS["examples"], STRINGS["examples_say"]
    parts = [f"<p>{html.escape(say['simulated' if with_marker else 'simulated_stain'])}</p>"]
    for good, title in ((True, say["good"]), (False, say["bad"])):
        shown = [
            f'<figure><img src="/api/guide/{name}.png" height="{PANE_PX}" alt="">'
            f"<figcaption>{html.escape(captions[name])}</figcaption></figure>"
            for name, row in EXAMPLES.items()
            if row.good == good and (with_marker or not row.needs_marker)
        ]
        parts.append(f"<b>{html.escape(title)}</b><div>{''.join(shown)}</div>")
    return f'<div class="examples{"" if with_marker else " stain-only"}">{"".join(parts)}</div>'


def cards_html(study: Study, assignment: dict[str, Any]) -> str:
    """The study's own cards, each with its sentence; nothing where no gold is free for them."""
    names = list(cards_for(study, assignment))
    if not names:
        return (
            "<p>There are no examples of this study to show yet. Good and bad ones of simulated tissue "
            "stand under <b>Help</b> on the Annotate page.</p>"
        )
    more = STRINGS["cards_more_stain" if assignment["guidance"] == "pas_only" else "cards_more"]
    shown = [
        f'<figure class="card-figure"><img src="/api/assignments/{assignment["id"]}/cards/{name}.png" alt="">'
        f"<figcaption>{html.escape(STRINGS['cards'][name])}</figcaption></figure>"
        for name in names
    ]
    return f'<div class="examples"><p>{html.escape(more)}</p><div>{"".join(shown)}</div></div>'


def reminder(study: Study, person_id: str, assignment: dict[str, Any], refresh: Refresh) -> None:
    """What was often not right lately, before the next patch is begun; one click and it is gone."""
    since = st.session_state.setdefault(f"reminder-{refresh.id}", time.monotonic())
    said = STRINGS["reminder"]
    st.subheader(said["title"], anchor=False)
    st.markdown(said["more"])
    for kind, count in sorted(refresh.mistakes.items(), key=lambda item: -item[1]):
        st.markdown(f"- **{said[kind].replace('{n}', str(count))}**")

    def go_on() -> None:
        dismiss_refresh(study, person_id, refresh.id, time.monotonic() - since)

    st.button(said["go_on"], type="primary", key="reminder_read", on_click=go_on)
    st.html(pictures_html(study, assignment))


def pictures_html(study: Study, assignment: dict[str, Any]) -> str:
    """What good and bad look like: simulated in a simulated study, else from its own gold."""
    with study.science.read() as db:
        if get_study(db)["simulated"]:
            return examples_html(with_marker=assignment["guidance"] != "pas_only")
    return cards_html(study, assignment)


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
    left = [row for row in mine if row["state"] != "submitted"]
    if left:
        with study.science.read() as db:
            why = why_the_rest_waits(db, left)
        st.subheader("Nothing to do for now")
        others = "The other one waits." if len(left) == 1 else f"The other {len(left)} wait."
        st.write(f"{len(mine) - len(left)} of your {len(mine)} patches are handed in. {others} {why}")
        return
    st.subheader(f"All {len(mine)} patches are handed in. Thank you!")
    st.write("Nothing is left to do. You can look at a patch again, and reopen it to change something.")
