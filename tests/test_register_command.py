"""python -m allinsam register: two files, and a study whose patches wait where the gate says no."""

import functools
import json
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from allinsam.__main__ import main
from allinsam.errors import InputError
from allinsam.registration import compose, grid_error_px, identity_matrix
from allinsam.registration.files import read_channels, read_fixed, register_files
from allinsam.simulate.pairs import SimulatedPair, pair_of_fields, simulate_field
from allinsam.store import Study, create_study, images
from allinsam.store import assignments as queue
from allinsam.store import study as study_store
from allinsam.workflow.annotating import next_assignment, read_registered_channel, write_image
from allinsam.workflow.assigning import assign_patches
from allinsam.workflow.preparing import sign_thresholds
from allinsam.workflow.registering import register_study

SIZE_HW = (512, 512)
PERSON = "p-student"


@functools.cache
def pair(seed: int) -> SimulatedPair:
    around = [simulate_field(2000 + number % 2) for number in range(8)]
    return pair_of_fields(seed, simulate_field(seed), around)


def save(path: Path, pixels: np.ndarray) -> Path:
    Image.fromarray(pixels).save(path)
    return path


@pytest.fixture
def stained(tmp_path: Path) -> Path:
    return save(tmp_path / "pas.png", pair(60).pas)


def run(capsys: pytest.CaptureFixture, *words: object) -> tuple[int, dict, str]:
    """Exit status, the one JSON object on standard output (or nothing), standard error."""
    status = main(["register", *map(str, words), "--json"])
    printed = capsys.readouterr()
    return status, json.loads(printed.out) if printed.out else {}, printed.err


# --- Two files ------------------------------------------------------------------------------------


