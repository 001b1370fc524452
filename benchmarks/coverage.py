"""How often does a 95 % interval hold the true mean: python -m benchmarks.coverage

Simulated studies with a truth that is known: slides that each have their own mean score, a number of patches
on each, and scores from 0 to 1 that are skewed to the right. "low": patches of one slide are hardly more
alike than others (intra-slide correlation 0.06); "high": most of what differs lies between slides (0.60). The
numbers of patches are equal (8), 2 to 20, or mostly few and now and then many.

Measured are the interval that the project uses, `allinsam.comparison.cluster_interval`, also of so few slides
that the project gives none, and what else could be taken: the percentile, the studentised and the BCa
bootstrap over whole slides, and the t interval of the slides' means. Each figure is the least coverage of the
three kinds of numbers of patches, in % of the studies.
"""

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from allinsam.comparison import FEWEST_SLIDES, cluster_bootstrap, cluster_interval
from benchmarks.report import figure, print_report, progress

SLIDES = (3, 6, 11, 30)
NOMINAL = 0.95
RESAMPLES = 1000
Interval = Callable[[np.ndarray, np.ndarray, np.random.Generator], tuple[float, float]]


@dataclass(frozen=True)
class Scores:
    """A slide's mean score is the logistic of a normal variable; its patches' are beta distributed."""

    logit_mean: float = -1.3
    logit_sd: float = 0.3
    concentration: float = 3.0  # of the beta distribution; small: patches of one slide differ much

    def true_mean(self) -> float:
        """Over slides and patches, by Gauss-Hermite quadrature."""
        nodes, weights = np.polynomial.hermite_e.hermegauss(101)
        return float((self._logistic(nodes) * weights).sum() / weights.sum())

    def correlation(self) -> float:
        """Of two patches of one slide: the share of the variance that lies between slides."""
        nodes, weights = np.polynomial.hermite_e.hermegauss(101)
        p, weights = self._logistic(nodes), weights / weights.sum()
        between = (weights * p**2).sum() - self.true_mean() ** 2
        return float(between / (between + (weights * p * (1 - p)).sum() / (self.concentration + 1)))

    def draw(self, sizes: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Scores of a study with these numbers of patches, slide after slide."""
        p = np.repeat(self._logistic(rng.standard_normal(len(sizes))), sizes)
        return rng.beta(p * self.concentration, (1 - p) * self.concentration)

    def _logistic(self, normal: np.ndarray) -> np.ndarray:
        return 1 / (1 + np.exp(-(self.logit_mean + self.logit_sd * normal)))


SCORES = {"low": Scores(logit_sd=0.3), "high": Scores(logit_sd=1.5)}
SIZES: Mapping[str, Callable[[np.random.Generator, int], np.ndarray]] = {
    "equal": lambda rng, slides: np.full(slides, 8),
    "2 to 20": lambda rng, slides: rng.integers(2, 21, size=slides),
    "mostly few": lambda rng, slides: np.minimum(1 + rng.geometric(1 / 8, size=slides), 60),
}


# ---------------------------------------------------------------- intervals of the mean over patches


def ours(values: np.ndarray, slides: np.ndarray, rng: np.random.Generator) -> tuple[float, float]:
    return cluster_interval(values, slides, NOMINAL, fewest=2)


def slide_means_t(values: np.ndarray, slides: np.ndarray, rng: np.random.Generator) -> tuple[float, float]:
    """Each slide counts the same: an interval round another mean than the one that is shown."""
    means = np.bincount(slides, weights=values) / np.bincount(slides)
    reach = stats.t.ppf((1 + NOMINAL) / 2, len(means) - 1) * stats.sem(means)
    return means.mean() - reach, means.mean() + reach


def percentile(values: np.ndarray, slides: np.ndarray, rng: np.random.Generator) -> tuple[float, float]:
    return cluster_bootstrap(values, slides, int(rng.integers(2**31)), RESAMPLES, NOMINAL)


def studentised(values: np.ndarray, slides: np.ndarray, rng: np.random.Generator) -> tuple[float, float]:
    """Resamples of one slide only have no standard error and are left out."""
    means, errors = _resampled(values, slides, rng)
    usable = errors > 1e-9
    pivots = (means[usable] - values.mean()) / errors[usable]
    low, high = np.quantile(pivots, _tails())
    error = _error(np.bincount(slides, weights=values)[None], np.bincount(slides)[None])[0]
    return values.mean() - high * error, values.mean() - low * error


def bca(values: np.ndarray, slides: np.ndarray, rng: np.random.Generator) -> tuple[float, float]:
    means, _ = _resampled(values, slides, rng)
    sums, sizes = np.bincount(slides, weights=values), np.bincount(slides)
    without = (sums.sum() - sums) / (sizes.sum() - sizes)
    off = without.mean() - without
    acceleration = (off**3).sum() / (6 * (off**2).sum() ** 1.5)
    below = np.clip((means < values.mean()).mean(), 1 / RESAMPLES, 1 - 1 / RESAMPLES)
    bias, normal = stats.norm.ppf(below), stats.norm.ppf(_tails())
    moved = bias + (bias + normal) / (1 - acceleration * (bias + normal))
    return tuple(np.quantile(means, stats.norm.cdf(moved)))


INTERVALS: Mapping[str, Interval] = {
    "ours": ours,
    "percentile": percentile,
    "studentised": studentised,
    "bca": bca,
    "slide_means_t": slide_means_t,
}


def _tails() -> np.ndarray:
    return np.array([(1 - NOMINAL) / 2, (1 + NOMINAL) / 2])


def _resampled(
    values: np.ndarray, slides: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Mean and its standard error of each resample of whole slides."""
    sums, sizes = np.bincount(slides, weights=values), np.bincount(slides)
    drawn = rng.integers(len(sums), size=(RESAMPLES, len(sums)))
    return sums[drawn].sum(axis=1) / sizes[drawn].sum(axis=1), _error(sums[drawn], sizes[drawn])


def _error(sums: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Cluster-robust standard error of a ratio of sums, one for each row of slides."""
    slides = sums.shape[1]
    mean = sums.sum(axis=1, keepdims=True) / sizes.sum(axis=1, keepdims=True)
    squares = ((sums - mean * sizes) ** 2).sum(axis=1)
    return np.sqrt(slides / (slides - 1) * squares) / sizes.sum(axis=1)


# ---------------------------------------------------------------- how often they hold the truth


def coverage(
    interval: Interval, scores: Scores, sizes: str, slides: int, studies: int, seed: int
) -> tuple[float, float]:
    """Share of simulated studies whose interval holds the true mean, and the intervals' mean width."""
    rng, truth = np.random.default_rng([seed, slides]), scores.true_mean()
    held, widths = 0, []
    for _ in range(studies):
        patches = SIZES[sizes](rng, slides)
        values = scores.draw(patches, rng)
        low, high = interval(values, np.repeat(np.arange(slides), patches), rng)
        held += low <= truth <= high
        widths.append(high - low)
    return held / studies, float(np.mean(widths))


def measure(names: Sequence[str], slides: Sequence[int], studies: int, seed: int) -> dict[str, dict]:
    figures = {}
    for count in slides:
        for kind, scores in SCORES.items():
            for name in names:
                progress(f"{count} slides, {kind} correlation, {name}")
                found = {
                    sizes: coverage(INTERVALS[name], scores, sizes, count, studies, seed) for sizes in SIZES
                }
                least = 100 * min(share for share, _ in found.values())
                each = ", ".join(
                    f"{sizes}: {100 * share:.1f} (width {width:.2f})"
                    for sizes, (share, width) in found.items()
                )
                none = "; the project gives no interval" if name == "ours" and count < FEWEST_SLIDES else ""
                row = figure([100 * share for share, _ in found.values()], "%", None, each + none)
                figures[f"{name}_{count}_slides_{kind}"] = row | {"value": round(least, 2), "n": studies}
    return figures


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer studies")
    parser.add_argument("--studies", type=int, default=None, help="simulated studies for each figure")
    parser.add_argument("--slides", type=int, nargs="+", default=SLIDES, help="slides of a study")
    parser.add_argument("--intervals", nargs="+", choices=INTERVALS, default=tuple(INTERVALS))
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(arguments)
    studies = args.studies or (100 if args.quick else 4000)
    figures = measure(args.intervals, args.slides, studies, args.seed)
    figures["fewest_slides"] = figure([FEWEST_SLIDES], "slides", None, "of fewer there is no interval")
    print_report("coverage", figures)
    return 0


if __name__ == "__main__":
    sys.exit(main())
