"""What the figures are read from, each worked out once, and the rows they are written as."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from typing import Any

import pandas as pd

from allinsam.comparison import TOO_FEW_SLIDES
from allinsam.errors import AllinsamError
from allinsam.store import Study, images
from allinsam.store import study as study_store
from allinsam.workflow import agreeing, caused, label_costs, overlapping, rated, scored, work_times
from allinsam.workflow.agreed import reliability_table
from allinsam.workflow.overlapping import StudyOverlaps
from allinsam.workflow.work_times import StudyWork

Row = dict[str, Any]
ALL = "all"
FEW_PATCHES, FEW_NUCLEI = "too few patches", "too few nuclei"
NOTHING = float("nan")


class NotCountedError(AllinsamError):
    """What a figure is made of takes too long to work out while somebody waits."""


@dataclass(frozen=True)
class Sources:
    """at_most: outlines that may be worked through; None: as many as there are."""

    study: Study
    at_most: int | None = None

    @cached_property
    def overlaps(self) -> StudyOverlaps:
        patches = overlapping.list_patches(self.study)
        missing = sum(patch.n_marks for patch in overlapping.uncounted(patches))
        if self.at_most is not None and missing > self.at_most:
            raise NotCountedError(
                f"not counted yet: {missing:,} outlines are still to be compared. Open Agreement or run "
                "`python -m allinsam agreement --count`"
            )
        return overlapping.study_overlaps(self.study, patches)

    @cached_property
    def pairs(self) -> pd.DataFrame:
        """Figures of every two people on each patch and class of their production."""
        return agreeing.figures_of(self.overlaps, agreeing.peers(self.overlaps))

    @cached_property
    def conditions(self) -> list[str]:
        """Where there is more than one."""
        found = sorted(self.overlaps.looks["condition"].dropna().unique())
        return found if len(found) > 1 else []

    @cached_property
    def ratings(self) -> dict:
        self._check_marks()
        return rated.ratings(self.study)

    @cached_property
    def reliability(self) -> pd.DataFrame:
        return reliability_table(self.study, self.ratings)

    @cached_property
    def why(self) -> dict[str, pd.DataFrame]:
        self._check_marks()
        return caused.summed_up(caused.why_tables(self.study), rated.slide_of_patch(self.study))

    def _check_marks(self) -> None:
        n_marks = overlapping.marks_handed_in(self.study)
        if self.at_most is not None and n_marks > self.at_most:
            raise NotCountedError(
                f"not counted yet: this takes too long with {n_marks:,} outlines while somebody waits. "
                '"Make the report" on the Export page or `python -m allinsam report` counts it'
            )

    @cached_property
    def work(self) -> StudyWork:
        return work_times.study_work(self.study)

    @cached_property
    def scores(self) -> pd.DataFrame:
        return scored.scores_table(self.study)

    @cached_property
    def newest(self) -> pd.DataFrame:
        """Scores of the models that stand side by side on the Compare page."""
        if not len(self.scores):
            return self.scores
        return scored.newest_experiment(self.study, self.scores)

    @cached_property
    def costs(self) -> pd.DataFrame:
        """Every scored run with what its labels took."""
        return label_costs.minutes_and_scores(self.study)

    @cached_property
    def compared(self) -> list[tuple[Row, Row]]:
        """Every two models side by side on the Compare page, for each metric: rows of `scored.compare`, and
        where they stand in the table.
        """
        if self.newest.empty:
            return []
        run_of = self.newest.groupby("label")["run_id"].max().astype(int).to_dict()
        found = []
        for b, a in combinations(ordered(set(run_of)), 2):
            for metric in sorted(self.newest["metric"].unique()):
                table = scored.compare(self.study, str(run_of[a]), str(run_of[b]), metric)
                where = {"about": "two labels", "a": a, "b": b, "run_a": run_of[a], "run_b": run_of[b]}
                where["metric"] = metric
                for row in rows_of(table):
                    place = {"class": row["class_name"], **{key: row[key] for key in ("condition", "slides")}}
                    found.append((row, where | place | {"patches": row["n"]}))
        return found

    @cached_property
    def marker_of(self) -> Mapping[str, str]:
        with self.study.science.read() as db:
            return {row["name"]: row["marker"] for row in study_store.list_classes(db)}

    @cached_property
    def slide_of(self) -> Mapping[str, str]:
        with self.study.science.read() as db:
            return {patch["name"]: patch["slide"] for patch in images.list_patches(db)}


def figure(
    name: str,
    value: float | None,
    n: float | None,
    *,
    about: str = "everybody",
    few: str = "",
    low: float | None = None,
    high: float | None = None,
    by_slide: Sequence[float] = (),
    note: str = "",
    **where: Any,
) -> Row:
    """A row of the table: who and where are columns of it.

    about: what a is, or a and b are. few: why there is no figure, "" where there is one. by_slide: what
    stands in the place of an interval.
    """
    known = not few and value is not None and not math.isnan(value)
    bounded = known and low is not None and not math.isnan(low)
    if known and not bounded and len(by_slide):
        note = "; ".join(part for part in (note, TOO_FEW_SLIDES) if part)
    return {
        "figure": name,
        "about": about,
        "value": float(value) if known and value is not None else None,
        "low": float(low) if bounded and low is not None else None,
        "high": float(high) if bounded and high is not None else None,
        "by_slide": " ".join(f"{point:.4f}" for point in by_slide) if known and not bounded else "",
        "n": None if n is None or math.isnan(n) else float(n),
        "note": "; ".join(part for part in (few, note) if part) or ("" if known else "too few"),
        **where,
    }


def ordered(labels: set[str]) -> list[str]:
    """Expert, students, then the others, and untrained last."""
    first = {"expert": 0, "students": 1}
    return sorted(labels, key=lambda name: (name == "untrained", first.get(name, 2), name))


def rows_of(table: pd.DataFrame) -> Iterator[Row]:
    yield from table.to_dict("records")
