"""Opening a page as somebody, without a browser.

    page = open_page("train", role="lead")
    assert not page.exception

Only the cookie is made up: the sign-in behind it, its role and its study are real.
"""

from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest
from streamlit.components.v2 import manifest_scanner
from streamlit.testing.v1 import AppTest

from allinsam.store import Study
from tests.people import signed_in_token
from tests.studies import LEAD, PERSON, small_study
from webapp import session

ROOT = Path(__file__).resolve().parents[2]
PEOPLE = {"lead": LEAD, "annotator": PERSON, "reviewer": None}

OpenPage = Callable[..., AppTest]


@pytest.fixture(scope="session", autouse=True)
def packages_searched_once() -> Iterator[None]:
    """Each AppTest searches all installed packages for components, which a server does once."""
    search = manifest_scanner.scan_component_manifests
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(manifest_scanner, "scan_component_manifests", cache(search))
        yield


@pytest.fixture
def study(tmp_path: Path) -> Study:
    """Two slides, signed thresholds, and a student with both patches in the queue."""
    return small_study(tmp_path / "study")


@pytest.fixture
def open_page(study: Study, monkeypatch: pytest.MonkeyPatch) -> OpenPage:
    """`open_page(name, role)` runs the app's entry script, then pages/<name>.py, as a person of that role.

    `token` instead of `role` gives the cookie itself; None is a visitor without one.
    """
    monkeypatch.setenv(session.STUDY_VARIABLE, str(study.folder))

    def open_(
        name: str,
        role: str = "lead",
        token: str | None = "",
        timeout_s: float = 60,
        surface: str = "simple_canvas",
    ) -> AppTest:
        if token == "":
            token = signed_in_token(study, role, PEOPLE[role])
        monkeypatch.setattr(session, "_cookie_token", lambda: token)
        app = AppTest.from_file(str(ROOT / "webapp" / "app.py"), default_timeout=timeout_s).run()
        if name != "home" and token is not None:
            app.session_state["surface"] = surface  # the other one works in a browser only
            app.switch_page(str(ROOT / "pages" / f"{name}.py")).run()
        return app

    return open_
