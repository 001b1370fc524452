import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from allinsam.comparison import cluster_bootstrap, cluster_interval, difference_interval
from allinsam.errors import InputError
from allinsam.pace import (
    RESAMPLES,
    change_per_doubling,
    cluster_unit,
    geometric_ratio,
    median_interval,
    medians,
)


@given(
    st.lists(st.tuples(st.integers(0, 4), st.floats(0.1, 100.0)), min_size=2, max_size=30),
    st.integers(0, 3),
)
def test_the_quick_interval_of_a_median_is_the_bootstraps(rows: list[tuple[int, float]], seed: int) -> None:
    clusters, values = [row[0] for row in rows], [row[1] for row in rows]
    slow = cluster_bootstrap(values, clusters, seed, RESAMPLES, statistic=np.median)
    assert median_interval(values, clusters, seed, fewest=2) == pytest.approx(slow, nan_ok=True)


def test_few_clusters_have_no_interval_and_every_value_needs_one() -> None:
    assert np.isnan(median_interval([1.0, 2.0], ["a", "a"])).all()
    assert np.isnan(median_interval(range(10), list("abcde") * 2)).all()
    assert not np.isnan(median_interval(range(12), list("abcdef") * 2)).any()
    with pytest.raises(InputError, match="2 values and 1 clusters"):
        median_interval([1.0, 2.0], ["a"])


def test_medians_say_what_they_rest_on() -> None:
    table = pd.DataFrame(
        {
            "who": ["a"] * 4 + ["b"],
            "slide": ["s1", "s1", "s2", "s2", "s1"],
            "patch": ["p1", "p1", "p2", "p3", "p1"],
            "seconds": [1.0, 2.0, 30.0, 4.0, 7.0],
        }
    )
    found = medians(table, ["who"], "seconds").set_index("who")
    assert found.loc["a", ["median", "n", "patches", "slides"]].tolist() == [3, 4, 3, 2]
    assert found.loc["b", "median"] == 7 and found[["low", "high"]].isna().all(axis=None)
    assert cluster_unit(table) == "slide" and cluster_unit(table[table["slide"] == "s1"]) == "patch"


def by_patch(**values: float) -> pd.Series:
    return pd.Series(values)


SLIDES = pd.Series({"p1": "s1", "p2": "s1", "p3": "s2", "p4": "s2", "p5": "s3"})


def test_twice_as_long_on_every_patch_is_a_ratio_of_two() -> None:
    b = by_patch(p1=3.0, p2=10.0, p3=1.0, p4=40.0, p5=2.0, p6=7.0)
    one = geometric_ratio(2 * b, b, pd.Series({patch: patch for patch in b.index}))
    assert (one.ratio, one.low, one.high) == pytest.approx((2.0, 2.0, 2.0))
    assert (one.patches_a, one.patches_b, one.paired, one.clusters) == (6, 6, True, 6)
    few = geometric_ratio(2 * b[:4], b[:4], SLIDES)
    assert few.ratio == pytest.approx(2.0) and np.isnan([few.low, few.high]).all() and few.clusters == 2


def test_the_paired_ratio_has_the_interval_of_the_mean_logarithm() -> None:
    rng = np.random.default_rng(0)
    b = pd.Series(rng.uniform(1, 9, 16), [f"p{n}" for n in range(16)])
    a = b * np.exp(rng.normal(0.3, 0.2, 16))
    slides = pd.Series([f"s{n // 2}" for n in range(16)], b.index)
    one = geometric_ratio(a, b, slides)
    expected = np.exp(cluster_interval(np.log(a / b), slides))
    assert (one.low, one.high) == pytest.approx(tuple(expected)) and one.low < one.ratio < one.high


def test_the_ratio_is_of_geometric_means_on_shared_patches() -> None:
    a = by_patch(p1=2.0, p2=2.0, p3=16.0, p5=1000.0)
    b = by_patch(p1=1.0, p2=1.0, p3=1.0, p4=0.001)
    one = geometric_ratio(a, b, SLIDES)
    assert one.ratio == pytest.approx((2 * 2 * 16) ** (1 / 3)) and one.paired and one.patches_a == 3


def test_without_shared_patches_all_of_each_count() -> None:
    a, b = by_patch(p1=4.0, p2=4.0, p3=4.0), by_patch(p4=1.0, p5=4.0, p3=2.0)
    one = geometric_ratio(a, b, SLIDES)
    assert not one.paired and (one.patches_a, one.patches_b) == (3, 3)
    assert one.ratio == pytest.approx(4 / 2)


def test_the_unpaired_ratio_has_an_interval_where_both_sides_have_enough_slides() -> None:
    rng = np.random.default_rng(3)
    a = pd.Series(np.exp(rng.normal(1.0, 0.3, 12)), [f"a{n}" for n in range(12)])
    b = pd.Series(np.exp(rng.normal(0.0, 0.3, 14)), [f"b{n}" for n in range(14)])
    slides = pd.Series([f"s{n // 2}" for n in range(26)], [*a.index, *b.index])
    one = geometric_ratio(a, b, slides)
    logs, of = [np.log(side) for side in (a, b)], [slides[side.index] for side in (a, b)]
    expected = np.exp(difference_interval(logs[0], of[0], logs[1], of[1]))
    assert (one.low, one.high) == pytest.approx(tuple(expected)) and 1 < one.low < one.ratio < one.high
    assert not one.paired and one.clusters == 6
    few = geometric_ratio(a[:10], b, slides)  # five slides on one side
    assert few.ratio > 1 and np.isnan([few.low, few.high]).all() and few.clusters == 5


def test_two_patches_are_too_few() -> None:
    one = geometric_ratio(by_patch(p1=1.0, p2=2.0), by_patch(p1=1.0, p2=2.0, p3=2.0), SLIDES)
    assert np.isnan([one.ratio, one.low, one.high]).all()
    assert np.isnan(geometric_ratio(by_patch(p1=1.0, p2=2.0, p3=0.0), by_patch(p1=1.0), SLIDES).ratio)


def test_a_tenth_quicker_with_every_doubling() -> None:
    order = np.arange(1, 9)
    quicker = 20 * 0.9 ** np.log2(order)
    assert change_per_doubling(order, quicker, ["a"] * 8) == pytest.approx(-0.1)
    assert change_per_doubling(order, np.full(8, 5.0), ["a"] * 8) == pytest.approx(0.0)
    # An arm that takes three times as long, and comes late, is not taken for getting slower.
    late = np.where(order > 4, 3.0, 1.0)
    arms = np.where(order > 4, "slow", "usual")
    assert change_per_doubling(order, late * quicker, arms) == pytest.approx(-0.1)
    assert change_per_doubling(order, late * quicker, ["a"] * 8) > 0.3


def test_too_few_patches_say_nothing_about_getting_quicker() -> None:
    # A patch without a nucleus has no seconds, and five are too few.
    seconds = [5, 4, 3, 3, 3, np.nan, 0, np.nan]
    assert np.isnan(change_per_doubling(range(1, 9), seconds, ["a"] * 8))
    # Nor does one patch of each arm.
    assert np.isnan(change_per_doubling(range(1, 7), [3.0] * 6, list("abcdef")))
