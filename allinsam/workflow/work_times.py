"""How long the work took: per assignment, per object, per person.

The acts of an assignment are read once: what is remembered are the gaps between them, of which every idle
cut-off is a sum.
"""

from collections import Counter, OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import pandas as pd
from sqlite_utils import Database

from allinsam.records import LEARNING_PURPOSES
from allinsam.store import Study
from allinsam.store import acts as act_store
from allinsam.store import assignments as queue
from allinsam.store import study as study_store
from allinsam.timing import Gaps, check_cutoff, gaps_of, plain_gaps
from allinsam.workflow.export_columns import COLUMNS

TIME_COLUMNS = list(COLUMNS["times"])
OBJECT_TIME_COLUMNS = ["person_id", "group", "patch", "purpose", "object_id", "seconds"]
ASSIGNMENTS_REMEMBERED = 20_000
READ_AT_ONCE = 500  # assignments


@dataclass(frozen=True)
class Worked:
    """What people did on one assignment, as far as time goes."""

    gaps: Gaps
    received_at: np.ndarray  # bytes (n,), UTC as the store writes it, sortable
    asked_again: frozenset[str]  # objects whose box was drawn anew

    @property
    def began_at(self) -> str:
        return self.received_at[0].decode()

    def active_s(self, idle_cutoff_s: float, until: str | None = None) -> float:
        """Active seconds, up to a moment (UTC as the store writes it)."""
        acts = None if until is None else int(np.searchsorted(self.received_at, until.encode(), "right"))
        return self.gaps.active_s(idle_cutoff_s, acts)


_remembered: OrderedDict[tuple[Path, int], tuple[tuple, Worked | None]] = OrderedDict()
_lock = Lock()


def worked_on(db: Database, folder: Path, assignment_ids: Sequence[int]) -> dict[int, Worked]:
    """What people did on each of these assignments; one that nobody has worked on is left out."""
    marks = act_store.act_marks(db, assignment_ids)
    with _lock:
        known = {key: _remembered.get((folder, key)) for key in assignment_ids if key in marks}
    new = [key for key, row in known.items() if row is None or row[0] != marks[key]]
    for start in range(0, len(new), READ_AT_ONCE):
        some = new[start : start + READ_AT_ONCE]
        acts = act_store.timed_acts(db, some)
        known |= {key: (marks[key], _worked(acts[key]) if key in acts else None) for key in some}
    with _lock:
        for key, row in known.items():
            _remembered[folder, key] = row
            _remembered.move_to_end((folder, key))
        while len(_remembered) > ASSIGNMENTS_REMEMBERED:
            _remembered.popitem(last=False)
    # Where all acts came as a file or from a model it took nobody's time.
    return {key: worked for key, (_, worked) in known.items() if worked is not None}


def _worked(acts: Sequence[tuple]) -> Worked:
    clients, kinds, objects, client_ms, received_at, model_ms = zip(*acts, strict=True)
    gaps = plain_gaps(clients, kinds, objects, client_ms, model_ms)
    if gaps is None:
        names = ("client", "kind", "object_id", "client_ms")
        rows = zip(clients, kinds, objects, client_ms, strict=True)
        gaps = gaps_of(
            [
                {**dict(zip(names, row, strict=True)), "payload": {"model_ms": ms}}
                for row, ms in zip(rows, model_ms, strict=True)
            ]
        )
    return Worked(
        gaps,
        np.array(received_at, "S"),
        frozenset(name for name, kind in zip(objects, kinds, strict=True) if kind == "move"),
    )


@dataclass(frozen=True)
class StudyWork:
    """Everything that people have worked on, before any idle cut-off is chosen."""

    assignments: list[dict[str, Any]]  # with the acts of people, in queue order, person by person
    worked: Mapping[int, Worked]
    kept: Mapping[int, int]  # assignment -> objects kept
    idle_cutoff_s: float  # of the study's plan


