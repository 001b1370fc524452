from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from allinsam.errors import InputError
from allinsam.masks import encode_rle
from allinsam.registration import identity_matrix
from allinsam.store import Study, images, runs, settled, thresholds
from allinsam.store import assignments as queue
from allinsam.workflow import reviewing
from allinsam.workflow.annotating import ActLog, record_acts, why_closed
from allinsam.workflow.classes import change_class
from allinsam.workflow.expert_queue import open_items
from allinsam.workflow.exports import export_table
from allinsam.workflow.nuclei_in_doubt import nuclei_of, open_nucleus
from allinsam.workflow.settling import ACCEPT_REASONS, give_patch, settle, threshold_start, undo
from tests.raters import RATERS, hand_in_all
from tests.studies import BRIGHT, DIM, LEAD, PERSON, PODOCYTES, THRESHOLD, disc, small_study


@pytest.fixture
def study(tmp_path: Path) -> Study:
    """One slide of two patches without thresholds; patch 1 waits for its registration."""
    made = small_study(tmp_path / "study", slides=1, patches_per_slide=2, signed=False)
    with made.science.write() as db:
        images.add_registration(
            db, 1, identity_matrix(), "grid and ECC on WT1", False, 0.3, reason="Too far."
        )
    return made


presses = iter(range(10**6))


def press(study: Study, kind: str, key: str, decision: str, person: str = LEAD, **detail):
    return settle(study, person, f"page:{next(presses)}", kind, key, decision, detail, 4.0)


def names(study: Study) -> list[str]:
    return [item.name for item in open_items(study, LEAD)]


def kept(study: Study) -> list[tuple[str, str]]:
    with study.science.read() as db:
        return [(row["kind"], row["decision"]) for row in settled.list_settled(db)]


# ------------------------------------------------------------------------------------- thresholds


def test_a_threshold_starts_between_dim_and_bright(study: Study) -> None:
    start = threshold_start(study, 1, "WT1")
    assert DIM <= start.value < BRIGHT and start.top == BRIGHT and start.patch_id in (1, 2)


def test_signing_the_start_or_another_value(study: Study) -> None:
    start = threshold_start(study, 1, "WT1").value
    press(study, "threshold", "1:WT1", "sign", value=start)
    press(study, "threshold", "1:GATA3", "sign", value=start + 7)
    with study.science.read() as db:
        rows = [
            (r["marker"], r["value"], r["method"], r["signed_by"]) for r in thresholds.list_thresholds(db)
        ]
    assert rows == [("GATA3", start + 7, "by eye", LEAD), ("WT1", start, "otsu", LEAD)]
    assert names(study) == ["registration:1:2"]


def test_a_key_press_sent_twice_counts_once(study: Study) -> None:
    for _ in range(2):
        settle(study, LEAD, "page:same", "threshold", "1:WT1", "sign", {"value": 90.0}, 4.0)
    with study.science.read() as db:
        assert len(thresholds.list_thresholds(db)) == 1
    assert kept(study) == [("threshold", "sign")]


def test_a_threshold_taken_back_is_asked_about_again_and_can_be_kept(study: Study) -> None:
    press(study, "threshold", "1:WT1", "sign", value=90.0)
    assert undo(study, LEAD, "page:u", 1.0)["key"] == "1:WT1"
    assert "threshold:1:WT1" in names(study)
    press(study, "threshold", "1:WT1", "sign", value=90.0)
    assert "threshold:1:WT1" not in names(study)
    undo(study, LEAD, "page:u2", 1.0)
    press(study, "threshold", "1:WT1", "sign", value=80.0)
    with study.science.read() as db:
        versions = [(r["version"], r["value"]) for r in thresholds.list_thresholds(db)]
    assert versions == [(1, 90.0), (2, 80.0)]


@pytest.mark.parametrize("value", [-1.0, 5000.0, float("nan"), "90", None, True])
def test_a_value_that_cannot_be_is_refused_and_nothing_kept(study: Study, value: object) -> None:
    with pytest.raises(InputError):
        press(study, "threshold", "1:WT1", "sign", value=value)
    assert kept(study) == []


# ----------------------------------------------------------------------------------- registrations


def test_a_registration_accepted_with_a_preset_and_taken_back(study: Study) -> None:
    press(study, "registration", "1:2", "accept", reason=ACCEPT_REASONS[1])
    with study.science.read() as db:
        newest = images.newest_registrations(db)[1]
        assert (newest["accepted"], newest["reason"], newest["person_id"]) == (1, ACCEPT_REASONS[1], LEAD)
        assert images.patches_on_hold(db) == set()
    undo(study, LEAD, "page:u", 1.0)
    with study.science.read() as db:
        assert images.patches_on_hold(db) == {1}
    assert "registration:1:4" in names(study)


