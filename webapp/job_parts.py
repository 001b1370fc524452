"""Jobs on a page: state, progress, time left, live curves, cancel, resume, log."""

from collections.abc import Iterable, Mapping
from typing import Any

import pandas as pd
import streamlit as st

from allinsam import jobs
from allinsam.accounts import SignedIn, may
from allinsam.errors import AllinsamError, by_name
from allinsam.jobs import JobView
from allinsam.store import Study, runs
from allinsam.workflow.reviewing import AT_ONCE, untallied
from webapp import charts
from webapp.figure_parts import show_figure
from webapp.run_parts import show_examples

REFRESH_S = 1.5
BADGES = {
    "queued": ("gray", "waits"),
    "running": ("blue", "running"),
    "interrupted": ("orange", "interrupted"),
    "finished": ("green", "finished"),
    "failed": ("red", "failed"),
    "cancelled": ("gray", "cancelled"),
}
TITLES = {
    "experiment": "Train and compare",
    "train": "Train",
    "evaluate": "Score",
    "embed": "Prepare patches",
    "first-masks": "Masks of first boxes",
    "register": "Register the IF",
    "agreement": "Compare outlines",
    "report": "Make the report",
    "disputes": "Find what people disagree about",
    "import": "Import images",
    "import-slide": "Import a slide",
}
LATEST_KNOWN = 50  # jobs among which those of a page are looked for
WHAT_TO_DO = {
    "interrupted": "Its process is gone, for instance after a restart. Resume goes on from {place}.",
    "failed": "Resume tries again from {place}; the log says more.",
    "cancelled": "Resume goes on from {place}.",
}
# What they say at their end is what came of them.
TELLING = ("register", "import", "import-slide")
# All or nothing: there is nothing to go on from.
NOT_RESUMED = ("import", "import-slide")
RESUMES_FROM = {
    "register": "the patch it was at",
    "embed": "the patch it was at",
    "first-masks": "the patch it was at",
    "agreement": "the patch it was at",
    "disputes": "the patch it was at",
    "evaluate": "the first run",
    "report": "the beginning",
}


def show_jobs(study: Study, limit: int = 6, verbs: tuple[str, ...] = ()) -> None:
    """The newest jobs, drawn again every second or two while one of them moves.

    Args:
        verbs: only jobs of these are shown, and nothing where there is none.
    """
    active = any(view.is_active for view in _newest(study, limit, verbs))
    st.fragment(_job_list, run_every=REFRESH_S if active else None)(study, limit, verbs, active)


def _newest(study: Study, limit: int, verbs: tuple[str, ...]) -> list[JobView]:
    if not verbs:
        return jobs.list_views(study, limit)
    return [view for view in jobs.list_views(study, LATEST_KNOWN) if view.verb in verbs][:limit]


def _job_list(study: Study, limit: int, verbs: tuple[str, ...], was_active: bool) -> None:
    views = _newest(study, limit, verbs)
    if verbs and not views:
        return
    if was_active and not any(view.is_active for view in views):
        st.rerun()  # the rest of the page shows what has just been finished
    if not jobs.worker_is_running(study):
        st.warning(
            "The worker is not running: jobs wait until it is. Start the app with `python -m webapp`, "
            "which keeps one running.",
            icon=":material/engineering:",
        )
    if not views:
        st.caption("No job yet.")
    for number, view in enumerate(views):
        _show_job(study, view, open_=view.is_active or number == 0)


def _show_job(study: Study, view: JobView, open_: bool) -> None:
    colour, word = BADGES[view.state]
    title = f"{TITLES.get(view.verb, view.verb)} (job {view.id})"
    with st.container(border=True):
        left, right = st.columns([4, 1.3], vertical_alignment="center")
        stopping = " :orange-badge[stopping]" if view.stopping else ""
        took = f"&nbsp; :gray[{duration(view.seconds)}]" if view.state != "queued" else ""
        left.markdown(f"**{title}** &nbsp; :{colour}-badge[{word}]{stopping}{took}")
        with right:
            _show_actions(study, view)
        if view.is_active and view.state == "running":
            st.progress(view.share, text=progress_text(view))
        elif view.error:
            st.error(by_name(view.error))
        if view.state in WHAT_TO_DO and open_ and view.verb in NOT_RESUMED:
            st.caption("Nothing was imported. Choose the files again to try once more.")
        elif view.state in WHAT_TO_DO and open_:
            st.caption(WHAT_TO_DO[view.state].format(place=RESUMES_FROM.get(view.verb, "the last epoch")))
        if view.verb in TELLING and view.state == "finished":
            st.caption(view.message)
        if open_:
            show_curves(study, view)
            if view.is_active and view.detail.get("run_id"):
                show_examples(study, view.detail["run_id"], f"live-{view.id}", note=False)
            if log := jobs.read_log(study, view.id).strip():
                with st.expander("Log"):
                    st.code(by_name(log[-4000:]), language=None)


