"""The Time tab of the Agreement page."""

from pathlib import Path

import pandas as pd
import pytest
from streamlit.testing.v1 import AppTest

from allinsam.pace import Ratio
from allinsam.store import Study
from allinsam.store import study as study_rows
from allinsam.workflow.annotating import ActLog
from allinsam.workflow.desk import Desk
from allinsam.workflow.suggesting import propose
from tests.app.conftest import OpenPage
from tests.app.finished_pages import texts
from tests.finished import finish, finished_study
from tests.studies import PERSON, PODOCYTES, NoCache, small_study
from webapp import time_parts


@pytest.fixture
def study(tmp_path: Path) -> Study:
    return finished_study(tmp_path / "study", scored=False)


def open_times(open_page: OpenPage, **who: str) -> AppTest:
    app = open_page("agreement", **who)
    app.session_state["tab"] = "Time"
    return app.run()


def dial(app: AppTest, label: str) -> object:
    return next(group for group in app.button_group if group.label == label)


def table_with(app: AppTest, column: str) -> pd.DataFrame:
    return next(frame.value for frame in app.dataframe if column in frame.value.columns)


def test_each_person_with_intervals(open_page: OpenPage, study: Study) -> None:
    app = open_times(open_page)
    assert not app.exception
    assert len(app.get("plotly_chart")) == 4
    rows = table_with(app, "Median s per nucleus").set_index("Person")
    assert list(rows.index) == ["e1", "s1", "s2"]
    assert rows.loc["s1", ["Patches", "Nuclei kept"]].tolist() == [8, 48]
    assert rows.loc["s1", "Median s per nucleus"] == "5.0 (too few slides)"
    assert rows.loc["e1", "Median min per patch"] == "0.6 (too few slides)"
    written = texts(app)
    assert "each counted up to 60 s" in written and "whole slides drawn again" in written
    assert "Simulated tissue: no evidence for real tissue" in written
    assert 'href="/api/export/times.csv"' in written
    assert "No patch that began with suggestions" in written


def test_turning_the_dial_changes_every_figure(open_page: OpenPage, study: Study) -> None:
    with study.science.write() as db:
        plan = study_rows.get_study(db)["plan"]
        study_rows.change_study(db, None, plan={**plan, "idle_cutoff_s": 2.0})
    app = open_times(open_page)
    # The study's own cut-off is a stop of the dial, and where it stands first.
    shown = dial(app, "A gap between two acts counts up to")
    assert shown.options[0] == "2 s (this study)" and len(shown.options) == 5
    median = "Median s per nucleus"
    assert set(table_with(app, median)[median]) == {"2.0 (too few slides)"}
    shown.set_value(30.0).run()
    assert not app.exception
    assert set(table_with(app, median)[median]) == {"5.0 (too few slides)"}
    assert "each counted up to 30 s" in texts(app)


def test_groups_and_minutes_and_who_takes_longer(open_page: OpenPage, study: Study) -> None:
    app = open_times(open_page)
    dial(app, "For each").set_value("group").run()
    dial(app, "Figure").set_value("min_per_patch").run()
    assert not app.exception
    ratio = "students / experts (95 % interval)"
    rows = table_with(app, ratio)
    # A student takes 31 s where the expert takes 36 s.
    assert rows[ratio].unique().tolist() == ["0.86"]
    assert rows["On"].unique().tolist() == ["8 shared patches"]
    # Of four slides nothing is concluded.
    assert "Too few slides or patches to say who takes longer" in texts(app)
    fates = table_with(app, "Drawn by hand").set_index("Group")
    assert fates.loc["students", ["Nuclei", "Drawn by hand", "Kept as shown"]].tolist() == [96, "100%", "0%"]


def test_arms_need_more_than_one(open_page: OpenPage, study: Study) -> None:
    app = open_times(open_page)
    dial(app, "For each").set_value("arm").run()
    assert not app.exception
    assert "There is one arm only" in texts(app)


def test_a_reviewer_sees_times_and_downloads_nothing(open_page: OpenPage, study: Study) -> None:
    app = open_times(open_page, role="reviewer")
    assert not app.exception and "/api/export/" not in texts(app)


