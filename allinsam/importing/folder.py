"""Read a folder without a manifest: images of a patch share a name up to their last underscore."""

import os
import re
from pathlib import Path

from allinsam.errors import InputError
from allinsam.files import lies_in
from allinsam.importing.records import (
    STAINED_TAGS,
    FolderRules,
    PlacedError,
    PlannedChannel,
    PlannedPatch,
    Problem,
    check_condition,
    check_um_per_px,
    default_slide,
    file_stem,
)

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff")
# Pictures that are not read: somebody meant them to come, so they are told.
OTHER_SUFFIXES = (".bmp", ".gif", ".webp", ".jp2", ".heic", ".czi", ".lif", ".nd2", ".oib", ".lsm", ".ndpi")
OTHER_SUFFIXES += (".mrxs", ".svs", ".scn", ".vsi", ".dcm")
# Truth and pictures that come beside DeepLIIF's channels.
NO_CHANNEL_TAGS = ("seg", "inst", "class", "ihc")
# Channels that guide nobody, as a study names them.
NUCLEAR_TAGS = {"dapi": "DAPI", "hoechst": "Hoechst"}
OTHER_TAGS = {"lap2": "LAP2"}
DEEPLIIF_MARKER = "Ki67"
NAMES = "Images of a patch are named x_pas and x_<marker>."


def read_folder(folder: Path, rules: FolderRules) -> tuple[list[PlannedPatch], list[Problem]]:
    """The patches a folder's file names tell, no image opened yet, and its problems."""
    condition = check_condition(rules.condition)
    um_per_px = check_um_per_px("" if rules.um_per_px is None else str(rules.um_per_px))
    inside, problems = _inside(folder, _list_images(folder))
    problems += _left_out(folder)
    stained, channels, unpaired = _pair_up(inside)
    problems += unpaired
    patches = []
    for stem, (path, tag) in stained.items():
        try:
            slide = _slide_of(stem, rules.slide_pattern)
        except PlacedError as error:
            problems.append(error.problem)
            continue
        found = tuple(_folder_channel(file, name, tag, rules) for file, name in channels.get(stem, []))
        patches.append(PlannedPatch(path.name, stem, path, slide, None, condition, um_per_px, found))
    return patches, problems


def _list_images(folder: Path) -> list[Path]:
    try:
        files = sorted(folder.iterdir())
    except OSError as error:
        raise InputError(f"{folder} cannot be listed: {error.strerror}. Check its permissions.") from error
    images = [p for p in files if _is_image(p) and not p.is_dir()]
    if not images and any(map(_holds_images, files)):
        raise InputError(
            f"{folder} holds images only in folders below. Put all of them into one folder, or write a "
            "CSV manifest that names them."
        )
    if not images:
        raise InputError(f"{folder} holds no PNG, JPEG or TIFF image. Give another folder or a CSV manifest.")
    return images


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".")


def _holds_images(path: Path) -> bool:
    """Whether it is a folder with an image somewhere in it; links are not followed."""
    if path.name.startswith(".") or path.is_symlink() or not path.is_dir():
        return False
    return any(_is_image(Path(name)) for _, _, names in os.walk(path) for name in names)


def _left_out(folder: Path) -> list[Problem]:
    """Images that are not read where they lie, or as what they are."""
    problems = []
    for path in sorted(folder.iterdir()):
        if _holds_images(path):
            line = (
                "images in a folder below are not read. Put them beside the others, or write a manifest.csv."
            )
            problems.append(Problem(path.name, line))
        elif path.suffix.lower() in OTHER_SUFFIXES and path.is_file() and not path.name.startswith("."):
            line = f"{path.suffix} is not read here. Export it as PNG or TIFF, or import a slide as a slide."
            problems.append(Problem(path.name, line))
    return problems


def _inside(folder: Path, images: list[Path]) -> tuple[list[Path], list[Problem]]:
    """The images that lie in the folder itself, and those that a link brings in from elsewhere."""
    outside = [path for path in images if not lies_in(folder, path)]
    problems = [Problem(p.name, "links out of the folder. Put the file itself there.") for p in outside]
    return [path for path in images if path not in outside], problems


Tagged = tuple[Path, str]  # a file, and what its name says after the last underscore


def _pair_up(images: list[Path]) -> tuple[dict[str, Tagged], dict[str, list[Tagged]], list[Problem]]:
    """Stained images and channels by the part of the name they share, and the files without a pair."""
    stained: dict[str, Tagged] = {}
    channels: dict[str, list[Tagged]] = {}
    problems = []
    for path in images:
        stem, _, tag = file_stem(path.name).rpartition("_")
        if not stem or not tag:
            problems.append(Problem(path.name, f"no pair. {NAMES} Rename it or move it away."))
        elif tag.lower() in STAINED_TAGS and stem in stained:
            first = stained[stem][0].name
            problems.append(Problem(path.name, f"duplicate: {first} is this patch already. Keep one."))
        elif tag.lower() in STAINED_TAGS:
            stained[stem] = (path, tag.lower())
        elif tag.lower() not in NO_CHANNEL_TAGS:
            channels.setdefault(stem, []).append((path, tag))
    for stem, tagged in channels.items():
        if stem not in stained:
            for path, _ in tagged:
                problems.append(Problem(path.name, f"missing pair: no {stem}_pas image beside it. {NAMES}"))
    return stained, channels, problems


def _slide_of(stem: str, pattern: str | None) -> str:
    if pattern is None:
        return default_slide(stem)
    try:
        found = re.search(pattern, stem)
    except re.error as error:
        raise InputError(f"The slide rule {pattern!r} is no regular expression: {error}.") from error
    slide = found and found.group(1 if found.re.groups else 0)
    if not slide:
        raise PlacedError(stem, f"the slide rule {pattern!r} finds no slide in this name. Correct it.")
    return slide


def _folder_channel(path: Path, tag: str, stained_tag: str, rules: FolderRules) -> PlannedChannel:
    low = tag.lower()
    role, marker = "marker", tag
    if low in NUCLEAR_TAGS:
        role, marker = "nuclear", NUCLEAR_TAGS[low]
    elif low in OTHER_TAGS:
        role, marker = "other", OTHER_TAGS[low]
    elif low == "marker":
        marker = rules.marker_name or (DEEPLIIF_MARKER if stained_tag == "hematoxylin" else tag)
    return PlannedChannel(path.name, role, marker, path, None, one_colour=True)
