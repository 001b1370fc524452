"""What several pages have in common: heads, empty states, buttons to other pages, cached tables."""

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import streamlit as st

from allinsam.accounts import SignedIn
from allinsam.errors import AllinsamError, by_name
from allinsam.store import Study, open_study, settled
from allinsam.store import acts as act_store
from allinsam.store.runs import last_score
from allinsam.store.study import get_study, list_classes
from allinsam.workflow import agreeing, exports, rated, scored, work_times
from allinsam.workflow.agreed import count_rows, reliability_table
from allinsam.workflow.overlapping import Patch, StudyOverlaps, finished_looks, study_overlaps
from webapp.navigation import PAGES, PAGES_FOLDER

SIMULATED = "Simulated tissue: no evidence for real tissue."
AT_ONCE = 20_000  # outlines that a page compares itself; more are left to a job or the command line
METRIC_NAMES = {
    "f1_instance": "Instance F1",
    "dice": "Dice (pixels)",
    "iou": "IoU (pixels)",
    "pq": "Panoptic quality",
    "aji": "Aggregated Jaccard",
}


def page_head(title: str, purpose: str) -> None:
    """Title and one line; tighter than Streamlit's own, for small screens."""
    st.html(
        "<style>h1 { padding: 0 0 .1rem 0 !important; } h3 { padding: .4rem 0 .2rem 0 !important; }</style>"
    )
    st.title(title, anchor=False)
    st.caption(purpose)


def is_simulated(study: Study) -> bool:
    with study.science.read() as db:
        return bool(get_study(db)["simulated"])


def truth_name(study: Study) -> str:
    """What the reference of the group "truth" is called: drawn with the tissue, or brought in as a file."""
    return "the simulated truth" if is_simulated(study) else "the imported gold"


def as_typed(text: str) -> str:
    """What a person wrote, for Markdown: shown as it is, with no picture, link or heading made of it."""
    return re.sub(r"([!-/:-@\[-`{-~])", r"\\\1", " ".join(text.split()))


def simulated_note(study: Study) -> None:
    """At the end of a page, where the study is simulated."""
    if is_simulated(study):
        st.caption(f"**{SIMULATED}**")


def figure_note(study: Study, text: str) -> None:
    """What stands under a figure or table; of a simulated study it begins with that."""
    st.caption(f"**{SIMULATED}** {text}" if is_simulated(study) else text)


def figure_suffix(study: Study) -> str:
    """For a figure's own title, so that a copied picture still says it."""
    return " (simulated tissue: no evidence for real tissue)" if is_simulated(study) else ""


def class_colours(study: Study) -> dict[str, str]:
    with study.science.read() as db:
        return {row["name"]: row["colour"] for row in list_classes(db)}


def page_exists(person: SignedIn, name: str) -> bool:
    allowed = any(page == name and person.role in roles for page, _, roles in PAGES)
    return allowed and page_path(name).exists()


def page_path(name: str) -> Path:
    return PAGES_FOLDER / f"{name}.py"


def page_button(
    person: SignedIn, name: str, label: str, primary: bool = False, key: str | None = None
) -> None:
    """A button to another page, for those who may see it."""
    if not page_exists(person, name):
        return
    kind = "primary" if primary else "secondary"
    if st.button(label, type=kind, key=key or f"to-{name}-{label}"):
        st.switch_page(str(page_path(name)))


def empty_state(text: str, person: SignedIn, page: str | None = None, label: str = "") -> None:
    """Nothing to show yet, and what to do about it."""
    with st.container(border=True):
        st.markdown(text)
        if page:
            page_button(person, page, label, primary=True)


def attempt(do: Callable[[], Any], told: str) -> None:
    """Do it and draw the page anew, which says what was `told`, or say why not."""
    try:
        do()
    except AllinsamError as error:
        st.error(by_name(str(error)))
    else:
        st.session_state["told"] = told
        st.rerun()


def download_link(file: str, label: str) -> None:
    """A link that looks like a button; the file comes from our own route, not through the page."""
    link = f'<a class="download" href="/api/export/{file}" download>{label}</a>'
    st.html(f'{LINK_STYLE}<div style="text-align: right">{link}</div>')


LINK_STYLE = """<style>.download { display: inline-block; border: 1px solid #b9cdd1; border-radius: .35rem;
padding: .3rem .75rem; color: #0d6b7a; text-decoration: none; font-size: .95rem; white-space: nowrap; }
.download:hover, .download:focus-visible { background: #eef3f4; border-color: #0d6b7a; }</style>"""


# --- How much there is ----------------------------------------------------------------------------


def marks_handed_in(study: Study) -> int:
    """Outlines of everybody who looked for themselves; more than AT_ONCE are too many for a page."""
    return sum(look["n_rows"] for look in finished_looks(study))


# --- Tables that take seconds, kept until what they are made of changes ---------------------------


def annotation_state(study: Study) -> tuple[int, ...]:
    with study.science.read() as db:
        return act_store.last_change(db)


def score_state(study: Study) -> tuple[int, ...]:
    with study.science.read() as db:
        return *last_score(db), act_store.last_change(db)[2]  # a class may get another name


