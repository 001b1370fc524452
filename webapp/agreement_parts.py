"""What the tabs of the Agreement page share: whom and what to look at, the picture of a pair, the words."""

import html
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import urlencode

import pandas as pd
import streamlit as st

from allinsam import jobs
from allinsam.accounts import SignedIn, demand
from allinsam.comparison import interval_in_words
from allinsam.overlaps import LOWEST_IOU
from allinsam.store import Study
from allinsam.workflow import agreeing, overlapping
from allinsam.workflow.agreeing import MAJORITY, Choice
from allinsam.workflow.overlapping import AMONG, AT_ONCE, StudyOverlaps
from webapp.agreement_routes import COLOURS
from webapp.job_parts import duration, show_jobs
from webapp.page_parts import (
    annotation_state,
    choices_at,
    figures_at,
    overlaps_of,
)

MARKS_PER_S = 6_000  # for telling how long it takes
FIGURES = {
    "f1": ("Instance F1", "the same nuclei found: 1 means all of them"),
    "dice": ("Pixel Dice", "the same pixels marked, found or missed nuclei included"),
    "matched_dice": ("Matched Dice", "the same outline, on nuclei that both found"),
    "pq": ("Panoptic quality", "F1 times the mean IoU of the nuclei that both found"),
    "cohen_kappa": ("Cohen's kappa", "the same class, chance taken off; falls when one class is rare"),
    "gwet_ac1": ("Gwet's AC1", "the same class, chance taken off; does not fall when one class is rare"),
}
OF_CLASS = ("cohen_kappa", "gwet_ac1")
TOO_FEW = "too few"
ALL = "all"
LEFT_OUT = "Patches begun from suggestions are left out: people shown the same outlines agree by them."
AMONG_NAMES = {"everyone": "Everyone", "student": "Students", "expert": "Experts"}


# ---------------------------------------------------------------- counted, or not yet


def counted(study: Study, person: SignedIn) -> StudyOverlaps | None:
    """The study's overlaps. Where there is much to compare, None and the job that does it."""
    key = str(study.folder), annotation_state(study)
    if st.session_state.get("counted") == key:
        return overlaps_of(*key)
    patches = overlapping.list_patches(study)
    missing = overlapping.uncounted(patches)
    n_marks = sum(patch.n_marks for patch in missing)
    if n_marks <= AT_ONCE:
        st.session_state["counted"] = key
        return overlaps_of(*key, patches)
    active = [view for view in jobs.list_views(study, 50) if view.is_active]
    if not any(view.verb == "agreement" for view in active):
        with st.container(border=True):
            st.markdown(
                f"**{n_marks:,} outlines on {len(missing):,} patches are still to be compared** with each "
                f"other: about {duration(n_marks / MARKS_PER_S)}, in the background. The result is kept; "
                "later only patches with new work are compared."
            )
            if st.button("Compare them", type="primary"):
                demand(person, "view_agreement")
                jobs.submit(study, "agreement", {"count": True}, person.person_id)
                st.rerun()
            if active:
                st.caption("Another job is running; this one waits until it ends.")
    show_jobs(study, limit=1, verbs=("agreement",))
    return None


# ---------------------------------------------------------------- whom and what to look at


@dataclass(frozen=True)
class View:
    """What the widgets above a table say."""

    study: Study
    made: StudyOverlaps
    choice: Choice
    iou: float

    @property
    def key(self) -> tuple[str, tuple[int, ...], str, float]:
        return str(self.study.folder), annotation_state(self.study), self.choice.purpose, self.iou

    def figures(self) -> pd.DataFrame:
        return agreeing.chosen_figures(self.made, figures_at(*self.key), self.choice)

    def choices(self) -> agreeing.Chosen:
        return choices_at(*self.key)

    def again(self) -> pd.DataFrame:
        """Everybody's repeats beside their first looks."""
        table = agreeing.figures_of(self.made, agreeing.repeats(self.made), self.iou)
        return agreeing.chosen_figures(self.made, table, self.choice)

    @property
    def what(self) -> str:
        """The choice in words, for a figure's title."""
        names = [self.choice.class_name, self.choice.marker, self.choice.slide, self.choice.condition]
        chosen = [name for name in names if name] or ["all classes"]
        return f"{', '.join(chosen)}, IoU above {self.iou:g}"


