"""What is on the screen, pixel by pixel where that can be said."""

import base64
import re
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from allinsam.errors import InputError
from tests.studies import DIM, PODOCYTES, THRESHOLD, draw_patch
from webapp import views
from webapp.surfaces.scene import Thing, Window

WHOLE = Window(0, 0, 512, 512)


def read_png(content: bytes) -> np.ndarray:
    return np.asarray(Image.open(BytesIO(content)))


def test_png_keeps_colours_and_transparency() -> None:
    image = np.zeros((2, 3, 4), np.uint8)
    image[0, 0] = (255, 10, 20, 128)
    assert np.array_equal(read_png(views.png(image)), image)
    assert np.array_equal(read_png(views.png(image[..., :3])), image[..., :3])


def test_a_window_of_its_own_size_is_the_image() -> None:
    pas, _ = draw_patch()
    assert np.array_equal(views.crop(pas, WHOLE), pas)
    assert np.array_equal(views.crop(pas, Window(100, 40, 64, 64)), pas[40:104, 100:164])


def test_beyond_the_patch_there_is_a_grey_margin() -> None:
    pas, _ = draw_patch()
    corner = views.crop(pas, Window(-32, 480, 64, 64))
    assert (corner[:, :32] == views.MARGIN_GREY).all() and (corner[32:] == views.MARGIN_GREY).all()
    assert np.array_equal(corner[:32, 32:], pas[480:, :32])


@pytest.mark.parametrize("side", [128, 512, 1024])
def test_pane_and_patch_agree_about_places_at_every_zoom(side: int) -> None:
    """A bright square keeps its centre: no half-pixel shift creeps in."""
    image = np.zeros((1024, 1024), np.float32)
    image[60:68, 40:48] = 1.0
    window = Window(0, 0, side, 512)
    shown = views.crop(image, window, fill=0)
    rows, columns = np.mgrid[:512, :512] + 0.5
    seen = np.array([(columns * shown).sum(), (rows * shown).sum()]) / shown.sum()
    assert np.allclose(window.to_patch(seen), (44, 64), atol=0.05)


def test_contrast_and_tint_of_the_marker() -> None:
    channel = np.array([[10, 60, 110, 210]], np.uint8)
    grey = views.marker_rgb(channel, (10.0, 210.0))
    assert grey[0, :, 0].tolist() == [0, 64, 128, 255] and (grey[..., 0] == grey[..., 2]).all()
    assert views.marker_rgb(channel, (10.0, 210.0), contrast=2.0)[0, :, 0].tolist() == [0, 128, 255, 255]
    assert views.marker_rgb(channel, (10.0, 210.0), tint="green")[0, 3].tolist() == [120, 255, 120]
    with pytest.raises(InputError, match="tint"):
        views.marker_rgb(channel, (0.0, 1.0), tint="pink")
    with pytest.raises(InputError, match="contrast of 0"):
        views.marker_rgb(channel, (0.0, 1.0), contrast=0.0)


def test_noise_is_not_stretched_into_nuclei() -> None:
    noise = np.random.default_rng(0).integers(25, 35, (64, 64)).astype(np.uint8)
    assert views.display_range(noise, None)[1] > 60
    low, high = views.display_range(noise, threshold=100.0)
    assert high > 170
    assert views.marker_rgb(noise, (low, high)).max() < 20
    flat = np.full((8, 8), 7, np.uint8)
    assert views.display_range(flat, None) == (7.0, 8.0)


def test_the_bright_outline_runs_along_the_edge_of_the_bright_area() -> None:
    _, channels = draw_patch()
    drawn = views.bright_outline(channels["WT1"], THRESHOLD, WHOLE, "#ff0000")
    line = (drawn == (255, 0, 0, 255)).all(axis=2)
    rows, columns = np.nonzero(line)
    away = np.min([np.hypot(columns + 0.5 - x, rows + 0.5 - y) for x, y in PODOCYTES], axis=0)
    assert 9.0 < away.min() and away.max() < 11.0
    # Every nucleus has its outline, and nothing is drawn where the channel is dark.
    assert all(line[y - 12 : y + 12, x - 12 : x + 12].sum() > 30 for x, y in PODOCYTES)
    assert not views.bright_outline(channels["WT1"], 250.0, WHOLE, "#ff0000").any()
    speck = np.full((64, 64), DIM, np.uint8)
    speck[30, 30] = 255
    assert not views.bright_outline(speck, THRESHOLD, Window(0, 0, 64, 512), "#ff0000").any()


