"""Suggestions are made once, are the same for everybody, and what became of them is told."""

import sqlite3
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from allinsam.errors import InputError, ModelError, NotFoundError
from allinsam.masks import decode_rle, encode_rle
from allinsam.planning import PlanSettings
from allinsam.store import Study, assignments, plans, runs, suggestions
from allinsam.store import study as study_rows
from allinsam.store.acts import has_acted, list_acts
from allinsam.workflow import suggesting
from allinsam.workflow.annotating import ActLog, assignment_state
from allinsam.workflow.checking import verify
from allinsam.workflow.desk import Desk
from allinsam.workflow.export_columns import COLUMNS
from allinsam.workflow.exports import export_table
from allinsam.workflow.labels import LabelRecipe, freeze_labels, read_labels
from allinsam.workflow.planning import preview_plan, withdraw_unbegun
from allinsam.workflow.suggesting import predict_ahead, propose, suggestions_table
from allinsam.workflow.work_times import work_times
from tests.studies import MESANGIAL, PERSON, PODOCYTES, NoCache, disc, small_study

OTHER = "p-other"


@pytest.fixture
def study(tmp_path: Path) -> Study:
    return small_study(tmp_path / "study", slides=1, patches_per_slide=2, guidance="suggestion")


def rows(study: Study) -> list[dict]:
    with study.science.read() as db:
        return suggestions.list_suggestions(db)


def planned(study: Study, **settings: object) -> None:
    """Both patches as given out by a plan."""
    with study.science.write() as db:
        plan_id = plans.add_plan(db, PlanSettings(**settings).to_dict(), [PERSON], [], None)
        for row in assignments.list_assignments(db):
            db["assignment"].update(row["id"], {"plan_id": plan_id})


def desk_of(study: Study, assignment_id: int = 1, client: str = "tab") -> Desk:
    clock = iter(range(0, 10**9, 1000))
    log = ActLog(client, "test")
    return Desk(study, assignment_id, PERSON, log, NoCache(), lambda: float(next(clock)))


def test_suggestions_are_proposed_nuclei_before_anybody_looks(study: Study) -> None:
    assert propose(study, 1, NoCache)
    kept = rows(study)
    state = assignment_state(study, 1)
    assert [row["object_id"] for row in kept] == list(state.objects)
    assert len(state.proposed()) == len(kept) >= 7 and not state.undo_stack
    assert [row["planted"] is not None for row in kept].count(True) == 1  # 0.15 of 7
    for row in kept:
        thing = state.objects[row["object_id"]]
        assert thing.suggested and thing.first_box is None and thing.mask.counts == row["mask_counts"]
        mask = decode_rle(thing.mask.as_rle())
        nuclei = PODOCYTES if row["class_id"] == 1 else MESANGIAL
        covered = max((mask & disc(c)).sum() / (mask | disc(c)).sum() for c in nuclei)
        assert (covered > 0.5) == (row["planted"] is None)
    assert {(row["source"], row["backbone"], row["planted_share"], row["seed"]) for row in kept} == {
        ("sam", "compact", 0.15, 1)
    }
    with study.science.read() as db:
        assert {act.kind for act in list_acts(db, 1)} == {"suggest"}
        assert not has_acted(db, PERSON)  # the first steps are still to be shown
    assert verify(study)["problems"] == []


def test_they_are_made_once_and_for_everybody_alike(study: Study) -> None:
    with study.science.write() as db:
        study_rows.add_person(db, OTHER, "student")
        theirs = assignments.add_assignment(db, OTHER, 1, (1, 2), guidance="suggestion")
        repeat = assignments.add_assignment(db, PERSON, 1, (1, 2), "repeat", guidance="suggestion")
    with ThreadPoolExecutor(4) as tabs:
        made = list(tabs.map(lambda _: propose(study, 1, NoCache), range(4)))
    assert made.count(True) == 1 and not propose(study, 1, NoCache)
    for assignment_id in (theirs, repeat):
        propose(study, assignment_id, NoCache)
    told = [
        [(r["class_id"], r["mask_counts"], r["planted"]) for r in rows(study) if r["assignment_id"] == n]
        for n in (1, theirs, repeat)
    ]
    assert told[0] == told[1] == told[2]
    ids = [row["object_id"] for row in rows(study)]
    assert len(set(ids)) == len(ids)


def test_the_plan_says_how_many_are_wrong_and_by_which_seed(study: Study) -> None:
    planned(study, planted=0.4, seed=9)
    propose(study, 1, NoCache)
    assert sum(row["planted"] is not None for row in rows(study)) == 3
    assert {(row["planted_share"], row["seed"]) for row in rows(study)} == {(0.4, 9)}


