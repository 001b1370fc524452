"""Read a CSV manifest: one row per channel of a stained image."""

import csv
import difflib
import io
import math
from collections import Counter
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from allinsam.errors import InputError
from allinsam.files import lies_in
from allinsam.importing.records import (
    PlacedError,
    PlannedChannel,
    PlannedPatch,
    Problem,
    check_condition,
    check_um_per_px,
    default_slide,
    patch_name,
)
from allinsam.records import CHANNEL_ROLES

NEEDED_COLUMNS = ("pas", "channel_file", "role")
COLUMNS = (
    *NEEDED_COLUMNS,
    "channel_index",
    "marker",
    "slide",
    "glomerulus",
    "condition",
    "um_per_px",
    "patch",
)
MANIFEST_NAME = "manifest.csv"
MANIFEST_SUFFIXES = (".csv", ".tsv", ".txt")


@dataclass(frozen=True)
class _Row:
    """One row that is in order by itself: what it says of its patch, and its channel."""

    where: str
    pas: Path
    slide: str
    glomerulus: str
    patch: str
    condition: str
    um_per_px: float | None
    channel: PlannedChannel


def read_manifest(manifest: Path) -> tuple[list[PlannedPatch], list[Problem]]:
    """The patches a CSV manifest states, no image opened yet, and its problems."""
    columns, cells_of_row = _read_table(manifest)
    problems = [_unknown_column(name) for name in columns if name not in COLUMNS]
    rows_of_pas: dict[str, list[_Row]] = {}
    spoiled: set[str] = set()
    for number, cells in cells_of_row:
        key = str(PurePosixPath(cells.get("pas", "").replace("\\", "/")))
        try:
            row = _read_row(manifest.parent, f"row {number}", len(columns), cells)
        except InputError as error:
            problems.append(Problem(f"row {number}", str(error)))
            spoiled.add(key)
        else:
            rows_of_pas.setdefault(key, []).append(row)
    patches = []
    for key, rows in rows_of_pas.items():
        try:
            patch = _patch_of_rows(key, rows)
        except PlacedError as error:
            problems.append(error.problem)
        else:
            patches.extend([] if key in spoiled else [patch])
    return patches, problems


def _read_table(manifest: Path) -> tuple[list[str], list[tuple[int, dict[str, str]]]]:
    """Column names, and (row number as a spreadsheet shows it, cells) of every row that is not blank."""
    try:
        if manifest.stat().st_size > MOST_BYTES:
            raise InputError(f"{manifest} has more than {MOST_BYTES >> 20} MB. Import fewer patches at once.")
        text = manifest.read_bytes().decode("utf-8-sig")
        if "\0" in text:  # UTF-16 without its mark
            raise InputError(f"{manifest} is not UTF-8 text. Save it as CSV UTF-8.")
        # A spreadsheet writes ; where the decimal sign is a comma.
        delimiter = max(",;\t", key=text.partition("\n")[0].count)
        rows = list(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True))
    except OSError as error:
        raise InputError(f"{manifest} cannot be opened: {error.strerror}. Check its permissions.") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{manifest} is not UTF-8 text. Save it as CSV UTF-8.") from error
    except csv.Error as error:
        raise InputError(f"{manifest} cannot be read as CSV: {error}. Save it as CSV UTF-8.") from error
    columns = [name.strip().lower() for name in rows[0]] if rows else []
    while columns and not columns[-1]:
        columns.pop()
    if not columns:
        raise InputError(
            f"{manifest} is empty. Its first row names the columns {', '.join(COLUMNS)}: add it."
        )
    missing = [name for name in NEEDED_COLUMNS if name not in columns]
    if missing:
        raise InputError(f"{manifest} has no column {', '.join(missing)}. Add it to the first row.")
    twice = [name for name, count in Counter(columns).items() if count > 1]
    if twice:
        raise InputError(f"{manifest} has the column {twice[0]!r} twice. Keep one.")
    filled = [
        (number, [cell.strip() for cell in cells])
        for number, cells in enumerate(rows[1:], 2)
        if any(cell.strip() for cell in cells)
    ]
    if not filled:
        raise InputError(f"{manifest} has no rows below its column names. Add one row per channel.")
    return columns, [(number, _named(columns, cells)) for number, cells in filled]


