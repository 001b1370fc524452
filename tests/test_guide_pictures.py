"""Each example of the help shows what its name and its sentence say, and reaches the browser."""

import threading
import time
from collections.abc import Iterator

import cv2
import numpy as np
import pytest
from starlette.applications import Starlette
from starlette.testclient import TestClient

from allinsam.simulate import TissueSettings
from tests.test_views import read_png
from webapp import guide_pictures, guide_routes, views
from webapp.annotate.guidance import examples_html
from webapp.guide_pictures import EXAMPLES, GAP_PX, PANE_PX, Example, Tissue
from webapp.surfaces.dual_pane import STRINGS

LONGEST_CAPTION = 60


@pytest.fixture(scope="module")
def tissue() -> Tissue:
    return guide_pictures.simulated_tissue()


@pytest.fixture(scope="module")
def examples(tissue: Tissue) -> dict[str, Example]:
    return {name: row.find(tissue) for name, row in EXAMPLES.items()}


def pixels(box: np.ndarray) -> tuple[slice, slice]:
    x0, y0, x1, y1 = (round(float(v)) for v in box)
    return slice(y0, y1), slice(x0, x1)


def main_id(tissue: Tissue, box: np.ndarray) -> int:
    """The nucleus that covers most of a box."""
    inside = tissue.labels[pixels(box)]
    return int(np.bincount(inside[inside > 0]).argmax())


def touches_all_sides(tissue: Tissue, box: np.ndarray) -> bool:
    """Whether the box's main nucleus reaches each of its sides from within, and lies nowhere else."""
    mask = tissue.labels == main_id(tissue, box)
    inside = mask[pixels(box)]
    sides = (inside[0], inside[-1], inside[:, 0], inside[:, -1])
    return all(side.any() for side in sides) and inside.sum() == mask.sum()


def whole_wanted(tissue: Tissue, box: np.ndarray) -> set[int]:
    """Nuclei of the class that lie wholly in a box."""
    found = set(np.unique(tissue.labels[pixels(box)]).tolist()) & tissue.wanted
    return {n for n in found if (tissue.labels[pixels(box)] == n).sum() == (tissue.labels == n).sum()}


def window_box(example: Example) -> np.ndarray:
    w = example.window
    return np.array([w.x0, w.y0, w.x0 + w.side_px, w.y0 + w.side_px])


# --- Good ---------------------------------------------------------------------------------------


def test_the_good_box_touches_one_nucleus_on_all_sides(tissue, examples):
    (box,) = examples["good_box"].shapes
    assert touches_all_sides(tissue, box) and main_id(tissue, box) in tissue.wanted


def test_the_good_outline_is_a_nucleus(tissue, examples):
    (mask,) = examples["good_outline"].shapes
    (number,) = np.unique(tissue.labels[mask]).tolist()
    assert number in tissue.wanted and np.array_equal(mask, tissue.labels == number)