class TestTooFew:
    @pytest.fixture
    def study(self, tmp_path: Path) -> Study:
        study = small_study(tmp_path / "study")
        for person, patch_id in (("s1", 1), ("s1", 2), ("s2", 1)):
            finish(study, person, "student", patch_id, {1: PODOCYTES, 2: ()})
        return study

    def test_it_says_so_instead_of_a_number(self, open_page: OpenPage) -> None:
        app = open_times(open_page)
        assert not app.exception
        rows = table_with(app, "Median s per nucleus")
        assert set(rows["Median s per nucleus"]) == set(rows["Median min per patch"]) == {"too few"}
        written = texts(app)
        assert (
            "too few for a median" in written
            and "Too few slides or patches to say who takes longer" in written
        )
        assert "Nobody has 6 patches yet" in written
        assert table_with(app, "Drawn by hand")["Drawn by hand"].tolist() == ["too few", "too few"]


class TestNothingHandedIn:
    @pytest.fixture
    def study(self, tmp_path: Path) -> Study:
        return small_study(tmp_path / "study")

    def test_it_says_when_times_appear(self, open_page: OpenPage) -> None:
        app = open_page("agreement")
        assert not app.exception
        assert "No patch has been handed in yet" in texts(app)


class TestSuggestions:
    @pytest.fixture
    def study(self, tmp_path: Path) -> Study:
        """One person who keeps whatever is proposed on one of two patches."""
        study = small_study(tmp_path / "study", slides=1, patches_per_slide=2, guidance="suggestion")
        propose(study, 1, NoCache)
        clock = iter(range(0, 10**9, 1000))
        desk = Desk(study, 1, PERSON, ActLog("tab", "test"), NoCache(), lambda: float(next(clock)))
        desk.do("load")
        desk.accept(list(desk.state.objects))
        desk.submit()
        return study

    def test_kept_mistakes_are_counted_and_few_give_no_share(self, open_page: OpenPage) -> None:
        app = open_page("agreement")
        assert not app.exception
        rows = table_with(app, "Wrong on purpose").set_index("Who or what")
        assert rows.loc["Everyone", ["Wrong on purpose", "Kept"]].tolist() == [1, 1]
        assert rows.loc["Everyone", "Share kept (95 % interval)"] == "too few"


def test_a_share_of_planted_mistakes_with_its_interval() -> None:
    row = {"by": "group", "of": "student", "planted": 10, "planted_kept": 1, "planted_kept_share": 0.1}
    row |= {"low": 0.018, "high": 0.404, "real": 0, "real_kept": 0, "real_kept_share": None, "arm": "all"}
    row |= {"planted_kept_median_s": 2.04, "planted_kept_timed": 5}
    row |= {"real_kept_median_s": None, "real_kept_timed": 0}
    shown = time_parts.bias_rows(pd.DataFrame([row])).iloc[0]
    assert shown["Share kept (95 % interval)"] == "10% (2% to 40%)" and shown["Meant and kept"] == ""
    assert (shown["Of"], shown["Who or what"]) == ("Group", "students")
    assert shown["s before keeping a wrong one"] == "2.0 (n = 5)"
    assert shown["s before keeping a right one"] == "too few (n = 0)"


def test_a_person_of_two_arms_is_told_apart() -> None:
    row = {"by": "person_id", "of": "s1", "planted": 0, "planted_kept": 0, "planted_kept_share": None}
    row |= {"low": None, "high": None, "real": 0, "real_kept": 0, "real_kept_share": None}
    row |= {f"{name}_kept_{what}": 0 for name in ("planted", "real") for what in ("median_s", "timed")}
    arms = [{"arm": f"suggestion/{tool}"} for tool in ("box_sam", "contour")]
    who = time_parts.bias_rows(pd.DataFrame([row | arm for arm in arms]))["Who or what"]
    assert who.nunique() == 2 and who.str.startswith("s1, ").all()


def ratio(low: float, high: float, slides: int = 6) -> Ratio:
    return Ratio((low + high) / 2, low, high, 8, 8, True, slides)


@pytest.mark.parametrize(
    ("found", "said"),
    [
        ({15.0: ratio(1.1, 2), 60.0: ratio(1.2, 2)}, "**At every cut-off** a takes longer than b (s)."),
        ({15.0: ratio(0.9, 2), 60.0: ratio(0.8, 2)}, "**At every cut-off** no difference is shown"),
        (
            {15.0: ratio(0.5, 0.9), 30.0: ratio(0.5, 0.9), 60.0: ratio(0.8, 2)},
            "**It depends on the cut-off** (s): a takes less time than b at 15 and 30 s; no difference is",
        ),
        (
            {15.0: ratio(float("nan"), float("nan")), 60.0: ratio(float("nan"), float("nan"), slides=5)},
            "Too few slides",
        ),
    ],
)
def test_the_conclusion_says_whether_it_hangs_on_the_dial(found: dict[float, Ratio], said: str) -> None:
    assert time_parts.conclusion(found, "a", "b", "takes", "s").startswith(said)
