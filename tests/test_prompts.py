import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from allinsam.errors import InputError
from allinsam.prompts import clip_boxes, jitter_boxes, labels_to_boxes, mask_to_box

ANY_BOXES = arrays(
    np.float32, st.tuples(st.integers(0, 5), st.just(4)), elements=st.floats(-50, 150, width=32)
)


def test_a_box_is_half_open_around_the_mask():
    mask = np.zeros((10, 12), bool)
    mask[3:5, 7] = True
    box = mask_to_box(mask)
    assert box.tolist() == [7.0, 3.0, 8.0, 5.0] and box.dtype == np.float32


def test_an_empty_mask_has_no_box():
    with pytest.raises(InputError, match="no box"):
        mask_to_box(np.zeros((4, 4), bool))


@given(arrays(np.int32, (7, 9), elements=st.integers(0, 5)))
def test_boxes_of_a_label_image_are_those_of_its_masks(labels):
    ids, boxes = labels_to_boxes(labels)
    assert boxes.dtype == np.float32 and boxes.shape == (len(ids), 4)
    assert ids.tolist() == sorted(set(labels.ravel().tolist()) - {0})
    for identity, box in zip(ids, boxes, strict=True):
        assert box.tolist() == mask_to_box(labels == identity).tolist()


def test_jitter_moves_every_side_outward_by_whole_pixels_up_to_the_limit():
    boxes = np.tile(np.array([[100, 110, 120, 140]], np.float32), (2000, 1))
    moved = (jitter_boxes(boxes, 10, (512, 512), np.random.default_rng(3)) - boxes) * [-1, -1, 1, 1]
    for side in range(4):
        assert sorted(set(moved[:, side].tolist())) == list(range(11))
        assert abs(moved[:, side].mean() - 5.0) < 0.3
    assert abs(np.corrcoef(moved.T)[0, 1]) < 0.1  # the sides move on their own


def test_jitter_is_repeatable_and_zero_changes_nothing():
    boxes = np.array([[10, 20, 30, 40]], np.float32)
    first, second = (jitter_boxes(boxes, 5, (64, 64), np.random.default_rng(1)) for _ in range(2))
    assert np.array_equal(first, second)
    assert np.array_equal(jitter_boxes(boxes, 0, (64, 64), np.random.default_rng(1)), boxes)


@given(ANY_BOXES, st.integers(0, 20), st.booleans(), st.integers(0, 99))
def test_jittered_boxes_lie_in_the_patch_and_are_2_px_or_more(boxes, outward_px, signed, seed):
    moved = jitter_boxes(boxes, outward_px, (60, 80), np.random.default_rng(seed), signed=signed)
    assert moved.shape == boxes.shape and moved.dtype == np.float32
    assert (moved >= 0).all() and (moved <= [80, 60, 80, 60]).all()
    assert (moved[:, 2:] - moved[:, :2] >= 2 - 1e-4).all()


def test_signed_jitter_moves_sides_both_ways():
    boxes = np.tile(np.array([[100, 100, 140, 140]], np.float32), (500, 1))
    moved = jitter_boxes(boxes, 3, (512, 512), np.random.default_rng(0), signed=True) - boxes
    assert sorted(set(moved.ravel().tolist())) == [-3, -2, -1, 0, 1, 2, 3]


@pytest.mark.parametrize(
    ("box", "clipped"),
    [
        ([-5, -5, 20, 99], [0, 0, 20, 60]),
        ([30, 40, 10, 20], [10, 20, 30, 40]),  # dragged from the lower right
        ([30, 30, 30, 30], [29, 29, 31, 31]),
        ([0, 0, 0, 10], [0, 0, 2, 10]),
        ([200, 10, 300, 20], [78, 10, 80, 20]),
    ],
)
def test_clip(box, clipped):
    assert clip_boxes(np.array([box]), (60, 80)).tolist() == [clipped]


def test_a_patch_smaller_than_the_smallest_box_is_the_box():
    assert clip_boxes(np.array([[0, 0, 5, 5]]), (1, 1)).tolist() == [[0, 0, 1, 1]]


def test_no_boxes_stay_no_boxes():
    assert clip_boxes([], (8, 8)).shape == (0, 4)
    assert jitter_boxes(np.zeros((0, 4)), 5, (8, 8), np.random.default_rng(0)).shape == (0, 4)


@pytest.mark.parametrize("boxes", [[[1, 2, 3]], [[1, 2, np.nan, 4]], np.zeros((1, 2, 4))])
def test_unusable_boxes_are_refused(boxes):
    with pytest.raises(InputError, match="Boxes"):
        clip_boxes(boxes, (8, 8))


def test_inward_only_jitter_is_refused():
    with pytest.raises(InputError, match="outward_px"):
        jitter_boxes(np.zeros((1, 4)), -1, (8, 8), np.random.default_rng(0))
