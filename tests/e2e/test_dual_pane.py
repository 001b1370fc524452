"""The dual pane in a real browser: drawn at once, kept once, whatever becomes of the server."""

import re
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from allinsam.acts import AssignmentState
from allinsam.masks import decode_rle, rle_area
from allinsam.store import Study, assignments
from allinsam.store import acts as act_store
from allinsam.workflow.annotating import assignment_state
from allinsam.workflow.checking import verify
from allinsam.workflow.touring import note_tour
from tests.e2e.conftest import Serve
from tests.e2e.panes import on_screen
from tests.live import LiveServer, wait_until
from tests.people import signed_in_token
from tests.practising import DRAWN, add_gold
from tests.studies import (
    CROWD,
    MESANGIAL,
    PERSON,
    PODOCYTES,
    SIZE_PX,
    box_of,
    crowd_class,
    disc,
    small_study,
)
from webapp.session import COOKIE

PATIENT = 120_000  # ms, for a busy machine


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory, serve: Serve) -> LiveServer:
    """One server; each test has a patch of its own."""
    return serve(small_study(tmp_path_factory.mktemp("dual") / "study", slides=1, patches_per_slide=10))


@dataclass
class Annotating:
    """PERSON at one patch, zoomed out, and what the study has kept of it."""

    page: Page
    study: Study
    url: str
    assignment_id: int

    def open(self) -> None:
        self.page.goto(f"{self.url}/annotate?patch={self.assignment_id}")
        expect(self.page.locator(".surface .status")).to_be_visible(timeout=PATIENT)
        self.page.wait_for_timeout(300)

    def at(self, point: tuple[float, float], pane: int = 0) -> tuple[float, float]:
        return on_screen(self.page, SIZE_PX, point, pane)

    def drag(self, *path: tuple[float, float], pane: int = 0) -> None:
        points = [self.at(point, pane) for point in path]
        self.page.mouse.move(*points[0])
        self.page.mouse.down()
        for point in points[1:]:
            self.page.mouse.move(*point, steps=4)
        self.page.mouse.up()

    def draw(self, centre: tuple[int, int], pane: int = 0) -> None:
        box = box_of(centre)
        self.drag((box[0], box[1]), (box[2], box[3]), pane=pane)

    def press(self, key: str) -> None:
        self.page.keyboard.press(key)

    def keep(self) -> None:
        """As a person does: when the outline of the selected nucleus is on the screen."""
        expect(self.page.get_by_role("button", name=re.compile("^Keep A"))).to_be_enabled(timeout=PATIENT)
        self.press("a")

    @property
    def kinds(self) -> list[str]:
        with self.study.science.read() as db:
            return [act.kind for act in act_store.list_acts(db, self.assignment_id)]

    @property
    def state(self) -> AssignmentState:
        return assignment_state(self.study, self.assignment_id)

    def choose(self, centre: tuple[int, int]) -> None:
        """Click a nucleus."""
        self.page.mouse.click(*self.at(centre))
        expect(self.page.locator(".chip.pressed")).to_have_count(1, timeout=PATIENT)

    def wait_for(self, kind: str, count: int = 1) -> None:
        wait_until(lambda: self.kinds.count(kind) >= count, f"{count} x {kind}")

    def sees(self, text: str, where: str = ".surface") -> None:
        expect(self.page.locator(where, has_text=text).first).to_be_visible(timeout=PATIENT)


Annotate = Callable[[int], Annotating]


@pytest.fixture
def annotate(live: LiveServer, page: Page) -> Annotate:
    token = signed_in_token(live.study, "annotator", PERSON)
    page.context.add_cookies([{"name": COOKIE, "value": token, "url": live.url}])

    def open_(assignment_id: int, on: Page = page) -> Annotating:
        at = Annotating(on, live.study, live.url, assignment_id)
        at.open()
        return at

    return open_


def test_boxes_on_both_panes_are_kept_with_their_classes_and_come_back(annotate: Annotate) -> None:
    at = annotate(1)
    for centre in PODOCYTES[:2]:
        at.draw(centre)
    at.draw(PODOCYTES[2], pane=1)
    at.press("2")
    at.draw(MESANGIAL[0], pane=1)
    at.wait_for("mask_shown", 4)
    at.sees("4 to check", ".counts")
    for count in range(1, 5):
        at.keep()
        at.wait_for("accept", count)
        at.sees(f"{count} kept", ".counts")
    at.sees("4 kept", ".counts")
    things = list(at.state.objects.values())
    assert [thing.class_id for thing in things] == [1, 1, 1, 2]
    assert all(thing.state == "accepted" and rle_area(thing.mask.as_rle()) > 150 for thing in things)
    for thing, centre in zip(things, [*PODOCYTES[:3], MESANGIAL[0]], strict=True):
        assert thing.first_box == pytest.approx(box_of(centre), abs=1.5)
    at.open()
    at.sees("4 kept", ".counts")
    assert verify(at.study)["problems"] == []


