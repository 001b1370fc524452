"""A newcomer's first minutes in a real browser; a consent text that changes; a reminder."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import Locator, Page, expect

from allinsam import accounts
from allinsam.store import Study, assignments, learning
from allinsam.store import acts as act_store
from allinsam.store import study as study_rows
from allinsam.workflow import refreshing
from allinsam.workflow.consenting import answer_consent, set_consent_text
from allinsam.workflow.newcomers import NewcomerTraining, set_newcomer_training, start_training
from allinsam.workflow.refreshing import RefreshRule, refresh_for, set_refresh_rule
from allinsam.workflow.touring import tour_standing
from tests.e2e.conftest import Serve
from tests.e2e.panes import on_screen
from tests.finished import finish
from tests.live import wait_until
from tests.people import PASSWORD, signed_in_token
from tests.practising import add_gold
from tests.studies import LEAD, MESANGIAL, PERSON, PODOCYTES, SIZE_PX, box_of, small_study
from webapp.session import COOKIE

PATIENT = 120_000  # ms, for a busy machine
MOST_CLICKS = 5


@pytest.fixture
def click() -> Callable[[Locator], int]:
    """Click, and say how many clicks that makes."""
    clicks: list[str] = []

    def click_(on: Locator) -> int:
        on.click(timeout=PATIENT)
        clicks.append(str(on))
        return len(clicks)

    return click_


def test_from_the_link_to_the_first_practice_patch(
    tmp_path: Path, serve: Serve, page: Page, click: Callable[[Locator], int]
) -> None:
    study = small_study(tmp_path / "study", slides=1, patches_per_slide=4)
    for patch_id in (2, 3, 4):
        add_gold(study, patch_id)
    set_consent_text(study, LEAD, "## Taking part\nWe keep what you draw under a pseudonym.")
    set_newcomer_training(study, LEAD, NewcomerTraining(2, 1))
    link = accounts.invite(study, "Ben", "annotator", "student")
    with study.server.read() as db:
        (ben,) = [row["person_id"] for row in db["account"].rows if row["name"] == "Ben"]
    start_training(study, ben)
    live = serve(study)
    page.goto(f"{live.url}/set-password?token={link}")
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_label("The same again").fill(PASSWORD)
    click(page.get_by_role("button", name="Set password"))
    expect(page.get_by_text("We keep what you draw")).to_be_visible(timeout=PATIENT)
    click(page.get_by_role("button", name="I agree"))
    expect(page.get_by_text("Two pictures of one place")).to_be_visible(timeout=PATIENT)
    # A button listens for its key only once it is drawn.
    expect(page.get_by_role("button", name="Skip the tour")).to_be_visible(timeout=PATIENT)
    expect(page.get_by_role("button", name="Next")).to_be_enabled(timeout=PATIENT)
    page.keyboard.press("ArrowRight")  # a look at the next step, by keyboard
    expect(page.get_by_role("img", name="Step 2 of 8")).to_be_visible(timeout=PATIENT)
    needed = click(page.get_by_role("button", name="Skip the tour"))
    expect(page.locator(".surface .practice", has_text="Practice")).to_be_visible(timeout=PATIENT)
    assert needed <= MOST_CLICKS, f"{needed} clicks from the link to the first practice patch"
    with study.science.read() as db:
        (answer,) = learning.list_consents(db, ben)
        purposes = [row["purpose"] for row in assignments.list_assignments(db, ben)]
        tour = tour_standing(db, ben)
    assert answer["agreed"] == 1 and purposes == ["practice", "practice", "qualification"]
    assert (tour.state, tour.step) == ("skipped", "types")
    # Neither comes a second time.
    page.goto(f"{live.url}/annotate")
    expect(page.locator(".surface .practice", has_text="Practice")).to_be_visible(timeout=PATIENT)


def sign_in(page: Page, study: Study, url: str) -> None:
    token = signed_in_token(study, "annotator", PERSON)
    page.context.add_cookies([{"name": COOKIE, "value": token, "url": url}])


def draw(page: Page, centre: tuple[int, int]) -> None:
    x0, y0, x1, y1 = box_of(centre)
    page.mouse.move(*on_screen(page, SIZE_PX, (x0, y0)))
    page.mouse.down()
    page.mouse.move(*on_screen(page, SIZE_PX, (x1, y1)), steps=5)
    page.mouse.up()


def kinds(study: Study, assignment_id: int) -> list[str]:
    with study.science.read() as db:
        return [act.kind for act in act_store.list_acts(db, assignment_id)]


def boxes(study: Study, assignment_id: int) -> int:
    return kinds(study, assignment_id).count("box")


def test_a_text_that_changes_while_somebody_draws_loses_nothing(
    tmp_path: Path, serve: Serve, page: Page
) -> None:
    study = small_study(tmp_path / "study", slides=1)
    set_consent_text(study, LEAD, "The first text.")
    answer_consent(study, PERSON, 1, True)
    live = serve(study)
    sign_in(page, study, live.url)
    page.goto(f"{live.url}/annotate")
    expect(page.locator(".surface .status")).to_be_visible(timeout=PATIENT)
    page.wait_for_timeout(300)
    draw(page, PODOCYTES[0])
    # All of the first box: whatever is sent after the change brings the text, in the midst of the second.
    wait_until(lambda: "mask_shown" in kinds(study, 1), "the first box and its mask")
    set_consent_text(study, LEAD, "The second text.")
    draw(page, PODOCYTES[1])
    # The page shows the text; the box waits in this browser.
    expect(page.get_by_text("The second text.")).to_be_visible(timeout=PATIENT)
    assert boxes(study, 1) == 1
    page.get_by_role("button", name="I agree").click()
    wait_until(lambda: boxes(study, 1) == 2, "the box that waited")
    expect(page.locator(".counts", has_text="2 to check")).to_be_visible(timeout=PATIENT)


def test_a_reminder_is_read_before_the_next_patch_and_its_time_is_kept_apart(
    tmp_path: Path, serve: Serve, page: Page, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(refreshing, "_delay", lambda key, assignment_id: 1)
    study = small_study(tmp_path / "study", slides=1, patches_per_slide=3)
    with study.science.write() as db:
        for row in assignments.list_assignments(db, PERSON):
            db["assignment_class"].delete_where("assignment_id = ?", [row["id"]])
            db["assignment"].delete(row["id"])
        study_rows.change_study(db, None, simulated=0)  # so that the study's own gold is shown
    for patch_id in (1, 3):
        add_gold(study, patch_id)
    set_refresh_rule(study, LEAD, RefreshRule(last=1))
    finish(study, PERSON, "student", 1, {1: PODOCYTES[:1], 2: ()}, "gold")
    with study.science.write() as db:
        following = assignments.add_assignment(db, PERSON, 2, (1, 2), "repeat")
    assert refresh_for(study, following) is None  # it is due after the next patch
    finish(study, PERSON, "student", 2, {1: PODOCYTES, 2: MESANGIAL})
    live = serve(study)
    sign_in(page, study, live.url)
    page.goto(f"{live.url}/annotate")
    card = page.locator(".sheet", has_text="A short reminder")
    expect(card).to_contain_text("Missed nuclei: 6.", timeout=PATIENT)
    pictures = card.locator(".cards img")
    expect(pictures).to_have_count(2, timeout=PATIENT)
    for picture in pictures.all():
        expect(picture).to_have_js_property("naturalWidth", 404, timeout=PATIENT)
    page.keyboard.press("v")  # no key works behind it
    page.wait_for_timeout(1200)
    assert kinds(study, following) == []
    card.get_by_role("button", name=re.compile("Go on")).click()
    expect(card).to_be_hidden(timeout=PATIENT)
    wait_until(lambda: kinds(study, following) == ["load"], "the patch to begin")
    with study.science.read() as db:
        rows = {row["kind"]: row["payload"] for row in learning.list_lessons(db, PERSON)}
    assert rows["refresh_dismissed"]["seconds"] > 1
