"""Files that cannot be used: one clear line says which and why, and the study stays as it is."""

import io
import json
import os
import struct
import warnings
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import roifile
from PIL import Image

from allinsam.errors import AllinsamError, InputError
from allinsam.interchange import read_annotations, records
from allinsam.masks import encode_rle
from allinsam.store import Study
from allinsam.workflow.interchange import ImportChoices, import_annotations
from tests.interchange_sets import dump
from tests.studies import SIZE_PX, small_study

PATCH = "slide-1-p1"
Make = Callable[[Path], None]


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """Shared: every import of this file must leave it as it was."""
    return small_study(tmp_path_factory.mktemp("refusals") / "study")


def text(content: Any) -> Make:
    said = content if isinstance(content, str) else json.dumps(content)
    return lambda path: path.write_text(said, encoding="utf-8")


def data(content: bytes) -> Make:
    return lambda path: path.write_bytes(content)


# ---------------------------------------------------------------- ImageJ


def roi(points: Any = ((1, 1), (9, 1), (9, 9)), **fields: Any) -> bytes:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # not-a-number among them is what is asked for
        made = roifile.ImagejRoi.frompoints(np.array(points))
    for name, value in fields.items():
        setattr(made, name, value)
    return made.tobytes()


def zipped(**entries: bytes) -> Make:
    return data(archive({name.replace("__", "/"): content for name, content in entries.items()}))


