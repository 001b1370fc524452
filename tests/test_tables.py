import io

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from allinsam.tables import SPREADSHEET_COMMANDS, csv_parts, harmless_cell, plain_cell, to_csv


def test_parts_of_a_csv_make_the_whole() -> None:
    table = pd.DataFrame({"number": range(250), "kind": [f"k{n}" for n in range(250)]})
    parts = list(csv_parts(table, rows=100))
    assert len(parts) == 3
    again = pd.read_csv(io.BytesIO(b"".join(parts)))
    pd.testing.assert_frame_equal(again, table, check_dtype=False)


def test_a_spreadsheet_runs_nothing() -> None:
    table = pd.DataFrame({"text": ["=1+1", "+a", "-b", "@c", "\td", "plain"], "number": [-1, 2, 3, 4, 5, 6]})
    lines = to_csv(table).decode().splitlines()
    assert lines[1:] == ["'=1+1,-1", "'+a,2", "'-b,3", "'@c,4", "'\td,5", "plain,6"]


@given(st.text(alphabet="'=+-@\t\rab", max_size=6))
def test_a_cell_comes_back_as_it_was(text: str) -> None:
    assert not harmless_cell(text).startswith(SPREADSHEET_COMMANDS)
    assert plain_cell(harmless_cell(text)) == text


@pytest.mark.parametrize("value", [-1, 2.5, None])
def test_what_is_no_text_stays(value: object) -> None:
    assert harmless_cell(value) is value