MOST_BYTES = 64 << 20
BEYOND = "beyond the last column"


def _named(columns: list[str], cells: list[str]) -> dict[str, str]:
    beyond = "".join(cells[len(columns) :])
    return {**dict(zip(columns, cells, strict=False)), BEYOND: beyond}


def _unknown_column(name: str) -> Problem:
    near = difflib.get_close_matches(name, COLUMNS, n=1)
    remedy = f"Did you mean {near[0]}?" if near else f"The columns are {', '.join(COLUMNS)}."
    return Problem("row 1", f"unknown column {name!r}. {remedy}")


def _read_row(folder: Path, where: str, columns: int, cells: dict[str, str]) -> _Row:
    if cells[BEYOND]:
        raise InputError(f"more cells than the {columns} columns. Put a cell with a comma in quotes.")
    row = {name: cells.get(name, "") for name in COLUMNS}
    for name, text in row.items():
        if not text.isprintable() or len(text) > 500:
            raise InputError(f"{name} {text[:40]!r} is not plain short text. Correct it.")
    pas = _inside(folder, "pas", row["pas"])
    condition = check_condition(row["condition"] or "unknown")
    um_per_px = check_um_per_px(row["um_per_px"])
    role = row["role"].lower()
    if role not in CHANNEL_ROLES:
        raise InputError(f"role {row['role']!r} is unknown. Give {', '.join(CHANNEL_ROLES)}.")
    if role == "marker" and not row["marker"]:
        raise InputError("marker is empty. Name the marker of this channel, such as WT1.")
    if not row["channel_file"]:
        raise InputError(f"{row['pas']} has no pair: channel_file is empty. Name the file of the channel.")
    path = _inside(folder, "channel_file", row["channel_file"])
    if path == pas:
        raise InputError(f"channel_file {row['channel_file']!r} is the stained image. Name the channel's.")
    marker = row["marker"] or ("DAPI" if role == "nuclear" else "other")
    channel = PlannedChannel(where, role, marker, path, _channel_index(row["channel_index"]))
    return _Row(where, pas, row["slide"], row["glomerulus"], row["patch"], condition, um_per_px, channel)


def _inside(folder: Path, column: str, text: str) -> Path:
    """A path of the manifest; it must not lead out of the manifest's folder, not even by a link."""
    if not text:
        raise InputError(f"{column} is empty. Give the file's path relative to the manifest.")
    windows, path = PureWindowsPath(text), PurePosixPath(text.replace("\\", "/"))
    if windows.anchor or path.is_absolute() or ".." in path.parts:
        raise InputError(f"{column} {text!r} leads out of the manifest's folder. Put the file inside it.")
    if not lies_in(folder, folder / path):
        raise InputError(f"{column} {text!r} links out of the manifest's folder. Put the file inside it.")
    return folder / path


def _channel_index(text: str) -> int | None:
    if not text:
        return None
    try:
        index = float(text)
    except ValueError:
        index = math.nan
    if not (index >= 0 and index.is_integer()):
        raise InputError(f"channel_index {text!r} is no whole number from 0. Correct it.")
    return int(index)


def _patch_of_rows(key: str, rows: list[_Row]) -> PlannedPatch:
    """One patch from all rows of a PAS file, which may leave out but not contradict what another says."""
    said: dict[str, Any] = {}
    for row in rows:
        for name in ("patch", "slide", "glomerulus", "um_per_px", "condition"):
            value = getattr(row, name)
            if value in (None, "", "unknown"):
                continue
            if said.setdefault(name, value) != value:
                raise PlacedError(
                    row.where,
                    f"{name} {value!r} for {key}, but {said[name]!r} in a row above. Make them one.",
                )
    name = said.get("patch") or patch_name(PurePosixPath(key))
    return PlannedPatch(
        where=rows[0].where,
        name=name,
        pas=rows[0].pas,
        slide=said.get("slide") or default_slide(name),
        glomerulus=said.get("glomerulus"),
        condition=said.get("condition", "unknown"),
        um_per_px=said.get("um_per_px"),
        channels=tuple(row.channel for row in rows),
    )
