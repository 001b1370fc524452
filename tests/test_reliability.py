import numpy as np
import pytest

from allinsam.reliability import RELIABILITY_COLUMNS, reliability

P, M = "podocyte", "mesangial"
PLACES = [(0, 0), (0, 8), (8, 0), (8, 8)]


def drawn(*numbers: int, size_px: int = 4) -> np.ndarray:
    """A 16 x 16 label image with squares at some of four places."""
    labels = np.zeros((16, 16), np.int32)
    for number in numbers:
        y, x = PLACES[number]
        labels[y : y + size_px, x : x + size_px] = number + 1
    return labels


def of(table, rater, class_name=P):
    return table.set_index(["rater", "class"]).loc[rater, class_name]


def test_nobody_has_a_vote_in_what_they_are_measured_by() -> None:
    # a and b agree on two, c marks one of these and one that nobody else sees.
    ratings = {"p": {"a": {P: drawn(0, 1)}, "b": {P: drawn(0, 1)}, "c": {P: drawn(0, 2)}}}
    table = reliability(ratings)
    c = of(table, "c")
    assert (c["n_objects"], c["n_others"], c["found_share"], c["alone_share"]) == (2, 2, 0.5, 0.5)
    # Without a, b and c agree on one alone: the second is b's own word.
    a = of(table, "a")
    assert (a["n_others"], a["found_share"], a["alone_share"]) == (1, 1.0, 0.0)
    # Pairs: a-b 2 of 2 and 2; a-c and b-c 1 of 2 and 2.
    assert a["f1"] == pytest.approx(2 * 4 / 12)
    assert a["f1_without"] == pytest.approx(2 * 1 / 4) and c["f1_without"] == 1.0


def test_ones_own_word_does_not_name_the_class_either() -> None:
    # b and c are split, and mesangial is the commoner class: a's podocyte would decide it.
    split = {"a": {P: drawn(0), M: drawn()}, "b": {P: drawn(0), M: drawn()}, "c": {P: drawn(), M: drawn(0)}}
    more = {r: {P: drawn(), M: drawn(1, 2, 3)} for r in "bc"}
    table = reliability({"p": split, "q": more})
    assert of(table, "a", M)["n_others"] == 1 and of(table, "a", P)["n_others"] == 0


def test_who_did_not_look_is_not_measured() -> None:
    ratings = {
        "p": {r: {P: drawn(0), M: drawn(1)} for r in "ab"} | {"c": {M: drawn(1)}},
        "q": {"c": {P: drawn(0)}},
    }
    table = reliability(ratings)
    c = of(table, "c")
    assert (c["n_patches"], c["n_objects"], c["n_others"]) == (1, 1, 0)
    assert np.isnan(c["found_share"]) and np.isnan(c["alone_share"])  # nobody else looked on q
    assert of(table, "c", M)["found_share"] == 1.0
    assert np.isnan(c["class_accuracy"])  # of two raters who could choose nobody knows who errs


def test_the_one_who_differs_is_told_by_the_agreement_of_the_rest() -> None:
    rng = np.random.default_rng(0)
    ratings = {}
    for number in range(30):
        names = rng.choice([P, M], 4)
        right = {c: drawn(*np.flatnonzero(names == c)) for c in (P, M)}
        swapped = {P: right[M], M: right[P]}
        ratings[f"p{number:02}"] = {
            "a": right,
            "b": right,
            "c": right,
            "odd": swapped if number % 2 else right,
        }
    table = reliability(ratings)
    assert of(table, "odd")["alpha_without"] == 1.0 > of(table, "a")["alpha_without"]
    assert of(table, "a")["class_accuracy"] > 0.97
    for name in (P, M):
        assert of(table, "odd", name)["class_accuracy"] == pytest.approx(0.5, abs=0.1)
        assert of(table, "odd", name)["found_share"] == 1.0  # found, under another name


def test_staple_tells_who_draws_wide_and_who_draws_tight() -> None:
    ratings = {
        "p": {
            "a": {P: drawn(0, 1, 2, size_px=6)},
            "b": {P: drawn(0, 1, 2, size_px=6)},
            "tight": {P: drawn(0, 1, 2, size_px=5)},
            "wide": {P: drawn(0, 1, 2, size_px=7)},
        }
    }
    table = reliability(ratings)
    # The truth is the 6 x 6 square, the box round all marks is 7 x 7.
    assert of(table, "tight")["staple_sensitivity"] == pytest.approx(25 / 36, abs=1e-3)
    assert of(table, "tight")["staple_specificity"] == pytest.approx(1, abs=1e-3)
    assert of(table, "wide")["staple_sensitivity"] == pytest.approx(1, abs=1e-3)
    assert of(table, "wide")["staple_specificity"] == pytest.approx(0, abs=1e-3)
    assert of(table, "a")["n_outlines"] == 3


def test_without_ratings_there_is_an_empty_table() -> None:
    assert reliability({}).columns.tolist() == RELIABILITY_COLUMNS
    alone = reliability({"p": {"a": {P: drawn(0)}}})
    assert alone[["n_objects", "n_others"]].to_numpy().tolist() == [[1, 0]]
    assert alone[["found_share", "alone_share", "f1", "alpha"]].isna().all(axis=None)
