"""Fixtures for every test."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, settings

from allinsam.store import Study, create_study

# The tests of one run share few cores; more threads than cores cost far more than they bring.
torch.set_num_threads(1)
# Nor may a test fail because the machine is busy.
settings.register_profile("busy", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy")


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Also after a test whose command has chosen the number of threads for itself."""
    yield
    torch.set_num_threads(1)


@pytest.fixture
def empty_study(tmp_path: Path) -> Study:
    """A study without images or people."""
    return create_study(tmp_path / "study", "Empty study", "compact", "0" * 64)
