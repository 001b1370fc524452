import csv
import hashlib
import json
import os
import re
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from allinsam.__main__ import main
from allinsam.errors import InputError
from allinsam.imaging import encode_png, read_channel, read_rgb
from allinsam.importing import Fallback, FolderRules
from allinsam.store import Study, create_study, images, open_study
from allinsam.store import study as study_store
from allinsam.workflow.annotating import read_patch, read_registered_channel, write_image
from allinsam.workflow.importing import (
    ImportCancelledError,
    ImportRefusedError,
    import_study,
    preview_import,
)

SHARED = Path(os.environ.get("ALLINSAM_SHARED_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))

Row = dict[str, str]


def picture(seed: int, shape: tuple[int, ...] = (32, 40, 3), dtype: type = np.uint8) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, np.iinfo(dtype).max, shape, dtype=dtype)


def save(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def write_manifest(folder: Path, rows: list[Row]) -> None:
    columns = list(dict.fromkeys(name for row in rows for name in row))
    with (folder / "manifest.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)


def good_rows(folder: Path) -> list[Row]:
    """Images and rows of patch s1_a (WT1 and DAPI) in rows 2 and 3, and s2_b (WT1, GATA3) in rows 4 and 5."""
    save(folder / "s1_a_pas.png", picture(1))
    save(folder / "s1_a_wt1.png", picture(2, (32, 40), np.uint16))
    save(folder / "s1_a_dapi.png", picture(3, (32, 40)))
    tifffile.imwrite(folder / "s2_b_pas.tif", picture(4), photometric="rgb")
    planes = picture(5, (2, 32, 40), np.uint16)
    tifffile.imwrite(folder / "s2_b_if.ome.tif", planes, ome=True, metadata={"axes": "CYX"})
    rows = [
        ("s1_a_pas.png", "s1_a_wt1.png", "", "marker", "WT1", "s1", "normal", "0.25"),
        ("s1_a_pas.png", "s1_a_dapi.png", "", "nuclear", "", "s1", "normal", "0.25"),
        ("s2_b_pas.tif", "s2_b_if.ome.tif", "0", "marker", "WT1", "s2", "injured", "0.5"),
        ("s2_b_pas.tif", "s2_b_if.ome.tif", "1", "marker", "GATA3", "s2", "injured", "0.5"),
    ]
    columns = ("pas", "channel_file", "channel_index", "role", "marker", "slide", "condition", "um_per_px")
    return [dict(zip(columns, row, strict=True)) for row in rows]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "source"
    folder.mkdir()
    write_manifest(folder, good_rows(folder))
    return folder


def content(folder: Path) -> dict[str, str]:
    """Every file's hash, but for the databases' own bookkeeping, and every row."""
    files = {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and "sqlite" not in path.name
    }
    with Study(folder).science.read() as db:
        return {**files, **{table: str(list(db[table].rows)) for table in db.table_names()}}


def patch_names(study: Study) -> list[str]:
    with study.science.read() as db:
        return [patch["name"] for patch in images.list_patches(db)]


def test_a_manifest_becomes_a_study(tmp_path: Path, source: Path) -> None:
    seen = []
    done = import_study(
        tmp_path / "study", source, name="Pilot", report=lambda *progress: seen.append(progress)
    )
    assert json.loads(json.dumps(done)) == {
        "study": str(tmp_path / "study"),
        "new_study": True,
        "patches": 2,
        "channels": 4,
        "slides": 2,
        "patches_in_study": 2,
        "classes": [{"name": "mesangial", "marker": "GATA3"}, {"name": "podocyte", "marker": "WT1"}],
        "already_there": 0,
        "problems": [],
    }
    assert seen[0][:3] == (0, 2, "checking s1_a") and seen[-1][:3] == (2, 2, "done")
    study = open_study(tmp_path / "study")
    with study.science.read() as db:
        assert study_store.get_study(db)["name"] == "Pilot"
        assert [(s["name"], s["condition"], s["um_per_px"]) for s in images.list_slides(db)] == [
            ("s1", "normal", 0.25),
            ("s2", "injured", 0.5),
        ]
        first, second = images.list_patches(db)
        registration = images.current_registration(db, second["id"])
        files = images.list_images(db)
    assert (registration["method"], registration["quality"]) == ("assumed identity", None)
    assert np.array_equal(registration["matrix"], [[1, 0, 0], [0, 1, 0]])
    assert np.array_equal(read_patch(study, first["id"]), picture(1))
    assert np.array_equal(read_patch(study, second["id"]), picture(4))
    gata3, _ = read_registered_channel(study, second["id"], "GATA3")
    assert gata3.dtype == np.uint16 and np.array_equal(gata3, picture(5, (2, 32, 40), np.uint16)[1])
    assert sorted(row["bits"] for row in files) == [8, 8, 8, 16, 16, 16]
    for row in files:
        stored = study.image_path(row["sha256"]).read_bytes()
        assert hashlib.sha256(stored).hexdigest() == row["sha256"]
    assert list(tmp_path.glob(".study*")) == []


def test_importing_again_adds_only_what_is_new(tmp_path: Path, source: Path) -> None:
    import_study(tmp_path / "study", source)
    before = content(tmp_path / "study")
    again = import_study(tmp_path / "study", source)
    assert (again["new_study"], again["patches"], again["already_there"]) == (False, 0, 2)
    assert content(tmp_path / "study") == before
    save(source / "s1_c_pas.png", picture(11))
    save(source / "s1_c_cd10.png", picture(12, (32, 40)))
    added = {"pas": "s1_c_pas.png", "channel_file": "s1_c_cd10.png", "role": "marker", "marker": "CD10"}
    write_manifest(source, [*good_rows(source), {**added, "slide": "s1"}])
    third = import_study(tmp_path / "study", source)
    assert (third["patches"], third["already_there"], third["patches_in_study"]) == (1, 2, 3)
    assert third["classes"] == [{"name": "CD10 positive", "marker": "CD10"}]
    with open_study(tmp_path / "study").science.read() as db:
        classes = study_store.list_classes(db)
        assert [slide["name"] for slide in images.list_slides(db)] == ["s1", "s2"]
    for column in ("key", "colour", "name"):
        assert len({row[column] for row in classes}) == 3


def spoil_cell(row: int, **cells: str) -> Callable[[Path, list[Row]], None]:
    return lambda folder, rows: rows[row - 2].update(cells)


def spoil_pas(text: str) -> Callable[[Path, list[Row]], None]:
    def spoil(folder: Path, rows: list[Row]) -> None:
        rows[2]["pas"] = rows[3]["pas"] = text

    return spoil


def save_instead(name: str, pixels: np.ndarray) -> Callable[[Path, list[Row]], None]:
    return lambda folder, rows: save(folder / name, pixels)


def cut_off(name: str) -> Callable[[Path, list[Row]], None]:
    def spoil(folder: Path, rows: list[Row]) -> None:
        whole = (folder / name).read_bytes()
        (folder / name).write_bytes(whole[: len(whole) // 2])

    return spoil


def same_image_under_another_name(folder: Path, rows: list[Row]) -> None:
    save(folder / "s2_b_pas.png", picture(1))
    for row in rows[2:]:
        row["pas"] = "s2_b_pas.png"


def same_name_for_two_images(folder: Path, rows: list[Row]) -> None:
    save(folder / "s1_a.png", picture(20))
    for row in rows[2:]:
        row["pas"] = "s1_a.png"


def link_out_of_the_folder(folder: Path, rows: list[Row]) -> None:
    save(folder.parent / "elsewhere.png", picture(4))
    (folder / "link.png").symlink_to(folder.parent / "elsewhere.png")
    spoil_pas("link.png")(folder, rows)


def an_existing_file_outside(folder: Path, rows: list[Row]) -> None:
    save(folder.parent / "elsewhere.png", picture(5, (32, 40)))
    rows[3].update(channel_file="../elsewhere.png", channel_index="")


def rename_column(folder: Path, rows: list[Row]) -> None:
    for row in rows:
        row["conditon"] = row.pop("condition")


def huge(folder: Path, rows: list[Row]) -> None:
    with tifffile.TiffFile(folder / "s2_b_pas.tif", mode="r+") as file:
        file.pages[0].tags["ImageWidth"].overwrite(60_000, dtype="I")
        file.pages[0].tags["ImageLength"].overwrite(60_000, dtype="I")


# What is wrong -> how the good source is spoiled, where it must be told, and in which words.
BAD_SOURCES: dict[str, tuple[Callable[[Path, list[Row]], None], str, str]] = {
    "missing PAS": (spoil_pas("gone.tif"), "row 4", "gone.tif is not there"),
    "missing channel file": (spoil_cell(5, channel_file="gone.tif"), "row 5", "gone.tif is not there"),
    "no channel named": (spoil_cell(5, channel_file=""), "row 5", "has no pair: channel_file is empty"),
    "no PAS named": (spoil_pas(""), "row 4", "pas is empty"),
    "unreadable PAS": (cut_off("s2_b_pas.tif"), "row 4", "s2_b_pas.tif is cut off"),
    "unreadable channel": (cut_off("s2_b_if.ome.tif"), "row 4", "s2_b_if.ome.tif is cut off"),
    "not an image": (spoil_cell(5, channel_file="manifest.csv"), "row 5", "not PNG, JPEG or TIFF"),
    "no such channel": (spoil_cell(5, channel_index="2"), "row 5", "no channel 2. It has 2 channels, 0 to 1"),
    "bad channel index": (spoil_cell(5, channel_index="first"), "row 5", "channel_index 'first'"),
    "negative channel index": (spoil_cell(5, channel_index="-1"), "row 5", "channel_index '-1'"),
    "channel index needed": (spoil_cell(5, channel_index=""), "row 5", "Give channel_index, 0 to 1"),
    "same image twice": (same_image_under_another_name, "row 4", "duplicate: stained image .* in row 2"),
    "same name twice": (same_name_for_two_images, "row 4", "duplicate: patch name 's1_a' is in row 2"),
    "same marker twice": (spoil_cell(5, marker="wt1"), "row 5", "duplicate: a second marker channel 'WT1'"),
    "same channel twice": (spoil_cell(5, channel_index="0"), "row 5", "duplicate: the same channel as 'WT1'"),
    "bad condition": (spoil_cell(5, condition="sick"), "row 5", "condition 'sick' is unknown. Give normal"),
    "um_per_px not a number": (spoil_cell(5, um_per_px="nan"), "row 5", "um_per_px 'nan'"),
    "um_per_px zero": (spoil_cell(5, um_per_px="0"), "row 5", "um_per_px '0' is not between 0 and 10"),
    "um_per_px negative": (spoil_cell(5, um_per_px="-0.25"), "row 5", "um_per_px '-0.25'"),
    "um_per_px in nanometres": (spoil_cell(5, um_per_px="250"), "row 5", "um_per_px '250'"),
    "um_per_px with a comma": (spoil_cell(5, um_per_px="0,25"), "row 5", "um_per_px '0,25'"),
    "bad role": (spoil_cell(5, role="magic"), "row 5", "role 'magic' is unknown. Give marker, nuclear"),
    "no marker name": (spoil_cell(5, marker=""), "row 5", "marker is empty"),
    "rows contradict": (spoil_cell(5, slide="s9"), "row 5", "slide 's9' for s2_b_pas.tif, but 's2' in a row"),
    "path up": (an_existing_file_outside, "row 5", "'../elsewhere.png' leads out"),
    "absolute path": (spoil_cell(5, channel_file="/etc/hostname"), "row 5", "'/etc/hostname' leads out"),
    "windows path": (spoil_cell(5, channel_file="C:\\if.tif"), "row 5", "leads out"),
    "link out": (link_out_of_the_folder, "row 4", "links out"),
    "control character": (spoil_cell(5, slide="s2\x07"), "row 5", "slide .* is not plain"),
    "channel is the PAS": (spoil_cell(5, channel_file="s2_b_pas.tif"), "row 5", "is the stained image"),
    "smaller channel": (
        save_instead("s2_b_if.ome.tif", picture(6, (16, 20))),
        "row 4",
        "20x16 px, but .* 40x32",
    ),
    "16-bit stained image": (
        lambda folder, rows: tifffile.imwrite(folder / "s2_b_pas.tif", picture(4, dtype=np.uint16)),
        "row 4",
        "8 bits per colour",
    ),
    "huge image": (huge, "row 4", "60000x60000"),
    "unknown column": (rename_column, "row 1", "unknown column 'conditon'. Did you mean condition"),
}
# It concerns the table and leaves no patch out.
OF_THE_TABLE = ("unknown column",)
# Both rows of the patch are told.
IN_TWO_ROWS = ("no PAS named", "link out")


@pytest.fixture
def bad_source(source: Path, kind: str) -> Path:
    rows = good_rows(source)
    BAD_SOURCES[kind][0](source, rows)
    write_manifest(source, rows)
    return source


@pytest.mark.parametrize("kind", BAD_SOURCES)
def test_stop_tells_the_problem_and_writes_nothing(tmp_path: Path, bad_source: Path, kind: str) -> None:
    _, where, words = BAD_SOURCES[kind]
    with pytest.raises(ImportRefusedError) as caught:
        import_study(tmp_path / "study", bad_source)
    assert [p.where for p in caught.value.problems] == [where, "row 5"][: 1 + (kind in IN_TWO_ROWS)]
    first, *lines = str(caught.value).splitlines()
    assert first.startswith(f"Nothing was imported from {bad_source}: {len(lines)} problem")
    assert lines == [str(problem) for problem in caught.value.problems]
    assert re.search(words, lines[0])
    assert sorted(path.name for path in tmp_path.iterdir() if path.name != "elsewhere.png") == ["source"]


@pytest.mark.parametrize("kind", BAD_SOURCES)
def test_stop_leaves_a_study_as_it_is_and_skip_adds_the_rest(
    tmp_path: Path, bad_source: Path, kind: str, study_of_another_patch: Study
) -> None:
    _, where, words = BAD_SOURCES[kind]
    study = study_of_another_patch
    before = content(study.folder)
    with pytest.raises(ImportRefusedError, match=words):
        import_study(study.folder, bad_source)
    assert content(study.folder) == before
    done = import_study(study.folder, bad_source, on_problem="skip")
    assert len(done["problems"]) == 1 + (kind in IN_TWO_ROWS)
    assert done["problems"][0].startswith(f"{where}: ") and re.search(words, done["problems"][0])
    added = ["s1_a", "s2_b"] if kind in OF_THE_TABLE else ["s1_a"]
    assert patch_names(study) == ["other", *added]
    assert done["patches"] == len(added)


@pytest.fixture(scope="module")
def other_study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("other")
    save(folder / "images" / "other_pas.png", picture(90))
    save(folder / "images" / "other_WT1.png", picture(91, (32, 40)))
    import_study(folder / "study", folder / "images")
    return folder / "study"


@pytest.fixture
def study_of_another_patch(tmp_path: Path, other_study: Path) -> Study:
    return open_study(Path(shutil.copytree(other_study, tmp_path / "study")))


# Without a manifest: what is in the folder beside the good pair s1_a, what is told, and of which file.
BAD_FOLDERS: dict[str, tuple[dict[str, np.ndarray], str, str]] = {
    "channel alone": ({"s2_b_WT1.png": picture(5, (32, 40))}, "s2_b_WT1.png", "missing pair: no s2_b_pas"),
    "PAS alone": ({"s2_b_pas.png": picture(5)}, "s2_b_pas.png", "missing pair: .* no marker channel"),
    "only a nuclear channel": (
        {"s2_b_pas.png": picture(5), "s2_b_dapi.png": picture(6, (32, 40))},
        "s2_b_pas.png",
        "missing pair: .* no marker channel",
    ),
    "name without a tag": (
        {"overview.png": picture(5)},
        "overview.png",
        "no pair. Images of a patch are named",
    ),
    "two stained images": (
        {"s1_a_pas.png": picture(1), "s1_a_hematoxylin.png": picture(7)},
        "s1_a_pas.png",
        "duplicate: s1_a_hematoxylin.png is this patch already",
    ),
    "sizes differ": (
        {"s2_b_pas.png": picture(5), "s2_b_WT1.png": picture(6, (64, 40))},
        "s2_b_WT1.png",
        "40x64 px, but its stained image is 40x32",
    ),
    "same image twice": (
        {"s2_b_pas.png": picture(1), "s2_b_WT1.png": picture(6, (32, 40))},
        "s2_b_pas.png",
        "duplicate: stained image 's2_b_pas.png' is in s1_a_pas.png",
    ),
}


@pytest.mark.parametrize("kind", BAD_FOLDERS)
def test_a_folder_with_a_problem(tmp_path: Path, kind: str) -> None:
    extra, where, words = BAD_FOLDERS[kind]
    files = {"s1_a_pas.png": picture(1), "s1_a_WT1.png": picture(2, (32, 40)), **extra}
    for name, pixels in files.items():
        save(tmp_path / "source" / name, pixels)
    with pytest.raises(ImportRefusedError, match=words) as caught:
        import_study(tmp_path / "study", tmp_path / "source")
    assert [problem.where for problem in caught.value.problems] == [where]
    assert not (tmp_path / "study").exists()
    done = import_study(tmp_path / "study", tmp_path / "source", on_problem="skip")
    assert done["patches"] == 1 and len(done["problems"]) == 1
    assert patch_names(open_study(tmp_path / "study")) == ["s1_a"]


def test_a_truncated_png_in_a_folder(tmp_path: Path) -> None:
    for stem in ("s1_a", "s2_b"):
        save(tmp_path / "source" / f"{stem}_pas.png", picture(ord(stem[0]) + ord(stem[1])))
        save(tmp_path / "source" / f"{stem}_WT1.png", picture(2, (32, 40)))
    cut_off("s2_b_pas.png")(tmp_path / "source", [])
    done = import_study(tmp_path / "study", tmp_path / "source", on_problem="skip")
    assert done["patches"] == 1 and "s2_b_pas.png cannot be read" in done["problems"][0]


def test_nothing_left_to_import_makes_no_study(tmp_path: Path, source: Path) -> None:
    rows = good_rows(source)
    for row in rows:
        row["role"] = "magic"
    write_manifest(source, rows)
    with pytest.raises(ImportRefusedError, match="4 problems. Correct them and import again."):
        import_study(tmp_path / "study", source, on_problem="skip")
    assert not (tmp_path / "study").exists()


def change_pas(folder: Path, rows: list[Row]) -> None:
    save(folder / "s1_a_pas.png", picture(50))


def change_channel(folder: Path, rows: list[Row]) -> None:
    save(folder / "s1_a_wt1.png", picture(51, (32, 40), np.uint16))


def add_channel(folder: Path, rows: list[Row]) -> None:
    save(folder / "s1_a_gata3.png", picture(52, (32, 40)))
    rows.append({**rows[0], "channel_file": "s1_a_gata3.png", "marker": "GATA3"})


def change_condition(folder: Path, rows: list[Row]) -> None:
    rows[0]["condition"] = rows[1]["condition"] = "injured"


def rename(folder: Path, rows: list[Row]) -> None:
    (folder / "s1_a_pas.png").rename(folder / "s1_z_pas.png")
    rows[0]["pas"] = rows[1]["pas"] = "s1_z_pas.png"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (change_pas, "row 2: patch 's1_a' is in the study with another image. Rename"),
        (change_channel, "row 2: patch 's1_a' is in the study with another 'WT1' image"),
        (add_channel, "row 2: patch 's1_a' is in the study without its channel 'GATA3'"),
        (change_condition, "row 2: patch 's1_a' is in the study with condition 'normal', not 'injured'"),
        (rename, "row 2: duplicate: s1_z_pas.png is in the study as patch 's1_a'"),
    ],
)
def test_an_import_never_changes_a_patch(tmp_path: Path, source: Path, change: Callable, words: str) -> None:
    import_study(tmp_path / "study", source)
    before = content(tmp_path / "study")
    rows = good_rows(source)
    change(source, rows)
    write_manifest(source, rows)
    with pytest.raises(ImportRefusedError) as caught:
        import_study(tmp_path / "study", source)
    (problem,) = caught.value.problems
    assert str(problem).startswith(words)
    done = import_study(tmp_path / "study", source, on_problem="skip")
    assert (done["patches"], done["already_there"]) == (0, 1)
    assert content(tmp_path / "study") == before


def test_a_failure_while_writing_leaves_nothing(
    tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full_disk(*_: object) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr("allinsam.workflow.importing._add_patch", full_disk)
    with pytest.raises(OSError, match="No space left"):
        import_study(tmp_path / "study", source)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["source"]


def test_classes_by_name(tmp_path: Path, source: Path) -> None:
    done = import_study(tmp_path / "study", source, classes={"wt1": "WT1+ nucleus"})
    assert done["classes"] == [
        {"name": "mesangial", "marker": "GATA3"},
        {"name": "WT1+ nucleus", "marker": "WT1"},
    ]


@pytest.mark.parametrize(
    ("classes", "words"),
    [
        ({"CD10": "tubule"}, "No marker 'CD10' for class 'tubule'. Markers: GATA3, WT1."),
        ({"WT1": "mesangial"}, "Class 'mesangial' is there already; marker 'WT1' needs"),
    ],
)
def test_classes_that_cannot_be(tmp_path: Path, source: Path, classes: dict, words: str) -> None:
    with pytest.raises(InputError, match=words):
        import_study(tmp_path / "study", source, classes=classes)
    assert not (tmp_path / "study").exists()


def test_a_class_cannot_be_renamed_by_importing(tmp_path: Path, source: Path) -> None:
    import_study(tmp_path / "study", source)
    with pytest.raises(InputError, match="'WT1' has the class 'podocyte' already"):
        import_study(tmp_path / "study", source, classes={"WT1": "something else"})


def test_studies_that_take_no_import(tmp_path: Path, source: Path) -> None:
    create_study(tmp_path / "demo", "Demo", "compact", "0" * 64, simulated=True)
    with pytest.raises(InputError, match="is a simulated study"):
        import_study(tmp_path / "demo", source)
    with pytest.raises(InputError, match="holds no study"):
        import_study(source, source)
    import_study(tmp_path / "study", source, name="Pilot")
    with pytest.raises(InputError, match="holds the study 'Pilot', not 'Main'"):
        import_study(tmp_path / "study", source, name="Main")
    with pytest.raises(InputError, match="Choose stop or skip"):
        import_study(tmp_path / "study", source, on_problem="guess")


def test_an_empty_folder_can_become_the_study(tmp_path: Path, source: Path) -> None:
    (tmp_path / "study").mkdir()
    assert import_study(tmp_path / "study", source)["patches"] == 2
    assert patch_names(open_study(tmp_path / "study")) == ["s1_a", "s2_b"]


def test_a_slide_of_both_conditions_is_of_neither(tmp_path: Path, source: Path) -> None:
    rows = good_rows(source)
    for row in rows:
        row["slide"] = "one"
    write_manifest(source, rows)
    import_study(tmp_path / "study", source)
    with open_study(tmp_path / "study").science.read() as db:
        (slide,) = images.list_slides(db)
        assert (slide["condition"], slide["um_per_px"]) == ("unknown", None)
        assert [patch["condition"] for patch in images.list_patches(db)] == ["normal", "injured"]


def test_images_are_addressed_as_they_are_stored(tmp_path: Path) -> None:
    study = create_study(tmp_path / "study", "Study", "compact", "0" * 64)
    for pixels in (picture(1), picture(2, (32, 40), np.uint16)):
        assert write_image(study, pixels) == hashlib.sha256(encode_png(pixels)).hexdigest()


def test_the_deepliif_pair_becomes_a_study(tmp_path: Path) -> None:
    folder = SHARED / "deepliif_lung1"
    if not folder.exists():
        pytest.skip(f"{folder} is not there; it is not part of the repository")
    done = import_study(tmp_path / "study", folder)
    assert (done["patches"], done["channels"], done["problems"]) == (1, 3, [])
    assert done["classes"] == [{"name": "positive", "marker": "Ki67"}]
    study = open_study(tmp_path / "study")
    assert np.array_equal(read_patch(study, 1), read_rgb(folder / "Lung1_hematoxylin.png"))
    marker, registration_id = read_registered_channel(study, 1, "Ki67")
    assert registration_id == 1 and np.array_equal(marker, read_channel(folder / "Lung1_marker.png"))
    cd3 = import_study(tmp_path / "cd3", folder, rules=FolderRules(marker_name="CD3"))
    assert cd3["classes"] == [{"name": "CD3 positive", "marker": "CD3"}]


def zip_of(folder: Path, top: str = "") -> Path:
    """The folder as a ZIP beside it, its files under `top`."""
    packed = folder.with_suffix(".zip")
    with zipfile.ZipFile(packed, "w") as archive:
        for path in sorted(folder.iterdir()):
            archive.write(path, top + path.name)
    return packed


def rows_of(study: Path) -> dict[str, str]:
    """Every row, without the times at which they were made."""
    with Study(study).science.read() as db:
        return {
            table: re.sub(r"'20\d\d-\d\d-\d\dT[^']*'", "then", str(list(db[table].rows)))
            for table in db.table_names()
            if "migration" not in table
        }


@pytest.mark.parametrize("top", ["", "one/", "one/in another/"])
def test_a_zip_is_imported_as_its_folder(tmp_path: Path, source: Path, top: str) -> None:
    of_folder = import_study(tmp_path / "by_folder", source, name="Pilot")
    packed = zip_of(source, top)
    with zipfile.ZipFile(packed, "a") as archive:
        archive.writestr("__MACOSX/._s1_a_pas.png", b"resource fork")
        archive.writestr(top + ".DS_Store", b"x")
    of_zip = import_study(tmp_path / "by_zip", packed, name="Pilot")
    assert {**of_zip, "study": ""} == {**of_folder, "study": ""}
    assert rows_of(tmp_path / "by_zip") == rows_of(tmp_path / "by_folder")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["by_folder", "by_zip", "source", "source.zip"]


def test_the_same_zip_twice_adds_nothing(tmp_path: Path, source: Path) -> None:
    packed = zip_of(source)
    import_study(tmp_path / "study", packed)
    before = content(tmp_path / "study")
    again = import_study(tmp_path / "study", packed)
    assert (again["patches"], again["already_there"]) == (0, 2)
    assert content(tmp_path / "study") == before


def test_a_preview_tells_what_would_come_and_writes_nothing(tmp_path: Path, source: Path) -> None:
    seen = preview_import(tmp_path / "study", zip_of(source))
    assert seen == {
        "patches": 2,
        "channels": 4,
        "slides": ["s1", "s2"],
        "markers": {"WT1": 2, "GATA3": 1},
        "other_channels": {"DAPI": 1},
        "um_per_px": {0.25: 1, 0.5: 1},
        "conditions": {"normal": 1, "injured": 1},
        "classes": [{"name": "mesangial", "marker": "GATA3"}, {"name": "podocyte", "marker": "WT1"}],
        "already_there": 0,
        "problems": [],
    }
    assert sorted(path.name for path in tmp_path.iterdir()) == ["source", "source.zip"]
    import_study(tmp_path / "study", source)
    before = content(tmp_path / "study")
    assert preview_import(tmp_path / "study", source)["already_there"] == 2
    assert content(tmp_path / "study") == before


@pytest.mark.parametrize("at", ["unpacking", "checking s2_b", "importing s2_b"])
def test_a_cancelled_import_leaves_nothing(
    tmp_path: Path, source: Path, study_of_another_patch: Study, at: str
) -> None:
    study = study_of_another_patch
    before, told = content(study.folder), []
    with pytest.raises(ImportCancelledError, match="Nothing was imported"):
        import_study(
            study.folder,
            zip_of(source),
            report=lambda done, total, message, detail: told.append(message),
            should_stop=lambda: any(message.startswith(at) for message in told),
        )
    assert content(study.folder) == before
    assert not [path for path in study.folder.rglob("*") if "unpacking" in path.name]
    with pytest.raises(ImportCancelledError):
        import_study(tmp_path / "new", source, should_stop=lambda: True)
    assert not (tmp_path / "new").exists()


def test_a_failure_takes_back_the_images_it_brought(
    tmp_path: Path, source: Path, study_of_another_patch: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full_disk(*_: object) -> None:
        raise OSError("No space left on device")

    study = study_of_another_patch
    before = content(study.folder)
    monkeypatch.setattr("allinsam.workflow.importing._add_patch", full_disk)
    with pytest.raises(OSError, match="No space left"):
        import_study(study.folder, source)
    assert content(study.folder) == before


def test_what_nothing_says_can_be_said_for_all(tmp_path: Path, source: Path) -> None:
    rows = good_rows(source)
    for row in rows[:2]:
        row["condition"] = row["um_per_px"] = ""
    write_manifest(source, rows)
    import_study(tmp_path / "study", source, fallback=Fallback(0.4, "injured"))
    with open_study(tmp_path / "study").science.read() as db:
        patches = images.list_patches(db)
    assert [(patch["um_per_px"], patch["condition"]) for patch in patches] == [
        (0.4, "injured"),
        (0.5, "injured"),
    ]
    with pytest.raises(InputError, match="um_per_px '40.0' is not between"):
        import_study(tmp_path / "new", source, fallback=Fallback(40.0))


def test_the_command_reads_a_zip(tmp_path: Path, source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["import", str(zip_of(source)), "--study", str(tmp_path / "study"), "--json"]
    assert main(arguments) == 0
    assert json.loads(capsys.readouterr().out)["patches"] == 2
    assert main(["import", "--study", str(tmp_path / "study")]) == 2
    assert "Name what to import" in capsys.readouterr().err