def test_sixty_nuclei_with_second_thoughts_are_exactly_what_was_meant(
    tmp_path: Path, serve: Serve, page: Page
) -> None:
    study = small_study(tmp_path / "study", slides=1, crowded=True)
    live = serve(study)
    token = signed_in_token(study, "annotator", PERSON)
    page.context.add_cookies([{"name": COOKIE, "value": token, "url": live.url}])
    at = Annotating(page, study, live.url, 1)
    at.open()
    for count, centre in enumerate(CROWD[:61], 1):
        at.press(str(crowd_class(centre)))
        at.draw(centre, pane=count % 2)
        at.keep()
        at.sees(f"{count} kept", ".counts")
    at.press("k")  # the 61st is of the other class: no, it is not to be there at all
    at.wait_for("class")
    for _ in range(3):
        at.press("Control+z")
    at.sees("60 kept", ".counts")
    grown, cut, gone = CROWD[4], CROWD[17], CROWD[40]
    at.choose(grown)
    at.press("b")
    at.drag(grown, (grown[0] + 14, grown[1]))
    at.wait_for("mask_edit")
    at.press("v")
    at.choose(cut)
    at.press("e")
    at.drag((cut[0] + 8, cut[1] - 12), (cut[0] + 8, cut[1] + 12))
    at.wait_for("mask_edit", 2)
    at.press("v")
    at.choose(gone)
    at.press("Delete")
    at.sees("59 kept", ".counts")
    wait_until(lambda: at.kinds.count("delete") == 1, "the delete")
    expected = [centre for centre in CROWD[:60] if centre != gone]
    for again in (False, True):
        if again:
            at.open()
            at.sees("59 kept", ".counts")
        with study.science.read() as db:
            rows = act_store.current_annotations(db, 1)
        assert len(rows) == 59 and all(row["state"] == "accepted" for row in rows)
        kept = {thing.object_id: thing for thing in at.state.accepted()}
        assert sorted(kept) == sorted(row["object_id"] for row in rows)
        for thing, centre in zip(kept.values(), expected, strict=True):
            assert thing.class_id == crowd_class(centre)
            assert thing.first_box == pytest.approx(box_of(centre), abs=1.5)
            mask = decode_rle(thing.mask.as_rle())
            shared = (mask & disc(centre)).sum() / (mask | disc(centre)).sum()
            assert shared > (0.6 if centre in (grown, cut) else 0.8)
            assert mask[centre[1], centre[0] + 13] == (centre == grown)
            assert not mask[centre[1], centre[0] + 8] if centre == cut else mask[centre[1], centre[0]]
            assert thing.origin == ("edited" if centre in (grown, cut) else "sam")
    assert verify(study)["problems"] == []


def test_every_act_is_undone_and_redone_across_a_reload(annotate: Annotate) -> None:
    at = annotate(2)
    at.draw(PODOCYTES[0])
    at.wait_for("mask_shown")
    at.sees("1 to check", ".counts")
    at.keep()
    at.wait_for("accept")
    at.press("Delete")
    at.wait_for("delete")
    at.open()
    at.press("Control+z")
    at.wait_for("undo")
    at.sees("1 kept", ".counts")
    at.press("Control+z")
    at.wait_for("undo", 2)
    at.sees("1 to check", ".counts")
    at.press("Control+y")
    at.wait_for("redo")
    at.sees("1 kept", ".counts")
    assert [thing.state for thing in at.state.objects.values()] == ["accepted"]


