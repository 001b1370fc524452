"""Learn: five minutes on what to look for and how to draw it, one screen after another."""

import uuid

import streamlit as st

from allinsam.accounts import SignedIn
from allinsam.store import Study
from allinsam.store import assignments as queue
from allinsam.store.study import list_classes
from allinsam.workflow.annotating import next_assignment
from allinsam.workflow.touring import note_tour, tour_standing
from webapp.annotate.guidance import cards_html
from webapp.navigation import EVERYONE
from webapp.page_parts import SIMULATED, is_simulated, page_path
from webapp.resources import cards_ahead
from webapp.session import current_study, require
from webapp.tour_pictures import Step, dots, steps_for


def assignment_in_hand(study: Study, person: SignedIn) -> dict | None:
    """The next patch, else one that was done: it says what this person is shown."""
    following = next_assignment(study, person.person_id)
    if following is not None:
        return following
    with study.science.read() as db:
        return next(iter(queue.list_assignments(db, person.person_id)), None)


def steps_of(study: Study, assignment: dict | None) -> list[Step]:
    with study.science.read() as db:
        classes = list_classes(db)
        asked = queue.assignment_classes(db, assignment["id"]) if assignment else {}
    classes = [row for row in classes if row["id"] in asked] or classes
    guidance, tool = (assignment["guidance"], assignment["tool"]) if assignment else ("threshold", "box_sam")
    return steps_for(classes, with_marker=guidance != "pas_only", by_hand=tool == "contour")


def go(study: Study, person: SignedIn, kind: str, step: str) -> None:
    """Keep what was done, before the page is drawn anew."""
    note_tour(study, person.person_id, st.session_state["tour_visit"], kind, step)
    if kind == "tour_step":
        st.session_state["tour_at"] = step
        return
    st.session_state.pop("tour_at")
    st.session_state["tour_ended"] = True


def show_cards(study: Study, assignment: dict | None) -> None:
    if assignment is None:
        st.markdown("Pictures from this study stand here as soon as a patch is in your queue.")
        return
    with st.spinner("Looking for examples ..."):
        pictures = cards_html(study, assignment)
    if is_simulated(study):
        st.caption(f"**{SIMULATED}**")
    st.html(pictures)


def main() -> None:
    person, study = require(*EVERYONE), current_study()
    if st.session_state.pop("tour_ended", None):
        st.switch_page(str(page_path("annotate")))
    assignment = assignment_in_hand(study, person)
    steps = steps_of(study, assignment)
    names = [step.name for step in steps]
    if st.session_state.get("tour_at") not in names:
        with study.science.read() as db:
            standing = tour_standing(db, person.person_id)
        # Who left in the middle goes on there; who has read it begins anew.
        begun = standing.state == "begun" and standing.step in names
        st.session_state["tour_visit"] = uuid.uuid4().hex
        go(study, person, "tour_step", standing.step if begun else names[0])
        if assignment is not None:
            cards_ahead(study, assignment)
    now = names.index(st.session_state["tour_at"])
    step, is_last = steps[now], now == len(steps) - 1
    st.html(STYLE)
    with st.container(key="tour"):
        st.html(dots(now, len(steps)))
        st.subheader(step.title, anchor=False)
        with st.container(key="tour_screen", height=410, border=False):
            if step.name == "cards":
                show_cards(study, assignment)
            else:
                st.markdown(step.text)
                st.html(step.drawing)
        with st.container(horizontal=True, vertical_alignment="center"):
            before, after = names[max(0, now - 1)], names[min(now + 1, len(names) - 1)]
            move = {"on_click": go}
            st.button(
                "Back", shortcut="Left", disabled=now == 0, args=(study, person, "tour_step", before), **move
            )
            if is_last:
                st.button(
                    "Begin",
                    type="primary",
                    shortcut="Right",
                    args=(study, person, "tour_done", step.name),
                    **move,
                )
            else:
                st.button(
                    "Next",
                    type="primary",
                    shortcut="Right",
                    args=(study, person, "tour_step", after),
                    **move,
                )
            st.space("stretch")
            if not is_last:
                st.button(
                    "Skip the tour", type="tertiary", args=(study, person, "tour_skipped", step.name), **move
                )


STYLE = """<style>
.st-key-tour { max-width: 56rem; margin: 0 auto; gap: .5rem; }
.stMainBlockContainer { padding-top: 4.6rem; padding-bottom: 1rem; }
.tour-dots { display: flex; gap: .4rem; }
.tour-dots i { width: 2.2rem; height: .35rem; border-radius: .2rem; background: #d5dfe2; }
.tour-dots i.on { background: #0d6b7a; }
.tour-panes { display: flex; gap: 1rem; }
.tour-panes figure { margin: 0; }
.tour-panes img { border-radius: .35rem; display: block; }
.tour-panes figcaption { color: #4d6268; font-size: .85rem; margin-top: .2rem; }
.tour-keys { display: flex; gap: 1.2rem; margin-top: .8rem; }
.tour-keys kbd { font: 600 .85rem sans-serif; border: 1px solid #aebbc0; border-bottom-width: 2px;
    border-radius: .25rem; padding: .15rem .45rem; background: #fff; }
.examples { font-size: .9rem; }
.examples > div { display: grid; grid-template-columns: repeat(2, 1fr); gap: .5rem 1.4rem; }
.examples p { margin: 0 0 .4rem 0; }
.examples figure { margin: 0; }
.examples img { border-radius: .2rem; height: 96px; }
</style>"""

main()
