"""From a source to a plan: read what it states, open every image, gather what is wrong."""

import hashlib
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from allinsam.errors import InputError
from allinsam.files import lies_in
from allinsam.imaging import ImageHeader, check_channel_index, image_header, read_image, read_rgb
from allinsam.importing.folder import read_folder
from allinsam.importing.manifest import MANIFEST_NAME, MANIFEST_SUFFIXES, read_manifest
from allinsam.importing.records import (
    Fallback,
    FolderRules,
    ImportLimits,
    PlacedError,
    PlannedChannel,
    PlannedPatch,
    Problem,
    check_condition,
    check_um_per_px,
)

KNOWN_MARKERS = ("WT1", "GATA3", "Ki67", "DAPI")

Report = Callable[[float, float, str, dict[str, Any]], None]


@dataclass(frozen=True)
class ImportPlan:
    """What can be imported, and a line for each thing that cannot."""

    source: Path
    patches: tuple[PlannedPatch, ...]
    problems: tuple[Problem, ...]


def plan_import(
    source: Path,
    rules: FolderRules | None = None,
    report: Report | None = None,
    known_markers: Iterable[str] = (),
    limits: ImportLimits | None = None,
    fallback: Fallback | None = None,
) -> ImportPlan:
    """Read and check a manifest, or a folder: by its manifest.csv if it has one, else by file names.

    A patch with a problem is left out as a whole; every image of the others has been decoded. Markers are
    told apart without case and spelled as in `known_markers`, then as where they come first.

    Raises:
        InputError: there is nothing to look at, such as a missing folder or an empty manifest.
    """
    source = Path(source)
    if not source.exists():
        raise InputError(f"{source} is not there. Give a folder of images, a ZIP of one, or a CSV manifest.")
    if not source.is_dir() and source.suffix.lower() not in MANIFEST_SUFFIXES:
        raise InputError(f"{source} is neither a folder nor a .csv or .zip. Give one of these.")
    manifest = source / MANIFEST_NAME if source.is_dir() else source
    if source.is_dir() and manifest.is_symlink() and not lies_in(source, manifest):
        raise InputError(f"{manifest} links out of its folder. Put the file itself there.")
    if manifest.is_file():
        found, problems = read_manifest(manifest)
    else:
        found, problems = read_folder(source, rules or FolderRules())
    found = _one_spelling(found, (*known_markers, *KNOWN_MARKERS))
    patches, more = _open_all(found, report, limits or ImportLimits())
    patches = [_with_fallback(patch, fallback) for patch in patches] if fallback else patches
    in_order = sorted([*problems, *more], key=_place)
    return ImportPlan(source, tuple(patches), tuple(in_order))


def _with_fallback(patch: PlannedPatch, fallback: Fallback) -> PlannedPatch:
    um_per_px = check_um_per_px("" if fallback.um_per_px is None else str(fallback.um_per_px))
    condition = check_condition(fallback.condition)
    return replace(
        patch,
        um_per_px=um_per_px if patch.um_per_px is None else patch.um_per_px,
        condition=condition if patch.condition == "unknown" else patch.condition,
    )


def _place(problem: Problem) -> list[tuple[int, str]]:
    """Sorts row 9 before row 10."""
    return [(int(digits or 0), text) for text, digits in re.findall(r"(\D+)|(\d+)", problem.where)]


def _one_spelling(patches: list[PlannedPatch], known: Iterable[str]) -> list[PlannedPatch]:
    spelling = {name.casefold(): name for name in reversed(list(known))}

    def spelled(channel: PlannedChannel) -> PlannedChannel:
        return replace(channel, marker=spelling.setdefault(channel.marker.casefold(), channel.marker))

    return [replace(patch, channels=tuple(map(spelled, patch.channels))) for patch in patches]


