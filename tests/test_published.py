"""The paper's figures stand in one place and come out as they were printed."""

import numpy as np
import pytest

from allinsam.errors import InputError
from allinsam.experiments.published import IN_HOUSE, MONUSEG, MONUSEG_OTHERS, PRINTED_IN, printed_table
from allinsam.training.methods import METHODS


def test_table_1_as_printed() -> None:
    table = printed_table("Table 1").set_index(["method", "annotators"])
    assert len(table) == len(IN_HOUSE)
    for (method, group), values in IN_HOUSE.items():
        assert tuple(table.loc[(METHODS[method].title, group)]) == values
    # Li et al., Table 1: All-in-SAM by students, podocytes of injured glomeruli.
    assert table.loc[("All-in-SAM", "student"), "podocyte, injured"] == 0.7364


def test_what_was_not_reported_is_missing_and_not_zero() -> None:
    others = printed_table("Table 2").set_index(["method", "data"])
    assert len(others) == len(MONUSEG_OTHERS)
    assert np.isnan(others.loc[("Xie", "all"), "dice"]) and others.loc[("Xie", "all"), "adj"] == 0.7063
    table = printed_table("Table 3")
    assert len(table) == len(MONUSEG) and table.notna().all(axis=None)


def test_every_table_says_what_it_is_of_and_no_other_exists() -> None:
    assert all(len(printed_table(name)) and text for name, text in PRINTED_IN.items())
    with pytest.raises(InputError, match="no 'Table 9'"):
        printed_table("Table 9")
