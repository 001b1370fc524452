"""Slides are read as they were written, level by level, and cut where and as finely as asked."""

import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile

from allinsam.errors import InputError
from allinsam.imaging import read_rgb
from allinsam.importing.slide import SlideRules, places_on, read_glomeruli, tissue_of
from allinsam.registration import compose, invert, move_points, nudge
from allinsam.slides import cut, open_slide, overview
from tests.bad_inputs import noise
from tests.slides import GLOMERULI, SLIDE_HW, TISSUE_XYXY, draw_slide, glomeruli, smaller, write_slide

SHARED = Path(os.environ.get("ALLINSAM_SHARED_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))


@pytest.fixture(scope="module")
def drawn() -> tuple[np.ndarray, np.ndarray]:
    return draw_slide()


@pytest.fixture(scope="module")
def stain_path(tmp_path_factory: pytest.TempPathFactory, drawn: tuple[np.ndarray, np.ndarray]) -> Path:
    return write_slide(tmp_path_factory.mktemp("slides") / "s.ome.tif", drawn[0])


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"compression": "zlib", "predictor": True},
        {"tile": (128, 256)},
        {"tile": None},
        {"tile": None, "compression": "zlib", "rowsperstrip": 16},
        {"bigtiff": True},
    ],
    ids=str,
)
def test_every_level_is_read_as_it_was_written(
    tmp_path: Path, drawn: tuple[np.ndarray, np.ndarray], options: dict
) -> None:
    stain = drawn[0]
    big = options.pop("bigtiff", False)
    path = tmp_path / "s.ome.tif"
    if big:
        tifffile.imwrite(path, stain, photometric="rgb", tile=(256, 256), bigtiff=True)
    else:
        write_slide(path, stain, **options)
    with open_slide(path) as slide:
        assert (slide.size_hw, slide.channels, slide.dtype) == (SLIDE_HW, 3, "uint8")
        assert len(slide.level_sizes_hw) == (1 if big else 3)
        for level in range(len(slide.level_sizes_hw)):
            whole = smaller(stain, 2**level) if level else stain
            part = slide.read_level(level, 37, 51, 200, 150)
            assert np.array_equal(part, whole[51:201, 37:237])


def test_jpeg_tiles_come_back_in_their_colours(tmp_path: Path, drawn: tuple[np.ndarray, np.ndarray]) -> None:
    path = write_slide(tmp_path / "s.ome.tif", drawn[0], compression="jpeg", compressionargs={"level": 95})
    with open_slide(path) as slide:
        part = slide.read_level(0, 300, 300, 512, 512).astype(int)
    assert np.abs(part - drawn[0][300:812, 300:812]).mean() < 3


def test_channels_of_a_fluorescence_slide(tmp_path: Path, drawn: tuple[np.ndarray, np.ndarray]) -> None:
    path = write_slide(tmp_path / "if.ome.tif", drawn[1], um_per_px=0.5)
    with open_slide(path) as slide:
        assert (slide.channels, slide.dtype, slide.um_per_px) == (2, "uint16", 0.5)
        assert np.array_equal(slide.read_level(0, 10, 20, 300, 200)[..., 1], drawn[1][1, 20:220, 10:310])


def test_planes_of_colours_kept_apart(tmp_path: Path, drawn: tuple[np.ndarray, np.ndarray]) -> None:
    path = tmp_path / "s.tif"
    planar = np.moveaxis(drawn[0], 2, 0)
    tifffile.imwrite(path, planar, photometric="rgb", planarconfig="separate", tile=(256, 256))
    with open_slide(path) as slide:
        assert np.array_equal(slide.read_level(0, 250, 250, 300, 300), drawn[0][250:550, 250:550])


def at(x0: float, y0: float, shrink: float) -> np.ndarray:
    return np.array([[shrink, 0, -x0 * shrink], [0, shrink, -y0 * shrink]])


def test_a_patch_at_the_slide_s_own_pixels_is_an_exact_copy(
    stain_path: Path, drawn: tuple[np.ndarray, np.ndarray]
) -> None:
    with open_slide(stain_path) as slide:
        assert np.array_equal(cut(slide, at(301, 407, 1.0), 512), drawn[0][407:919, 301:813])
        # At half the size, the level of half the size itself.
        half = smaller(drawn[0], 2)
        assert np.array_equal(cut(slide, at(400, 300, 0.5), 256), half[150:406, 200:456])


def ramp_slide(path: Path, levels: int) -> Path:
    """Red is x / 8, green y / 8: where a px came from can be read off it."""
    y, x = np.mgrid[: SLIDE_HW[0], : SLIDE_HW[1]] + 0.5
    return write_slide(
        path, np.stack([x / 8, y / 8, 0 * x], -1).astype(np.float64).round().astype(np.uint8), levels=levels
    )


