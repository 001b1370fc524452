import json
from pathlib import Path

import pandas as pd
import pytest
from streamlit.testing.v1 import AppTest

from allinsam.store import Study, create_study, runs
from allinsam.workflow.analysis_plan import margin
from allinsam.workflow.labels import LabelRecipe
from tests.app.conftest import OpenPage
from tests.app.finished_pages import button, texts
from tests.finished import MESANGIAL_ID, PODOCYTE, add_scored_run, finished_study
from tests.studies import LEAD, MESANGIAL, PODOCYTES
from webapp.curve_parts import spans
from webapp.page_parts import truth_name


@pytest.fixture
def study(tmp_path: Path) -> Study:
    return finished_study(tmp_path / "study")


def test_students_and_expert_are_compared_patch_by_patch(open_page: OpenPage, study: Study) -> None:
    app = open_page("compare")
    assert not app.exception
    written = texts(app)
    assert "against the simulated truth" in written
    assert "Simulated tissue: no evidence for real tissue" in written
    assert 'href="/api/export/scores.csv"' in written
    assert len(app.get("plotly_chart")) == 3
    tests = app.dataframe[0].value.set_index(["Class", "Condition"])
    assert tests.loc[("podocyte", "all"), "p"] == "0.0078"
    assert tests.loc[("podocyte", "injured"), ["Effect", "p"]].tolist() == ["too few pairs"] * 2
    assert tests.loc[("podocyte", "all"), "Difference"] == "-0.333"


def test_too_few_slides_are_said_and_shown_one_by_one(open_page: OpenPage, study: Study) -> None:
    app = open_page("compare")
    row = app.dataframe[0].value.set_index(["Class", "Condition"]).loc[("podocyte", "all")]
    assert row["Slides"] == 4 and row["As good"] == "too few slides"
    assert row["90 % interval"] == "too few slides: -0.333, -0.333, -0.333, -0.333"
    notes = [caption.value for caption in app.caption]
    assert any("too few slides for an interval (fewer than 6)" in note for note in notes)
    assert any("says nothing about other slides" in note for note in notes)
    assert not any("Lines: 95 % interval" in note for note in notes)


def test_enough_slides_have_intervals(open_page: OpenPage, study: Study) -> None:
    with study.science.write() as db:
        for patch_id, name in ((2, "slide-5"), (4, "slide-6")):
            slide_id = db["slide"].insert({"name": name, "condition": "normal"}).last_pk
            db["patch"].update(patch_id, {"slide_id": slide_id})
    app = open_page("compare")
    tests = app.dataframe[0].value.set_index(["Class", "Condition"])
    assert tests.loc[("podocyte", "all"), "90 % interval"] == "-0.333 to -0.333"
    assert tests.loc[("podocyte", "all"), "As good"] == "not shown"
    assert tests.loc[("podocyte", "normal"), "As good"] == "too few slides"
    assert any("Lines: 95 % interval over slides" in caption.value for caption in app.caption)


def test_the_page_says_when_the_margin_was_set_and_the_lead_sets_it(
    open_page: OpenPage, study: Study
) -> None:
    app = open_page("compare")
    assert "the one every study starts with" in texts(app)
    assert not [w for w in app.warning if "margin" in w.value]
    next(w for w in app.number_input if w.label == "Margin").set_value(0.1).run()
    button(app, "Set margin").click().run()
    assert not app.exception and margin(study).value == 0.1 and margin(study).set_by == LEAD
    assert app.success[0].value == "The margin is set."
    (told,) = [w.value for w in app.warning if "margin" in w.value]
    assert "after the first scores were made" in told
    reviewer = open_page("compare", role="reviewer")
    assert [w for w in reviewer.warning if "margin" in w.value] and not reviewer.number_input


def test_the_papers_table_prints_its_weights(open_page: OpenPage, study: Study) -> None:
    table = open_page("compare").dataframe[1].value
    assert list(table.index) == ["expert", "students", "untrained", "patches (weight)"]
    assert table["podocyte, average"].tolist() == ["1.000", "0.667", "0.000", "8"]


def test_another_metric_and_another_pair(open_page: OpenPage, study: Study) -> None:
    app = open_page("compare")
    widgets = {widget.label: widget for widget in app.selectbox}
    widgets["Metric"].set_value("dice")
    widgets["with"].set_value("untrained")
    app.run()
    assert not app.exception
    row = app.dataframe[0].value.set_index(["Class", "Condition"]).loc[("podocyte", "all")]
    # Two of four equal discs: Dice 2 * 2 / (2 + 4).
    assert (row["Mean students"], row["Mean untrained"]) == ("0.667", "0.000")


def test_worst_patches_come_from_our_own_route(open_page: OpenPage, study: Study) -> None:
    written = texts(open_page("compare"))
    assert written.count("/podocyte.png") + written.count("/mesangial.png") == 6  # 3 pictures, each a link
    assert 'src="/api/runs/' in written
    assert not [kind for kind in ("imgs", "image") if open_page("compare").get(kind)]


