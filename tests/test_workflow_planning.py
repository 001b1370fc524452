import json
from collections import Counter

import pytest

from allinsam.__main__ import main
from allinsam.accounts import deactivate
from allinsam.errors import InputError, NotFoundError
from allinsam.masks import encode_rle
from allinsam.planning import ARMS, PlanSettings
from allinsam.store import Study, open_study, plans, study_schema
from allinsam.store import assignments as queue
from allinsam.store import study as study_rows
from allinsam.store.connection import DatabaseFile
from allinsam.workflow.annotating import ActLog, next_assignment, record_acts
from allinsam.workflow.assigning import assign_patches, least_covered_patches
from allinsam.workflow.labels import LabelRecipe, freeze_labels, read_labels
from allinsam.workflow.planning import apply_plan, measured_paces, preview_plan, withdraw_unbegun
from tests.people import signed_in_token
from tests.studies import LEAD, PERSON, PODOCYTES, disc, small_study

STUDENTS = ("p-a", "p-b", "p-c")
SETTINGS = PlanSettings(overlap=2, gold=0.15, repeats=0.1, repeat_gap=3, seed=5)


@pytest.fixture
def study(tmp_path) -> Study:
    """Four slides of four patches; three students; the expert has gold on every other patch."""
    study = small_study(tmp_path / "study", slides=4, patches_per_slide=4)
    with study.science.write() as db:
        for assignment in queue.list_assignments(db, PERSON):
            db["assignment_class"].delete_where("assignment_id = ?", [assignment["id"]])
            db["assignment"].delete(assignment["id"])
        for name in STUDENTS:
            study_rows.add_person(db, name, "student")
    for patch_id in range(1, 17, 2):
        with study.science.write() as db:
            key = queue.add_assignment(db, LEAD, patch_id, (1, 2), "gold", tool="contour")
        hand_in(study, key, LEAD)
    return study


def hand_in(study: Study, assignment_id: int, person_id: str, state: str = "nothing_here") -> None:
    log = ActLog(f"client-{assignment_id}", "test")
    record_acts(
        study,
        assignment_id,
        person_id,
        [log.act("load", 0.0), log.act("submit", 4000.0, classes={"1": state, "2": state})],
    )


def queues(study: Study) -> dict[str, list[dict]]:
    with study.science.read() as db:
        return {name: queue.list_assignments(db, name) for name in STUDENTS}


def everything(study: Study) -> list[dict]:
    with study.science.read() as db:
        return queue.list_assignments(db)


def test_a_preview_writes_nothing_and_says_what_would_come(study: Study) -> None:
    before = everything(study)
    told = preview_plan(study, SETTINGS, STUDENTS).to_dict()
    assert everything(study) == before
    assert [row["person"] for row in told["people"]] == list(STUDENTS)
    assert told["gaps"] == [] and told["hours"] is None and told["withdrawn"] == 0
    lengths = [row["new"] for row in told["people"]]
    assert max(lengths) - min(lengths) <= 1 and min(lengths) >= 10
    assert all(row["gold"] >= 1 and row["repeat"] >= 1 for row in told["people"])
    assert told["imbalance"]["slide"]["people"] <= 1
    assert told["shared_by_two"]["least"] >= 1


def test_what_was_previewed_is_written_once(study: Study) -> None:
    seen = preview_plan(study, SETTINGS, STUDENTS)
    done = apply_plan(study, SETTINGS, STUDENTS, by=LEAD)
    assert (done.plan_id, done.added, done.withdrawn) == (1, len(seen.plan.tasks), 0)
    for name, rows in queues(study).items():
        tasks = [(task.patch, task.purpose, task.guidance, task.tool) for task in seen.plan.queue(name)]
        assert [(r["patch_id"], r["purpose"], r["guidance"], r["tool"]) for r in rows] == tasks
        # Ids tell nothing: they count up along the queue whatever the purpose.
        assert [row["id"] for row in rows] == sorted(row["id"] for row in rows)
    written = everything(study)
    assert apply_plan(study, SETTINGS, STUDENTS, by=LEAD).plan_id is None
    assert apply_plan(study, SETTINGS, STUDENTS, redeal=True, by=LEAD).plan_id is None
    assert everything(study) == written
    with study.science.read() as db:
        (kept,) = plans.list_plans(db)
        classes = [queue.assignment_classes(db, row["id"]) for row in written if row["plan_id"]]
    assert PlanSettings.from_dict(kept["settings"]) == SETTINGS and kept["seed"] == 5
    assert (kept["people"], kept["gaps"], kept["person_id"]) == (list(STUDENTS), [], LEAD)
    assert all(asked == {1: "open", 2: "open"} for asked in classes)


