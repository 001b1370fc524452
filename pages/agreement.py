"""Agreement: do people find the same nuclei, draw the same outline, choose the same class, and how fast?"""

import pandas as pd
import streamlit as st

from allinsam.accounts import may
from allinsam.agreement import matrix
from allinsam.comparison import interval_in_words
from allinsam.store import Study
from webapp import charts
from webapp.causes_parts import show_causes
from webapp.page_parts import (
    agreement_of,
    annotation_state,
    download_link,
    empty_state,
    figure_note,
    figure_suffix,
    page_head,
    reliability_of,
)
from webapp.session import current_study, require
from webapp.time_parts import show_times

FEWEST_PATCHES = 3
FEWEST_NUCLEI = 10
FIGURES = {
    "f1": ("Instance F1", "the same nuclei found: 1 means all of them, matched at IoU above 0.5"),
    "dice": ("Pixel Dice", "the same pixels marked, found or missed nuclei included"),
    "matched_dice": ("Matched Dice", "the same outline, on nuclei that both found"),
}
TOO_FEW = "too few"
LEFT_OUT = "Patches begun from suggestions are left out: people shown the same outlines agree by them."
AMONG = {"everyone": "Everyone", "student": "Students", "expert": "Experts"}
# A share of a person's reliability -> the number of nuclei it rests on.
BASIS = {
    "found_share": "n_others",
    "alone_share": "n_objects",
    "class_accuracy": "n_choices",
    "staple_sensitivity": "n_outlines",
    "staple_specificity": "n_outlines",
}
PAIRS = {
    "student + student": "two students",
    "expert + student": "student and expert",
    "expert + expert": "two experts",
}


def show_nuclei(study: Study, tables: dict[str, pd.DataFrame]) -> None:
    pairwise = tables["pairwise"]
    left, right = st.columns(2)
    value = left.selectbox("Figure", list(FIGURES), format_func=lambda name: FIGURES[name][0])
    class_name = right.selectbox("Class", ["all classes", *sorted(pairwise["class"].unique())])
    chosen = pairwise if class_name == "all classes" else pairwise[pairwise["class"] == class_name]
    figures, counts = matrix(chosen, value), matrix(chosen, value, "count")
    title = f"{FIGURES[value][0]}, {class_name}{figure_suffix(study)}"
    left, right = st.columns([1, 1])
    left.plotly_chart(
        charts.heat_map(figures, counts, FEWEST_PATCHES, title), config=charts.CONFIG, key="heat"
    )
    with right:
        st.dataframe(group_rows(tables["groups"]), hide_index=True)
        figure_note(
            study,
            "F1 with its 95 % interval over slides (of too few slides the mean of each), pixel Dice and Dice "
            "of matched nuclei. "
            "n counts pairs of people on patches.",
        )
    figure_note(
        study,
        f"{FIGURES[value][0]}: {FIGURES[value][1]}. Mean over the patches that both finished, n of them "
        f"(each class counts on its own). Fewer than {FEWEST_PATCHES}: {TOO_FEW}. {LEFT_OUT} "
        "Agreement is not correctness.",
    )


def group_rows(groups: pd.DataFrame) -> pd.DataFrame:
    """The summary per kind of pair in words."""
    enough = groups["n_patches"] >= FEWEST_PATCHES
    table = pd.DataFrame(
        {
            "Class": groups["class"],
            "Who": groups["pair"].map(lambda pair: PAIRS.get(pair, pair)),
            "F1 (95 % interval)": [
                with_interval(*row)
                for row in groups[["f1", "f1_low", "f1_high", "f1_by_slide"]].itertuples(index=False)
            ],
            "Dice": groups["dice"].map("{:.2f}".format),
            "Matched": groups["matched_dice"].map("{:.2f}".format).replace("nan", TOO_FEW),
            "n": groups["n"],
            "Patches": groups["n_patches"],
            "Slides": groups["n_clusters"],
        }
    )
    table.loc[~enough, ["F1 (95 % interval)", "Dice", "Matched"]] = TOO_FEW
    return table


def with_interval(mean: float, low: float, high: float, by_slide: list[float]) -> str:
    return f"{mean:.2f} ({interval_in_words(low, high, by_slide)})"


def show_classes(study: Study, classes: pd.DataFrame) -> None:
    if classes.empty or not classes["n_matched"].sum():
        st.info("No two people have found the same nuclei on a patch where both finished two classes.")
        return
    few = classes["n_matched"] < FEWEST_NUCLEI
    table = pd.DataFrame(
        {
            "Person": classes["rater_a"],
            "and": classes["rater_b"],
            "Same class": classes["agree"].map("{:.1%}".format),
            "Cohen's kappa": classes["cohen_kappa"].map("{:.2f}".format).replace("nan", "one class only"),
            "Gwet's AC1": classes["gwet_ac1"].map("{:.2f}".format),
            "Nuclei both found": classes["n_matched"],
            "Patches": classes["n_patches"],
        }
    )
    table.loc[few, ["Same class", "Cohen's kappa", "Gwet's AC1"]] = TOO_FEW
    st.dataframe(table, hide_index=True)
    figure_note(
        study,
        "Class of the nuclei that both found, matched whatever their class, on patches where both finished "
        "two classes or more. Kappa falls when one class is rare, AC1 does not: read both. "
        f"Fewer than {FEWEST_NUCLEI} nuclei: {TOO_FEW}. {LEFT_OUT}",
    )


def show_reliability(study: Study, table: pd.DataFrame) -> None:
    among = st.selectbox("Among", list(table["raters"].unique()), format_func=AMONG.get)
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


def in_words(figures: pd.Series, form: str) -> pd.Series:
    return figures.map(form.format).where(figures.notna(), TOO_FEW)


def main() -> None:
    person, study = require("lead", "reviewer"), current_study()
    left, right = st.columns([6, 1], vertical_alignment="bottom")
    with left:
        page_head("Agreement", "People who worked on the same patches without seeing each other's work.")
    state = annotation_state(study)
    tables = agreement_of(str(study.folder), state)
    if tables["pairwise"].empty:
        empty_state(
            "**No patch has been finished by two people without suggestions yet.** Assign the same patches "
            "to two people.",
            person,
            "people" if may(person, "manage_people") else None,
            "Assign patches",
        )
        show_times(study, person)
        return
    if may(person, "export"):
        with right:
            download_link("agreement.csv", "Download CSV")
    names = ["Nuclei and outlines", "Class", "Time", "Each person", "Why"]
    tabs = st.tabs(names, key="tab", on_change="rerun")
    with tabs[0]:
        show_nuclei(study, tables)
    with tabs[1]:
        show_classes(study, tables["classes"])
    if tabs[2].open:
        with tabs[2]:
            show_times(study, person)
    if tabs[3].open:  # takes seconds
        with tabs[3]:
            show_reliability(study, reliability_of(str(study.folder), state))
    if tabs[4].open:
        with tabs[4]:
            show_causes(study, person)


main()
