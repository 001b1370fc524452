"""Counted overlaps say the same as label images do, pair by pair: random outlines that touch, overlap, are
lost under others or are not there at all."""

from itertools import combinations

import numpy as np
import pandas as pd
import pytest

from allinsam import agreement
from allinsam.consensus import build_consensus
from allinsam.errors import InputError
from allinsam.marks import UNDETECTED, rated_labels
from allinsam.masks import decode_places, encode_rle, instances_to_labels
from allinsam.matched import (
    FIGURE_COLUMNS,
    Overlaps,
    alphas,
    class_choices,
    find_nuclei,
    gather,
    pair_figures,
)
from allinsam.metrics import score_all
from allinsam.overlaps import Majority, PatchOverlaps, Work, count_overlaps, majority_masks

NAMES = {3: "podocyte", 1: "tuft", 2: "mesangial"}
BY_NAME = sorted(NAMES, key=NAMES.get)
SIZE_PX = 40
THRESHOLDS = (0.3, 0.35, 0.4, 0.5, 0.6, 0.75, 0.9)
EVERYONE, MAJORITY = 0, -1

Labels = dict[str, dict[str, np.ndarray]]


def draw(rng: np.random.Generator, crowded: bool) -> np.ndarray:
    mask = np.zeros((SIZE_PX, SIZE_PX), bool)
    if crowded:  # several raters' marks of nine places, which reach into each other
        x, y = rng.integers(0, 3, 2) * 12 + rng.integers(-1, 3, 2) + 1
        width, height = rng.integers(7, 12, 2)
    else:  # now and then the same nucleus
        x, y = rng.integers(0, 4, 2) * 10 + rng.integers(0, 2, 2)
        width, height = rng.integers(6, 9, 2)
    mask[max(0, y) : y + height, max(0, x) : x + width] = True
    return mask


def random_patch(rng: np.random.Generator, people: int, crowded: bool) -> tuple[list[Work], Labels]:
    works, labels = [], {}
    for number in range(people):
        classes = [class_id for class_id in NAMES if rng.random() < 0.85] or [1]
        masks = {c: [draw(rng, crowded) for _ in range(rng.integers(0, 6))] for c in classes}
        marks = tuple((c, encode_rle(mask)["counts"]) for c, drawn in masks.items() for mask in drawn)
        works.append(Work(number, f"r{number}", tuple(classes), marks))
        size_hw = (SIZE_PX, SIZE_PX)
        labels[f"r{number}"] = {NAMES[c]: instances_to_labels(m, size_hw=size_hw) for c, m in masks.items()}
    return works, labels


def alike_patch(rng: np.random.Generator, people: int, crowded: bool) -> tuple[list[Work], Labels]:
    """The same nuclei, a column off or missed now and then, or of another class."""
    nuclei = [(c, draw(rng, crowded)) for c in NAMES for _ in range(3)]
    works, labels, size_hw = [], {}, (SIZE_PX, SIZE_PX)
    for number in range(people):
        drawn = [
            (c if rng.random() < 0.9 else 1, np.roll(mask, rng.integers(0, 2), axis=1))
            for c, mask in nuclei
            if rng.random() < 0.85
        ]
        marks = tuple((c, encode_rle(mask)["counts"]) for c, mask in drawn)
        works.append(Work(number, f"r{number}", tuple(NAMES), marks))
        of = {c: [mask for kind, mask in drawn if kind == c] for c in NAMES}
        labels[f"r{number}"] = {NAMES[c]: instances_to_labels(m, size_hw=size_hw) for c, m in of.items()}
    return works, labels


def counted(works: list[Work], members: tuple[int, ...] = (), others: tuple[int, ...] = ()) -> PatchOverlaps:
    majorities = {MAJORITY: Majority(members, others)} if members else {}
    return count_overlaps(works, (SIZE_PX, SIZE_PX), NAMES, {EVERYONE: range(len(works))}, majorities)


@pytest.fixture(scope="module", params=[False, True], ids=["spread", "crowded"])
def study(request: pytest.FixtureRequest) -> tuple[Overlaps, dict[str, Labels], pd.DataFrame]:
    """Overlaps of twelve patches, their label images, and every pair of looks with patch and raters."""
    rng = np.random.default_rng(5)
    drawn = [random_patch(rng, people, request.param) for people in (1, 2, 3, 4, 5, 6) * 2]
    overlaps = gather([counted(works) for works, _ in drawn], BY_NAME)
    ratings = {f"p{number}": labels for number, (_, labels) in enumerate(drawn)}
    pairs = [
        (begin + a, begin + b, f"p{number}", f"r{a}", f"r{b}")
        for number, (begin, (works, _)) in enumerate(zip(overlaps.look_of_patch, drawn, strict=False))
        for a, b in combinations(range(len(works)), 2)
    ]
    return overlaps, ratings, pd.DataFrame(pairs, columns=["a", "b", "patch", "rater_a", "rater_b"])


