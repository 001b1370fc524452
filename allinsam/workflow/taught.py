"""What everybody did to learn, and how well, as one table: tour, practice, qualification, gold, reminders."""

from collections.abc import Mapping
from typing import Any

import pandas as pd
from sqlite_utils import Database

from allinsam.practice import Mark, mark
from allinsam.records import LEARNING_PURPOSES
from allinsam.store import Study, learning
from allinsam.store import acts as act_store
from allinsam.store import assignments as queue
from allinsam.store import study as study_store
from allinsam.timing import active_seconds
from allinsam.workflow.export_columns import COLUMNS
from allinsam.workflow.practising import verdicts_of
from allinsam.workflow.refreshing import gold_scores
from allinsam.workflow.touring import standing_of


def learning_table(study: Study) -> pd.DataFrame:
    """A row for each tour, patch to learn on or hidden gold handed in, and reminder, person by person."""
    with study.science.read() as db:
        people = [p for p in study_store.list_people(db) if p["group"] != "truth" and not p["simulated"]]
        rows = [row for person in people for row in _rows_of(db, person)]
    return pd.DataFrame(rows, columns=list(COLUMNS["learning"]))


def _rows_of(db: Database, person: Mapping[str, Any]) -> list[dict[str, Any]]:
    who = {"person_id": person["id"], "group": person["group"]}
    cutoff = float(study_store.get_study(db)["plan"]["idle_cutoff_s"])
    rows = []
    if tour := learning.list_lessons(db, person["id"], "tour_"):
        standing = standing_of(tour, cutoff)
        seconds = round(standing.seconds, 1)
        rows.append(
            {**who, "kind": "tour", "state": standing.state, "at": tour[-1]["at"], "active_s": seconds}
        )
    learnt = [
        row
        for row in queue.list_assignments(db, person["id"])
        if row["purpose"] in LEARNING_PURPOSES and row["state"] == "submitted"
    ]
    finished = queue.finished_classes(db, [row["patch_id"] for row in learnt]) if learnt else []
    finished = [row for row in finished if row["person_id"] != person["id"]]
    for row in learnt:
        verdicts = verdicts_of(db, row, finished)
        if verdicts is not None:
            done = {"patch": row["patch"], "at": row["submitted_at"], **_figures(mark(verdicts))}
            rows.append({**who, "kind": row["purpose"], **done, "active_s": _seconds(db, row["id"], cutoff)})
    for found in gold_scores(db, person["id"]):
        done = {"patch": found.patch, "at": found.submitted_at, **_figures(found.mark)}
        rows.append({**who, "kind": "gold", **done, "active_s": _seconds(db, found.assignment_id, cutoff)})
    return rows + [{**who, **row} for row in _reminders(db, person["id"])]


def _reminders(db: Database, person_id: str) -> list[dict[str, Any]]:
    lessons = learning.list_lessons(db, person_id, "refresh_")
    due = {row["id"]: row["payload"] for row in lessons if row["kind"] == "refresh_due"}
    read = {row["payload"]["shown"]: row for row in lessons if row["kind"] == "refresh_dismissed"}
    rows = []
    for shown in (row for row in lessons if row["kind"] == "refresh_shown"):
        end = read.get(shown["id"])
        rows.append(
            {
                "kind": "reminder",
                "state": "dismissed" if end else "shown",
                "at": (end or shown)["at"],
                "active_s": end["payload"]["seconds"] if end else None,
                "score": due[shown["payload"]["due"]]["score"],
                **shown["payload"]["mistakes"],
            }
        )
    return rows


def _figures(found: Mark) -> dict[str, Any]:
    scores = {"score": found.score, "f1": found.f1, "class_accuracy": found.class_accuracy}
    return {"state": "submitted", **scores, **found.counts}


def _seconds(db: Database, assignment_id: int, cutoff_s: float) -> float:
    return round(active_seconds([vars(act) for act in act_store.list_acts(db, assignment_id)], cutoff_s), 1)
