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


def test_the_setting_wins_and_a_wrong_one_is_named(monkeypatch):
    monkeypatch.setenv(compute.VARIABLE, "3")
    assert compute.use_threads(1) == 3 and torch.get_num_threads() == 3
    monkeypatch.delenv(compute.VARIABLE)
    assert compute.use_threads(2) == 2 and torch.get_num_threads() == 2
    monkeypatch.setenv(compute.VARIABLE, "many")
    with pytest.raises(InputError, match="'many'"):
        compute.use_threads(1)
