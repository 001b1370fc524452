"""Every figure of the table is the one that its page, or another export, gives."""

import pandas as pd
import pytest

from allinsam.comparison import FEWEST_PATCHES, FEWEST_SLIDES
from allinsam.store import Study, create_study
from allinsam.store import assignments as queue
from allinsam.workflow import agreeing, caused, paces, rated, scored
from allinsam.workflow.analysis_plan import margin, margin_sentence, set_margin
from allinsam.workflow.exports import export_table
from allinsam.workflow.figures import SECTIONS, figures_table
from allinsam.workflow.figures.kinds import KINDS
from allinsam.workflow.overlapping import overlaps_folder, study_overlaps
from allinsam.workflow.report_layout import CHAPTERS
from allinsam.workflow.work_times import study_work
from tests.finished import MESANGIAL_ID, PODOCYTE, add_learning, finish, finished_study
from tests.studies import MESANGIAL, PODOCYTES, small_study
from webapp import agreement_group_parts, causes_parts, time_parts

NUMBERS = ("value", "low", "high", "n", "patches", "slides")


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """With hidden repeats of one student, who draws less the second time."""
    study = finished_study(tmp_path_factory.mktemp("finished") / "study")
    add_learning(study)
    for patch_id in (1, 2, 3, 5):
        fewer = {PODOCYTE: PODOCYTES[:2], MESANGIAL_ID: MESANGIAL}
        finish(study, "s1", "student", patch_id, fewer, "repeat")
    return study


@pytest.fixture(scope="module")
def table(study: Study) -> pd.DataFrame:
    return figures_table(study)


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """Enough slides for intervals: an expert and a student who misses another number on every second."""
    study = small_study(tmp_path_factory.mktemp("wide") / "study", slides=FEWEST_SLIDES + 1)
    with study.science.read() as db:
        patches = sorted({row["patch_id"] for row in queue.list_assignments(db)})
    for number, patch_id in enumerate(patches):
        finish(study, "e1", "expert", patch_id, {PODOCYTE: PODOCYTES, MESANGIAL_ID: MESANGIAL})
        found = {PODOCYTE: PODOCYTES[: 2 + number % 3], MESANGIAL_ID: MESANGIAL[: 2 + number % 2]}
        finish(study, "s1", "student", patch_id, found)
    return study


def of(table: pd.DataFrame, section: str, name: str, **where: str) -> pd.DataFrame:
    mine = table[(table["section"] == section) & (table["figure"] == name)]
    for column, value in where.items():
        mine = mine[mine[column] == value]
    return mine


def one(table: pd.DataFrame, section: str, name: str, **where: str) -> pd.Series:
    mine = of(table, section, name, **where)
    assert len(mine) == 1, mine
    return mine.iloc[0]


# ---------------------------------------------------------------- the table itself


def test_every_row_says_what_it_is(table: pd.DataFrame) -> None:
    assert set(table["figure"]) <= set(KINDS) and set(table["section"]) <= set(SECTIONS)
    assert (table["definition"] != "").all() and table["unit"].notna().all() and table["a"].notna().any()
    for column in NUMBERS:
        assert pd.api.types.is_numeric_dtype(table[column].astype(float))
    missing = table[table["value"].isna()]
    assert len(missing) and (missing["note"] != "").all()
    bounded = table[table["low"].notna() & table["value"].notna()]
    assert ((bounded["low"] <= bounded["value"] + 1e-9) & (bounded["value"] <= bounded["high"] + 1e-9)).all()
    assert (bounded["interval_method"] != "").all()
    assert (table.loc[table["low"].isna(), "interval_method"] == "").all()


def test_no_figure_is_there_twice(table: pd.DataFrame) -> None:
    keys = [
        "section",
        "figure",
        "about",
        "a",
        "b",
        "run_a",
        "run_b",
        "class",
        "condition",
        "metric",
        "setting",
    ]
    twice = table[table.duplicated(keys, keep=False)]
    assert twice.empty, twice[keys].head()


def test_every_section_and_every_figure_stands_in_the_report() -> None:
    tables = [shown for chapter in CHAPTERS for shown in chapter.tables]
    assert {shown.section for shown in tables} == set(SECTIONS)
    assert {name for shown in tables for name in shown.figures} == set(KINDS) - {"not_counted"}
    assert all(shown.plot in ("", *shown.figures) for shown in tables)


