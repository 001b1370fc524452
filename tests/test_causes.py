"""Every cause of a disagreement planted by itself, and what comes of it."""

import numpy as np
import pandas as pd
import pytest

from allinsam.causes import (
    ALIKE,
    CAUSES,
    NUCLEUS_COLUMNS,
    PIXELS,
    Drawn,
    boxes_and_masks,
    by_person,
    by_tool,
    compare_boxes_and_masks,
    facing,
    nuclei,
    share_interval,
    sum_causes,
)
from allinsam.marks import RatedPatch, mask_places, rated_patch

SIZE = (40, 40)
P, M = "podocyte", "mesangial"
GROUPS = {"e": "expert", "s": "student", "t": "student"}


def square(y: int, x: int, side: int = 10) -> np.ndarray:
    mask = np.zeros(SIZE, bool)
    mask[y : y + side, x : x + side] = True
    return mask


def patch(**marks: list[tuple[str, np.ndarray, object]]) -> RatedPatch:
    """rater=[(class, mask, key), ...], everybody having looked for both classes."""
    marked = [(rater, name, mask, key) for rater, own in marks.items() for name, mask, key in own]
    return rated_patch(SIZE, {rater: {P, M} for rater in marks}, marked)


def drawn(mask: np.ndarray, box: tuple[float, float, float, float], weights: str = "w") -> Drawn:
    return Drawn("box", box, mask_places(mask)[1], weights)


def only_row(table: pd.DataFrame) -> dict:
    assert len(table) == 1
    return table.to_dict("records")[0]


def test_the_same_nucleus_is_no_difference() -> None:
    row = only_row(nuclei({"p": patch(a=[(P, square(0, 0), 1)], b=[(P, square(0, 0), 2)])}))
    assert (row["cause"], row["iou"], row["class"]) == (ALIKE, 1.0, P)
    assert [row[name] for name in PIXELS] == [0, 0, 0, 0, 0]


@pytest.mark.parametrize(("who", "cause"), [("a", "only_a"), ("b", "only_b")])
def test_one_alone(who: str, cause: str) -> None:
    marks = {"a": [], "b": []} | {who: [(M, square(5, 5), 1)]}
    row = only_row(nuclei({"p": patch(**marks)}))
    assert (row["cause"], row["class"], row["px_alone"]) == (cause, M, 100)


def test_another_class_is_one_difference_and_not_two_missed() -> None:
    row = only_row(nuclei({"p": patch(a=[(P, square(0, 0), 1)], b=[(M, square(0, 1), 2)])}))
    assert (row["cause"], row["class"], row["px_class"]) == ("other_class", "mesangial or podocyte", 110)


def test_a_nucleus_under_both_classes_agrees_once_and_differs_once() -> None:
    # The second mark fits better, and still the one of the same class is the nucleus that both found.
    twice = [(P, square(0, 1), 1), (M, square(0, 0), 2)]
    for marks in ({"a": twice, "b": [(P, square(0, 0), 3)]}, {"a": [(P, square(0, 0), 3)], "b": twice}):
        table = nuclei({"p": patch(**marks)})
        assert sorted(table["cause"]) == [ALIKE, "other_class"]
        assert table.set_index("cause").loc["other_class", "class"] == "mesangial or podocyte"


def test_a_loose_outline_is_no_nucleus_missed() -> None:
    # 10 x 10 inside 16 x 16: IoU 0.39, below what makes two marks one nucleus.
    row = only_row(nuclei({"p": patch(a=[(P, square(3, 3), 1)], b=[(P, square(0, 0, 16), 2)])}))
    assert (row["cause"], row["px_outline"]) == ("outline", 156)
    # Two neighbours that touch stay two nuclei.
    apart = nuclei({"p": patch(a=[(P, square(0, 0), 1)], b=[(P, square(0, 8), 2)])})
    assert sorted(apart["cause"]) == ["only_a", "only_b"]


