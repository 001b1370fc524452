"""Agreement of a study on disk: kept per patch, made again where lost, and the same as from label images."""

import pandas as pd
import pytest

from allinsam.agreement import PAIRWISE_COLUMNS, class_agreement, pairwise_agreement
from allinsam.errors import InputError
from allinsam.store import Study
from allinsam.workflow import agreeing, overlapping, rated
from allinsam.workflow.agreeing import MAJORITY, Choice
from allinsam.workflow.overlapping import study_overlaps
from tests.finished import MESANGIAL_ID, PODOCYTE, finish, finished_study
from tests.raters import hand_in_all
from tests.studies import MESANGIAL, PODOCYTES, small_study
from tests.tiny_demo import tiny_demo


@pytest.fixture
def study(tmp_path) -> Study:
    return finished_study(tmp_path / "study", scored=False)


def add_repeats(study: Study) -> None:
    """The student s1 sees four patches again and finds one podocyte less."""
    for patch_id in range(1, 5):
        finish(study, "s1", "student", patch_id, {1: PODOCYTES[:-2], 2: MESANGIAL}, "repeat")


def files(study: Study) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in overlapping.overlaps_folder(study).glob("*")}


# ---------------------------------------------------------------- the same numbers


def assert_as_from_label_images(study: Study) -> None:
    made, ratings = study_overlaps(study), rated.ratings(study)
    pairs = agreeing.peers(made)
    for iou in (0.3, 0.5, 0.75, 0.9):
        found = agreeing.figures_of(made, pairs, iou)[PAIRWISE_COLUMNS]
        wanted = pairwise_agreement(ratings, iou)
        exact = [name for name in PAIRWISE_COLUMNS if name not in ("matched_dice", "pq")]
        pd.testing.assert_frame_equal(found[exact], wanted[exact], check_dtype=False, check_exact=True)
        pd.testing.assert_frame_equal(found, wanted, check_dtype=False, rtol=1e-13)
        classes = agreeing.class_table(agreeing.choices_of(made, pairs, iou), Choice())
        pd.testing.assert_frame_equal(classes, class_agreement(ratings, iou), check_dtype=False, rtol=1e-12)
    assert len(wanted) and wanted["n_matched"].sum()


def test_as_from_label_images(study: Study) -> None:
    assert_as_from_label_images(study)


def test_as_from_label_images_where_outlines_differ(tmp_path) -> None:
    study = small_study(tmp_path / "study", slides=2)
    hand_in_all(study, 1)
    hand_in_all(study, 2)
    assert_as_from_label_images(study)


def test_as_from_label_images_on_the_demo(tmp_path) -> None:
    assert_as_from_label_images(tiny_demo(tmp_path / "demo"))


# ---------------------------------------------------------------- kept


def test_new_work_counts_its_patch_and_no_other(study: Study) -> None:
    overlapping.count_study(study)
    before = files(study)
    assert len(before) == 8
    finish(study, "s3", "student", 3, {PODOCYTE: PODOCYTES, MESANGIAL_ID: ()})
    missing = overlapping.uncounted(overlapping.list_patches(study))
    assert [patch.row["id"] for patch in missing] == [3]
    assert overlapping.count_study(study)["counted"] == 1
    after = files(study)
    assert len(after) == 8 and len(before.keys() - after.keys()) == 1  # the old file is gone
    assert overlapping.count_study(study)["counted"] == 0


@pytest.mark.parametrize("damage", ["gone", "cut", "turned", "empty"])
def test_a_lost_or_damaged_file_is_made_again(study: Study, damage: str) -> None:
    wanted = agreeing.agreement_export(study)
    before = files(study)
    path = min(overlapping.overlaps_folder(study).glob("*"))
    content = path.read_bytes()
    if damage == "gone":
        path.unlink()
    else:
        turned = content[:-8] + bytes(255 - byte for byte in content[-8:])
        path.write_bytes({"cut": content[:-9], "turned": turned, "empty": b""}[damage])
    pd.testing.assert_frame_equal(agreeing.agreement_export(study), wanted)
    assert files(study) == before


def test_counting_can_be_stopped_and_goes_on(study: Study) -> None:
    asked = iter([False, False, True])
    done = overlapping.count_study(study, should_stop=lambda: next(asked))
    assert done["counted"] == 2 and len(files(study)) == 2
    told = []
    assert overlapping.count_study(study, lambda *said: told.append(said))["counted"] == 6
    assert [done / total for done, total, _ in told] == sorted(done / total for done, total, _ in told)
    assert told[-1][:2] == (1, 1)


def test_a_folder_that_cannot_be_written_to_costs_time_only(study: Study, monkeypatch) -> None:
    def refuse(*_):
        raise OSError("full")

    wanted = agreeing.agreement_export(study)
    for path in overlapping.overlaps_folder(study).glob("*"):
        path.unlink()
    monkeypatch.setattr(overlapping, "write_file", refuse)
    pd.testing.assert_frame_equal(agreeing.agreement_export(study), wanted)
    assert not files(study)


# ---------------------------------------------------------------- among whom, about what


