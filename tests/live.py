"""A real server for tests: `python -m webapp` on a free port, as a user starts it."""

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from allinsam.store import Study

ROOT = Path(__file__).resolve().parents[1]
BROWSERS = ("chromium", "chromium-browser", "google-chrome-stable", "google-chrome")
PATIENCE_S = 120.0  # for a busy machine; nothing is asserted about it


@dataclass(frozen=True)
class LiveServer:
    study: Study
    url: str
    port: int
    process: subprocess.Popen[bytes]
    log: Path

    @property
    def server(self) -> psutil.Process:
        """The process that answers; `process` keeps it running."""
        children = psutil.Process(self.process.pid).children()
        return next(child for child in children if "server" in child.cmdline())

    def sign_in(self, page: Any, name: str, password: str) -> None:
        """Through the sign-in form of a Playwright page, until the app shows."""
        page.goto(f"{self.url}/sign-in")
        page.get_by_label("Name").fill(name)
        page.get_by_label("Password").fill(password)
        page.get_by_role("button", name="Sign in").click()
        page.get_by_role("button", name="Sign out").wait_for(timeout=PATIENCE_S * 1000)


def find_browser() -> str | None:
    """The Chromium named in ALLINSAM_CHROMIUM, else one on PATH."""
    wanted = [os.environ.get("ALLINSAM_CHROMIUM"), *BROWSERS]
    return next((path for path in map(shutil.which, filter(None, wanted)) if path), None)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_until(ready: Callable[[], object], what: str, patience_s: float = PATIENCE_S) -> None:
    deadline = time.monotonic() + patience_s
    while time.monotonic() < deadline:
        if ready():
            return
        time.sleep(0.1)
    raise AssertionError(f"waited in vain for {what}")


@contextmanager
def serving(study: Study, log: Path, *options: str) -> Iterator[LiveServer]:
    """Server and worker for this study, stopped at the end. options: more of `python -m webapp`."""
    port = free_port()
    command = [sys.executable, "-m", "webapp", "--study", str(study.folder), "--port", str(port), *options]
    with open(log, "wb") as file:
        process = subprocess.Popen(command, cwd=ROOT, stdout=file, stderr=subprocess.STDOUT)
    try:
        wait_until(
            lambda: process.poll() is not None or "Ctrl-C stops it" in log.read_text("utf-8"), "the address"
        )
        assert process.poll() is None, log.read_text("utf-8")
        yield LiveServer(study, f"http://127.0.0.1:{port}", port, process, log)
    finally:
        process.terminate()
        process.wait(30)
