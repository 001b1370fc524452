"""The parts of the Agreement page: whom and what to look at, the tables, and the patches behind a figure."""

import html
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import urlencode

import numpy as np
import pandas as pd
import streamlit as st

from allinsam import jobs
from allinsam.accounts import SignedIn, demand
from allinsam.agreement import matrix
from allinsam.comparison import interval_in_words
from allinsam.overlaps import LOWEST_IOU
from allinsam.store import Study
from allinsam.workflow import agreeing, overlapping
from allinsam.workflow.agreeing import MAJORITY, Choice
from allinsam.workflow.overlapping import AMONG, StudyOverlaps
from webapp import charts
from webapp.agreement_routes import COLOURS
from webapp.job_parts import duration, show_jobs
from webapp.page_parts import (
    AT_ONCE,
    annotation_state,
    choices_at,
    figure_note,
    figure_suffix,
    figures_at,
    marks_handed_in,
    overlaps_of,
    reliability_of,
)

FEWEST_PATCHES = 3
FEWEST_NUCLEI = 10
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
    f"{MAJORITY} + expert": "majority of students and expert",
    "expert + expert": "two experts",
}
SIDE_BY_SIDE = 8  # people whose heat map leaves room for a list beside it


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


# ---------------------------------------------------------------- person by person


def show_people(study: Study, person: SignedIn) -> None:
    """The heat map, and the patches behind one of its cells."""
    made = counted(study, person)
    if made is None:
        return
    first, *others = st.columns([1.2, 1, 1, 1.3, 0.9], vertical_alignment="bottom")
    value = first.selectbox(
        "Figure",
        list(FIGURES),
        format_func=lambda name: FIGURES[name][0],
        key="figure",
        bind="query-params",
        persist_state="session",
    )
    view = choose(study, made, others)
    figures, counts, few = heat_tables(view, value)
    if figures.empty:
        st.info("No two of these people have handed in the same patch. Choose other filters.")
        return
    many = len(figures) > SIDE_BY_SIDE
    left, right = (st.container(), st.container()) if many else st.columns([1, 1.15])
    title = f"{FIGURES[value][0]}: {view.what}{figure_suffix(study)}"
    with left:
        st.plotly_chart(
            charts.heat_map(figures, counts, few, title),
            config=charts.CONFIG,
            key="heat",
            on_select=take_cell,
            selection_mode="points",
        )
    with right:
        show_pair(view, value, list(figures.index))
    figure_note(study, heat_note(value, few))


def take_cell() -> None:
    """The pair that was clicked becomes the pair whose patches are shown."""
    points = st.session_state["heat"]["selection"]["points"]
    pair = points[0].get("customdata") if points else None
    if isinstance(pair, dict):  # some versions send {"0": ..., "1": ...}
        pair = list(pair.values())
    if pair:
        st.session_state["a"], st.session_state["b"] = pair[0], pair[1]


def heat_tables(view: View, value: str) -> tuple[pd.DataFrame, pd.DataFrame, int]:
    """Figures and n of every two people, of each with themself, and the fewest n that may be shown."""
    if value in OF_CLASS:
        table = agreeing.class_table(view.choices(), view.choice)
        table = table[table["n_patches"] > 0]
        figures, counts = matrix(table, value), matrix(table, "n_matched", "sum")
        chosen = agreeing.choices_of(view.made, agreeing.repeats(view.made), view.iou)
        again = agreeing.class_table(chosen, view.choice).set_index("rater_a")
        themself, n = again[value], again["n_matched"]
        few = FEWEST_NUCLEI
    else:
        table, again = view.figures(), view.again().groupby("rater_a")
        figures, counts = matrix(table, value), matrix(table, value, "count")
        themself, n = again[value].mean(), again[value].count()
        few = FEWEST_PATCHES
    names = sorted({*figures.index, *themself.index})
    figures, counts = (shown.reindex(index=names, columns=names) for shown in (figures, counts))
    for name in themself.index:
        figures.loc[name, name], counts.loc[name, name] = themself[name], n[name]
    return figures, counts, few


def heat_note(value: str, few: int) -> str:
    name, meaning = FIGURES[value]
    if value in OF_CLASS:
        basis = (
            "Of all nuclei that both found, n of them, matched whatever their class, on patches where both "
            "finished two classes or more; the class filter does not apply. "
        )
    else:
        basis = "Mean over the patches that both finished, n of them (each class counts on its own). "
    return (
        f"{name}: {meaning}. {basis}On the diagonal: the same person, on a patch that was hidden in their "
        f"queue once more. Fewer than {few}: {TOO_FEW}. {LEFT_OUT} Agreement is not correctness."
    )


