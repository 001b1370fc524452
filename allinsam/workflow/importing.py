"""Put the images of a folder, a manifest or a ZIP into a study: all that was planned, or nothing."""

import contextlib
import hashlib
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from allinsam.errors import InputError
from allinsam.files import write_file
from allinsam.imaging import encode_png, read_channel, read_rgb
from allinsam.importing import (
    Fallback,
    FolderRules,
    ImportLimits,
    ImportPlan,
    PlannedChannel,
    PlannedPatch,
    Problem,
    plan_import,
    unpack_zip,
)
from allinsam.importing.archive import ARCHIVE_SUFFIXES
from allinsam.registration import identity_matrix
from allinsam.sam.backbones import BACKBONES
from allinsam.store import Study, create_study, images, open_study
from allinsam.store import slide_files as slide_file_store
from allinsam.store import study as study_store
from allinsam.workflow.classes import CLASS_KEYS
from allinsam.workflow.registering import ASSUMED
from allinsam.workflow.uploads import UNPACKED

Report = Callable[[float, float, str, dict[str, Any]], None]

ON_PROBLEM = ("stop", "skip")
BACKBONE = "compact"

# What a nucleus that carries the marker is called, and how it looks on the annotate page.
CLASS_OF_MARKER = {"WT1": "podocyte", "GATA3": "mesangial", "Ki67": "positive"}
CLASS_LOOK = {"podocyte": ("#F0E442", "1"), "mesangial": ("#56B4E9", "2")}
COLOURS = ("#009E73", "#E69F00", "#0072B2", "#D55E00", "#CC79A7", "#F0E442", "#56B4E9")
KEYS = CLASS_KEYS


class ImportRefusedError(InputError):
    """Nothing was imported; the message has one line per problem."""

    def __init__(self, source: Path, problems: Iterable[Problem], remedy: str) -> None:
        self.problems = tuple(problems)
        count = "1 problem" if len(self.problems) == 1 else f"{len(self.problems)} problems"
        lines = [f"Nothing was imported from {source}: {count}. {remedy}", *map(str, self.problems)]
        super().__init__("\n".join(lines))


@dataclass(frozen=True)
class Known:
    """What a study holds already, as an import needs it."""

    patches: dict[str, dict[str, Any]]  # by name without case
    channels: dict[int, list[dict[str, Any]]]  # by patch id
    classes: list[dict[str, Any]]

    @property
    def markers(self) -> list[str]:
        return list({channel["marker"]: None for found in self.channels.values() for channel in found})


class ImportCancelledError(InputError):
    """Somebody stopped the import; nothing of it is kept."""


def import_study(
    study_folder: Path,
    source: Path,
    on_problem: str = "stop",
    name: str | None = None,
    classes: Mapping[str, str] | None = None,
    report: Report | None = None,
    rules: FolderRules | None = None,
    fallback: Fallback | None = None,
    limits: ImportLimits | None = None,
    should_stop: Callable[[], bool] = lambda: False,
) -> dict[str, Any]:
    """Import a folder, a CSV manifest or a ZIP of either into a study, which is made if it is not there.

    A patch that the study holds already is left as it is. On problems, "stop" writes nothing at all, not
    even the study's folder; "skip" imports the patches without problems and lists the rest.

    Args:
        name: of a new study; the folder's name by default.
        classes: marker -> class, where CLASS_OF_MARKER and "<marker> positive" do not suit.
        rules: what file names do not say, for a folder without a manifest.
        fallback: what holds for a patch of which neither manifest nor file says it.
        should_stop: asked before each patch; an import that is stopped leaves nothing.

    Raises:
        ImportRefusedError: problems, and "stop"; or no patch is left to import.
        ImportCancelledError: `should_stop` said so.
        InputError: the study or the source cannot be used at all.
    """
    if on_problem not in ON_PROBLEM:
        raise InputError(f"Unknown choice {on_problem!r} on problems. Choose stop or skip.")
    study_folder, source = Path(study_folder).resolve(), Path(source)
    study = existing_study(study_folder, name)
    known = known_in(study)
    report = stoppable(report, should_stop)
    with _planned(study_folder, source, known, report, rules, fallback, limits) as plan:
        new, already, more = _against_study(study, known, plan.patches)
        problems = (*plan.problems, *more)
        if problems and on_problem == "stop":
            raise ImportRefusedError(source, problems, 'Correct them, or choose "skip" to import the rest.')
        if not new and not already:
            raise ImportRefusedError(source, problems, "Correct them and import again.")
        added_classes = new_classes(known, new, classes or {})
        with study_to_fill(study, study_folder, name or study_folder.name) as filled:
            counts = write_patches(filled, new, added_classes, report)
    return {
        "study": str(study_folder),
        "new_study": study is None,
        **counts,
        "classes": [{"name": row["name"], "marker": row["marker"]} for row in added_classes],
        "already_there": already,
        "problems": [str(problem) for problem in problems],
    }


