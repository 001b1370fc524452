from allinsam.planning import PlanSettings
from allinsam.registration import identity_matrix
from allinsam.store import Study, images, runs, thresholds
from allinsam.store import assignments as queue
from allinsam.store import study as study_rows
from allinsam.workflow.expert_queue import gold_need, open_items
from allinsam.workflow.planning import apply_plan
from tests.finished import finish
from tests.practising import add_gold
from tests.studies import LEAD, PERSON, PODOCYTES, THRESHOLD, small_study


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


def test_a_patch_that_would_not_open_is_not_asked_for(tmp_path) -> None:
    study = small_study(tmp_path / "study", slides=1, patches_per_slide=2, signed=False)
    with study.science.write() as db:
        runs.add_split(db, "patch", 1, {2: "test"})
    assert {one.kind for one in open_items(study, LEAD)} == {"threshold"}
    with study.science.write() as db:
        for marker in ("WT1", "GATA3"):
            thresholds.add_threshold(db, 1, marker, THRESHOLD, "otsu", LEAD)
    assert [one.name for one in open_items(study, LEAD)] == ["reference:2"]


def test_patches_wait_for_experts_alone(tmp_path) -> None:
    study = planned_study(tmp_path / "study")
    with study.science.write() as db:
        runs.add_split(db, "patch", 1, {9: "test"})
    assert open_items(study, PERSON) == []
    assert open_items(study, None) == open_items(study, LEAD) != []


def test_where_there_is_a_truth_no_expert_is_asked_for_a_reference(tmp_path) -> None:
    study = small_study(tmp_path / "study", slides=1, patches_per_slide=2)
    add_gold(study, 1)
    with study.science.write() as db:
        runs.add_split(db, "patch", 1, {1: "test", 2: "test"})
    assert open_items(study, LEAD) == []


def test_a_patch_takes_what_this_expert_took_before(tmp_path) -> None:
    study = small_study(tmp_path / "study", slides=1, patches_per_slide=6)
    for patch_id in range(1, 6):
        finish(study, "e1", "expert", patch_id, {1: PODOCYTES, 2: ()})
    with study.science.write() as db:
        runs.add_split(db, "patch", 1, {6: "test"})
    seconds = {
        person: next(one.seconds for one in open_items(study, person) if one.kind == "reference")
        for person in ("e1", LEAD)
    }
    # One nucleus every five seconds and one more second; the lead has outlined nothing yet.
    assert seconds == {"e1": 5.0 * len(PODOCYTES) + 1.0, LEAD: 600.0}
