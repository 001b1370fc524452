"""Home: what to do next, in one glance, for each role."""

import streamlit as st

from allinsam import jobs
from allinsam.accounts import may
from allinsam.store import Study
from allinsam.store.study import get_study
from allinsam.workflow.progress import study_progress
from webapp import home_parts as parts
from webapp.job_parts import find_disputes
from webapp.navigation import EVERYONE
from webapp.page_parts import as_typed, page_head, simulated_note
from webapp.session import current_study, require

STYLE = """<style>
.stMainBlockContainer > .stVerticalBlock { gap: .6rem; }
.st-key-outlook .stVerticalBlock { padding-top: .5rem; padding-bottom: .5rem; }
.st-key-outlook p { margin-bottom: 0; }
.st-key-steps, .st-key-stuck { gap: .35rem; padding-top: .5rem; padding-bottom: .6rem; }
.st-key-steps h3, .st-key-stuck h3 { padding-bottom: .75rem !important; }
.st-key-stuck p { line-height: 1.3; }
.st-key-steps button, .st-key-stuck button { min-height: 1.9rem; padding: .1rem .6rem; }
</style>"""


@st.fragment(run_every=3.0)
def show_growth(study: Study, known_patches: int) -> None:
    """Slides of the demo as they come; the page is drawn anew when there are more patches."""
    progress = study_progress(study)
    st.info(
        f"The simulated study is still being drawn: {progress.slides} slides with {progress.patches} patches "
        "so far. You can work on these already.",
        icon=":material/hourglass_top:",
    )
    if progress.patches != known_patches or not jobs.demo_is_being_made(study):
        st.rerun()


def main() -> None:
    person, study = require(*EVERYONE), current_study()
    with study.science.read() as db:
        name = get_study(db)["name"]
    progress = study_progress(study)
    st.html(STYLE)
    page_head(as_typed(name), f"{progress.slides} slides, {progress.patches} patches")
    if jobs.demo_is_being_made(study):
        show_growth(study, progress.patches)
    leads = may(person, "manage_people")
    if leads and progress.patches:
        with st.container(key="outlook"):
            parts.show_outlook(study, person, progress)
    if person.role != "annotator":
        find_disputes(study, person)
    if person.role == "annotator":
        parts.show_own_work(study, person)
    else:
        left, right = st.columns([1, 1] if leads else [3, 2])
        with left:
            if not progress.patches and not leads:
                st.info("This study has no images yet. The study lead brings them in.")
            if not leads:
                parts.show_ten_minutes(study, person)
            parts.show_steps(study, person, progress)
        with right:
            if leads:
                parts.show_stuck(study, person)
            parts.show_own_work(study, person)
        if leads:
            parts.show_people(study, progress)
    simulated_note(study)


main()
