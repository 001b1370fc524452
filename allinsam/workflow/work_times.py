"""How long the work took: per assignment, per object, per person."""

from collections import Counter

import pandas as pd

from allinsam.records import LEARNING_PURPOSES
from allinsam.store import Study
from allinsam.store import acts as act_store
from allinsam.store import assignments as queue
from allinsam.store import study as study_store
from allinsam.timing import active_seconds, model_wait_seconds, seconds_per_object
from allinsam.workflow.export_columns import COLUMNS

TIME_COLUMNS = list(COLUMNS["times"])
OBJECT_TIME_COLUMNS = ["person_id", "group", "patch", "purpose", "object_id", "seconds"]


def work_times(
    study: Study, person_id: str | None = None, idle_cutoff_s: float | None = None
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Time of every assignment that people (not the truth) have worked on, and of every object they touched.

    The first table has active seconds, model wait and objects kept; the second active seconds of each
    object, deleted ones included. `idle_cutoff_s`: the study's plan by default.
    """
    with study.science.read() as db:
        cutoff = idle_cutoff_s or float(study_store.get_study(db)["plan"]["idle_cutoff_s"])
        assignments = [a for a in queue.list_assignments(db, person_id) if a["group"] != "truth"]
        # What came as a file or from a model took nobody's time.
        acts = {
            a["id"]: [
                vars(act)
                for act in act_store.list_acts(db, a["id"])
                if act.surface not in act_store.NOBODYS_SURFACES
            ]
            for a in assignments
        }
        kept: Counter[int] = Counter()
        for (assignment_id, _), count in act_store.object_counts(db).items():
            kept[assignment_id] += count
    by_patch, by_object = [], []
    for assignment in assignments:
        mine = acts[assignment["id"]]
        if not mine:
            continue
        figures = {
            "objects": kept[assignment["id"]],
            "active_s": active_seconds(mine, cutoff),
            "model_wait_s": model_wait_seconds(mine),
            "idle_cutoff_s": cutoff,
        }
        by_patch.append({key: assignment[key] for key in TIME_COLUMNS if key not in figures} | figures)
        who = {key: assignment[key] for key in ("person_id", "group", "patch", "purpose")}
        by_object += [
            {**who, "object_id": object_id, "seconds": seconds}
            for object_id, seconds in seconds_per_object(mine, cutoff).items()
        ]
    return pd.DataFrame(by_patch, columns=TIME_COLUMNS), pd.DataFrame(by_object, columns=OBJECT_TIME_COLUMNS)


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