def _show_actions(study: Study, view: JobView) -> None:
    if view.is_active and not view.stopping and st.button("Cancel", key=f"cancel-{view.id}"):
        _act(jobs.cancel, study, view.id)
    if view.can_resume and view.verb not in NOT_RESUMED and st.button("Resume", key=f"resume-{view.id}"):
        _act(jobs.resume, study, view.id)


def _act(do: Any, study: Study, job_id: int) -> None:
    try:
        do(study, job_id)
    except AllinsamError as error:
        st.error(by_name(str(error)))
    else:
        st.rerun()


def progress_text(view: JobView) -> str:
    left = seconds_left(view)
    return f"{view.message or 'starting'}" + (f", about {duration(left)} left" if left is not None else "")


def seconds_left(view: JobView) -> float | None:
    """From what the job has done so far; None until that says anything."""
    if view.verb == "train" and view.detail.get("seconds_left") is not None:
        return float(view.detail["seconds_left"])
    if view.share < 0.02 or view.seconds < 3:
        return None
    return view.seconds * (1 - view.share) / view.share


def duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 48 * 3600 else f"{seconds / 86400:.0f} days"


def show_curves(study: Study, view: JobView) -> None:
    """Loss and validation of the job's run, and of the other run of the same experiment."""
    run_id = view.detail.get("run_id")
    with study.science.read() as db:
        known = {run["id"]: run for run in runs.list_runs(db)}
        if run_id not in known:
            return
        mine = known[run_id]
        if view.verb == "experiment":
            shown = runs_of_one_experiment(mine, known.values())
        else:  # one after the other with several seeds
            shown = [known[key] for key in view.detail.get("run_ids", [run_id]) if key in known]
        columns = ["epoch", "stage", "loss", "val"]
        tables = {run["name"]: pd.DataFrame(runs.run_epochs(db, run["id"]), columns=columns) for run in shown}
    tables = {title: table for title, table in tables.items() if len(table)}
    live = live_point(mine, view.detail) if view.state == "running" else None
    if tables or live:
        show_figure(study, charts.loss_curves(tables, live), f"curves-{view.id}")


def runs_of_one_experiment(mine: Mapping[str, Any], known: Iterable[Mapping[str, Any]]) -> list[Any]:
    """Runs with the same split and settings; the newest of those with the same name."""
    same = ("kind", "split_id", "settings")
    alike = [run for run in known if all(run[key] == mine[key] for key in same)]
    return list({run["name"]: run for run in alike}.values())


def live_point(run: Mapping[str, Any], detail: Mapping[str, Any]) -> dict[str, Any] | None:
    """Where the epoch that is under way stands: title, epoch (a fraction) and mean loss so far."""
    if detail.get("kind") != "step" or detail.get("loss") is None:
        return None
    stages = {
        "adapter": run["settings"]["adapter_epochs"],
        "corrective": run["settings"]["corrective_epochs"],
    }
    before = stages["adapter"] if detail["stage"] == "corrective" else 0
    epoch = before + stages[detail["stage"]] * detail["done"] / detail["total"]
    return {"title": run["name"], "epoch": epoch, "loss": detail["loss"]}


def find_disputes(study: Study, person: SignedIn) -> None:
    """Where disputes are still to be found on many patches: says so, and lets a job do it."""
    missing = len(untallied(study))
    if missing <= AT_ONCE or not may(person, "review"):
        return
    known = _newest(study, 1, ("disputes",))
    # One that failed or was cancelled is somebody's to resume.
    if not known or known[0].state == "finished":
        jobs.submit(study, "disputes", {}, person.person_id)
    st.info(
        f"What people disagree about is still being looked for on {missing:,} patches, in the background. "
        "They are not counted yet.",
        icon=":material/hourglass_top:",
    )
    show_jobs(study, limit=1, verbs=("disputes",))
