"""What labels cost and what they bought: people's minutes behind a run's training patches, and its scores.

The minutes are active time in the acts of the assignments whose work is in the frozen labels, up to the
moment they were frozen, and of a consensus or a review those of everybody who was looked at. A reviewer's
own time and the time to learn are not in them.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import pandas as pd
from sqlite_utils import Database

from allinsam.store import Study, runs
from allinsam.store import assignments as queue
from allinsam.store import study as study_store
from allinsam.store.withdrawals import work_withdrawn
from allinsam.training.networks import NETWORKS
from allinsam.workflow.export_columns import COLUMNS
from allinsam.workflow.labels import LabelRecipe, frozen_lines
from allinsam.workflow.scored import USUAL_NETWORK, means, network_of, newest_reference, scores_table
from allinsam.workflow.work_times import worked_on

LABEL_SETS_REMEMBERED = 256


@dataclass(frozen=True)
class LabelCost:
    """What a split's train part of a label set is, and took. Minutes are None where nobody drew it."""

    train_patches: int
    train_nuclei: int
    train_minutes: float | None
    val_minutes: float | None


UNTRAINED = LabelCost(0, 0, 0.0, 0.0)
UNTRAINED_LINE = "untrained"


def label_cost(
    study: Study, label_set_id: int, split_id: int, idle_cutoff_s: float | None = None
) -> LabelCost:
    """idle_cutoff_s: the study's plan by default."""
    with study.science.read() as db:
        cutoff = idle_cutoff_s or float(study_store.get_study(db)["plan"]["idle_cutoff_s"])
        return _cost(db, study, label_set_id, split_id, cutoff)


def _cost(db: Database, study: Study, label_set_id: int, split_id: int, cutoff: float) -> LabelCost:
    label_set = runs.get_label_set(db, label_set_id)
    behind, parts = runs.label_set_assignments(db, label_set_id), runs.split_parts(db, split_id)
    truth = {row["id"] for row in queue.list_assignments(db) if row["group"] == "truth"}
    worked = worked_on(db, study.folder, sorted({a for some in behind.values() for a in some} - truth))
    nuclei = _nuclei_by_patch(study, label_set_id, label_set["sha256"])

    def minutes(part: str) -> float | None:
        drawn = [worked[a] for p, some in behind.items() if parts.get(p) == part for a in some if a in worked]
        spent = sum(one.active_s(cutoff, label_set["created_at"]) for one in drawn)
        return spent / 60.0 if drawn else None

    train = [patch_id for patch_id in behind if parts.get(patch_id) == "train"]
    return LabelCost(len(train), sum(nuclei[p] for p in train), minutes("train"), minutes("val"))


@lru_cache(maxsize=LABEL_SETS_REMEMBERED)
def _nuclei_by_patch(study: Study, label_set_id: int, sha256: str) -> Mapping[int, int]:
    """Frozen labels never change: `sha256` is theirs."""
    found: dict[int, int] = {}
    for line in frozen_lines(study, label_set_id):
        found[line["patch_id"]] = found.get(line["patch_id"], 0) + len(line["objects"])
    return found


