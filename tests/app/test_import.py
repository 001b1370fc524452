"""The import page: what a file would bring is seen first, and then comes as a job."""

import json
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from allinsam import jobs
from allinsam.__main__ import main
from allinsam.errors import InputError
from allinsam.store import Study, images
from allinsam.store import jobs as job_rows
from allinsam.workflow.importing import begin_study, import_study
from allinsam.workflow.interchange import NOBODYS_GOLD
from allinsam.workflow.uploads import new_upload
from tests.app.conftest import OpenPage
from tests.bad_inputs import encoded, noise, pair, write_all, zip_bytes
from tests.people import signed_in_token
from tests.slides import circle, draw_slide, feature, write_slide
from tests.studies import small_study
from webapp import session
from webapp.import_annotation_parts import probable_patch
from webapp.import_parts import in_inbox


@pytest.fixture
def study(tmp_path: Path) -> Study:
    """An empty study for real images."""
    return begin_study(tmp_path / "study", "Own images")


def send(page: AppTest, study: Study, name: str, content: bytes, box: str = "zip_0") -> AppTest:
    """As if the browser had sent this file."""
    key, path = new_upload(study, name)
    path.write_bytes(content)
    page.session_state[box] = {"upload": {"key": key, "name": name}}
    return page.run()


def metrics(page: AppTest) -> dict[str, str]:
    return {one.label: one.value for one in page.metric}


def queued(study: Study) -> list[dict]:
    with study.server.read() as db:
        return sorted(job_rows.list_jobs(db), key=lambda row: row["id"])


def run_job(study: Study, number: int = 0) -> int:
    """The job's own command, in this process."""
    job = queued(study)[number]
    with study.server.write() as db:
        job_rows.claim_next_job(db)
    return main(jobs.command_of(study, job)[3:])


def patches_of(study: Study) -> list[dict]:
    with study.science.read() as db:
        return images.list_patches(db)


def test_a_zip_is_seen_and_then_comes(open_page: OpenPage, study: Study) -> None:
    page = send(open_page("import"), study, "lab.zip", zip_bytes(pair() | pair("s2_b", 5)))
    assert not page.exception
    assert metrics(page) == {
        "Patches": "2",
        "Slides": "2",
        "Markers": "WT1 (2)",
        "New classes": "podocyte (WT1)",
        "Pixel size, um": "not said (2)",
    }
    assert patches_of(study) == [] and queued(study) == []
    page.number_input(key="missing_um").set_value(0.25).run()
    page.selectbox(key="missing_condition").set_value("injured").run()
    page.button(key="import").click().run()
    assert [row["verb"] for row in queued(study)] == ["import", "embed"]
    assert any("An import is running" in one.value for one in page.caption)
    assert run_job(study) == 0
    assert [(p["name"], p["um_per_px"], p["condition"]) for p in patches_of(study)] == [
        ("s1_a", 0.25, "injured"),
        ("s2_b", 0.25, "injured"),
    ]
    assert not list((study.folder / "uploads").iterdir())
    page.run()
    assert any("2 patches of 2 slides with 2 IF channels came" in one.value for one in page.caption)
    assert any(button.label == "1. Check the registration" for button in page.button)


def test_every_problem_is_told_and_the_rest_can_come(open_page: OpenPage, study: Study) -> None:
    files = pair() | {"s2_b_pas.png": encoded(noise(3)), "s3_c_pas.png": b"x", "s3_c_WT1.png": b"x"}
    page = send(open_page("import"), study, "lab.zip", zip_bytes(files))
    assert page.warning[0].value.startswith("**2 problems.**")
    assert page.code[0].value.splitlines() == [
        "s2_b_pas.png: missing pair: s2_b_pas.png has no marker channel. Add one.",
        "s3_c_pas.png is not PNG, JPEG or TIFF. Export it as one of these.",
    ]
    page.button(key="import").click().run()
    assert run_job(study) == 0
    assert [patch["name"] for patch in patches_of(study)] == ["s1_a"]


