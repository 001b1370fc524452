"""Compare: expert against students against untrained, and run against run, on the same test patches."""

import html
from urllib.parse import quote

import pandas as pd
import streamlit as st

from allinsam.accounts import SignedIn, may
from allinsam.comparison import FEWEST_SLIDES, TOO_FEW, TOO_FEW_SLIDES, interval_in_words
from allinsam.errors import AllinsamError
from allinsam.store import Study
from allinsam.workflow import analysis_plan, scored
from allinsam.workflow.run_cards import withdrawn_sentence
from webapp import charts
from webapp.curve_parts import show_curves
from webapp.figure_parts import page_head_with_format, show_figure
from webapp.grouping_parts import show_grouping
from webapp.page_parts import (
    METRIC_NAMES,
    attempt,
    class_colours,
    download_link,
    empty_state,
    figure_note,
    figure_suffix,
    page_head,
    score_state,
    scores_of,
    truth_name,
)
from webapp.published_parts import ask_published, show_published
from webapp.session import current_study, require

ORDER = {"expert": 0, "students": 1}
WORST = 3
TABS = (
    "Patch by patch",
    "Injured and normal",
    "Free table",
    "Worst patches",
    "People's labels",
    "Minutes and size",
)


def reference_sentence(study: Study, references: list[str]) -> str:
    names = {"truth": truth_name(study), "expert": "the expert's labels"}
    against = " and ".join(names.get(name, f"the labels of {name}") for name in references)
    note = " One expert is no truth: read differences with that in mind." if references == ["expert"] else ""
    return f"Scored on the test patches against {against}.{note}"


def ordered(labels: set[str]) -> list[str]:
    """Expert, students, then the others, and untrained last."""
    return sorted(labels, key=lambda name: (name == "untrained", ORDER.get(name, 2), name))


def show_means(study: Study, newest: pd.DataFrame, metric: str) -> None:
    labels = ordered(set(newest["label"]))
    means = scored.means(newest[newest["metric"] == metric], ["label", "class_name"])
    title = f"Mean over test patches{figure_suffix(study)}"
    show_figure(study, charts.forest(means, labels, METRIC_NAMES[metric], title), "forest")
    n = means.groupby("class_name")[["patches", "slides", "nuclei"]].max()
    counts = "; ".join(
        f"{name}: {row.patches} patches of {row.slides} slides, {row.nuclei} nuclei"
        for name, row in n.iterrows()
    )
    split = scored.split_sentences(study, newest["run_id"].unique())
    figure_note(study, f"{what_the_lines_are(means)} {counts}. {split}")


def what_the_lines_are(means: pd.DataFrame) -> str:
    """What stands beside the means of a forest plot."""
    without = means["low"].isna()
    lines = "Lines: 95 % interval over slides (cluster-robust, t)."
    points = (
        f"Where no line is drawn there are too few slides for an interval (fewer than {FEWEST_SLIDES}): each "
        "small ring is the mean of one slide."
    )
    return " ".join([lines] * bool((~without).any()) + [points] * bool(without.any()))


def show_paper_table(study: Study, newest: pd.DataFrame, metric: str) -> None:
    table = scored.paper_table(newest, metric)
    labels = [*ordered(set(table.index) - {"patches"}), "patches"]
    table = table.loc[labels].rename(index={"patches": "patches (weight)"})
    text = table.map(lambda value: "" if pd.isna(value) else f"{value:.3f}")
    text.iloc[-1] = [f"{value:.0f}" for value in table.iloc[-1]]
    text.columns = [f"{name}, {condition}" for name, condition in table.columns]
    st.dataframe(text)
    figure_note(
        study,
        f"{METRIC_NAMES[metric]}. Average is the mean over all patches, so injured and normal weigh by their "
        f"numbers of patches in the last row. {scored.split_sentences(study, newest['run_id'].unique())}",
    )


def preferred(models: list[dict], newest: pd.DataFrame, label: str) -> str:
    """The title of the run on these labels that the figure above shows, else of the newest run."""
    shown = set(newest.loc[newest["label"] == label, "run_id"])
    return next((row["title"] for row in models if row["run_id"] in shown), models[0]["title"])


def index_of(names: list[str], name: str) -> int:
    return names.index(name) if name in names else 0