def test_a_registration_left_waiting_comes_again_with_its_next_version(study: Study) -> None:
    press(study, "registration", "1:2", "reject")
    with study.science.read() as db:
        assert images.patches_on_hold(db) == {1}
    assert not [name for name in names(study) if name.startswith("registration")]
    with study.science.write() as db:
        images.add_registration(db, 1, identity_matrix(), "grid and ECC on WT1", False)
    assert "registration:1:3" in names(study)


def test_what_somebody_settled_meanwhile_is_refused(study: Study) -> None:
    with study.science.write() as db:
        images.add_registration(db, 1, identity_matrix(), "by hand", True)
    for decision in ("accept", "reject"):
        with pytest.raises(InputError, match="meanwhile|version 3"):
            press(study, "registration", "1:2", decision)
    assert kept(study) == []


# ------------------------------------------------------------------------------------------ nuclei


@pytest.fixture
def rated(tmp_path: Path) -> Study:
    """Three raters at one about all but four nuclei of patch 1, which is in the test part."""
    made = small_study(tmp_path / "rated", slides=1, patches_per_slide=2)
    hand_in_all(made, 1)
    with made.science.write() as db:
        runs.add_split(db, "patch", 1, {1: "test", 2: "train"})
    return made


def disputes(study: Study) -> list[str]:
    return [item.key for item in open_items(study, LEAD) if item.kind == "dispute"]


def decided(study: Study, key: str) -> reviewing.Decision | None:
    patch_id, cluster_id = key.split(":")
    return next(c for c in reviewing.clusters(study, int(patch_id)) if c.cluster_id == cluster_id).decision


def test_disputes_are_settled_and_the_review_finished(rated: Study) -> None:
    first, second, third, fourth = disputes(rated)
    press(rated, "dispute", first, "consensus")
    press(rated, "dispute", second, "rejected")
    press(rated, "dispute", third, "class", class_id=2)
    nucleus = next(c for c in reviewing.clusters(rated, 1) if fourth.endswith(c.cluster_id))
    letter = nucleus.members[0].letter
    press(rated, "dispute", fourth, "pick", letter=letter)
    kinds = [decided(rated, key).kind for key in (first, second, third, fourth)]
    assert kinds == ["consensus", "rejected", "class", "pick"]
    assert disputes(rated) == [] and "finish:1:1" in names(rated)
    press(rated, "finish", "1:1", "finish")
    assert reviewing.review_state(rated, 1).state == "reviewed"
    assert not [name for name in names(rated) if name.startswith(("finish", "dispute"))]
    undo(rated, LEAD, "page:u", 1.0)
    assert "finish:1:2" in names(rated)


def test_a_dispute_taken_back_is_open_again(rated: Study) -> None:
    first = disputes(rated)[0]
    press(rated, "dispute", first, "consensus")
    undo(rated, LEAD, "page:u", 1.0)
    assert decided(rated, first) is None and first in disputes(rated)


def test_two_experts_do_not_overwrite_each_other(rated: Study) -> None:
    first = disputes(rated)[0]
    press(rated, "dispute", first, "consensus", person=RATERS[0])
    with pytest.raises(InputError, match="meanwhile"):
        press(rated, "dispute", first, "rejected")
    assert decided(rated, first).kind == "consensus"


def test_disputes_of_test_patches_come_before_others(rated: Study) -> None:
    hand_in_all(rated, 2)
    patches = [item.detail["patch_id"] for item in open_items(rated, LEAD) if item.kind == "dispute"]
    assert patches == [1] * 4 + [2] * 4


def test_a_class_that_is_renamed_is_asked_about_by_its_new_name(rated: Study) -> None:
    [first, *_] = disputes(rated)
    patch_id, cluster_id = first.split(":")
    press(rated, "dispute", first, "class", class_id=1)
    assert {c.class_name for c in nuclei_of(rated, 1)} == {"podocyte", "mesangial"}
    change_class(rated, LEAD, 1, "visceral cell", "WT1", "#E69F00", "1")
    now = nuclei_of(rated, 1)
    assert {c.class_name for c in now} == {"visceral cell", "mesangial"}
    assert {m.class_name for c in now for m in c.members} == {"visceral cell", "mesangial"}
    assert open_nucleus(rated, int(patch_id), cluster_id).decision.class_name == "visceral cell"


