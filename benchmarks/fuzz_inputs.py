"""Ways to spoil a good file or a good request, each from a seeded source of chance."""

import io
import json
import pickle
import re
import stat
import struct
import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from random import Random
from typing import Any

import torch

Spoil = Callable[[Random, bytes], bytes]

DEEP: Any = []
for _ in range(400):
    DEEP = [DEEP]

# What no program likes to find where it looks for a value.
NASTY: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 2, 0.5, 1e308, -1e308, float("nan"), float("inf"), float("-inf")),
    *(2**31, 2**32, 2**53 + 1, 2**63, 2**64, -(2**63), 10**400, 1e-320),
    *("", " ", "\x00", "a\nb", "\ud800", "x\udfff", "\u202e", "é" * 300, "a" * 100_000, "nan", "1e999"),
    *("../../etc/passwd", "/etc/passwd", "..\\..\\x", "C:\\x", "file:///etc/passwd", "~root", "a/../../b"),
    *(
        "<script>alert(1)</script>",
        '"><img src=x onerror=alert(1)>',
        "=cmd|' /C calc'!A0",
        "'; DROP TABLE act",
    ),
    *("2" * 5000, "%s%n", "${7*7}", "{0.__class__}"),
    *([], {}, [[]], [None], {"": None}, [1, 2], [1e308] * 4, [[1e9, -1e9]] * 3, DEEP),
    *([["a", "b"]] * 4, [[float("nan"), 1]] * 4, {"size": [2**31, 2**31], "counts": "0"}),
)
WIDE = (0, 1, 2, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 60_000, 10**9)


# --- Bytes ---------------------------------------------------------------------------------------


def flip(chance: Random, data: bytes) -> bytes:
    whole = bytearray(data)
    for _ in range(chance.choice((1, 1, 2, 4, 16, 200))):
        if whole:
            whole[_place(chance, len(whole))] ^= 1 << chance.randrange(8)
    return bytes(whole)


def cut(chance: Random, data: bytes) -> bytes:
    return data[: _place(chance, len(data) + 1)]


def overwrite_number(chance: Random, data: bytes) -> bytes:
    """A number of 1 to 8 bytes somewhere, mostly in the header, becomes one that is far off."""
    whole, width = bytearray(data), chance.choice((1, 2, 4, 4, 8))
    value = chance.choice((*WIDE, 2**63, 2**64 - 1)) % 256**width
    at = _place(chance, max(1, len(whole) - width))
    whole[at : at + width] = value.to_bytes(width, chance.choice(("big", "little")))
    return bytes(whole)


def move_block(chance: Random, data: bytes) -> bytes:
    a, b = sorted((_place(chance, len(data) + 1), _place(chance, len(data) + 1)))
    block = data[a : min(b, a + 4096)]
    at = _place(chance, len(data) + 1)
    how = chance.randrange(3)
    if how == 0:
        return data[:a] + data[a + len(block) :]
    if how == 1:
        return data[:at] + block * chance.choice((1, 2, 50)) + data[at:]
    return data[:at] + chance.randbytes(len(block)) + data[at:]


def garbage(chance: Random, data: bytes) -> bytes:
    return chance.choice((b"", b"\0" * 100, chance.randbytes(chance.randrange(1, 3000)), data[:16], b"hello"))


BYTES: tuple[Spoil, ...] = (flip, flip, cut, overwrite_number, overwrite_number, move_block, garbage)


def spoil_bytes(chance: Random, data: bytes) -> bytes:
    for _ in range(chance.choice((1, 1, 1, 2, 3))):
        data = chance.choice(BYTES)(chance, data)
    return data


def _place(chance: Random, size: int) -> int:
    """Somewhere in so many bytes, every second time in the header."""
    return chance.randrange(max(1, min(size, 400) if chance.random() < 0.5 else size))


# --- Text and JSON -------------------------------------------------------------------------------


def spoil_text(chance: Random, data: bytes) -> bytes:
    """A number, a word or a line of a text becomes something else."""
    text = data.decode("utf-8", "replace")
    how = chance.randrange(5)
    if how == 0:
        found = list(re.finditer(r"-?\d+(\.\d+)?", text))
    elif how == 1:
        found = list(re.finditer(r"[A-Za-z_][\w.]*", text))
    elif how == 2:
        lines = text.splitlines(keepends=True)
        place = chance.randrange(len(lines)) if lines else 0
        return "".join(
            [*lines[:place], *lines[place : place + 1] * chance.choice((0, 2, 30)), *lines[place + 1 :]]
        ).encode()
    elif how == 3:
        found = list(re.finditer(r"[,;\"<>/=\n]", text))
    else:
        return text.encode(chance.choice(("utf-16", "utf-8-sig", "latin-1", "utf-32")), "replace")
    if not found:
        return spoil_bytes(chance, data)
    at = chance.choice(found)
    nasty = chance.choice(NASTY)
    word = nasty if isinstance(nasty, str) else dumped(nasty)
    return (text[: at.start()] + word[:200_000] + text[at.end() :]).encode("utf-8", "surrogatepass")