@pytest.mark.parametrize("guidance", ["threshold", "if", "pas_only"])
def test_other_arms_get_none(tmp_path: Path, guidance: str) -> None:
    study = small_study(tmp_path / guidance, slides=1, guidance=guidance)
    assert not propose(study, 1, NoCache) and rows(study) == []


def test_what_was_begun_or_imported_gets_none(study: Study) -> None:
    mask = encode_rle(disc(PODOCYTES[0]))
    desk_of(study).do("mask_edit", "a", class_id=1, mask=mask, origin="imported")
    assert not propose(study, 1, NoCache) and rows(study) == []


def test_without_a_model_nothing_is_kept_and_the_patch_stays_unbegun(study: Study) -> None:
    def broken() -> NoCache:
        raise ModelError("The weights are gone.")

    with pytest.raises(ModelError, match="gone"):
        propose(study, 1, broken)
    with study.science.read() as db:
        assert not suggestions.has_suggestions(db, 1) and list_acts(db, 1) == []


def test_a_patch_where_nothing_is_bright_is_proposed_nothing_once(study: Study) -> None:
    with study.science.write() as db:
        dark = db["threshold"].rows
        for row in [dict(row) for row in dark]:
            row |= {"id": None, "version": 2, "value": 255.0}
            db["threshold"].insert({k: v for k, v in row.items() if k != "id"})
    planned(study)
    assert propose(study, 1, NoCache) and not propose(study, 1, NoCache)
    assert rows(study) == []
    # It was opened: it is not dealt again.
    assert withdraw_unbegun(study) == 1


@pytest.mark.parametrize("table", ["suggestion", "suggestion_set"])
@pytest.mark.parametrize("statement", ["UPDATE {} SET assignment_id = 2", "DELETE FROM {}"])
def test_suggestions_are_append_only(study: Study, table: str, statement: str) -> None:
    propose(study, 1, NoCache)
    with pytest.raises(sqlite3.IntegrityError, match="never"), study.science.write() as db:
        db.execute(statement.format(table))


def test_every_fate_is_told(study: Study) -> None:
    planned(study, planted=0.0)
    propose(study, 1, NoCache)
    desk = desk_of(study)
    desk.do("load")
    kept, together, recoloured, edited, dropped, deleted, left = list(desk.state.objects)
    desk.accept([kept])
    desk.change_class(recoloured, 3 - desk.state.objects[recoloured].class_id)
    desk.accept([together, recoloured])
    desk.set_outline(disc((300, 430), 9), "lasso", edited)
    desk.accept([edited])
    desk.reject(kept)
    desk.undo()  # it was right after all
    desk.reject(dropped)
    desk.delete([deleted])
    table = suggestions_table(study).set_index("object_id")
    told = {
        key: table.loc[key, "fate"] for key in (kept, together, recoloured, edited, dropped, deleted, left)
    }
    fates = ["kept", "kept", "class_changed", "edited", "dropped", "deleted", "open"]
    assert list(told.values()) == fates
    assert table.loc[kept, "kept_together"] == 1 and table.loc[together, "kept_together"] == 2
    assert table.loc[kept, "decided_s"] == 1.0 and table.loc[together, "decided_s"] == 3.0
    assert np.isnan(table.loc[left, "decided_s"])
    assert table.loc[recoloured, "class"] != table.loc[recoloured, "class_now"]
    assert set(table["person_id"]) == {PERSON} and set(table["state"]) == {"open"}
    assert verify(study)["problems"] == []
    # Nobody worked before the patch was opened.
    by_patch, by_object = work_times(study)
    assert len(by_patch) == 1 and set(by_object["object_id"]) == set(table.index) - {left}


def test_undo_brings_a_suggestion_back_as_it_was(study: Study) -> None:
    propose(study, 1, NoCache)
    desk = desk_of(study)
    before = dict(desk.state.objects)
    first = next(iter(before))
    steps = [
        lambda: desk.accept([first]),
        lambda: desk.reject(first),
        lambda: desk.delete([first]),
        lambda: desk.set_outline(disc((50, 50)), "lasso", first),
        lambda: desk.move_box(first, [10.0, 10.0, 40.0, 40.0]),
        lambda: desk.change_class(first, 3 - before[first].class_id),
    ]
    for step in steps:
        step()
        assert desk.state.objects[first] != before[first]
        desk.undo()
        assert desk.state.objects == before
    with pytest.raises(InputError, match="not finished"):
        desk.submit()


def hand_in_all_kept(study: Study) -> None:
    propose(study, 1, NoCache)
    desk = desk_of(study)
    desk.do("load")
    desk.accept(list(desk.state.objects))
    desk.submit()


