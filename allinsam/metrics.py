"""Scores of a predicted against a true label image: pixels, instances, and both together.

Label images hold whole numbers, 0 = background, ids in any order and with gaps. Two rules hold for every
score: both images empty gives 1, exactly one empty gives 0. Two instances match when their IoU is strictly
above 0.5; such a match is the only one for both. Scores are per image; average them over images, or over
slides first.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
from scipy.optimize import linear_sum_assignment
from sklearn.metrics import precision_recall_curve, roc_auc_score

from allinsam.errors import InputError
from allinsam.masks import as_labels

# ---------------------------------------------------------------- how two label images lie on each other


@dataclass(frozen=True)
class Overlap:
    """Pixel counts that every score is made of; row i is predicted instance i, column j true instance j."""

    pred_ids: np.ndarray  # (p,) int32, ascending
    true_ids: np.ndarray  # (t,) int32, ascending
    pred_area: np.ndarray  # (p,) int64
    true_area: np.ndarray  # (t,) int64
    shared: np.ndarray  # (p, t) int64
    n_pixels: int

    @property
    def iou(self) -> np.ndarray:
        """Intersection over union, (p, t)."""
        union = self.pred_area[:, None] + self.true_area[None, :] - self.shared
        return self.shared / union


@dataclass(frozen=True)
class Matching:
    """One-to-one matches of instances; `pairs` holds (predicted id, true id)."""

    pairs: np.ndarray  # (k, 2) int32
    iou: np.ndarray  # (k,)
    unmatched_pred: np.ndarray  # (fp,) ids
    unmatched_true: np.ndarray  # (fn,) ids

    @property
    def f1(self) -> float:
        """2 TP / (2 TP + FP + FN); 1 where both images are empty."""
        total = 2 * len(self.pairs) + len(self.unmatched_pred) + len(self.unmatched_true)
        return 2 * len(self.pairs) / total if total else 1.0


def overlap(pred: np.ndarray, true: np.ndarray) -> Overlap:
    """Count, in one pass, how many pixels each pair of instances shares."""
    pred, true = as_labels(pred), as_labels(true)
    if pred.shape != true.shape:
        raise InputError(
            f"Label images of {pred.shape} and {true.shape} px differ. Score at the true image's size."
        )
    pred_ids, pred_rank = _consecutive(pred)
    true_ids, true_rank = _consecutive(true)
    columns = len(true_ids) + 1
    counts = np.bincount(pred_rank * columns + true_rank, minlength=(len(pred_ids) + 1) * columns)
    counts = counts.reshape(len(pred_ids) + 1, columns)
    return Overlap(
        pred_ids, true_ids, counts[1:].sum(axis=1), counts[:, 1:].sum(axis=0), counts[1:, 1:], pred.size
    )


def _consecutive(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Ids present and, for every pixel, the rank of its id (0 = background), int64 (H*W,)."""
    flat = labels.ravel()
    if flat.size and flat.max() > 4 * flat.size + 1000:
        # Ids far above the number of pixels: a table with one entry for each id would not fit.
        present, rank = np.unique(np.append(flat, 0), return_inverse=True)
        return present[1:], rank[:-1]
    present = np.bincount(flat, minlength=1) > 0
    present[0] = False
    rank_of_id = np.cumsum(present) * present
    return np.flatnonzero(present).astype(np.int32), rank_of_id[flat]


def match_instances(pred: np.ndarray, true: np.ndarray, threshold: float = 0.5) -> Matching:
    """Match instances one to one where IoU > `threshold`, strictly.

    From 0.5 up a match is unique by itself; below, the matches with the greatest total IoU are taken.
    """
    return match_overlap(overlap(pred, true), threshold)


def match_overlap(counts: Overlap, threshold: float = 0.5) -> Matching:
    """`match_instances` for an overlap that has been counted already."""
    if not 0 <= threshold < 1:
        raise InputError(
            f"IoU threshold {threshold} is not usable. Give a number from 0 up to, not including, 1."
        )
    rows, columns, iou = match_iou(counts.iou, threshold)
    return Matching(
        pairs=np.stack([counts.pred_ids[rows], counts.true_ids[columns]], axis=1),
        iou=iou,
        unmatched_pred=np.delete(counts.pred_ids, rows),
        unmatched_true=np.delete(counts.true_ids, columns),
    )


