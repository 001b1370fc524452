"""Annotate: the stained patch beside its marker; boxes become outlines, to be kept, mended or dropped."""

import uuid
from typing import Any

import streamlit as st

from allinsam.accounts import demand
from allinsam.errors import AllinsamError, by_name
from allinsam.records import SHOWN_TO
from allinsam.store import Study, assignments, thresholds
from allinsam.store.study import get_study
from allinsam.workflow.annotating import ActLog, next_assignment, why_closed
from allinsam.workflow.desk import Desk
from allinsam.workflow.refreshing import refresh_for
from allinsam.workflow.reviewing import why_sent_back
from allinsam.workflow.suggesting import propose
from webapp.annotate import bar, bench, guidance, look, panel
from webapp.annotate.bench import Bench
from webapp.image_routes import View
from webapp.page_parts import page_path
from webapp.resources import embed_ahead, embedding_cache
from webapp.session import current_person, current_study
from webapp.surfaces import SURFACES, dual_pane, simple_canvas
from webapp.surfaces.scene import Window

SIMPLE, DUAL = "simple_canvas", "dual_pane"


def queue_of(study: Study, person_id: str) -> list[dict[str, Any]]:
    with study.science.read() as db:
        return assignments.list_assignments(db, person_id)


def chosen_assignment(study: Study, person_id: str, mine: list[dict[str, Any]]) -> dict[str, Any] | None:
    """The patch named in the address if it is in this person's queue, else the next to do."""
    wanted = st.query_params.get("patch")
    named = next((row for row in mine if str(row["id"]) == wanted), None)
    return named or next_assignment(study, person_id)


def act_log() -> ActLog:
    """One page load is one client; its acts are numbered through all patches it opens."""
    if "act_log" not in st.session_state:
        st.session_state["act_log"] = ActLog(f"page-{uuid.uuid4()}", SIMPLE)
    return st.session_state["act_log"]


def open_desk(study: Study, person_id: str, assignment_id: int) -> Desk:
    try:
        cache = embedding_cache(study)
    except AllinsamError as error:
        cache = None
        st.warning(f"Boxes get no outlines now: {by_name(str(error))}")
    return Desk(study, assignment_id, person_id, act_log(), cache)


def picture_urls(study: Study, desk: Desk, at: Bench, view: bar.ViewSettings) -> bench.Urls:
    """A layer's address for a window of this patch, with the marker of a class: else of the one in hand."""
    patch_id, slide_id = desk.assignment["patch_id"], desk.assignment["slide_id"]
    with study.science.read() as db:
        signed = {
            class_id: thresholds.current_threshold(db, slide_id, row["marker"], patch_id)
            for class_id, row in desk.classes.items()
        }

    def url(layer: str, window: Window, class_id: int | None = None) -> str | None:
        class_id = class_id or bench.class_in_hand(at, desk)
        threshold = signed[class_id]
        if layer == "bright" and threshold is None:
            return None
        marker = desk.classes[class_id]["marker"]
        asked = View(patch_id, layer, window, marker, view.contrast, view.tint)
        # Where the threshold is not shown, a new one must not show in the address either.
        told = threshold and layer != "pas" and desk.assignment["guidance"] in SHOWN_TO["bright"]
        return asked.url(f"-{threshold['id']}" if told else "", desk.assignment_id)

    return url


