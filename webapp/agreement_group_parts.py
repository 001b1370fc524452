"""Agreement of kinds of pairs with the patches behind each, of everybody together, and of classes."""

import numpy as np
import pandas as pd
import streamlit as st

from allinsam.accounts import SignedIn
from allinsam.comparison import FEWEST_NUCLEI, FEWEST_PATCHES
from allinsam.store import Study
from allinsam.workflow import agreeing
from allinsam.workflow.agreeing import MAJORITY
from webapp.agreement_parts import (
    LEFT_OUT,
    TOO_FEW,
    View,
    choose,
    counted,
    in_words,
    show_picture,
    with_interval,
)
from webapp.page_parts import (
    figure_note,
)

PAIRS = {
    "student + student": "two students",
    "expert + student": "student and expert",
    f"{MAJORITY} + expert": "majority of students and expert",
    "expert + expert": "two experts",
}


def show_groups(study: Study, person: SignedIn) -> None:
    """Kinds of pairs, and everybody together."""
    made = counted(study, person)
    if made is None:
        return
    view = choose(study, made, st.columns([1, 1, 1.3, 0.9], vertical_alignment="bottom"))
    table = view.figures()
    table = agreeing.with_majority(made, table, view.choice, view.iou)
    if table.empty:
        st.info("No two of these people have handed in the same patch. Choose other filters.")
        return
    groups = in_order(agreeing.by_groups(table))
    picked = st.dataframe(
        group_rows(groups),
        hide_index=True,
        on_select="rerun",
        selection_mode="single-row",
        key=f"groups {view.what} {view.choice.among} {view.choice.purpose}",
    )["selection"]["rows"]
    st.caption("Click at the left of a row to see the patches behind it, the worst first.")
    if picked and picked[0] < len(groups):
        show_group_patches(view, table, groups.iloc[picked[0]])
    figure_note(
        study,
        f"{view.what[0].upper()}{view.what[1:]}. F1 with its 95 % interval over slides (of fewer than 6, "
        "each slide's), pixel Dice, and Dice of matched nuclei. n counts pairs of people on patches. "
        "Majority: what more than half of three students or more marked, as one outline, compared with each "
        "expert; of classes with as many votes the one commoner on the patch. Fewer than "
        f"{FEWEST_PATCHES} patches: {TOO_FEW}. {LEFT_OUT}",
    )
    st.subheader("Everybody together: Krippendorff's alpha", anchor=False)
    st.dataframe(alpha_rows(agreeing.alpha_table(made, view.choice, view.iou)), hide_index=True)
    figure_note(
        study,
        "Of every nucleus that anybody marked, on patches asked for the same classes. Found and class: not "
        "having seen a nucleus is an answer, too. Class only: what those who saw it called it. 1 is full "
        f"agreement, 0 is chance. Fewer than {FEWEST_NUCLEI} nuclei: {TOO_FEW}. The class filter does not "
        "apply.",
    )


def in_order(groups: pd.DataFrame) -> pd.DataFrame:
    """Class by class, the kinds of pairs in the order of PAIRS."""
    order = {pair: place for place, pair in enumerate(PAIRS)}
    by_kind = np.lexsort((groups["pair"].map(order).fillna(len(order)), groups["class"]))
    return groups.iloc[by_kind].reset_index(drop=True)


def show_group_patches(view: View, table: pd.DataFrame, group: pd.Series) -> None:
    """The patches behind one kind of pair and class, worst first, and one of them with both outlines."""
    of_group = np.array(agreeing.pair_kinds(table)) == group["pair"]
    mine = table[of_group & (table["class"] == group["class"]).to_numpy()]
    mine = mine.sort_values(["f1", "patch"], na_position="last", ignore_index=True)
    shown = pd.DataFrame(
        {
            "Patch": mine["patch"],
            "Of": mine["rater_a"],
            "and": mine["rater_b"],
            "F1": in_words(mine["f1"], "{:.2f}", "none"),
            "Both": mine["n_matched"],
            "Only the first": mine["n_a"] - mine["n_matched"],
            "Only the second": mine["n_b"] - mine["n_matched"],
        }
    )
    with st.container(border=True):
        who = PAIRS.get(group["pair"], group["pair"])
        st.markdown(f"**{who[0].upper()}{who[1:]}, {group['class']}**: {len(mine)} comparisons, worst first")
        left, right = st.columns([1.15, 1])
        picked = left.dataframe(
            shown,
            hide_index=True,
            height=38 + 35 * min(len(shown), 12),
            on_select="rerun",
            selection_mode="single-row",
            key=f"group {group['class']} {group['pair']} {view.what} {view.choice.purpose}",
        )["selection"]["rows"]
        row = mine.iloc[picked[0] if picked and picked[0] < len(mine) else 0]
        with right:
            show_picture(view, "f1", row, (row["rater_a"], row["rater_b"]))


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


def alpha_rows(table: pd.DataFrame) -> pd.DataFrame:
    """The table of alpha in words."""
    found = in_words(table["alpha"].where(table["n"] >= FEWEST_NUCLEI), "{:.2f}")
    classes = in_words(table["alpha_class"], "{:.2f}", "one class only")
    return pd.DataFrame(
        {
            "Classes asked for": table["classes"],
            "Found and class": found,
            "n": table["n"],
            "Class only": classes.where(table["n_class"] >= FEWEST_NUCLEI, TOO_FEW),
            "n ": table["n_class"],
            "People": table["n_people"],
            "Patches": table["n_patches"],
        }
    )


def show_classes(study: Study, person: SignedIn) -> None:
    """Which class the nuclei have that two people found."""
    made = counted(study, person)
    if made is None:
        return
    view = choose(study, made, st.columns([1, 1, 1.3, 0.9], vertical_alignment="bottom"))
    classes = agreeing.class_table(view.choices(), view.choice)
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
        f"Fewer than {FEWEST_NUCLEI} nuclei: {TOO_FEW}. The class filter does not apply. {LEFT_OUT}",
    )
