"""Train: one button for expert against students, the single steps beneath, and the jobs."""

from typing import Any

import pandas as pd
import streamlit as st

from allinsam import jobs
from allinsam.accounts import SignedIn
from allinsam.consensus import RULES
from allinsam.errors import AllinsamError
from allinsam.store import Study, runs
from allinsam.training.settings import TrainingSettings
from allinsam.workflow.labels import (
    LABEL_RULES,
    MASK_SOURCES,
    preview_split,
    recipe_of,
    reference_recipe,
)
from allinsam.workflow.progress import estimate_training, label_standing, study_progress
from webapp.forms import settings_arguments, settings_form
from webapp.job_parts import duration, show_jobs
from webapp.page_parts import empty_state, page_button, page_head, simulated_note, truth_name
from webapp.session import current_study, require

GROUPS = ("expert", "student")
FEWEST_PATCHES = 3
SPLIT_SEED = 1
BUDGET_MINUTES = 10.0
MASK_NAMES = {
    "edited": "as accepted and edited",
    "weak": "boxes only: SAM makes the masks again",
    "tight": "tight boxes of the masks, by SAM again",
    "random": "loose boxes of the masks, by SAM again",
}

RULE_NAMES = {
    "pooled": "one person per patch, drawn by seed",
    "consensus": "what those who looked agree on",
    "adjudicated": "as a reviewer settled it, whoever drew it",
}
METHOD_NAMES = {
    "majority": "majority of people",
    "staple": "STAPLE outlines, majority of classes",
    "dawid_skene": "majority outlines, Dawid-Skene classes",
    "staple_dawid_skene": "STAPLE outlines, Dawid-Skene classes",
}


def submit(study: Study, person: SignedIn, verb: str, arguments: dict[str, Any]) -> None:
    try:
        jobs.submit(study, verb, arguments, person.person_id)
    except AllinsamError as error:
        st.error(str(error))


def patches_of(standing: list[dict[str, Any]], group: str) -> int:
    """Patches a group's labels come from: those where some class is finished."""
    return max((row["patches"] for row in standing if row["group"] == group), default=0)


def show_split(study: Study, seed: int) -> None:
    """What the split of this seed cannot fill, before anything is trained on it."""
    try:
        planned = preview_split(study, seed)
    except AllinsamError as error:
        st.warning(str(error))
        return
    told = [gap.replace("val:", "validation:") for gap in planned.gaps]
    of = f"The split by {planned.rule.split()[0]}, seed {seed}"
    if all(gap.startswith("validation:") for gap in told):  # it only chooses between epochs
        st.caption(
            f"{of}: {'; '.join(told)}." if told else f"{of}, has every class and condition in each part."
        )
        return
    lines = "\n".join(f"- {gap}" for gap in told)
    st.warning(
        f"{of}, cannot be filled. What the test part lacks is not scored; what the train part lacks is not "
        f"learned.\n{lines}"
    )


def show_one_click(study: Study, person: SignedIn, standing: list[dict[str, Any]]) -> None:
    missing = [group for group in GROUPS if patches_of(standing, group) < FEWEST_PATCHES]
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
                f"This needs at least {FEWEST_PATCHES} finished patches of each group; "
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


def show_step_by_step(study: Study, person: SignedIn) -> None:
    people = [p.person_id for p in study_progress(study).people if p.finished]
    with st.expander("Step by step: choose labels, stages and settings"):
        split_seed = st.number_input(
            "Seed of the split",
            value=SPLIT_SEED,
            min_value=0,
            help="The same seed keeps the same train, val and test.",
            width=220,
        )
        if split_seed != SPLIT_SEED:
            show_split(study, int(split_seed))
        with st.form("train", border=False):
            left, middle, right = st.columns(3)
            labels = left.selectbox(
                "Labels of",
                [*GROUPS, *people],
                help="Of a group, take one person per patch or their consensus (next row).",
            )
            masks = middle.selectbox("Masks", MASK_SOURCES, format_func=MASK_NAMES.get)
            rule = left.selectbox("Where several finished a patch", LABEL_RULES, format_func=RULE_NAMES.get)
            method = middle.selectbox("Consensus by", RULES, format_func=METHOD_NAMES.get)
            quorum = right.number_input(
                "Consensus: people who must have marked a nucleus",
                value=None,
                min_value=1,
                placeholder="more than half of those who looked",
                help="A class that fewer people finished on a patch is left out there.",
            )
            score = left.checkbox("Score when trained", value=True)
            shuffle = middle.checkbox(
                "Control: shuffle the classes",
                help="Every nucleus keeps its outline and gets a random class.",
            )
            values = settings_form("train")
            sent = st.form_submit_button("Train")
        if not sent:
            return
        try:
            arguments = {"labels": labels, "masks": masks, "split_seed": int(split_seed)}
            if rule == "consensus":
                arguments |= {"rule": rule, "method": method} | ({"quorum": int(quorum)} if quorum else {})
            if rule == "adjudicated":
                recipe_of(rule, masks=masks)  # says now what cannot be
                arguments |= {"labels": rule, "rule": rule}
            arguments |= settings_arguments(values) | ({"shuffle_classes": True} if shuffle else {})
        except AllinsamError as error:
            st.error(str(error))
            return
        submit(study, person, "train", arguments)
        if score:
            submit(study, person, "evaluate", {})
        st.rerun()


def show_runs(study: Study, person: SignedIn) -> None:
    with study.science.read() as db:
        finished = [r for r in runs.list_runs(db) if r["state"] == "finished" and r["kind"] != "untrained"]
        scored = {row["run_id"] for row in runs.list_scores(db)}
    if not finished:
        return
    st.subheader("Finished runs", anchor=False)
    table = [
        {
            "Run": run["id"],
            "Labels": run["name"],
            "Stages": "adapter + corrective" if run["settings"].get("mocl") else "adapter",
            "Epochs": f"{run['settings'].get('adapter_epochs')} + {run['settings'].get('corrective_epochs')}",
            "Seed": run["settings"].get("seed"),
            "Backbone": run["backbone"],
            "Finished": (run["finished_at"] or "")[:16].replace("T", " "),
            "Scored": run["id"] in scored,
        }
        for run in reversed(finished)
    ]
    st.dataframe(pd.DataFrame(table), hide_index=True)
    unscored = [run["id"] for run in finished if run["id"] not in scored]
    if unscored and st.button(f"Score what is not scored yet ({len(unscored)})"):
        submit(study, person, "evaluate", {"run": unscored})
        st.rerun()


def main() -> None:
    person, study = require("lead"), current_study()
    page_head("Train", "Turn labels into a model that finds both cell types on PAS alone.")
    standing = label_standing(study)
    if not any(row["group"] in GROUPS for row in standing):
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
    show_runs(study, person)
    simulated_note(study)


main()