def dumped(value: Any) -> str:
    """JSON as a stranger may write it: with NaN, infinity and lone surrogates."""
    return json.dumps(value, ensure_ascii=False, allow_nan=True)


def spoil_value(chance: Random, value: Any, times: int | None = None) -> Any:
    """A tree of plain values in which one or several nodes are something else."""
    for _ in range(times or chance.choice((1, 1, 1, 2, 3))):
        value = _spoiled(chance, value)
    return value


def _spoiled(chance: Random, value: Any) -> Any:
    if isinstance(value, dict) and value and chance.random() < 0.9:
        key = chance.choice(list(value))
        how = chance.random()
        if how < 0.1:
            return {name: kept for name, kept in value.items() if name != key}
        if how < 0.15:
            return {
                **value,
                str(chance.choice(("", "x", "__class__", "a" * 300, "\ud800", "é"))): chance.choice(NASTY),
            }
        if how < 0.2:
            return {(name + "x" if name == key else name): kept for name, kept in value.items()}
        return {**value, key: _spoiled(chance, value[key])}
    if isinstance(value, list) and value and chance.random() < 0.9:
        place, how = chance.randrange(len(value)), chance.random()
        if how < 0.1:
            return value[:place] + value[place + 1 :]
        if how < 0.2:
            return value[:place] + value[place : place + 1] * chance.choice((2, 40)) + value[place + 1 :]
        return value[:place] + [_spoiled(chance, value[place])] + value[place + 1 :]
    if type(value) in (int, float) and abs(value) < 1e300 and chance.random() < 0.4:
        return chance.choice((-value, value + 1, value * 1000, value - 1, str(value), [value]))
    return chance.choice(NASTY)


def spoil_json(chance: Random, data: bytes) -> bytes:
    how = chance.random()
    if how < 0.2:
        return spoil_bytes(chance, data)
    if how < 0.35:
        return spoil_text(chance, data)
    text = dumped(spoil_value(chance, json.loads(data)))
    if how < 0.5:  # a key that is there twice, with another value
        keys = list(re.finditer(r'"[\w ]+": ', text))
        if keys:
            at = chance.choice(keys)
            text = f"{text[: at.end()]}{dumped(chance.choice(NASTY))}, {at.group()}{text[at.end() :]}"
    return text.encode("utf-8", "surrogatepass")


# --- Images --------------------------------------------------------------------------------------


def spoil_png(chance: Random, data: bytes) -> bytes:
    """A header, chunk or number that is not true, with checksums that are."""
    if chance.random() < 0.4 or not data.startswith(b"\x89PNG"):
        return spoil_bytes(chance, data)
    chunks, at = [], 8
    while at + 8 <= len(data):
        size = int.from_bytes(data[at : at + 4], "big")
        chunks.append([data[at + 4 : at + 8], data[at + 8 : at + 8 + size]])
        at += size + 12
    how = chance.randrange(6)
    if how <= 1:
        head = bytearray(chunks[0][1])
        if how == 0:
            side = chance.choice((0, 1, 7, 9_000, 30_000, 100_000, 2**31 - 1))
            struct.pack_into(">I", head, chance.choice((0, 4)), side)
        else:
            head[chance.randrange(8, 13)] = chance.choice((0, 1, 2, 3, 4, 6, 8, 16, 255))
        chunks[0][1] = bytes(head)
    elif how == 2:
        bomb = zlib.compress(bytes(chance.choice((1_000, 30_000_000))))
        kind = chance.choice((b"zTXt", b"iTXt", b"iCCP"))
        body = {b"zTXt": b"k\0\0" + bomb, b"iCCP": b"k\0\0" + bomb, b"iTXt": b"k\0\1\0\0\0" + bomb}[kind]
        chunks.insert(1, [kind, body])
    elif how == 3:
        chunks.insert(chance.randrange(len(chunks)), list(chance.choice(chunks)))
    elif how == 4:
        chunks.pop(chance.randrange(len(chunks)))
    else:
        place = next((n for n, chunk in enumerate(chunks) if chunk[0] == b"IDAT"), 0)
        chunks[place][1] = zlib.compress(bytes(chance.choice((0, 10, 40_000_000))))
    return data[:8] + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in chunks
    )


# Sizes, bits, compression, colours, places and lengths of strips and tiles, planes, samples, pages below.
TIFF_TAGS = (256, 257, 258, 259, 262, 273, 277, 278, 279, 284, 317, 322, 323, 324, 325, 330, 338, 339)


