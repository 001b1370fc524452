import json

import numpy as np
import pytest

from benchmarks import agreement


def test_all_figures_of_a_small_study(capsys: pytest.CaptureFixture) -> None:
    assert agreement.main(["--quick"]) == 0
    figures = json.loads(capsys.readouterr().out)["figures"]
    assert list(figures) == ["first_s", "page_s", "again_s", "peak_gb", "matching_ratio"]
    assert all(row["value"] > 0 for row in figures.values())
    assert "same results" in figures["matching_ratio"]["note"]


def test_the_loop_finds_what_is_there() -> None:
    true, pred = np.zeros((2, 8, 8), np.int32)
    true[:4, :4], true[5:, 5:] = 1, 2
    pred[:4, 1:4], pred[0, 7] = 5, 6
    n, only_pred, only_true, iou = agreement.fast_pq(true, pred)
    assert (n, only_pred, only_true, iou) == (1, 1, 1, [0.75])
