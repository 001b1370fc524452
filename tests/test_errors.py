"""People who are not at the machine read a file's name, not where it lies."""

import pytest

from allinsam.errors import by_name


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("/srv/inbox/a_pas.png is empty. Export it again.", "a_pas.png is empty. Export it again."),
        ("a.png: /srv/inbox/a.png is empty.", "a.png is empty."),
        ("2 problems\na.png: /srv/a.png is empty.\nb: c", "2 problems\na.png is empty.\nb: c"),
        ("Nothing came from '/srv/my.zip': 3 problems", "Nothing came from 'my.zip': 3 problems"),
        (r"C:\Users\ana\a.tif is cut off.", "a.tif is cut off."),
        ("See https://example.org/a/b and /help.", "See https://example.org/a/b and /help."),
        ("Give 0.25 um/px, yes/no or 1 / 2.", "Give 0.25 um/px, yes/no or 1 / 2."),
        ("patch a/b/c.png is not in the archive", "patch a/b/c.png is not in the archive"),
    ],
)
def test_a_file_is_called_by_its_name(said: str, shown: str) -> None:
    assert by_name(said) == shown
