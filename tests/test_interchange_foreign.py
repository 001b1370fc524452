"""What other programs write, and this one does not, is read as they mean it."""

import io
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import roifile
from PIL import Image

from allinsam.interchange import AnnotationSet, read_annotations
from allinsam.masks import encode_rle
from tests.interchange_sets import pixels

SIZE = (20, 30)


def read(path: Path, format: str, content: Any) -> AnnotationSet:
    if isinstance(content, (dict, list)):
        content = json.dumps(content)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return read_annotations(path, format, SIZE, "p1")


def only(annotations: AnnotationSet) -> np.ndarray:
    (mask,) = pixels(annotations).values()
    return mask


def block(x0: int, y0: int, x1: int, y1: int) -> np.ndarray:
    mask = np.zeros(SIZE, bool)
    mask[y0:y1, x0:x1] = True
    return mask


# ---------------------------------------------------------------- ImageJ


def test_imagej_rectangle_oval_and_freehand(tmp_path: Path) -> None:
    rectangle = roifile.ImagejRoi(roitype=roifile.ROI_TYPE.RECT, left=2, top=3, right=6, bottom=9)
    oval = roifile.ImagejRoi(roitype=roifile.ROI_TYPE.OVAL, left=10, top=2, right=20, bottom=12)
    freehand = roifile.ImagejRoi.frompoints([[21.4, 1.4], [26.6, 1.4], [26.6, 4.6], [21.4, 4.6]])
    path = tmp_path / "RoiSet.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for number, roi in enumerate((rectangle, oval, freehand)):
            archive.writestr(f"{number}.roi", roi.tobytes())
    found = read_annotations(path, "imagej", SIZE, "p1")
    masks = list(pixels(found).values())
    rows, columns = np.mgrid[: SIZE[0], : SIZE[1]] + 0.5
    assert np.array_equal(masks[0], block(2, 3, 6, 9))
    assert np.array_equal(masks[1], (columns - 15) ** 2 + (rows - 7) ** 2 <= 25)
    assert np.array_equal(masks[2], block(21, 1, 27, 5))
    assert [(o.object_id, o.class_name) for o in found.objects] == [("1", None), ("2", None), ("3", None)]


def test_a_single_roi_file_with_properties_as_imagej_saves_them(tmp_path: Path) -> None:
    roi = roifile.ImagejRoi.frompoints(np.array([[1, 1], [5, 1], [5, 4], [1, 4]]))
    roi.props = "class: grün = 2\nnote: mitosis\nscore: 0.5\n"
    found = read(tmp_path / "one.roi", "imagej", roi.tobytes())
    assert np.array_equal(only(found), block(1, 1, 5, 4))
    assert found.objects[0].class_name == "grün = 2" and found.objects[0].measurements == {"score": 0.5}


def test_what_reaches_out_of_the_patch_is_cut_and_said(tmp_path: Path) -> None:
    roi = roifile.ImagejRoi.frompoints(np.array([[-5, 1], [5, 1], [5, 4], [-5, 4]]))
    found = read(tmp_path / "one.roi", "imagej", roi.tobytes())
    assert np.array_equal(only(found), block(0, 1, 5, 4))
    assert found.notes == ("1 object(s) reached out of the patch and were cut at its edge.",)


def test_an_outline_that_crosses_itself_where_it_closes_is_filled(tmp_path: Path) -> None:
    points = [[2.0, 2.0], [12.0, 2.0], [12.0, 12.0], [1.9, 12.0], [2.3, 1.9]]
    found = read(tmp_path / "one.roi", "imagej", roifile.ImagejRoi.frompoints(points).tobytes())
    assert np.array_equal(only(found), block(2, 2, 12, 12))


# ---------------------------------------------------------------- QuPath


def feature(geometry: Any, **more: Any) -> dict[str, Any]:
    return {"type": "Feature", "geometry": geometry, "properties": {}, **more}


def square(x0: float, y0: float, x1: float, y1: float) -> dict[str, Any]:
    ring = [[x0, y0], [x1, y0], [x1, y1], [x0, y1], [x0, y0]]
    return {"type": "Polygon", "coordinates": [ring]}


def test_qupath_cells_give_their_nuclei(tmp_path: Path) -> None:
    cell = feature(square(1, 1, 9, 9), nucleusGeometry=square(3, 3, 6, 6), id="PathCellObject")
    cell["properties"] = {"objectType": "cell", "classification": {"name": "WT1: pos", "colorRGB": -377282}}
    found = read(tmp_path / "a.geojson", "qupath", {"type": "FeatureCollection", "features": [cell]})
    assert np.array_equal(only(found), block(3, 3, 6, 6))
    assert found.objects[0].object_id == "1"
    assert found.objects[0].class_name == "WT1: pos" and found.colours == {"WT1: pos": "#FA3E3E"}


