"""Every format gives back what was written, and other programs' libraries open it without a warning."""

import csv
import gzip
import io
import json
import re
import tempfile
import warnings
from pathlib import Path

import numpy as np
import pytest
import roifile
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pycocotools.coco import COCO
from scipy import ndimage
from shapely.geometry import shape

from allinsam.__main__ import FORMATS_WRITTEN
from allinsam.errors import InputError
from allinsam.imaging import read_image
from allinsam.interchange import FORMATS, AnnotatedObject, AnnotationSet, read_annotations, write_annotations
from allinsam.masks import decode_rle, encode_window, polygons_to_mask
from allinsam.records import Mask
from allinsam.tables import SPREADSHEET_COMMANDS
from tests.interchange_sets import (
    COLOURS,
    SHARED,
    WRITTEN,
    assert_same,
    pixels,
    random_instances,
    set_of,
    there_and_back,
    thing,
    write_to,
)

MONUSEG = SHARED / "monuseg2018_train"
MONUSEG_IMAGES = ("TCGA-B0-5698-01Z-00-DX1", "TCGA-50-5931-01Z-00-DX1")
KNOWS_THE_PIXEL_SIZE = ("coco", "coco_polygons", "labels", "csv")


def awkward() -> AnnotationSet:
    """A hole with an island, parts apart or meeting at a corner, neighbours, a border and one pixel."""
    masks = [np.zeros((40, 50), bool) for _ in range(7)]
    masks[0][2:15, 2:15], masks[0][5:12, 5:12], masks[0][7:9, 7:9] = True, False, True
    masks[1][20:25, 2:8], masks[1][30:33, 10:20] = True, True
    masks[2][20:24, 20:24], masks[2][24:28, 24:28] = True, True
    masks[3][2:15, 15:25] = True  # shares its whole side with the first
    masks[4][0, :], masks[4][:, 49], masks[4][39, 40:] = True, True, True
    masks[5][35, 5] = True
    masks[6][30:36, 30:36], masks[6][31, 31], masks[6][32, 32] = True, False, False  # holes meet at a corner
    return set_of(masks)


@pytest.mark.parametrize("format", WRITTEN)
@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), height=st.integers(1, 48), width=st.integers(1, 48))
def test_random_instances_come_back_pixel_for_pixel(format: str, seed: int, height: int, width: int) -> None:
    masks = random_instances(np.random.default_rng(seed), (height, width))
    whole = set_of(masks or [np.ones((height, width), bool)])
    with tempfile.TemporaryDirectory() as folder:
        assert_same(there_and_back(Path(folder), whole, format), whole)


@pytest.mark.parametrize("format", WRITTEN)
def test_holes_parts_neighbours_and_borders_come_back(format: str, tmp_path: Path) -> None:
    whole = awkward()
    assert_same(there_and_back(tmp_path, whole, format), whole)


@pytest.mark.parametrize("format", WRITTEN)
def test_overlapping_nuclei_come_back_whole(format: str, tmp_path: Path) -> None:
    low, high, inner = (np.zeros((30, 30), bool) for _ in range(3))
    low[2:20, 2:20], high[10:28, 10:28], inner[12:15, 12:15] = True, True, True
    whole = set_of([low, high, inner, high.copy()])
    assert_same(there_and_back(tmp_path, whole, format), whole)


@pytest.mark.parametrize("format", WRITTEN)
def test_ids_colours_pixel_size_and_measurements(format: str, tmp_path: Path) -> None:
    mask = np.eye(9, dtype=bool)
    plain = thing(mask, list(COLOURS)[1], "nucleus 7")
    measured = {"molecular_support": 0.25, "area: of=it": 3.0}
    whole = AnnotationSet(
        "p1", (9, 9), (AnnotatedObject("x 1", plain.class_name, plain.mask, measured),), 0.25
    )
    coloured = AnnotationSet("p1", (9, 9), whole.objects, 0.25, {plain.class_name: "#56B4E9"})
    again = there_and_back(tmp_path, coloured, format)
    assert_same(again, whole)
    assert dict(again.objects[0].measurements) == measured
    assert again.um_per_px == (0.25 if format in KNOWS_THE_PIXEL_SIZE else None)
    assert dict(again.colours) == ({} if format == "csv" else {plain.class_name: "#56B4E9"})
    assert again.notes == ()


