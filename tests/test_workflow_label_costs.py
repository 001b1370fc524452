"""What labels took and what they bought, on a study in which every figure can be worked out by hand.

Of its 8 patches 2 are trained on. The expert took 36 s for each and drew 7 nuclei, a student 31 s and 6.
"""

import math
from pathlib import Path

import pandas as pd
import pytest

from allinsam.errors import InputError
from allinsam.store import Study, runs
from allinsam.workflow.annotating import ActLog, record_acts
from allinsam.workflow.export_columns import COLUMNS
from allinsam.workflow.label_costs import (
    LabelCost,
    curve_of,
    groups_of,
    label_cost,
    minutes_and_scores,
    scores_at,
    settings_groups,
)
from allinsam.workflow.label_limits import even_sizes, training_order, within_minutes
from allinsam.workflow.labels import (
    LabelRecipe,
    freeze_labels,
    frozen_lines,
    make_split,
    preview_split,
    read_labels,
    train_order,
)
from allinsam.workflow.learning import training_patches
from allinsam.workflow.scored import newest_experiment, scores_table
from tests.finished import MESANGIAL_ID, PODOCYTE, add_scored_run, finished_study
from tests.studies import PODOCYTES

SPLIT = 1
EXPERT, STUDENTS = LabelRecipe(group="expert"), LabelRecipe(group="student")


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """Shared; what is frozen in it changes no figure."""
    return finished_study(tmp_path_factory.mktemp("finished") / "study")


@pytest.fixture
def own_study(tmp_path: Path) -> Study:
    return finished_study(tmp_path / "study")


def parts_of(study: Study) -> dict[int, str]:
    with study.science.read() as db:
        return runs.split_parts(db, SPLIT)


def limited(**limit: float) -> LabelRecipe:
    return LabelRecipe(group="student", split=SPLIT, **limit)


# ---------------------------------------------------------------- minutes


@pytest.mark.parametrize(
    ("recipe", "cost"),
    [
        (EXPERT, LabelCost(2, 14, 2 * 36 / 60, 2 * 36 / 60)),
        (STUDENTS, LabelCost(2, 12, 2 * 31 / 60, 2 * 31 / 60)),
        # Both students' minutes are behind what they agree on: 3 podocytes and 2 mesangial, on each patch.
        (LabelRecipe(group="student", rule="consensus"), LabelCost(2, 10, 4 * 31 / 60, 4 * 31 / 60)),
        (limited(patches=1), LabelCost(1, 6, 31 / 60, 2 * 31 / 60)),
        # Nobody's time is behind the simulated truth.
        (LabelRecipe(group="truth", purposes=("gold",)), LabelCost(2, 14, None, None)),
    ],
    ids=lambda value: value.title if isinstance(value, LabelRecipe) else "",
)
def test_minutes_behind_the_labels(study: Study, recipe: LabelRecipe, cost: LabelCost) -> None:
    assert make_split(study) == SPLIT
    found = label_cost(study, freeze_labels(study, recipe), SPLIT)
    assert vars(found) == pytest.approx(vars(cost))


def test_of_adjudicated_labels_everybody_who_was_looked_at_counts(study: Study) -> None:
    # One patch was reviewed, and it lies in the train part.
    found = label_cost(study, freeze_labels(study, LabelRecipe(rule="adjudicated")), SPLIT)
    assert found == LabelCost(1, 7, pytest.approx((36 + 31 + 31) / 60), None)


def test_another_cut_off(study: Study) -> None:
    found = label_cost(study, freeze_labels(study, EXPERT), SPLIT, idle_cutoff_s=2.0)
    assert found.train_minutes == pytest.approx(2 * (7 * 2 + 1) / 60)


def test_work_after_the_freeze_does_not_make_old_labels_dearer(own_study: Study) -> None:
    study, before = own_study, label_cost(own_study, freeze_labels(own_study, EXPERT), SPLIT)
    patch_id = train_order(study, EXPERT, parts_of(study))[0]
    with study.science.read() as db:
        [row] = db.query(
            "SELECT id FROM assignment WHERE person_id = 'e1' AND patch_id = ? AND purpose = 'production'",
            [patch_id],
        )
        label_set_id = next(r["id"] for r in runs.list_label_sets(db) if r["recipe"].get("group") == "expert")
    log = ActLog("later", "test")
    record_acts(study, row["id"], "e1", [log.act("load", 0.0), log.act("focus", 50_000.0)])
    assert label_cost(study, label_set_id, SPLIT) == before


