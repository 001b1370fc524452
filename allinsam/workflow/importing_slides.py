"""Cut a whole slide into patches of a study; the slide itself stays where it is."""

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from allinsam.errors import InputError
from allinsam.importing import PlannedChannel, PlannedPatch, Problem
from allinsam.importing.folder import NUCLEAR_TAGS
from allinsam.importing.plan import KNOWN_MARKERS
from allinsam.importing.records import check_condition, check_um_per_px, file_stem
from allinsam.importing.slide import Glomerulus, SlideRules, places_on, read_glomeruli
from allinsam.registration import (
    SLIDE_SETTINGS,
    Registration,
    compose,
    estimate_slide,
    refine_seen,
    seen_frame,
)
from allinsam.slides import Slide, cut, file_sha256, open_slide, overview
from allinsam.store import Study, images
from allinsam.store import slide_files as slide_file_store
from allinsam.workflow.importing import (
    ImportRefusedError,
    Known,
    Pixels,
    Report,
    SlideFile,
    existing_study,
    known_in,
    new_classes,
    stoppable,
    study_to_fill,
    summary_of,
    write_patches,
)
from allinsam.workflow.registering import BY_ESTIMATE, FROM_SLIDE, best_estimate, row_of

# What `estimate_slide` looks at; of a slide 2 cm wide, about 5 um per px.
REGISTRATION_PX = 4096
# Slides of one frame may differ by the rounding of their scanner.
SAME_ASPECT = 0.02


@dataclass(frozen=True)
class SlideSource:
    """The files of a slide, and what they do not say.

    channels: marker -> which channel of the fluorescence slide, from 0. DAPI and Hoechst are nuclear.
    glomeruli: GeoJSON of their outlines, in px of the stained slide's finest level.
    name: of the slide in the study; the file's by default.
    um_per_px: of the finest level, where the file does not say; `if_um_per_px` of the fluorescence.
    register: find how the fluorescence lies on the stain, of the slide and then of each patch; otherwise
        both show the same frame.
    """

    path: Path
    if_path: Path | None = None
    channels: Mapping[str, int] = field(default_factory=dict)
    glomeruli: Path | None = None
    name: str | None = None
    condition: str = "unknown"
    um_per_px: float | None = None
    if_um_per_px: float | None = None
    register: bool = False


@dataclass(frozen=True)
class _Plan:
    """A slide's patches, and how their pixels are read while both files are open."""

    slide: Slide
    if_slide: Slide | None
    patches: list[PlannedPatch]
    um_per_px: float
    glomeruli: list[Glomerulus]


def import_slide(
    study_folder: Path,
    source: SlideSource,
    rules: SlideRules | None = None,
    name: str | None = None,
    report: Report | None = None,
    should_stop: Callable[[], bool] = lambda: False,
) -> dict[str, Any]:
    """Cut a stained slide, and its fluorescence, into patches of a study, which is made if it is not there.

    All or nothing. Each patch is resampled once, from the nearest finer level. Patches that the study holds
    already, of the same slide file, are left as they are. Where the fluorescence is registered, a patch whose
    own transform cannot be believed is cut by the slide's and waits, as after any registration that failed.

    Args:
        name: of a new study; the folder's name by default.

    Raises:
        InputError: a file, a rule or the study cannot be used, or the fluorescence could not be registered.
        ImportRefusedError: the study holds something else under the name of the slide or of a patch.
        ImportCancelledError: `should_stop` said so.
    """
    study_folder = Path(study_folder).resolve()
    study = existing_study(study_folder, name)
    known = known_in(study)
    report = stoppable(report, should_stop)
    with ExitStack() as files:
        plan = _plan(files, source, rules or SlideRules(), known, report)
        report(0, 1, f"reading {plan.slide.path.name}", {})
        file = _slide_file(plan)
        new, already, problems = _against(study, known, plan, file)
        if problems:
            raise ImportRefusedError(source.path, problems, "Give the slide another name, or leave it out.")
        classes = new_classes(known, new, {})
        to_stain = _if_to_stain(plan, source, report) if plan.if_slide else None
        refines = source.register and to_stain is not None
        registrations: list[dict[str, Any]] = []

        def read(patch: PlannedPatch) -> Pixels:
            if not refines:
                return _cut_patch(plan, patch, to_stain)
            pixels, found = _cut_refined(plan, patch, to_stain)
            registrations.append(
                {"patch": patch.name, "method": pixels.registration["method"], **found.as_dict()}
            )
            return pixels

        doing = "registering and cutting" if refines else "cutting"
        with study_to_fill(study, study_folder, name or study_folder.name) as filled:
            counts = write_patches(filled, new, classes, report, read, {plan.patches[0].slide: file}, doing)
    return {
        "study": str(study_folder),
        "new_study": study is None,
        **counts,
        "glomeruli": len({patch.glomerulus for patch in new if patch.glomerulus}),
        "classes": [{"name": row["name"], "marker": row["marker"]} for row in classes],
        "already_there": already,
        # Matrices from IF px to px of the patch: what its IF was cut through.
        "registrations": registrations,
        "problems": [],
    }