def test_gaps_are_said_before_anything_is_written(study: Study) -> None:
    greedy = PlanSettings(overlap=5, gold=0, repeats=0)
    with pytest.raises(InputError, match="slide slide-1: 3 people for an overlap of 5 .and 3 more"):
        apply_plan(study, greedy, STUDENTS)
    assert not any(queues(study).values())
    assert apply_plan(study, greedy, STUDENTS, accept_gaps=True).added == 48
    with study.science.read() as db:
        assert len(plans.list_plans(db)[0]["gaps"]) == 4


def test_gold_is_what_an_expert_has_finished_and_never_ones_own(study: Study) -> None:
    apply_plan(study, SETTINGS, (*STUDENTS, LEAD), accept_gaps=True)
    hidden = [a for a in everything(study) if a["purpose"] == "gold" and a["plan_id"]]
    assert hidden and all(a["patch_id"] % 2 == 1 and a["person_id"] != LEAD for a in hidden)
    own = [a["patch_id"] for a in everything(study) if a["person_id"] == LEAD and a["plan_id"]]
    assert own and all(patch % 2 == 0 for patch in own)
    # What a student did on a hidden gold patch is no gold for anybody else.
    for row in hidden:
        hand_in(study, row["id"], row["person_id"])
    golden = {p.id: p.gold_by for p in preview_plan(study, SETTINGS, STUDENTS).patches if p.gold_by}
    assert set(golden) == set(range(1, 17, 2)) and set(golden.values()) == {frozenset({LEAD})}


def test_hidden_gold_and_repeats_do_not_become_labels(study: Study) -> None:
    apply_plan(study, SETTINGS, STUDENTS)
    for row in everything(study):
        if row["plan_id"]:
            hand_in(study, row["id"], row["person_id"])
    labels = read_labels(study, freeze_labels(study, LabelRecipe(group="student")))
    hidden = {row["patch_id"] for row in everything(study) if row["purpose"] == "gold" and row["plan_id"]}
    assert hidden and not hidden & set(labels) and len(labels) == 16 - len(hidden)


def test_what_was_begun_stays_where_it_is_when_somebody_joins(study: Study) -> None:
    apply_plan(study, SETTINGS, STUDENTS)
    begun = {}
    for name in STUDENTS:
        following = next_assignment(study, name)
        hand_in(study, following["id"], name)
        begun[following["id"]] = (name, following["patch_id"], following["position"])
    with study.science.write() as db:
        study_rows.add_person(db, "p-new", "student")
    people = (*STUDENTS, "p-new")
    kept = apply_plan(study, SETTINGS, people, accept_gaps=True)
    assert kept.added == kept.withdrawn == 0  # all has been given out
    before = {row["id"] for row in everything(study)}
    again = apply_plan(study, SETTINGS, people, redeal=True)
    after = {row["id"]: row for row in everything(study)}
    assert (
        again.withdrawn
        and {
            key: (row["person_id"], row["patch_id"], row["position"])
            for key, row in after.items()
            if key in begun
        }
        == begun
    )
    # An id that was given once is not given again.
    assert not {key for key, row in after.items() if row["plan_id"] == again.plan_id} & before
    production = Counter(r["patch_id"] for r in after.values() if r["purpose"] == "production")
    hidden = {r["patch_id"] for r in after.values() if r["purpose"] == "gold" and r["plan_id"]}
    assert all(production[patch] == 2 for patch in range(1, 17) if patch not in hidden)
    lengths = [
        sum(r["person_id"] == name and r["plan_id"] is not None for r in after.values()) for name in people
    ]
    assert max(lengths) - min(lengths) <= 2


def test_what_nobody_has_begun_is_taken_back_and_kept_on_record(study: Study) -> None:
    apply_plan(study, SETTINGS, STUDENTS)
    given = {row["id"] for row in everything(study) if row["plan_id"]}
    begun = next_assignment(study, "p-a")["id"]
    log = ActLog("client-x", "test")
    record_acts(study, begun, "p-a", [log.act("load", 0.0)])
    of_b = {row["id"] for row in queues(study)["p-b"]}
    assert withdraw_unbegun(study, LEAD, "p-b") == len(of_b)
    assert not queues(study)["p-b"]
    assert withdraw_unbegun(study, LEAD) == len(given) - len(of_b) - 1
    assert {row["id"] for row in everything(study) if row["plan_id"]} == {begun}
    with study.science.read() as db:
        gone = {row["id"]: row for row in db["withdrawn_assignment"].rows}
    assert set(gone) == given - {begun} and {row["withdrawn_by"] for row in gone.values()} == {LEAD}
    assert withdraw_unbegun(study, LEAD) == 0
    assert assign_patches(study, "p-b", [1]).assignment_ids[0] > max(given)


