"""Images that cannot be imported: one clear line says which and why, and the study stays as it is."""

import hashlib
import io
import json
import os
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import tifffile
from PIL import Image

from allinsam.errors import AllinsamError
from allinsam.importing import FolderRules, ImportLimits
from allinsam.importing.slide import SlideRules
from allinsam.store import Study, open_study
from allinsam.workflow import uploads
from allinsam.workflow.importing import ImportRefusedError, import_study
from allinsam.workflow.importing_slides import SlideSource, import_slide
from tests.bad_inputs import (
    SIZE_HW,
    encoded,
    header_only_png,
    lying_zip,
    noise,
    pair,
    write_all,
    zip_bytes,
)
from tests.slides import circle, feature, write_slide

Make = Callable[[Path], Path]  # fills a folder and returns what is to be imported
LIMITS = ImportLimits(patch_mpx=1.0, zip_entries=20, zip_file_mb=2, zip_mb=5)
PAS = "s2_b_pas.png"


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """Shared: every import of this file must leave it as it was."""
    folder = tmp_path_factory.mktemp("refusals")
    import_study(folder / "study", write_all(folder / "images", pair("s0_x", 50)))
    return open_study(folder / "study")


def content(study: Study) -> dict[str, str]:
    """Every file and folder but the databases' own, and every row of both."""
    found = {}
    for path in sorted(study.folder.rglob("*")):
        if "sqlite" not in path.name:
            found[str(path)] = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "folder"
    for database in (study.science, study.server):
        with database.read() as db:
            found |= {table: str(list(db[table].rows)) for table in db.table_names()}
    return found


def files(**changed: bytes | None) -> Make:
    """A folder with a good pair, and a second one with other content in some files; None: it is missing."""
    names = {name.replace("__", "."): value for name, value in changed.items()}

    def make(folder: Path) -> Path:
        every = pair() | pair("s2_b", 7) | names
        return write_all(folder, {name: value for name, value in every.items() if value is not None})

    return make


def tiff(pixels: np.ndarray, **options: object) -> bytes:
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, pixels, **options)
    return buffer.getvalue()