def test_every_row_is_in_some_table_of_the_report(table: pd.DataFrame) -> None:
    """Other metrics than the main one, and conditions that Table 1 has, are in figures.csv only."""
    left = table[table["metric"].isna() | (table["metric"] == "f1_instance")]
    left = left[~((left["section"] == "model_scores") & (left["condition"] != "all"))]
    for chapter in CHAPTERS:
        for shown in chapter.tables:
            mine = (left["section"] == shown.section) & left["figure"].isin(shown.figures)
            for column, values in shown.only.items():
                mine &= left[column].isin(values)
            left = left[~mine]
    assert left.empty, left[["section", "figure", "about"]].drop_duplicates()


def test_an_empty_study_has_no_figures(empty_study: Study) -> None:
    assert figures_table(empty_study).empty


def test_one_rater_has_no_agreement(tmp_path) -> None:
    study = small_study(tmp_path / "study")
    finish(study, "s1", "student", 1, {PODOCYTE: PODOCYTES, MESANGIAL_ID: ()})
    table = figures_table(study)
    assert set(table["section"]).isdisjoint(
        {"agreement", "pairs", "everybody", "causes", "model_scores", "comparison"}
    )
    assert one(table, "time", "s_per_nucleus", a="s1")["note"] == "too few patches"
    assert set(of(table, "standing_out", "stands_out")["note"]) == {"too few"}


def test_what_takes_too_long_says_so_and_is_not_begun(tmp_path) -> None:
    study = finished_study(tmp_path / "study")
    table = figures_table(study, at_most=10)
    left = table[table["figure"] == "not_counted"].set_index("section")["note"]
    assert "python -m allinsam agreement --count" in left["agreement"]
    assert "python -m allinsam report" in left["reliability"] and left.index.is_unique
    assert {"agreement", "pairs", "everybody", "same_person", "causes", "reliability"} <= set(left.index)
    assert not overlaps_folder(study).exists()
    assert len(of(table, "comparison", "p")) and len(of(table, "time", "min_per_patch"))


# ---------------------------------------------------------------- agreement


def test_agreement_of_groups_is_that_of_the_page(study: Study, table: pd.DataFrame) -> None:
    groups = rated.agreement_by_groups(study, export_table(study, "agreement"))
    assert len(groups) == 4
    for row in groups.to_dict("records"):
        a, b = row["pair"].split(" + ")
        found = one(table, "agreement", "f1", a=a, b=b, **{"class": row["class"], "condition": "all"})
        assert found["value"] == row["f1"] and found["n"] == row["n"] and found["patches"] == row["n_patches"]
        assert [float(x) for x in found["by_slide"].split()] == pytest.approx(row["f1_by_slide"], abs=1e-4)
        assert found["note"] == "too few slides" and found["low"] is None or pd.isna(found["low"])
        shown = agreement_group_parts.group_rows(groups)
        mine = shown[
            (shown["Class"] == row["class"]) & (shown["Who"] == agreement_group_parts.PAIRS[row["pair"]])
        ]
        assert mine["F1 (95 % interval)"].iloc[0].startswith(f"{found['value']:.2f} (too few slides")
    assert set(of(table, "agreement", "f1")["condition"]) == {"all", "injured", "normal"}


def test_intervals_are_those_of_the_page(wide: Study) -> None:
    table = figures_table(wide)
    groups = rated.agreement_by_groups(wide, export_table(wide, "agreement"))
    for row in groups.to_dict("records"):
        found = one(table, "agreement", "f1", **{"class": row["class"], "condition": "all"})
        assert (found["low"], found["high"]) == (row["f1_low"], row["f1_high"])
        assert found["low"] < found["value"] < found["high"] and found["by_slide"] == found["note"] == ""
        assert "over slides" in found["interval_method"] and found["slides"] == FEWEST_SLIDES + 1
    why = caused.summed_up(caused.why_tables(wide), rated.slide_of_patch(wide))
    low, high = why["intervals"].set_index("part").loc["one_alone", ["low", "high"]]
    found = one(table, "causes", "one_alone", about="two groups", **{"class": "all"})
    assert (found["low"], found["high"]) == (low, high)


def test_every_two_people_are_those_of_the_exports(study: Study, table: pd.DataFrame) -> None:
    pairwise, classes = export_table(study, "agreement"), export_table(study, "classes")
    for (a, b), rows in pairwise.groupby(["rater_a", "rater_b"]):
        for name in ("f1", "dice", "matched_dice", "pq"):
            found = one(table, "pairs", name, a=a, b=b, **{"class": "all"})
            assert found["value"] == pytest.approx(rows[name].mean()) and found["n"] == rows[name].count()
    for row in classes.to_dict("records"):
        found = one(table, "pairs", "gwet_ac1", a=row["rater_a"], b=row["rater_b"])
        assert found["value"] == row["gwet_ac1"] and found["n"] == row["n_matched"]