def preview_import(
    study_folder: Path,
    source: Path,
    rules: FolderRules | None = None,
    limits: ImportLimits | None = None,
    report: Report | None = None,
) -> dict[str, Any]:
    """What `import_study` would bring, with every problem; nothing is written.

    Returns:
        counts of patches, of channels and slides, patches by marker and by pixel size (None: not said) and
        by condition, the classes that would be new, the patches that are there already, and the problems.

    Raises:
        InputError: the study or the source cannot be used at all.
    """
    study_folder, source = Path(study_folder).resolve(), Path(source)
    study = existing_study(study_folder, None)
    known = known_in(study)
    report = stoppable(report, lambda: False)
    with _planned(study_folder, source, known, report, rules, None, limits) as plan:
        new, already, more = _against_study(study, known, plan.patches)
    return summary_of(known, new, already, [*plan.problems, *more])


def summary_of(
    known: Known, new: list[PlannedPatch], already: int, problems: Iterable[Problem]
) -> dict[str, Any]:
    channels = [channel for patch in new for channel in patch.channels]
    return {
        "patches": len(new),
        "channels": len(channels),
        "slides": sorted({patch.slide for patch in new}),
        "markers": dict(Counter(one.marker for one in channels if one.role == "marker")),
        "other_channels": dict(Counter(one.marker for one in channels if one.role != "marker")),
        "um_per_px": dict(Counter(patch.um_per_px for patch in new)),
        "conditions": dict(Counter(patch.condition for patch in new)),
        "classes": [{"name": row["name"], "marker": row["marker"]} for row in new_classes(known, new, {})],
        "already_there": already,
        "problems": [str(problem) for problem in problems],
    }


def what_came(done: Mapping[str, Any]) -> str:
    """What an import brought, in one line."""
    slides = "1 slide" if done["slides"] == 1 else f"{done['slides']} slides"
    patches = "1 patch" if done["patches"] == 1 else f"{done['patches']} patches"
    parts = [f"{patches} of {slides} with {done['channels']} IF channels came in"]
    parts += [f"{done['already_there']} there already"] if done["already_there"] else []
    parts += [f"left out because of problems: {len(done['problems'])}"] if done["problems"] else []
    return "; ".join(parts) + "." + _what_waits(done.get("registrations", []))


def _what_waits(registrations: Collection[Mapping[str, Any]]) -> str:
    """How many patches of a slide were registered, and what to do next; empty where none was to be."""
    count, waiting = len(registrations), sum(not row["accepted"] for row in registrations)
    if not count:
        return ""
    fitted = f" The IF was fitted to the stain patch by patch: it fits on {count - waiting} of {count}"
    if not waiting:
        return f"{fitted}."
    wait, them = ("waits", "it") if waiting == 1 else ("wait", "them")
    return f"{fitted}, and {waiting} {wait} until you settle {them} on the Registration page."


def stoppable(report: Report | None, should_stop: Callable[[], bool]) -> Report:
    """A report that ends the import between two patches if somebody asked for it."""

    def tell(done: float, total: float, message: str, detail: dict[str, Any]) -> None:
        if should_stop():
            raise ImportCancelledError("The import was cancelled. Nothing was imported.")
        if report:
            report(done, total, message, detail)

    return tell


@contextmanager
def _planned(
    study_folder: Path,
    source: Path,
    known: Known,
    report: Report,
    rules: FolderRules | None,
    fallback: Fallback | None,
    limits: ImportLimits | None,
) -> Iterator[ImportPlan]:
    """The plan of a source; what a ZIP was unpacked to is there inside the `with` block only."""
    limits = limits or ImportLimits()
    if not (source.is_file() and source.suffix.lower() in ARCHIVE_SUFFIXES):
        yield plan_import(source, rules, report, known.markers, limits, fallback)
        return
    # On the study's disk, where there is to be room for the images; never where other accounts may look.
    beside = study_folder if study_folder.exists() else _first_there(study_folder)
    unpacked = Path(tempfile.mkdtemp(dir=beside, prefix=UNPACKED))
    try:
        report(0, 1, f"unpacking {source.name}", {})
        top, left_out = unpack_zip(source, unpacked, limits)
        try:
            plan = plan_import(top, rules, report, known.markers, limits, fallback)
        except ImportCancelledError:
            raise
        except InputError as error:
            raise InputError(_without_folder(str(error), top, source)) from error
        problems = [*left_out, *plan.problems]
        told = tuple(replace(one, message=_without_folder(one.message, top, source)) for one in problems)
        yield replace(plan, source=source, problems=told)
    finally:
        shutil.rmtree(unpacked, ignore_errors=True)


