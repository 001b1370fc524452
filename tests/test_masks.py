import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from pycocotools import mask as coco

from allinsam import masks
from allinsam.errors import InputError

SMALL_MASKS = arrays(bool, array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=12))


def draw(*rows: str) -> np.ndarray:
    return np.array([[character == "#" for character in row] for row in rows])


def disc(size: int, centre_xy: tuple[float, float], radius: float) -> np.ndarray:
    y, x = np.mgrid[:size, :size] + 0.5
    return (x - centre_xy[0]) ** 2 + (y - centre_xy[1]) ** 2 <= radius**2


# ---------------------------------------------------------------- run-length code


@given(SMALL_MASKS)
def test_rle_gives_the_same_mask_back(mask):
    rle = masks.encode_rle(mask)
    assert isinstance(rle["counts"], str) and rle["counts"].isascii()
    assert np.array_equal(masks.decode_rle(rle), mask)
    assert masks.rle_area(rle) == mask.sum()


@given(SMALL_MASKS, st.tuples(*[st.integers(0, 3)] * 4))
def test_rle_of_a_window_is_the_rle_of_the_patch(mask, margins):
    top, bottom, left, right = margins
    whole = np.pad(mask, ((top, bottom), (left, right)))
    assert masks.encode_window(mask, top, left, whole.shape) == masks.encode_rle(whole)
    window, top, left = masks.decode_window(masks.encode_rle(whole))
    again = np.zeros_like(whole)
    again[top : top + window.shape[0], left : left + window.shape[1]] = window
    assert np.array_equal(again, whole)
    if whole.any():
        assert window[0].any() and window[-1].any() and window[:, 0].any() and window[:, -1].any()


def test_a_window_must_lie_inside_the_patch():
    with pytest.raises(InputError, match="not inside the patch of 5 x 4 px"):
        masks.encode_window(np.ones((2, 2), bool), 3, 0, (4, 5))


@pytest.mark.filterwarnings("ignore:__array__:DeprecationWarning")  # pycocotools under numpy 2
def test_rle_of_a_nucleus_sized_disc_is_what_pycocotools_reads():
    mask = disc(512, (300.0, 120.0), 11.0)
    rle = masks.encode_rle(mask)
    assert rle["size"] == [512, 512]
    assert np.array_equal(coco.decode([rle])[..., 0].astype(bool), mask)
    assert np.array_equal(masks.decode_rle(rle), mask)
    assert masks.rle_area(rle) == int(coco.area(rle)) == mask.sum()


def test_rle_with_a_list_of_runs_is_read_column_by_column():
    decoded = masks.decode_rle({"size": [2, 3], "counts": [1, 2, 3]})
    assert np.array_equal(decoded, draw(".#.", "#.."))


@pytest.mark.parametrize(
    "rle",
    [
        {"size": [40, 50], "counts": "5220003"},  # a 4 x 5 mask's runs: too few
        {"size": [2, 2], "counts": "5220003"},  # too many
        {"size": [2, 2], "counts": ""},
        {"size": [2, 2], "counts": "\n"},
        {"size": [2, 2], "counts": [5, -1]},
        {"size": [2, 2], "counts": [2**80]},
        {"size": [2], "counts": "4"},
        {"counts": "4"},
        None,
    ],
)
def test_damaged_rle_is_refused(rle):
    with pytest.raises(InputError):
        masks.decode_rle(rle)


# ---------------------------------------------------------------- outlines


def test_outline_of_one_pixel_is_its_four_corners():
    mask = np.zeros((6, 5), bool)
    mask[3, 2] = True
    (polygon,) = masks.mask_to_polygons(mask)
    assert polygon.dtype == np.float32
    assert {tuple(point) for point in polygon.tolist()} == {(2, 3), (3, 3), (3, 4), (2, 4)}


def test_outline_of_a_rectangle_at_the_border_has_four_points():
    (polygon,) = masks.mask_to_polygons(draw("###", "###"))
    assert {tuple(point) for point in polygon.tolist()} == {(0, 0), (3, 0), (3, 2), (0, 2)}


