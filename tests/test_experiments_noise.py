"""What corrective learning gains: habits fixed and hashed, the same start and steps either way."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from safetensors.torch import load_file

from allinsam.errors import InputError
from allinsam.experiments.noise import (
    CONDITIONS,
    CONTROL,
    NoiseSettings,
    deal_slides,
    draw_tissue,
    gains,
    habits_sha256,
    lay_labels,
    noise_table,
    run_noise,
    write_noise_tables,
)
from allinsam.inference import WEIGHTS_FILE
from allinsam.sam.segmenter import open_segmenter
from allinsam.training.settings import TrainingSettings

SMALL = NoiseSettings(
    ("wrong class 30 %",),
    seeds=(3,),
    slides=4,
    patches_per_slide=1,
    size_px=128,
    test_slides=1,
    more_test_slides=1,
)
QUICK = TrainingSettings(adapter_epochs=1, corrective_epochs=1, adapter_width=4, device="cpu")


@pytest.fixture(scope="module")
def segmenter():
    return open_segmenter("compact", device="cpu")


@pytest.fixture(scope="module")
def finished(tmp_path_factory, segmenter):
    out = tmp_path_factory.mktemp("noise")
    assert run_noise(SMALL, QUICK, out, segmenter) == 1
    return out


def test_the_conditions_are_those_that_were_written_down():
    """Changing a habit after a training shows: the hash stands in every table."""
    assert habits_sha256() == habits_sha256()
    clean = CONDITIONS["no fault"]
    faults = ("miss_rate", "wrong_class_rate", "false_box_rate", "outward_px")
    assert [getattr(clean, name) for name in faults] == [0.0, 0.0, 0.0, 0]
    for name, habits in CONDITIONS.items():
        differing = [fault for fault in faults if getattr(habits, fault) != getattr(clean, fault)]
        assert len(differing) == (0 if name == "no fault" else 3 if name == "expert" else 1), name


def test_every_part_has_its_slides_and_another_seed_deals_others():
    noise = NoiseSettings()
    dealt = [deal_slides(noise, seed) for seed in range(1, 9)]
    for parts in dealt:
        assert sorted(parts) == list(range(14))
        assert [list(parts.values()).count(part) for part in ("train", "val", "test")] == [5, 1, 2 + 6]
        assert {parts[slide] for slide in range(8, 14)} == {"test"}
        assert {slide % 2 for slide, part in parts.items() if part == "test"} == {0, 1}
    assert len({json.dumps(parts, sort_keys=True) for parts in dealt}) > 1


def test_labels_have_the_fault_of_their_condition(segmenter):
    noise = replace(SMALL, size_px=256)
    patch = draw_tissue(noise)[0, 0]
    embedding = segmenter.embed(patch.pas)

    def wrong_share(condition: str) -> float:
        labels = lay_labels(patch, CONDITIONS[condition], embedding, segmenter, [1])
        wrong = total = 0
        for name, image in labels.items():
            for number in np.unique(image[image > 0]):
                under = np.bincount(patch.labels[image == number]).argmax()
                wrong, total = wrong + (patch.classes.get(int(under)) != name), total + 1
        return wrong / total

    assert wrong_share("wrong class 30 %") > wrong_share("no fault") + 0.05
    empty = lay_labels(patch, replace(CONDITIONS["no fault"], miss_rate=1.0), embedding, segmenter, [1])
    assert not any(image.any() for image in empty.values())


def test_both_arms_begin_with_the_same_weights_and_end_apart(finished, segmenter):
    (cell,) = [path for path in finished.iterdir() if path.is_dir()]
    starts = [
        json.loads((cell / mode / "checkpoint.json").read_text())["identity"]["start"]
        for mode in (CONTROL, "average")
    ]
    assert starts[0] == starts[1] is not None
    with_weights, without = (load_file(cell / mode / WEIGHTS_FILE) for mode in ("average", CONTROL))
    assert any((with_weights[name] != without[name]).any() for name in without)
    scores = noise_table(finished)
    assert set(scores["mode"]) == {CONTROL, "average"} and set(scores["condition"]) == {"wrong class 30 %"}


def test_it_goes_on_where_it_was_and_refuses_other_habits(finished, segmenter):
    kept = {path: path.read_bytes() for path in finished.glob("*/*/result.json")}
    assert len(kept) == 2 and run_noise(SMALL, QUICK, finished, segmenter) == 1
    assert {path: path.read_bytes() for path in kept} == kept
    with pytest.raises(InputError, match="other habits or settings"):
        run_noise(SMALL, replace(QUICK, corrective_epochs=2), finished, segmenter)
    with pytest.raises(InputError, match="equal numbers of epochs"):
        run_noise(SMALL, replace(QUICK, budget_minutes=1.0), finished, segmenter)


def test_tables_name_the_habits(finished):
    texts = {path.name: path.read_text() for path in write_noise_tables(finished)}
    assert habits_sha256() in texts["gains.md"] and "cannot bring back" in texts["gains.md"]
    assert len(pd.read_csv(finished / "scores.csv")) == 2 * 2 * 2  # modes, test slides, classes


def test_a_gain_is_the_mean_over_seeds():
    rows = [
        {"condition": "expert", "seed": seed, "mode": mode, "slide": 0, "patch": patch, "class": name}
        | {"f1_instance": 0.5 + 0.1 * seed + (0.02 * seed if mode == "average" else 0.0), "dice": 0.0}
        for seed in (1, 2, 3)
        for mode in (CONTROL, "average")
        for patch in (0, 1)
        for name in ("podocyte", "mesangial")
    ]
    (row,) = gains(pd.DataFrame(rows)).to_dict("records")
    assert (row["seeds"], row["patches"]) == (3, 6)
    assert row["gain"] == pytest.approx(0.04)
    # t of 2 degrees of freedom is 4.3027: 0.04 +- 4.3027 * 0.02 / sqrt(3).
    assert (row["low"], row["high"]) == pytest.approx((0.04 - 0.049683, 0.04 + 0.049683), abs=1e-6)
    (row,) = gains(pd.DataFrame(rows[:16])).to_dict("records")
    assert row["seeds"] == 2 and np.isnan([row["low"], row["high"]]).all()