def test_qupath_lists_and_single_features_without_a_class(tmp_path: Path) -> None:
    one = {**feature(square(1, 1, 3, 3)), "properties": {"measurements": [{"name": "a", "value": 1}]}}
    for content in (one, [one]):
        found = read(tmp_path / "a.geojson", "qupath", content)
        assert [(o.object_id, o.class_name) for o in found.objects] == [("1", None)]
        assert np.array_equal(only(found), block(1, 1, 3, 3))


# ---------------------------------------------------------------- COCO


def coco(**changes: Any) -> dict[str, Any]:
    flat = [1, 1, 5, 1, 5, 4, 1, 4]
    row = {"id": 7, "image_id": 2, "category_id": 3, "segmentation": [flat], "iscrowd": 0}
    images = [{"id": n, "file_name": f"dir/p{n - 1}.png", "height": 20, "width": 30} for n in (1, 2)]
    return {"images": images, "categories": [{"id": 3, "name": "podocyte"}], "annotations": [row], **changes}


def test_coco_takes_the_image_that_is_called_as_the_patch(tmp_path: Path) -> None:
    found = read(tmp_path / "a.json", "coco", coco())
    assert np.array_equal(only(found), block(1, 1, 5, 4))
    assert (found.objects[0].object_id, found.objects[0].class_name) == ("7", "podocyte")


def test_coco_run_lengths_that_are_not_packed(tmp_path: Path) -> None:
    rle = {"size": list(SIZE), "counts": [20, 4, 576]}
    row = {**coco()["annotations"][0], "segmentation": rle}
    assert np.array_equal(only(read(tmp_path / "a.json", "coco", coco(annotations=[row]))), block(1, 0, 2, 4))


# ---------------------------------------------------------------- label images and CSV


def labels_png(labels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(labels).save(buffer, format="PNG")
    return buffer.getvalue()


@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
def test_a_label_image_alone_has_ids_and_no_classes(kind: type, tmp_path: Path) -> None:
    labels = np.zeros(SIZE, kind)
    labels[2:5, 2:6], labels[2:5, 6:9], labels[10, 10] = 7, 200, 7
    found = read(tmp_path / "a.png", "labels", labels_png(labels))
    assert [(o.object_id, o.class_name) for o in found.objects] == [("7", None), ("200", None)]
    for number, mask in zip((7, 200), pixels(found).values(), strict=True):
        assert np.array_equal(mask, labels == number)
    assert found.notes == ("No a.json or .csv beside a.png: the instances have no class.",)


def test_a_csv_beside_a_label_image_names_the_classes(tmp_path: Path) -> None:
    labels = np.zeros(SIZE, np.uint16)
    labels[2:5, 2:6], labels[8:9, 6:9] = 1, 2
    (tmp_path / "a.csv").write_text("instance,class,object_id\n1,NA,first\n2,'=b,\n")
    found = read(tmp_path / "a.png", "labels", labels_png(labels))
    assert [(o.object_id, o.class_name) for o in found.objects] == [("first", "NA"), ("2", "=b")]


def test_the_rows_of_one_patch_are_taken_from_a_csv_of_many(tmp_path: Path) -> None:
    rows = [
        {
            "object_id": f"o{n}",
            "patch": f"p{n}",
            "class": "a",
            "mask_rle": encode_rle(block(n, n, 9, 9))["counts"],
        }
        for n in (1, 2, 3)
    ]
    table = pd.DataFrame(rows).assign(mask_height_px=20, mask_width_px=30, person_id="e1", origin="sam")
    found = read(tmp_path / "a.csv", "csv", table.to_csv(index=False))
    assert np.array_equal(only(found), block(1, 1, 9, 9)) and found.objects[0].object_id == "o1"
    assert found.notes == ("2 row(s) of other patches were passed over.",)


# ---------------------------------------------------------------- MoNuSeg


def test_monuseg_regions_of_several_annotations(tmp_path: Path) -> None:
    def region(points: list[tuple[float, float]]) -> str:
        vertices = "".join(f'<Vertex X="{x}" Y="{y}"/>' for x, y in points)
        return f'<Region Id="1"><Vertices>{vertices}</Vertices></Region>'

    corners = [(1.0, 1.0), (5.0, 1.0), (5.0, 4.0), (1.0, 4.0)]
    shapes = (corners, corners[:2], [(7.1, 7.1), (7.2, 7.1), (7.2, 7.2)])
    parts = [f'<Annotation Id="{n}">{region(points)}</Annotation>' for n, points in enumerate(shapes)]
    found = read(tmp_path / "a.xml", "monuseg", f"<Annotations>{''.join(parts)}</Annotations>")
    assert [(o.object_id, o.class_name) for o in found.objects] == [("0-1", None)]
    assert np.array_equal(only(found), block(1, 1, 5, 4))
    assert found.notes == ("2 region(s) without a pixel were left out: 1-1, 2-1.",)
