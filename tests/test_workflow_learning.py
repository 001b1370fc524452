import pytest
import torch

from allinsam.errors import InputError, NotAllowedError
from allinsam.inference import untrained_model
from allinsam.sam.backbones import load_backbone
from allinsam.store import runs
from allinsam.training.settings import TrainingSettings
from allinsam.workflow import learning
from allinsam.workflow.labels import LabelRecipe, freeze_labels, make_split
from allinsam.workflow.learning import (
    add_untrained_run,
    load_run_model,
    one_click,
    score_labels,
    training_patches,
)
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


def test_nobody_whose_vote_is_in_a_consensus_is_scored_against_it(study):
    annotate(study, "s1", "student", 1, {1: PODOCYTES})
    annotate(study, "s2", "student", 1, {1: PODOCYTES})
    annotate(study, "outvoted", "student", 1, {1: MESANGIAL[:1]})
    annotate(study, "empty", "student", 1, {1: ()}, submit="nothing_here")
    annotate(study, "e1", "expert", 1, {1: PODOCYTES[:2]})
    recipe = LabelRecipe(people=("s1", "s2", "outvoted", "empty"), rule="consensus", quorum=2)
    consensus = freeze_labels(study, recipe)
    with study.science.read() as db:
        assert runs.label_set_people(db, consensus) == {"s1", "s2", "outvoted", "empty"}
    for person in recipe.people:
        with pytest.raises(NotAllowedError, match=person):
            score_labels(study, freeze_labels(study, LabelRecipe(people=(person,))), consensus)
    score_labels(study, freeze_labels(study, LabelRecipe(group="expert")), consensus)
    with study.science.read() as db:
        scores = {row["metric"]: row["value"] for row in runs.list_scores(db)}
    assert scores["f1_instance"] == pytest.approx(2 / 3)


def test_training_patches_leave_the_test_part_out(study):
    for patch_id in range(1, 9):
        annotate(study, "e1", "expert", patch_id, {1: PODOCYTES, 2: MESANGIAL})
    split_id = make_split(study)
    patches = training_patches(study, freeze_labels(study, LabelRecipe(group="expert")), split_id)
    with study.science.read() as db:
        parts = runs.split_parts(db, split_id)
    assert len(patches) == sum(part != "test" for part in parts.values())
    assert {patch.part for patch in patches} == {"train", "val"}


def test_the_baseline_is_the_network_that_its_runs_start_from(study):
    split_id, settings = make_split(study), TrainingSettings(adapter_width=4, seed=3)
    run_id = add_untrained_run(study, split_id, settings)
    assert add_untrained_run(study, split_id, TrainingSettings(adapter_width=4, seed=3, k=7)) == run_id
    assert add_untrained_run(study, split_id, TrainingSettings(adapter_width=5, seed=3)) != run_id
    found = load_run_model(study, run_id).network.trained_state()
    start = untrained_model(load_backbone("compact"), ["mesangial", "podocyte"], 4, 3).network
    assert found.keys() == start.trained_state().keys()
    assert all(torch.equal(found[name], value) for name, value in start.trained_state().items())


def test_the_one_click_scores_nobody_against_themselves(study, monkeypatch):
    """Labels by another recipe than the reference's may still be the same person's."""
    for patch_id in range(1, 9):
        annotate(study, "e1", "expert", patch_id, {1: PODOCYTES})
        annotate(study, "s1", "student", patch_id, {1: PODOCYTES[:2]})
    # Neither training nor prediction matters here.
    monkeypatch.setattr(learning, "train_run", lambda *args, **options: 1)
    monkeypatch.setattr(learning, "evaluate_run", lambda *args, **options: [])
    recipes = [LabelRecipe(group="expert", seed=5), LabelRecipe(group="student")]
    one_click(study, TrainingSettings(), recipes)
    with study.science.read() as db:
        scored = {row["label_set_id"] for row in runs.list_scores(db)}
        people = [runs.label_set_people(db, label_set_id) for label_set_id in scored]
    assert people == [{"s1"}]


def test_a_test_part_without_labels_is_told_before_the_training(study):
    split_id = make_split(study)
    with study.science.read() as db:
        parts = runs.split_parts(db, split_id)
    for patch_id in (patch_id for patch_id, part in parts.items() if part != "test"):
        annotate(study, "e1", "expert", patch_id, {1: PODOCYTES})
    with pytest.raises(InputError, match="no label on the test part"):
        one_click(study, TrainingSettings(), [LabelRecipe(group="expert")])
    with study.science.read() as db:
        assert runs.list_runs(db) == []
