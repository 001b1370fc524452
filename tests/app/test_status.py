"""The Status page: what is wrong and what to do, room, work and slow requests; the lead's alone."""

import json
from pathlib import Path

from allinsam.store import Study
from allinsam.store.connection import utc_now
from allinsam.workflow.housekeeping import newest_backup_at, people_at_work, room_taken
from tests.app.conftest import OpenPage
from tests.people import signed_in_token
from tests.raters import hand_in_all
from tests.studies import PERSON
from webapp.request_log import log_file


def write_log(study: Study, *lines: dict) -> None:
    log_file(study.folder).parent.mkdir(exist_ok=True)
    text = "".join(json.dumps({"at": utc_now(), "level": "info", **line}) + "\n" for line in lines)
    log_file(study.folder).write_text(text, "utf-8")


def test_a_new_study_says_what_to_do_first(open_page: OpenPage, study: Study) -> None:
    page = open_page("status")
    assert not page.exception
    said = [part.value for part in (*page.warning, *page.error)]
    assert any("there is none" in text and "backup" in text for text in said)
    values = {metric.label: metric.value for metric in page.metric}
    assert values["At work now"] == "0" and values["Newest backup"] == "none"
    assert values["Answers within"] == "no figure yet" and values["Worker"] == "is away"
    assert any("no request failed" in part.value for part in page.markdown)


def test_work_and_trouble_are_shown(open_page: OpenPage, study: Study) -> None:
    hand_in_all(study, 1)
    signed_in_token(study, "annotator", PERSON, name="Ben")
    slow = {"event": "slow", "method": "GET", "path": "/api/x", "status": 200, "ms": 2345, "person": PERSON}
    failed = {
        "event": "failed",
        "method": "POST",
        "path": "/y",
        "status": 500,
        "ms": 3,
        "exception": "KeyError",
    }
    busy = {"event": "busy", "requests": 9, "failed": 1, "p50_ms": 9.0, "p95_ms": 321.4, "most_ms": 2345.0}
    write_log(study, {"event": "start"}, slow, failed, busy)
    page = open_page("status")
    assert not page.exception
    values = {metric.label: metric.value for metric in page.metric}
    assert values["At work now"] == "3" and values["Answers within"] == "321 ms"
    requests, room = (frame.value for frame in page.dataframe)
    assert requests["What"].tolist() == ["failed", "slow"]
    assert requests["Who"].tolist() == ["", "Ben"] and requests["Seconds"].tolist() == [0.003, 2.345]
    assert {"study.sqlite", "server.sqlite", "images", "logs"} <= set(room["Where"])
    assert any("The server was started" in part.value for part in page.caption)


def test_room_is_what_lies_in_the_folder(study: Study, tmp_path: Path) -> None:
    (study.folder / "jobs").mkdir(exist_ok=True)
    (study.folder / "jobs" / "1.log").write_bytes(b"x" * 1234)
    parts = {part.name: part for part in room_taken(study)}
    assert parts["jobs"].bytes == 1234
    assert parts["study.sqlite"].bytes >= study.science.path.stat().st_size > 0
    assert "runs" not in parts
    assert newest_backup_at(study) is None and people_at_work(study) == []
