"""Who gets which page, and what a visitor without a sign-in sees of them: nothing."""

from dataclasses import replace

import pytest
from streamlit.testing.v1 import AppTest

from allinsam import jobs
from allinsam.store import Study
from tests.app.conftest import ROOT, OpenPage
from tests.people import CHEAP, signed_in_token
from webapp import session
from webapp.navigation import PAGES, page_names

EXPECTED = {
    "annotator": {"home", "annotate", "tour"},
    "reviewer": {
        "home",
        "minutes",
        "annotate",
        "tour",
        "registration",
        "thresholds",
        "compare",
        "agreement",
        "review",
    },
    "lead": {
        "home",
        "minutes",
        "import",
        "annotate",
        "tour",
        "registration",
        "thresholds",
        "train",
        "compare",
        "agreement",
        "review",
        "export",
        "people",
        "audit",
        "status",
    },
}


@pytest.mark.parametrize("role", EXPECTED)
def test_a_role_sees_its_pages(role: str) -> None:
    assert set(page_names(role)) == EXPECTED[role]


def test_every_page_is_listed_and_there() -> None:
    assert {path.stem for path in (ROOT / "pages").glob("*.py")} == {name for name, _, _ in PAGES}


@pytest.mark.parametrize("kind", ["none", "made up", "expired"])
def test_without_a_sign_in_there_is_no_page(open_page: OpenPage, study: Study, kind: str) -> None:
    late = signed_in_token(study, "lead", name="late", settings=replace(CHEAP, sign_in_days=-1))
    app = open_page("home", token={"none": None, "made up": "x" * 43, "expired": late}[kind])
    assert [error.value for error in app.error] == ["You are not signed in, or your sign-in has ended."]
    assert not app.title
    assert not app.button


def test_without_a_study_there_is_no_page(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(session.STUDY_VARIABLE, raising=False)
    app = AppTest.from_file(str(ROOT / "webapp" / "app.py")).run()
    assert "python -m webapp --study" in app.error[0].value


def bar(app: AppTest) -> str:
    return "".join(str(part.proto.body) for part in app.get("html"))


def test_the_bar_says_who_and_that_data_are_simulated(open_page: OpenPage, study: Study) -> None:
    text = bar(open_page("home", role="annotator"))
    assert "some annotator (annotator)" in text
    assert "Simulated data" in text
    assert 'action="/sign-out"' in text
    assert "being drawn" not in text
    jobs.beat_as(study, "demo", 1)
    assert "More slides are being drawn" in bar(open_page("home", role="lead"))


@pytest.mark.parametrize(("name", "roles"), [(name, roles) for name, _, roles in PAGES])
@pytest.mark.parametrize("role", EXPECTED)
def test_pages_open_for_their_roles_only(
    open_page: OpenPage, study: Study, name: str, roles: tuple[str, ...], role: str
) -> None:
    """Also by their own file, as if the navigation had let somebody through."""
    if role in roles:
        app = open_page(name, role)
        assert not app.exception, app.exception
        return
    open_page("home", role)
    app = AppTest.from_file(str(ROOT / "pages" / f"{name}.py"), default_timeout=60).run()
    assert f"you are signed in as {role}" in app.error[0].value