def show_pairs(
    study: Study, scores: pd.DataFrame, newest: pd.DataFrame, models: list[dict], metric: str
) -> None:
    titles = {row["title"]: row for row in models}
    names = list(titles)
    left, right = st.columns(2)
    a = left.selectbox("Compare", names, index=names.index(preferred(models, newest, "students")))
    others = [name for name in names if name != a]
    b = right.selectbox("with", others, index=index_of(others, preferred(models, newest, "expert")))
    ids = str(titles[a]["run_id"]), str(titles[b]["run_id"])
    if different := scored.run_differences(study, titles[a]["run_id"], titles[b]["run_id"]):
        st.warning(f"Not only the labels differ between these runs: {', '.join(different)}.")
    try:
        table = scored.compare(study, *ids, metric)
        first, second = scored.paired_scores(scores, *ids, metric)
    except AllinsamError as error:
        st.warning(str(error))
        return
    if table.empty:
        st.info("No patch was scored for both.")
        return
    title = f"{METRIC_NAMES[metric]}: {a} and {b}, patch by patch{figure_suffix(study)}"
    figure = charts.paired(first, second, (a, b), METRIC_NAMES[metric], class_colours(study), title)
    show_figure(study, figure, "pairs")
    st.dataframe(test_rows(table, a, b), hide_index=True)
    figure_note(study, how_tested(table, a, b, [int(run_id) for run_id in ids], study))


def how_tested(table: pd.DataFrame, a: str, b: str, run_ids: list[int], study: Study) -> str:
    """What the table of tests rests on."""
    parts = [
        f"Difference is {a} minus {b}. Paired two-sided Wilcoxon test over patches; effect: matched-pairs "
        f"rank biserial, -1 to 1; p (Holm) is corrected over the {table['p_value'].notna().sum()} tests "
        "made. As good: both one-sided tests against the margin reject, corrected over all rows shown. "
        "90 % interval over slides.",
        f'"{TOO_FEW.capitalize()}": fewer than 6 patches differ, so no test can tell.',
    ]
    if (table["note"] == TOO_FEW_SLIDES).any():
        parts.append(
            f'"{TOO_FEW_SLIDES.capitalize()}": fewer than {FEWEST_SLIDES}. The differences of the single '
            "slides stand there instead. p takes patches of one slide for independent, which they are not, "
            "and so says nothing about other slides."
        )
    return " ".join([*parts, scored.split_sentences(study, run_ids)])


def show_margin(person: SignedIn, study: Study) -> None:
    """The margin with its date, and for the lead a way to set it."""
    margin = analysis_plan.margin(study)
    told = analysis_plan.margin_sentence(margin)
    (st.warning if margin.after_results else st.caption)(f'"As good": {told}')
    if not may(person, "edit_plan"):
        return
    with st.popover("Set the margin"):
        st.markdown(
            "The largest difference of two mean scores that does not matter. Set it before there are scores: "
            "its date is kept, and this page says when it came after them."
        )
        value = st.number_input(
            "Margin",
            analysis_plan.SMALLEST_MARGIN,
            analysis_plan.LARGEST_MARGIN,
            margin.value,
            step=0.01,
            format="%.3f",
        )
        if st.button("Set margin", disabled=value == margin.value):
            attempt(lambda: analysis_plan.set_margin(study, person.person_id, value), "The margin is set.")


def test_rows(table: pd.DataFrame, a: str, b: str) -> pd.DataFrame:
    """The table of tests in words and three digits."""
    few, few_slides = table["method"] == TOO_FEW, table["note"] == TOO_FEW_SLIDES
    ends = table[["low", "high", "by_slide"]].itertuples(index=False)
    shown = pd.DataFrame(
        {
            "Class": table["class_name"],
            "Condition": table["condition"],
            "Patches": table["n"],
            "Slides": table["slides"],
            f"Mean {a}": table["mean_a"].map("{:.3f}".format),
            f"Mean {b}": table["mean_b"].map("{:.3f}".format),
            "Difference": table["mean_difference"].map("{:+.3f}".format),
            "90 % interval": [interval_in_words(*row, "{:+.3f}") for row in ends],
            "Effect": table["rank_biserial"].map("{:+.2f}".format),
            "p": table["p_value"].map("{:.4f}".format),
            "p (Holm)": table["p_holm"].map("{:.4f}".format),
            "As good": table["equivalent"].map({True: "yes", False: "not shown"}),
        }
    )
    shown.loc[few, ["Effect", "p", "p (Holm)"]] = TOO_FEW
    shown["As good"] = shown["As good"].fillna(TOO_FEW)
    shown.loc[few_slides, "As good"] = TOO_FEW_SLIDES
    return shown


