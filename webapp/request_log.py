"""The server's own log: what was slow, what failed, and a line a minute of how busy it was.

`logs/server.jsonl` in the study's folder, one JSON object a line, 2 MB and three older files of it. It holds
pseudonyms and paths without what follows the `?`: no names, no links that set passwords, nothing drawn.
"""

import json
import logging
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import Any

import numpy as np
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from allinsam.errors import AllinsamError
from allinsam.store.connection import utc_now
from webapp.session import study_from_environment

SLOW_S = 1.0
MINUTE_S = 60.0
LARGEST_BYTES = 2_000_000
KEPT_FILES = 3
LONGEST_PATH = 200
NAME = "server.jsonl"

log = logging.getLogger("allinsam.server")


def log_file(folder: Path) -> Path:
    return folder / "logs" / NAME


def start_log(folder: Path) -> None:
    """Write what this process logs as JSON lines into the study's folder too."""
    root = logging.getLogger()
    if any(isinstance(handler, _JsonFile) for handler in root.handlers):
        return
    log_file(folder).parent.mkdir(exist_ok=True)
    root.addHandler(_JsonFile(log_file(folder)))
    log.setLevel(logging.INFO)
    tell("start")


def stop_log() -> None:
    _busy.flush()
    tell("stop")
    root = logging.getLogger()
    for handler in [handler for handler in root.handlers if isinstance(handler, _JsonFile)]:
        root.removeHandler(handler)
        with suppress(OSError):  # on a full disk the last lines are lost
            handler.close()


def tell(event: str, level: int = logging.INFO, **facts: Any) -> None:
    """One line of the log; `facts` are plain values."""
    log.log(level, event, extra={"facts": facts})


class _JsonFile(RotatingFileHandler):
    """What this app logs, and warnings of everything else; a full disk stops the log and nothing else."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, maxBytes=LARGEST_BYTES, backupCount=KEPT_FILES, encoding="utf-8")

    def filter(self, record: logging.LogRecord) -> bool:
        return record.levelno >= logging.WARNING or record.name == log.name

    def format(self, record: logging.LogRecord) -> str:
        line = {"at": utc_now(), "level": record.levelname.lower(), "event": record.getMessage()[:500]}
        if record.name != log.name:
            line = {**line, "event": "log", "of": record.name, "said": line["event"]}
        if record.exc_info and record.exc_info[0]:
            line["exception"] = record.exc_info[0].__name__
        return json.dumps({**line, **getattr(record, "facts", {})}, ensure_ascii=False)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's own name
        pass


class _Busy:
    """How many requests a minute had and how long they took; told once the minute is over."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._since = time.monotonic()
        self._ms: list[float] = []
        self._failed = 0

    def note(self, ms: float, failed: bool) -> None:
        with self._lock:
            self._ms.append(ms)
            self._failed += failed
            over = time.monotonic() - self._since >= MINUTE_S
        if over:
            self.flush()

    def flush(self) -> None:
        with self._lock:
            ms, failed, since = self._ms, self._failed, self._since
            self._ms, self._failed, self._since = [], 0, time.monotonic()
        if ms:
            middle, high = np.percentile(ms, [50, 95]).round(1)
            spread = {"p50_ms": float(middle), "p95_ms": float(high), "most_ms": round(max(ms), 1)}
            seconds = round(time.monotonic() - since, 1)
            tell("busy", requests=len(ms), failed=failed, **spread, seconds=seconds)


_busy = _Busy()


class RequestLog:
    """Times every request to its last byte; those that were slow or failed are told one by one."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        started, status = time.perf_counter(), 500

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        fault = ""
        try:
            await self.app(scope, receive, watched)
        except Exception as error:
            fault = type(error).__name__
            raise
        finally:
            ms = 1000 * (time.perf_counter() - started)
            _busy.note(ms, status >= 500)
            if status >= 500 or ms >= 1000 * SLOW_S:
                person = (scope.get("state") or {}).get("person")
                facts = {"method": scope["method"], "path": scope["path"][:LONGEST_PATH], "status": status}
                facts |= {"ms": round(ms), "person": person.person_id if person else ""}
                failed = status >= 500
                tell(
                    "failed" if failed else "slow",
                    logging.ERROR if failed else logging.INFO,
                    **facts,
                    **({"exception": fault} if fault else {}),
                )


@contextmanager
def page_timed(name: str, person_id: str) -> Iterator[None]:
    """Around a page's script: told where it was slow."""
    started = time.perf_counter()
    try:
        yield
    finally:
        ms = 1000 * (time.perf_counter() - started)
        if ms >= 1000 * SLOW_S:
            tell("slow", method="PAGE", path=f"/{name}", status=200, ms=round(ms), person=person_id)


def read_log(folder: Path, most: int = 5_000) -> list[dict[str, Any]]:
    """The newest lines, oldest first; what is torn or no JSON is left out."""
    lines: deque[dict[str, Any]] = deque(maxlen=most)
    newest = log_file(folder)
    older = [newest.with_name(f"{NAME}.{number}") for number in range(KEPT_FILES, 0, -1)]
    for path in [*older, newest]:
        try:
            text = path.read_text("utf-8", errors="replace")
        except OSError:
            continue
        for line in text.splitlines():
            try:
                told = json.loads(line)
            except ValueError:
                continue
            if isinstance(told, dict) and "at" in told and "event" in told:
                lines.append(told)
    return list(lines)


def log_of_served_study() -> None:
    """Begin the log of the study that this process serves, if it can be opened."""
    try:
        start_log(study_from_environment().folder)
    except (AllinsamError, OSError) as error:
        logging.getLogger(__name__).warning("no log is kept: %s", error)
