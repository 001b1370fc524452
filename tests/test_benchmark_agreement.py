import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks import agreement


def test_all_figures_of_a_small_study(capsys: pytest.CaptureFixture) -> None:
    assert agreement.main(["--quick"]) == 0
    figures = json.loads(capsys.readouterr().out)["figures"]
    names = ["first_s", "first_cpu_s", "page_s", "page_cpu_s", "again_s", "again_cpu_s"]
    assert list(figures) == [*names, "peak_gb", "matching_ratio"]
    assert all(row["value"] > 0 for row in figures.values())
    assert "same results" in figures["matching_ratio"]["note"]


def test_a_kept_study_is_drawn_once_and_stays_as_it_was(tmp_path: Path) -> None:
    size = agreement.QUICK
    agreement.draw(tmp_path / "a", size, True, tmp_path / "kept")
    [kept] = (tmp_path / "kept").iterdir()
    before = (kept / "study.sqlite").stat().st_mtime_ns
    (tmp_path / "a" / "study.sqlite").unlink()
    agreement.draw(tmp_path / "b", size, True, tmp_path / "kept")
    assert (tmp_path / "b" / "study.sqlite").exists()
    assert (kept / "study.sqlite").stat().st_mtime_ns == before


def test_the_loop_finds_what_is_there() -> None:
    true, pred = np.zeros((2, 8, 8), np.int32)
    true[:4, :4], true[5:, 5:] = 1, 2
    pred[:4, 1:4], pred[0, 7] = 5, 6
    n, only_pred, only_true, iou = agreement.fast_pq(true, pred)
    assert (n, only_pred, only_true, iou) == (1, 1, 1, [0.75])