def archive(entries: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in entries.items():
            file.writestr(name, content)
    return buffer.getvalue()


def lying_about_its_size() -> bytes:
    """20 MB of zeros whose directory states 100 bytes."""
    made = bytearray(archive({"a.roi": bytes(20_000_000)}))
    for place, signature in ((22, b"PK\x03\x04"), (24, b"PK\x01\x02")):
        struct.pack_into("<I", made, made.index(signature) + place, 100)
    return bytes(made)


IMAGEJ = {
    "no selection in it": (data(archive({})), "holds no selection"),
    "a name that leads out": (data(archive({"../a.roi": roi()})), r"'\.\./a\.roi' leads out"),
    "an absolute name": (data(archive({"/etc/a.roi": roi()})), "leads out"),
    "something else in it": (zipped(**{"a.exe": b"MZ"}), "'a.exe' is no .roi file"),
    "a bomb that says so": (data(archive({f"{n}.roi": bytes(15_000_000) for n in range(8)})), "120 MB"),
    "one selection too large": (zipped(**{"a.roi": bytes(17_000_000)}), "17 MB"),
    "a bomb that lies": (data(lying_about_its_size()), "cannot be read as RoiSet.zip|larger than it says"),
    "a cut off archive": (data(archive({"a.roi": roi()})[:-30]), "cannot be read as RoiSet.zip"),
    "no archive": (text("hello"), "cannot be read as RoiSet.zip"),
    "a damaged selection": (zipped(**{"a.roi": roi()[:70]}), "selection 'a.roi' is damaged"),
    "a class that is cut off": (
        zipped(**{"a.roi": roi(props="class: podocyte\n")[:-4]}),
        "props exceeds data",
    ),
    "no selection's bytes": (zipped(**{"a.roi": b"x" * 80}), "not an ImageJ ROI"),
    "a line": (zipped(**{"a.roi": roi(roitype=roifile.ROI_TYPE.LINE)}), "is a line, not an area"),
    "a fitted curve": (zipped(**{"a.roi": roi(options=roifile.ROI_OPTIONS.SPLINE_FIT)}), "fitted curve"),
    "not-a-number": (zipped(**{"a.roi": roi(((1.0, 1.0), (9.0, 1.0), (9.0, np.nan)))}), "not finite"),
    "infinity": (zipped(**{"a.roi": roi(((1.0, 1.0), (9.0, 1.0), (9.0, np.inf)))}), "not finite"),
    "two points": (zipped(**{"a.roi": roi(((1, 1), (9, 1)))}), "a polygon of 2 points"),
    "a figure of eight": (
        zipped(**{"a.roi": roi(((1, 1), (9, 9), (9, 1), (1, 9)))}),
        "outline of selection 'a.roi' crosses itself",
    ),
    "outside the patch": (
        zipped(**{"a.roi": roi(((600, 1), (609, 1), (609, 9)))}),
        "lies outside the patch of 512",
    ),
    "less than a pixel": (zipped(**{"a.roi": roi(((1.1, 1.1), (1.2, 1.1), (1.2, 1.2)))}), "holds no pixel"),
    "the same id twice": (
        zipped(**{"a.roi": roi(props="object_id: x\n"), "b.roi": roi(props="object_id: x\n")}),
        "the id 'x' is there twice",
    ),
    "an unknown class": (
        zipped(**{"a.roi": roi(props="class: tubule\n")}),
        "class 'tubule' of object '1' is not in",
    ),
}

# ---------------------------------------------------------------- JSON

TEETH = [[n / 40, n % 2 * 511] for n in range(20_000)]
COMB = [*TEETH, *([x, y + 0.5] for x, y in reversed(TEETH))]
SQUARE = [[1, 1], [9, 1], [9, 9], [1, 9], [1, 1]]


def geojson(coordinates: Any = (SQUARE,), kind: str = "Polygon", **more: Any) -> Make:
    geometry = {"type": kind, "coordinates": coordinates}
    return text(
        {"type": "FeatureCollection", "features": [{"type": "Feature", "geometry": geometry, **more}]}
    )


def deep(path: Path) -> None:
    path.write_text("[" * 100_000)


def sparse(path: Path) -> None:
    path.touch()
    os.truncate(path, records.MAX_FILE_BYTES + 1)


QUPATH = {
    "an empty file": (data(b""), "is empty"),
    "a huge file": (sparse, "100 MB, more than"),
    "a folder": (lambda path: path.mkdir(), "is not a file"),
    "no text": (data(b"\xff\xfe\x00\x01"), "not UTF-8"),
    "JSON that is cut off": (text('{"features": ['), "cannot be read as JSON"),
    "JSON that is too deep": (deep, "cannot be read as JSON"),
    "a number that is too long": (text("1" * 5000), "cannot be read as JSON"),
    "JSON that is no object": (text("7"), "is no FeatureCollection"),
    "no features": (text({"type": "FeatureCollection", "features": []}), "holds no object"),
    "a feature that is none": (text({"features": ["x"]}), "feature 1 is no GeoJSON feature"),
    "an unknown geometry": (geojson(kind="Circle"), "has the geometry 'Circle'"),
    "a point": (geojson([1, 1], "Point"), "has the geometry 'Point'"),
    "no geometry": (text([{"type": "Feature"}]), "has the geometry 'None'"),
    "no coordinates": (geojson([]), "has no coordinates"),
    "coordinates that are words": (geojson([[["a", "b"]] * 4]), "no list of"),
    "a ring of one number": (geojson([[1, 2, 3]]), "no list of"),
    "not-a-number": (text('{"features": [{"geometry": NaN}]}'), "holds NaN"),
    "infinity": (text('{"features": [{"geometry": -Infinity}]}'), "holds -Infinity"),
    "a number beyond any": (
        text(
            json.dumps([SQUARE])
            .replace("9", "1e999")
            .join(('{"features": [{"geometry": {"type": "Polygon", "coordinates": ', "}}]}"))
        ),
        "not finite",
    ),
    "two points": (geojson([[[1, 1], [9, 9], [1, 1]]]), "a polygon of 2 points"),
    "a polygon that crosses itself": (geojson([[[1, 1], [9, 9], [9, 1], [1, 9]]]), "crosses itself"),
    "outside the patch": (geojson([[[-9, -9], [-1, -9], [-1, -1]]]), "feature 1 lies outside the patch"),
    "coordinates of a whole slide": (geojson([[[x + 9e9, y] for x, y in SQUARE]]), "lies outside the patch"),
    "an outline with a billion crossings": (
        geojson([[[n % 7, n % 2 * 512] for n in range(50_000)]]),
        "crosses",
    ),
    "a comb with too many teeth": (geojson([COMB]), "too intricate"),
    "the same id twice": (
        text([{"id": "a", "geometry": {"type": "Polygon", "coordinates": [SQUARE]}}] * 2),
        "the id 'a' is there twice",
    ),
    "too many objects": (text([0] * 20_001), "20001 objects"),
    "an unknown class": (
        geojson(properties={"classification": {"name": "Tumor"}}),
        "class 'Tumor' .* Rename it to one of mesangial, podocyte",
    ),
    "a class with a line break": (
        geojson(properties={"classification": {"name": "a\nb"}}),
        "no short plain text",
    ),
}


def coco(image: dict[str, Any] | None = None, **annotation: Any) -> Make:
    images = [{"id": 1, "file_name": "x.png", "height": SIZE_PX, "width": SIZE_PX, **(image or {})}]
    row = {"id": 1, "image_id": 1, "category_id": 1, "segmentation": [[1, 1, 9, 1, 9, 9]], **annotation}
    return text({"images": images, "categories": [{"id": 1, "name": "podocyte"}], "annotations": [row]})


def rle(counts: Any, side: int = SIZE_PX) -> dict[str, Any]:
    return {"size": [side, side], "counts": counts}


COCO = {
    "JSON that is no object": (text([]), "is no JSON object"),
    "no images": (text({}), "no list of images"),
    "another size": (coco({"height": 100}), "image of 512 x 100 px, the patch has 512 x 512"),
    "RLE of another size": (coco(segmentation=rle("0", 7)), "image of 7 x 7 px"),
    "RLE that stops short": (coco(segmentation=rle([5, 5])), "covers 10 px, not 262144"),
    "RLE with strange letters": (coco(segmentation=rle("é~")), "has the character"),
    "RLE with huge runs": (coco(segmentation=rle("o" * 400)), "run beyond any image"),
    "RLE with words": (coco(segmentation=rle(["a"])), "Not run lengths"),
    "RLE without counts": (coco(segmentation={"size": [SIZE_PX, SIZE_PX]}), "Not a run-length code"),
    "RLE with an empty mask": (coco(segmentation=rle([SIZE_PX**2])), "object '1' holds no pixel"),
    "an odd number of coordinates": (coco(segmentation=[[1, 1, 9]]), "a polygon is x, y, x, y"),
    "no segmentation": (coco(segmentation=None), "annotation 1 has no segmentation"),
    "a crowd": (coco(iscrowd=1), "annotation 1 is a crowd"),
    "no such category": (coco(category_id=9), "category 9, which has no name"),
    "annotations of another image": (coco(image_id=2), "holds no object"),
}

# ---------------------------------------------------------------- label images, CSV, XML


def png(pixels: np.ndarray, cut: int = 0) -> Make:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    return data(buffer.getvalue()[: len(buffer.getvalue()) - cut])


def with_json(said: Any) -> Make:
    def make(path: Path) -> None:
        png(PLAIN)(path)
        text(said)(path.with_suffix(".json"))

    return make


def huge_png(path: Path) -> None:
    """A header of 60,000 x 60,000 px and no pixels."""
    header = struct.pack(">IIBBBBB", 60_000, 60_000, 16, 0, 0, 0, 0)
    chunk = struct.pack(">I", 13) + b"IHDR" + header + struct.pack(">I", zlib.crc32(b"IHDR" + header))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk + struct.pack(">I", 0) + b"IDAT" + bytes(8))