def test_two_boxes_for_two_nuclei_that_touch(tissue, examples):
    boxes = examples["good_two_boxes"].shapes
    assert len(boxes) == 2 and all(touches_all_sides(tissue, box) for box in boxes)
    a, b = (main_id(tissue, box) for box in boxes)
    assert a != b and {a, b} <= tissue.wanted
    grown = cv2.dilate((tissue.labels == a).astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
    assert (grown & (tissue.labels == b)).any()


def test_the_box_ends_where_the_patch_ends(tissue, examples):
    example = examples["good_border"]
    (box,) = example.shapes
    height, width = tissue.labels.shape
    ends = np.array([box[0] == 0, box[1] == 0, box[2] == width, box[3] == height])
    x0, y0, x1, y1 = window_box(example)
    beyond = np.array([x0 < 0, y0 < 0, x1 > width, y1 > height])
    assert ends.sum() == 1 and np.array_equal(ends, beyond)
    assert touches_all_sides(tissue, box) and main_id(tissue, box) in tissue.wanted
    # Flat at the border: cut, not only near it.
    mask = (tissue.labels == main_id(tissue, box))[pixels(box)]
    side = (mask[:, 0], mask[0], mask[:, -1], mask[-1])[int(ends.argmax())]
    assert side.sum() >= 5


def test_bright_and_a_nucleus_beside_one_that_is_dark(tissue, examples):
    good, bad = examples["good_bright"], examples["bad_dark"]
    (bright_box,), (dark_box,) = good.shapes, bad.shapes
    assert good.window == bad.window
    bright, dark = main_id(tissue, bright_box), main_id(tissue, dark_box)
    assert bright in tissue.wanted and dark not in tissue.wanted
    for box, number in ((bright_box, bright), (dark_box, dark)):
        assert touches_all_sides(tissue, box)
        mask = tissue.labels == number
        around = cv2.dilate(mask.astype(np.uint8), np.ones((9, 9), np.uint8)) > 0
        assert tissue.pas[mask].mean() < tissue.pas[around & (tissue.labels == 0)].mean() - 30
    assert np.median(good.marker[tissue.labels == bright]) > tissue.threshold
    assert bad.marker[tissue.labels == dark].max() < tissue.threshold
    assert whole_wanted(tissue, window_box(good)) == {bright}


def test_where_nobody_could_tell_nothing_is_drawn(tissue, examples):
    example = examples["good_unsure"]
    place = pixels(window_box(example))
    assert example.shapes == () and example.sign == "?"
    assert whole_wanted(tissue, window_box(example))
    blurred, sharp = (
        cv2.Laplacian(cv2.cvtColor(pas, cv2.COLOR_RGB2GRAY), cv2.CV_32F)[place].std()
        for pas in (example.pas, tissue.pas)
    )
    assert blurred < 0.2 * sharp


# --- Bad ----------------------------------------------------------------------------------------


def test_the_tight_box_cuts_the_nucleus_of_the_good_box(tissue, examples):
    (box,), (good,) = examples["bad_tight"].shapes, examples["good_box"].shapes
    assert (box[:2] > good[:2] + 2).all() and (box[2:] < good[2:] - 2).all()
    mask = tissue.labels == main_id(tissue, good)
    assert mask[pixels(box)].sum() < 0.6 * mask.sum()


def test_the_loose_box_holds_much_else(tissue, examples):
    (box,), (good,) = examples["bad_loose"].shapes, examples["good_box"].shapes
    mask = tissue.labels == main_id(tissue, good)
    assert mask[pixels(box)].sum() == mask.sum() < 0.25 * mask[pixels(box)].size


def test_one_box_over_both_nuclei(tissue, examples):
    (box,) = examples["bad_one_box"].shapes
    both = {main_id(tissue, good) for good in examples["good_two_boxes"].shapes}
    assert whole_wanted(tissue, box) == both and len(both) == 2


def test_light_where_no_nucleus_is(tissue, examples):
    example = examples["bad_no_nucleus"]
    (box,) = example.shapes
    assert (example.marker[pixels(box)] > tissue.threshold).mean() > 0.6
    wide = box + np.array([-4, -4, 4, 4])
    assert not tissue.labels[pixels(wide)].any()
    assert tissue.pas[pixels(box)].mean() > 200  # pale: nobody takes it for a nucleus


def test_the_leak_keeps_the_nucleus_and_runs_on(tissue, examples):
    (mask,), (good,) = examples["bad_leak"].shapes, examples["good_outline"].shapes
    assert mask[good].all()
    leak = mask & ~good
    assert leak.sum() > 0.3 * good.sum() and not tissue.labels[leak].any()
    assert cv2.connectedComponents(mask.astype(np.uint8), connectivity=4)[0] == 2


# --- All of them --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", EXAMPLES)
def test_what_is_meant_is_in_the_picture(name: str, examples: dict[str, Example], tissue: Tissue) -> None:
    example = examples[name]
    window = window_box(example)
    height, width = tissue.labels.shape
    if name != "good_border":
        assert (window[:2] >= 0).all() and window[2] <= width and window[3] <= height
    for shape in example.shapes:
        if shape.ndim == 2:
            assert shape[pixels(window)].sum() == shape.sum()
        else:
            assert (shape[:2] >= window[:2] + 1).all() and (shape[2:] <= window[2:] - 1).all()


@pytest.mark.parametrize("name", EXAMPLES)
def test_both_panes_carry_the_class_colour(name: str, examples: dict[str, Example], tissue: Tissue) -> None:
    picture = guide_pictures.draw(tissue, examples[name])
    assert picture.shape == (PANE_PX, 2 * PANE_PX + GAP_PX, 3) and picture.dtype == np.uint8
    colour = np.array(views.rgb(tissue.colour))
    near = np.abs(picture.astype(int) - colour).max(axis=2) < 30
    assert near[:, :PANE_PX].sum() > 60 and near[:, PANE_PX + GAP_PX :].sum() > 60
    marker = picture[:, PANE_PX + GAP_PX :].astype(int)
    coloured = np.ptp(marker, axis=2) > 40
    # Nothing but the drawing has a colour on the marker: no red or green says good or bad.
    assert (marker[coloured][:, 2] > marker[coloured][:, 0]).all()


def test_an_outline_is_drawn_where_the_mask_ends(examples, tissue):
    example = examples["good_outline"]
    picture = guide_pictures.draw(tissue, example)[:, PANE_PX + GAP_PX :].astype(int)
    line = np.ptp(picture, axis=2) > 40
    mask = views.crop(example.shapes[0].astype(np.float32), example.window, fill=0) > 0.5
    edge = cv2.morphologyEx(mask.astype(np.uint8), cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8)) > 0
    away = cv2.distanceTransform((~edge).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    assert line.any() and away[line].max() < 4


def test_six_and_six_each_with_a_short_sentence() -> None:
    assert [row.good for row in EXAMPLES.values()] == [True] * 6 + [False] * 6
    assert all(name.startswith("good_" if row.good else "bad_") for name, row in EXAMPLES.items())
    captions = STRINGS["examples"]
    assert list(captions) == list(EXAMPLES)
    assert max(map(len, captions.values())) <= LONGEST_CAPTION and len(set(captions.values())) == 12


def test_the_tissue_is_of_no_study() -> None:
    assert guide_pictures.SETTINGS.stream != TissueSettings().stream


def test_the_same_pictures_every_time_and_no_two_alike() -> None:
    first, again = (guide_pictures.draw_all(guide_pictures.simulated_tissue()) for _ in range(2))
    assert all(np.array_equal(first[name], again[name]) for name in EXAMPLES)
    assert len({picture.tobytes() for picture in first.values()}) == 12


def test_the_simple_surface_shows_the_same_pictures() -> None:
    shown = examples_html(with_marker=True)
    assert all(f'src="/api/guide/{name}.png"' in shown for name in EXAMPLES)
    assert all(caption in shown for caption in STRINGS["examples"].values()) and "Simulated" in shown
    assert shown.index("good_unsure") < shown.index("bad_tight")


def test_without_a_marker_nothing_is_said_about_one() -> None:
    shown = examples_html(with_marker=False)
    assert "marker" not in shown.lower() and "stain-only" in shown
    assert shown.count("<img") == 9


# --- The route ----------------------------------------------------------------------------------


@pytest.fixture
def client() -> TestClient:
    return TestClient(Starlette(routes=guide_routes.routes))


@pytest.mark.parametrize("name", EXAMPLES)
def test_each_picture_comes_by_its_name(client: TestClient, name: str) -> None:
    answer = client.get(f"/api/guide/{name}.png")
    assert answer.status_code == 200 and answer.headers["content-type"] == "image/png"
    assert read_png(answer.content).shape == (PANE_PX, 2 * PANE_PX + GAP_PX, 3)


def test_a_browser_keeps_a_picture_and_no_proxy_does(client: TestClient) -> None:
    first = client.get("/api/guide/good_box.png")
    assert first.headers["cache-control"].startswith("private")
    again = client.get("/api/guide/good_box.png", headers={"If-None-Match": first.headers["etag"]})
    assert again.status_code == 304 and again.content == b""
    other = client.get("/api/guide/bad_loose.png", headers={"If-None-Match": first.headers["etag"]})
    assert other.status_code == 200


def test_an_unknown_picture_is_told_in_words(client: TestClient) -> None:
    answer = client.get("/api/guide/best_box.png")
    assert answer.status_code == 404 and "'best_box'" in answer.text and "good_box" in answer.text


@pytest.fixture
def nothing_drawn_yet() -> Iterator[None]:
    guide_routes._drawn_pictures.cache_clear()
    yield
    guide_routes._drawn_pictures.cache_clear()


def test_many_who_ask_at_once_wait_for_one_drawing(
    nothing_drawn_yet: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def simulate() -> None:
        calls.append(1)
        time.sleep(0.05)

    monkeypatch.setattr(guide_routes, "simulated_tissue", simulate)
    monkeypatch.setattr(guide_routes, "draw_all", lambda tissue: {})
    threads = [threading.Thread(target=guide_routes.guide_pictures) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(calls) == 1
