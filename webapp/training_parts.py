"""The People page's part on learning: training, the pass mark, scores on hidden gold, reminders, pauses."""

from collections.abc import Mapping

import pandas as pd
import streamlit as st

from allinsam.errors import AllinsamError
from allinsam.store import Study
from allinsam.store.learning import list_lessons
from allinsam.workflow.newcomers import (
    NewcomerTraining,
    Start,
    newcomer_training,
    set_newcomer_training,
    start_training,
    training_start,
)
from allinsam.workflow.practising import (
    PassMark,
    give_practice,
    give_qualification,
    is_paused,
    pass_mark,
    qualification,
    set_pass_mark,
    set_paused,
)
from allinsam.workflow.refreshing import (
    RefreshRule,
    gold_scores,
    refresh_rule,
    set_refresh_rule,
    trend_of,
)
from allinsam.workflow.touring import tour_standing
from webapp.page_parts import as_typed

GIVE = {"Practice": give_practice, "Qualification": give_qualification}
NOTES = {
    "Practice": "Says after handing in what was right, missed, too much or of the wrong class.",
    "Qualification": "Looks like any other patch; what it is worth is shown here alone.",
}


def show_training(study: Study, person_id: str, names: Mapping[str, str]) -> None:
    """names: pseudonym -> name of everybody who can be given patches."""
    with st.expander("Training, gold scores and reminders"):
        left, middle, right = st.columns(3)
        with left:
            _give(study, names)
        with middle:
            _newcomers(study, person_id)
        with right:
            _pass_mark(study, person_id)
        _standing(study, names)
        left, right = st.columns(2)
        with left:
            _refresh_rule(study, person_id)
        with right:
            _pause(study, person_id, names)


def _give(study: Study, names: Mapping[str, str]) -> None:
    if not names:
        st.markdown("Invite somebody first.")
        return
    kind = st.segmented_control(
        "Give patches with gold for", list(GIVE), default="Practice", required=True, key="training_kind"
    )
    st.caption(NOTES[kind])
    chosen = st.selectbox("To", list(names), format_func=names.get, key="trainee")
    count = st.number_input("How many", 1, 20, 3 if kind == "Practice" else 1, key=f"count_{kind}")
    if st.button("Give", key="give_training"):
        try:
            given = GIVE[kind](study, chosen, int(count))
        except AllinsamError as error:
            st.error(str(error))
            return
        more = f"In the queue of {as_typed(names[chosen])}: {len(given)} more for {kind.lower()}."
        st.session_state["assigned"] = more
        st.rerun()


def _newcomers(study: Study, person_id: str) -> None:
    with study.science.read() as db:
        now = newcomer_training(db)
    start = now or NewcomerTraining()
    with st.form("newcomers", border=False):
        asked = st.toggle("New students learn first", value=now is not None)
        practice = st.number_input("Practice patches", 0, 20, start.practice)
        qualification = st.number_input("Qualification patches", 0, 10, start.qualification)
        st.caption("Given at the invitation or the next visit, before their other patches.")
        if st.form_submit_button("Set"):
            try:
                wanted = NewcomerTraining(int(practice), int(qualification)) if asked else None
            except AllinsamError as error:
                st.error(str(error))
                return
            set_newcomer_training(study, person_id, wanted)
            st.session_state["assigned"] = (
                "New students learn first." if asked else "New students get no training by themselves."
            )
            st.rerun()


def training_note(study: Study, person_id: str) -> str:
    """Start the training of somebody who was just invited; what became of it, for the lead."""
    start = start_training(study, person_id)
    if start.given:
        return f"{len(start.given)} patches to learn on are in the queue already."
    if start.state == "too little gold":
        there = f"{start.left} of {start.wanted} patches are finished"
        return f"Too little gold for the training: {there}. It is given as soon as there is enough."
    return ""


