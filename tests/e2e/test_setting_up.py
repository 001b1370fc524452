"""A study set up in a browser by its lead alone: from a ZIP of images to links for students, acts counted."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from allinsam.imaging import encode_png
from allinsam.masks import encode_rle
from allinsam.simulate.pairs import PAIR_TISSUE, simulate_field
from allinsam.simulate.settings import simulate_slide
from allinsam.simulate.tissue import simulate_patch
from allinsam.store import Study, acts, assignments, images, thresholds
from allinsam.workflow.consenting import consent_text
from allinsam.workflow.importing import begin_study
from tests.bad_inputs import zip_bytes
from tests.e2e.conftest import Serve
from tests.live import wait_until
from tests.people import PASSWORD, signed_in_token

PATIENT = 60_000
MOST_ACTS, MOST_CLICKS = 25, 5
NAMES = [f"s{slide}_g{glomerulus}" for slide in (1, 2) for glomerulus in (1, 2, 3)]
WITH_GOLD = NAMES[:4]
STUDENTS = ["Ben", "Cleo", "Dan"]
CLASSES = {1: "podocyte", 2: "mesangial"}
SIZE_PX = 512


def lab_files() -> tuple[dict[str, bytes], str]:
    """Pairs of simulated tissue as files, and the true outlines of some as COCO, as earlier work may come."""
    files: dict[str, bytes] = {}
    annotations: list[dict] = []
    for seed, name in enumerate(NAMES, 1):
        field = simulate_field(seed)
        planes = {channel: np.clip(np.rint(light), 0, 255) for channel, light in field.light.items()}
        files[f"{name}_pas.png"] = encode_png(field.pas)
        files |= {f"{name}_{c.lower()}.png": encode_png(p.astype(np.uint8)) for c, p in planes.items()}
        if name not in WITH_GOLD:
            continue
        # The same tissue once more, with its truth.
        look = simulate_slide(seed, 0, ("normal", "injured")[seed % 2], PAIR_TISSUE)
        tissue = simulate_patch(look, seed, size_px=SIZE_PX)
        assert np.array_equal(tissue.pas, field.pas)
        for class_id, class_name in CLASSES.items():
            labels = tissue.class_labels(class_name)
            annotations += [
                {"image_id": seed, "category_id": class_id, "segmentation": encode_rle(labels == number)}
                for number in np.unique(labels[labels > 0])
            ]
    pictures = [
        {"id": n, "file_name": f"{name}.png", "width": SIZE_PX, "height": SIZE_PX}
        for n, name in enumerate(WITH_GOLD, 1)
    ]
    gold = {
        "images": pictures,
        "annotations": [{"id": n, "iscrowd": 0, **one} for n, one in enumerate(annotations, 1)],
        "categories": [{"id": class_id, "name": name} for class_id, name in CLASSES.items()],
    }
    return files, json.dumps(gold)


@pytest.fixture
def act(page: Page) -> Callable[[Callable[[], object]], int]:
    """Do one act of a person - a click, a key, a field filled, a file chosen - and count it."""
    done: list[int] = []
    settled = page.locator('[data-testid="stApp"][data-test-script-state="notRunning"]')

    def act_(do: Callable[[], object]) -> int:
        # As a person does, who looks at a page that still changes before clicking on it.
        expect(settled).to_be_visible(timeout=PATIENT)
        page.wait_for_timeout(600)  # a part that opens slides its buttons away from under the mouse
        do()
        done.append(1)
        return len(done)

    return act_


def page_link(page: Page, name: str) -> Locator:
    return page.get_by_role("link", name=name, exact=True)


def signed(study: Study) -> int:
    with study.science.read() as db:
        return len(thresholds.list_thresholds(db))


def test_from_a_zip_to_links_and_from_a_link_to_practice(
    tmp_path: Path,
    serve: Serve,
    page: Page,
    browser: Browser,
    act: Callable[[Callable[[], object]], int],
) -> None:
    study = begin_study(tmp_path / "study", "Own images")
    signed_in_token(study, "lead", "p-lead", "Ada")
    live = serve(study)
    packed, gold = tmp_path / "lab.zip", tmp_path / "gold.json"
    files, outlines = lab_files()
    packed.write_bytes(zip_bytes(files))
    gold.write_text(outlines, "utf-8")
    live.sign_in(page, "Ada", PASSWORD)

    # Images, and the outlines that are there already as gold.
    act(page_link(page, "Import").click)
    act(lambda: page.get_by_label("ZIP of images").set_input_files(packed, timeout=PATIENT))
    act(lambda: page.get_by_role("button", name="Import 6 patches").click(timeout=PATIENT))
    expect(page.get_by_text("6 patches of 2 slides")).to_be_visible(timeout=PATIENT)
    act(page.get_by_role("tab", name="Annotations").click)
    act(lambda: page.get_by_label("File with annotations").set_input_files(gold, timeout=PATIENT))
    act(lambda: page.get_by_role("button", name="Bring in").click(timeout=PATIENT))
    expect(page.get_by_text("came in as gold")).to_be_visible(timeout=PATIENT)

    # How the IF lies on the stain, and from where on a marker counts.
    act(page_link(page, "Registration").click)
    act(lambda: page.get_by_role("button", name="Register all that have none").click(timeout=PATIENT))
    wait_until(lambda: all_registered(study), "the registrations")
    act(page_link(page, "Ten minutes").click)
    for n in range(4):
        expect(page.locator(".minutes", has_text="Threshold to sign")).to_be_visible(timeout=PATIENT)
        act(lambda: page.keyboard.press("Enter"))
        wait_until(lambda n=n: signed(study) == n + 1, "the signature")

    # What people are told, what newcomers do first, and the links.
    act(page_link(page, "People").click)
    act(lambda: page.get_by_text("Consent", exact=True).click(timeout=PATIENT))
    consent = page.get_by_label("Consent text (Markdown)")
    act(lambda: consent.fill("We keep what you draw under a pseudonym.", timeout=PATIENT))
    act(page.get_by_role("button", name="Publish the text").click)
    expect(page.get_by_text("Version 1 is saved")).to_be_visible(timeout=PATIENT)
    act(lambda: page.get_by_text("Training, gold scores and reminders").click(timeout=PATIENT))
    act(lambda: page.get_by_text("New students learn first").click(timeout=PATIENT))
    act(page.get_by_role("button", name="Set", exact=True).click)
    expect(page.get_by_text("New students learn first.", exact=True).first).to_be_visible(timeout=PATIENT)
    act(lambda: page.get_by_label("Names to sign in with").fill("\n".join(STUDENTS), timeout=PATIENT))
    act(page.get_by_role("button", name="Invite", exact=True).click)
    links = page.locator("code", has_text="set-password")
    expect(links).to_be_visible(timeout=PATIENT)
    lines = links.inner_text().splitlines()
    links.hover()
    needed = act(page.get_by_role("button", name="Copy").first.click)
    assert needed <= MOST_ACTS, f"{needed} acts from the ZIP to the links"
    assert [line.split(": ")[0] for line in lines] == STUDENTS
    with study.science.read() as db:
        assert len(images.list_patches(db)) == 6 and consent_text(db) is not None
        assert len({row["patch_id"] for row in acts.current_annotations(db)}) == len(WITH_GOLD)

    # The rest of the patches are seen as a plan in two more, and given out in a third.
    act(lambda: page.get_by_text("Plan for everybody").click(timeout=PATIENT))
    act(page.get_by_role("button", name="Preview").click)
    expect(page.get_by_role("button", name="Give out")).to_be_visible(timeout=PATIENT)

    # A student: the link is followed, the rest are clicks.
    context = browser.new_context(viewport={"width": 1366, "height": 768})
    mine, clicks = context.new_page(), []
    mine.goto(lines[0].split(": ")[1])
    mine.get_by_label("Password").fill(PASSWORD)
    mine.get_by_label("The same again").fill(PASSWORD)
    for name in ("Set password", "I agree", "Skip the tour"):
        mine.get_by_role("button", name=name).click(timeout=PATIENT)
        clicks.append(name)
    expect(mine.locator(".surface .practice", has_text="Practice")).to_be_visible(timeout=PATIENT)
    assert len(clicks) <= MOST_CLICKS
    context.close()
    with study.science.read() as db:
        queues: dict[str, list[str]] = {}
        for row in assignments.list_assignments(db):
            queues.setdefault(row["person_id"], []).append(row["purpose"])
    assert sum(queue[:1] == ["practice"] for queue in queues.values()) >= 1


def all_registered(study: Study) -> bool:
    with study.science.read() as db:
        newest = images.newest_registrations(db)
    return len(newest) == len(NAMES) and all(
        row["accepted"] and row["version"] > 1 for row in newest.values()
    )
