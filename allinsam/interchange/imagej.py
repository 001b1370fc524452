r"""ImageJ and Fiji: RoiSet.zip, one .roi file for each object.

ImageJ counts as this project does: an area's coordinates are pixel corners, and a pixel is in when its centre
is. So an object in one piece is a traced selection with whole-numbered corners, and one with holes or several
parts a composite selection, which ImageJ fills by the even-odd rule; both give exactly the pixels back. Id,
class and measurements are properties of the selection ("Properties..." in the ROI Manager), the class is its
colour, too, and its group.

Not carried: the size of the patch and of its pixels.

Source: ij/io/RoiDecoder.java and ij/gui/ShapeRoi.java of ImageJ 1.54; roifile by C. Gohlke.
"""

import io
import logging
import re
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import roifile
from roifile import ROI_OPTIONS, ROI_TYPE, ImagejRoi

from allinsam.errors import InputError
from allinsam.interchange.outlines import (
    Ring,
    check_ring,
    cut_note,
    mask_of_even_odd,
    parts_of_mask,
    ring_of,
)
from allinsam.interchange.records import (
    MAX_FILE_BYTES,
    AnnotatedObject,
    AnnotationSet,
    check_count,
    checked,
    read_bytes,
    rgb_of,
    with_class,
)
from allinsam.records import Mask

LARGEST_SIDE_PX = 60_000  # .roi files count whole coordinates with 16 bits
MOST_ROI_BYTES = 16_000_000
OUTLINED = (ROI_TYPE.POLYGON, ROI_TYPE.FREEHAND, ROI_TYPE.TRACED)
MOVE, LINE, CLOSE = 0.0, 1.0, 4.0  # java.awt.geom.PathIterator
OVAL_POINTS = 360
OWN_PROPERTIES = ("class", "object_id")

# ---------------------------------------------------------------------------------------- writing


def write_roiset(annotations: AnnotationSet) -> dict[str, bytes]:
    if max(annotations.size_hw) > LARGEST_SIDE_PX:
        raise InputError(
            f"ImageJ's .roi files hold coordinates up to {LARGEST_SIDE_PX} px, the patch has "
            f"{annotations.size_hw[1]} x {annotations.size_hw[0]} px. Choose another format or cut it up."
        )
    groups = {name: 1 + n for n, name in enumerate(sorted({with_class(o) for o in annotations.objects}))}
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for number, thing in enumerate(annotations.objects, start=1):
            roi = _shape(thing.mask)
            # The ROI Manager lists what the files are called; letters beyond ASCII trouble old versions.
            roi.name = f"{number:05d}-{re.sub(r'[^A-Za-z0-9_-]+', '_', with_class(thing))}"
            roi.props = _written_properties(thing)
            roi.group = groups[with_class(thing)] if len(groups) < 256 else 0
            if colour := annotations.colours.get(with_class(thing)):
                roi.stroke_color = bytes([255, *rgb_of(colour)])
            # One date for all, so that the same annotations make the same file.
            archive.writestr(zipfile.ZipInfo(f"{roi.name}.roi"), roi.tobytes(), zipfile.ZIP_DEFLATED)
    return {".zip": buffer.getvalue()}


def _shape(mask: Mask) -> ImagejRoi:
    rings = [np.array(ring) for rings in parts_of_mask(mask) for ring in rings]
    roi = ImagejRoi.frompoints(np.concatenate(rings))
    roi.options = ROI_OPTIONS.NONE
    # ImageJ's bounds end with the last corner, which is the right edge of the last pixel.
    roi.right, roi.bottom = roi.right - 1, roi.bottom - 1
    if len(rings) == 1:
        roi.roitype = ROI_TYPE.TRACED
        return roi
    path: list[float] = []
    for ring in rings:
        for number, (x, y) in enumerate(ring.tolist()):
            path += [LINE if number else MOVE, x, y]
        path.append(CLOSE)
    roi.roitype, roi.integer_coordinates, roi.n_coordinates = ROI_TYPE.RECT, None, 0
    roi.multi_coordinates = np.array(path, np.float32)
    roi.shape_roi_size = len(path)
    return roi