def test_drawing_by_hand_mending_and_moving_a_box(annotate: Annotate) -> None:
    at = annotate(3)
    x, y = PODOCYTES[0]
    at.press("l")
    at.drag((x - 10, y - 10), (x + 10, y - 10), (x + 10, y + 10), (x - 10, y + 10))
    at.wait_for("mask_edit")
    assert next(iter(at.state.objects.values())).origin == "drawn"
    at.press("b")
    at.drag((x + 8, y), (x + 22, y))
    at.wait_for("mask_edit", 2)
    at.press("e")
    at.drag((x + 18, y - 12), (x + 18, y + 12))
    at.wait_for("mask_edit", 3)
    at.press("v")
    at.press("Escape")
    at.draw(PODOCYTES[1])
    at.wait_for("mask_shown")
    at.sees("2 to check", ".counts")
    at.page.locator(".dual-pane").evaluate(
        "root => { const s = root.surface; s.view.zoom = 2; s.select(s.selected); s._keepOnPatch(); }"
    )
    box = list(at.state.objects.values())[1].box
    at.drag((box[2], box[3]), (box[2] + 12, box[3] + 8))  # a handle of the box just drawn
    at.wait_for("move")
    at.wait_for("mask_shown", 2)
    moved = list(at.state.objects.values())[1].box
    assert moved[2] == pytest.approx(box[2] + 12, abs=1.5) and moved[:2] == pytest.approx(box[:2], abs=0.1)


def test_points_correct_a_mask(annotate: Annotate) -> None:
    at = annotate(4)
    at.draw(PODOCYTES[0])
    at.wait_for("mask_shown")
    at.sees("1 to check", ".counts")
    at.press("i")
    x, y = at.at((PODOCYTES[0][0] + 2, PODOCYTES[0][1] + 2))
    at.page.mouse.click(x, y)
    at.wait_for("prompt")
    at.wait_for("mask_shown", 2)
    assert next(iter(at.state.objects.values())).points[0][2] == 1


def test_a_second_tab_only_looks_until_it_takes_over(annotate: Annotate, page: Page) -> None:
    first = annotate(5)
    second = annotate(5, on=page.context.new_page())
    second.sees("open in another tab", ".trouble")
    second.draw(PODOCYTES[0])
    first.draw(PODOCYTES[1])
    first.wait_for("mask_shown")
    assert first.kinds.count("box") == 1
    second.page.get_by_role("button", name="Work here instead").click()
    expect(second.page.locator(".trouble", has_text="open in another tab")).to_have_count(0, timeout=PATIENT)
    second.draw(PODOCYTES[0])
    second.wait_for("box", 2)


def test_a_paused_and_a_killed_server_lose_and_double_nothing(annotate: Annotate, live: LiveServer) -> None:
    at = annotate(6)
    fire = """(root, [from, count]) => {
        const surface = root.surface;
        for (let i = from; i < from + count; i++) {
            const x = 10 + 24 * (i % 20), y = 10 + 24 * Math.floor(i / 20);
            const box = [x, y, x + 12, y + 12];
            surface.emit("box", {object_id: `fired-${i}`, class_id: surface.classId, box});
        }
    }"""
    surface = at.page.locator(".dual-pane")
    surface.evaluate(fire, [0, 30])
    server = live.server
    server.send_signal(signal.SIGSTOP)
    surface.evaluate(fire, [30, 30])
    at.page.wait_for_timeout(1000)
    server.send_signal(signal.SIGCONT)
    surface.evaluate(fire, [60, 20])
    at.wait_for("box", 40)
    server.send_signal(signal.SIGKILL)
    surface.evaluate(fire, [80, 20])
    at.wait_for("box", 100)
    with at.study.science.read() as db:
        drawn = [act.object_id for act in act_store.list_acts(db, 6) if act.kind == "box"]
    assert drawn == [f"fired-{i}" for i in range(100)]
    at.sees("Saved", ".status")


def test_a_study_that_cannot_be_written_is_said_and_what_was_drawn_waits(annotate: Annotate) -> None:
    at = annotate(10)
    at.draw(PODOCYTES[0])
    at.wait_for("mask_shown")
    at.sees("Saved", ".status")
    database = at.study.science.path
    away = database.rename(database.with_suffix(".away"))
    at.draw(PODOCYTES[1])
    at.sees("study.sqlite is gone", ".trouble")
    at.sees("wait in this browser", ".status")
    away.rename(database)
    at.wait_for("mask_shown", 2)
    at.sees("Saved", ".status")
    expect(at.page.locator(".surface .trouble")).to_have_count(0)
    assert at.kinds.count("box") == 2 and verify(at.study)["problems"] == []


def test_what_waits_is_sent_after_the_page_was_closed(
    annotate: Annotate, live: LiveServer, page: Page
) -> None:
    at = annotate(7)
    server = live.server
    server.send_signal(signal.SIGSTOP)
    at.draw(PODOCYTES[0])
    at.draw(PODOCYTES[1])
    at.page.wait_for_timeout(500)
    at.page.close()
    server.send_signal(signal.SIGCONT)
    again = annotate(7, on=page.context.new_page())
    again.wait_for("box", 2)
    again.wait_for("mask_shown", 2)
    again.sees("2 to check", ".counts")
    assert again.kinds.count("box") == 2


