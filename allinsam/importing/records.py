"""What a plan is made of, and the checks and names that manifests and folders share."""

import math
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from allinsam.errors import InputError
from allinsam.imaging import MICROSCOPE_UM_PER_PX
from allinsam.records import CONDITIONS

STAINED_TAGS = ("pas", "hematoxylin")


@dataclass(frozen=True)
class FolderRules:
    """What file names do not say, for a folder without a manifest."""

    marker_name: str | None = None  # the marker of `_marker` files; None: Ki67 in DeepLIIF's layout
    slide_pattern: str | None = None  # regular expression searched in a patch's name; its first group is the
    # slide. None: the text before the first _
    condition: str = "unknown"
    um_per_px: float | None = None  # None: as the stained file says, if it does


@dataclass(frozen=True)
class Fallback:
    """What holds for patches of which neither manifest nor file says it."""

    um_per_px: float | None = None
    condition: str = "unknown"


@dataclass(frozen=True)
class ImportLimits:
    """How large things may be; told from headers and directories before anything is decoded."""

    patch_mpx: float = 64.0  # pixels of one patch image, in millions
    zip_entries: int = 10_000
    zip_file_mb: int = 400  # of one file in a ZIP, unpacked
    zip_mb: int = 2_000  # of a whole ZIP, unpacked
    kept_free_mb: int = 500  # of the study's disk: a full one would stop everybody who annotates


@dataclass(frozen=True)
class Problem:
    """One thing wrong: where (a row of the manifest, or a file), what it is, and what to do about it."""

    where: str
    message: str

    def __str__(self) -> str:
        return f"{self.where}: {self.message}"


@dataclass(frozen=True)
class PlannedChannel:
    where: str
    role: str
    marker: str
    path: Path
    index: int | None  # None: found out when the file is opened
    one_colour: bool = False  # True: the file shows this channel alone, in whatever colour


@dataclass(frozen=True)
class PlannedPatch:
    """A patch and its channels. In a plan all are readable, of one size, and every index is known."""

    where: str
    name: str
    pas: Path
    slide: str
    glomerulus: str | None
    condition: str
    um_per_px: float | None
    channels: tuple[PlannedChannel, ...]
    pixels_sha256: str = ""
    x0: float = 0.0  # of a patch to be cut: where it lies on its slide, in px of the slide
    y0: float = 0.0
    size_px: int = 0  # and its side, in px of the patch


class PlacedError(Exception):
    """Carries a problem, with its place, to where problems are gathered."""

    def __init__(self, where: str, message: str) -> None:
        super().__init__(message)
        self.problem = Problem(where, message)


def check_condition(text: str) -> str:
    """The condition in the study's spelling, or InputError."""
    if text.lower() not in CONDITIONS:
        raise InputError(f"condition {text!r} is unknown. Give {', '.join(CONDITIONS)}.")
    return text.lower()


def check_um_per_px(text: str) -> float | None:
    """The pixel size in micrometres, None for empty text, or InputError."""
    if not text:
        return None
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    largest = MICROSCOPE_UM_PER_PX[1]
    if not 0 < value <= largest:
        raise InputError(
            f"um_per_px {text!r} is not between 0 and {largest:g}. Give micrometres per pixel, "
            "such as 0.25, or leave it empty."
        )
    return value


def patch_name(path: PurePosixPath) -> str:
    """The path with _ between its folders, without suffix and without the tag of stained images."""
    stem = "_".join([*path.parent.parts, file_stem(path.name)])
    base, _, tag = stem.rpartition("_")
    return base if base and tag.lower() in STAINED_TAGS else stem


def file_stem(name: str) -> str:
    stem = name.rpartition(".")[0] or name
    return stem[:-4] if stem.lower().endswith(".ome") else stem


def default_slide(name: str) -> str:
    return name.partition("_")[0] or name
