"""How the annotation surface feels: masks, frames and waits in a real Chromium, and acts not to be lost.

python -m benchmarks.surface [--quick] makes a simulated study, serves it as a user does, and drives it with
Playwright's mouse and keyboard; Chromium is looked for on PATH, or named in ALLINSAM_CHROMIUM.
"""

import argparse
import signal
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from playwright.sync_api import Browser, Page, sync_playwright

from allinsam.masks import decode_rle
from allinsam.prompts import mask_to_box
from allinsam.store import Study, assignments
from allinsam.store import acts as act_store
from allinsam.store import study as study_store
from allinsam.workflow.demo import TRUTH, DemoSettings, build_demo
from benchmarks.report import figure, print_report, progress
from tests.e2e.panes import on_screen
from tests.live import LiveServer, find_browser, serving, wait_until
from tests.people import signed_in_token
from webapp.session import COOKIE

FLAGS = ["--no-sandbox", "--disable-dev-shm-usage", "--disable-background-networking", "--disable-sync"]
VIEWPORT = {"width": 1366, "height": 768}
RATERS = 8
BOX_EVERY_S = 3.0
PATCH_PX = 512

# Notes when the mouse goes up after a box and when a frame first shows its mask.
WATCH_MASKS = """root => {
    const surface = root.surface, started = new Map();
    window.maskTimes = [];
    surface.canvas.addEventListener("pointerup", (event) => {
        const thing = surface.shown.get(surface.selected);
        if (thing?.pending && !thing.rings.length) started.set(thing.id, event.timeStamp);
    });
    const look = (now) => {
        for (const [id, since] of started) {
            if (!surface.shown.get(id)?.rings.length) continue;
            started.delete(id);
            requestAnimationFrame(() => window.maskTimes.push(performance.now() - since));
        }
        requestAnimationFrame(look);
    };
    requestAnimationFrame(look);
}"""
# Drags the view along a curve, a step before every frame, and notes when each frame began.
PAN = """(root, seconds) => new Promise((done) => {
    const surface = root.surface, canvas = surface.canvas, place = canvas.getBoundingClientRect();
    const draw = surface._draw.bind(surface), frames = [], started = performance.now();
    let draws = 0, drawing = 0;
    surface._draw = () => {
        const since = performance.now();
        draw();
        drawing += performance.now() - since;
        draws++;
    };
    const send = (kind, step) => canvas.dispatchEvent(new PointerEvent(kind, {
        pointerId: 1, button: 1, bubbles: true,
        clientX: place.x + place.width / 4 + 120 * Math.sin(step / 12),
        clientY: place.y + place.height / 2 + 90 * Math.sin(step / 17),
    }));
    canvas.setPointerCapture = () => {};
    send("pointerdown", 0);
    const tick = (now) => {
        frames.push(now);
        if (now - started > 1000 * seconds) {
            send("pointerup", frames.length);
            done({ frames, draws, drawing: drawing / draws });
            return;
        }
        send("pointermove", frames.length);
        requestAnimationFrame(tick);
    };
    requestAnimationFrame(tick);
})"""
FIRE = """(root, [from, count]) => {
    const surface = root.surface;
    for (let i = from; i < from + count; i++) {
        const x = 6 + 24 * (i % 20), y = 6 + 24 * Math.floor(i / 20);
        const box = [x, y, x + 12, y + 12];
        surface.emit("box", { object_id: `fired-${i}`, class_id: surface.classId, box });
    }
}"""


@dataclass(frozen=True)
class Work:
    """What one person is signed in for: an assignment, and the true boxes of its patch."""

    token: str
    assignment_id: int
    boxes: list[np.ndarray]


