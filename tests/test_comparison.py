import itertools

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from allinsam.comparison import (
    FEWEST_SLIDES,
    TOO_FEW,
    _sign_permutation_p,
    cluster_bootstrap,
    cluster_interval,
    cluster_means,
    compare_to_reference,
    difference_interval,
    equivalence_test,
    holm,
    interval_in_words,
    paired_test,
)
from allinsam.errors import InputError

# Darwin's maize (Fisher 1935): crossed minus self-fertilised height in eighths of an inch, 15 pairs.
DARWIN = [49, -67, 8, 16, 6, 23, 28, 41, 14, 29, 56, 24, 75, 60, -48]


def against_zero(differences: list[float]) -> tuple[pd.Series, pd.Series]:
    return pd.Series(differences, dtype=float), pd.Series(np.zeros(len(differences)))


def test_known_answer_without_ties():
    # Ranks of |d| are 1 ... 7; negative are 1 and 3, so W- = 4. Of 128 sign patterns 7 have W- <= 4 (the sets
    # {}, 1, 2, 3, 4, 1+2, 1+3), so p = 2 * 7 / 128.
    test = paired_test(*against_zero([-1, 2, -3, 4, 5, 6, 7]))
    assert (test.n, test.n_differing, test.statistic) == (7, 7, 4.0)
    assert test.p_value == pytest.approx(14 / 128)
    assert test.rank_biserial == pytest.approx((24 - 4) / 28)
    assert test.median_difference == 4.0
    assert test.mean_difference == pytest.approx(20 / 7)
    assert test.method == "Wilcoxon, exact"


def test_all_on_one_side_gives_the_smallest_p_there_is():
    # Seven rows below one reference: 2 / 2^7, whatever the sizes.
    test = paired_test(*against_zero([-0.1, -0.2, -0.3, -0.4, -0.5, -0.6, -0.7]))
    assert test.p_value == 2 / 2**7
    assert test.rank_biserial == -1.0


def test_darwins_maize():
    test = paired_test(*against_zero(DARWIN))
    assert test.statistic == 24.0
    assert test.p_value == pytest.approx(0.041259765625)  # 1352 of 2^15 sign patterns, as scipy documents


# Hollander and Wolfe (1973), p. 29: nine patients' depression at the first and the second visit.
DEPRESSION = (
    pd.Series([1.83, 0.50, 1.62, 2.48, 1.68, 1.88, 1.55, 3.06, 1.30]),
    pd.Series([0.878, 0.647, 0.598, 2.05, 1.06, 1.29, 1.06, 3.14, 1.29]),
)
# Bortz, Lienert and Boehnke's example with ties and without a difference in five of 15 pairs.
WITH_TIES = (
    pd.Series([9, 14, 8, 11, 14, 10, 8, 14, 12, 14, 13, 9, 15, 12, 9]),
    pd.Series([13, 15, 9, 12, 16, 10, 8, 13, 12, 16, 9, 10, 16, 12, 9]),
)
# Eleven of them, three without a difference: scipy tries every sign of these in a sixteenth of the time.
FEWER_WITH_TIES = tuple(scores[:11] for scores in WITH_TIES)


def test_published_exact_values_without_and_with_ties():
    """Both as the R package exactRankTests prints them: V = 40, one-sided p = 0.01953; V = 13, p = 0.1367."""
    test = paired_test(*DEPRESSION)
    assert (test.n, test.method, test.statistic) == (9, "Wilcoxon, exact", 45 - 40)
    assert test.p_value == pytest.approx(2 * 0.01953, abs=1e-5)
    test = paired_test(*WITH_TIES)
    assert (test.n, test.n_differing, test.method) == (15, 10, "Wilcoxon, exact with ties")
    assert test.statistic == 13.0
    assert test.p_value == pytest.approx(0.1367, abs=5e-5)


