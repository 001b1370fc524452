"""Each person alone: with themself, as they go on, and how far the others bear them out."""

import pandas as pd
import streamlit as st

from allinsam.accounts import SignedIn
from allinsam.comparison import FEWEST_NUCLEI, FEWEST_PATCHES
from allinsam.reliability import BASIS
from allinsam.store import Study
from allinsam.workflow import agreeing
from allinsam.workflow.overlapping import AT_ONCE, marks_handed_in
from webapp.agreement_parts import (
    ALL,
    AMONG_NAMES,
    LEFT_OUT,
    TOO_FEW,
    choose,
    counted,
    in_words,
    with_interval,
)
from webapp.page_parts import annotation_state, figure_note, reliability_of


def show_same_person(study: Study, person: SignedIn) -> None:
    """Each person with themself, and whether their agreement with others changes as they go on."""
    made = counted(study, person)
    if made is None:
        return
    view = choose(study, made, st.columns([1, 1, 1.3, 0.9], vertical_alignment="bottom"))
    st.subheader("The same person twice", anchor=False)
    again = agreeing.intra_table(made, view.iou, view.choice)
    if again.empty:
        st.info("Nobody has handed in a hidden repeat of a patch here. A plan puts some into every queue.")
    else:
        st.dataframe(intra_rows(again), hide_index=True)
        figure_note(
            study,
            "A patch that was hidden in a person's queue once more, beside their first look. Nobody can be "
            f"expected to agree better with others than with themself. Fewer than {FEWEST_PATCHES} patches, "
            f"or {FEWEST_NUCLEI} nuclei for the class: {TOO_FEW}.",
        )
    st.subheader("Over time", anchor=False)
    table = view.figures()
    if table.empty:
        st.info("No two of these people have handed in the same patch. Choose other filters.")
        return
    st.dataframe(drift_rows(agreeing.over_time(made, table, "f1")), hide_index=True)
    figure_note(
        study,
        "Instance F1 with everybody else on the same patch, mean over the first, second and last third of a "
        "person's patches in the order they handed them in; n: patches. Patches differ: a change of a few "
        f"hundredths means nothing. Fewer than {FEWEST_PATCHES} patches: {TOO_FEW}.",
    )


def intra_rows(again: pd.DataFrame) -> pd.DataFrame:
    enough, choices = again["n_patches"] >= FEWEST_PATCHES, again["n_choices"] >= FEWEST_NUCLEI
    of_all = again["class"] == ALL
    columns = ["f1", "f1_low", "f1_high", "f1_by_slide"]
    f1 = [with_interval(*row) for row in again[columns].itertuples(index=False)]
    return pd.DataFrame(
        {
            "Person": again["person_id"],
            "Class": again["class"],
            "F1 (95 % interval)": pd.Series(f1, again.index).where(enough, TOO_FEW),
            "Dice": in_words(again["dice"].where(enough), "{:.2f}"),
            "Matched": in_words(again["matched_dice"].where(enough), "{:.2f}"),
            "PQ": in_words(again["pq"].where(enough), "{:.2f}"),
            "Kappa": in_words(again["cohen_kappa"].where(choices), "{:.2f}").where(of_all, ""),
            "AC1": in_words(again["gwet_ac1"].where(choices), "{:.2f}").where(of_all, ""),
            "Patches": again["n_patches"],
            "Nuclei first": again["n_first"],
            "again": again["n_repeat"],
            "both": again["n_matched"],
        }
    )


def drift_rows(parts: pd.DataFrame) -> pd.DataFrame:
    """A row for each person, a column for each third of their work."""
    parts = parts.assign(
        text=[
            f"{value:.2f} (n = {n})" if n >= FEWEST_PATCHES and not pd.isna(value) else f"{TOO_FEW} (n = {n})"
            for value, n in parts[["value", "n_patches"]].itertuples(index=False)
        ]
    )
    table = parts.pivot(index=["person_id", "group"], columns="part", values="text")
    table = table.reindex(columns=range(1, agreeing.PARTS + 1)).astype(object).fillna("")
    table.columns = ["First third", "Second third", "Last third"]
    return table.reset_index().rename(columns={"person_id": "Person", "group": "Group"})


def show_reliability(study: Study, person: SignedIn) -> None:
    """How far each person can be trusted, by what the others marked."""
    if (n_marks := marks_handed_in(study)) > AT_ONCE:
        st.info(
            f"This takes too long for a page with {n_marks:,} outlines. `python -m allinsam export --table "
            "reliability` writes the table."
        )
        return
    table = reliability_of(str(study.folder), annotation_state(study))
    among = st.selectbox("People", list(table["raters"].unique()), format_func=AMONG_NAMES.get)
    mine = table[table["raters"] == among].copy()
    for share, n in BASIS.items():
        mine.loc[mine[n] < FEWEST_NUCLEI, share] = float("nan")
    shown = pd.DataFrame(
        {
            "Person": mine["person_id"],
            "Class": mine["class"],
            "Nuclei": mine["n_objects"],
            "Found": in_words(mine["found_share"], "{:.0%}"),
            "Alone": in_words(mine["alone_share"], "{:.0%}"),
            "Right class": in_words(mine["class_accuracy"], "{:.0%}"),
            "Outline inside": in_words(mine["staple_sensitivity"], "{:.2f}"),
            "Outline outside": in_words(mine["staple_specificity"], "{:.2f}"),
            "F1": in_words(mine["f1"], "{:.2f}"),
            "F1 without": in_words(mine["f1_without"], "{:.2f}"),
            "Alpha": in_words(mine["alpha"], "{:.2f}"),
            "Alpha without": in_words(mine["alpha_without"], "{:.2f}"),
        }
    )
    st.dataframe(shown, hide_index=True)
    figure_note(
        study,
        "Found: share of the nuclei that most of the others marked. Alone: marked by nobody else who looked. "
        "Right class: chance to name the class where it is right (Dawid-Skene). Outline inside and outside: "
        "share of the likely pixels drawn, and of the others left out (STAPLE). F1 and Krippendorff's alpha "
        "of all, and without this person: higher without means apart from the rest. "
        f"{TOO_FEW.capitalize()}: fewer than {FEWEST_NUCLEI} nuclei, or fewer than three people. "
        f"{LEFT_OUT} People who share an error trust each other: read it beside scores against gold.",
    )
