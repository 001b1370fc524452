"""An expert's ten minutes in a real browser: twenty items, two keys each at most, all of them kept."""

from collections import Counter
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from allinsam.registration import identity_matrix
from allinsam.store import Study, images, reviews, runs, settled, thresholds
from allinsam.store import assignments as queue
from tests.e2e.conftest import Serve
from tests.live import wait_until
from tests.people import PASSWORD, signed_in_token
from tests.raters import hand_in_all
from tests.studies import LEAD, THRESHOLD, small_study

PATIENT = 60_000  # ms, for a busy machine
# What the expert presses for each kind: two keys at most.
KEYS = {
    "Threshold to sign": ("]", "Enter"),
    "Registration to settle": ("2", "a"),
    "Raters disagree": ("c",),
    "Review to finish": ("Enter",),
}
DISPUTES = (("c",), ("x",), ("t", "1"), ("c",))


@pytest.fixture
def study(tmp_path: Path) -> Study:
    """Two thresholds unsigned, two patches held, four nuclei in dispute on each of four others."""
    made = small_study(tmp_path / "study", slides=1, patches_per_slide=6, signed=False)
    for patch_id in (1, 2, 3, 4):
        hand_in_all(made, patch_id)
    with made.science.write() as db:
        for patch_id in (5, 6):
            images.add_registration(db, patch_id, identity_matrix(), "grid and ECC on WT1", False)
    signed_in_token(made, "reviewer", name="expert")
    return made


def decisions(study: Study) -> list[tuple[str, str]]:
    with study.science.read() as db:
        return [(row["kind"], row["decision"]) for row in settled.list_settled(db)]


def pictures_are_there(page: Page) -> bool:
    """Every picture on the screen has arrived and is not empty."""
    return page.locator(".m-pane img").evaluate_all(
        "all => all.length > 0 && all.every((one) => one.complete && one.naturalWidth > 0)"
    )


def test_an_expert_settles_twenty_items(study: Study, serve: Serve, page: Page) -> None:
    live = serve(study)
    live.sign_in(page, "expert", PASSWORD)
    page.get_by_role("button", name="Ten minutes: 20 wait").click()
    heading = page.locator(".m-kind")
    expect(heading).to_be_visible(timeout=PATIENT)
    pressed, disputes = Counter(), 0
    for done in range(20):
        # The keys work without a click on the page first, and the next item is there at once.
        expect(page.locator(".m-done")).to_have_text(f"{done} settled", timeout=PATIENT)
        kind = heading.inner_text()
        wait_until(lambda: pictures_are_there(page), "the pictures")
        keys = KEYS[kind]
        if kind == "Raters disagree":
            keys, disputes = DISPUTES[disputes % len(DISPUTES)], disputes + 1
        assert len(keys) <= 2
        for key in keys:
            page.keyboard.press(key)
        pressed[kind] += 1
    expect(page.locator(".m-saved")).to_have_text("saved", timeout=PATIENT)
    found = Counter(kind for kind, _ in decisions(study))
    assert sum(found.values()) == sum(pressed.values()) == 20
    assert found["threshold"] == 2 and found["registration"] and found["dispute"]

    # What was pressed is what the study holds now.
    with study.science.read() as db:
        assert [row["method"] for row in thresholds.list_thresholds(db)] == ["by eye", "by eye"]
        assert len(images.patches_on_hold(db)) == 2 - found["registration"]
        decided = sum(len(each) for each in reviews.decided(db).values())
        assert decided == found["dispute"]
        assert all(row["seconds"] > 0 for row in settled.list_settled(db))
    # Undo brings the last one back.
    last = decisions(study)[-1]
    page.keyboard.press("u")
    wait_until(lambda: decisions(study)[-1] == (last[0], "undo"), "the undo")
    expect(page.locator(".m-done")).to_have_text("19 settled", timeout=PATIENT)


def test_skipped_items_come_again_and_the_end_says_so(study: Study, serve: Serve, page: Page) -> None:
    live = serve(study)
    live.sign_in(page, "expert", PASSWORD)
    page.goto(f"{live.url}/minutes")
    heading = page.locator(".m-title")
    expect(heading).to_be_visible(timeout=PATIENT)
    first = page.locator(".m-kind").inner_text(), heading.inner_text()
    for left in range(20, 0, -1):
        expect(page.locator(".m-left")).to_contain_text(f"{left} wait", timeout=PATIENT)
        expect(heading).to_be_visible(timeout=PATIENT)
        page.keyboard.press("s")
    expect(page.get_by_text("Nothing else waits for you. 20 skipped.")).to_be_visible(timeout=PATIENT)
    page.reload()
    expect(heading).to_be_visible(timeout=PATIENT)
    assert (page.locator(".m-kind").inner_text(), heading.inner_text()) == first
    assert Counter(decisions(study)) == {
        ("threshold", "skip"): 2,
        ("registration", "skip"): 2,
        ("dispute", "skip"): 16,
    }


def test_a_decision_is_sent_when_the_server_is_back(study: Study, serve: Serve, page: Page) -> None:
    live = serve(study)
    live.sign_in(page, "expert", PASSWORD)
    page.goto(f"{live.url}/minutes")
    expect(page.locator(".m-kind")).to_be_visible(timeout=PATIENT)
    page.route("**/api/minutes/settle", lambda route: route.abort())
    page.keyboard.press("Enter")
    expect(page.get_by_role("alert")).to_contain_text("No connection", timeout=PATIENT)
    assert decisions(study) == []
    page.unroute("**/api/minutes/settle")
    wait_until(lambda: decisions(study) == [("threshold", "sign")], "the decision")
    expect(page.get_by_role("alert")).to_have_count(0, timeout=PATIENT)


def test_a_test_patch_opens_on_annotate(study: Study, serve: Serve, page: Page) -> None:
    with study.science.write() as db:
        runs.add_split(db, "patch", 1, {1: "test", 2: "train"})
        for marker in ("WT1", "GATA3"):
            thresholds.add_threshold(db, 1, marker, THRESHOLD, "otsu", LEAD, 1, "Darker than the rest.")
    live = serve(study)
    live.sign_in(page, "expert", PASSWORD)
    page.goto(f"{live.url}/minutes")
    expect(page.locator(".m-kind")).to_be_visible(timeout=PATIENT)
    for _ in range(40):
        expect(page.locator(".m-kind")).to_be_visible(timeout=PATIENT)
        if page.locator(".m-kind").inner_text() == "Test patch without an expert":
            break
        before = page.locator(".m-left").inner_text()
        page.keyboard.press("s")
        expect(page.locator(".m-left")).not_to_have_text(before, timeout=PATIENT)
    page.keyboard.press("Enter")
    expect(page.locator(".surface .status")).to_be_visible(timeout=PATIENT)
    with study.science.read() as db:
        [given] = [row for row in queue.list_assignments(db) if row["group"] == "expert"]
    assert f"patch={given['id']}" in page.url and given["patch_id"] == 1
