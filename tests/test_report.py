"""The report: one page that needs no other file, and says nothing that is not in the table of figures."""

import csv
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pandas as pd
import pytest

from allinsam import accounts
from allinsam.__main__ import main
from allinsam.store import Study, create_study
from allinsam.store import study as study_store
from allinsam.workflow.analysis_plan import set_margin
from allinsam.workflow.data_card import data_card, methods_paragraph
from allinsam.workflow.figures import figures_table
from allinsam.workflow.figures.kinds import KINDS
from allinsam.workflow.report import MOST_LINES, kept_report, make_report, report_html
from allinsam.workflow.report_charts import interval_line, score_lines
from allinsam.workflow.report_layout import CHAPTERS
from tests.finished import MESANGIAL_ID, PODOCYTE, finish, finished_study
from tests.studies import PODOCYTES, small_study

VOID = {"meta", "link", "br", "img", "path", "circle", "polyline"}


class Reader(HTMLParser):
    """Tags that are opened and closed in their order, every attribute, and the text."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text: list[str] = []
        self.tables: list[list[list[str]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += attrs

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)
        if {"td", "th"} & set(self.open) and "title" not in self.open:
            self.tables[-1][-1][-1] += data + " "


def read(written: str) -> Reader:
    reader = Reader()
    reader.feed(written)
    assert reader.open == ["html"] or reader.open == []
    return reader


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    return finished_study(tmp_path_factory.mktemp("finished") / "study")


@pytest.fixture(scope="module")
def figures(study: Study) -> pd.DataFrame:
    return figures_table(study)


@pytest.fixture(scope="module")
def written(study: Study, figures: pd.DataFrame) -> str:
    return report_html(data_card(study), figures)


def test_the_page_needs_no_other_file_and_has_no_script(written: str) -> None:
    reader = read(written)
    assert not {"src", "srcset", "onload", "onclick"} & {name for name, _ in reader.attributes}
    assert all(value.startswith("#") for name, value in reader.attributes if name == "href" and value)
    assert (
        "<script" not in written
        and "@import" not in written
        and "url(" not in written
        and "http" not in written
    )
    assert "@media print" in written and "@page" in written and "data:image" not in written


def test_every_chapter_is_there_and_linked(written: str) -> None:
    for number, chapter in enumerate(CHAPTERS, start=2):
        assert f'<a href="#c{number}">' in written and f'<section id="c{number}">' in written
        assert f"<h2>{number}. {chapter.title}</h2>" in written


def test_every_figure_shown_is_defined_with_what_n_counts(written: str, figures: pd.DataFrame) -> None:
    text = " ".join(read(written).text)
    for name in set(figures["figure"]):
        kind = KINDS[name]
        assert f"{kind.title}" in text and kind.definition in text and f"n counts {kind.n_of}." in text
        assert written.count(f"<code>{name}</code>") == 1


def test_figures_stand_where_they_belong(written: str, figures: pd.DataFrame) -> None:
    reader = read(written)
    tables = {table[0][0].strip(): table for table in reader.tables if len(table[0]) > 5}
    groups = tables["Condition"]
    f1 = figures[(figures["section"] == "agreement") & (figures["figure"] == "f1")]
    assert len(groups) == 1 + len(f1)
    for row, line in zip(f1.to_dict("records"), groups[1:], strict=True):
        cells = [cell.strip() for cell in line]
        assert cells[:4] == [row["condition"], row["a"], row["b"], row["class"]]
        slides = ", ".join(f"{float(point):.3f}" for point in row["by_slide"].split())
        assert re.sub(r"\s+", " ", cells[4]) == f"{row['value']:.3f} too few slides: {slides}"
        assert cells[-3:] == [f"{row['n']:.0f}", f"{row['patches']:.0f}", f"{row['slides']:.0f}"]


def test_the_papers_table_has_injured_normal_and_average(written: str, figures: pd.DataFrame) -> None:
    paper = next(table for table in read(written).tables if "mesangial, injured" in " ".join(table[0]))
    heads = [cell.strip() for cell in paper[0]]
    assert heads[1:4] == ["mesangial, injured", "mesangial, normal", "mesangial, average"]
    assert [line[0].strip() for line in paper[1:]] == ["expert", "students", "untrained", "patches (weight)"]
    scores = figures[(figures["section"] == "model_scores") & (figures["metric"] == "f1_instance")]
    mine = scores[(scores["a"] == "students") & (scores["class"] == "podocyte")].set_index("condition")[
        "value"
    ]
    cells = [cell.split()[0] for cell in paper[2][4:]]
    assert cells == [f"{mine[key]:.3f}" for key in ("injured", "normal", "all")]
    assert [cell.strip() for cell in paper[-1][1:4]] == ["4", "4", "8"]


def test_the_page_says_whose_data_and_which_margin(study: Study, written: str, figures: pd.DataFrame) -> None:
    assert "Simulated tissue and people: no evidence for real tissue." in written
    assert methods_paragraph(data_card(study)).split(".")[0] in written
    card = data_card(study)
    assert card["versions"]["numpy"] in written and card["written_at"][:10] in written
    assert "nobody has set one of their own" in written
    late = {
        **card["analysis"]["margin"],
        "is_default": False,
        "after_results": True,
        "first_scores_at": "2026-01-01",
    }
    told = report_html({**card, "analysis": {**card["analysis"], "margin": late}}, figures)
    assert re.search(r'class="warning">The margin of 0.05 was set on .* fit them', told)


def test_what_people_wrote_is_text(tmp_path: Path) -> None:
    study = finished_study(tmp_path / "study")
    bad = "<script>alert('x')</script>\"&"
    with study.science.write() as db:
        study_store.change_study(db, None, name=bad)
        study_store.change_class(db, PODOCYTE, None, name=bad)
        db["patch"].update(1, {"name": bad})
        db["run"].update(1, {"name": bad})
    page = report_html(data_card(study), figures_table(study))
    assert "<script" not in page and page.count("&lt;script&gt;") > 10
    read(page)


def test_names_of_people_are_not_in_it(tmp_path: Path) -> None:
    study = finished_study(tmp_path / "study")
    accounts.invite(study, "Ana Lovelace", "reviewer", "expert")
    make_report(study)
    for path in ("report.html", "figures.csv"):
        assert "Lovelace" not in (study.folder / "exports" / path).read_text("utf-8")


def test_too_much_to_count_is_said_with_the_remedy(tmp_path: Path) -> None:
    study = finished_study(tmp_path / "study")
    page = report_html(data_card(study), figures_table(study, at_most=10))
    told = [text for text in read(page).text if text.startswith("Not counted yet")]
    assert any("python -m allinsam agreement --count" in text for text in told)
    assert any("python -m allinsam report" in text for text in told)


def test_an_empty_study_and_one_rater_have_a_report(tmp_path: Path) -> None:
    page = report_html(*_of(create_study(tmp_path / "empty", "New", "compact", "0" * 64)))
    assert len(read(page).tables) == 0 and page.count("Nothing yet") == len(CHAPTERS)
    study = small_study(tmp_path / "study")
    finish(study, "s1", "student", 1, {PODOCYTE: PODOCYTES, MESANGIAL_ID: ()})
    page = report_html(*_of(study))
    assert "too few patches" in page and page.count("Nothing yet") == 5  # all about two people or a model
    read(page)


def _of(study: Study) -> tuple[dict, pd.DataFrame]:
    return data_card(study), figures_table(study)


def test_a_long_table_says_what_it_leaves_out(study: Study, figures: pd.DataFrame) -> None:
    pairs = figures[(figures["section"] == "pairs") & (figures["figure"] == "f1")].iloc[:1]
    many = pd.concat(
        [pairs.assign(a=f"p-{number:03}") for number in range(MOST_LINES + 5)], ignore_index=True
    )
    page = report_html(data_card(study), many)
    assert f"The first {MOST_LINES} of {MOST_LINES + 5} lines; the others are in figures.csv." in page
    assert "p-059" in page and "p-060" not in page


# ---------------------------------------------------------------- drawings


def test_an_interval_is_drawn_to_scale() -> None:
    row = {"value": 0.5, "low": 0.25, "high": 1.0, "by_slide": ""}
    drawn = interval_line(row, 0.0, 1.0)
    assert 'cx="75.0"' in drawn and "M39.5 9.0H146.0" in drawn
    slides = {"value": 0.5, "low": None, "high": None, "by_slide": "0.0000 1.0000"}
    drawn = interval_line(slides, 0.0, 1.0)
    assert drawn.count("<circle") == 3 and 'cx="4.0"' in drawn and 'cx="146.0"' in drawn
    assert interval_line({**slides, "value": None}, 0.0, 1.0) == interval_line(None, 0.0, 1.0) == ""
    with_margin = interval_line({**row, "value": 0.1}, -1.0, 1.0, 0.0, 0.05)
    assert with_margin.count('stroke-dasharray="2 2"') == 2


def test_scores_over_minutes_have_a_point_for_each_run_with_minutes(figures: pd.DataFrame) -> None:
    runs = figures[figures["section"] == "runs"]
    drawn = score_lines(runs, "f1_instance")
    assert drawn.count("<circle") == 3 * 2  # the untrained one took nobody's time
    assert score_lines(runs.iloc[:0], "f1_instance") == ""


# ---------------------------------------------------------------- files


def test_the_command_writes_the_page_and_the_table(study: Study, tmp_path: Path, capsys) -> None:
    out = tmp_path / "paper" / "report.html"
    assert main(["report", "--study", str(study.folder), "--out", str(out), "--json"]) == 0
    done = json.loads(capsys.readouterr().out)
    assert done["files"] == [str(out), str(out.with_name("figures.csv"))]
    rows = list(csv.DictReader(io.StringIO(out.with_name("figures.csv").read_text("utf-8"))))
    assert len(rows) == done["figures"] > 1000
    read(out.read_text("utf-8"))


def test_a_kept_report_knows_whether_it_still_holds(tmp_path: Path) -> None:
    study = finished_study(tmp_path / "study")
    assert kept_report(study) is None
    made = make_report(study)
    kept = kept_report(study)
    assert kept and kept.is_current and kept.n_figures == made["figures"]
    set_margin(study, None, 0.1)
    assert not kept_report(study).is_current
    make_report(study)
    assert kept_report(study).is_current
    finish(study, "s3", "student", 1, {PODOCYTE: PODOCYTES, MESANGIAL_ID: ()})
    assert not kept_report(study).is_current
    kept.page.with_suffix(".json").write_text("{", "utf-8")
    assert kept_report(study) is None


def test_a_report_that_is_stopped_leaves_the_old_one(tmp_path: Path) -> None:
    study = finished_study(tmp_path / "study")
    assert make_report(study, should_stop=lambda: True)["files"] == []
    assert kept_report(study) is None