def show_pair(view: View, value: str, people: list[str]) -> None:
    """Two people, the patches behind their figure, worst first, and one of them as a picture."""
    for side in ("a", "b"):
        if st.session_state.get(side) not in people:  # filters have left them out
            st.session_state[side] = None
    left, right = st.columns(2)
    options = {"options": people, "index": None, "placeholder": "Choose, or click a cell"}
    with left:
        a = st.selectbox("Person", key="a", bind="query-params", persist_state="session", **options)
    with right:
        b = st.selectbox("and", key="b", bind="query-params", persist_state="session", **options)
    if a is None or b is None:
        st.caption("Click a cell to see the patches behind it, the worst first.")
        return
    a, b = sorted((a, b))
    table = pair_patches(view, value, a, b)
    if table.empty:
        st.info(f"{a} and {b} have no patch in common here." if a != b else f"{a} has no hidden repeat here.")
        return
    names = side_names(a, b)
    shown = list_rows(table, value, names)
    many = len(people) > SIDE_BY_SIDE  # then there is room beside the list
    place, beside = st.columns([1.15, 1]) if many else (st.container(), st.container())
    picked = place.dataframe(
        shown,
        hide_index=True,
        height=38 + 35 * min(len(shown), 14 if many else 5),
        on_select="rerun",
        selection_mode="single-row",
        key=f"patches {a} {b} {value} {view.what} {view.choice.purpose}",
    )["selection"]["rows"]
    row = table.iloc[picked[0] if picked and picked[0] < len(table) else 0]
    with beside:
        show_picture(view, value, row, names)


def side_names(a: str, b: str) -> tuple[str, str]:
    return (a, b) if a != b else (f"{a}, first", f"{a}, again")


def pair_patches(view: View, value: str, a: str, b: str) -> pd.DataFrame:
    """The patches behind the cell of two people, the worst first; those without a figure last."""
    if value in OF_CLASS:
        chosen = view.choices()
        if a == b:
            chosen = agreeing.choices_of(view.made, agreeing.repeats(view.made), view.iou)
        table = agreeing.class_patches(chosen, a, b, view.choice).assign(**{"class": ALL})
        return table.sort_values(["agree", "patch"], na_position="last", ignore_index=True)
    table = view.again() if a == b else view.figures()
    table = table[(table["rater_a"] == a) & (table["rater_b"] == b)]
    return table.sort_values([value, "patch"], na_position="last", ignore_index=True)


def list_rows(table: pd.DataFrame, value: str, names: tuple[str, str]) -> pd.DataFrame:
    where = {"Patch": table["patch"], "Class": table["class"]}
    if value in OF_CLASS:
        del where["Class"]
        return pd.DataFrame(
            {
                **where,
                "Same class": in_words(table["agree"], "{:.0%}", "none"),
                "Both found": table["n_matched"],
            }
        )
    return pd.DataFrame(
        {
            **where,
            FIGURES[value][0]: in_words(table[value], "{:.2f}", "none"),
            "Both": table["n_matched"],
            f"Only {names[0]}": table["n_a"] - table["n_matched"],
            f"Only {names[1]}": table["n_b"] - table["n_matched"],
        }
    )


def show_picture(view: View, value: str, row: pd.Series, names: tuple[str, str]) -> None:
    """Both people's outlines; it comes from a route of its own, which asks who is looking."""
    query = {"iou": f"{view.iou:g}", "by": "class" if value in OF_CLASS else "nucleus"}
    if value not in OF_CLASS:
        query["class"] = row["class"]
    url = html.escape(f"/api/agreement/{row['key_a']}/{row['key_b']}.png?{urlencode(query)}")
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


# ---------------------------------------------------------------- groups


def show_groups(study: Study, person: SignedIn) -> None:
    """Kinds of pairs, and everybody together."""
    made = counted(study, person)
    if made is None:
        return
    view = choose(study, made, st.columns([1, 1, 1.3, 0.9], vertical_alignment="bottom"))
    table = view.figures()
    if view.choice.among == "everyone":
        pairs = agreeing.majority_pairs(made, view.choice.purpose)
        majority = agreeing.figures_of(made, pairs, view.iou)
        majority = majority[view.choice.of_place(majority) & view.choice.of_class(majority, made)]
        table = pd.concat([part for part in (table, majority) if len(part)] or [table], ignore_index=True)
    if table.empty:
        st.info("No two of these people have handed in the same patch. Choose other filters.")
        return
    st.dataframe(group_rows(agreeing.by_groups(table)), hide_index=True)
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
    order = {pair: place for place, pair in enumerate(PAIRS)}
    by_kind = np.lexsort((groups["pair"].map(order).fillna(len(order)), groups["class"]))
    return table.iloc[by_kind].reset_index(drop=True)


def with_interval(mean: float, low: float, high: float, by_slide: list[float]) -> str:
    return f"{mean:.2f} ({interval_in_words(low, high, by_slide)})"


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


# ---------------------------------------------------------------- classes


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


# ---------------------------------------------------------------- the same person, and over time


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


# ---------------------------------------------------------------- each person, and time


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
