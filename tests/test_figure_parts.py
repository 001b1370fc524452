"""Every figure of the app can be saved, under a name that says what it is and of which study."""

import re
from pathlib import Path

import plotly.graph_objects as go
import pytest

from allinsam.store import Study
from webapp import charts, figure_parts

ROOT = Path(__file__).resolve().parents[1]
SOURCES = sorted(path for folder in ("webapp", "pages") for path in (ROOT / folder).rglob("*.py"))


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_no_figure_is_shown_without_its_camera(path: Path) -> None:
    shown = re.findall(r"\.plotly_chart\(", path.read_text("utf-8"))
    assert len(shown) == (path.name == "figure_parts.py")


@pytest.mark.parametrize(("chosen", "scale"), [("png", figure_parts.PRINT_SCALE), ("svg", 1)])
def test_a_picture_has_the_format_chosen_and_a_plain_name(
    empty_study: Study, monkeypatch: pytest.MonkeyPatch, chosen: str, scale: int
) -> None:
    monkeypatch.setattr(figure_parts.st, "session_state", {figure_parts.FORMAT_KEY: chosen})
    config = figure_parts.config_of(empty_study, "forest")
    assert config["modeBarButtons"] == [["toImage"]] and config["displayModeBar"] == "hover"
    picture = config["toImageButtonOptions"]
    assert (picture["format"], picture["scale"]) == (chosen, scale)
    assert re.fullmatch(r"empty-study_forest_\d{4}-\d\d-\d\d", picture["filename"])


def test_png_is_what_comes_before_anybody_chose(empty_study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(figure_parts.st, "session_state", {})
    assert figure_parts.config_of(empty_study, "heat")["toImageButtonOptions"]["format"] == "png"


def test_a_figure_without_a_title_is_marked_and_keeps_its_room() -> None:
    plain = charts.base(go.Figure(), 200)
    top = plain.layout.margin.t
    charts.with_note(plain, "Simulated tissue")
    assert plain.layout.title.text == "Simulated tissue"
    assert plain.layout.height - 200 == plain.layout.margin.t - top > 0
    titled = charts.base(go.Figure(), 200, "F1 (simulated tissue)")
    assert charts.with_note(titled, "Simulated tissue").layout.title.text == "F1 (simulated tissue)"
    assert titled.layout.height == 200
