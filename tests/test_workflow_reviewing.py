"""Reviews: what is in dispute, what a reviewer decides, versions, gold, and patches sent back."""

import sqlite3
from pathlib import Path

import numpy as np
import pytest

from allinsam.__main__ import _recipe, build_parser
from allinsam.errors import InputError, NotAllowedError
from allinsam.masks import decode_rle
from allinsam.store import Study, reviews, runs, suggestions
from allinsam.store import acts as act_store
from allinsam.store import assignments as queue
from allinsam.store import study as study_rows
from allinsam.workflow.annotating import ActLog
from allinsam.workflow.checking import verify
from allinsam.workflow.desk import Desk
from allinsam.workflow.labels import LabelRecipe, freeze_labels, read_labels, recipe_of, reference_recipe
from allinsam.workflow.learning import score_labels
from allinsam.workflow.practising import give_practice, gold_assignment, practice_feedback
from allinsam.workflow.reviewing import (
    Cluster,
    clusters,
    decide,
    finish,
    make_gold,
    patches_to_review,
    reopen,
    review_state,
    send_back,
    undo,
    why_sent_back,
)
from tests.raters import ALL, DRAWN, EXTRA, MISSED, OTHER_CLASS, RATERS, TOO_LARGE, hand_in, hand_in_all
from tests.studies import LEAD, MESANGIAL, PERSON, PODOCYTES, UNMARKED, disc, small_study


@pytest.fixture
def study(tmp_path: Path) -> Study:
    """Two patches; three raters have handed in the first."""
    made = small_study(tmp_path / "study")
    hand_in_all(made, 1)
    return made


def at(study: Study, centre: tuple[int, int], patch_id: int = 1) -> Cluster:
    """The cluster of a drawn nucleus."""
    return next(one for one in clusters(study, patch_id) if pixels(one.mask)[centre[1], centre[0]])


def pixels(mask) -> np.ndarray:
    return decode_rle(mask.as_rle())


def settle(study: Study, patch_id: int = 1) -> None:
    """Every dispute of the first patch, as it is right."""
    decide(study, LEAD, patch_id, at(study, MISSED, patch_id).cluster_id, "consensus")
    decide(study, LEAD, patch_id, at(study, OTHER_CLASS, patch_id).cluster_id, "class", class_id=2)
    right = next(m for m in at(study, TOO_LARGE, patch_id).members if pixels(m.mask).sum() < 400)
    large = at(study, TOO_LARGE, patch_id).cluster_id
    decide(study, LEAD, patch_id, large, "pick", letter=right.letter)
    decide(study, LEAD, patch_id, at(study, EXTRA, patch_id).cluster_id, "rejected", comment="a red cell")


# ------------------------------------------------------------------------------------- looking


def test_every_nucleus_is_found_with_its_votes_and_what_is_in_dispute(study: Study) -> None:
    found = clusters(study, 1)
    assert len(found) == len(PODOCYTES) + len(MESANGIAL) + 1
    assert {one.reasons for one in found} == {(), ("missed",), ("class",), ("outline",)}
    assert sum(one.in_dispute for one in found) == 4
    missed, other, large, extra = (at(study, c) for c in (MISSED, OTHER_CLASS, TOO_LARGE, EXTRA))
    assert (missed.votes, missed.n_looked, missed.reasons) == (2, 3, ("missed",))
    assert len(missed.missed_by) == 1 and missed.missed_by[0] not in {m.letter for m in missed.members}
    assert sorted(m.class_name for m in other.members) == ["mesangial", "mesangial", "podocyte"]
    assert (other.class_name, other.reasons) == ("mesangial", ("class",))
    assert large.reasons == ("outline",) and large.alike == 1
    assert (extra.votes, extra.n_looked) == (1, 3)
    calm = at(study, PODOCYTES[1])
    assert calm.reasons == () and not calm.is_open and np.array_equal(pixels(calm.mask), disc(PODOCYTES[1]))


def test_one_loose_outline_among_many_is_no_dispute(tmp_path: Path) -> None:
    made = small_study(tmp_path / "study")
    loose = [(centre, class_id, 13.5) for centre, class_id, _ in ALL]
    hand_in_all(made, 1, (ALL, ALL, loose))
    assert not any(one.in_dispute for one in clusters(made, 1))
    hand_in_all(made, 2, (ALL, loose))  # of two, neither is the odd one
    assert {one.reasons for one in clusters(made, 2)} == {("outline",)}


