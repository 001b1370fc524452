import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from allinsam.consensus import RULES, ConsensusSettings, as_rule, build_consensus
from allinsam.errors import InputError
from allinsam.marks import RatedPatch, cluster, rated_labels, rated_patch
from allinsam.masks import encode_rle
from allinsam.simulate import simulate_patch, simulate_slide

P, M = "podocyte", "mesangial"


def boxes(*xyxy: tuple[int, int, int, int]) -> np.ndarray:
    """A 16 x 16 label image of rectangles (x0, y0, x1, y1)."""
    labels = np.zeros((16, 16), np.int32)
    for number, (x0, y0, x1, y1) in enumerate(xyxy, start=1):
        labels[y0:y1, x0:x1] = number
    return labels


NOTHING = boxes()
ONE, TWO, THREE = (0, 0, 4, 4), (8, 0, 12, 4), (0, 8, 4, 12)


def one_patch(rule: str = "majority", **classes_of: dict[str, np.ndarray]):
    return RULES[rule]({"p": rated_labels(classes_of)})["p"]


def keys(groups) -> list[dict[str, int]]:
    return sorted(({m.rater: m.key for m in group} for group in groups), key=str)


# ---------------------------------------------------------------- which marks are one object


def test_an_outline_over_two_touching_nuclei_does_not_chain_them() -> None:
    # B lies over the border of A and C and matches both (7 of 13 px); A and C are 4 of 16.
    a, b, c = (boxes((x, 0, x + 10, 1)) for x in (0, 3, 6))
    groups = cluster(rated_labels({"a": {P: a}, "b": {P: b}, "c": {P: c}}).instances)
    assert sorted(len(group) for group in groups) == [1, 2]
    # Two raters who tell them apart keep them apart, whatever a third and a fourth draw across.
    apart = boxes((0, 0, 8, 1), (8, 0, 16, 1))
    ratings = {
        "a": {P: apart},
        "b": {P: apart},
        "c": {P: boxes((2, 0, 13, 1))},
        "d": {P: boxes((0, 0, 13, 1))},
    }
    groups = cluster(rated_labels(ratings).instances)
    assert {"a": 1, "b": 1} in [{r: k for r, k in group.items() if r in "ab"} for group in keys(groups)]
    assert {"a": 2, "b": 2} in [{r: k for r, k in group.items() if r in "ab"} for group in keys(groups)]


def test_one_nucleus_of_each_rater_and_the_best_first() -> None:
    # a's nucleus lies over both of b's and matches the second better.
    ratings = {"a": {P: boxes((0, 0, 10, 4))}, "b": {P: boxes((0, 0, 2, 4), (2, 0, 10, 4))}}
    assert keys(cluster(rated_labels(ratings).instances, 0.1)) == [{"a": 1, "b": 2}, {"b": 1}]


def test_the_same_class_is_joined_first_where_overlap_is_equal() -> None:
    ratings = {"a": {P: boxes(ONE), M: boxes(ONE)}, "b": {P: boxes(ONE), M: NOTHING}}
    groups = [{(m.rater, m.class_name) for m in group} for group in cluster(rated_labels(ratings).instances)]
    assert {("a", P), ("b", P)} in groups and {("a", M)} in groups


def test_disjoint_marks_of_two_raters_are_never_one() -> None:
    """The promise behind average linkage at 0.5, on random outlines of three raters."""
    rng = np.random.default_rng(0)
    for _ in range(300):
        starts, ends = rng.integers(0, 8, 3), rng.integers(1, 9, 3)
        marks = {r: {P: boxes((s, 0, s + n, 1))} for r, s, n in zip("abc", starts, ends, strict=True)}
        for group in cluster(rated_labels(marks).instances):
            assert all(np.isin(x.pixels, y.pixels).any() for x in group for y in group)


# ---------------------------------------------------------------- who looked, who voted


