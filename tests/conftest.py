"""Fixtures for every test."""

from pathlib import Path

import pytest
import torch

from allinsam.store import Study, create_study

# The tests of one run share few cores; more threads than cores cost far more than they bring.
torch.set_num_threads(1)


@pytest.fixture
def empty_study(tmp_path: Path) -> Study:
    """A study without images or people."""
    return create_study(tmp_path / "study", "Empty study", "compact", "0" * 64)