def _written_properties(thing: AnnotatedObject) -> str:
    """Lines "key: value" as java.util.Properties reads them: ASCII, all else escaped."""
    values = {"class": with_class(thing), "object_id": thing.object_id}
    values |= {name: repr(float(value)) for name, value in thing.measurements.items()}
    return "".join(f"{_escaped(key, True)}: {_escaped(value)}\n" for key, value in values.items())


def _escaped(text: str, is_key: bool = False) -> str:
    out = []
    for unit in np.frombuffer(text.encode("utf-16-be"), ">u2").tolist():
        character = chr(unit)
        special = character == "\\" or (is_key and character in ":=#! ")
        plain = 32 <= unit < 127 and not (character == " " and not out)
        out.append(("\\" if special else "") + character if plain else f"\\u{unit:04x}")
    return "".join(out)


# ---------------------------------------------------------------------------------------- reading


def read_roiset(path: Path, size_hw: tuple[int, int], name: str = "") -> AnnotationSet:
    """Areas of a RoiSet.zip, or of a single .roi file.

    Polygons, freehand and traced areas, composites, rectangles and ovals are read; points, lines, text and
    areas with a fitted curve are refused. The class is the property "class"; without it an object has none.

    Raises:
        InputError: the archive or a selection in it cannot be used.
    """
    objects, colours, cut = [], {}, 0
    for number, (entry, content) in enumerate(_entries(path), start=1):
        where = f"selection {entry!r}"
        roi = _decoded(path, where, content)
        properties = _read_properties(roi.props)
        mask, was_cut = mask_of_even_odd(path, where, _rings(path, where, roi), size_hw)
        cut += was_cut
        class_name = properties.get("class") or None
        if class_name and roi.stroke_color[0]:
            colours[class_name] = "#{:02X}{:02X}{:02X}".format(*roi.stroke_color[1:])
        object_id = properties.get("object_id") or str(number)
        objects.append(AnnotatedObject(object_id, class_name, mask, _numbers(properties)))
    return AnnotationSet(name, size_hw, checked(path, objects), None, colours, cut_note(cut))


def _entries(path: Path) -> list[tuple[str, bytes]]:
    """Name and content of each .roi file; sizes are judged as stated, and again as they unpack."""
    content = read_bytes(path)
    if content.startswith(b"Iout"):
        return [(path.name, content)]
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            listed = [entry for entry in archive.infolist() if not entry.is_dir()]
            _check_entries(path, listed)
            return [(entry.filename, _unpacked(path, archive, entry)) for entry in listed]
    except InputError:
        raise
    except (
        Exception
    ) as error:  # a damaged archive fails in many ways: BadZipFile, zlib.error, RuntimeError ...
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(
            f"{path} cannot be read as RoiSet.zip: {reason}. Save it again in ImageJ."
        ) from error


def _check_entries(path: Path, listed: list[zipfile.ZipInfo]) -> None:
    if not listed:
        raise InputError(f"{path} holds no selection. Add some in the ROI Manager and save again.")
    check_count(path, len(listed))
    for entry in listed:
        parts = re.split(r"[/\\]", entry.filename)
        if ".." in parts or not parts[0] or ":" in parts[0]:
            raise InputError(f"{path}: {entry.filename!r} leads out of the archive. Save it again in ImageJ.")
        if not entry.filename.lower().endswith(".roi"):
            raise InputError(f"{path}: {entry.filename!r} is no .roi file. Leave it out.")
        if entry.flag_bits & 1:
            raise InputError(f"{path} is locked with a password. Save it without one.")
    stated = max(entry.file_size for entry in listed), sum(entry.file_size for entry in listed)
    if stated[0] > MOST_ROI_BYTES or stated[1] > MAX_FILE_BYTES:
        raise InputError(
            f"{path} would unpack to {stated[1] / 1e6:.0f} MB; no RoiSet of a patch is that large. "
            "Save it again in ImageJ."
        )


