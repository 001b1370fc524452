"""Scores grouped as somebody asks: any of a few dimensions down, any across, with what each mean rests on."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from allinsam.comparison import cluster_interval, cluster_means
from allinsam.errors import InputError
from allinsam.store import Study, runs
from allinsam.store import study as study_store
from allinsam.workflow.labels import LabelRecipe
from allinsam.workflow.run_cards import method_title
from allinsam.workflow.scored import newest_experiment, newest_reference, newest_scores, scores_table

# Columns of `with_dimensions`.
DIMENSIONS = ("method", "run", "labels", "class", "marker", "condition", "slide", "patch", "reference")
# Whose scores: the runs that may fairly stand side by side, every run, or people's labels as drawn.
SOURCES = ("side_by_side", "all_runs", "people")
FIGURES = ("mean", "low", "high", "by_slide", "things", "patches", "slides", "nuclei")
AS_DRAWN = "labels as drawn"
UNTRAINED = "untrained"
MOST_CELLS = 2_000


@dataclass(frozen=True)
class Grouping:
    """What stands in the rows and columns of a table, and which scores are in it."""

    rows: tuple[str, ...] = ("labels",)
    columns: tuple[str, ...] = ("class",)
    metric: str = "f1_instance"
    source: str = "side_by_side"

    def __post_init__(self) -> None:
        choices = ", ".join(DIMENSIONS)
        for name in self.by:
            if name not in DIMENSIONS:
                raise InputError(f"Scores cannot be grouped by {name[:40]!r}. Choose from {choices}.")
            if self.by.count(name) > 1:
                raise InputError(f"{name!r} is asked for twice. Put it in the rows or in the columns.")
        if not self.rows:
            raise InputError(f"A table needs rows. Choose from {choices}.")
        if self.source not in SOURCES:
            raise InputError(f"There are no scores {self.source[:40]!r}. Choose one of {', '.join(SOURCES)}.")

    @property
    def by(self) -> list[str]:
        return [*self.rows, *self.columns]


def with_dimensions(
    scores: pd.DataFrame, known_runs: Sequence[Mapping[str, Any]], marker_of: Mapping[str, str]
) -> pd.DataFrame:
    """`scored.scores_table` with all DIMENSIONS as columns; `run` tells runs of one name apart.

    known_runs: of `store.runs.list_runs`. marker_of: class -> marker.
    """
    method, labels = {}, {}
    for run in known_runs:
        recipe = LabelRecipe.from_dict(run["recipe"]) if run["recipe"] else None
        trained = run["kind"] != UNTRAINED
        method[run["id"]] = method_title(run["settings"], recipe) if trained else UNTRAINED
        labels[run["id"]] = recipe.title if recipe else UNTRAINED
    named = zip(scores["run"], scores["run_id"], strict=True)
    return scores.assign(
        **{"class": scores["class_name"]},
        method=scores["run_id"].map(method).fillna(AS_DRAWN),
        labels=scores["run_id"].map(labels).fillna(scores["label"]),
        run=[name if pd.isna(run_id) else f"{name} (run {run_id:.0f})" for name, run_id in named],
        marker=scores["class_name"].map(marker_of),
    )


def group_scores(table: pd.DataFrame, grouping: Grouping) -> pd.DataFrame:
    """A row for each group that has scores: `grouping.by` and FIGURES.

    table: of `with_dimensions`, of one source. A mean is over its scores, one for each patch, class and
    thing scored (`things`: runs, or people's labels); `low` and `high` are its 95 % interval over slides. Of
    too few slides they are NaN and `by_slide` has the mean of each. Patches, slides and the reference's
    nuclei are counted once, however many things were scored there. Of a thing scored against several
    references the newest counts, unless they are grouped by.

    Raises:
        InputError: more than MOST_CELLS groups.
    """
    table = table[table["metric"] == grouping.metric]
    if "reference" not in grouping.by:
        table = newest_reference(table)
    groups = table.groupby(grouping.by, sort=True)
    if groups.ngroups > MOST_CELLS:
        raise InputError(
            f"This table has {groups.ngroups:,} cells; {MOST_CELLS:,} is the most. Leave out patch or run."
        )
    rows = []
    for keys, group in groups:
        values, slides = group["value"].to_numpy(float), group["slide"].to_numpy()
        low, high = cluster_interval(values, slides, bounds=(0, 1))
        figures = {
            "mean": values.mean(),
            "low": low,
            "high": high,
            "by_slide": cluster_means(values, slides) if np.isnan(low) else [],
            "things": group["run_id"].nunique() + group["label_set_id"].nunique(),
            "patches": group["patch_id"].nunique(),
            "slides": group["slide"].nunique(),
            "nuclei": int(group.drop_duplicates(["patch_id", "class"])["n"].sum()),
        }
        rows.append({**dict(zip(grouping.by, keys, strict=True)), **figures})
    return pd.DataFrame(rows, columns=[*grouping.by, *FIGURES])


def lay_out(groups: pd.DataFrame, grouping: Grouping) -> pd.DataFrame:
    """`group_scores` as a table to keep: a line for each row; every figure of each column beside each other.

    A column "podocyte, normal: mean" is that figure of the group; without columns it is just "mean". Means
    of single slides stand in one cell.
    """
    listed = [" ".join(f"{point:.4f}" for point in points) for points in groups["by_slide"]]
    groups = groups.assign(by_slide=listed)
    if not grouping.columns:
        return groups
    rows = list(grouping.rows)
    lines = groups[rows].drop_duplicates().sort_values(rows, ignore_index=True)
    for head, part in columns_of(groups, grouping):
        named = part[[*rows, *FIGURES]].rename(columns={name: f"{head}: {name}" for name in FIGURES})
        lines = lines.merge(named, on=rows, how="left")
    return lines


def columns_of(groups: pd.DataFrame, grouping: Grouping) -> list[tuple[str, pd.DataFrame]]:
    """What each column is called, and its groups; in the order in which they stand."""
    return [
        (", ".join(map(str, keys)), part) for keys, part in groups.groupby(list(grouping.columns), sort=True)
    ]


def dimensions_table(study: Study) -> pd.DataFrame:
    """`with_dimensions` of every score of a study."""
    with study.science.read() as db:
        known = runs.list_runs(db)
        marker_of = {row["name"]: row["marker"] for row in study_store.list_classes(db)}
    return with_dimensions(scores_table(study), known, marker_of)


def of_source(study: Study, table: pd.DataFrame, source: str) -> pd.DataFrame:
    """The rows of `dimensions_table` that one of SOURCES means."""
    if source == "people":
        return newest_scores(table, "people")
    if source == "all_runs":
        return table[table["kind"] == "model"]
    return newest_experiment(study, table)


def grouped(study: Study, grouping: Grouping) -> pd.DataFrame:
    """`lay_out` of a study's scores: what the Compare page shows and its CSV has."""
    table = of_source(study, dimensions_table(study), grouping.source)
    if grouping.metric not in set(table["metric"]):
        raise InputError(f"Nothing here was scored by {grouping.metric[:40]!r}.")
    return lay_out(group_scores(table, grouping), grouping)
