"""The "Why" tab: sentences, bars and tables of reasons, and who stands out."""

from pathlib import Path

import pandas as pd
import pytest

from allinsam import jobs
from allinsam.outliers import OUT_COLUMNS, who_stands_out
from allinsam.store import Study
from tests.app.conftest import OpenPage
from tests.app.finished_pages import button, texts
from tests.boxing import moved_and_answered
from tests.finished import finish, finished_study
from tests.studies import PODOCYTES, small_study
from webapp import causes_parts


@pytest.fixture
def study(tmp_path: Path) -> Study:
    return finished_study(tmp_path / "study", scored=False)


def why(open_page: OpenPage, role: str = "lead"):
    app = open_page("agreement", role=role)
    app.session_state["tab"] = "Why"
    return app.run()


def test_reasons_in_words_bars_and_tables(open_page: OpenPage, study: Study) -> None:
    """s1 misses a podocyte of each of 8 patches, s2 a mesangial cell: 8 differences with the expert each."""
    app = why(open_page)
    assert not app.exception
    written = texts(app)
    assert (
        "**An expert and a student** disagree most often because only one of them marked a nucleus: 100% "
        "(too few slides) of 16 differences, 16 by the expert alone and 0 by the student alone. "
        "They agree on 86% of 112 nuclei."
    ) in written
    assert "**Two students** disagree most often because only one of them marked a nucleus: 100%" in written
    assert "Too few nuclei that two people both boxed to say so: 0" in written
    assert "No nucleus has been boxed by two people yet." in written
    assert 'href="/api/export/causes.csv"' in written and "Simulated tissue: no evidence" in written
    reasons, out, tools = (table.value for table in app.dataframe[-3:])
    students = reasons.set_index("Who").loc["Two students"]
    assert students[["Nuclei", "Agreed", "Differences", "One alone", "Class"]].tolist() == [
        56,
        "71%",
        16,
        "100%",
        "0%",
    ]
    assert reasons.set_index("Who").loc["An expert and a student", "Alone"] == "16 expert, 0 student"
    # On all eight patches each student misses one of the six nuclei that the two others agree on.
    missing = out[out["What"] == "Misses nuclei"]
    assert missing["Who"].tolist() == ["s1", "s2"] and set(missing["Value"]) == {"83% found"}
    assert missing["Others"].tolist() == ["83% to 100%"] * 2
    rest = out[out["What"] != "Misses nuclei"].set_index("What")["Who"]
    assert rest.pop("Draws boxes wide") == "too few" and set(rest) == {"nobody"}
    by_hand = tools.set_index("How").loc["by hand, without a box"]
    assert (by_hand["Seconds per nucleus"], by_hand["IoU of two such outlines"]) == ("5.0", "1.00")
    assert tools.set_index("How").loc["box and SAM", "Seconds per nucleus"] == "too few"


def test_each_person_and_every_pair(open_page: OpenPage, study: Study) -> None:
    app = why(open_page)
    app.session_state["why-view"] = "Each person"
    app.run()
    people = app.dataframe[-3].value.set_index("Who")
    assert not app.exception
    assert people.loc["e1", ["Marked alone", "Missed"]].tolist() == ["100%", "0%"]
    assert people.loc["s1", ["Marked alone", "Missed"]].tolist() == ["33%", "67%"]
    app.session_state["why-view"] = "Every pair"
    next(widget for widget in app.selectbox if widget.key == "why-class").set_value("podocyte")
    app.run()
    pairs = app.dataframe[-3].value.set_index("Who")
    assert not app.exception
    assert pairs.loc["e1 + s1", ["Differences", "First alone", "One alone"]].tolist() == [8, 8, "too few"]


def test_a_reviewer_reads_it_without_the_download(open_page: OpenPage, study: Study) -> None:
    app = why(open_page, "reviewer")
    assert not app.exception
    assert "Who stands out" in texts(app) or any(s.value == "Who stands out" for s in app.subheader)
    assert "causes.csv" not in texts(app)


