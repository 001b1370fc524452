"""How fast each person, group and arm works, at any idle cut-off; who got quicker; what became of the nuclei.

Only work that was handed in counts: practice and qualification are time to learn.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd

from allinsam.comparison import FEWEST_NUCLEI, FEWEST_PATCHES
from allinsam.pace import Ratio, change_per_doubling, cluster_unit, geometric_ratio, medians
from allinsam.records import WORK_PURPOSES
from allinsam.store import Study
from allinsam.store import acts as act_store
from allinsam.timing import IDLE_CUTOFFS_S
from allinsam.workflow.export_columns import COLUMNS
from allinsam.workflow.work_times import StudyWork, study_work

WHO = ["assignment_id", "person_id", "group", "arm", "slide", "patch", "condition", "purpose", "order"]
# What became of a nucleus that somebody worked on, in the order of a table.
FATES = ("kept", "asked_again", "edited", "drawn", "deleted")
MEASURES = ("s_per_nucleus", "min_per_patch")


def finished_work(work: StudyWork) -> pd.DataFrame:
    """One row for each patch handed in as work: who, where, the arm (guidance/tool), and the order.

    `order` counts a person's patches from 1, by when they first opened each.
    """
    rows = [
        {
            **{key: a[key] for key in ("person_id", "group", "slide", "patch", "condition", "purpose")},
            "assignment_id": a["id"],
            "arm": f"{a['guidance']}/{a['tool']}",
            "began_at": work.worked[a["id"]].began_at,
        }
        for a in work.assignments
        if a["state"] == "submitted" and a["purpose"] in WORK_PURPOSES
    ]
    table = pd.DataFrame(rows, columns=[*WHO[:-1], "began_at"])
    table = table.sort_values(["person_id", "began_at", "assignment_id"], ignore_index=True)
    table["order"] = table.groupby("person_id").cumcount() + 1
    return table[WHO]


def patches_at(work: StudyWork, idle_cutoff_s: float) -> pd.DataFrame:
    """`finished_work` with minutes, seconds waited for the model, nuclei kept, and seconds per nucleus.

    `nuclei` counts those worked on, deleted ones too; the median and the mean seconds are over these.
    """
    table = finished_work(work)
    worked = [work.worked[key] for key in table["assignment_id"]]
    seconds = [one.gaps.object_s(idle_cutoff_s) for one in worked]
    table["min_per_patch"] = [one.active_s(idle_cutoff_s) / 60.0 for one in worked]
    table["model_wait_s"] = [one.gaps.model_wait_s for one in worked]
    table["kept"] = [work.kept.get(key, 0) for key in table["assignment_id"]]
    table["nuclei"] = [len(one) for one in seconds]
    table["median_s"] = [float(np.median(one)) if len(one) else float("nan") for one in seconds]
    table["s_per_nucleus"] = [float(one.mean()) if len(one) else float("nan") for one in seconds]
    return table


def nuclei_of(work: StudyWork) -> pd.DataFrame:
    """One row for each nucleus that was worked on, on the patches of `finished_work`."""
    table = finished_work(work)
    touched = [work.worked[key].gaps.object_ids for key in table["assignment_id"]]
    nuclei = table.loc[table.index.repeat([len(one) for one in touched])].reset_index(drop=True)
    return nuclei.assign(object_id=[name for one in touched for name in one])


def nuclei_at(work: StudyWork, cutoffs_s: Sequence[float]) -> Iterator[pd.DataFrame]:
    """`nuclei_of` with the seconds on each nucleus, for one cut-off after the other."""
    nuclei = nuclei_of(work)
    worked = [work.worked[key] for key in nuclei["assignment_id"].unique()]
    for cutoff_s in cutoffs_s:
        seconds = [one.gaps.object_s(cutoff_s) for one in worked]
        yield nuclei.assign(s_per_nucleus=np.concatenate(seconds) if seconds else np.zeros(0))


def cutoffs_of(own_s: float) -> list[float]:
    """The usual idle cut-offs and the study's own."""
    return sorted({*IDLE_CUTOFFS_S, own_s})


def medians_at(work: StudyWork, cutoffs_s: Sequence[float], by: str, measure: str) -> pd.DataFrame:
    """Median of a measure for each `by` (person_id, group or arm) at each cut-off, with group, n and patches.

    Without intervals, and without those that have too little for a figure.
    """
    nuclear = measure == "s_per_nucleus"
    each = nuclei_at(work, cutoffs_s) if nuclear else (patches_at(work, cutoff) for cutoff in cutoffs_s)
    found = []
    for cutoff_s, table in zip(cutoffs_s, each, strict=True):
        group_of = table.drop_duplicates(by).set_index(by, drop=False)["group"]
        rows = medians(table, [by], measure, intervals=False)
        rows = rows[is_enough(rows, nuclear)]
        found.append(rows.assign(cutoff_s=cutoff_s, group=rows[by].map(group_of)))
    return pd.concat(found, ignore_index=True)


