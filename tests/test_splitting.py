from collections import Counter, defaultdict

import numpy as np
import pytest

from allinsam.errors import InputError
from allinsam.splitting import (
    PARTS,
    Look,
    SplitPatch,
    deal_folds,
    deal_shares,
    default_unit,
    find_leaks,
    missing_strata,
    plan_folds,
    plan_slides_left_out,
    plan_split,
    shared_slides,
    units_of,
)


def patches(slides: int, per_slide: int, seed: int = 0, glomeruli: bool = True) -> list[SplitPatch]:
    """Two patches of each glomerulus; slides of either condition, one in three with one marker."""
    rng = np.random.default_rng(seed)
    made = []
    for slide in range(slides):
        markers = ("GATA3", "WT1") if rng.random() < 0.7 else ("WT1",)
        for number in range(per_slide):
            name = f"g{number // 2}" if glomeruli else None
            condition = "normal" if slide % 2 else "injured"
            key = len(made) + 1
            made.append(SplitPatch(key, f"s{slide}", name, condition, markers, f"{key:064x}"))
    return made


def looks(known: list[SplitPatch], parts: dict, unit: str) -> list[Look]:
    piece = units_of(known, unit)
    return [Look(p.id, parts[p.id], piece[p.id], p.image_sha256) for p in known]


@pytest.mark.parametrize("unit", ["glomerulus", "slide", "patch"])
@pytest.mark.parametrize("seed", range(8))
def test_a_split_leaks_nothing_and_has_its_shares(unit: str, seed: int) -> None:
    known = patches(24, 10, seed)
    plan = plan_split(known, unit, seed)
    assert set(plan.parts) == {p.id for p in known}
    assert find_leaks(looks(known, plan.parts, unit)) == []
    # Two validation slides cannot always hold both markers in both conditions.
    assert [gap for gap in plan.gaps if unit != "slide" or not gap.startswith("val")] == []
    shares = Counter(plan.parts.values())
    for part, share in (("train", 0.6), ("val", 0.1), ("test", 0.3)):
        assert abs(shares[part] / len(known) - share) < 0.06
    assert plan_split(known, unit, seed) == plan
    assert plan_split(known, unit, seed + 100).parts != plan.parts


@pytest.mark.parametrize("seed", range(8))
def test_every_stratum_gets_its_share_of_glomeruli(seed: int) -> None:
    rng = np.random.default_rng(seed)
    strata = {n: ("WT1", "both", "rare")[int(rng.integers(3))] for n in range(90)}
    part_of = deal_shares(strata, seed)
    for stratum in set(strata.values()):
        mine = [part_of[n] for n in strata if strata[n] == stratum]
        assert abs(mine.count("test") - 0.3 * len(mine)) <= 1
        assert abs(mine.count("val") - 0.1 * len(mine)) <= 1
    assert set(deal_shares({1: "a", 2: "b", 3: "c"}, seed).values()) == set(PARTS)


def test_glomeruli_under_twenty_slides_then_slides() -> None:
    assert default_unit(patches(19, 2)) == "glomerulus"
    assert default_unit(patches(20, 2)) == "slide"
    # Two patches without a glomerulus may show the same one.
    assert default_unit(patches(3, 2, glomeruli=False)) == "slide"
    assert default_unit(patches(2, 4, glomeruli=False)) == "patch"


def test_the_rule_says_when_slides_overlap_between_parts() -> None:
    by_glomerulus = plan_split(patches(6, 10), "glomerulus", 1)
    assert by_glomerulus.rule == "glomerulus 6:1:3 of 60; slides overlap between parts"
    assert shared_slides(patches(6, 10), by_glomerulus.parts)
    by_slide = plan_split(patches(6, 10), "slide", 1)
    assert by_slide.rule == "slide 6:1:3 of 60" and not shared_slides(patches(6, 10), by_slide.parts)


