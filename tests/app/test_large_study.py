"""A page of a large study asks the store as often as that of a small one, and reads no outline."""

import sqlite3
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from allinsam import masks
from allinsam.store import Study, connection
from allinsam.workflow import overlapping, reviewing
from benchmarks.agreement import Size, make_study
from tests.people import signed_in_token
from webapp import session

ROOT = Path(__file__).resolve().parents[2]
SMALL, LARGE = 3, 6
PAGES = {
    "home": {},
    "people": {},
    "review": {},
    "compare": {},
    "registration": {},
    "thresholds": {},
    "agreement": {"tab": "People"},
    "export": {},
}


@pytest.fixture(scope="module")
def studies(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Study]:
    """Of so many patches, all looked at by the jobs."""
    made = {}
    for patches in (SMALL, LARGE):
        size = Size(people=3, experts=1, patches=patches, nuclei=3, slides=2, repeats=1)
        made[patches] = make_study(tmp_path_factory.mktemp("large") / "study", size)
        overlapping.count_study(made[patches])
        reviewing.tally_study(made[patches])
    return made


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """SQL statements, and "decoded" for each set of outlines that is read."""
    seen: list[str] = []
    connect = sqlite3.connect

    def traced(*args, **options):
        made = connect(*args, **options)
        made.set_trace_callback(seen.append)
        return made

    monkeypatch.setattr(connection.sqlite3, "connect", traced)
    for name in ("_read_rle", "_unpack_runs"):
        plain = getattr(masks, name)
        monkeypatch.setattr(masks, name, lambda *a, plain=plain: (seen.append("decoded"), plain(*a))[1])
    return seen


@pytest.mark.parametrize("page", PAGES)
def test_more_patches_ask_no_more_often(
    page: str, studies: dict[int, Study], asked: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(overlapping, "AT_ONCE", 0)
    counts = {}
    for patches, study in studies.items():
        monkeypatch.setenv(session.STUDY_VARIABLE, str(study.folder))
        token = signed_in_token(study, "lead", name=f"lead of {page}")
        monkeypatch.setattr(session, "_cookie_token", lambda token=token: token)
        app = AppTest.from_file(str(ROOT / "pages" / f"{page}.py"), default_timeout=60)
        for key, value in PAGES[page].items():
            app.session_state[key] = value
        app.run()  # what is remembered from then on
        asked.clear()
        app.run()
        assert not app.exception
        counts[patches] = len(asked)
        assert "decoded" not in asked
    assert counts[SMALL] == counts[LARGE] > 0