def choose(study: Study, made: StudyOverlaps, columns: Sequence[st.delta_generator.DeltaGenerator]) -> View:
    """Class, people, IoU and the rest, each in the URL, so that a view can be sent to somebody."""
    class_name = pick(columns[0], "Class", "class", made.classes)
    among = columns[1].selectbox(
        "Among", AMONG, format_func=AMONG_NAMES.get, key="among", bind="query-params", persist_state="session"
    )
    iou = columns[2].slider(
        "Same nucleus at IoU above",
        LOWEST_IOU,
        0.9,
        0.5,
        0.05,
        key="iou",
        bind="query-params",
        persist_state="session",
    )
    purposes = made.purposes or ["production"]
    first = purposes.index("production") if "production" in purposes else 0
    with columns[3].popover("More filters", width="stretch"):
        marker = pick(st, "Marker", "marker", sorted(set(made.marker_of.values())))
        slide = pick(st, "Slide", "slide", sorted(made.looks["slide"].unique()))
        condition = pick(st, "Condition", "condition", sorted(made.looks["condition"].unique()))
        purpose = st.selectbox(
            "Handed in as",
            purposes,
            first,
            key="purpose",
            bind="query-params",
            persist_state="session",
            help="Practice and qualification are to learn: they are left out unless chosen here.",
        )
    return View(study, made, Choice(purpose, among, class_name, marker, slide, condition), iou)


def pick(place: st.delta_generator.DeltaGenerator, label: str, key: str, names: Sequence[str]) -> str | None:
    """One of these, or None for all."""
    options = [ALL, *(name for name in names if name != ALL)]
    chosen = place.selectbox(label, options, key=key, bind="query-params", persist_state="session")
    return None if chosen == ALL else chosen


# ---------------------------------------------------------------- two outlines, and words


def show_picture(view: View, value: str, row: pd.Series, names: tuple[str, str]) -> None:
    """Both people's outlines; it comes from a route of its own, which asks who is looking."""
    query = {"iou": f"{view.iou:g}", "by": "class" if value in OF_CLASS else "nucleus"}
    if value not in OF_CLASS:
        query["class"] = row["class"]
    first = "majority" if row["rater_a"] == MAJORITY else row["key_a"]
    url = html.escape(f"/api/agreement/{first}/{row['key_b']}.png?{urlencode(query)}")
    name = html.escape(f"{row['patch']} ({row['condition']})")
    legend = "".join(
        f'<span class="swatch" style="background: {colour}"></span>{html.escape(who)} ({line}) &ensp;'
        for who, colour, line in zip(names, COLOURS, ("solid", "dashed"), strict=True)
    )
    meaning = "thin: both found it, thick and filled: only one did"
    if value in OF_CLASS:
        meaning = "thin: the same class, thick: not the same; its classes are written beside it"
    st.html(
        f"""<style>.swatch {{ display: inline-block; width: .9rem; height: .9rem; border-radius: 2px;
        border: 2px solid #101018; margin-right: .3rem; vertical-align: -2px; }}</style>
        <div style="font-size: .9rem; margin-bottom: .3rem"><b>{name}</b> &ensp; {legend}({meaning})</div>
        <a href="{url}" target="_blank"><img src="{url}" alt="Outlines on {name}"
        style="width: 100%; max-width: 40rem; border-radius: 4px"></a>"""
    )


def in_words(figures: pd.Series, form: str, otherwise: str = TOO_FEW) -> pd.Series:
    return figures.map(form.format).where(figures.notna(), otherwise)


def with_interval(mean: float, low: float, high: float, by_slide: list[float]) -> str:
    return f"{mean:.2f} ({interval_in_words(low, high, by_slide)})"
