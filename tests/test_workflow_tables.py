import io
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from allinsam.errors import InputError, NotFoundError
from allinsam.masks import encode_rle
from allinsam.records import Act
from allinsam.store import Study, runs
from allinsam.store import assignments as queue
from allinsam.store import study as study_rows
from allinsam.workflow import exports, rated, scored, work_times
from allinsam.workflow.annotating import ActLog, record_acts
from allinsam.workflow.export_columns import COLUMNS, TITLES
from allinsam.workflow.labels import LabelRecipe, freeze_labels
from allinsam.workflow.learning import score_labels
from allinsam.workflow.planning import measured_paces
from tests.finished import (
    EXPERT,
    MESANGIAL_ID,
    PODOCYTE,
    add_learning,
    add_scored_run,
    finish,
    finished_study,
)
from tests.studies import LEAD, MESANGIAL, PERSON, PODOCYTES, SIZE_PX, disc


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """Shared and only read."""
    study = finished_study(tmp_path_factory.mktemp("finished") / "study")
    add_learning(study)
    return study


@pytest.fixture
def own_study(tmp_path) -> Study:
    return finished_study(tmp_path / "study")


# ---------------------------------------------------------------- agreement and time


def test_ratings_hold_finished_work_of_people_and_not_the_truth(study: Study) -> None:
    people = rated.ratings(study)
    assert len(people) == 8
    assert {who for by_person in people.values() for who in by_person} == {EXPERT, "s1", "s2"}
    assert people["slide-1-p1"]["s1"]["podocyte"].max() == 3


def test_work_that_began_from_suggestions_is_in_no_figure_of_agreement(own_study: Study) -> None:
    study = own_study
    with study.science.write() as db:
        for row in queue.list_assignments(db):
            if row["purpose"] == "production" and (row["patch_id"] == 1 or row["person_id"] == "s2"):
                db["assignment"].update(row["id"], {"guidance": "suggestion"})
    people = rated.ratings(study)
    assert len(people) == 7 and {who for by in people.values() for who in by} == {EXPERT, "s1"}
    for name in ("agreement", "classes"):
        table = exports.export_table(study, name)
        assert set(table["rater_a"]) | set(table["rater_b"]) == {EXPERT, "s1"}
    consensus = exports.export_table(study, "consensus")
    assert len(consensus) and "s2" not in " ".join(consensus["people"])
    assert set(exports.export_table(study, "reliability")["person_id"]) == {EXPERT, "s1"}
    assert "s2" in set(exports.export_table(study, "times")["person_id"])


def test_agreement_by_kind_of_pair(study: Study) -> None:
    table = rated.agreement_by_groups(study, rated.agreement_tables(study)["pairwise"])
    podocytes = table[table["class"] == "podocyte"].set_index("pair")
    # s1 finds 3 of the 4 that everybody else finds: F1 6/7 with s1, 1 between expert and s2.
    assert podocytes.loc["student + student", "f1"] == pytest.approx(6 / 7)
    assert podocytes.loc["expert + student", "f1"] == pytest.approx((6 / 7 + 1) / 2)
    assert podocytes.loc["expert + student", "n"] == 16
    assert podocytes.loc["student + student", "n_clusters"] == 4
    assert podocytes.loc["student + student", "matched_dice"] == 1.0


def test_times_per_patch_and_object(study: Study) -> None:
    by_patch, by_object = work_times.work_times(study)
    assert set(by_patch["person_id"]) == {EXPERT, "s1", "s2"}
    mine = by_patch[(by_patch["person_id"] == "s1") & (by_patch["patch"] == "slide-1-p1")].iloc[0]
    # 3 podocytes and 3 mesangial cells, 5 s each, and a second until the submit.
    assert (mine["objects"], mine["active_s"], mine["idle_cutoff_s"]) == (6, 31.0, 60.0)
    assert by_object["seconds"].unique().tolist() == [5.0]
    assert len(by_object) == 8 * (7 + 6 + 6)
    people = work_times.times_by_person(study).set_index("person_id")
    assert people.loc["s1", ["patches", "objects", "median_s_per_object"]].tolist() == [8, 48, 5.0]
    assert people.loc[EXPERT, "median_min_per_patch"] == pytest.approx(36 / 60)


