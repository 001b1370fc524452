"""Simulated tissue: exact truth, colour that does not give the class away, habits that show in the boxes."""

import dataclasses
from collections.abc import Callable

import cv2
import numpy as np
import pytest
from scipy.ndimage import find_objects
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from allinsam.errors import InputError
from allinsam.simulate import (
    ANNOTATOR_HABITS,
    CONDITIONS,
    MARKER_OF_CLASS,
    SimulatedPatch,
    TissueSettings,
    simulate_boxes,
    simulate_patch,
    simulate_slide,
)

SEED = 11


@pytest.fixture(scope="module")
def slides() -> dict[int, list[SimulatedPatch]]:
    """Six slides of two patches, every second one injured."""
    conditions = {index: "injured" if index % 2 else "normal" for index in range(6)}
    looks = {index: simulate_slide(SEED, index, condition) for index, condition in conditions.items()}
    return {index: [simulate_patch(look, patch) for patch in range(2)] for index, look in looks.items()}


@pytest.fixture(scope="module")
def patches(slides: dict[int, list[SimulatedPatch]]) -> list[SimulatedPatch]:
    return [patch for group in slides.values() for patch in group]


def _ids(patch: SimulatedPatch, class_name: str) -> list[int]:
    return [number for number, name in patch.classes.items() if name == class_name]


def _warped_to_pas(patch: SimulatedPatch, marker: str) -> np.ndarray:
    """The channel in the PAS frame, by the patch's own matrix."""
    matrix = patch.matrix.copy()
    matrix[:, 2] += matrix[:, :2] @ (0.5, 0.5) - 0.5
    return cv2.warpAffine(patch.channels[marker].astype(np.float32), matrix, patch.labels.shape[::-1])


def test_shapes_and_types(patches: list[SimulatedPatch]) -> None:
    patch = patches[0]
    assert patch.pas.shape == (512, 512, 3) and patch.pas.dtype == np.uint8
    assert patch.labels.shape == (512, 512) and patch.labels.dtype == np.int32
    assert {c.dtype for c in patch.channels.values()} == {np.dtype(np.uint8)}
    assert list(patch.channels) == ["WT1", "GATA3"]
    assert patch.matrix.shape == (2, 3) and patch.um_per_px == 0.5


def test_same_seed_same_bytes_other_seed_other_bytes(patches: list[SimulatedPatch]) -> None:
    again = simulate_patch(simulate_slide(SEED, 0, "normal"), 0)
    assert np.array_equal(again.pas, patches[0].pas)
    assert np.array_equal(again.labels, patches[0].labels)
    assert all(np.array_equal(again.channels[m], patches[0].channels[m]) for m in again.channels)
    other_stream = dataclasses.replace(TissueSettings(), stream=2)
    other = simulate_patch(simulate_slide(SEED, 0, "normal", other_stream), 0, size_px=128)
    here = simulate_patch(simulate_slide(SEED, 0, "normal"), 0, size_px=128)
    assert not np.array_equal(other.labels, here.labels)


def test_global_random_state_is_neither_read_nor_changed() -> None:
    look = simulate_slide(SEED, 0, "normal")
    np.random.seed(1)
    first = simulate_patch(look, 3, size_px=128).pas
    np.random.seed(2)
    before = np.random.get_state()[1].copy()
    assert np.array_equal(simulate_patch(look, 3, size_px=128).pas, first)
    assert np.array_equal(np.random.get_state()[1], before)


def test_a_channel_does_not_depend_on_the_other_markers(patches: list[SimulatedPatch]) -> None:
    alone = simulate_patch(simulate_slide(SEED, 0, "normal"), 0, markers=("GATA3",))
    assert list(alone.channels) == ["GATA3"]
    assert np.array_equal(alone.channels["GATA3"], patches[0].channels["GATA3"])