@dataclass(frozen=True)
class Desk:
    """A browser page at one assignment, as its annotator sees it."""

    page: Page
    live: LiveServer
    assignment_id: int
    boxes: list[np.ndarray]  # true nuclei of the patch

    @property
    def surface(self) -> Any:
        return self.page.locator(".dual-pane")

    def open(self, surface: str = "dual_pane") -> None:
        self.page.goto(f"{self.live.url}/annotate?surface={surface}&patch={self.assignment_id}")
        ready = ".surface .status" if surface == "dual_pane" else "canvas.upper-canvas"
        self.page.locator(ready).first.wait_for(timeout=120_000)
        self.page.wait_for_timeout(1500)

    def drag(self, start: tuple[float, float], end: tuple[float, float]) -> None:
        self.page.mouse.move(*start)
        self.page.mouse.down()
        self.page.mouse.move(*end, steps=5)
        self.page.mouse.up()

    def draw(self, box: np.ndarray) -> None:
        self.drag(on_screen(self.page, PATCH_PX, box[:2]), on_screen(self.page, PATCH_PX, box[2:]))

    def acts(self) -> list[Any]:
        with self.live.study.science.read() as db:
            return act_store.list_acts(db, self.assignment_id)

    def wait_for(self, kind: str, count: int) -> None:
        wait_until(lambda: sum(act.kind == kind for act in self.acts()) >= count, f"{count} x {kind}")


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer boxes and a shorter pan")
    quick = parser.parse_args(arguments).quick
    with tempfile.TemporaryDirectory(prefix="allinsam-surface-") as folder:
        progress("making the study")
        study = build_demo(
            Path(folder) / "study", DemoSettings(slides=2, patches_per_slide=5, one_marker_slides=())
        )
        raters = add_raters(study, 5)
        figures: dict[str, dict] = {}
        with serving(study, Path(folder) / "server.log") as live, chromium() as browser:
            alone = [open_page(browser, live, work) for work in raters[0]]
            figures |= masks_alone(alone[0], 12 if quick else 40)
            alone[0].page.close()
            figures |= overhead(alone[1], alone[2], 5 if quick else 15)
            figures |= frames_of_300(alone[3], 2.0 if quick else 5.0)
            figures |= pause_and_kill(alone[4])
            for desk in alone[1:]:
                desk.page.close()
            figures |= masks_of_eight(browser, live, raters, 4 if quick else 12)
    print_report("surface", figures)


# --- The parts ------------------------------------------------------------------------------------


def masks_alone(desk: Desk, count: int) -> dict[str, dict]:
    progress("one annotator")
    desk.open()
    desk.surface.evaluate(WATCH_MASKS)
    for box in boxes_for(desk, count):
        drawn = desk.page.evaluate("() => window.maskTimes.length")
        desk.draw(box)
        desk.page.wait_for_function("n => window.maskTimes.length > n", arg=drawn, timeout=120_000)
    times = desk.page.evaluate("() => window.maskTimes")[1:]  # the first loads the model
    note = "mouse up to the first frame with the mask, one annotator, each box after the mask before it"
    return {
        "mask_ms_p50_1": figure(times, "ms", note=note),
        "mask_ms_p95_1": quantile(times, 0.95, "ms", note),
    }


def masks_of_eight(
    browser: Browser, live: LiveServer, raters: list[list[Work]], rounds: int
) -> dict[str, dict]:
    """Eight browsers at eight patches, each drawing every 3 s whether or not the mask before has come."""
    progress(f"{RATERS} annotators")
    pages = [open_page(browser, live, works[n % len(works)]) for n, works in enumerate(raters)]
    for desk in pages:
        desk.open()
        desk.surface.evaluate(WATCH_MASKS)
    late = 0.0
    started = time.monotonic()
    for turn in range(rounds):
        for n, desk in enumerate(pages):
            due = started + BOX_EVERY_S * (turn + n / RATERS)
            late = max(late, time.monotonic() - due)
            time.sleep(max(0.0, due - time.monotonic()))
            desk.draw(boxes_for(desk, rounds)[turn])
    for desk in pages:
        desk.page.wait_for_function("n => window.maskTimes.length >= n", arg=rounds, timeout=120_000)
    times = [value for desk in pages for value in desk.page.evaluate("() => window.maskTimes")[1:]]
    for desk in pages:
        desk.page.close()
    note = (
        f"{RATERS} browsers on this machine, a box every {BOX_EVERY_S:g} s each; latest box {late:.1f} s late"
    )
    return {
        "mask_ms_p50_8": figure(times, "ms", note=note),
        "mask_ms_p95_8": quantile(times, 0.95, "ms", note),
    }