def study_work(study: Study, person_id: str | None = None) -> StudyWork:
    """What people (not the truth) have worked on, read once."""
    with study.science.read() as db:
        cutoff = float(study_store.get_study(db)["plan"]["idle_cutoff_s"])
        assignments = [a for a in queue.list_assignments(db, person_id) if a["group"] != "truth"]
        worked = worked_on(db, study.folder, [a["id"] for a in assignments])
        kept: Counter[int] = Counter()
        for (assignment_id, _), count in act_store.object_counts(db, person_id).items():
            kept[assignment_id] += count
    return StudyWork([a for a in assignments if a["id"] in worked], worked, kept, cutoff)


def work_times(
    study: Study, person_id: str | None = None, idle_cutoff_s: float | None = None
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Time of every assignment that people (not the truth) have worked on, and of every object they touched.

    The first table has active seconds, model wait and objects kept; the second active seconds of each
    object, deleted ones included. `idle_cutoff_s`: the study's plan by default.
    """
    work = study_work(study, person_id)
    return times_at(work, idle_cutoff_s or work.idle_cutoff_s)


def times_at(work: StudyWork, idle_cutoff_s: float) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The tables of `work_times` at one idle cut-off."""
    check_cutoff(idle_cutoff_s)
    rows, worked = work.assignments, [work.worked[a["id"]] for a in work.assignments]
    figures = {
        "objects": [work.kept.get(a["id"], 0) for a in rows],
        "active_s": [one.active_s(idle_cutoff_s) for one in worked],
        "model_wait_s": [one.gaps.model_wait_s for one in worked],
        "idle_cutoff_s": [idle_cutoff_s] * len(rows),
    }
    named = {key: [a[key] for a in rows] for key in TIME_COLUMNS if key not in figures}
    by_patch = pd.DataFrame({**named, **figures}, columns=TIME_COLUMNS)
    if by_patch.empty:
        return pd.DataFrame(columns=TIME_COLUMNS), pd.DataFrame(columns=OBJECT_TIME_COLUMNS)
    touched = [len(one.gaps.object_ids) for one in worked]
    who = {k: np.repeat(np.array([a[k] for a in rows], object), touched) for k in OBJECT_TIME_COLUMNS[:4]}
    by_object = pd.DataFrame(
        {
            **who,
            "object_id": [name for one in worked for name in one.gaps.object_ids],
            "seconds": np.concatenate([one.gaps.object_s(idle_cutoff_s) for one in worked]),
        },
        columns=OBJECT_TIME_COLUMNS,
    )
    return by_patch, by_object


def times_by_assignment(study: Study) -> pd.DataFrame:
    return work_times(study)[0]


def times_by_person(study: Study) -> pd.DataFrame:
    """Per person over submitted patches: their number, objects, median seconds per object and minutes.

    Practice and qualification are left out.
    """
    return summarise_times(*work_times(study))


def without_training(times: pd.DataFrame) -> pd.DataFrame:
    """Rows of a table of `work_times` that are work, not practice or qualification."""
    return times[~times["purpose"].isin(LEARNING_PURPOSES)]


def summarise_times(by_patch: pd.DataFrame, by_object: pd.DataFrame) -> pd.DataFrame:
    """The tables of `work_times` per person; a patch that is still open has no time yet.

    Time spent on learning does not count as work.
    """
    columns = ["person_id", "group", "patches", "objects", "median_s_per_object", "median_min_per_patch"]
    by_patch, by_object = without_training(by_patch), without_training(by_object)
    by_patch = by_patch[by_patch["state"] == "submitted"]
    if by_patch.empty:
        return pd.DataFrame(columns=columns)
    keys = ["person_id", "patch", "purpose"]
    by_object = by_object[by_object.set_index(keys).index.isin(by_patch.set_index(keys).index)]
    table = (
        by_patch.groupby(["person_id", "group"])
        .agg(patches=("patch", "nunique"), objects=("objects", "sum"), active=("active_s", "median"))
        .reset_index()
    )
    table["median_s_per_object"] = table["person_id"].map(by_object.groupby("person_id")["seconds"].median())
    table["median_min_per_patch"] = table.pop("active") / 60.0
    return table[columns]
