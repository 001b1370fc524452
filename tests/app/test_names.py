"""Names of patches, classes, studies and people are shown as they were typed, on every page."""

import re

import pytest
from streamlit.testing.v1 import AppTest

from allinsam.store import Study
from tests.app.conftest import OpenPage
from tests.raters import hand_in_all

PAGES = ("home", "annotate", "registration", "thresholds", "people", "review")
# As a picture, a link or bold, of a file that the lead was sent.
TYPED = "![n](http://elsewhere.example/n.png) **n** :red[n]"
READ = re.compile(r"(?<!\\)!\[n|(?<!\\)\*\*n|(?<!\\):red\[n", re.IGNORECASE)


@pytest.fixture(autouse=True)
def named(study: Study) -> None:
    hand_in_all(study, 1)
    with study.science.write() as db:
        db["study"].update(1, {"name": TYPED})
        for patch_id in (1, 2):
            db["patch"].update(patch_id, {"name": f"{patch_id} {TYPED}"})
        db["cell_class"].update(1, {"name": TYPED})


def markdown(page: AppTest) -> str:
    """What Streamlit reads as Markdown; HTML is escaped in a way of its own."""
    kinds = ("title", "subheader", "markdown", "caption", "info", "success", "warning", "error")
    written = [str(part.value) for kind in kinds for part in getattr(page, kind)]
    pressed = [part.label for kind in ("button", "toggle", "checkbox") for part in getattr(page, kind)]
    return "\n".join([*written, *pressed])


@pytest.mark.parametrize("name", PAGES)
def test_no_name_becomes_a_picture_a_link_or_bold(open_page: OpenPage, name: str) -> None:
    page = open_page(name, role="annotator" if name == "annotate" else "lead")
    assert not page.exception
    assert not READ.findall(markdown(page))
