"""Classes are added and changed while a study runs, and nothing goes on under an old name."""

import re
from pathlib import Path

import pytest

from allinsam.errors import InputError, NotFoundError
from allinsam.inference import load_run
from allinsam.store import Study, runs
from allinsam.store import study as study_rows
from allinsam.workflow import learning
from allinsam.workflow.assigning import assign_patches
from allinsam.workflow.classes import CLASS_KEYS, add_class, change_class, free_keys
from allinsam.workflow.exports import EXPORTS, export_csv
from allinsam.workflow.labels import LabelRecipe, freeze_labels, read_labels
from allinsam.workflow.learning import load_run_model
from allinsam.workflow.scored import compare, scored_patch, scores_table
from tests.finished import finished_study
from tests.studies import LEAD, small_study

PURPLE = "#961EFF"
PODOCYTE = {"name": "podocyte", "marker": "WT1", "colour": "#F0E442", "key": "1"}


@pytest.fixture
def study(tmp_path: Path) -> Study:
    return small_study(tmp_path / "study", slides=1)


def classes(study: Study) -> dict[int, dict]:
    with study.science.read() as db:
        return {row["id"]: row for row in study_rows.list_classes(db)}


def changes(study: Study) -> list[tuple]:
    with study.science.read() as db:
        rows = db["study_change"].rows
        return [(r["field"], r["old_value"], r["new_value"], r["person_id"]) for r in rows]


def test_a_class_is_added_and_asked_for_from_then_on(study: Study) -> None:
    class_id = add_class(study, LEAD, "  endothelial  cell ", "WT1", "#961eff", "3")
    made = {"id": class_id, "name": "endothelial cell", "marker": "WT1", "colour": PURPLE, "key": "3"}
    assert classes(study)[class_id] == made
    assert changes(study) == [(f"class {class_id}", None, "endothelial cell", LEAD)]
    (given,) = assign_patches(study, LEAD, [1]).assignment_ids
    with study.science.read() as db:
        asked = {row["class_id"] for row in db["assignment_class"].rows_where("assignment_id = ?", [given])}
        before = {row["class_id"] for row in db["assignment_class"].rows_where("assignment_id = 1")}
    assert asked == {1, 2, class_id} and before == {1, 2}


def test_each_change_is_kept_with_its_date(study: Study) -> None:
    change_class(study, LEAD, 1, **{**PODOCYTE, "name": "podo", "key": "z"})
    change_class(study, LEAD, 1, **{**PODOCYTE, "name": "podo", "key": "z"})  # changes nothing
    assert classes(study)[1] == {"id": 1, **PODOCYTE, "name": "podo", "key": "z"}
    assert changes(study) == [("class 1 name", "podocyte", "podo", LEAD), ("class 1 key", "1", "z", LEAD)]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"name": " "}, "no name"),
        ({"name": "x" * 41}, "no name"),
        ({"name": "Mesangial"}, "There is or was a class 'mesangial'. Choose"),
        ({"marker": "CD31"}, "No slide has the marker 'CD31'"),
        ({"colour": "yellow"}, "no colour"),
        ({"key": "2"}, "Key '2' chooses mesangial"),
        ({"key": "a"}, "taken by tools"),
        ({"key": ""}, "taken by tools"),
        ({"key": "12"}, "taken by tools"),
        ({"marker": "GATA3"}, "podocyte keeps its marker WT1"),
    ],
)
def test_what_cannot_be_is_refused_and_nothing_is_changed(study: Study, wrong: dict, message: str) -> None:
    before = classes(study)
    with pytest.raises(InputError, match=message):
        change_class(study, LEAD, 1, **{**PODOCYTE, **wrong})
    assert classes(study) == before and changes(study) == []
    with pytest.raises(NotFoundError, match="No class 9"):
        change_class(study, LEAD, 9, **PODOCYTE)


def test_a_class_nobody_was_asked_for_may_get_another_marker(study: Study) -> None:
    class_id = add_class(study, LEAD, "other", "WT1", PURPLE, "3")
    change_class(study, LEAD, class_id, "other", "GATA3", PURPLE, "3")
    assert classes(study)[class_id]["marker"] == "GATA3"


def test_a_name_that_a_class_has_had_is_no_other_s(study: Study) -> None:
    change_class(study, LEAD, 1, **{**PODOCYTE, "name": "podo"})
    with pytest.raises(InputError, match="There is or was a class 'podocyte', now podo"):
        add_class(study, LEAD, "podocyte", "WT1", PURPLE, "3")
    change_class(study, LEAD, 1, **PODOCYTE)  # its own it may have again
    assert classes(study)[1]["name"] == "podocyte"


def test_keys_of_tools_are_not_offered() -> None:
    source = (Path(__file__).parents[1] / "webapp/surfaces/dual_pane.js").read_text("utf-8")
    keys = source[source.index("  _keys() {") : source.index("  // The selected nucleus gets the next class")]
    tools = set(re.findall(r'\["(.)",', keys)) | set(
        re.findall(r"(\w): \"", source.split("HELD = {")[1][:60])
    )
    assert {"a", "x", "v", "0", "?", "q", "h"} <= tools
    assert not tools & set(CLASS_KEYS)
    assert not {"r", "c"} & set(CLASS_KEYS)  # Streamlit's own


def test_free_keys_begin_with_ones_own(study: Study) -> None:
    known = classes(study)
    assert free_keys(known, 2)[:2] == ["2", "3"] and "1" not in free_keys(known, None)


def test_after_a_rename_nothing_holds_the_old_name(tmp_path: Path) -> None:
    study = finished_study(tmp_path / "finished")
    frozen = freeze_labels(study, LabelRecipe(group="expert"))
    before = compare(study, "expert", "students")
    labels = read_labels(study, frozen)
    with study.science.read() as db:
        sha256 = runs.get_label_set(db, frozen)["sha256"]
    change_class(study, LEAD, 1, **{**PODOCYTE, "name": "visceral"})
    change_class(study, LEAD, 1, **{**PODOCYTE, "name": "visceral cell"})
    now = read_labels(study, frozen)
    assert set(now[1]) == {"visceral cell", "mesangial"}
    assert (now[1]["visceral cell"] == labels[1]["podocyte"]).all()
    # The frozen file is as it was: a label set's hash holds.
    assert b"podocyte" in study.labels_path(sha256).read_bytes()
    assert "podocyte" not in set(scores_table(study)["class_name"])
    after = compare(study, "expert", "students")
    assert list(after["class_name"].replace("visceral cell", "podocyte").sort_values()) == sorted(
        before["class_name"]
    )
    shown = scored_patch(study, 1, 1, "visceral cell")  # what a run found before the rename
    assert shown.found.max() == shown.reference.max() == 4
    for name in EXPORTS:
        assert b"podocyte" not in export_csv(study, name), name
    again = freeze_labels(study, LabelRecipe(group="expert"))
    assert again != frozen and set(read_labels(study, again)[1]) == set(now[1])


def test_a_run_of_before_finds_the_class_under_its_name_now(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = finished_study(tmp_path / "finished")

    class Network:
        class_names = ("mesangial", "podocyte")

    class Model:
        network = Network()
        class_names = property(lambda self: self.network.class_names)

    monkeypatch.setattr(learning, "load_backbone", lambda *args, **more: None)
    monkeypatch.setattr(learning, load_run.__name__, lambda folder, loaded: Model())
    change_class(study, LEAD, 1, **{**PODOCYTE, "name": "visceral cell"})
    assert load_run_model(study, 1).class_names == ("mesangial", "visceral cell")
