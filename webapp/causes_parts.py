"""The "Why" tab of the Agreement page: what people disagree about, and who stands out."""

from collections.abc import Mapping
from pathlib import Path

import pandas as pd
import streamlit as st

from allinsam import jobs
from allinsam.accounts import SignedIn, demand, may
from allinsam.causes import (
    FEWEST_DIFFERENCES,
    by_person,
    sum_causes,
)
from allinsam.comparison import FEWEST_SLIDES
from allinsam.outliers import FIGURES, NAMED, TOO_FEW
from allinsam.palette import CLEAR_COLOURS
from allinsam.store import Study, open_study
from allinsam.workflow import caused
from allinsam.workflow.first_masks import state_of
from allinsam.workflow.overlapping import AT_ONCE, marks_handed_in
from allinsam.workflow.rated import slide_of_patch
from webapp import charts
from webapp.figure_parts import show_figure
from webapp.job_parts import show_jobs
from webapp.page_parts import (
    annotation_state,
    attempt,
    download_link,
    empty_state,
    figure_note,
    figure_suffix,
)

KINDS = {
    "student + student": "Two students",
    "expert + student": "An expert and a student",
    "expert + expert": "Two experts",
}
UNTOLD = "#c9d2d5"
# What a bar is cut into: a column, what it is called, its colour, and how a sentence gives it as the reason.
PARTS = {
    "one_alone": ("one alone marked it", CLEAR_COLOURS[1], "only one of them marked a nucleus"),
    "other_class": ("different class", CLEAR_COLOURS[0], "they gave a nucleus different classes"),
    "box": ("outline: box placed differently", CLEAR_COLOURS[2], "they placed the box differently"),
    "mask": ("outline: changed by hand", CLEAR_COLOURS[3], "they changed the outline by hand"),
    "outline": ("outline: no box to tell by", UNTOLD, "their outlines differ"),
}
# Of one person: what they marked and what the other did, in two shades of one colour.
PERSON_PARTS = {
    "only_a": ("marked alone", CLEAR_COLOURS[1]),
    "only_b": ("missed what the other marked", "#cfe8f8"),
}
VIEWS = ("Kinds of pairs", "Each person", "Every pair")
ALL_CLASSES = "all classes"
JOB = "first-masks"
TOOLS = {"box": "box and SAM", "hand": "by hand, without a box"}


@st.cache_data(max_entries=4, show_spinner="Looking for the reasons ...")
def why_of(folder: str, state: tuple[int, ...]) -> dict[str, pd.DataFrame]:
    study = open_study(Path(folder))
    return caused.summed_up(caused.why_tables(study), slide_of_patch(study))


@st.cache_data(max_entries=4, show_spinner="Counting reasons ...")
def cause_counts(folder: str, state: tuple[int, ...]) -> dict[str, int]:
    """Rows of the tables of reasons, and of boxes and masks."""
    return caused.count_rows(open_study(Path(folder)))


def show_causes(study: Study, person: SignedIn) -> None:
    if (n_marks := marks_handed_in(study)) > AT_ONCE:
        st.info(
            f"This takes too long for a page with {n_marks:,} outlines. `python -m allinsam export --table "
            "causes boxes_and_masks` writes the tables."
        )
        return
    tables = why_of(str(study.folder), (*annotation_state(study), *state_of(study)))
    if tables["nuclei"].empty:
        empty_state(
            "**Nothing to compare yet.** When two people have marked nuclei on the same patch without "
            "suggestions, this tab says what they disagree about.",
            person,
            "people" if may(person, "manage_people") else None,
            "Assign patches",
        )
        return
    left, right = st.columns([5, 1.4], vertical_alignment="top")
    left.markdown("\n".join(f"- {sentence}" for sentence in findings(tables)))
    if may(person, "export"):
        with right:
            download_link("causes.csv", "Download causes")
    _show_reasons(study, tables["nuclei"])
    _show_who(study, tables["out"])
    _show_boxes(study, person, tables)
    _show_tools(study, tables["tools"])


# ---------------------------------------------------------------- in words


def findings(tables: Mapping[str, pd.DataFrame]) -> list[str]:
    """One sentence for each finding."""
    sums = sum_causes(tables["nuclei"], ["pair"])
    known = tables["intervals"].set_index(["pair", "part"])
    return [
        *(reason_sentence(row, known.loc[row["pair"]]) for row in sums.to_dict("records")),
        *outline_sentences(sums),
        box_sentence(tables["boxes_all"]),
    ]


