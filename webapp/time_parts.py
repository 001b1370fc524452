"""The Time tab: how fast people work, with the idle cut-off as a dial, who gets quicker, and what became of
the nuclei."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import streamlit as st

from allinsam.accounts import SignedIn, may
from allinsam.comparison import FEWEST_NUCLEI, FEWEST_PATCHES, FEWEST_SLIDES
from allinsam.pace import (
    FEWEST_IN_ORDER,
    Ratio,
    cluster_unit,
    medians,
)
from allinsam.planning import ARMS
from allinsam.store import Study, open_study
from allinsam.store.study import get_study
from allinsam.suggesting import FEWEST_PLANTED
from allinsam.workflow import paces, suggesting
from allinsam.workflow.work_times import study_work
from webapp import pace_charts
from webapp.figure_parts import show_figure
from webapp.forms import GUIDANCE_NAMES, TOOL_NAMES, arm_name
from webapp.page_parts import annotation_state, as_typed, download_link, figure_note

TOO_FEW = "too few"
GROUP_NAMES = {"expert": "experts", "student": "students"}
BY_NAMES = {"person_id": "Person", "group": "Group", "arm": "Arm"}
UNITS = {"s_per_nucleus": "active seconds per nucleus", "min_per_patch": "active minutes per patch"}
MEASURE_NAMES = {"s_per_nucleus": "Seconds per nucleus", "min_per_patch": "Minutes per patch"}
FATE_NAMES = {
    "kept": "Kept as shown",
    "asked_again": "New box or points",
    "edited": "Outline edited",
    "drawn": "Drawn by hand",
    "deleted": "Deleted",
}
PLANTED_NAMES = {
    "all": "Everyone",
    "shifted": "beside the nucleus",
    "wrong_class": "wrong class",
    "merged": "two in one",
    "extra": "no nucleus there",
}


def show_times(study: Study, person: SignedIn) -> None:
    """Everything about time that kept acts can tell; the dials redraw this part of the page only."""
    st.fragment(_show)(study, person)


def _show(study: Study, person: SignedIn) -> None:
    work = study_work(study)
    if paces.finished_work(work).empty:
        st.info("**No patch has been handed in yet.** Times appear here with the first one.")
        return
    cutoff_s, measure, by = _dials(study, person)
    patches, nuclei = paces.patches_at(work, cutoff_s), next(paces.nuclei_at(work, [cutoff_s]))
    _show_spread(study, patches, nuclei, cutoff_s, measure, by)
    _show_ratio(study, patches, cutoff_s, measure, by)
    _show_learning(study, patches)
    _show_fates(study, by)
    _show_suggestions(study)


# ------------------------------------------------------------------------------------- the dials


def _dials(study: Study, person: SignedIn) -> tuple[float, str, str]:
    left, middle, right, last = st.columns([3.3, 2.6, 1.9, 1.3], vertical_alignment="bottom")
    with left:
        cutoff_s = cutoff_dial(study, "time-cutoff")
    measure = middle.segmented_control(
        "Figure",
        list(MEASURE_NAMES),
        default="s_per_nucleus",
        format_func=MEASURE_NAMES.get,
        key="time-measure",
        required=True,
    )
    by = right.segmented_control(
        "For each",
        list(BY_NAMES),
        default="person_id",
        format_func=BY_NAMES.get,
        key="time-by",
        required=True,
    )
    if may(person, "export"):
        with last:
            download_link("times.csv", "Download times")
    return cutoff_s, measure, by


def cutoff_dial(study: Study, key: str) -> float:
    with study.science.read() as db:
        own_s = float(get_study(db)["plan"]["idle_cutoff_s"])
    return st.segmented_control(
        "A gap between two acts counts up to",
        paces.cutoffs_of(own_s),
        default=own_s,
        format_func=lambda s: f"{s:g} s" + (" (this study)" if s == own_s else ""),
        help="Somebody who reads without moving works; somebody who fetches a coffee does not. Where the "
        "line is drawn is a choice: turn this dial to see whether it matters.",
        key=key,
        required=True,
    )


def names_of(keys: Sequence[str], by: str) -> dict[str, str]:
    """What a person, group or arm is called on this page."""
    words = {"group": GROUP_NAMES, "arm": {arm: arm_name(arm) for arm in ARMS}}.get(by, {})
    return {key: words.get(key, key) for key in keys}


# ------------------------------------------------------------------------------- medians and boxes


def _show_spread(
    study: Study,
    patches: pd.DataFrame,
    nuclei: pd.DataFrame,
    cutoff_s: float,
    measure: str,
    by: str,
) -> None:
    names = names_of(patches[by].unique(), by)
    left, right = st.columns(2)
    shown = nuclei if measure == "s_per_nucleus" else patches
    figure = pace_charts.boxes(shown, measure, by, names, UNITS[measure])
    show_figure(study, figure, "time-spread", left)
    over = over_cutoffs_of(str(study.folder), annotation_state(study), by, measure)
    if over.empty:
        right.info(f"Fewer than {FEWEST_PATCHES} patches each: {TOO_FEW} for a median.")
    else:
        figure = pace_charts.over_cutoffs(over, by, names, cutoff_s, f"median {UNITS[measure]}")
        show_figure(study, figure, "time-cutoffs", right)
    st.dataframe(median_rows(patches, nuclei, by, names), hide_index=True)
    figure_note(
        study,
        f"Active time: gaps between acts, each counted up to {cutoff_s:g} s, without pauses and without "
        "waiting for masks, on patches handed in as work. Boxes: median and quartiles; right: the median at "
        "every cut-off. n: nuclei (deleted ones too) or patches. Intervals: 95 %, whole "
        f"{units_of(patches)} drawn again; none of fewer than {FEWEST_SLIDES}. Fewer than "
        f"{FEWEST_PATCHES} patches or {FEWEST_NUCLEI} nuclei: {TOO_FEW}.",
    )


def units_of(patches: pd.DataFrame) -> str:
    return {"slide": "slides", "patch": "patches"}[cluster_unit(patches)]


@st.cache_data(max_entries=16, show_spinner=False)
def over_cutoffs_of(folder: str, state: tuple[int, ...], by: str, measure: str) -> pd.DataFrame:
    """`paces.medians_at` every stop of the dial; `state` stands for the annotations."""
    work = study_work(open_study(Path(folder)))
    return paces.medians_at(work, paces.cutoffs_of(work.idle_cutoff_s), by, measure)


@st.cache_data(max_entries=16, show_spinner=False)
def ratios_of(
    folder: str, state: tuple[int, ...], by: str, a: str, b: str, measure: str
) -> dict[float, Ratio]:
    work = study_work(open_study(Path(folder)))
    return paces.ratios_at(work, paces.cutoffs_of(work.idle_cutoff_s), by, a, b, measure)


@st.cache_data(max_entries=4, show_spinner=False)
def fates_of(folder: str, state: tuple[int, ...]) -> pd.DataFrame:
    study = open_study(Path(folder))
    return paces.fates(study, study_work(study))


def median_rows(patches: pd.DataFrame, nuclei: pd.DataFrame, by: str, names: dict[str, str]) -> pd.DataFrame:
    """Both medians in words, for each `by`."""
    per_nucleus = medians(nuclei, [by], "s_per_nucleus").set_index(by)
    per_patch = medians(patches, [by], "min_per_patch").set_index(by)
    wait = patches.groupby(by)["model_wait_s"].median()
    group = patches.drop_duplicates(by).set_index(by, drop=False)["group"]
    people = patches.groupby(by)["person_id"].nunique()
    kept = patches.groupby(by)["kept"].sum()
    rows = []
    for key in pace_charts.in_order(patches, by):
        row = {BY_NAMES[by]: names.get(key, key)}
        row |= {"Group": group[key]} if by == "person_id" else {"People": int(people[key])}
        row |= {"Patches": int(per_patch.loc[key, "n"]), "Nuclei kept": int(kept[key])}
        both = (("Median s per nucleus", per_nucleus, True), ("Median min per patch", per_patch, False))
        for name, table, nuclear in both:
            known = key in table.index and paces.is_enough(table.loc[[key]], nuclear).all()
            row[name] = with_interval(table.loc[key]) if known else TOO_FEW
        rows.append(row | {"Model wait, s per patch": f"{wait[key]:.1f}"})
    return pd.DataFrame(rows)


def with_interval(row: pd.Series) -> str:
    if pd.isna(row["low"]):
        return f"{row['median']:.1f} (too few slides)"
    return f"{row['median']:.1f} ({row['low']:.1f} to {row['high']:.1f})"


# ---------------------------------------------------------------------------------------- ratios


def _show_ratio(study: Study, patches: pd.DataFrame, cutoff_s: float, measure: str, by: str) -> None:
    st.subheader("Who takes longer?", anchor=False)
    keys = pace_charts.in_order(patches, by)
    if len(keys) < 2:
        st.info(f"There is one {BY_NAMES[by].lower()} only: nobody to compare with.")
        return
    names = names_of(keys, by)
    left, right = st.columns([1.35, 1])
    with left:
        first, second = st.columns(2)
        # Students against experts, a new arm against the usual one: the last against the first.
        a = first.selectbox("Compare", keys, index=len(keys) - 1, format_func=names.get, key=f"time-a-{by}")
        others = [key for key in keys if key != a]
        b = second.selectbox("with", others, format_func=names.get, key=f"time-b-{by}")
        found = ratios_of(str(study.folder), annotation_state(study), by, a, b, measure)
        takes = "take" if by == "group" else "takes"
        st.markdown(conclusion(found, as_typed(names[a]), as_typed(names[b]), takes, UNITS[measure]))
        st.dataframe(ratio_rows(found, names[a], names[b]), hide_index=True)
    if not all(pd.isna(one.ratio) for one in found.values()):
        figure = pace_charts.ratios(found, cutoff_s, names[a], names[b])
        show_figure(study, figure, "time-ratios", right)
    figure_note(
        study,
        f"Ratio of geometric means over patches of {UNITS[measure]}; 1 is no difference. "
        f"On the patches that both finished where there are at least {FEWEST_PATCHES}, else on all of each. "
        f"95 % interval over {units_of(patches)}; of fewer than {FEWEST_SLIDES} on a side there is none, and "
        "nothing is concluded.",
    )


def ratio_rows(found: dict[float, Ratio], a: str, b: str) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "Gap up to": [f"{cutoff_s:g} s" for cutoff_s in found],
            f"{a} / {b} (95 % interval)": [ratio_words(one) for one in found.values()],
            "On": [on_words(one) for one in found.values()],
        }
    )


def ratio_words(one: Ratio) -> str:
    if pd.isna(one.ratio):
        return TOO_FEW
    return f"{one.ratio:.2f}" + ("" if pd.isna(one.low) else f" ({one.low:.2f} to {one.high:.2f})")


def on_words(one: Ratio) -> str:
    return f"{one.patches_a} shared patches" if one.paired else f"{one.patches_a} and {one.patches_b} patches"


def verdict(one: Ratio) -> str:
    if pd.isna(one.low):
        return TOO_FEW
    return "longer" if one.low > 1 else "less time" if one.high < 1 else "no difference shown"


def conclusion(found: dict[float, Ratio], a: str, b: str, takes: str, unit: str) -> str:
    """Whether the answer is the same wherever the dial stands. takes: the verb, as a is one or several."""
    verdicts = {cutoff_s: verdict(one) for cutoff_s, one in found.items()}
    if set(verdicts.values()) == {TOO_FEW}:
        return f"{TOO_FEW.capitalize()} slides or patches to say who takes longer."
    words = {
        "longer": f"{a} {takes} longer than {b}",
        "less time": f"{a} {takes} less time than {b}",
        "no difference shown": f"no difference is shown between {a} and {b}",
        TOO_FEW: f"{TOO_FEW} slides or patches",
    }
    if len(set(verdicts.values())) == 1:
        return f"**At every cut-off** {words[next(iter(verdicts.values()))]} ({unit})."
    parts = [
        f"{words[kind]} at {listed([f'{s:g}' for s, v in verdicts.items() if v == kind])} s"
        for kind in dict.fromkeys(verdicts.values())
    ]
    return f"**It depends on the cut-off** ({unit}): {'; '.join(parts)}."


def listed(words: list[str]) -> str:
    """15, 30 and 60"""
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


# ------------------------------------------------------------------------------- getting quicker


def _show_learning(study: Study, patches: pd.DataFrame) -> None:
    st.subheader("Getting quicker", anchor=False)
    arms = {arm: arm_name(arm) if arm in ARMS else arm for arm in patches["arm"].unique()}
    figure = pace_charts.getting_quicker(patches, arms)
    show_figure(study, figure, "time-learning")
    figure_note(
        study,
        f"{doubling_sentence(patches)} Each point: one patch of one person, the median over its nuclei; a "
        "line joins patches of one arm. A patch with few nuclei, or a hard one, moves a point too: point at "
        "it to see which it is.",
    )


def doubling_sentence(patches: pd.DataFrame) -> str:
    """By how much each group's time per nucleus changes when a person has done twice as many patches."""
    said = []
    for group, part in paces.doublings(patches).groupby("group"):
        changes = part["change"]
        spread = f", {percent(changes.min())} to {percent(changes.max())}" if len(changes) > 1 else ""
        people = f"{len(changes)} {'person' if len(changes) == 1 else 'people'}"
        said.append(f"{GROUP_NAMES.get(group, group)} {percent(changes.median())} ({people}{spread})")
    if not said:
        return f"Nobody has {FEWEST_IN_ORDER} patches yet: {TOO_FEW} to say who gets quicker."
    return (
        f"Seconds per nucleus each time a person has done twice as many patches, median: {'; '.join(said)}."
    )