def test_times_of_one_person_with_another_cut_off(study: Study) -> None:
    by_patch, _ = work_times.work_times(study, EXPERT, idle_cutoff_s=2.0)
    assert by_patch["person_id"].unique().tolist() == [EXPERT]
    assert by_patch["active_s"].unique().tolist() == [7 * 2.0 + 1.0]
    assert work_times.work_times(study, PERSON)[0].empty


@pytest.mark.parametrize("purpose", ["practice", "qualification"])
def test_time_to_learn_is_in_the_table_and_in_no_figure_of_speed(own_study: Study, purpose: str) -> None:
    study = own_study
    before, pace = work_times.times_by_person(study), measured_paces(study)
    # Far slower than the work, on a patch this person has as work too.
    with study.science.write() as db:
        slow = queue.add_assignment(db, "s1", 1, (PODOCYTE, MESANGIAL_ID), purpose)
    log, outline = ActLog("slow", "test"), encode_rle(disc(PODOCYTES[0]))
    acts = [log.act("load", 0.0)]
    acts += [log.act("focus", 50_000.0 * n) for n in range(20)]
    drawn = {"class_id": PODOCYTE, "mask": outline, "tool": "polygon"}
    acts += [log.act("mask_edit", 1e6, "slow-1", **drawn), log.act("accept", 1e6, "slow-1")]
    states = {str(PODOCYTE): "complete", str(MESANGIAL_ID): "nothing_here"}
    record_acts(study, slow, "s1", [*acts, log.act("submit", 1e6, classes=states)])
    by_patch, by_object = work_times.work_times(study)
    learning = by_patch[by_patch["purpose"] == purpose]
    assert len(learning) == 1 and learning["active_s"].iloc[0] > 900
    assert (by_object["purpose"] == purpose).sum() == 1
    pd.testing.assert_frame_equal(work_times.times_by_person(study), before)
    assert measured_paces(study) == pace
    assert purpose in set(exports.export_table(study, "times")["purpose"])


# ---------------------------------------------------------------- scores


def test_scores_name_labels_reference_and_kind(study: Study) -> None:
    scores = scored.scores_table(study)
    assert list(scores.columns) == scored.SCORE_COLUMNS
    assert set(scores["label"]) == {"expert", "students", "untrained"}
    assert scores["reference"].unique().tolist() == ["truth"]
    mine = scores[(scores["label"] == "students") & (scores["metric"] == "f1_instance")]
    values = mine.groupby("class_name")["value"].unique()
    assert values["podocyte"] == pytest.approx([4 / 6])  # 2 of 4 found
    assert values["mesangial"] == pytest.approx([4 / 5])  # 2 of 3


def test_of_two_references_the_newest_counts(own_study: Study) -> None:
    before = scored.scores_table(own_study)
    finish(own_study, "e2", "expert", 1, {PODOCYTE: PODOCYTES[:1], MESANGIAL_ID: ()})
    newer = freeze_labels(own_study, LabelRecipe(people=("e2",)))
    run_id = int(before.loc[before["label"] == "students", "run_id"].iloc[0])
    row = {"run_id": run_id, "reference_id": newer, "patch_id": 1, "class_id": PODOCYTE}
    with own_study.science.write() as db:
        runs.put_scores(db, [{**row, "split_id": None, "metric": "f1_instance", "value": 0.25, "n": 1}])
    scores = scored.newest_reference(scored.scores_table(own_study))
    assert scores.loc[scores["run_id"] == run_id, "value"].tolist() == [0.25]
    assert (scores["label"] == "expert").sum() == (before["label"] == "expert").sum()
    # The expert's run was not scored against e2: both are compared on the reference they share.
    table = scored.compare(own_study, "students", "expert", "f1_instance")
    assert table["n"].max() == 8


def test_models_are_listed_newest_first_and_older_ones_by_number(own_study: Study) -> None:
    add_scored_run(own_study, LabelRecipe(group="expert"), {PODOCYTE: PODOCYTES, MESANGIAL_ID: MESANGIAL}, 7)
    titles = [row["title"] for row in scored.scored_models(scored.scores_table(own_study))]
    assert titles == ["expert", "untrained", "students", "expert (run 1)"]


