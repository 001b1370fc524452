import json
import re
import subprocess
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from allinsam import jobs
from allinsam.store import Study
from allinsam.store import assignments as queue
from allinsam.store import jobs as job_rows
from tests.app.conftest import ROOT, OpenPage
from tests.app.finished_pages import button, texts
from tests.finished import finish, finished_study
from tests.studies import MESANGIAL, PODOCYTES, small_study
from webapp import agreement_parts


@pytest.fixture
def study(tmp_path: Path) -> Study:
    return finished_study(tmp_path / "study", scored=False)


def open_tab(app: AppTest, name: str) -> AppTest:
    app.session_state["tab"] = name
    return app.run()


def choose(app: AppTest, **values: object) -> AppTest:
    """Set widgets by their key; all at once."""
    for key, value in values.items():
        app.session_state[key] = value
    return app.run()


def heat_cells(app: AppTest) -> dict[tuple[str, str], str]:
    """What is written in the heat map's cells."""
    figure = json.loads(app.get("plotly_chart")[0].proto.spec)
    cells = next(trace for trace in figure["data"] if trace["type"] == "scatter")
    return {tuple(pair): text for pair, text in zip(cells["customdata"], cells["text"], strict=True)}


def test_everybody_with_everybody(open_page: OpenPage, study: Study) -> None:
    app = open_page("agreement")
    assert not app.exception
    assert len(app.get("plotly_chart")) == 1
    cells = heat_cells(app)
    assert cells[("s1", "s2")] == cells[("s2", "s1")] == "<b>0.83</b><br>n = 16"
    assert not {("e1", "e1"), ("s1", "s1")} & cells.keys()  # nobody looked twice
    written = texts(app)
    assert "Simulated tissue: no evidence for real tissue" in written
    assert 'href="/api/export/agreement.csv"' in written
    assert (
        "Instance F1: the same nuclei found" in written and "begun from suggestions are left out" in written
    )


def test_groups_majority_and_alpha(open_page: OpenPage, study: Study) -> None:
    for patch_id in range(1, 9):
        finish(study, "s3", "student", patch_id, {1: PODOCYTES[:2], 2: MESANGIAL})
    app = open_tab(open_page("agreement"), "Groups")
    assert not app.exception
    groups, alpha = (frame.value for frame in app.dataframe)
    rows = groups.set_index(["Class", "Who"])
    row = rows.loc[("podocyte", "majority of students and expert")]
    assert (row["F1 (95 % interval)"], row["n"], row["Patches"], row["Slides"]) == (
        "0.86 (too few slides: 0.86, 0.86, 0.86, 0.86)",
        8,
        8,
        4,
    )
    assert rows.loc[("podocyte", "two students"), "n"] == 24
    assert alpha["Classes asked for"].tolist() == ["mesangial + podocyte"]
    assert alpha["n"].tolist() == [56] and alpha["Class only"].tolist() == ["1.00"]


def select_row(app: AppTest, key: str, row: int) -> AppTest:
    """Click a row of a table, whose key begins so."""
    frame = next(frame for frame in app.dataframe if str(frame.key or "").startswith(key))
    app.session_state[frame.key] = {"selection": {"rows": [row], "columns": [], "cells": []}}
    return app.run()


def test_a_row_of_groups_opens_its_patches_with_both_outlines(open_page: OpenPage, study: Study) -> None:
    for patch_id in range(1, 9):
        finish(study, "s3", "student", patch_id, {1: PODOCYTES[:2], 2: MESANGIAL})
    app = open_tab(open_page("agreement"), "Groups")
    assert "/api/agreement/" not in texts(app)
    who = app.dataframe[0].value[["Class", "Who"]].apply(tuple, axis=1).tolist()
    app = select_row(app, "groups ", who.index(("podocyte", "majority of students and expert")))
    assert not app.exception
    assert "**Majority of students and expert, podocyte**: 8 comparisons, worst first" in texts(app)
    patches = app.dataframe[1].value
    assert patches["Both"].tolist() == [3] * 8 and patches["Only the second"].tolist() == [1] * 8
    with study.science.read() as db:
        keys = {row["patch_id"]: row["id"] for row in queue.list_assignments(db, "e1")}
    first = re.search(r"/api/agreement/majority/(\d+)\.png\?[^\"]*class=podocyte", texts(app))
    assert int(first.group(1)) in keys.values()
    app = select_row(app, "groups ", who.index(("podocyte", "two students")))
    assert not app.exception and "24 comparisons" in texts(app)
    assert re.search(r"/api/agreement/\d+/\d+\.png", texts(app))


def test_classes_and_times(open_page: OpenPage, study: Study) -> None:
    app = open_tab(open_page("agreement"), "Class")
    classes = app.dataframe[0].value
    assert classes["Same class"].unique().tolist() == ["100.0%"]
    assert classes["Nuclei both found"].tolist() == [48, 48, 40]