def _open_all(
    found: list[PlannedPatch], report: Report | None, limits: ImportLimits
) -> tuple[list[PlannedPatch], list[Problem]]:
    """Decode every image; keep the patches that are whole and new among themselves."""
    patches: list[PlannedPatch] = []
    problems: list[Problem] = []
    by_name: dict[str, str] = {}
    by_pixels: dict[str, str] = {}
    for done, patch in enumerate(found):
        if report:
            report(done, len(found), f"checking {patch.name}", {})
        try:
            opened = _open_patch(patch, limits)
            for seen, key, what in (
                (by_name, patch.name.casefold(), f"patch name {patch.name!r}"),
                (by_pixels, opened.pixels_sha256, f"stained image {patch.pas.name!r}"),
            ):
                if key in seen:
                    raise PlacedError(patch.where, f"duplicate: {what} is in {seen[key]} already. Keep one.")
        except PlacedError as error:
            problems.append(error.problem)
            continue
        by_name[patch.name.casefold()] = by_pixels[opened.pixels_sha256] = patch.where
        patches.append(opened)
    return patches, problems


def _open_patch(patch: PlannedPatch, limits: ImportLimits) -> PlannedPatch:
    if not any(channel.role == "marker" for channel in patch.channels):
        raise PlacedError(patch.where, f"missing pair: {patch.pas.name} has no marker channel. Add one.")
    try:
        header = _small_enough(patch.pas, limits)
        pixels = read_rgb(patch.pas)
    except InputError as error:
        raise PlacedError(patch.where, str(error)) from error
    size_hw = pixels.shape[:2]
    channels = []
    for channel in patch.channels:
        try:
            opened = _open_channel(channel, size_hw, limits)
        except InputError as error:
            raise PlacedError(channel.where, str(error)) from error
        for other in channels:
            if (other.role, other.marker) == (opened.role, opened.marker):
                what = f"a second {opened.role} channel {opened.marker!r}"
            elif (other.path, other.index) == (opened.path, opened.index):
                what = f"the same channel as {other.marker!r}"
            else:
                continue
            raise PlacedError(channel.where, f"duplicate: {what} of {patch.pas.name}. Correct or drop one.")
        channels.append(opened)
    sha256 = hashlib.sha256(repr(pixels.shape).encode() + pixels.tobytes()).hexdigest()
    um_per_px = patch.um_per_px if patch.um_per_px is not None else header.um_per_px
    return replace(patch, channels=tuple(channels), um_per_px=um_per_px, pixels_sha256=sha256)


def _small_enough(path: Path, limits: ImportLimits) -> ImageHeader:
    """The header of an image that may be decoded as a patch."""
    header = image_header(path)
    if header.height_px * header.width_px > limits.patch_mpx * 1e6:
        raise InputError(
            f"{path} is {header.width_px}x{header.height_px} px, more than the {limits.patch_mpx:g} Mpx of a "
            "patch. Cut patches from it, or import it as a slide."
        )
    return header


def _open_channel(channel: PlannedChannel, size_hw: tuple[int, int], limits: ImportLimits) -> PlannedChannel:
    """The channel with its index, once the file has been decoded and fits the stained image."""
    header = _small_enough(channel.path, limits)
    if header.size_hw != size_hw:
        raise InputError(
            f"{channel.path} is {header.width_px}x{header.height_px} px, but its stained image is "
            f"{size_hw[1]}x{size_hw[0]}. Export both at one size."
        )
    pixels = read_image(channel.path)
    index = channel.index
    if index is None:
        index = 0 if pixels.ndim == 2 else _index_of_only_channel(channel, pixels)
    check_channel_index(channel.path, index, header.channels)
    return replace(channel, index=index)


def _index_of_only_channel(channel: PlannedChannel, pixels: np.ndarray) -> int:
    """Which channel to read where nobody said: any of equal ones, or the brightest of a coloured picture."""
    if (pixels == pixels[..., :1]).all():
        return 0
    if channel.one_colour and pixels.shape[2] == 3:
        return int(pixels.sum(axis=(0, 1), dtype=np.int64).argmax())
    last = pixels.shape[2] - 1
    raise InputError(f"{channel.path} has several channels. Give channel_index, 0 to {last}.")