def reason_sentence(row: Mapping, intervals: pd.DataFrame) -> str:
    """intervals: low and high of each part's share."""
    who, n = KINDS.get(row["pair"], row["pair"]), row["differences"]
    if n < FEWEST_DIFFERENCES:
        return f"**{who}**: too few differences to say why ({n} of {row['n']:,} nuclei that either marked)."
    counts = {part: with_parts(row)[part] for part in PARTS}
    part = max(counts, key=counts.__getitem__)
    share = counts[part] / n
    low, high = intervals.loc[part, ["low", "high"]]
    often = "mostly" if low > 0.5 else "most often"
    sure = "too few slides" if pd.isna(low) else f"95 % interval {low:.0%} to {high:.0%}"
    told = f"**{who}** disagree {often} because {PARTS[part][2]}: {share:.0%} ({sure}) of {n:,} differences"
    sides = row["pair"].split(" + ")
    if part == "one_alone" and sides[0] != sides[1]:
        told += f", {row['only_a']:,} by the {sides[0]} alone and {row['only_b']:,} by the {sides[1]} alone"
    return f"{told}. They agree on {row['alike'] / row['n']:.0%} of {row['n']:,} nuclei."


def outline_sentences(sums: pd.DataFrame) -> list[str]:
    box, mask = int(sums["px_box"].sum()), int(sums["px_mask"].sum())
    if box + mask == 0:
        return []
    return [
        f"Where two outlines of one nucleus differ, **{box / (box + mask):.0%}** of the differing pixels "
        f"come from where the boxes were placed, and {mask / (box + mask):.0%} from what was changed by hand "
        "after SAM."
    ]


def box_sentence(table: pd.DataFrame) -> str:
    row = table.to_dict("records")[0] if len(table) else {"n": 0, "slides": 0}
    if row["n"] < FEWEST_DIFFERENCES or row["slides"] < FEWEST_SLIDES:
        return (
            "Does SAM bring people closer? Too few nuclei that two people both boxed to say so: "
            f"{row['n']}, where {FEWEST_DIFFERENCES} on {FEWEST_SLIDES} slides are needed."
        )
    if row["sam_low"] > 0:
        told = "SAM's masks of two people's boxes **overlap more** than the boxes"
    elif row["sam_high"] < 0:
        told = "SAM's masks of two people's boxes **overlap less** than the boxes"
    else:
        told = (
            "SAM's masks of two people's boxes overlap **neither more nor less** than the boxes for certain"
        )
    return (
        f"{told}: mean IoU {row['sam_iou']:.2f} against {row['box_iou']:.2f}, a difference of "
        f"{interval(row['sam_gain'], row['sam_low'], row['sam_high'])} over {row['n']:,} nuclei of "
        f"{row['slides']} slides."
    )


def interval(mean: float, low: float, high: float) -> str:
    return f"{mean:+.2f} (too few slides)" if pd.isna(low) else f"{mean:+.2f} ({low:+.2f} to {high:+.2f})"


# ---------------------------------------------------------------- reasons


def with_parts(row: Mapping) -> dict:
    """A row of sums with `one_alone`, whichever of the two it was."""
    return {**row, "one_alone": row["only_a"] + row["only_b"]}


def _show_reasons(study: Study, nuclei: pd.DataFrame) -> None:
    left, right = st.columns([2, 1], vertical_alignment="bottom")
    view = left.segmented_control("Show", VIEWS, default=VIEWS[0], key="why-view", required=True)
    class_name = right.selectbox("Class", [ALL_CLASSES, *sorted(nuclei["class"].unique())], key="why-class")
    chosen = nuclei if class_name == ALL_CLASSES else nuclei[nuclei["class"] == class_name]
    table = sums_of(chosen, view or VIEWS[0])
    parts = parts_of(view or VIEWS[0], chosen)
    title = f"Why they disagree: shares of the differences, {class_name}{figure_suffix(study)}"
    figure = charts.stacked_shares(table, "who", parts, FEWEST_DIFFERENCES, title)
    show_figure(study, figure, "why-bars")
    st.dataframe(reason_rows(table, view or VIEWS[0], list(parts)), hide_index=True)
    figure_note(
        study,
        "Nuclei: all that either of two people marked, each pair of people on each patch on its own. "
        "Agreed: both marked it, with the same class and an IoU of the outlines of 0.7 or more. One alone: "
        "the other has nothing in that place (IoU above 0.2). Of outlines that differ, the box is the reason "
        "where most of the differing pixels differ in SAM's masks of the two first boxes already. "
        f"Fewer than {FEWEST_DIFFERENCES} differences: {TOO_FEW}.",
    )