def test_work_given_by_hand_counts_and_is_never_taken_back(study: Study) -> None:
    by_hand = assign_patches(study, "p-a", [1, 2, 3]).assignment_ids
    assign_patches(study, LEAD, [2, 4])  # not in the plan: beside its overlap
    apply_plan(study, SETTINGS, STUDENTS)
    pairs = Counter(
        (r["person_id"], r["patch_id"])
        for rows in queues(study).values()
        for r in rows
        if r["purpose"] != "repeat"
    )
    assert max(pairs.values()) == 1
    covered = Counter(
        r["patch_id"] for rows in queues(study).values() for r in rows if r["purpose"] == "production"
    )
    assert covered[2] == covered[4] == 2
    withdraw_unbegun(study)
    assert [row["id"] for row in queues(study)["p-a"]] == list(by_hand)


def test_a_patch_hidden_as_gold_is_not_given_once_more_by_hand(study: Study) -> None:
    apply_plan(study, SETTINGS, STUDENTS)
    hidden = next(row["patch_id"] for row in queues(study)["p-a"] if row["purpose"] == "gold")
    assert hidden not in least_covered_patches(study, "p-a")
    assert assign_patches(study, "p-a", [hidden]).already == (hidden,)


def test_people_who_cannot_annotate_are_not_planned_for(study: Study) -> None:
    with study.science.write() as db:
        study_rows.add_person(db, "sim-x", "student", simulated=True)
    signed_in_token(study, "annotator", "p-b", "Bea")
    deactivate(study, "p-b")
    assert preview_plan(study, SETTINGS).people == ("p-a", "p-c", PERSON)
    for name in ("sim-x", "p-b"):
        with pytest.raises(InputError, match=f"'{name}' is simulated, deactivated"):
            preview_plan(study, SETTINGS, [name])
    with pytest.raises(NotFoundError, match="nobody"):
        preview_plan(study, SETTINGS, ["nobody"])


def test_a_patch_that_was_practised_on_is_not_work(study: Study) -> None:
    with study.science.write() as db:
        queue.add_assignment(db, "p-a", 6, (1, 2), "practice")
    apply_plan(study, SETTINGS, STUDENTS)
    assert [row["purpose"] for row in queues(study)["p-a"] if row["patch_id"] == 6] == ["practice"]


def test_arms_reach_the_queue(study: Study) -> None:
    arms = ("threshold/box_sam", "pas_only/contour")
    apply_plan(study, PlanSettings(overlap=2, gold=0, repeats=0, arms=arms), STUDENTS)
    found = Counter((r["guidance"], r["tool"]) for rows in queues(study).values() for r in rows)
    assert set(found) == {("threshold", "box_sam"), ("pas_only", "contour")}
    assert abs(found["threshold", "box_sam"] - found["pas_only", "contour"]) <= 1
    assert set(arms) <= set(ARMS)


def test_a_preview_counts_each_arm_per_condition(study: Study) -> None:
    with study.science.write() as db:
        db.execute("UPDATE patch SET condition = 'injured' WHERE slide_id <= 2")
    arms = ("threshold/box_sam", "suggestion/box_sam")
    settings = PlanSettings(overlap=2, gold=0, repeats=0.1, repeat_gap=3, arms=arms)
    rows = preview_plan(study, settings, STUDENTS).arm_rows
    assert [row["arm"] for row in rows] == list(arms)
    assert all(row["all"] == row["injured"] + row["normal"] == 16 for row in rows)
    assert sum(row["injured"] for row in rows) == 16 and abs(rows[0]["injured"] - rows[1]["injured"]) <= 2
    assert preview_plan(study, settings, STUDENTS).to_dict()["arms"] == rows
    # What people have already counts, by whatever arm.
    assign_patches(study, "p-a", [1], guidance="pas_only")
    later = {row["arm"]: row for row in preview_plan(study, settings, STUDENTS).arm_rows}
    assert later["pas_only/box_sam"] == {"arm": "pas_only/box_sam", "injured": 1, "normal": 0, "all": 1}