def test_runs_with_other_settings_are_pointed_out(open_page: OpenPage, study: Study) -> None:
    found = {PODOCYTE: PODOCYTES, MESANGIAL_ID: MESANGIAL}
    add_scored_run(study, LabelRecipe(group="expert"), found, seed=7)
    app = open_page("compare")
    assert not app.warning
    next(w for w in app.selectbox if w.label == "with").set_value("expert").run()
    assert "Not only the labels differ between these runs: seed." in app.warning[0].value


def test_a_reviewer_compares_but_does_not_download(open_page: OpenPage, study: Study) -> None:
    app = open_page("compare", role="reviewer")
    assert not app.exception
    assert "/api/export/" not in texts(app)


class TestWithoutScores:
    @pytest.fixture
    def study(self, tmp_path: Path) -> Study:
        return finished_study(tmp_path / "study", scored=False)

    def test_the_page_says_what_to_do(self, open_page: OpenPage) -> None:
        app = open_page("compare")
        assert not app.exception
        assert "Nothing has been scored yet" in texts(app) and button(app, "Go to Train")

    def test_the_margin_is_set_before_there_are_scores(self, open_page: OpenPage, study: Study) -> None:
        app = open_page("compare")
        next(w for w in app.number_input if w.label == "Margin").set_value(0.03).run()
        button(app, "Set margin").click().run()
        assert not app.exception and margin(study).value == 0.03
        assert "nothing is scored yet" in texts(app) and not app.warning


@pytest.mark.parametrize(("simulated", "name"), [(True, "the simulated truth"), (False, "the imported gold")])
def test_the_truth_of_real_tissue_is_not_called_simulated(tmp_path: Path, simulated: bool, name: str) -> None:
    made = create_study(tmp_path / "other", "Other", "compact", "0" * 64, simulated=simulated)
    assert truth_name(made) == name


def test_the_split_stands_under_every_figure_of_models(open_page: OpenPage, study: Study) -> None:
    notes = [caption.value for caption in open_page("compare").caption]
    told = [note for note in notes if "Split " in note]
    assert len(told) == 5  # means, pairs, the paper's table, worst patches, minutes and size
    assert all("tested slide" in note and "seed 1" in note for note in told)


# ---------------------------------------------------------------- minutes and size


def curve_table(app: AppTest) -> pd.DataFrame:
    return next(frame.value for frame in app.dataframe if "Minutes" in frame.value.columns)


def test_single_sizes_say_what_to_press(open_page: OpenPage, study: Study) -> None:
    app = open_page("compare")
    assert not app.exception
    written = texts(app)
    assert "**Each line is a single size so far.**" in written and "**Size curve**" in written
    assert button(app, "Go to Train")
    rows = curve_table(app).set_index("Labels")
    # Two training patches: 36 s each of the expert, 31 s of a student.
    assert rows["Minutes"].to_dict() == {"expert": "1.2", "students": "1.0", "untrained": "0.0"}
    assert rows.loc["students", ["Training patches", "Nuclei", "podocyte"]].tolist() == [
        2,
        12,
        "0.667",
    ]
    assert "gaps up to 60 s, until the labels were frozen" in written
    assert 'href="/api/export/minutes_and_scores.csv"' in written


def test_a_curve_over_minutes_patches_and_nuclei(open_page: OpenPage, study: Study) -> None:
    for group, found in (("student", PODOCYTES[:1]), ("expert", PODOCYTES[:2])):
        few = {PODOCYTE: found, MESANGIAL_ID: ()}
        add_scored_run(study, LabelRecipe(group=group, patches=1, split=1), few)
    app = open_page("compare")
    assert not app.exception
    written = texts(app)
    assert "single size" not in written
    # At the students' 62 s the expert's line is a fraction of the way from 36 s (0.67) to 72 s (1).
    share = (62 - 36) / (72 - 36)
    assert f"expert {2 / 3 + share / 3:.2f}, students 0.67" in written
    assert "**At 1.03 min**" in written
    against = next(group for group in app.button_group if group.label == "Score against")
    against.set_value("train_patches").run()
    assert not app.exception
    assert "**At 2 patches**, read off the lines" in texts(app)
    assert "expert 1.00, students 0.67" in texts(app)
    cutoff = next(group for group in app.button_group if group.label.startswith("A gap between"))
    assert len(curve_table(app)) == 5
    cutoff.set_value(15.0).run()
    assert not app.exception


