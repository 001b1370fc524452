"""Annotations of a study for other programs: a file for every person and patch, and an index."""

import re
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import pandas as pd

from allinsam.errors import InputError, NotFoundError
from allinsam.files import write_file
from allinsam.interchange import FORMATS, AnnotatedObject, AnnotationSet, write_annotations
from allinsam.records import Mask
from allinsam.store import Study, images
from allinsam.store import acts as act_store
from allinsam.store import assignments as queue
from allinsam.store import study as study_store
from allinsam.tables import to_csv
from allinsam.workflow.interchange import a_few

MEASURED = ("molecular_support", "predicted_iou")

INDEX_COLUMNS = (
    "file",
    "patch",
    "slide",
    "condition",
    "person_id",
    "group",
    "purpose",
    "guidance",
    "tool",
    "state",
    "objects",
    "classes",
    "height_px",
    "width_px",
    "um_per_px",
    "image_sha256",
)


@dataclass(frozen=True)
class ExportChoices:
    """Which annotations are written; None: of all."""

    people: Sequence[str] | None = None
    patches: Sequence[str] | None = None
    classes: Sequence[str] | None = None


def annotation_files(
    study: Study, format: str, choices: ExportChoices = ExportChoices()
) -> Iterator[tuple[str, bytes]]:
    """Name and content of the files of every person's accepted objects on every patch, and index.csv last.

    The index says of each file whose it is and what was looked for: a class that is complete and has no
    object is empty, one that is open is unknown. Who has no object on a patch has a line there and no file.

    Raises:
        NotFoundError: a person, patch or class that is chosen is not there.
        InputError: the format is unknown or cannot hold the objects, or there is no object to write.
    """
    suffixes = [name for name, row in FORMATS.items() if row.write is not None]
    if format not in suffixes:
        raise InputError(f"Unknown export format {format!r}. Choose one of {', '.join(suffixes)}.")
    with study.science.read() as db:
        assignments = queue.list_assignments(db)
        rows = act_store.current_annotations(db)
        patches = {patch["id"]: patch for patch in images.list_patches(db)}
        classes = study_store.list_classes(db)
        people = {row["id"] for row in study_store.list_people(db)}
        states: dict[int, list[str]] = {}
        for row in queue.all_assignment_classes(db):
            states.setdefault(row["assignment_id"], []).append(f"{row['class_name']}: {row['state']}")
    known = {
        "person": (choices.people, people),
        "patch": (choices.patches, {patch["name"] for patch in patches.values()}),
        "class": (choices.classes, {row["name"] for row in classes}),
    }
    for what, (wanted, there) in known.items():
        missing = sorted(set(wanted or ()) - there)
        if missing:
            raise NotFoundError(f"No {what} {missing[0]!r} in this study. It has {a_few(there)}.")
    chosen = [
        row
        for row in assignments
        if (choices.people is None or row["person_id"] in choices.people)
        and (choices.patches is None or row["patch"] in choices.patches)
    ]
    objects: dict[int, list[dict[str, Any]]] = {row["id"]: [] for row in chosen}
    for row in rows:
        if row["assignment_id"] in objects and (
            choices.classes is None or row["class_name"] in choices.classes
        ):
            objects[row["assignment_id"]].append(row)
    if not any(objects.values()):
        raise InputError("There is no accepted nucleus to write. Choose other people, patches or classes.")
    colours = {row["name"]: row["colour"] for row in classes}
    return _files(format, chosen, objects, patches, colours, states)


def _files(
    format: str,
    assignments: list[dict[str, Any]],
    objects: Mapping[int, list[dict[str, Any]]],
    patches: Mapping[int, dict[str, Any]],
    colours: Mapping[str, str],
    states: Mapping[int, list[str]],
) -> Iterator[tuple[str, bytes]]:
    index, taken = [], {"index"}
    for assignment in assignments:
        patch = patches[assignment["patch_id"]]
        mine = [_object(row) for row in objects[assignment["id"]]]
        stem = _file_stem(assignment, taken)
        if mine:
            size_hw = (patch["height_px"], patch["width_px"])
            whole = AnnotationSet(patch["name"], size_hw, tuple(mine), patch["um_per_px"], colours)
            for suffix, content in write_annotations(whole, format).items():
                yield f"{stem}{suffix}", content
        index.append(
            {
                "file": f"{stem}{FORMATS[format].suffix}" if mine else "",
                **{key: assignment[key] for key in INDEX_COLUMNS if key in assignment},
                "objects": len(mine),
                "classes": "; ".join(states.get(assignment["id"], ())),
                **{key: patch[key] for key in ("height_px", "width_px", "um_per_px", "image_sha256")},
            }
        )
    yield "index.csv", to_csv(pd.DataFrame(index, columns=list(INDEX_COLUMNS)))


def _object(row: Mapping[str, Any]) -> AnnotatedObject:
    mask = Mask.from_row(row)
    measured = {name: float(row[name]) for name in MEASURED if row[name] is not None}
    return AnnotatedObject(row["object_id"], row["class_name"], mask, measured)


def _file_stem(assignment: Mapping[str, Any], taken: set[str]) -> str:
    """Patch, person and purpose as a file name that every system takes, of its own even without case."""
    said = [str(assignment[key]) for key in ("patch", "person_id", "purpose")]
    plain = "_".join(re.sub(r"[^A-Za-z0-9.-]+", "-", part).strip(".-")[:80] or "x" for part in said)
    stem = plain if plain.lower() not in taken else f"{plain}_{assignment['id']}"
    taken.add(stem.lower())
    return stem


def export_annotations(
    study: Study, folder: Path, format: str, choices: ExportChoices = ExportChoices()
) -> dict[str, Any]:
    """Write `annotation_files` into a folder.

    Raises:
        InputError, NotFoundError: as `annotation_files`.
    """
    folder, written = Path(folder), []
    for name, content in annotation_files(study, format, choices):
        write_file(folder / name, content)
        written.append(str(folder / name))
    return {"format": format, "files": written, "leaves_out": FORMATS[format].leaves_out}


def write_annotations_zip(
    study: Study, file: BinaryIO, format: str, choices: ExportChoices = ExportChoices()
) -> None:
    """The same as one ZIP archive."""
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in annotation_files(study, format, choices):
            archive.writestr(name, content)