@pytest.mark.parametrize("format", WRITTEN)
def test_the_same_annotations_make_the_same_file(format: str) -> None:
    whole = awkward()
    assert write_annotations(whole, format) == write_annotations(whole, format)


@pytest.mark.parametrize("format", WRITTEN)
def test_an_object_without_a_class_is_not_written(format: str) -> None:
    whole = AnnotationSet("p1", (3, 3), (thing(np.ones((3, 3), bool), None, "a"),))
    with pytest.raises(InputError, match="'a' has no class"):
        write_annotations(whole, format)


def test_a_label_image_holds_65535_instances_at_most() -> None:
    one = thing(np.ones((2, 2), bool))
    whole = AnnotationSet("p1", (2, 2), (one,) * 65_536)
    with pytest.raises(InputError, match="65536 objects do not fit.*65535"):
        write_annotations(whole, "labels")


def test_the_command_line_names_every_format() -> None:
    assert FORMATS_WRITTEN.split(", ") == WRITTEN
    assert [name for name in FORMATS if name not in WRITTEN] == ["monuseg"]


def test_unknown_and_one_way_formats(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="Unknown format 'svg'. Choose one of imagej"):
        write_annotations(awkward(), "svg")
    with pytest.raises(InputError, match="'monuseg' is only read"):
        write_annotations(awkward(), "monuseg")


# ---------------------------------------------------------------- other programs' libraries


