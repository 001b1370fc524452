import functools
from dataclasses import replace

import numpy as np
import pytest

from allinsam.errors import InputError
from allinsam.imaging import read_channel, read_rgb
from allinsam.registration import (
    Registration,
    RegistrationSettings,
    centre_matrix,
    checkerboard,
    compose,
    corner_matrix,
    estimate,
    estimate_slide,
    grid_error_px,
    identity_matrix,
    invert,
    move_points,
    nudge,
    refine_patch,
    shift_matrix,
    warp_to_pas,
)
from allinsam.registration.quality import gate
from allinsam.simulate.pairs import PairSettings, SimulatedPair, Tear, pair_of_fields, simulate_field
from benchmarks.report import shared_data

TILE = shared_data() / "deepliif_lung1"
SIZE_HW = (512, 512)


@functools.cache
def field(seed: int):
    return simulate_field(seed)


@functools.cache
def pair(seed: int, settings: PairSettings | None = None) -> SimulatedPair:
    """A pair whose IF shows two neighbouring fields in turn beyond the field itself."""
    return pair_of_fields(seed, field(seed), [field(2000 + number % 2) for number in range(8)], settings)


# --- Transforms -----------------------------------------------------------------------------------


def test_a_whole_pixel_shift_moves_every_pixel():
    channel = np.zeros((16, 16), np.uint8)
    channel[4:6, 5:8] = 200
    warped = warp_to_pas(channel, np.array([[1, 0, 3], [0, 1, -2]]), (16, 16))
    expected = np.zeros((16, 16), np.uint8)
    expected[2:4, 8:11] = 200
    np.testing.assert_array_equal(warped, expected)


def test_doubling_the_scale_keeps_pixel_edges_in_place():
    # Pixel [0, 1) covers [0, 2) after doubling, so a block of 4 px becomes one of 8 px at twice its place.
    channel = np.zeros((8, 8), np.uint16)
    channel[2:6, 2:6] = 40000
    warped = warp_to_pas(channel, np.array([[2.0, 0, 0], [0, 2.0, 0]]), (16, 16))
    assert warped.dtype == np.uint16
    np.testing.assert_array_equal(np.flatnonzero(warped[8] > 20000), np.arange(4, 12))


def test_the_identity_returns_the_image_itself():
    channel = np.arange(64, dtype=np.uint8).reshape(8, 8)
    assert warp_to_pas(channel, identity_matrix(), (8, 8)) is channel
    np.testing.assert_allclose(centre_matrix(identity_matrix()), identity_matrix())


def test_a_bad_matrix_is_named():
    with pytest.raises(InputError, match="2x3"):
        warp_to_pas(np.zeros((4, 4), np.uint8), np.eye(3), (4, 4))
    with pytest.raises(InputError, match="cannot be turned round"):
        invert(np.zeros((2, 3)))


def test_transforms_compose_and_turn_round():
    one, other = np.array([[0.0, -2, 5], [2, 0, 1]]), np.array([[1.0, 0.5, -3], [0, 1, 4]])
    points = np.array([[0.0, 0], [3, 7], [-2, 5]])
    np.testing.assert_allclose(
        move_points(compose(one, other), points), move_points(one, move_points(other, points))
    )
    np.testing.assert_allclose(compose(invert(one), one), identity_matrix(), atol=1e-12)
    np.testing.assert_allclose(corner_matrix(centre_matrix(one)), one)


def test_the_error_of_a_shift_is_its_length():
    truth = np.array([[0.0, -1, 100], [1, 0, 0]])
    assert grid_error_px(compose(shift_matrix(3, -4), truth), truth, (50, 80)) == pytest.approx(5)


