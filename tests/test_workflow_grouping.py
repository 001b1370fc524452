"""Free grouping of scores, against figures worked out by hand."""

import numpy as np
import pandas as pd
import pytest

from allinsam.errors import InputError
from allinsam.store import Study
from allinsam.workflow import grouping as grouping_module
from allinsam.workflow.grouping import (
    AS_DRAWN,
    DIMENSIONS,
    FIGURES,
    Grouping,
    dimensions_table,
    group_scores,
    grouped,
    lay_out,
    of_source,
)
from allinsam.workflow.labels import LabelRecipe, freeze_labels
from allinsam.workflow.learning import score_labels
from tests.finished import MESANGIAL_ID, PODOCYTE, add_scored_run, finished_study
from tests.studies import MESANGIAL, PODOCYTES


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    study = finished_study(tmp_path_factory.mktemp("grouping") / "study")
    truth_id = freeze_labels(study, LabelRecipe(group="truth", purposes=("gold",)))
    for group in ("expert", "student"):
        score_labels(study, freeze_labels(study, LabelRecipe(group=group)), truth_id)
    return study


def made(rows: list[tuple]) -> pd.DataFrame:
    """Scores of (run, class, patch, slide, value, n)."""
    table = pd.DataFrame(rows, columns=["run_id", "class", "patch_id", "slide", "value", "n"])
    return table.assign(
        kind="model",
        label_set_id=None,
        reference_id=1,
        metric="f1_instance",
        labels=table["run_id"].map({1: "expert", 2: "students", 3: "students"}),
        condition="normal",
    )


def test_means_and_what_they_rest_on() -> None:
    table = made(
        [
            (1, "podocyte", 1, "s1", 1.0, 4),
            (1, "podocyte", 2, "s1", 0.5, 2),
            (2, "podocyte", 1, "s1", 0.2, 4),
            (2, "podocyte", 2, "s1", 0.4, 2),
            (3, "podocyte", 1, "s1", 0.6, 4),
            (3, "podocyte", 3, "s2", 0.8, 5),
        ]
    )
    found = group_scores(table, Grouping()).set_index("labels")
    assert found["mean"].to_dict() == pytest.approx({"expert": 0.75, "students": 0.5})
    # Two runs were scored on patch 1: it and its 4 nuclei count once.
    counts = found[["things", "patches", "slides", "nuclei"]]
    assert counts.loc["students"].tolist() == [2, 3, 2, 11]
    assert counts.loc["expert"].tolist() == [1, 2, 1, 6]
    assert found["low"].isna().all() and found.loc["students", "by_slide"] == pytest.approx([0.4, 0.8])


def test_enough_slides_have_an_interval_and_no_list() -> None:
    values = [0.1, 0.3, 0.5, 0.7, 0.9, 0.5]
    table = made([(1, "podocyte", n, f"s{n}", value, 1) for n, value in enumerate(values)])
    (found,) = group_scores(table, Grouping(("class",), ())).to_dict("records")
    # Clusters of one value each: mean +- t(5) x standard deviation / root 6.
    reach = 2.570582 * np.std(values, ddof=1) / np.sqrt(6)
    assert (found["low"], found["high"]) == pytest.approx((0.5 - reach, 0.5 + reach), abs=1e-5)
    assert found["by_slide"] == []


def test_the_newest_reference_counts_unless_it_is_asked_for() -> None:
    table = pd.concat(
        [
            made([(1, "podocyte", 1, "s1", 0.2, 4)]).assign(reference="truth"),
            made([(1, "podocyte", 1, "s1", 0.9, 3)]).assign(reference="expert", reference_id=2),
        ]
    )
    assert group_scores(table, Grouping())["mean"].tolist() == [0.9]
    both = group_scores(table, Grouping(("reference",))).set_index("reference")["mean"]
    assert both.to_dict() == {"truth": 0.2, "expert": 0.9}