@pytest.mark.parametrize("levels", [0, 2])
@pytest.mark.parametrize("shrink", [0.8, 0.37, 0.25, 0.21])
def test_what_is_cut_lies_where_it_was_asked(tmp_path: Path, levels: int, shrink: float) -> None:
    size_px, x0, y0 = 200, 203.4, 101.7
    with open_slide(ramp_slide(tmp_path / "r.ome.tif", levels)) as slide:
        patch = cut(slide, at(x0, y0, shrink), size_px).astype(float)
    place = (np.arange(size_px) + 0.5) / shrink
    assert np.abs(patch[..., 0].mean(axis=0) - (x0 + place) / 8).max() < 0.7
    assert np.abs(patch[..., 1].mean(axis=1) - (y0 + place) / 8).max() < 0.7
    # Rounding apart, nothing is shifted: a tenth of a px of the slide.
    assert abs((patch[..., 0].mean(axis=0) - (x0 + place) / 8).mean()) < 0.1


def test_a_turned_cut_is_resampled_once_from_the_right_place(
    tmp_path: Path, drawn: tuple[np.ndarray, np.ndarray]
) -> None:
    with open_slide(ramp_slide(tmp_path / "r.ome.tif", 2)) as slide:
        turn = nudge(at(500, 400, 0.5), (200, 200), rotation_deg=30.0)
        patch = cut(slide, turn, 200, 0)

    x, y = 60, 140
    asked = move_points(invert(turn), np.array([[x + 0.5, y + 0.5]]))[0]
    assert patch[y, x] == pytest.approx(asked[0] / 8, abs=1.0)
    assert compose(turn, invert(turn)) == pytest.approx(at(0, 0, 1.0), abs=1e-9)


def test_beyond_the_slide_a_stain_is_white_and_a_channel_black(
    tmp_path: Path, stain_path: Path, drawn: tuple[np.ndarray, np.ndarray]
) -> None:
    with open_slide(stain_path) as slide:
        assert (cut(slide, at(-100, -100, 1.0), 256)[:100] == 255).all()
    with open_slide(write_slide(tmp_path / "if.ome.tif", drawn[1])) as slide:
        assert (cut(slide, at(-100, -100, 1.0), 256, 0)[:, :100] == 0).all()


def test_an_overview_says_what_its_pixels_stand_for(stain_path: Path) -> None:
    with open_slide(stain_path) as slide:
        for longest_px in (100, 448, 5000):
            small, times = overview(slide, longest_px)
            assert small.shape[1] * times == pytest.approx(SLIDE_HW[1], rel=0.02)
        tissue, times = tissue_of(slide)
    rows, columns = np.nonzero(tissue)
    found = [columns.min() * times, rows.min() * times, columns.max() * times, rows.max() * times]
    assert found == pytest.approx(TISSUE_XYXY, abs=12)


def test_a_grid_takes_squares_of_tissue(stain_path: Path) -> None:
    rules = SlideRules(patch_px=256)
    with open_slide(stain_path) as slide:
        half = places_on(slide, 0.25, rules, [])
        any_tissue = places_on(slide, 0.25, SlideRules(patch_px=256, tissue_share=0.01), [])
        coarse = places_on(slide, 0.25, SlideRules(patch_px=128, um_per_px=0.5), [])
    # The tissue is 5 x 3 squares of 256 px, and begins on the grid.
    assert [(p.x0, p.y0) for p in half] == [
        (256.0 * column, 256.0 * row) for row in (1, 2, 3) for column in range(1, 6)
    ]
    assert [(p.x0, p.y0) for p in coarse] == [(p.x0, p.y0) for p in half]
    assert len(any_tissue) >= len(half) and {p.glomerulus for p in half} == {None}


def test_glomeruli_name_the_patches_they_lie_in(tmp_path: Path, stain_path: Path) -> None:
    path = tmp_path / "glomeruli.geojson"
    path.write_text(json.dumps(glomeruli()))
    with open_slide(stain_path) as slide:
        outlines = read_glomeruli(path, slide.size_hw)
        assert [one.name for one in outlines] == list(GLOMERULI)
        inside = places_on(slide, 0.25, SlideRules(patch_px=256), outlines)
        kept = places_on(slide, 0.25, SlideRules(patch_px=256, outside="keep"), outlines)
        centred = places_on(slide, 0.25, SlideRules(patch_px=256, place="centred"), outlines)
    assert {p.glomerulus for p in inside} == set(GLOMERULI)
    for place in inside:
        x, y, radius = GLOMERULI[place.glomerulus]
        nearest = np.clip((x, y), (place.x0, place.y0), (place.x0 + 256, place.y0 + 256))
        assert np.hypot(*(nearest - (x, y))) < radius
    assert len(kept) == 15 and sum(p.glomerulus is not None for p in kept) == len(inside)
    assert [(p.x0, p.y0, p.glomerulus) for p in centred] == [(392, 392, "g7"), (1072, 572, "g8")]