def preview_slide(study_folder: Path, source: SlideSource, rules: SlideRules | None = None) -> dict[str, Any]:
    """What `import_slide` would bring, as `preview_import` tells it; nothing is written or registered."""
    study_folder = Path(study_folder).resolve()
    study = existing_study(study_folder, None)
    known = known_in(study)
    with ExitStack() as files:
        plan = _plan(files, source, rules or SlideRules(), known, stoppable(None, lambda: False))
        if plan.if_slide and not source.register:
            _same_frame(plan, source)
        new, already, problems = _against(study, known, plan, None)
    return summary_of(known, new, already, problems)


def _plan(files: ExitStack, source: SlideSource, rules: SlideRules, known: Known, report: Report) -> _Plan:
    """Everything that can be known before a pixel of a patch is read."""
    rules = rules.checked()
    report(0, 1, f"looking for tissue on {source.path.name}", {})
    slide = files.enter_context(open_slide(source.path))
    um_per_px = _um_per_px(slide, source.um_per_px, "--slide-um-per-px")
    condition = check_condition(source.condition)
    if_slide, channels = _fluorescence(files, source, known)
    glomeruli = read_glomeruli(source.glomeruli, slide.size_hw) if source.glomeruli else []
    name = _slide_name(source)
    patches = [
        PlannedPatch(
            where=slide.path.name,
            name=f"{name}_x{round(place.x0)}_y{round(place.y0)}",
            pas=slide.path,
            slide=name,
            glomerulus=place.glomerulus,
            condition=condition,
            um_per_px=rules.um_per_px,
            channels=channels,
            size_px=rules.patch_px,
            x0=place.x0,
            y0=place.y0,
        )
        for place in places_on(slide, um_per_px, rules, glomeruli)
    ]
    # Two glomeruli side by side may be centred on one place.
    unique = list({patch.name: patch for patch in patches}.values())
    return _Plan(slide, if_slide, unique, um_per_px, glomeruli)


def _slide_name(source: SlideSource) -> str:
    name = source.name or file_stem(source.path.name)
    if not name.isprintable() or not 0 < len(name) <= 200:
        raise InputError(f"{name[:40]!r} is no plain short name of a slide. Give another.")
    return name


def _um_per_px(slide: Slide, given: float | None, flag: str) -> float:
    told = check_um_per_px("" if given is None else str(given)) or slide.um_per_px
    if told is None:
        raise InputError(f"{slide.path} does not say its pixel size. Give it with {flag}, such as 0.25.")
    return told


