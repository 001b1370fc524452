"""How fast people work, on a study in which every figure can be worked out by hand."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from allinsam.masks import encode_rle
from allinsam.records import Act
from allinsam.store import Study
from allinsam.store import acts as act_store
from allinsam.store import assignments as queue
from allinsam.store import study as study_rows
from allinsam.workflow import paces
from allinsam.workflow.annotating import ActLog, record_acts
from allinsam.workflow.export_columns import COLUMNS
from allinsam.workflow.work_times import study_work, times_at, work_times
from tests.finished import EXPERT, MESANGIAL_ID, PODOCYTE, finish, finished_study
from tests.studies import MESANGIAL, PERSON, PODOCYTES, box_of, disc, small_study


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """Shared and only read."""
    return finished_study(tmp_path_factory.mktemp("finished") / "study", scored=False)


def draw(
    study: Study, person_id: str, patch_id: int, gaps_s: list[float], guidance: str = "threshold"
) -> int:
    """A finished patch with a podocyte after each of these gaps, and the submit at once."""
    with study.science.write() as db:
        if person_id not in {person["id"] for person in study_rows.list_people(db)}:
            study_rows.add_person(db, person_id, "student")
        assignment_id = queue.add_assignment(db, person_id, patch_id, [PODOCYTE], guidance=guidance)
    log, now_ms = ActLog(f"{person_id}-{patch_id}", "test"), 0.0
    acts = [log.act("load", now_ms)]
    for number, gap_s in enumerate(gaps_s):
        now_ms += 1000 * gap_s
        object_id, mask = f"{person_id}-{patch_id}-{number}", encode_rle(disc(PODOCYTES[number]))
        acts.append(log.act("mask_edit", now_ms, object_id, class_id=PODOCYTE, mask=mask, tool="polygon"))
        acts.append(log.act("accept", now_ms, object_id))
    acts.append(log.act("submit", now_ms, classes={str(PODOCYTE): "complete"}))
    record_acts(study, assignment_id, person_id, acts)
    return assignment_id


def test_patches_in_the_order_in_which_each_person_opened_them(study: Study) -> None:
    table = paces.patches_at(study_work(study), 60.0)
    assert set(table["person_id"]) == {EXPERT, "s1", "s2"}
    mine = table[table["person_id"] == "s1"]
    assert mine["order"].tolist() == [1, 2, 3, 4, 5, 6, 7, 8]
    assert mine["patch"].tolist()[:3] == ["slide-1-p1", "slide-1-p2", "slide-2-p1"]
    assert set(mine["arm"]) == {"threshold/box_sam"}
    # 6 nuclei, 5 s each, and a second until the submit.
    assert mine["min_per_patch"].tolist() == pytest.approx([31 / 60] * 8)
    assert (set(mine["nuclei"]), set(mine["kept"]), set(mine["median_s"])) == ({6}, {6}, {5.0})


@pytest.mark.parametrize(("cutoff_s", "ratio"), [(60.0, 31 / 36), (2.0, 13 / 15)])
def test_students_against_experts(study: Study, cutoff_s: float, ratio: float) -> None:
    args = ("group", "student", "expert")
    found = paces.ratios_at(study_work(study), [cutoff_s], *args, "min_per_patch")[cutoff_s]
    assert found.ratio == pytest.approx(ratio) and np.isnan([found.low, found.high]).all()  # four slides
    assert (found.patches_a, found.paired, found.clusters) == (8, True, 4)
    per_nucleus = paces.ratios_at(study_work(study), [cutoff_s], *args, "s_per_nucleus")[cutoff_s]
    assert per_nucleus.ratio == pytest.approx(1.0)


def test_the_answer_may_turn_with_the_cut_off(tmp_path: Path) -> None:
    study = small_study(tmp_path / "study", slides=3)
    for patch_id in (1, 2, 3):
        draw(study, "steady", patch_id, [20.0, 20.0, 20.0])
        draw(study, "dreamer", patch_id, [5.0, 5.0, 110.0])
    found = paces.ratios_at(
        study_work(study), [15.0, 60.0, 120.0], "person_id", "dreamer", "steady", "s_per_nucleus"
    )
    # 5 + 5 + 15 of 45, 5 + 5 + 60 of 60, 5 + 5 + 110 of 60.
    assert [one.ratio for one in found.values()] == pytest.approx([25 / 45, 70 / 60, 120 / 60])
    medians = paces.medians_at(study_work(study), [15.0, 120.0], "person_id", "min_per_patch")
    assert medians.set_index(["person_id", "cutoff_s"])["median"].to_dict() == pytest.approx(
        {("dreamer", 15.0): 25 / 60, ("dreamer", 120.0): 2, ("steady", 15.0): 0.75, ("steady", 120.0): 1}
    )
    # Nine nuclei each are too few for a median over nuclei.
    assert paces.medians_at(study_work(study), [15.0], "person_id", "s_per_nucleus").empty


def test_arms_are_told_apart(tmp_path: Path) -> None:
    study = small_study(tmp_path / "study", slides=3, patches_per_slide=2)
    for patch_id in range(1, 7):
        draw(study, "s1", patch_id, [4.0] if patch_id % 2 else [8.0], "if" if patch_id % 2 else "threshold")
    found = paces.ratios_at(
        study_work(study), [60.0], "arm", "threshold/box_sam", "if/box_sam", "s_per_nucleus"
    )[60.0]
    assert found.ratio == pytest.approx(2.0) and np.isnan([found.low, found.high]).all()  # four slides
    assert not found.paired and (found.patches_a, found.patches_b) == (3, 3)


def test_learning_curve_as_exported(study: Study) -> None:
    table = paces.learning_curve_table(study)
    assert list(table.columns) == list(COLUMNS["learning_curve"]) and len(table) == 24
    last = table[table["person_id"] == EXPERT].iloc[-1]
    named = last[["order", "patch", "guidance", "tool", "nuclei", "median_s_per_nucleus", "idle_cutoff_s"]]
    assert named.tolist() == [8, "slide-4-p2", "threshold", "box_sam", 7, 5.0, 60.0]


def test_learning_and_open_patches_are_no_work(tmp_path: Path) -> None:
    study = small_study(tmp_path / "study")
    finish(study, "s1", "student", 1, {PODOCYTE: PODOCYTES, MESANGIAL_ID: MESANGIAL}, "practice")
    log = ActLog("open", "test")
    record_acts(study, 1, PERSON, [log.act("load", 0.0), log.act("focus", 5000.0)])
    work = study_work(study)
    assert len(work.assignments) == 2
    assert paces.finished_work(work).empty and next(paces.nuclei_at(work, [60.0])).empty
    assert paces.patches_at(work, 60.0).empty and paces.fates(study, work).empty
    assert paces.learning_curve_table(study).empty


# ---------------------------------------------------------------- what became of the nuclei


def sam_acts(log: ActLog, object_id: str, centre: tuple[int, int]) -> list[Act]:
    """A box and SAM's answer to it."""
    box = log.act("box", 0.0, object_id, class_id=PODOCYTE, box=box_of(centre))
    return [box, answer(log, box, centre)]


