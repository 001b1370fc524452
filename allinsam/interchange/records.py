"""What every format is read into and written from, and the checks they share."""

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from allinsam.errors import InputError
from allinsam.masks import rle_area
from allinsam.records import Mask

MAX_FILE_BYTES = 100_000_000
MOST_OBJECTS = 20_000  # of one patch; a crowded field of 1000 x 1000 px at 40x holds some 2,000 nuclei
LONGEST_TEXT = 200  # characters of an id or a class


@dataclass(frozen=True)
class AnnotatedObject:
    """One nucleus. The mask lies over the whole patch; `measurements` are numbers by name, with their unit in
    it."""

    object_id: str
    class_name: str | None  # None: the file does not say
    mask: Mask
    measurements: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class AnnotationSet:
    """The nuclei of one patch, as one person or program has them.

    `colours` maps a class to "#rrggbb". `notes` has a line for each thing a reader could not take as it was.
    """

    name: str
    size_hw: tuple[int, int]
    objects: tuple[AnnotatedObject, ...]
    um_per_px: float | None = None
    colours: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def read_bytes(path: Path) -> bytes:
    """The whole file, if it is one of a size that annotations of a patch may have."""
    try:
        size = path.stat().st_size
        if not path.is_file():
            raise InputError(f"{path} is not a file. Give the file with the annotations.")
        if size > MAX_FILE_BYTES:
            raise InputError(
                f"{path} has {size / 1e6:.0f} MB, more than the {MAX_FILE_BYTES / 1e6:.0f} MB that are read "
                "at once. Export the annotations of one patch alone."
            )
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path} cannot be opened: {error.strerror}. Check the path.") from error
    if not content:
        raise InputError(f"{path} is empty. Export it again.")
    return content


def read_json(path: Path) -> Any:
    """A JSON file's content. Not-a-number and infinity, which JSON has not, are refused."""

    def refuse(constant: str) -> None:
        raise InputError(f"{path} holds {constant}, which is no number. Export it again with finite numbers.")

    try:
        return json.loads(read_bytes(path).decode("utf-8-sig"), parse_constant=refuse)
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 text. Export it again as JSON.") from error
    except (ValueError, RecursionError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"{path} cannot be read as JSON: {reason}. Export it again.") from error


def json_bytes(value: Any) -> bytes:
    return (json.dumps(value, ensure_ascii=False, allow_nan=False) + "\n").encode()


def checked(path: Path, objects: Iterable[AnnotatedObject]) -> tuple[AnnotatedObject, ...]:
    """The objects of a file, if there are some, not too many, none is empty and each has an id of its own."""
    found = tuple(objects)
    if not found:
        raise InputError(
            f"{path} holds no object. Export it again; a patch without nuclei is marked so on the "
            "Annotate page."
        )
    check_count(path, len(found))
    for thing in found:
        for what, text in (("id", thing.object_id), ("class", thing.class_name)):
            if text is not None and not (0 < len(text) <= LONGEST_TEXT and text.isprintable()):
                raise InputError(f"{path}: the {what} {text[:40]!r} is no short plain text. Correct it.")
        if rle_area(thing.mask.as_rle()) == 0:
            raise InputError(
                f"{path}: object {thing.object_id!r} holds no pixel. Remove it or draw it larger."
            )
    twice = [name for name, count in Counter(thing.object_id for thing in found).items() if count > 1]
    if twice:
        raise InputError(f"{path}: the id {twice[0]!r} is there twice. Give each object an id of its own.")
    return found


def check_count(path: Path, count: int) -> None:
    if count > MOST_OBJECTS:
        raise InputError(
            f"{path} holds {count} objects, more than the {MOST_OBJECTS} of one patch. Cut the patch up."
        )


def check_size(path: Path, found_hw: tuple[Any, Any], size_hw: tuple[int, int]) -> None:
    """Raise InputError unless the file speaks of an image of the patch's size."""
    if tuple(found_hw) != tuple(size_hw):
        raise InputError(
            f"{path} is for an image of {found_hw[1]} x {found_hw[0]} px, the patch has "
            f"{size_hw[1]} x {size_hw[0]} px. Give the file of this patch."
        )


def mask_of_rle(path: Path, where: str, rle: Any, size_hw: tuple[int, int]) -> Mask:
    """A run-length code from outside as a mask, its size and runs checked."""
    sides = rle.get("size") if isinstance(rle, Mapping) else None
    if not isinstance(sides, list | tuple) or len(sides) != 2:
        raise InputError(f"{path}: {where} has no run-length code with size and counts. Export it again.")
    check_size(path, (sides[0], sides[1]), size_hw)
    try:
        rle_area(dict(rle))
    except InputError as error:
        raise InputError(f"{path}: {where}: {error}") from error
    if not isinstance(rle["counts"], str):
        from pycocotools import mask as coco

        packed = coco.frPyObjects(
            {"size": list(size_hw), "counts": [int(run) for run in rle["counts"]]}, *size_hw
        )
        return Mask(*size_hw, packed["counts"].decode("ascii"))
    return Mask(*size_hw, rle["counts"])


def with_class(thing: AnnotatedObject) -> str:
    """The class of an object that is to be written."""
    if not thing.class_name:
        raise InputError(f"Object {thing.object_id!r} has no class. Give it one before it is written.")
    return thing.class_name


def measured(values: Any) -> dict[str, float]:
    """The entries of a mapping from outside that are finite numbers."""
    if not isinstance(values, Mapping):
        return {}
    kept = {}
    for name, value in values.items():
        if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e300:
            kept[str(name)] = float(value)
    return kept


def rgb_of(colour: str) -> list[int]:
    """[red, green, blue] of "#rrggbb"."""
    return [int(colour[place : place + 2], 16) for place in (1, 3, 5)]


def colour_of(rgb: Any) -> str | None:
    """ "#rrggbb" of [red, green, blue]; None for anything else."""
    whole = isinstance(rgb, list) and len(rgb) == 3 and all(type(v) is int and 0 <= v < 256 for v in rgb)
    return "#{:02X}{:02X}{:02X}".format(*rgb) if whole else None
