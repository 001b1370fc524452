from pathlib import Path

import pytest

from allinsam.store import Study, create_study
from allinsam.workflow.analysis_plan import margin
from allinsam.workflow.labels import LabelRecipe
from tests.app.conftest import OpenPage
from tests.app.finished_pages import button, texts
from tests.finished import MESANGIAL_ID, PODOCYTE, add_scored_run, finished_study
from tests.studies import LEAD, MESANGIAL, PODOCYTES
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
    assert len(app.get("plotly_chart")) == 2
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
    assert len(told) == 4  # means, pairs, the paper's table, worst patches
    assert all("tested slide" in note and "seed 1" in note for note in told)