def answer(log: ActLog, asked: Act, centre: tuple[int, int]) -> Act:
    made = {"backbone": "compact", "weights_sha256": "0" * 64, "predicted_iou": 0.9, "model_ms": 100.0}
    return log.answer(asked, 0.0, {"mask": encode_rle(disc(centre)), **made})


def test_what_became_of_each_nucleus(tmp_path: Path) -> None:
    study = small_study(tmp_path / "study", slides=1)
    log, (a, b, c, d) = ActLog("tab", "test"), PODOCYTES
    acts = [log.act("load", 0.0)]
    for name, centre in {
        "as shown": a,
        "moved": b,
        "pointed": c,
        "edited": d,
        "rejected": a,
        "gone": b,
    }.items():
        acts += sam_acts(log, name, centre)
    moved = log.act("move", 0.0, "moved", box=box_of(b, 2.0))
    pointed = log.act("prompt", 0.0, "pointed", points=[[c[0], c[1], 1]])
    acts += [moved, answer(log, moved, b), pointed, answer(log, pointed, c)]
    acts.append(log.act("mask_edit", 0.0, "edited", mask=encode_rle(disc(d, 9)), tool="brush"))
    drawn = {"class_id": PODOCYTE, "mask": encode_rle(disc((60, 60))), "tool": "polygon"}
    acts.append(log.act("mask_edit", 0.0, "drawn", **drawn))
    kept = ("as shown", "moved", "pointed", "edited", "drawn", "gone")
    acts += [log.act("accept", 0.0, name) for name in kept]
    acts += [log.act("reject", 0.0, "rejected"), log.act("delete", 0.0, "gone")]
    taken_back = sam_acts(log, "taken back", (300, 300))
    acts += [*taken_back, log.act("undo", 0.0, act=[taken_back[0].client, taken_back[0].seq])]
    acts.append(log.act("submit", 0.0, classes={"1": "complete", "2": "nothing_here"}))
    record_acts(study, 1, PERSON, acts)
    nuclei = paces.fates(study, study_work(study))
    assert nuclei.set_index("object_id")["fate"].to_dict() == {
        "as shown": "kept",
        "moved": "asked_again",
        "pointed": "asked_again",
        "edited": "edited",
        "drawn": "drawn",
        "rejected": "deleted",
        "gone": "deleted",
        "taken back": "deleted",
    }
    [row] = paces.fate_shares(nuclei, "person_id").to_dict("records")
    assert row == {
        "person_id": PERSON,
        "arm": "threshold/box_sam",
        "kept": 1,
        "asked_again": 2,
        "edited": 1,
        "drawn": 1,
        "deleted": 3,
        "nuclei": 8,
        "patches": 1,
    }
    assert paces.fate_shares(nuclei, "arm")["nuclei"].tolist() == [8]