def test_filters_say_what_is_looked_at(open_page: OpenPage, study: Study) -> None:
    app = choose(open_page("agreement"), figure="matched_dice", among="student", condition="injured", iou=0.9)
    app = choose(app, **{"class": "podocyte"})
    assert not app.exception
    assert heat_cells(app) == {pair: "<b>1.00</b><br>n = 4" for pair in (("s1", "s2"), ("s2", "s1"))}
    assert "Matched Dice: the same outline" in texts(app)
    title = json.loads(app.get("plotly_chart")[0].proto.spec)["layout"]["title"]["text"]
    assert "podocyte, injured, IoU above 0.9" in title
    app = choose(app, among="expert")
    assert not app.exception and "No two of these people" in texts(app)


@pytest.mark.parametrize(
    ("figure", "text"), [("pq", "0.83"), ("cohen_kappa", "1.00"), ("gwet_ac1", "1.00"), ("dice", "0.83")]
)
def test_every_figure(open_page: OpenPage, study: Study, figure: str, text: str) -> None:
    app = choose(open_page("agreement"), figure=figure)
    assert not app.exception and heat_cells(app)[("s1", "s2")].startswith(f"<b>{text}</b>")


def test_the_patches_behind_a_cell(open_page: OpenPage, study: Study) -> None:
    app = open_page("agreement")
    assert "/api/agreement/" not in texts(app)
    app = choose(app, a="s1", b="e1")  # in any order
    assert not app.exception
    rows = app.dataframe[0].value
    assert len(rows) == 16 and rows["Instance F1"].tolist() == sorted(rows["Instance F1"])
    assert rows.iloc[0][["Class", "Both", "Only e1", "Only s1"]].tolist() == ["podocyte", 3, 1, 0]
    with study.science.read() as db:
        of = {row["person_id"]: row["id"] for row in queue.patch_assignments(db, 1)}
    written = texts(app)
    assert f"/api/agreement/{of['e1']}/{of['s1']}.png?iou=0.5&amp;by=nucleus&amp;class=podocyte" in written
    assert "e1 (solid)" in written and "s1 (dashed)" in written
    app = choose(app, figure="cohen_kappa")
    assert app.dataframe[0].value["Same class"].unique().tolist() == ["100%"]
    assert "by=class" in texts(app)
    app = choose(app, among="student")  # the expert is left out
    assert not app.exception and "/api/agreement/" not in texts(app)


def test_a_person_with_themself(open_page: OpenPage, study: Study) -> None:
    for patch_id in range(1, 5):
        finish(study, "s1", "student", patch_id, {1: PODOCYTES[:-2], 2: MESANGIAL}, "repeat")
    app = open_page("agreement")
    assert heat_cells(app)[("s1", "s1")] == "<b>0.90</b><br>n = 8"
    app = choose(app, a="s1", b="s1")
    assert not app.exception and "s1, again (dashed)" in texts(app)
    app = open_tab(app, "Same person")
    assert not app.exception
    again, drift = (frame.value for frame in app.dataframe)
    row = again.set_index("Class").loc["podocyte"]
    assert (row["F1 (95 % interval)"], row["Patches"], row["both"]) == (
        "0.80 (too few slides: 0.80, 0.80)",
        4,
        8,
    )
    # Of eight patches the last third is two: too few for a figure.
    assert drift["Last third"].unique().tolist() == ["too few (n = 2)"]
    assert drift["Person"].tolist() == ["e1", "s1", "s2"]


def test_much_to_compare_is_left_to_a_job(open_page: OpenPage, study: Study, monkeypatch) -> None:
    monkeypatch.setattr(agreement_parts, "AT_ONCE", 10)
    app = open_page("agreement")
    assert not app.exception and not app.get("plotly_chart")
    assert "152 outlines on 8 patches are still to be compared" in texts(app)
    button(app, "Compare them").click().run()
    assert not app.exception
    (job,) = jobs.list_views(study)
    assert (job.verb, job.state) == ("agreement", "queued")
    assert not any(b.label == "Compare them" for b in app.button)
    with study.server.read() as db:
        command = jobs.command_of(study, job_rows.get_job(db, job.id))
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    app.run()
    assert len(app.get("plotly_chart")) == 1 and jobs.get_view(study, job.id).state == "finished"
    # One more patch is little: at once.
    finish(study, "s3", "student", 3, {1: PODOCYTES[:1]})
    monkeypatch.setattr(agreement_parts, "AT_ONCE", 30)
    app.run()
    assert ("s1", "s3") in heat_cells(app)


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
        assert not app.exception and heat_cells(app)[("s1", "s2")] == "too few<br>n = 2"
        app = open_tab(app, "Groups")
        groups, alpha = app.dataframe[0].value, app.dataframe[1].value
        assert groups["F1 (95 % interval)"].tolist() == groups["Dice"].tolist() == ["too few", "too few"]
        assert alpha["Found and class"].tolist() == alpha["Class only"].tolist() == ["too few"]
        app = open_tab(app, "Same person")
        assert "Nobody has handed in a hidden repeat" in texts(app)
        assert app.dataframe[0].value["First third"].tolist() == ["too few (n = 1)"] * 2
        app = open_tab(app, "Class")
        assert not app.exception
        classes = app.dataframe[0].value
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