PLAIN = np.zeros((SIZE_PX, SIZE_PX), np.uint16)
PLAIN[5:9, 5:9] = 1
NOISE = np.random.default_rng(0).integers(0, 60_000, (SIZE_PX, SIZE_PX)).astype(np.uint16)

LABELS = {
    "no image": (text("hello"), "is not PNG, JPEG or TIFF"),
    "a cut off PNG": (png(NOISE, cut=5000), "cannot be read as an image"),
    "colours": (png(np.zeros((SIZE_PX, SIZE_PX, 3), np.uint8)), "3 colour channels"),
    "another size": (png(PLAIN[:100]), "image of 512 x 100 px"),
    "a header of 3,600 Mpx": (huge_png, "60000x60000 px|image of 60000 x 60000 px"),
    "no instance": (png(PLAIN * 0), "holds no object"),
    "a mask of all nuclei": (png((PLAIN * 255).astype(np.uint8)), "nuclei are not told apart"),
    "too many instances": (png(NOISE), "objects, more than"),
    "an instance that is not there": (
        with_json({"height_px": 512, "width_px": 512, "objects": [{"instance": 2, "class": "podocyte"}]}),
        "names instance 2",
    ),
    "a JSON of another patch": (with_json({"height_px": 9, "width_px": 9, "objects": []}), "image of 9 x 9"),
    "an instance without a number": (
        with_json({"objects": [{"instance": "x"}]}),
        "instance 'x' is no number",
    ),
    "a class that is a number": (with_json({"objects": [{"instance": 1, "class": 5}]}), "has the class 5"),
}