@pytest.mark.parametrize("iou", THRESHOLDS)
def test_pairs_have_the_figures_of_their_label_images(study, iou: float) -> None:
    overlaps, ratings, pairs = study
    figures = pair_figures(overlaps, pairs[["a", "b"]].to_numpy(), iou)
    rows = pairs.iloc[figures["pair"]].reset_index(drop=True)
    rows = rows.assign(**{"class": [NAMES[BY_NAME[k]] for k in figures["class"]]})
    found = pd.concat([rows, figures[FIGURE_COLUMNS[2:]]], axis=1)[agreement.PAIRWISE_COLUMNS]
    wanted = agreement.pairwise_agreement(ratings, iou)
    assert (wanted["n_matched"].sum() > 0 or iou > 0.75) and wanted["matched_dice"].isna().any()
    exact = ["n_a", "n_b", "n_matched", "f1", "dice"]
    pd.testing.assert_frame_equal(found[exact], wanted[exact], check_dtype=False, check_exact=True)
    # Sums of the same numbers in another order.
    pd.testing.assert_frame_equal(found, wanted, check_dtype=False, rtol=1e-14, atol=0)


@pytest.mark.parametrize("iou", THRESHOLDS)
def test_the_other_way_round_is_the_same(study, iou: float) -> None:
    overlaps, _, pairs = study
    there = pair_figures(overlaps, pairs[["a", "b"]].to_numpy(), iou)
    back = pair_figures(overlaps, pairs[["b", "a"]].to_numpy(), iou)
    assert there["n_a"].tolist() == back["n_b"].tolist()
    # Of matches with the same total IoU either may be taken, so sums may differ; the totals may not.
    assert there["dice"].tolist() == back["dice"].tolist()
    _, counts = class_choices(overlaps, pairs[["a", "b"]].to_numpy(), iou)
    _, turned = class_choices(overlaps, pairs[["b", "a"]].to_numpy(), iou)
    if iou > 0.5:
        assert there["f1"].tolist() == back["f1"].tolist()
    assert counts.sum() == turned.sum() > 0


