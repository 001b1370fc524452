"""A real Chromium against a real server.

    live = serve(study)                      # `python -m webapp` on a free port, until its file's tests end
    live.sign_in(page, "lead", PASSWORD)     # an account made with tests.people.signed_in_token

`page` is 1366x768; its test fails when the page asks another host, breaks the content policy or
throws an error.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import BrowserContext, ConsoleMessage, Error, Page, expect

from allinsam.store import Study
from tests.live import PATIENCE_S, LiveServer, find_browser, serving

FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-quic",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]

Serve = Callable[[Study], LiveServer]

# Playwright's own five seconds are too few for a busy machine.
expect.set_options(timeout=1000 * PATIENCE_S)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "tests/e2e/" in item.path.as_posix():
            item.add_marker(pytest.mark.e2e)


@pytest.fixture(scope="session")
def browser_type_launch_args(browser_type_launch_args: dict[str, Any]) -> dict[str, Any]:
    found = find_browser()
    if found is None:
        reason = "no Chromium: install it, or name one in ALLINSAM_CHROMIUM"
        if os.environ.get("ALLINSAM_REQUIRE_BROWSER"):
            pytest.fail(reason)
        pytest.skip(reason)
    return {**browser_type_launch_args, "executable_path": found, "args": FLAGS}


@pytest.fixture(scope="session")
def browser_context_args(browser_context_args: dict[str, Any]) -> dict[str, Any]:
    return {**browser_context_args, "viewport": {"width": 1366, "height": 768}}


def is_late_for_its_canvas(message: str, stack: str) -> bool:
    """streamlit-drawable-canvas heard of the pointer after it was replaced by its next drawing: harmless."""
    return "(reading 'clearRect')" in message and "streamlit_drawable_canvas" in stack


@pytest.fixture
def page(context: BrowserContext) -> Iterator[Page]:
    foreign: list[str] = []
    violations: list[str] = []
    thrown: list[str] = []

    def note_message(message: ConsoleMessage) -> None:
        if "Content Security Policy" in message.text:
            violations.append(message.text)

    def note_host(url: str) -> None:
        parts = urlsplit(url)
        if parts.scheme in ("http", "https", "ws", "wss") and parts.hostname != "127.0.0.1":
            foreign.append(url)

    def note_thrown(error: Error) -> None:
        if not is_late_for_its_canvas(str(error), error.stack or ""):
            thrown.append(f"{error}\n{error.stack or ''}")

    context.on("request", lambda request: note_host(request.url))
    context.on("console", note_message)
    context.on("weberror", lambda error: note_thrown(error.error))
    context.set_default_timeout(1000 * PATIENCE_S)
    yield context.new_page()
    assert foreign == []
    assert violations == []
    assert thrown == []


# Not for the whole session: each server holds a GB.
@pytest.fixture(scope="module")
def serve(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serve]:
    with ExitStack() as stack:

        def serve_(study: Study) -> LiveServer:
            log = tmp_path_factory.mktemp("live") / "server.log"
            return stack.enter_context(serving(study, log))

        yield serve_