@given(SMALL_MASKS)
@settings(max_examples=300)
def test_rings_give_the_same_mask_back_and_never_touch_themselves(mask):
    parts = masks.mask_to_rings(mask)
    assert np.array_equal(masks.rings_to_mask(parts, mask.shape), mask)
    for ring in (ring for rings in parts for ring in rings):
        assert len({tuple(point) for point in ring.tolist()}) == len(ring)


@given(SMALL_MASKS)
def test_outer_outlines_give_the_mask_with_its_holes_filled(mask):
    polygons = masks.mask_to_polygons(mask)
    filled = masks.polygons_to_mask(polygons, mask.shape)
    # A hole that touches the outside by a corner is a hole to an outline, and none to an 8-connected outside.
    assert (filled >= mask).all()
    assert (filled <= masks.fill_holes(mask)).all()


@pytest.mark.parametrize("radius", [6.0, 7.3, 11.0, 25.5])
def test_a_disc_survives_the_round_trip_exactly(radius):
    mask = disc(64, (30.2, 33.7), radius)
    assert np.array_equal(masks.polygons_to_mask(masks.mask_to_polygons(mask), (64, 64)), mask)


def test_a_diamond_of_corner_neighbours_is_four_parts_without_a_hole():
    mask = draw(".#.", "#.#", ".#.")
    parts = masks.mask_to_rings(mask)
    assert [len(rings) for rings in parts] == [1, 1, 1, 1]
    assert np.array_equal(masks.rings_to_mask(parts, mask.shape), mask)


def test_a_ring_has_one_part_with_one_hole_run_the_other_way():
    ((outer, hole),) = masks.mask_to_rings(draw("#####", "#...#", "#...#", "#####"))
    assert masks._signed_area(outer) == 20.0
    assert masks._signed_area(hole) == -6.0


def test_a_polygon_takes_the_pixels_whose_centre_is_inside():
    triangle = np.array([[0.0, 0.0], [4.0, 0.0], [0.0, 4.0]])
    # Centres on the slanted side (x + y = 4) are not inside.
    assert np.array_equal(masks.polygons_to_mask([triangle], (4, 4)), draw("###.", "##..", "#...", "...."))


def test_a_hand_drawn_box_between_pixels_takes_the_centres_it_covers():
    boxes = [
        ((0.6, 0.6), (3.4, 3.4), "....", ".##.", ".##.", "...."),
        ((0.4, 1.4), (2.6, 2.6), "....", "###.", "###."),
    ]
    for (x0, y0), (x1, y1), *rows in boxes:
        box = np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]])
        expected = draw(*rows)
        assert np.array_equal(masks.polygons_to_mask([box], expected.shape), expected)
        assert np.array_equal(masks.polygons_to_mask([box[::-1]], expected.shape), expected)


def test_polygons_are_a_union_and_are_cut_at_the_border():
    squares = [np.array([[-5, -5], [2, -5], [2, 2], [-5, 2]]), np.array([[1, 1], [99, 1], [99, 99], [1, 99]])]
    assert np.array_equal(masks.polygons_to_mask(squares, (3, 4)), draw("##..", "####", ".###"))


def test_an_outline_that_crosses_itself_leaves_no_hole():
    twice_round = np.array([[0, 0], [4, 0], [4, 4], [0, 4], [0, 0], [3, 0], [3, 3], [0, 3]], dtype=float)
    assert masks.polygons_to_mask([twice_round], (4, 4)).all()


def test_nothing_stays_nothing():
    assert not masks.clean_mask(np.zeros((5, 5), bool)).any()
    assert masks.encode_rle(np.zeros((0, 5), bool))["size"] == [0, 5]


def test_no_polygon_and_a_degenerate_one_are_empty():
    assert not masks.polygons_to_mask([], (3, 3)).any()
    assert not masks.polygons_to_mask([np.array([[1, 1], [2, 1]])], (3, 3)).any()
    assert masks.mask_to_polygons(np.zeros((3, 3), bool)) == []


@pytest.mark.parametrize("polygon", [np.zeros(4), np.zeros((3, 3)), np.array([[0, 0], [1, np.nan], [2, 2]])])
def test_an_unusable_polygon_is_refused(polygon):
    with pytest.raises(InputError, match="polygon"):
        masks.polygons_to_mask([polygon], (4, 4))


