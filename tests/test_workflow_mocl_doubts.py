"""Labels that a run trusts little: which they are, and what becomes of them in an expert's ten minutes."""

import json
from pathlib import Path

import pytest

from allinsam.errors import InputError
from allinsam.files import write_file
from allinsam.store import Study, runs
from allinsam.training.settings import TrainingSettings
from allinsam.workflow.expert_queue import open_items
from allinsam.workflow.labels import LabelRecipe, freeze_labels, make_split
from allinsam.workflow.mocl_doubts import (
    LOW_SHARE,
    MOST_DOUBTS,
    add_shares,
    annotation_ids_of,
    asked_anyway,
    doubts_path,
    label_objects,
    most_doubted,
    newest_runs_with_doubts,
    read_doubts,
)
from allinsam.workflow.nuclei_in_doubt import nuclei_of
from allinsam.workflow.settling import settle, undo
from tests.finished import PODOCYTE, finish
from tests.studies import LEAD, PODOCYTES, small_study


def row(object_id: str, weight: float, name: str = "podocyte", annotation: int = 0) -> dict:
    return {"object_id": object_id, "class_name": name, "weight": weight, "annotation_ids": [annotation]}


def test_a_nucleus_is_held_against_the_median_of_its_class() -> None:
    rows = [row("a", 1.0), row("b", 1.2), row("c", 0.5), row("m", 0.4, "mesangial")]
    assert add_shares(rows) == {"mesangial": 0.4, "podocyte": 1.0}
    assert [one["share_of_median"] for one in rows] == pytest.approx([1.0, 1.2, 0.5, 1.0])


def test_only_so_many_are_doubted_the_lowest_first() -> None:
    rows = [row(f"{n:03d}", 0.0, annotation=n) | {"share_of_median": n / 100} for n in range(100)]
    found = most_doubted(rows, {0, 2})
    assert len(found) == MOST_DOUBTS and [one["object_id"] for one in found[:2]] == ["001", "003"]


@pytest.fixture
def study(tmp_path: Path) -> Study:
    """Two students and an expert on two patches; a run of the students' labels doubts two nuclei."""
    made = small_study(tmp_path / "study", slides=3, patches_per_slide=1)
    for patch_id in (1, 2, 3):
        for person in ("s1", "s2"):
            finish(made, person, "student", patch_id, {PODOCYTE: PODOCYTES})
    add_run_with_doubts(made, [0, 1])
    return made


def add_run_with_doubts(study: Study, places: list[int]) -> int:
    label_set_id = freeze_labels(study, LabelRecipe(group="student"))
    settings = TrainingSettings()
    with study.science.write() as db:
        run_id = runs.add_run(
            db,
            name="students",
            kind="adapter",
            label_set_id=label_set_id,
            split_id=None,
            settings=settings.to_dict(),
            settings_version=2,
            backbone="compact",
            backbone_sha256="0" * 64,
        )
        runs.update_run(db, run_id, state="finished")
    things = label_objects(study, label_set_id)[1, "podocyte"]
    doubts = [
        {
            "patch_id": 1,
            "class_name": "podocyte",
            "annotation_ids": annotation_ids_of(things[place]),
            "share_of_median": 0.4,
        }
        for place in places
    ]
    told = {
        "mode": "average",
        "nuclei": 12,
        "medians": {},
        "low_share": LOW_SHARE,
        "low": 2,
        "doubts": doubts,
    }
    write_file(doubts_path(study, run_id), json.dumps(told).encode())
    return run_id


def doubted(study: Study) -> list[str]:
    return [item.key for item in open_items(study, LEAD) if item.kind == "mocl"]


def test_what_a_run_doubts_waits_and_says_why(study: Study) -> None:
    items = [item for item in open_items(study, LEAD) if item.kind == "mocl"]
    assert len(items) == 2
    assert items[0].why == "run 1 weighs this label at 40 % of the usual podocyte"
    clusters = {nucleus.cluster_id for nucleus in nuclei_of(study, 1)}
    assert all(item.detail["patch_id"] == 1 and item.detail["cluster_id"] in clusters for item in items)


@pytest.mark.parametrize("decision", ["right", "wrong"])
def test_a_decision_is_kept_and_does_not_come_again(study: Study, decision: str) -> None:
    first, second = doubted(study)
    settle(study, LEAD, "page:1", "mocl", first, decision, {}, 3.0)
    assert doubted(study) == [second]
    with pytest.raises(InputError, match="decided about this nucleus meanwhile"):
        settle(study, LEAD, "page:2", "mocl", first, decision, {}, 3.0)
    # Another run that doubts the same nucleus does not ask again.
    add_run_with_doubts(study, [0, 1])
    assert doubted(study) == [second]
    undo(study, LEAD, "page:3", 1.0)
    assert sorted(doubted(study)) == sorted([first, second])


def test_the_newest_run_on_the_same_labels_has_the_word(study: Study) -> None:
    newest = add_run_with_doubts(study, [2])
    assert newest_runs_with_doubts(study) == (newest,)
    assert len(doubted(study)) == 1
    assert read_doubts(study, newest)["nuclei"] == 12 and read_doubts(study, 99) is None


def test_a_run_that_is_not_finished_doubts_nothing(study: Study) -> None:
    with study.science.write() as db:
        runs.update_run(db, 1, state="cancelled")
    assert doubted(study) == []


def test_no_split_is_needed_to_ask(study: Study) -> None:
    make_split(study)
    assert len(doubted(study)) == 2


def test_what_is_asked_about_anyway_is_not_asked_twice(study: Study) -> None:
    assert asked_anyway(study, {1, 2}) == set()
    finish(study, "s3", "student", 1, {PODOCYTE: PODOCYTES[:-1]})  # misses one: that is in dispute
    found = asked_anyway(study, {1, 2})
    assert len(found) == 2  # of the two who marked it
    settle(study, LEAD, "page:1", "mocl", doubted(study)[0], "right", {}, 3.0)
    assert len(asked_anyway(study, {1, 2})) == 2 + 3
