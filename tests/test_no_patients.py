"""What a file tells of a patient stays in the file: only pixels and their size come into a study."""

import csv
import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import ExifTags, Image, PngImagePlugin

from allinsam.importing.slide import SlideRules
from allinsam.store import Study, images, open_study
from allinsam.workflow.importing import import_study
from allinsam.workflow.importing_slides import SlideSource, import_slide
from tests.slides import draw_slide, write_slide
from tests.studies import draw_patch

CANARY = "Quillfeather-1931-04-02"
LABEL_LEVEL = 77  # grey of the label and overview pictures


def png_with_text(path: Path, pixels: np.ndarray) -> None:
    told = PngImagePlugin.PngInfo()
    told.add_text("Patient", CANARY)
    told.add_itxt("Comment", CANARY)
    told.add_text("Zipped", CANARY, zip=True)
    Image.fromarray(pixels).save(path, pnginfo=told, exif=exif(), dpi=(50_800, 50_800))
    # And an ancillary chunk that nobody knows.
    content, own = path.read_bytes(), b"paTn" + CANARY.encode()
    chunk = struct.pack(">I", len(own) - 4) + own + struct.pack(">I", zlib.crc32(own))
    path.write_bytes(content[:33] + chunk + content[33:] + CANARY.encode())


def jpeg_with_exif(path: Path, pixels: np.ndarray) -> None:
    Image.fromarray(pixels).save(path, exif=exif(), comment=CANARY.encode(), quality=95)
    path.write_bytes(path.read_bytes() + CANARY.encode())


def exif() -> Image.Exif:
    made = Image.Exif()
    for tag in (ExifTags.Base.ImageDescription, ExifTags.Base.Artist, ExifTags.Base.Copyright):
        made[tag] = CANARY
    return made


def tiff_with_tags(path: Path, pixels: np.ndarray) -> None:
    text = CANARY.encode() + b"\0"
    tags = [(315, "s", 0, CANARY, True), (700, "B", len(text), text, True), (33432, "s", 0, CANARY, True)]
    is_rgb = pixels.ndim == 3
    tifffile.imwrite(
        path, pixels, photometric="rgb" if is_rgb else "minisblack", description=CANARY, extratags=tags
    )


def ome_tiff(path: Path, pixels: np.ndarray) -> None:
    told = {"axes": "YXS" if pixels.ndim == 3 else "YX", "Name": CANARY, "Description": CANARY}
    tifffile.imwrite(path, pixels, ome=True, metadata=told, photometric="rgb" if pixels.ndim == 3 else None)


WRITERS: dict[str, Callable[[Path, np.ndarray], None]] = {
    ".png": png_with_text,
    ".jpg": jpeg_with_exif,
    ".tif": tiff_with_tags,
    ".ome.tif": ome_tiff,
}


def assert_no_patient(study: Study, but: str = "server.sqlite") -> None:
    """In no file's bytes or name; the server's own database knows where slides lie."""
    files = [path for path in study.folder.rglob("*") if path.is_file()]
    assert any(path.suffix == ".png" for path in files)
    for path in files:
        assert CANARY not in str(path.relative_to(study.folder))
        if not path.name.startswith(but):
            content = path.read_bytes()
            for text in (CANARY, CANARY.lower()):
                assert text.encode() not in content and text.encode("utf-16-le") not in content, path
        if path.suffix == ".png":
            with Image.open(path) as image:
                image.load()
                assert not image.info and not image.getexif(), path


@pytest.mark.parametrize("suffix", WRITERS)
def test_what_a_picture_tells_of_a_patient_stays_in_its_file(tmp_path: Path, suffix: str) -> None:
    pas, channels = draw_patch(0)
    folder = tmp_path / "files"
    folder.mkdir()
    names = {"pas": f"{CANARY}_pas{suffix}", "WT1": f"{CANARY}_WT1{suffix}"}
    WRITERS[suffix](folder / names["pas"], pas)
    WRITERS[suffix](folder / names["WT1"], channels["WT1"])
    assert all(CANARY.encode() in (folder / name).read_bytes() for name in names.values())
    row = {"pas": names["pas"], "channel_file": names["WT1"], "role": "marker", "marker": "WT1"}
    row |= {"slide": "s1", "patch": "s1-p1", "um_per_px": "0.5"}
    text = io.StringIO()
    writer = csv.DictWriter(text, list(row))
    writer.writeheader()
    writer.writerow(row)
    (folder / "manifest.csv").write_text(text.getvalue())
    import_study(tmp_path / "study", folder / "manifest.csv", name="Study")
    study = open_study(tmp_path / "study")
    with study.science.read() as db:
        [patch] = images.list_patches(db)
        assert (patch["name"], patch["slide"]) == ("s1-p1", "s1")
        assert {row["source_name"] for row in images.list_images(db)} == {"s1-p1_pas", "s1-p1_WT1"}
    assert_no_patient(study)


def write_labelled_slide(path: Path, pixels: np.ndarray, vendor: bool) -> None:
    """A slide with a label and an overview picture behind its levels, and a description with a patient."""
    if not vendor:
        write_slide(path, pixels, description=None)
        xml = tifffile.TiffFile(path).ome_metadata
        assert xml is not None
        told = xml.replace("<Image ", f'<Image Name="{CANARY}" ', 1) if 'Name="' not in xml else xml
        tifffile.tiffcomment(path, told.replace('Name="Image0"', f'Name="{CANARY}"').encode())
        return
    label = np.full((64, 96, 3), LABEL_LEVEL, np.uint8)
    told = f"Aperio Image Library\n{pixels.shape[1]}x{pixels.shape[0]}|MPP = 0.25|Patient = {CANARY}"
    with tifffile.TiffWriter(path) as writer:
        common = {"photometric": "rgb", "metadata": None}
        writer.write(pixels, tile=(256, 256), description=told, **common)
        writer.write(pixels[::8, ::8], description=f"Aperio\nthumbnail {CANARY}", **common)
        writer.write(pixels[::4, ::4], tile=(256, 256), description=told, **common)
        writer.write(label, subfiletype=1, description=f"Aperio\nlabel {CANARY}", **common)
        writer.write(label, subfiletype=9, description=f"Aperio\nmacro {CANARY}", **common)


@pytest.mark.parametrize("vendor", [False, True], ids=["ome", "svs"])
def test_a_slides_label_and_description_stay_in_the_slide(tmp_path: Path, vendor: bool) -> None:
    stain, fluorescence = draw_slide()
    path = tmp_path / f"{CANARY}{'.svs' if vendor else '.ome.tif'}"
    write_labelled_slide(path, stain, vendor)
    assert CANARY.encode() in path.read_bytes()
    other = write_slide(tmp_path / f"{CANARY}_if.ome.tif", fluorescence)
    source = SlideSource(path, other, {"WT1": 0, "dapi": 1}, name="s1", um_per_px=0.25)
    done = import_slide(tmp_path / "study", source, SlideRules(patch_px=256), name="Study")
    assert done["patches"] and not done["problems"]
    study = open_study(tmp_path / "study")
    assert_no_patient(study)
    for stored in (study.folder / "images").rglob("*.png"):
        with Image.open(stored) as image:
            assert not (np.asarray(image) == LABEL_LEVEL).all()
    assert CANARY.encode() in b"".join(p.read_bytes() for p in study.folder.glob("server.sqlite*"))