def spoil_tiff(chance: Random, data: bytes) -> bytes:
    """A tag of one of a TIFF's pages says something else."""
    if chance.random() < 0.4 or data[:4] != b"II*\0":
        return spoil_bytes(chance, data)
    whole, pages, at = bytearray(data), [], int.from_bytes(data[4:8], "little")
    while 0 < at < len(data) - 2 and at not in pages and len(pages) < 50:
        pages.append(at)
        count = int.from_bytes(data[at : at + 2], "little")
        at = int.from_bytes(data[at + 2 + 12 * count : at + 6 + 12 * count], "little")
    entries = []
    for page in pages:
        for number in range(int.from_bytes(data[page : page + 2], "little")):
            entries.append(page + 2 + 12 * number)
    known = [e for e in entries if int.from_bytes(data[e : e + 2], "little") in TIFF_TAGS] or entries
    if not known:
        return spoil_bytes(chance, data)
    for _ in range(chance.choice((1, 1, 2))):
        entry = chance.choice(known)
        how = chance.randrange(4)
        if how == 0:
            struct.pack_into("<H", whole, entry + 2, chance.choice((1, 2, 3, 4, 5, 11, 12, 16, 99)))  # type
        elif how == 1:
            struct.pack_into("<I", whole, entry + 4, chance.choice(WIDE))  # count
        else:
            struct.pack_into("<I", whole, entry + 8, chance.choice((*WIDE, 7, 8, 34712, 50000, 33003, 32773)))
    if chance.random() < 0.1 and pages:  # the last page leads back to the first
        count = int.from_bytes(data[pages[-1] : pages[-1] + 2], "little")
        struct.pack_into("<I", whole, pages[-1] + 2 + 12 * count, pages[0])
    return bytes(whole)


def spoil_image(chance: Random, data: bytes) -> bytes:
    return (spoil_png if data.startswith(b"\x89PNG") else spoil_tiff)(chance, data)


# --- Archives ------------------------------------------------------------------------------------

PATHS = (
    *("../{}", "../../../{}", "/tmp/{}", "a/../../{}", "..\\{}", "C:\\{}", "C:{}", "./{}", "a//{}", "{}/"),
    *(
        "\0{}",
        "{}\0.png",
        "a\n{}",
        "é\u202e{}",
        "x" * 300 + "{}",
        "con.png",
        ".{}",
        "~/{}",
        "a/b/c/{}",
        " {}",
    ),
)


def spoil_zip(chance: Random, entries: Mapping[str, bytes], inside: Spoil = spoil_bytes) -> bytes:
    """A ZIP of these files in which names, sizes, kinds or contents are not what they should be."""
    kept = dict(entries)
    how = chance.randrange(8)
    name = chance.choice(list(kept))
    if how == 0:
        kept[name] = inside(chance, kept[name])
    elif how == 1:
        kept[chance.choice(PATHS).format(name)] = kept.pop(name)
    elif how == 2:
        kept[chance.choice(PATHS).format("evil.png")] = b"x" * 10
    elif how == 3:
        kept[name] = bytes(chance.choice((1_000_000, 6_000_000, 30_000_000)))
    elif how == 4:
        kept |= {f"{n}-{name}": b"x" for n in range(chance.choice((1, 30, 300)))}
    elif how == 5:
        kept[f"more{chance.choice(('.zip', '.tar', '.gz', '.png'))}"] = _zipped(kept)
    whole = _zipped(kept, chance) if how != 6 else _linked(chance, kept)
    return spoil_bytes(chance, whole) if how == 7 or chance.random() < 0.2 else whole


def _zipped(entries: Mapping[str, bytes], chance: Random | None = None) -> bytes:
    buffer = io.BytesIO()
    kind = chance.choice((0, 8, 8, 12, 14)) if chance else zipfile.ZIP_DEFLATED
    with zipfile.ZipFile(buffer, "w", kind) as archive:
        for name, content in entries.items():
            archive.writestr(zipfile.ZipInfo(name), content, kind)
    return buffer.getvalue()


def _linked(chance: Random, entries: Mapping[str, bytes]) -> bytes:
    """One file is a link to elsewhere, a device or a pipe, and the next is written through it."""
    buffer, name = io.BytesIO(), chance.choice(list(entries))
    with zipfile.ZipFile(buffer, "w") as archive:
        info = zipfile.ZipInfo(chance.choice((name, "out")))
        kind = chance.choice((stat.S_IFLNK, stat.S_IFLNK, stat.S_IFCHR, stat.S_IFIFO, stat.S_IFSOCK))
        info.external_attr = (kind | 0o777) << 16
        archive.writestr(info, chance.choice(("/tmp", "..", "../../..", "/etc/passwd")))
        for other, content in entries.items():
            archive.writestr(zipfile.ZipInfo(chance.choice((other, f"out/{other}"))), content)
    return buffer.getvalue()