@st.cache_resource(max_entries=2, show_spinner="Comparing what people drew ...")
def overlaps_of(
    folder: str, state: tuple[int, ...], _patches: Sequence[Patch] | None = None
) -> StudyOverlaps:
    """Everybody's marks against everybody's; `state` stands for the annotations. Nobody changes it."""
    return study_overlaps(open_study(Path(folder)), _patches)


@st.cache_resource(max_entries=4, show_spinner="Comparing what people drew ...")
def figures_at(folder: str, state: tuple[int, ...], purpose: str, iou: float) -> pd.DataFrame:
    """Figures of every two people; nobody changes it."""
    made = overlaps_of(folder, state)
    table = agreeing.figures_of(made, agreeing.peers(made, purpose), iou)
    names = ("patch", "class", "rater_a", "rater_b", "slide", "condition", "group_a", "group_b")
    return table.astype(dict.fromkeys(names, "category"))  # quicker to choose from and to group


@st.cache_data(max_entries=4, show_spinner=False)
def some_pair(folder: str, state: tuple[int, ...]) -> bool:
    """Whether there is anything to compare."""
    return agreeing.some_pair(open_study(Path(folder)))


@st.cache_resource(max_entries=4, show_spinner="Comparing classes ...")
def choices_at(folder: str, state: tuple[int, ...], purpose: str, iou: float) -> agreeing.Chosen:
    """Classes of the nuclei that every two people found; nobody changes it."""
    made = overlaps_of(folder, state)
    return agreeing.choices_of(made, agreeing.peers(made, purpose), iou)


@st.cache_data(max_entries=4, show_spinner="Counting rows ...")
def agreement_counts(folder: str, state: tuple[int, ...]) -> dict[str, int]:
    """Rows of the tables of agreement."""
    made = overlaps_of(folder, state)
    return {
        "agreement": len(figures_at(folder, state, "production", 0.5)),
        "classes": len(agreeing.class_table(choices_at(folder, state, "production", 0.5), agreeing.Choice())),
        "intra_rater": len(agreeing.intra_table(made)),
        "alpha": len(agreeing.alpha_rows(made)),
    }


@st.cache_data(max_entries=4, show_spinner="Looking for what people agree on ...")
def consensus_counts(folder: str, state: tuple[int, ...]) -> dict[str, int]:
    """Rows of the tables of consensus and reliability."""
    study = open_study(Path(folder))
    return count_rows(study, rated.ratings(study))


@st.cache_data(max_entries=4, show_spinner="Working out how far each person can be trusted ...")
def reliability_of(folder: str, state: tuple[int, ...]) -> pd.DataFrame:
    study = open_study(Path(folder))
    return reliability_table(study, rated.ratings(study))


@st.cache_data(max_entries=4, show_spinner="Counting suggestions ...")
def suggestion_counts(folder: str, state: tuple[int, ...]) -> dict[str, int]:
    """Rows of the tables of suggestions and of who followed them."""
    study = open_study(Path(folder))
    return {name: len(exports.export_table(study, name)) for name in ("suggestions", "automation_bias")}


@st.cache_data(max_entries=4, show_spinner="Adding up what labels took ...")
def curve_counts(folder: str, annotated: tuple[int, ...], scored_by_now: tuple[int, ...]) -> dict[str, int]:
    """Rows of the tables of getting quicker and of minutes and scores."""
    study = open_study(Path(folder))
    return {name: len(exports.export_table(study, name)) for name in ("learning_curve", "minutes_and_scores")}


@st.cache_data(max_entries=4, show_spinner="Adding up the time ...")
def times_of(folder: str, state: tuple[int, ...]) -> dict[str, pd.DataFrame]:
    """by_patch, by_object and by_person."""
    by_patch, by_object = work_times.work_times(open_study(Path(folder)))
    return {
        "by_patch": by_patch,
        "by_object": by_object,
        "by_person": work_times.summarise_times(by_patch, by_object),
    }


@st.cache_data(max_entries=4, show_spinner="Reading the scores ...")
def scores_of(folder: str, state: tuple[int, ...]) -> pd.DataFrame:
    return scored.scores_table(open_study(Path(folder)))


@st.cache_data(max_entries=8, show_spinner="Counting rows ...")
def row_counts(folder: str, state: tuple[int, ...]) -> dict[str, int]:
    """Rows of the tables that are quick to make."""
    study = open_study(Path(folder))
    with study.science.read() as db:
        objects = sum(act_store.object_counts(db).values())
        acts = act_store.last_change(db)[1]
    return {"objects": objects, "acts": acts}


def settled_count(study: Study) -> int:
    with study.science.read() as db:
        return len(settled.list_settled(db))


@st.cache_data(max_entries=64, show_spinner=False)
def own_minutes(folder: str, person_id: str, state: tuple[int, ...]) -> float:
    """Active minutes of one person, without practice and qualification."""
    by_patch, _ = work_times.work_times(open_study(Path(folder)), person_id)
    return float(work_times.without_training(by_patch)["active_s"].sum()) / 60.0
