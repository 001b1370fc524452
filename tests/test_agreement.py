import krippendorff
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from allinsam.agreement import (
    MeanDice,
    class_agreement,
    cohen_kappa,
    dice_by_kind,
    fleiss_kappa,
    gwet_ac1,
    krippendorff_alpha,
    mask_agreement,
    matrix,
    pairwise_agreement,
    rated_nuclei,
    summarise,
)
from allinsam.comparison import FEWEST_SLIDES, cluster_interval
from allinsam.errors import InputError

NA = None


def boxes(*xyxy_ids: tuple[int, int, int, int, int]) -> np.ndarray:
    """A 16 x 16 label image of rectangles (x0, y0, x1, y1, id)."""
    labels = np.zeros((16, 16), np.int32)
    for x0, y0, x1, y1, identity in xyxy_ids:
        labels[y0:y1, x0:x1] = identity
    return labels


NOTHING = boxes()
UPPER, LOWER = (0, 0, 4, 4), (8, 8, 12, 12)
RATINGS = {
    "p1": {
        "expert": {"podocyte": boxes((*UPPER, 1), (*LOWER, 2)), "mesangial": NOTHING},
        # The upper nucleus a column off (12 of 20 px, IoU 0.6, Dice 0.75), the lower one missed.
        "student": {"podocyte": boxes((1, 0, 5, 4, 7)), "mesangial": NOTHING},
        "late": {"podocyte": boxes((*UPPER, 3))},
    },
    "p2": {
        "expert": {"podocyte": NOTHING},
        "student": {"podocyte": boxes((*UPPER, 1))},
    },
}


# ---------------------------------------------------------------- pairs


def test_pairwise_has_a_row_for_each_class_that_both_finished():
    table = pairwise_agreement(RATINGS)
    keys = table[["patch", "class", "rater_a", "rater_b"]].to_records(index=False).tolist()
    assert keys == [
        ("p1", "podocyte", "expert", "late"),
        ("p1", "mesangial", "expert", "student"),
        ("p1", "podocyte", "expert", "student"),
        ("p1", "podocyte", "late", "student"),
        ("p2", "podocyte", "expert", "student"),
    ]


def test_pairwise_known_answers():
    table = pairwise_agreement(RATINGS).set_index(["patch", "class", "rater_a", "rater_b"])
    row = table.loc["p1", "podocyte", "expert", "student"]
    assert row[["n_a", "n_b", "n_matched"]].tolist() == [2, 1, 1]
    assert row["f1"] == 2 / 3
    assert row["dice"] == 2 * 12 / (32 + 16)
    assert row["matched_dice"] == pytest.approx(0.75)
    # Nobody found anything: agreement, but no outline to compare.
    row = table.loc["p1", "mesangial", "expert", "student"]
    assert row[["n_a", "n_b", "n_matched", "f1", "dice"]].tolist() == [0, 0, 0, 1.0, 1.0]
    assert np.isnan(row["matched_dice"])
    # Only one found something.
    row = table.loc["p2", "podocyte", "expert", "student"]
    assert row[["n_a", "n_b", "f1", "dice"]].tolist() == [0, 1, 0.0, 0.0]
    assert np.isnan(row["matched_dice"])


def test_iou_threshold_is_strict_and_settable():
    table = pairwise_agreement(RATINGS, iou_threshold=0.6).set_index(["patch", "class", "rater_a", "rater_b"])
    assert table.loc["p1", "podocyte", "expert", "student"]["n_matched"] == 0


@given(
    arrays(np.int32, (8, 8), elements=st.integers(0, 3)), arrays(np.int32, (8, 8), elements=st.integers(0, 3))
)
def test_figures_do_not_depend_on_who_is_a(one, other):
    figures = ["n_matched", "f1", "dice", "matched_dice"]
    there = pairwise_agreement({"p": {"a": {"c": one}, "b": {"c": other}}}).iloc[0]
    back = pairwise_agreement({"p": {"a": {"c": other}, "b": {"c": one}}}).iloc[0]
    assert there[figures].tolist() == pytest.approx(back[figures].tolist(), nan_ok=True)
    assert (there["n_a"], there["n_b"]) == (back["n_b"], back["n_a"])


def test_no_ratings_give_tables_without_rows():
    pairwise = pairwise_agreement({})
    assert len(pairwise) == 0 and "matched_dice" in pairwise.columns
    assert summarise(pairwise).empty and "f1_low" in summarise(pairwise).columns
    assert class_agreement({"p": {"alone": {"podocyte": NOTHING}}}).empty
    assert rated_nuclei({}).empty
    assert matrix(pairwise, "f1").empty


