"""The overlaps of a study's marks, counted patch by patch and kept in its folder.

A file is derived, never truth: it is named after what the patch's annotations are, so that new work on a
patch counts that patch anew and no other, and one that is lost or damaged is made again.
"""

import hashlib
import json
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from allinsam.consensus import FEWEST_RATERS
from allinsam.errors import NotFoundError
from allinsam.files import write_file
from allinsam.matched import Overlaps, gather
from allinsam.overlaps import PATCH_FIELDS, Majority, PatchOverlaps, Work, count_overlaps, majority_masks
from allinsam.records import LEARNING_PURPOSES, UNPROMPTED_GUIDANCES, WORK_PURPOSES
from allinsam.store import Study, images
from allinsam.store import acts as act_store
from allinsam.store import assignments as queue
from allinsam.store import study as study_store

log = logging.getLogger(__name__)

VERSION = 1  # raised with every change to what is counted or how it is kept
PURPOSES = (*WORK_PURPOSES, *LEARNING_PURPOSES)
EVERYONE = "everyone"
AMONG = (EVERYONE, "student", "expert")
AT_ONCE = 20_000  # outlines; more are too many to work through while somebody waits
LOOK_COLUMNS = [
    "key",
    "person_id",
    "group",
    "patch_id",
    "patch",
    "slide",
    "condition",
    "purpose",
    "position",
    "submitted_at",
]

Report = Callable[[float, float, str], None]
Row = Mapping[str, Any]


def circle_of(purpose: str, among: str) -> int:
    """The number of those whose marks are joined to nuclei together."""
    return len(AMONG) * PURPOSES.index(purpose) + AMONG.index(among)


def majority_of(purpose: str) -> int:
    """The key under which the students' majority is a look."""
    return -1 - PURPOSES.index(purpose)


# ---------------------------------------------------------------- what there is to count


@dataclass(frozen=True)
class Patch:
    """A patch that was looked at twice or more, and the file its overlaps belong in."""

    row: Row
    looks: tuple[Row, ...]  # ordered by person, then assignment
    path: Path

    @property
    def size_hw(self) -> tuple[int, int]:
        return self.row["height_px"], self.row["width_px"]

    @property
    def n_marks(self) -> int:
        """At most."""
        return sum(look["n_rows"] for look in self.looks)


def finished_looks(study: Study) -> list[Row]:
    """Everybody's finished work, of any purpose; the truth is nobody's, and work begun from suggestions is
    left out: people who were shown the same outlines agree by them.
    """
    with study.science.read() as db:
        rows = queue.finished_work(db)
    return [row for row in rows if row["guidance"] in UNPROMPTED_GUIDANCES and row["group"] != "truth"]


def list_patches(study: Study) -> list[Patch]:
    """The patches whose overlaps there are to count, by their number."""
    with study.science.read() as db:
        known = {patch["id"]: patch for patch in images.list_patches(db)}
    by_patch: dict[int, list[Row]] = {}
    for look in finished_looks(study):
        by_patch.setdefault(look["patch_id"], []).append(look)
    found = []
    for patch_id, looks in sorted(by_patch.items()):
        if len(looks) > 1:
            looks = sorted(looks, key=lambda look: (look["person_id"], look["id"]))
            key = _key(known[patch_id], looks)
            found.append(Patch(known[patch_id], tuple(looks), overlaps_folder(study) / f"{key}.safetensors"))
    return found


def overlaps_folder(study: Study) -> Path:
    return study.folder / "agreement"


def _key(patch: Row, looks: Sequence[Row]) -> str:
    """Names what a patch's annotations are: rows are only ever added, and a withdrawal takes them all."""
    columns = ("id", "person_id", "group", "purpose", "class_ids", "n_rows", "newest", "submitted_at")
    facts = [VERSION, patch["id"], patch["height_px"], patch["width_px"]]
    facts += [[look[column] for column in columns] for look in looks]
    return f"{patch['id']}-{hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:32]}"


