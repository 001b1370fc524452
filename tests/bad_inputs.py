"""Makers of files that are wrong in one way each, and of the right ones beside them."""

import io
import struct
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image

SIZE_HW = (24, 32)


def noise(seed: int, shape: tuple[int, ...] = (*SIZE_HW, 3), dtype: type = np.uint8) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, np.iinfo(dtype).max, shape, dtype=dtype)


def encoded(pixels: np.ndarray | Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def pair(stem: str = "s1_a", seed: int = 1) -> dict[str, bytes]:
    """File name -> content of one good pair."""
    return {
        f"{stem}_pas.png": encoded(noise(seed)),
        f"{stem}_WT1.png": encoded(noise(seed + 100, SIZE_HW, np.uint16)),
    }


def zip_bytes(entries: Mapping[str, bytes], compression: int = zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, content in entries.items():
            archive.writestr(zipfile.ZipInfo(name) if not content else name, content)
    return buffer.getvalue()


def write_all(folder: Path, files: Mapping[str, bytes]) -> Path:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder


def header_only_png(width: int, height: int) -> bytes:
    """A whole PNG of a few bytes whose header promises a picture of this size."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return (
            struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        )

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = (chunk(b"IHDR", head), chunk(b"IDAT", zlib.compress(b"")), chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def lying_zip(name: str, content: bytes, said: int) -> bytes:
    """A ZIP whose directory and header say that a file unpacks to `said` bytes, which it does not."""
    whole = bytearray(zip_bytes({name: content}))
    size = struct.pack("<I", len(content))
    for signature, offset in ((b"PK\x03\x04", 22), (b"PK\x01\x02", 24)):
        at = whole.index(signature) + offset
        assert whole[at : at + 4] == size
        whole[at : at + 4] = struct.pack("<I", said)
    return bytes(whole)
