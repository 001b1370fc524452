import csv
import os
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from allinsam.errors import InputError
from allinsam.imaging import read_channel
from allinsam.importing import FolderRules, ImportPlan, plan_import

SHARED = Path(os.environ.get("ALLINSAM_SHARED_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))


def picture(seed: int, shape: tuple[int, ...] = (32, 40, 3), dtype: type = np.uint8) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, np.iinfo(dtype).max, shape, dtype=dtype)


def save(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def write_manifest(folder: Path, rows: list[dict[str, str]], delimiter: str = ",") -> Path:
    columns = list(dict.fromkeys(name for row in rows for name in row))
    with (folder / "manifest.csv").open("w", newline="", encoding="utf-8-sig") as file:
        writer = csv.DictWriter(file, columns, delimiter=delimiter)
        writer.writeheader()
        writer.writerows(rows)
    return folder / "manifest.csv"


@pytest.fixture
def two_channels(tmp_path: Path) -> list[dict[str, str]]:
    """Rows of one PAS file whose WT1 and GATA3 are channels 1 and 0 of one OME-TIFF."""
    save(tmp_path / "s1_g1_pas.png", picture(1))
    tifffile.imwrite(
        tmp_path / "s1_g1_if.ome.tif", picture(2, (2, 32, 40), np.uint16), ome=True, metadata={"axes": "CYX"}
    )
    common = {"pas": "s1_g1_pas.png", "channel_file": "s1_g1_if.ome.tif", "role": "marker"}
    return [
        {**common, "channel_index": "1", "marker": "wt1", "slide": "S-1", "condition": "Injured"},
        {**common, "channel_index": "0", "marker": "GATA3", "um_per_px": "0.25", "glomerulus": "g1"},
    ]


def only_patch(plan: ImportPlan):
    assert plan.problems == ()
    assert len(plan.patches) == 1
    return plan.patches[0]


def test_the_rows_of_a_pas_file_become_one_patch(tmp_path: Path, two_channels: list) -> None:
    patch = only_patch(plan_import(write_manifest(tmp_path, two_channels)))
    assert (patch.name, patch.slide, patch.glomerulus) == ("s1_g1", "S-1", "g1")
    assert (patch.condition, patch.um_per_px) == ("injured", 0.25)
    assert [(c.role, c.marker, c.index) for c in patch.channels] == [
        ("marker", "WT1", 1),
        ("marker", "GATA3", 0),
    ]
    first = read_channel(patch.channels[0].path, patch.channels[0].index)
    assert first.dtype == np.uint16 and np.array_equal(first, picture(2, (2, 32, 40), np.uint16)[1])


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_a_folder_with_a_manifest_goes_by_it(tmp_path: Path, two_channels: list, delimiter: str) -> None:
    write_manifest(tmp_path, two_channels, delimiter)
    save(tmp_path / "stray.png", picture(3))
    assert only_patch(plan_import(tmp_path)).name == "s1_g1"


def test_only_the_needed_columns_are_needed(tmp_path: Path) -> None:
    save(tmp_path / "a" / "s7_x_pas.png", picture(1))
    save(tmp_path / "a" / "s7_x_dapi.png", picture(2, (32, 40)))
    save(tmp_path / "a" / "s7_x_wt1.png", picture(3, (32, 40)))
    rows = [
        {"pas": "a/s7_x_pas.png", "channel_file": "a/s7_x_dapi.png", "role": "nuclear", "marker": ""},
        {"pas": "a\\s7_x_pas.png", "channel_file": "a\\s7_x_wt1.png", "role": "Marker", "marker": "WT1"},
    ]
    patch = only_patch(plan_import(write_manifest(tmp_path, rows)))
    assert (patch.name, patch.slide, patch.condition, patch.um_per_px) == ("a_s7_x", "a", "unknown", None)
    assert [(c.role, c.marker) for c in patch.channels] == [("nuclear", "DAPI"), ("marker", "WT1")]


def test_pixel_size_comes_from_the_file_where_the_manifest_is_silent(tmp_path: Path) -> None:
    tifffile.imwrite(
        tmp_path / "a_pas.tif", picture(1), photometric="rgb", resolution=(20_000, 20_000), resolutionunit=3
    )
    save(tmp_path / "a_WT1.png", picture(2, (32, 40)))
    row = {"pas": "a_pas.tif", "channel_file": "a_WT1.png", "role": "marker", "marker": "WT1"}
    assert only_patch(plan_import(write_manifest(tmp_path, [row]))).um_per_px == pytest.approx(0.5)
    row["um_per_px"] = "0.4"
    assert only_patch(plan_import(write_manifest(tmp_path, [row]))).um_per_px == 0.4


def test_markers_are_one_whatever_their_case(tmp_path: Path) -> None:
    for stem, marker in (("a", "CD10"), ("b", "cd10"), ("c", "ki67")):
        save(tmp_path / f"{stem}_pas.png", picture(ord(stem)))
        save(tmp_path / f"{stem}_{marker}.png", picture(9, (32, 40)))
    plan = plan_import(tmp_path)
    assert [patch.channels[0].marker for patch in plan.patches] == ["CD10", "CD10", "Ki67"]
    plan = plan_import(tmp_path, known_markers=["Cd10"])
    assert [patch.channels[0].marker for patch in plan.patches] == ["Cd10", "Cd10", "Ki67"]


def test_a_folder_of_pairs(tmp_path: Path) -> None:
    for slide in ("s1", "s2"):
        save(tmp_path / f"{slide}_g4_pas.png", picture(int(slide[1])))
        save(tmp_path / f"{slide}_g4_WT1.png", picture(3, (32, 40), np.uint16))
        tifffile.imwrite(tmp_path / f"{slide}_g4_GATA3.ome.tif", picture(4, (32, 40)), ome=True)
        save(tmp_path / f"{slide}_g4_inst.png", picture(5, (32, 40)))
    (tmp_path / "notes.txt").write_text("not an image")
    plan = plan_import(tmp_path)
    assert plan.problems == ()
    assert [(p.name, p.slide) for p in plan.patches] == [("s1_g4", "s1"), ("s2_g4", "s2")]
    assert {(c.role, c.marker) for c in plan.patches[0].channels} == {("marker", "WT1"), ("marker", "GATA3")}


def test_rules_for_a_folder(tmp_path: Path) -> None:
    save(tmp_path / "lab_s8_g2_hematoxylin.png", picture(1))
    save(tmp_path / "lab_s8_g2_marker.png", picture(2, (32, 40)))
    rules = FolderRules(marker_name="CD3", slide_pattern=r"_(s\d+)_", condition="normal", um_per_px=0.5)
    patch = only_patch(plan_import(tmp_path, rules))
    assert (patch.name, patch.slide, patch.condition, patch.um_per_px) == ("lab_s8_g2", "s8", "normal", 0.5)
    assert patch.channels[0].marker == "CD3"


@pytest.mark.parametrize(
    ("rules", "expected"),
    [
        (FolderRules(slide_pattern="("), "no regular expression"),
        (FolderRules(condition="ill"), "condition 'ill'"),
        (FolderRules(um_per_px=-1.0), "um_per_px '-1.0'"),
    ],
)
def test_unusable_rules(tmp_path: Path, rules: FolderRules, expected: str) -> None:
    save(tmp_path / "a_pas.png", picture(1))
    save(tmp_path / "a_WT1.png", picture(2, (32, 40)))
    with pytest.raises(InputError, match=expected):
        plan_import(tmp_path, rules)


def test_a_channel_shown_in_a_colour_is_read_from_that_colour(tmp_path: Path) -> None:
    grey, green = picture(2, (32, 40)), np.zeros((32, 40, 3), np.uint8)
    green[..., 1] = grey
    save(tmp_path / "a_pas.png", picture(1))
    save(tmp_path / "a_WT1.png", green)
    save(tmp_path / "a_GATA3.png", np.dstack([grey] * 3))
    patch = only_patch(plan_import(tmp_path))
    assert {channel.marker: channel.index for channel in patch.channels} == {"WT1": 1, "GATA3": 0}


def test_a_manifest_must_say_which_of_several_channels(tmp_path: Path, two_channels: list) -> None:
    two_channels[1]["channel_index"] = ""
    plan = plan_import(write_manifest(tmp_path, two_channels))
    assert plan.patches == ()
    assert [problem.where for problem in plan.problems] == ["row 3"]
    assert "Give channel_index, 0 to 1." in plan.problems[0].message


def test_problems_are_told_in_the_order_of_the_rows(tmp_path: Path) -> None:
    rows = []
    for number in range(11):
        save(tmp_path / f"p{number}_pas.png", picture(number))
        rows.append(
            {"pas": f"p{number}_pas.png", "channel_file": "gone.png", "role": "marker", "marker": "WT1"}
        )
    rows[4]["role"] = "magic"
    plan = plan_import(write_manifest(tmp_path, rows))
    assert [problem.where for problem in plan.problems] == [f"row {number}" for number in range(2, 13)]
    assert "role 'magic'" in str(plan.problems[4])


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "is empty"),
        (b"\n\n", "is empty"),
        (b"pas,channel_file,role\n", "no rows below"),
        (b"pas,channel_file,role\n,,\n\n", "no rows below"),
        (b"pas,role\na,marker\n", "no column channel_file"),
        (b"pas,channel_file,role,pas\na,b,marker,c\n", "'pas' twice"),
        (b"pas,channel_file,role\n\xff\xfe\xfa,b,marker\n", "not UTF-8"),
        (b'pas,channel_file,role\n"a,b,marker\n', "cannot be read as CSV"),
    ],
)
def test_a_manifest_that_states_nothing_is_refused(tmp_path: Path, content: bytes, expected: str) -> None:
    (tmp_path / "manifest.csv").write_bytes(content)
    with pytest.raises(InputError, match=expected) as caught:
        plan_import(tmp_path / "manifest.csv")
    assert "manifest.csv" in str(caught.value) and "\n" not in str(caught.value)