@settings(deadline=None, max_examples=30)
@given(st.lists(st.integers(-4, 4).filter(bool), min_size=6, max_size=9))
def test_exact_values_with_ties_are_scipys_over_all_signs(differences):
    test = paired_test(*against_zero(differences))
    every_sign = stats.PermutationMethod(n_resamples=np.inf)
    assert test.p_value == pytest.approx(stats.wilcoxon(differences, method=every_sign).pvalue)


def test_rank_biserial_is_kerbys_simple_difference():
    # Kerby (2014): the favourable share of the ranks minus the unfavourable. The ranks of the positive
    # differences add up to 27 of 45, of the negative ones to 18.
    test = paired_test(*against_zero([15, -7, 5, 20, 0, -9, 17, -12, 5, -10]))
    assert (test.n, test.n_differing, test.statistic) == (10, 9, 18.0)
    assert test.rank_biserial == pytest.approx(27 / 45 - 18 / 45)


def test_rank_biserial_is_that_of_pingouin():
    """The example of pingouin.wilcoxon's documentation; its exact p is HypothesisTests.jl's."""
    first = pd.Series([20, 22, 19, 20, 22, 18, 24, 20, 19, 24, 26, 13])
    second = pd.Series([38, 37, 33, 29, 14, 12, 20, 22, 17, 25, 26, 16])
    test = paired_test(first, second)
    assert test.statistic == 20.5
    assert test.rank_biserial == pytest.approx(-0.378788, abs=5e-7)
    assert test.p_value == pytest.approx(0.288086, abs=5e-7)


def test_a_difference_of_zero_counts_as_a_pair_but_has_no_rank():
    test = paired_test(*against_zero([0, 0, -1, 2, -3, 4, 5, 6, 7]))
    assert (test.n, test.n_differing) == (9, 7)
    assert test.median_difference == 2.0
    assert test.method == "Wilcoxon, exact with ties"
    assert test.p_value == pytest.approx(14 / 128)  # the seven that differ are those of the known answer


def test_equal_differences_are_ties_in_spite_of_floating_point():
    a = pd.Series([0.8, 0.5, 0.9, 0.7, 1.0, 0.4])
    b = pd.Series([0.6, 0.3, 0.7, 0.5, 0.8, 0.2])
    assert len(set((a - b).tolist())) > 1
    test = paired_test(a, b)
    assert test.method == "Wilcoxon, exact with ties"
    assert test.p_value == 2 / 2**6


def test_many_pairs_use_the_normal_approximation():
    rng = np.random.default_rng(0)
    differences = rng.normal(0.05, 0.3, 80)
    test = paired_test(*against_zero(differences.tolist()))
    assert test.method == "Wilcoxon, normal approximation"
    assert test.p_value == pytest.approx(stats.wilcoxon(differences, method="exact").pvalue, rel=0.05)


@given(st.lists(st.integers(-4, 4).filter(bool), min_size=1, max_size=9))
def test_permutation_of_signs_is_the_count_over_all_sign_patterns(differences):
    differences = np.array(differences, dtype=float)
    ranks = stats.rankdata(np.abs(differences))
    seen = ranks[differences > 0].sum()
    patterns = list(itertools.product([0, 1], repeat=len(ranks)))
    reached = sum(np.dot(pattern, ranks) >= seen - 1e-9 for pattern in patterns)
    assert _sign_permutation_p(pd.Series(differences)) == pytest.approx(reached / len(patterns))


@given(st.lists(st.integers(-10_000, 10_000).filter(bool), min_size=6, max_size=50, unique_by=abs))
def test_permutation_of_signs_agrees_with_scipy_where_there_are_no_ties(differences):
    expected = stats.wilcoxon(differences, method="exact", alternative="greater").pvalue
    assert _sign_permutation_p(pd.Series(differences)) == pytest.approx(expected, rel=1e-9)


@given(st.lists(st.integers(-5, 5), min_size=0, max_size=30))
def test_swapping_a_and_b_turns_the_sign_and_keeps_p(differences):
    one, other = paired_test(*against_zero(differences)), paired_test(*against_zero(differences)[::-1])
    assert one.p_value == pytest.approx(other.p_value, nan_ok=True)
    assert one.rank_biserial == pytest.approx(-other.rank_biserial, nan_ok=True)
    assert one.n == other.n == len(differences)


