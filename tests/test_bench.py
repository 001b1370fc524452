"""What a person is told when a gesture could not be kept."""

from sqlite3 import OperationalError
from types import SimpleNamespace

from webapp.annotate.bench import attempt


def test_a_gesture_that_could_not_be_saved_is_said_to_be_unsaved() -> None:
    bench = SimpleNamespace(trouble=None)

    def on_a_full_disk() -> None:
        raise OperationalError("database or disk is full")

    assert not attempt(bench, on_a_full_disk)
    assert "Not saved" in bench.trouble and "disk is full" in bench.trouble
    assert attempt(bench, lambda: None) and bench.trouble is None