def test_letters_stand_for_raters_on_one_patch_alone(tmp_path: Path) -> None:
    made = small_study(tmp_path / "study", slides=6)
    orders = set()
    for patch_id in range(1, 7):
        hand_in_all(made, patch_id)
        state = review_state(made, patch_id)
        with made.science.read() as db:
            people = [queue.get_assignment(db, key)["person_id"] for key in state.raters.values()]
        assert list(state.raters) == ["A", "B", "C"] and set(people) == set(RATERS)
        orders.add(tuple(people))
        assert state.raters == review_state(made, patch_id).raters
    assert len(orders) > 1


def test_the_most_disputed_patch_comes_first_and_the_reviewed_ones_last(study: Study) -> None:
    hand_in_all(study, 2, [DRAWN[2], DRAWN[2], DRAWN[2]])
    rows = patches_to_review(study, RATERS[0])
    assert [(row["patch_id"], row["disputed"], row["open"]) for row in rows] == [(1, 4, 4), (2, 0, 0)]
    assert rows[0]["raters"] == 3 and rows[0]["nuclei"] == 8 and rows[0]["disagreement"] == 0.5
    assert rows[0]["expected_seconds"] > rows[1]["expected_seconds"] > 0
    assert rows[0]["own"] and not patches_to_review(study, LEAD)[0]["own"]
    settle(study)
    assert [row["open"] for row in patches_to_review(study)] == [0, 0]
    finish(study, LEAD, 1)
    rows = patches_to_review(study)
    assert [(row["patch_id"], row["state"], row["version"]) for row in rows] == [
        (2, "new", 0),
        (1, "reviewed", 1),
    ]
    assert rows[1]["expected_seconds"] == 0


def test_what_nobody_handed_in_is_not_there(study: Study) -> None:
    assert {row["patch_id"] for row in patches_to_review(study)} == {1}
    with pytest.raises(InputError, match="Nobody has handed in"):
        clusters(study, 2)


def test_what_was_wrong_on_purpose_is_nobodys_mark(study: Study) -> None:
    mark = at(study, EXTRA).members[0]
    source = mark.source
    row = {
        "object_id": source.object_id,
        "class_id": mark.class_id,
        "mask_counts": mark.mask.counts,
        "planted": "extra",
    }
    made = {
        "source": "sam",
        "run_id": None,
        "backbone": "compact",
        "weights_sha256": "0",
        "planted_share": 0.1,
    }
    with study.science.write() as db:
        suggestions.add_suggestions(db, source.assignment_id, {**made, "seed": 1}, [row])
    assert len(clusters(study, 1)) == len(PODOCYTES) + len(MESANGIAL)


def test_a_class_that_a_rater_set_aside_is_no_vote(tmp_path: Path) -> None:
    made = small_study(tmp_path / "study")
    mine = [hand_in(made, person, 1, DRAWN[2]) for person in RATERS[:2]]
    with made.science.write() as db:
        queue.set_progress(db, mine[0], "submitted", {1: "complete", 2: "unsure"}, "2026-01-01")
    looked = {one.class_name: (one.votes, one.n_looked) for one in clusters(made, 1)}
    assert looked == {"podocyte": (2, 2), "mesangial": (1, 1)}


# ------------------------------------------------------------------------------------ deciding


def test_letters_cannot_be_worked_out_from_what_a_reviewer_sees(study: Study) -> None:
    """A reviewer sees patches' names and, on the Agreement page, pseudonyms."""
    before = dict(review_state(study, 1).raters)
    for n in range(8):
        with study.science.write() as db:
            db["patch"].update(1, {"name": f"another {n}"})
        assert dict(review_state(study, 1).raters) == before


def test_of_two_reviewers_each_takes_back_their_own(study: Study) -> None:
    missed, extra = at(study, MISSED), at(study, EXTRA)
    decide(study, LEAD, 1, missed.cluster_id, "consensus")
    decide(study, PERSON, 1, extra.cluster_id, "rejected")
    assert undo(study, LEAD, 1) == missed.cluster_id
    assert undo(study, LEAD, 1) is None
    assert at(study, MISSED).is_open and at(study, EXTRA).decision.kind == "rejected"
    assert undo(study, LEAD, 1, extra.cluster_id) == extra.cluster_id  # named, it is meant