def _fluorescence(
    files: ExitStack, source: SlideSource, known: Known
) -> tuple[Slide | None, tuple[PlannedChannel, ...]]:
    if source.if_path is None:
        if source.channels:
            raise InputError(f"Channels {', '.join(source.channels)} of what? Give the IF slide with --if.")
        return None, ()
    slide = files.enter_context(open_slide(source.if_path))
    if not source.channels:
        raise InputError(
            f"{slide.path} has {slide.channels} channel(s). Say which marker is where: --channels WT1=0."
        )
    spelling = {marker.casefold(): marker for marker in reversed([*known.markers, *KNOWN_MARKERS])}
    channels: list[PlannedChannel] = []
    for marker, index in source.channels.items():
        if not 0 <= index < slide.channels:
            raise InputError(
                f"{slide.path} has no channel {index} for {marker!r}. It has {slide.channels}, from 0."
            )
        if not marker.strip() or not marker.isprintable() or len(marker) > 60:
            raise InputError(f"{marker[:40]!r} is no plain short marker. Give a name such as WT1.")
        nuclear = NUCLEAR_TAGS.get(marker.casefold())
        role, shown = ("nuclear", nuclear) if nuclear else ("marker", spelling.get(marker.casefold(), marker))
        if (role, shown) in {(one.role, one.marker) for one in channels}:
            raise InputError(f"Channel {shown!r} is given twice. Keep one.")
        channels.append(PlannedChannel(slide.path.name, role, shown, slide.path, index))
    if not any(channel.role == "marker" for channel in channels):
        raise InputError(f"{slide.path}: no marker among {', '.join(source.channels)}. Add one: WT1=0.")
    return slide, tuple(channels)


def _slide_file(plan: _Plan) -> SlideFile:
    other = plan.if_slide
    return SlideFile(
        str(plan.slide.path.resolve()),
        file_sha256(plan.slide.path),
        plan.um_per_px,
        str(other.path.resolve()) if other else None,
        file_sha256(other.path) if other else None,
    )


def _against(
    study: Study | None, known: Known, plan: _Plan, file: SlideFile | None
) -> tuple[list[PlannedPatch], int, list[Problem]]:
    """Patches the study does not have, the number it has, and what it holds under a name of theirs.

    `file` None: whether it is the same slide is not asked, since reading all of it takes long.
    """
    if study is None:
        return plan.patches, 0, []
    name, where = plan.patches[0].slide, plan.slide.path.name
    with study.science.read() as db:
        there = next((row for row in images.list_slides(db) if row["name"] == name), None)
    if there and (there["sha256"] is None or (file and there["sha256"] != file.sha256)):
        with study.server.read() as db:
            path = slide_file_store.path_of(db, there["sha256"]) if there["sha256"] else None
        another = f"another file, {path}" if path else "another file"
        what = "images that are no slide" if there["sha256"] is None else another
        return [], 0, [Problem(where, f"the study has a slide {name!r} of {what}. Rename this one.")]
    new, already, problems = [], 0, []
    for patch in plan.patches:
        row = known.patches.get(patch.name.casefold())
        if row is None:
            new.append(patch)
        elif row["um_per_px"] == patch.um_per_px and row["width_px"] == patch.size_px:
            already += 1
        else:
            size = f"{row['width_px']} px at {row['um_per_px']} um per px"
            problems.append(Problem(where, f"patch {patch.name!r} is in the study with {size}. Rename it."))
    return new, already, problems[:1]


# --- Pixels -------------------------------------------------------------------------------------