def test_choices(study: Study) -> None:
    made = study_overlaps(study)
    table = agreeing.figures_of(made, agreeing.peers(made))

    def chosen(**choice: str) -> pd.DataFrame:
        return agreeing.chosen_figures(made, table, Choice(**choice))

    assert len(chosen()) == len(table) == 8 * 3 * 2
    assert set(chosen(among="student")["rater_a"]) == {"s1"} and chosen(among="expert").empty
    assert set(chosen(class_name="podocyte")["class"]) == {"podocyte"}
    assert set(chosen(marker="GATA3")["class"]) == {"mesangial"}
    assert chosen(marker="GATA3", class_name="podocyte").empty
    assert set(chosen(slide="slide-1")["patch"]) == {"slide-1-p1", "slide-1-p2"}
    assert set(chosen(condition="injured")["slide"]) == {"slide-3", "slide-4"}
    for wrong in ({"purpose": "fun"}, {"among": "truth"}):
        with pytest.raises(InputError):
            Choice(**wrong)


def test_purposes_are_apart_and_the_truth_is_nobodys(study: Study) -> None:
    for person in ("s1", "s2"):
        finish(study, person, "student", 1, {1: PODOCYTES}, "qualification")
    made = study_overlaps(study)
    assert made.purposes == ["production", "qualification"]
    learning = agreeing.figures_of(made, agreeing.peers(made, "qualification"))
    assert learning[["rater_a", "rater_b", "n_matched"]].to_numpy().tolist() == [["s1", "s2", 4]]
    assert "sim-truth" not in set(made.looks["person_id"])
    assert len(agreeing.figures_of(made, agreeing.peers(made))) == 48


def test_work_begun_from_suggestions_is_left_out(study: Study) -> None:
    with study.science.write() as db:
        for row in db["assignment"].rows_where("person_id = 's2'"):
            db["assignment"].update(row["id"], {"guidance": "suggestion"})
    made = study_overlaps(study)
    assert set(made.looks["person_id"]) == {"e1", "s1"}


def test_the_same_person_twice(study: Study) -> None:
    assert agreeing.intra_table(study_overlaps(study)).empty
    add_repeats(study)
    made = study_overlaps(study)
    table = agreeing.intra_table(made).set_index("class")
    row = table.loc["podocyte"]
    assert (row["person_id"], row["n_patches"], row["n_clusters"]) == ("s1", 4, 2)
    assert (row["n_first"], row["n_repeat"], row["n_matched"]) == (12, 8, 8)
    assert row["f1"] == pytest.approx(0.8) and pd.isna(row["n_choices"])
    both = table.loc["all"]
    assert (both["n"], both["n_choices"], both["agree"]) == (8, 20, 1.0)
    # A repeat is no second vote among people.
    assert len(agreeing.figures_of(made, agreeing.peers(made))) == 48


def test_the_majority_of_students_against_the_expert(study: Study) -> None:
    assert agreeing.majority_pairs(study_overlaps(study)).table.empty  # two are no majority
    for patch_id in range(1, 9):
        finish(study, "s3", "student", patch_id, {1: PODOCYTES[:2], 2: MESANGIAL})
    made = study_overlaps(study)
    table = agreeing.figures_of(made, agreeing.majority_pairs(made))
    assert set(table["rater_a"]) == {MAJORITY} and set(table["rater_b"]) == {"e1"}
    # Of four podocytes s1 misses the last and s3 the last two: two of three found the first three.
    assert (
        table.loc[table["class"] == "podocyte", ["n_a", "n_b", "n_matched"]].to_numpy().tolist()
        == [[3, 4, 3]] * 8
    )
    groups = agreeing.by_groups(table).set_index("class")
    assert groups.loc["mesangial", "f1"] == 1 and groups["pair"].unique().tolist() == [f"{MAJORITY} + expert"]


def test_alpha_for_each_set_of_classes(study: Study) -> None:
    for person in ("s1", "s2"):
        finish(study, person, "student", 1, {1: PODOCYTES}, "qualification")
    table = agreeing.alpha_export(study).set_index(["raters", "classes"])
    assert list(table.index) == [("everyone", "mesangial + podocyte"), ("student", "mesangial + podocyte")]
    row = table.loc["everyone"].iloc[0]
    assert (row["n"], row["n_class"], row["n_people"], row["n_patches"]) == (56, 56, 3, 8)
    assert row["alpha_class"] == 1 and 0 < row["alpha"] < 1
    one = agreeing.alpha_table(study_overlaps(study), Choice(purpose="qualification")).iloc[0]
    assert one["classes"] == "podocyte" and pd.isna(one["alpha_class"]) and one["n"] == 4


def test_over_time_goes_by_each_persons_own_order(study: Study) -> None:
    made = study_overlaps(study)
    table = agreeing.figures_of(made, agreeing.peers(made))
    parts = agreeing.over_time(made, table, "f1")
    assert parts.groupby("person_id")["n_patches"].agg(list).to_dict() == dict.fromkeys(
        ["e1", "s1", "s2"], [3, 3, 2]
    )
    mine = table[(table["rater_a"] == "s1") | (table["rater_b"] == "s1")]
    first = mine[mine["patch"].isin(["slide-1-p1", "slide-1-p2", "slide-2-p1"])]
    assert parts.set_index(["person_id", "part"]).loc[("s1", 1), "value"] == pytest.approx(first["f1"].mean())


def test_whether_there_is_anything_to_compare(tmp_path) -> None:
    study = small_study(tmp_path / "study")
    assert not agreeing.some_pair(study)
    finish(study, "s1", "student", 1, {1: PODOCYTES})
    finish(study, "s2", "student", 1, {2: MESANGIAL})
    finish(study, "s2", "student", 2, {1: PODOCYTES})
    assert not agreeing.some_pair(study)  # two classes, two patches
    finish(study, "s1", "student", 1, {1: PODOCYTES}, "repeat")
    assert agreeing.some_pair(study)