def percent(change: float) -> str:
    return f"{round(100 * change):+d} %"


# ----------------------------------------------------------------- what became of the nuclei


def _show_fates(study: Study, by: str) -> None:
    st.subheader("What became of the nuclei", anchor=False)
    nuclei = fates_of(str(study.folder), annotation_state(study))
    if nuclei.empty:
        st.info("Nobody has drawn a nucleus on a patch that was handed in.")
        return
    st.dataframe(fate_rows(paces.fate_shares(nuclei, by), by), hide_index=True)
    figure_note(
        study,
        "Every nucleus that somebody worked on, on patches handed in. Kept as shown: the first outline SAM "
        "(or a suggestion) gave was kept. Deleted: not there any more at the end, rejected ones too. "
        f"Fewer than {FEWEST_NUCLEI} nuclei: {TOO_FEW}.",
    )


def fate_rows(shares: pd.DataFrame, by: str) -> pd.DataFrame:
    few = shares["nuclei"] < FEWEST_NUCLEI
    arm = shares["arm"].str.split("/")
    table = pd.DataFrame()
    if by != "arm":
        table[BY_NAMES[by]] = shares[by].map(names_of(shares[by].unique(), by))
    table["Shown"] = arm.str[0].map(lambda name: GUIDANCE_NAMES.get(name, name))
    table["Tool"] = arm.str[1].map(lambda name: TOOL_NAMES.get(name, name))
    table["Patches"], table["Nuclei"] = shares["patches"], shares["nuclei"]
    for fate, name in FATE_NAMES.items():
        table[name] = (shares[fate] / shares["nuclei"]).map("{:.0%}".format).where(~few, TOO_FEW)
    return table


