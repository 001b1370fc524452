"""Read whole slides piece by piece: pyramidal TIFF and OME-TIFF by themselves, vendors' files with OpenSlide.

Only the scanned image is read. A slide's label and macro pictures, which may show a patient's name, are never
opened. Coordinates without a unit in their name are px of the slide's finest level.
"""

import hashlib
import math
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from tifffile import PHOTOMETRIC, TiffFile, TiffPage, TiffPageSeries

from allinsam.errors import InputError
from allinsam.imaging import (
    DTYPES,
    check_compression,
    check_stored,
    microscope_um_per_px,
    one_clear_line,
    tiff_um_per_px,
)
from allinsam.registration.transforms import compose, invert, move_points, scale_of, warp_to_pas

TIFF_SUFFIXES = (".tif", ".tiff", ".svs")
VENDOR_SUFFIXES = (".ndpi", ".mrxs", ".scn", ".vms", ".vmu", ".bif", ".svslide", ".czi", ".dcm")
SLIDE_SUFFIXES = (*TIFF_SUFFIXES, *VENDOR_SUFFIXES)
MOST_PAGES = 1_000
MOST_TILE_PX = 64_000_000
MOST_OVERVIEW_PX = 250_000_000
WHITE, BLACK = 255, 0
# A level may be this much coarser than what is asked for and still count as fine enough: rounded sizes.
SLACK = 1.01

ReadLevel = Callable[[int, int, int, int, int], np.ndarray]


@dataclass(frozen=True)
class Slide:
    """An open slide.

    `read_level(level, x, y, width, height)` gives px of that level as (height, width, channels); all of them
    must lie inside it. Level 0 is the finest.
    """

    path: Path
    size_hw: tuple[int, int]
    channels: int
    dtype: str
    um_per_px: float | None
    level_sizes_hw: tuple[tuple[int, int], ...]
    read_level: ReadLevel

    @property
    def is_stain(self) -> bool:
        return self.channels == 3 and self.dtype == "uint8"

    def times(self, level: int) -> tuple[float, float]:
        """How many px of the slide one px of a level stands for, along x and y."""
        height, width = self.level_sizes_hw[level]
        return self.size_hw[1] / width, self.size_hw[0] / height


