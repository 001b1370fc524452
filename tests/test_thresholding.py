import numpy as np
import pytest

from allinsam.errors import InputError
from allinsam.thresholding import THRESHOLDS, histogram, marker_mask, molecular_support


def marker_channel(dtype: type = np.uint8, scale: int = 1) -> np.ndarray:
    """Background around 20, five bright nuclei around 180, 10 px on a side."""
    rng = np.random.default_rng(5)
    channel = rng.normal(20, 4, (120, 120))
    for corner in range(10, 110, 20):
        channel[corner : corner + 10, corner : corner + 10] = rng.normal(180, 8, (10, 10))
    return (np.clip(channel, 0, 255) * scale).astype(dtype)


@pytest.mark.parametrize("dtype, scale", [(np.uint8, 1), (np.uint16, 200)])
@pytest.mark.parametrize("name", sorted(THRESHOLDS))
def test_every_threshold_lies_between_background_and_nuclei(name, dtype, scale):
    value = THRESHOLDS[name](marker_channel(dtype, scale))
    assert isinstance(value, float)
    if name == "percentile_99":
        # 3.5 % of the pixels are nuclei, so the 99th percentile lies among the brightest of them.
        assert 170 * scale < value < 210 * scale
    else:
        assert 25 * scale < value < 165 * scale


@pytest.mark.parametrize("name", sorted(THRESHOLDS))
def test_a_flat_channel_has_nothing_bright(name):
    channel = np.full((16, 16), 7, np.uint8)
    value = THRESHOLDS[name](channel)
    assert value == 7.0
    assert not marker_mask(channel, value).any()


def test_otsu_on_two_grey_values_separates_them():
    channel = np.array([[10, 10, 10, 200]], np.uint8)
    value = THRESHOLDS["otsu"](channel)
    assert marker_mask(channel, value).tolist() == [[False, False, False, True]]


def test_percentile_is_the_value_99_percent_do_not_exceed():
    channel = np.arange(101, dtype=np.uint16).reshape(1, 101)
    assert THRESHOLDS["percentile_99"](channel) == 99.0
    assert marker_mask(channel, 99.0).sum() == 1


def test_bright_is_strictly_above_the_threshold():
    assert marker_mask(np.array([[4, 5, 6]], np.uint16), 5).tolist() == [[False, False, True]]


def test_support_is_the_positive_share_of_the_mask():
    mask = np.array([[1, 1, 1, 1, 0]], bool)
    marker = np.array([[0, 0, 0, 1, 1]], bool)
    assert molecular_support(mask, marker) == 0.25
    assert molecular_support(mask, ~marker) == 0.75
    assert molecular_support(np.zeros_like(mask), marker) == 0.0


def test_support_of_images_of_different_size_is_refused():
    with pytest.raises(InputError, match="Register"):
        molecular_support(np.ones((2, 2), bool), np.ones((2, 3), bool))


def test_histogram_counts_every_pixel_in_whole_grey_values():
    counts, edges = histogram(np.array([[0, 0, 255]], np.uint8))
    assert counts.size == 256 and edges[0] == 0 and edges[-1] == 256
    assert counts[0] == 2 and counts[255] == 1
    counts, edges = histogram(np.array([[0, 4095, 100]], np.uint16))
    assert edges[-1] == 4096 and edges[1] == 16 and counts.sum() == 3
    counts, edges = histogram(np.array([[65535]], np.uint16), bins=16)
    assert edges[-1] == 65536 and counts.tolist() == [0] * 15 + [1]


@pytest.mark.parametrize(
    "channel",
    [np.zeros((2, 2)), np.zeros((2, 2, 3), np.uint8), np.zeros((0, 2), np.uint8), np.zeros((2, 2), bool)],
)
def test_unusable_channels_are_refused(channel):
    for threshold in THRESHOLDS.values():
        with pytest.raises(InputError, match="uint8 or uint16"):
            threshold(channel)
    with pytest.raises(InputError, match="uint8 or uint16"):
        histogram(channel)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_threshold_that_is_no_number_is_refused(value):
    with pytest.raises(InputError, match="threshold"):
        marker_mask(np.zeros((2, 2), np.uint8), value)
