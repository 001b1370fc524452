"""The tab "Minutes and size" of the Compare page: what people's minutes, or more patches, buy in score."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import streamlit as st

from allinsam.accounts import SignedIn, may
from allinsam.store import Study, open_study
from allinsam.training.networks import NETWORKS
from allinsam.workflow import scored
from allinsam.workflow.label_costs import UNTRAINED_LINE, curve_of, groups_of, minutes_and_scores, scores_at
from webapp import pace_charts
from webapp.figure_parts import show_figure
from webapp.page_parts import (
    METRIC_NAMES,
    download_link,
    empty_state,
    figure_note,
    figure_suffix,
    score_state,
)
from webapp.time_parts import cutoff_dial

AGAINST = {
    "train_minutes": ("Minutes of work", "active minutes people spent on the training patches", "min"),
    "train_patches": ("Patches", "training patches", "patches"),
    "train_nuclei": ("Nuclei", "nuclei on the training patches", "nuclei"),
}


@st.cache_data(max_entries=16, show_spinner="Adding up what the labels took ...")
def costs_of(folder: str, state: tuple[int, ...], idle_cutoff_s: float) -> pd.DataFrame:
    """`minutes_and_scores`; `state` stands for the scores. Frozen labels do not change, nor do their acts."""
    return minutes_and_scores(open_study(Path(folder)), idle_cutoff_s)


def show_curves(study: Study, person: SignedIn, metric: str = "f1_instance") -> None:
    """Score over minutes, patches or nuclei, a line for each kind of label; dials redraw this part only."""
    st.fragment(_show)(study, person, metric)


def _show(study: Study, person: SignedIn, metric: str) -> None:
    left, middle, right = st.columns([2.3, 3.8, 1.5], vertical_alignment="bottom")
    x = left.segmented_control(
        "Score against",
        list(AGAINST),
        default="train_minutes",
        format_func=lambda name: AGAINST[name][0],
        key="curve-x",
        required=True,
    )
    with middle:
        cutoff_s = cutoff_dial(study, "curve-cutoff")
    if may(person, "export"):
        with right:
            download_link("minutes_and_scores.csv", "Download minutes")
    table = costs_of(str(study.folder), score_state(study), cutoff_s)
    group = _ask_group(table)
    if group is None:
        _what_to_press(person, "**No trained model has been scored yet.**")
        return
    curve = curve_of(table, group, metric)
    missing = curve.loc[curve[x].isna(), "line"].unique()
    curve = curve[curve[x].notna()]
    curve = curve.assign(note=[note_of(row) for row in curve.to_dict("records")])
    if curve["line"].nunique() - (UNTRAINED_LINE in set(curve["line"])) == 0:
        st.info("Nobody's time is behind these labels. Choose patches or nuclei above.")
        return
    _, unit, short = AGAINST[x]
    title = f"{METRIC_NAMES[metric]} on the test patches{figure_suffix(study)}"
    figure = pace_charts.score_curve(curve, x, unit, METRIC_NAMES[metric], title)
    show_figure(study, figure, "curve")
    if said := at_same_cost(curve, x, short):
        st.markdown(said)
    if not has_curve(curve):
        _what_to_press(person, "**Each line is a single size so far.**")
    st.dataframe(curve_rows(curve), hide_index=True)
    nobody = f" Without minutes, as nobody drew them: {', '.join(missing)}." if len(missing) else ""
    told = "" if x != "train_minutes" else minutes_sentence(cutoff_s)
    figure_note(
        study,
        "Each point: one run, trained on that much with the same settings (the time it may compute, too) and "
        "scored on the same test patches; bars: 95 % interval over slides. Lines "
        "go through the mean of the runs of one size. Smaller sizes are "
        f"nested and drawn by seed, the same patches for every line.{nobody}{told} "
        + scored.split_sentences(study, curve.loc[curve["line"] != UNTRAINED_LINE, "run_id"].unique()),
    )


def minutes_sentence(cutoff_s: float) -> str:
    return (
        f" Minutes: active time of the people behind the labels, gaps up to {cutoff_s:g} s, until the labels "
        "were frozen. Validation patches, time to learn and a reviewer's time are not in them."
    )


def _ask_group(table: pd.DataFrame) -> int | None:
    """Which runs stand side by side: those that differ in their labels and seed only."""
    groups = groups_of(table)
    if len(groups) < 2:
        return next(iter(groups), None)
    # The newest that is a curve already, else the newest.
    curves = [group for group in groups if has_curve(table[table["settings_group"] == group])]
    start = list(groups).index((curves or list(groups))[0])
    return st.selectbox(
        "Runs that differ in their labels and seed only",
        list(groups),
        index=start,
        format_func=lambda group: group_name(groups[group]),
    )


def group_name(runs: pd.DataFrame) -> str:
    ids = sorted(runs["run_id"].unique())
    first = runs.iloc[0]
    said = f"{'Run' if len(ids) == 1 else 'Runs'} {spans(ids)}"
    return f"{said}: {NETWORKS[first['network']].title}, split {first['split_id']}"


def spans(ids: Sequence[int]) -> str:
    """1, 3 to 5, 9"""
    parts: list[list[int]] = []
    for number in ids:
        if parts and number == parts[-1][-1] + 1:
            parts[-1].append(number)
        else:
            parts.append([number])
    return ", ".join(f"{p[0]} to {p[-1]}" if len(p) > 1 else f"{p[0]}" for p in parts)


def has_curve(curve: pd.DataFrame) -> bool:
    """Whether a line has two sizes."""
    trained = curve[curve["line"] != UNTRAINED_LINE]
    return bool((trained.groupby("line")["train_patches"].nunique() > 1).any())


def _what_to_press(person: SignedIn, begin: str) -> None:
    empty_state(
        f"{begin} On the Train page open **Step by step**, choose labels, method and preset, and press "
        "**Size curve**: it trains on an eighth, a quarter, half and all of the training patches and scores "
        "the runs. Do it for the expert's and for the students' labels to compare what their minutes buy.",
        person,
        "train",
        "Go to Train",
    )


def note_of(row: dict[str, Any]) -> str:
    """What a point is, when somebody points at it."""
    minutes = "" if pd.isna(row["train_minutes"]) else f", {row['train_minutes']:.1f} min"
    size = f"{row['train_patches']} patches, {row['train_nuclei']} nuclei{minutes}"
    return f"run {row['run_id']}: {row['line']}<br>{size}"


def at_same_cost(curve: pd.DataFrame, x: str, unit: str) -> str:
    """Scores of all lines at the largest size that all of them reach, read off the lines."""
    said, at = [], None
    for class_name, part in curve.groupby("class_name"):
        at, found = scores_at(part, x)
        if len(found) > 1:
            words = ", ".join(f"{line} {score:.2f}" for line, score in found.items())
            said.append(f"{class_name}: {words}")
    return f"**At {at:.3g} {unit}**, read off the lines: {'; '.join(said)}." if said else ""


def curve_rows(curve: pd.DataFrame) -> pd.DataFrame:
    """A row for each run, its scores in a column for each class."""
    keys = ["line", "train_patches", "run_id"]
    runs = curve.drop_duplicates("run_id").sort_values(keys)
    shown = pd.DataFrame(
        {
            "Labels": runs["line"],
            "Run": runs["run_id"],
            "Seed": runs["seed"],
            "Training patches": runs["train_patches"],
            "Nuclei": runs["train_nuclei"],
            "Minutes": [f"{m:.1f}" if pd.notna(m) else "nobody's" for m in runs["train_minutes"]],
        }
    )
    for class_name, part in curve.groupby("class_name"):
        mine = part.set_index("run_id")
        words = {run_id: with_interval(mine.loc[run_id]) for run_id in mine.index}
        shown[class_name] = runs["run_id"].map(words).fillna("not scored")
    return shown


def with_interval(row: pd.Series) -> str:
    return f"{row['mean']:.3f}" + ("" if pd.isna(row["low"]) else f" ({row['low']:.3f} to {row['high']:.3f})")