def uncounted(patches: Iterable[Patch]) -> list[Patch]:
    return [patch for patch in patches if not patch.path.exists()]


def marks_handed_in(study: Study) -> int:
    return sum(look["n_rows"] for look in finished_looks(study))


# ---------------------------------------------------------------- counting and keeping


def count_study(
    study: Study,
    report: Report = lambda done, total, message: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> dict[str, int]:
    """Count what has not been counted yet; what is done stays done when it is stopped."""
    patches = list_patches(study)
    missing = uncounted(patches)
    total, done = sum(patch.n_marks for patch in missing), 0
    for number, patch in enumerate(missing):
        if should_stop():
            return {"patches": len(patches), "counted": number, "marks": done}
        report(done, total, f"comparing patch {number + 1} of {len(missing)}")
        count_patch(study, patch)
        done += patch.n_marks
    drop_stale(study, patches)
    report(1, 1, f"{len(missing)} patches compared")
    return {"patches": len(patches), "counted": len(missing), "marks": done}


def count_patch(study: Study, patch: Patch) -> PatchOverlaps:
    """Count a patch and keep the result; where it cannot be kept it is counted all the same."""
    works, names = _works(study, patch.looks)
    overlaps = count_overlaps(works, patch.size_hw, names, *_together(patch.looks))
    try:
        _write(patch.path, overlaps)
    except OSError as error:
        log.warning("Overlaps %s were not kept on disk: %s", patch.path, error)
    return overlaps


def _works(study: Study, looks: Sequence[Row]) -> tuple[list[Work], dict[int, str]]:
    """What was drawn in these looks, and the names of the classes."""
    with study.science.read() as db:
        names = {row["id"]: row["name"] for row in study_store.list_classes(db)}
        rows = act_store.current_masks(db, [look["id"] for look in looks])
    marks: dict[int, list[tuple[int, str]]] = {}
    for assignment_id, class_id, _, _, counts in rows:
        marks.setdefault(assignment_id, []).append((class_id, counts))
    works = [
        Work(look["id"], look["person_id"], tuple(look["class_ids"]), tuple(marks.get(look["id"], ())))
        for look in looks
    ]
    return works, names


def students_majority(
    study: Study, patch_id: int, purpose: str
) -> tuple[list[int], list[tuple[int, np.ndarray]]]:
    """`majority_masks` of the students who handed in a patch for this purpose.

    Raises:
        NotFoundError: fewer than three of them did.
    """
    patch = next((one for one in list_patches(study) if one.row["id"] == patch_id), None)
    looks = patch.looks if patch else ()
    places = sorted(first_looks(looks, purpose).values())
    students = [looks[place] for place in places if looks[place]["group"] == "student"]
    if len(students) < FEWEST_RATERS:
        raise NotFoundError(
            f"{len(students)} students finished this patch. A majority takes {FEWEST_RATERS}."
        )
    works, names = _works(study, students)
    return majority_masks(works, patch.size_hw, names)


def first_looks(looks: Sequence[Row], purpose: str) -> dict[str, int]:
    """Person -> place of the first look of this purpose they handed in."""
    mine = [place for place, look in enumerate(looks) if look["purpose"] == purpose]
    found: dict[str, int] = {}
    for place in sorted(mine, key=lambda i: (looks[i]["submitted_at"] or "", looks[i]["id"])):
        found.setdefault(looks[place]["person_id"], place)
    return found


def _together(looks: Sequence[Row]) -> tuple[dict[int, list[int]], dict[int, Majority]]:
    """Circles and majorities of a patch."""
    circles, majorities = {}, {}
    for purpose in PURPOSES:
        places = sorted(first_looks(looks, purpose).values())
        of = {group: [i for i in places if looks[i]["group"] == group] for group in AMONG[1:]}
        for among, members in {EVERYONE: places, **of}.items():
            if len(members) > 1:
                circles[circle_of(purpose, among)] = members
        if of["expert"]:
            majorities[majority_of(purpose)] = Majority(tuple(of["student"]), tuple(of["expert"]))
    return circles, majorities


def _write(path: Path, overlaps: PatchOverlaps) -> None:
    arrays = {name: np.ascontiguousarray(getattr(overlaps, name)) for name in PATCH_FIELDS}
    path.parent.mkdir(exist_ok=True)
    write_file(path, save(arrays, metadata={"sha256": _checksum(arrays)}))


def _checksum(arrays: Mapping[str, np.ndarray]) -> str:
    digest = hashlib.sha256()
    for name in PATCH_FIELDS:
        digest.update(np.ascontiguousarray(arrays[name]))
    return digest.hexdigest()


def read_patch_overlaps(study: Study, patch: Patch) -> PatchOverlaps:
    """From its file; counted where there is none that can be trusted."""
    try:
        state = patch.path.stat()
        return _read(patch.path, state.st_mtime_ns, state.st_size)
    except FileNotFoundError:
        pass
    except (SafetensorError, OSError, ValueError) as error:
        log.warning("Overlaps %s are damaged and are counted again: %s", patch.path, error)
    return count_patch(study, patch)


@lru_cache(maxsize=1024)
def _read(path: Path, changed_ns: int, size: int) -> PatchOverlaps:
    """Time and size stand for the content. A large study's files are 100 kB each; of new work one is read."""
    with safe_open(path, framework="np") as file:
        arrays = {name: file.get_tensor(name) for name in PATCH_FIELDS}
        stored = (file.metadata() or {}).get("sha256")
    if stored != _checksum(arrays):
        raise ValueError("its checksum is another")
    return PatchOverlaps(**arrays)


def drop_stale(study: Study, patches: Iterable[Patch]) -> int:
    """Delete the files that belong to no patch as it is now; how many."""
    known = {patch.path for patch in patches}
    stale = [path for path in overlaps_folder(study).glob("*.safetensors") if path not in known]
    for path in stale:
        path.unlink(missing_ok=True)
    return len(stale)


# ---------------------------------------------------------------- the study's overlaps


@dataclass(frozen=True)
class StudyOverlaps:
    """Everything that figures of agreement are made of. Rows of `looks` are the looks of `overlaps`; a
    majority's has no person.
    """

    overlaps: Overlaps
    looks: pd.DataFrame  # LOOK_COLUMNS
    classes: tuple[str, ...]  # names, in their order
    marker_of: Mapping[str, str]  # class -> marker

    @cached_property
    def purposes(self) -> list[str]:
        present = set(self.looks["purpose"])
        return [purpose for purpose in PURPOSES if purpose in present]


def study_overlaps(study: Study, patches: Sequence[Patch] | None = None) -> StudyOverlaps:
    """Read all overlaps, and count those that are missing. `patches`: where they have just been listed."""
    with study.science.read() as db:
        classes = sorted(study_store.list_classes(db), key=lambda row: row["name"])
    patches = list_patches(study) if patches is None else patches
    counted = [read_patch_overlaps(study, patch) for patch in patches]
    rows = []
    for patch, overlaps in zip(patches, counted, strict=True):
        where = {"patch_id": patch.row["id"], "patch": patch.row["name"]}
        where |= {key: patch.row[key] for key in ("slide", "condition")}
        rows += [{**look, "key": look["id"], **where} for look in patch.looks]
        for key in overlaps.looks[len(patch.looks) :].tolist():
            rows.append({"key": key, **where, "purpose": PURPOSES[-1 - key]})
    return StudyOverlaps(
        overlaps=gather(counted, [row["id"] for row in classes]),
        looks=pd.DataFrame(rows, columns=LOOK_COLUMNS),
        classes=tuple(row["name"] for row in classes),
        marker_of={row["name"]: row["marker"] for row in classes},
    )