def test_nothing_here_counts_against_and_a_missing_class_does_not() -> None:
    marks = {"a": {P: boxes(ONE)}}
    against = {r: {P: NOTHING} for r in "bc"}
    missing = {r: {M: NOTHING} for r in "bc"}
    assert len(one_patch(**marks, **against).objects) == 0
    (kept,) = one_patch(**marks, **missing).objects
    assert (kept.votes, kept.n_looked) == (1, 1)
    assert one_patch(**marks, **missing).classes == (M, P)


def test_a_vote_for_the_object_under_another_class_is_a_vote_for_it() -> None:
    # Two of three saw it; who called it mesangial looked for podocytes as well.
    both = {"a": {P: boxes(ONE), M: NOTHING}, "b": {P: boxes(ONE), M: NOTHING}}
    both |= {"c": {P: NOTHING, M: boxes(ONE)}, "d": {P: NOTHING, M: NOTHING}, "e": {P: NOTHING, M: NOTHING}}
    (kept,) = one_patch(**both).objects
    assert (kept.votes, kept.n_looked, kept.choice.class_name, kept.choice.tie) == (3, 5, P, False)
    assert kept.choice.probability == pytest.approx(2 / 3)


def test_who_did_not_look_for_the_class_has_no_vote_on_it() -> None:
    # Three say podocyte; of those who called it mesangial one did not look for podocytes.
    marks = {r: {P: boxes(ONE), M: NOTHING} for r in "abc"}
    (kept,) = one_patch(**marks, d={M: boxes(ONE)}, e={P: NOTHING, M: boxes(ONE)}).objects
    assert (kept.choice.class_name, kept.votes, kept.n_looked) == (P, 4, 4)


def test_fewer_than_the_quorum_is_missing_not_empty() -> None:
    patch = rated_labels({"a": {P: boxes(ONE), M: boxes(TWO)}, "b": {P: boxes(ONE)}})
    consensus = build_consensus({"p": patch}, ConsensusSettings(quorum=2))["p"]
    assert consensus.classes == (P,) and [o.choice.class_name for o in consensus.objects] == [P]
    with pytest.raises(InputError, match="quorum of 0"):
        ConsensusSettings(quorum=0)


def test_a_tie_is_said_and_goes_to_the_commoner_class() -> None:
    split = {"a": {P: boxes(ONE), M: NOTHING}, "b": {P: NOTHING, M: boxes(ONE)}}
    more = {r: {P: NOTHING, M: boxes(TWO)} for r in "ab"}
    for rule in ("majority", "dawid_skene"):
        decided = RULES[rule]({"p": rated_labels(split), "q": rated_labels(more)})
        (even,), (clear,) = decided["p"].objects, decided["q"].objects
        assert even.choice.class_name == M and clear.choice.class_name == M and not clear.choice.tie
    assert RULES["majority"]({"p": rated_labels(split)})["p"].objects[0].choice.tie
    assert RULES["majority"]({"p": rated_labels(split)})["p"].objects[0].choice.probability == 0.5


def test_dawid_skene_believes_the_one_who_is_right_elsewhere() -> None:
    # good1 and good2 always agree; bad1 and bad2 name classes at random. On the last patch good1 has missed
    # it and good2 stands alone against both.
    rng = np.random.default_rng(0)
    ratings = {}
    for number in range(40):
        true, *guesses = rng.choice([P, M], 3)
        said = {"good1": true, "good2": true, "bad1": guesses[0], "bad2": guesses[1]}
        ratings[f"p{number}"] = {
            r: {c: boxes(ONE) if c == said[r] else NOTHING for c in (P, M)} for r in said
        }
    said = {"good1": None, "good2": P, "bad1": M, "bad2": M}
    ratings["z"] = {r: {c: boxes(ONE) if c == said[r] else NOTHING for c in (P, M)} for r in said}
    patches = {name: rated_labels(by_rater) for name, by_rater in ratings.items()}
    assert RULES["majority"](patches)["z"].objects[0].choice.class_name == M
    for options in ({}, {"undetected": True}):
        choice = RULES["dawid_skene"](patches, ConsensusSettings(**options))["z"].objects[0].choice
        assert choice.class_name == P and choice.probability > 0.8 and not choice.tie


