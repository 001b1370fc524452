from dataclasses import fields, replace

import pytest

from allinsam.__main__ import _recipe, _settings, build_parser
from allinsam.errors import InputError
from allinsam.jobs import _flags
from allinsam.training.methods import preset_of
from allinsam.training.settings import PRESETS, TrainingSettings
from webapp.forms import CHOICES, FIRST, help_of, label_of, settings_arguments


def through_the_command_line(arguments: dict) -> TrainingSettings:
    return _settings(build_parser().parse_args(["experiment", *_flags(arguments)]))


@pytest.mark.parametrize(
    "changed",
    [
        {},
        {"mocl": False, "adapter_epochs": 3},
        {"dice_weights_denominator": True, "augmentation": False},
        {"learning_rate": 3e-5, "budget_minutes": 2.5, "adapter_width": 24, "seed": 0},
        {"mocl_mode": "product", "backbone": "vit_b", "precision": "float32"},
        {"adapter_width": None, "patience": 9},
    ],
)
def test_what_is_chosen_reaches_the_job_unchanged(changed: dict) -> None:
    values = TrainingSettings(**changed).to_dict()
    values.pop("settings_version")
    assert through_the_command_line(settings_arguments(values)) == TrainingSettings(**changed)


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_reaches_the_job_unchanged(preset: str) -> None:
    arguments = settings_arguments(PRESETS[preset].to_dict())
    assert through_the_command_line(arguments) == PRESETS[preset]


def test_several_seeds_come_through_the_command_line() -> None:
    args = build_parser().parse_args(["train", *_flags({"labels": "expert", "seeds": [1, 2, 3]})])
    assert args.seeds == [1, 2, 3] and _settings(args) == TrainingSettings()


def test_a_value_out_of_range_is_refused_at_the_door() -> None:
    with pytest.raises(InputError, match="adapter_epochs is -1"):
        settings_arguments({"adapter_epochs": -1})


@pytest.mark.parametrize("setting", fields(TrainingSettings), ids=lambda setting: setting.name)
def test_every_setting_says_where_its_default_comes_from(setting) -> None:
    assert label_of(setting.name)
    text = help_of(setting)
    assert f"Default {'empty' if setting.default is None else setting.default}" in text
    assert setting.metadata["source"] in text
    if setting.name in CHOICES:
        assert setting.default in CHOICES[setting.name]


def test_the_settings_that_stand_first_exist() -> None:
    assert set(FIRST) <= {setting.name for setting in fields(TrainingSettings)}


def test_a_preset_and_a_method_by_name_are_what_the_other_flags_change() -> None:
    def asked(*flags: str) -> TrainingSettings:
        return _settings(build_parser().parse_args(["train", *flags]))

    assert asked("--preset", "quick") == PRESETS["quick"]
    assert asked("--as", "nnunet") == replace(TrainingSettings(), network="dynunet", mocl=False)
    changed = asked("--preset", "best", "--as", "sam_l_random", "--budget-minutes", "4", "--no-calibrate")
    expected = replace(preset_of("best", "sam_l_random"), budget_minutes=4.0, calibrate=False)
    assert changed == expected and changed.network == "unet"


@pytest.mark.parametrize(
    ("flags", "masks"),
    [
        ([], "edited"),
        (["--as", "sam_l_random"], "random"),
        (["--as", "sam_l_tight", "--masks", "weak"], "weak"),
    ],
)
def test_a_method_says_how_its_masks_are_made_unless_told(flags: list[str], masks: str) -> None:
    assert _recipe(build_parser().parse_args(["train", *flags])).masks == masks