@pytest.mark.parametrize("iou", THRESHOLDS)
def test_classes_are_those_of_the_label_images(study, iou: float) -> None:
    overlaps, ratings, pairs = study
    comparable, counts = class_choices(overlaps, pairs[["a", "b"]].to_numpy(), iou)
    wanted = agreement.class_agreement(ratings, iou).set_index(["rater_a", "rater_b"])
    assert len(wanted) == 15
    for pair, rows in pairs.groupby(["rater_a", "rater_b"]).indices.items():
        met = counts[rows].sum(axis=0)
        found = [comparable[rows].sum(), met.sum(), np.trace(met) / met.sum() if met.sum() else np.nan]
        found += [agreement.kappa_of_counts(met), agreement.ac1_of_counts(met)]
        np.testing.assert_allclose(found, wanted.loc[pair].to_numpy(float), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("iou", THRESHOLDS)
def test_alpha_is_that_of_the_nuclei_joined_from_label_images(study, iou: float) -> None:
    overlaps, ratings, _ = study
    nuclei = find_nuclei(overlaps, EVERYONE, iou)
    found = alphas(nuclei, np.ones(len(nuclei.patch), bool))
    table = agreement.rated_nuclei(ratings, iou).drop(columns="patch")
    classes = agreement.rated_nuclei(ratings, iou, undetected=None).drop(columns="patch")
    assert len(table) == len(nuclei.patch) and (table == UNDETECTED).sum().sum() == nuclei.undetected.sum()
    assert found["n"] == (table.notna().sum(axis=1) >= 2).sum()
    assert found["n_class"] == (classes.notna().sum(axis=1) >= 2).sum()
    wanted = [agreement.krippendorff_alpha(table), agreement.krippendorff_alpha(classes)]
    np.testing.assert_allclose([found["alpha"], found["alpha_class"]], wanted, rtol=1e-12)


@pytest.mark.parametrize("crowded", [False, True])
def test_the_majority_is_that_of_consensus(crowded: bool) -> None:
    rng, compared = np.random.default_rng(8), 0
    for _ in range(12):
        works, labels = alike_patch(rng, 6, crowded)
        members, expert = tuple(range(5)), 5
        overlaps = gather([counted(works, members, (expert,))], BY_NAME)
        assert overlaps.look_key[-1] == MAJORITY
        patch = rated_labels({f"r{i}": labels[f"r{i}"] for i in members})
        agreed = build_consensus({"": patch})[""]
        figures = pair_figures(overlaps, [(len(works), expert)])
        masks = majority_masks([works[i] for i in members], next(iter(labels["r5"].values())).shape, NAMES)
        assert {NAMES[k] for k in masks[0]} == set(agreed.classes)
        for class_id in masks[0]:
            mine = [mask for k, mask in masks[1] if k == class_id]
            drawn = agreed.labels(NAMES[class_id])
            assert len(mine) == len(np.unique(drawn)) - 1
            assert all((drawn[mask] == drawn[mask][0]).all() and drawn[mask][0] for mask in mine)
            assert sum(mask.sum() for mask in mine) == (drawn > 0).sum()
        for row in figures.itertuples():
            name = NAMES[BY_NAME[row[2]]]
            scores = score_all(agreed.labels(name), labels["r5"][name], ["f1_instance", "dice", "pq"])
            assert name in agreed.classes and row.n_a == len(np.unique(agreed.labels(name))) - 1
            assert [row.f1, row.dice, row.pq] == pytest.approx(list(scores.values()), rel=1e-12)
            compared += row.n_matched > 0
    assert compared > 5


def test_two_are_no_majority() -> None:
    works, _ = random_patch(np.random.default_rng(0), 3, False)
    assert counted(works, (0, 1), (2,)).looks.tolist() == [0, 1, 2]
    with pytest.raises(InputError, match="2 people are no majority"):
        majority_masks(works[:2], (64, 64), NAMES)


def test_nothing_drawn_is_agreement() -> None:
    works = [Work(key, f"r{key}", (1,), ()) for key in (7, 9)]
    overlaps = gather([counted(works)], BY_NAME)
    row = pair_figures(overlaps, [(0, 1)]).iloc[0]
    assert (row["n_a"], row["n_matched"], row["f1"], row["dice"], row["pq"]) == (0, 0, 1.0, 1.0, 1.0)
    assert np.isnan(row["matched_dice"])
    nuclei = find_nuclei(overlaps, EVERYONE)
    assert np.isnan(alphas(nuclei, np.ones(0, bool))["alpha"])
    for classes in (BY_NAME, []):  # a study without work, and one without classes
        empty = gather([], classes)
        assert pair_figures(empty, np.zeros((0, 2))).empty and not len(find_nuclei(empty, EVERYONE).patch)
        assert not len(class_choices(empty, np.zeros((0, 2)))[0])


def test_thresholds_below_what_was_joined_are_refused() -> None:
    overlaps = gather([], BY_NAME)
    for iou in (0.29, 1.0, float("nan")):
        with pytest.raises(InputError, match="not usable"):
            pair_figures(overlaps, np.zeros((0, 2)), iou)
        with pytest.raises(InputError, match="not usable"):
            find_nuclei(overlaps, EVERYONE, iou)


def test_looks_of_two_patches_are_no_pair() -> None:
    rng = np.random.default_rng(3)
    overlaps = gather([counted(random_patch(rng, 2, False)[0]) for _ in range(2)], BY_NAME)
    with pytest.raises(InputError, match="two patches"):
        pair_figures(overlaps, [(0, 2)])


# ---------------------------------------------------------------- run lengths of many masks at once


def test_places_of_many_masks() -> None:
    rng = np.random.default_rng(1)
    for _ in range(60):
        height, width = rng.integers(1, 40, 2)
        masks = [
            rng.random((height, width)) < rng.choice([0, 0.1, 0.5, 1]) for _ in range(rng.integers(1, 6))
        ]
        masks += [np.kron(np.eye(height, width, dtype=bool), True)]
        number, places = decode_places([encode_rle(mask)["counts"] for mask in masks], (height, width))
        assert (np.diff(number) >= 0).all()
        for i, mask in enumerate(masks):
            assert np.sort(places[number == i]).tolist() == np.flatnonzero(mask).tolist()


@pytest.mark.parametrize("counts", ["", "zz", "~~", "0", "P", "o" * 30, "é1"])
def test_damaged_run_lengths_are_refused_among_good_ones(counts: str) -> None:
    good = encode_rle(np.eye(9, dtype=bool))["counts"]
    with pytest.raises(InputError):
        decode_places([good, counts, good], (9, 9))


def test_no_masks_have_no_places() -> None:
    number, places = decode_places([], (9, 9))
    assert len(number) == len(places) == 0
