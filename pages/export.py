"""Export: every table of the study as CSV, and the nuclei in the formats of other programs."""

import pandas as pd
import streamlit as st

from allinsam import jobs
from allinsam.accounts import SignedIn, demand
from allinsam.interchange import FORMATS
from allinsam.store import Study, reviews
from allinsam.workflow.export_columns import COLUMNS, TITLES
from allinsam.workflow.exports import consents_table, people_table
from allinsam.workflow.overlapping import AT_ONCE, marks_handed_in
from allinsam.workflow.report import kept_report
from allinsam.workflow.taught import learning_table
from webapp.causes_parts import cause_counts
from webapp.clock import local_date_time
from webapp.job_parts import show_jobs
from webapp.page_parts import (
    agreement_counts,
    annotation_state,
    consensus_counts,
    curve_counts,
    download_link,
    page_head,
    row_counts,
    score_state,
    scores_of,
    settled_count,
    simulated_note,
    suggestion_counts,
    times_of,
)
from webapp.session import current_study, require

JOB = "report"


def rows_of(study: Study) -> dict[str, int | None]:
    """Table -> number of rows; None, or not there, where only making the table would tell."""
    folder, state = str(study.folder), annotation_state(study)
    kept = kept_report(study)
    told_by_making = {}
    if marks_handed_in(study) <= AT_ONCE:
        told_by_making = {
            "times": len(times_of(folder, state)["by_patch"]),
            **curve_counts(folder, state, score_state(study)),
            **agreement_counts(folder, state),
            **consensus_counts(folder, state),
            **cause_counts(folder, state),
        }
    return {
        "figures": kept.n_figures if kept and kept.is_current else None,
        "standing_out": None,
        **row_counts(folder, state),
        **told_by_making,
        **review_counts(study),
        **suggestion_counts(folder, state),
        "learning": len(learning_table(study)),
        "people": len(people_table(study)),
        "consents": len(consents_table(study)),
        "settled": settled_count(study),
        "scores": len(scores_of(folder, score_state(study))),
    }


def rows_in_words(rows: int | None) -> str:
    """None: how many there are is not known before the table is made."""
    if rows is None:
        return ":gray[made when asked for]"
    return f"{rows:,} rows" if rows else ":gray[empty]"


def review_counts(study: Study) -> dict[str, int]:
    with study.science.read() as db:
        return {"reviews": len(reviews.list_reviews(db)), "decisions": len(reviews.list_decisions(db))}


def show_report(study: Study, person: SignedIn) -> None:
    """The report that was made, whether it still holds, and the job that makes it."""
    kept = kept_report(study)
    active = any(view.is_active and view.verb == JOB for view in jobs.list_views(study, 50))
    with st.container(border=True):
        left, middle, right = st.columns([5.6, 1.6, 1.6], vertical_alignment="center")
        told = "Not made yet." if kept is None else f"Made {local_date_time(kept.written_at)}."
        if kept and not kept.is_current:
            told += " :orange[The study has changed since.]"
        left.markdown(
            "**Report**  \n:gray[One page to read or print, with every figure, its n, interval and "
            f"definition; figures.csv has the same.] {told}"
        )
        label = "Make the report" if kept is None else "Make it again"
        primary = kept is None or not kept.is_current
        with (middle if kept else right).container(horizontal=True, horizontal_alignment="right"):
            asked = st.button(label, type="primary" if primary else "secondary", disabled=active)
        if asked:
            demand(person, "export")
            jobs.submit(study, JOB, {}, person.person_id)
            st.rerun()
        if kept:
            with right:
                download_link("report.html", "Download report")
    show_jobs(study, limit=1, verbs=(JOB,))


def show_card() -> None:
    """The methods of a paper, and every fact behind them."""
    with st.container(border=True):
        left, middle, right = st.columns([5.6, 1.6, 1.6], vertical_alignment="center")
        left.markdown(
            "**Data card**  \n:gray[A methods paragraph written from the record, and every fact behind it: "
            "images, thresholds, people, arms, time, labels, runs, what was left out, versions.]"
        )
        with middle:
            download_link("data_card.md", "Download text")
        with right:
            download_link("data_card.json", "Download JSON")


def show_formats(objects: int) -> None:
    """A ZIP per format: a file for each person and patch, and an index."""
    st.subheader("Nuclei for other programs", anchor=False)
    st.caption("One file for each person and patch, and index.csv, which says whose each file is.")
    if not objects:
        st.markdown("No nucleus has been accepted yet.")
        return
    for name, row in FORMATS.items():
        if row.write is None:
            continue
        with st.container(border=True):
            left, right = st.columns([7.2, 1.6], vertical_alignment="center")
            left.markdown(
                f"**{row.title}**  \n:gray[Not in it: {row.leaves_out[0].lower()}{row.leaves_out[1:]}]"
            )
            with right:
                download_link(f"annotations/{name}.zip", f"Download {name}")


def main() -> None:
    person, study = require("lead"), current_study()
    page_head(
        "Export", "CSV tables (UTF-8, comma) and nuclei for other programs, with pseudonyms instead of names."
    )
    counts = rows_of(study)
    st.subheader("For the paper", anchor=False)
    show_report(study, person)
    show_card()
    st.subheader("Tables", anchor=False)
    for table, title in TITLES.items():
        with st.container(border=True):
            left, middle, right = st.columns([6, 1.2, 1.6], vertical_alignment="center")
            left.markdown(f"**{table}.csv**  \n{title}")
            middle.markdown(rows_in_words(counts.get(table)))
            with right:
                if table == "people":
                    names = st.checkbox("With sign-in names", help="For this server only. It is logged.")
                    download_link(f"people.csv{'?names=1' if names else ''}", "Download people")
                else:
                    download_link(f"{table}.csv", f"Download {table}")
    show_formats(counts["objects"])
    with st.expander("What the columns mean"):
        for tab, table in zip(st.tabs(list(COLUMNS)), COLUMNS, strict=True):
            meanings = pd.DataFrame(COLUMNS[table].items(), columns=["Column", "Meaning"])
            tab.dataframe(meanings, hide_index=True)
    st.caption(
        "On the command line: `python -m allinsam export` and `export-annotations`. "
        "There are no sign-in names in anything here, but for people.csv where you ask for them. What is "
        "taken out is in the Log."
    )
    simulated_note(study)


main()
