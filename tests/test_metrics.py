import json
import os
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from allinsam.errors import InputError
from allinsam.metrics import (
    FORMULAS,
    METRICS,
    auc_pixel,
    best_f1_pixel,
    f1_centroid,
    match_instances,
    overlap,
    score_all,
)

SHARED = Path(os.environ.get("ALLINSAM_SHARED_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
needs_fixtures = pytest.mark.skipif(
    not (SHARED / "metric_fixtures").is_dir() or not (SHARED / "monuseg2018_train").is_dir(),
    reason=f"no metric_fixtures and monuseg2018_train in {SHARED} (set ALLINSAM_SHARED_DATA)",
)
LABELS = arrays(np.int32, (8, 9), elements=st.integers(0, 4))


def boxes(*xyxy_ids: tuple[int, int, int, int, int]) -> np.ndarray:
    """A 16 x 16 label image of rectangles (x0, y0, x1, y1, id)."""
    labels = np.zeros((16, 16), np.int32)
    for x0, y0, x1, y1, identity in xyxy_ids:
        labels[y0:y1, x0:x1] = identity
    return labels


NOTHING = boxes()
ONE = boxes((0, 0, 4, 4, 1))
ALL_ONE = dict.fromkeys(METRICS, 1.0)
ALL_ZERO = dict.fromkeys(METRICS, 0.0)

# Each case: predicted, true, and every score worked out by hand.
KNOWN = {
    # Hit exactly (IoU 1), hit a column off (12 of 20 px, IoU 0.6), one missed, one invented; each 16 px.
    "hits, a miss and an extra": (
        boxes((0, 0, 4, 4, 5), (9, 0, 13, 4, 9), (12, 12, 16, 16, 7)),
        boxes((0, 0, 4, 4, 1), (8, 0, 12, 4, 2), (0, 8, 4, 12, 3)),
        {
            "f1_instance": 2 / 3,
            "precision_instance": 2 / 3,
            "recall_instance": 2 / 3,
            "f1_instance_75": 1 / 3,
            "dq": 2 / 3,
            "sq": 0.8,
            "pq": 1.6 / 3,
            "dice": 56 / 96,
            "iou": 28 / 68,
            "precision_pixel": 28 / 48,
            "recall_pixel": 28 / 48,
            "f1_pixel_macro": (56 / 96 + 376 / 416) / 2,
            "aji": 28 / 68,
            "aji_plus": 28 / 68,
            "dice_ensemble": 56 / 64,
        },
    ),
    # Two neighbours of 16 px predicted as one of 32: IoU exactly 0.5 with either, which is no match.
    "a merge at IoU exactly 0.5": (
        boxes((0, 0, 8, 4, 1)),
        boxes((0, 0, 4, 4, 1), (4, 0, 8, 4, 2)),
        {
            "f1_instance": 0,
            "precision_instance": 0,
            "recall_instance": 0,
            "f1_instance_75": 0,
            "dq": 0,
            "sq": 0,
            "pq": 0,
            "dice": 1,
            "iou": 1,
            "precision_pixel": 1,
            "recall_pixel": 1,
            "f1_pixel_macro": 1,
            "aji": 32 / 64,
            "aji_plus": 16 / 48,
            "dice_ensemble": 64 / 96,
        },
    ),
    # 12 of 16 px found (IoU exactly 0.75, no match at 0.75), and 8 px elsewhere: precision and recall differ.
    "too small, and an extra": (
        boxes((0, 0, 3, 4, 1), (8, 8, 10, 12, 2)),
        ONE,
        {
            "f1_instance": 2 / 3,
            "precision_instance": 1 / 2,
            "recall_instance": 1,
            "f1_instance_75": 0,
            "dq": 2 / 3,
            "sq": 0.75,
            "pq": 0.5,
            "dice": 24 / 36,
            "iou": 12 / 24,
            "precision_pixel": 12 / 20,
            "recall_pixel": 12 / 16,
            "f1_pixel_macro": (24 / 36 + 464 / 476) / 2,
            "aji": 12 / 24,
            "aji_plus": 12 / 24,
            "dice_ensemble": 24 / 28,
        },
    ),
    # The background's F1 is 448 / 480, which is all that the macro score has left.
    "elsewhere": (boxes((8, 8, 12, 12, 1)), ONE, ALL_ZERO | {"f1_pixel_macro": 448 / 480 / 2}),
    "the same under other ids": (
        boxes((0, 0, 4, 4, 70000), (8, 8, 9, 9, 3)),
        boxes((0, 0, 4, 4, 2), (8, 8, 9, 9, 9)),
        ALL_ONE,
    ),
    "foreground everywhere": (np.ones((16, 16), np.int32), np.full((16, 16), 4), ALL_ONE),
    "both empty": (NOTHING, NOTHING, ALL_ONE),
    "only the prediction is empty": (NOTHING, ONE, ALL_ZERO),
    "only the truth is empty": (ONE, NOTHING, ALL_ZERO),
}


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("case", KNOWN)
def test_known_answers(case, metric):
    pred, true, scores = KNOWN[case]
    value = METRICS[metric](pred, true)
    assert isinstance(value, float)
    assert value == pytest.approx(scores[metric], abs=1e-12)


def test_matching_names_the_ids():
    pred, true, _ = KNOWN["hits, a miss and an extra"]
    matching = match_instances(pred, true)
    assert matching.pairs.tolist() == [[5, 1], [9, 2]]
    assert matching.iou.tolist() == [1.0, 0.6]
    assert matching.unmatched_pred.tolist() == [7]
    assert matching.unmatched_true.tolist() == [3]
    assert matching.f1 == 2 / 3


def test_matching_of_empty_images():
    assert match_instances(NOTHING, NOTHING).f1 == 1.0
    missed = match_instances(NOTHING, ONE)
    assert missed.pairs.shape == (0, 2) and missed.unmatched_true.tolist() == [1] and missed.f1 == 0.0


def test_below_half_the_pairing_with_the_greatest_total_iou_is_taken():
    # IoU: prediction 1 has 6/13 with truth 1 and 4/10 with truth 2; prediction 2 has 3/9 with truth 1 only.
    true = boxes((0, 0, 9, 1, 1), (9, 0, 13, 1, 2))
    pred = boxes((3, 0, 13, 1, 1), (0, 0, 3, 1, 2))
    assert match_instances(pred, true, threshold=0.2).pairs.tolist() == [[1, 2], [2, 1]]
    assert match_instances(pred, true, threshold=0.35).pairs.tolist() == [[1, 1]]


@pytest.mark.parametrize("threshold", [-0.1, 1.0, np.nan])
def test_an_unusable_threshold_is_refused(threshold):
    with pytest.raises(InputError, match="threshold"):
        match_instances(ONE, ONE, threshold)


def test_images_of_different_size_are_refused():
    with pytest.raises(InputError, match="differ"):
        METRICS["dice"](ONE, ONE[:8])


def test_ids_far_above_the_number_of_pixels_cost_no_memory():
    assert METRICS["pq"](ONE * 2_000_000_000, ONE) == 1.0
    assert overlap(ONE * 2_000_000_000, ONE).pred_ids.tolist() == [2_000_000_000]


def test_score_all_is_every_metric_and_knows_its_names():
    pred, true, scores = KNOWN["too small, and an extra"]
    assert score_all(pred, true) == pytest.approx(scores)
    assert score_all(pred, true, ["pq"]) == {"pq": 0.5}
    with pytest.raises(InputError, match="Unknown metric 'nope'"):
        score_all(pred, true, ["nope"])


DIRECTED = {"aji", "precision_pixel", "recall_pixel", "precision_instance", "recall_instance"}
# Where several predictions lie equally well on a truth, these take the first, so that the order can show.
BREAK_TIES = {"aji", "aji_plus"}


@pytest.mark.parametrize("metric", sorted(set(METRICS) - DIRECTED - BREAK_TIES))
@given(LABELS, LABELS)
def test_who_is_called_the_truth_does_not_matter(metric, one, other):
    assert METRICS[metric](one, other) == pytest.approx(METRICS[metric](other, one), abs=1e-12)


@given(LABELS, LABELS)
def test_precision_is_recall_the_other_way_round(one, other):
    for kind in ("pixel", "instance"):
        assert METRICS[f"precision_{kind}"](one, other) == METRICS[f"recall_{kind}"](other, one)


@given(LABELS, LABELS, st.permutations(range(1, 5)))
def test_scores_lie_in_0_to_1_and_do_not_depend_on_the_numbering(pred, true, order):
    scores = score_all(pred, true)
    assert all(0 <= value <= 1 for value in scores.values())
    renumbered = np.array([0, *(10 * rank for rank in order)])[pred]
    for metric in set(METRICS) - BREAK_TIES:
        assert METRICS[metric](renumbered, true) == pytest.approx(scores[metric], abs=1e-12)


@given(LABELS, LABELS)
def test_iou_matrix_and_aji_are_those_of_plain_masks(pred, true):
    counts = overlap(pred, true)
    shared = union = 0
    used = set()
    for j, t in enumerate(counts.true_ids):
        for i, p in enumerate(counts.pred_ids):
            both, either = ((pred == p) & (true == t)).sum(), ((pred == p) | (true == t)).sum()
            assert counts.iou[i, j] == both / either
        if counts.pred_ids.size and counts.iou[:, j].max() > 0:
            best = counts.pred_ids[counts.iou[:, j].argmax()]
            used.add(best)
            shared += ((pred == best) & (true == t)).sum()
            union += ((pred == best) | (true == t)).sum()
        else:
            union += (true == t).sum()
    union += sum((pred == p).sum() for p in counts.pred_ids if p not in used)
    if counts.pred_ids.size and counts.true_ids.size:
        assert FORMULAS["aji"](counts) == shared / union


def test_centroids_match_within_the_radius_one_to_one():
    true = boxes((0, 0, 2, 2, 1), (10, 0, 12, 2, 2))  # centroids (0.5, 0.5) and (10.5, 0.5)
    pred = boxes((3, 4, 5, 6, 1), (4, 4, 5, 6, 2))  # (3, 4.5) and (4, 4.5): 4.72 and 5.32 px from the first
    assert f1_centroid(pred, true, 4.7) == 0.0
    assert f1_centroid(pred, true, 4.8) == 0.5
    assert f1_centroid(pred, true, 6.0) == 0.5
    assert f1_centroid(true, true, 0.0) == 1.0
    assert f1_centroid(NOTHING, NOTHING, 6) == 1.0
    assert f1_centroid(NOTHING, true, 6) == f1_centroid(true, NOTHING, 6) == 0.0


def test_centroid_pairs_are_as_many_as_can_be():
    # Truths at x 0 and 4, predictions at 3 and 7: the nearest pair (4, 3) would leave 0 and 7 alone.
    true, pred = boxes((0, 0, 1, 1, 1), (4, 0, 5, 1, 2)), boxes((3, 0, 4, 1, 1), (7, 0, 8, 1, 2))
    assert f1_centroid(pred, true, 3.0) == 1.0


def test_auc_and_best_f1_of_a_probability_map():
    true = np.array([[1, 1, 0, 0]])
    probability = np.array([[0.9, 0.4, 0.6, 0.1]])
    # 3 of the 4 pairs (foreground, background) are in order. At >= 0.4: 2 of 3 right, none missed.
    assert auc_pixel(probability, true) == 0.75
    assert best_f1_pixel(probability, true) == pytest.approx(0.8)
    assert np.isnan(auc_pixel(probability, np.zeros((1, 4), int)))
    assert np.isnan(auc_pixel(probability, np.ones((1, 4), int)))
    assert np.isnan(best_f1_pixel(probability, np.zeros((1, 4), int)))


def read_pair(row: dict) -> tuple[np.ndarray, np.ndarray]:
    pred = SHARED / "metric_fixtures" / f"{row['image']}__{row['pred']}.png"
    true = SHARED / "monuseg2018_train" / f"{row['image']}_inst.png"
    return cv2.imread(str(pred), cv2.IMREAD_UNCHANGED), cv2.imread(str(true), cv2.IMREAD_UNCHANGED)


@needs_fixtures
def test_scores_are_those_of_hover_net_on_real_nuclei():
    rows = json.loads((SHARED / "metric_fixtures" / "hover_net_values.json").read_text())
    assert len(rows) == 26
    for row in rows:
        pred, true = read_pair(row)
        scores = score_all(pred, true)
        # HoVer-Net's SQ has 1e-6 in its denominator; ours has not, which is far below 1e-6 here.
        for metric in ("dice", "aji", "aji_plus", "dq", "sq", "pq"):
            assert scores[metric] == pytest.approx(row[metric], abs=1e-6), (row["image"], metric)
        matching = match_instances(pred, true)
        found = (len(matching.pairs), len(matching.unmatched_pred), len(matching.unmatched_true))
        assert found == (row["tp"], row["fp"], row["fn"])


@needs_fixtures
def test_matching_is_that_of_stardist_on_real_nuclei():
    rows = json.loads((SHARED / "metric_fixtures" / "stardist_values.json").read_text())
    assert {row["thresh"] for row in rows} == {0.5, 0.7}
    for row in rows:
        matching = match_instances(*read_pair(row), threshold=row["thresh"])
        tp, fp, fn = len(matching.pairs), len(matching.unmatched_pred), len(matching.unmatched_true)
        assert (tp, fp, fn) == (row["tp"], row["fp"], row["fn"])
        assert matching.f1 == pytest.approx(row["f1"], abs=1e-6)
        assert tp / (tp + fp) == pytest.approx(row["precision"], abs=1e-6)
        assert tp / (tp + fn) == pytest.approx(row["recall"], abs=1e-6)
        assert matching.iou.mean() == pytest.approx(row["mean_matched_score"], abs=1e-6)
        assert matching.f1 * matching.iou.mean() == pytest.approx(row["panoptic_quality"], abs=1e-6)