def test_nobody_decides_over_what_they_have_not_seen(study: Study) -> None:
    key = at(study, MISSED).cluster_id
    decide(study, LEAD, 1, key, "rejected", seen=0)
    decide(study, LEAD, 1, key, "consensus", seen=0)  # one's own: the second key was quicker than the answer
    with pytest.raises(InputError, match="Somebody else has decided this nucleus meanwhile"):
        decide(study, PERSON, 1, key, "rejected", seen=0)
    assert at(study, MISSED).decision.kind == "consensus"
    decide(study, PERSON, 1, key, "rejected", seen=at(study, MISSED).decision.decision_id)
    assert at(study, MISSED).decision.kind == "rejected"


def test_decisions_count_until_they_are_taken_back(study: Study) -> None:
    missed = at(study, MISSED)
    assert missed.is_open
    decide(study, LEAD, 1, missed.cluster_id, "rejected")
    decide(study, LEAD, 1, missed.cluster_id, "consensus", comment="dark but there")
    decision = at(study, MISSED).decision
    assert (decision.kind, decision.class_name, decision.comment) == (
        "consensus",
        "podocyte",
        "dark but there",
    )
    assert undo(study, LEAD, 1) == missed.cluster_id
    assert at(study, MISSED).decision.kind == "rejected"
    assert undo(study, LEAD, 1, missed.cluster_id) == missed.cluster_id
    assert at(study, MISSED).is_open
    assert undo(study, LEAD, 1) is None
    with study.science.read() as db:
        assert [row["kind"] for row in reviews.list_decisions(db)] == [
            "rejected",
            "consensus",
            "undo",
            "undo",
        ]


def test_an_outline_can_be_picked_edited_and_given_another_class(study: Study) -> None:
    large = at(study, TOO_LARGE)
    largest = max(large.members, key=lambda m: pixels(m.mask).sum())
    decide(study, LEAD, 1, large.cluster_id, "pick", letter=largest.letter)
    assert at(study, TOO_LARGE).decision.mask == largest.mask
    decide(study, LEAD, 1, large.cluster_id, "class", class_id=2)
    decision = at(study, TOO_LARGE).decision
    assert decision.mask == largest.mask and decision.class_name == "mesangial"
    mended = disc(TOO_LARGE, 8)
    decide(study, LEAD, 1, large.cluster_id, "edited", mask=mended)
    decision = at(study, TOO_LARGE).decision
    assert np.array_equal(pixels(decision.mask), mended) and decision.class_name == "mesangial"


def test_a_nucleus_that_nobody_has_can_be_added(study: Study) -> None:
    added = decide(study, LEAD, 1, None, "added", class_id=1, mask=disc(UNMARKED[1]))
    cluster = next(one for one in clusters(study, 1) if one.cluster_id == added)
    assert cluster.members == () and not cluster.is_open and cluster.class_name == "podocyte"
    decide(study, LEAD, 1, added, "class", class_id=2)
    decide(study, LEAD, 1, added, "rejected")
    rejected = next(one for one in clusters(study, 1) if one.cluster_id == added)
    assert rejected.decision.mask is None and np.array_equal(pixels(rejected.mask), disc(UNMARKED[1]))
    with pytest.raises(InputError, match="no consensus"):
        decide(study, LEAD, 1, added, "consensus")
    for _ in range(3):
        undo(study, LEAD, 1, added)
    assert added not in {one.cluster_id for one in clusters(study, 1)}


@pytest.mark.parametrize(
    ("kind", "given", "message"),
    [
        ("guess", {}, "Unknown decision 'guess'"),
        ("pick", {"letter": "Z"}, "'Z' has no outline here"),
        ("class", {}, "needs a class"),
        ("class", {"class_id": 9}, "Nobody has looked for class 9"),
        ("edited", {}, "holds no pixel"),
        ("edited", {"mask": np.zeros((512, 512), bool)}, "holds no pixel"),
        ("edited", {"mask": np.ones((8, 8), bool)}, "holds no pixel of the patch of 512 x 512"),
        ("consensus", {"comment": "x" * 2001}, "2001 characters"),
    ],
)
def test_what_cannot_be_decided_is_refused_and_nothing_is_written(study, kind, given, message) -> None:
    with pytest.raises(InputError, match=message):
        decide(study, LEAD, 1, at(study, MISSED).cluster_id, kind, **given)
    with study.science.read() as db:
        assert reviews.list_reviews(db) == [] and reviews.list_decisions(db) == []