@pytest.mark.parametrize(
    ("content", "words"),
    [(b"no zip", "is no whole ZIP"), (zip_bytes({"../a_pas.png": b"x"}), "leads out of the archive")],
)
def test_a_file_that_cannot_be_used_is_told_and_let_go(
    open_page: OpenPage, study: Study, content: bytes, words: str
) -> None:
    page = send(open_page("import"), study, "lab.zip", content)
    assert words in page.error[0].value.replace("\\", "")
    next(one for one in page.button if one.label == "Choose another").click().run()
    assert not page.error and not list((study.folder / "uploads").iterdir())


def test_nothing_but_problems_cannot_be_imported(open_page: OpenPage, study: Study) -> None:
    page = send(open_page("import"), study, "lab.zip", zip_bytes({"s1_pas.png": encoded(noise(1))}))
    assert page.button(key="import").disabled and metrics(page)["Patches"] == "0"


def test_what_is_there_already_is_said(open_page: OpenPage, study: Study, tmp_path: Path) -> None:
    import_study(study.folder, write_all(tmp_path / "first", pair()))
    page = send(open_page("import"), study, "lab.zip", zip_bytes(pair() | pair("s2_b", 5)))
    assert any(one.value == "In the study already: 1 patch of it." for one in page.caption)
    assert metrics(page)["Patches"] == "1"


def test_a_cancelled_import_leaves_nothing(open_page: OpenPage, study: Study) -> None:
    page = send(open_page("import"), study, "lab.zip", zip_bytes(pair()))
    page.button(key="import").click().run()
    job_id = queued(study)[0]["id"]
    with study.server.write() as db:
        job_rows.claim_next_job(db)
    jobs.cancel(study, job_id)
    assert main(jobs.command_of(study, queued(study)[0])[3:]) == 2
    assert jobs.get_view(study, job_id).state == "cancelled"
    assert patches_of(study) == [] and not list((study.folder / "uploads").iterdir())
    assert not [path for path in (study.folder / "images").rglob("*") if path.is_file()]
    page.run()
    again = "Nothing was imported. Choose the files again to try once more."
    assert any(one.value == again for one in page.caption)
    assert not any(button.label == "Resume" for button in page.button)


