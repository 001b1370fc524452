"""A reviewer settles a patch by keys alone, and the labels made of it are what was settled."""

from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from allinsam.masks import rle_area
from allinsam.store import Study
from allinsam.workflow.labels import freeze_labels, read_labels, recipe_of
from allinsam.workflow.reviewing import clusters, decide, review_state
from tests.e2e.conftest import Serve
from tests.live import wait_until
from tests.people import PASSWORD, signed_in_token
from tests.raters import EXTRA, MISSED, OTHER_CLASS, TOO_LARGE, hand_in_all
from tests.studies import MESANGIAL, PERSON, PODOCYTES, disc, small_study

PATIENT = 120_000  # ms, for a busy machine


@pytest.fixture
def study(tmp_path: Path) -> Study:
    made = small_study(tmp_path / "study")
    hand_in_all(made, 1)
    return made


def in_hand(page: Page) -> tuple[int, int]:
    """The drawn nucleus that the reviewer is asked about."""
    text = page.locator(".why").inner_text()
    kinds = {MISSED: "2 of 3", OTHER_CLASS: "classes differ", TOO_LARGE: "outlines differ", EXTRA: "1 of 3"}
    found = [centre for centre, words in kinds.items() if words in text]
    assert len(found) == 1
    return found[0]


def test_a_patch_is_settled_by_keys_and_becomes_labels(study: Study, page: Page, serve: Serve) -> None:
    signed_in_token(study, "lead", "p-lead", name="The lead")
    live = serve(study)
    live.sign_in(page, "The lead", PASSWORD)
    page.goto(f"{live.url}/review")
    page.get_by_role("button", name="Review the next patch").click()
    head = page.locator(".review .head")
    expect(head).to_have_text("0 of 4 in dispute decided", timeout=PATIENT)
    right = next(c for c in clusters(study, 1) if c.reasons == ("outline",))
    smallest = min(right.members, key=lambda member: rle_area(member.mask.as_rle()))
    pick = f"Digit{'ABC'.index(smallest.letter) + 1}"
    keys = {MISSED: "c", OTHER_CLASS: "Shift+Digit2", EXTRA: "x", TOO_LARGE: pick}
    for done in range(1, 5):
        page.keyboard.press(keys[in_hand(page)])
        expect(head).to_have_text(f"{done} of 4 in dispute decided", timeout=PATIENT)
        wait_until(lambda n=4 - done: sum(c.is_open for c in clusters(study, 1)) == n, "the decision")

    # A decision taken back is in dispute again, and the next one is where it is.
    page.keyboard.press("u")
    expect(head).to_have_text("3 of 4 in dispute decided", timeout=PATIENT)
    page.keyboard.press(keys[in_hand(page)])
    expect(page.locator(".done").first).to_contain_text("Nothing is in dispute any more", timeout=PATIENT)

    page.get_by_role("button", name="Finish").first.click()
    page.get_by_label("Comment").fill("two were hard")
    page.get_by_role("button", name="Finish the review").click()
    expect(page.get_by_text("version 1 finished")).to_be_visible(timeout=PATIENT)
    assert review_state(study, 1).comment == "two were hard"
    # The pane knows that nothing can be changed any more.
    expect(page.locator(".done").first).to_contain_text("Version 1 is finished", timeout=PATIENT)

    labels = read_labels(study, freeze_labels(study, recipe_of("adjudicated")))[1]
    for name, centres in (("podocyte", PODOCYTES), ("mesangial", MESANGIAL)):
        wanted = sum(disc(centre) for centre in centres) > 0
        assert labels[name].max() == len(centres)
        assert ((labels[name] > 0) == wanted).all()


def test_who_comes_second_is_told_and_decides_again(study: Study, page: Page, serve: Serve) -> None:
    signed_in_token(study, "lead", "p-lead", name="The lead")
    live = serve(study)
    live.sign_in(page, "The lead", PASSWORD)
    page.goto(f"{live.url}/review?patch=1")
    head = page.locator(".review .head")
    expect(head).to_have_text("0 of 4 in dispute decided", timeout=PATIENT)
    first = next(c for c in clusters(study, 1) if c.is_open)
    decide(study, PERSON, 1, first.cluster_id, "rejected")
    page.keyboard.press("c")
    expect(page.locator(".review .bad")).to_contain_text("decided this nucleus meanwhile", timeout=PATIENT)
    expect(page.locator(".review .done")).to_have_text("Rejected.", timeout=PATIENT)
    expect(page.get_by_text("3 still in dispute")).to_be_visible(timeout=PATIENT)
    expect(page.locator(".review .bad")).to_be_visible()  # though the page was drawn anew
    page.keyboard.press("c")
    expect(page.locator(".review .done")).to_contain_text("Consensus taken", timeout=PATIENT)
    expect(page.locator(".review .bad")).to_have_count(0)


def test_a_nucleus_is_drawn_anew_with_the_mouse(study: Study, page: Page, serve: Serve) -> None:
    signed_in_token(study, "lead", "p-lead", name="The lead")
    live = serve(study)
    live.sign_in(page, "The lead", PASSWORD)
    page.goto(f"{live.url}/review?patch=1")
    expect(page.locator(".review .head")).to_have_text("0 of 4 in dispute decided", timeout=PATIENT)
    page.keyboard.press("e")
    expect(page.get_by_text("Draw round it on the stain")).to_be_visible(timeout=PATIENT)
    box = page.locator(".stage canvas").first.bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x - 50, y - 50)
    page.mouse.down()
    for dx, dy in ((0, -60), (50, -50), (60, 0), (50, 50), (0, 60), (-50, 50), (-60, 0), (-50, -45)):
        page.mouse.move(x + dx, y + dy, steps=4)
    page.mouse.up()
    expect(page.locator(".review .head")).to_have_text("1 of 4 in dispute decided", timeout=PATIENT)
    decided = [one.decision for one in clusters(study, 1) if one.decision]
    assert [decision.kind for decision in decided] == ["edited"]