# ---------------------------------------------------------------- limits


def test_a_limit_keeps_validation_and_leaves_the_test_part_out(study: Study) -> None:
    parts = parts_of(study)
    first, second = train_order(study, STUDENTS, parts)
    one = read_labels(study, freeze_labels(study, limited(patches=1)))
    assert set(one) == {first, *(p for p, part in parts.items() if part == "val")}
    both = read_labels(study, freeze_labels(study, limited(patches=2)))
    assert set(both) == set(one) | {second}
    # As whoever trains gets it.
    taught = training_patches(study, freeze_labels(study, limited(patches=1)), SPLIT)
    assert sorted(patch.part for patch in taught) == ["train", "val", "val"]


@pytest.mark.parametrize(("minutes", "patches"), [(0.6, 1), (1.03, 1), (1.04, 2), (100.0, 2)])
def test_a_budget_of_minutes(study: Study, minutes: float, patches: int) -> None:
    label_set_id = freeze_labels(study, limited(minutes=minutes))
    assert label_cost(study, label_set_id, SPLIT).train_patches == patches


def test_a_limit_of_reviews(study: Study) -> None:
    recipe = LabelRecipe(rule="adjudicated", split=SPLIT, minutes=2.0)
    assert len({line["patch_id"] for line in frozen_lines(study, freeze_labels(study, recipe))}) == 1