def test_a_nudge_turns_about_the_patch_centre_and_then_shifts():
    nudged = nudge(shift_matrix(10, 0), (100, 200), dx_px=1, dy_px=-2, rotation_deg=90, scale=2)
    # What was at the centre moves by the shift alone; 5 px to its right comes 10 px below it.
    np.testing.assert_allclose(
        move_points(nudged, np.array([[90.0, 50], [95, 50]])), [[101, 48], [101, 58]], atol=1e-9
    )
    np.testing.assert_allclose(nudge(shift_matrix(1, 2), (8, 8)), shift_matrix(1, 2))
    with pytest.raises(InputError, match="above 0"):
        nudge(identity_matrix(), (8, 8), scale=0)


def test_the_checkerboard_shows_both_images_in_turn():
    pas = np.full((8, 12, 3), 77, np.uint8)
    channel = np.zeros((8, 12), np.uint16)
    channel[:, 4:8] = 900
    picture = checkerboard(pas, channel, identity_matrix(), square_px=4)
    assert picture.dtype == np.uint8 and picture.shape == pas.shape
    assert (picture[:4, :4] == 77).all() and (picture[4:, 4:8] == 77).all()
    assert (picture[:4, 4:8] == 0).all()  # bright in the IF is dark, as nuclei are in the stain
    assert (picture[4:, :4] == 255).all()
    with pytest.raises(InputError, match="1 px or more"):
        checkerboard(pas, channel, identity_matrix(), square_px=0)


# --- Estimates ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("seed", "channel"), [(50, "DAPI"), (51, "DAPI"), (51, "WT1"), (52, "GATA3")])
def test_any_rotation_scale_and_shift_is_found(seed: int, channel: str):
    known = pair(seed)
    found = estimate(known.pas, known.channels[channel])
    assert found.accepted and found.reasons == ()
    assert grid_error_px(found.matrix, known.matrix, SIZE_HW) < 1.0
    assert found.residual_px < 1.5


def test_another_tissue_is_flagged():
    found = estimate(pair(50).pas, pair(51).channels["DAPI"])
    assert not found.accepted
    assert any("Another transform fits nearly as well" in reason for reason in found.reasons)


def test_a_mirrored_image_needs_a_search_that_looks_for_it():
    known = pair(50, PairSettings(flip=True))
    assert not estimate(known.pas, known.channels["DAPI"]).accepted
    found = estimate(known.pas, known.channels["DAPI"], RegistrationSettings(flips=(False, True)))
    assert found.accepted and grid_error_px(found.matrix, known.matrix, SIZE_HW) < 1.0


def test_grey_levels_do_not_matter():
    known = pair(50)
    deep = known.channels["DAPI"].astype(np.uint16) * 40 + 900
    found = estimate(known.pas, deep.max() - deep)
    assert found.accepted and found.inverted
    assert grid_error_px(found.matrix, known.matrix, SIZE_HW) < 1.0


def test_a_small_tilt_is_not_taken_for_a_shift():
    known = pair(53, PairSettings(rotation_deg=(0.6, 0.8), scale=(1.0, 1.0), shear=(0.0, 0.0)))
    found = estimate(known.pas, known.channels["DAPI"])
    assert np.rad2deg(np.arctan2(found.matrix[1, 0], found.matrix[0, 0])) == pytest.approx(0.7, abs=0.15)
    assert grid_error_px(found.matrix, known.matrix, SIZE_HW) < 1.0


def test_an_image_of_one_grey_level_is_flagged():
    found = estimate(pair(50).pas, np.zeros(SIZE_HW, np.uint16))
    assert not found.accepted and "one grey level" in found.reasons[0]
    np.testing.assert_array_equal(found.matrix, identity_matrix())