def test_summary_says_what_it_rests_on():
    pairwise = pairwise_agreement(RATINGS)
    row = (
        summarise(pairwise, by=["rater_a", "rater_b"])
        .set_index(["rater_a", "rater_b"])
        .loc["expert", "student"]
    )
    assert row[["n", "n_patches", "n_clusters", "n_matched"]].tolist() == [3, 2, 2, 1]
    assert row["f1"] == pytest.approx((2 / 3 + 1 + 0) / 3)
    assert row["f1_pooled"] == pytest.approx(2 * 1 / (2 + 1 + 0 + 1))  # the empty patch lifts it not
    assert row["matched_dice"] == pytest.approx(0.75)  # of the one patch where it is defined
    # Two slides, here patches, are too few for an interval: each is told instead.
    assert np.isnan([row["f1_low"], row["f1_high"]]).all()
    assert row["f1_by_slide"] == pytest.approx([0.0, (2 / 3 + 1) / 2])


def test_summary_has_an_interval_over_slides_where_there_are_enough():
    pairwise = pairwise_agreement({f"p{n}": RATINGS["p1" if n % 3 else "p2"] for n in range(18)})
    of_slide = {f"p{n}": f"s{n % 6}" for n in range(18)}
    (row,) = summarise(pairwise, by=[], slide_of=of_slide).to_dict("records")
    assert row["n_clusters"] == FEWEST_SLIDES and row["f1_by_slide"] == []
    assert (row["f1_low"], row["f1_high"]) == cluster_interval(
        pairwise["f1"], pairwise["patch"].map(of_slide), bounds=(0, 1)
    )
    assert 0 <= row["f1_low"] < row["f1"] < row["f1_high"] <= 1


def test_summary_of_everything_and_by_slide():
    pairwise = pairwise_agreement(RATINGS)
    (row,) = summarise(pairwise, by=[], slide_of={"p1": "s1", "p2": "s1"}).to_dict("records")
    assert (row["n"], row["n_clusters"]) == (5, 1)
    assert np.isnan(row["f1_low"]) and np.isnan(row["f1_high"])  # one slide has no interval
    assert row["f1_by_slide"] == pytest.approx([pairwise["f1"].mean()])
    with pytest.raises(InputError, match="'p2' has no slide"):
        summarise(pairwise, slide_of={"p1": "s1"})
    with pytest.raises(InputError, match="No column 'nope'"):
        summarise(pairwise, by=["nope"])


def test_matrix_is_symmetric_and_leaves_unknown_cells_empty():
    pairwise = pairwise_agreement(
        {"p2": RATINGS["p2"], "p1": {r: RATINGS["p1"][r] for r in ("expert", "late")}}
    )
    table = matrix(pairwise, "f1")
    assert table.index.tolist() == table.columns.tolist() == ["expert", "late", "student"]
    assert table.loc["expert", "late"] == table.loc["late", "expert"] == 2 / 3
    assert table.loc["expert", "student"] == 0.0
    assert np.isnan(table.loc["late", "student"]) and np.isnan(np.diag(table)).all()
    assert matrix(pairwise, "n_a", how="sum").loc["expert", "late"] == 2
    with pytest.raises(InputError, match="No column"):
        matrix(pairwise, "kappa")


# ---------------------------------------------------------------- classes


def two_raters(*cells: tuple[str, str, int]) -> pd.DataFrame:
    """A contingency table spelt out: (choice of a, choice of b, how often)."""
    return pd.DataFrame([(a, b) for a, b, n in cells for _ in range(n)], columns=["a", "b"], dtype=object)


# Published with irrCAC (Gwet 2014): 100 pregnancies, two abstractors, three classes.
ABSTRACTORS = two_raters(
    ("Ectopic", "Ectopic", 13), ("AIU", "AIU", 20), ("AIU", "NIU", 7), ("NIU", "AIU", 4), ("NIU", "NIU", 56)
)
# 12 items, four raters, ratings missing: alpha 0.743 in Krippendorff (2011), "Computing Krippendorff's
# alpha-reliability", section C; AC1 published with irrCAC (Gwet 2014, p. 120).
FOUR_RATERS = pd.DataFrame(
    [
        [1, 1, NA, 1],
        [2, 2, 3, 2],
        [3, 3, 3, 3],
        [3, 3, 3, 3],
        [2, 2, 2, 2],
        [1, 2, 3, 4],
        [4, 4, 4, 4],
        [1, 1, 2, 1],
        [2, 2, 2, 2],
        [NA, 5, 5, 5],
        [NA, NA, 1, 1],
        [NA, NA, 3, NA],
    ],
    dtype=object,
)


def test_published_values_for_two_raters():
    assert cohen_kappa(ABSTRACTORS["a"], ABSTRACTORS["b"]) == pytest.approx(0.7964094, abs=5e-8)
    assert gwet_ac1(ABSTRACTORS) == pytest.approx(0.8493305, abs=5e-8)
    assert krippendorff_alpha(ABSTRACTORS) == pytest.approx(0.7972585, abs=5e-8)