def test_handing_in_says_what_is_open_and_goes_to_the_next_patch(annotate: Annotate) -> None:
    at = annotate(8)
    at.press("n")
    at.sees("Not handed in yet", ".trouble")
    for button in at.page.get_by_role("button", name="None here").all():
        button.click()
    at.wait_for("nothing_here", 2)
    expect(at.page.locator(".class-state", has_text="none here")).to_have_count(2, timeout=PATIENT)
    at.press("n")
    wait_until(lambda: at.state.submitted, "the submission")
    at.sees("Box", ".bar")
    at.page.wait_for_url(lambda url: "patch=8" not in url, timeout=PATIENT)


PIXEL = """(root, [x, y]) => {
    const surface = root.surface, ratio = surface.canvas.width / surface.stageSize.width;
    const place = surface.canvas.getBoundingClientRect();
    surface._draw();
    const at = [(x - place.left) * ratio, (y - place.top) * ratio];
    return [...surface.canvas.getContext("2d").getImageData(...at, 1, 1).data.slice(0, 3)];
}"""


def test_every_way_of_looking_shows_what_it_says(annotate: Annotate) -> None:
    at = annotate(4)
    page, pane = at.page, at.page.locator(".dual-pane")
    at.press("Escape")
    page.mouse.move(5, 5)

    def look(centre: tuple[int, int], where: tuple[float, float] | None = None) -> str:
        red, green, blue = pane.evaluate(PIXEL, list(where or at.at(centre)))
        if min(red, green, blue) > 190:
            return "bright"
        return "stained" if blue > red > green else "dark" if max(red, green, blue) < 60 else "mixed"

    nucleus, tissue = PODOCYTES[2], (250, 470)
    assert look(nucleus) == "stained" and look(nucleus, at.at(nucleus, pane=1)) == "bright"
    page.keyboard.down("q")
    assert look(nucleus) == "bright" and look(nucleus, at.at(nucleus, pane=1)) == "stained"
    page.keyboard.up("q")
    page.get_by_role("button", name="View", exact=True).click()
    page.get_by_label("Channel shown").select_option("GATA3")
    page.wait_for_timeout(500)
    assert look(nucleus, at.at(nucleus, pane=1)) == "dark"
    assert look(MESANGIAL[0], at.at(MESANGIAL[0], pane=1)) == "bright"
    page.get_by_label("Channel shown").select_option("")
    page.get_by_label("How stain and marker are shown").select_option("overlay")
    middle = pane.evaluate("(root, p) => root.surface.toScreen(root.surface.panes()[0], p)", list(nucleus))
    stage = page.locator(".stage canvas").bounding_box()
    there = (stage["x"] + middle[0], stage["y"] + middle[1])
    before = pane.evaluate(PIXEL, list(there))
    page.get_by_label("Marker in the overlay").fill("0.9")
    assert sum(pane.evaluate(PIXEL, list(there))) > sum(before)
    page.get_by_label("How stain and marker are shown").select_option("swipe")
    pane.evaluate("root => { root.surface.options.swipe = 0.01; }")
    assert look(nucleus, there) == "bright"
    pane.evaluate("root => { root.surface.options.swipe = 0.99; }")
    assert look(nucleus, there) == "stained"
    page.get_by_label("How stain and marker are shown").select_option("single")
    assert look(nucleus, there) == "stained" and look(tissue) != "dark"
    page.get_by_label("How stain and marker are shown").select_option("side")


def test_a_finger_draws_and_two_zoom(annotate: Annotate) -> None:
    at = annotate(2)
    cdp = at.page.context.new_cdp_session(at.page)

    def touch(kind: str, *points: tuple[float, float]) -> None:
        touched = [{"x": x, "y": y, "id": n} for n, (x, y) in enumerate(points)]
        cdp.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": touched})

    boxes = at.kinds.count("box")
    box = box_of(MESANGIAL[2])
    (x0, y0), (x1, y1) = at.at((box[0], box[1])), at.at((box[2], box[3]))
    touch("touchStart", (x0, y0))
    for share in (0.3, 0.7, 1.0):
        touch("touchMove", (x0 + share * (x1 - x0), y0 + share * (y1 - y0)))
    touch("touchEnd")
    at.wait_for("box", boxes + 1)
    assert list(at.state.objects.values())[-1].first_box == pytest.approx(box, abs=1.5)
    zoom = "root => root.surface.view.zoom"
    assert at.page.locator(".dual-pane").evaluate(zoom) == 1
    middle = at.at((256, 256))
    for reach in (30, 60, 90):
        left, right = (middle[0] - reach, middle[1]), (middle[0] + reach, middle[1])
        touch("touchStart" if reach == 30 else "touchMove", left, right)
    touch("touchEnd")
    assert 2 < at.page.locator(".dual-pane").evaluate(zoom) < 4
    assert at.kinds.count("box") == boxes + 1


