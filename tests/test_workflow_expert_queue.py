from allinsam.planning import PlanSettings
from allinsam.registration import identity_matrix
from allinsam.store import Study, images, runs, thresholds
from allinsam.store import assignments as queue
from allinsam.store import study as study_rows
from allinsam.workflow.expert_queue import (
    ENOUGH,
    KINDS,
    LONGEST_LOOK_S,
    Item,
    days_of_ten_minutes,
    expected_seconds,
    gold_need,
    open_items,
    rank,
    within,
)
from allinsam.workflow.planning import apply_plan
from tests.finished import finish
from tests.practising import add_gold
from tests.studies import LEAD, PODOCYTES, THRESHOLD, small_study


def item(kind: str, key: str, value: float, seconds: float) -> Item:
    return Item(kind, key, "", "", value, seconds)


def test_the_most_useful_per_minute_comes_first() -> None:
    slow, quick = item("gold", "1", 40.0, 600.0), item("doubt", "1", 0.5, 5.0)
    many = item("threshold", "1:WT1", 12.0, 20.0)
    assert rank([slow, quick, many]) == [many, quick, slow]


def test_equal_items_have_one_order_whatever_they_came_in() -> None:
    ties = [item("dispute", "b", 1, 10), item("threshold", "z", 1, 10), item("dispute", "a", 1, 10)]
    expected = ["threshold:z", "dispute:a", "dispute:b"]
    assert [one.name for one in rank(ties)] == expected
    assert [one.name for one in rank(reversed(ties))] == expected


def test_what_fits_into_ten_minutes() -> None:
    items = [item("dispute", str(n), 1, 100) for n in range(13)]
    assert (within(items), days_of_ten_minutes(items)) == (6, 3)
    assert within([item("gold", "1", 1, 900)]) == 1
    assert (within([]), days_of_ten_minutes([])) == (0, 0)


def row(kind: str, seconds: float, decision: str = "sign", undone: bool = False) -> dict:
    return {"kind": kind, "seconds": seconds, "decision": decision, "undone": undone}


def test_seconds_are_measured_once_there_are_enough() -> None:
    few = [row("threshold", 3.0)] * (ENOUGH - 1)
    assert expected_seconds(few)["threshold"] == (KINDS["threshold"].seconds, False)
    # Skipped, taken back and undoing ones say nothing; nobody looks for an hour.
    others = [
        row("threshold", 99.0, "skip"),
        row("threshold", 99.0, "undo"),
        row("threshold", 99.0, undone=True),
    ]
    assert expected_seconds([*few, *others, row("threshold", 4000.0)])["threshold"] == (3.0, True)
    assert expected_seconds([row("doubt", 4000.0)] * ENOUGH)["doubt"] == (LONGEST_LOOK_S, True)


# ---------------------------------------------------------------------------------- from a study


def test_nothing_waits(tmp_path) -> None:
    assert open_items(small_study(tmp_path / "study"), LEAD) == []


def test_thresholds_by_what_waits_behind_them(tmp_path) -> None:
    study = small_study(tmp_path / "study", slides=2, patches_per_slide=2, signed=False)
    with study.science.write() as db:
        study_rows.add_person(db, "s2", "student")
        queue.add_assignment(db, "s2", 3, [1])
        thresholds.add_threshold(db, 1, "GATA3", THRESHOLD, "otsu", LEAD)
    found = [(one.name, one.value, one.why) for one in open_items(study, LEAD)]
    assert found == [
        ("threshold:2:WT1", 3.0, "3 assignments wait for it"),
        ("threshold:1:WT1", 2.0, "2 assignments wait for it"),
        ("threshold:2:GATA3", 2.0, "2 assignments wait for it"),
    ]


def test_a_registration_waits_with_its_version(tmp_path) -> None:
    study = small_study(tmp_path / "study", guidance="pas_only")
    with study.science.write() as db:
        images.add_registration(db, 2, identity_matrix(), "grid and ECC on WT1", False)
    [found] = open_items(study, LEAD)
    assert (found.name, found.value, found.why) == ("registration:2:2", 1.0, "nobody waits for it yet")


def planned_study(folder) -> Study:
    """Ten patches for two students; the plan wants one hidden gold patch of each."""
    study = small_study(folder, slides=2, patches_per_slide=5)
    with study.science.write() as db:
        db["assignment_class"].delete_where()
        db["assignment"].delete_where()
        study_rows.add_person(db, "s2", "student")
    apply_plan(study, PlanSettings(overlap=1, gold=0.25, repeats=0.0), accept_gaps=True)
    return study


def test_gold_is_asked_for_until_the_plan_has_enough(tmp_path) -> None:
    study = planned_study(tmp_path / "study")
    need = gold_need(study)
    assert need.there == 0 and need.wanted == need.missing > 0
    asked = open_items(study, LEAD)
    assert {one.kind for one in asked} == {"gold"} and len(asked) == need.missing
    for patch_id in range(1, need.wanted + 1):
        add_gold(study, patch_id)
    assert open_items(study, LEAD) == []


def test_a_test_patch_without_an_expert_is_asked_for(tmp_path) -> None:
    study = small_study(tmp_path / "study", slides=1, patches_per_slide=3)
    with study.science.write() as db:
        runs.add_split(db, "patch", 1, {1: "train", 2: "test", 3: "test"})
    assert [one.name for one in open_items(study, LEAD)] == ["reference:2", "reference:3"]
    finish(study, "e1", "expert", 2, {1: PODOCYTES})
    finish(study, "s9", "student", 3, {1: PODOCYTES})
    assert [one.name for one in open_items(study, LEAD)] == ["reference:3"]