def test_an_unknown_cluster_is_refused(study: Study) -> None:
    with pytest.raises(InputError, match="no nucleus 'nowhere'"):
        decide(study, LEAD, 1, "nowhere", "consensus")


def test_a_class_with_a_new_name_is_still_the_same(study: Study) -> None:
    assert at(study, MISSED).class_name == "podocyte"
    with study.science.write() as db:
        db["cell_class"].update(1, {"name": "foot cell"})
    assert at(study, MISSED).class_name == "foot cell"


def test_two_reviewers_work_on_one_review_and_both_are_in_it(study: Study) -> None:
    decide(study, PERSON, 1, at(study, MISSED).cluster_id, "consensus")
    settle(study)
    finish(study, LEAD, 1)
    with study.science.read() as db:
        assert reviews.list_reviews(db)[0]["reviewer_id"] == PERSON
    adjudicated = freeze_labels(study, recipe_of("adjudicated"))
    with study.science.read() as db:
        assert runs.label_set_people(db, adjudicated) == {*RATERS, LEAD, PERSON}


def test_rows_of_a_review_are_never_changed(study: Study) -> None:
    settle(study)
    finish(study, LEAD, 1)
    for table in ("review", "review_decision", "review_finish", "review_object", "review_source"):
        with pytest.raises(sqlite3.IntegrityError, match="never deleted"), study.science.write() as db:
            db.execute(f"DELETE FROM {table}")
        with pytest.raises(sqlite3.IntegrityError, match="never changed"), study.science.write() as db:
            db.execute(
                f"UPDATE {table} SET review_id = 1" if table != "review" else "UPDATE review SET id = 1"
            )


# ----------------------------------------------------------------------------------- finishing


def test_where_all_are_at_one_the_consensus_is_taken(study: Study) -> None:
    with pytest.raises(InputError, match="4 nuclei are still in dispute"):
        finish(study, LEAD, 1)
    settle(study)
    done = finish(study, LEAD, 1, "two were hard")
    assert done == {"version": 1, "nuclei": len(PODOCYTES) + len(MESANGIAL), "gold": None}
    with study.science.read() as db:
        objects = reviews.review_objects(db, 1)
        kinds = sorted(str(row["kind"]) for row in objects)
        acts = act_store.last_change(db)
    assert kinds == ["None"] * 4 + ["class", "consensus", "pick"]
    state = review_state(study, 1)
    assert (state.state, state.comment, state.is_gold) == ("reviewed", "two were hard", False)
    with pytest.raises(InputError, match="Reopen it first"):
        decide(study, LEAD, 1, at(study, MISSED).cluster_id, "rejected")
    with pytest.raises(InputError, match="Reopen it first"):
        finish(study, LEAD, 1)
    with study.science.read() as db:
        assert act_store.last_change(db) == acts  # the raters' own work is never touched
    assert verify(study)["problems"] == []


def test_a_reopened_review_is_a_new_version_and_the_old_one_stays(study: Study) -> None:
    with pytest.raises(InputError, match="not finished"):
        reopen(study, LEAD, 1)
    settle(study)
    finish(study, LEAD, 1)
    assert reopen(study, LEAD, 1) == 2
    assert at(study, EXTRA).decision.kind == "rejected"  # goes on from what was decided
    before = freeze_labels(study, recipe_of("adjudicated"))  # the finished version counts until then
    decide(study, LEAD, 1, at(study, EXTRA).cluster_id, "consensus")
    assert freeze_labels(study, recipe_of("adjudicated")) == before
    assert finish(study, LEAD, 1)["nuclei"] == 8
    with study.science.read() as db:
        assert [len(reviews.review_objects(db, version)) for version in (1, 2)] == [7, 8]
    assert freeze_labels(study, recipe_of("adjudicated")) != before


