"""A patch with suggestions in a real browser: each is kept, mended or dropped before it is handed in."""

import pytest
from playwright.sync_api import Page, expect

from allinsam.store import Study, suggestions
from allinsam.workflow.annotating import assignment_state
from allinsam.workflow.checking import verify
from allinsam.workflow.exports import export_table
from tests.e2e.conftest import Serve
from tests.e2e.test_dual_pane import PATIENT, Annotating
from tests.live import LiveServer, wait_until
from tests.people import signed_in_token
from tests.studies import PERSON, small_study
from webapp.session import COOKIE


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory, serve: Serve) -> LiveServer:
    folder = tmp_path_factory.mktemp("suggested") / "study"
    return serve(small_study(folder, slides=1, guidance="suggestion"))


def proposed(study: Study) -> list[dict]:
    with study.science.read() as db:
        return suggestions.list_suggestions(db)


def test_all_but_one_are_kept_one_is_dropped_and_the_patch_is_handed_in(live: LiveServer, page: Page) -> None:
    token = signed_in_token(live.study, "annotator", PERSON)
    page.context.add_cookies([{"name": COOKIE, "value": token, "url": live.url}])
    at = Annotating(page, live.study, live.url, 1)
    at.open()
    made = proposed(live.study)
    assert len(made) >= 5 and sum(row["planted"] is not None for row in made) >= 1
    at.sees(f"{len(made)} to check", ".counts")
    expect(page.locator(".chip")).to_have_count(len(made), timeout=PATIENT)
    # No outline is marked as doubtful, so that the eye is not led to the wrong ones.
    expect(page.locator(".doubt")).to_have_count(0)
    expect(page.locator(".badge")).to_have_count(0)
    at.press("n")  # nothing can be handed in before each is settled
    at.sees("Not handed in yet")
    at.press("Escape")
    page.locator(".chip").first.click()
    expect(page.locator(".chip.pressed")).to_have_count(1, timeout=PATIENT)
    at.press("x")
    at.wait_for("reject")
    page.keyboard.press("Shift+A")
    at.wait_for("accept", len(made) - 1)
    page.keyboard.press("Control+z")
    at.wait_for("undo", len(made) - 1)
    page.keyboard.press("Control+y")
    at.wait_for("redo", len(made) - 1)
    at.press("n")
    wait_until(lambda: at.state.submitted, "the patch handed in")
    table = export_table(live.study, "suggestions")
    assert sorted(table["fate"].value_counts().items()) == [("dropped", 1), ("kept", len(made) - 1)]
    assert set(table["kept_together"]) == {1, len(made) - 1}
    assert verify(live.study)["problems"] == [] and assignment_state(live.study, 1).submitted
