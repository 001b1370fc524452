import pytest

from allinsam.errors import InputError
from allinsam.store import Study, assignments
from allinsam.training.settings import TrainingSettings
from allinsam.workflow.labels import LabelRecipe, freeze_labels
from allinsam.workflow.preparing import sign_threshold
from allinsam.workflow.progress import (
    GUESSED_SECONDS,
    estimate_training,
    label_standing,
    labelled_patches,
    person_progress,
    study_progress,
    waiting_on_thresholds,
)
from tests.finished import finish, finished_study
from tests.studies import LEAD, PERSON, PODOCYTES, small_study


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """Shared and only read."""
    return finished_study(tmp_path_factory.mktemp("finished") / "study")


def test_what_is_done_and_what_is_not(study: Study) -> None:
    progress = study_progress(study)
    assert (progress.slides, progress.patches, progress.markers, progress.unsigned) == (4, 8, 8, ())
    assert (progress.finished, progress.assigned) == (24, 32)
    assert (progress.trained, progress.scored) == (2, True)
    by_person = {p.person_id: (p.assigned, p.finished) for p in progress.people if p.assigned}
    assert by_person == {PERSON: (8, 0), "e1": (8, 8), "s1": (8, 8), "s2": (8, 8)}


def test_markers_without_a_threshold_are_named(tmp_path) -> None:
    study = small_study(tmp_path / "study", slides=1, signed=False)
    progress = study_progress(study)
    assert progress.unsigned == (("slide-1", "GATA3"), ("slide-1", "WT1"))
    assert (progress.trained, progress.scored) == (0, False)


def waits(study: Study) -> dict[tuple[int, str], int]:
    with study.science.read() as db:
        return {pair: len(behind) for pair, behind in waiting_on_thresholds(db).items()}


def test_what_patches_wait_for_is_counted_by_slide_and_marker(tmp_path) -> None:
    study = small_study(tmp_path / "study", slides=2, patches_per_slide=2, signed=False)
    with study.science.write() as db:
        assignments.add_assignment(db, LEAD, 1, (1,))
        assignments.add_assignment(db, LEAD, 2, (1, 2), guidance="if")
    assert waits(study) == {(1, "WT1"): 3, (1, "GATA3"): 2, (2, "GATA3"): 2, (2, "WT1"): 2}
    sign_threshold(study, 1, "WT1", 100.0, "by eye", LEAD)
    sign_threshold(study, 2, "WT1", 100.0, "by eye", LEAD, 3, "alone")
    assert waits(study) == {(1, "GATA3"): 2, (2, "GATA3"): 2, (2, "WT1"): 1}


def test_an_empty_study_has_no_progress(empty_study: Study) -> None:
    progress = study_progress(empty_study)
    assert (progress.slides, progress.patches, progress.assigned, progress.people) == (0, 0, 0, ())


def test_own_progress(study: Study) -> None:
    mine = person_progress(study, PERSON)
    assert (mine.assigned, mine.finished, mine.opened, mine.simulated) == (8, 0, 0, False)


def test_labels_stand_per_group_and_class(study: Study) -> None:
    rows = {(row["group"], row["class"]): row for row in label_standing(study)}
    assert set(rows) == {(g, c) for g in ("expert", "student") for c in ("podocyte", "mesangial")}
    student = rows["student", "podocyte"]
    assert (student["people"], student["patches"], student["objects"]) == (2, 8, 8 * (3 + 4))


def test_a_class_with_nothing_there_counts_as_labelled(tmp_path) -> None:
    study = small_study(tmp_path / "study")
    finish(study, "e1", "expert", 1, {1: ()})
    assert label_standing(study) == [
        {"group": "expert", "class": "podocyte", "people": 1, "patches": 1, "objects": 0}
    ]


@pytest.mark.parametrize("guidance, counts", [("if", True), ("suggestion", False), ("pas_only", False)])
def test_labels_stand_as_far_as_training_takes_them(tmp_path, guidance: str, counts: bool) -> None:
    study = small_study(tmp_path / "study")
    finish(study, "e1", "expert", 1, {1: PODOCYTES})
    with study.science.write() as db:
        [done] = [row["id"] for row in assignments.list_assignments(db, "e1")]
        db["assignment"].update(done, {"guidance": guidance})
    assert bool(label_standing(study)) == counts
    if counts:
        freeze_labels(study, LabelRecipe(group="expert"))
    else:
        with pytest.raises(InputError, match="No finished patch matches"):
            freeze_labels(study, LabelRecipe(group="expert"))


def test_without_a_run_the_time_is_a_guess(empty_study: Study) -> None:
    settings = TrainingSettings(adapter_epochs=10, corrective_epochs=5)
    estimate = estimate_training(empty_study, settings, [10, 20])
    # Three networks are scored on 0.3 of 20 patches, each at the cost of one epoch; so is where MOCL trusts.
    expected = GUESSED_SECONDS["compact"] * ((15 + 1) * 0.6 * 30 + 3 * 0.3 * 20) / 60
    assert (estimate.minutes, estimate.measured) == (pytest.approx(expected), False)


def test_with_a_run_the_time_follows_its_pace(study: Study) -> None:
    """The runs took 40 s for 4 epochs of the labelled patches in the train part."""
    settings = TrainingSettings(adapter_epochs=4, mocl=False)
    estimate = estimate_training(study, settings, [10])
    # 4 slides of 2 patches: one slide of each condition for test, one for validation, one to train on.
    assert estimate.measured
    assert estimate.minutes == pytest.approx(40 / (4 * 2) * (4 * 6 + 2 * 3) / 60)


def test_no_training_is_estimated_longer_than_its_budget(study: Study) -> None:
    settings = TrainingSettings(adapter_epochs=10_000, budget_minutes=3)
    scoring, trust = 40 / (4 * 2) * 3 * 3 / 60, 40 / (4 * 2) * 2 * 6 / 60
    assert estimate_training(study, settings, [10, 10]).minutes == pytest.approx(6 + trust + scoring)


def test_another_network_has_a_pace_of_its_own(study: Study) -> None:
    unet = TrainingSettings(network="unet", adapter_epochs=4, mocl=False)
    assert not estimate_training(study, unet, [10]).measured
    assert estimate_training(study, TrainingSettings(backbone="vit_b"), [10]).measured is False


@pytest.mark.parametrize(("labels", "patches"), [("student", 8), ("s1", 8), ("adjudicated", 1), ("p-x", 0)])
def test_patches_behind_labels(study: Study, labels: str, patches: int) -> None:
    assert labelled_patches(study, labels) == patches
