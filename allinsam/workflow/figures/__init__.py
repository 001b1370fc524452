"""Every figure that a page shows, as one tidy table: the numbers of a paper, with n, interval and definition.

Nothing is worked out here: each section reads what its page reads.
"""

from collections.abc import Callable, Iterator
from typing import Any

import pandas as pd

from allinsam.store import Study
from allinsam.workflow.export_columns import COLUMNS
from allinsam.workflow.figures import agreement, scores, standing, times
from allinsam.workflow.figures.kinds import KINDS
from allinsam.workflow.figures.sources import NotCountedError, Row, Sources, figure

# A section of the table, and of the report -> its rows.
SECTIONS: dict[str, Callable[[Sources], Iterator[Row]]] = {
    "agreement": agreement.of_groups,
    "everybody": agreement.of_everybody,
    "pairs": agreement.of_pairs,
    "same_person": agreement.of_the_same_person,
    "reliability": agreement.of_each_person,
    "standing_out": agreement.of_standing_out,
    "causes": agreement.of_causes,
    "boxes_and_masks": agreement.of_boxes,
    "time": times.of_paces,
    "time_ratios": times.of_ratios,
    "getting_quicker": times.of_getting_quicker,
    "fates": times.of_fates,
    "suggestions": times.of_suggestions,
    "model_scores": scores.of_models,
    "peoples_labels": scores.of_peoples_labels,
    "comparison": scores.of_comparisons,
    "equivalence": scores.of_equivalence,
    "runs": scores.of_runs,
    "same_cost": scores.of_same_cost,
    "learning": standing.of_learning,
    "progress": standing.of_progress,
    "forecast": standing.of_forecast,
}
Report = Callable[[float, float, str], None]


def figures_table(
    study: Study, at_most: int | None = None, report: Report = lambda done, total, message: None
) -> pd.DataFrame:
    """One row for each figure; its columns are those of the export of this name.

    at_most: outlines that may be worked through, None for all. A section that would take more has one row
    that says so.
    """
    sources, rows = Sources(study, at_most), []
    for number, (section, of) in enumerate(SECTIONS.items()):
        report(number, len(SECTIONS), section.replace("_", " "))
        try:
            rows += [_completed(row, section, sources) for row in of(sources)]
        except NotCountedError as error:
            rows.append(_completed(figure("not_counted", None, None, few=str(error)), section, sources))
    return pd.DataFrame(rows, columns=list(COLUMNS["figures"]))


def _completed(row: Row, section: str, sources: Sources) -> dict[str, Any]:
    """With what belongs to the figure whoever it is about."""
    kind = KINDS[row["figure"]]
    filled = {"unit": kind.unit, "n_of": kind.n_of, "definition": kind.definition}
    filled |= {"marker": sources.marker_of.get(row.get("class", "")), "section": section}
    filled |= {"interval_method": kind.interval if pd.notna(row["low"]) else ""}
    return filled | row