@pytest.mark.parametrize("differences", [[], [1.0], [1, 2, 3, 4, 5], [0] * 30, [0] * 30 + [1, 2]])
def test_too_few_pairs_have_no_p_value(differences):
    test = paired_test(*against_zero(differences))
    assert np.isnan(test.p_value)
    assert test.method == TOO_FEW == "too few pairs"
    assert test.n == len(differences)


def test_pairs_go_by_patch_and_missing_scores_are_left_out():
    a = pd.Series({"p3": 3.0, "p1": 1.0, "p2": np.nan, "p4": 9.0})
    b = pd.Series({"p1": 0.5, "p2": 1.0, "p3": 1.0, "p5": 2.0})
    test = paired_test(a, b)
    assert test.n == 2
    assert test.mean_difference == pytest.approx((0.5 + 2.0) / 2)


def test_a_patch_scored_twice_is_refused():
    with pytest.raises(InputError, match="'p1' has more than one score"):
        paired_test(pd.Series([1.0, 2.0], index=["p1", "p1"]), pd.Series([1.0], index=["p1"]))


def test_an_infinite_score_is_refused():
    with pytest.raises(InputError, match="infinite"):
        paired_test(pd.Series([np.inf]), pd.Series([1.0]))


# ---------------------------------------------------------------- several tests


def test_holm_known_answer():
    # The worked example of Wikipedia's "Holm-Bonferroni method": at 5 % the first and the last are rejected.
    # Sorted 0.005, 0.01, 0.03, 0.04 times 4, 3, 2, 1 = 0.02, 0.03, 0.06, 0.04, and none below the one before.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])


def test_holm_leaves_unknown_p_values_out_of_the_count():
    assert holm([0.02, float("nan"), 0.03]) == pytest.approx([0.04, float("nan"), 0.04], nan_ok=True)
    assert holm([]) == []
    assert holm([0.9, 0.8]) == [1.0, 1.0]


def test_compare_to_reference_has_one_row_for_each_other_method():
    patches = [f"p{i}" for i in range(8)]
    reference = pd.Series(np.linspace(0.5, 0.9, 8), index=patches)
    step = pd.Series(np.arange(1, 9) / 100, index=patches)
    scores = pd.DataFrame({"worse": reference - step, "ours": reference, "better": reference + step})
    table = compare_to_reference(scores, "ours").set_index("compared")
    assert table.index.tolist() == ["worse", "better"]
    assert table["p_value"].tolist() == pytest.approx([2 / 2**8] * 2)
    assert table["p_holm"].tolist() == pytest.approx([4 / 2**8] * 2)
    assert table["rank_biserial"].tolist() == [-1.0, 1.0]
    with pytest.raises(InputError, match="No column 'theirs'"):
        compare_to_reference(scores, "theirs")


# ---------------------------------------------------------------- intervals and equivalence


def test_interval_of_equal_slides_is_the_t_interval_of_their_means():
    # Ten slides that differ, twenty patches each that do not: mean 0.725, SD 0.1514, t of 9 df 2.2622.
    slide_means = np.linspace(0.5, 0.95, 10)
    values, slides = np.repeat(slide_means, 20), np.repeat(np.arange(10), 20)
    low, high = cluster_interval(values, slides)
    reach = stats.t.ppf(0.975, 9) * slide_means.std(ddof=1) / np.sqrt(10)
    assert (low, high) == pytest.approx((0.725 - reach, 0.725 + reach))
    patch_low, patch_high = cluster_interval(values, np.arange(200))
    assert (high - low) > 4 * (patch_high - patch_low)