def test_hours_follow_from_the_studys_own_pace(study: Study) -> None:
    assert measured_paces(study) == ()
    (key,) = assign_patches(study, "p-a", [2]).assignment_ids
    log = ActLog("client-pace", "test")
    acts = [log.act("load", 0.0)]
    for number, centre in enumerate(PODOCYTES[:2]):
        at = 10_000.0 * (number + 1)
        acts.append(
            log.act("mask_edit", at, f"o{number}", class_id=1, mask=encode_rle(disc(centre)), tool="polygon")
        )
        acts.append(log.act("accept", at, f"o{number}"))
    acts.append(log.act("submit", 30_000.0, classes={"1": "complete", "2": "nothing_here"}))
    record_acts(study, key, "p-a", acts)
    every, box = measured_paces(study)
    assert (every.tool, box.tool) == ("", "box_sam")
    assert (every.patches, every.objects_per_patch, every.seconds_per_object) == (1, 2.0, 15.0)
    seen = preview_plan(study, SETTINGS, STUDENTS)
    assert seen.to_dict()["hours"] == pytest.approx(len(seen.plan.tasks) * 30 / 3600)
    assert sum(row["hours"] for row in seen.rows) == pytest.approx(seen.to_dict()["hours"])


def test_a_study_of_the_first_schema_is_brought_up_to_date_with_all_its_rows(study: Study, tmp_path) -> None:
    assign_patches(study, "p-a", [2, 4])
    hand_in(study, queues(study)["p-a"][0]["id"], "p-a")
    first = type(study_schema.migrations)("study")
    first()(study_schema.m001_first_schema)
    old = Study(tmp_path / "old")
    old.folder.mkdir()
    DatabaseFile(old.science.path, first).create_or_migrate()
    with study.science.read() as source, DatabaseFile(old.science.path, first).write() as target:
        target.execute("PRAGMA defer_foreign_keys = ON")
        tables = [t for t in target.table_names() if not t.startswith("_")]
        assert "plan" not in tables and "plan_id" not in target["assignment"].columns_dict
        rows = {}
        for table in tables:
            names = list(target[table].columns_dict)
            rows[table] = [{name: row[name] for name in names} for row in source[table].rows]
            target[table].insert_all(rows[table])
    opened = open_study(old.folder)
    with opened.science.read() as db:
        for table, kept in rows.items():
            names = list(kept[0]) if kept else []
            assert [{name: row[name] for name in names} for row in db[table].rows] == kept
        assert {row["plan_id"] for row in db["assignment"].rows} == {None}
    assert len(rows["assignment"]) == 10 and rows["act"]
    assert apply_plan(opened, SETTINGS, STUDENTS).added


def run(capsys, *words: str) -> dict:
    assert main([*words, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_the_command_line_previews_applies_and_takes_back(study: Study, capsys) -> None:
    words = ["plan", "--study", str(study.folder), "--people", *STUDENTS, "--overlap", "2", "--gold", "0.15"]
    words += ["--repeats", "0.1", "--repeat-gap", "3", "--seed", "5"]
    seen = run(capsys, *words)
    assert seen["applied"] is None and not any(queues(study).values())
    assert seen == {**preview_plan(study, SETTINGS, STUDENTS).to_dict(), "applied": None}
    done = run(capsys, *words, "--apply")["applied"]
    assert done["added"] == sum(len(rows) for rows in queues(study).values())
    assert run(capsys, *words, "--apply")["applied"]["plan_id"] is None
    assert run(capsys, "plan", "--study", str(study.folder), "--withdraw") == {"withdrawn": done["added"]}
    assert main([*words, "--overlap", "9", "--apply"]) == 2
    assert "3 people for an overlap of 9" in capsys.readouterr().err
    arms = run(capsys, *words, "--arms", "threshold/box_sam", "if/contour", "--patches-per-person", "6")
    assert arms["settings"]["arms"] == ["threshold/box_sam", "if/contour"]
    assert max(row["new"] for row in arms["people"]) <= 6


def test_the_command_line_splits_and_checks(study: Study, capsys) -> None:
    words = ["split", "--study", str(study.folder)]
    (made,) = run(capsys, *words, "--unit", "patch")["splits"]
    assert made["rule"] == "patch 6:1:3 of 16; slides overlap between parts" and made["leaks"] == []
    assert sum(made["patches"].values()) == 16
    assert len(run(capsys, *words, "--folds", "4")["splits"]) == 4
    assert len(run(capsys, *words, "--leave-slides-out")["splits"]) == 4
