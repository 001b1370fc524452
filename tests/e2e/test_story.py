"""The main job in a real browser: from the first link to the CSV that says whether students were as good."""

import csv
import re
import signal
from pathlib import Path
from urllib.request import urlopen

import numpy as np
import psutil
import pytest
from playwright.sync_api import Page, expect

from allinsam import jobs
from allinsam.masks import decode_rle
from allinsam.prompts import mask_to_box
from allinsam.store import Study, runs
from allinsam.store import acts as act_store
from allinsam.store import assignments as queue
from allinsam.store.jobs import get_job
from allinsam.workflow.checking import verify
from allinsam.workflow.demo import NEWCOMER, TRUTH
from tests.e2e.panes import on_screen
from tests.live import LiveServer, serving, wait_until
from tests.people import PASSWORD
from tests.tiny_demo import TINY, tiny_demo

PATIENT = 120_000  # ms, for a busy machine


def act_kinds(study: Study, assignment_id: int) -> list[str]:
    with study.science.read() as db:
        return [act.kind for act in act_store.list_acts(db, assignment_id)]


def my_assignment(study: Study) -> dict:
    with study.science.read() as db:
        return queue.list_assignments(db, NEWCOMER)[0]


def true_boxes(study: Study, patch_id: int, class_name: str) -> list[np.ndarray]:
    """Boxes of the nuclei that lie well inside a patch, one px loose, in px of the patch."""
    with study.science.read() as db:
        rows = [
            row
            for row in act_store.current_annotations(db)
            if (row["person_id"], row["patch_id"], row["class_name"]) == (TRUTH, patch_id, class_name)
        ]
    sizes = [[row["mask_height_px"], row["mask_width_px"]] for row in rows]
    masks = [
        decode_rle({"size": size, "counts": row["mask_counts"]})
        for size, row in zip(sizes, rows, strict=True)
    ]
    boxes = [mask_to_box(mask) + np.array([-1, -1, 1, 1]) for mask in masks]
    return [box for box in boxes if box.min() > 12 and box.max() < TINY.size_px - 12]


def drag_box(page: Page, box: np.ndarray) -> None:
    """Draw a box with the mouse, as a student does."""
    x0, y0 = on_screen(page, TINY.size_px, box[:2])
    x1, y1 = on_screen(page, TINY.size_px, box[2:])
    page.mouse.move(x0, y0)
    page.mouse.down()
    page.mouse.move((x0 + x1) / 2, (y0 + y1) / 2, steps=4)
    page.mouse.move(x1, y1, steps=4)
    page.mouse.up()


def draw_and_keep(page: Page, study: Study, assignment_id: int, box: np.ndarray) -> None:
    before = act_kinds(study, assignment_id)
    drag_box(page, box)
    wait_until(
        lambda: act_kinds(study, assignment_id).count("mask_shown") > before.count("mask_shown"), "the mask"
    )
    expect(page.get_by_role("button", name=re.compile("^Keep A"))).to_be_enabled(timeout=PATIENT)
    page.keyboard.press("a")
    wait_until(lambda: act_kinds(study, assignment_id).count("accept") > before.count("accept"), "the keep")
    # The page says so too.
    kept = act_kinds(study, assignment_id).count("accept")
    expect(page.locator(".counts", has_text=f"{kept} kept")).to_be_visible(timeout=PATIENT)


def open_annotate(page: Page, live: LiveServer) -> None:
    page.goto(f"{live.url}/annotate")
    expect(page.locator(".surface .status")).to_be_visible(timeout=PATIENT)
    page.wait_for_timeout(300)


@pytest.fixture
def study(tmp_path: Path) -> Study:
    return tiny_demo(tmp_path / "study")


def sign_in_by_the_first_link(page: Page, live: LiveServer) -> None:
    link = re.search(r"http://\S+/set-password\?token=\S+", live.log.read_text("utf-8")).group()
    page.goto(link)
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_label("The same again").fill(PASSWORD)
    page.get_by_role("button", name="Set password").click()
    expect(page.get_by_text("Simulated data")).to_be_visible(timeout=PATIENT)


