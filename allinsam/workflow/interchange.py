"""Annotations of a study to and from other programs' formats.

What comes in becomes acts like any other, all in one transaction: an assignment with a `load` act that names
the file, and per object a `mask_edit` of origin "imported". As **gold** the objects are accepted and the
patch is submitted. As a **prior** they wait to be checked by the person whose queue the patch is put in; the
assignment's guidance is "suggestion", because whoever is shown outlines is led by them: such work is left out
of training unless it is asked for.
"""

import hashlib
import re
import uuid
import zipfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO

import pandas as pd

from allinsam.errors import InputError, NotFoundError
from allinsam.files import write_file
from allinsam.interchange import (
    FORMATS,
    AnnotatedObject,
    AnnotationSet,
    read_annotations,
    write_annotations,
)
from allinsam.interchange.qupath import is_uuid
from allinsam.masks import decode_rle
from allinsam.records import IMPORT_PURPOSES, Act, Mask
from allinsam.store import Study, images
from allinsam.store import acts as act_store
from allinsam.store import assignments as queue
from allinsam.store import study as study_store
from allinsam.tables import to_csv
from allinsam.workflow.annotating import ActLog, append_acts, marker_evidence

# Whom gold belongs to that is nobody's: a person of the group "truth", against whom models are scored.
NOBODYS_GOLD = "imported-truth"
SCORED_AGAINST = (
    "From now on models are scored against the imported gold: it has to cover patches of the test part."
)
# Each takes a millisecond in which nobody else can save; other people's acts wait for 10 s at most.
MOST_IMPORTED = 8_000
MEASURED = ("molecular_support", "predicted_iou")

# ----------------------------------------------------------------------------------------- import


@dataclass(frozen=True)
class ImportChoices:
    """What a file does not say.

    purpose: "gold" or "prior".
    person_id: whose work it is (gold) or who is to check it (prior); gold may be nobody's.
    class_name: of objects without a class.
    renames: the file's class -> the study's.
    complete: classes that were looked for everywhere, beside those in the file. Gold without an object of
        such a class says that there is none; a class that is not named is unknown.
    """

    purpose: str
    person_id: str | None = None
    class_name: str | None = None
    renames: Mapping[str, str] = field(default_factory=dict)
    complete: Sequence[str] = ()


def import_annotations(
    study: Study, path: Path, patch: str, format: str, choices: ImportChoices
) -> dict[str, Any]:
    """Bring a file's objects into a study as gold or as a prior, all or none.

    An id that is a UUID stays; any other becomes one, and the act keeps it as `source_id`. Measurements of
    the file are not taken over: the marker's support is measured here, under the signed threshold.

    Raises:
        InputError: the file, a class or the person cannot be used, or this person has such work already.
        NotFoundError: no such patch or person.
    """
    path = Path(path)
    if choices.purpose not in IMPORT_PURPOSES:
        raise InputError(
            f"Unknown purpose {choices.purpose!r}. Choose {' or '.join(map(repr, IMPORT_PURPOSES))}."
        )
    target = _patch_named(study, patch)
    with study.science.read() as db:
        classes = study_store.list_classes(db)
    found = read_annotations(path, format, (target["height_px"], target["width_px"]), patch)
    if len(found.objects) > MOST_IMPORTED:
        raise InputError(
            f"{path} holds {len(found.objects)} objects; {MOST_IMPORTED} can be imported at once. "
            "Cut the patch up."
        )
    found = _with_known_classes(path, found, classes, choices)
    asked = _asked_classes(study, target, found, classes, choices)
    acts = _acts(study, target, path, format, found, classes, asked, choices.purpose)
    person_id = choices.person_id or NOBODYS_GOLD
    with study.science.write() as db:
        _check_person(db, target, choices)
        is_first = person_id not in {row["id"] for row in study_store.list_people(db)}
        if is_first:
            study_store.add_person(db, person_id, "truth")
        arms = ("gold", "threshold", "contour")
        if choices.purpose == "prior":
            arms = ("production", "suggestion", "box_sam")
        assignment_id = queue.add_assignment(db, person_id, target["id"], asked.values(), *arms)
        append_acts(db, queue.get_assignment(db, assignment_id), acts)
    counts = Counter(thing.class_name for thing in found.objects)
    return {
        "patch": patch,
        "purpose": choices.purpose,
        "person": person_id,
        "assignment": assignment_id,
        "objects": len(found.objects),
        "classes": {name: counts[name] for name in asked},
        "notes": [*found.notes, *([SCORED_AGAINST] if is_first else [])],
    }


def _patch_named(study: Study, name: str) -> dict[str, Any]:
    with study.science.read() as db:
        patches = {patch["name"]: patch for patch in images.list_patches(db)}
    if name not in patches:
        raise NotFoundError(f"No patch {name!r} in this study. It has {_some(patches)}.")
    return patches[name]