HEAD = "object_id,class,mask_rle,mask_height_px,mask_width_px"
COUNTS = encode_rle(PLAIN > 0)["counts"]
CSV = {
    "no table": (data(b"\xff\xfe"), "cannot be read as CSV"),
    "a column missing": (text("object_id,class\n1,podocyte\n"), "no column mask_rle"),
    "more cells than columns": (text(f"{HEAD}\na,podocyte,{COUNTS},512,512,9\n"), "more cells than columns"),
    "no rows": (text(f"{HEAD}\n"), "holds no object"),
    "a size that is no number": (text(f"{HEAD}\na,podocyte,{COUNTS},512,x\n"), "image of 0 x 512"),
    "an id missing": (text(f"{HEAD}\n,podocyte,{COUNTS},512,512\n"), "the id '' is no short plain text"),
    "rows of another patch": (
        text(f"{HEAD},patch\na,podocyte,{COUNTS},512,512,p9\n"),
        "rows of the patch 'p9', none of 'slide-1-p1'",
    ),
    "two people": (
        text(f"{HEAD},person_id\n" + "".join(f"{p},podocyte,{COUNTS},512,512,{p}\n" for p in "ab")),
        "objects of 2 people",
    ),
    "the same id twice": (
        text(f"{HEAD}\n" + f"a,podocyte,{COUNTS},512,512\n" * 2),
        "the id 'a' is there twice",
    ),
}

ENTITY = '<!DOCTYPE a [<!ENTITY a "&b;&b;"><!ENTITY b "x">]><Annotations>&a;</Annotations>'
REGION = '<Annotations><Region Id="1"><Vertices>{}</Vertices></Region></Annotations>'
XML = {
    "entities": (text(ENTITY), "has a document type"),
    "entities in UTF-16": (data(ENTITY.encode("utf-16")), "has a document type"),
    "a document type outside": (text('<!DOCTYPE a SYSTEM "file:///etc/passwd"><a/>'), "has a document type"),
    "no XML": (text("hello"), "cannot be read as XML"),
    "no region": (text("<Annotations/>"), "holds no object"),
    "a vertex without X": (text(REGION.format('<Vertex Y="1"/>')), "a vertex of region 1 has no X and Y"),
    "a vertex outside any region": (text('<a><Vertex X="1" Y="1"/></a>'), "outside any region"),
    "not-a-number": (text(REGION.format('<Vertex X="nan" Y="1"/>' * 3)), "not finite"),
    "outside the patch": (
        text(REGION.format("".join(f'<Vertex X="{600 + x}" Y="{y}"/>' for x, y in SQUARE))),
        "region 1 lies outside the patch",
    ),
}

ALL = {"imagej": IMAGEJ, "qupath": QUPATH, "coco": COCO, "labels": LABELS, "csv": CSV, "monuseg": XML}
CASES = [(format, what) for format, cases in ALL.items() for what in cases]


@pytest.mark.parametrize(("format", "what"), CASES, ids=lambda value: value.replace(" ", "_"))
def test_what_cannot_be_used_is_refused_in_one_line(
    format: str, what: str, study: Study, tmp_path: Path
) -> None:
    make, message = ALL[format][what]
    path = tmp_path / "given"
    make(path)
    before = dump(study)
    with pytest.raises(AllinsamError, match=message) as refused:
        import_annotations(study, path, PATCH, format, ImportChoices("gold", class_name="podocyte"))
    said = str(refused.value)
    assert "\n" not in said and len(said) < 600 and said.rstrip().endswith(".")
    assert dump(study) == before


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    for format in ALL:
        with pytest.raises(InputError, match="given"):
            read_annotations(tmp_path / "given", format, (9, 9))


def test_an_object_without_a_class_needs_one_to_be_named(study: Study, tmp_path: Path) -> None:
    path = tmp_path / "a.geojson"
    geojson()(path)
    before = dump(study)
    with pytest.raises(
        InputError, match="object '1' has no class. Say which it is, one of mesangial, podocyte"
    ):
        import_annotations(study, path, PATCH, "qupath", ImportChoices("gold"))
    assert dump(study) == before
