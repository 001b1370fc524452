"""The plan's promises, over many seeds and shapes of studies."""

import json
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from allinsam.errors import InputError
from allinsam.planning import (
    ARMS,
    PlanPatch,
    PlanSettings,
    Task,
    imbalance,
    make_plan,
    shared_patches,
)

SEEDS = range(12)
# slides, patches on each, people, overlap, arms
SHAPES = {
    "few people, many slides": (24, 2, 3, 2, 2),
    "a usual study": (8, 4, 4, 3, 3),
    "everybody does everything": (5, 6, 3, 3, 1),
    "one slide": (1, 40, 5, 3, 3),
    "many people": (12, 6, 11, 3, 4),
    "all arms": (10, 6, 4, 2, 6),
}


def patches(slides: int, per_slide: int, seed: int, gold: float = 0.5, markers=None) -> list[PlanPatch]:
    """Slides with one or both markers and either condition; `gold`: share of patches with expert gold."""
    rng = np.random.default_rng([seed, 7])
    made = []
    for slide in range(slides):
        both, one = ("GATA3", "WT1"), (("WT1",), ("GATA3",))[slide % 2]
        there = markers or (one if rng.random() < 0.3 else both)
        for number in range(per_slide):
            author = frozenset({"expert"} if rng.random() < gold else ())
            made.append(
                PlanPatch(
                    len(made) + 1,
                    f"{slide + 1}",
                    there,
                    "normal" if slide % 2 else "injured",
                    f"g{number // 2}",
                    author,
                )
            )
    return made


def people(count: int) -> list[str]:
    return [f"p{number:02d}" for number in range(count)]


def planned(shape: str, seed: int, **changed):
    slides, per_slide, count, overlap, arms = SHAPES[shape]
    known = patches(slides, per_slide, seed)
    settings = PlanSettings(overlap=overlap, arms=ARMS[:arms], seed=seed, **changed)
    return known, people(count), settings, make_plan(known, people(count), settings)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("seed", SEEDS)
def test_every_promise_of_a_plan(shape: str, seed: int) -> None:
    known, names, settings, plan = planned(shape, seed)
    by_person = {name: plan.queue(name) for name in names}
    # Every patch that is not kept for gold has its overlap, and those that are get nothing else.
    production = Counter(task.patch for task in plan.tasks if task.purpose == "production")
    gold = {task.patch for task in plan.tasks if task.purpose == "gold"}
    assert {p.id: production[p.id] for p in known if p.id not in gold} == {
        p.id: settings.overlap for p in known if p.id not in gold
    }
    assert not gold & production.keys()
    assert gold <= {p.id for p in known if p.gold_by}
    lengths = {name: len(queue) for name, queue in by_person.items()}
    assert max(lengths.values()) - min(lengths.values()) <= 1
    for queue in by_person.values():
        first: dict[int, tuple[int, Task]] = {}
        for place, task in enumerate(queue):
            if task.purpose == "repeat":
                before, look = first[task.patch]
                assert look.purpose == "production" and place - before >= settings.repeat_gap
                assert (task.guidance, task.tool) == (look.guidance, look.tool)
            else:
                assert task.patch not in first
                first[task.patch] = (place, task)
        repeats = Counter(task.patch for task in queue if task.purpose == "repeat")
        assert not repeats or max(repeats.values()) == 1


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("seed", SEEDS)
def test_counts_are_even_for_each_person_and_arm(shape: str, seed: int) -> None:
    known, _, _, plan = planned(shape, seed)
    found = imbalance(plan.tasks, known)
    for factor in ("slide", "marker", "condition"):
        assert found[factor]["people"] <= 1
        assert found[factor]["person_arms"] <= 1
        assert found[factor]["arms"] <= 2
    assert found["patch"]["arms"] <= 3 and found["load"]["people"] <= 1


