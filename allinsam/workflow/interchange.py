"""Annotations of other programs into a study.

What comes in becomes acts like any other, all in one transaction: an assignment with a `load` act that names
the file, and per object a `mask_edit` of origin "imported". As **gold** the objects are accepted and the
patch is submitted. As a **prior** they wait to be checked by the person whose queue the patch is put in; the
assignment's guidance is "suggestion", because whoever is shown outlines is led by them: such work is left out
of training by default, and of every figure of agreement.
"""

import hashlib
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from allinsam.errors import InputError, NotFoundError
from allinsam.interchange import (
    AnnotationSet,
    read_annotations,
)
from allinsam.interchange.objects_csv import table_of
from allinsam.interchange.qupath import is_uuid
from allinsam.interchange.records import read_json
from allinsam.masks import decode_rle
from allinsam.records import IMPORT_PURPOSES, Act
from allinsam.store import Study, images
from allinsam.store import acts as act_store
from allinsam.store import assignments as queue
from allinsam.store import study as study_store
from allinsam.workflow.annotating import ActLog, append_acts, marker_evidence
from allinsam.workflow.standing import Standing

# Whom gold belongs to that is nobody's: a person of the group "truth", against whom models are scored.
NOBODYS_GOLD = "imported-truth"
SCORED_AGAINST = (
    "From now on models are scored against the imported gold: it has to cover patches of the test part."
)
# Each takes a millisecond in which nobody else can save; other people's acts wait for 10 s at most.
MOST_IMPORTED = 8_000


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
    _check_purpose(choices)
    ready = _ready(study, Path(path), patch, format, choices)
    (assignment_id,), person_id, notes = _append(study, [ready], choices)
    return {
        "patch": patch,
        "purpose": choices.purpose,
        "person": person_id,
        "assignment": assignment_id,
        "objects": len(ready.found.objects),
        "classes": ready.counts(),
        "notes": [*ready.found.notes, *notes],
    }


def import_annotations_of_all(
    study: Study, path: Path, format: str, choices: ImportChoices
) -> dict[str, Any]:
    """As `import_annotations`, for every patch of the study that a file names; all of them or none.

    COCO names its images, a CSV its patches. A patch that the file names without an object is left out.

    Raises:
        InputError: as there; or the format holds one patch, or the file names none of the study.
    """
    _check_purpose(choices)
    names, notes = _patches_in(study, Path(path), format)
    # What is renamed need not be in every patch.
    everything = {name for row in names.values() for name in row["classes"]}
    strangers = sorted(set(choices.renames) - everything)
    if strangers:
        raise InputError(f"{path} has no class {strangers[0]!r} to rename. Leave it out.")
    every = []
    for name, seen in names.items():
        renames = {old: new for old, new in choices.renames.items() if old in seen["classes"]}
        every.append(_ready(study, Path(path), name, format, replace(choices, renames=renames)))
    assignment_ids, person_id, more = _append(study, every, choices)
    counts = Counter[str]()
    for ready in every:
        counts.update(ready.counts())
    return {
        "patches": list(names),
        "purpose": choices.purpose,
        "person": person_id,
        "assignments": assignment_ids,
        "objects": sum(len(ready.found.objects) for ready in every),
        "classes": dict(counts),
        "notes": [*notes, *more],
    }


def preview_annotations_of_all(study: Study, path: Path, format: str) -> dict[str, Any]:
    """What a file holds for the patches of a study, nothing written: patches, objects by class, and notes."""
    names, notes = _patches_in(study, Path(path), format)
    counts = Counter[str | None]()
    for row in names.values():
        counts.update(row["classes"])
    objects = sum(row["objects"] for row in names.values())
    return {"patches": list(names), "objects": objects, "classes": dict(counts), "notes": notes}


def _patches_in(study: Study, path: Path, format: str) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """Patch -> what `preview_annotations` tells of it, for those that a file names and the study has."""
    if format not in NAMES_IN:
        raise InputError(
            f"A file of format {format!r} holds one patch. Name the patch, or give {' or '.join(NAMES_IN)}."
        )
    with study.science.read() as db:
        known = {patch["name"] for patch in images.list_patches(db)}
    named = NAMES_IN[format](path)
    there = [name for name in named if name in known]
    if not there:
        raise InputError(f"{path} names {a_few(named) or 'no patch'}, none of this study: {a_few(known)}.")
    found, notes = {}, []
    for name in there:
        if not named[name]:
            notes.append(f"{name} has no object in the file and is left out.")
            continue
        found[name] = preview_annotations(study, path, name, format)
    left_out = [name for name in named if name not in known]
    if left_out:
        notes.append(f"Not in this study and left out: {a_few(left_out)}.")
    if not found:
        raise InputError(f"{path} holds no object. Export it again.")
    return found, notes


