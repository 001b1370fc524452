"""Home: what to do next, in one glance."""

import pandas as pd
import streamlit as st

from allinsam import jobs
from allinsam.accounts import SignedIn, may
from allinsam.store import Study
from allinsam.store import accounts as account_rows
from allinsam.store.study import get_study
from allinsam.workflow.annotating import next_assignment
from allinsam.workflow.progress import (
    PersonProgress,
    StudyProgress,
    Waiting,
    person_progress,
    study_progress,
    waiting_for_thresholds,
)
from webapp.navigation import EVERYONE
from webapp.page_parts import annotation_state, own_minutes, page_button, page_head, simulated_note
from webapp.session import current_study, require

FEW = 3
DONE, NEXT, LATER = (
    ":green[:material/check_circle:]",
    ":primary[:material/arrow_circle_right:]",
    ":gray[:material/circle:]",
)


def show_own_work(study: Study, person: SignedIn) -> None:
    """The next patch, and what this person has done; nobody else's figures."""
    mine = person_progress(study, person.person_id)
    following = next_assignment(study, person.person_id)
    with st.container(border=True):
        st.subheader("Your patches", anchor=False)
        if not mine.assigned:
            waits = (
                " More slides are being drawn; some may be for you." if jobs.demo_is_being_made(study) else ""
            )
            assigns = (
                "Assign some on the People page."
                if may(person, "manage_people")
                else ("The study lead assigns patches.")
            )
            st.markdown(f"No patch is in your queue yet. {assigns}{waits}")
            return
        if following is None:
            if mine.finished < mine.assigned:
                st.markdown(
                    f"**{mine.finished}** of your {mine.assigned} patches are done. "
                    "The rest waits: the Annotate page says for what."
                )
            else:
                st.markdown(f"All **{mine.finished}** patches are done. Thank you.")
        else:
            verb = "Continue" if following["state"] == "open" else "Start"
            label = f"{verb}: patch {following['place']} of {mine.assigned}"
            # What waits behind the button, for who has never drawn here.
            if not mine.finished:
                st.markdown(
                    "A patch is a small picture of stained kidney tissue. You mark cell nuclei, the dark "
                    "spots, in it. The page says how, and every step is saved at once."
                )
            with st.container(horizontal=True):
                page_button(person, "annotate", label, primary=True)
                if not mine.finished:
                    page_button(person, "tour", "Take the five-minute tour")
        st.progress(mine.finished / mine.assigned, text=f"{mine.finished} of {mine.assigned} patches done")
        minutes = own_minutes(str(study.folder), person.person_id, annotation_state(study))
        left, right = st.columns(2)
        left.metric("Patches done", mine.finished)
        right.metric(
            "Active minutes so far",
            f"{minutes:.0f}",
            help="Without pauses, waiting for masks, and practice.",
        )


def steps_of(study: StudyProgress, working: bool) -> list[tuple[str, str, str, bool]]:
    """The way through a study: page, title, where it stands, and whether it is done."""
    signed = study.markers - len(study.unsigned)
    thresholds = f"{signed} of {study.markers} signed" if study.markers else "no marker channel imported"
    annotated = f"{study.finished} of {study.assigned} assigned patches finished"
    trained = f"{study.trained} finished runs" if study.trained else "no model yet"
    lying = [f"{study.held} {'waits' if study.held == 1 else 'wait'}"] if study.held else []
    lying += [f"{study.unregistered} not registered"] if study.unregistered else []
    images = [] if study.patches else [("import", "Bring in images", "there is none yet", False)]
    return [
        *images,
        (
            "registration",
            "Check how the IF lies on the stain",
            ", ".join(lying) or "every patch is settled",
            bool(study.patches) and not lying,
        ),
        ("thresholds", "Sign the marker thresholds", thresholds, bool(study.markers) and not study.unsigned),
        ("annotate", "Annotate", annotated, study.assigned > 0 and study.finished == study.assigned),
        ("train", "Train", "a job is running" if working else trained, study.trained > 0 and not working),
        (
            "compare",
            "Compare expert and students",
            "scored" if study.scored else "nothing scored yet",
            study.scored,
        ),
        ("export", "Export", "CSV files whenever you want them", False),
    ]


def show_steps(study: Study, person: SignedIn, progress: StudyProgress) -> None:
    active = [view for view in jobs.list_views(study) if view.is_active]
    steps = [step for step in steps_of(progress, bool(active)) if may_see(person, step[0])]
    current = next((page for page, _, _, done in steps if not done), "")
    with st.container(border=True):
        st.subheader("Next steps", anchor=False)
        for number, (page, title, standing, done) in enumerate(steps, start=1):
            left, right = st.columns([6, 1], vertical_alignment="center")
            mark = DONE if done else NEXT if page == current else LATER
            left.markdown(f"{mark} **{number}. {title}** - :gray[{standing}]")
            with right:
                page_button(person, page, "Open", primary=page == current, key=f"step-{page}")
        if may_see(person, "thresholds") and (waits := waiting_for_thresholds(study)):
            st.caption(waiting_note(waits))
        for view in active:
            st.progress(view.share, text=f"Job {view.id}, {view.verb}: {view.message or view.state}")


def waiting_note(waits: list[Waiting]) -> str:
    """What keeps patches closed, in a line."""
    told = [
        f"{one.slide}, {one.marker} ({one.assignments} {'patch' if one.assignments == 1 else 'patches'} of "
        f"{one.people} {'person' if one.people == 1 else 'people'})"
        for one in waits[:FEW]
    ]
    more = f"; and {len(waits) - FEW} more" if len(waits) > FEW else ""
    return f"Patches wait for thresholds: {'; '.join(told)}{more}."


def may_see(person: SignedIn, page: str) -> bool:
    needed = {
        "import": "import_images",
        "registration": "register",
        "thresholds": "view_thresholds",
        "train": "train",
        "compare": "compare",
        "export": "export",
    }
    return page not in needed or may(person, needed[page])


def show_people(study: Study, progress: StudyProgress) -> None:
    with study.server.read() as db:
        names = {row["person_id"]: row["name"] for row in account_rows.list_accounts(db)}
    with st.container(border=True):
        st.subheader("Progress by person", anchor=False)
        people = [p for p in progress.people if p.assigned]
        if not people:
            st.markdown("Nobody has patches yet. Invite people and assign patches on the People page.")
            return
        table = pd.DataFrame([_person_row(p, names) for p in people])
        share = st.column_config.ProgressColumn("Done", format="percent", min_value=0, max_value=1)
        st.dataframe(table, hide_index=True, column_config={"Done": share})


def _person_row(person: PersonProgress, names: dict[str, str]) -> dict[str, object]:
    who = names.get(person.person_id, person.person_id)
    return {
        "Person": who + (" (simulated)" if person.simulated else ""),
        "Group": person.group,
        "Patches": f"{person.finished} of {person.assigned}",
        "Done": person.finished / person.assigned,
    }


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
    page_head(name, f"{progress.slides} slides, {progress.patches} patches")
    if jobs.demo_is_being_made(study):
        show_growth(study, progress.patches)
    if person.role == "annotator":
        show_own_work(study, person)
    else:
        left, right = st.columns([3, 2])
        with left:
            show_steps(study, person, progress)
        with right:
            show_own_work(study, person)
        if may(person, "manage_people"):
            show_people(study, progress)
    simulated_note(study)


main()