def test_a_limit_is_in_title_and_hash_and_the_whole_keeps_its_own(study: Study) -> None:
    assert (
        limited(patches=1).title == "students, 1 patch" and limited(patches=2).title == "students, 2 patches"
    )
    assert limited(minutes=7.5).title == "students, 7.5 min"
    assert limited(patches=2).unlimited == STUDENTS
    assert not {"patches", "minutes", "split"} & STUDENTS.to_dict().keys()
    for recipe in (limited(patches=2), limited(minutes=1.5), STUDENTS):
        assert LabelRecipe.from_dict(recipe.to_dict()) == recipe
    kept = {freeze_labels(study, recipe) for recipe in (limited(patches=2), limited(minutes=1.5), STUDENTS)}
    assert len(kept) == 3 and freeze_labels(study, limited(patches=2)) in kept


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"patches": 0, "split": 1}, "A limit of 0 is not usable"),
        ({"minutes": -1.0, "split": 1}, "A limit of -1.0 is not usable"),
        ({"minutes": math.nan, "split": 1}, "A limit of nan is not usable"),
        ({"minutes": math.inf, "split": 1}, "A limit of inf is not usable"),
        ({"patches": 2, "minutes": 3.0, "split": 1}, "2 patches and 3 minutes are both given"),
        ({"patches": 2}, "Give both or none"),
        ({"split": 1}, "Give both or none"),
    ],
)
def test_limits_that_cannot_be(values: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        LabelRecipe(group="student", **values)


def test_more_than_there_is_and_less_than_a_patch_are_refused(study: Study) -> None:
    with pytest.raises(InputError, match="3 patches are asked for, and 'students' has 2"):
        freeze_labels(study, limited(patches=3))
    with pytest.raises(InputError, match="0.5 minutes are too few: the first patch of 'students' took 0.52"):
        freeze_labels(study, limited(minutes=0.5))


def test_the_order_is_drawn_by_seed_and_every_class_comes_early() -> None:
    parts = {patch_id: "train" if patch_id <= 12 else "test" for patch_id in range(1, 16)}
    both = dict.fromkeys(range(1, 16), {1, 2})
    order = training_order(parts, both, seed=1)
    assert sorted(order) == list(range(1, 13)) and order != training_order(parts, both, seed=2)
    # Fewer labels: the same order without those that are missing.
    some = {patch_id: {1, 2} for patch_id in (2, 5, 9, 14)}
    assert training_order(parts, some, seed=1) == [patch_id for patch_id in order if patch_id in some]
    rare = {patch_id: {2} if patch_id == order[-1] else {1} for patch_id in order}
    assert training_order(parts, rare, seed=1) == [order[0], order[-1], *order[1:-1]]
    assert training_order(parts, {}, seed=1) == []


def test_minutes_are_taken_in_order_until_the_next_is_too_much() -> None:
    minutes = {7: 2.0, 3: 5.0, 1: 1.0}
    taken = {budget: within_minutes([7, 3, 1], minutes, budget, "labels") for budget in (2.0, 6.9, 7.0, 8.0)}
    assert taken == {2.0: [7], 6.9: [7], 7.0: [7, 3], 8.0: [7, 3, 1]}


@pytest.mark.parametrize(("count", "sizes"), [(24, [3, 6, 12]), (5, [1, 2]), (3, [1, 2]), (2, [1]), (1, [])])
def test_even_sizes(count: int, sizes: list[int]) -> None:
    assert even_sizes(count) == sizes


def test_a_preview_of_the_split_gives_the_order_of_the_frozen_labels(study: Study) -> None:
    assert train_order(study, STUDENTS, preview_split(study, 1).parts) == train_order(
        study, STUDENTS, parts_of(study)
    )


# ---------------------------------------------------------------- minutes and scores


def test_every_run_with_its_cost_and_means(study: Study) -> None:
    table = minutes_and_scores(study)
    assert list(table.columns) == list(COLUMNS["minutes_and_scores"])
    row = table[(table["class_name"] == "podocyte") & (table["metric"] == "f1_instance")].set_index("line")
    assert row.loc["students", "mean"] == pytest.approx(4 / 6)  # 2 of 4 found
    assert row.loc["students", ["train_patches", "train_nuclei", "test_patches"]].tolist() == [2, 12, 8]
    assert row.loc["students", "train_minutes"] == pytest.approx(62 / 60)
    assert row.loc["untrained", ["train_patches", "train_minutes"]].tolist() == [0, 0]
    assert pd.isna(row.loc["untrained", "settings_group"])
    assert row.loc["students", "settings_group"] == row.loc["expert", "settings_group"] == 1
    assert table["idle_cutoff_s"].unique().tolist() == [60.0]
    assert minutes_and_scores(study, 2.0)["train_minutes"].max() == pytest.approx(2 * 15 / 60)


def test_without_scores_it_is_empty(tmp_path: Path) -> None:
    table = minutes_and_scores(finished_study(tmp_path / "study", scored=False))
    assert table.empty and list(table.columns) == list(COLUMNS["minutes_and_scores"])


def test_runs_of_different_sizes_are_one_line(own_study: Study) -> None:
    study = own_study
    add_scored_run(study, limited(patches=1), {PODOCYTE: PODOCYTES[:1], MESANGIAL_ID: ()})
    add_scored_run(study, limited(patches=1), {PODOCYTE: (), MESANGIAL_ID: ()}, seed=7)
    table = minutes_and_scores(study)
    [(group, rows)] = groups_of(table).items()
    assert rows["run_id"].nunique() == 4
    curve = curve_of(table, group, "f1_instance")
    assert set(curve["line"]) == {"expert", "students", "untrained"}
    at, found = scores_at(curve[curve["class_name"] == "podocyte"], "train_minutes")
    # All reach 62 s. The expert's only size took 72 s: there is no line to read off.
    assert at == pytest.approx(62 / 60) and found == pytest.approx({"students": 4 / 6})
    at, found = scores_at(curve[curve["class_name"] == "podocyte"], "train_patches")
    assert at == 2 and found == pytest.approx({"students": 4 / 6, "expert": 1.0})
    # Half of the way from one patch, 2 * 1 / (4 + 1) and 0 by seed, to two.
    half = curve[(curve["class_name"] == "podocyte") & (curve["line"] == "students")].copy()
    half.loc[half["train_patches"] == 2, "train_patches"] = 3
    end = half[half["train_patches"] == 1].assign(line="others", train_patches=2)
    at, found = scores_at(pd.concat([half, end]), "train_patches")
    assert at == 2 and found == pytest.approx({"students": (0.2 + 4 / 6) / 2, "others": 0.2})


def test_runs_on_some_of_the_labels_are_not_in_the_first_comparison(own_study: Study) -> None:
    study = own_study
    add_scored_run(study, limited(patches=1), {PODOCYTE: (), MESANGIAL_ID: ()})
    assert set(newest_experiment(study, scores_table(study))["label"]) == {"expert", "students", "untrained"}


def test_runs_with_other_settings_or_another_split_are_another_group() -> None:
    def run(number: int, split: int = 1, kind: str = "adapter", **settings: int) -> dict:
        return {"id": number, "split_id": split, "kind": kind, "settings": settings}

    known = [run(1, seed=1, k=5), run(2, seed=2, k=5), run(3, seed=1, k=6), run(4, split=2, seed=1, k=5)]
    assert settings_groups([*known, run(5, kind="untrained", seed=1)]) == {1: 1, 2: 1, 3: 2, 4: 3}
    assert settings_groups([*known, run(6, seed=9, k=5)])[1] == 3  # the newest group is last