@pytest.mark.parametrize("seed", range(5))
def test_each_fold_is_tested_once_and_strata_are_even(seed: int) -> None:
    known = patches(7, 12, seed)
    plans = plan_folds(known, "glomerulus", 5, seed)
    tested = Counter(p for plan in plans for p, part in plan.parts.items() if part == "test")
    assert set(tested.values()) == {1} and len(tested) == len(known)
    assert all(not find_leaks(looks(known, plan.parts, "glomerulus")) for plan in plans)
    assert [plan.rule.split(" of ")[0] for plan in plans] == [f"glomerulus fold {n}" for n in range(1, 6)]
    strata = {n: n % 3 for n in range(47)}
    fold_of = deal_folds(strata, 5, seed)
    by_stratum = defaultdict(Counter)
    for n, fold in fold_of.items():
        by_stratum[strata[n]][fold] += 1
    for counts in (*by_stratum.values(), Counter(fold_of.values())):
        assert max(counts.values()) - min(counts[fold] for fold in range(5)) <= 1


def test_every_slide_is_left_out_once() -> None:
    known = patches(5, 4)
    plans = plan_slides_left_out(known, 1)
    left_out = [{p.slide for p in known if plan.parts[p.id] == "test"} for plan in plans]
    assert sorted(slide for slides in left_out for slide in slides) == [f"s{n}" for n in range(5)]
    for plan in plans:
        assert find_leaks(looks(known, plan.parts, "slide")) == []
        assert len({p.slide for p in known if plan.parts[p.id] == "val"}) == 1


def test_what_a_part_lacks_is_named() -> None:
    known = [*patches(4, 6), SplitPatch(99, "rare", "g", "unknown", ("WT1",), "f" * 64)]
    plan = plan_split(known, "slide", 1)
    there = plan.parts[99]
    assert {gap for gap in plan.gaps if "unknown" in gap} == {
        f"{part}: no patch with WT1 in condition unknown" for part in PARTS if part != there
    }
    assert missing_strata(known, dict.fromkeys((p.id for p in known), "train"))[0].startswith("val: no patch")


def test_leaks_are_found_whatever_kind_they_are() -> None:
    clean = [Look(1, "train", "u1", "a" * 64), Look(2, "test", "u2", "b" * 64)]
    assert find_leaks(clean) == []
    (twin,) = find_leaks([*clean, Look(3, "val", "u3", "a" * 64)])
    assert twin.startswith(f"picture {'a' * 64} is in train")
    crossing = find_leaks([*clean, Look(1, "test", "u9", "d" * 64, "repeat")])
    assert crossing == ["patch 1 is in test (patch 1, repeat) and in train (patch 1, production)"]
    gold = find_leaks([*clean, Look(2, "train", "u2", "b" * 64, "gold")])
    assert [leak.split()[0] for leak in gold] == ["unit", "patch", "picture"] and "gold" in gold[0]


def test_patches_with_the_same_picture_are_one_piece() -> None:
    known = patches(4, 4)
    twin = SplitPatch(50, "s3", "other", "normal", ("WT1",), known[0].image_sha256)
    piece = units_of([*known, twin], "glomerulus")
    assert piece[50] == piece[1] == piece[2] == 1  # its twin, and the other patch of that glomerulus
    bridged = units_of([*known, twin], "slide")
    assert {bridged[p.id] for p in known if p.slide in ("s0", "s3")} == {1}


def test_too_few_pieces_and_unknown_units_are_refused() -> None:
    with pytest.raises(InputError, match="by slide this study has 2"):
        plan_split(patches(2, 4), "slide", 1)
    with pytest.raises(InputError, match="2 folds"):
        plan_folds(patches(4, 4), "slide", 2, 1)
    with pytest.raises(InputError, match="9 folds cannot be made of 4"):
        plan_folds(patches(4, 4), "slide", 9, 1)
    with pytest.raises(InputError, match="'lobule'"):
        plan_split(patches(4, 4), "lobule", 1)