def test_outlines_and_boxes_on_a_picture() -> None:
    image = np.full((64, 64, 3), 200, np.uint8)
    mask = np.zeros((64, 64), bool)
    mask[20:40, 24:48] = True
    picture = views.outlined(image, [(mask, "#F0E442"), (np.array([2.0, 2.0, 12.0, 10.0]), "#56B4E9")])
    assert picture.shape == (128, 128, 3)
    # Lines are anti-aliased: yellow is where blue is missing, blue where red is.
    red, _, blue = (picture[..., i].astype(int) for i in range(3))
    yellow, sky = np.argwhere(red - blue > 60), np.argwhere(blue - red > 60)
    assert (
        np.abs(yellow.min(axis=0) - (40, 48)).max() <= 1 and np.abs(yellow.max(axis=0) - (80, 96)).max() <= 1
    )
    assert np.abs(sky.min(axis=0) - (4, 4)).max() <= 1 and np.abs(sky.max(axis=0) - (20, 24)).max() <= 1
    assert (picture[60, 60] == 200).all()
    assert (picture < 60).all(axis=2).any()  # the halo


@pytest.mark.parametrize("colour", ["red", "#12345", "#12345g"])
def test_a_colour_that_cannot_be_read_is_named(colour: str) -> None:
    with pytest.raises(InputError, match=re.escape(repr(colour))):
        views.rgb(colour)


def test_smoothing_takes_the_stairs_out_and_keeps_the_shape() -> None:
    stairs = [(0, 0)]
    for i in range(8):
        stairs += [(i + 1, i), (i + 1, i + 1)]
    stairs += [(0, 8)]
    ring = views.smoothed(np.array(stairs, np.float32))
    assert len(ring) < len(stairs) / 2
    x, y = np.concatenate([ring, ring[:1]]).T
    area = abs(float((x[:-1] * y[1:] - x[1:] * y[:-1]).sum())) / 2
    assert area == pytest.approx(36.0, abs=3.0)


def thing(**changed: object) -> Thing:
    ring = np.array([[10, 10], [30, 10], [30, 30], [10, 30]], np.float32)
    base = {"object_id": "a", "number": 3, "letter": "P", "colour": "#F0E442", "state": "proposed"}
    return Thing(**{**base, "box": (9.0, 9.0, 31.0, 31.0), "rings": (ring,), **changed})


def test_the_overlay_says_state_class_and_number() -> None:
    proposed = views.overlay_svg([thing()], WHOLE)
    assert "stroke-dasharray" in proposed and ">P3</text>" in proposed and "#F0E442" in proposed
    assert "M10.0 10.0L30.0 10.0L30.0 30.0L10.0 30.0Z" in proposed
    kept = views.overlay_svg([thing(state="accepted")], WHOLE)
    assert "stroke-dasharray" not in kept
    dropped = views.overlay_svg([thing(state="rejected")], WHOLE)
    assert "#F0E442" not in dropped
    assert ">P3?</text>" in views.overlay_svg([thing(doubtful=True)], WHOLE)


def test_the_overlay_follows_the_window() -> None:
    svg = views.overlay_svg([thing()], Window(10, 10, 64, 640))
    assert "M0.0 0.0L200.0 0.0L200.0 200.0L0.0 200.0Z" in svg
    assert "<text" not in views.overlay_svg([thing()], Window(300, 300, 64, 640))


def test_a_box_without_its_outline_yet_is_shown() -> None:
    assert "<rect" in views.overlay_svg([thing(rings=())], WHOLE)
    assert "<rect" not in views.overlay_svg([thing()], WHOLE)
    assert "<rect" in views.overlay_svg([thing()], WHOLE, boxes=True)


def test_names_cannot_break_out_of_the_overlay() -> None:
    svg = views.overlay_svg([thing(letter="<", colour='"><script>')], WHOLE)
    assert "<script>" not in svg and "&lt;3" in svg
    assert base64.b64decode(views.data_url(svg).split(",", 1)[1]).decode() == svg
