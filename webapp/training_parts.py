"""The People page's part on learning: practice patches, qualification patches, and the pass mark."""

from collections.abc import Mapping

import pandas as pd
import streamlit as st

from allinsam.errors import AllinsamError
from allinsam.store import Study
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
    pass_mark,
    qualification,
    set_pass_mark,
)

GIVE = {"Practice": give_practice, "Qualification": give_qualification}
NOTES = {
    "Practice": "Says after handing in what was right, missed, too much or of the wrong class.",
    "Qualification": "Looks like any other patch; what it is worth is shown here alone.",
}


def show_training(study: Study, person_id: str, names: Mapping[str, str]) -> None:
    """names: pseudonym -> name of everybody who can be given patches."""
    with st.expander("Practice and qualification"):
        left, middle, right = st.columns(3)
        with left:
            _give(study, names)
        with middle:
            _newcomers(study, person_id)
        with right:
            _pass_mark(study, person_id)
        _standing(study, names)


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
        more = f"In the queue of {names[chosen]}: {len(given)} more for {kind.lower()}."
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
    """A row for each student who is asked for anything."""
    rows = []
    with study.science.read() as db:
        for person, name in names.items():
            stands, start = qualification(db, person), training_start(db, person)
            if stands.needed is None and start.state == "not asked":
                continue
            tries = [f"{found.f1:.2f} / {found.class_accuracy or 0:.2f}" for found in stands.marks]
            rows.append(
                {
                    "Name": name,
                    "Training": _training_cell(start),
                    "Tries (F1 / class)": ", ".join(tries) or "none yet",
                    "Production": "open" if stands.is_open else "closed",
                }
            )
    if rows:
        st.dataframe(pd.DataFrame(rows), hide_index=True)


def _training_cell(start: Start) -> str:
    if start.state == "too little gold":
        return f"too little gold: {start.left} of {start.wanted} patches"
    return {"ready": "at the next visit"}.get(start.state, start.state)