def test_means_carry_their_n(study: Study) -> None:
    means = scored.mean_scores(study)
    row = means[(means["label"] == "students") & (means["metric"] == "f1_instance")].set_index("class_name")
    assert row.loc["podocyte", ["patches", "slides", "nuclei"]].tolist() == [8, 4, 32]
    assert row.loc["podocyte", "mean"] == pytest.approx(4 / 6)
    # Four slides are too few for an interval: each is told instead.
    assert row["low"].isna().all() and row["high"].isna().all()
    assert row.loc["podocyte", "by_slide"] == pytest.approx([4 / 6] * 4)


def test_means_over_enough_slides_have_an_interval_cut_at_what_a_score_can_be() -> None:
    rows = [
        {"label": "expert", "patch": f"p{n}", "slide": f"s{n // 2}", "value": value, "n": 5}
        for n, value in enumerate([0.2, 0.4, 0.9, 1.0, 1.0, 1.0, 0.9, 1.0, 1.0, 1.0, 0.8, 1.0])
    ]
    (row,) = scored.means(pd.DataFrame(rows), ["label"]).to_dict("records")
    assert (row["slides"], row["by_slide"]) == (6, [])
    assert 0.4 < row["low"] < row["mean"] == pytest.approx(10.2 / 12) and row["high"] == 1.0


def test_paired_comparison_over_patches(study: Study) -> None:
    table = scored.compare(study, "students", "expert", "f1_instance").set_index(["class_name", "condition"])
    row = table.loc["podocyte", "all"]
    assert (row["n"], row["n_differing"]) == (8, 8)
    assert row["mean_difference"] == pytest.approx(4 / 6 - 1)
    assert row["p_value"] == pytest.approx(2 / 2**8)
    assert row["rank_biserial"] == -1.0
    # Four slides: no interval, and whether one is as good as the other is not known, whatever p says.
    assert (row["slides"], row["note"]) == (4, "too few slides")
    assert np.isnan([row["low"], row["high"]]).all() and row["by_slide"] == pytest.approx([4 / 6 - 1] * 4)
    assert row["equivalent"] is None and row["p_equivalence"] == 1.0
    # Four patches of each condition cannot tell; Holm corrects for the two tests that were made.
    assert table.loc["podocyte", "injured"]["method"] == "too few pairs"
    assert np.isnan(table.loc["podocyte", "injured"]["p_holm"])
    assert row["p_holm"] == pytest.approx(4 / 2**8)


@pytest.fixture
def six_slides(own_study: Study) -> Study:
    """The same scores, each patch of the first two slides on a slide of its own."""
    with own_study.science.write() as db:
        for patch_id, name in ((2, "slide-5"), (4, "slide-6")):
            slide_id = db["slide"].insert({"name": name, "condition": "normal"}).last_pk
            db["patch"].update(patch_id, {"slide_id": slide_id})
    return own_study


def test_a_model_is_as_good_as_itself(six_slides: Study) -> None:
    add_scored_run(six_slides, LabelRecipe(group="expert"), {PODOCYTE: PODOCYTES, MESANGIAL_ID: MESANGIAL}, 7)
    table = scored.compare(six_slides, "4", "1", "dice")
    of_all = table[table["condition"] == "all"]
    assert of_all["equivalent"].tolist() == [True, True] and of_all["note"].tolist() == ["", ""]
    assert of_all["slides"].tolist() == [6, 6] and of_all["by_slide"].tolist() == [[], []]
    assert of_all[["low", "high"]].to_numpy().tolist() == [[0.0, 0.0]] * 2
    assert table["p_value"].isna().all()
    # Of each condition there are fewer slides and fewer patches: not known.
    assert table.loc[table["condition"] != "all", "equivalent"].tolist() == [None] * 4


