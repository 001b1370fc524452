import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import tifffile
from PIL import Image

from allinsam.errors import InputError
from allinsam.imaging import encode_png, image_header, one_clear_line, read_channel, read_image, read_rgb
from allinsam.slides import open_slide
from tests.bad_inputs import header_only_png

SHARED = Path(os.environ.get("ALLINSAM_SHARED_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))


@pytest.fixture
def rgb() -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (40, 56, 3), dtype=np.uint8)


@pytest.fixture
def channel() -> np.ndarray:
    return np.random.default_rng(2).integers(0, 65536, (40, 56), dtype=np.uint16)


def picture_of_its_own(path: Path, compression: str, stored: bytes) -> Path:
    """A TIFF of 64 x 64 px whose one tile holds these bytes."""
    tifffile.imwrite(
        path, np.zeros((64, 64, 3), np.uint8), tile=(64, 64), photometric="rgb", compression=compression
    )
    with tifffile.TiffFile(path) as file:
        place, size = (file.pages[0].tags[number] for number in (324, 325))
    whole = bytearray(path.read_bytes())
    struct.pack_into("<I", whole, place.valueoffset, len(whole))
    struct.pack_into("<H" if size.dtype == 3 else "<I", whole, size.valueoffset, len(stored))
    path.write_bytes(bytes(whole) + stored)
    return path


def jpeg_of(side: int) -> bytes:
    """A JPEG whose frame says that it has sides of so many px."""
    stored = bytearray(imagecodecs.jpeg_encode(np.zeros((64, 64, 3), np.uint8)))
    at = stored.index(b"\xff\xc0") + 5
    stored[at : at + 4] = struct.pack(">HH", side, side)
    return bytes(stored)


def jpeg2000_of(side: int) -> bytes:
    stored = bytearray(imagecodecs.jpeg2k_encode(np.zeros((64, 64, 3), np.uint8)))
    at = stored.index(b"\xff\x4f\xff\x51") + 8
    stored[at : at + 8] = struct.pack(">II", side, side)
    return bytes(stored)


def webp_of(side: int) -> bytes:
    stored = bytearray(imagecodecs.webp_encode(np.zeros((64, 64, 3), np.uint8), lossless=False))
    at = 24 if stored[12:16] == b"VP8X" else 26
    width = 3 if at == 24 else 2
    for place in (at, at + width):
        stored[place : place + width] = (side - (width == 3)).to_bytes(width, "little")
    return bytes(stored)


BOMBS = {
    "jpeg": jpeg_of(60_000),
    "jpeg2000": jpeg2000_of(60_000),
    "webp": webp_of(16_000),
    "png": header_only_png(60_000, 60_000),
}


@pytest.mark.parametrize("kind", BOMBS)
def test_a_tile_that_is_a_huge_picture_of_its_own_is_refused_before_it_is_decoded(
    kind: str, tmp_path: Path
) -> None:
    path = picture_of_its_own(tmp_path / "bomb.tif", kind, BOMBS[kind])
    with pytest.raises(InputError, match=r"bomb.tif has a tile of \d+ million values. Export it again."):
        read_image(path)
    with open_slide(path) as slide, pytest.raises(InputError, match=r"tile of \d+ million values"):
        slide.read_level(0, 0, 0, 64, 64)


@pytest.mark.parametrize("kind", ["jpeg", "jpeg2000", "webp", "png", "zlib", "lzw", "zstd", "packbits"])
def test_tiles_in_the_usual_compressions_are_read(kind: str, tmp_path: Path, rgb: np.ndarray) -> None:
    tolerance = 0
    if kind == "jpeg":
        rgb, tolerance = np.full((48, 64, 3), (120, 90, 150), np.uint8), 4
    options = {"compressionargs": {"lossless": True}} if kind == "webp" else {}
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, rgb, tile=(16, 16), photometric="rgb", compression=kind, **options)
    assert np.abs(read_image(path).astype(int) - rgb).max() <= tolerance
    with open_slide(path) as slide:
        level = slide.read_level(0, 0, 0, rgb.shape[1], rgb.shape[0])
    assert np.abs(level.astype(int) - rgb).max() <= tolerance