def _names_in_coco(path: Path) -> dict[str, int]:
    """Patch -> how many objects it has in a COCO file."""
    content = read_json(path)
    rows = content if isinstance(content, dict) else {}
    pictures, objects = rows.get("images"), rows.get("annotations")
    if not all(
        isinstance(one, list) and all(isinstance(r, dict) for r in one) for one in (pictures, objects)
    ):
        raise InputError(f"{path} has no list of images and annotations. Export it again as COCO.")
    of_image = Counter(str(row.get("image_id")) for row in objects)
    return {Path(str(row.get("file_name", ""))).stem: of_image[str(row.get("id"))] for row in pictures}


def _names_in_csv(path: Path) -> dict[str, int]:
    """Patch -> how many rows it has in a CSV of objects."""
    table = table_of(path)
    if "patch" not in table:
        raise InputError(f"{path} has no column patch. Add it, or name the patch the file is for.")
    return dict(Counter(table["patch"]))


# Format -> patches that a file of it names. Other formats hold one patch, whose name they do not say.
NAMES_IN: dict[str, Callable[[Path], dict[str, int]]] = {"coco": _names_in_coco, "csv": _names_in_csv}


@dataclass(frozen=True)
class _Ready:
    """A patch's annotations, checked and made into acts, waiting to be written."""

    target: dict[str, Any]
    found: AnnotationSet
    asked: dict[str, int]
    acts: list[Act]

    def counts(self) -> dict[str, int]:
        counts = Counter(thing.class_name for thing in self.found.objects)
        return {name: counts[name] for name in self.asked}


def _check_purpose(choices: ImportChoices) -> None:
    if choices.purpose not in IMPORT_PURPOSES:
        raise InputError(
            f"Unknown purpose {choices.purpose!r}. Choose {' or '.join(map(repr, IMPORT_PURPOSES))}."
        )


def _ready(study: Study, path: Path, patch: str, format: str, choices: ImportChoices) -> _Ready:
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
    return _Ready(target, found, asked, acts)


def _append(study: Study, every: list[_Ready], choices: ImportChoices) -> tuple[list[int], str, list[str]]:
    """All in one transaction: ids of the assignments, whose they are, and what to know about it."""
    objects = sum(len(ready.found.objects) for ready in every)
    if objects > MOST_IMPORTED:
        raise InputError(f"{objects} objects are more than {MOST_IMPORTED} at once. Import fewer patches.")
    person_id = choices.person_id or NOBODYS_GOLD
    arms = ("gold", "threshold", "contour")
    if choices.purpose == "prior":
        arms = ("production", "suggestion", "box_sam")
    ids = []
    with study.science.write() as db:
        for ready in every:
            _check_person(db, ready.target, choices)
        is_first = person_id not in {row["id"] for row in study_store.list_people(db)}
        if is_first:
            study_store.add_person(db, person_id, "truth")
        for ready in every:
            ids.append(queue.add_assignment(db, person_id, ready.target["id"], ready.asked.values(), *arms))
            append_acts(db, queue.get_assignment(db, ids[-1]), ready.acts, Standing(ids[-1]))
    return ids, person_id, [SCORED_AGAINST] if is_first else []


def preview_annotations(study: Study, path: Path, patch: str, format: str) -> dict[str, Any]:
    """What a file holds for a patch, nothing written: objects by class (None: it has none), and notes.

    Raises:
        InputError: the file cannot be used.
        NotFoundError: no such patch.
    """
    target = _patch_named(study, patch)
    found = read_annotations(Path(path), format, (target["height_px"], target["width_px"]), patch)
    counts = Counter(thing.class_name for thing in found.objects)
    return {"objects": len(found.objects), "classes": dict(counts), "notes": list(found.notes)}


def _patch_named(study: Study, name: str) -> dict[str, Any]:
    with study.science.read() as db:
        patches = {patch["name"]: patch for patch in images.list_patches(db)}
    if name not in patches:
        raise NotFoundError(f"No patch {name!r} in this study. It has {a_few(patches)}.")
    return patches[name]


def a_few(names: Iterable[Any]) -> str:
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
            raise InputError(f"Class {name!r} is not in this study. Choose from {a_few(known)}.")
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
                f"{path}: object {thing.object_id!r} has no class. Say which it is, one of {a_few(known)}."
            )
        if name not in known:
            raise InputError(
                f"{path}: class {name!r} of object {thing.object_id!r} is not in this study. Rename it to "
                f"one of {a_few(known)}."
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
