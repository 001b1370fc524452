"""A few inputs of every kind of the fuzz benchmark: each is taken, or refused in words of use."""

import os
import tempfile
from collections import Counter
from pathlib import Path

import pytest
from streamlit.runtime import Runtime

from benchmarks import fuzz
from benchmarks.fuzz_inputs import evil_pickles
from benchmarks.fuzz_targets import TARGETS

# A run to be brought back has to be trained first, which takes longer than all the rest; see test_bundles.py.
QUICK = tuple(name for name in TARGETS if name != "import-run")
SEED = 7
EACH = 8


@pytest.fixture(autouse=True)
def undisturbed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A room changes folders and the environment; both are as they were afterwards, and no time is judged."""
    from webapp import desk_routes

    monkeypatch.chdir(tmp_path)
    for name in ("ALLINSAM_STUDY", "ALLINSAM_UPLOAD_MB", "TORCHINDUCTOR_CACHE_DIR"):
        monkeypatch.setenv(name, os.environ.get(name, ""))
    monkeypatch.setattr(tempfile, "tempdir", tempfile.tempdir)
    for name in ("embedding_cache", "embed_ahead"):
        monkeypatch.setattr(desk_routes, name, getattr(desk_routes, name))
    monkeypatch.setattr(fuzz, "MOST_CPU_S", 600.0)
    monkeypatch.setattr(fuzz, "MOST_WALL_S", 600)


@pytest.mark.parametrize("name", QUICK)
def test_broken_and_hostile_input_is_taken_or_refused_in_words(name: str, tmp_path: Path) -> None:
    try:
        found = list(fuzz.outcomes(name, tmp_path / "room", SEED, range(EACH)))
    finally:
        Runtime._instance = None  # Streamlit keeps one per process
    assert len(found) == EACH
    assert [one.detail for one in found if one.verdict == fuzz.DEFECT] == []
    assert Counter(one.verdict for one in found)[fuzz.REFUSED] > 0


def test_the_same_seed_gives_the_same_inputs(tmp_path: Path) -> None:
    first, second = (
        [
            (one.verdict, one.detail.replace(str(tmp_path / room), ""))
            for one in fuzz.outcomes("manifest", tmp_path / room, SEED, range(4))
        ]
        for room in "ab"
    )
    assert first == second


class Breaks(TARGETS["plan"][0]):
    """Each input does one thing that no input may do."""

    deeds = (
        lambda room: (room.folder / "canary").touch(),
        lambda room: (room.folder / "elsewhere").touch(),
        lambda room: Path("relative").touch(),
        lambda room: {}["a stack trace"],
        lambda room: "no words of use",
        lambda room: [(room.study.folder / "left behind").touch(), "Reload the page."][1],
        lambda room: "Reload the page. " * 100,
    )

    def prepare(self, chance):
        deed = self.deeds[self.made]
        self.made += 1
        return lambda: deed(self.room)


def test_what_may_not_happen_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TARGETS, "breaks", (Breaks, 1))
    found = list(fuzz.outcomes("breaks", tmp_path / "room", SEED, range(len(Breaks.deeds))))
    said = [one.detail for one in found]
    assert {one.verdict for one in found} == {fuzz.DEFECT}, said
    for words, detail in zip(
        ("code in the input", "elsewhere", "relative", "KeyError", "no remedy", "left behind", "of 1700"),
        said,
        strict=True,
    ):
        assert words in detail


def test_a_hostile_pickle_would_run_where_it_is_unpickled(tmp_path: Path) -> None:
    """Else the canary would prove nothing."""
    import pickle

    pickle.loads(pickle.dumps(evil_pickles(tmp_path / "canary")[1])).close()
    assert (tmp_path / "canary").exists()
