"""Annotations of every awkward kind for the tests of the formats."""

import os
import uuid
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from allinsam.interchange import FORMATS, AnnotatedObject, AnnotationSet, read_annotations, write_annotations
from allinsam.masks import decode_rle, encode_rle
from allinsam.records import Mask
from allinsam.store import Study

SHARED = Path(os.environ.get("ALLINSAM_SHARED_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
WRITTEN = [name for name, row in FORMATS.items() if row.write is not None]
COLOURS = {"podocyte": "#F0E442", "=mesangial, Zürich 🙂\\ x": "#56B4E9"}


def thing(
    mask: np.ndarray, class_name: str | None = "podocyte", object_id: str | None = None
) -> AnnotatedObject:
    return AnnotatedObject(object_id or str(uuid.uuid4()), class_name, Mask.from_rle(encode_rle(mask)))


def set_of(masks: list[np.ndarray], name: str = "p1") -> AnnotationSet:
    """One object per mask, of two classes in turn; the second class needs every kind of escaping."""
    classes = list(COLOURS)
    objects = tuple(thing(mask, classes[n % 2]) for n, mask in enumerate(masks))
    used = {o.class_name for o in objects}
    return AnnotationSet(name, masks[0].shape, objects, 0.25, {k: v for k, v in COLOURS.items() if k in used})


def random_instances(rng: np.random.Generator, size_hw: tuple[int, int]) -> list[np.ndarray]:
    """Instance masks that touch each other and the border, with holes, several parts and single pixels."""
    height, width = size_hw
    rows, columns = np.mgrid[:height, :width]
    labels = np.zeros(size_hw, int)
    for number in range(1, 13):
        y, x = rng.uniform(-2, height + 2), rng.uniform(-2, width + 2)
        a, b = rng.uniform(2, 9, 2)
        labels[((rows - y) / a) ** 2 + ((columns - x) / b) ** 2 <= 1] = number
    noisy = rng.random(size_hw) < 0.08
    labels[noisy] = rng.integers(0, 13, size_hw)[noisy]  # holes, parts that meet at corners, lone pixels
    return [labels == number for number in np.unique(labels[labels > 0])]


def write_to(folder: Path, annotations: AnnotationSet, format: str) -> Path:
    """Write the files; the path of the one that is read."""
    for suffix, content in write_annotations(annotations, format).items():
        (folder / f"{annotations.name}{suffix}").write_bytes(content)
    return folder / f"{annotations.name}{FORMATS[format].suffix}"


def there_and_back(folder: Path, annotations: AnnotationSet, format: str) -> AnnotationSet:
    return read_annotations(
        write_to(folder, annotations, format), format, annotations.size_hw, annotations.name
    )


def pixels(annotations: AnnotationSet) -> Mapping[str, np.ndarray]:
    return {o.object_id: decode_rle(o.mask.as_rle()) for o in annotations.objects}


def assert_same(found: AnnotationSet, expected: AnnotationSet) -> None:
    """Every object under its id, with its class and exactly its pixels."""
    assert [o.object_id for o in found.objects] == [o.object_id for o in expected.objects]
    assert [o.class_name for o in found.objects] == [o.class_name for o in expected.objects]
    for mine, theirs in zip(found.objects, expected.objects, strict=True):
        # The same pixels have the same run-length code; where it differs, the pixels say how.
        if mine.mask != theirs.mask:
            assert np.array_equal(decode_rle(mine.mask.as_rle()), decode_rle(theirs.mask.as_rle()))


def dump(study: Study) -> tuple[list[str], list[str]]:
    """Everything in a study: its rows, and its files but for the database's own."""
    with study.science.read() as db:
        rows = list(db.conn.iterdump())
    files = [str(path) for path in sorted(study.folder.rglob("*")) if ".sqlite" not in path.name]
    return rows, files
