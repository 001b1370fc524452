import json

import pytest

from allinsam.comparison import FEWEST_SLIDES
from benchmarks.coverage import INTERVALS, SCORES, SIZES, coverage, main

STUDIES = 600  # a coverage of 0.95 is then found to 0.018, twice its standard error


@pytest.mark.parametrize("slides", [FEWEST_SLIDES, 11, 30])
@pytest.mark.parametrize("kind", SCORES)
@pytest.mark.parametrize("sizes", SIZES)
def test_the_interval_holds_the_truth_as_often_as_it_says(kind, sizes, slides) -> None:
    share, width = coverage(INTERVALS["ours"], SCORES[kind], sizes, slides, STUDIES, seed=1)
    assert 0.90 <= share <= 0.98
    assert 0.01 < width < 1.0


def test_an_interval_that_is_too_narrow_is_found_out() -> None:
    share, _ = coverage(INTERVALS["percentile"], SCORES["high"], "2 to 20", FEWEST_SLIDES, 200, seed=1)
    assert share < 0.88
    patchwise, _ = coverage(
        lambda values, slides, rng: INTERVALS["ours"](values, range(len(values)), rng),
        SCORES["high"], "equal", 11, 200, seed=1,
    )  # fmt: skip
    assert patchwise < 0.75


def test_the_simulated_truth_is_what_many_studies_average_to() -> None:
    import numpy as np

    rng = np.random.default_rng(0)
    for kind, correlation in (("low", 0.06), ("high", 0.60)):
        scores = SCORES[kind]
        drawn = scores.draw(np.full(20_000, 10), rng).reshape(-1, 10)
        assert drawn.mean() == pytest.approx(scores.true_mean(), abs=0.005)
        assert scores.correlation() == pytest.approx(correlation, abs=0.005)
        between = drawn.mean(axis=1).var() - drawn.var(axis=1, ddof=1).mean() / 10
        assert between / drawn.var() == pytest.approx(scores.correlation(), abs=0.02)
        assert drawn.mean() > np.median(drawn)  # skewed to the right


def test_the_benchmark_prints_every_interval_for_every_number_of_slides(capsys) -> None:
    assert main(["--studies", "5"]) == 0
    figures = json.loads(capsys.readouterr().out)["figures"]
    named = {f"{name}_{n}_slides_{kind}" for name in INTERVALS for n in (3, 6, 11, 30) for kind in SCORES}
    assert set(figures) == named | {"fewest_slides"}
    assert "gives no interval" in figures["ours_3_slides_low"]["note"]
    assert "gives no interval" not in figures["ours_6_slides_low"]["note"]
