"""Figures of the Compare page: models and people's labels, pair by pair, and what their minutes bought."""

from collections.abc import Iterator

import pandas as pd

from allinsam.comparison import TOO_FEW, TOO_FEW_SLIDES
from allinsam.workflow import label_costs, scored
from allinsam.workflow.analysis_plan import margin, margin_sentence
from allinsam.workflow.figures.sources import ALL, Row, Sources, figure, rows_of

COSTS = {"train_minutes": "minutes", "train_patches": "patches", "train_nuclei": "nuclei"}


def of_models(sources: Sources) -> Iterator[Row]:
    """The models side by side on the Compare page: of all test patches, and of each condition."""
    yield from _means(sources.newest, "run_id")


def of_peoples_labels(sources: Sources) -> Iterator[Row]:
    yield from _means(scored.newest_scores(sources.scores, "people"), None)


def _means(scores: pd.DataFrame, run: str | None) -> Iterator[Row]:
    if scores.empty:
        return
    pooled = pd.concat([scores.assign(condition=ALL), scores])
    keys = ["label", "reference", "class_name", "condition", "metric", *([run] if run else [])]
    for row in rows_of(scored.means(pooled, keys)):
        where = {"about": "labels", "a": row["label"], "b": row["reference"], "class": row["class_name"]}
        where |= {key: row[key] for key in ("condition", "metric", "patches", "slides", "by_slide")}
        where |= {"low": row["low"], "high": row["high"]} | ({"run_a": int(row[run])} if run else {})
        yield figure("mean_score", row["mean"], row["patches"], **where)


def of_runs(sources: Sources) -> Iterator[Row]:
    """Every scored run, and what its labels took."""
    table = sources.costs
    for row in rows_of(table):
        where = {"about": "run", "a": row["label"], "b": row["reference"], "class": row["class_name"]}
        where |= {
            "condition": ALL,
            "setting": row["line"],
            "metric": row["metric"],
            "run_a": row["run_id"],
            "patches": row["test_patches"],
        }
        note = TOO_FEW_SLIDES if pd.isna(row["low"]) else ""
        ends = {"low": row["low"], "high": row["high"], "note": note}
        yield figure("mean_score", row["mean"], row["test_patches"], **ends, **where)
    for row in rows_of(table.drop_duplicates("run_id")):
        where = {"about": "run", "a": row["label"], "run_a": row["run_id"], "setting": row["line"]}
        nobody = "nobody drew them" if pd.isna(row["train_minutes"]) else ""
        note = "" if nobody else f"gaps up to {row['idle_cutoff_s']:g} s"
        n = row["train_patches"]
        yield figure("score_minutes", row["train_minutes"], n, few=nobody, note=note, **where)
        yield figure("score_nuclei", row["train_nuclei"], n, **where)


def of_same_cost(sources: Sources) -> Iterator[Row]:
    """Scores of all lines of a size curve at the largest size that all of them reach."""
    table = sources.costs
    for group in label_costs.groups_of(table):
        for metric in sorted(table["metric"].unique()):
            curve = label_costs.curve_of(table, group, metric)
            for x, unit in COSTS.items():
                for class_name, part in curve[curve[x].notna()].groupby("class_name"):
                    at, found = label_costs.scores_at(part, x)
                    for line, score in found.items() if len(found) > 1 else ():
                        n = part.loc[part["line"] == line, "run_id"].nunique()
                        where = {"about": "labels", "a": line, "class": class_name, "metric": metric}
                        where |= {"setting": f"at {at:.4g} {unit}, runs of settings {group}"}
                        yield figure("score_at_same_cost", score, n, condition=ALL, **where)


# ---------------------------------------------------------------- pairs of models


def of_comparisons(sources: Sources) -> Iterator[Row]:
    """Differences, and whether chance explains them."""
    for row, where in sources.compared:
        ends = {key: row[key] for key in ("low", "high", "by_slide")}
        yield figure("mean_difference", row["mean_difference"], row["n"], **ends, **where)
        few = TOO_FEW if row["method"] == TOO_FEW else ""
        yield figure("rank_biserial", row["rank_biserial"], row["n"], few=few, **where)
        # Of patches of a few slides p says nothing about other slides.
        for name, column in (("p", "p_value"), ("p_holm", "p_holm")):
            note = "; ".join(part for part in (row["note"], "" if few else row["method"]) if part)
            yield figure(name, row[column], row["n"], few=few, note=note, **where)


def of_equivalence(sources: Sources) -> Iterator[Row]:
    """Whether one is as good as the other, give or take the margin, and since when that margin holds."""
    planned = margin_sentence(margin(sources.study))
    for row, where in sources.compared:
        few = row["note"] or (TOO_FEW if pd.isna(row["p_equivalence"]) else "")
        where = where | {"setting": f"margin {row['margin']:g}", "note": planned}
        yield figure("p_equivalence", row["p_equivalence"], row["n"], few=few, **where)
        yield figure("p_equivalence_holm", row["p_equivalence_holm"], row["n"], few=few, **where)
        yield figure("as_good", row["equivalent"], row["n"], few=few, **where)
