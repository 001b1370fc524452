"""What only a browser can tell of the annotate page: strokes of a mouse end up as the right acts."""

import re
from collections.abc import Callable
from dataclasses import dataclass

import pytest
from playwright.sync_api import Page, TimeoutError, expect

from allinsam.acts import AssignmentState, ObjectState
from allinsam.masks import rle_area
from allinsam.store import Study
from allinsam.store import acts as act_store
from allinsam.workflow.annotating import assignment_state
from tests.e2e.conftest import Serve
from tests.live import LiveServer, wait_until
from tests.people import signed_in_token
from tests.studies import PERSON, PODOCYTES, RADIUS_PX, SIZE_PX, box_of, small_study
from webapp.annotate.bench import rings_of
from webapp.session import COOKIE

PATIENT = 120_000  # ms, for a busy machine
SETTLE = 700  # ms, until the canvas has taken up a new drawing, which the page cannot tell


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory, serve: Serve) -> LiveServer:
    """One server; each test has a patch of its own."""
    return serve(small_study(tmp_path_factory.mktemp("annotate") / "study", slides=1, patches_per_slide=4))


@dataclass
class Annotating:
    """PERSON at one patch in a browser, and what the study has kept of it."""

    page: Page
    study: Study
    url: str
    assignment_id: int

    def open(self) -> None:
        self.page.goto(f"{self.url}/annotate?surface=simple_canvas&patch={self.assignment_id}")
        self.page.locator("canvas.upper-canvas").wait_for(timeout=PATIENT)
        expect(self.page.locator(".saved")).to_contain_text("step", timeout=PATIENT)

    @property
    def kinds(self) -> list[str]:
        with self.study.science.read() as db:
            return [act.kind for act in act_store.list_acts(db, self.assignment_id)]

    @property
    def state(self) -> AssignmentState:
        return assignment_state(self.study, self.assignment_id)

    @property
    def things(self) -> list[ObjectState]:
        return list(self.state.objects.values())

    def wait_for(self, kind: str, count: int) -> None:
        wait_until(lambda: self.kinds.count(kind) >= count, f"{count} x {kind}")

    def drag(self, *path: tuple[float, float], view: tuple[float, ...] = (0, 0, SIZE_PX)) -> None:
        """A stroke of the mouse through points in px of the patch; `view` is x0, y0 and side in view."""
        pane = self.page.locator("canvas.upper-canvas").bounding_box()
        scale = pane["width"] / view[2]
        points = [(pane["x"] + (x - view[0]) * scale, pane["y"] + (y - view[1]) * scale) for x, y in path]
        self.page.mouse.move(*points[0])
        self.page.mouse.down()
        for x, y in points[1:]:
            self.page.mouse.move(x, y, steps=4)
        self.page.mouse.up()

    def drag_box(self, box: list[float], view: tuple[float, ...] = (0, 0, SIZE_PX)) -> None:
        self.drag((box[0], box[1]), (box[2], box[3]), view=view)

    def click_until(self, point: tuple[float, float], text: str, where: str) -> None:
        """Click as a person does: again, if a canvas that was just being drawn anew took no notice."""
        card = self.page.locator(where, has_text=text).first
        for _ in range(5):
            self.page.wait_for_timeout(2 * SETTLE)
            self.drag(point, point)
            try:
                card.wait_for(timeout=6_000)
            except TimeoutError:
                continue
            return
        self.sees(text, where)

    def choose(self, name: str, hint: str) -> None:
        """Choose a way to edit, again if the page was just being drawn anew, until its hint shows."""
        shown = self.page.locator(".hint", has_text=hint).first
        for _ in range(5):
            self.page.get_by_text(name, exact=True).click()
            try:
                shown.wait_for(timeout=10_000)
            except TimeoutError:
                self.page.wait_for_timeout(SETTLE)
                continue
            break
        self.sees(hint, ".hint")
        self.page.wait_for_timeout(SETTLE)

    def sees(self, text: str, where: str) -> None:
        expect(self.page.locator(where, has_text=text).first).to_be_visible(timeout=PATIENT)

    def wait_for_picture(self, part: str) -> tuple[float, ...]:
        """Until the panes show what the address of the marker's picture says; x0, y0 and side of it."""
        picture = self.page.get_by_alt_text("The marker's fluorescence at the same place")
        expect(picture).to_have_attribute("src", re.compile(part), timeout=PATIENT)
        self.page.wait_for_timeout(SETTLE)
        source = picture.get_attribute("src")
        return tuple(float(re.search(rf"{name}=(-?\d+)", source)[1]) for name in ("x0", "y0", "side"))


Annotate = Callable[[int], Annotating]


@pytest.fixture
def annotate(live: LiveServer, page: Page) -> Annotate:
    token = signed_in_token(live.study, "annotator", PERSON)
    page.context.add_cookies([{"name": COOKIE, "value": token, "url": live.url}])

    def open_(assignment_id: int) -> Annotating:
        at = Annotating(page, live.study, live.url, assignment_id)
        at.open()
        return at

    return open_