@pytest.mark.parametrize("seed", range(20))
def test_arms_with_suggestions_are_even_in_every_condition(seed: int) -> None:
    arms = ("threshold/box_sam", "suggestion/box_sam", "if/contour")
    known, names = patches(8, 4, seed), people(4)
    plan = make_plan(known, names, PlanSettings(overlap=3, gold=0, repeats=0, arms=arms, seed=seed))
    condition = {patch.id: patch.condition for patch in known}
    for level in set(condition.values()):
        counts = Counter(task.arm for task in plan.tasks if condition[task.patch] == level)
        assert set(counts) == set(arms) and max(counts.values()) - min(counts.values()) <= 2
        for name in names:
            own = Counter(t.arm for t in plan.queue(name) if condition[t.patch] == level)
            assert max(own[arm] for arm in arms) - min(own[arm] for arm in arms) <= 1
    other = make_plan(known, names, PlanSettings(overlap=3, gold=0, repeats=0, arms=arms, seed=seed + 100))
    drawn = [{(t.person, t.patch): t.arm for t in one.tasks} for one in (plan, other)]
    assert drawn[0] != drawn[1]  # the seed draws them


def test_imbalance_is_what_one_counts_by_hand() -> None:
    known = patches(2, 2, 0, markers=("WT1",))
    one, two = ARMS[0].split("/"), ARMS[2].split("/")
    tasks = [
        Task("a", 1, "production", *one),
        Task("a", 2, "production", *one),
        Task("a", 3, "gold", *two),
        Task("a", 1, "repeat", *one),
        Task("b", 1, "production", *two),
    ]
    found = imbalance(tasks, known)
    assert found["load"] == {"people": 3}
    # Slide 1: a has 2 (both in one arm), b has 1; slide 2: a has 1, b none.
    assert found["slide"] == {"people": 1, "arms": 1, "person_arms": 2}
    assert found["marker"] == {"people": 2, "arms": 0, "person_arms": 1}
    assert found["patch"] == {"arms": 1}
    assert shared_patches(tasks) == {("a", "b"): 1}


@pytest.mark.parametrize("shape", SHAPES)
def test_the_same_seed_gives_the_same_plan_whatever_the_order_of_the_input(shape: str) -> None:
    known, names, settings, plan = planned(shape, 3)
    assert make_plan(known[::-1], names[::-1], settings) == plan
    assert planned(shape, 4)[3] != plan


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("seed", SEEDS)
def test_a_plan_that_was_given_out_asks_for_nothing_more(shape: str, seed: int) -> None:
    known, names, settings, plan = planned(shape, seed)
    assert make_plan(known, names, settings, plan.tasks).tasks == ()


@pytest.mark.parametrize("seed", SEEDS)
def test_patches_that_come_later_are_dealt_evenly_and_move_nothing(seed: int) -> None:
    known, names, settings, plan = planned("a usual study", seed)
    more = [*known, *[PlanPatch(100 + n, "new", ("WT1",), "normal", f"g{n}") for n in range(9)]]
    extended = make_plan(more, names, settings, plan.tasks)
    new = Counter(task.patch for task in extended.tasks if task.purpose == "production")
    assert {patch: count for patch, count in new.items() if patch >= 100} == {
        100 + n: settings.overlap for n in range(9)
    }
    everything = [*plan.tasks, *extended.tasks]
    firsts = Counter((t.person, t.patch) for t in everything if t.purpose != "repeat")
    assert max(firsts.values()) == 1
    assert imbalance(everything, more)["load"]["people"] <= 2
    for name in names:  # the gap holds across what was given first and what came later
        queue = [task for task in everything if task.person == name]
        looks = {task.patch: place for place, task in enumerate(queue) if task.purpose == "production"}
        for place, task in enumerate(queue):
            if task.purpose == "repeat":
                assert place - looks[task.patch] >= settings.repeat_gap


