"""Figures leave the app as pictures that open: PNG for a slide, SVG for print."""

import xml.etree.ElementTree as ElementTree
from pathlib import Path

import cv2
import numpy as np
from playwright.sync_api import Page, expect

from tests.e2e.conftest import Serve
from tests.finished import finished_study
from tests.people import PASSWORD, signed_in_token
from tests.studies import LEAD
from webapp.figure_parts import PRINT_SCALE

PATIENT = 120_000  # ms, for a busy machine
SVG = "{http://www.w3.org/2000/svg}"


def save(page: Page, folder: Path, number: int = 0) -> Path:
    """Point at a figure, press the only button of its bar, keep what comes."""
    figure = page.locator(".js-plotly-plot").nth(number)
    figure.hover(timeout=PATIENT)  # scrolls to it, also if the page has drawn it anew meanwhile
    expect(figure.locator(".modebar-btn")).to_have_count(1)
    with page.expect_download(timeout=PATIENT) as coming:
        figure.locator(".modebar-btn").click()
    path = folder / coming.value.suggested_filename
    coming.value.save_as(path)
    return path


def test_every_figure_leaves_as_png_and_as_svg(tmp_path: Path, serve: Serve, page: Page) -> None:
    study = finished_study(tmp_path / "study")
    signed_in_token(study, "lead", LEAD)
    live = serve(study)
    live.sign_in(page, "some lead", PASSWORD)
    page.goto(f"{live.url}/compare")
    figure = page.locator(".js-plotly-plot").first
    expect(figure).to_be_visible(timeout=PATIENT)
    width, height = (int(figure.bounding_box()[side]) for side in ("width", "height"))

    png = save(page, tmp_path)
    assert png.name.startswith("small-study_forest_20") and png.suffix == ".png"
    picture = cv2.imread(str(png))
    assert abs(picture.shape[1] - PRINT_SCALE * width) <= 2 * PRINT_SCALE
    assert abs(picture.shape[0] - PRINT_SCALE * height) <= 2 * PRINT_SCALE
    assert len(np.unique(picture.reshape(-1, 3), axis=0)) > 10  # drawn, not blank

    # The choice is made once: it holds for other figures and on other pages.
    page.get_by_role("radio", name="SVG").click()
    expect(figure.locator('.modebar-btn[data-title="Download plot"]')).to_have_count(1, timeout=PATIENT)
    for number, name in enumerate(("forest", "pairs")):
        svg = save(page, tmp_path, number)
        assert svg.name.startswith(f"small-study_{name}_20") and svg.suffix == ".svg"
        drawn = ElementTree.parse(svg).getroot()
        assert drawn.tag == f"{SVG}svg"
        written = "".join(text for element in drawn.iter(f"{SVG}text") for text in element.itertext())
        assert "students" in written and "simulated tissue" in written
    page.get_by_role("link", name="Agreement").click()
    expect(page.get_by_text("Same nucleus at IoU above")).to_be_visible(timeout=PATIENT)
    heat = save(page, tmp_path)
    assert heat.name.startswith("small-study_heat_20") and heat.suffix == ".svg"
    assert ElementTree.parse(heat).getroot().tag == f"{SVG}svg"