def test_undo_takes_back_ones_own_and_never_what_another_did_since(rated: Study) -> None:
    first = disputes(rated)[0]
    patch_id, cluster_id = first.split(":")
    press(rated, "dispute", first, "consensus")
    reviewing.undo(rated, RATERS[0], int(patch_id), cluster_id)
    press(rated, "dispute", first, "rejected", person=RATERS[0])
    with pytest.raises(InputError, match="Somebody else has decided"):
        undo(rated, LEAD, "page:u", 1.0)
    assert decided(rated, first).kind == "rejected"
    assert kept(rated) == [("dispute", "consensus"), ("dispute", "rejected")]


def test_a_review_that_somebody_goes_on_with_is_neither_finished_nor_reopened_by_an_old_key(
    rated: Study,
) -> None:
    for key in disputes(rated):
        press(rated, "dispute", key, "consensus")
    press(rated, "finish", "1:1", "finish")
    reviewing.reopen(rated, RATERS[0], 1)
    with pytest.raises(InputError, match="gone on with this review"):
        press(rated, "finish", "1:1", "finish")
    reviewing.finish(rated, RATERS[0], 1)
    with pytest.raises(InputError, match="gone on with this review"):
        undo(rated, LEAD, "page:u", 1.0)
    state = reviewing.review_state(rated, 1)
    assert (state.version, state.state) == (2, "reviewed")


def test_a_key_press_and_an_undo_sent_twice_at_once_count_once(rated: Study) -> None:
    first, second = disputes(rated)[:2]
    press(rated, "dispute", first, "consensus")
    sent = (LEAD, "page:same", "dispute", second, "consensus", {}, 4.0)
    with ThreadPoolExecutor(4) as pool:
        rows = {done.row_id for done in pool.map(lambda _: settle(rated, *sent), range(4))}
        undone = list(pool.map(lambda _: undo(rated, LEAD, "page:u", 1.0)["key"], range(4)))
    assert len(rows) == 1 and undone == [second] * 4
    assert [decision for _, decision in kept(rated)] == ["consensus", "consensus", "undo"]
    assert decided(rated, first).kind == "consensus" and decided(rated, second) is None


def doubtful(study: Study, patch_id: int, support: float, score: float) -> None:
    """PERSON alone keeps two nuclei on a patch: the model is unsure of one, the marker dark on the other."""
    with study.science.read() as db:
        [mine] = [r for r in queue.list_assignments(db, PERSON) if r["patch_id"] == patch_id]
    log, acts = ActLog(f"doubt-{patch_id}", "test"), []
    for name, centre, evidence in (
        ("unsure", PODOCYTES[0], {"predicted_iou": score, "molecular_support": 0.9}),
        ("dark", PODOCYTES[1], {"predicted_iou": 0.95, "molecular_support": support}),
        ("fine", PODOCYTES[2], {"predicted_iou": 0.95, "molecular_support": 0.9}),
    ):
        box = log.act(
            "box", 1.0, name, class_id=1, box=[centre[0] - 11, centre[1] - 11, centre[0] + 11, centre[1] + 11]
        )
        shown = {
            "mask": encode_rle(disc(centre)),
            "backbone": "compact",
            "weights_sha256": "0" * 64,
            **evidence,
        }
        acts += [box, log.answer(box, 2.0, shown), log.act("accept", 3.0, name)]
    acts += [log.act("nothing_here", 4.0, class_id=2)]
    acts += [log.act("submit", 5.0, classes={"1": "complete", "2": "nothing_here"})]
    record_acts(study, mine["id"], PERSON, acts)


def test_doubtful_outlines_of_test_patches_are_asked_about(tmp_path: Path) -> None:
    study = small_study(tmp_path / "study", slides=1, patches_per_slide=2)
    doubtful(study, 1, 0.1, 0.5)
    doubtful(study, 2, 0.1, 0.5)
    assert open_items(study, LEAD) == []
    with study.science.write() as db:
        runs.add_split(db, "patch", 1, {1: "test", 2: "train"})
    found = [item for item in open_items(study, LEAD) if item.kind == "doubt"]
    assert sorted(item.why for item in found) == [
        "the marker is bright in only 10 % of it",
        "the model is unsure of the outline (0.50)",
    ]
    press(study, "doubt", found[0].key, "right")
    press(study, "doubt", found[1].key, "wrong")
    assert [decided(study, item.key).kind for item in found] == ["consensus", "rejected"]
    assert not [item for item in open_items(study, LEAD) if item.kind == "doubt"]


