"""Joining marks to nuclei in all parts at once gives what one part and one join after the other gives."""

from itertools import pairwise

import numpy as np
import pytest

from allinsam.marks import Instance, cluster, join_marks


def plain_joins(
    iou: np.ndarray, raters: np.ndarray, classes: np.ndarray, threshold: float
) -> list[tuple[int, int, float]]:
    """Average linkage word for word: the two groups with the greatest mean IoU, no rater twice."""
    groups = {i: [i] for i in range(len(iou))}
    joins = []
    while True:
        best = None
        for a in groups:
            for b in groups:
                if a >= b or {raters[i] for i in groups[a]} & {raters[j] for j in groups[b]}:
                    continue
                pairs = [(i, j) for i in groups[a] for j in groups[b]]
                mean = round(sum(float(iou[p]) for p in pairs) / len(pairs), 9)
                alike = sum(classes[i] == classes[j] for i, j in pairs) / len(pairs)
                key = (-mean, -alike, a, b)
                if mean > threshold and (best is None or key < best):
                    best = key
        if best is None:
            return joins
        mean, _, a, b = best
        groups[a] += groups.pop(b)
        joins.append((a, b, -mean))


def drawn(rng: np.random.Generator, n: int, levels: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """IoU of marks on a few places, of few different values, so that many means are the same."""
    place, raters, classes = rng.integers(0, 4, n), rng.integers(0, 6, n), rng.integers(0, 2, n)
    iou = np.triu(rng.integers(0, levels + 1, (n, n)) / levels, 1)
    iou = (iou + iou.T) * (place[:, None] == place[None, :])
    return iou + np.eye(n), raters, classes


@pytest.mark.parametrize("levels", [2, 8, 1000])
@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.5])
def test_joins_are_those_of_average_linkage(levels: int, threshold: float) -> None:
    rng = np.random.default_rng(3)
    joined = 0
    for _ in range(40):
        iou, raters, classes = drawn(rng, int(rng.integers(1, 22)), levels)
        pairs, means = join_marks(iou, raters, classes, threshold)
        wanted = plain_joins(iou, raters, classes, threshold)
        found = [(a, b, round(mean, 9)) for (a, b), mean in zip(pairs.tolist(), means.tolist(), strict=True)]
        assert sorted(found) == sorted(wanted)
        joined += len(found)
    assert joined > 100


def test_no_mean_of_a_part_is_above_an_earlier_one() -> None:
    iou, raters, classes = drawn(np.random.default_rng(5), 60, 1000)
    pairs, means = join_marks(iou, raters, classes, 0.1)
    group = list(range(60))
    for a, b in pairs.tolist():
        group = [group[a] if g == group[b] else g for g in group]
    last: dict[int, list[float]] = {}
    for (a, _), mean in zip(pairs.tolist(), means.tolist(), strict=True):
        last.setdefault(group[a], []).append(mean)
    assert any(len(of_part) > 3 for of_part in last.values())
    assert all(second <= first for of_part in last.values() for first, second in pairwise(of_part))


def test_nothing_to_join() -> None:
    pairs, means = join_marks(np.eye(3), np.arange(3), np.zeros(3, int), 0.5)
    assert pairs.shape == (0, 2) and means.shape == (0,)
    assert cluster([]) == []
    one = Instance("r", "podocyte", np.arange(4))
    assert cluster([one]) == [(one,)]