def half(whole: bytes) -> bytes:
    return whole[: len(whole) // 2]


def animated() -> bytes:
    pictures = [Image.fromarray(noise(seed)) for seed in (1, 2, 3)]
    return encoded(pictures[0], save_all=True, append_images=pictures[1:])


def nan_pixels() -> bytes:
    pixels = np.ones(SIZE_HW, np.float32)
    pixels[3, 4] = np.nan
    return tiff(pixels)


def zero_size() -> bytes:
    whole = bytearray(header_only_png(32, 24))
    whole[16:20] = struct.pack(">I", 0)
    return bytes(whole)


IMAGES: dict[str, tuple[Make, str]] = {
    "PNG cut off": (files(s2_b_pas__png=half(encoded(noise(7)))), "s2_b_pas.png cannot be read .* Export it"),
    "JPEG cut off": (files(s2_b_pas__png=half(encoded(noise(7), "JPEG"))), "cannot be read .* Export it"),
    "TIFF cut off": (files(s2_b_pas__png=half(tiff(noise(7), photometric="rgb"))), "is cut off"),
    "TIFF cut off in its header": (files(s2_b_pas__png=b"II*\0\x08\0\0\0"), "Export it again"),
    "16 bits per colour": (
        files(s2_b_pas__png=imagecodecs.png_encode(noise(7, dtype=np.uint16))),
        "is uint16; a stained image has 8 bits per colour",
    ),
    "not-a-number in pixels": (files(s2_b_WT1__png=nan_pixels()), "has float32 pixels. Export it as 8 or 16"),
    "signed pixels": (files(s2_b_WT1__png=tiff(np.zeros(SIZE_HW, np.int16))), "has int16 pixels"),
    "CMYK": (files(s2_b_pas__png=encoded(Image.new("CMYK", (32, 24)), "JPEG")), "colours of kind CMYK"),
    "animated": (files(s2_b_pas__png=animated()), r"3 pictures in turn \(animated\). Export one"),
    "several pages": (
        files(s2_b_pas__png=tiff(np.zeros((2, *SIZE_HW, 3), np.uint8), photometric="rgb")),
        "Export one image",
    ),
    "planes in depth": (
        files(s2_b_WT1__png=tiff(np.zeros((5, *SIZE_HW), np.uint16), imagej=True, metadata={"axes": "ZYX"})),
        r"5 planes in depth \(Z\)",
    ),
    "no pixels": (files(s2_b_pas__png=zero_size()), "s2_b_pas.png .* Export it again"),
    "empty file": (files(s2_b_pas__png=b""), "s2_b_pas.png is empty"),
    "text named .png": (files(s2_b_pas__png=b"To be scanned again"), "is not PNG, JPEG or TIFF"),
    "BMP named .png": (files(s2_b_pas__png=encoded(noise(7), "BMP")), "is not PNG, JPEG or TIFF"),
    "header of 100,000 x 100,000 px": (
        files(s2_b_pas__png=header_only_png(100_000, 100_000)),
        "is 100000x100000 px .* Cut patches",
    ),
    "larger than a patch": (
        files(s2_b_pas__png=header_only_png(1200, 1000)),
        "is 1200x1000 px, more than the 1 Mpx of a patch",
    ),
    "IF larger than a patch": (files(s2_b_WT1__png=header_only_png(1200, 1000)), "more than the 1 Mpx"),
    "IF larger than PAS": (
        files(s2_b_WT1__png=encoded(noise(9, (48, 64)))),
        "is 64x48 px, but its stained image is 32x24. Export both at one size",
    ),
    "five channels as PAS": (
        files(s2_b_pas__png=tiff(np.zeros((5, *SIZE_HW), np.uint8), photometric="minisblack")),
        "5 channels; a stained image is RGB",
    ),
}


def linked(folder: Path) -> Path:
    outside = write_all(folder.parent / "elsewhere", pair("s2_b", 7))
    write_all(folder, pair())
    (folder / PAS).symlink_to(outside / PAS)
    return folder


def linked_in_a_circle(folder: Path) -> Path:
    write_all(folder, pair())
    (folder / PAS).symlink_to(folder / "other_pas.png")
    (folder / "other_pas.png").symlink_to(folder / PAS)
    return folder


def linked_manifest(folder: Path) -> Path:
    """The manifest itself lies elsewhere: what it says would be told in words about its cells."""
    elsewhere = write_all(folder.parent / "elsewhere", {"secret.csv": (HEAD + GOOD).encode()})
    write_all(folder, pair())
    (folder / "manifest.csv").symlink_to(elsewhere / "secret.csv")
    return folder


def unreadable(folder: Path) -> Path:
    files()(folder)
    (folder / PAS).chmod(0)
    return folder


FOLDERS: dict[str, tuple[Make, str]] = {
    "not there": (lambda folder: folder / "gone", "gone is not there. Give a folder of images"),
    "no image in it": (
        lambda folder: write_all(folder, {"notes.txt": b"hello"}),
        "holds no PNG, JPEG or TIFF",
    ),
    "an empty folder": (lambda folder: folder, "holds no PNG, JPEG or TIFF"),
    "a single image": (lambda folder: write_all(folder, pair()) / "s1_a_pas.png", "neither a folder nor"),
    "two patches of one name": (
        files(s1_a_hematoxylin__png=encoded(noise(3)), s2_b_pas__png=None, s2_b_WT1__png=None),
        "s1_a_hematoxylin.png is this patch already. Keep one",
    ),
    "one image under two names": (
        files(s2_b_pas__png=pair()["s1_a_pas.png"]),
        "duplicate: stained image 's2_b_pas.png' is in s1_a_pas.png already",
    ),
    "the image of a patch that is there": (
        files(s2_b_pas__png=pair("s0_x", 50)["s0_x_pas.png"]),
        "s2_b_pas.png is in the study as patch 's0_x'. Leave it out",
    ),
    "another image for a patch that is there": (
        files(s0_x_pas__png=encoded(noise(3)), s0_x_WT1__png=encoded(noise(4, SIZE_HW))),
        "'s0_x' is in the study with another image. Rename",
    ),
    "images only in folders below": (
        lambda folder: write_all(folder, {"pas/s1_a_pas.png": b"x", "if/s1_a_WT1.png": b"x"}),
        "holds images only in folders below. Put all of them into one folder",
    ),
    "images in a folder below": (
        lambda folder: write_all(folder, pair() | {"more/deep/s2_b_pas.png": b"x"}),
        "more: images in a folder below are not read. Put them beside",
    ),
    "an image of another kind": (
        files(s3_c_pas__bmp=encoded(noise(7), "BMP")),
        "s3_c_pas.bmp: .bmp is not read here. Export it as PNG or TIFF",
    ),
    "IF alone": (files(s2_b_pas__png=None), "missing pair: no s2_b_pas image beside it"),
    "PAS alone": (files(s2_b_WT1__png=None), "missing pair: s2_b_pas.png has no marker channel. Add one"),
    "no underscore": (files(overview__png=encoded(noise(3))), "no pair. Images of a patch are named x_pas"),
    "a link out of the folder": (linked, "s2_b_pas.png: links out of the folder. Put the file itself there"),
    "a manifest that is a link out": (linked_manifest, "manifest.csv links out of its folder. Put the file"),
    "no right to read": (unreadable, "s2_b_pas.png may not be read. Give this program the right"),
}

HEAD = "pas,channel_file,channel_index,role,marker,slide,condition,um_per_px\n"
GOOD = "s1_a_pas.png,s1_a_WT1.png,,marker,WT1,s1,normal,0.25\n"


def manifest(text: str | bytes, **more: bytes) -> Make:
    written = text if isinstance(text, bytes) else text.encode()
    return files(manifest__csv=written, **more)


def row(**changed: str) -> Make:
    """A good row, and one of the second pair with other cells."""
    cells = {"pas": PAS, "channel_file": "s2_b_WT1.png", "channel_index": "", "role": "marker"}
    cells |= {"marker": "WT1", "slide": "s2", "condition": "normal", "um_per_px": "0.25"} | changed
    return manifest(HEAD + GOOD + ",".join(cells.values()) + "\n")


MANIFESTS: dict[str, tuple[Make, str]] = {
    "too large": (manifest(HEAD + "," * (65 << 20)), "has more than 64 MB. Import fewer patches"),
    "empty": (manifest(""), "manifest.csv is empty. Its first row names the columns"),
    "no rows": (manifest(HEAD), "has no rows below its column names"),
    "wrong columns": (manifest("file,marker\na,b\n"), "has no column pas, channel_file, role. Add it"),
    "unknown column": (manifest("conditon," + HEAD + "normal," + GOOD), "Did you mean condition"),
    "a column twice": (manifest("pas," + HEAD + "x," + GOOD), "has the column 'pas' twice"),
    "UTF-16": (manifest((HEAD + GOOD).encode("utf-16")), "is not UTF-8 text. Save it as CSV UTF-8"),
    "UTF-16 without its mark": (manifest((HEAD + GOOD).encode("utf-16-le")), "is not UTF-8 text"),
    "Latin-1": (manifest((HEAD + GOOD.replace("s1,", "Nière,")).encode("latin-1")), "is not UTF-8 text"),
    "an open quote": (manifest(HEAD + '"s1_a_pas.png,x\n'), "cannot be read as CSV"),
    "too many cells": (manifest(HEAD + GOOD.strip() + ",0,25\n"), "row 2: more cells than the 8 columns"),
    "path up": (row(channel_file="../s2_b_WT1.png"), r"row 3: channel_file '../s2_b_WT1.png' leads out"),
    "absolute path": (row(pas="/etc/passwd"), "row 3: pas '/etc/passwd' leads out"),
    "drive path": (row(pas="C:\\a.png"), "row 3: pas .* leads out"),
    "file missing": (row(channel_file="gone.png"), "row 3: .*gone.png is not there"),
    "channel_index out of range": (row(channel_index="1"), "row 3: .* has no channel 1. It has 1 channel"),
    "channel_index no number": (row(channel_index="first"), "row 3: channel_index 'first' is no whole"),
    "um_per_px not a number": (row(um_per_px="nan"), "row 3: um_per_px 'nan' is not between 0 and 10"),
    "um_per_px infinite": (row(um_per_px="inf"), "row 3: um_per_px 'inf' is not between"),
    "um_per_px of a slide scanner's file name": (row(um_per_px="40x"), "row 3: um_per_px '40x'"),
    "unknown condition": (row(condition="sick"), "row 3: condition 'sick' is unknown. Give normal"),
    "unknown role": (row(role="magic"), "row 3: role 'magic' is unknown. Give marker"),
    "no marker": (row(marker=""), "row 3: marker is empty. Name the marker"),
    "the stained image as its channel": (
        row(channel_file=PAS),
        "row 3: channel_file .* is the stained image",
    ),
    "a control character": (row(slide="s\x072"), "row 3: slide .* is not plain short text"),
}


def zipped(entries: dict[str, bytes], **with_good: object) -> Make:
    return archive(zip_bytes({**pair(), **entries}))


def archive(whole: bytes) -> Make:
    def make(folder: Path) -> Path:
        (folder / "images.zip").write_bytes(whole)
        return folder / "images.zip"

    return make


def flagged(name: str, **fields: int) -> Make:
    """A ZIP whose one entry has other fields in its directory than it should."""

    def make(folder: Path) -> Path:
        path = folder / "images.zip"
        info = zipfile.ZipInfo(name)
        for field, value in fields.items():
            setattr(info, field, value)
        with zipfile.ZipFile(path, "w") as opened:
            opened.writestr(info, b"x")
        return path

    return make


def encrypted(folder: Path) -> Path:
    whole = bytearray(zip_bytes(pair()))
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        whole[whole.index(signature) + offset] |= 1
    return archive(bytes(whole))(folder)


def unknown_compression(folder: Path) -> Path:
    whole = bytearray(zip_bytes(pair()))
    for signature, offset in ((b"PK\x03\x04", 8), (b"PK\x01\x02", 10)):
        whole[whole.index(signature) + offset] = 99
    return archive(bytes(whole))(folder)


def two_of_one_name(folder: Path) -> Path:
    path = folder / "images.zip"
    with pytest.warns(UserWarning, match="Duplicate name"), zipfile.ZipFile(path, "w") as opened:
        for _ in range(2):
            opened.writestr("s1_a_pas.png", b"x")
    return path


def name_without_end(folder: Path) -> Path:
    """A header that says that its file's name goes on into the file."""
    whole = bytearray(zip_bytes(pair(), zipfile.ZIP_STORED))
    whole[26:28] = struct.pack("<H", 2_000)
    return archive(bytes(whole))(folder)


def damaged(folder: Path) -> Path:
    whole = bytearray(zip_bytes(pair(), zipfile.ZIP_STORED))
    whole[200] ^= 0xFF
    return archive(bytes(whole))(folder)


ZIPS: dict[str, tuple[Make, str]] = {
    "no zip": (archive(b"hello"), "images.zip is no whole ZIP: .* Pack it again"),
    "empty file": (archive(b""), "images.zip is no whole ZIP"),
    "cut off": (archive(half(zip_bytes(pair()))), "is no whole ZIP"),
    "a name without end": (name_without_end, "is no whole ZIP: File name in directory"),
    "damaged": (damaged, "is no whole ZIP: Bad CRC-32"),
    "empty zip": (archive(zip_bytes({})), "images.zip holds no image. Pack the PNG"),
    "only folders": (archive(zip_bytes({"a/": b"", "a/b/": b""})), "holds no image"),
    "only what macOS adds": (
        archive(zip_bytes({"__MACOSX/._a_pas.png": b"x", ".DS_Store": b"x"})),
        "holds no image",
    ),
    "without images": (archive(zip_bytes({"notes.txt": b"a", "b.txt": b"b"})), "holds no PNG, JPEG or TIFF"),
    "path up": (zipped({"../s9_pas.png": b"x"}), r"'../s9_pas.png' leads out of the archive"),
    "path up in the middle": (zipped({"a/../../s9_pas.png": b"x"}), "leads out of the archive"),
    "path up, Windows": (zipped({"..\\s9_pas.png": b"x"}), "leads out of the archive"),
    "absolute path": (zipped({"/tmp/s9_pas.png": b"x"}), "'/tmp/s9_pas.png' leads out"),
    "drive path": (zipped({"C:\\s9_pas.png": b"x"}), "leads out of the archive"),
    "drive path without a root": (zipped({"C:s9_pas.png": b"x"}), "leads out of the archive"),
    "a link": (flagged("s1_a_pas.png", external_attr=0o120777 << 16), "'s1_a_pas.png' is a link, no file"),
    "a device": (flagged("s1_a_pas.png", external_attr=0o020666 << 16), "is a link, no file"),
    "encrypted": (encrypted, "'s1_a_pas.png' is encrypted. Pack it without a password"),
    "unknown compression": (unknown_compression, r"compressed in an unknown way \(99\)"),
    "one name twice": (two_of_one_name, "holds 's1_a_pas.png' twice"),
    "one name twice but for case": (zipped({"S1_A_PAS.png": b"x"}), "'S1_A_PAS.png' twice"),
    "a line break in a name": (zipped({"s9\n_pas.png": b"x"}), "no plain short file name"),
    "a name too long": (zipped({"s" * 300 + "_pas.png": b"x"}), "no plain short file name"),
    "too many entries": (
        zipped({f"s{i}_pas.png": b"x" for i in range(30)}),
        "has 32 entries, more than 20. Pack fewer",
    ),
    "a bomb": (zipped({"s9_pas.png": bytes(3_000_000)}), "unpacks to 3 MB, more than 2 MB"),
    "a bomb of many": (
        zipped({f"s{i}_pas.png": bytes(1_900_000) for i in range(3)}),
        "unpacks to 6 MB, more than 5 MB",
    ),
    "a bomb that says it is small": (
        archive(lying_zip("s9_pas.png", bytes(3_000_000), 10)),
        "is no whole ZIP: Bad CRC-32 for file 's9_pas.png'",
    ),
    "a zip in the zip": (
        zipped({"more.zip": zip_bytes(pair("s2_b", 7))}),
        "more.zip: an archive in the archive is not read. Unpack it",
    ),
    "a damaged image in it": (
        zipped({"s2_b_pas.png": half(encoded(noise(7))), "s2_b_WT1.png": b"x"}),
        "s2_b_pas.png cannot be read as an image",
    ),
}

# What a slide is given with, beside the name of its file: a folder -> a source and its rules.
MakeSlide = Callable[[Path], tuple[SlideSource, SlideRules]]
SMALL = SlideRules(patch_px=64)


def a_slide(seed: int = 0, hw: tuple[int, int] = (256, 320)) -> np.ndarray:
    stain = np.full((*hw, 3), 244, np.uint8)
    stain[64:192, 64:256] = (220, 160, 200)
    return stain - noise(seed, stain.shape) // 64


def slide(
    pixels: np.ndarray | None = None,
    rules: SlideRules = SMALL,
    spoil: Callable[[Path], object] = lambda path: None,
    given: dict | None = None,
    options: dict | None = None,
) -> MakeSlide:
    def make(folder: Path) -> tuple[SlideSource, SlideRules]:
        path = folder / "s9.ome.tif"
        write_slide(
            path, a_slide() if pixels is None else pixels, levels=1, **{"tile": (64, 64)} | (options or {})
        )
        spoil(path)
        return SlideSource(path, **(given or {})), rules

    return make


def fluorescence(pixels: np.ndarray, channels: dict[str, int], **given: object) -> MakeSlide:
    def make(folder: Path) -> tuple[SlideSource, SlideRules]:
        source, rules = slide()(folder)
        path = write_slide(folder / "s9_if.ome.tif", pixels, levels=0, tile=(64, 64))
        return SlideSource(source.path, path, channels, **given), rules

    return make


def outlines(content: object) -> MakeSlide:
    def make(folder: Path) -> tuple[SlideSource, SlideRules]:
        source, rules = slide()(folder)
        path = folder / "glomeruli.geojson"
        path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
        return SlideSource(source.path, glomeruli=path), rules

    return make


def collection(*features: dict) -> dict:
    return {"type": "FeatureCollection", "features": list(features)}


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def garbled(path: Path) -> None:
    whole = bytearray(path.read_bytes())
    whole[1000:] = bytes(b ^ 0x5A for b in whole[1000:])
    path.write_bytes(whole)


IF = np.full((2, 256, 320), 300, np.uint16)
SLIDES: dict[str, tuple[MakeSlide, str]] = {
    "not there": (slide(spoil=lambda path: path.unlink()), "s9.ome.tif is not there. Give the slide's file"),
    "empty": (slide(spoil=lambda path: path.write_bytes(b"")), "s9.ome.tif is empty"),
    "text": (slide(spoil=lambda path: path.write_text("hello")), "OpenSlide"),
    "cut off": (slide(spoil=cut_short), "s9.ome.tif is cut off|cannot be read as a slide"),
    "garbled": (slide(spoil=garbled), "s9.ome.tif"),
    "no pixel size": (slide(options={"um_per_px": None}), "does not say its pixel size. Give it with"),
    "pixel size no number": (slide(given={"um_per_px": float("nan")}), "um_per_px 'nan' is not between"),
    "coarser than its patches": (
        slide(options={"um_per_px": 1.0}),
        "has 1 um per px; patches of 0.25 cannot",
    ),
    "smaller than a patch": (slide(rules=SlideRules()), "is 320x256 px; a patch of 512 px at 0.25 um"),
    "no tissue": (slide(np.full((256, 320, 3), 244, np.uint8)), "shows no patch with so much tissue"),
    "too many patches": (
        slide(rules=SlideRules(patch_px=64, most_patches=3)),
        "gives 6 patches, more than 3",
    ),
    "fluorescence as the stain": (slide(IF), "a stained slide is 8-bit RGB. Give the stained slide first"),
    "float pixels": (slide(np.ones((1, 256, 320), np.float32)), "has float32 pixels"),
    "patch of no size": (slide(rules=SlideRules(patch_px=0)), "Patches of 0 px cannot be cut. Give 64 to"),
    "share beyond one": (slide(rules=SlideRules(tissue_share=50)), "tissue_share 50 is not between 0 and 1"),
    "unknown place": (slide(rules=SlideRules(place="middle")), "Unknown place 'middle'. Choose one of grid"),
    "unknown condition": (slide(given={"condition": "sick"}), "condition 'sick' is unknown"),
    "channels of nothing": (slide(given={"channels": {"WT1": 0}}), "Channels WT1 of what.* with --if"),
    "IF without channels": (fluorescence(IF, {}), "has 2 channel.s.. Say which marker is where"),
    "channel out of range": (fluorescence(IF, {"WT1": 2}), "has no channel 2 for 'WT1'. It has 2, from 0"),
    "one marker twice": (fluorescence(IF, {"WT1": 0, "wt1": 1}), "Channel 'WT1' is given twice"),
    "no marker among the channels": (fluorescence(IF, {"DAPI": 0}), "no marker among DAPI. Add one"),
    "IF of another frame": (fluorescence(IF[:, :128], {"WT1": 0}), "does not show the frame of"),
    "IF that cannot be registered": (
        fluorescence(IF, {"WT1": 0}, register=True),
        "could not be registered on .*s9.ome.tif",
    ),
    "GeoJSON missing": (slide(given={"glomeruli": Path("/nowhere/g.geojson")}), "g.geojson cannot be opened"),
    "GeoJSON that is no JSON": (outlines(b"{"), "glomeruli.geojson cannot be read as JSON"),
    "GeoJSON empty": (outlines(b""), "glomeruli.geojson is empty"),
    "JSON that is no GeoJSON": (outlines({"a": 1}), "is no GeoJSON with features"),
    "GeoJSON without outlines": (outlines(collection()), "holds no outline. Outline the glomeruli"),
    "GeoJSON of a point": (
        outlines(collection({"type": "Feature", "geometry": {"type": "Point", "coordinates": [1, 2]}})),
        "outline 1 is a Point, no area",
    ),
    "GeoJSON without a geometry": (outlines(collection({"type": "Feature"})), "outline 1 is a None, no area"),
    "GeoJSON with not-a-number": (
        outlines(b'{"type":"Feature","geometry":{"type":"Polygon","coordinates":[[[NaN,1],[2,2],[3,1]]]}}'),
        "holds NaN, which is no number",
    ),
    "GeoJSON with broken corners": (
        outlines(collection(feature([[1, 1], ["x", 2], [3, 3], [1, 1]]))),
        "outline 1 has no usable corners",
    ),
    "GeoJSON of an outline without area": (
        outlines(collection(feature([[1, 1], [2, 2], [3, 3], [1, 1]]))),
        "outline 1 has no usable corners",
    ),
    "GeoJSON of another slide": (
        outlines(collection(feature(circle(9000, 9000, 50)))),
        "outline 1 lies outside the slide of 320x256 px",
    ),
    "GeoJSON with one name twice": (
        outlines(collection(feature(circle(90, 90, 50), "g1"), feature(circle(200, 90, 50), "g1"))),
        "the name 'g1' is there twice",
    ),
}


@pytest.mark.parametrize("what", SLIDES, ids=lambda value: value.replace(" ", "_"))
def test_a_slide_that_cannot_be_used_is_refused_in_one_line(what: str, study: Study, tmp_path: Path) -> None:
    make, words = SLIDES[what]
    folder = tmp_path / "source"
    folder.mkdir()
    source, rules = make(folder)
    before = content(study)
    with pytest.raises(AllinsamError, match=words) as refused:
        import_slide(study.folder, source, rules)
    said = str(refused.value)
    assert "\n" not in said and len(said) < 600 and said.rstrip().endswith(".")
    assert content(study) == before
    with pytest.raises(AllinsamError):
        import_slide(tmp_path / "new", source, rules)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["source"]


ALL = {"image": IMAGES, "folder": FOLDERS, "manifest": MANIFESTS, "zip": ZIPS}
CASES = [(of, what) for of, cases in ALL.items() for what in cases]


def test_links_that_lead_round_in_a_circle_are_told(study: Study, tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    before = content(study)
    with pytest.raises(
        ImportRefusedError, match="s2_b_pas.png: links out of the folder. Put the file itself"
    ):
        import_study(study.folder, linked_in_a_circle(tmp_path / "source"), limits=LIMITS)
    assert content(study) == before


@pytest.mark.parametrize(("of", "what"), CASES, ids=lambda value: value.replace(" ", "_"))
def test_what_cannot_be_used_is_refused_in_one_line(of: str, what: str, study: Study, tmp_path: Path) -> None:
    if what == "no right to read" and os.geteuid() == 0:
        pytest.skip("root may read everything")
    make, words = ALL[of][what]
    folder = tmp_path / "source"
    folder.mkdir()
    source = make(folder)
    before = content(study)
    with pytest.raises(AllinsamError, match=words) as refused:
        import_study(study.folder, source, limits=LIMITS)
    said = str(refused.value)
    if isinstance(refused.value, ImportRefusedError):
        assert said.startswith(f"Nothing was imported from {source}: 1 problem. ")
        said = "\n".join(said.splitlines()[1:])
    assert "\n" not in said and len(said) < 600 and said.rstrip().endswith((".", "?"))
    assert uploads.UNPACKED not in said
    assert content(study) == before
    if "that is there" in what:
        return
    # A study that was not there yet is not begun either.
    with pytest.raises(AllinsamError):
        import_study(tmp_path / "new", source, limits=LIMITS, rules=FolderRules())
    assert sorted(p.name for p in tmp_path.iterdir() if p.name != "elsewhere") == ["source"]


def test_there_are_many_kinds() -> None:
    assert len(CASES) + len(SLIDES) >= 100