@contextmanager
def open_slide(path: Path | str) -> Iterator[Slide]:
    """A slide, closed at the end of the `with` block.

    Raises:
        InputError: the file is missing, damaged, or of a format that is not read.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path} is not there. Give the slide's file.")
    with ExitStack() as opened:
        with one_clear_line(path, "a slide"):
            slide = opened.enter_context(
                _open_tiff(path) if _is_plain_tiff(path) else _open_with_openslide(path)
            )

        def read_level(*where: int) -> np.ndarray:
            with one_clear_line(path, "a slide"):
                return slide.read_level(*where)

        yield replace(slide, read_level=read_level)


def file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# --- Cutting ------------------------------------------------------------------------------------


def cut(slide: Slide, matrix: np.ndarray, size_px: int, channel: int | None = None) -> np.ndarray:
    """A square patch, resampled once from the nearest finer level.

    Args:
        matrix: 2x3, maps (x, y) of the slide to px of the patch.
        channel: None: all of them (H, W, C); a number: that one (H, W).

    Returns:
        The patch; what lies outside the slide is white on a stain and 0 in a channel.
    """
    times = 1 / scale_of(matrix)
    level = max(
        (n for n in range(len(slide.level_sizes_hw)) if max(slide.times(n)) <= times * SLACK), default=0
    )
    times_x, times_y = slide.times(level)
    # Whole px of the level are averaged first, so that the resampling below skips none of them.
    whole = max(1, math.floor(times / max(times_x, times_y) * SLACK))
    corners = np.array([[x, y] for x in (0, size_px) for y in (0, size_px)], dtype=float)
    around = move_points(invert(matrix), corners) / (times_x, times_y)
    low = np.floor(around.min(axis=0) / whole).astype(int) * whole - whole
    count = np.ceil((around.max(axis=0) - low) / whole).astype(int) + 1
    if np.prod(count * whole, dtype=float) > MOST_OVERVIEW_PX:
        raise InputError(
            f"{slide.path} has no level coarse enough for patches of {size_px} px at this pixel size. "
            "Save it as a pyramidal TIFF, or ask for a finer pixel size."
        )
    fill = WHITE if channel is None and slide.is_stain else BLACK
    pixels = _read_anywhere(slide, level, low, count * whole, channel, fill)
    if whole > 1:
        pixels = cv2.resize(pixels, tuple(int(v) for v in count), interpolation=cv2.INTER_AREA)
        pixels = pixels if pixels.ndim == 3 or channel is not None else pixels[..., None]
    step = np.array([[times_x * whole, 0, low[0] * times_x], [0, times_y * whole, low[1] * times_y]])
    to_patch = compose(matrix, step)
    if np.allclose(to_patch[:, :2], np.eye(2), atol=1e-9) and np.allclose(
        to_patch[:, 2], np.round(to_patch[:, 2]), atol=1e-6
    ):
        # Already px of the patch: nothing is resampled.
        x, y = -np.round(to_patch[:, 2]).astype(int)
        return np.ascontiguousarray(pixels[y : y + size_px, x : x + size_px])
    return warp_to_pas(pixels, to_patch, (size_px, size_px))


def _read_anywhere(
    slide: Slide, level: int, low: np.ndarray, size: np.ndarray, channel: int | None, fill: int
) -> np.ndarray:
    """Px of a level, also beyond its edges."""
    height, width = slide.level_sizes_hw[level]
    x0, y0 = (int(v) for v in np.maximum(low, 0))
    x1, y1 = (int(v) for v in np.minimum(low + size, (width, height)))
    shape = (int(size[1]), int(size[0]), *((slide.channels,) if channel is None else ()))
    out = np.full(shape, fill, dtype=slide.dtype)
    if x1 > x0 and y1 > y0:
        found = slide.read_level(level, x0, y0, x1 - x0, y1 - y0)
        x, y = x0 - int(low[0]), y0 - int(low[1])
        out[y : y + y1 - y0, x : x + x1 - x0] = found if channel is None else found[..., channel]
    return out


def overview(slide: Slide, longest_px: int, channel: int | None = None) -> tuple[np.ndarray, float]:
    """The whole slide, small, and how many px of the slide one of its px stands for.

    Raises:
        InputError: the slide has no small levels and is too large to be reduced here.
    """
    wanted = max(1.0, max(slide.size_hw) / longest_px)
    level = max(
        (n for n in range(len(slide.level_sizes_hw)) if max(slide.times(n)) <= wanted * SLACK), default=0
    )
    height, width = slide.level_sizes_hw[level]
    if height * width > MOST_OVERVIEW_PX:
        raise InputError(
            f"{slide.path} has no small levels ({width}x{height} px is the smallest that helps). "
            "Save it as a pyramidal TIFF."
        )
    whole = max(1, round(wanted / max(slide.times(level))))
    rows = []
    band = max(1, 2048 // whole) * whole
    for y in range(0, height - height % whole or height, band):
        tall = min(band, height - y)
        pixels = slide.read_level(level, 0, y, width, tall)
        pixels = pixels if channel is None else pixels[..., channel]
        tall, wide = max(1, tall // whole), max(1, width // whole)
        kept = pixels[: tall * whole, : wide * whole]
        if whole > 1 and min(kept.shape[:2]) >= whole:
            kept = cv2.resize(kept, (wide, tall), interpolation=cv2.INTER_AREA)
        rows.append(kept)
    return np.concatenate(rows), whole * max(slide.times(level))


# --- TIFF ---------------------------------------------------------------------------------------


def _is_plain_tiff(path: Path) -> bool:
    with path.open("rb") as file:
        start = file.read(4)
    if not start:
        raise InputError(f"{path} is empty. Export it again.")
    is_tiff = start in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
    # Hamamatsu's and others' TIFFs keep what is needed in tags of their own.
    return is_tiff and path.suffix.lower() not in VENDOR_SUFFIXES


@contextmanager
def _open_tiff(path: Path) -> Iterator[Slide]:
    # Never follow an OME-TIFF into other files: a name in its XML may point anywhere.
    with TiffFile(path, _multifile=False) as file:
        if len(file.pages) > MOST_PAGES:  # every one would be looked into
            raise InputError(f"{path} has more than {MOST_PAGES} pages. Export the scanned image alone.")
        if not file.series:
            raise InputError(f"{path} holds no image. Export it again.")
        series = file.series[0]
        channels = _tiff_channels(path, series)
        um_per_px = tiff_um_per_px(file, series)
        if um_per_px is None and file.is_svs:
            found = re.search(r"MPP\s*=\s*([0-9.]+)", series.keyframe.description or "")
            um_per_px = microscope_um_per_px(float(found[1]), float(found[1])) if found else None
        levels = [level for level in series.levels if level.axes == series.axes]

        def read_level(level: int, x: int, y: int, width: int, height: int) -> np.ndarray:
            pages = [page for page in levels[level].pages if page is not None]
            planes = [_read_page(file, page, x, y, width, height) for page in pages]
            return planes[0] if len(planes) == 1 else np.concatenate(planes, axis=2)

        for level in levels:
            for page in level.pages:
                _check_page(path, page)
        yield Slide(
            path,
            _size_hw(series),
            channels,
            str(series.dtype.newbyteorder("=")),
            um_per_px,
            tuple(_size_hw(level) for level in levels),
            read_level,
        )


def _size_hw(series: TiffPageSeries) -> tuple[int, int]:
    sizes = dict(zip(series.axes, series.shape, strict=True))
    return int(sizes["Y"]), int(sizes["X"])


def _tiff_channels(path: Path, series: TiffPageSeries) -> int:
    """How many channels the scanned image has; InputError if it is none that can be cut."""
    sizes = dict(zip(series.axes, series.shape, strict=True))
    many = [axis for axis, size in sizes.items() if axis not in "YX" and size > 1]
    if not {"Y", "X"} <= set(sizes) or len(many) > 1 or not set(many) <= set("SCIQ"):
        raise InputError(f"{path} has axes {series.axes} {series.shape}. Export one plane with channels.")
    if series.keyframe.photometric not in (PHOTOMETRIC.MINISBLACK, PHOTOMETRIC.RGB, PHOTOMETRIC.YCBCR):
        kind = getattr(series.keyframe.photometric, "name", series.keyframe.photometric)
        raise InputError(f"{path} has colours of kind {kind}. Export it as RGB or grey (black is 0).")
    if str(series.dtype.newbyteorder("=")) not in DTYPES:
        raise InputError(f"{path} has {series.dtype} pixels. Export it as 8 or 16 bit unsigned.")
    return int(sizes[many[0]]) if many else 1


def _check_page(path: Path, page: TiffPage | None) -> None:
    if page is None:
        raise InputError(f"{path} is one of several files of a slide. Export the slide as one file.")
    page = page.aspage()
    if math.prod(page.chunks) > MOST_TILE_PX:
        raise InputError(f"{path} has tiles of {page.chunks} px. Export it with tiles of 512 px.")
    check_compression(path, page)
    planes = page.samplesperpixel if page.planarconfig == 2 else 1
    if len(page.dataoffsets) < planes * math.prod(_tiles_down_across(page)):
        raise InputError(f"{path} has fewer tiles than its size needs. Copy it again.")
    ends = np.add(page.dataoffsets, page.databytecounts, dtype=np.int64)
    if not len(ends) or int(ends.max()) > page.parent.filehandle.size:
        raise InputError(f"{path} is cut off. Copy it again.")


def _tile_hw(page: Any) -> tuple[int, int]:
    if page.is_tiled:
        return page.tilelength, page.tilewidth
    return min(page.rowsperstrip or page.imagelength, page.imagelength), page.imagewidth


def _tiles_down_across(page: Any) -> tuple[int, int]:
    tile_h, tile_w = _tile_hw(page)
    return math.ceil(page.imagelength / tile_h), math.ceil(page.imagewidth / tile_w)


def _read_page(file: TiffFile, page: Any, x: int, y: int, width: int, height: int) -> np.ndarray:
    """A part of one page as (height, width, samples), from the tiles or strips it touches."""
    page = page.aspage()
    tile_h, tile_w = _tile_hw(page)
    down, across = _tiles_down_across(page)
    planes = page.samplesperpixel if page.planarconfig == 2 else 1
    samples = page.samplesperpixel
    # A tile that was not stored is background.
    fill = WHITE if samples == 3 and page.dtype == np.uint8 else BLACK
    out = np.full((height, width, samples), fill, dtype=page.dtype.newbyteorder("="))
    tables = {}
    if page.jpegtables is not None or page.compression in (6, 7):
        tables = {"jpegtables": page.jpegtables, "jpegheader": page.jpegheader}
    for plane in range(planes):
        for row in range(y // tile_h, (y + height - 1) // tile_h + 1):
            for column in range(x // tile_w, (x + width - 1) // tile_w + 1):
                index = (plane * down + row) * across + column
                offset, count = page.dataoffsets[index], page.databytecounts[index]
                if not count:
                    continue
                file.filehandle.seek(offset)
                stored = file.filehandle.read(count)
                check_stored(Path(file.filehandle.path), page, stored)
                tile, _, shape = page.decode(stored, index, **tables)
                if tile is None:
                    continue
                tile = tile.reshape(-1, *tile.shape[-2:])[-tile.shape[-3] :][: shape[1], : shape[2]]
                left, top = column * tile_w, row * tile_h
                x0, y0 = max(x, left), max(y, top)
                x1, y1 = min(x + width, left + tile.shape[1]), min(y + height, top + tile.shape[0])
                part = tile[y0 - top : y1 - top, x0 - left : x1 - left]
                where = (slice(y0 - y, y1 - y), slice(x0 - x, x1 - x))
                out[where + ((slice(plane, plane + 1),) if planes > 1 else ())] = part
    return out


# --- OpenSlide ----------------------------------------------------------------------------------


@contextmanager
def _open_with_openslide(path: Path) -> Iterator[Slide]:
    try:
        import openslide
    except ImportError as error:
        raise InputError(
            f"{path} needs OpenSlide. Install it with `pip install openslide-python openslide-bin`, or save "
            "the slide as a pyramidal TIFF."
        ) from error
    if openslide.OpenSlide.detect_format(str(path)) is None:
        raise InputError(f"{path} is no slide that OpenSlide knows. Save it as a pyramidal TIFF.")
    with openslide.OpenSlide(str(path)) as opened:
        sizes = tuple((height, width) for width, height in opened.level_dimensions)
        told = [opened.properties.get(f"openslide.mpp-{axis}") for axis in "xy"]
        um_per_px = microscope_um_per_px(*(float(v) if v else None for v in told))

        def read_level(level: int, x: int, y: int, width: int, height: int) -> np.ndarray:
            times = opened.level_downsamples[level]
            rgba = opened.read_region((round(x * times), round(y * times)), level, (width, height))
            pixels = np.asarray(rgba, dtype=np.uint8)
            seen = pixels[..., 3:].astype(np.uint16)
            on_white = (pixels[..., :3].astype(np.uint16) * seen + WHITE * (255 - seen) + 127) // 255
            return on_white.astype(np.uint8)

        yield Slide(path, sizes[0], 3, "uint8", um_per_px, sizes, read_level)
