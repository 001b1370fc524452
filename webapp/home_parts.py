"""The home page in parts: a person's own work, ten minutes, the way through the study, and what is stuck."""

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

import pandas as pd
import streamlit as st

from allinsam import jobs
from allinsam.accounts import SignedIn, may
from allinsam.store import Study, assignments, open_study
from allinsam.store import accounts as account_rows
from allinsam.store.study import list_classes
from allinsam.workflow.annotating import next_assignment, why_the_rest_waits
from allinsam.workflow.expert_queue import open_items
from allinsam.workflow.forecast import Forecast, forecast, student_work
from allinsam.workflow.planning import paces_of
from allinsam.workflow.progress import (
    PersonProgress,
    StudyProgress,
    class_progress,
    person_progress,
)
from allinsam.workflow.reviewing import AT_ONCE
from allinsam.workflow.stuck import Stuck, find_stuck
from allinsam.worth import Item, days_of_ten_minutes, within
from webapp.job_parts import BADGES, TITLES
from webapp.page_parts import annotation_state, as_typed, own_minutes, page_button, times_of

DONE, NEXT, LATER = (
    ":green[:material/check_circle:]",
    ":primary[:material/arrow_circle_right:]",
    ":gray[:material/circle:]",
)
KIND_WORDS = {
    "threshold": ("threshold to sign", "thresholds to sign"),
    "registration": ("registration to settle", "registrations to settle"),
    "dispute": ("nucleus in dispute", "nuclei in dispute"),
    "doubt": ("doubtful outline", "doubtful outlines"),
    "mocl": ("nucleus MOCL doubts", "nuclei MOCL doubts"),
    "finish": ("review to finish", "reviews to finish"),
    "gold": ("gold patch to outline", "gold patches to outline"),
    "reference": ("test patch to outline", "test patches to outline"),
}
TRAINING = ("experiment", "train", "evaluate")
WAYS_ON = {
    "registration": "Open",
    "threshold": "Sign",
    "gold": "Ten minutes",
    "job": "See job",
}


# --- Own work -------------------------------------------------------------------------------------


def show_own_work(study: Study, person: SignedIn) -> None:
    """The next patch, and what this person has done; nobody else's figures."""
    mine = person_progress(study, person.person_id)
    if not mine.assigned and person.role == "lead":
        st.caption(_no_patches(study, person))
        return
    following = next_assignment(study, person.person_id)
    with st.container(border=True):
        st.subheader("Your patches", anchor=False)
        if not mine.assigned:
            st.markdown(_no_patches(study, person))
            return
        if following is None:
            st.markdown(_nothing_to_open(study, person, mine))
        else:
            # What waits behind the button, for who has never drawn here.
            if not mine.finished and person.role == "annotator":
                st.markdown(
                    "A patch is a small picture of stained kidney tissue. You mark cell nuclei, the dark "
                    "spots, in it. The page says how, and every step is saved at once."
                )
            if following["purpose"] == "practice":
                st.markdown("This one is for **practice**: after handing in, it says what was right.")
            verb = "Continue" if following["state"] == "open" else "Start"
            label = f"{verb}: patch {following['place']} of {mine.assigned}"
            with st.container(horizontal=True):
                page_button(person, "annotate", label, primary=person.role == "annotator")
                if not mine.finished and person.role == "annotator":
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


def _no_patches(study: Study, person: SignedIn) -> str:
    waits = " More slides are being drawn; some may be for you." if jobs.demo_is_being_made(study) else ""
    assigns = (
        "Assign some on the People page."
        if may(person, "manage_people")
        else "The study lead assigns patches."
    )
    return f"No patch is in your queue yet. {assigns}{waits}"


def _nothing_to_open(study: Study, person: SignedIn, mine: PersonProgress) -> str:
    if mine.finished == mine.assigned:
        return f"All **{mine.finished}** patches are done. Thank you."
    with study.science.read() as db:
        why = why_the_rest_waits(db, assignments.list_assignments(db, person.person_id))
    return f"**{mine.finished}** of your {mine.assigned} patches are done. The rest waits. {why}"


# --- Ten minutes ----------------------------------------------------------------------------------


def waits_in_words(items: Sequence[Item]) -> str:
    """2 thresholds to sign, 1 registration to settle."""
    counts = Counter(item.kind for item in items)
    return ", ".join(
        f"{counts[kind]} {words[counts[kind] > 1]}" for kind, words in KIND_WORDS.items() if counts[kind]
    )