def sums_of(nuclei: pd.DataFrame, view: str) -> pd.DataFrame:
    """`sum_causes` for a view, with `who` and `one_alone`."""
    if view == "Each person":
        table = by_person(nuclei).rename(columns={"alone": "only_a", "missed": "only_b"})
        who = table["person"]
    elif view == "Every pair":
        table = sum_causes(nuclei, ["rater_a", "rater_b"])
        who = table["rater_a"] + " + " + table["rater_b"]
    else:
        table = sum_causes(nuclei, ["pair"])
        who = table["pair"].map(lambda pair: KINDS.get(pair, pair))
    return table.assign(who=who, one_alone=table["only_a"] + table["only_b"])


def parts_of(view: str, nuclei: pd.DataFrame) -> dict[str, tuple[str, str]]:
    """What the bars are cut into; the unusual last part only where there is any."""
    parts = {key: (label, colour) for key, (label, colour, _) in PARTS.items()}
    if not (nuclei["cause"] == "outline").any():
        del parts["outline"]
    if view == "Each person":
        del parts["one_alone"]
        return PERSON_PARTS | parts
    return parts


HEADS = {
    "only_a": "Marked alone",
    "only_b": "Missed",
    "one_alone": "One alone",
    "other_class": "Class",
    "box": "Box",
    "mask": "By hand",
    "outline": "Outline",
}


def reason_rows(table: pd.DataFrame, view: str, parts: list[str]) -> pd.DataFrame:
    """Counts and shares of the differences, in words where there are too few."""
    few = table["differences"] < FEWEST_DIFFERENCES
    shown = {
        "Who": table["who"],
        "Nuclei": table["n"],
        "Agreed": (table["alike"] / table["n"]).map("{:.0%}".format),
        "Differences": table["differences"],
    }
    for part in parts:
        share = (table[part] / table["differences"].where(~few)).astype(float)
        shown[HEADS[part]] = share.map("{:.0%}".format).where(~few, TOO_FEW)
    if view == "Kinds of pairs":  # of two students nobody is the first
        shown["Alone"] = [
            f"{first:,} {pair.split(' + ')[0]}, {second:,} {pair.split(' + ')[1]}"
            if len(set(pair.split(" + "))) > 1
            else f"{first + second:,}"
            for first, second, pair in table[["only_a", "only_b", "pair"]].itertuples(index=False)
        ]
    elif view == "Every pair":
        shown |= {"First alone": table["only_a"], "Second alone": table["only_b"]}
    return pd.DataFrame(shown)


# ---------------------------------------------------------------- who stands out


def _show_who(study: Study, out: pd.DataFrame) -> None:
    st.subheader("Who stands out", anchor=False)
    if set(out["verdict"]) == {TOO_FEW}:
        st.markdown(
            "Too few people, patches or nuclei to say so: three people have to work on the same patches, and "
            "four people need ten of them."
        )
        return
    st.dataframe(out_rows(out), hide_index=True)
    figure_note(
        study,
        "Each person beside what at least two others agree on, without their own vote. A name is shown only "
        "where, over the patches they share, the person is worse than the median of the others by at least "
        "the margin, and patch by patch more than chance explains (Wilcoxon, p below 0.05 after Holm's "
        "correction over all people and figures). Otherwise nobody is named, for somebody always comes last. "
        f"{TOO_FEW.capitalize()}: fewer than three people or ten nuclei, or too few patches for anybody to "
        "be named (four people need ten). People who share an error do not stand out: read it beside scores "
        "against gold.",
    )


SAID_OF = {
    "found": ("{:.0%} found", "nuclei of the others", "{:.0%}", "5 points"),
    "alone": ("{:.0%} alone", "own nuclei", "{:.0%}", "5 points"),
    "right_class": ("{:.0%} the others' class", "nuclei in common", "{:.0%}", "5 points"),
    "box_size": ("{:.2f} times the area", "boxes", "{:.2f}", "15 %"),
    "outline_size": ("{:.2f} times the area", "outlines", "{:.2f}", "10 %"),
    "seconds": ("{:.1f} s per nucleus", "nuclei", "{:.1f}", "25 %"),
}


def out_rows(out: pd.DataFrame) -> pd.DataFrame:
    rows = []
    for row in out.to_dict("records"):
        value, of, form, margin = SAID_OF[row["figure"]]
        known, named = row["verdict"] != TOO_FEW, row["verdict"] == NAMED
        low, high = (form.format(row[key]) if known else "" for key in ("others_low", "others_high"))
        rows.append(
            {
                "What": FIGURES[row["figure"]].title,
                "Who": row["person"] if named else ("nobody" if known else TOO_FEW),
                "Value": value.format(row["value"]) if named else "",
                "Others": f"{low} to {high}" if named else (span(row, form) if known else ""),
                "n": f"{row['n']:,} {of}, {row['patches']} patches" if named else "",
                "Margin": margin,
            }
        )
    return pd.DataFrame(rows)