# ---------------------------------------------------------------- what is remembered


def test_new_acts_are_seen(tmp_path: Path) -> None:
    study = small_study(tmp_path / "study", slides=1)
    log = ActLog("tab", "test")
    record_acts(study, 1, PERSON, [log.act("load", 0.0), log.act("focus", 5000.0)])
    assert work_times(study)[0]["active_s"].tolist() == [5.0]
    record_acts(study, 1, PERSON, [log.act("focus", 9000.0)])
    assert work_times(study)[0]["active_s"].tolist() == [9.0]


def test_studies_are_not_mixed_up(tmp_path: Path) -> None:
    for name, seconds in (("one", 5.0), ("other", 7.0)):
        study = small_study(tmp_path / name, slides=1)
        draw(study, "s1", 1, [seconds])
        assert work_times(study)[0]["active_s"].tolist() == [seconds]


def test_time_up_to_a_moment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = small_study(tmp_path / "study", slides=1)
    seconds = iter(range(10))
    monkeypatch.setattr(act_store, "utc_now", lambda: f"2026-01-01T00:00:0{next(seconds)}.000Z")
    draw(study, "s1", 1, [5.0, 7.0])  # load, edit, accept, edit, accept, submit
    [one] = study_work(study).worked.values()
    assert one.began_at == "2026-01-01T00:00:00.000Z"
    until = {second: one.active_s(60.0, f"2026-01-01T00:00:0{second}.500Z") for second in (0, 1, 2, 3, 5)}
    assert until == {0: 0.0, 1: 5.0, 2: 5.0, 3: 12.0, 5: 12.0}


def test_both_tables_at_any_cut_off(study: Study) -> None:
    work = study_work(study, "s1")
    by_patch, by_object = times_at(work, 2.0)
    assert by_patch["active_s"].tolist() == [13.0] * 8 and by_object["seconds"].tolist() == [2.0] * 48
    again = work_times(study, "s1", 2.0)
    pd.testing.assert_frame_equal(by_patch, again[0])
    pd.testing.assert_frame_equal(by_object, again[1])