class TestBoxesWithoutMasks:
    @pytest.fixture
    def study(self, tmp_path: Path) -> Study:
        study = small_study(tmp_path / "study")
        moved_and_answered(study)
        return study

    def test_the_lead_may_have_them_made(self, open_page: OpenPage, study: Study) -> None:
        app = why(open_page)
        assert "4 first boxes have no mask by the study's SAM" in texts(app)
        button(app, "Ask SAM for them").click()
        app.run()
        assert not app.exception
        assert [view.verb for view in jobs.list_views(study)] == ["first-masks"]
        assert button(app, "Ask SAM for them").disabled

    def test_a_reviewer_may_not(self, open_page: OpenPage) -> None:
        app = why(open_page, "reviewer")
        assert "4 first boxes have no mask" in texts(app)
        assert not any(b.label.startswith("Ask SAM") for b in app.button)


class TestNothingInCommon:
    @pytest.fixture
    def study(self, tmp_path: Path) -> Study:
        study = small_study(tmp_path / "study")
        for person in ("s1", "s2"):
            finish(study, person, "student", 1, {1: PODOCYTES[:1], 2: ()})
        return study

    def test_one_nucleus_is_too_few_for_a_reason(self, open_page: OpenPage) -> None:
        app = why(open_page)
        assert not app.exception
        assert "**Two students**: too few differences to say why (0 of 1 nuclei" in texts(app)
        assert "Too few people, patches or nuclei to say so" in texts(app)


class TestNobodyFoundAnything(TestNothingInCommon):
    @pytest.fixture
    def study(self, tmp_path: Path) -> Study:
        study = small_study(tmp_path / "study")
        for person in ("s1", "s2"):
            finish(study, person, "student", 1, {1: (), 2: ()})
        return study

    def test_one_nucleus_is_too_few_for_a_reason(self, open_page: OpenPage) -> None:
        app = why(open_page)
        assert not app.exception
        assert "Nothing to compare yet" in texts(app)


def box_table(gain: float, low: float, high: float) -> pd.DataFrame:
    figures = {"n": 40, "slides": 6, "box_iou": 0.6, "sam_iou": 0.6 + gain}
    return pd.DataFrame([figures | {"sam_gain": gain, "sam_low": low, "sam_high": high}])


@pytest.mark.parametrize(
    ("table", "said"),
    [
        (box_table(0.2, 0.1, 0.3), "**overlap more**"),
        (box_table(-0.2, -0.3, -0.1), "**overlap less**"),
        (box_table(0.05, -0.1, 0.2), "**neither more nor less**"),
        (box_table(0.2, 0.1, 0.3).assign(n=9), "Too few nuclei"),
        (box_table(0.2, 0.1, 0.3).assign(slides=5), "Too few nuclei"),
        (box_table(0.2, 0.1, 0.3).iloc[:0], "Too few nuclei"),
    ],
)
def test_what_sam_does_is_said_with_its_interval(table: pd.DataFrame, said: str) -> None:
    assert said in causes_parts.box_sentence(table)


def test_a_name_is_only_shown_where_somebody_stands_out() -> None:
    seconds = [
        {"person": who, "patch": f"p{n}", "figure": "seconds", "value": 1.0 + (who == slow) + 0.01 * (n % 3)}
        for slow in ("b",)
        for n in range(12)
        for who in "abcd"
    ]
    named = who_stands_out(pd.DataFrame(seconds))
    same = who_stands_out(pd.DataFrame([{**row, "value": 1.0} for row in seconds]))
    shown = [causes_parts.out_rows(table).set_index("What") for table in (named, same)]
    assert list(named.columns) == OUT_COLUMNS
    assert shown[0].loc["Is slow", ["Who", "Value", "Others"]].tolist() == [
        "b",
        "7.5 s per nucleus",
        "2.7 to 2.7",
    ]
    assert shown[1].loc["Is slow", ["Who", "Value", "Others", "n"]].tolist() == [
        "nobody",
        "",
        "all 2.7 to 2.7",
        "",
    ]
    assert set(shown[0].drop(index="Is slow")["Who"]) == {"too few"}
