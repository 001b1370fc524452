import numpy as np
import pytest

from allinsam.errors import InputError
from allinsam.registration import centre_matrix, identity_matrix, warp_to_pas


def test_a_whole_pixel_shift_moves_every_pixel():
    channel = np.zeros((16, 16), np.uint8)
    channel[4:6, 5:8] = 200
    warped = warp_to_pas(channel, np.array([[1, 0, 3], [0, 1, -2]]), (16, 16))
    expected = np.zeros((16, 16), np.uint8)
    expected[2:4, 8:11] = 200
    np.testing.assert_array_equal(warped, expected)


def test_doubling_the_scale_keeps_pixel_edges_in_place():
    # Pixel [0, 1) covers [0, 2) after doubling, so a block of 4 px becomes one of 8 px at twice its place.
    channel = np.zeros((8, 8), np.uint16)
    channel[2:6, 2:6] = 40000
    warped = warp_to_pas(channel, np.array([[2.0, 0, 0], [0, 2.0, 0]]), (16, 16))
    assert warped.dtype == np.uint16
    np.testing.assert_array_equal(np.flatnonzero(warped[8] > 20000), np.arange(4, 12))


def test_the_identity_returns_the_image_itself():
    channel = np.arange(64, dtype=np.uint8).reshape(8, 8)
    assert warp_to_pas(channel, identity_matrix(), (8, 8)) is channel
    np.testing.assert_allclose(centre_matrix(identity_matrix()), identity_matrix())


def test_a_bad_matrix_is_named():
    with pytest.raises(InputError, match="2x3"):
        warp_to_pas(np.zeros((4, 4), np.uint8), np.eye(3), (4, 4))