def test_columns_stand_beside_each_other_and_empty_cells_stay_empty() -> None:
    table = made([(1, "podocyte", 1, "s1", 0.2, 4), (2, "mesangial", 1, "s1", 0.6, 3)])
    chosen = Grouping(("labels",), ("class", "condition"))
    wide = lay_out(group_scores(table, chosen), chosen)
    heads = [f"{name}, normal: {figure}" for name in ("mesangial", "podocyte") for figure in FIGURES]
    assert list(wide.columns) == ["labels", *heads]
    assert wide["labels"].tolist() == ["expert", "students"]
    assert wide["podocyte, normal: mean"].tolist()[0] == 0.2 and np.isnan(wide["podocyte, normal: mean"][1])
    assert wide["mesangial, normal: by_slide"].tolist()[1] == "0.6000"


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"rows": ("person",)}, "cannot be grouped by 'person'"),
        ({"rows": ("class",), "columns": ("class",)}, "'class' is asked for twice"),
        ({"rows": ()}, "A table needs rows"),
        ({"source": "everybody"}, "no scores 'everybody'"),
    ],
)
def test_what_cannot_be_grouped_is_said(asked: dict, said: str) -> None:
    with pytest.raises(InputError, match=said):
        Grouping(**asked)


def test_too_many_cells_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grouping_module, "MOST_CELLS", 1)
    table = made([(1, "podocyte", 1, "s1", 0.2, 4), (2, "podocyte", 1, "s1", 0.6, 3)])
    with pytest.raises(InputError, match="has 2 cells; 1 is the most"):
        group_scores(table, Grouping())


@pytest.mark.parametrize("name", DIMENSIONS)
@pytest.mark.parametrize("source", grouping_module.SOURCES)
def test_a_study_is_grouped_by_everything(study: Study, name: str, source: str) -> None:
    columns = () if name == "class" else ("class",)
    found = grouped(study, Grouping((name,), columns, source=source))
    of_people = source == "people"
    rows = {
        "method": [AS_DRAWN] if of_people else ["All-in-SAM", "untrained"],
        "class": ["mesangial", "podocyte"],
        "marker": ["GATA3", "WT1"],
        "condition": ["injured", "normal"],
        "slide": [f"slide-{n}" for n in range(1, 5)],
    }
    assert len(found) and found[name].notna().all()
    if name in rows:
        assert found[name].tolist() == rows[name]


def test_a_table_of_a_study_is_worked_out_by_hand(study: Study) -> None:
    found = grouped(study, Grouping(("labels",), ("class",))).set_index("labels")
    # The students' run finds 2 of 4 podocytes: F1 = 2 x 2 / (2 x 2 + 2) = 2/3; and 2 of 3 mesangial: 0.8.
    assert found.loc["students", "podocyte: mean"] == pytest.approx(2 / 3)
    assert found.loc["students", "mesangial: mean"] == pytest.approx(0.8)
    assert found.loc["expert", "podocyte: nuclei"] == 8 * 4
    assert found.loc["expert", ["podocyte: things", "podocyte: patches", "podocyte: slides"]].tolist() == [
        1,
        8,
        4,
    ]
    with pytest.raises(InputError, match="scored by 'charm'"):
        grouped(study, Grouping(metric="charm"))


def test_runs_of_one_name_are_told_apart(tmp_path_factory: pytest.TempPathFactory) -> None:
    study = finished_study(tmp_path_factory.mktemp("seeds") / "study")
    again = add_scored_run(
        study, LabelRecipe(group="student"), {PODOCYTE: PODOCYTES, MESANGIAL_ID: MESANGIAL}, seed=1
    )
    everything = of_source(study, dimensions_table(study), "all_runs")
    found = group_scores(everything, Grouping(("run",), ()))
    assert {f"students (run {again})", "students (run 2)"} <= set(found["run"])
    both = group_scores(everything, Grouping(("labels",))).set_index(["labels", "class"])
    assert both.loc[("students", "podocyte"), "mean"] == pytest.approx((2 / 3 + 1) / 2)
    assert both.loc[("students", "podocyte"), ["things", "patches", "nuclei"]].tolist() == [2, 8, 32]
