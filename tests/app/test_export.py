from pathlib import Path

import pytest

from allinsam.interchange import FORMATS
from allinsam.store import Study
from allinsam.workflow.export_columns import COLUMNS
from allinsam.workflow.exports import EXPORTS, export_table
from tests.app.conftest import OpenPage
from tests.app.finished_pages import texts
from tests.finished import finished_study
from tests.studies import small_study


@pytest.fixture
def study(tmp_path: Path) -> Study:
    return finished_study(tmp_path / "study")


def test_every_table_has_a_link_and_its_rows(open_page: OpenPage, study: Study) -> None:
    app = open_page("export")
    assert not app.exception
    written = texts(app)
    for name in EXPORTS:
        assert f'href="/api/export/{name}.csv"' in written
        assert f"{len(export_table(study, name)):,} rows" in written
    explained = [frame.value["Column"].tolist() for frame in app.dataframe]
    assert explained == [list(columns) for columns in COLUMNS.values()]


def test_every_format_has_a_link_and_says_what_it_leaves_out(open_page: OpenPage) -> None:
    written = texts(open_page("export"))
    for name, row in FORMATS.items():
        assert (f'href="/api/export/annotations/{name}.zip"' in written) == (row.write is not None)
        assert (row.leaves_out[1:] in written) == (row.write is not None)


class TestWithoutData:
    @pytest.fixture
    def study(self, tmp_path: Path) -> Study:
        return small_study(tmp_path / "study")

    def test_empty_tables_are_called_empty(self, open_page: OpenPage) -> None:
        app = open_page("export")
        assert not app.exception
        assert texts(app).count(":gray[empty]") == len(EXPORTS)
        assert "No nucleus has been accepted yet." in texts(app)
        assert "/api/export/annotations" not in texts(app)
