"""The server's own log: slow and failed requests, no names, and never in the way."""

import json
import logging
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.testclient import TestClient

from allinsam.accounts import SignedIn
from webapp import request_log
from webapp.request_log import RequestLog, log_file, page_timed, read_log, start_log, stop_log


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setattr(request_log, "_busy", request_log._Busy())  # its minute begins with the test
    start_log(tmp_path)
    yield tmp_path
    stop_log()


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(request_log, "SLOW_S", 0.0)


def fails(request: Request) -> Response:
    raise KeyError("a name in a message")


def answers(request: Request) -> Response:
    request.state.person = SignedIn("p-1", "Ada Secret", "annotator", "student")
    return PlainTextResponse("Ada Secret's")


def visit(path: str) -> Response:
    routes = [Route("/quick", answers), Route("/fails", fails)]
    app = Starlette(routes=routes, middleware=[Middleware(RequestLog)])
    return TestClient(app, raise_server_exceptions=False).get(path)


def told(folder: Path, event: str) -> list[dict]:
    return [line for line in read_log(folder) if line["event"] == event]


def test_what_is_quick_is_not_told_one_by_one(folder: Path) -> None:
    assert visit("/quick").status_code == 200
    assert [line["event"] for line in read_log(folder)] == ["start"]


def test_a_slow_request_is_told_without_its_query_and_names(folder: Path, slow: None) -> None:
    visit("/quick?token=secret-of-a-link")
    (line,) = told(folder, "slow")
    assert (line["method"], line["path"], line["status"], line["person"]) == ("GET", "/quick", 200, "p-1")
    assert line["ms"] >= 0
    text = log_file(folder).read_text("utf-8")
    assert "secret-of-a-link" not in text and "Ada" not in text


def test_a_failure_is_told_with_its_kind_only(folder: Path) -> None:
    assert visit("/fails").status_code == 500
    (line,) = told(folder, "failed")
    assert (line["level"], line["status"], line["exception"]) == ("error", 500, "KeyError")
    assert "a name in a message" not in log_file(folder).read_text("utf-8")


def test_a_minute_becomes_one_line(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for _ in range(3):
        visit("/quick")
    assert told(folder, "busy") == []
    monkeypatch.setattr(request_log, "MINUTE_S", 0.0)
    visit("/fails")
    (line,) = told(folder, "busy")
    assert (line["requests"], line["failed"]) == (4, 1)
    assert 0 < line["p50_ms"] <= line["p95_ms"] <= line["most_ms"]


def test_a_page_is_timed_even_if_it_stops_early(folder: Path, slow: None) -> None:
    with pytest.raises(KeyboardInterrupt), page_timed("train", "p-1"):
        raise KeyboardInterrupt
    (line,) = told(folder, "slow")
    assert (line["method"], line["path"], line["person"]) == ("PAGE", "/train", "p-1")


def test_warnings_of_the_rest_are_kept_and_lesser_words_are_not(folder: Path) -> None:
    logging.getLogger("webapp.elsewhere").info("nothing much")
    logging.getLogger("webapp.elsewhere").warning("%d views wait", 3)
    (line,) = told(folder, "log")
    assert (line["of"], line["said"], line["level"]) == ("webapp.elsewhere", "3 views wait", "warning")


def test_old_lines_go_and_torn_ones_are_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(request_log, "LARGEST_BYTES", 2_000)
    start_log(tmp_path)
    try:
        for number in range(200):
            request_log.tell("slow", number=number)
    finally:
        stop_log()
    files = sorted(path.name for path in log_file(tmp_path).parent.iterdir())
    assert files == ["server.jsonl", "server.jsonl.1", "server.jsonl.2", "server.jsonl.3"]
    numbers = [line["number"] for line in told(tmp_path, "slow")]
    assert numbers == list(range(200 - len(numbers), 200)) and 10 < len(numbers) < 200
    with open(log_file(tmp_path), "a") as file:
        file.write(
            '{"at": "2026-11-24T03:00", "ev\n[1, 2]\n' + json.dumps({"at": "x", "event": "last"}) + "\n"
        )
    assert read_log(tmp_path)[-1]["event"] == "last"
    assert len(read_log(tmp_path, most=5)) == 5


def test_a_disk_that_takes_no_line_stops_nothing(folder: Path, slow: None) -> None:
    handler = next(h for h in logging.getLogger().handlers if isinstance(h, request_log._JsonFile))
    handler.stream.close()
    handler.stream = open("/dev/full", "w")  # noqa: SIM115
    started = time.monotonic()
    assert visit("/quick").status_code == 200
    assert time.monotonic() >= started
