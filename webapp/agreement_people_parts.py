"""Agreement, person by person: the heat map, and the patches behind one of its cells."""

import pandas as pd
import streamlit as st

from allinsam.accounts import SignedIn
from allinsam.agreement import matrix
from allinsam.comparison import FEWEST_NUCLEI, FEWEST_PATCHES
from allinsam.store import Study
from allinsam.workflow import agreeing
from webapp import charts
from webapp.agreement_parts import (
    ALL,
    FIGURES,
    LEFT_OUT,
    OF_CLASS,
    TOO_FEW,
    View,
    choose,
    counted,
    in_words,
    show_picture,
)
from webapp.figure_parts import show_figure
from webapp.page_parts import (
    figure_note,
    figure_suffix,
)

SIDE_BY_SIDE = 8  # people whose heat map leaves room for a list beside it


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
        figure = charts.heat_map(figures, counts, few, title)
        show_figure(study, figure, "heat", on_select=take_cell, selection_mode="points")
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
