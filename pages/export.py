"""Export: every table of the study as CSV."""

import pandas as pd
import streamlit as st

from allinsam.store import Study
from allinsam.workflow.export_columns import COLUMNS, TITLES
from webapp.page_parts import (
    agreement_of,
    annotation_state,
    consensus_counts,
    download_link,
    page_head,
    row_counts,
    score_state,
    scores_of,
    simulated_note,
    times_of,
)
from webapp.session import current_study, require


def rows_of(study: Study) -> dict[str, int]:
    """Table -> number of rows."""
    folder, state = str(study.folder), annotation_state(study)
    agreement = agreement_of(folder, state)
    return {
        **row_counts(folder, state),
        "times": len(times_of(folder, state)["by_patch"]),
        "agreement": len(agreement["pairwise"]),
        "classes": len(agreement["classes"]),
        **consensus_counts(folder, state),
        "scores": len(scores_of(folder, score_state(study))),
    }


def main() -> None:
    require("lead")
    study = current_study()
    page_head("Export", "CSV files (UTF-8, comma) with pseudonyms instead of names.")
    counts = rows_of(study)
    for table, title in TITLES.items():
        with st.container(border=True):
            left, middle, right = st.columns([6, 1.2, 1.6], vertical_alignment="center")
            left.markdown(f"**{table}.csv**  \n{title}")
            middle.markdown(f"{counts[table]:,} rows" if counts[table] else ":gray[empty]")
            with right:
                download_link(table, f"Download {table}")
    with st.expander("What the columns mean"):
        for tab, table in zip(st.tabs(list(COLUMNS)), COLUMNS, strict=True):
            meanings = pd.DataFrame(COLUMNS[table].items(), columns=["Column", "Meaning"])
            tab.dataframe(meanings, hide_index=True)
    st.caption("On the command line: `python -m allinsam export --study FOLDER`. Names are never exported.")
    simulated_note(study)


main()