def test_dawid_skene_gives_no_class_that_was_not_asked_for() -> None:
    patches = {f"p{i}": rated_labels({r: {P: NOTHING, M: boxes(ONE)} for r in "abc"}) for i in range(20)}
    patches["alone"] = rated_labels({r: {P: boxes(ONE)} for r in "abc"})
    (thing,) = RULES["dawid_skene"](patches)["alone"].objects
    assert thing.choice.class_name == P and thing.choice.probability == 1


def said(words: str, classes: str) -> RatedPatch:
    """One object, and the class that each rater gives it: a letter for each of r0, r1, ..."""
    by_rater = {f"r{i}": word for i, word in enumerate(words)}
    return rated_labels(
        {r: {c: boxes(ONE) if c == word else NOTHING for c in classes} for r, word in by_rater.items()}
    )


def test_dawid_skene_chooses_among_the_classes_of_the_patch() -> None:
    # Everywhere else "a" is what all three call a "b"; where only a and c are asked for, it is no "b".
    def said(names: str, classes: str) -> RatedPatch:
        marks = {
            f"r{i}": {c: boxes(ONE) if c == n else NOTHING for c in classes} for i, n in enumerate(names)
        }
        return rated_labels(marks)

    patches = {f"p{i}": said("aabbb", "abc") for i in range(30)}
    patches |= {f"q{i}": said("ccccc", "abc") for i in range(2)}
    patches["z"] = said("aa", "ac")
    (thing,) = RULES["dawid_skene"](patches)["z"].objects
    assert thing.choice.class_name == "a"
    assert thing.choice.probability > 0.5


def test_between_two_raters_dawid_skene_takes_no_side() -> None:
    words = (
        ["PP"] * 20 + ["MM"] * 10 + ["PM"] * 10
    )  # b calls every third podocyte mesangial, or a the reverse
    decided = RULES["dawid_skene"]({f"p{i:02}": said(word, "PM") for i, word in enumerate(words)})
    ties = [thing.choice.tie for patch in decided.values() for thing in patch.objects]
    assert ties == [False] * 30 + [True] * 10


# ---------------------------------------------------------------- outlines


def test_pixels_of_more_than_half_of_those_who_marked_it() -> None:
    marks = {"a": {P: boxes((0, 0, 4, 4))}, "b": {P: boxes((1, 0, 5, 4))}}
    assert np.array_equal(one_patch(**marks, c={P: NOTHING}).labels(P) > 0, boxes((1, 0, 4, 4)) > 0)
    assert np.array_equal(one_patch(**marks, c={P: boxes((0, 0, 5, 4))}).labels(P), boxes((0, 0, 5, 4)))


def test_staple_trusts_two_who_agree_over_one_who_draws_wide() -> None:
    marks = {r: {P: boxes((4, 4, 10, 10))} for r in "ab"} | {"c": {P: boxes((3, 4, 11, 10))}}
    assert np.array_equal(one_patch("staple", **marks).labels(P), boxes((4, 4, 10, 10)))


@pytest.mark.parametrize("rule", RULES)
def test_a_contested_pixel_goes_to_the_more_likely_and_objects_stay_apart(rule) -> None:
    # Column 4 is drawn by all into the left object and by two of three into the right one.
    left = {r: {P: boxes((0, 0, 5, 4)), M: boxes((4, 0, 9, 4))} for r in "ab"}
    consensus = one_patch(rule, **left, c={P: boxes((0, 0, 5, 4)), M: boxes((5, 0, 9, 4))})
    assert not ((consensus.labels(P) > 0) & (consensus.labels(M) > 0)).any()
    together = np.concatenate([thing.pixels for thing in consensus.objects])
    assert len(np.unique(together)) == len(together) == 9 * 4
    if "staple" not in rule:
        assert (consensus.labels(P)[:4, 4] > 0).all()


