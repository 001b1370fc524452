"""A slide becomes patches of a study, each where it was on the slide; the slide stays where it is."""

import hashlib
import json
import re
from pathlib import Path

import cv2
import numpy as np
import pytest

from allinsam.__main__ import main
from allinsam.errors import InputError
from allinsam.imaging import read_channel, read_rgb
from allinsam.importing.slide import SlideRules
from allinsam.registration import grid_error_px, invert, nudge
from allinsam.store import Study, images, open_study
from allinsam.workflow import importing_slides
from allinsam.workflow.checking import verify
from allinsam.workflow.importing import ImportCancelledError, ImportRefusedError
from allinsam.workflow.importing_slides import SlideSource, import_slide, preview_slide
from allinsam.workflow.registering import standings
from tests.slides import SLIDE_HW, draw_slide, glomeruli, write_slide

RULES = SlideRules(patch_px=256)


@pytest.fixture(scope="module")
def drawn() -> tuple[np.ndarray, np.ndarray]:
    return draw_slide()


@pytest.fixture(scope="module")
def slides(tmp_path_factory: pytest.TempPathFactory, drawn: tuple[np.ndarray, np.ndarray]) -> Path:
    """A folder with s9.ome.tif and its fluorescence at half the size, s9_if.ome.tif."""
    folder = tmp_path_factory.mktemp("slides")
    write_slide(folder / "s9.ome.tif", drawn[0])
    half = np.stack([cv2.resize(p, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA) for p in drawn[1]])
    write_slide(folder / "s9_if.ome.tif", half, um_per_px=0.5)
    (folder / "glomeruli.geojson").write_text(json.dumps(glomeruli()))
    return folder


@pytest.fixture
def source(slides: Path) -> SlideSource:
    return SlideSource(slides / "s9.ome.tif", slides / "s9_if.ome.tif", {"WT1": 0, "dapi": 1})


def content(folder: Path) -> dict[str, str]:
    found = {
        str(path): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and "sqlite" not in path.name
    }
    with Study(folder).science.read() as db:
        return {**found, **{table: str(list(db[table].rows)) for table in db.table_names()}}


def test_a_slide_and_its_fluorescence_become_patches(
    tmp_path: Path, slides: Path, source: SlideSource, drawn: tuple[np.ndarray, np.ndarray]
) -> None:
    before = {path.name: path.read_bytes() for path in slides.iterdir()}
    done = import_slide(tmp_path / "study", source, RULES, name="Slides")
    assert (done["patches"], done["channels"], done["slides"], done["problems"]) == (15, 30, 1, [])
    assert done["classes"] == [{"name": "podocyte", "marker": "WT1"}]
    study = open_study(tmp_path / "study")
    with study.science.read() as db:
        (slide,) = images.list_slides(db)
        patches = images.list_patches(db)
        channels = {patch["id"]: images.list_channels(db, patch["id"]) for patch in patches}
    assert (slide["name"], slide["um_per_px"], slide["path"]) == ("s9", 0.25, str(slides / "s9.ome.tif"))
    assert slide["sha256"] == hashlib.sha256(before["s9.ome.tif"]).hexdigest()
    assert slide["if_path"] == str(slides / "s9_if.ome.tif")
    assert slide["if_sha256"] == hashlib.sha256(before["s9_if.ome.tif"]).hexdigest()
    for patch in patches:
        x, y = int(patch["x0"]), int(patch["y0"])
        assert patch["name"] == f"s9_x{x}_y{y}" and patch["um_per_px"] == 0.25
        here = slice(y, y + 256), slice(x, x + 256)
        assert np.array_equal(read_rgb(study.image_path(patch["image_sha256"])), drawn[0][here])
        roles = [(row["role"], row["marker"]) for row in channels[patch["id"]]]
        assert roles == [("marker", "WT1"), ("nuclear", "DAPI")]
        for row, plane in zip(channels[patch["id"]], drawn[1], strict=True):
            found = read_channel(study.image_path(row["image_sha256"])).astype(float)
            assert found.shape == (256, 256)
            # Twice as coarse, and shifted by nothing.
            like = np.corrcoef(found.ravel(), cv2.GaussianBlur(plane[here].astype(float), (0, 0), 1).ravel())
            assert like[0, 1] > 0.97
    assert {one.state for one in standings(study)} == {"missing"}  # to be checked on the Registration page
    assert verify(study)["problems"] == []
    assert {path.name: path.read_bytes() for path in slides.iterdir()} == before
    # Nothing of the slide is in the study but the patches.
    assert not [p for p in study.folder.rglob("*") if p.suffix in (".tif", ".tiff")]