def overhead(dual: Desk, simple: Desk, count: int) -> dict[str, dict]:
    """Waits of the same script on both surfaces: a box, its mask, keep, until the next box can be drawn."""
    progress("waits on both surfaces")
    waits: dict[str, list[float]] = {"dual": [], "simple": []}
    dual.open()
    for n, box in enumerate(boxes_for(dual, count), 1):
        dual.draw(box)
        waited = waiting(lambda: keep_is_ready(dual.page, ".card"))
        dual.page.keyboard.press("a")
        waits["dual"].append(waited + waiting(lambda n=n: until_kept(dual.page, n)))
    simple.open("simple_canvas")
    pane = simple.page.locator("canvas.upper-canvas").bounding_box()
    scale = pane["width"] / PATCH_PX
    for n, box in enumerate(boxes_for(simple, count), 1):
        corners = np.reshape(box, (2, 2)) * scale + (pane["x"], pane["y"])
        simple.drag(*corners)
        waited = waiting(lambda: keep_is_ready(simple.page, ".st-key-panel"))
        simple.page.keyboard.press("a")
        waited += waiting(lambda n=n: until_kept(simple.page, n))
        waits["simple"].append(waited + waiting(lambda: settled(simple.page)))
    note = "seconds from the box to its Keep button, and from keeping until the next box can be drawn"
    return {
        f"overhead_s_per_nucleus_{name}": figure(
            values, "s", median(waits["simple"]) if name == "dual" else None, note
        )
        for name, values in waits.items()
    }


def frames_of_300(desk: Desk, seconds: float) -> dict[str, dict]:
    """Panning over 300 outlines at twice the whole patch's size."""
    progress("300 objects")
    desk.open()
    outlines = """root => {
        const surface = root.surface;
        for (let i = 0; i < 300; i++) {
            const x = 18 + 27 * (i % 18), y = 18 + 27 * Math.floor(i / 18);
            const points = Array.from({ length: 32 }, (_, k) => {
                const turn = (k / 32) * 2 * Math.PI, reach = 10 + 1.5 * Math.sin(3 * turn + i);
                return [x + reach * Math.cos(turn), y + reach * Math.sin(turn)];
            });
            const class_id = surface.desk.classes[i % surface.desk.classes.length].id;
            surface.emit("outline", { object_id: `many-${i}`, class_id, points, tool: "polygon" });
        }
    }"""
    started = time.monotonic()
    desk.surface.evaluate(outlines)
    desk.wait_for("mask_edit", 300)
    desk.page.locator(".counts", has_text="300 to check").wait_for(timeout=120_000)
    progress(f"300 outlines kept after {time.monotonic() - started:.1f} s")
    desk.surface.evaluate(WATCH_MASKS)
    for box in boxes_for(desk, 10):
        drawn = desk.page.evaluate("() => window.maskTimes.length")
        desk.draw(box)
        desk.page.wait_for_function("n => window.maskTimes.length > n", arg=drawn, timeout=120_000)
    masks = desk.page.evaluate("() => window.maskTimes")[1:]
    desk.surface.evaluate("root => { const s = root.surface; s.view.zoom = 2; s._keepOnPatch(); }")
    desk.page.wait_for_timeout(1000)
    panned = desk.surface.evaluate(PAN, seconds)
    intervals = np.diff(panned["frames"]).tolist()
    note = (
        f"{panned['draws']} of {len(intervals)} frames drew both panes, "
        f"{panned['drawing']:.1f} ms of script each; {seconds:g} s"
    )
    return {
        "frame_ms_p50_300": figure(intervals, "ms", note=note),
        "frame_ms_p95_300": quantile(intervals, 0.95, "ms", note),
        "mask_ms_p50_300": figure(masks, "ms", note="mouse up to mask with 300 outlines on the patch"),
    }