def test_the_outline_is_split_into_box_and_hand_by_its_pixels() -> None:
    tight, wide = square(0, 0), square(0, 0, 13)
    marks = patch(a=[(P, tight, "a")], b=[(P, wide, "b")])
    of_boxes = {"a": drawn(tight, (0, 0, 10, 10)), "b": drawn(wide, (0, 0, 13, 13))}
    row = only_row(nuclei({"p": marks}, of_boxes))
    assert (row["cause"], row["px_box"], row["px_mask"]) == ("box", 69, 0)
    # The same box, and so the same mask: b has painted the rest.
    by_hand = of_boxes | {"b": drawn(tight, (0, 0, 10, 10))}
    row = only_row(nuclei({"p": marks}, by_hand))
    assert (row["cause"], row["px_box"], row["px_mask"]) == ("mask", 0, 69)
    # Half way: SAM's masks differ in two columns and rows of the three.
    both = of_boxes | {"b": drawn(square(0, 0, 12), (0, 0, 12, 12))}
    row = only_row(nuclei({"p": marks}, both))
    assert (row["cause"], row["px_box"], row["px_mask"]) == ("box", 44, 25)


@pytest.mark.parametrize("other", [Drawn("hand"), drawn(square(0, 0, 13), (0, 0, 13, 13), "other weights")])
def test_without_masks_of_one_sam_there_is_no_telling(other: Drawn) -> None:
    marks = patch(a=[(P, square(0, 0), "a")], b=[(P, square(0, 0, 13), "b")])
    row = only_row(nuclei({"p": marks}, {"a": drawn(square(0, 0), (0, 0, 10, 10)), "b": other}))
    assert (row["cause"], row["px_outline"]) == ("outline", 69)
    assert boxes_and_masks({"p": marks}, {"b": other}).empty


def test_a_class_that_one_did_not_finish_is_nobodys_difference() -> None:
    looked = {"a": {P, M}, "b": {P}}
    only_a = rated_patch(SIZE, looked, [("a", M, square(0, 0), 1), ("a", P, square(20, 20), 2)])
    row = only_row(nuclei({"p": only_a}))
    assert (row["cause"], row["class"]) == ("only_a", P)
    assert nuclei({"p": rated_patch(SIZE, {"a": {P}, "b": {M}}, [("a", P, square(0, 0), 1)])}).empty


def planted() -> pd.DataFrame:
    """The expert e and the students s and t: s misses one, t takes one for the other class and adds one."""
    first, second = square(0, 0), square(20, 20)
    return nuclei(
        {
            "p": patch(
                e=[(P, first, 1), (M, second, 2)],
                s=[(P, first, 3)],
                t=[(P, first, 4), (P, second, 5), (M, square(0, 25), 6)],
            )
        }
    )


def test_shares_add_up() -> None:
    rows = planted()
    for by in (["rater_a", "rater_b"], ["class"], ["patch"]):
        sums = sum_causes(rows, by)
        assert (sums["n"] == sums["alike"] + sums["differences"]).all()
        assert (sums["differences"] == sums[list(CAUSES)].sum(axis=1)).all()
        assert (sums["pixels"] == sums[list(PIXELS)].sum(axis=1)).all()
        assert sums["n"].sum() == len(rows)
    assert sum_causes(rows, ["patch"])["pixels"].tolist() == [100 + 100 + 100 + 100 + 100]


def test_a_share_has_an_interval_over_slides() -> None:
    rows = pd.DataFrame({"patch": ["p", "p", "q", "q"], "cause": ["only_a", "box", "only_b", ALIKE]})
    slides = {"p": "s1", "q": "s2"}
    # One slide alone gives a half, the other all of it.
    assert share_interval(rows, ("only_a", "only_b"), slides) == (0.5, 1.0)
    assert np.isnan(share_interval(rows, ("box",), dict.fromkeys("pq", "s1"))).all()
    assert np.isnan(share_interval(rows[rows["cause"] == ALIKE], ("box",), slides)).all()


def test_kinds_of_pairs_face_one_way() -> None:
    rows = facing(planted(), GROUPS)
    sums = sum_causes(rows, ["pair"]).set_index("pair")
    mixed, students = sums.loc["expert + student"], sums.loc["student + student"]
    # e marked alone what s missed; t alone the one that nobody else has.
    assert mixed[["only_a", "only_b", "other_class", "alike"]].tolist() == [1, 1, 1, 2]
    assert students[["only_a", "only_b", "other_class", "alike"]].tolist() == [0, 2, 0, 1]
    # Whoever comes first by name: with the groups exchanged the students stand first.
    turned = facing(planted(), {"e": "zealot", "s": "student", "t": "student"})
    swapped = sum_causes(turned, ["pair"]).set_index("pair").loc["student + zealot"]
    assert swapped[["only_a", "only_b"]].tolist() == [1, 1]
    assert set(turned.loc[turned["pair"] == "student + zealot", "rater_b"]) == {"e"}


