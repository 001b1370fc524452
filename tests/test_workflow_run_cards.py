import json

import pytest

from allinsam.files import write_file
from allinsam.store import Study
from allinsam.training.methods import METHODS, method_of, preset_of
from allinsam.training.settings import AUTHORS, PRESET_REASONS, PRESETS, TrainingSettings
from allinsam.workflow.learning import VERSIONS_FILE
from allinsam.workflow.run_cards import card_markdown, changed_settings, run_card, runs_table
from allinsam.workflow.scored import scores_table
from tests.finished import finished_study


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """Shared and only read. Run 1 learnt from the expert, run 2 from students."""
    made = finished_study(tmp_path_factory.mktemp("finished") / "study")
    write_file(made.run_folder(1) / VERSIONS_FILE, json.dumps({"torch": "2.0"}).encode())
    return made


def test_a_card_says_what_a_reader_has_to_know(study: Study) -> None:
    card = run_card(study, 2)
    assert card["method"] == "All-in-SAM" and card["seed"] == 2023
    assert card["labels"]["title"] == "students" and card["labels"]["people"] == ["s1", "s2"]
    assert len(card["labels"]["sha256"]) == 64
    assert len(card["labels"]["patches"]["train"]) > 0
    assert card["split"].startswith("Split 1, by glomerulus") or card["split"].startswith("Split 1, by ")
    assert card["settings"] == {}
    # Validation Dice rises by 0.2 with each of 4 epochs; the fourth is the first of the corrective stage.
    assert (card["best"]["stage"], card["best"]["epoch"]) == ("corrective", 1)
    assert card["best"]["val"] == pytest.approx(0.8) and card["seconds"] == 40.0
    # Found 2 of 4 podocytes, none invented.
    assert card["test"]["against"] == "truth"
    assert card["test"]["by_class"]["podocyte"]["f1_instance"] == pytest.approx(2 / 3, abs=1e-3)
    assert card["versions"] is None and run_card(study, 1)["versions"] == {"torch": "2.0"}
    assert json.loads(json.dumps(card)) == card


def test_a_card_can_be_read_by_people(study: Study) -> None:
    text = card_markdown(run_card(study, 1))
    assert text.startswith("# Run 1: expert\n")
    for part in ("Method: All-in-SAM, seed 2023", "People: e1", "torch 2.0", "Settings that differ", "none"):
        assert part in text
    assert "| podocyte | " in text and "against truth" in text


def test_only_what_differs_from_the_default_is_told() -> None:
    settings = TrainingSettings(adapter_epochs=7, mocl=False, seed=5).to_dict()
    assert changed_settings(settings) == {"adapter_epochs": 7, "mocl": False}
    del settings["mocl"]
    told = {"adapter_epochs": 7, "mocl": "not there yet", "of_old": 1}
    assert changed_settings({**settings, "of_old": 1}) == told


def test_all_runs_stand_in_a_table(study: Study) -> None:
    table = runs_table(study, scores_table(study))
    assert table["Run"].tolist() == [2, 1] and table["Labels"].tolist() == ["students", "expert"]
    assert table["Validation Dice"].tolist() == pytest.approx([0.8, 0.8])
    assert table["Test F1, podocyte"].tolist() == pytest.approx([2 / 3, 1.0], abs=1e-3)
    assert list(table)[-1] == "Finished"


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_goes_with_every_method(preset: str, method: str) -> None:
    settings = preset_of(preset, method)
    assert method_of(settings.to_dict(), METHODS[method].masks) == method
    assert PRESET_REASONS[preset]
    if settings.network != "adapter":  # the SAM adapter's learning rates are nothing to another network
        assert settings.learning_rate is None and settings.backbone == "compact"


def test_the_faithful_preset_is_the_authors_recipe() -> None:
    assert preset_of("faithful", "all_in_sam_mocl") == AUTHORS
    assert method_of({"network": "dynunet", "mocl": True}) is None
    control = TrainingSettings(mocl_mode="none").to_dict()
    assert method_of(control) == "all_in_sam"  # every weight 1 is no corrective learning