def _some(names: Any) -> str:
    """The first few of some names, for a message."""
    listed = sorted(map(str, names))
    return ", ".join(listed[:8]) + (f" and {len(listed) - 8} more" if len(listed) > 8 else "")


def _with_known_classes(
    path: Path, found: AnnotationSet, classes: list[dict[str, Any]], choices: ImportChoices
) -> AnnotationSet:
    """The objects under the study's names of their classes."""
    known = {row["name"] for row in classes}
    renames = choices.renames
    for name in (*renames.values(), *choices.complete, *([choices.class_name] if choices.class_name else [])):
        if name not in known:
            raise InputError(f"Class {name!r} is not in this study. Choose from {_some(known)}.")
    strangers = sorted(set(renames) - {thing.class_name for thing in found.objects})
    if strangers:
        raise InputError(f"{path} has no class {strangers[0]!r} to rename. Leave it out.")
    renamed = []
    for thing in found.objects:
        name = (
            choices.class_name
            if thing.class_name is None
            else renames.get(thing.class_name, thing.class_name)
        )
        if name is None:
            raise InputError(
                f"{path}: object {thing.object_id!r} has no class. Say which it is, one of {_some(known)}."
            )
        if name not in known:
            raise InputError(
                f"{path}: class {name!r} of object {thing.object_id!r} is not in this study. Rename it to "
                f"one of {_some(known)}."
            )
        renamed.append(replace(thing, class_name=name))
    return replace(found, objects=tuple(renamed))


def _asked_classes(
    study: Study,
    patch: dict[str, Any],
    found: AnnotationSet,
    classes: list[dict[str, Any]],
    choices: ImportChoices,
) -> dict[str, int]:
    """Class -> id of what the assignment asks for: a prior also asks for what else its slide shows."""
    wanted = {thing.class_name for thing in found.objects} | set(choices.complete)
    if choices.purpose == "prior":
        with study.science.read() as db:
            markers = {
                row["marker"] for row in images.slide_markers(db) if row["slide_id"] == patch["slide_id"]
            }
        wanted |= {row["name"] for row in classes if row["marker"] in markers}
    return {row["name"]: row["id"] for row in classes if row["name"] in wanted}


def _acts(
    study: Study,
    patch: dict[str, Any],
    path: Path,
    format: str,
    found: AnnotationSet,
    classes: list[dict[str, Any]],
    asked: Mapping[str, int],
    purpose: str,
) -> list[Act]:
    marker_of = {row["name"]: row["marker"] for row in classes}
    used = {thing.class_name for thing in found.objects}
    evidence = {name: marker_evidence(study, patch["id"], marker_of[name]) for name in used}
    log = ActLog(f"import-{uuid.uuid4()}", act_store.IMPORT_SURFACE)
    source = {"name": path.name, "format": format, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
    acts = [log.act("load", 0.0, source=source, purpose=purpose)]
    for thing in found.objects:
        bright = evidence[thing.class_name]
        drawn = {
            "class_id": asked[thing.class_name],
            "mask": thing.mask.as_rle(),
            "tool": "import",
            "origin": "imported",
            "source_id": thing.object_id,
            **(bright.of_mask(decode_rle(thing.mask.as_rle())) if bright else {}),
        }
        object_id = thing.object_id if is_uuid(thing.object_id) else str(uuid.uuid4())
        acts.append(log.act("mask_edit", 0.0, object_id, **drawn))
        if purpose == "gold":
            acts.append(log.act("accept", 0.0, object_id))
    if purpose == "gold":
        states = {str(i): "complete" if name in used else "nothing_here" for name, i in asked.items()}
        acts.append(log.act("submit", 0.0, classes=states))
    return acts


def _check_person(db: Any, patch: dict[str, Any], choices: ImportChoices) -> None:
    """Raise unless this person can have this work, and has none like it yet."""
    person_id = choices.person_id
    if person_id is None:
        if choices.purpose == "prior":
            raise InputError("A prior needs the person who is to check it. Name one.")
        person_id = NOBODYS_GOLD
    else:
        person = study_store.get_person(db, person_id)
        if person["simulated"] or person["withdrawn_at"]:
            raise InputError(f"{person_id!r} is simulated or has withdrawn. Name somebody who takes part.")
    stored = "gold" if choices.purpose == "gold" else "production"
    for row in queue.patch_assignments(db, patch["id"]):
        if row["person_id"] == person_id and row["purpose"] == stored:
            held = "gold" if stored == "gold" else "a place in the queue"
            raise InputError(
                f"{person_id!r} has {held} for patch {patch['name']!r} already (assignment {row['id']}). "
                "Name another person or another patch."
            )


# ----------------------------------------------------------------------------------------- export


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
            raise NotFoundError(f"No {what} {missing[0]!r} in this study. It has {_some(there)}.")
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


def _object(row: Mapping[str, Any]) -> AnnotatedObject:
    mask = Mask(row["mask_height_px"], row["mask_width_px"], row["mask_counts"])
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
