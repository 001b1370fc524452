"""What holds a study up, and what to do about each: for the lead's home page."""

import shutil
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlite_utils import Database

from allinsam import jobs
from allinsam.errors import by_name
from allinsam.store import Study, accounts, images
from allinsam.store import assignments as queue
from allinsam.store import study as study_store
from allinsam.store.backups import KEPT_FREE_BYTES, last_failure
from allinsam.workflow.expert_queue import gold_need
from allinsam.workflow.planning import newest_plan, plan_patches
from allinsam.workflow.practising import has_qualification_waiting, qualification
from allinsam.workflow.progress import waiting_on_registration, waiting_on_thresholds

PATIENCE_DAYS = 2  # between an invitation and asking why somebody has not begun
RECENT_JOBS = 20
NOWHERE = ""  # no page of the app can mend it
# Where a job of a verb is seen and resumed; the others on the Train page.
PAGE_OF_VERB = {"register": "registration"}


@dataclass(frozen=True)
class Stuck:
    """One thing that does not go on by itself.

    what: in one sentence; `people` are pseudonyms to be named after it. remedy: what to do. page: where, or
    NOWHERE.
    """

    kind: str
    what: str
    remedy: str
    page: str
    people: tuple[str, ...] = ()


def find_stuck(study: Study, now: datetime) -> list[Stuck]:
    """Everything that is stuck, what holds up most people first; nothing stuck is an empty list."""
    with study.science.read() as db:
        found = [*_registrations(db), *_thresholds(db), *_overlap(db), *_closed(db)]
    return [*_kept(study), *found, *_not_begun(study, now), *_gold(study), *_failed_jobs(study)]


def _kept(study: Study) -> list[Stuck]:
    """A disk on which soon nothing can be saved, and backups that could not be made."""
    found = []
    free = shutil.disk_usage(study.folder).free
    if free < KEPT_FREE_BYTES:
        what = f"The server's disk has {free / 1e6:,.0f} MB left"
        found.append(Stuck("disk", what, "Make room: nothing can be saved on a full disk.", NOWHERE))
    if failure := last_failure(study):
        what = f"No backup could be made on {failure['at'][:10]}: {_first_line(by_name(failure['why']), 200)}"
        remedy = "Who runs the server sees more with: python -m allinsam doctor"
        found.append(Stuck("backup", what, remedy, NOWHERE))
    return found


def _registrations(db: Database) -> list[Stuck]:
    waiting = waiting_on_registration(db)
    if not waiting:
        return []
    behind = sum(waiting.values())
    what = (
        f"{count_of(len(waiting), 'patch', 'patches')} held by registration, "
        f"{count_of(behind, 'assignment', 'assignments')} behind"
    )
    return [Stuck("registration", what, "Look at them and accept or move the IF.", "registration")]


def _thresholds(db: Database) -> list[Stuck]:
    waiting = waiting_on_thresholds(db)
    if not waiting:
        return []
    slides = {row["id"]: row["name"] for row in images.list_slides(db)}
    slide_id, marker = max(waiting, key=lambda pair: (len(waiting[pair]), pair))
    what = (
        f"{count_of(len(waiting), 'threshold', 'thresholds')} unsigned, "
        f"{count_of(len(set().union(*waiting.values())), 'assignment', 'assignments')} behind, most of them "
        f"{slides[slide_id]}, {marker}"
    )
    return [Stuck("threshold", what, "Sign them.", "thresholds")]