def test_as_good_is_corrected_over_all_rows_shown(six_slides: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    real = scored.equivalence_test

    def barely(*given: object) -> object:
        return replace(real(*given), p_value=0.03)

    monkeypatch.setattr(scored, "equivalence_test", barely)
    table = scored.compare(six_slides, "students", "expert")
    assert len(table) == 6 and table["p_equivalence_holm"].tolist() == pytest.approx([0.18] * 6)
    assert table.loc[table["condition"] == "all", "equivalent"].tolist() == [False, False]


def test_comparing_what_is_not_there_names_what_is(study: Study) -> None:
    with pytest.raises(InputError, match=r"\['expert', 'students', 'untrained'\]"):
        scored.compare(study, "nobody", "expert")
    with pytest.raises(InputError, match="No scores for '99'"):
        scored.compare(study, "99", "expert")


def test_the_papers_table_weighs_by_patches(own_study: Study) -> None:
    """Take two injured patches away: the average leans to the normal ones."""
    scores = scored.newest_scores(scored.scores_table(own_study))
    scores = scores[~scores["patch"].isin(["slide-4-p1", "slide-4-p2"])].copy()
    injured = (scores["condition"] == "injured") & (scores["label"] == "expert")
    scores.loc[injured, "value"] = 0.5
    table = scored.paper_table(scores, "dice")
    assert [c for name, c in table.columns if name == "podocyte"] == ["injured", "normal", "average"]
    assert table.loc["patches", "podocyte"].tolist() == [2, 4, 6]
    assert table.loc["expert", "podocyte"].tolist() == pytest.approx([0.5, 1.0, (2 * 0.5 + 4 * 1.0) / 6])


def test_worst_patches_and_what_was_found_there(own_study: Study) -> None:
    scores = scored.scores_table(own_study)
    chosen = (
        (scores["run_id"] == 2) & (scores["patch"] == "slide-3-p1") & (scores["class_name"] == "podocyte")
    )
    scores.loc[chosen, "value"] = 0.1
    worst = scored.worst_patches(scores, 2, "podocyte", "f1_instance", 2)
    assert [row["patch"] for row in worst][0] == "slide-3-p1" and len(worst) == 2
    shown = scored.scored_patch(own_study, 2, worst[0]["patch_id"], "podocyte")
    assert shown.image_rgb.shape == (SIZE_PX, SIZE_PX, 3)
    assert (shown.found.max(), shown.reference.max()) == (2, 4)
    with pytest.raises(NotFoundError, match="no score"):
        scored.scored_patch(own_study, 2, 999, "podocyte")


def test_peoples_labels_are_scored_apart(own_study: Study) -> None:
    truth_id = freeze_labels(own_study, LabelRecipe(group="truth", purposes=("gold",)))
    score_labels(own_study, freeze_labels(own_study, LabelRecipe(people=("s1",))), truth_id)
    scores = scored.scores_table(own_study)
    people = scored.newest_scores(scores, "people")
    assert people["label"].unique().tolist() == ["s1"]
    mine = people[(people["metric"] == "f1_instance") & (people["class_name"] == "podocyte")]
    assert mine["value"].unique() == pytest.approx([6 / 7])
    assert "s1" not in {row["label"] for row in scored.scored_models(scores)}


# ---------------------------------------------------------------- exports


def test_consensus_of_everyone_and_of_each_group(study: Study) -> None:
    table = exports.export_table(study, "consensus")
    assert table["raters"].unique().tolist() == ["everyone", "student"]  # one expert is no group
    counts = table.groupby(["raters", "class"]).size()
    # s1 misses a podocyte of each patch and s2 a mesangial cell: two of three have it, one of two has not.
    assert counts["everyone"].to_dict() == {"podocyte": 8 * 4, "mesangial": 8 * 3}
    assert counts["student"].to_dict() == {"podocyte": 8 * 3, "mesangial": 8 * 2}
    missed = table[(table["raters"] == "everyone") & (table["votes"] == 2)]
    assert set(missed["people"]) == {"e1 s1", "e1 s2"} and set(missed["looked"]) == {3}
    where = missed[(missed["patch"] == "slide-1-p1") & (missed["class"] == "podocyte")].iloc[0]
    assert (where["x_px"], where["y_px"]) == pytest.approx(PODOCYTES[-1], abs=0.01)
    assert where["area_px"] == disc(PODOCYTES[-1]).sum()


def test_reliability_of_each_person(study: Study) -> None:
    table = exports.export_table(study, "reliability").set_index(["raters", "person_id", "class"])
    s1 = table.loc["everyone", "s1", "podocyte"]
    assert (s1["n_patches"], s1["n_objects"], s1["n_others"]) == (8, 24, 32)
    assert (s1["found_share"], s1["alone_share"], s1["f1_without"]) == (0.75, 0.0, 1.0)
    assert s1["f1"] == pytest.approx(2 * (24 + 24 + 32) / (56 + 56 + 64))
    assert (s1["n_outlines"], s1["staple_sensitivity"]) == (24, 1.0)
    assert s1["class_accuracy"] > 0.95 and s1["detected_accuracy"] == pytest.approx(0.75, abs=0.05)
    expert = table.loc["everyone", EXPERT, "podocyte"]
    # Of two students both must have marked a nucleus: then the expert has, too.
    assert (expert["n_others"], expert["found_share"]) == (24, 1.0)
    assert expert["detected_accuracy"] > 0.95


@pytest.mark.parametrize("name", exports.EXPORTS)
def test_every_column_of_every_export_is_explained(study: Study, empty_study: Study, name: str) -> None:
    full = exports.export_table(study, name)
    # Nobody was shown suggestions or drew a box here; test_workflow_suggesting.py and test_workflow_caused.py
    # have tables with rows.
    assert bool(len(full)) == (
        name not in ("suggestions", "automation_bias", "boxes_and_masks", "intra_rater")
    )
    assert list(full.columns) == list(COLUMNS[name])
    assert TITLES[name]
    header = exports.export_csv(empty_study, name).decode().splitlines()
    assert header == [",".join(COLUMNS[name])]


def test_objects_have_area_in_both_units(study: Study) -> None:
    table = exports.objects_table(study)
    area_px = int(disc(PODOCYTES[0]).sum())
    first = table[table["class"] == "podocyte"].iloc[0]
    assert (first["area_px"], first["area_um2"]) == (area_px, pytest.approx(area_px * 0.25, abs=1e-3))
    assert len(table) == 8 * (7 + 7 + 6 + 6)


def test_a_comment_of_an_annotator_comes_out_whole(own_study: Study) -> None:
    with own_study.science.read() as db:
        assert study_rows.get_person(db, LEAD)["group"] == "expert"
    log = ActLog("page", "test")
    acts: list[Act] = [log.act("load", 0.0), log.act("comment", 5.0, text='a "quoted", comma\nline')]
    record_acts(own_study, 1, PERSON, acts)
    again = pd.read_csv(io.BytesIO(exports.export_csv(own_study, "acts")))
    assert 'a \\"quoted\\", comma\\nline' in again[again["kind"] == "comment"]["payload"].iloc[0]


def test_an_unknown_export_is_refused(study: Study) -> None:
    with pytest.raises(NotFoundError, match="Choose one of"):
        exports.export_csv(study, "passwords")


# ---------------------------------------------------------------- what may stand side by side


def test_only_runs_of_one_split_and_settings_stand_side_by_side(own_study: Study) -> None:
    """A newer expert's run with another seed waits until a students' run with that seed is scored."""
    found = {PODOCYTE: PODOCYTES, MESANGIAL_ID: MESANGIAL}

    def shown() -> dict[str, int]:
        newest = scored.newest_experiment(own_study, scored.scores_table(own_study))
        return newest.groupby("label")["run_id"].first().astype(int).to_dict()

    assert shown() == {"expert": 1, "students": 2, "untrained": 3}
    add_scored_run(own_study, LabelRecipe(group="expert"), found, seed=7)
    assert shown() == {"expert": 1, "students": 2, "untrained": 3}
    add_scored_run(own_study, LabelRecipe(group="student"), found, seed=7)
    assert shown() == {"expert": 4, "students": 5, "untrained": 3}
    assert scored.run_differences(own_study, 1, 4) == ["seed"]
    assert scored.run_differences(own_study, 1, 2) == scored.run_differences(own_study, 1, 3) == []


def test_an_empty_study_has_nothing_to_compare(empty_study: Study) -> None:
    scores = scored.scores_table(empty_study)
    assert scored.scored_models(scores) == []
    assert scored.newest_experiment(empty_study, scores).empty
    assert scored.mean_scores(empty_study).empty and work_times.times_by_person(empty_study).empty
