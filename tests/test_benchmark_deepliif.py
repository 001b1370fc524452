import pytest
import torch

from benchmarks import deepliif
from benchmarks.report import shared_data

TILE = shared_data() / "deepliif_lung1"


@pytest.fixture(scope="module")
def figures() -> dict[str, float]:
    if not TILE.is_dir():
        pytest.skip(f"{TILE} is not there; it is not part of the repository")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return {name: row["value"] for name, row in deepliif.measure(TILE, quick=True).items()}
    finally:
        torch.set_num_threads(threads)


def test_the_registration_is_found_without_the_marker(figures: dict[str, float]) -> None:
    assert (figures["registration_dx_px"], figures["registration_dy_px"]) == (-3, 2)


def test_the_threshold_gives_the_class_of_95_percent_of_the_nuclei(figures: dict[str, float]) -> None:
    assert figures["n_nuclei"] == 61
    assert figures["class_accuracy"] >= 0.95
    assert figures["class_accuracy_sam_masks"] >= 0.95


def test_boxes_become_masks_of_the_nuclei(figures: dict[str, float]) -> None:
    assert figures["mean_dice"] >= 0.8
    assert figures["mean_dice_loose"] >= 0.8


def test_a_folder_without_a_tile_is_told_in_one_line(
    tmp_path: object, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["deepliif", "--data", str(tmp_path)])
    threads = torch.get_num_threads()
    assert deepliif.main() == 2
    torch.set_num_threads(threads)
    assert "Point --data at one tile's folder." in capsys.readouterr().err