def _same_frame(plan: _Plan, source: SlideSource) -> np.ndarray:
    """IF px -> stain px of two slides that show the same frame, whatever their pixel sizes."""
    stain, other = plan.slide, plan.if_slide
    times_y, times_x = (a / b for a, b in zip(stain.size_hw, other.size_hw, strict=True))
    if abs(times_x / times_y - 1) > SAME_ASPECT:
        raise InputError(
            f"{other.path} ({other.size_hw[1]}x{other.size_hw[0]} px) does not show the frame of "
            f"{stain.path} ({stain.size_hw[1]}x{stain.size_hw[0]} px). Let it be registered."
        )
    told = source.if_um_per_px or other.um_per_px
    scale = told / plan.um_per_px if told else (times_x + times_y) / 2
    if abs(scale / times_x - 1) > SAME_ASPECT:
        raise InputError(
            f"{other.path} has {told:g} um per px, but to show the frame of {stain.path} it would need "
            f"{plan.um_per_px * times_x:g}. Correct the pixel size, or let it be registered."
        )
    return np.array([[scale, 0.0, 0.0], [0.0, scale, 0.0]])


def _if_to_stain(plan: _Plan, source: SlideSource, report: Report) -> np.ndarray:
    """IF px -> stain px, 2x3."""
    if not source.register:
        return _same_frame(plan, source)
    report(0, 1, f"registering {plan.if_slide.path.name}", {})
    stain, times = overview(plan.slide, REGISTRATION_PX)
    channels = plan.patches[0].channels
    best = next((one for one in channels if one.role == "nuclear"), channels[0])
    moving, moving_times = overview(plan.if_slide, REGISTRATION_PX, best.index)
    # Stain px per IF px; without a pixel size both slides show about the same area.
    told = source.if_um_per_px or plan.if_slide.um_per_px
    scale = told / plan.um_per_px if told else max(plan.slide.size_hw) / max(plan.if_slide.size_hw)
    settings = replace(SLIDE_SETTINGS, scale=scale * moving_times / times)
    found = estimate_slide(stain, moving, times, moving_times, settings)
    if not found.accepted:
        raise InputError(
            f"{plan.if_slide.path} could not be registered on {plan.slide.path}: {' '.join(found.reasons)} "
            "Bring both into one frame first."
        )
    return found.matrix


def _to_patch(plan: _Plan, patch: PlannedPatch) -> np.ndarray:
    """Stain px -> px of the patch, 2x3."""
    shrink = plan.um_per_px / patch.um_per_px
    return np.array([[shrink, 0.0, -patch.x0 * shrink], [0.0, shrink, -patch.y0 * shrink]])


def _cut_patch(plan: _Plan, patch: PlannedPatch, if_to_stain: np.ndarray | None) -> Pixels:
    """The stain as it is scanned; the IF through both transforms at once, so that it is resampled once."""
    to_patch = _to_patch(plan, patch)
    stain = cut(plan.slide, to_patch, patch.size_px)
    if if_to_stain is None:
        return Pixels(stain, [])
    return Pixels(stain, _cut_if(plan, patch, compose(to_patch, if_to_stain)))


def _cut_if(plan: _Plan, patch: PlannedPatch, matrix: np.ndarray) -> list[np.ndarray]:
    return [cut(plan.if_slide, matrix, patch.size_px, one.index) for one in patch.channels]


def _cut_refined(plan: _Plan, patch: PlannedPatch, if_to_stain: np.ndarray) -> tuple[Pixels, Registration]:
    """The same where the patch first gets its own transform, started from its slide's.

    Only this patch and its surroundings are read, whatever the size of the slides.
    """
    to_patch = _to_patch(plan, patch)
    stain = cut(plan.slide, to_patch, patch.size_px)
    by_slide = compose(to_patch, if_to_stain)
    to_seen, (seen_px, _) = seen_frame(by_slide, stain.shape[:2])

    def refined_on(number: int) -> Registration:
        seen = cut(plan.if_slide, to_seen, seen_px, patch.channels[number].index)
        return refine_seen(stain, seen, by_slide)

    found, marker = best_estimate([(one.role, one.marker) for one in patch.channels], refined_on)
    row = row_of(found, f"{BY_ESTIMATE}{marker}{FROM_SLIDE}")
    return Pixels(stain, _cut_if(plan, patch, found.matrix), row), found