def _first_there(folder: Path) -> Path:
    return next(parent for parent in folder.parents if parent.exists())


def _without_folder(text: str, folder: Path, source: Path) -> str:
    """Files of a ZIP by their names in it: the folder they lay in will be gone."""
    return text.replace(f"{folder}{os.sep}", "").replace(str(folder), str(source))


def existing_study(folder: Path, name: str | None) -> Study | None:
    """The study in this folder, if there is one, that takes imported images."""
    if not (folder / "study.sqlite").exists():
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise InputError(f"{folder} is not empty and holds no study. Choose a new folder for the study.")
        return None
    study = open_study(folder)
    with study.science.read() as db:
        row = study_store.get_study(db)
    if row["simulated"]:
        raise InputError(f"{folder} is a simulated study. Import real images into a study of their own.")
    if name is not None and name != row["name"]:
        raise InputError(
            f"{folder} holds the study {row['name']!r}, not {name!r}. "
            "Leave out the name, or choose another folder."
        )
    return study


def known_in(study: Study | None) -> Known:
    if study is None:
        return Known({}, {}, [])
    with study.science.read() as db:
        patches = images.list_patches(db)
        channels = {patch["id"]: images.list_channels(db, patch["id"]) for patch in patches}
        classes = study_store.list_classes(db)
    return Known({patch["name"].casefold(): patch for patch in patches}, channels, classes)


def _against_study(
    study: Study | None, known: Known, planned: Iterable[PlannedPatch]
) -> tuple[list[PlannedPatch], int, list[Problem]]:
    """Patches the study does not have, the number it has, and those that contradict what it has."""
    if study is None:
        return list(planned), 0, []
    name_of_image = {patch["image_sha256"]: patch["name"] for patch in known.patches.values()}
    new, already, problems = [], 0, []
    for patch in planned:
        there = known.patches.get(patch.name.casefold())
        if there is not None:
            difference = _difference(study, there, known.channels[there["id"]], patch)
            already += difference is None
            if difference:
                problems.append(Problem(patch.where, f"patch {patch.name!r} is in the study {difference}"))
            continue
        twin = name_of_image.get(hashlib.sha256(encode_png(read_rgb(patch.pas))).hexdigest())
        if twin:
            line = f"duplicate: {patch.pas.name} is in the study as patch {twin!r}. Leave it out."
            problems.append(Problem(patch.where, line))
        else:
            new.append(patch)
    return new, already, problems


def _difference(
    study: Study, there: dict[str, Any], channels: list[dict[str, Any]], patch: PlannedPatch
) -> str | None:
    """How a planned patch contradicts the one of its name; an import never changes a patch."""
    if not np.array_equal(read_rgb(study.image_path(there["image_sha256"])), read_rgb(patch.pas)):
        return "with another image. Rename the file to import it as a patch of its own."
    for field in ("slide", "glomerulus", "condition", "um_per_px"):
        stated = getattr(patch, field)
        if stated not in (None, "unknown", there[field]):
            return (
                f"with {field} {there[field]!r}, not {stated!r}. An import changes no patch: correct the row."
            )
    stored = {(channel["role"], channel["marker"]): channel["image_sha256"] for channel in channels}
    for channel in patch.channels:
        sha256 = stored.get((channel.role, channel.marker))
        if sha256 is None:
            return f"without its channel {channel.marker!r}. An import changes no patch: leave the row out."
        if not np.array_equal(read_channel(study.image_path(sha256)), _pixels(channel)):
            return f"with another {channel.marker!r} image. An import changes no patch: leave the row out."
    return None


def _pixels(channel: PlannedChannel) -> np.ndarray:
    return read_channel(channel.path, channel.index or 0)


