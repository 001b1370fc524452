"""A slide becomes patches of a study, each where it was on the slide; the slide stays where it is."""

import hashlib
import json
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from allinsam.__main__ import main
from allinsam.errors import InputError
from allinsam.imaging import read_channel, read_rgb
from allinsam.importing.slide import SlideRules
from allinsam.registration import compose, identity_matrix, invert, move_points, nudge, shift_matrix
from allinsam.slides import cut, open_slide
from allinsam.store import Study, images, open_study, slide_files
from allinsam.store import assignments as queue
from allinsam.store import study as study_store
from allinsam.workflow import importing_slides
from allinsam.workflow.annotating import why_closed
from allinsam.workflow.checking import verify
from allinsam.workflow.importing import ImportCancelledError, ImportRefusedError, what_came
from allinsam.workflow.importing_slides import SlideSource, import_slide, preview_slide
from allinsam.workflow.registering import ASSUMED, accept_position, standings
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
    assert (slide["name"], slide["um_per_px"], slide["path"]) == ("s9", 0.25, None)
    with study.server.read() as db:
        assert slide_files.path_of(db, slide["sha256"]) == str(slides / "s9.ome.tif")
        assert slide_files.path_of(db, slide["if_sha256"]) == str(slides / "s9_if.ome.tif")
    assert slide["sha256"] == hashlib.sha256(before["s9.ome.tif"]).hexdigest()
    assert slide["if_path"] is None
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


# --- Registered ---------------------------------------------------------------------------------

# The IF slide is turned, shifted and has half the px.
TRUTH = nudge(np.array([[2.0, 0, 0], [0, 2.0, 0]]), SLIDE_HW, dx_px=30, dy_px=-18, rotation_deg=4.0)
BEND_PX = 8.0
# Patches in which a part of the fluorescence lies apart, and all of it is gone.
TORN, EMPTY = "s9_x512_y512", "s9_x1024_y512"
TORN_BY_PX = 30.0
REGISTERED = SlideRules(patch_px=256, glomerulus_share=0.02)


def bent_from(points_xy: np.ndarray) -> np.ndarray:
    """Where the section lay under the fluorescence, for points of the stain."""
    x, y = points_xy[..., 0], points_xy[..., 1]
    bent_x = x + BEND_PX * np.sin(2 * np.pi * y / 1100)
    return np.stack([bent_x, y + BEND_PX * np.cos(2 * np.pi * x / 1400)], -1)


def true_if_px(points_xy: np.ndarray) -> np.ndarray:
    """Where points of the stain (n, 2) are in the fluorescence, but for the tear."""
    there = points_xy
    for _ in range(30):
        there = there - (bent_from(there) - points_xy)
    return move_points(invert(TRUTH), there)


@pytest.fixture(scope="module")
def bent(tmp_path_factory: pytest.TempPathFactory, slides: Path, drawn: tuple) -> SlideSource:
    """A stained slide whose fluorescence lies otherwise; two of its patches cannot be brought right."""
    height, width = SLIDE_HW[0] // 2, SLIDE_HW[1] // 2
    x, y = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    on_stain = move_points(TRUTH, np.stack([x, y], -1).reshape(-1, 2)).reshape(height, width, 2)
    torn = (on_stain > (650, 512)).all(axis=-1) & (on_stain < (768, 768)).all(axis=-1)
    there = bent_from(on_stain)
    there[torn, 0] += TORN_BY_PX
    there = there.astype(np.float32) - 0.5
    planes = []
    for plane in drawn[1]:
        plane = cv2.GaussianBlur(plane, (0, 0), 0.8)
        plane[512:768, 1024:1280] = 200
        planes.append(cv2.remap(plane, there[..., 0], there[..., 1], cv2.INTER_LINEAR, borderValue=200))
    path = tmp_path_factory.mktemp("bent") / "bent_if.ome.tif"
    write_slide(path, np.stack(planes), um_per_px=0.5)
    outlines = slides / "glomeruli.geojson"
    return SlideSource(slides / "s9.ome.tif", path, {"WT1": 0, "DAPI": 1}, outlines, register=True)


