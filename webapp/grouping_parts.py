"""The tab "Free table" of the Compare page: scores by whatever somebody puts in rows and columns."""

from pathlib import Path
from urllib.parse import urlencode

import pandas as pd
import streamlit as st

from allinsam.accounts import SignedIn, may
from allinsam.comparison import FEWEST_SLIDES, interval_in_words
from allinsam.errors import AllinsamError
from allinsam.store import Study, open_study
from allinsam.workflow.grouping import (
    DIMENSIONS,
    SOURCES,
    Grouping,
    columns_of,
    dimensions_table,
    group_scores,
    of_source,
)
from webapp.page_parts import METRIC_NAMES, download_link, figure_note, score_state

DIMENSION_NAMES = {
    "method": "Method",
    "run": "Run",
    "labels": "Labels from",
    "class": "Class",
    "marker": "Marker",
    "condition": "Condition",
    "slide": "Slide",
    "patch": "Patch",
    "reference": "Scored against",
}
SOURCE_NAMES = {
    "side_by_side": "Runs shown above",
    "all_runs": "All runs",
    "people": "People's labels",
}
THINGS = {"side_by_side": "Runs", "all_runs": "Runs", "people": "Label sets"}
EMPTY = "not scored"


@st.cache_data(max_entries=4, show_spinner="Reading the scores ...")
def dimensions_of(folder: str, state: tuple[int, ...]) -> pd.DataFrame:
    """`dimensions_table`; `state` stands for the scores."""
    return dimensions_table(open_study(Path(folder)))


def show_grouping(study: Study, person: SignedIn, metric: str) -> None:
    """Choosing draws this part of the page only."""
    st.fragment(_show)(study, person, metric)


def _show(study: Study, person: SignedIn, metric: str) -> None:
    first, second, third, last = st.columns([1.6, 1.9, 1.9, 1], vertical_alignment="bottom")
    source = first.selectbox("Scores of", SOURCES, format_func=SOURCE_NAMES.get, key="group-of")
    options = {"options": DIMENSIONS, "format_func": DIMENSION_NAMES.get}
    rows = second.multiselect("Rows", default=["labels"], key="group-rows", **options)
    columns = third.multiselect("Columns", default=["class", "condition"], key="group-columns", **options)
    try:
        asked = Grouping(tuple(rows), tuple(columns), metric, source)
        table = of_source(study, dimensions_of(str(study.folder), score_state(study)), source)
        groups = group_scores(table, asked)
    except AllinsamError as error:
        st.warning(str(error))
        return
    if groups.empty:
        st.info("Nothing was scored here by this metric. Choose other scores.")
        return
    if may(person, "export"):
        with last:
            download_link(f"grouped.csv?{urlencode(query_of(asked))}", "Download table")
    st.dataframe(as_shown(groups, asked), hide_index=True)
    figure_note(study, note_of(asked))


def query_of(asked: Grouping) -> dict[str, str]:
    """For the address of the CSV: the same scores, rows, columns and figures, without rounding."""
    lists = {"rows": ",".join(asked.rows), "columns": ",".join(asked.columns)}
    return lists | {"metric": asked.metric, "of": asked.source}


def as_shown(groups: pd.DataFrame, asked: Grouping) -> pd.DataFrame:
    """Without columns a column for each figure; else one for each group, its figures in one cell."""
    rows = list(asked.rows)
    heads = [DIMENSION_NAMES[name] for name in rows]
    interval = [
        interval_in_words(*row, "{:.3f}")
        for row in groups[["low", "high", "by_slide"]].itertuples(index=False)
    ]
    if not asked.columns:
        figures = {
            "Mean": groups["mean"].map("{:.3f}".format),
            "95 % interval": interval,
            THINGS[asked.source]: groups["things"],
            "Patches": groups["patches"],
            "Slides": groups["slides"],
            "Nuclei": groups["nuclei"],
        }
        return pd.DataFrame({**dict(zip(heads, (groups[name] for name in rows), strict=True)), **figures})
    cells = [
        f"{row.mean:.3f} ({ends}) n = {row.patches}, {row.slides}, {row.nuclei}"
        for row, ends in zip(
            groups[["mean", "patches", "slides", "nuclei"]].itertuples(), interval, strict=True
        )
    ]
    groups = groups.assign(cell=cells)
    lines = groups[rows].drop_duplicates().sort_values(rows, ignore_index=True)
    for head, part in columns_of(groups, asked):
        lines = lines.merge(part[[*rows, "cell"]].rename(columns={"cell": head}), on=rows, how="left")
    return lines.fillna(EMPTY).rename(columns=dict(zip(rows, heads, strict=True)))


def note_of(asked: Grouping) -> str:
    n = "n: patches, slides and nuclei of the reference. " if asked.columns else ""
    again = (
        "" if "reference" in asked.by else " Of what was scored against several references the newest counts."
    )
    several = ""
    if asked.source == "all_runs" and "run" not in asked.by:
        several = (
            " Runs that share a cell are averaged, whatever their settings: put Run in the rows to see them."
        )
    return (
        f"{METRIC_NAMES[asked.metric]}, mean over patches, with its 95 % interval over slides; of fewer than "
        f"{FEWEST_SLIDES} slides, the mean of each instead. {n}"
        f"A patch, slide or nucleus is counted once, however many runs were scored on it.{again}{several}"
    )