def test_a_compression_that_could_unpack_to_anything_is_refused(tmp_path: Path, rgb: np.ndarray) -> None:
    tifffile.imwrite(tmp_path / "a.tif", rgb, photometric="rgb", compression="jpegxl")
    for read in (image_header, read_image):
        with pytest.raises(InputError, match="compressed as JPEGXL.*, which is not read. Save it with LZW"):
            read(tmp_path / "a.tif")


def test_no_memory_left_is_said_in_words(tmp_path: Path) -> None:
    def run_out() -> None:
        raise MemoryError

    with pytest.raises(InputError, match="a.tif needs more memory"), one_clear_line(tmp_path / "a.tif"):
        run_out()


def test_png_rgb_is_read_exactly(tmp_path: Path, rgb: np.ndarray) -> None:
    Image.fromarray(rgb).save(tmp_path / "a.png")
    assert np.array_equal(read_rgb(tmp_path / "a.png"), rgb)
    header = image_header(tmp_path / "a.png")
    assert (header.size_hw, header.channels, header.dtype, header.um_per_px) == ((40, 56), 3, "uint8", None)


def test_the_png_a_study_stores_comes_back_exactly(
    tmp_path: Path, rgb: np.ndarray, channel: np.ndarray
) -> None:
    for image in (rgb, channel, (channel >> 8).astype(np.uint8)):
        (tmp_path / "a.png").write_bytes(encode_png(image))
        back = read_image(tmp_path / "a.png")
        assert back.dtype == image.dtype and np.array_equal(back, image)


def test_16_bit_grey_keeps_every_level(tmp_path: Path, channel: np.ndarray) -> None:
    Image.fromarray(channel).save(tmp_path / "a.png")
    assert image_header(tmp_path / "a.png").dtype == "uint16"
    assert np.array_equal(read_channel(tmp_path / "a.png"), channel)


def test_16_bit_colour_png_keeps_every_level_of_a_channel(tmp_path: Path) -> None:
    deep = np.random.default_rng(3).integers(0, 65536, (20, 30, 3), dtype=np.uint16)
    (tmp_path / "a.png").write_bytes(imagecodecs.png_encode(deep))
    assert image_header(tmp_path / "a.png").dtype == "uint16"
    assert np.array_equal(read_channel(tmp_path / "a.png", 2), deep[..., 2])
    with pytest.raises(InputError, match="8 bits per colour"):
        read_rgb(tmp_path / "a.png")


def test_alpha_is_dropped(tmp_path: Path, rgb: np.ndarray) -> None:
    alpha = np.full((40, 56, 1), 7, np.uint8)
    Image.fromarray(np.dstack([rgb, alpha])).save(tmp_path / "rgba.png")
    Image.fromarray(np.dstack([rgb[..., :1], alpha])).save(tmp_path / "la.png")
    tifffile.imwrite(
        tmp_path / "rgba.tif", np.dstack([rgb, alpha]), photometric="rgb", extrasamples=["unassalpha"]
    )
    assert np.array_equal(read_rgb(tmp_path / "rgba.png"), rgb)
    assert np.array_equal(read_rgb(tmp_path / "rgba.tif"), rgb)
    assert np.array_equal(read_image(tmp_path / "la.png"), rgb[..., 0])
    assert image_header(tmp_path / "rgba.tif").channels == 3