# ---------------------------------------------------------------- clean-up


def test_fill_holes_leaves_bays_at_the_border_open():
    mask = draw("#.###", "#.#.#", "#.###", "###..")
    assert np.array_equal(masks.fill_holes(mask), draw("#.###", "#.###", "#.###", "###.."))
    assert not masks.fill_holes(np.zeros((2, 2), bool)).any()
    assert masks.fill_holes(np.ones((2, 2), bool)).all()


def test_clean_mask_fills_and_keeps_the_largest_part():
    mask = draw("####...#", "#..#...#", "####....", "........")
    cleaned = masks.clean_mask(mask, min_area_px=10)
    assert np.array_equal(cleaned, draw("####....", "####....", "####....", "........"))


def test_clean_mask_drops_what_is_smaller_than_the_minimum():
    mask = draw("###.", "###.", "###.", "....")  # 9 px
    assert masks.clean_mask(mask, min_area_px=9).sum() == 9
    assert not masks.clean_mask(mask, min_area_px=10).any()


def test_parts_that_meet_at_a_corner_stay_together():
    mask = draw("##..", "##..", "..##", "..##")
    assert masks.largest_part(mask).sum() == 8


# ---------------------------------------------------------------- instances and label images


def test_a_contested_pixel_goes_to_the_higher_score():
    left, right = draw("###.."), draw("..###")
    assert masks.instances_to_labels([left, right], [0.9, 0.8]).tolist() == [[1, 1, 1, 2, 2]]
    assert masks.instances_to_labels([left, right], [0.8, 0.9]).tolist() == [[1, 1, 2, 2, 2]]


def test_at_equal_scores_the_smaller_mask_wins_then_the_earlier():
    large, small = draw("####."), draw("..##.")
    assert masks.instances_to_labels([large, small], [0.5, 0.5]).tolist() == [[1, 1, 2, 2, 0]]
    assert masks.instances_to_labels([small, large]).tolist() == [[2, 2, 1, 1, 0]]
    assert masks.instances_to_labels([small, small]).tolist() == [[0, 0, 1, 1, 0]]


def test_no_instances_need_a_size():
    assert masks.instances_to_labels(np.zeros((0, 3, 4), bool), []).shape == (3, 4)
    assert masks.instances_to_labels([], [], size_hw=(3, 4)).dtype == np.int32
    with pytest.raises(InputError, match="size_hw"):
        masks.instances_to_labels([], [])


@pytest.mark.parametrize("scores", [[0.5], [0.5, np.nan]])
def test_scores_that_do_not_fit_are_refused(scores):
    with pytest.raises(InputError, match="scores"):
        masks.instances_to_labels([draw("#."), draw(".#")], scores)


def test_labels_to_masks_keeps_ids_that_are_not_in_a_row():
    labels = np.array([[0, 7, 7], [2, 0, 7]])
    ids, instances = masks.labels_to_masks(labels)
    assert ids.tolist() == [2, 7] and ids.dtype == np.int32
    assert np.array_equal(instances[1], draw(".##", "..#"))
    ids, instances = masks.labels_to_masks(np.zeros((3, 4), np.int32))
    assert ids.size == 0 and instances.shape == (0, 3, 4)


@given(arrays(np.int32, (6, 7), elements=st.integers(0, 4)))
def test_labels_survive_being_taken_apart(labels):
    ids, instances = masks.labels_to_masks(labels)
    rebuilt = masks.instances_to_labels(instances, np.ones(len(ids)))
    assert np.array_equal(np.concatenate([[0], ids])[rebuilt], labels)


@pytest.mark.parametrize(
    "call",
    [
        lambda: masks.encode_rle(np.zeros((2, 2, 3))),
        lambda: masks.encode_rle(np.array([[0, 255]])),
        lambda: masks.labels_to_masks(np.zeros((2, 2))),
        lambda: masks.labels_to_masks(np.array([[0, -1]])),
        lambda: masks.instances_to_labels([np.ones((2, 2)), np.ones((2, 3))]),
    ],
)
def test_images_of_the_wrong_kind_are_refused(call):
    with pytest.raises(InputError):
        call()
