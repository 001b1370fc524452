"""What the paper printed, on the Compare page: apart from what was measured here, and looking apart."""

import pandas as pd
import streamlit as st

from allinsam.experiments.published import PRINTED_IN, SLIPS, SOURCE, printed_table

HEADS = {
    "method": "Method",
    "annotators": "Labels of",
    "labels": "Labels",
    "data": "Training data",
    "dice": "Dice",
    "auc": "AUC",
    "recall": "Recall",
    "precision": "Precision",
    "best_f1": "Best F1",
    "iou": "IoU",
    "adj": "Jaccard (ADJ)",
}
NOTES = {
    "Table 1": SLIPS,
    "Table 2": "Its ADJ column mixes two metrics: Xie's is a Jaccard index of nuclei, the others' of pixels.",
    "Table 3": "ADJ is the Jaccard index of the pixels of each image, averaged. Its IoU does not follow from "
    "Dice on the same masks.",
}
STYLE = """<style>.st-key-published { background: #f4f4f2; border: 2px dashed #8a969b; border-radius: .35rem;
padding: .7rem 1rem; } .st-key-published p { color: #4b565a; }</style>"""


def ask_published() -> bool:
    return st.toggle("Show the paper's published figures", key="published-on", persist_state="session")


def show_published() -> None:
    """The paper's tables in a block of their own. No figure of them enters a plot, a test or a mean."""
    with st.container(key="published"):
        st.html(STYLE)
        left, right = st.columns([4, 1], vertical_alignment="center")
        name = right.segmented_control(
            "Table of the paper",
            list(PRINTED_IN),
            default="Table 1",
            key="published-table",
            required=True,
            label_visibility="collapsed",
        )
        left.markdown(
            f"**Published, other images, not measured here.** {SOURCE}, {name}: {PRINTED_IN[name]}."
        )
        st.dataframe(as_printed(printed_table(name)), hide_index=True)
        st.caption(
            f"{NOTES[name]} Other slides, other people and other splits than this study's: these figures say "
            "what the authors reached, not what is to be expected here."
        )


def as_printed(table: pd.DataFrame) -> pd.DataFrame:
    """Four digits as in print, grey; a figure that was not reported is a dash."""
    text = table.copy().astype(object)
    for column in table.select_dtypes("number").columns:
        text[column] = ["–" if pd.isna(value) else f"{value:.4f}" for value in table[column]]
    return text.rename(columns=HEADS)