def test_each_person_against_all_others() -> None:
    people = by_person(planted()).set_index("person")
    assert people.loc["s", ["alone", "missed"]].tolist() == [0, 3]
    assert people.loc["t", ["alone", "missed", "other_class"]].tolist() == [3, 0, 1]
    assert people["n"].sum() == 2 * len(planted())


def test_boxes_and_masks_stand_apart_and_edits_are_counted() -> None:
    mask, wide = square(2, 2), square(0, 0, 14)
    marks = patch(a=[(P, mask, "a")], b=[(P, mask, "b")])
    # Boxes of 10 and 14 px give one mask; then b paints it wide.
    boxed = {"a": drawn(mask, (2, 2, 12, 12)), "b": drawn(mask, (0, 0, 14, 14))}
    row = only_row(boxes_and_masks({"p": marks}, boxed))
    assert row["box_iou"] == pytest.approx(100 / 196)
    assert (row["sam_iou"], row["mask_iou"], row["edited"]) == (1.0, 1.0, 0)
    edited = patch(a=[(P, mask, "a")], b=[(P, wide, "b")])
    row = only_row(boxes_and_masks({"p": edited}, boxed))
    assert (row["sam_iou"], row["edited"]) == (1.0, 1)
    assert row["mask_iou"] == pytest.approx(100 / 196)


def test_neither_boxes_nor_masks_decide_alone_what_is_compared() -> None:
    far, near = square(0, 0), square(20, 20)
    marks = patch(a=[(P, far, "a")], b=[(P, near, "b")])
    same_box = {"a": drawn(far, (5, 5, 15, 15)), "b": drawn(near, (5, 5, 15, 15))}
    row = only_row(boxes_and_masks({"p": marks}, same_box))
    assert (row["box_iou"], row["mask_iou"]) == (1.0, 0.0)  # chosen by outlines, this pair would be left out


def test_the_gain_has_an_interval_over_slides() -> None:
    rows = pd.DataFrame(
        {
            "patch": ["p", "q", "r", "r"],
            "class": [P] * 4,
            "box_iou": [0.5, 0.6, 0.7, 0.7],
            "sam_iou": [0.7, 0.8, 0.8, 0.8],
            "mask_iou": [0.6, 0.6, 0.9, 0.9],
            "edited": [1, 0, 0, 2],
        }
    )
    slides = {"p": "s1", "q": "s1", "r": "s2"}
    row = only_row(compare_boxes_and_masks(rows, ["class"], slides))
    assert (row["n"], row["patches"], row["slides"], row["n_edited"]) == (4, 3, 2, 2)
    assert row["sam_gain"] == pytest.approx(0.15) and row["edited_iou"] == pytest.approx(0.75)
    # Slide s1 alone gives 0.2, s2 alone 0.1: no interval is wider than that.
    assert row["sam_low"] == pytest.approx(0.1) and row["sam_high"] == pytest.approx(0.2)
    one_slide = only_row(compare_boxes_and_masks(rows, [], dict.fromkeys("pqr", "s1")))
    assert np.isnan(one_slide["sam_low"]) and one_slide["n"] == 4
    assert compare_boxes_and_masks(rows.iloc[:0], ["class"], {}).empty


def test_tools_are_compared_where_both_used_one() -> None:
    marks = patch(
        a=[(P, square(0, 0), 1), (M, square(20, 20), 2)], b=[(P, square(0, 0), 3), (M, square(20, 22), 4)]
    )
    how = {1: Drawn("box"), 3: Drawn("box"), 2: Drawn("hand"), 4: Drawn("hand")}
    table = by_tool(nuclei({"p": marks}, how)).set_index("tools")
    assert table.loc["box + box"].tolist() == [1, 1.0]
    assert table.loc["hand + hand", "iou"] == pytest.approx(80 / 120)
    mixed = by_tool(nuclei({"p": marks}, how | {1: Drawn("hand")})).set_index("tools")
    assert mixed.loc["box + hand", "n"] == 1


def test_without_anything_there_are_empty_tables() -> None:
    assert nuclei({}).columns.tolist() == NUCLEUS_COLUMNS
    assert sum_causes(nuclei({}), ["class"]).empty and by_person(nuclei({})).empty
    assert facing(nuclei({}), {}).empty and by_tool(nuclei({})).empty
    assert boxes_and_masks({}, {}).empty