@pytest.fixture
def inbox(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "inbox"
    write_all(folder / "batch", pair())
    write_all(folder, {"more.zip": zip_bytes(pair("s2_b", 5)), "notes.docx": b"x"})
    (folder / "way out").symlink_to(tmp_path)
    monkeypatch.setenv(session.INBOX_VARIABLE, str(folder))
    return folder


def test_a_folder_of_the_inbox(open_page: OpenPage, study: Study, inbox: Path) -> None:
    page = open_page("import")
    assert page.selectbox(key="inbox_0").options == ["batch (folder)", "more.zip (ZIP)"]
    page.selectbox(key="inbox_0").set_value("batch").run()
    assert metrics(page)["Patches"] == "1"
    page.button(key="import").click().run()
    assert run_job(study) == 0
    assert [patch["name"] for patch in patches_of(study)] == ["s1_a"]
    assert (inbox / "batch" / "s1_a_pas.png").exists()


def test_pages_name_a_file_and_the_command_line_its_path(
    open_page: OpenPage, study: Study, inbox: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = inbox / "empty.zip"
    path.write_bytes(zip_bytes({"notes.txt": b"x"}))
    page = open_page("import")
    page.selectbox(key="inbox_0").set_value("empty.zip").run()
    assert page.error[0].value.startswith("empty\\.zip holds no PNG")
    jobs.submit(study, "import", {"from_job": str(path), "on_problem": "skip"}, None)
    assert run_job(study) == 2
    assert f"{path} holds no PNG" in capsys.readouterr().err
    page.run()
    assert any("empty.zip holds no PNG" in one.value for one in page.error)
    assert not any(str(inbox) in one.value for one in (*page.error, *page.code, *page.caption))


@pytest.mark.parametrize(
    "name", ["../study", "..", "way out", "batch/s1_a_pas.png", "gone", "/etc/passwd", "", "circle", "a\0b"]
)
def test_nothing_but_the_inbox_can_be_chosen(inbox: Path, name: str) -> None:
    (inbox / "circle").symlink_to("circle")
    with pytest.raises(InputError, match="is not in the inbox"):
        in_inbox(name)


def test_a_slide_of_the_inbox(open_page: OpenPage, study: Study, inbox: Path) -> None:
    stain, fluorescence = draw_slide()
    write_slide(inbox / "s9.ome.tif", stain)
    write_slide(inbox / "s9_if.ome.tif", fluorescence)
    page = open_page("import")
    page.selectbox(key="inbox_0").set_value("s9.ome.tif").run()
    page.selectbox(key="if_slide").set_value("s9_if.ome.tif")
    page.text_input(key="if_channels").set_value("WT1=0, DAPI=1")
    page.number_input(key="tissue").set_value(0.4)
    next(one for one in page.button if one.label == "Preview").click().run()
    assert not page.exception and not page.error
    count = int(metrics(page)["Patches"])
    assert count >= 2 and metrics(page)["Markers"] == f"WT1 ({count})"
    page.button(key="import").click().run()
    assert queued(study)[0]["verb"] == "import-slide"
    assert run_job(study) == 0
    assert len(patches_of(study)) == count
    assert (inbox / "s9.ome.tif").exists()


def test_without_an_inbox_the_page_says_how_to_have_one(open_page: OpenPage, study: Study) -> None:
    page = open_page("import")
    assert any("--inbox FOLDER" in one.value for one in page.caption)


def test_a_simulated_study_takes_no_real_images(
    open_page: OpenPage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = small_study(tmp_path / "demo")
    monkeypatch.setenv(session.STUDY_VARIABLE, str(made.folder))
    page = open_page("import", token=signed_in_token(made, "lead"))
    assert "--new" in page.info[0].value


def outlines(class_name: str) -> bytes:
    one = feature(circle(10, 10, 5))
    one["properties"]["classification"] = {"name": class_name}
    return json.dumps({"type": "FeatureCollection", "features": [one]}).encode()


def test_outlines_come_in_as_gold(open_page: OpenPage, study: Study, tmp_path: Path) -> None:
    import_study(study.folder, write_all(tmp_path / "first", pair()))
    page = send(open_page("import"), study, "s1_a.geojson", outlines("Podo"), "outlines_0")
    assert not page.exception
    assert page.button(key="bring_in").disabled  # until it is said what Podo is
    page.selectbox(key="class_0_Podo").set_value("podocyte").run()
    page.button(key="bring_in").click().run()
    assert "1 podocyte came in as gold" in page.success[0].value.replace("\\", "")
    with study.science.read() as db:
        people = [row["person_id"] for row in db["assignment"].rows]
        assert people == [NOBODYS_GOLD] and db["annotation"].count == 1
    assert not list((study.folder / "uploads").iterdir())


@pytest.mark.parametrize(
    ("file", "patch"), [("s1_a.png", "s1_a"), ("s1_a_inst.png", "s1_a"), ("other.png", None)]
)
def test_the_patch_is_guessed_from_the_files_name(tmp_path: Path, file: str, patch: str | None) -> None:
    path = tmp_path / file
    path.write_bytes(encoded(noise(1)))
    assert probable_patch(small_study(tmp_path / "small"), path, ["s1", "s1_a"]) == patch


def test_outlines_that_cannot_be_used(open_page: OpenPage, study: Study, tmp_path: Path) -> None:
    import_study(study.folder, write_all(tmp_path / "first", pair()))
    page = send(open_page("import"), study, "a.geojson", b"{", "outlines_0")
    # The file is called as no patch: which it is for must be said.
    assert not page.error and not any(one.label == "Bring in" for one in page.button)
    next(one for one in page.selectbox if one.label == "Patch").set_value("s1_a").run()
    said = page.error[0].value.replace("\\", "")
    assert "a.geojson cannot be read as JSON" in said and "uploads" not in said
    with study.science.read() as db:
        assert db["assignment"].count == 0


def test_without_images_there_is_nothing_to_outline(open_page: OpenPage, study: Study) -> None:
    assert any("Import images first" in one.value for one in open_page("import").info)
