"""Signing in and out in a real browser, on a laptop's screen and on a phone's."""

from collections.abc import Iterator
from dataclasses import replace

import pytest
from playwright.sync_api import Page, expect

from allinsam import accounts
from tests.e2e.conftest import Serve
from tests.live import LiveServer
from tests.people import CHEAP, PASSWORD, signed_in_token
from tests.studies import LEAD, small_study


@pytest.fixture(scope="module")
def live(serve: Serve, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    study = small_study(tmp_path_factory.mktemp("signing") / "study")
    signed_in_token(study, "lead", LEAD, "Ada")
    yield serve(study)


def overflow_px(page: Page) -> int:
    return page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")


def test_a_stranger_is_led_to_sign_in_and_back(live: LiveServer, page: Page) -> None:
    page.goto(f"{live.url}/annotate")
    assert page.url == f"{live.url}/sign-in?next=%2Fannotate"
    page.get_by_label("Name").fill("ada")
    page.get_by_label("Password").fill("not the password")
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_role("alert")).to_contain_text("do not match")
    # The name is kept and the cursor waits in the password.
    expect(page.get_by_label("Name")).to_have_value("ada")
    expect(page.get_by_label("Password")).to_be_focused()
    page.keyboard.type(PASSWORD)
    page.keyboard.press("Enter")
    expect(page.get_by_text("Simulated data")).to_be_visible(timeout=60_000)
    assert page.url == f"{live.url}/annotate"
    assert page.evaluate("document.cookie").find("allinsam") == -1
    page.reload()
    expect(page.get_by_text("Ada (lead)")).to_be_visible(timeout=60_000)

    page.get_by_role("button", name="Sign out").click()
    page.wait_for_url(f"{live.url}/sign-in")
    page.goto(live.url)
    assert page.url.startswith(f"{live.url}/sign-in")


def test_a_one_time_link_sets_a_password(live: LiveServer, page: Page) -> None:
    settings = replace(CHEAP, invitation_days=1)
    token = accounts.invite(live.study, "Grace", "annotator", "student", settings=settings)
    page.goto(f"{live.url}/set-password?token={token}")
    expect(page.get_by_label("Name")).to_have_value("Grace")
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_label("The same again").fill(PASSWORD)
    page.get_by_role("button", name="Set password").click()
    expect(page.get_by_text("Grace (annotator)")).to_be_visible(timeout=60_000)
    page.goto(f"{live.url}/set-password?token={token}")
    expect(page.get_by_role("heading")).to_have_text("This link has ended")


@pytest.mark.parametrize("size", [(1366, 768), (390, 800), (320, 640)])
@pytest.mark.parametrize("path", ["/sign-in", "/set-password?token=x", "/set-password?token="])
def test_the_forms_fit_the_screen(live: LiveServer, page: Page, size: tuple[int, int], path: str) -> None:
    if path.endswith("="):
        path += accounts.invite(live.study, f"Fit {size[0]}", "annotator", "student")
    page.set_viewport_size({"width": size[0], "height": size[1]})
    page.goto(f"{live.url}{path}")
    assert overflow_px(page) == 0
    if size[0] == 1366:
        assert page.evaluate("document.documentElement.scrollHeight") <= 768
    expect(page.get_by_text("allinsam", exact=True)).to_be_in_viewport()