def test_interval_of_unequal_slides_is_that_of_cr2_and_satterthwaite():
    """Spelt out with matrices: Bell and McCaffrey (2002), equations of a regression on a constant."""
    rng = np.random.default_rng(4)
    sizes = np.array([2, 3, 5, 8, 13, 21])
    slides = np.repeat(np.arange(6), sizes)
    values = rng.beta(1, 3, sizes.sum()) / 2 + slides / 20
    n, ones = sizes.sum(), np.ones(sizes.sum())
    residual_maker = np.eye(n) - np.outer(ones, ones) / n
    parts = []
    for slide in range(6):
        mine = slides == slide
        within = np.eye(sizes[slide]) - 1 / n  # its inverse square root: the CR2 adjustment
        values_of, vectors = np.linalg.eigh(within)
        adjustment = vectors @ np.diag(values_of**-0.5) @ vectors.T
        parts.append(residual_maker[:, mine] @ adjustment @ ones[mine] / n)
    parts = np.array(parts)
    error = np.sqrt(((parts @ values) ** 2).sum())
    # The working covariance: patches of a slide are one and the same.
    covariance = parts @ (slides[:, None] == slides[None, :]) @ parts.T
    freedom = np.trace(covariance) ** 2 / (covariance**2).sum()
    assert 1 < freedom < 5
    reach = stats.t.ppf(0.975, freedom) * error
    expected = (values.mean() - reach, values.mean() + reach)
    assert cluster_interval(values, slides) == pytest.approx(expected)


def test_too_few_slides_have_no_interval_but_their_means():
    assert FEWEST_SLIDES == 6
    values, slides = [0.1, 0.4, 0.4, 0.8, 0.9, 0.2, np.nan], ["a", "a", "b", "c", "d", "e", "f"]
    assert np.isnan(cluster_interval(values, slides)).all()  # the sixth slide has no score
    assert cluster_means(values, slides) == pytest.approx([0.2, 0.25, 0.4, 0.8, 0.9])
    assert not np.isnan(cluster_interval([*values[:-1], 0.3], slides)).any()
    assert not np.isnan(cluster_interval(values, slides, fewest=5)).any()
    for values, slides in [([], []), ([0.5, 0.6], ["a", "a"]), ([0.5, np.nan], ["a", "b"])]:
        assert np.isnan(cluster_interval(values, slides, fewest=1)).all()
    assert cluster_interval([0.5] * 6, list("abcdef")) == (0.5, 0.5)
    low, high = cluster_interval([0.1, 0.9, 0.9, 1.0, 1.0, 1.0], list("abcdef"), bounds=(0, 1))
    assert low < 0.817 and high == 1.0
    with pytest.raises(InputError, match="one cluster for each value"):
        cluster_interval([0.5], ["a", "b"])


def test_bootstrap_is_repeatable_and_takes_any_statistic():
    values, slides = [0.1, 0.4, 0.4, 0.8, 0.9, np.nan], ["a", "a", "b", "c", "c", "d"]
    assert cluster_bootstrap(values, slides, 7) == cluster_bootstrap(values, slides, 7)
    assert cluster_bootstrap(values, slides, 7, 500) == pytest.approx(
        cluster_bootstrap(values, slides, 7, 500, statistic=np.mean)
    )
    # Of two slides there are four draws: 1 of each, both, and a median in between.
    assert cluster_bootstrap([1, 1, 1, 2], ["a", "a", "a", "b"], 0, statistic=np.median) == (1.0, 2.0)
    assert np.isnan(cluster_bootstrap([0.5, 0.6], ["a", "a"], 0)).all()


def test_an_interval_in_words():
    assert interval_in_words(-0.1, 0.25, [], "{:+.2f}") == "-0.10 to +0.25"
    assert interval_in_words(float("nan"), float("nan"), [0.5, 0.75]) == "too few slides: 0.50, 0.75"
    assert interval_in_words(float("nan"), float("nan"), [], why="too few images") == "too few images"