# ------------------------------------------------------------------------- wrong suggestions


@st.cache_data(max_entries=4, show_spinner="Looking at what became of suggestions ...")
def bias_of(folder: str, state: tuple[int, ...]) -> pd.DataFrame:
    return suggesting.automation_bias_table(open_study(Path(folder)))


def _show_suggestions(study: Study) -> None:
    st.subheader("Wrong suggestions that were kept", anchor=False)
    table = bias_of(str(study.folder), annotation_state(study))
    if table.empty:
        st.info(
            "No patch that began with suggestions has been handed in. Give some out with a plan: the arm "
            "“marker + outline + suggestions”, a share of them wrong on purpose."
        )
        return
    st.dataframe(bias_rows(table), hide_index=True)
    figure_note(
        study,
        "Of suggestions that were wrong on purpose: how many were kept, outline and class as proposed (the "
        "automation bias), with Wilson's 95 % interval, which is too narrow over several people. Beside them "
        f"those that were meant. Fewer than {FEWEST_PLANTED} planted: {TOO_FEW}. Seconds: median active time "
        "on the nucleus before it was kept, of those kept each by itself; of several kept with one gesture "
        "nobody knows how long each was looked at. As quick on a wrong one as on a right one: it was not "
        f"looked at twice. Fewer than {FEWEST_PLANTED} such: {TOO_FEW}.",
    )