def test_alpha_repeats_and_reliability_are_those_of_the_exports(study: Study, table: pd.DataFrame) -> None:
    for row in export_table(study, "alpha").to_dict("records"):
        found = one(table, "everybody", "alpha", a=row["raters"], **{"class": row["classes"]})
        assert (found["value"], found["n"]) == (row["alpha"], row["n"])
    again = export_table(study, "intra_rater")
    assert again["n_patches"].max() == 4 >= FEWEST_PATCHES
    for row in again.to_dict("records"):
        found = one(table, "same_person", "f1", a=row["person_id"], **{"class": row["class"]})
        assert (found["value"], found["n"], found["patches"]) == (row["f1"], row["n"], row["n_patches"])
    for row in export_table(study, "reliability").to_dict("records"):
        where = {"a": row["person_id"], "b": row["raters"], "class": row["class"]}
        found = one(table, "reliability", "found_share", **where)
        assert (found["value"], found["n"]) == (row["found_share"], row["n_others"])
        accuracy = one(table, "reliability", "class_accuracy", **where)
        assert pd.isna(accuracy["value"]) == (row["n_choices"] < 10 or pd.isna(row["class_accuracy"]))


def test_causes_are_those_of_the_page(study: Study, table: pd.DataFrame) -> None:
    nuclei = caused.why_tables(study)["nuclei"]
    shown = causes_parts.reason_rows(
        causes_parts.sums_of(nuclei, "Each person"), "Each person", ["only_a", "only_b", "other_class", "box"]
    )
    for row in shown.to_dict("records"):
        where = {"about": "person", "a": row["Who"], "class": "all"}
        for head, name in (("Marked alone", "alone"), ("Missed", "missed"), ("Box", "box")):
            found = one(table, "causes", name, **where)
            assert f"{found['value']:.0%}" == row[head] and found["n"] == row["Differences"]
    sums = export_table(study, "causes").groupby(["rater_a", "rater_b"])[["n", "alike"]].sum()
    for (a, b), row in sums.iterrows():
        found = one(table, "causes", "alike_share", about="two people", a=a, b=b, **{"class": "all"})
        assert found["value"] == row["alike"] / row["n"] and found["n"] == row["n"]


def test_who_stands_out_is_that_of_the_page(study: Study, table: pd.DataFrame) -> None:
    out, exported = caused.why_tables(study)["out"], export_table(study, "standing_out")
    shown = causes_parts.out_rows(out)
    assert exported["person_id"].fillna("").tolist() == [
        "" if who in ("nobody", "too few") else who for who in shown["Who"]
    ]
    named = exported["verdict"] == "named"
    assert exported.loc[~named, ["value", "person_id", "p_holm", "n"]].isna().all(axis=None)
    found = of(table, "standing_out", "stands_out")
    assert found["setting"].tolist() == exported["what"].tolist() == shown["What"].tolist()
    for column in ("value", "low", "high"):
        assert found[column].astype(float).tolist() == pytest.approx(
            exported[column].astype(float).tolist(), nan_ok=True
        )


# ---------------------------------------------------------------- time


def test_times_are_those_of_the_page(study: Study, table: pd.DataFrame) -> None:
    curve = export_table(study, "learning_curve")
    for person, rows in curve.groupby("person_id"):
        found = one(table, "time", "min_per_patch", a=person, setting="gaps up to 60 s")
        assert found["value"] == pytest.approx(rows["active_min"].median()) and found["n"] == len(rows)
    work = study_work(study)
    patches, nuclei = paces.patches_at(work, 60.0), next(paces.nuclei_at(work, [60.0]))
    shown = time_parts.median_rows(patches, nuclei, "group", {}).set_index("Group")
    found = one(table, "time", "s_per_nucleus", a="student", setting="gaps up to 60 s")
    assert shown.loc["student", "Median s per nucleus"] == f"{found['value']:.1f} (too few slides)"
    for cutoff_s, ratio in paces.ratios_at(
        work, paces.cutoffs_of(60.0), "group", "student", "expert", "min_per_patch"
    ).items():
        setting = f"min_per_patch, gaps up to {cutoff_s:g} s"
        found = one(table, "time_ratios", "time_ratio", a="student", b="expert", setting=setting)
        assert found["value"] == ratio.ratio and found["n"] == ratio.patches_a
    kept = of(table, "fates", "fate_drawn", about="group", a="expert").iloc[0]
    shares = paces.fate_shares(paces.fates(study, work), "group").set_index("group").loc["expert"]
    assert kept["value"] == shares["drawn"] / shares["nuclei"] == 1.0