def span(row: Mapping, form: str) -> str:
    """The range of everybody, where nobody is named."""
    everyone = [row["value"], row["others_low"], row["others_high"]]
    return f"all {form.format(min(everyone))} to {form.format(max(everyone))}"


# ---------------------------------------------------------------- boxes, masks, tools


def _show_boxes(study: Study, person: SignedIn, tables: Mapping[str, pd.DataFrame]) -> None:
    st.subheader("Box or mask", anchor=False)
    _offer_masks(study, person, int(tables["unanswered"]["boxes"].sum()))
    if tables["boxes"].empty:
        st.markdown("No nucleus has been boxed by two people yet.")
        return
    pooled = tables["boxes_by_pair"].assign(**{"class": ALL_CLASSES})
    st.dataframe(box_rows(pd.concat([pooled, tables["boxes_by_class"]])), hide_index=True)
    figure_note(
        study,
        "Mean IoU of two people's first boxes, of SAM's masks of these boxes as they were shown, and of the "
        "outlines kept, over nuclei that both boxed (the greater IoU of boxes and outlines above 0.5); with "
        "the 95 % interval of the difference over slides. Two SAM masks of one box agree by "
        "construction: so boxes stand apart from masks, and outlines that somebody edited apart from the "
        "rest. That masks agree more does not make them right: see scores against gold.",
    )


def _offer_masks(study: Study, person: SignedIn, missing: int) -> None:
    """First boxes that no mask came for, and the job that makes them."""
    if missing:
        busy = any(view.is_active and view.verb == JOB for view in jobs.list_views(study, 50))
        left, right = st.columns([5, 1.4], vertical_alignment="center")
        left.markdown(
            f"{missing:,} first {'box has' if missing == 1 else 'boxes have'} no mask by the study's SAM, "
            "for instance because the box was moved at once. They are in no figure of this table."
        )
        if may(person, "train") and right.button("Ask SAM for them", disabled=busy, key="first-masks"):
            attempt(lambda: _submit(study, person), "")
    show_jobs(study, 1, (JOB,))


def _submit(study: Study, person: SignedIn) -> None:
    demand(person, "train")
    jobs.submit(study, JOB, {}, person.person_id)


def box_rows(table: pd.DataFrame) -> pd.DataFrame:
    few = table["n"] < FEWEST_DIFFERENCES
    shown = {
        "Who": table["pair"].map(lambda pair: KINDS.get(pair, pair)),
        "Class": table["class"],
        "Boxes": table["box_iou"].map("{:.2f}".format).where(~few, TOO_FEW),
        "SAM's masks": table["sam_iou"].map("{:.2f}".format).where(~few, TOO_FEW),
        "Outlines kept": table["mask_iou"].map("{:.2f}".format).where(~few, TOO_FEW),
    }
    for name, label in (("sam", "SAM minus box"), ("mask", "Kept minus box")):
        gains = table[[f"{name}_gain", f"{name}_low", f"{name}_high"]].itertuples(index=False)
        shown[label] = pd.Series([interval(*gain) for gain in gains], table.index).where(~few, TOO_FEW)
    edited = table["edited_iou"].map("{:.2f}".format).where(table["n_edited"] >= FEWEST_DIFFERENCES, TOO_FEW)
    return pd.DataFrame(
        {**shown, "Edited": edited, "n edited": table["n_edited"], "n": table["n"], "Slides": table["slides"]}
    )


def _show_tools(study: Study, tools: pd.DataFrame) -> None:
    st.subheader("With a box or by hand", anchor=False)
    enough = [tools[column] >= FEWEST_DIFFERENCES for column in ("n_seconds", "n_iou")]
    st.dataframe(
        pd.DataFrame(
            {
                "How": tools["tool"].map(TOOLS),
                "Seconds per nucleus": tools["seconds"].map("{:.1f}".format).where(enough[0], TOO_FEW),
                "n": tools["n_seconds"],
                "People": tools["n_people"],
                "IoU of two such outlines": tools["iou"].map("{:.2f}".format).where(enough[1], TOO_FEW),
                "n pairs": tools["n_iou"],
            }
        ),
        hide_index=True,
    )
    figure_note(
        study,
        "Median active seconds of a nucleus, and mean IoU of the outlines of two people who both drew it "
        "so. Box and SAM: begun with a box, whether or not the outline was changed afterwards. Fewer than "
        f"{FEWEST_DIFFERENCES}: {TOO_FEW}. Other people and other patches may stand behind each row.",
    )