def match_iou(iou: np.ndarray, threshold: float = 0.5) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows, columns and IoU of the one-to-one matches above the threshold with the greatest total IoU."""
    allowed = np.where(iou > threshold, iou, 0.0)
    rows, columns = np.nonzero(allowed)
    if len(np.unique(rows)) < len(rows) or len(np.unique(columns)) < len(columns):
        rows, columns = linear_sum_assignment(allowed, maximize=True)
        kept = allowed[rows, columns] > 0
        rows, columns = rows[kept], columns[kept]
    return rows, columns, iou[rows, columns]


# ---------------------------------------------------------------- formulas; neither image is empty here


def _pixel_counts(counts: Overlap) -> tuple[int, int, int]:
    """True positive, false positive and false negative foreground pixels."""
    tp = int(counts.shared.sum())
    return tp, int(counts.pred_area.sum()) - tp, int(counts.true_area.sum()) - tp


def _dice(counts: Overlap) -> float:
    """Foreground pixels: 2 TP / (2 TP + FP + FN), the same as the pixel F1."""
    tp, fp, fn = _pixel_counts(counts)
    return 2 * tp / (2 * tp + fp + fn)


def _iou(counts: Overlap) -> float:
    """Foreground pixels: TP / (TP + FP + FN), the pixel Jaccard that some tables call AJI or ADJ."""
    tp, fp, fn = _pixel_counts(counts)
    return tp / (tp + fp + fn)


def _precision_pixel(counts: Overlap) -> float:
    tp, fp, _ = _pixel_counts(counts)
    return tp / (tp + fp)


def _recall_pixel(counts: Overlap) -> float:
    tp, _, fn = _pixel_counts(counts)
    return tp / (tp + fn)


def _f1_pixel_macro(counts: Overlap) -> float:
    """Mean of the foreground's and the background's pixel F1; flattering, because background is most of a
    patch.
    """
    tp, fp, fn = _pixel_counts(counts)
    tn = counts.n_pixels - tp - fp - fn
    background = 2 * tn / (2 * tn + fp + fn) if tn + fp + fn else 1.0
    return (_dice(counts) + background) / 2


def _dq(counts: Overlap) -> float:
    """Detection quality, TP / (TP + FP/2 + FN/2) of instances at IoU > 0.5: the instance F1."""
    return match_overlap(counts).f1


def _sq(counts: Overlap) -> float:
    """Segmentation quality: mean IoU of the matches; 0 where nothing matches."""
    iou = match_overlap(counts).iou
    return float(iou.mean()) if iou.size else 0.0


def _pq(counts: Overlap) -> float:
    """Panoptic quality (Kirillov 2019): detection times segmentation quality."""
    return _dq(counts) * _sq(counts)


def _precision_instance(counts: Overlap) -> float:
    return len(match_overlap(counts).pairs) / len(counts.pred_ids)


def _recall_instance(counts: Overlap) -> float:
    return len(match_overlap(counts).pairs) / len(counts.true_ids)


def _f1_instance_75(counts: Overlap) -> float:
    """Instance F1 at IoU > 0.75: asks for a good outline as well."""
    return match_overlap(counts, 0.75).f1


def _aji(counts: Overlap) -> float:
    """Aggregated Jaccard Index (Kumar 2017): each true instance takes its best prediction, which may be
    reused.
    """
    iou = counts.iou
    columns = np.flatnonzero(iou.max(axis=0) > 0)
    return _aggregated_jaccard(counts, iou.argmax(axis=0)[columns], columns)


def _aji_plus(counts: Overlap) -> float:
    """AJI with each prediction used at most once, paired for the greatest total IoU (Graham 2019)."""
    rows, columns, _ = match_iou(counts.iou, 0.0)
    return _aggregated_jaccard(counts, rows, columns)


def _aggregated_jaccard(counts: Overlap, rows: np.ndarray, columns: np.ndarray) -> float:
    """Shared pixels of the pairs over their unions and the areas of what is in no pair."""
    shared = counts.shared[rows, columns].sum()
    union = counts.pred_area[rows].sum() + counts.true_area[columns].sum() - shared
    union += np.delete(counts.pred_area, np.unique(rows)).sum() + np.delete(counts.true_area, columns).sum()
    return float(shared / union)


def _dice_ensemble(counts: Overlap) -> float:
    """Dice over all pairs of instances that touch (Vu 2019, "Dice 2"): punishes splits and merges."""
    rows, columns = np.nonzero(counts.shared)
    areas = counts.pred_area[rows].sum() + counts.true_area[columns].sum()
    return float(2 * counts.shared.sum() / areas) if areas else 0.0


METRIC_TITLES = {  # of those that models and people's labels are scored by
    "f1_instance": "Instance F1",
    "dice": "Dice (pixels)",
    "iou": "IoU (pixels)",
    "pq": "Panoptic quality",
    "aji": "Aggregated Jaccard",
}
FORMULAS: dict[str, Callable[[Overlap], float]] = {
    "f1_instance": _dq,
    "dice": _dice,
    "iou": _iou,
    "precision_instance": _precision_instance,
    "recall_instance": _recall_instance,
    "f1_instance_75": _f1_instance_75,
    "dq": _dq,
    "sq": _sq,
    "pq": _pq,
    "aji": _aji,
    "aji_plus": _aji_plus,
    "dice_ensemble": _dice_ensemble,
    "precision_pixel": _precision_pixel,
    "recall_pixel": _recall_pixel,
    "f1_pixel_macro": _f1_pixel_macro,
}


def _apply(formula: Callable[[Overlap], float], counts: Overlap) -> float:
    """The formula, or the rule for empty images."""
    if len(counts.pred_ids) and len(counts.true_ids):
        return float(formula(counts))
    return 1.0 if len(counts.pred_ids) == len(counts.true_ids) else 0.0


def _on_labels(formula: Callable[[Overlap], float]) -> Callable[[np.ndarray, np.ndarray], float]:
    def metric(pred: np.ndarray, true: np.ndarray) -> float:
        return _apply(formula, overlap(pred, true))

    metric.__doc__ = formula.__doc__
    return metric


METRICS: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {
    name: _on_labels(formula) for name, formula in FORMULAS.items()
}


def score_all(pred: np.ndarray, true: np.ndarray, names: Iterable[str] = tuple(METRICS)) -> dict[str, float]:
    """Several metrics from one count of the overlap."""
    return score_overlap(overlap(pred, true), names)


def score_overlap(counts: Overlap, names: Iterable[str] = tuple(METRICS)) -> dict[str, float]:
    """`score_all` for an overlap that has been counted already."""
    names = list(names)
    if unknown := sorted(set(names) - set(FORMULAS)):
        raise InputError(f"Unknown metric {unknown[0]!r}. Choose from {sorted(FORMULAS)}.")
    return {name: _apply(FORMULAS[name], counts) for name in names}


# ---------------------------------------------------------------- centroids and probabilities


def f1_centroid(pred: np.ndarray, true: np.ndarray, radius_px: float) -> float:
    """Detection F1 by centroids at most `radius_px` apart (literature: 3 um, that is 6 px at 20x, 12 px at
    40x).

    One to one: as many pairs as can be, and among those the closest.
    """
    pred_xy, true_xy = _centroids(as_labels(pred)), _centroids(as_labels(true))
    if not len(pred_xy) or not len(true_xy):
        return 1.0 if len(pred_xy) == len(true_xy) else 0.0
    distance = np.hypot(*(pred_xy[:, None] - true_xy[None, :]).transpose(2, 0, 1))
    # One pair out of reach costs more than all pairs within reach together.
    cost = np.where(distance <= radius_px, distance, (radius_px + 1) * (min(distance.shape) + 1))
    rows, columns = linear_sum_assignment(cost)
    matched = np.count_nonzero(distance[rows, columns] <= radius_px)
    return 2 * matched / (len(pred_xy) + len(true_xy))


def _centroids(labels: np.ndarray) -> np.ndarray:
    """Mean x and y of each instance's pixels, (n, 2)."""
    _, rank = _consecutive(labels)
    rows, columns = np.indices(labels.shape)
    area = np.bincount(rank)[1:]
    sums = [np.bincount(rank, weights=axis.ravel())[1:] for axis in (columns, rows)]
    return np.stack(sums, axis=1) / area[:, None]


def auc_pixel(probability: np.ndarray, true: np.ndarray) -> float:
    """Area under the pixel ROC curve of a probability map; NaN where foreground or background is absent."""
    foreground = as_labels(true).ravel() > 0
    if foreground.all() or not foreground.any():
        return float("nan")
    return float(roc_auc_score(foreground, np.asarray(probability).ravel()))


def best_f1_pixel(probability: np.ndarray, true: np.ndarray) -> float:
    """Highest pixel F1 over all thresholds; NaN without foreground.

    An oracle: the threshold is picked on the very image that is scored, so it is no estimate for new images.
    """
    foreground = as_labels(true).ravel() > 0
    if not foreground.any():
        return float("nan")
    precision, recall, _ = precision_recall_curve(foreground, np.asarray(probability).ravel())
    total = precision + recall
    return float((2 * precision * recall / np.where(total > 0, total, 1)).max())
