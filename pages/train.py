"""Train: one button for expert against students, the single steps beneath, and the jobs."""

from typing import Any

import pandas as pd
import streamlit as st

from allinsam import jobs
from allinsam.accounts import SignedIn
from allinsam.store import Study, runs
from allinsam.training.settings import TrainingSettings
from allinsam.workflow.labels import reference_recipe
from allinsam.workflow.progress import estimate_training, label_standing
from webapp.figure_parts import page_head_with_format
from webapp.job_parts import duration, show_jobs
from webapp.page_parts import empty_state, page_button, page_head, simulated_note, truth_name
from webapp.run_parts import show_runs
from webapp.session import current_study, require
from webapp.train_form_parts import GROUPS, SPLIT_SEED, show_split, show_step_by_step, submit

FEWEST_TO_TRAIN = 3
BUDGET_MINUTES = 10.0


def patches_of(standing: list[dict[str, Any]], group: str) -> int:
    """Patches a group's labels come from: those where some class is finished."""
    return max((row["patches"] for row in standing if row["group"] == group), default=0)


def show_one_click(study: Study, person: SignedIn, standing: list[dict[str, Any]]) -> None:
    missing = [group for group in GROUPS if patches_of(standing, group) < FEWEST_TO_TRAIN]
    running = [view for view in jobs.list_views(study) if view.is_active and view.verb == "experiment"]
    with st.container(border=True):
        show_split(study, SPLIT_SEED)
        left, middle, right = st.columns([1.1, 1, 2.6], vertical_alignment="center")
        minutes = middle.number_input(
            "Minutes for each training",
            min_value=0.1,
            value=BUDGET_MINUTES,
            step=5.0,
            format="%g",
            help="A training ends earlier when all its epochs are done. Longer is better, up to a point.",
        )
        settings = TrainingSettings(budget_minutes=minutes)
        if left.button(
            "Train and compare", type="primary", disabled=bool(missing or running), width="stretch"
        ):
            arguments = {"labels": list(GROUPS), "budget_minutes": minutes}
            submit(study, person, "experiment", arguments)
            st.rerun()
        if missing:
            right.markdown(
                f"This needs at least {FEWEST_TO_TRAIN} finished patches of each group; "
                f"{' and '.join(missing)} labels are still too few."
            )
            return
        if running:
            right.markdown("Training is under way below. You may close this page; it goes on.")
            return
        estimate = estimate_training(study, settings, [patches_of(standing, group) for group in GROUPS])
        basis = (
            "from the last run on this machine"
            if estimate.measured
            else "a guess: nothing was trained here yet"
        )
        right.markdown(
            "Trains on the expert's and on the students' labels with the same patches, seed and budget: "
            "SAM adapter, then corrective learning, then scores on the test patches from PAS alone.  \n"
            f"**About {duration(60 * estimate.minutes)}** ({basis}). You may close the page."
        )


def show_standing(study: Study, standing: list[dict[str, Any]]) -> None:
    names = {
        "group": "Labels of",
        "class": "Class",
        "people": "People",
        "patches": "Patches",
        "objects": "Nuclei",
    }
    table = pd.DataFrame(standing, columns=list(names)).rename(columns=names)
    st.subheader("Labels so far", anchor=False)
    st.dataframe(table[table["Labels of"] != "truth"], hide_index=True)
    against = truth_name(study) if reference_recipe(study).group == "truth" else "the expert's labels"
    st.caption(
        "Finished patches only. A class that is unsure or skipped is left out, not taken as empty. "
        f"Models are scored against {against}."
    )


def show_unscored(study: Study, person: SignedIn) -> None:
    with study.science.read() as db:
        finished = [r for r in runs.list_runs(db) if r["state"] == "finished" and r["kind"] != "untrained"]
        scored = {row["run_id"] for row in runs.list_scores(db)}
    unscored = [run["id"] for run in finished if run["id"] not in scored]
    if unscored and st.button(f"Score what is not scored yet ({len(unscored)})"):
        submit(study, person, "evaluate", {"run": unscored})
        st.rerun()


def main() -> None:
    person, study = require("lead"), current_study()
    standing = label_standing(study)
    ready = any(row["group"] in GROUPS for row in standing)
    head = page_head_with_format if ready else page_head
    head("Train", "Turn labels into a model that finds both cell types on PAS alone.")
    if not ready:
        empty_state(
            "**No finished labels yet.** Train once expert and students have submitted a few patches.",
            person,
            "people",
            "Assign patches",
        )
        show_jobs(study)
        return
    show_one_click(study, person, standing)
    with study.science.read() as db:
        scored = runs.last_score(db)[1] > 0
    if scored:
        page_button(person, "compare", "Compare expert and students")
    left, right = st.columns([3, 2])
    with left:
        st.subheader("Jobs", anchor=False)
        show_jobs(study)
    with right:
        show_standing(study, standing)
    show_step_by_step(study, person)
    show_runs(study)
    show_unscored(study, person)
    simulated_note(study)


main()
