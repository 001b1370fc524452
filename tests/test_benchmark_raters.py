import json

import numpy as np
import pytest

from benchmarks import raters
from benchmarks.report import shared_data

FOLDER = shared_data() / "bubil_raters"
# Name of the figure -> its kind of pair in summary.json.
KNOWN = {
    "expert_expert": "ee",
    "lay_lay": "ll",
    "lay_expert": "le",
    "lay_gold": "lg",
    "expert_gold": "eg",
    "majority_gold": "majority_lay_vs_gold",
}


def printed(capsys: pytest.CaptureFixture, path) -> dict:
    assert raters.main(["--set", str(path)]) == 0
    return json.loads(capsys.readouterr().out)


def write_set(path, names: list[str], **images: np.ndarray):
    """A file of the same format: bool (raters, height, width) for each image."""
    stored = {"raters": np.array(names)}
    for name, masks in images.items():
        stored |= {f"{name}__masks": np.packbits(masks), f"{name}__shape": np.array(masks.shape)}
    np.savez(path, **stored)
    return path


@pytest.mark.parametrize("number", [4, 6])
def test_real_raters_have_the_published_agreement(number: int, capsys) -> None:
    path = FOLDER / f"dataset{number}.npz"
    if not path.is_file():
        pytest.skip(f"no {path} (set ALLINSAM_SHARED_DATA)")
    found = printed(capsys, path)
    known = json.loads((FOLDER / "summary.json").read_text())[str(number)]
    assert found["images"] == known["images"]
    for name, kind in KNOWN.items():
        assert found[f"{name}_dice"] == pytest.approx(known["mean_dice"][kind], abs=1e-4)
        assert found[f"{name}_n"] == known["pairs"][kind]


def test_another_file_with_other_names(tmp_path, capsys) -> None:
    rows = np.zeros((5, 3, 5), bool)
    for rater, width in enumerate([4, 2, 4, 2, 4]):
        rows[rater, 0, :width] = True
    names = ["expert_Ana", "lay_07", "lay_x_2", "lay_9", "gold"]
    other = np.zeros((5, 2, 3), bool)
    other[:, 0] = True
    found = printed(capsys, write_set(tmp_path / "a set.npz", names, one=rows, two=other))
    assert (found["images"], found["expert_expert_dice"], found["expert_expert_n"]) == (2, None, 0)
    # Widths 4, 2: Dice 2 * 2 / 6. Lay pairs of the first image: (2, 4), (2, 2), (4, 2); all 1 in the second.
    assert found["lay_lay_dice"] == pytest.approx((2 / 3 + 1 + 2 / 3 + 3) / 6) and found["lay_lay_n"] == 6
    assert found["lay_expert_dice"] == pytest.approx((2 / 3 + 1 + 2 / 3 + 3) / 6)
    # Two of three lay workers drew no more than 2 pixels; gold has 4.
    assert found["majority_gold_dice"] == pytest.approx((2 / 3 + 1) / 2) and found["majority_gold_n"] == 2


@pytest.mark.parametrize("kind", ["missing", "text", "no raters", "wrong shape", "empty"])
def test_a_file_that_is_no_set_is_told_in_one_line(kind: str, tmp_path, capsys) -> None:
    path = tmp_path / "set.npz"
    if kind == "text":
        path.write_text("raters")
    elif kind == "no raters":
        np.savez(path, one__masks=np.zeros(3, np.uint8))
    elif kind == "wrong shape":
        write_set(path, ["lay_1"], one=np.zeros((2, 4, 4), bool))
    elif kind == "empty":
        np.savez(path, raters=np.array(["lay_1"]))
    assert raters.main(["--set", str(path)]) == 2
    told = capsys.readouterr()
    assert told.out == "" and told.err.count("\n") == 1 and str(path) in told.err