def minutes_and_scores(study: Study, idle_cutoff_s: float | None = None) -> pd.DataFrame:
    """Every scored run with its labels' cost and its mean score per class and metric.

    idle_cutoff_s: the study's plan by default. The columns are those of the export of this name.
    """
    columns = list(COLUMNS["minutes_and_scores"])
    scores = scores_table(study)
    models = newest_reference(scores[scores["kind"] == "model"])
    if models.empty:
        return pd.DataFrame(columns=columns)
    with study.science.read() as db:
        cutoff = idle_cutoff_s or float(study_store.get_study(db)["plan"]["idle_cutoff_s"])
        # Of labels that went with somebody's work, the minutes went, too.
        gone = work_withdrawn(db)["label_sets"]
        known = [run for run in runs.list_runs(db) if run["id"] in set(models["run_id"])]
        known = [run for run in known if run["label_set_id"] not in gone]
        costs = {
            run["id"]: _cost(db, study, run["label_set_id"], run["split_id"], cutoff)
            if run["label_set_id"] is not None
            else UNTRAINED
            for run in known
        }
    models = models[models["run_id"].isin(list(costs))]
    if models.empty:
        return pd.DataFrame(columns=columns)
    groups = settings_groups(known)
    of_run = {run["id"]: _named(run, groups) | vars(costs[run["id"]]) for run in known}
    keys = ["run_id", "label", "reference", "reference_id", "class_name", "metric"]
    table = means(models, keys).rename(columns={"patches": "test_patches"})
    rows = [{**row, **of_run[row["run_id"]]} for row in table.to_dict("records")]
    table = pd.DataFrame(rows).assign(idle_cutoff_s=cutoff)[columns]
    return table.astype({"label_set_id": "Int64", "settings_group": "Int64"})  # empty where untrained


def _named(run: Mapping[str, Any], groups: Mapping[int, int]) -> dict[str, Any]:
    network = network_of(run)
    recipe = LabelRecipe.from_dict(run["recipe"]).unlimited if run["recipe"] else None
    line = recipe.title if recipe else UNTRAINED_LINE
    return {
        "run": run["name"],
        "line": line + ("" if network == USUAL_NETWORK else f", {NETWORKS[network].title}"),
        "network": network,
        "seed": run["settings"].get("seed"),
        "split_id": run["split_id"],
        "label_set_id": run["label_set_id"],
        "settings_group": groups.get(run["id"]),
    }


def settings_groups(known: Sequence[Mapping[str, Any]]) -> dict[int, int]:
    """Run -> a number, the same for runs of one split that differ in their labels and seed only.

    Numbers count from 1 in the order of each group's newest run, the newest last. Without untrained models.
    """
    alike: dict[str, list[int]] = {}
    for run in known:
        if run["kind"] != "untrained":
            settings = {name: value for name, value in run["settings"].items() if name != "seed"}
            alike.setdefault(json.dumps([run["split_id"], settings], sort_keys=True), []).append(run["id"])
    ordered = sorted(alike.values(), key=max)
    return {run_id: number for number, members in enumerate(ordered, start=1) for run_id in members}


def groups_of(table: pd.DataFrame) -> dict[int, pd.DataFrame]:
    """The rows of `minutes_and_scores` by settings group, the newest first; without untrained models."""
    trained = table[table["settings_group"].notna()]
    return {int(group): part for group, part in sorted(trained.groupby("settings_group"), reverse=True)}


def curve_of(table: pd.DataFrame, group: int, metric: str) -> pd.DataFrame:
    """The rows of one settings group and metric on the newest reference, and of the newest untrained model of
    their split."""
    table = table[table["metric"] == metric]
    mine = table[table["settings_group"] == group]
    mine = mine[mine["reference_id"] == mine["reference_id"].max()]
    beside = table[(table["line"] == UNTRAINED_LINE) & table["split_id"].isin(mine["split_id"])]
    beside = beside[beside["reference_id"].isin(mine["reference_id"])]
    return pd.concat([mine, beside[beside["run_id"] == beside["run_id"].max()]], ignore_index=True)


def scores_at(curve: pd.DataFrame, x: str) -> tuple[float, dict[str, float]]:
    """The largest size that every line reaches, and each line's score there, by straight lines between the
    means of its sizes. curve: of one class. A line whose smallest size is larger has none."""
    lines = {
        line: part.groupby(x)["mean"].mean()
        for line, part in curve[curve["line"] != UNTRAINED_LINE].groupby("line")
    }
    if not lines:
        return 0.0, {}
    at = float(min(sizes.index.max() for sizes in lines.values()))
    found = {
        line: float(np.interp(at, sizes.index.to_numpy(float), sizes.to_numpy(float)))
        for line, sizes in lines.items()
        if sizes.index.min() <= at
    }
    return at, found
