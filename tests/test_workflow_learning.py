import pytest
import torch

from allinsam.errors import InputError, NotAllowedError
from allinsam.inference import RUN_FILE, untrained_model
from allinsam.sam.backbones import load_backbone
from allinsam.store import runs
from allinsam.training.settings import TrainingSettings
from allinsam.workflow import learning
from allinsam.workflow.labels import LabelRecipe, freeze_labels, make_split
from allinsam.workflow.learning import (
    VERSIONS_FILE,
    add_untrained_run,
    load_run_model,
    one_click,
    score_labels,
    train_seeds,
    training_patches,
)
from allinsam.workflow.mocl_doubts import mapped_patches, read_doubts
from allinsam.workflow.run_examples import example_epochs
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


# ------------------------------------------------------------------------------------- real runs

FEW = TrainingSettings(
    adapter_epochs=1, corrective_epochs=1, least_frames=0, augmentation=False, device="cpu"
)


@pytest.fixture
def labelled(study):
    """Everything right but one label on plain tissue, on a training patch."""
    split_id = make_split(study)
    with study.science.read() as db:
        parts = runs.split_parts(db, split_id)
    first = min(patch_id for patch_id, part in parts.items() if part == "train")
    annotate(study, "s1", "student", first, {1: (*PODOCYTES, (40, 470))})
    for patch_id in (patch_id for patch_id, part in parts.items() if part == "val"):
        annotate(study, "s1", "student", patch_id, {1: PODOCYTES})
    return study, freeze_labels(study, LabelRecipe(group="student")), split_id


def states(study):
    with study.science.read() as db:
        return [(run["id"], run["settings"]["seed"], run["state"]) for run in runs.list_runs(db)]


def test_seeds_one_after_the_other_cancelled_and_gone_on_with(labelled):
    study, label_set_id, split_id = labelled
    told, stop = [], []

    def report(done, total, message, detail):
        told.append((done / total, message, detail))
        if message.startswith("seed 2 (2 of 2), adapter stage") and detail["kind"] == "epoch":
            stop.append(True)

    trained = train_seeds(study, label_set_id, split_id, FEW, [1, 2], "students", report, lambda: bool(stop))
    assert trained == [1, 2] and states(study) == [(1, 1, "finished"), (2, 2, "cancelled")]
    for share, message, _ in told:
        assert (0.0 <= share <= 0.5) if message.startswith("seed 1 (1 of 2)") else (0.5 <= share <= 1.0)
    assert told[-1][2]["run_ids"] == [1, 2]

    # What a finished run keeps.
    epochs = example_epochs(study, 1)
    assert epochs and {tuple(kept) for kept in epochs.values()} == {(1, 2)}
    doubts, maps = read_doubts(study, 1), mapped_patches(study, 1)
    assert doubts["nuclei"] == len(PODOCYTES) + 1 and list(maps.values()) == [[1]]
    assert (study.run_folder(1) / VERSIONS_FILE).exists()
    kept = (study.run_folder(1) / RUN_FILE).stat().st_mtime_ns
    assert read_doubts(study, 2) is None

    # The same again: the first is there, the second goes on.
    again = []
    train_seeds(study, label_set_id, split_id, FEW, [1, 2], "students", lambda *row: again.append(row[2]))
    assert states(study) == [(1, 1, "finished"), (2, 2, "finished")]
    assert (study.run_folder(1) / RUN_FILE).stat().st_mtime_ns == kept
    assert all(message.startswith("seed 2 (2 of 2)") for message in again)
    assert read_doubts(study, 2) is not None


@pytest.mark.parametrize("seeds", [[], [1, 1], [-1], list(range(11))])
def test_unusable_seeds_are_refused(labelled, seeds):
    study, label_set_id, split_id = labelled
    with pytest.raises(InputError, match="[Ss]eeds"):
        train_seeds(study, label_set_id, split_id, FEW, seeds, "students")
    assert states(study) == []
