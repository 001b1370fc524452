import numpy as np
import pytest

from allinsam.errors import NotFoundError
from allinsam.store import Study
from allinsam.training.dataset import TrainingPatch
from allinsam.workflow.run_examples import (
    MOST_EPOCHS,
    MOST_PATCHES,
    Examples,
    example_epochs,
    examples_folder,
    first_middle_newest,
    read_example,
    start_examples,
)
from tests.studies import small_study


def validated(name: str, nuclei: int, part: str = "val") -> TrainingPatch:
    labels = np.zeros((8, 8), np.int32)
    labels.ravel()[:nuclei] = np.arange(1, nuclei + 1)
    return TrainingPatch(name, np.zeros((8, 8, 3), np.uint8), {"podocyte": labels}, part)


@pytest.fixture
def study(tmp_path) -> Study:
    return small_study(tmp_path / "study", slides=3, patches_per_slide=2)


def test_the_patches_with_most_nuclei_are_kept(study: Study) -> None:
    patches = [validated(f"slide-{n}-p1", n) for n in (1, 2, 3)]
    patches += [validated("slide-3-p2", 5), validated("slide-1-p2", 9, "train")]
    chosen = start_examples(study, 7, patches).patch_ids
    assert list(chosen) == ["slide-3-p2", "slide-3-p1", "slide-2-p1"] and len(chosen) == MOST_PATCHES
    assert chosen["slide-3-p2"] == 6


def test_what_an_epoch_found_is_read_back(study: Study) -> None:
    examples = start_examples(study, 7, [validated("slide-1-p1", 1)])
    labels = np.arange(64, dtype=np.int32).reshape(8, 8)
    examples.look(validated("slide-1-p1", 1), {"podocyte": labels, "mesangial": labels * 0})
    examples.look(validated("slide-2-p1", 1), {"podocyte": labels})  # not among the chosen
    examples.keep(1)
    assert example_epochs(study, 7) == {1: [1]}
    found = read_example(study, 7, 1, 1)
    assert np.array_equal(found[1], labels) and not found[2].any()
    with pytest.raises(NotFoundError, match="epoch 2"):
        read_example(study, 7, 2, 1)


def test_an_epoch_soon_after_another_waits_until_it_is_the_newest(study: Study) -> None:
    examples = start_examples(study, 7, [validated("slide-1-p1", 1)])
    for epoch in (1, 2, 3):
        examples.look(validated("slide-1-p1", 1), {"podocyte": np.full((8, 8), epoch, np.int32)})
        examples.keep(epoch)
    assert example_epochs(study, 7) == {1: [1]}
    examples.flush()
    assert example_epochs(study, 7) == {1: [1, 3]} and read_example(study, 7, 3, 1)[1].max() == 3


def test_few_epochs_stay_however_many_there_were(tmp_path) -> None:
    examples = Examples(tmp_path / "examples", {"p": 1}, {"podocyte": 1}, every_s=0.0)
    for epoch in range(1, 101):
        examples.look(validated("p", 1), {"podocyte": np.zeros((8, 8), np.int32)})
        examples.keep(epoch)
    epochs = sorted(int(path.stem.split("_")[0]) for path in examples.folder.glob("*.png"))
    assert len(epochs) <= MOST_EPOCHS and (epochs[0], epochs[-1]) == (1, 100)
    assert 25 < first_middle_newest(epochs)[1] < 75


def test_first_middle_and_newest() -> None:
    assert first_middle_newest([4]) == [4] and first_middle_newest([4, 9]) == [4, 9]
    assert first_middle_newest([1, 2, 5, 9]) == [1, 5, 9]


def test_a_run_without_examples_has_none(study: Study) -> None:
    assert example_epochs(study, 7) == {}
    folder = examples_folder(study, 7)
    folder.mkdir(parents=True)
    (folder / "notes.png").write_bytes(b"")
    assert example_epochs(study, 7) == {}