def test_a_slide_with_fewer_tiles_than_its_size_needs_is_refused(tmp_path: Path, stain_path: Path) -> None:
    """A size far beyond the tiles would otherwise be gone over square by square."""
    with tifffile.TiffFile(stain_path) as file:
        places = [file.pages[0].tags[number].valueoffset for number in (256, 257)]
    whole = bytearray(stain_path.read_bytes())
    for place in places:
        whole[place : place + 4] = (2**31 - 1).to_bytes(4, "little")
    (tmp_path / "s.ome.tif").write_bytes(whole)
    with pytest.raises(InputError, match="s.ome.tif"), open_slide(tmp_path / "s.ome.tif"):
        pass


def test_a_file_of_very_many_pages_is_no_slide(tmp_path: Path) -> None:
    with tifffile.TiffWriter(tmp_path / "s.tif") as writer:
        for _ in range(1_001):
            writer.write(np.zeros((8, 8), np.uint8), contiguous=False)
    with pytest.raises(InputError, match="more than 1000 pages"), open_slide(tmp_path / "s.tif"):
        pass


def test_label_and_macro_pictures_are_never_opened(
    tmp_path: Path, drawn: tuple[np.ndarray, np.ndarray]
) -> None:
    """Aperio's layout: the scan, a thumbnail, its levels, then the label and the macro picture."""
    path = tmp_path / "s.svs"
    about = "Aperio Image Library v12\r\n1792x1280 |AppMag = 40|MPP = 0.2520"
    with tifffile.TiffWriter(path) as writer:
        tiled = {"photometric": "rgb", "tile": (256, 256), "metadata": None}
        writer.write(drawn[0], description=about, **tiled)
        writer.write(smaller(drawn[0], 4), description=about, photometric="rgb", metadata=None)
        writer.write(smaller(drawn[0], 2), description=about, **tiled)
        for name in ("label", "macro"):
            picture = noise(1, (300, 400, 3))
            writer.write(
                picture,
                description=f"Aperio\r\n{name} 400x300",
                subfiletype=1,
                photometric="rgb",
                metadata=None,
            )
    with open_slide(path) as slide:
        assert slide.um_per_px == pytest.approx(0.252)
        assert all(size in (SLIDE_HW, (640, 896)) for size in slide.level_sizes_hw)
        assert np.array_equal(slide.read_level(0, 5, 5, 99, 99), drawn[0][5:104, 5:104])


def test_a_real_slide() -> None:
    path = SHARED / "samples" / "HE_example.tif"
    if not path.exists():
        pytest.skip(f"{path} is not there; it is not part of the repository")
    with open_slide(path) as slide:
        assert slide.um_per_px == pytest.approx(0.50008, abs=1e-5)
        whole = read_rgb(path)
        assert np.array_equal(slide.read_level(0, 100, 200, 700, 600), whole[200:800, 100:800])
        places = places_on(slide, slide.um_per_px, SlideRules(um_per_px=0.5001, patch_px=256), [])
    assert 5 < len(places) <= 25


def test_a_vendor_s_file_with_openslide(tmp_path: Path, drawn: tuple[np.ndarray, np.ndarray]) -> None:
    """OpenSlide tells its formats by content: a tiled TIFF under a vendor's name."""
    pytest.importorskip("openslide")
    path = tmp_path / "s.svslide"
    with tifffile.TiffWriter(path) as writer:
        for times in (1, 4):
            pixels = smaller(drawn[0], times) if times > 1 else drawn[0]
            writer.write(
                pixels, photometric="rgb", tile=(256, 256), metadata=None, subfiletype=int(times > 1)
            )
    with open_slide(path) as slide:
        assert slide.size_hw == SLIDE_HW and slide.level_sizes_hw[1] == (320, 448)
        assert np.array_equal(slide.read_level(0, 300, 310, 256, 200), drawn[0][310:510, 300:556])


def test_without_openslide_a_vendor_s_file_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "openslide", None)
    (tmp_path / "a.ndpi").write_bytes(b"something else")
    with pytest.raises(InputError, match="needs OpenSlide. Install it with"), open_slide(tmp_path / "a.ndpi"):
        pass