def bias_rows(table: pd.DataFrame) -> pd.DataFrame:
    few = table["planted"] < FEWEST_PLANTED
    kinds = {"all": "", "group": "Group", "arm": "Arm", "person_id": "Person", "planted": "Mistake"}
    people = table["by"] == "person_id"
    named = {**names_of(table["arm"].unique(), "arm"), **PLANTED_NAMES, **GROUP_NAMES}
    who = table["of"].map(lambda name: named.get(name, name))
    if table.loc[people, "of"].duplicated().any():  # somebody worked in two arms
        who = who.where(~people, who + ", " + table["arm"].map(lambda arm: named.get(arm, arm)))
    shares = [
        f"{row.planted_kept_share:.0%} ({row.low:.0%} to {row.high:.0%})" if row.planted else ""
        for row in table.itertuples()
    ]
    return pd.DataFrame(
        {
            "Of": table["by"].map(kinds),
            "Who or what": who,
            "Wrong on purpose": table["planted"],
            "Kept": table["planted_kept"],
            "Share kept (95 % interval)": pd.Series(shares, table.index).where(~few, TOO_FEW),
            "Meant": table["real"],
            "Meant and kept": [
                f"{row.real_kept_share:.0%}" if row.real else "" for row in table.itertuples()
            ],
            "s before keeping a wrong one": seconds_words(table, "planted"),
            "s before keeping a right one": seconds_words(table, "real"),
        }
    )


def seconds_words(table: pd.DataFrame, name: str) -> list[str]:
    """Median seconds before a suggestion was kept, with n, of rows of `automation_bias`."""
    both = zip(table[f"{name}_kept_median_s"], table[f"{name}_kept_timed"], strict=True)
    known = [(f"{median:.1f}" if n >= FEWEST_PLANTED else TOO_FEW, n) for median, n in both]
    return [f"{text} (n = {n})" for text, n in known]