def is_enough(rows: pd.DataFrame, nuclear: bool) -> pd.Series:
    """Whether rows of `pace.medians` rest on enough; nuclear: they are over nuclei, not patches."""
    return (rows["patches"] >= FEWEST_PATCHES) & (rows["n"] >= (FEWEST_NUCLEI if nuclear else FEWEST_PATCHES))


def ratios_at(
    work: StudyWork, cutoffs_s: Sequence[float], by: str, a: str, b: str, measure: str
) -> dict[float, Ratio]:
    """For each cut-off: how many times as long a takes as b. by: person_id, group or arm."""
    return {cutoff: ratio_of(patches_at(work, cutoff), by, a, b, measure) for cutoff in cutoffs_s}


def ratio_of(table: pd.DataFrame, by: str, a: str, b: str, measure: str) -> Ratio:
    """The same at the cut-off of a table of `patches_at`."""
    clusters = table.drop_duplicates("patch").set_index("patch")[cluster_unit(table)]
    return geometric_ratio(*(_by_patch(table[table[by] == side], measure) for side in (a, b)), clusters)


def _by_patch(table: pd.DataFrame, measure: str) -> pd.Series:
    """Of several people on a patch: minutes are their mean, and a nucleus weighs as much as any other."""
    if measure == "min_per_patch":
        return table.groupby("patch")[measure].mean()
    total = (table["s_per_nucleus"] * table["nuclei"]).groupby(table["patch"]).sum()
    count = table.groupby("patch")["nuclei"].sum()
    return (total / count)[count > 0]


def doublings(table: pd.DataFrame) -> pd.DataFrame:
    """How each person's seconds per nucleus change when they have done twice as many patches (-0.1: 10 % less
    time): person_id, group, change and patches, of those who have enough. table: of `patches_at`.
    """
    rows = [
        (person, mine["group"].iloc[0], change_per_doubling(mine["order"], mine["median_s"], mine["arm"]))
        + (len(mine),)
        for person, mine in table.groupby("person_id")
    ]
    return pd.DataFrame(rows, columns=["person_id", "group", "change", "patches"]).dropna(subset=["change"])


def learning_curve(work: StudyWork, idle_cutoff_s: float) -> pd.DataFrame:
    """Each person's patches in their order with the median seconds per nucleus, under which arm."""
    table = patches_at(work, idle_cutoff_s)
    columns = list(COLUMNS["learning_curve"])
    return table.assign(
        guidance=table["arm"].str.split("/").str[0],
        tool=table["arm"].str.split("/").str[1],
        idle_cutoff_s=idle_cutoff_s,
        median_s_per_nucleus=table["median_s"],
        active_min=table["min_per_patch"],
    )[columns]


def learning_curve_table(study: Study) -> pd.DataFrame:
    """`learning_curve` at the idle cut-off of the study's plan."""
    work = study_work(study)
    return learning_curve(work, work.idle_cutoff_s)


def fates(study: Study, work: StudyWork) -> pd.DataFrame:
    """`nuclei_of` with what became of each nucleus (one of FATES).

    kept: with the outline as it was first shown; asked_again: as SAM showed it after a new box or points;
    edited: an outline changed by hand; drawn: by hand from the start; deleted: not there when the patch was
    handed in.
    """
    with study.science.read() as db:
        newest = act_store.newest_of_objects(db)
    nuclei = nuclei_of(work)
    again = {key: one.asked_again for key, one in work.worked.items()}
    nuclei["fate"] = [
        _fate(newest.get((key, name)), name in again[key])
        for key, name in zip(nuclei["assignment_id"], nuclei["object_id"], strict=True)
    ]
    return nuclei


def _fate(newest: dict | None, asked_again: bool) -> str:
    if newest is None or newest["state"] != "accepted":
        return "deleted"
    if newest["origin"] in ("edited", "drawn"):
        return newest["origin"]
    return "asked_again" if asked_again or newest["prompted"] else "kept"


def fate_shares(nuclei: pd.DataFrame, by: str) -> pd.DataFrame:
    """Number of nuclei of each fate, and of patches, for each `by` (person_id, group or arm) and arm."""
    keys = ["arm"] if by == "arm" else [by, "arm"]
    counts = nuclei.groupby([*keys, "fate"]).size().unstack(fill_value=0)
    counts = counts.reindex(columns=list(FATES), fill_value=0)
    patches = nuclei.groupby(keys)["assignment_id"].nunique().rename("patches")
    return counts.assign(nuclei=counts.sum(axis=1)).join(patches).reset_index()
