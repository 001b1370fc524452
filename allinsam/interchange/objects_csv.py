"""CSV of objects: one row per nucleus, its mask as COCO compressed run lengths over the whole patch.

The columns are called as in the export `objects`, which is read as well: of its rows those of the patch.

Not carried: the colours of the classes.
"""

from pathlib import Path
from typing import Any

import pandas as pd

from allinsam.errors import InputError
from allinsam.interchange.records import (
    AnnotatedObject,
    AnnotationSet,
    check_count,
    checked,
    mask_of_rle,
    read_bytes,
    with_class,
)
from allinsam.masks import decode_window
from allinsam.tables import harmless_cell, plain_cell

BOX = ("x0_px", "y0_px", "x1_px", "y1_px")
MASK = ("mask_rle", "mask_height_px", "mask_width_px")
NEEDED = ("object_id", "class", *MASK)
# Columns of numbers that are no measurement: they follow from the mask, or belong to the patch.
DERIVED = (*BOX, *MASK, "area_px", "area_um2", "um_per_px", "threshold_id", "registration_id")


def write_objects_csv(annotations: AnnotationSet) -> dict[str, bytes]:
    rows = [_row(annotations, thing) for thing in annotations.objects]
    names = list(dict.fromkeys(name for thing in annotations.objects for name in thing.measurements))
    columns = ["object_id", "patch", "class", *BOX, "area_px", "um_per_px", *names, *MASK]
    table = pd.DataFrame(rows, columns=columns)
    return {".csv": table.rename(columns=harmless_cell).to_csv(index=False).encode()}


def _row(annotations: AnnotationSet, thing: AnnotatedObject) -> dict[str, Any]:
    window, top, left = decode_window(thing.mask.as_rle())
    row = {"object_id": thing.object_id, "patch": annotations.name, "class": with_class(thing)}
    row |= dict(zip(BOX, (left, top, left + window.shape[1], top + window.shape[0]), strict=True))
    row |= {"area_px": int(window.sum()), "um_per_px": annotations.um_per_px, **thing.measurements}
    row |= dict(zip(MASK, (thing.mask.counts, thing.mask.height_px, thing.mask.width_px), strict=True))
    return {key: harmless_cell(value) for key, value in row.items()}


def read_objects_csv(path: Path, size_hw: tuple[int, int], name: str = "") -> AnnotationSet:
    """Rows with object_id, class, mask_rle, mask_height_px and mask_width_px.

    With a column `patch`, rows of other patches are passed over and counted in the notes.

    Raises:
        InputError: a column is missing, several people's objects, or a mask that cannot be used.
    """
    table = table_of(path)
    notes: tuple[str, ...] = ()
    if "patch" in table and name:
        others = int((table["patch"] != name).sum())
        if others and others == len(table):
            raise InputError(
                f"{path} has rows of the patch {table['patch'].iloc[0][:60]!r}, none of {name!r}. "
                "Give the file of this patch, or correct its column patch."
            )
        table = table[table["patch"] == name]
        notes = (f"{others} row(s) of other patches were passed over.",) if others else ()
    people = sorted(set(table.get("person_id", ())))
    if len(people) > 1:
        raise InputError(
            f"{path} has objects of {len(people)} people ({', '.join(people[:4])}). Keep one's rows."
        )
    check_count(path, len(table))
    measured = [name for name in table if name not in (*NEEDED, *DERIVED, "patch")]
    objects = []
    for row in table.to_dict("records"):
        where = f"object {row['object_id'][:40]!r}"
        sides = [_number(row[key]) for key in MASK[1:]]
        rle = {"size": [int(side) if side is not None else 0 for side in sides], "counts": row["mask_rle"]}
        mask = mask_of_rle(path, where, rle, size_hw)
        numbers = {key: number for key in measured if (number := _number(row[key])) is not None}
        objects.append(AnnotatedObject(row["object_id"], row["class"] or None, mask, numbers))
    um_per_px = _number(table["um_per_px"].iloc[0]) if "um_per_px" in table and len(table) else None
    return AnnotationSet(name, size_hw, checked(path, objects), um_per_px, {}, notes)


def table_of(path: Path) -> pd.DataFrame:
    read_bytes(path)
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8-sig")
    except ValueError as error:  # of pandas and of the text's code alike
        reason = str(error).splitlines()[0]
        raise InputError(f"{path} cannot be read as CSV: {reason}. Save it as CSV UTF-8.") from error
    if not isinstance(table.index, pd.RangeIndex):
        raise InputError(f"{path} has more cells than columns. Put a cell with a comma in quotes.")
    missing = [column for column in NEEDED if column not in table]
    if missing:
        raise InputError(f"{path} has no column {', '.join(missing)}. Export it again with all of {NEEDED}.")
    return table.map(plain_cell).rename(columns=plain_cell)


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if abs(value) < 1e300 else None