@dataclass(frozen=True)
class Registered:
    study: Study
    done: dict[str, Any]
    told: list[str]
    by_slide: np.ndarray  # IF px to stain px


@pytest.fixture(scope="module")
def registered(tmp_path_factory: pytest.TempPathFactory, bent: SlideSource) -> Registered:
    folder, bases, told = tmp_path_factory.mktemp("registered") / "study", [], []
    with pytest.MonkeyPatch.context() as patched:
        estimate_slide = importing_slides.estimate_slide
        patched.setattr(
            importing_slides, "estimate_slide", lambda *a: bases.append(estimate_slide(*a)) or bases[-1]
        )
        done = import_slide(folder, bent, REGISTERED, report=lambda *what: told.append(what[2]))
    return Registered(open_study(folder), done, told, bases[0].matrix)


def corner_of(name: str) -> tuple[int, int]:
    x, y = name.removeprefix("s9_x").split("_y")
    return int(x), int(y)


def off_px(name: str, to_patch: np.ndarray) -> float:
    """Mean distance over a patch between where a matrix (IF px to px of the patch) puts it and the truth."""
    inside = np.stack(np.meshgrid(*[np.linspace(0, 256, 9)] * 2), -1).reshape(-1, 2)
    put = move_points(to_patch, true_if_px(inside + corner_of(name)))
    return float(np.linalg.norm(put - inside, axis=1).mean())


def kept(study: Study, name: str, marker: str = "DAPI") -> tuple[dict, np.ndarray, list[dict]]:
    """A patch, the pixels of a channel of it, and its registrations, oldest first."""
    with study.science.read() as db:
        patch = next(row for row in images.list_patches(db) if row["name"] == name)
        channel = next(row for row in images.list_channels(db, patch["id"]) if row["marker"] == marker)
        versions = images.list_registrations(db, patch["id"])[::-1]
    return patch, read_channel(study.image_path(channel["image_sha256"])), versions


def test_a_bent_fluorescence_is_brought_right_patch_by_patch(
    registered: Registered, drawn: tuple[np.ndarray, np.ndarray]
) -> None:
    right = [row for row in registered.done["registrations"] if row["accepted"]]
    assert len(right) == 5
    before = []
    for row in right:
        x, y = corner_of(row["patch"])
        before.append(off_px(row["patch"], compose(shift_matrix(-x, -y), registered.by_slide)))
        assert off_px(row["patch"], np.array(row["matrix"])) < 1.5 < before[-1]
        _, seen, versions = kept(registered.study, row["patch"])
        # What is stored lies where the nuclei are: cut through the transform, which is not applied again.
        expected = drawn[1][1][y : y + 256, x : x + 256].astype(np.float32)
        shift_px, _ = cv2.phaseCorrelate(
            seen.astype(np.float32), expected, cv2.createHanningWindow((256, 256), 5)
        )
        assert np.hypot(*shift_px) < 1.5
        (version,) = versions
        assert np.array_equal(version["matrix"], identity_matrix())
        assert (version["method"], version["accepted"]) == ("grid and ECC on DAPI from its slide", 1)
        assert (version["quality"], version["residual_px"]) == (round(row["quality"], 4), row["residual_px"])
        assert version["quality"] > 0.5 and version["reason"] is None
    assert np.median(before) > 3.0
    states = {one.patch: one.state for one in standings(registered.study)}
    assert {states[row["patch"]] for row in right} == {"accepted"}
    assert verify(registered.study)["problems"] == []