def minutes_of(items: Sequence[Item]) -> str:
    return f"about {max(1, round(sum(item.seconds for item in items) / 60))} min"


def items_of(study: Study, person_id: str | None) -> list[Item]:
    """After a start of the server, what raters disagree about is looked for on every patch once."""
    with st.spinner("Looking for what waits ..."):
        return open_items(study, person_id, AT_ONCE)


def show_ten_minutes(study: Study, person: SignedIn) -> None:
    """What waits for an expert, what it would cost, and the button."""
    items = items_of(study, person.person_id)
    with st.container(border=True):
        st.subheader("Ten minutes", anchor=False)
        if not items:
            st.markdown(":material/check_circle: Nothing waits for you.")
            return
        st.markdown(f"{waits_in_words(items)}.")
        first = within(items)
        label = f"Ten minutes: {len(items)} {'waits' if len(items) == 1 else 'wait'}, {minutes_of(items)}"
        page_button(person, "minutes", label, primary=True)
        if first < len(items):
            days = days_of_ten_minutes(items)
            st.caption(f"The first {first} fit into ten minutes. All of them: {days} days of ten minutes.")


# --- The study ------------------------------------------------------------------------------------


@st.cache_data(max_entries=4, show_spinner=False)
def forecast_of(folder: str, state: tuple[int, ...], others: tuple[int, ...], today: str) -> Forecast:
    """`state` and `others` stand for what the study holds."""
    study = open_study(Path(folder))
    by_patch = times_of(folder, state)["by_patch"]
    return forecast(student_work(study, by_patch, paces_of(by_patch)), datetime.fromisoformat(today).date())


def show_outlook(study: Study, person: SignedIn, progress: StudyProgress) -> None:
    """How far, until when, and what it still takes of an expert."""
    today = datetime.now(UTC).date().isoformat()
    with study.server.read() as db:
        active = sum(row["active"] for row in account_rows.list_accounts(db))
    others = (len(progress.people), progress.assigned, active)
    found = forecast_of(str(study.folder), annotation_state(study), others, today)
    items = items_of(study, None)
    hours = sum(item.seconds for item in items) / 3600
    spent = f"{hours:.1f} h" if hours >= 1 else minutes_of(items)
    days = days_of_ten_minutes(items)
    done, until, expert = st.columns([5, 8, 9], border=True)
    with done:
        share = progress.finished / progress.assigned if progress.assigned else 0.0
        st.progress(share, text=f"**{progress.finished} of {progress.assigned}** assigned patches finished")
    with until:
        st.markdown(
            f"**Students finish**: {forecast_words(found, account_names(study))}",
            help="In four of five cases, if they go on as on their last ten days with work; days without "
            "work count. UTC days.",
        )
    with expert:
        if not items:
            st.markdown("**Expert still needed**: nothing waits now")
            return
        # A text alone in a row that does not wrap is cut off.
        with st.container(horizontal=True, vertical_alignment="center", wrap=False):
            spread = f"{spent} = {days} {'day' if days == 1 else 'days'} of ten minutes"
            st.markdown(
                f"**Expert still needed**: {spread}", help=f"What waits now: {waits_in_words(items)}."
            )
            page_button(person, "minutes", "Ten minutes")


def forecast_words(found: Forecast, names: Mapping[str, str]) -> str:
    hours = "" if found.hours_left is None else f" :gray[({found.hours_left:.1f} h of work left)]"
    if found.state == "range" and found.first:
        last = f"{found.last:%-d %b %Y}" if found.last else "more than a year from now"
        return f"{found.first:%-d %b} to {last}{hours}"
    if found.state == "early":
        who = ", ".join(as_typed(names.get(p, p)) for p in found.early[:2])
        who += " ..." if len(found.early) > 2 else ""
        return f"too early to tell{hours}  \n:gray[fewer than 3 days with work: {who}]"
    return {"finished": "all are done", "nobody": "no student has patches yet"}[found.state]


def account_names(study: Study) -> dict[str, str]:
    with study.server.read() as db:
        return {row["person_id"]: row["name"] for row in account_rows.list_accounts(db)}


