"""Planted mistakes are mistakes, as many as asked for, and the figures about them are right."""

import numpy as np
import pandas as pd
import pytest

from allinsam.errors import InputError
from allinsam.suggesting import (
    MISTAKES,
    Place,
    Suggestion,
    automation_bias,
    bright_boxes,
    plant,
    planted_count,
    plausible,
    wilson,
)
from tests.studies import BRIGHT, MESANGIAL, PODOCYTES, RADIUS_PX, UNMARKED, box_of, disc, draw_patch

NUCLEI = [*((centre, 1) for centre in PODOCYTES), *((centre, 2) for centre in MESANGIAL)]


@pytest.fixture(scope="module")
def place() -> Place:
    pas, channels = draw_patch()
    bright = {1: channels["WT1"] == BRIGHT, 2: channels["GATA3"] == BRIGHT}
    return Place([Suggestion(k, disc(c), 0.9) for c, k in NUCLEI], [1, 2], pas, bright)


def iou(a: np.ndarray, b: np.ndarray) -> float:
    return (a & b).sum() / (a | b).sum()


def is_true(one: Suggestion) -> bool:
    """Whether it is a drawn nucleus of its class, by the rule that scores use."""
    return any(k == one.class_id and iou(one.mask, disc(c)) > 0.5 for c, k in NUCLEI)


@pytest.mark.parametrize("kind", MISTAKES)
def test_each_kind_of_mistake_is_one(place: Place, kind: str) -> None:
    for seed in range(6):
        made = MISTAKES[kind](place, place.found[seed], np.random.default_rng(seed))
        assert made is not None and not is_true(made) and made.predicted_iou == 0.9
        covered = [
            share for c, _ in (*NUCLEI, *((c, 0) for c in UNMARKED)) if (share := iou(made.mask, disc(c)))
        ]
        if kind == "shifted":
            assert max(covered) < 0.5 and made.mask.sum() == place.found[seed].mask.sum()
        if kind == "merged":
            assert made.mask.sum() >= 2.2 * place.found[seed].mask.sum()
        if kind == "extra":
            assert not covered  # not on the unmarked nuclei either
        if kind == "wrong_class":
            assert np.array_equal(made.mask, place.found[seed].mask)


@pytest.mark.parametrize("seed", range(10))
def test_the_share_is_planted_and_nothing_else_is_wrong(place: Place, seed: int) -> None:
    shown = plant(place, 0.3, np.random.default_rng(seed))
    planted = [one for one in shown if one.planted]
    assert len(planted) == 2 and all(not is_true(one) for one in planted)
    assert all(is_true(one) for one in shown if not one.planted)
    assert len({one.planted for one in planted}) == 2  # kinds take turns
    places = [tuple(np.argwhere(one.mask).mean(axis=0)) for one in shown]
    assert places == sorted(places)  # where it stands in the list tells nothing
    again = plant(place, 0.3, np.random.default_rng(seed))
    assert [(a.class_id, a.planted, a.mask.tobytes()) for a in again] == [
        (a.class_id, a.planted, a.mask.tobytes()) for a in shown
    ]


def test_every_kind_comes_up(place: Place) -> None:
    kinds = {one.planted for n in range(30) for one in plant(place, 0.15, np.random.default_rng(n))}
    assert kinds == {None, *MISTAKES}


def test_where_one_class_is_asked_no_class_is_made_wrong(place: Place) -> None:
    alone = Place(place.found[:4], [1], place.image_rgb, {1: place.bright[1]})
    for seed in range(10):
        shown = plant(alone, 0.5, np.random.default_rng(seed))
        assert len([one for one in shown if one.planted]) == 2
        assert "wrong_class" not in {one.planted for one in shown}
        assert {one.class_id for one in shown} == {1}


@pytest.mark.parametrize(
    ("suggestions", "share", "count"),
    [(0, 0.15, 0), (4, 0.1, 0), (5, 0.01, 1), (5, 0.0, 0), (20, 0.15, 3), (40, 0.15, 6), (3, 0.5, 2)],
)
def test_how_many_are_planted(suggestions: int, share: float, count: int) -> None:
    assert planted_count(suggestions, share) == count


@pytest.mark.parametrize("share", [-0.1, 0.6, float("nan")])
def test_a_share_that_is_none_is_refused(share: float) -> None:
    with pytest.raises(InputError, match="planted share"):
        planted_count(10, share)


