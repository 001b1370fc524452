"""Instance label image: a 16-bit PNG, 0 = background, and a JSON beside it with each instance's id and class.

A PNG has one value per pixel: a pixel of two objects shows the smaller one. Such an object has its whole mask
in the JSON too, so nothing is lost; a program that reads the PNG alone has no classes and no overlaps.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import ndimage

from allinsam.errors import InputError
from allinsam.imaging import encode_png, image_header, read_image
from allinsam.interchange.records import (
    AnnotatedObject,
    AnnotationSet,
    check_count,
    check_size,
    checked,
    json_bytes,
    mask_of_rle,
    measured,
    read_bytes,
    read_json,
    with_class,
)
from allinsam.masks import decode_window, encode_window
from allinsam.records import Mask
from allinsam.tables import plain_cell

MOST_INSTANCES = int(np.iinfo(np.uint16).max)


def write_label_image(annotations: AnnotationSet) -> dict[str, bytes]:
    """Instance i + 1 is the i-th object.

    Raises:
        InputError: more than 65,535 objects, or one without a class.
    """
    if len(annotations.objects) > MOST_INSTANCES:
        raise InputError(
            f"{len(annotations.objects)} objects do not fit a 16-bit label image, which holds "
            f"{MOST_INSTANCES}. Choose another format."
        )
    windows = [decode_window(thing.mask.as_rle()) for thing in annotations.objects]
    labels = np.zeros(annotations.size_hw, np.uint16)
    # Larger ones first, so that a small one on top of it is still seen; of equal ones the first stays on top.
    for index in sorted(range(len(windows)), key=lambda i: (-int(windows[i][0].sum()), -i)):
        _view(labels, windows[index])[windows[index][0]] = index + 1
    rows = []
    for number, (thing, window) in enumerate(zip(annotations.objects, windows, strict=True), start=1):
        row = {"instance": number, "object_id": thing.object_id, "class": with_class(thing)}
        if (_view(labels, window)[window[0]] != number).any():
            row["mask"] = thing.mask.as_rle()
        rows.append({**row, "measurements": dict(thing.measurements)})
    height, width = annotations.size_hw
    said = {
        "patch": annotations.name,
        "height_px": height,
        "width_px": width,
        "um_per_px": annotations.um_per_px,
        "colours": dict(annotations.colours),
        "objects": rows,
    }
    return {".png": encode_png(labels), ".json": json_bytes(said)}


def _view(labels: np.ndarray, window: tuple[np.ndarray, int, int]) -> np.ndarray:
    mask, top, left = window
    return labels[top : top + mask.shape[0], left : left + mask.shape[1]]


def read_label_image(path: Path, size_hw: tuple[int, int], name: str = "") -> AnnotationSet:
    """Instances of a grey PNG or TIFF, 8 or 16 bit, and what the .json or .csv beside it says of them.

    The CSV has the columns instance, class and, if it likes, object_id. Without either file no object has a
    class and the ids are the instances' numbers.

    Raises:
        InputError: colours, another size, a mask of all nuclei in one, or a file beside it that does not fit.
    """
    header = image_header(path)
    if header.channels != 1:
        raise InputError(
            f"{path} has {header.channels} colour channels; instances are one grey value each. "
            "Save it as 16-bit grey."
        )
    check_size(path, header.size_hw, size_hw)
    labels = read_image(path).astype(np.int32)
    found = [int(value) for value in np.unique(labels) if value]
    check_count(path, len(found))
    if found == [255] and header.dtype == "uint8":
        raise InputError(
            f"{path} holds only 0 and 255: nuclei are not told apart. Number the instances first."
        )
    beside = _beside(path)
    rows, said = _sidecar(beside) if beside else ({}, {})
    if said:
        check_size(beside, (said.get("height_px"), said.get("width_px")), size_hw)
    strangers = sorted(set(rows) - set(found) - {n for n, row in rows.items() if row.get("mask")})
    if strangers:
        raise InputError(
            f"{beside} names instance {strangers[0]}, which is not in {path.name}. Export both again."
        )
    slices = dict(enumerate(ndimage.find_objects(labels), start=1))
    objects = []
    for number in sorted({*found, *rows}):
        row = rows.get(number, {})
        if row.get("mask"):
            mask = mask_of_rle(beside, f"instance {number}", row["mask"], size_hw)
        else:
            place = slices[number]
            window = labels[place] == number
            mask = Mask(*size_hw, encode_window(window, place[0].start, place[1].start, size_hw)["counts"])
        class_name, object_id = row.get("class") or None, row.get("object_id") or str(number)
        objects.append(AnnotatedObject(str(object_id), class_name, mask, measured(row.get("measurements"))))
    um_per_px, colours = said.get("um_per_px"), said.get("colours")
    return AnnotationSet(
        name,
        size_hw,
        checked(path, objects),
        float(um_per_px) if isinstance(um_per_px, int | float) and um_per_px > 0 else header.um_per_px,
        {str(k): str(v) for k, v in colours.items()} if isinstance(colours, dict) else {},
        () if beside else (f"No {path.stem}.json or .csv beside {path.name}: the instances have no class.",),
    )


def _beside(path: Path) -> Path | None:
    return next((file for suffix in (".json", ".csv") if (file := path.with_suffix(suffix)).exists()), None)


def _sidecar(path: Path) -> tuple[dict[int, dict[str, Any]], dict[str, Any]]:
    """Instance -> what is said of it, and what is said of all."""
    said: Any = read_json(path) if path.suffix == ".json" else {"objects": _csv_rows(path)}
    rows = said.get("objects") if isinstance(said, dict) else None
    if not isinstance(rows, list):
        raise InputError(f"{path} has no list of objects. Export it again, or move it away.")
    by_number: dict[int, dict[str, Any]] = {}
    for row in rows:
        number = row.get("instance") if isinstance(row, dict) else None
        if type(number) is not int or number < 1 or number in by_number:
            raise InputError(
                f"{path}: instance {str(number)[:40]!r} is no number from 1, or there twice. Correct it."
            )
        if not isinstance(row.get("class") or "", str):
            raise InputError(
                f"{path}: instance {number} has the class {row['class']!r}, no text. Correct it."
            )
        by_number[number] = row
    return by_number, said if path.suffix == ".json" else {}


def _csv_rows(path: Path) -> list[dict[str, Any]]:
    read_bytes(path)
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8-sig")
        rows = [
            {key: plain_cell(str(value)) for key, value in row.items()} for row in table.to_dict("records")
        ]
        return [{**row, "instance": int(row["instance"]), "class": row["class"]} for row in rows]
    except (KeyError, ValueError) as error:
        raise InputError(
            f"{path} needs the columns instance (whole numbers) and class. Correct it."
        ) from error
