import os

import pytest
import torch

from allinsam import compute
from allinsam.errors import InputError


@pytest.fixture(autouse=True)
def same_threads_afterwards():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(("busy", "free"), [(0.0, 4), (1.4, 3), (3.9, 1), (20.0, 1)])
def test_only_free_cores_are_used(monkeypatch, busy, free):
    monkeypatch.setattr(compute, "cores", lambda: 4)
    monkeypatch.setattr(os, "getloadavg", lambda: (busy, busy, busy))
    assert compute.free_cores() == free


def test_the_setting_wins(monkeypatch):
    for variable in compute.VARIABLES:
        monkeypatch.delenv(variable, raising=False)
    assert compute.use_threads(2) == 2 and torch.get_num_threads() == 2
    monkeypatch.setenv("OMP_NUM_THREADS", "1,2")
    assert compute.use_threads(2) == 1 and torch.get_num_threads() == 1
    monkeypatch.setenv("ALLINSAM_THREADS", "3")
    assert compute.use_threads(2) == 3 and torch.get_num_threads() == 3


@pytest.mark.parametrize("variable", compute.VARIABLES)
@pytest.mark.parametrize("value", ["many", "0", "-1"])
def test_a_wrong_setting_is_named(monkeypatch, variable, value):
    monkeypatch.delenv("ALLINSAM_THREADS", raising=False)
    monkeypatch.setenv(variable, value)
    with pytest.raises(InputError, match=f"{variable} is '{value}'"):
        compute.use_threads(1)