def test_work_that_goes_on_is_seen_and_its_old_decisions_do_not_hold(study: Study) -> None:
    settle(study)
    finish(study, LEAD, 1)
    hand_in(study, PERSON, 1, DRAWN[2])
    row = patches_to_review(study)[0]
    assert (row["state"], row["raters"]) == ("changed", 4) and row["open"] > 0
    with study.science.read() as db:
        assert len(reviews.review_objects(db, 1)) == 7
    assert at(study, EXTRA).decision is not None  # nobody else marked it: the same marks as before
    assert at(study, MISSED).decision is None


# ------------------------------------------------------------------------------ labels and gold


def test_adjudicated_labels_hold_finished_reviews_only(study: Study) -> None:
    with pytest.raises(InputError, match="No review is finished"):
        freeze_labels(study, recipe_of("adjudicated"))
    hand_in_all(study, 2, [(), (), ()])
    settle(study)
    with pytest.raises(InputError, match="No review is finished"):
        freeze_labels(study, recipe_of("adjudicated"))
    finish(study, LEAD, 1)
    finish(study, LEAD, 2)
    recipe = recipe_of("student", rule="adjudicated")
    assert recipe == LabelRecipe(rule="adjudicated") and recipe.title == "adjudicated"
    label_set = freeze_labels(study, recipe)
    labels = read_labels(study, label_set)
    assert {name: image.max() for name, image in labels[1].items()} == {"podocyte": 4, "mesangial": 3}
    assert {name: image.max() for name, image in labels[2].items()} == {"podocyte": 0, "mesangial": 0}
    assert np.array_equal(labels[1]["podocyte"] > 0, np.any([disc(c) for c in PODOCYTES], axis=0))
    with study.science.read() as db:
        assert runs.label_set_people(db, label_set) == {*RATERS, LEAD}


@pytest.mark.parametrize("words", [["--labels", "adjudicated"], ["--rule", "adjudicated"]])
def test_the_command_line_takes_adjudicated_labels(words: list[str]) -> None:
    assert _recipe(build_parser().parse_args(["train", *words])) == LabelRecipe(rule="adjudicated")


def test_a_class_that_was_not_looked_for_is_missing_not_empty(tmp_path: Path) -> None:
    made = small_study(tmp_path / "study")
    hand_in(made, RATERS[0], 1, DRAWN[2])
    with made.science.write() as db:
        assignment = queue.list_assignments(db, RATERS[0])[0]["id"]
        queue.set_progress(db, assignment, "submitted", {1: "complete", 2: "unsure"}, "2026-01-01")
    finish(made, LEAD, 1)
    assert set(read_labels(made, freeze_labels(made, recipe_of("adjudicated")))[1]) == {"podocyte"}


def test_adjudicated_labels_are_nobodys_own() -> None:
    for wrong in ({"group": "student"}, {"people": ("p",)}, {"masks": "weak"}):
        with pytest.raises(InputError, match="nobody's own"):
            LabelRecipe(rule="adjudicated", **wrong)


def test_nobody_in_a_review_is_scored_against_it(study: Study) -> None:
    hand_in(study, PERSON, 2, DRAWN[2])
    settle(study)
    finish(study, LEAD, 1)
    adjudicated = freeze_labels(study, recipe_of("adjudicated"))
    for person in RATERS:
        with pytest.raises(NotAllowedError, match="nobody is scored against themselves"):
            score_labels(study, freeze_labels(study, recipe_of(person)), adjudicated)
    score_labels(study, freeze_labels(study, recipe_of(PERSON)), adjudicated)  # has no part in it


def test_gold_of_a_review_is_gold_everywhere(study: Study) -> None:
    assert reference_recipe(study) == LabelRecipe(group="expert")
    settle(study)
    done = finish(study, LEAD, 1, as_gold=True)
    with study.science.read() as db:
        finished = queue.finished_classes(db)
        assert gold_assignment(finished, 1, (1, 2)) == done["gold"]
        rows = act_store.current_annotations(db, done["gold"])
    assert len(rows) == 7 and {row["origin"] for row in rows} == {"imported"}
    assert {row["person_id"] for row in rows} == {LEAD}
    assert all(row["molecular_support"] is not None for row in rows)
    assert review_state(study, 1).is_gold and patches_to_review(study)[0]["is_gold"]
    labels = read_labels(study, freeze_labels(study, reference_recipe(study)))
    assert {name: image.max() for name, image in labels[1].items()} == {"podocyte": 4, "mesangial": 3}
    with study.science.write() as db:
        study_rows.add_person(db, "p-new", "student")
    assert len(give_practice(study, "p-new", 1)) == 1
    assert verify(study)["problems"] == []