def _unpacked(path: Path, archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> bytes:
    with archive.open(entry) as file:
        content = file.read(MOST_ROI_BYTES + 1)
    if len(content) > entry.file_size or len(content) > MOST_ROI_BYTES:
        raise InputError(f"{path}: {entry.filename!r} is larger than it says. Save it again in ImageJ.")
    return content


def _decoded(path: Path, where: str, content: bytes) -> ImagejRoi:
    # It only logs that a class or a name is cut off and goes on without: here that is damage like any other.
    log = roifile.logger()
    log.addFilter(_refuse_warning)
    try:
        return ImagejRoi.frombytes(content)
    except Exception as error:  # its parser meets damaged bytes with errors of many kinds
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(f"{path}: {where} is damaged: {reason}. Save it again in ImageJ.") from error
    finally:
        log.removeFilter(_refuse_warning)


def _refuse_warning(record: logging.LogRecord) -> bool:
    raise ValueError(record.getMessage())


def _rings(path: Path, where: str, roi: ImagejRoi) -> list[Ring]:
    if roi.options & ROI_OPTIONS.SPLINE_FIT:
        raise InputError(
            f"{path}: {where} is a fitted curve. Turn it into a polygon: Edit, Selection, Interpolate."
        )
    if roi.composite:
        try:
            paths = ImagejRoi.path2coords(roi.multi_coordinates)
        except Exception as error:  # an index beyond the end, or a curve it does not know
            raise InputError(f"{path}: {where} is damaged or has curves. Save it as a polygon.") from error
    elif roi.roitype in OUTLINED:
        paths = [roi.coordinates()]
    elif roi.roitype in (ROI_TYPE.RECT, ROI_TYPE.OVAL) and not int(roi.subtype):
        paths = [_box_or_oval(roi)]
    else:
        kind = roi.roitype.name.lower() if int(roi.roitype) in range(11) else "unknown shape"
        raise InputError(f"{path}: {where} is a {kind}, not an area. Leave it out or draw its outline.")
    rings = [ring_of(path, where, points) for points in paths if len(points)]
    if not rings:
        raise InputError(f"{path}: {where} has no outline. Draw it again.")
    for ring in rings:
        check_ring(path, where, ring)
    return rings


def _box_or_oval(roi: ImagejRoi) -> np.ndarray:
    x0, y0, x1, y1 = roi.left, roi.top, roi.right, roi.bottom
    if roi.subpixelrect:
        x0, y0, x1, y1 = roi.xd, roi.yd, roi.xd + roi.widthd, roi.yd + roi.heightd
    if roi.roitype == ROI_TYPE.RECT:
        return np.array([(x0, y0), (x1, y0), (x1, y1), (x0, y1)], float)
    angle = 2 * np.pi * np.arange(OVAL_POINTS) / OVAL_POINTS
    x, y = np.cos(angle) * (x1 - x0) / 2, np.sin(angle) * (y1 - y0) / 2
    return np.stack([(x0 + x1) / 2 + x, (y0 + y1) / 2 + y], axis=1)


def _read_properties(text: str) -> dict[str, str]:
    found = {}
    for line in text.split("\n"):
        parts = re.match(r"((?:[^\\:=\s]|\\.)+)\s*[:=]?\s*(.*)", line.strip("\r"))
        if parts:
            found[_unescaped(parts[1])] = _unescaped(parts[2])
    return found


def _unescaped(text: str) -> str:
    units = re.sub(
        r"\\(u[0-9a-fA-F]{4}|.)", lambda m: chr(int(m[1][1:], 16)) if len(m[1]) > 1 else m[1], text
    )
    return units.encode("utf-16-be", "surrogatepass").decode("utf-16-be", "replace")


def _numbers(properties: dict[str, str]) -> dict[str, Any]:
    found = {}
    for key, value in properties.items():
        try:
            number = float(value)
        except ValueError:
            continue
        if key not in OWN_PROPERTIES and np.isfinite(number):
            found[key] = number
    return found
