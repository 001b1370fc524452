"""How fast people work, from the tables of time: medians, ratios of groups or arms, getting quicker.

Times have a long upper tail, so that nothing here is a plain mean of seconds: a group's figure is a median,
and two groups are compared by the ratio of geometric means over patches. Intervals are over whole slides, or
patches where there is one slide only: the nuclei of a patch, and the patches of a slide, are not independent.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from allinsam.comparison import FEWEST_PATCHES, FEWEST_SLIDES, cluster_interval, difference_interval
from allinsam.errors import InputError

FEWEST_IN_ORDER = 6  # patches of one person, to say whether they got quicker
RESAMPLES = 1000


@dataclass(frozen=True)
class Ratio:
    """How many times as long one side takes as the other, per patch; NaN where there are too few patches."""

    ratio: float  # geometric mean of a over that of b
    low: float  # 95 % interval; NaN of fewer than FEWEST_SLIDES slides
    high: float
    patches_a: int
    patches_b: int
    paired: bool  # both sides on the same patches
    clusters: int  # slides (or patches) behind the interval; not paired: of the side with fewer


def median_interval(
    values: Sequence[float],
    clusters: Sequence,
    seed: int = 0,
    confidence: float = 0.95,
    fewest: int = FEWEST_SLIDES,
) -> tuple[float, float]:
    """Percentile interval of the median when whole clusters are drawn again; (NaN, NaN) for fewer than
    `fewest` of them.

    The same as `comparison.cluster_bootstrap` with np.median, quick enough for tens of thousands of values.
    """
    values = np.asarray(values, dtype=float)
    member, names = pd.factorize(np.asarray(clusters))
    if values.shape != member.shape:
        raise InputError(f"{values.size} values and {member.size} clusters. Give one cluster for each value.")
    if len(names) < max(2, fewest):
        return float("nan"), float("nan")
    order = np.argsort(values, kind="stable")
    values, member = values[order], member[order]
    # How many of each cluster's values are among the first k, for k = 0 ... n.
    up_to = np.zeros((len(names), values.size + 1), np.int64)
    up_to[member, np.arange(1, values.size + 1)] = 1
    np.cumsum(up_to, axis=1, out=up_to)
    drawn = np.random.default_rng(seed).integers(len(names), size=(RESAMPLES, len(names)))
    total = up_to[drawn, -1].sum(axis=1)
    middle = [_kth(up_to, drawn, k) for k in ((total + 1) // 2, total // 2 + 1)]
    medians = (values[middle[0]] + values[middle[1]]) / 2
    tail = (1 - confidence) / 2
    low, high = np.quantile(medians, [tail, 1 - tail])
    return float(low), float(high)


def _kth(up_to: np.ndarray, drawn: np.ndarray, k: np.ndarray) -> np.ndarray:
    """For each resample the place of its k-th smallest value, by halving."""
    low, high = np.zeros(len(drawn), np.int64), np.full(len(drawn), up_to.shape[1] - 1)
    while (low + 1 < high).any():
        middle = (low + high) // 2
        enough = up_to[drawn, middle[:, None]].sum(axis=1) >= k
        high, low = np.where(enough, middle, high), np.where(enough, low, middle)
    return high - 1


def medians(table: pd.DataFrame, by: Sequence[str], value: str, intervals: bool = True) -> pd.DataFrame:
    """Median of `value` for each `by` with its 95 % interval, n, patches and slides.

    table: a row per nucleus or per patch, with slide and patch. The interval draws slides again, or patches
    where the table has one slide only.
    """
    unit = cluster_unit(table)
    rows = []
    for keys, part in table.groupby(list(by), sort=True):
        low, high = median_interval(part[value], part[unit]) if intervals else (float("nan"),) * 2
        figures = {"median": part[value].median(), "low": low, "high": high, "n": len(part)}
        figures |= {"patches": part["patch"].nunique(), "slides": part["slide"].nunique()}
        rows.append({**dict(zip(by, keys, strict=True)), **figures})
    return pd.DataFrame(rows, columns=[*by, "median", "low", "high", "n", "patches", "slides"])


def cluster_unit(table: pd.DataFrame) -> str:
    """What an interval draws again: slide, or patch where there is one slide only."""
    return "slide" if table["slide"].nunique() > 1 else "patch"


def geometric_ratio(a: pd.Series, b: pd.Series, clusters: pd.Series) -> Ratio:
    """How many times as large a is as b, both above 0 and by patch.

    On the patches that both have where these are enough, else on all of each. clusters: patch -> slide. The
    interval is that of the mean difference of logarithms (`cluster_interval`), or of the difference of two
    means (`difference_interval`); there is none where a side has fewer than FEWEST_SLIDES slides.
    """
    a, b = (side.dropna()[lambda known: known > 0] for side in (a, b))
    shared = a.index.intersection(b.index)
    paired = len(shared) >= FEWEST_PATCHES
    if paired:
        a, b = a[shared], b[shared]
    if min(len(a), len(b)) < FEWEST_PATCHES:
        return Ratio(*[float("nan")] * 3, len(a), len(b), paired, 0)
    logs, slides = [np.log(side) for side in (a, b)], [clusters[side.index] for side in (a, b)]
    ratio = float(np.exp(logs[0].mean() - logs[1].mean()))
    if paired:
        ends = cluster_interval(logs[0] - logs[1], slides[0])
    else:
        ends = difference_interval(logs[0], slides[0], logs[1], slides[1])
    low, high = (float(end) for end in np.exp(ends))
    return Ratio(ratio, low, high, len(a), len(b), paired, min(side.nunique() for side in slides))


def change_per_doubling(order: Sequence[int], seconds: Sequence[float], arm: Sequence[str]) -> float:
    """How much quicker a person gets each time they have done twice as many patches: -0.1 is 10 % less time.

    Straight lines of one slope through the logarithms (the power law of practice), one for each arm: an arm
    may be slower than another. NaN for fewer than FEWEST_IN_ORDER patches. order: from 1.
    """
    table = pd.DataFrame({"x": np.asarray(order, float), "s": np.asarray(seconds, float), "arm": list(arm)})
    table = table[np.isfinite(table["s"]) & (table["s"] > 0)]
    if len(table) < FEWEST_IN_ORDER:
        return float("nan")
    logs = pd.DataFrame({"x": np.log2(table["x"]), "y": np.log(table["s"])})
    logs -= logs.groupby(table["arm"]).transform("mean")
    spread = float((logs["x"] ** 2).sum())
    return float(np.expm1((logs["x"] * logs["y"]).sum() / spread)) if spread else float("nan")