def test_of_two_equal_claims_the_one_with_more_votes_has_the_pixel() -> None:
    # Everybody who marked them drew column 4 into both, three the right one and two the left one.
    marks = {r: {P: boxes((0, 0, 5, 4)), M: boxes((4, 0, 9, 4))} for r in "ab"}
    consensus = one_patch(**marks, c={P: NOTHING, M: boxes((4, 0, 9, 4))})
    assert (consensus.labels(M)[:4, 4] > 0).all() and not consensus.labels(P)[:, 4].any()


# ---------------------------------------------------------------- properties


@pytest.mark.parametrize("rule", RULES)
def test_raters_who_agree_get_their_own_objects_back(rule) -> None:
    patch = simulate_patch(simulate_slide(1, 0), seed=3, size_px=256)
    by_class = {name: patch.class_labels(name) for name in (P, M)}
    assert all(labels.any() for labels in by_class.values())
    for raters in ("a", "abc"):
        consensus = one_patch(rule, **dict.fromkeys(raters, by_class))
        for name, labels in by_class.items():
            found = consensus.labels(name)
            assert np.array_equal(found > 0, labels > 0)
            pairs = set(zip(found[labels > 0].tolist(), labels[labels > 0].tolist(), strict=True))
            assert len(pairs) == len(np.unique(labels)) - 1 == found.max()


@pytest.mark.parametrize("rule", RULES)
def test_where_nobody_marked_anything_there_is_nothing(rule) -> None:
    for raters in ("a", "abc"):
        consensus = one_patch(rule, **{r: {P: NOTHING, M: NOTHING} for r in raters})
        assert consensus.objects == () and consensus.classes == (M, P)
        assert consensus.labels(P).shape == (16, 16) and not consensus.labels(P).any()


def outcome(patches: dict[str, RatedPatch], rule: str) -> list:
    decided = RULES[rule](patches)
    return [
        (name, thing.choice.class_name, thing.choice.tie, thing.votes, thing.pixels.tolist())
        for name in decided
        for thing in decided[name].objects
    ]


label_images = arrays(np.int32, (6, 6), elements=st.integers(0, 2))
rater = st.fixed_dictionaries({}, optional={P: label_images, M: label_images})


@pytest.mark.parametrize("rule", RULES)
@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(rater, min_size=3, max_size=3), min_size=1, max_size=2), st.permutations("abc"))
def test_who_is_who_changes_nothing(rule, study, other_names) -> None:
    def named(names):
        ratings = [{n: c for n, c in zip(names, raters, strict=True) if c} for raters in study]
        return {f"p{i}": rated_labels(by_rater) for i, by_rater in enumerate(ratings) if by_rater}

    assert outcome(named("abc"), rule) == outcome(named(other_names), rule)


# ---------------------------------------------------------------- what comes in


def test_masks_and_run_lengths_may_overlap_and_keep_their_keys() -> None:
    mask = boxes(ONE) > 0
    marked = [
        ("a", P, mask, 7),
        ("b", P, encode_rle(mask), 8),
        ("b", M, ~mask, 9),
        ("a", P, ~mask & mask, 10),
    ]
    patch = rated_patch((16, 16), {"a": [P], "b": [P, M], "c": [P]}, marked)
    (thing,) = build_consensus({"p": patch})["p"].objects[:1]
    assert {m.rater: m.key for m in thing.members} == {"a": 7, "b": 8}
    assert (thing.votes, thing.n_looked) == (2, 3)
    assert np.array_equal(build_consensus({"p": patch})["p"].mask(thing), mask)


def test_what_cannot_be_used_is_named() -> None:
    with pytest.raises(InputError, match="without finishing it"):
        rated_patch((16, 16), {"a": [P]}, [("a", M, boxes(ONE) > 0, 1)])
    with pytest.raises(InputError, match=r"\(16, 16\) px is not of this patch"):
        rated_patch((8, 8), {"a": [P]}, [("a", P, boxes(ONE) > 0, 1)])
    with pytest.raises(InputError, match="no patch"):
        rated_labels({})
    with pytest.raises(InputError, match="Unknown consensus 'mean'"):
        as_rule("mean")