def test_runs_with_other_settings_are_another_curve(open_page: OpenPage, study: Study) -> None:
    found = {PODOCYTE: PODOCYTES, MESANGIAL_ID: MESANGIAL}
    run_id = add_scored_run(study, LabelRecipe(group="expert"), found)
    with study.science.write() as db:
        settings = runs.get_run(db, run_id)["settings"]
        runs.update_run(db, run_id, settings=json.dumps({**settings, "k": 3}))
    app = open_page("compare")
    assert not app.exception
    ask = next(w for w in app.selectbox if w.label.startswith("Runs that differ"))
    assert [option.split(":")[0] for option in ask.options] == [f"Run {run_id}", "Runs 1 to 2"]
    assert curve_table(app)["Run"].tolist() == [run_id, 3]
    ask.set_value(1).run()
    assert curve_table(app)["Run"].tolist() == [1, 2, 3]


def test_labels_that_nobody_drew_have_no_minutes(open_page: OpenPage, study: Study) -> None:
    found = {PODOCYTE: PODOCYTES, MESANGIAL_ID: MESANGIAL}
    add_scored_run(study, LabelRecipe(group="truth", purposes=("gold",)), found)
    app = open_page("compare")
    assert not app.exception
    assert "Without minutes, as nobody drew them: truth." in texts(app)
    assert "truth" not in set(curve_table(app)["Labels"])


def test_a_reviewer_reads_curves_and_is_not_sent_to_train(open_page: OpenPage, study: Study) -> None:
    app = open_page("compare", role="reviewer")
    assert not app.exception
    assert "single size" in texts(app) and not app.button


@pytest.mark.parametrize(("ids", "said"), [([1], "1"), ([1, 2, 3, 7], "1 to 3, 7"), ([4, 9], "4, 9")])
def test_run_numbers_in_words(ids: list[int], said: str) -> None:
    assert spans(ids) == said


# ---------------------------------------------------------------- what the paper printed


def test_the_papers_figures_stand_apart_and_only_where_asked(open_page: OpenPage, study: Study) -> None:
    app = open_page("compare")
    assert "not measured here" not in texts(app)
    before = [chart.proto.spec for chart in app.get("plotly_chart")], len(app.dataframe)
    app.toggle(key="published-on").set_value(True).run()
    assert not app.exception
    assert "**Published, other images, not measured here.** Li et al. 2025" in texts(app)
    printed = app.dataframe[0].value
    assert printed["Method"].tolist().count("All-in-SAM") == 2 and len(printed) == 8
    assert printed["podocyte, injured"].tolist()[0] == "0.7124"
    # No plot, and no other table, has them.
    assert ([chart.proto.spec for chart in app.get("plotly_chart")], len(app.dataframe) - 1) == before
    table = next(group for group in app.button_group if group.label == "Table of the paper")
    table.set_value("Table 2").run()
    assert not app.exception
    assert app.dataframe[0].value.set_index(["Method", "Training data"]).loc[("Xie", "all"), "Dice"] == "–"
    assert "Table 2: MoNuSeg" in texts(app)


def test_without_scores_nothing_published_stands_in_for_them(open_page: OpenPage, study: Study) -> None:
    with study.science.write() as db:
        db["score"].delete_where()
    app = open_page("compare")
    assert not app.exception and not app.toggle and "Nothing has been scored yet" in texts(app)


# ---------------------------------------------------------------- free table


def free_table(app: AppTest) -> pd.DataFrame:
    return next(frame.value for frame in app.dataframe if "Labels from" in frame.value.columns)


def test_rows_and_columns_are_chosen(open_page: OpenPage, study: Study) -> None:
    app = open_page("compare")
    table = free_table(app).set_index("Labels from")
    assert table.columns.tolist() == [
        f"{name}, {condition}" for name in ("mesangial", "podocyte") for condition in ("injured", "normal")
    ]
    assert table.loc["students", "podocyte, injured"] == "0.667 (too few slides: 0.667, 0.667) n = 4, 2, 16"
    app.multiselect(key="group-columns").set_value([]).run()
    assert not app.exception
    row = free_table(app).set_index("Labels from").loc["expert"]
    assert row[["Mean", "Runs", "Patches", "Slides", "Nuclei"]].tolist() == ["1.000", 1, 8, 4, 56]
    link = 'href="/api/export/grouped.csv?rows=labels&columns=&metric=f1_instance&of=side_by_side"'
    assert link in texts(app).replace("&amp;", "&")
    app.multiselect(key="group-columns").set_value(["labels"]).run()
    assert not app.exception
    assert "'labels' is asked for twice" in app.warning[-1].value


def test_people_s_labels_need_scores_of_their_own(open_page: OpenPage, study: Study) -> None:
    app = open_page("compare")
    app.selectbox(key="group-of").set_value("people").run()
    assert not app.exception
    assert "Nothing was scored here by this metric" in texts(app)


def test_a_reviewer_groups_and_downloads_nothing(open_page: OpenPage, study: Study) -> None:
    app = open_page("compare", role="reviewer")
    assert not app.exception and len(free_table(app)) == 3
    assert "grouped.csv" not in texts(app)