def test_nobody_behind_gold_is_measured_by_it(study: Study) -> None:
    """Neither as a label set against the reference, nor on a practice patch."""
    settle(study)
    finish(study, LEAD, 1, as_gold=True)
    reference = freeze_labels(study, reference_recipe(study))
    with study.science.read() as db:
        assert runs.label_set_people(db, reference) == {*RATERS, LEAD}
    for person in (RATERS[1], LEAD):
        with study.science.write() as db:
            practice = queue.add_assignment(db, person, 1, [1, 2], "practice")
        desk = Desk(study, practice, person, ActLog(f"practice-{person}", "test"))
        desk.do("submit", classes={"1": "nothing_here", "2": "nothing_here"})
        with pytest.raises(InputError, match="no finished gold"):
            practice_feedback(study, practice)
    with study.science.write() as db:
        practice = queue.add_assignment(db, PERSON, 1, [1, 2], "practice")
    desk = Desk(study, practice, PERSON, ActLog("practice", "test"))
    desk.do("submit", classes={"1": "nothing_here", "2": "nothing_here"})
    assert len(practice_feedback(study, practice)) == 7


def test_gold_follows_the_versions_and_is_changed_by_a_review_alone(study: Study) -> None:
    settle(study)
    finish(study, LEAD, 1)
    with pytest.raises(InputError, match="not in the group of experts"):
        make_gold(study, RATERS[0], 1)
    gold = make_gold(study, LEAD, 1)
    with pytest.raises(InputError, match="gold already"):
        make_gold(study, LEAD, 1)
    desk = Desk(study, gold, LEAD, ActLog("elsewhere", "test"))
    with pytest.raises(InputError, match="Reopen the review"):
        desk.reopen()
    reopen(study, LEAD, 1)
    with pytest.raises(InputError, match="Only a finished review"):
        make_gold(study, LEAD, 1)
    decide(study, LEAD, 1, at(study, EXTRA).cluster_id, "consensus")
    assert finish(study, LEAD, 1)["gold"] == gold
    with study.science.read() as db:
        assert len(act_store.current_annotations(db, gold)) == 8
        assert queue.get_assignment(db, gold)["state"] == "submitted"
    assert verify(study)["problems"] == []


def test_refused_gold_leaves_the_review_open(study: Study) -> None:
    settle(study)
    with pytest.raises(InputError, match="not in the group of experts"):
        finish(study, RATERS[0], 1, as_gold=True)
    assert review_state(study, 1).state == "begun"


# -------------------------------------------------------------------------------- sending back


def test_a_patch_is_sent_back_once_with_a_comment(study: Study) -> None:
    mine = review_state(study, 1, RATERS[0])
    assignment = mine.raters[mine.own_letters[0]]
    with pytest.raises(InputError, match="without a comment"):
        send_back(study, LEAD, assignment, "  ")
    send_back(study, LEAD, assignment, "The upper right is not done.")
    assert why_sent_back(study, assignment) == "The upper right is not done."
    assert patches_to_review(study)[0]["raters"] == 2
    with study.science.read() as db:
        assert queue.get_assignment(db, assignment)["state"] == "open"
        assert "submit" in [act.kind for act in act_store.list_acts(db, assignment)]
    with pytest.raises(InputError, match="only production that is handed in"):
        send_back(study, LEAD, assignment, "Again.")
    desk = Desk(study, assignment, RATERS[0], ActLog("second", "test"))
    desk.submit()
    assert why_sent_back(study, assignment) is None
    assert patches_to_review(study)[0]["raters"] == 3
    assert review_state(study, 1).sent_back == mine.own_letters
    with pytest.raises(InputError, match="sent back to this rater before"):
        send_back(study, LEAD, assignment, "Again.")
    assert verify(study)["problems"] == []


def test_only_production_of_real_people_is_sent_back(study: Study) -> None:
    settle(study)
    gold = finish(study, LEAD, 1, as_gold=True)["gold"]
    with pytest.raises(InputError, match="only production"):
        send_back(study, LEAD, gold, "No.")