def test_a_torn_and_an_empty_patch_wait_as_the_slide_puts_them(
    registered: Registered, bent: SlideSource
) -> None:
    waiting = {row["patch"] for row in registered.done["registrations"] if not row["accepted"]}
    assert waiting == {TORN, EMPTY}
    for name in (TORN, EMPTY):
        patch, seen, (assumed, flagged) = kept(registered.study, name)
        x, y = corner_of(name)
        with open_slide(bent.if_path) as slide:
            by_slide = compose(shift_matrix(-x, -y), registered.by_slide)
            assert np.array_equal(seen, cut(slide, by_slide, 256, 1))
        assert (assumed["method"], assumed["accepted"], flagged["accepted"]) == (ASSUMED, 1, 0)
        assert flagged["method"].endswith(" from its slide") and flagged["reason"].endswith(".")
        assert np.array_equal(flagged["matrix"], identity_matrix())
    assert [one.state for one in standings(registered.study)[:3]] == ["flagged", "flagged", "accepted"]
    count = registered.done["patches"]
    assert what_came(registered.done).endswith(
        f" The IF was fitted to the stain patch by patch: it fits on {count - 2} of {count}, and 2 wait "
        "until you settle them on the Registration page."
    )
    assert f"registering and cutting {TORN}, " in "\n".join(registered.told)
    assert any(message.endswith(f", {count} of {count}") for message in registered.told)


def test_a_patch_that_waits_opens_once_it_is_settled(tmp_path: Path, registered: Registered) -> None:
    study = open_study(shutil.copytree(registered.study.folder, tmp_path / "study"))
    torn, _, versions = kept(study, TORN)
    with study.science.write() as db:
        for person_id, group in (("lead", "expert"), ("student", "student")):
            study_store.add_person(db, person_id, group)
        right = next(one.patch_id for one in standings(study) if one.state == "accepted")
        held, open_ = (
            queue.add_assignment(db, "student", patch_id, [1], guidance="if")
            for patch_id in (torn["id"], right)
        )

    def closed_by(assignment_id: int) -> str | None:
        with study.science.read() as db:
            return why_closed(db, queue.get_assignment(db, assignment_id))

    assert closed_by(open_) is None
    assert "has checked that its two pictures fit" in closed_by(held)
    accept_position(study, torn["id"], shift_matrix(2, 0), "lead", versions[-1]["version"])
    assert closed_by(held) is None


def test_a_cancelled_registration_of_patches_leaves_nothing(tmp_path: Path, bent: SlideSource) -> None:
    told = []
    with pytest.raises(ImportCancelledError):
        import_slide(
            tmp_path / "study",
            bent,
            REGISTERED,
            report=lambda done, total, message, detail: told.append(message),
            should_stop=lambda: "registering and cutting" in "".join(told),
        )
    assert "1 of " in told[-1] and list(tmp_path.iterdir()) == []


def test_the_command_registers_patches(
    tmp_path: Path, bent: SlideSource, capsys: pytest.CaptureFixture[str]
) -> None:
    study = tmp_path / "study"
    fluorescence = ["--if", str(bent.if_path), "--channels", "WT1=0", "DAPI=1", "--register"]
    places = ["--glomeruli", str(bent.glomeruli), "--place", "centred", "--patch-px", "256"]
    assert main(["import-slide", str(bent.path), "--study", str(study), *fluorescence, *places]) == 0
    said = capsys.readouterr()
    first, _ = json.loads(said.out)["registrations"]
    assert first["method"] == "grid and ECC on DAPI from its slide" and first["accepted"]
    assert "The IF was fitted to the stain patch by patch" in said.err


@pytest.mark.parametrize(
    ("accepted", "words"),
    [
        ([], "came in."),
        ([True, True], "came in. The IF was fitted to the stain patch by patch: it fits on 2 of 2."),
        ([True, False], "it fits on 1 of 2, and 1 waits until you settle it on the Registration page."),
    ],
)
def test_the_summary_says_how_many_wait_and_what_to_do(accepted: list[bool], words: str) -> None:
    counts = {"slides": 1, "patches": 2, "channels": 4, "already_there": 0, "problems": []}
    assert what_came(counts | {"registrations": [{"accepted": one} for one in accepted]}).endswith(words)


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
    found = json.loads(capsys.readouterr().out)
    assert (found["patches"], found["registrations"]) == (2, [])
    assert main(["import-slide", str(slides / "s9.ome.tif"), "--channels", "WT1", "--json"]) == 2
    assert re.search(r"--channels 'WT1' is not MARKER=CHANNEL", capsys.readouterr().err)