def new_classes(known: Known, new: list[PlannedPatch], wanted: Mapping[str, str]) -> list[dict[str, str]]:
    """A class for each marker that has none yet, with a colour and a key that are free."""
    planned = {channel.marker for patch in new for channel in patch.channels if channel.role == "marker"}
    class_of_marker = {row["marker"]: row["name"] for row in known.classes}
    spelling = {marker.casefold(): marker for marker in (*planned, *class_of_marker)}
    names = {}
    for marker, name in wanted.items():
        marker = spelling.get(marker.casefold(), marker)
        if marker not in spelling.values():
            raise InputError(
                f"No marker {marker!r} for class {name!r}. Markers: {', '.join(sorted(planned))}."
            )
        if class_of_marker.get(marker, name) != name:
            raise InputError(
                f"Marker {marker!r} has the class {class_of_marker[marker]!r} already, not {name!r}."
            )
        names[marker] = name
    taken: list[dict[str, Any]] = list(known.classes)
    for marker in sorted(planned - set(class_of_marker)):
        name = names.get(marker) or CLASS_OF_MARKER.get(marker, f"{marker} positive")
        if name.casefold() in {row["name"].casefold() for row in taken}:
            raise InputError(
                f"Class {name!r} is there already; marker {marker!r} needs one with another name."
            )
        taken.append({"name": name, "marker": marker, **_free_look(name, taken)})
    return taken[len(known.classes) :]


def _free_look(name: str, taken: list[dict[str, Any]]) -> dict[str, str]:
    colours, keys = {row["colour"] for row in taken}, {row["key"] for row in taken}
    colour, key = CLASS_LOOK.get(name, ("", ""))
    if not key or key in keys:
        key = next((key for key in KEYS if key not in keys), "")
    if not key:
        raise InputError(f"No key is left for class {name!r}: {len(KEYS)} classes are the most a study has.")
    if not colour or colour in colours:
        colour = next((c for c in COLOURS if c not in colours), COLOURS[len(taken) % len(COLOURS)])
    return {"colour": colour, "key": key}


def begin_study(folder: Path, name: str) -> Study:
    """An empty study for real images."""
    return create_study(folder, name, BACKBONE, BACKBONES[BACKBONE].weights_sha256)


@contextmanager
def study_to_fill(study: Study | None, folder: Path, name: str) -> Iterator[Study]:
    """The study itself; or a new one that appears under its folder's name only once it is filled."""
    if study is not None:
        yield study
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    building = folder.with_name(f".{folder.name}.importing-{os.getpid()}")
    try:
        yield begin_study(building, name)
        if folder.exists():
            folder.rmdir()
        building.rename(folder)
    except BaseException:
        shutil.rmtree(building, ignore_errors=True)
        raise


@dataclass(frozen=True)
class StoredImage:
    """An image file in the study, ready for its row."""

    sha256: str
    height_px: int
    width_px: int
    bits: int
    source_name: str


@dataclass(frozen=True)
class StoredPatch:
    planned: PlannedPatch
    pas: StoredImage
    channels: tuple[tuple[PlannedChannel, StoredImage], ...]
    registration: Mapping[str, Any] | None


@dataclass(frozen=True)
class SlideFile:
    """Where the pixels of a slide's patches came from."""

    path: str
    sha256: str
    um_per_px: float
    if_path: str | None = None
    if_sha256: str | None = None


@dataclass(frozen=True)
class Pixels:
    """The pixels of a patch, whose channels may have been brought onto its stain already.

    registration: how that was measured, a row without its matrix; None where nothing was measured.
    """

    stain: np.ndarray
    channels: list[np.ndarray]
    registration: Mapping[str, Any] | None = None


def read_files(patch: PlannedPatch) -> Pixels:
    """The pixels of a patch whose images are files."""
    return Pixels(read_rgb(patch.pas), [_pixels(channel) for channel in patch.channels])


class _ImageStore:
    """Puts images into a study, and takes out again those it brought if the import fails."""

    def __init__(self, study: Study) -> None:
        self.study = study
        self.brought: list[str] = []

    def put(self, pixels: np.ndarray, source_name: str) -> StoredImage:
        content = encode_png(pixels)
        sha256 = hashlib.sha256(content).hexdigest()
        path = self.study.image_path(sha256)
        if not path.exists():
            self.brought.append(sha256)
            write_file(path, content)
        height_px, width_px = pixels.shape[:2]
        return StoredImage(sha256, height_px, width_px, pixels.dtype.itemsize * 8, source_name)

    def take_back(self) -> None:
        with self.study.science.read() as db:
            used = {row["sha256"] for row in images.list_images(db)}
        for sha256 in self.brought:
            path = self.study.image_path(sha256)
            if sha256 not in used:  # by another import at the same time
                path.unlink(missing_ok=True)
                with contextlib.suppress(OSError):  # not empty
                    path.parent.rmdir()


