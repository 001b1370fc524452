"""Annotations of one patch to and from the formats of other programs.

Nothing here knows a study. A reader takes a file, the patch's size (h, w) in px and its name, and gives an
`AnnotationSet`; a writer takes an `AnnotationSet` and gives the content of each file by its suffix. Outlines
run along pixel edges (see `allinsam.masks`), so that every format gives back exactly the pixels that were
written. What a format cannot hold stands in its row under `leaves_out`.

To add a format: a module with a reader, a writer or both, and a row in `FORMATS`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from allinsam.errors import InputError
from allinsam.interchange.coco import read_coco, write_coco, write_coco_polygons
from allinsam.interchange.imagej import read_roiset, write_roiset
from allinsam.interchange.label_image import read_label_image, write_label_image
from allinsam.interchange.monuseg import read_monuseg
from allinsam.interchange.objects_csv import read_objects_csv, write_objects_csv
from allinsam.interchange.qupath import read_qupath, write_qupath
from allinsam.interchange.records import AnnotatedObject, AnnotationSet

__all__ = ["FORMATS", "AnnotatedObject", "AnnotationSet", "Format", "read_annotations", "write_annotations"]


@dataclass(frozen=True)
class Format:
    """How one format is read and written (None: it is not), and what people are told about it."""

    read: Callable[[Path, tuple[int, int], str], AnnotationSet] | None
    write: Callable[[AnnotationSet], dict[str, bytes]] | None
    suffix: str
    title: str
    leaves_out: str


FORMATS: dict[str, Format] = {
    "imagej": Format(
        read_roiset,
        write_roiset,
        ".zip",
        "ImageJ and Fiji: RoiSet.zip for the ROI Manager",
        "The size of the patch and of its pixels.",
    ),
    "coco": Format(
        read_coco,
        write_coco,
        ".json",
        "COCO JSON with compressed run lengths, for detection and segmentation libraries",
        "Nothing. Object ids, colours, pixel size and measurements are fields that COCO does not define.",
    ),
    "coco_polygons": Format(
        read_coco,
        write_coco_polygons,
        ".json",
        "COCO JSON with polygons, for tools that read no run lengths",
        "Nothing. COCO polygons know no holes: a nucleus with a hole is written as run lengths.",
    ),
    "qupath": Format(
        read_qupath,
        write_qupath,
        ".geojson",
        "QuPath GeoJSON: annotations with classification, colour and id",
        "The size of the patch and of its pixels: QuPath takes both from the image it is opened on.",
    ),
    "labels": Format(
        read_label_image,
        write_label_image,
        ".png",
        "Instance label image: 16-bit PNG, and a JSON beside it with the class of each instance",
        "Nothing, with its JSON. The PNG alone has no classes; where nuclei overlap it shows one.",
    ),
    "csv": Format(
        read_objects_csv,
        write_objects_csv,
        ".csv",
        "CSV of objects: a row per nucleus with its box, area and run-length mask",
        "The colours of the classes.",
    ),
    "monuseg": Format(
        read_monuseg,
        None,
        ".xml",
        "MoNuSeg and Aperio ImageScope XML: regions and their vertices (only read)",
        "Classes: the file has none.",
    ),
}


def read_annotations(path: Path, format: str, size_hw: tuple[int, int], name: str = "") -> AnnotationSet:
    """Read a file in one of `FORMATS` for the patch of this size and name.

    Raises:
        InputError: naming the file, what is wrong with it, and what to do.
    """
    chosen = _format(format)
    if chosen.read is None:
        raise InputError(f"{format!r} is only written. Choose one of {_names('read')}.")
    return chosen.read(Path(path), (int(size_hw[0]), int(size_hw[1])), name)


def write_annotations(annotations: AnnotationSet, format: str) -> Mapping[str, bytes]:
    """Suffix -> content of each file that one of `FORMATS` makes of a patch's annotations.

    Raises:
        InputError: the format cannot hold them (too many instances, an object without a class).
    """
    chosen = _format(format)
    if chosen.write is None:
        raise InputError(f"{format!r} is only read. Choose one of {_names('write')}.")
    return chosen.write(annotations)


def _format(name: str) -> Format:
    if name not in FORMATS:
        raise InputError(f"Unknown format {name!r}. Choose one of {', '.join(FORMATS)}.")
    return FORMATS[name]


def _names(way: str) -> str:
    return ", ".join(name for name, row in FORMATS.items() if getattr(row, way) is not None)
