from pathlib import Path

import pytest

from allinsam import jobs
from allinsam.interchange import FORMATS
from allinsam.store import Study
from allinsam.workflow.analysis_plan import set_margin
from allinsam.workflow.export_columns import COLUMNS
from allinsam.workflow.exports import EXPORTS, export_table
from allinsam.workflow.report import make_report
from tests.app.conftest import OpenPage
from tests.app.finished_pages import button, texts
from tests.finished import finished_study
from tests.studies import small_study

MADE_WHEN_ASKED_FOR = ("figures", "standing_out")


@pytest.fixture
def study(tmp_path: Path) -> Study:
    return finished_study(tmp_path / "study")


def test_every_table_has_a_link_and_its_rows(open_page: OpenPage, study: Study) -> None:
    app = open_page("export")
    assert not app.exception
    written = texts(app)
    for name in EXPORTS:
        assert f'href="/api/export/{name}.csv"' in written
        if name not in MADE_WHEN_ASKED_FOR:
            assert f"{len(export_table(study, name)):,} rows" in written
    explained = [frame.value["Column"].tolist() for frame in app.dataframe]
    assert explained == [list(columns) for columns in COLUMNS.values()]


def test_every_format_has_a_link_and_says_what_it_leaves_out(open_page: OpenPage) -> None:
    written = texts(open_page("export"))
    for name, row in FORMATS.items():
        assert (f'href="/api/export/annotations/{name}.zip"' in written) == (row.write is not None)
        assert (row.leaves_out[1:] in written) == (row.write is not None)


def test_the_report_is_a_job_and_then_a_link(open_page: OpenPage, study: Study) -> None:
    app = open_page("export")
    assert "Not made yet." in texts(app) and "report.html" not in texts(app)
    button(app, "Make the report").click().run()
    assert [view.verb for view in jobs.list_views(study)] == ["report"]
    assert button(app, "Make the report").disabled
    made = make_report(study)
    app = open_page("export")
    assert 'href="/api/export/report.html"' in texts(app)
    assert f"{made['figures']:,} rows" in texts(app) and "has changed since" not in texts(app)
    set_margin(study, None, 0.07)
    assert "The study has changed since." in texts(open_page("export"))


class TestWithoutData:
    @pytest.fixture
    def study(self, tmp_path: Path) -> Study:
        return small_study(tmp_path / "study")

    def test_empty_tables_are_called_empty(self, open_page: OpenPage) -> None:
        app = open_page("export")
        assert not app.exception
        filled = (*MADE_WHEN_ASKED_FOR, "people")
        assert texts(app).count(":gray[empty]") == len(EXPORTS) - len(filled)
        assert "No nucleus has been accepted yet." in texts(app)
        assert "/api/export/annotations" not in texts(app)