def test_a_fourth_sample_that_is_not_alpha_is_a_channel(tmp_path: Path, rgb: np.ndarray) -> None:
    four = np.dstack([rgb, rgb[..., 0] // 2])
    tifffile.imwrite(tmp_path / "a.tif", four, photometric="rgb", extrasamples=["unspecified"])
    assert np.array_equal(read_channel(tmp_path / "a.tif", 3), four[..., 3])


def test_palette_becomes_rgb(tmp_path: Path) -> None:
    indices = np.array([[0, 1], [2, 1]], np.uint8).repeat(8, 0).repeat(8, 1)
    image = Image.fromarray(indices)
    image.putpalette([255, 0, 0, 0, 255, 0, 10, 20, 30])
    image.save(tmp_path / "a.png")
    colours = np.zeros((3, 256), np.uint16)
    colours[:, :3] = np.array([[255, 0, 10], [0, 255, 20], [0, 0, 30]]) * 257
    tifffile.imwrite(tmp_path / "a.tif", indices, photometric="palette", colormap=colours)
    for name in ("a.png", "a.tif"):
        pixels = read_rgb(tmp_path / name)
        assert pixels[0, 0].tolist() == [255, 0, 0] and pixels[15, 0].tolist() == [10, 20, 30]
        assert image_header(tmp_path / name).channels == 3


def test_one_bit_images_are_black_and_white(tmp_path: Path) -> None:
    mask = np.zeros((16, 16), bool)
    mask[4:8] = True
    Image.fromarray(mask).save(tmp_path / "a.png")
    tifffile.imwrite(tmp_path / "a.tif", mask, photometric="minisblack")
    for name in ("a.png", "a.tif"):
        assert np.array_equal(read_image(tmp_path / name), mask * np.uint8(255))


def test_jpeg_is_read(tmp_path: Path) -> None:
    Image.fromarray(np.full((40, 56, 3), (200, 120, 160), np.uint8)).save(tmp_path / "a.jpg", quality=95)
    assert np.abs(read_rgb(tmp_path / "a.jpg").astype(int) - (200, 120, 160)).max() <= 3


def test_the_content_decides_not_the_name(tmp_path: Path, rgb: np.ndarray) -> None:
    Image.fromarray(rgb).save(tmp_path / "a.tif", format="PNG")
    assert np.array_equal(read_rgb(tmp_path / "a.tif"), rgb)


@pytest.mark.parametrize(("axes", "planes"), [("YX", 1), ("CYX", 3), ("ZCYX", 3), ("CZYX", 3)])
@pytest.mark.parametrize("compression", [None, "zlib", "lzw"])
def test_ome_tiff_channels(tmp_path: Path, axes: str, planes: int, compression: str | None) -> None:
    pixels = np.random.default_rng(4).integers(0, 65536, (planes, 40, 56), dtype=np.uint16)
    stored = {"YX": pixels[0], "CYX": pixels, "ZCYX": pixels[None], "CZYX": pixels[:, None]}[axes]
    path = tmp_path / "a.ome.tif"
    size = {"PhysicalSizeX": 250.0, "PhysicalSizeXUnit": "nm", "PhysicalSizeY": 0.25}
    tifffile.imwrite(path, stored, ome=True, compression=compression, metadata={"axes": axes, **size})
    header = image_header(path)
    assert (header.size_hw, header.channels, header.dtype) == ((40, 56), planes, "uint16")
    assert header.um_per_px == pytest.approx(0.25)
    for index, plane in enumerate(pixels):
        assert np.array_equal(read_channel(path, index), plane)


@pytest.mark.parametrize(
    "options",
    [
        {"ome": True, "metadata": {"axes": "YXS"}},
        {"photometric": "rgb", "tile": (16, 16), "compression": "zlib"},
        {"photometric": "rgb", "bigtiff": True},
        {"photometric": "rgb", "byteorder": ">"},
    ],
)
def test_tiff_rgb(tmp_path: Path, rgb: np.ndarray, options: dict) -> None:
    tifffile.imwrite(tmp_path / "a.tif", rgb, **options)
    assert np.array_equal(read_rgb(tmp_path / "a.tif"), rgb)


def test_planar_rgb_tiff(tmp_path: Path, rgb: np.ndarray) -> None:
    planar = np.moveaxis(rgb, 2, 0)
    tifffile.imwrite(tmp_path / "a.tif", planar, photometric="rgb", planarconfig="separate")
    assert np.array_equal(read_rgb(tmp_path / "a.tif"), rgb)


def test_pages_without_names_are_channels(tmp_path: Path, channel: np.ndarray) -> None:
    planes = np.stack([channel, channel // 2])
    tifffile.imwrite(tmp_path / "a.tif", planes, photometric="minisblack", metadata=None)
    assert np.array_equal(read_channel(tmp_path / "a.tif", 1), planes[1])


def test_big_endian_tiff_is_native_afterwards(tmp_path: Path, channel: np.ndarray) -> None:
    tifffile.imwrite(tmp_path / "a.tif", channel, byteorder=">")
    assert image_header(tmp_path / "a.tif").dtype == "uint16"
    pixels = read_channel(tmp_path / "a.tif")
    assert pixels.dtype == np.dtype("uint16") and np.array_equal(pixels, channel)


def test_a_pyramid_is_read_at_its_base(tmp_path: Path) -> None:
    base = np.random.default_rng(5).integers(0, 256, (128, 160, 3), dtype=np.uint8)
    path = tmp_path / "a.ome.tif"
    with tifffile.TiffWriter(path, ome=True) as writer:
        common = {"photometric": "rgb", "tile": (32, 32)}
        writer.write(
            base, subifds=2, metadata={"axes": "YXS", "PhysicalSizeX": 0.5, "PhysicalSizeY": 0.5}, **common
        )
        writer.write(base[::2, ::2], subfiletype=1, **common)
        writer.write(base[::4, ::4], subfiletype=1, **common)
    assert image_header(path).size_hw == (128, 160) and image_header(path).um_per_px == 0.5
    assert np.array_equal(read_rgb(path), base)


def test_a_plain_tiled_pyramid_is_read_at_its_base(tmp_path: Path) -> None:
    base = np.random.default_rng(5).integers(0, 256, (128, 160, 3), dtype=np.uint8)
    with tifffile.TiffWriter(tmp_path / "a.tif") as writer:
        writer.write(base, photometric="rgb", tile=(32, 32), metadata=None)
        writer.write(base[::2, ::2], photometric="rgb", tile=(32, 32), subfiletype=1, metadata=None)
    assert np.array_equal(read_rgb(tmp_path / "a.tif"), base)


@pytest.mark.parametrize(
    ("options", "um_per_px"),
    [
        ({"resolution": (40_000, 40_000), "resolutionunit": "CENTIMETER"}, 0.25),
        ({"resolution": (50_800, 50_800), "resolutionunit": "INCH"}, 0.5),
        ({"resolution": (4, 4), "imagej": True, "metadata": {"unit": "um"}}, 0.25),
        ({"resolution": (72, 72), "resolutionunit": "INCH"}, None),
        ({"resolution": (40_000, 20_000), "resolutionunit": "CENTIMETER"}, None),
        ({"resolution": (4, 4), "resolutionunit": "NONE"}, None),
    ],
)
def test_pixel_size_from_tiff_tags(tmp_path: Path, options: dict, um_per_px: float | None) -> None:
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((8, 8), np.uint8), **options)
    found = image_header(tmp_path / "a.tif").um_per_px
    assert found == (um_per_px if um_per_px is None else pytest.approx(um_per_px))


@pytest.mark.parametrize(("dpi", "um_per_px"), [(50_800, 0.5), (300, None)])
def test_pixel_size_from_png_dpi(tmp_path: Path, dpi: int, um_per_px: float | None) -> None:
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / "a.png", dpi=(dpi, dpi))
    found = image_header(tmp_path / "a.png").um_per_px
    assert found == (um_per_px if um_per_px is None else pytest.approx(um_per_px, rel=1e-4))


def test_the_pixel_size_of_a_real_ome_tiff() -> None:
    path = SHARED / "samples" / "HE_example.tif"
    if not path.exists():
        pytest.skip(f"{path} is not there; it is not part of the repository")
    header = image_header(path)
    assert (header.size_hw, header.channels) == ((1484, 1380), 3)
    assert header.um_per_px == pytest.approx(0.50008, abs=1e-5)
    assert read_rgb(path).shape == (1484, 1380, 3)


def huge_png(path: Path) -> None:
    """A few bytes that unpack into 10 Gpx."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return (
            struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        )

    size = struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", size) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    )


def huge_tiff(path: Path) -> None:
    tifffile.imwrite(path, np.zeros((8, 8), np.uint8))
    with tifffile.TiffFile(path, mode="r+") as file:
        file.pages[0].tags["ImageWidth"].overwrite(60_000, dtype="I")
        file.pages[0].tags["ImageLength"].overwrite(60_000, dtype="I")


def halved(write: Callable[[Path], object]) -> Callable[[Path], object]:
    def write_half(path: Path) -> None:
        write(path)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])

    return write_half


def noise() -> np.ndarray:
    return np.random.default_rng(6).integers(0, 256, (64, 64, 3), dtype=np.uint8)


def tiff_with_a_hole(path: Path) -> None:
    tifffile.imwrite(path, noise(), photometric="rgb", tile=(32, 32), compression="zlib")
    with tifffile.TiffFile(path, mode="r+") as file:
        counts = list(file.pages[0].databytecounts)
        file.pages[0].tags["TileByteCounts"].overwrite([*counts[:-1], 0])


def garbled_tiff(path: Path) -> None:
    tifffile.imwrite(path, noise(), photometric="rgb", compression="zlib")
    with tifffile.TiffFile(path) as file:
        start, count = file.pages[0].dataoffsets[0], file.pages[0].databytecounts[0]
    content = bytearray(path.read_bytes())
    content[start : start + count] = bytes(count)
    path.write_bytes(content)


def write_tiff(pixels: np.ndarray, **options: object) -> Callable[[Path], object]:
    return lambda path: tifffile.imwrite(path, pixels, **options)


BAD_FILES = {
    "missing": (lambda path: None, "is not there"),
    "a folder": (lambda path: path.mkdir(), "is not a file"),
    "empty": (lambda path: path.write_bytes(b""), "is empty"),
    "text": (lambda path: path.write_text("not an image at all"), "not PNG, JPEG or TIFF"),
    "gif": (lambda path: Image.fromarray(noise()).save(path, "GIF"), "not PNG, JPEG or TIFF"),
    "huge png": (huge_png, "100000x100000"),
    "huge tiff": (huge_tiff, "60000x60000"),
    "half a png": (halved(lambda path: Image.fromarray(noise()).save(path, "PNG")), "Export it again"),
    "half a jpeg": (halved(lambda path: Image.fromarray(noise()).save(path, "JPEG")), "Export it again"),
    "half a tiff": (halved(write_tiff(noise(), photometric="rgb")), "cut off"),
    "half a zipped tiff": (halved(write_tiff(noise(), photometric="rgb", compression="zlib")), "Export it"),
    "a tiff without its last pages": (
        halved(write_tiff(np.zeros((4, 64, 64), np.uint16), ome=True, metadata={"axes": "CYX"})),
        "cut off: pages are missing",
    ),
    "tiff with a hole": (tiff_with_a_hole, "missing tiles"),
    "garbled tiff": (garbled_tiff, "Export it again"),
    "only a png signature": (lambda path: path.write_bytes(b"\x89PNG\r\n\x1a\n"), "Export it again"),
    "only a tiff signature": (lambda path: path.write_bytes(b"II*\0\x08\0\0\0"), "Export it again"),
    "float tiff": (write_tiff(np.zeros((8, 8), np.float32)), "float32"),
    "signed tiff": (write_tiff(np.zeros((8, 8), np.int16)), "int16"),
    "depth": (write_tiff(np.zeros((5, 8, 8), np.uint16), imagej=True, metadata={"axes": "ZYX"}), r"5 planes"),
    "time": (write_tiff(np.zeros((5, 8, 8), np.uint16), imagej=True, metadata={"axes": "TYX"}), r"5 time"),
    "several rgb pages": (write_tiff(np.zeros((2, 8, 8, 3), np.uint8), photometric="rgb"), "axes"),
    "cmyk jpeg": (lambda path: Image.new("CMYK", (8, 8)).save(path, "JPEG"), "CMYK"),
    "cmyk tiff": (write_tiff(np.zeros((8, 8, 4), np.uint8), photometric="separated"), "SEPARATED"),
    "white is zero": (write_tiff(np.zeros((8, 8), np.uint8), photometric="miniswhite"), "black is 0"),
}


@pytest.mark.parametrize("kind", BAD_FILES)
@pytest.mark.filterwarnings("error")
def test_a_bad_file_is_refused_in_one_line_that_names_it(tmp_path: Path, kind: str) -> None:
    write, expected = BAD_FILES[kind]
    path = tmp_path / "bad_file"
    write(path)
    with pytest.raises(InputError, match=expected) as caught:
        read_image(path)
    message = str(caught.value)
    assert "bad_file" in message and "\n" not in message and message.endswith(".")


@pytest.mark.parametrize("kind", ["huge png", "huge tiff", "float tiff", "text", "missing", "depth"])
def test_the_header_alone_is_enough_to_refuse(tmp_path: Path, kind: str) -> None:
    write, expected = BAD_FILES[kind]
    write(tmp_path / "bad_file")
    with pytest.raises(InputError, match=expected):
        image_header(tmp_path / "bad_file")


def test_an_ome_tiff_does_not_lead_into_other_files(tmp_path: Path, channel: np.ndarray) -> None:
    xml = tifffile.OmeXml()
    xml.addimage("uint16", (2, 40, 56), (2, 1, 1, 40, 56, 1), axes="CYX")
    text = xml.tostring().replace('PlaneCount="2"', 'PlaneCount="1"')
    tifffile.imwrite(tmp_path / "a.ome.tif", channel, description=text.encode(), metadata=None)
    with pytest.raises(InputError, match="one of several files"):
        read_image(tmp_path / "a.ome.tif")


@pytest.mark.parametrize(("shape", "index"), [((8, 8), 1), ((2, 8, 8), 2), ((2, 8, 8), -1)])
def test_a_channel_that_is_not_there(tmp_path: Path, shape: tuple, index: int) -> None:
    tifffile.imwrite(tmp_path / "a.tif", np.zeros(shape, np.uint8), photometric="minisblack")
    with pytest.raises(InputError, match=f"no channel {index}"):
        read_channel(tmp_path / "a.tif", index)


def test_five_channels_are_no_stained_image(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((5, 8, 8), np.uint8), photometric="minisblack")
    with pytest.raises(InputError, match="5 channels"):
        read_rgb(tmp_path / "a.tif")


def test_grey_becomes_rgb(tmp_path: Path) -> None:
    grey = np.arange(64, dtype=np.uint8).reshape(8, 8)
    Image.fromarray(grey).save(tmp_path / "a.png")
    assert np.array_equal(read_rgb(tmp_path / "a.png"), np.dstack([grey] * 3))


def test_metadata_with_entities_are_left_alone(tmp_path: Path, rgb: np.ndarray) -> None:
    """A document type may name entities that unpack to gigabytes; the picture is read without it."""
    xml = '<?xml version="1.0"?><!DOCTYPE x [<!ENTITY a "0.25">]><OME><Pixels PhysicalSizeX="&a;"/></OME>'
    tifffile.imwrite(tmp_path / "a.tif", rgb, photometric="rgb", description=xml, metadata=None)
    assert image_header(tmp_path / "a.tif").um_per_px is None
    assert np.array_equal(read_image(tmp_path / "a.tif"), rgb)