@pytest.mark.parametrize("seed", SEEDS)
def test_somebody_who_joins_takes_over_what_nobody_has_begun(seed: int) -> None:
    known, names, settings, plan = planned("a usual study", seed)
    begun = [task for name in names for task in plan.queue(name)[:5]]
    later = make_plan(known, [*names, "new"], settings, begun)
    everything = [*begun, *later.tasks]
    production = Counter(task.patch for task in everything if task.purpose == "production")
    gold = {task.patch for task in everything if task.purpose == "gold"}
    assert all(production[p.id] == settings.overlap for p in known if p.id not in gold)
    assert imbalance(everything, known)["load"]["people"] <= 2
    assert len(later.queue("new")) > 15


def test_somebody_who_joins_a_study_that_is_all_given_out_is_named() -> None:
    known, names, settings, plan = planned("a usual study", 0)
    later = make_plan(known, [*names, "new"], settings, plan.tasks)
    assert later.tasks == () and any(gap.startswith("new: no patch is left") for gap in later.gaps)


def test_gold_and_repeats_cannot_be_told_by_their_place() -> None:
    """Over many seeds gold lies anywhere; repeats come later than first looks, but at no one distance."""
    places, distances = [], set()
    for seed in range(60):
        _, names, _, plan = planned("a usual study", seed, repeats=0.1)
        for name in names:
            queue = plan.queue(name)
            places += [n / (len(queue) - 1) for n, task in enumerate(queue) if task.purpose == "gold"]
            first = {t.patch: n for n, t in enumerate(queue) if t.purpose == "production"}
            distances |= {n - first[t.patch] for n, t in enumerate(queue) if t.purpose == "repeat"}
    counts, _ = np.histogram(places, bins=4, range=(0, 1))
    assert counts.sum() == 60 * 4 * 3 and counts.min() > 0.8 * counts.mean()
    assert len(distances) > 8


# ------------------------------------------------------------------------------------------ gaps


def test_an_overlap_larger_than_the_people_is_named_slide_by_slide() -> None:
    plan = make_plan(patches(3, 12, 1), people(2), PlanSettings(overlap=3))
    assert [gap for gap in plan.gaps if "overlap" in gap] == [
        f"slide {slide}: 2 people for an overlap of 3" for slide in "123"
    ]
    enough = make_plan(patches(3, 12, 1), people(3), PlanSettings(overlap=3))
    assert not enough.gaps


def test_slides_without_a_marker_are_left_out_and_named() -> None:
    known = [*patches(3, 12, 1), PlanPatch(90, "bare", (), "normal"), PlanPatch(91, "bare", (), "normal")]
    plan = make_plan(known, people(3), PlanSettings())
    assert plan.gaps == ("slide bare: no marker of any class; its 2 patches are left out",)
    assert not {90, 91} & {task.patch for task in plan.tasks}


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("most", [3, 10, 17])
def test_nobody_gets_more_than_the_most_and_what_is_left_is_named(most: int, seed: int) -> None:
    known = patches(8, 6, seed)
    settings = PlanSettings(overlap=2, patches_per_person=most, seed=seed)
    plan = make_plan(known, people(4), settings)
    lengths = [len(plan.queue(name)) for name in people(4)]
    assert max(lengths) <= most and max(lengths) - min(lengths) <= 1
    production = Counter(task.patch for task in plan.tasks if task.purpose == "production")
    # Fewer patches with the full overlap, not all with less.
    assert set(production.values()) == {2}
    assert any("0 people for an overlap of 2" in gap for gap in plan.gaps)
    assert make_plan(known, people(4), settings, plan.tasks).tasks == ()


def test_gold_that_is_missing_or_ones_own_is_named() -> None:
    none = make_plan(patches(8, 4, 1, gold=0), people(4), PlanSettings(repeats=0))
    assert none.gaps == ("hidden gold: 0 patches have expert gold, 2 per person are asked for",)
    known = patches(8, 4, 1, gold=0.5)
    own = {patch.id for patch in known if patch.gold_by}
    plan = make_plan(known, [*people(3), "expert"], PlanSettings(repeats=0))
    assert "expert: 0 of 2 hidden gold patches; the rest is their own gold or known to them" in plan.gaps
    assert plan.queue("expert") and not own & {task.patch for task in plan.queue("expert")}


