import json

import numpy as np
import pytest

from allinsam.simulate.pairs import SimulatedSlides, Tear
from benchmarks import registration
from benchmarks.report import shared_data


def test_a_patch_is_torn_where_the_gap_leaves_much_on_either_side():
    tear = Tear(at_xy=(1000.0, 0.0), angle_deg=90.0, opening_px=40.0, closing_px=800.0)
    slides = SimulatedSlides(np.zeros((4, 4, 3), np.uint8), {}, np.eye(2, 3), tear)
    assert registration._is_torn(slides, 800, 1000)
    assert not registration._is_torn(slides, 990, 1000)  # hardly any of it is left of the line
    assert not registration._is_torn(slides, 1200, 1000)
    assert not registration._is_torn(slides, 800, -600)  # beyond the end of the tear


def test_patches_that_are_mostly_glass_are_left_out():
    pas = np.full((1024, 1100, 3), 243, np.uint8)
    pas[:512, 200:512] = 120
    assert registration._corners(pas) == [(0, 0)]


def test_figures_of_the_real_tile_are_errors_and_seconds():
    tile = shared_data() / "deepliif_lung1"
    if not tile.is_dir():
        pytest.skip(f"{tile} is not there; it is not part of the repository")
    figures = registration.measure_deepliif(tile)
    assert figures["deepliif_error_px"]["max"] < 1.5 and figures["deepliif_s"]["n"] == 2
    json.dumps(figures)
