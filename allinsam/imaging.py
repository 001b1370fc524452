"""Read PNG, JPEG, TIFF and OME-TIFF, whatever wrote them, into the project's conventions.

A file is told by its first bytes, never by its name. Its size is known before its pixels are decoded, so
that a small file that would unpack into a huge image is refused. A damaged file never gives part of an image.
"""

import io
import logging
import math
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import imagecodecs
import numpy as np
from PIL import Image, JpegImagePlugin, PngImagePlugin
from tifffile import PHOTOMETRIC, TiffFile, TiffPageSeries

from allinsam.errors import InputError

MAX_PIXELS = 100_000_000
MOST_PAGES = 10_000
MAX_BYTES = 2 << 30
DTYPES = ("uint8", "uint16")

# A pixel outside this range is a screen's or a printer's (72 dpi is 353 um), not a microscope's.
MICROSCOPE_UM_PER_PX = (0.01, 10.0)
UM_PER_UNIT = {"nm": 1e-3, "um": 1.0, "µm": 1.0, "μm": 1.0, "micron": 1.0, "mm": 1e3, "cm": 1e4, "m": 1e6}
UM_PER_RESOLUTION_UNIT = {2: 25_400.0, 3: 10_000.0}  # TIFF's tag: inch, centimetre
UM_PER_INCH = 25_400.0

# A damaged file is told in one line of ours, not in several of its parser's.
logging.getLogger("tifffile").setLevel(logging.CRITICAL)


@dataclass(frozen=True)
class ImageHeader:
    """What a file says about its image before any pixel is decoded."""

    height_px: int
    width_px: int
    channels: int
    dtype: str
    um_per_px: float | None

    @property
    def size_hw(self) -> tuple[int, int]:
        return self.height_px, self.width_px


def image_header(path: Path | str) -> ImageHeader:
    """Size, channels, grey levels and pixel size of a file, pixels not decoded.

    Raises:
        InputError: the file is missing, damaged, of another format, or too large.
    """
    path = Path(path)
    with one_clear_line(path):
        kind = _format_of(path)
        if kind == "TIFF":
            with _tiff_image(path) as (file, series):
                return _tiff_header(path, file, series)
        with PILLOW_FORMATS[kind](path) as image:
            return _pillow_header(path, image)


def read_image(path: Path | str) -> np.ndarray:
    """Pixels as stored, uint8 or uint16: (H, W) or (H, W, C). Alpha is dropped, a palette becomes RGB.

    Raises:
        InputError: as `image_header`, or the pixels are damaged or cut off.
    """
    path = Path(path)
    with one_clear_line(path):
        kind = _format_of(path)
        if kind == "TIFF":
            return np.ascontiguousarray(_tiff_pixels(path))
        with PILLOW_FORMATS[kind](path) as image:
            return np.ascontiguousarray(_pillow_pixels(path, image))


def read_rgb(path: Path | str) -> np.ndarray:
    """A stained image as uint8 RGB (H, W, 3); grey is repeated."""
    pixels = read_image(path)
    if pixels.dtype != np.uint8:
        raise InputError(f"{path} is {pixels.dtype}; a stained image has 8 bits per colour. Export it so.")
    if pixels.ndim == 2:
        return np.repeat(pixels[..., None], 3, axis=2)
    if pixels.shape[2] != 3:
        raise InputError(f"{path} has {pixels.shape[2]} channels; a stained image is RGB. Export it so.")
    return pixels


def read_channel(path: Path | str, index: int = 0) -> np.ndarray:
    """One channel (H, W), uint8 or uint16, grey levels untouched. `index` counts from 0."""
    pixels = read_image(path)
    if pixels.ndim == 2:
        pixels = pixels[..., None]
    check_channel_index(path, index, pixels.shape[2])
    return np.ascontiguousarray(pixels[..., index])