def test_boxes_lie_round_bright_areas_of_a_nucleus_s_size(place: Place) -> None:
    bright = place.bright[1].copy()
    bright[10:12, 10:12] = True  # a speck
    bright[440:500, 300:400] = True  # a smear
    boxes = bright_boxes(bright, 0.5)
    inside = [box for box in boxes if box[1] < 400]
    assert np.allclose(sorted(map(tuple, inside)), sorted(box_of(c) for c in PODOCYTES), atol=1.0)
    assert bright_boxes(np.zeros((64, 64), bool), None).shape == (0, 4)


def test_one_nucleus_is_proposed_once_and_only_if_it_may_be_one() -> None:
    same = [Suggestion(k, disc((100, 100), r), 0.9) for k, r in ((1, 10), (2, 9), (1, 3), (1, 40))]
    assert [one.class_id for one in plausible(same, 0.5)] == [1]
    assert plausible([], None) == []
    assert disc((100, 100), RADIUS_PX).sum() * 0.25 > 70  # um2: the first is of the usual size


def rows(*told: tuple) -> pd.DataFrame:
    """As `suggestions_table` tells them, each kept by itself after ten seconds."""
    table = pd.DataFrame(told, columns=["person_id", "group", "planted", "fate", "state"])
    return table.assign(tool="box_sam", seconds=10.0, kept_together=1)


def test_the_share_that_was_followed_is_told_with_its_n() -> None:
    made = [("a", "student", "extra", fate, "submitted") for fate in ("kept", "kept", "dropped", "edited")]
    made += [("a", "student", None, fate, "submitted") for fate in ("kept", "kept", "dropped")]
    made += [("b", "expert", "shifted", "class_changed", "submitted"), ("b", "expert", None, "kept", "open")]
    told = automation_bias(rows(*made)).set_index(["by", "of"])
    every = told.loc[("all", "all")]
    assert (every["planted"], every["planted_kept"], every["planted_kept_share"]) == (5, 2, 0.4)
    assert (every["real"], every["real_kept"]) == (3, 2)
    assert told.loc[("person_id", "a"), "planted_kept_share"] == 0.5
    assert told.loc[("group", "expert"), "planted_kept_share"] == 0.0
    assert told.loc[("planted", "extra"), "planted"] == 4 and ("planted", "shifted") in told.index
    assert np.isnan(told.loc[("person_id", "b"), "real_kept_share"])  # the patch is not handed in


def test_seconds_before_keeping_are_of_those_kept_each_by_itself() -> None:
    made = [("a", "student", "extra", fate, "submitted") for fate in ("kept", "kept", "kept", "dropped")]
    made += [("a", "student", None, fate, "submitted") for fate in ("kept", "kept", "edited")]
    table = rows(*made).assign(seconds=[2.0, 4.0, 90.0, 50.0, 7.0, 8.0, 60.0])
    table.loc[2, "kept_together"] = 3  # nobody knows how long it was looked at
    (every, *others) = automation_bias(table).to_dict("records")
    assert (every["planted_kept_median_s"], every["planted_kept_timed"]) == (3.0, 2)
    assert (every["real_kept_median_s"], every["real_kept_timed"]) == (7.5, 2)
    assert {row["by"] for row in others} == {"group", "arm", "person_id", "planted"}
    (wrong,) = (row for row in others if row["by"] == "planted")
    assert wrong["real_kept_timed"] == 0 and pd.isna(wrong["real_kept_median_s"])


def test_a_person_has_a_row_for_each_arm() -> None:
    table = rows(*[("a", "student", "extra", "kept", "submitted")] * 2)
    table = table.assign(tool=["box_sam", "contour"], seconds=[1.0, 5.0])
    told = automation_bias(table).set_index(["by", "of", "arm"])["planted_kept_median_s"]
    assert told["person_id", "a", "suggestion/box_sam"] == 1.0
    assert told["person_id", "a", "suggestion/contour"] == told["arm"].loc["suggestion/contour"].item() == 5.0
    assert told["all", "all", "all"] == 3.0


def test_nothing_proposed_gives_no_share() -> None:
    assert automation_bias(rows()).empty
    assert automation_bias(rows(("a", "student", "extra", "kept", "open"))).empty


def test_wilson_s_interval() -> None:
    # Newcombe 1998, table I: 81 of 263, and 0 of 20.
    assert wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=1e-4)
    assert wilson(0, 20) == pytest.approx((0.0, 0.1611), abs=1e-4)
    assert wilson(0, 0) == (None, None)
