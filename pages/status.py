"""Status: is everything as it should be, how much room is left, what was slow."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import streamlit as st

from allinsam import jobs
from allinsam.accounts import demand
from allinsam.store import Study
from allinsam.store import accounts as account_rows
from allinsam.workflow.doctor import OK, PROBLEM, Finding, examine
from allinsam.workflow.housekeeping import (
    AT_WORK_MINUTES,
    free_bytes,
    newest_backup_at,
    people_at_work,
    room_taken,
)
from webapp.clock import local_date_time, local_time
from webapp.job_parts import show_jobs
from webapp.page_parts import as_typed, page_head
from webapp.request_log import SLOW_S, log_file, read_log
from webapp.session import current_study, require

EXAMINED_AGAIN_S = 300
MOST_SHOWN = 100
HOURS_SHOWN = 24


@st.cache_data(ttl=EXAMINED_AGAIN_S, show_spinner="Looking at disk, databases and backups ...")
def examined(folder: str) -> tuple[list[Finding], datetime]:
    """What `doctor` finds, and when it looked: reading whole databases takes seconds in a large study."""
    return examine(Path(folder)), datetime.now(UTC)


def show_now(study: Study, lines: list[dict[str, Any]]) -> None:
    """What there is right now, in one row."""
    busy = [line for line in lines if line["event"] == "busy"][-10:]
    p95 = max((line["p95_ms"] for line in busy), default=None)
    at_work, backup_at = people_at_work(study), newest_backup_at(study)
    free, running = free_bytes(study), [view for view in jobs.list_views(study) if view.is_active]
    columns = st.columns(6)
    columns[0].metric(
        "At work now", len(at_work), help=f"Did something in the last {AT_WORK_MINUTES} minutes."
    )
    columns[1].metric("Free on the disk", f"{free / 1e9:,.1f} GB")
    columns[2].metric("Newest backup", _age(backup_at), help="Of those that are whole.")
    columns[3].metric("Jobs", len(running), help="Waiting or running.")
    columns[4].metric("Worker", "runs" if jobs.worker_is_running(study) else "is away")
    columns[5].metric(
        "Answers within",
        "no figure yet" if p95 is None else f"{p95:,.0f} ms",
        help="95 of 100 requests, in the slowest of the last 10 minutes that had any.",
    )


def _age(moment: datetime | None) -> str:
    if moment is None:
        return "none"
    minutes = (datetime.now(UTC) - moment).total_seconds() / 60
    if minutes < 90:
        return f"{max(0, minutes):.0f} min ago"
    return f"{minutes / 60:.0f} h ago" if minutes < 48 * 60 else f"{minutes / 1440:.0f} days ago"


def show_findings(study: Study) -> None:
    left, right = st.columns([5, 1], vertical_alignment="center")
    left.subheader("Is all well?", anchor=False)
    if right.button("Look again", width="stretch"):
        examined.clear()
    findings, at = examined(str(study.folder))
    bad = [one for one in findings if one.state != OK]
    for one in bad:
        text = f"**{as_typed(one.check)}**: {as_typed(one.said)} {as_typed(one.remedy)}"
        (st.error if one.state == PROBLEM else st.warning)(text)
    if not bad:
        st.success("Nothing is wrong.")
    well = [one for one in findings if one.state == OK]
    seen = local_time(at.isoformat())
    with st.expander(f"{len(well)} checks found nothing, looked at {seen}"):
        for one in well:
            st.markdown(f"{as_typed(one.check)}: {as_typed(one.said)}")


def show_room(study: Study) -> None:
    st.subheader("Room", anchor=False)
    parts = room_taken(study)
    table = pd.DataFrame(
        {
            "What": [part.title for part in parts],
            "Where": [part.name for part in parts],
            "MB": [part.bytes / 1e6 for part in parts],
        }
    )
    st.dataframe(table, hide_index=True, column_config={"MB": st.column_config.NumberColumn(format="%.1f")})
    total = sum(part.bytes for part in parts)
    st.caption(f"Together {total / 1e6:,.1f} MB in {as_typed(str(study.folder))}.")


def show_requests(study: Study, lines: list[dict[str, Any]]) -> None:
    st.subheader("Slow and failed", anchor=False)
    since = (datetime.now(UTC) - timedelta(hours=HOURS_SHOWN)).isoformat()
    told = [line for line in lines if line["event"] in ("slow", "failed", "log") and line["at"] >= since]
    if not told:
        st.markdown(f"In the last {HOURS_SHOWN} hours no request failed or took over {SLOW_S:g} s.")
    else:
        with study.server.read() as db:
            names = {row["person_id"]: row["name"] for row in account_rows.list_accounts(db)}
        rows = [
            {
                "When": local_date_time(line["at"]),
                "What": line["event"] if line["event"] != "log" else line.get("level", ""),
                "Of": f"{line.get('method', '')} {line.get('path', line.get('said', ''))}".strip(),
                "Status": line.get("status"),
                "Seconds": line["ms"] / 1000 if "ms" in line else None,
                "Who": names.get(line.get("person", ""), line.get("person", "")),
                "Fault": line.get("exception", ""),
            }
            for line in reversed(told[-MOST_SHOWN:])
        ]
        st.dataframe(
            pd.DataFrame(rows),
            hide_index=True,
            column_config={"Seconds": st.column_config.NumberColumn(format="%.2f")},
        )
    starts = [line for line in lines if line["event"] == "start"]
    up = f"The server was started {local_date_time(starts[-1]['at'])}. " if starts else ""
    where = as_typed(str(log_file(study.folder)))
    st.caption(f"{up}PAGE is a page that was drawn. All of it is in {where}, with pseudonyms.")


def main() -> None:
    person, study = require("lead"), current_study()
    demand(person, "view_status")
    page_head("Status", "Is everything as it should be, how much room is left, and what was slow.")
    lines = read_log(study.folder)
    show_now(study, lines)
    show_findings(study)
    left, right = st.columns([1, 1], gap="large")
    with left:
        show_requests(study, lines)
    with right:
        show_room(study)
    st.subheader("Jobs", anchor=False)
    show_jobs(study, 5)


main()