def _overlap(db: Database) -> list[Stuck]:
    """Patches that fewer people have than the newest plan says, because people left or patches came."""
    plan = newest_plan(db)
    if plan is None:
        return []
    settings, people = plan
    gone = {row["id"] for row in study_store.list_people(db) if row["withdrawn_at"] or row["simulated"]}
    rows = queue.list_assignments(db)
    # A patch that is hidden as gold is nobody's production on purpose.
    hidden = {row["patch_id"] for row in rows if row["purpose"] == "gold" and row["plan_id"] is not None}
    has: Counter[int] = Counter(
        row["patch_id"]
        for row in rows
        if row["purpose"] == "production" and row["plan_id"] is not None and row["person_id"] not in gone
    )
    wanted = min(settings.overlap, len(people))
    below = [p for p in plan_patches(db) if p.markers and p.id not in hidden and has[p.id] < wanted]
    if not below:
        return []
    what = f"{count_of(len(below), 'patch has', 'patches have')} fewer than {wanted} people"
    return [Stuck("overlap", what, "Preview the plan again and give out what is missing.", "people")]


def _closed(db: Database) -> list[Stuck]:
    closed, between = [], []
    for person in study_store.list_people(db):
        if person["withdrawn_at"] or person["simulated"]:
            continue
        stands = qualification(db, person["id"])
        if stands.needed is None or stands.is_open or not stands.marks:
            continue
        if len(stands.marks) >= stands.needed.attempts:
            closed.append(person["id"])
        elif not has_qualification_waiting(db, person["id"]):
            between.append(person["id"])
    found = []
    if closed:
        what = f"{count_of(len(closed), 'person', 'people')} closed by a failed qualification"
        remedy = "Talk to them; give practice and change the pass mark."
        found.append(Stuck("closed", what, remedy, "people", (*closed,)))
    if between:
        what = f"{count_of(len(between), 'person', 'people')} not qualified yet, with tries left"
        remedy = "Give one more qualification patch, perhaps practice before it."
        found.append(Stuck("closed", what, remedy, "people", (*between,)))
    return found


def _not_begun(study: Study, now: datetime) -> list[Stuck]:
    """Active accounts with patches, invited PATIENCE_DAYS ago or more, without a first act."""
    with study.server.read() as db:
        known = [row for row in accounts.list_accounts(db) if row["active"]]
    with study.science.read() as db:
        rows = queue.list_assignments(db)
    has: Counter[str] = Counter(row["person_id"] for row in rows)
    begun = {row["person_id"] for row in rows if row["state"] != "waiting"}
    late = [
        row["person_id"]
        for row in known
        if has[row["person_id"]] and row["person_id"] not in begun and _days_since(row, now) >= PATIENCE_DAYS
    ]
    if not late:
        return []
    what = f"{count_of(len(late), 'person has', 'people have')} not begun since the invitation"
    return [Stuck("not_begun", what, "Write to them; make a new link if theirs is lost.", "people", (*late,))]


def _days_since(account: Mapping[str, Any], now: datetime) -> int:
    return (now - datetime.fromisoformat(account["created_at"])).days


def _gold(study: Study) -> list[Stuck]:
    need = gold_need(study)
    if not need.missing:
        return []
    what = f"{need.there} of {need.wanted} patches have the gold that the plan hides for each student"
    return [Stuck("gold", what, "The expert outlines more, ten minutes at a time.", "minutes")]


def _failed_jobs(study: Study) -> list[Stuck]:
    """Jobs that ended without a result, unless a later one of the same kind went well or runs."""
    settled_verbs: set[str] = set()
    failed: list[jobs.JobView] = []
    for view in jobs.list_views(study, RECENT_JOBS):
        if view.state in ("failed", "interrupted") and view.verb not in settled_verbs:
            failed.append(view)
        settled_verbs.add(view.verb)
    return [
        Stuck(
            "job",
            f"Job {view.id}, {view.verb}, {view.state}"
            + (f": {_first_line(view.error)}" if view.error else ""),
            "See its log and resume it.",
            PAGE_OF_VERB.get(view.verb, "train"),
        )
        for view in failed
    ]


def _first_line(text: str, longest: int = 90) -> str:
    line = next(iter(text.strip().splitlines()), "")
    return line if len(line) <= longest else line[: longest - 1] + "…"


def count_of(count: int, one: str, more: str) -> str:
    return f"{count} {one if count == 1 else more}"
