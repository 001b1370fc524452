from dataclasses import replace

import numpy as np
import pytest

from allinsam.inference import InstanceSettings
from allinsam.training.calibration import (
    calibrate,
    labelled_instances,
    mean_instance_f1,
    small_nucleus_px,
    starting_instances,
)
from allinsam.training.dataset import TrainingPatch


def squares(sides: list[int], class_name: str = "a", um_per_px: float = 0.5) -> TrainingPatch:
    """A patch with one labelled square per side length, 40 px apart."""
    labels = np.zeros((40, 40 * max(1, len(sides))), np.int32)
    for index, side in enumerate(sides):
        labels[5 : 5 + side, 40 * index + 5 : 40 * index + 5 + side] = index + 1
    return TrainingPatch("p", np.zeros((*labels.shape, 3), np.uint8), {class_name: labels}, "val", um_per_px)


def test_small_nucleus_is_the_fifth_percentile_at_the_reference_resolution():
    sides = [6, 10, 10, 10, 10]
    expected = np.percentile([36, 100, 100, 100, 100], 5)
    assert small_nucleus_px([squares(sides)]) == pytest.approx(expected)
    # At 0.25 um/px four pixels are one of the reference.
    assert small_nucleus_px([squares(sides, um_per_px=0.25)]) == pytest.approx(expected / 4)
    assert small_nucleus_px([squares([])]) == 0.0


def test_a_mask_counts_by_its_components():
    patch = squares([6, 10])
    mask = replace(patch, labels={"a": patch.labels["a"] > 0})
    assert labelled_instances(mask.labels["a"]).max() == 2
    assert small_nucleus_px([mask]) == small_nucleus_px([patch])


def test_start_drops_what_is_below_half_a_small_nucleus_and_never_less_than_the_default():
    assert starting_instances([squares([10, 10])]).min_area_px == 50.0
    assert starting_instances([squares([2, 2])]).min_area_px == InstanceSettings().min_area_px


def test_calibration_finds_the_area_that_the_labels_ask_for():
    patch = squares([10, 10, 10, 10])
    # True nuclei, and fragments of 49 px.
    probability = np.where(patch.labels["a"] > 0, 0.9, 0.0).astype(np.float32)
    for index in range(4):
        probability[25:32, 40 * index + 20 : 40 * index + 27] = 0.7
    start = InstanceSettings(threshold=0.55, min_area_px=25.0)
    found = calibrate(start, 100.0, ["a"], [patch], [probability[None]])
    assert found == replace(start, min_area_px=50.0)


def test_calibration_finds_how_near_two_nuclei_may_lie():
    labels = np.zeros((40, 40), np.int32)
    y, x = np.mgrid[:40, :40]
    for number, centre in enumerate((13, 20, 27), start=1):
        labels[(y - 20) ** 2 + (x - centre) ** 2 <= 9] = number
    patch = TrainingPatch("p", np.zeros((40, 40, 3), np.uint8), {"a": labels}, "val", 0.5)
    probability = (labels > 0).astype(np.float32)
    # Three discs 7 px apart: with 7 px between peaks neighbours merge, or not, by a pixel.
    found = calibrate(InstanceSettings(peak_distance_px=9.0), 10.0, ["a"], [patch], [probability[None]])
    assert found.peak_distance_px == 5.0


def test_calibration_keeps_the_start_where_nothing_is_better():
    patch = squares([10, 10])
    probability = np.where(patch.labels["a"] > 0, 0.9, 0.0).astype(np.float32)[None]
    start = InstanceSettings(threshold=0.55, min_area_px=30.0)
    assert calibrate(start, 100.0, ["a"], [patch], [probability]) == start


def test_mean_f1_is_over_classes_that_were_labelled():
    patch = squares([10, 10])
    nothing = np.zeros_like(patch.labels["a"])
    one_of_two = np.where(patch.labels["a"] == 1, 1, 0).astype(np.int32)
    assert mean_instance_f1(["a", "b"], [patch], [[one_of_two, one_of_two]]) == pytest.approx(2 / 3)
    both = replace(patch, labels={"a": patch.labels["a"], "b": nothing})
    assert mean_instance_f1(["a", "b"], [both], [[one_of_two, one_of_two]]) == pytest.approx(1 / 3)
    assert mean_instance_f1(["c"], [patch], [[nothing]]) == 0.0