def test_from_the_first_link_to_the_comparison(study: Study, page: Page, tmp_path: Path) -> None:
    mine = my_assignment(study)
    with serving(study, tmp_path / "server.log") as live:
        sign_in_by_the_first_link(page, live)

        # Annotate: a box with the mouse, SAM's mask, keep; both classes; hand in.
        open_annotate(page, live)
        podocytes = true_boxes(study, mine["patch_id"], "podocyte")
        for box in podocytes[:2]:
            draw_and_keep(page, study, mine["id"], box)
        page.keyboard.press("2")
        expect(page.locator(".bar .class.pressed")).to_contain_text("mesangial", timeout=PATIENT)
        draw_and_keep(page, study, mine["id"], true_boxes(study, mine["patch_id"], "mesangial")[0])
        page.get_by_role("button", name=re.compile("Hand in")).click()
        wait_until(lambda: my_assignment(study)["state"] == "submitted", "the submission")

        # The rows are in SQLite and follow from the acts.
        with study.science.read() as db:
            kept = act_store.current_annotations(db, mine["id"])
            classes = queue.assignment_classes(db, mine["id"])
        assert sorted(row["class_name"] for row in kept) == ["mesangial", "podocyte", "podocyte"]
        assert all(row["origin"] == "sam" and row["molecular_support"] is not None for row in kept)
        assert set(classes.values()) == {"complete"}
        assert verify(study)["problems"] == []

        # Train and compare with one click, on a tiny budget.
        page.goto(f"{live.url}/train")
        minutes = page.get_by_role("spinbutton", name="Minutes for each training")
        minutes.fill("0.2", timeout=PATIENT)
        minutes.press("Enter")
        page.get_by_role("button", name="Train and compare").click()
        wait_until(lambda: jobs.list_views(study), "the job")
        wait_until(lambda: not jobs.list_views(study)[0].is_active, "the training", patience_s=400)
        job = jobs.list_views(study)[0]
        assert job.state == "finished", jobs.read_log(study, job.id)
        with study.science.read() as db:
            trained = [run for run in runs.list_runs(db) if run["kind"] == "adapter"]
        assert {run["name"] for run in trained} == {"expert", "students"}
        assert {run["state"] for run in trained} == {"finished"}

        # The comparison and its CSV.
        page.goto(f"{live.url}/compare")
        expect(page.get_by_role("heading", name="Compare")).to_be_visible(timeout=PATIENT)
        expect(page.locator(".js-plotly-plot").first).to_be_visible(timeout=PATIENT)
        with page.expect_download() as download:
            page.get_by_role("link", name=re.compile("CSV")).first.click()
        with open(download.value.path(), encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        assert {row["label"] for row in rows} >= {"expert", "students", "untrained"}


def test_killed_servers_and_trainings_lose_nothing(study: Study, page: Page, tmp_path: Path) -> None:
    mine = my_assignment(study)
    boxes = true_boxes(study, mine["patch_id"], "podocyte")
    with serving(study, tmp_path / "server.log") as live:
        sign_in_by_the_first_link(page, live)
        tiny = {"labels": ["expert"], "adapter_epochs": 60, "corrective_epochs": 1, "device": "cpu"}
        job_id = jobs.submit(study, "experiment", tiny, NEWCOMER)
        open_annotate(page, live)
        draw_and_keep(page, study, mine["id"], boxes[0])

        # The server is killed while a run is going and a box is being drawn.
        wait_until(lambda: jobs.get_view(study, job_id).detail.get("epoch", 0) >= 1, "an epoch")
        training = pid_of(study, job_id)
        drag_box(page, boxes[1])
        saved = act_kinds(study, mine["id"])
        server = children_named(live, "server")[0]
        server.send_signal(signal.SIGKILL)
        server.wait(20)
        wait_until(lambda: children_named(live, "server"), "a new server")
        wait_until(lambda: answers(live), "its answer")
        assert psutil.pid_exists(training) and pid_of(study, job_id) == training
        assert act_kinds(study, mine["id"])[: len(saved)] == saved
        assert len(children_named(live, "worker")) == 1

        # The page comes back with everything that was saved, and shows the training.
        open_annotate(page, live)
        kept = page.locator(".counts", has_text="1 kept").first
        expect(kept).to_be_visible(timeout=PATIENT)
        page.goto(f"{live.url}/train")
        expect(page.get_by_text("running", exact=True).first).to_be_visible(timeout=PATIENT)

        # The training is killed: interrupted within 30 s, resumed from its checkpoint.
        psutil.Process(training).send_signal(signal.SIGKILL)
        wait_until(lambda: jobs.get_view(study, job_id).state == "interrupted", "interrupted", patience_s=30)
        expect(page.get_by_text("interrupted", exact=True).first).to_be_visible(timeout=PATIENT)
        with study.science.read() as db:
            run = runs.list_runs(db)[-1]
            done = len(runs.run_epochs(db, run["id"]))
        page.get_by_role("button", name="Resume").click()
        wait_until(lambda: pid_of(study, job_id) not in (None, training), "the resumed process")
        wait_until(lambda: jobs.get_view(study, job_id).detail.get("epoch", 0) > done, "a further epoch")
        with study.science.read() as db:
            assert [row["id"] for row in runs.list_runs(db) if row["kind"] == "adapter"] == [run["id"]]
        jobs.cancel(study, job_id)
        wait_until(lambda: jobs.get_view(study, job_id).state == "cancelled", "the cancelling")
        assert verify(study)["problems"] == []


def pid_of(study: Study, job_id: int) -> int | None:
    with study.server.read() as db:
        return get_job(db, job_id)["pid"]


def answers(live: LiveServer) -> bool:
    try:
        with urlopen(f"{live.url}/api/health", timeout=5) as answer:
            return answer.status == 200
    except OSError:
        return False


def children_named(live: LiveServer, what: str) -> list[psutil.Process]:
    """The supervisor's children of this kind that are alive."""
    found = []
    for child in psutil.Process(live.process.pid).children():
        if child.status() != psutil.STATUS_ZOMBIE and what in child.cmdline():
            found.append(child)
    return found
