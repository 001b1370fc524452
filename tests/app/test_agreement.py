from pathlib import Path

import pytest

from allinsam.store import Study
from tests.app.conftest import OpenPage
from tests.app.finished_pages import button, texts
from tests.finished import finish, finished_study
from tests.studies import PODOCYTES, small_study


@pytest.fixture
def study(tmp_path: Path) -> Study:
    return finished_study(tmp_path / "study", scored=False)


def test_raters_groups_and_classes(open_page: OpenPage, study: Study) -> None:
    app = open_page("agreement")
    assert not app.exception
    assert len(app.get("plotly_chart")) == 1
    groups, classes = (app.dataframe[i].value for i in range(2))
    row = groups.set_index(["Class", "Who"]).loc[("podocyte", "two students")]
    assert (row["F1 (95 % interval)"], row["n"], row["Patches"], row["Slides"]) == (
        "0.86 (too few slides: 0.86, 0.86, 0.86, 0.86)",
        8,
        8,
        4,
    )
    assert classes["Same class"].unique().tolist() == ["100.0%"]
    assert classes["Nuclei both found"].tolist() == [48, 48, 40]
    written = texts(app)
    assert "Simulated tissue: no evidence for real tissue" in written
    assert 'href="/api/export/agreement.csv"' in written


def test_another_figure_of_one_class(open_page: OpenPage, study: Study) -> None:
    app = open_page("agreement")
    widgets = {widget.label: widget for widget in app.selectbox}
    widgets["Figure"].set_value("matched_dice")
    widgets["Class"].set_value("podocyte")
    app.run()
    assert not app.exception
    assert "Matched Dice: the same outline" in texts(app)
    assert "begun from suggestions are left out" in texts(app)


def test_how_far_each_person_can_be_trusted(open_page: OpenPage, study: Study) -> None:
    app = open_page("agreement")
    app.session_state["tab"] = "Each person"
    app.run()
    assert not app.exception
    table = app.dataframe[-1].value.set_index(["Person", "Class"])
    hasty = table.loc[("s1", "podocyte")]
    # s1 misses the last of each patch's podocytes, which the expert and s2 have marked.
    missed = 1 / len(PODOCYTES)
    assert hasty["Found"] == f"{1 - missed:.0%}" and hasty["Alone"] == "0%"
    assert hasty["F1 without"] > hasty["F1"]
    assert "beside scores against gold" in texts(app)


class TestTooFew:
    @pytest.fixture
    def study(self, tmp_path: Path) -> Study:
        study = small_study(tmp_path / "study")
        for person in ("s1", "s2"):
            finish(study, person, "student", 1, {1: PODOCYTES, 2: ()})
        return study

    def test_it_says_so_instead_of_a_number(self, open_page: OpenPage) -> None:
        app = open_page("agreement")
        assert not app.exception
        groups, classes = app.dataframe[0].value, app.dataframe[1].value
        assert groups["F1 (95 % interval)"].tolist() == groups["Dice"].tolist() == ["too few", "too few"]
        assert classes["Cohen's kappa"].tolist() == ["too few"] and classes["Nuclei both found"].tolist() == [
            4
        ]


class TestNobodyYet:
    @pytest.fixture
    def study(self, tmp_path: Path) -> Study:
        return small_study(tmp_path / "study")

    def test_the_page_says_what_to_do(self, open_page: OpenPage) -> None:
        app = open_page("agreement")
        assert not app.exception
        assert "finished by two people" in texts(app) and button(app, "Assign patches")

    def test_a_reviewer_is_not_sent_where_they_may_not_go(self, open_page: OpenPage) -> None:
        app = open_page("agreement", role="reviewer")
        assert not app.exception and not app.button