def test_every_id_is_there_in_one_piece_of_a_nucleus_size(patches: list[SimulatedPatch]) -> None:
    for patch in patches:
        area = np.bincount(patch.labels.ravel())[1:]
        assert set(patch.classes) == set(range(1, len(area) + 1))
        assert area.min() >= 30 and area.max() < 400
        split = [
            n for n in patch.classes if cv2.connectedComponents((patch.labels == n).astype(np.uint8))[0] > 2
        ]
        assert not split


def test_counts_follow_the_condition(slides: dict[int, list[SimulatedPatch]]) -> None:
    count = {
        name: {
            c: np.mean([len(_ids(p, c)) for index in range(start, 6, 2) for p in slides[index]])
            for c in ("podocyte", "mesangial")
        }
        for start, name in enumerate(CONDITIONS)
    }
    assert 12 <= count["normal"]["podocyte"] <= 22 and 12 <= count["normal"]["mesangial"] <= 24
    assert count["injured"]["podocyte"] < count["normal"]["podocyte"] - 2
    for patch in (p for group in slides.values() for p in group):
        assert 60 <= len(patch.classes) <= 135


def _held_out_aucs(
    slides: dict[int, list[SimulatedPatch]], describe: Callable[[SimulatedPatch, int], np.ndarray]
) -> list[float]:
    """Podocyte against mesangial: fitted on three slides, read on the other three, and the reverse."""

    def table(indices: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
        chosen = [(p, n) for index in indices for p in slides[index] for n in p.classes]
        chosen = [(p, n) for p, n in chosen if p.classes[n] in MARKER_OF_CLASS]
        features = np.array([describe(p, n) for p, n in chosen])
        return features, np.array([p.classes[n] == "podocyte" for p, n in chosen])

    aucs = []
    for fitted, held_out in (((0, 1, 2), (3, 4, 5)), ((3, 4, 5), (0, 1, 2))):
        model = make_pipeline(StandardScaler(), LogisticRegression()).fit(*table(fitted))
        features, is_podocyte = table(held_out)
        aucs.append(float(roc_auc_score(is_podocyte, model.predict_proba(features)[:, 1])))
    return aucs


def test_mean_colour_does_not_tell_podocyte_from_mesangial(slides: dict[int, list[SimulatedPatch]]) -> None:
    aucs = _held_out_aucs(slides, lambda patch, number: patch.pas[patch.labels == number].mean(axis=0))
    assert max(max(auc, 1 - auc) for auc in aucs) <= 0.60


def test_the_surroundings_do_tell_podocyte_from_mesangial(slides: dict[int, list[SimulatedPatch]]) -> None:
    def ring(patch: SimulatedPatch, number: int) -> np.ndarray:
        nucleus = (patch.labels == number).astype(np.uint8)
        around = cv2.dilate(nucleus, np.ones((11, 11))) > cv2.dilate(nucleus, np.ones((3, 3)))
        return np.concatenate([patch.pas[around].mean(axis=0), patch.pas[around].std(axis=0)])

    assert min(_held_out_aucs(slides, ring)) >= 0.75


def test_the_marker_lights_its_own_class(patches: list[SimulatedPatch]) -> None:
    for patch in patches:
        for class_name, marker in MARKER_OF_CLASS.items():
            light = _warped_to_pas(patch, marker)
            mean = {n: light[patch.labels == n].mean() for n in patch.classes}
            own = [mean[n] for n in _ids(patch, class_name)]
            others = [mean[n] for n in mean if patch.classes[n] != class_name]
            truth = np.repeat([1, 0], [len(own), len(others)])
            assert roc_auc_score(truth, own + others) > 0.97


def test_the_matrix_maps_the_if_frame_onto_pas(patches: list[SimulatedPatch]) -> None:
    patch = patches[0]
    podocytes = np.isin(patch.labels, _ids(patch, "podocyte"))
    registered = _warped_to_pas(patch, "WT1")
    contrast = {
        name: image[podocytes].mean() - image[~podocytes].mean()
        for name, image in (("raw", patch.channels["WT1"].astype(float)), ("registered", registered))
    }
    assert contrast["registered"] > contrast["raw"]
    shift = np.hypot(*(patch.matrix @ (256, 256, 1) - 256))
    assert 1.0 <= shift <= 4.0
    assert abs(np.degrees(np.arctan2(patch.matrix[1, 0], patch.matrix[0, 0]))) < 1.0


def test_slides_need_different_thresholds(patches: list[SimulatedPatch]) -> None:
    background = [np.percentile(p.channels["WT1"], 50) for p in patches]
    bright = [np.percentile(p.channels["WT1"], 99.5) for p in patches]
    assert max(background) > 1.5 * min(background) and max(bright) > 1.5 * min(bright)


@pytest.mark.parametrize("name", ANNOTATOR_HABITS)
def test_boxes_are_usable_and_repeatable(name: str, patches: list[SimulatedPatch]) -> None:
    boxes = simulate_boxes(ANNOTATOR_HABITS[name], patches[0], "podocyte", seed=5)
    again = simulate_boxes(ANNOTATOR_HABITS[name], patches[0], "podocyte", seed=5)
    assert len(boxes) > 5
    assert [b.truth_id for b in boxes] == [b.truth_id for b in again]
    for box in boxes:
        assert box.class_name == "podocyte" and box.seconds > 0
        assert box.box.dtype == np.float32 and box.box.min() >= 0 and box.box.max() <= 512
        assert (box.box[2:] - box.box[:2] >= 2).all()


def test_a_box_holds_its_nucleus(patches: list[SimulatedPatch]) -> None:
    for box in simulate_boxes(ANNOTATOR_HABITS["student_loose"], patches[0], "mesangial", seed=1):
        if box.truth_id is not None:
            rows, columns = np.nonzero(patches[0].labels == box.truth_id)
            x0, y0, x1, y1 = box.box
            assert x0 <= columns.min() and columns.max() < x1 and y0 <= rows.min() and rows.max() < y1


def test_each_student_shows_the_dominant_fault(patches: list[SimulatedPatch]) -> None:
    shown = {}
    for name, habits in ANNOTATOR_HABITS.items():
        missed = swapped = false = total = 0
        margin, seconds = [], []
        for seed, patch in enumerate(patches):
            for class_name in MARKER_OF_CLASS:
                boxes = simulate_boxes(habits, patch, class_name, seed)
                own = _ids(patch, class_name)
                hit = {b.truth_id for b in boxes}
                total += len(own)
                missed += len(set(own) - hit)
                swapped += len([b for b in boxes if b.truth_id is not None and b.truth_id not in own])
                false += len([b for b in boxes if b.truth_id is None])
                seconds += [b.seconds for b in boxes]
                places = find_objects(patch.labels)
                for box in boxes:
                    if box.truth_id is not None:
                        columns = places[box.truth_id - 1][1]
                        margin.append(np.ptp(box.box[[0, 2]]) - (columns.stop - columns.start))
        shown[name] = {
            "missed": missed / total,
            "wrong": (swapped + false) / total,
            "margin": np.mean(margin),
            "seconds": np.median(seconds),
        }
    for fault, worst in (
        ("missed", "student_hasty"),
        ("wrong", "student_confused"),
        ("margin", "student_loose"),
        ("seconds", "student_loose"),
    ):
        others = [figures[fault] for name, figures in shown.items() if name != worst]
        assert shown[worst][fault] > 1.6 * max(others), fault
    assert shown["expert"]["missed"] < 0.08 and shown["expert"]["wrong"] < 0.03


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda: simulate_slide(1, 0, "sick"), "'sick'"),
        (lambda: simulate_patch(simulate_slide(1, 0), 0, markers=("CD34",)), "'CD34'"),
        (lambda: simulate_patch(simulate_slide(1, 0), 0, size_px=63), "63"),
    ],
)
def test_an_unusable_argument_is_named(call: Callable[[], object], named: str) -> None:
    with pytest.raises(InputError, match=named):
        call()


def test_an_unknown_class_is_named(patches: list[SimulatedPatch]) -> None:
    with pytest.raises(InputError, match="'neuron'"):
        simulate_boxes(ANNOTATOR_HABITS["expert"], patches[0], "neuron", 0)