def test_patches_at_another_pixel_size(
    tmp_path: Path, source: SlideSource, drawn: tuple[np.ndarray, np.ndarray]
) -> None:
    import_slide(tmp_path / "study", source, SlideRules(patch_px=128, um_per_px=0.5))
    study = open_study(tmp_path / "study")
    with study.science.read() as db:
        patch = images.list_patches(db)[0]
        channel = images.list_channels(db, patch["id"])[1]
    x, y = int(patch["x0"]), int(patch["y0"])
    half = cv2.resize(drawn[0], None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
    there = slice(y // 2, y // 2 + 128), slice(x // 2, x // 2 + 128)
    assert np.array_equal(read_rgb(study.image_path(patch["image_sha256"])), half[there])
    # The fluorescence has this size itself: not resampled at all.
    plane = cv2.resize(drawn[1][1], None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
    assert np.array_equal(read_channel(study.image_path(channel["image_sha256"])), plane[there])


def test_glomeruli_are_named(tmp_path: Path, slides: Path, source: SlideSource) -> None:
    with_outlines = SlideSource(source.path, source.if_path, source.channels, slides / "glomeruli.geojson")
    done = import_slide(tmp_path / "study", with_outlines, RULES)
    assert done["glomeruli"] == 2 and 2 <= done["patches"] < 15
    with open_study(tmp_path / "study").science.read() as db:
        assert {patch["glomerulus"] for patch in images.list_patches(db)} == {"g7", "g8"}


def test_a_turned_fluorescence_is_registered_and_cut_through_both(
    tmp_path: Path, slides: Path, drawn: tuple[np.ndarray, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The IF was scanned turned by 4 degrees and shifted; its matrix is found, and nuclei fall on nuclei."""
    truth = nudge(np.array([[1.0, 0, 0], [0, 1.0, 0]]), SLIDE_HW, dx_px=30, dy_px=-18, rotation_deg=4.0)
    back = invert(truth)
    height, width = SLIDE_HW
    turned = np.stack([cv2.warpAffine(p, back, (width, height), borderValue=200) for p in drawn[1]])
    path = write_slide(tmp_path / "turned.ome.tif", turned)
    found = []
    cut_patch = importing_slides._cut_patch
    monkeypatch.setattr(
        importing_slides, "_cut_patch", lambda plan, patch, m: (found.append(m), cut_patch(plan, patch, m))[1]
    )
    source = SlideSource(slides / "s9.ome.tif", path, {"WT1": 0, "DAPI": 1}, register=True)
    import_slide(tmp_path / "study", source, RULES)
    assert grid_error_px(found[0], truth, SLIDE_HW) < 3.0
    study = open_study(tmp_path / "study")
    with study.science.read() as db:
        patch = next(p for p in images.list_patches(db) if (p["x0"], p["y0"]) == (768, 512))
        nuclei = images.list_channels(db, patch["id"])[1]
    seen = read_channel(study.image_path(nuclei["image_sha256"])).astype(float)
    expected = cv2.GaussianBlur(drawn[1][1][512:768, 768:1024].astype(float), (0, 0), 1)
    assert np.corrcoef(seen.ravel(), expected.ravel())[0, 1] > 0.8


def test_the_same_slide_again_adds_nothing_and_a_lower_share_adds_the_rest(
    tmp_path: Path, source: SlideSource
) -> None:
    import_slide(tmp_path / "study", source, SlideRules(patch_px=256, tissue_share=0.9))
    before = content(tmp_path / "study")
    again = import_slide(tmp_path / "study", source, SlideRules(patch_px=256, tissue_share=0.9))
    assert (again["patches"], again["already_there"]) == (0, 15)
    assert content(tmp_path / "study") == before
    more = import_slide(tmp_path / "study", source, SlideRules(patch_px=256, tissue_share=0.0))
    assert more["patches"] == 7 * 5 - 15 and more["already_there"] == 15
    with open_study(tmp_path / "study").science.read() as db:
        assert len(images.list_slides(db)) == 1


def test_another_slide_of_the_same_name_is_refused(
    tmp_path: Path, source: SlideSource, drawn: tuple[np.ndarray, np.ndarray]
) -> None:
    import_slide(tmp_path / "study", source, RULES)
    before = content(tmp_path / "study")
    (tmp_path / "other").mkdir()
    other = SlideSource(write_slide(tmp_path / "other" / "s9.ome.tif", drawn[0][::-1]))
    with pytest.raises(ImportRefusedError, match="the study has a slide 's9' of another file"):
        import_slide(tmp_path / "study", other, RULES)
    with pytest.raises(ImportRefusedError, match="is in the study with 256 px at 0.25 um per px"):
        import_slide(tmp_path / "study", source, SlideRules(patch_px=128, um_per_px=0.5))
    assert content(tmp_path / "study") == before


def test_a_cancelled_or_failed_cut_leaves_nothing(
    tmp_path: Path, source: SlideSource, drawn: tuple[np.ndarray, np.ndarray]
) -> None:
    (tmp_path / "first").mkdir()
    first = SlideSource(write_slide(tmp_path / "first" / "s1.ome.tif", drawn[0]))
    import_slide(tmp_path / "study", first, RULES)
    before, told = content(tmp_path / "study"), []
    with pytest.raises(ImportCancelledError):
        import_slide(
            tmp_path / "study",
            source,
            RULES,
            report=lambda done, *_: told.append(done),
            should_stop=lambda: bool(told) and told[-1] >= 5,
        )
    assert told[-1] == 5 and content(tmp_path / "study") == before
    # Damaged inside, where only cutting finds it.
    damaged = tmp_path / "s2.ome.tif"
    write_slide(damaged, drawn[0], compression="zlib")
    whole = bytearray(damaged.read_bytes())
    whole[100_000:160_000] = bytes(60_000)
    damaged.write_bytes(whole)
    with pytest.raises(InputError, match="s2.ome.tif cannot be read as a slide"):
        import_slide(tmp_path / "study", SlideSource(damaged), RULES)
    assert content(tmp_path / "study") == before


def test_a_preview_of_a_slide(tmp_path: Path, source: SlideSource) -> None:
    seen = preview_slide(tmp_path / "study", source, RULES)
    assert (seen["patches"], seen["slides"], seen["markers"]) == (15, ["s9"], {"WT1": 15})
    assert seen["um_per_px"] == {0.25: 15} and list(tmp_path.iterdir()) == []


def test_the_command(tmp_path: Path, slides: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["import-slide", str(slides / "s9.ome.tif"), "--study", str(tmp_path / "study"), "--json"]
    fluorescence = ["--if", str(slides / "s9_if.ome.tif"), "--channels", "WT1=0", "DAPI=1"]
    outlines = ["--glomeruli", str(slides / "glomeruli.geojson"), "--place", "centred", "--patch-px", "256"]
    assert main([*arguments, *fluorescence, *outlines, "--condition", "injured"]) == 0
    assert json.loads(capsys.readouterr().out)["patches"] == 2
    assert main(["import-slide", str(slides / "s9.ome.tif"), "--channels", "WT1", "--json"]) == 2
    assert re.search(r"--channels 'WT1' is not MARKER=CHANNEL", capsys.readouterr().err)