@st.fragment
def work(study: Study, person_id: str, assignment_id: int) -> None:
    """Everything that changes while a patch is annotated; only this runs again."""
    desk = open_desk(study, person_id, assignment_id)
    at = st.session_state.setdefault(f"bench-{assignment_id}", bench.new_bench(desk))
    bench.tidy(at, desk)
    if desk.state.waiting():
        bench.attempt(at, desk.fetch_masks)
    view = bar.view_settings()
    key = f"{assignment_id}-{act_log_name()}"
    urls = picture_urls(study, desk, at, view)
    mine = queue_of(study, person_id)
    bar.show(at, desk, mine, go_to)
    with st.container(key="desk", horizontal=True, gap="small", wrap=False):
        scene = bench.scene(at, desk, view, key, urls)
        panes = 1 if scene.marker_url is None else 2
        with st.container(key="panes", width=panes * (view.pane_px + 16) - 16):
            bar.pane_titles(desk, at, view)
            SURFACES[SIMPLE](scene, lambda gestures: bench.take(at, desk, gestures))
            if desk.state.submitted:
                panel.handed_in(at, desk, lambda: go_on(study, desk))
            else:
                panel.footer(at, desk, lambda: hand_in(study, desk, at))
        with st.container(key="panel"):
            panel.status(desk, mine)
            if st.session_state.get(f"show_open-{assignment_id}"):
                panel.open_points(at, desk)
            panel.show(at, desk, scene, urls)
    if st.session_state.pop("go", None):
        st.rerun()


def act_log_name() -> str:
    return st.session_state.setdefault("page_load", uuid.uuid4().hex[:8])


def hand_in(study: Study, desk: Desk, at: Bench) -> None:
    st.session_state[f"show_open-{desk.assignment_id}"] = bool(desk.open_points())
    if not desk.open_points() and bench.attempt(at, desk.submit):
        go_on(study, desk)


def go_on(study: Study, desk: Desk) -> None:
    following = next_assignment(study, desk.person_id)
    go_to(following["id"] if following else None)


def go_to(assignment_id: int | None) -> None:
    st.query_params.clear()
    if assignment_id is not None:
        st.query_params["patch"] = str(assignment_id)
    st.session_state["go"] = True


def main() -> None:
    study, person = current_study(), current_person()
    mine = queue_of(study, person.person_id)
    assignment = chosen_assignment(study, person.person_id, mine)
    if assignment is None:
        guidance.nothing_waits(study, person.person_id, person.role)
        look.finished_list(mine, go_to)
        return
    demand(person, "annotate", assignment)
    with study.science.read() as db:
        closed = why_closed(db, assignment)
    if closed:
        guidance.patch_waits(study, person.person_id, closed, go_to)
        return
    if guidance.tour_comes_first(study, person.person_id, assignment):
        st.switch_page(str(page_path("tour")))
    look.style()
    guidance.sent_back(why_sent_back(study, assignment["id"]))
    guidance.first_steps(study, person.person_id, assignment, in_both=chosen_surface() == DUAL)
    if chosen_surface() == DUAL:
        dual(study, assignment["id"])
    else:
        simple(study, person.person_id, assignment, mine)


def chosen_surface() -> str:
    """As named in the address, else as before in this sign-in; the dual pane at first."""
    wanted = st.query_params.get("surface")
    if wanted in (SIMPLE, DUAL):
        st.session_state["surface"] = wanted
    return st.session_state.get("surface", DUAL)


def dual(study: Study, assignment_id: int) -> None:
    """The surface works on its own; the address follows it from patch to patch."""
    with study.science.read() as db:
        row = get_study(db)
    dual_pane.show(assignment_id, row["created_at"], DUAL, follow, bool(row["simulated"]))


def follow(assignment_id: int | None) -> None:
    if assignment_id is not None:
        st.query_params["patch"] = str(assignment_id)


def simple(study: Study, person_id: str, assignment: dict[str, Any], mine: list[dict[str, Any]]) -> None:
    if refresh := refresh_for(study, assignment["id"]):
        guidance.reminder(study, person_id, assignment, refresh)
        return
    opened = st.session_state.setdefault("opened", set())
    try:
        propose(study, assignment["id"], lambda: embedding_cache(study))
    except AllinsamError as error:
        st.error(by_name(str(error)))
        return
    desk = open_desk(study, person_id, assignment["id"])
    if assignment["id"] not in opened and not desk.state.submitted:
        desk.do("load")
        opened.add(assignment["id"])
    if desk.cache is not None:
        waiting = [row["patch_id"] for row in mine if row["state"] == "waiting"]
        embed_ahead(study, desk.cache, [assignment["patch_id"], *waiting[:1]])
    simple_canvas.forget(f"{assignment['id']}-{act_log_name()}")
    work(study, person_id, assignment["id"])


main()
