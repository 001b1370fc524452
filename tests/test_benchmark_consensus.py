import json

import pytest

from benchmarks import consensus
from benchmarks.report import shared_data

FOLDER = shared_data() / "bubil_raters"


def values(capsys: pytest.CaptureFixture, *arguments: str) -> dict[str, float]:
    assert consensus.main(["--quick", *arguments]) == 0
    figures = json.loads(capsys.readouterr().out)["figures"]
    return {name: row["value"] for name, row in figures.items()}


def test_without_the_real_raters_the_simulated_ones_are_measured(tmp_path, capsys) -> None:
    found = values(capsys, "--data", str(tmp_path))
    assert found and all(name.startswith("simulated_") for name in found)
    assert found["simulated_accuracy_error"] < 0.06 and found["simulated_detected_accuracy_error"] < 0.06
    assert found["simulated_found_error"] < 0.06 and found["simulated_sensitivity_error"] < 0.06


def test_the_figures_of_real_raters(capsys) -> None:
    if not (FOLDER / "dataset4.npz").is_file():
        pytest.skip(f"no {FOLDER} (set ALLINSAM_SHARED_DATA)")
    found = values(capsys)
    known = json.loads((FOLDER / "summary.json").read_text())
    for number in consensus.SETS:
        mean_dice = known[str(number)]["mean_dice"]
        assert found[f"set{number}_lay_one"] == pytest.approx(mean_dice["lg"], abs=6e-5)
        majority = mean_dice["majority_lay_vs_gold"]
        assert found[f"set{number}_lay_pixel_majority"] == pytest.approx(majority, abs=6e-5)
        # Ours leaves out who matched nobody, and may only look round the cell.
        for rule in ("majority", "staple"):
            assert found[f"set{number}_lay_{rule}"] == pytest.approx(majority, abs=2e-3)
            assert found[f"set{number}_lay_{rule}"] > found[f"set{number}_lay_one"] + 0.03
    assert found["set4_expert_majority"] == 1.0  # gold of set 4 is just that