def _pass_mark(study: Study, person_id: str) -> None:
    with study.science.read() as db:
        now = pass_mark(db)
    start = now or PassMark()
    with st.form("pass_mark", border=False):
        asked = st.toggle("Students must pass before production opens", value=now is not None)
        f1 = st.number_input("Nuclei found, F1 at least", 0.0, 1.0, start.f1, 0.05)
        classes = st.number_input("Class right, share at least", 0.0, 1.0, start.class_accuracy, 0.05)
        attempts = st.number_input("Patches they may try", 1, 10, start.attempts)
        if st.form_submit_button("Save"):
            set_pass_mark(study, person_id, PassMark(f1, classes, int(attempts)) if asked else None)
            st.session_state["assigned"] = "The pass mark is saved." if asked else "Nobody is asked to pass."
            st.rerun()


def _standing(study: Study, names: Mapping[str, str]) -> None:
    """A row for each person who learns, is asked for anything, or has done hidden gold."""
    rows = []
    with study.science.read() as db:
        rule = refresh_rule(db) or RefreshRule()
        for person, name in names.items():
            stands, start, tour = (
                qualification(db, person),
                training_start(db, person),
                tour_standing(db, person),
            )
            scores = [found.mark.score for found in gold_scores(db, person)]
            asked = stands.needed is not None or start.state != "not asked"
            if not (asked or scores or tour.state != "not begun" or is_paused(db, person)):
                continue
            tries = [f"{found.f1:.2f} / {found.class_accuracy or 0:.2f}" for found in stands.marks]
            gold = [f"{score:.2f}" for score in scores[-rule.last :]]
            rows.append(
                {
                    "Name": name,
                    "Tour": tour.state,
                    "Training": _training_cell(start),
                    "Tries (F1 / class)": ", ".join(tries) or "none yet",
                    "Production": _production_cell(is_paused(db, person), stands.is_open),
                    f"Last {rule.last} gold": ", ".join(gold) or "none yet",
                    "Trend": trend_of(scores, rule.last),
                    "Reminders": len(list_lessons(db, person, "refresh_shown")),
                }
            )
    if rows:
        st.dataframe(pd.DataFrame(rows), hide_index=True)
        st.caption(
            "Gold: F1 of nuclei found with their right class, on patches hidden in the work. "
            "Every score is in learning.csv."
        )


def _production_cell(paused: bool, is_open: bool) -> str:
    return "paused" if paused else "open" if is_open else "closed"


def _refresh_rule(study: Study, person_id: str) -> None:
    with study.science.read() as db:
        now = refresh_rule(db)
    start = now or RefreshRule()
    with st.form("refresh_rule", border=False):
        asked = st.toggle("Remind who makes more mistakes on hidden gold", value=now is not None)
        left, right = st.columns(2)
        last = left.number_input("Gold patches looked at", 1, 20, start.last)
        below = right.number_input("Mean score below", 0.05, 1.0, start.below, 0.05)
        st.caption(
            "One to three patches later they see what they often got wrong and what good looks like. "
            "Nothing tells which patches were gold."
        )
        if st.form_submit_button("Keep this rule"):
            set_refresh_rule(study, person_id, RefreshRule(int(last), float(below)) if asked else None)
            st.session_state["assigned"] = "The reminder is on." if asked else "Nobody is reminded."
            st.rerun()


def _pause(study: Study, person_id: str, names: Mapping[str, str]) -> None:
    if not names:
        return
    chosen = st.selectbox("Pause somebody's work", list(names), format_func=names.get, key="pause_whom")
    with study.science.read() as db:
        paused = is_paused(db, chosen)
    st.caption("No patch opens for them, and the page tells them to talk to you. What they did stays.")
    if st.button("Let them go on" if paused else "Pause", key="pause"):
        set_paused(study, person_id, chosen, not paused)
        st.session_state["assigned"] = f"{as_typed(names[chosen])} {'goes on' if paused else 'is paused'}."
        st.rerun()


def _training_cell(start: Start) -> str:
    if start.state == "too little gold":
        return f"too little gold: {start.left} of {start.wanted} patches"
    return {"ready": "at the next visit"}.get(start.state, start.state)
