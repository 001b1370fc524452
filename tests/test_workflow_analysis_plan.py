import json
from pathlib import Path

import pytest

from allinsam.__main__ import main
from allinsam.errors import InputError
from allinsam.store import Study, runs
from allinsam.store.study import get_study
from allinsam.workflow.analysis_plan import Margin, margin, margin_sentence, set_margin
from allinsam.workflow.labels import LabelRecipe
from allinsam.workflow.practising import PassMark, set_pass_mark
from tests.finished import MESANGIAL_ID, PODOCYTE, add_scored_run, finished_study
from tests.studies import LEAD, MESANGIAL, PODOCYTES


@pytest.fixture
def unscored(tmp_path: Path) -> Study:
    return finished_study(tmp_path / "study", scored=False)


def score(study: Study) -> int:
    return add_scored_run(study, LabelRecipe(group="expert"), {PODOCYTE: PODOCYTES, MESANGIAL_ID: MESANGIAL})


def test_a_study_begins_with_a_margin_that_nobody_has_set(unscored: Study) -> None:
    found = margin(unscored)
    with unscored.science.read() as db:
        began = get_study(db)["created_at"]
    assert found == Margin(0.05, began, None, True, None, False)
    score(unscored)
    assert margin(unscored).after_results is False  # it was there from the beginning
    assert f"every study starts with ({began[:10]})" in margin_sentence(margin(unscored))


def test_a_margin_set_before_the_first_scores(unscored: Study) -> None:
    set_margin(unscored, LEAD, 0.03)
    found = margin(unscored)
    assert (found.value, found.set_by, found.is_default, found.after_results) == (0.03, LEAD, False, False)
    assert margin_sentence(found).endswith("; nothing is scored yet.")
    score(unscored)
    found = margin(unscored)
    assert not found.after_results and found.set_at < found.first_scores_at
    assert margin_sentence(found).endswith("before the first scores were made.")


def test_a_margin_set_when_scores_were_in_sight_says_so(unscored: Study) -> None:
    set_margin(unscored, LEAD, 0.03)
    run_id = score(unscored)
    first = margin(unscored).first_scores_at
    set_margin(unscored, LEAD, 0.1)
    found = margin(unscored)
    assert found.after_results and found.value == 0.1 and found.first_scores_at == first <= found.set_at
    assert "after the first scores were made" in margin_sentence(found)
    # Scoring again, or losing the scores, does not make it younger.
    with unscored.science.write() as db:
        rows = [
            {key: row[key] for key in row if key not in ("id", "label_recipe", "reference_recipe", "run")}
            for row in runs.list_scores(db)
        ]
        rows = [
            {k: row[k] for k in row if k not in ("class_name", "patch", "condition", "slide")} for row in rows
        ]
        db.execute("DELETE FROM score")
        runs.put_scores(db, [row for row in rows if row["run_id"] == run_id])
    assert margin(unscored) == found


def test_the_same_margin_again_and_other_entries_of_the_plan_are_no_change(unscored: Study) -> None:
    set_margin(unscored, LEAD, 0.03)
    before = margin(unscored)
    set_margin(unscored, None, 0.03)
    set_pass_mark(unscored, LEAD, PassMark(0.7))
    assert margin(unscored) == before


def test_scores_of_a_study_without_the_note_are_as_old_as_their_run(unscored: Study) -> None:
    run_id = score(unscored)
    with unscored.science.write() as db:
        db.execute("DELETE FROM study_change WHERE field = ?", [runs.FIRST_SCORES])
        ended = runs.get_run(db, run_id)["finished_at"]
    assert margin(unscored).first_scores_at == ended
    set_margin(unscored, LEAD, 0.1)
    assert margin(unscored).after_results


@pytest.mark.parametrize("value", [0.0, -0.05, 0.6, float("nan")])
def test_a_margin_that_makes_no_sense_is_refused(unscored: Study, value: float) -> None:
    with pytest.raises(InputError, match="from 0.001 to 0.5"):
        set_margin(unscored, LEAD, value)
    assert margin(unscored).is_default


def test_the_command_sets_and_compares(unscored: Study, capsys: pytest.CaptureFixture) -> None:
    where = ["--study", str(unscored.folder), "--json"]
    assert main(["compare", *where, "--set-margin", "0.04"]) == 0
    told = json.loads(capsys.readouterr().out)["margin"]
    assert (told["value"], told["after_results"]) == (0.04, False)
    score(unscored)
    add_scored_run(unscored, LabelRecipe(group="student"), {PODOCYTE: PODOCYTES, MESANGIAL_ID: ()})
    assert main(["compare", *where]) == 0
    row = json.loads(capsys.readouterr().out)["rows"][0]
    assert (row["margin"], row["margin_set_at"], row["after_results"]) == (0.04, told["set_at"], False)
    assert main(["compare", *where, "--set-margin", "2"]) == 2