def test_two_files_give_one_object(stained: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    moving = save(tmp_path / "dapi.png", pair(60).channels["DAPI"])
    status, found, _ = run(capsys, stained, moving)
    assert status == 0 and found["accepted"] is True and found["reasons"] == []
    assert grid_error_px(np.array(found["matrix"]), pair(60).matrix, SIZE_HW) < 1.0
    assert 0 < found["quality"] <= 1 and found["residual_px"] < 1.5
    linear = pair(60).matrix[:, :2]
    turn = np.rad2deg(np.arctan2(linear[1, 0], linear[0, 0]))
    assert found["rotation_deg"] == pytest.approx(turn, abs=1) and not found["flipped"]
    assert found["scale"] == pytest.approx(np.sqrt(np.linalg.det(linear)), abs=0.01)


def test_unrelated_files_are_flagged_and_exit_0(
    stained: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    moving = save(tmp_path / "other.png", pair(61).channels["DAPI"])
    sizes = ("--fixed-um-per-px", 0.5, "--moving-um-per-px", 0.5)
    status, found, _ = run(capsys, stained, moving, *sizes)
    assert status == 0 and found["accepted"] is False and found["reasons"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["pas.png"], "Name the IF image after it"),
        (["pas.png", "none.png"], "is not there"),
        (["pas.png", "pas.png", "--moving-channel", "3"], "has no channel 3"),
        (["pas.png", "pas.png", "--fixed-um-per-px", "-1"], "above 0"),
        (["pas.png", "pas.png", "--all"], "not both"),
        ([], "--all"),
    ],
)
def test_bad_input_is_one_line_and_exit_2(
    words: list[str],
    message: str,
    stained: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    monkeypatch.chdir(stained.parent)
    status, found, said = run(capsys, *words)
    assert (status, found) == (2, {}) and message in said and len(said.splitlines()) == 1


def test_the_nuclear_channel_of_a_composite_is_found(stained: Path, tmp_path: Path) -> None:
    """RGBA with nuclei in blue, red empty."""
    shown = pair(60).channels
    empty = np.zeros(SIZE_HW, np.uint8)
    composite = np.dstack([empty, empty + 3, shown["DAPI"], empty + 255])
    found = register_files(stained, save(tmp_path / "composite.png", composite))
    assert found["accepted"] and found["moving_channel"] == 2
    assert grid_error_px(np.array(found["matrix"]), pair(60).matrix, SIZE_HW) < 1.0


def test_pages_are_channels_and_16_bits_are_read(stained: Path, tmp_path: Path) -> None:
    deep = pair(60).channels["DAPI"].astype(np.uint16) * 30 + 500
    path = tmp_path / "pages.tif"
    tifffile.imwrite(path, np.stack([deep * 0 + 7, deep]), photometric="minisblack")
    found = register_files(stained, path, channel=1)
    assert found["accepted"] and found["moving_channel"] == 1
    assert grid_error_px(np.array(found["matrix"]), pair(60).matrix, SIZE_HW) < 1.0


def test_half_the_scale_and_upside_down_is_found_without_pixel_sizes(stained: Path, tmp_path: Path) -> None:
    dapi = pair(60).channels["DAPI"]
    half = dapi.reshape(256, 2, 256, 2).mean(axis=(1, 3)).astype(np.uint8)[:, ::-1]
    found = register_files(stained, save(tmp_path / "half.png", half.copy()))
    truth = compose(pair(60).matrix, np.array([[-2.0, 0, 512], [0, 2, 0]]))
    assert found["accepted"] and found["flipped"]
    assert grid_error_px(np.array(found["matrix"]), truth, SIZE_HW) < 1.0


def test_squares_of_a_slide_are_registered_in_its_frame(stained: Path, tmp_path: Path) -> None:
    moving = save(tmp_path / "dapi.png", pair(60).channels["DAPI"])
    found = register_files(stained, moving, patch_px=256)
    assert [row["box_xyxy"] for row in found["patches"]] == [
        [x, y, x + 256, y + 256] for y in (0, 256) for x in (0, 256)
    ]
    good = [np.array(row["matrix"]) for row in found["patches"] if row["accepted"]]
    assert good and all(grid_error_px(matrix, pair(60).matrix, SIZE_HW) < 4 for matrix in good)
    with pytest.raises(InputError, match="at least 48 px"):
        register_files(stained, moving, patch_px=8)


def test_a_deep_stained_image_is_brought_to_8_bits(tmp_path: Path) -> None:
    path = tmp_path / "deep.tif"
    tifffile.imwrite(path, pair(60).pas.astype(np.uint16) * 200, photometric="rgb")
    image = read_fixed(path)
    assert image.dtype == np.uint8 and np.abs(image.astype(int) - pair(60).pas).mean() < 12


def test_the_same_channel_twice_is_tried_once_and_many_must_be_named(tmp_path: Path) -> None:
    grey = save(tmp_path / "grey.png", np.repeat(pair(60).channels["DAPI"][..., None], 3, axis=2))
    assert list(read_channels(grey, None)) == [0]
    path = tmp_path / "many.tif"
    tifffile.imwrite(path, np.random.default_rng(0).integers(0, 255, (9, 64, 64), np.uint8))
    with pytest.raises(InputError, match="--moving-channel"):
        read_channels(path, None)


# --- A study --------------------------------------------------------------------------------------


@pytest.fixture
def study(tmp_path: Path) -> Study:
    """Patch "good" has its own IF, "wrong" that of another tissue; both are assumed to fit as they are."""
    made = create_study(tmp_path / "study", "Pairs", "compact", "0" * 64)
    stored = []
    for name, channels in (("good", pair(60).channels), ("wrong", pair(61).channels)):
        stain = pair(60).pas if name == "good" else pair(60).pas[::-1].copy()
        stored.append(
            (name, write_image(made, stain), {m: write_image(made, c) for m, c in channels.items()})
        )
    with made.science.write() as db:
        study_store.add_person(db, PERSON, "student")
        study_store.add_class(db, "podocyte", "WT1", "#F0E442", "1")
        slide_id = images.add_slide(db, "slide", "normal", 0.5)
        for name, pas, channels in stored:
            for sha256 in (pas, *channels.values()):
                images.add_image(db, sha256, *SIZE_HW, 8, name)
            patch_id = images.add_patch(
                db, name=name, slide_id=slide_id, condition="normal", image_sha256=pas
            )
            for marker, sha256 in channels.items():
                role = "nuclear" if marker == "DAPI" else "marker"
                images.add_channel(db, patch_id, role, marker, sha256)
            images.add_registration(db, patch_id, identity_matrix(), "assumed identity", accepted=True)
    sign_thresholds(made, "otsu", PERSON)
    return made


def test_a_patch_is_registered_by_its_nuclear_channel(study: Study, capsys: pytest.CaptureFixture) -> None:
    status, done, _ = run(capsys, "--study", study.folder, "--patch", "good", "--person", PERSON)
    assert status == 0 and (done["registered"], done["accepted"], done["waiting"]) == (1, 1, [])
    with study.science.read() as db:
        row = images.current_registration(db, 1)
        assert images.patches_on_hold(db) == set()
    assert grid_error_px(row["matrix"], pair(60).matrix, SIZE_HW) < 1.0
    assert (row["version"], row["method"], row["person_id"]) == (2, "grid and ECC on DAPI", PERSON)
    assert row["quality"] > 0.2 and row["residual_px"] < 1.5
    assert read_registered_channel(study, 1, "WT1")[1] == row["id"]


def test_a_patch_that_fails_waits_until_a_registration_is_accepted(study: Study) -> None:
    with study.science.write() as db:
        queue.add_assignment(db, PERSON, 2, [1])
    assert next_assignment(study, PERSON)["patch"] == "wrong"
    done = register_study(study, ["wrong"])
    assert done["waiting"] == ["wrong"] and done["patches"][0]["reasons"]
    assert next_assignment(study, PERSON) is None
    with study.science.write() as db:
        study_store.add_person(db, "p-other", "student")
    held = assign_patches(study, "p-other", [1, 2])
    assert held.on_hold == (2,) and len(held.assignment_ids) == 1
    assert assign_patches(study, "p-other", [2], guidance="pas_only").on_hold == ()
    assert next_assignment(study, "p-other")["patch"] == "good"
    with study.science.write() as db:
        images.add_registration(db, 2, identity_matrix(), "by hand", accepted=True, person_id=PERSON)
    assert next_assignment(study, PERSON)["patch"] == "wrong"


def test_names_that_are_not_there_are_told(study: Study, capsys: pytest.CaptureFixture) -> None:
    for words, message in (
        (("--patch", "nope"), "No patch 'nope'"),
        (("--all", "--person", "nobody"), "nobody"),
        ((), "--all"),
        (("--all", "--patch", "good"), "--all"),
    ):
        status, _, said = run(capsys, "--study", study.folder, *words)
        assert status == 2 and message in said
    with study.science.read() as db:
        assert images.current_registration(db, 1)["version"] == 1