def test_boxes_drawn_without_a_pause_are_all_kept_and_come_back(annotate: Annotate) -> None:
    at = annotate(1)
    for centre in PODOCYTES:
        at.drag_box(box_of(centre))
    at.wait_for("mask_shown", 4)
    assert at.kinds.count("box") == 4
    found = sorted(thing.first_box for thing in at.things)
    for box, centre in zip(found, sorted(PODOCYTES), strict=True):
        # The mouse moves by whole px of the screen.
        assert box == pytest.approx(box_of(centre), abs=1.0)
    at.sees("Keep all 4", "button")
    at.page.keyboard.press("Shift+A")
    at.wait_for("accept", 4)
    at.sees("4 kept", ".counts")
    at.page.keyboard.press("Control+z")
    at.wait_for("undo", 4)
    at.sees("4 to check", ".counts")
    at.page.keyboard.press("Control+y")
    at.wait_for("redo", 4)
    at.sees("4 kept", ".counts")
    before = at.state
    at.open()
    at.sees("4 kept", ".counts")
    assert at.state == before and at.kinds.count("box") == 4


def test_a_box_in_the_zoomed_view_lies_where_it_was_drawn(annotate: Annotate) -> None:
    at = annotate(2)
    at.page.get_by_text("4x", exact=True).click()
    assert at.wait_for_picture("side=128") == (192, 192, 128)
    at.page.keyboard.press("ArrowUp")
    at.wait_for_picture("y0=128")
    at.page.keyboard.press("ArrowUp")
    view = at.wait_for_picture("y0=64")
    at.drag_box(box_of(PODOCYTES[1]), view=view)
    at.wait_for("mask_shown", 1)
    (thing,) = at.things
    assert thing.first_box == pytest.approx(box_of(PODOCYTES[1]), abs=0.3)


def test_an_outline_is_painted_erased_and_reshaped(annotate: Annotate) -> None:
    at, (x, y) = annotate(3), PODOCYTES[0]
    at.drag_box(box_of(PODOCYTES[0]))
    at.wait_for("mask_shown", 1)
    at.sees("Edit outline", "button")
    at.page.keyboard.press("e")
    view = at.wait_for_picture(r"side=5\d")
    at.drag((x, y), (x + RADIUS_PX + 6, y), view=view)
    at.wait_for("mask_edit", 1)
    (painted,) = at.things
    assert painted.origin == "edited"

    at.choose("Erase", "Paint over what does not belong")
    at.drag((x + RADIUS_PX + 1, y), (x + RADIUS_PX + 7, y), view=view)
    at.wait_for("mask_edit", 2)
    (erased,) = at.things
    assert rle_area(erased.mask.as_rle()) < rle_area(painted.mask.as_rle())

    at.choose("Move points", "Press the pencil")
    pane = at.page.locator("canvas.upper-canvas").bounding_box()
    middle = (pane["x"] + pane["width"] / 2, pane["y"] + pane["height"] / 2)
    at.page.mouse.move(*middle)
    at.page.get_by_label("Edit", exact=True).click()
    at.page.mouse.click(*middle)
    at.page.mouse.click(*middle)
    # The uppermost handle, pulled up: the nucleus grows upwards.
    top = min(rings_of(erased)[0].tolist(), key=lambda point: point[1])
    at.drag(tuple(top), (top[0], top[1] - 5), view=view)
    at.wait_for("mask_edit", 3)
    (reshaped,) = at.things
    assert min(rings_of(reshaped)[0][:, 1]) < top[1] - 2
    at.page.keyboard.press("Escape")
    at.wait_for_picture("side=512")


def test_redrawing_replaces_the_box_and_a_click_selects(annotate: Annotate) -> None:
    at = annotate(4)
    for centre in PODOCYTES[:2]:
        at.drag_box(box_of(centre, margin_px=4))
    at.wait_for("mask_shown", 2)
    at.sees("P2", ".card-title")
    at.click_until(PODOCYTES[0], "P1", ".card-title")
    at.page.keyboard.press("b")
    at.sees("Drag a new box", "[data-testid=stAlert]")
    at.page.wait_for_timeout(SETTLE)
    at.drag_box(box_of(PODOCYTES[0]))
    at.wait_for("mask_shown", 3)
    first, _ = at.things
    assert first.box == pytest.approx(box_of(PODOCYTES[0]), abs=1.0)
    assert first.first_box == pytest.approx(box_of(PODOCYTES[0], margin_px=4), abs=1.0)
    # What the canvas reports of its new drawing is no gesture.
    at.page.wait_for_timeout(2 * SETTLE)
    assert [at.kinds.count(kind) for kind in ("box", "move", "delete")] == [2, 1, 0]
    at.page.keyboard.press("Delete")
    at.wait_for("delete", 1)
    at.sees("1 to check", ".counts")
    assert [thing.state for thing in at.things] == ["deleted", "proposed"]
