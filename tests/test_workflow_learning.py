import pytest

from allinsam.errors import NotAllowedError
from allinsam.store import runs
from allinsam.workflow.labels import LabelRecipe, freeze_labels, make_split
from allinsam.workflow.learning import score_labels, training_patches
from tests.studies import MESANGIAL, PODOCYTES, small_study
from tests.test_workflow_labels import annotate


@pytest.fixture
def study(tmp_path):
    return small_study(tmp_path / "study", slides=4, patches_per_slide=2)


def test_nobody_is_scored_against_their_own_work(study):
    annotate(study, "e1", "expert", 1, {1: PODOCYTES})
    annotate(study, "s1", "student", 1, {1: PODOCYTES[:2]})
    expert = freeze_labels(study, LabelRecipe(group="expert"))
    with pytest.raises(NotAllowedError, match="'e1'"):
        score_labels(study, expert, freeze_labels(study, LabelRecipe(people=("e1",))))
    score_labels(study, freeze_labels(study, LabelRecipe(group="student")), expert)
    with study.science.read() as db:
        scores = {row["metric"]: row["value"] for row in runs.list_scores(db)}
    # Two of four nuclei found, none invented: F1 = 2 * 2 / (2 + 4).
    assert scores["f1_instance"] == pytest.approx(2 / 3)
    assert scores["pq"] == pytest.approx(2 / 3) and scores["iou"] == pytest.approx(0.5)


def test_training_patches_leave_the_test_part_out(study):
    for patch_id in range(1, 9):
        annotate(study, "e1", "expert", patch_id, {1: PODOCYTES, 2: MESANGIAL})
    split_id = make_split(study)
    patches = training_patches(study, freeze_labels(study, LabelRecipe(group="expert")), split_id)
    with study.science.read() as db:
        parts = runs.split_parts(db, split_id)
    assert len(patches) == sum(part != "test" for part in parts.values())
    assert {patch.part for patch in patches} == {"train", "val"}