# ----------------------------------------------------------------------------------- gold, records


def test_a_patch_is_given_once_and_can_be_opened(study: Study) -> None:
    with study.science.write() as db:
        for marker in ("WT1", "GATA3"):
            thresholds.add_threshold(db, 1, marker, THRESHOLD, "otsu", LEAD, 2, "Darker than the rest.")
    first = press(study, "gold", "2", "open").open_assignment
    again = press(study, "reference", "2", "open").open_assignment
    assert first == again == give_patch(study, LEAD, "gold", 2)
    with study.science.read() as db:
        row = queue.get_assignment(db, first)
        assert (row["person_id"], row["patch_id"], row["purpose"]) == (LEAD, 2, "gold")
        assert why_closed(db, row) is None


def test_who_is_no_expert_is_given_no_gold(study: Study) -> None:
    with pytest.raises(InputError, match="group of experts"):
        press(study, "gold", "2", "open", person=PERSON)
    assert kept(study) == []


def test_skipping_settles_nothing_and_undo_of_nothing_is_nothing(study: Study) -> None:
    assert undo(study, LEAD, "page:u0", 1.0) is None
    before = names(study)
    press(study, "threshold", "1:WT1", "skip")
    assert names(study) == before and kept(study) == [("threshold", "skip")]


def test_undo_goes_back_one_by_one_and_only_over_ones_own(study: Study) -> None:
    press(study, "threshold", "1:WT1", "sign", value=90.0)
    press(study, "threshold", "1:GATA3", "sign", value=90.0)
    press(study, "registration", "1:2", "reject", person=PERSON)
    keys = [undo(study, LEAD, f"page:u{n}", 1.0) for n in range(3)]
    assert [row and row["key"] for row in keys] == ["1:GATA3", "1:WT1", None]
    assert undo(study, LEAD, "page:u1", 1.0)["key"] == "1:WT1"  # sent again


@pytest.mark.parametrize(
    ("kind", "key", "decision", "seconds"),
    [
        ("spell", "1", "sign", 1.0),
        ("threshold", "1:WT1", "burn", 1.0),
        ("threshold", "x:WT1", "sign", 1.0),
        ("gold", "-2", "open", 1.0),
        ("dispute", "1:nobody", "consensus", 1.0),
        ("threshold", "1:WT1", "sign", -1.0),
        ("threshold", "1:WT1", "sign", float("nan")),
    ],
)
def test_nonsense_is_refused_in_words(
    study: Study, kind: str, key: str, decision: str, seconds: float
) -> None:
    with pytest.raises(InputError):
        settle(study, LEAD, "page:1", kind, key, decision, {"value": 90.0}, seconds)
    assert kept(study) == []


@pytest.mark.parametrize("seconds", [float("nan"), float("inf"), -3.0])
def test_an_undo_of_no_time_takes_nothing_back(rated: Study, seconds: float) -> None:
    first = disputes(rated)[0]
    press(rated, "dispute", first, "consensus")
    with pytest.raises(InputError, match="no time"):
        undo(rated, LEAD, "page:u", seconds)
    assert decided(rated, first).kind == "consensus" and len(kept(rated)) == 1


@pytest.mark.parametrize("detail", [{"reason": float("nan")}, {"note": "x" * 5000}])
def test_what_cannot_be_kept_is_not_carried_out(rated: Study, detail: dict) -> None:
    first = disputes(rated)[0]
    with pytest.raises(InputError, match="The detail has"):
        press(rated, "dispute", first, "consensus", **detail)
    assert decided(rated, first) is None and kept(rated) == []


def test_rows_are_never_changed_and_are_exported(study: Study) -> None:
    press(study, "threshold", "1:WT1", "sign", value=90.0)
    undo(study, LEAD, "page:u", 1.0)
    for statement in ("UPDATE settled SET seconds = 0", "DELETE FROM settled"):
        with pytest.raises(Exception, match="never"), study.science.write() as db:
            db.execute(statement)
    table = export_table(study, "settled")
    assert table[["kind", "decision", "undone", "seconds"]].values.tolist() == [
        ["threshold", "sign", 1, 4.0],
        ["threshold", "undo", 0, 1.0],
    ]
    assert np.isnan(table["undoes"].iloc[0]) and table["undoes"].iloc[1] == 1
