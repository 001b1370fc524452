"""What people wrote is text in every piece of HTML and SVG that is made here; CSV cells run nothing."""

from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest

from allinsam.registration import identity_matrix
from allinsam.tables import to_csv
from allinsam.workflow.report_charts import _chart
from tests.people import CHEAP
from webapp import class_parts, registration_parts, threshold_parts
from webapp.sign_in import page, set_password_page, sign_in_page
from webapp.surfaces.scene import Window

HOSTILE = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "'><svg onload=alert(1)>",
    "&lt;b&gt;",
)
WINDOW = Window(0, 0, 64, 64)
CLASS = {"id": 1, "key": "1"}
PATCH = {"id": 1, "height_px": 64, "width_px": 64}


def chart(text: str) -> str:
    rows = pd.DataFrame(columns=["line", "minutes", "value"])
    return _chart(text, rows.assign(minutes=rows["minutes"].astype(float)), {})


# What makes HTML or SVG of words that people chose: a name, a class, a marker, a patch, an error's words.
MADE = {
    "sign in": lambda text: sign_in_page(text, text, text).body.decode(),
    "set password": lambda text: set_password_page(text, text, CHEAP, text).body.decode(),
    "a page's title": lambda text: page(text, "", text).body.decode(),
    "classes": lambda text: class_parts._swatches(
        {1: {**CLASS, "name": text, "marker": text, "colour": text, "key": text}}
    ),
    **{
        f"registration, {look}": lambda text, look=look: registration_parts.picture(
            1, text, text, identity_matrix(), WINDOW, look
        )
        for look in registration_parts.LOOKS
    },
    "threshold": lambda text: threshold_parts.picture({**PATCH, "name": text}, text, 90.0, 64, 0.5, 1.0),
    "chart": chart,
}


class Reader(HTMLParser):
    """Tags and handlers that a browser would find."""

    def __init__(self) -> None:
        super().__init__()
        self.strange: list[str] = []
        self.images: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        if tag in ("script", "iframe", "object", "b") or any(name.startswith("on") for name, _ in attributes):
            self.strange.append(f"{tag} {attributes}")
        self.images += [value or "" for name, value in attributes if name == "src"]


@pytest.mark.parametrize("text", HOSTILE)
@pytest.mark.parametrize("what", MADE)
def test_what_people_wrote_is_text(what: str, text: str) -> None:
    made, plain = MADE[what](text), MADE[what]("plain")
    found, expected = Reader(), Reader()
    found.feed(made)
    expected.feed(plain)
    # As many of everything as with a harmless name: nothing was begun or ended by it.
    assert len(found.strange) == len(expected.strange) and len(found.images) == len(expected.images)
    assert "x" not in found.images and text not in made.replace("&amp;lt;", "")


def test_the_reader_finds_what_it_is_for() -> None:
    found = Reader()
    found.feed("".join(HOSTILE))
    assert len(found.strange) == 3 and found.images == ["x"]


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r", "'="])
def test_a_cell_that_a_spreadsheet_would_run_is_defused_in_every_column(start: str) -> None:
    text = f"{start}cmd|' /C calc'!A0"
    table = pd.DataFrame({"name": [text], "mixed": np.array([text], object), "value": [-1.5]})
    table["kind"] = pd.Categorical([text])
    content = to_csv(table).decode().replace('"', "").replace("\r\n", "\n").split("\n", 1)[1]
    assert content.count(f"'{start}cmd") == 3 and "-1.5" in content and "'-1.5" not in content


def test_a_stranger_s_name_is_cut_and_escaped_where_it_is_refused() -> None:
    shown = sign_in_page("/", '"><script>' * 100, "Check both.").body.decode()
    assert "<script>" not in shown and shown.count("&lt;script&gt;") <= 20
