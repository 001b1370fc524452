"""Figures of the Home and People pages: how far everybody is, how well they learn, and until when."""

from collections.abc import Iterator
from datetime import UTC, date, datetime

import pandas as pd

from allinsam.store.study import list_classes
from allinsam.workflow.figures.sources import Row, Sources, figure, rows_of
from allinsam.workflow.forecast import forecast, student_work
from allinsam.workflow.planning import paces_of
from allinsam.workflow.progress import class_progress, study_progress
from allinsam.workflow.taught import learning_table
from allinsam.workflow.work_times import times_at

LEARNT = {"learning_score": "score", "learning_f1": "f1", "learning_class": "class_accuracy"}


def of_progress(sources: Sources) -> Iterator[Row]:
    """Patches done, and per class the patches and nuclei, of everybody who has patches."""
    people = [person for person in study_progress(sources.study).people if person.assigned]
    if people:
        done, assigned = (sum(getattr(p, key) for p in people) for key in ("finished", "assigned"))
        yield figure("patches_done", done, assigned, a="everybody")
    by_class = class_progress(sources.study)
    with sources.study.science.read() as db:
        classes = [row["name"] for row in list_classes(db)]
    for person in people:
        who = {"about": "person", "a": person.person_id, "b": person.group}
        yield figure("patches_done", person.finished, person.assigned, **who)
        for name in classes:
            patches, nuclei = by_class.get((person.person_id, name), (0, 0))
            where = {**who, "class": name}
            yield figure("class_patches", patches, person.assigned, **where)
            yield figure("class_nuclei", nuclei, patches, **where)


def of_learning(sources: Sources) -> Iterator[Row]:
    """Every patch with gold that somebody was scored on."""
    table = learning_table(sources.study)
    for row in rows_of(table[table["score"].notna() & (table["kind"] != "reminder")]):
        found = row["right"] + row["wrong_class"]
        gold = found + row["missed"]
        where = {
            "about": "person",
            "a": row["person_id"],
            "b": "gold",
            "setting": f"{row['kind']}: {row['patch']}",
        }
        for name, column in LEARNT.items():
            n = found if name == "learning_class" else gold
            few = "no nucleus found" if pd.isna(row[column]) else ""
            yield figure(name, row[column], n, few=few, **where)


def of_forecast(sources: Sources, today: date | None = None) -> Iterator[Row]:
    """When the students will have finished, as the Home page says it."""
    work = sources.work
    by_patch = times_at(work, work.idle_cutoff_s)[0]
    students = student_work(sources.study, by_patch, paces_of(by_patch))
    today = today or datetime.now(UTC).date()
    found = forecast(students, today)
    if found.state == "nobody":
        return
    where = {"a": "students", "setting": f"on {today}"}
    few = "" if found.hours_left is not None else "too early to tell"
    yield figure("hours_left", found.hours_left, len(students), few=few, **where)
    if found.state == "finished":
        yield figure("days_to_finish", 0, len(students), note="all are done", **where)
        return
    if found.first is None:
        few = f"too early to tell: too few days of work of {', '.join(found.early)}"
        yield figure("days_to_finish", None, len(students), few=few, **where)
        return
    # A range without a middle: the pace alone does not say which day is likeliest.
    note = f"{found.first} to {found.last or 'more than a year from now'}"
    last = (found.last - today).days if found.last else None
    row = figure("days_to_finish", None, len(students), few=note, **where)
    yield row | {"low": (found.first - today).days, "high": last}