def test_published_values_for_four_raters_with_missing_ratings():
    assert gwet_ac1(FOUR_RATERS) == pytest.approx(0.77544, abs=5e-6)
    assert krippendorff_alpha(FOUR_RATERS) == pytest.approx(0.74342, abs=5e-6)


# Fleiss (1971), Psychological Bulletin 76, 378-382, table 1: 30 patients, each with six psychiatrists'
# diagnoses: depression, personality disorder, schizophrenia, neurosis, other.
DIAGNOSES = """
00060 03003 01401 00006 03030 20400 00402 20310 20040 00006 10050 11040 03300 10050 02031
00501 30012 51000 02040 10203 00006 01050 02013 20040 10041 05010 40002 02040 10500 00006
"""


def ratings_of(counts: str, classes: str) -> pd.DataFrame:
    """Ratings spelt out, one column for each; which rater gave which does not matter."""
    rows = [
        [name for name, n in zip(classes, item, strict=True) for _ in range(int(n))]
        for item in counts.split()
    ]
    return pd.DataFrame(rows, dtype=object)


def test_fleiss_kappa_of_the_diagnoses_that_he_published():
    table = ratings_of(DIAGNOSES, "dpsno")
    assert table.shape == (30, 6)
    shares = [float((table.to_numpy() == name).mean()) for name in "dpsno"]
    assert shares == pytest.approx([0.144, 0.144, 0.167, 0.306, 0.239], abs=5e-4)  # as printed
    assert fleiss_kappa(table) == pytest.approx(0.430, abs=5e-4)
    shuffled = table.apply(lambda row: pd.Series(row.tolist()[::-1]), axis=1)
    assert fleiss_kappa(shuffled) == fleiss_kappa(table)


def test_fleiss_kappa_by_hand_and_where_it_is_not_defined():
    # Two raters, xx xx xx xy: observed 3/4; shares 7/8 and 1/8, so chance is 50/64.
    table = two_raters(("x", "x", 3), ("x", "y", 1))
    assert fleiss_kappa(table) == pytest.approx((0.75 - 50 / 64) / (1 - 50 / 64))
    assert fleiss_kappa(pd.concat([table, two_raters((NA, NA, 2))])) == fleiss_kappa(table)
    assert np.isnan([fleiss_kappa(two_raters(("x", "x", 5))), fleiss_kappa(two_raters())]).all()
    assert np.isnan(fleiss_kappa(pd.DataFrame([["x"], ["y"]], dtype=object)))
    with pytest.raises(InputError, match="from 1 to 4 ratings.*Krippendorff"):
        fleiss_kappa(FOUR_RATERS)


def test_when_one_class_is_rare_kappa_falls_and_ac1_does_not():
    # 118 of 125 agree. Kappa: pe = (123 * 120 + 2 * 5) / 125^2; AC1: pe = 2 * 0.972 * 0.028.
    table = two_raters(("yes", "yes", 118), ("yes", "no", 5), ("no", "yes", 2))
    chance = (123 * 120 + 2 * 5) / 125**2
    assert cohen_kappa(table["a"], table["b"]) == pytest.approx((118 / 125 - chance) / (1 - chance))
    assert cohen_kappa(table["a"], table["b"]) == pytest.approx(-0.0234, abs=5e-5)
    assert gwet_ac1(table) == pytest.approx(0.9408, abs=5e-5)


def test_ac1_counts_the_classes_that_could_have_been_chosen():
    table = two_raters(("x", "x", 3), ("x", "y", 1))
    # pi of x is 7/8: pe = 2 * (7/8 * 1/8) / (q - 1).
    for q, names in [(2, None), (2, ["x", "y"]), (3, ["x", "y", "z"])]:
        chance = 2 * 7 / 64 / (q - 1)
        assert gwet_ac1(table, names) == pytest.approx((0.75 - chance) / (1 - chance))
    with pytest.raises(InputError, match="Rating 'y' is none of the classes"):
        gwet_ac1(table, ["x", "z"])


def test_chance_correction_without_a_choice_is_not_defined():
    same = two_raters(("x", "x", 5))
    assert np.isnan(cohen_kappa(same["a"], same["b"]))
    assert np.isnan(krippendorff_alpha(same))
    assert np.isnan(gwet_ac1(same))
    assert gwet_ac1(same, ["x", "y"]) == 1.0  # there was a choice, and both made the same
    empty = two_raters()
    assert np.isnan(cohen_kappa([], [])) and np.isnan(gwet_ac1(empty)) and np.isnan(krippendorff_alpha(empty))
    once = pd.DataFrame([["x", NA], [NA, "y"]], dtype=object)
    assert np.isnan(gwet_ac1(once)) and np.isnan(krippendorff_alpha(once))