def steps_of(study: StudyProgress, working: bool) -> list[tuple[str, str, str, bool]]:
    """The way through a study: page, title, where it stands, and whether it is done."""
    signed = study.markers - len(study.unsigned)
    thresholds = f"{signed} of {study.markers} signed" if study.markers else "no marker channel imported"
    annotated = f"{study.finished} of {study.assigned} assigned patches finished"
    trained = "no model yet"
    if study.trained:
        trained = f"{study.trained} finished {'run' if study.trained == 1 else 'runs'}"
    lying = [f"{study.held} {'waits' if study.held == 1 else 'wait'}"] if study.held else []
    lying += [f"{study.unregistered} not registered"] if study.unregistered else []
    images = [] if study.patches else [("import", "Bring in images", "there is none yet", False)]
    # Without anything given out, "Annotate" would lead to an empty page.
    people = [] if study.assigned else [("people", "Invite people and give out patches", "none yet", False)]
    return [
        *images,
        (
            "registration",
            "Check how the IF lies on the stain",
            ", ".join(lying) or ("every patch is settled" if study.patches else "no patch imported"),
            bool(study.patches) and not lying,
        ),
        ("thresholds", "Sign the marker thresholds", thresholds, bool(study.markers) and not study.unsigned),
        *people,
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
    training = any(view.verb in TRAINING for view in active)
    steps = [step for step in steps_of(progress, training) if may_see(person, step[0])]
    current = next((page for page, _, _, done in steps if not done), "")
    # Where others annotate, there is nothing for this person to open.
    button = "" if current == "annotate" and not next_assignment(study, person.person_id) else current
    with st.container(border=True, key="steps"):
        st.subheader("Next steps", anchor=False)
        for number, (page, title, standing, done) in enumerate(steps, start=1):
            left, right = st.columns([6, 1], vertical_alignment="center")
            mark = DONE if done else NEXT if page == current else LATER
            left.markdown(f"{mark} **{number}. {title}** - :gray[{standing}]")
            with right:
                page_button(person, page, "Open", primary=page == button, key=f"step-{page}")
        for view in active:
            title = TITLES.get(view.verb, view.verb)
            st.progress(view.share, text=f"{title} (job {view.id}): {view.message or BADGES[view.state][1]}")


def may_see(person: SignedIn, page: str) -> bool:
    needed = {
        "import": "import_images",
        "registration": "register",
        "thresholds": "view_thresholds",
        "people": "manage_people",
        "train": "train",
        "compare": "compare",
        "export": "export",
    }
    return page not in needed or may(person, needed[page])


def show_stuck(study: Study, person: SignedIn) -> None:
    """What does not go on by itself, each with what to do and the way there."""
    names = account_names(study)
    found = find_stuck(study, datetime.now(UTC))
    with st.container(border=True, key="stuck"):
        st.subheader("What is stuck", anchor=False)
        if not found:
            st.markdown(":green[:material/check_circle:] Nothing is stuck.")
        for number, one in enumerate(found):
            left, right = st.columns([5, 1.4], vertical_alignment="center")
            left.markdown(_stuck_words(one, names))
            with right:
                page_button(person, one.page, WAYS_ON.get(one.kind, "Open"), key=f"stuck-{number}")


def _stuck_words(one: Stuck, names: Mapping[str, str]) -> str:
    who = ", ".join(names.get(person, person) for person in one.people[:3])
    who += " ..." if len(one.people) > 3 else ""
    return f"**{one.what}**{': ' + who if who else ''}.  \n:gray[{one.remedy}]"


def show_people(study: Study, progress: StudyProgress) -> None:
    """Everybody with patches: how many are done, and per class how many patches and nuclei."""
    with study.science.read() as db:
        classes = [row["name"] for row in list_classes(db)]
    names, by_class = account_names(study), class_progress(study)
    with st.container(border=True):
        st.subheader("Progress by person and class", anchor=False)
        people = [p for p in progress.people if p.assigned]
        if not people:
            st.markdown("Nobody has patches yet. Invite people and assign patches on the People page.")
            return
        table = pd.DataFrame([_person_row(p, names, classes, by_class) for p in people])
        share = st.column_config.ProgressColumn("Done", format="percent", min_value=0, max_value=1)
        st.dataframe(
            table, hide_index=True, column_config={"Done": share}, height=min(38 + 35 * len(table), 213)
        )


def _person_row(
    person: PersonProgress,
    names: Mapping[str, str],
    classes: Sequence[str],
    by_class: Mapping[tuple[str, str], tuple[int, int]],
) -> dict[str, object]:
    row: dict[str, object] = {
        "Person": names.get(person.person_id, person.person_id)
        + (" (simulated)" if person.simulated else ""),
        "Group": person.group,
        "Patches": f"{person.finished} of {person.assigned}",
        "Done": person.finished / person.assigned,
    }
    for name in classes:
        row[f"{name}: patches"], row[f"{name}: nuclei"] = by_class.get((person.person_id, name), (0, 0))
    return row
