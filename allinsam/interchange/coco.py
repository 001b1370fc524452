"""COCO JSON of one image: run lengths, or polygons where they can hold the object.

`annotations[].id` counts from 1; fields that COCO does not define and readers pass over: `object_id` and
`measurements` of an annotation, `color` of a category, `um_per_px` of an image. Everything is carried. COCO's
polygons know no holes, so `write_coco_polygons` gives an object with a hole as run lengths.

Source: https://cocodataset.org/#format-data; pycocotools rasterises the polygons to the same pixels.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from allinsam.errors import InputError
from allinsam.interchange.outlines import check_ring, cut_note, mask_of_parts, parts_of_mask, ring_of
from allinsam.interchange.records import (
    AnnotatedObject,
    AnnotationSet,
    check_count,
    check_size,
    checked,
    colour_of,
    json_bytes,
    mask_of_rle,
    measured,
    read_json,
    rgb_of,
    with_class,
)
from allinsam.masks import decode_window
from allinsam.records import Mask


def write_coco(annotations: AnnotationSet) -> dict[str, bytes]:
    return _written(annotations, polygons=False)


def write_coco_polygons(annotations: AnnotationSet) -> dict[str, bytes]:
    return _written(annotations, polygons=True)


def _written(annotations: AnnotationSet, polygons: bool) -> dict[str, bytes]:
    height, width = annotations.size_hw
    image = {"id": 1, "file_name": f"{annotations.name}.png", "width": width, "height": height}
    if annotations.um_per_px:
        image["um_per_px"] = annotations.um_per_px
    names = sorted({with_class(thing) for thing in annotations.objects})
    categories = []
    for number, name in enumerate(names, start=1):
        category: dict[str, Any] = {"id": number, "name": name, "supercategory": "nucleus"}
        if colour := annotations.colours.get(name):
            category["color"] = rgb_of(colour)
        categories.append(category)
    rows = [
        {
            "id": number,
            "image_id": 1,
            "category_id": 1 + names.index(with_class(thing)),
            **_geometry(thing.mask, polygons),
            "iscrowd": 0,
            "object_id": thing.object_id,
            "measurements": dict(thing.measurements),
        }
        for number, thing in enumerate(annotations.objects, start=1)
    ]
    info = {"description": f"Nuclei of {annotations.name}", "version": "1.0"}
    made = {"info": info, "licenses": [], "images": [image], "categories": categories, "annotations": rows}
    return {".json": json_bytes(made)}


def _geometry(mask: Mask, polygons: bool) -> dict[str, Any]:
    window, top, left = decode_window(mask.as_rle())
    shape: Any = mask.as_rle()
    parts = parts_of_mask(mask) if polygons else []
    if parts and all(len(rings) == 1 for rings in parts):
        shape = [np.ravel(rings[0]).tolist() for rings in parts]
    box = [left, top, window.shape[1], window.shape[0]]
    return {"segmentation": shape, "area": int(window.sum()), "bbox": box}


def read_coco(path: Path, size_hw: tuple[int, int], name: str = "") -> AnnotationSet:
    """The annotations of one image. Of several images it is the one whose file is called as the patch.

    Raises:
        InputError: not COCO, no such image or category, or a segmentation that cannot be used.
    """
    content = read_json(path)
    if not isinstance(content, dict):
        raise InputError(f"{path} is no JSON object. Export it again as COCO.")
    images, categories, rows = (_rows(path, content, key) for key in ("images", "categories", "annotations"))
    image = _image(path, images, name)
    check_size(path, (image.get("height"), image.get("width")), size_hw)
    names = {_number(path, row, "id"): row.get("name") for row in categories}
    mine = [row for row in rows if row.get("image_id") == image.get("id")]
    check_count(path, len(mine))
    objects, cut = [], 0
    for row in mine:
        where = f"annotation {str(row.get('id'))[:40]}"
        category = _number(path, row, "category_id")
        if not isinstance(names.get(category), str):
            raise InputError(f"{path}: {where} has the category {category}, which has no name. Add it.")
        if row.get("iscrowd"):
            raise InputError(
                f"{path}: {where} is a crowd, not one nucleus. Remove it or outline each nucleus."
            )
        mask, was_cut = _mask(path, where, row.get("segmentation"), size_hw)
        cut += was_cut
        object_id = str(row.get("object_id") or row.get("id") or len(objects) + 1)
        objects.append(AnnotatedObject(object_id, names[category], mask, measured(row.get("measurements"))))
    colours = {row["name"]: colour for row in categories if (colour := colour_of(row.get("color")))}
    um_per_px = image.get("um_per_px")
    return AnnotationSet(
        name or str(image.get("file_name", "")),
        size_hw,
        checked(path, objects),
        float(um_per_px) if isinstance(um_per_px, int | float) and um_per_px > 0 else None,
        colours,
        cut_note(cut),
    )


def _rows(path: Path, content: dict[str, Any], key: str) -> list[dict[str, Any]]:
    rows = content.get(key)
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise InputError(f"{path} has no list of {key}. Export it again as COCO.")
    return rows


def _number(path: Path, row: Mapping[str, Any], key: str) -> int:
    if type(row.get(key)) is not int:
        raise InputError(f"{path}: {key} is {str(row.get(key))[:40]!r}, not a whole number. Export it again.")
    return row[key]


def _image(path: Path, images: list[dict[str, Any]], name: str) -> dict[str, Any]:
    named = [image for image in images if name and Path(str(image.get("file_name", ""))).stem == name]
    chosen = named or images
    if len(chosen) != 1:
        found = ", ".join(str(image.get("file_name"))[:60] for image in images[:5])
        raise InputError(
            f"{path} has {len(images)} images ({found}), none of them {name!r}. Give the right file."
        )
    return chosen[0]


def _mask(path: Path, where: str, shape: Any, size_hw: tuple[int, int]) -> tuple[Mask, bool]:
    if isinstance(shape, Mapping):
        return mask_of_rle(path, where, shape, size_hw), False
    if not isinstance(shape, list) or not shape:
        raise InputError(f"{path}: {where} has no segmentation. Export it with masks.")
    rings = []
    for flat in shape:
        if not isinstance(flat, list) or len(flat) % 2:
            raise InputError(f"{path}: {where}: a polygon is x, y, x, y ... Export it again.")
        ring = ring_of(path, where, list(zip(flat[::2], flat[1::2], strict=True)))
        check_ring(path, where, ring)
        rings.append(ring)
    return mask_of_parts(path, where, [[ring] for ring in rings], size_hw)