def test_gold_seen_on_a_card_is_hidden_from_nobody_who_saw_it() -> None:
    known = [
        replace(patch, shown_to=frozenset({"p00"} if n % 2 else ()))
        for n, patch in enumerate(patches(4, 6, 1, gold=1.0))
    ]
    plan = make_plan(known, people(3), PlanSettings(overlap=2, gold=0.2, repeats=0.0))
    shown = {patch.id for patch in known if patch.shown_to}
    golds = {p: {t.patch for t in plan.queue(p) if t.purpose == "gold"} for p in people(3)}
    assert golds["p00"] and not golds["p00"] & shown
    assert golds["p01"] and {t.patch for t in plan.queue("p00")} & shown  # as work they may come


def test_repeats_without_room_are_named() -> None:
    settings = PlanSettings(gold=0, repeats=0.2, repeat_gap=10)
    plan = make_plan(patches(2, 4, 1), people(3), settings)
    assert [task for task in plan.tasks if task.purpose == "repeat"] == []
    assert plan.gaps[0].startswith("p00: 0 of 2 hidden repeats; a queue of 8 patches")
    short = make_plan(patches(2, 4, 1), people(3), PlanSettings(gold=0, repeats=0.02))
    assert short.gaps == ("hidden repeats: a share of 0.02 of these queues is less than one patch",)


def test_a_stratum_with_fewer_patches_than_arms_is_named() -> None:
    known = [PlanPatch(n, "1", ("WT1",), "normal") for n in range(1, 13)]
    known.append(PlanPatch(20, "2", ("WT1",), "injured"))
    plan = make_plan(known, people(2), PlanSettings(overlap=2, gold=0, repeats=0, arms=ARMS[:2]))
    assert plan.gaps == ("condition injured: 1 patches for 2 arms (p00, p01)",)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"overlap": 0}, "overlap 0"),
        ({"gold": -0.1}, "gold -0.1"),
        ({"gold": 0.4, "repeats": 0.4}, "at most 0.5"),
        ({"patches_per_person": 0}, "patches_per_person is 0"),
        ({"arms": ()}, "Arms"),
        ({"arms": ("guess/box_sam",)}, "Arms"),
        ({"planted": 0.6}, "planted is 0.6"),
        ({"planted": -0.1}, "planted is -0.1"),
        ({"suggestions_from": 0}, "suggestions_from is 0"),
        ({"seed": -1}, "seed is -1"),
    ],
)
def test_settings_that_make_no_plan_are_refused(wrong: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        PlanSettings(**wrong)


def test_settings_survive_being_kept_and_unknown_ones_are_refused() -> None:
    settings = PlanSettings(overlap=2, arms=ARMS[1:3], seed=9)
    assert PlanSettings.from_dict(settings.to_dict()) == settings
    with pytest.raises(InputError, match="overlapp"):
        PlanSettings.from_dict({"overlapp": 2})
    with pytest.raises(InputError, match="0 and 3"):
        make_plan([], people(3), settings)


@pytest.mark.parametrize(
    "name, value, wanted",
    [
        ("overlap", "3", "a whole number"),
        ("overlap", True, "a whole number"),
        ("seed", 10**400, "a whole number"),
        ("gold", "a lot", "a number"),
        ("gold", float("inf"), "a number"),
        ("arms", "if", "a list"),
        ("arms", [1], "a list"),
        ("suggestions_from", 1.5, "a whole number or nothing"),
    ],
)
def test_a_setting_of_another_type_is_told(name, value, wanted):
    with pytest.raises(InputError, match=f"The plan setting {name} is .*Give {wanted}"):
        PlanSettings.from_dict({name: value})


def test_settings_come_back_from_plain_data():
    settings = PlanSettings(overlap=2, gold=0, arms=ARMS[:2])
    assert PlanSettings.from_dict(json.loads(json.dumps(settings.to_dict()))) == settings