def test_roifile_opens_a_roiset_and_imagej_fills_the_same_pixels(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    whole = awkward()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        rois = roifile.roiread(write_to(tmp_path, whole, "imagej"))
    assert not caplog.records and len(rois) == len({roi.name for roi in rois}) == 7
    for roi, mask in zip(rois, pixels(whole).values(), strict=True):
        filled = np.zeros(whole.size_hw, bool)
        for ring in roi.coordinates(multi=True):
            filled ^= polygons_to_mask([ring], whole.size_hw)  # ImageJ's even-odd rule
        assert np.array_equal(filled, mask)
        rows, columns = np.nonzero(mask)
        assert (roi.left, roi.top) == (columns.min(), rows.min())
        assert (roi.right, roi.bottom) == (columns.max() + 1, rows.max() + 1)
        assert roi.name.isascii() and roi.hexcolor(roi.stroke_color) in ("#f0e442", "#56b4e9")
    assert {roi.group for roi in rois} == {1, 2}
    assert rois[0].properties["class"] == "podocyte"


@pytest.mark.filterwarnings("ignore:__array__:DeprecationWarning")  # pycocotools under numpy 2
@pytest.mark.parametrize("format", ["coco", "coco_polygons"])
def test_pycocotools_opens_a_coco_file_and_gives_the_same_pixels(format: str, tmp_path: Path) -> None:
    whole = awkward()
    path = write_to(tmp_path, whole, format)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        read = COCO(str(path))
    rows = read.loadAnns(read.getAnnIds(imgIds=[1]))
    for row, mask in zip(rows, pixels(whole).values(), strict=True):
        assert np.array_equal(read.annToMask(row).astype(bool), mask)
        assert row["area"] == mask.sum()
    kinds = {type(row["segmentation"]) for row in rows}
    assert kinds == ({dict} if format == "coco" else {dict, list})
    assert sorted(row["name"] for row in read.cats.values()) == sorted(COLOURS)


def test_shapely_opens_a_geojson_file_with_valid_geometries(tmp_path: Path) -> None:
    whole = awkward()
    content = json.loads(write_to(tmp_path, whole, "qupath").read_text())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        shapes = [shape(feature["geometry"]) for feature in content["features"]]
    for geometry, mask in zip(shapes, pixels(whole).values(), strict=True):
        assert geometry.is_valid, shapely.is_valid_reason(geometry)
        assert geometry.area == mask.sum()
    first = content["features"][0]["properties"]
    assert first["objectType"] == "annotation"
    assert first["classification"] == {"name": "podocyte", "color": [240, 228, 66]}


def test_a_label_png_has_16_bits_and_one_number_per_nucleus(tmp_path: Path) -> None:
    whole = awkward()
    with Image.open(write_to(tmp_path, whole, "labels")) as image:
        assert image.mode == "I;16"
        labels = np.asarray(image)
    for number, mask in enumerate(pixels(whole).values(), start=1):
        assert np.array_equal(labels == number, mask)


def test_no_cell_of_a_csv_is_a_command(tmp_path: Path) -> None:
    text = write_to(tmp_path, awkward(), "csv").read_text(encoding="utf-8")
    cells = [cell for row in csv.reader(io.StringIO(text)) for cell in row]
    assert "'" + list(COLOURS)[1] in cells
    assert not [cell for cell in cells if cell.startswith(SPREADSHEET_COMMANDS)]


# ---------------------------------------------------------------- the real images


@pytest.mark.skipif(not MONUSEG.exists(), reason="needs ../shared/data/monuseg2018_train")
@pytest.mark.parametrize("image", MONUSEG_IMAGES)
def test_monuseg_instances_come_back_from_every_format(image: str, tmp_path: Path) -> None:
    whole = monuseg_instances(image)
    assert len(whole.objects) > 350
    for format in WRITTEN:
        assert_same(there_and_back(tmp_path, whole, format), whole)


@pytest.mark.skipif(not MONUSEG.exists(), reason="needs ../shared/data/monuseg2018_train")
@pytest.mark.parametrize("image", MONUSEG_IMAGES)
def test_monuseg_xml_gives_the_published_nuclei(image: str, tmp_path: Path) -> None:
    """The label images beside the XML take its coordinates for pixel centres: half a pixel more here."""
    path = tmp_path / "outlines.xml"
    path.write_text(
        re.sub(r'([XY])="([-.\d]+)"', lambda m: f'{m[1]}="{float(m[2]) + 0.5}"', monuseg_xml(image))
    )
    read = read_annotations(path, "monuseg", (1000, 1000), image)
    labels = np.zeros((1000, 1000), int)
    for number, mask in reversed(list(enumerate(pixels(read).values(), start=1))):
        labels[mask] = number  # an overlapping pixel goes to the first nucleus
    expected = read_image(MONUSEG / f"{image}_inst.png").astype(int)
    assert len(np.unique(labels)) == len(np.unique(expected))
    ious = []
    for number in np.unique(expected[expected > 0]):
        theirs = expected == number
        ours = labels == np.bincount(labels[theirs], weights=labels[theirs] > 0).argmax()
        ious.append((theirs & ours).sum() / (theirs | ours).sum())
    # They also take some pixels whose centre lies on the line.
    assert np.median(ious) >= 0.99 and np.percentile(ious, 5) >= 0.96 and min(ious) >= 0.9


def monuseg_xml(image: str) -> str:
    plain, packed = (MONUSEG / "annotations" / f"{image}{end}" for end in (".xml", ".xml.gz"))
    return (plain.read_bytes() if plain.exists() else gzip.decompress(packed.read_bytes())).decode()


def monuseg_instances(image: str) -> AnnotationSet:
    labels = read_image(MONUSEG / f"{image}_inst.png").astype(int)
    objects = []
    for number, place in enumerate(ndimage.find_objects(labels), start=1):
        if place is not None:
            code = encode_window(labels[place] == number, place[0].start, place[1].start, labels.shape)
            objects.append(AnnotatedObject(str(number), "nucleus", Mask.from_rle(code)))
    assert all(decode_rle(o.mask.as_rle()).any() for o in objects[:3])
    return AnnotationSet(image, labels.shape, tuple(objects), 0.25, {"nucleus": "#009E73"})
