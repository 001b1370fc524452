"""Are two groups or methods different, or the same? Paired tests, equivalence and intervals.

Everything is paired by patch, never on averages, and says how many pairs it rests on. Patches of one slide
are not independent, so intervals are made of what slides add up to, and of fewer than FEWEST_SLIDES there is
none.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats

from allinsam.errors import InputError

TOO_FEW = "too few pairs"
TOO_FEW_SLIDES = "too few slides"
# Measured by benchmarks/coverage.py on skewed scores, slides alike and far apart, equal and unequal numbers
# of patches: of 3 slides a 95 % `cluster_interval` holds the mean in as few as 89.7 % of the studies, of 4
# and 5 in 90.0 and 90.4 %, where a little more skew is enough to fall below 90; from 6 on in 91 to 98 %.
FEWEST_SLIDES = 6
# Fewer are no basis for a figure at all: it says "too few".
FEWEST_PATCHES = 3
FEWEST_NUCLEI = 10
# With 5 pairs that differ, the smallest two-sided p is 2 / 2^5 = 0.06: no result could be called a
# difference.
MIN_DIFFERING_PAIRS = 6
EXACT_UP_TO = 50
# Scores such as 0.8 - 0.6 and 0.5 - 0.3 are one difference; in floating point they are not.
DECIMALS = 12


@dataclass(frozen=True)
class PairedTest:
    """A paired comparison, a minus b."""

    n: int  # pairs compared
    n_differing: int  # of these, pairs whose difference is not 0; only they enter the test
    median_difference: float
    mean_difference: float
    statistic: float  # the smaller of the two rank sums
    p_value: float  # two-sided; NaN where there are too few pairs
    rank_biserial: float  # -1 ... 1, positive where a is greater; NaN where nothing differs
    method: str  # how the p-value was made, or TOO_FEW


@dataclass(frozen=True)
class Equivalence:
    """Is a as good as b, give or take `margin`? Two one-sided tests (TOST)."""

    n: int
    margin: float
    mean_difference: float
    low: float  # 90 % interval of the mean difference, which belongs to two tests at 5 %; NaN where
    high: float  # there are too few slides
    p_value: float  # the larger of the two one-sided p-values; NaN where there are too few pairs
    equivalent: bool | None  # p_value < 0.05; None where it is not known
    method: str


# ---------------------------------------------------------------- paired tests


def paired_test(a: pd.Series, b: pd.Series) -> PairedTest:
    """Two-sided Wilcoxon signed-rank test of a against b, paired by index (the patch).

    Pairs with a missing value are left out; pairs without a difference do not enter the ranks (zero_method
    "wilcox"). The p-value is exact up to 50 differing pairs: scipy's distribution without ties and zeros,
    else the permutation of the signs of the ranks at hand; above that it is the normal approximation,
    corrected for ties.
    """
    difference = _paired_difference(a, b)
    differing = difference[difference != 0]
    plus, minus = _rank_sums(differing)
    if len(differing) < MIN_DIFFERING_PAIRS:
        p_value, method = float("nan"), TOO_FEW
    elif len(differing) > EXACT_UP_TO:
        p_value = float(stats.wilcoxon(differing, method="asymptotic").pvalue)
        method = "Wilcoxon, normal approximation"
    elif len(differing) == len(difference) and len(np.unique(np.abs(differing))) == len(differing):
        p_value = float(stats.wilcoxon(differing, method="exact").pvalue)
        method = "Wilcoxon, exact"
    else:
        p_value = min(1.0, 2 * min(_sign_permutation_p(differing), _sign_permutation_p(-differing)))
        method = "Wilcoxon, exact with ties"
    return PairedTest(
        n=len(difference),
        n_differing=len(differing),
        median_difference=float(np.median(difference)) if len(difference) else float("nan"),
        mean_difference=float(difference.mean()) if len(difference) else float("nan"),
        statistic=min(plus, minus) if len(differing) else float("nan"),
        p_value=p_value,
        rank_biserial=(plus - minus) / (plus + minus) if len(differing) else float("nan"),
        method=method,
    )


def compare_to_reference(scores: pd.DataFrame, reference: str) -> pd.DataFrame:
    """Every other column of `scores` (patch x method) tested against the reference, p-values corrected by
    Holm.

    One row for each method, the columns those of PairedTest (method minus reference) and `p_holm`.
    """
    if reference not in scores.columns:
        raise InputError(f"No column {reference!r} to compare with. Choose from {list(scores.columns)}.")
    others = [column for column in scores.columns if column != reference]
    rows = [{"compared": name, **vars(paired_test(scores[name], scores[reference]))} for name in others]
    table = pd.DataFrame(rows, columns=["compared", *PairedTest.__dataclass_fields__])
    table["p_holm"] = holm(table["p_value"].tolist())
    return table


def equivalence_test(
    a: pd.Series, b: pd.Series, margin: float, clusters: pd.Series | None = None
) -> Equivalence:
    """Test whether a and b differ by less than `margin`, paired by index: "no difference found" is not "as
    good".

    Both Wilcoxon tests, of difference > -margin and of difference < margin, must reject. The interval is
    that of `cluster_interval` over `clusters` (index = patch, value = slide), or over single patches without
    them; of differences of skewed scores it holds the mean in 89 to 94 % of simulated studies.
    """
    if not margin > 0:
        raise InputError(
            f"A margin of {margin} is not usable. Give the largest difference that does not matter."
        )
    difference = _paired_difference(a, b)
    groups = pd.Series(difference.index, index=difference.index) if clusters is None else clusters
    if missing := sorted(set(difference.index) - set(groups.index), key=str):
        raise InputError(f"Patch {missing[0]!r} has no cluster. Give the slide of every patch.")
    low, high = cluster_interval(
        difference.to_numpy(), groups.loc[difference.index].to_numpy(), confidence=0.9
    )
    one_sided = [_one_sided_p(difference + margin), _one_sided_p(margin - difference)]
    p_value = float("nan") if np.isnan(one_sided).any() else max(one_sided)
    known = not np.isnan(p_value)
    return Equivalence(
        n=len(difference),
        margin=margin,
        mean_difference=float(difference.mean()) if len(difference) else float("nan"),
        low=low,
        high=high,
        p_value=p_value,
        equivalent=bool(p_value < 0.05) if known else None,
        method="two one-sided Wilcoxon tests" if known else TOO_FEW,
    )


def _paired_difference(a: pd.Series, b: pd.Series) -> pd.Series:
    """a - b where both are known, rounded against floating-point noise."""
    for series in (a, b):
        if not series.index.is_unique:
            twice = series.index[series.index.duplicated()][0]
            raise InputError(f"Patch {twice!r} has more than one score. Average them before pairing.")
    difference = (a - b).dropna().astype(float).round(DECIMALS)
    if not np.isfinite(difference).all():
        raise InputError("A score is infinite. Leave it out or set it to a missing value.")
    return difference


def _rank_sums(differing: pd.Series) -> tuple[float, float]:
    """Sums of the ranks of the positive and of the negative differences; ties share their mean rank."""
    ranks = stats.rankdata(np.abs(differing))
    return float(ranks[differing > 0].sum()), float(ranks[differing < 0].sum())


def _sign_permutation_p(differing: pd.Series) -> float:
    """Exact P of a positive rank sum as great as seen, or greater, if every sign were a fair coin's."""
    # Twice the mean ranks are whole numbers: count, over all 2^n sign patterns, how often each sum comes up.
    doubled = np.rint(2 * stats.rankdata(np.abs(differing))).astype(int)
    share = np.zeros(doubled.sum() + 1)
    share[0] = 1.0
    for rank in doubled:
        share[rank:] = (share[rank:] + share[: share.size - rank]) / 2
        share[:rank] /= 2
    return float(min(1.0, share[doubled[np.asarray(differing) > 0].sum() :].sum()))