def test_an_image_without_size_is_refused():
    with pytest.raises(InputError, match="at least 48 px"):
        estimate(pair(50).pas, np.zeros((20, 300), np.uint8))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"quality": 0.05}, "hardly correlate"),
        ({"overlap": 0.1}, "share 10%"),
        ({"rival": 0.9}, "nearly as well"),
        ({"agreement": 0.4}, "Parts disagree"),
        ({"windows": ()}, "Only 0 parts"),
        ({"elsewhere": (None, None)}, "a tear or a fold"),
        ({"matrix": np.array([[1.3, 0, 0], [0, 1, 0]])}, "stretches by 1.30"),
    ],
)
def test_each_check_of_the_gate_can_fail_alone(change: dict, reason: str):
    good = Registration(
        identity_matrix(), False, (), 0.6, 0.5, overlap=0.9, agreement=1.0, rival=0.2, windows=(None,) * 9
    )
    assert gate(good, RegistrationSettings()) == ()
    (found,) = gate(replace(good, **change), RegistrationSettings())
    assert reason in found


@pytest.mark.parametrize(("stain", "shift_px"), [("hematoxylin", (-3, 2)), ("ihc", (-3, -5))])
def test_the_known_shift_of_a_real_tile_is_found(stain: str, shift_px: tuple[int, int]):
    if not TILE.is_dir():
        pytest.skip(f"{TILE} is not there; it is not part of the repository")
    image = read_rgb(TILE / f"Lung1_{stain}.png")
    found = estimate(image, read_channel(TILE / "Lung1_dapi.png"))
    assert found.accepted
    assert grid_error_px(found.matrix, shift_matrix(*shift_px), image.shape[:2]) < 1.5


# --- Slides and tears -----------------------------------------------------------------------------


def test_a_torn_patch_is_flagged_and_a_whole_one_is_refined():
    known = pair(54)
    base = compose(shift_matrix(6, -5), known.matrix)
    whole = refine_patch(known.pas, (0, 0), known.channels["DAPI"], base)
    assert whole.accepted and grid_error_px(whole.matrix, known.matrix, SIZE_HW) < 1.0
    # The right third of the IF, as the patch sees it, has moved away by 30 px.
    seen = warp_to_pas(known.channels["DAPI"], known.matrix, SIZE_HW)
    torn = seen.copy()
    torn[:, 330:] = seen[:, 300:-30]
    torn[:, 300:330] = np.median(seen)
    found = refine_patch(known.pas, (0, 0), torn, identity_matrix())
    assert not found.accepted
    assert found.elsewhere and all(window.box_xyxy[2] > 300 for window in found.elsewhere)


def test_a_patch_that_contradicts_its_slide_is_flagged():
    known = pair(50)
    base = compose(nudge(identity_matrix(), SIZE_HW, rotation_deg=40), known.matrix)
    found = refine_patch(known.pas, (0, 0), known.channels["DAPI"], base)
    assert not found.accepted and "from where its slide puts it" in found.reasons[-1]


def test_overviews_give_the_transform_of_the_full_slides():
    known = pair(51, PairSettings(flip=True))
    full = compose(np.array([[4.0, 0, 0], [0, 4.0, 0]]), known.matrix) @ np.diag([0.5, 0.5, 1])
    found = estimate_slide(known.pas, known.channels["DAPI"], fixed_times=4, moving_times=2)
    assert found.accepted
    assert grid_error_px(found.matrix, full, (2048, 2048)) < 4.0  # 1 px of the overview
    with pytest.raises(InputError, match="above 0"):
        estimate_slide(known.pas, known.channels["DAPI"], fixed_times=0)


def test_a_simulated_tear_is_seen_where_it_was_put():
    tear = Tear(at_xy=(100.0, 100.0), angle_deg=90.0, opening_px=40.0)  # downwards; its far side is left
    points = np.array([[50.0, 5000], [150, 5000], [50, 50]])
    there = tear.went_to(points)
    assert there[0, 0] == pytest.approx(50 - 40 * np.exp(-(100 - there[0, 0]) / tear.reach_px), abs=0.01)
    np.testing.assert_allclose(there[1:], points[1:])
    np.testing.assert_allclose(tear.came_from(there), points, atol=0.01)
    assert np.isnan(tear.came_from(np.array([[80.0, 5000]]))).all()
