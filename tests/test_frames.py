import numpy as np
import pytest

from allinsam.sam.backbones import BACKBONES
from allinsam.sam.frames import Frame, crop_frame, encoder_input, frame_around, whole_frame
from tests.tiny import tiny_backbone

COMPACT = BACKBONES["compact"]


def test_whole_frame_is_filled_by_the_longest_side():
    frame = whole_frame(BACKBONES["vit_b"], (300, 500))
    assert frame == Frame(0, 0, 500, 300, 1024, 614)
    assert frame.scale_xy == (2.048, 614 / 300)


@pytest.mark.parametrize("size_hw", [(512, 512), (200, 130), (1000, 777), (40, 300)])
def test_a_box_lies_in_its_crop_with_the_rest_of_it_round_it(size_hw):
    height, width = size_hw
    rng = np.random.default_rng(0)
    for _ in range(200):
        sides = np.minimum(rng.uniform(1, 96, 2), (width, height))
        corner = rng.uniform(0, 1, 2) * (np.array([width, height]) - sides)
        box = np.concatenate([corner, corner + sides]).astype(np.float32)
        frame = crop_frame(box, COMPACT, size_hw)
        x0, y0, x1, y1 = frame.extent
        assert (x0 % 8, y0 % 8) == (0, 0) and frame.scale_xy == (1.0, 1.0)
        assert 0 <= x0 and 0 <= y0 and x1 <= width and y1 <= height
        assert x0 <= box[0] + 1e-3 and y0 <= box[1] + 1e-3 and box[2] <= x1 + 1e-3 and box[3] <= y1 + 1e-3
        for low, high, start, length in ((box[0], box[2], x0, width), (box[1], box[3], y0, height)):
            off_middle = abs((low + high) / 2 - start - 64)
            assert off_middle <= 4.01 or start == 0 or start + 128 >= length


def test_a_box_too_large_for_a_crop_gets_a_frame_scaled_down():
    box = np.array([300, 350, 600, 650], np.float32)
    assert crop_frame(box, COMPACT, (1000, 1000)) is None
    own = frame_around(box, COMPACT, (1000, 1000))
    assert own == Frame(150, 200, 600, 600, 128, 128)
    np.testing.assert_allclose(own.to_frame(box[None]), [[32, 32, 96, 96]])


def test_own_frame_stays_in_the_patch():
    def around(box, size_hw):
        return frame_around(np.array(box, np.float32), COMPACT, size_hw)

    assert around([0, 0, 200, 90], (512, 512)) == Frame(0, 0, 400, 400, 128, 128)
    assert around([0, 0, 90, 100], (110, 100)) == Frame(0, 0, 100, 110, 100, 110)
    assert around([0, 0, 512, 20], (512, 512)) == Frame(0, 0, 512, 512, 128, 128)


def test_boxes_and_points_in_frame_pixels():
    frame = Frame(100, 50, 200, 200, 100, 100)
    assert frame.to_frame(np.array([[100, 50, 300, 250], [110, 70, 120, 71]])).tolist() == [
        [0, 0, 100, 100],
        [5, 10, 10, 10.5],
    ]
    assert frame.to_frame(np.array([[110, 70]])).tolist() == [[5, 10]]


def test_patches_that_come_as_they_are_get_mirrored_to_whole_tokens():
    loaded = tiny_backbone()
    image = np.random.default_rng(0).integers(0, 256, (20, 61, 3), dtype=np.uint8)
    (cut,) = encoder_input(image, Frame(0, 0, 61, 20, 61, 20), loaded.backbone, loaded.sam).numpy()
    expected = (image - np.array([123.675, 116.28, 103.53])) / np.array([58.395, 57.12, 57.375])
    assert cut.shape == (3, 32, 64)
    np.testing.assert_allclose(cut[:, :20, :61].transpose(1, 2, 0), expected, atol=1e-5)
    np.testing.assert_allclose(cut[:, 20:, :61].transpose(1, 2, 0), expected[:7:-1], atol=1e-5)
    np.testing.assert_allclose(cut[:, :20, 61:].transpose(1, 2, 0), expected[:, :57:-1], atol=1e-5)


def test_published_models_get_zeros_beside_a_resized_patch():
    loaded = tiny_backbone(whole_patch=True)
    image = np.full((32, 64, 3), 255, np.uint8)
    frame = whole_frame(loaded.backbone, (32, 64))
    (cut,) = encoder_input(image, frame, loaded.backbone, loaded.sam).numpy()
    assert cut.shape == (3, 64, 64)
    assert (cut[:, :32] > 1).all() and (cut[:, 32:] == 0).all()