def check_channel_index(path: Path | str, index: int, channels: int) -> None:
    """Raise InputError unless a file with so many channels has this one."""
    if not 0 <= index < channels:
        has = "1 channel, channel 0" if channels == 1 else f"{channels} channels, 0 to {channels - 1}"
        raise InputError(f"{path} has no channel {index}. It has {has}.")


def encode_png(image: np.ndarray) -> bytes:
    """The lossless PNG file of an image, uint8 or uint16, as a study stores it."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="PNG", compress_level=3)
    return buffer.getvalue()


def encode_labels(labels: np.ndarray) -> bytes:
    """The 16-bit PNG file of a label image, 0 = background."""
    if labels.max(initial=0) > np.iinfo(np.uint16).max:
        raise InputError(f"{labels.max()} instances do not fit a 16-bit label image. Cut the image up first.")
    return encode_png(labels.astype(np.uint16))


@contextmanager
def one_clear_line(path: Path, kind: str = "an image") -> Iterator[None]:
    """Whatever a damaged file does to its parser, the caller gets one InputError that names the file."""
    try:
        yield
    except InputError:
        raise
    except MemoryError as error:
        raise InputError(
            f"{path} needs more memory than is left here. Cut patches from it, or end other programs."
        ) from error
    except PermissionError as error:
        raise InputError(f"{path} may not be read. Give this program the right to read it.") from error
    except Exception as error:  # parsers fail on damaged bytes with errors of nearly every kind
        reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(". ")
        raise InputError(f"{path} cannot be read as {kind}: {reason}. Export it again.") from error


def _format_of(path: Path) -> str:
    if not path.exists():
        raise InputError(f"{path} is not there. Check the path.")
    if not path.is_file():
        raise InputError(f"{path} is not a file. Give the image itself.")
    with path.open("rb") as file:
        start = file.read(8)
    if not start:
        raise InputError(f"{path} is empty. Export it again.")
    if start == b"\x89PNG\r\n\x1a\n":
        return "PNG"
    if start.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if start[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        return "TIFF"
    raise InputError(f"{path} is not PNG, JPEG or TIFF. Export it as one of these.")


def _checked(path: Path, header: ImageHeader) -> ImageHeader:
    """The header, if the image it tells of is one this program takes."""
    pixels = header.height_px * header.width_px
    if pixels == 0:
        raise InputError(f"{path} has no pixels. Export it again.")
    if header.dtype not in DTYPES:
        raise InputError(f"{path} has {header.dtype} pixels. Export it as 8 or 16 bit unsigned.")
    if pixels > MAX_PIXELS or pixels * header.channels * np.dtype(header.dtype).itemsize > MAX_BYTES:
        raise InputError(
            f"{path} is {header.width_px}x{header.height_px} px with {header.channels} channel(s), more than "
            f"the {MAX_PIXELS // 10**6} Mpx this program reads at once. Cut patches from it."
        )
    return header


def microscope_um_per_px(x: float | None, y: float | None) -> float | None:
    """The pixel's side, or None where it is not stated, not square, or not a microscope's."""
    if x is None or y is None or not (math.isfinite(x) and math.isfinite(y)):
        return None
    low, high = MICROSCOPE_UM_PER_PX
    return float(x) if low <= x <= high and abs(x - y) <= 0.01 * x else None


# PNG and JPEG


# The plugins themselves, not Image.open: sizes are judged here, without Pillow's process-wide limit.
PILLOW_FORMATS = {"PNG": PngImagePlugin.PngImageFile, "JPEG": JpegImagePlugin.JpegImageFile}
CHANNELS_OF_MODE = {"1": 1, "L": 1, "LA": 1, "I;16": 1, "P": 3, "RGB": 3, "RGBA": 3}


def _pillow_header(path: Path, image: Image.Image) -> ImageHeader:
    if image.mode not in CHANNELS_OF_MODE:
        raise InputError(f"{path} has colours of kind {image.mode}. Export it as RGB or grey.")
    if getattr(image, "is_animated", False):
        raise InputError(f"{path} has {image.n_frames} pictures in turn (animated). Export one of them.")
    um_per_px = None
    if "dpi" in image.info:
        um_per_px = microscope_um_per_px(*(UM_PER_INCH / dpi if dpi else None for dpi in image.info["dpi"]))
    dtype = "uint16" if image.mode == "I;16" or _is_deep_colour(image) else "uint8"
    header = ImageHeader(image.height, image.width, CHANNELS_OF_MODE[image.mode], dtype, um_per_px)
    return _checked(path, header)


def _is_deep_colour(image: Image.Image) -> bool:
    # Pillow opens 16-bit colour as if it had 8; only the decoder's raw mode ("RGB;16B") tells.
    return image.mode != "I;16" and any(";16" in str(tile[3]) for tile in image.tile)


def _pillow_pixels(path: Path, image: Image.Image) -> np.ndarray:
    _pillow_header(path, image)
    if _is_deep_colour(image):
        pixels = imagecodecs.png_decode(path.read_bytes())
    elif image.mode == "1":
        return np.asarray(image.convert("L"))
    else:
        pixels = np.asarray(image.convert("RGBA") if image.mode == "P" else image)
    if pixels.ndim == 2:
        return pixels
    return pixels[..., 0] if pixels.shape[2] == 2 else pixels[..., :3]


# TIFF and OME-TIFF


@contextmanager
def _tiff_image(path: Path) -> Iterator[tuple[TiffFile, TiffPageSeries]]:
    """The file and its first image at full resolution."""
    # Never follow an OME-TIFF into other files: a name in its XML may point anywhere.
    with TiffFile(path, _multifile=False) as file:
        if len(file.pages) > MOST_PAGES:  # every one would be looked into
            raise InputError(f"{path} has more than {MOST_PAGES} pages. Export one image.")
        if not file.series:
            raise InputError(f"{path} holds no image. Export it again.")
        yield file, file.series[0]


def _tiff_header(path: Path, file: TiffFile, series: TiffPageSeries) -> ImageHeader:
    """The header of an image that can be read whole, or InputError."""
    photometric = series.keyframe.photometric
    readable = (PHOTOMETRIC.MINISBLACK, PHOTOMETRIC.RGB, PHOTOMETRIC.YCBCR, PHOTOMETRIC.PALETTE)
    if photometric not in readable:
        kind = getattr(photometric, "name", photometric)
        raise InputError(f"{path} has colours of kind {kind}. Export it as RGB or grey (black is 0).")
    sizes = dict(zip(series.axes, series.shape, strict=True))
    channel_axes = [axis for axis in sizes if axis in CHANNEL_AXES and sizes[axis] > 1]
    for axis, size in sizes.items():
        if axis not in (*CHANNEL_AXES, "Y", "X") and size > 1:
            name = {"Z": "planes in depth (Z)", "T": "time points (T)"}.get(axis, f"images along {axis}")
            raise InputError(f"{path} has {size} {name}. Export one, or their maximum projection.")
    if len(channel_axes) > 1 or "Y" not in sizes or "X" not in sizes:
        raise InputError(f"{path} has axes {series.axes} {series.shape}. Export one image with channels.")
    channels = sizes[channel_axes[0]] if channel_axes else 1
    if photometric == PHOTOMETRIC.PALETTE:
        channels = 3
    elif _has_alpha(series):
        channels -= 1
    um_per_px = tiff_um_per_px(file, series)
    dtype = "uint8" if series.dtype == np.bool_ else str(series.dtype.newbyteorder("="))
    header = _checked(path, ImageHeader(sizes["Y"], sizes["X"], channels, dtype, um_per_px))
    _check_segments(path, file, series)
    return header


# Compressions whose decoder is told how much may come out, or whose data say it where it can be read first.
BOUNDED = (1, 2, 3, 4, 5, 8, 32773, 32946, 34925, 50000)
SAY_THEIR_SIZE = (6, 7, 33003, 33004, 33005, 34712, 34933, 50001)
JPEG_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
J2K_START = b"\xff\x4f\xff\x51"  # start of a JPEG 2000 code stream, and of the marker with its size


def check_compression(path: Path, page: Any) -> None:
    """Refuse a page of a TIFF whose parts could unpack to anything."""
    if int(page.compression) not in (*BOUNDED, *SAY_THEIR_SIZE):
        kind = getattr(page.compression, "name", page.compression)
        raise InputError(f"{path} is compressed as {kind}, which is not read. Save it with LZW, ZIP or JPEG.")


def check_stored(path: Path, page: Any, stored: bytes) -> None:
    """Refuse a tile that is a picture of its own, far larger than its page says: a few bytes can be so."""
    for part in (stored, page.jpegtables or b"") if int(page.compression) in SAY_THEIR_SIZE else ():
        if (samples := own_samples(part)) > 4 * MAX_PIXELS:
            raise InputError(f"{path} has a tile of {samples // 10**6} million values. Export it again.")


def own_samples(stored: bytes) -> int:
    """How many values a JPEG, JPEG 2000, PNG or WebP says it unpacks to; 0 where it does not say."""
    if stored.startswith(b"\xff\xd8"):
        return _jpeg_samples(stored)
    if stored.startswith(b"\x89PNG") and len(stored) > 24:
        width, height = struct.unpack_from(">II", stored, 16)
        return width * height * 4
    if stored.startswith(b"RIFF") and len(stored) > 30:
        return _webp_samples(stored)
    most, at = 0, stored.find(J2K_START)
    while 0 <= at <= len(stored) - 42:
        x1, y1, x0, y0 = struct.unpack_from(">IIII", stored, at + 8)
        (components,) = struct.unpack_from(">H", stored, at + 40)
        most = max(most, max(0, x1 - x0) * max(0, y1 - y0) * components)
        at = stored.find(J2K_START, at + 1)
    return most


def _webp_samples(stored: bytes) -> int:
    if stored[12:16] == b"VP8X":
        width, height = (1 + int.from_bytes(stored[at : at + 3], "little") for at in (24, 27))
    elif stored[12:16] == b"VP8L":
        bits = int.from_bytes(stored[21:25], "little")
        width, height = 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    else:
        width, height = (int.from_bytes(stored[at : at + 2], "little") & 0x3FFF for at in (26, 28))
    return width * height * 4


def _jpeg_samples(stored: bytes) -> int:
    at = 2
    while at + 10 <= len(stored):
        marker = stored[at + 1]
        if stored[at] != 0xFF or marker == 0xFF:
            at += 1
        elif marker in JPEG_FRAMES:
            height, width = struct.unpack_from(">HH", stored, at + 5)
            return height * width * stored[at + 9]
        elif marker in (0x00, 0x01) or 0xD0 <= marker <= 0xD9:  # without content
            at += 2
        elif marker == 0xDA:
            break
        else:
            at += 2 + struct.unpack_from(">H", stored, at + 2)[0]
    return 0


# S: colours of a pixel; C: channels; I and Q: pages of a file that does not say what they are.
CHANNEL_AXES = "SCIQ"


def _check_segments(path: Path, file: TiffFile, series: TiffPageSeries) -> None:
    """Refuse a file that ends early or has holes: decoders would fill them with black in silence."""
    if _page_after_the_last(file):
        raise InputError(f"{path} is cut off: pages are missing. Export it again.")
    for page in series.pages:
        if page is None:
            raise InputError(f"{path} is one of several files of an image. Export the image as one file.")
        if math.prod(page.chunks) > MAX_PIXELS * 4:
            raise InputError(f"{path} has tiles of {page.chunks} px. Export it with tiles of 512 px.")
        check_compression(path, page)
        ends = np.add(page.dataoffsets, page.databytecounts, dtype=np.int64)
        if not len(ends) or np.max(ends) > file.filehandle.size or np.min(page.databytecounts) == 0:
            raise InputError(f"{path} is cut off or has missing tiles. Export it again.")


def _page_after_the_last(file: TiffFile) -> int:
    """Where the last page that could be read says the next one is; 0 in a whole file."""
    layout, handle = file.tiff, file.filehandle
    handle.seek(file.pages[-1].offset)
    (tags,) = struct.unpack(layout.tagnoformat, handle.read(layout.tagnosize))
    handle.seek(tags * layout.tagsize, os.SEEK_CUR)
    return struct.unpack(layout.offsetformat, handle.read(layout.offsetsize))[0]


def _has_alpha(series: TiffPageSeries) -> bool:
    # An extra sample that is not called alpha may be a fourth fluorescence channel.
    return "S" in series.axes and any(int(extra) in (1, 2) for extra in series.keyframe.extrasamples)


def _tiff_pixels(path: Path) -> np.ndarray:
    with _tiff_image(path) as (file, series):
        _tiff_header(path, file, series)
        for page in series.pages:
            for offset, count in zip(page.dataoffsets, page.databytecounts, strict=True):
                if int(page.compression) in SAY_THEIR_SIZE:
                    file.filehandle.seek(offset)
                    check_stored(path, page.aspage(), file.filehandle.read(count))
        pixels = series.asarray()
        axes, alpha = series.axes, _has_alpha(series)
        is_palette = series.keyframe.photometric == PHOTOMETRIC.PALETTE
        colours = series.keyframe.colormap if is_palette else None
    keep = [axis for axis, size in zip(axes, pixels.shape, strict=True) if axis in "YX" or size > 1]
    pixels = pixels.reshape([pixels.shape[axes.index(axis)] for axis in keep])
    if len(keep) == 3:
        pixels = np.moveaxis(pixels, [keep.index("Y"), keep.index("X")], [0, 1])
    if colours is not None:
        return (colours[:, pixels] >> 8).astype(np.uint8).transpose(1, 2, 0)
    if pixels.dtype == np.bool_:
        return pixels.astype(np.uint8) * 255
    pixels = pixels.astype(pixels.dtype.newbyteorder("="), copy=False)
    if alpha:
        pixels = pixels[..., :-1]
        return pixels[..., 0] if pixels.shape[2] == 1 else pixels
    return pixels


def tiff_um_per_px(file: TiffFile, series: TiffPageSeries) -> float | None:
    """Pixel size from OME metadata, else ImageJ's, else the resolution tags."""
    ome = _ome_um_per_px(file.ome_metadata) if file.ome_metadata else None
    if ome is not None:
        return ome
    tags = series.keyframe.tags
    per_unit = [_ratio(tags.valueof(name)) for name in ("XResolution", "YResolution")]
    unit: Any = UM_PER_RESOLUTION_UNIT.get(int(tags.valueof("ResolutionUnit", 2)))
    if file.is_imagej:
        name = str((file.imagej_metadata or {}).get("unit", "")).replace("\\u00B5", "µ")
        unit = UM_PER_UNIT.get(name, unit)
    if unit is None or not all(per_unit):
        return None
    return microscope_um_per_px(*(unit / value for value in per_unit))


def _ratio(value: tuple[int, int] | None) -> float | None:
    return value[0] / value[1] if value and value[1] else None


def _ome_um_per_px(xml: str) -> float | None:
    if "<!DOCTYPE" in xml:  # it may name entities that unpack to anything
        return None
    try:
        pixels = ElementTree.fromstring(xml).find(".//{*}Pixels")  # noqa: S314 - no document type, no entities
    except ElementTree.ParseError:
        return None
    if pixels is None:
        return None
    sides = []
    for axis in "XY":
        unit = UM_PER_UNIT.get(pixels.get(f"PhysicalSize{axis}Unit", "µm"))
        value = pixels.get(f"PhysicalSize{axis}")
        sides.append(float(value) * unit if unit and value else None)
    return microscope_um_per_px(*sides)
