import numpy as np
import pytest

from allinsam.sam.backbones import BACKBONES
from allinsam.sam.frames import Frame, cover, cut_frames, frame_around
from allinsam.sam.segmenter import most_central
from tests.tiny import tiny_backbone


def test_whole_patch_backbone_has_one_frame_with_the_longest_side_filled():
    frames = cover(BACKBONES["vit_b"], (300, 500))
    assert frames == (Frame(0, 0, 500, 300, 1024, 614),)
    assert frames[0].scale_xy == (2.048, 614 / 300)


def test_compact_covers_a_512_patch_with_nine_frames():
    frames = cover(BACKBONES["compact"], (512, 512))
    assert [(frame.x0, frame.y0) for frame in frames] == [
        (x, y) for y in (0, 128, 256) for x in (0, 128, 256)
    ]
    assert {(frame.width_px, frame.height_px, *frame.scale_xy) for frame in frames} == {(256, 256, 1.0, 1.0)}


@pytest.mark.parametrize("size_hw", [(1, 1), (40, 300), (256, 256), (257, 256), (511, 700), (1000, 1000)])
def test_native_frames_cover_every_pixel_and_stay_inside(size_hw):
    seen = np.zeros(size_hw, int)
    for frame in cover(BACKBONES["compact"], size_hw):
        assert seen[frame.window].shape == (frame.height_px, frame.width_px)
        assert frame.width_px == min(256, size_hw[1]) and frame.height_px == min(256, size_hw[0])
        seen[frame.window] += 1
    assert seen.min() == 1


@pytest.mark.parametrize("size_hw", [(257, 300), (512, 512), (700, 1000)])
def test_a_box_of_50_px_anywhere_lies_whole_in_some_frame(size_hw):
    frames = cover(BACKBONES["compact"], size_hw)
    height, width = size_hw
    for y0 in range(0, height - 49, 7):
        for x0 in range(0, width - 49, 7):
            box = np.array([x0, y0, x0 + 50, y0 + 50], np.float32)
            frame = frames[most_central(frames, box, size_hw)]
            assert frame.x0 <= x0 and frame.y0 <= y0
            assert x0 + 50 <= frame.x0 + 256 and y0 + 50 <= frame.y0 + 256


def test_a_box_goes_to_the_frame_that_has_it_in_its_middle():
    frames = cover(BACKBONES["compact"], (512, 512))
    for x, y, x0, y0 in ((256, 256, 128, 128), (20, 20, 0, 0), (500, 250, 256, 128), (200, 500, 128, 256)):
        box = np.array([x - 10, y - 10, x + 10, y + 10], np.float32)
        chosen = frames[most_central(frames, box, (512, 512))]
        assert (chosen.x0, chosen.y0) == (x0, y0)


def test_a_box_too_large_for_every_frame_gets_its_own():
    frames = cover(BACKBONES["compact"], (1000, 1000))
    box = np.array([300, 350, 600, 650], np.float32)
    assert most_central(frames, box, (1000, 1000)) is None
    own = frame_around(box, BACKBONES["compact"], (1000, 1000))
    assert own == Frame(150, 200, 600, 600, 256, 256)
    assert own.to_frame(box[None]).tolist() == [[64, 64, 192, 192]]


def test_own_frame_stays_in_the_patch():
    row = BACKBONES["compact"]
    assert frame_around(np.array([0, 0, 200, 90], np.float32), row, (512, 512)) == Frame(
        0, 0, 400, 400, 256, 256
    )
    assert frame_around(np.array([0, 0, 90, 200], np.float32), row, (220, 100)) == Frame(
        0, 0, 100, 220, 100, 220
    )
    assert frame_around(np.array([0, 0, 512, 20], np.float32), row, (512, 512)) == Frame(
        0, 0, 512, 512, 256, 256
    )


def test_boxes_in_frame_pixels():
    frame = Frame(100, 50, 200, 200, 100, 100)
    assert frame.to_frame(np.array([[100, 50, 300, 250], [110, 70, 120, 71]])).tolist() == [
        [0, 0, 100, 100],
        [5, 10, 10, 10.5],
    ]


def test_native_frames_are_normalised_and_mirrored():
    loaded = tiny_backbone()
    image = np.random.default_rng(0).integers(0, 256, (40, 64, 3), dtype=np.uint8)
    (cut,) = cut_frames(image, cover(loaded.backbone, (40, 64)), loaded.backbone, loaded.sam).numpy()
    expected = (image - np.array([123.675, 116.28, 103.53])) / np.array([58.395, 57.12, 57.375])
    assert cut.shape == (3, 64, 64)
    np.testing.assert_allclose(cut[:, :40].transpose(1, 2, 0), expected, atol=1e-5)
    np.testing.assert_allclose(cut[:, 40:].transpose(1, 2, 0), expected[:15:-1], atol=1e-5)