@given(
    st.lists(
        st.lists(st.sampled_from(["x", "y", "z", None]), min_size=3, max_size=3), min_size=1, max_size=12
    )
)
def test_alpha_agrees_with_the_krippendorff_package(rows):
    table = pd.DataFrame(rows, dtype=object)
    ours = krippendorff_alpha(table)
    if np.isnan(ours):
        paired = [{value for value in row if value} for row in rows if sum(v is not None for v in row) > 1]
        assert len(set().union(*paired)) < 2
        return
    codes = [["xyz".index(value) if value else np.nan for value in row] for row in rows]
    theirs = krippendorff.alpha(np.array(codes, dtype=float).T, level_of_measurement="nominal")
    assert ours == pytest.approx(theirs)


FOUR_NUCLEI = [(0, 0, 4, 4), (8, 0, 12, 4), (0, 8, 4, 12), (8, 8, 12, 12)]


def classes(*names: str | None) -> dict[str, np.ndarray]:
    """The four nuclei with a class each (None = not found)."""
    return {
        name: boxes(*((*box, i + 1) for i, box in enumerate(FOUR_NUCLEI) if names[i] == name))
        for name in ("podocyte", "mesangial")
    }


P, M = "podocyte", "mesangial"


def test_class_agreement_is_over_the_nuclei_that_both_found():
    ratings = {
        "p1": {"a": classes(P, P, M, None), "b": classes(P, M, M, M)},
        "p2": {"a": classes(M, P, P, P)},
    }
    ratings["p2"]["b"] = classes(M, None, None, None)
    (row,) = class_agreement(ratings).to_dict("records")
    assert (row["rater_a"], row["rater_b"]) == ("a", "b")
    assert (row["n_patches"], row["n_matched"]) == (2, 4)  # P-P, P-M, M-M, M-M
    assert row["agree"] == 0.75
    # pe = (2 * 1 + 2 * 3) / 16; pi of P is 3/8.
    assert row["cohen_kappa"] == pytest.approx((0.75 - 0.5) / 0.5)
    chance = 2 * 15 / 64
    assert row["gwet_ac1"] == pytest.approx((0.75 - chance) / (1 - chance))


def test_class_agreement_leaves_patches_with_one_class_out():
    one_class = {"p1": {"a": {P: classes(P, P, P, P)[P]}, "b": classes(P, P, P, P)}}
    (row,) = class_agreement(one_class, class_names=[P, M]).to_dict("records")
    assert (row["n_patches"], row["n_matched"]) == (0, 0)
    assert np.isnan([row["agree"], row["cohen_kappa"], row["gwet_ac1"]]).all()


def test_class_agreement_where_only_one_class_was_seen():
    (row,) = class_agreement({"p1": {"a": classes(P, P, P, P), "b": classes(P, P, P, P)}}).to_dict("records")
    assert row["agree"] == 1.0 and np.isnan(row["cohen_kappa"]) and row["gwet_ac1"] == 1.0


def test_rated_nuclei_tell_not_found_from_not_looked():
    ratings = {
        "p1": {"a": classes(P, P, None, None), "b": classes(P, M, M, None), "c": {P: NOTHING}},
        "p2": {"c": classes(None, None, None, P)},
    }
    table = rated_nuclei(ratings)
    assert table.columns.tolist() == ["patch", "a", "b", "c"]
    rows = [[None if pd.isna(value) else value for value in row] for row in table.to_numpy()]
    assert sorted(rows, key=str) == sorted(
        [
            ["p1", P, P, None],  # c did not finish the mesangial cells of p1
            ["p1", P, M, None],
            ["p1", "undetected", M, None],
            ["p2", None, None, P],
        ],
        key=str,
    )
    classes_only = rated_nuclei(ratings, undetected=None)
    assert "undetected" not in classes_only.to_numpy()
    assert krippendorff_alpha(classes_only[["a", "b", "c"]]) == pytest.approx(0.0)


# ---------------------------------------------------------------- one mask per rater


def test_dice_of_plain_masks_by_the_kind_of_rater():
    one, half, none = np.zeros((4, 4), bool), np.zeros((4, 4), bool), np.zeros((4, 4), bool)
    one[:2], half[:1] = True, True
    images = {
        "i1": {"expert_1": one, "expert_2": one, "lay_1": half},
        "i2": {"lay_1": none, "expert_1": one},
    }
    table = mask_agreement(images)
    assert list(table["dice"]) == pytest.approx([1.0, 2 / 3, 2 / 3, 0.0])
    found = dice_by_kind(table, lambda rater: rater.split("_")[0])
    assert found == {
        ("expert", "expert"): MeanDice(1.0, 1),
        ("expert", "lay"): MeanDice(pytest.approx(4 / 9), 3),
    }
    with pytest.raises(InputError, match="only 0 and 1"):
        mask_agreement({"i": {"a": one * 3, "b": one}})
