"""Unpack a ZIP of images into a folder, and nothing anywhere else.

What the archive says of itself is checked before a byte is written, and counted again while its files are
read: a directory may lie.
"""

import lzma
import shutil
import stat
import zipfile
import zlib
from pathlib import Path, PurePosixPath, PureWindowsPath

from allinsam.errors import InputError
from allinsam.importing.records import ImportLimits, Problem

ARCHIVE_SUFFIXES = (".zip",)
NESTED_SUFFIXES = (".zip", ".7z", ".rar", ".gz", ".tar", ".tgz")
# What macOS and Windows put beside files of their own.
IGNORED_FOLDERS = ("__MACOSX",)
IGNORED_NAMES = (".ds_store", "thumbs.db", "desktop.ini")
KNOWN_COMPRESSIONS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)
LONGEST_NAME = 200  # characters of a path inside the archive
PIECE_BYTES = 1 << 20


def unpack_zip(archive: Path, into: Path, limits: ImportLimits) -> tuple[Path, list[Problem]]:
    """The folder with the images of an archive, and a line for each entry that was left out.

    A single folder at the top stands for the archive. `into` must be empty; whoever made it removes it,
    also after an error.

    Raises:
        InputError: it is no ZIP, leads out of the folder, holds links, is encrypted, damaged or too large.
    """
    problems = []
    try:
        with zipfile.ZipFile(archive) as opened:
            left_bytes = limits.zip_mb * 1_000_000
            usable = _usable(archive, opened.infolist(), limits)
            _demand_room(archive, into, sum(entry.file_size for entry, _ in usable) / 1e6, limits)
            for entry, path in usable:
                if path.suffix.lower() in NESTED_SUFFIXES:
                    line = "an archive in the archive is not read. Unpack it and put its images there."
                    problems.append(Problem(entry.filename, line))
                    continue
                target = into / path
                target.parent.mkdir(parents=True, exist_ok=True)
                left_bytes -= _write(archive, opened, entry, target, left_bytes, limits)
    except zipfile.BadZipFile as error:
        raise InputError(f"{archive} is no whole ZIP: {_line(error)}. Pack it again.") from error
    except (zlib.error, lzma.LZMAError, EOFError, NotImplementedError, RuntimeError, ValueError) as error:
        raise InputError(f"{archive} cannot be unpacked: {_line(error)}. Pack it again.") from error
    except OSError as error:
        reason = error.strerror or str(error)
        raise InputError(
            f"{archive} cannot be unpacked: {reason}. Pack it again, or make room on the disk."
        ) from error
    return _top(archive, into), problems


def _demand_room(archive: Path, into: Path, needed_mb: float, limits: ImportLimits) -> None:
    free_mb = shutil.disk_usage(into).free / 1e6
    if free_mb < needed_mb + limits.kept_free_mb:
        raise InputError(
            f"{archive} unpacks to {needed_mb:,.0f} MB, and the disk has {free_mb:,.0f} MB left, of which "
            f"{limits.kept_free_mb:,} stay free. Make room on the disk, or pack fewer at once."
        )


def _usable(
    archive: Path, entries: list[zipfile.ZipInfo], limits: ImportLimits
) -> list[tuple[zipfile.ZipInfo, PurePosixPath]]:
    """Files to unpack with their path under the target, once all of them are known to be harmless."""
    if len(entries) > limits.zip_entries:
        raise InputError(
            f"{archive} has {len(entries)} entries, more than {limits.zip_entries}. Pack fewer at once."
        )
    usable: list[tuple[zipfile.ZipInfo, PurePosixPath]] = []
    seen: dict[str, zipfile.ZipInfo] = {}
    for entry in entries:
        path = _checked_path(archive, entry)
        if entry.is_dir() or _is_ignored(path):
            continue
        if entry.flag_bits & 0x1:
            raise InputError(f"{archive}: {entry.filename!r} is encrypted. Pack it without a password.")
        if entry.compress_type not in KNOWN_COMPRESSIONS:
            raise InputError(
                f"{archive}: {entry.filename!r} is compressed in an unknown way ({entry.compress_type}). "
                "Pack it as a plain ZIP."
            )
        _check_size(archive, entry.filename, entry.file_size, limits)
        first = seen.setdefault(str(path).casefold(), entry)
        if first is not entry:
            raise InputError(
                f"{archive} holds {entry.filename!r} twice (also as {first.filename!r}). "
                "Give each file a name of its own."
            )
        usable.append((entry, path))
    total_mb = sum(entry.file_size for entry, _ in usable) / 1e6
    if total_mb > limits.zip_mb:
        raise InputError(
            f"{archive} unpacks to {total_mb:,.0f} MB, more than {limits.zip_mb:,} MB. Pack fewer at once."
        )
    return usable


def _checked_path(archive: Path, entry: zipfile.ZipInfo) -> PurePosixPath:
    """Where an entry wants to lie, if that is inside the folder and it is a plain file or folder."""
    # `filename` is cut at a null byte; what the archive itself says decides.
    name = entry.orig_filename
    windows, path = PureWindowsPath(name), PurePosixPath(name.replace("\\", "/"))
    if windows.anchor or path.is_absolute() or ".." in path.parts or ":" in name:
        raise InputError(f"{archive}: {name[:80]!r} leads out of the archive. Pack the folder itself again.")
    if not name.isprintable() or len(name) > LONGEST_NAME or not path.parts:
        raise InputError(f"{archive}: {name[:80]!r} is no plain short file name. Rename the file.")
    kind = stat.S_IFMT(entry.external_attr >> 16)
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        raise InputError(f"{archive}: {name!r} is a link, no file. Pack the file itself.")
    return path


def _is_ignored(path: PurePosixPath) -> bool:
    return path.parts[0] in IGNORED_FOLDERS or path.name.lower() in IGNORED_NAMES


def _check_size(archive: Path, name: str, size: int, limits: ImportLimits) -> None:
    if size > limits.zip_file_mb * 1_000_000:
        raise InputError(
            f"{archive}: {name!r} unpacks to {size / 1e6:,.0f} MB, more than {limits.zip_file_mb:,} MB. "
            "Import a large image as a slide, or cut patches from it."
        )


def _write(
    archive: Path,
    opened: zipfile.ZipFile,
    entry: zipfile.ZipInfo,
    target: Path,
    left_bytes: float,
    limits: ImportLimits,
) -> int:
    """Unpack one file; returns its bytes. What it said of its size does not count here."""
    written = 0
    with opened.open(entry) as source, target.open("xb") as file:
        while piece := source.read(PIECE_BYTES):
            written += len(piece)
            _check_size(archive, entry.filename, written, limits)
            if written > left_bytes:
                raise InputError(f"{archive} unpacks to more than {limits.zip_mb:,} MB. Pack fewer at once.")
            file.write(piece)
    return written


def _top(archive: Path, folder: Path) -> Path:
    """The folder that holds something else than one folder."""
    inside = list(folder.iterdir())
    while len(inside) == 1 and inside[0].is_dir():
        folder, inside = inside[0], list(inside[0].iterdir())
    if not inside:
        raise InputError(f"{archive} holds no image. Pack the PNG, JPEG or TIFF files.")
    return folder


def _line(error: Exception) -> str:
    # A damaged directory is told with everything that stands in it.
    return (str(error).splitlines() or [type(error).__name__])[0][:120].rstrip(". ")