def show_people(study: Study, scores: pd.DataFrame, metric: str) -> None:
    people = scored.newest_scores(scores, "people")
    if people.empty:
        st.info(
            "People's labels are scored together with the models, where there is a reference apart from them."
        )
        return
    means = scored.means(people[people["metric"] == metric], ["label", "class_name"])
    title = f"Labels as drawn, with the marker in sight{figure_suffix(study)}"
    figure = charts.forest(means, ordered(set(means["label"])), METRIC_NAMES[metric], title)
    show_figure(study, figure, "people")
    figure_note(
        study,
        f"{what_the_lines_are(means)} These are people's labels against the reference, on all their patches, "
        "not a model's: no split is behind them.",
    )


def show_worst(study: Study, scores: pd.DataFrame, models: list[dict], metric: str) -> None:
    left, right = st.columns(2)
    trained = [row for row in models if row["label"] != "untrained"] or models
    model = left.selectbox("Model", trained, format_func=lambda row: row["title"])
    class_name = right.selectbox("Class", sorted(scores["class_name"].unique()))
    worst = scored.worst_patches(scores, model["run_id"], class_name, metric, WORST)
    for column, row in zip(st.columns(WORST), worst, strict=False):
        url = f"/api/runs/{model['run_id']}/patches/{int(row['patch_id'])}/{quote(class_name)}.png"
        name = html.escape(f"{row['patch']} ({row['condition']})")
        picture = f'<img src="{url}" alt="{name}" style="width: 100%; border-radius: 4px">'
        column.html(f'<a href="{url}" target="_blank">{picture}</a>')
        column.caption(f"{name}: {row['value']:.2f}, {row['n']} nuclei in the reference")
    figure_note(
        study,
        "Solid, in the class's colour: found by the model. Dashed, white: the reference. Click to enlarge. "
        + scored.split_sentences(study, [model["run_id"]]),
    )


def main() -> None:
    person, study = require("lead", "reviewer"), current_study()
    scores = scores_of(str(study.folder), score_state(study))
    models = scored.scored_models(scores) if len(scores) else []
    head = page_head_with_format if models else page_head
    head(
        "Compare", "Are students as good as experts? Models from PAS alone, on patches none of them has seen."
    )
    if told := st.session_state.pop("told", ""):
        st.success(told)
    if not models:
        nothing_yet(person)
        show_margin(person, study)
        return
    left, middle, right = st.columns([2, 4, 1.2], vertical_alignment="bottom")
    known = [name for name in METRIC_NAMES if name in set(scores["metric"])]
    metric = left.selectbox("Metric", known, format_func=METRIC_NAMES.get)
    newest = scored.newest_experiment(study, scores)
    middle.markdown(reference_sentence(study, sorted(set(newest["reference"]))))
    with right:
        if may(person, "export"):
            download_link("scores.csv", "Download CSV")
    show_means(study, newest, metric)
    if gone := withdrawn_sentence(study, scores["run_id"].dropna().unique()):
        st.warning(gone)
    if ask_published():
        show_published()
    tabs = st.tabs(list(TABS))
    with tabs[0]:
        if len(models) > 1:
            show_pairs(study, scores, newest, models, metric)
            show_margin(person, study)
        else:
            st.info("One model is scored so far. Train on other labels to compare.")
    with tabs[1]:
        show_paper_table(study, newest, metric)
    with tabs[2]:
        show_grouping(study, person, metric)
    with tabs[3]:
        show_worst(study, scores, models, metric)
    with tabs[4]:
        show_people(study, scores, metric)
    with tabs[5]:
        show_curves(study, person, metric)


def nothing_yet(person: SignedIn) -> None:
    empty_state(
        "**Nothing has been scored yet.** Train on the expert's and on the students' labels; "
        "the scores appear here when training ends.",
        person,
        "train",
        "Go to Train",
    )


main()