def test_students_within_the_margin_are_equivalent():
    patches = [f"p{i}" for i in range(20)]
    expert = pd.Series(np.linspace(0.6, 0.9, 20), index=patches)
    student = expert + np.tile([0.01, -0.012], 10)
    slides = pd.Series([f"s{n // 3}" for n in range(20)], index=patches)
    result = equivalence_test(student, expert, margin=0.05, clusters=slides)
    assert result.equivalent is True and result.n == 20
    assert result.p_value == pytest.approx(1 / 2**20)  # all 20 lie within the margin on either side
    assert -0.05 < result.low < result.mean_difference < result.high < 0.05
    of_two = equivalence_test(
        student, expert, margin=0.05, clusters=slides.str.replace("[1-9]", "1", regex=True)
    )
    assert np.isnan([of_two.low, of_two.high]).all()
    assert equivalence_test(student - 0.06, expert, margin=0.05).equivalent is False


@pytest.mark.parametrize("pair", [DEPRESSION, FEWER_WITH_TIES])
@pytest.mark.parametrize("margin", [0.31, 0.9, 1.7, 3.3])
def test_equivalence_is_two_one_sided_tests_of_scipy(pair, margin):
    """Schuirmann's (1987) two one-sided tests, each a Wilcoxon test of the shifted differences."""
    difference = (pair[0] - pair[1]).round(9)
    every_sign = stats.PermutationMethod(n_resamples=np.inf)
    one_sided = [
        stats.wilcoxon(difference + margin, alternative="greater", method=every_sign).pvalue,
        stats.wilcoxon(difference - margin, alternative="less", method=every_sign).pvalue,
    ]
    result = equivalence_test(*pair, margin=margin)
    assert result.p_value == pytest.approx(max(one_sided), rel=1e-6)
    assert result.equivalent is bool(max(one_sided) < 0.05)


def test_equivalence_of_too_few_pairs_is_not_known():
    result = equivalence_test(pd.Series([0.5, 0.6]), pd.Series([0.5, 0.6]), margin=0.1)
    assert result.equivalent is None and np.isnan(result.p_value) and result.method == TOO_FEW


def test_equivalence_of_identical_scores_is_found():
    # No pair differs, so there is no test of a difference; but all lie within the margin.
    scores = pd.Series(np.full(10, 0.8))
    assert equivalence_test(scores, scores, margin=0.05).equivalent is True


def test_a_margin_or_a_slide_that_is_missing_is_refused():
    scores = pd.Series([0.5] * 8)
    with pytest.raises(InputError, match="margin"):
        equivalence_test(scores, scores, margin=0.0)
    with pytest.raises(InputError, match="no cluster"):
        equivalence_test(scores, scores, margin=0.1, clusters=pd.Series({0: "s1"}))


# ---------------------------------------------------------------- two means, not paired


def test_with_one_value_for_each_cluster_the_difference_has_welch_s_interval() -> None:
    rng = np.random.default_rng(5)
    a, b = rng.normal(1.0, 1.0, 9), rng.normal(0.0, 3.0, 7)
    names = [f"s{n}" for n in range(16)]
    found = difference_interval(a, names[:9], b, names[9:])
    welch = stats.ttest_ind(a, b, equal_var=False).confidence_interval(0.95)
    assert found == pytest.approx((welch.low, welch.high))


def test_what_moves_both_sides_of_a_slide_alike_does_not_widen_the_difference() -> None:
    rng = np.random.default_rng(6)
    slides = np.repeat([f"s{n}" for n in range(8)], 4)
    moved = np.repeat(rng.normal(0.0, 5.0, 8), 4)
    a, b = moved + rng.normal(1.0, 0.2, 32), moved + rng.normal(0.0, 0.2, 32)
    low, high = difference_interval(a, slides, b, slides)
    apart = difference_interval(a, slides, b, [f"other {name}" for name in slides])
    assert 0.7 < low < 1 < high < 1.3 and apart[1] - apart[0] > 5 * (high - low)


def test_a_side_of_few_slides_has_no_interval_of_the_difference() -> None:
    slides = [f"s{n}" for n in range(6)]
    values = np.arange(6.0)
    assert not np.isnan(difference_interval(values, slides, values, slides)).any()
    assert np.isnan(difference_interval(values[:5], slides[:5], values, slides)).all()
    assert np.isnan(difference_interval(values, slides, [*values[:5], np.nan], slides)).all()