# ---------------------------------------------------------------- models


def test_scores_are_those_of_the_page(study: Study, table: pd.DataFrame) -> None:
    newest = scored.newest_experiment(study, scored.scores_table(study))
    for metric in ("f1_instance", "dice"):
        paper = scored.paper_table(newest, metric)
        for label in ("expert", "students", "untrained"):
            for name, condition in paper.columns:
                where = {"a": label, "metric": metric, "class": name}
                where["condition"] = {"average": "all"}.get(condition, condition)
                found = one(table, "model_scores", "mean_score", **where)
                assert found["value"] == pytest.approx(paper.loc[label, (name, condition)])
                assert found["n"] == paper.loc["patches", (name, condition)]
    runs = export_table(study, "minutes_and_scores")
    for row in runs.to_dict("records"):
        where = {"run_a": row["run_id"], "metric": row["metric"], "class": row["class_name"]}
        assert one(table, "runs", "mean_score", **where)["value"] == row["mean"]
        assert one(table, "runs", "score_minutes", run_a=row["run_id"])["value"] == row["train_minutes"]


def test_comparisons_are_those_of_the_page(study: Study, table: pd.DataFrame) -> None:
    compared = scored.compare(study, "students", "expert")
    pair = {"a": "students", "b": "expert", "metric": "f1_instance"}
    for row in compared.to_dict("records"):
        where = {**pair, "class": row["class_name"], "condition": row["condition"]}
        assert one(table, "comparison", "mean_difference", **where)["value"] == row["mean_difference"]
        found = one(table, "comparison", "p_holm", **where)
        if row["method"] == "too few pairs":
            assert pd.isna(found["value"]) and "too few pairs" in found["note"]
        else:
            assert found["value"] == row["p_holm"]
        good = one(table, "equivalence", "as_good", **where)
        assert pd.isna(good["value"]) and good["note"].startswith("too few slides")  # of four slides
        assert good["setting"] == "margin 0.05"


def test_equivalence_says_when_the_margin_was_set(tmp_path) -> None:
    study = finished_study(tmp_path / "study")
    set_margin(study, None, 0.3)
    rows = of(figures_table(study), "equivalence", "as_good")
    assert set(rows["setting"]) == {"margin 0.3"}
    assert (
        margin(study).after_results
        and rows["note"].str.contains(margin_sentence(margin(study)), regex=False).all()
    )


def test_learning_and_progress_are_those_of_the_pages(study: Study, table: pd.DataFrame) -> None:
    done = one(table, "progress", "patches_done", a="s1")
    assert (done["value"], done["n"], done["b"]) == (8 + 4, 8 + 4, "student")
    learnt = export_table(study, "learning")
    scored_rows = learnt[learnt["score"].notna() & (learnt["kind"] != "reminder")]
    assert len(of(table, "learning", "learning_score")) == len(scored_rows)


def test_drift_and_doublings_are_those_of_the_page(study: Study, table: pd.DataFrame) -> None:
    made = study_overlaps(study)
    parts = agreeing.over_time(made, agreeing.figures_of(made, agreeing.peers(made)), "f1")
    for row in parts.to_dict("records"):
        setting = ("first third", "second third", "last third")[row["part"] - 1]
        found = one(table, "same_person", "f1_in_order", a=row["person_id"], setting=setting)
        assert found["n"] == row["n_patches"]
        assert pd.isna(found["value"]) == (row["n_patches"] < FEWEST_PATCHES)
        assert pd.isna(found["value"]) or found["value"] == row["value"]
    changes = paces.doublings(paces.patches_at(study_work(study), 60.0)).set_index("person_id")["change"]
    for person, change in changes.items():
        assert one(table, "getting_quicker", "change_per_doubling", a=person)["value"] == change
    group = one(table, "getting_quicker", "change_per_doubling", a="student")
    assert group["value"] == changes[["s1", "s2"]].median() and group["n_of"] == "people"


def test_a_study_of_another_name_has_the_same_columns(tmp_path) -> None:
    study = create_study(tmp_path / "other", "Other", "compact", "0" * 64)
    assert list(figures_table(study).columns) == list(export_table(study, "figures").columns)