# --- Weights -------------------------------------------------------------------------------------


def spoil_safetensors(chance: Random, data: bytes) -> bytes:
    """The header lies: about its length, shapes, types or places; or JSON is not what it holds."""
    size = int.from_bytes(data[:8], "little")
    header, body = data[8 : 8 + size], data[8 + size :]
    how = chance.randrange(6)
    if how == 0:
        return spoil_bytes(chance, data)
    if how == 1:
        return (
            struct.pack("<Q", chance.choice((0, 1, 2**31, 2**63, 2**64 - 1, len(data), size + 1))) + data[8:]
        )
    if how == 2:
        spoiled = spoil_json(chance, header)
        return struct.pack("<Q", len(spoiled)) + spoiled + body
    told = json.loads(header)
    row = told[chance.choice([name for name in told if name != "__metadata__"])]
    if how == 3:
        row["shape"] = chance.choice(
            ([2**40, 2**40], [0], [], [-1], row["shape"] + [1], [10**12], ["a"], None)
        )
    elif how == 4:
        row["data_offsets"] = chance.choice(
            ([0, 2**62], [5, 1], [0, 0], [-8, 8], [2**64, 0], ["a", "b"], None)
        )
    else:
        row["dtype"] = chance.choice(("F64", "I64", "BOOL", "BF16", "F8_E4M3", "C64", "X", "", None, 5))
    spoiled = json.dumps(told).encode()
    return struct.pack("<Q", len(spoiled)) + spoiled + body


class Calls:
    """Pickles to a call of any function."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


def evil_pickles(canary: Path) -> list[Any]:
    """Objects whose unpickling would leave a file behind, run for ever or take all memory."""
    import builtins
    import os
    import subprocess

    path = str(canary)
    return [
        Calls(os.system, f"touch {path}"),
        Calls(open, path, "w"),
        Calls(subprocess.call, ["touch", path]),
        Calls(builtins.exec, f"open({path!r}, 'w').close()"),
        Calls(builtins.eval, f"open({path!r}, 'w').close()"),
        Calls(os.makedirs, path),
        Calls(torch.load, path),
        Calls(bytearray, 2**45),
    ]


def spoil_pth(chance: Random, state: Mapping[str, torch.Tensor], canary: Path) -> bytes:
    """A checkpoint of torch, new or old or a bare pickle, with code, nonsense or damage in it."""
    content: Any = dict(state)
    name = chance.choice(list(content))
    evil = chance.choice(evil_pickles(canary))
    how = chance.randrange(12)
    if how <= 2:
        content = chance.choice(({**content, name: evil}, {**content, "x": [evil]}, evil, [evil], (evil,)))
    elif how == 3:
        content = chance.choice(
            ([], {}, None, 5, "x", {name: 5}, {5: content[name]}, {"a": {"b": content[name]}}, DEEP)
        )
    elif how == 4:
        content[name] = chance.choice(
            (
                torch.zeros(1, dtype=torch.half).expand(10**7, 10**6),
                torch.zeros(()),
                torch.zeros(0),
                torch.zeros(2, 2).to_sparse(),
                torch.zeros(1, dtype=torch.complex64),
                torch.zeros(1, dtype=torch.bool),
                torch.empty(3, 3, device="meta"),
                torch.quantize_per_tensor(torch.zeros(2), 0.1, 0, torch.qint8),
                torch.full((4,), float("nan")),
                torch.zeros(1, dtype=torch.half).expand(2**31, 2**30),
            )
        )
    elif how == 5:
        content = chance.choice(
            ({}, {k: v for k, v in content.items() if k != name}, {**content, "extra": torch.zeros(1)})
        )
    if how == 6:
        return pickle.dumps(chance.choice((evil, {"w": evil}, {"w": 1}, content)), chance.randrange(6))
    if how == 7:
        return chance.choice(
            (b"", b"\x80", b"PK\x03\x04", b"\x80\x02.", b"cos\nsystem\n(S'touch'\ntR.", chance.randbytes(200))
        )
    buffer = io.BytesIO()
    torch.save(content, buffer, _use_new_zipfile_serialization=chance.random() < 0.7)
    whole = buffer.getvalue()
    if how >= 8:
        whole = spoil_bytes(chance, whole)
        if how == 11 and zipfile.is_zipfile(io.BytesIO(buffer.getvalue())):
            with zipfile.ZipFile(io.BytesIO(buffer.getvalue())) as archive:
                entries = {entry.filename: archive.read(entry) for entry in archive.infolist()}
            inner = chance.choice([entry for entry in entries if entry.endswith("pkl")] or list(entries))
            entries[inner] = spoil_bytes(chance, entries[inner])
            whole = _zipped(entries)
    return whole