def test_a_row_with_more_cells_than_columns(tmp_path: Path) -> None:
    (tmp_path / "manifest.csv").write_text("pas,channel_file,role\na,b,marker,,\na,b,nuclear,0,25\n")
    plan = plan_import(tmp_path)
    assert [str(problem) for problem in plan.problems] == [
        "row 2: marker is empty. Name the marker of this channel, such as WT1.",
        "row 3: more cells than the 3 columns. Put a cell with a comma in quotes.",
    ]


def test_a_source_that_cannot_be_one(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is not there"):
        plan_import(tmp_path / "nowhere")
    with pytest.raises(InputError, match="holds no PNG, JPEG or TIFF"):
        plan_import(tmp_path)
    save(tmp_path / "a_pas.png", picture(1))
    with pytest.raises(InputError, match="neither a folder nor a .csv or .zip"):
        plan_import(tmp_path / "a_pas.png")


def test_the_deepliif_layout() -> None:
    folder = SHARED / "deepliif_lung1"
    if not folder.exists():
        pytest.skip(f"{folder} is not there; it is not part of the repository")
    patch = only_patch(plan_import(folder))
    assert (patch.name, patch.slide, patch.pas.name) == ("Lung1", "Lung1", "Lung1_hematoxylin.png")
    assert sorted((c.role, c.marker, c.path.name, c.index) for c in patch.channels) == [
        ("marker", "Ki67", "Lung1_marker.png", 0),
        ("nuclear", "DAPI", "Lung1_dapi.png", 0),
        ("other", "LAP2", "Lung1_lap2.png", 1),
    ]