def pause_and_kill(desk: Desk) -> dict[str, dict]:
    """200 boxes as fast as the page can; the server stands still for 5 s and is killed once meanwhile."""
    progress("200 acts, a pause and a kill")
    desk.open()
    desk.surface.evaluate(FIRE, [0, 60])
    server = desk.live.server
    server.send_signal(signal.SIGSTOP)
    desk.surface.evaluate(FIRE, [60, 60])
    desk.page.wait_for_timeout(5000)
    server.send_signal(signal.SIGCONT)
    desk.surface.evaluate(FIRE, [120, 40])
    desk.wait_for("box", 100)
    server.send_signal(signal.SIGKILL)
    desk.surface.evaluate(FIRE, [160, 40])
    desk.wait_for("box", 200)
    drawn = [act.object_id for act in desk.acts() if act.kind == "box"]
    expected = [f"fired-{n}" for n in range(200)]
    in_order = [name for name in drawn if name in set(expected)] == expected
    note = f"of 200, in order: {in_order}"
    return {
        "acts_lost": figure([len(set(expected) - set(drawn))], "acts", note=note),
        "acts_doubled": figure([len(drawn) - len(set(drawn))], "acts", note=note),
    }


# --- People, pages, clocks ------------------------------------------------------------------------


def add_raters(study: Study, each: int) -> list[list[Work]]:
    """Eight signed-in annotators with the first patches of the study each."""
    with study.science.write() as db:
        classes = [row["id"] for row in study_store.list_classes(db)]
        patches = sorted(row["patch_id"] for row in assignments.list_assignments(db, TRUTH))[:each]
        given = []
        for n in range(RATERS):
            study_store.add_person(db, f"rater-{n}", "student")
            ids = [assignments.add_assignment(db, f"rater-{n}", patch_id, classes) for patch_id in patches]
            given.append(ids)
    boxes = [true_boxes(study, patch_id) for patch_id in patches]
    tokens = [signed_in_token(study, "annotator", f"rater-{n}", name=f"rater {n}") for n in range(RATERS)]
    return [
        [Work(token, own, known) for own, known in zip(ids, boxes, strict=True)]
        for token, ids in zip(tokens, given, strict=True)
    ]


def true_boxes(study: Study, patch_id: int) -> list[np.ndarray]:
    """Boxes of the simulated nuclei that lie well inside a patch, one px loose."""
    with study.science.read() as db:
        rows = [
            row
            for row in act_store.current_annotations(db)
            if row["person_id"] == TRUTH and row["patch_id"] == patch_id
        ]
    masks = (
        decode_rle({"size": [row["mask_height_px"], row["mask_width_px"]], "counts": row["mask_counts"]})
        for row in rows
    )
    boxes = [mask_to_box(mask) + np.array([-1, -1, 1, 1]) for mask in masks]
    return [box for box in boxes if box.min() > 12 and box.max() < PATCH_PX - 12]


def boxes_for(desk: Desk, count: int) -> list[np.ndarray]:
    """So many boxes: the patch's nuclei, from the start again where they are too few."""
    return [desk.boxes[n % len(desk.boxes)] for n in range(count)]


def open_page(browser: Browser, live: LiveServer, work: Work) -> Desk:
    context = browser.new_context(viewport=VIEWPORT)
    context.add_cookies([{"name": COOKIE, "value": work.token, "url": live.url}])
    return Desk(context.new_page(), live, work.assignment_id, work.boxes)


@contextmanager
def chromium() -> Iterator[Browser]:
    found = find_browser()
    if found is None:
        raise SystemExit("No Chromium on PATH. Install it, or name one in ALLINSAM_CHROMIUM.")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=FLAGS)
        yield browser
        browser.close()


def keep_is_ready(page: Page, within: str) -> None:
    page.locator(f"{within} button:not([disabled])", has_text="Keep").first.wait_for(timeout=120_000)


def until_kept(page: Page, count: int) -> None:
    page.locator(".counts", has_text=f"{count} kept").first.wait_for(timeout=120_000)


def settled(page: Page) -> None:
    """Until Streamlit has run its script to the end and the canvas has stood still for two frames."""
    page.wait_for_function("() => !document.querySelector('[data-testid=stStatusWidget]')", timeout=120_000)
    page.evaluate("() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")


def waiting(action: Any) -> float:
    started = time.perf_counter()
    action()
    return time.perf_counter() - started


def quantile(values: list[float], share: float, unit: str, note: str) -> dict:
    return figure([float(np.quantile(values, share))], unit, note=f"{share:.0%} of {len(values)}; {note}")


if __name__ == "__main__":
    main()