def write_patches(
    study: Study,
    new: list[PlannedPatch],
    classes: list[dict[str, str]],
    report: Report | None,
    read: Callable[[PlannedPatch], Pixels] = read_files,
    slide_files: Mapping[str, SlideFile] | None = None,
    doing: str = "importing",
) -> dict[str, int]:
    """First every file, then every row in one transaction; after an error neither."""
    store = _ImageStore(study)
    try:
        stored = []
        for done, patch in enumerate(new):
            if report:
                report(done, len(new), f"{doing} {patch.name}, {done + 1} of {len(new)}", {})
            pixels = read(patch)
            channels = tuple(
                (channel, store.put(plane, f"{patch.name}_{channel.marker}"))
                for channel, plane in zip(patch.channels, pixels.channels, strict=True)
            )
            # Never what the file was called: that may be a patient's name.
            pas = store.put(pixels.stain, f"{patch.name}_pas")
            stored.append(StoredPatch(patch, pas, channels, pixels.registration))
        if report:
            report(len(new), len(new), "saving", {})
        total = _write_rows(study, stored, classes, slide_files or {})
        _keep_paths(study, slide_files or {})
    except BaseException:
        store.take_back()
        raise
    if report:
        with contextlib.suppress(ImportCancelledError):  # too late: it is all there
            report(len(new), len(new), "done", {})
    return {
        "patches": len(new),
        "channels": sum(len(patch.channels) for patch in new),
        "slides": len({patch.slide for patch in new}),
        "patches_in_study": total,
    }


def _write_rows(
    study: Study,
    stored: list[StoredPatch],
    classes: list[dict[str, str]],
    slide_files: Mapping[str, SlideFile],
) -> int:
    """Every row in one transaction; returns the patches that are in the study now."""
    new = [patch.planned for patch in stored]
    with study.science.write() as db:
        there = {patch["name"].casefold() for patch in images.list_patches(db)}
        for patch in new:
            if patch.name.casefold() in there:
                raise InputError(f"Patch {patch.name!r} was imported by someone else just now. Import again.")
        slides = _add_slides(db, new, slide_files)
        for patch in stored:
            _add_patch(db, slides, patch)
        for row in classes:
            study_store.add_class(db, **row)
        return len(images.list_patches(db))


def _keep_paths(study: Study, slide_files: Mapping[str, SlideFile]) -> None:
    """Where slides lie is the server's business: a path may hold a patient's name."""
    with study.server.write() as db:
        for file in slide_files.values():
            slide_file_store.add_slide_file(db, file.sha256, file.path)
            if file.if_sha256 and file.if_path:
                slide_file_store.add_slide_file(db, file.if_sha256, file.if_path)


def _add_slides(db: Any, new: list[PlannedPatch], slide_files: Mapping[str, SlideFile]) -> dict[str, int]:
    """Slide name -> id. What patches of a new slide do not share is unknown for the slide."""
    slides = {row["name"]: row["id"] for row in images.list_slides(db)}
    for name in dict.fromkeys(patch.slide for patch in new if patch.slide not in slides):
        conditions = {patch.condition for patch in new if patch.slide == name}
        sizes = {patch.um_per_px for patch in new if patch.slide == name}
        condition = conditions.pop() if len(conditions) == 1 else "unknown"
        file = asdict(slide_files[name]) | {"path": None, "if_path": None} if name in slide_files else {}
        um_per_px = sizes.pop() if len(sizes) == 1 else None
        slides[name] = images.add_slide(db, name, condition, **{"um_per_px": um_per_px, **file})
    return slides


def _add_patch(db: Any, slides: Mapping[str, int], stored: StoredPatch) -> None:
    patch = stored.planned
    images.add_image(db, **asdict(stored.pas))
    patch_id = images.add_patch(
        db,
        name=patch.name,
        slide_id=slides[patch.slide],
        glomerulus=patch.glomerulus,
        x0=patch.x0,
        y0=patch.y0,
        um_per_px=patch.um_per_px,
        condition=patch.condition,
        image_sha256=stored.pas.sha256,
    )
    for channel, image in stored.channels:
        images.add_image(db, **asdict(image))
        images.add_channel(db, patch_id, channel.role, channel.marker, image.sha256)
    measured = stored.registration
    if measured is None or not measured["accepted"]:
        # Equal size is all that is known of the pair; a measured registration is a later version.
        images.add_registration(db, patch_id, identity_matrix(), ASSUMED, accepted=True)
    if measured is not None:
        # The channels were cut in the patch's frame: nothing is left to move.
        images.add_registration(db, patch_id, identity_matrix(), **measured)