def test_keys_alone_are_enough(annotate: Annotate) -> None:
    at = annotate(1)
    boxes, edits = at.kinds.count("box"), at.kinds.count("mask_edit")
    at.page.locator(".stage canvas").focus()

    def go(dx: int, dy: int) -> None:
        for steps, (forth, back) in ((dx, ("ArrowRight", "ArrowLeft")), (dy, ("ArrowDown", "ArrowUp"))):
            for _ in range(abs(steps) // 10):
                at.press(f"Shift+{forth if steps > 0 else back}")
            for _ in range(abs(steps) % 10):
                at.press(forth if steps > 0 else back)

    box = box_of(PODOCYTES[3])  # the cursor starts in the middle of the patch
    go(int(box[0]) - SIZE_PX // 2, int(box[1]) - SIZE_PX // 2)
    at.press("Enter")
    go(22, 22)
    at.press("Enter")
    at.wait_for("box", boxes + 1)
    assert list(at.state.objects.values())[-1].first_box == pytest.approx(box, abs=0.01)
    at.keep()
    at.press("b")
    go(-2, -2)
    at.press("Enter")
    go(8, 0)
    at.press("Enter")
    at.wait_for("mask_edit", edits + 1)
    at.press("p")
    go(-200, 0)
    for step in ((0, 0), (20, 0), (0, 20)):
        go(*step)
        at.press("Enter")
    at.press("Enter")  # twice at one place
    at.wait_for("mask_edit", edits + 2)


def test_text_can_be_read(annotate: Annotate) -> None:
    """Every text of the surface against what lies behind it: 4.5 to 1, as WCAG AA asks for."""
    at = annotate(3)
    weak = """root => {
        const number = (text) => text.match(/[\\d.]+/g).map(Number);
        const light = ([r, g, b]) => [r, g, b].map((v) => v / 255)
            .map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4))
            .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
        const behind = (element) => {
            for (let e = element; e; e = e.parentElement ?? e.getRootNode().host) {
                const colour = number(getComputedStyle(e).backgroundColor);
                if (colour.length < 4 || colour[3] === 1) return colour;
            }
            return [255, 255, 255];
        };
        const found = [];
        for (const element of root.querySelectorAll("*")) {
            const own = [...element.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim());
            if (!own || !element.getClientRects().length || element.disabled) continue;
            const [a, b] = [light(number(getComputedStyle(element).color)), light(behind(element))];
            const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
            if (ratio < 4.5) found.push(`${element.textContent.trim().slice(0, 30)}: ${ratio.toFixed(2)}`);
        }
        return [found, root.querySelectorAll("*").length];
    }"""
    for key in ("", "?"):
        if key:
            at.press(key)
            expect(at.page.get_by_text("Too tight: the box cuts the nucleus.")).to_be_visible()
        found, looked_at = at.page.locator(".dual-pane").evaluate(weak)
        assert found == [] and looked_at > 40
    pictures = at.page.locator("figure img")
    expect(pictures).to_have_count(12)
    for picture in pictures.all():
        expect(picture).to_have_js_property("naturalWidth", 224, timeout=PATIENT)


def test_a_practice_round_shows_the_three_planted_mistakes(tmp_path: Path, serve: Serve, page: Page) -> None:
    study = small_study(tmp_path / "study", slides=1)
    add_gold(study, 1)
    with study.science.write() as db:
        practice = assignments.add_assignment(db, PERSON, 1, [1, 2], purpose="practice")
    note_tour(study, PERSON, "visit", "tour_skipped", "pictures")
    live = serve(study)
    token = signed_in_token(study, "annotator", PERSON)
    page.context.add_cookies([{"name": COOKIE, "value": token, "url": live.url}])
    at = Annotating(page, study, live.url, practice)
    at.open()
    at.sees("Practice", ".practice")
    for count, (centre, class_id) in enumerate(DRAWN, 1):
        at.press(str(class_id))
        at.draw(centre)
        at.keep()
        at.sees(f"{count} kept", ".counts")
    at.press("n")
    at.sees("5 right, 3 to learn from", ".verdicts")
    told = sorted(page.locator("button.verdict").all_inner_texts())
    assert [re.sub(r"^\S+\s+", "", text) for text in told] == [
        "Missed: a podocyte nucleus is here",
        "Drawn as podocyte: it is mesangial",
        "Too much: no podocyte nucleus here",
    ]
    page.locator("button.verdict", has_text="Missed").click()
    view = page.locator(".dual-pane").evaluate("root => root.surface.view")
    assert (view["x"], view["y"]) == pytest.approx(PODOCYTES[2], abs=1.5)
    at.open()
    at.sees("5 right, 3 to learn from", ".verdicts")


def test_patch_after_patch_stands_still(tmp_path: Path, serve: Serve, page: Page) -> None:
    study = small_study(tmp_path / "study", slides=1, patches_per_slide=5)
    live = serve(study)
    token = signed_in_token(study, "annotator", PERSON)
    page.context.add_cookies([{"name": COOKIE, "value": token, "url": live.url}])
    at = Annotating(page, study, live.url, 1)
    at.open()
    for patch in (1, 2, 3):
        expect(page.locator(".class-state", has_text="0 kept")).to_have_count(2, timeout=PATIENT)
        for button in page.get_by_role("button", name="None here").all():
            button.click()
        expect(page.locator(".class-state", has_text="none here")).to_have_count(2, timeout=PATIENT)
        at.press("n")
        page.wait_for_url(re.compile(f"patch={patch + 1}"), timeout=PATIENT)
        expect(page.locator(".class-state", has_text="0 kept")).to_have_count(2, timeout=PATIENT)
    page.get_by_label("Patch").select_option(label="Patch 5 · not begun")
    page.wait_for_url(re.compile("patch=5"), timeout=PATIENT)
    page.wait_for_timeout(3000)
    assert "patch=5" in page.url
    loads = []
    with study.science.read() as db:
        for own in range(1, 6):
            loads.append([act.kind for act in act_store.list_acts(db, own)].count("load"))
    assert loads == [1, 1, 1, 1, 1]


def test_keys_do_nothing_behind_a_card_and_caps_lock_changes_none(annotate: Annotate) -> None:
    at = annotate(9)
    for centre in PODOCYTES[:3]:
        at.draw(centre)
    at.sees("3 to check", ".counts")
    expect(at.page.get_by_role("button", name=re.compile("^Keep A"))).to_be_enabled(timeout=PATIENT)
    expect(at.page.get_by_role("button", name=re.compile("^Keep 3 clear"))).to_be_visible(timeout=PATIENT)
    drops, deletes = at.kinds.count("reject"), at.kinds.count("delete")
    at.page.get_by_role("button", name="Pause").click()
    at.sees("Paused", ".sheet")
    for key in ("x", "Delete", "a", "n"):
        at.press(key)
    at.page.get_by_role("button", name="Go on").click()
    at.press("?")
    at.press("x")
    at.press("Escape")
    expect(at.page.locator(".sheet")).to_have_count(0)
    at.page.evaluate("""() => {
        for (const type of ["keydown", "keyup"]) {
            window.dispatchEvent(new KeyboardEvent(type, { key: "A", bubbles: true }));
        }
    }""")  # as Caps Lock sends it
    at.sees("1 kept", ".counts")
    assert (at.kinds.count("reject"), at.kinds.count("delete")) == (drops, deletes)
    at.press("Shift+A")
    at.sees("3 kept", ".counts")


def test_a_given_up_redrawing_leaves_every_outline_alone(annotate: Annotate) -> None:
    at = annotate(5)
    shown = at.kinds.count("mask_shown")
    at.draw(PODOCYTES[3])
    at.wait_for("mask_shown", shown + 1)
    known = len([thing for thing in at.state.objects.values() if thing.state != "deleted"])
    at.choose(PODOCYTES[3])
    at.page.get_by_role("button", name="Draw anew").click()
    at.press("Escape")
    at.press("l")
    edits = at.kinds.count("mask_edit")
    x, y = MESANGIAL[1]
    at.drag((x - 10, y - 10), (x + 10, y - 10), (x + 10, y + 10), (x - 10, y + 10))
    at.wait_for("mask_edit", edits + 1)
    now = [thing for thing in at.state.objects.values() if thing.state != "deleted"]
    assert len(now) == known + 1 and now[-1].origin == "drawn"