def _one_sided_p(difference: pd.Series) -> float:
    """One-sided Wilcoxon p for a difference above 0; NaN where there are too few pairs."""
    differing = difference.round(DECIMALS)
    differing = differing[differing != 0]
    if len(differing) < MIN_DIFFERING_PAIRS:
        return float("nan")
    if len(differing) <= EXACT_UP_TO:
        return _sign_permutation_p(differing)
    return float(stats.wilcoxon(differing, method="asymptotic", alternative="greater").pvalue)


# ---------------------------------------------------------------- several tests, and intervals


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down correction, in the order given; a NaN stays NaN and does not count as a test."""
    p_values = np.asarray(p_values, dtype=float)
    corrected = np.full(p_values.shape, np.nan)
    order = np.argsort(p_values)[: np.count_nonzero(~np.isnan(p_values))]
    factors = np.arange(len(order), 0, -1)
    corrected[order] = np.minimum(1.0, np.maximum.accumulate(p_values[order] * factors))
    return corrected.tolist()


def cluster_interval(
    values: Sequence[float],
    clusters: Sequence,
    confidence: float = 0.95,
    fewest: int = FEWEST_SLIDES,
    bounds: tuple[float, float] = (-np.inf, np.inf),
) -> tuple[float, float]:
    """Interval of the mean of `values` where those of one cluster, such as a slide, are not independent.

    Mean +- t x standard error. The standard error is the cluster-robust one with each cluster's residuals
    scaled up by its weight (CR2; Bell and McCaffrey 2002); t has Satterthwaite's degrees of freedom for
    clusters that differ and patches of a cluster that do not: clusters - 1 where all are of one size, fewer
    where a few clusters hold most values.

    Measured on skewed scores of slides alike and far apart, with equal and unequal numbers of patches
    (benchmarks/coverage.py), a nominal 95 % interval holds the mean in

        slides                          3               6               11              30
        this                     89.4 to 97.1 %  91.6 to 97.1 %  92.2 to 97.2 %  94.2 to 96.4 %
        percentile bootstrap     70.8 to 74.6 %  81.9 to 85.1 %  87.6 to 90.4 %  91.7 to 93.8 %
        studentised bootstrap    77.2 to 81.6 %  92.5 to 94.5 %  92.9 to 96.6 %  94.2 to 96.2 %

    of the studies. Scores far more skewed than those (mean 0.19, most of it between slides) are held in 88 %
    of the studies of 6 slides and 90 % of 11. The t interval of the slides' means does as well, but it lies
    round another mean than the one over patches that is shown.

    (NaN, NaN) with fewer than `fewest` clusters. NaN values are left out. The ends are cut at `bounds`, the
    least and the greatest a value can be.
    """
    sums, sizes, _, _ = _by_cluster(values, clusters)
    if len(sums) < max(2, fewest):
        return float("nan"), float("nan")
    mean, added, freedom = _robust_mean(sums, sizes)
    reach = stats.t.ppf((1 + confidence) / 2, freedom) * np.sqrt((added**2).sum())
    return float(max(mean - reach, bounds[0])), float(min(mean + reach, bounds[1]))


def _robust_mean(sums: np.ndarray, sizes: np.ndarray) -> tuple[float, np.ndarray, float]:
    """Mean of clustered values, what each cluster adds to it beyond chance (scaled up, the squares sum to
    the variance), and the degrees of freedom of that."""
    mean, weight = sums.sum() / sizes.sum(), sizes / sizes.sum()
    scale = np.sqrt(1 / (1 - weight))
    added = scale * (sums - mean * sizes) / sizes.sum()
    # Of clusters with equal variance, covariance of what each adds to the standard error.
    share = scale * weight
    between = np.eye(len(weight)) - weight - weight[:, None] + (weight**2).sum()
    covariance = share * between * share[:, None]
    return float(mean), added, float(np.trace(covariance) ** 2 / (covariance**2).sum())


def difference_interval(
    a: Sequence[float],
    clusters_a: Sequence,
    b: Sequence[float],
    clusters_b: Sequence,
    confidence: float = 0.95,
    fewest: int = FEWEST_SLIDES,
) -> tuple[float, float]:
    """Interval of mean(a) - mean(b), not paired, where values of one cluster are not independent.

    As `cluster_interval`, with Welch and Satterthwaite's degrees of freedom of both sides. A cluster with
    values on both sides enters once, with what it adds to the difference, so that what moves both of its
    sides alike does not widen the interval. With one value for each cluster, and no cluster shared, it is
    Welch's interval.

    (NaN, NaN) where a side has fewer than `fewest` clusters. NaN values are left out.
    """
    sides, means, variances, freedoms = [], [], [], []
    for values, clusters in ((a, clusters_a), (b, clusters_b)):
        values, clusters = np.asarray(values, dtype=float), np.asarray(clusters)
        sums, sizes, _, _ = _by_cluster(values, clusters)
        if len(sums) < max(2, fewest):
            return float("nan"), float("nan")
        mean, added, freedom = _robust_mean(sums, sizes)
        sides.append(pd.Series(added, pd.unique(clusters[~np.isnan(values)])))
        means.append(mean)
        variances.append((added**2).sum())
        freedoms.append(freedom)
    error = np.sqrt((sides[0].sub(sides[1], fill_value=0.0) ** 2).sum())
    weighted = sum(v**2 / f for v, f in zip(variances, freedoms, strict=True))
    freedom = sum(variances) ** 2 / weighted if weighted else min(freedoms)
    reach = stats.t.ppf((1 + confidence) / 2, freedom) * error
    return float(means[0] - means[1] - reach), float(means[0] - means[1] + reach)


def cluster_bootstrap(
    values: Sequence[float],
    clusters: Sequence,
    seed: int,
    n_resamples: int = 2000,
    confidence: float = 0.95,
    statistic: Callable[[np.ndarray], float] | None = None,
) -> tuple[float, float]:
    """Percentile interval of any `statistic`, such as a median, when whole clusters are drawn again.

    It is too narrow where clusters are few, see `cluster_interval`, which is the one for means. (NaN, NaN)
    with fewer than 2 clusters. NaN values are left out.
    """
    sums, sizes, member, values = _by_cluster(values, clusters)
    if len(sums) < 2:
        return float("nan"), float("nan")
    drawn = np.random.default_rng(seed).integers(len(sums), size=(n_resamples, len(sums)))
    if statistic is None:
        resampled = sums[drawn].sum(axis=1) / sizes[drawn].sum(axis=1)
    else:
        parts = [values[member == cluster] for cluster in range(len(sums))]
        resampled = np.array([statistic(np.concatenate([parts[i] for i in row])) for row in drawn])
    tail = (1 - confidence) / 2
    low, high = np.quantile(resampled, [tail, 1 - tail])
    return float(low), float(high)


def cluster_means(values: Sequence[float], clusters: Sequence) -> list[float]:
    """The mean of each cluster, ascending: what to show where there are too few for an interval."""
    sums, sizes, _, _ = _by_cluster(values, clusters)
    return sorted((sums / sizes).tolist())


def interval_in_words(
    low: float, high: float, points: Sequence[float], form: str = "{:.2f}", why: str = TOO_FEW_SLIDES
) -> str:
    """An interval as text; where there is none, why, and the means of the single clusters instead."""
    if not np.isnan(low):
        return f"{form} to {form}".format(low, high)
    each = ", ".join(form.format(point) for point in points)
    return f"{why}: {each}" if each else why


def _by_cluster(
    values: Sequence[float], clusters: Sequence
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Sum and number of the known values of each cluster; the cluster of each value; these values."""
    values, clusters = np.asarray(values, dtype=float), np.asarray(clusters)
    if values.shape != clusters.shape:
        raise InputError(
            f"{values.size} values and {clusters.size} clusters. Give one cluster for each value."
        )
    known = ~np.isnan(values)
    values, member = values[known], pd.factorize(clusters[known])[0]
    return np.bincount(member, weights=values), np.bincount(member), member, values
