"""The lead's way to a study of own images, in a real browser: a ZIP chosen, seen, imported."""

import json
from pathlib import Path

import numpy as np
import pytest
from playwright.sync_api import Page, expect

from allinsam import jobs
from allinsam.imaging import encode_png
from allinsam.store import Study, images
from allinsam.workflow.importing import begin_study
from tests.bad_inputs import zip_bytes
from tests.e2e.conftest import Serve
from tests.live import LiveServer, wait_until
from tests.people import PASSWORD, signed_in_token
from tests.studies import PODOCYTES, RADIUS_PX, draw_patch

PATIENT = 120_000


def patch_files(stem: str, seed: int) -> dict[str, bytes]:
    pas, channels = draw_patch(seed)
    planes = {name: encode_png(plane) for name, plane in channels.items()}
    return {f"{stem}_pas.png": encode_png(pas), **{f"{stem}_{name}.png": png for name, png in planes.items()}}


@pytest.fixture(scope="module")
def live(serve: Serve, tmp_path_factory: pytest.TempPathFactory) -> LiveServer:
    study = begin_study(tmp_path_factory.mktemp("import") / "study", "Own images")
    signed_in_token(study, "lead", "p-lead", "Ada")
    return serve(study)


def patches_of(study: Study) -> list[dict]:
    with study.science.read() as db:
        return images.list_patches(db)


def test_a_zip_is_chosen_seen_and_imported(live: LiveServer, page: Page, tmp_path: Path) -> None:
    packed = tmp_path / "from the lab.zip"
    good = patch_files("s1_g4", 1) | patch_files("s2_g1", 2)
    packed.write_bytes(
        zip_bytes({f"lab/{name}": png for name, png in good.items()} | {"lab/s3_pas.png": b"x"})
    )
    live.sign_in(page, "Ada", PASSWORD)
    page.goto(f"{live.url}/import")
    page.get_by_label("ZIP of images").set_input_files(packed)
    # What would come, and what would not, before anything does.
    expect(page.get_by_text("1 problem.")).to_be_visible(timeout=PATIENT)
    expect(page.get_by_text("s3_pas.png: missing pair")).to_be_visible()
    expect(page.get_by_text("podocyte (WT1)")).to_be_visible()
    assert patches_of(live.study) == []
    page.get_by_label("Pixel size of the 2 that do not say it, um per px").fill("0.25")
    page.get_by_label("Pixel size of the 2 that do not say it, um per px").press("Enter")
    page.get_by_role("button", name="Import 2 patches").click()
    expect(page.get_by_role("button", name="1. Check the registration")).to_be_visible(timeout=PATIENT)
    expect(page.get_by_text("2 patches of 2 slides with 4 IF channels came")).to_be_visible()
    found = patches_of(live.study)
    assert [(patch["name"], patch["um_per_px"]) for patch in found] == [("s1_g4", 0.25), ("s2_g1", 0.25)]
    # The file that was sent is gone, and Streamlit has none.
    assert list((live.study.folder / "uploads").iterdir()) == []
    page.get_by_role("button", name="1. Check the registration").click()
    expect(page.get_by_role("heading", name="Registration")).to_be_visible(timeout=PATIENT)


def test_outlines_of_another_program_are_brought_in_as_gold(
    live: LiveServer, page: Page, tmp_path: Path
) -> None:
    wait_until(lambda: patches_of(live.study), "the import before")
    wait_until(lambda: not any(view.is_active for view in jobs.list_views(live.study)), "its jobs")
    features = []
    for x, y in PODOCYTES:
        angles = np.linspace(0, 2 * np.pi, 20, endpoint=False)
        ring = np.stack([x + RADIUS_PX * np.cos(angles), y + RADIUS_PX * np.sin(angles)], -1).tolist()
        geometry = {"type": "Polygon", "coordinates": [[*ring, ring[0]]]}
        properties = {"objectType": "annotation", "classification": {"name": "Podo"}}
        features.append({"type": "Feature", "geometry": geometry, "properties": properties})
    path = tmp_path / "s1_g4.geojson"
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    live.sign_in(page, "Ada", PASSWORD)
    page.goto(f"{live.url}/import")
    page.get_by_role("tab", name="Annotations").click()
    page.get_by_label("File with annotations").set_input_files(path)
    expect(page.get_by_text("4 nuclei")).to_be_visible(timeout=PATIENT)
    # The file's class is not one of the study's: the page asks which it is.
    expect(page.get_by_role("button", name="Bring in")).to_be_disabled()
    page.get_by_label("Podo (4) is").click()
    page.get_by_role("option", name="podocyte").click()
    page.get_by_role("button", name="Bring in").click()
    expect(page.get_by_text("s1_g4: 4 podocyte came in as gold")).to_be_visible(timeout=PATIENT)


def test_a_file_too_large_is_refused_before_it_is_sent(live: LiveServer, page: Page, tmp_path: Path) -> None:
    path = tmp_path / "large.zip"
    with path.open("wb") as file:
        file.truncate(51_000_000)
    live.sign_in(page, "Ada", PASSWORD)
    page.goto(f"{live.url}/import")
    page.get_by_label("ZIP of images").set_input_files(path)
    expect(page.get_by_role("alert").filter(has_text="large.zip has 51.0 MB; at most 50")).to_be_visible(
        timeout=PATIENT
    )