def test_a_planted_one_that_was_kept_never_becomes_a_label(study: Study) -> None:
    planned(study, planted=0.4)
    hand_in_all_kept(study)
    with pytest.raises(InputError, match="No finished patch"):
        freeze_labels(study, LabelRecipe(people=(PERSON,)))  # by default no suggestions at all
    asked = LabelRecipe(people=(PERSON,), guidances=("suggestion",))
    labels = read_labels(study, freeze_labels(study, asked))[1]
    real = [row for row in rows(study) if row["planted"] is None]
    assert sum(int(image.max()) for image in labels.values()) == len(real)
    assert sum(row["planted"] is not None for row in rows(study)) == 3
    objects = export_table(study, "objects")
    assert objects["suggested"].all() and objects["planted"].notna().sum() == 3
    for name in ("suggestions", "automation_bias"):
        assert list(export_table(study, name).columns) == list(COLUMNS[name]) and len(
            export_table(study, name)
        )
    (every, *_) = export_table(study, "automation_bias").to_dict("records")
    assert (every["planted"], every["planted_kept"], every["planted_kept_share"]) == (3, 3, 1.0)
    assert every["real"] == every["real_kept"] == len(real)
    # All were kept with one gesture: nobody knows how long each was looked at.
    assert every["planted_kept_timed"] == every["real_kept_timed"] == 0


def test_a_planted_one_that_was_mended_is_a_label(study: Study) -> None:
    planned(study, planted=0.4)
    propose(study, 1, NoCache)
    desk = desk_of(study)
    wrong = next(row["object_id"] for row in rows(study) if row["planted"])
    desk.set_outline(disc((60, 60)), "lasso", wrong)
    desk.accept(list(desk.state.objects))
    desk.submit()
    asked = LabelRecipe(people=(PERSON,), guidances=("suggestion",))
    labels = read_labels(study, freeze_labels(study, asked))[1]
    assert sum(int(image.max()) for image in labels.values()) == len(rows(study)) - 2
    assert any(image[60, 60] for image in labels.values())


def add_run(study: Study, state: str = "finished") -> int:
    with study.science.write() as db:
        about = {"name": "students", "kind": "adapter", "settings": {}, "settings_version": 1}
        run_id = runs.add_run(db, **about, backbone="compact", backbone_sha256="0" * 64)
        runs.update_run(db, run_id, state=state, weights_sha256="a" * 64)
    return run_id


class FoundByRun:
    """What a run predicts: the podocytes, on the stain alone."""

    labels = np.zeros((512, 512), np.int32)
    scores = np.full(len(PODOCYTES), 0.8, np.float32)


for number, centre in enumerate(PODOCYTES, 1):
    FoundByRun.labels[disc(centre)] = number


def test_a_run_s_prediction_is_proposed_where_the_plan_names_one(
    study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = add_run(study)
    planned(study, suggestions_from=run_id, planted=0.0)
    monkeypatch.setattr(suggesting, "_run_model", lambda folder, run: run)
    monkeypatch.setattr(suggesting, "predict_patch", lambda model, image, um: {"podocyte": FoundByRun})
    propose(study, 1, lambda: pytest.fail("SAM is not asked"))
    kept = rows(study)
    assert len(kept) == len(PODOCYTES) and {row["class_name"] for row in kept} == {"podocyte"}
    assert {(r["source"], r["run_id"], r["weights_sha256"]) for r in kept} == {("run", run_id, "a" * 64)}
    assert {t.predicted_iou for t in assignment_state(study, 1).objects.values()} == {0.8}


def test_a_run_looks_at_the_next_patch_ahead_and_only_once(
    study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    planned(study, suggestions_from=add_run(study), planted=0.0)
    looked: list[int] = []
    monkeypatch.setattr(suggesting, "_run_model", lambda folder, run: run)
    monkeypatch.setattr(
        suggesting, "predict_patch", lambda *args: looked.append(1) or {"podocyte": FoundByRun}
    )
    predict_ahead(study, 2)
    assert looked == [1] and rows(study) == []
    with study.science.read() as db:
        assert assignments.get_assignment(db, 2)["state"] == "waiting" and list_acts(db, 2) == []
    propose(study, 2, lambda: pytest.fail("SAM is not asked"))
    assert looked == [1] and len(rows(study)) == len(PODOCYTES)
    predict_ahead(study, 2)  # it has them
    assert looked == [1]


def test_a_plan_with_suggestions_from_nowhere_is_refused(study: Study) -> None:
    arms = ("suggestion/box_sam",)
    with pytest.raises(NotFoundError, match="No run 7"):
        preview_plan(study, PlanSettings(arms=arms, suggestions_from=7))
    failed = add_run(study, "failed")
    with pytest.raises(InputError, match="cannot make suggestions"):
        preview_plan(study, PlanSettings(arms=arms, suggestions_from=failed))
    preview_plan(study, PlanSettings(suggestions_from=failed))  # nobody is shown any
