"""The gate: pure ASGI in front of pages, websocket, images and exports. Nobody passes without a sign-in."""

import asyncio
import base64
import hashlib
import re
import time
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import quote

import streamlit
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import HTTPConnection
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from allinsam.accounts import SignedIn, signed_in
from allinsam.errors import AllinsamError, StorageError, by_name
from webapp.address import cookie_token, is_own_page, public_url
from webapp.session import study_from_environment

# Everything else needs a sign-in.
OPEN_PATHS = ("/sign-in", "/set-password", "/api/health", "/_stcore/health")
OPEN_FOLDER = "/assets/"

# Paths whose answers hold patient images or annotations: never kept by a proxy or another account.
PRIVATE_FOLDERS = ("/api/", "/media/")

# Streamlit would take files from anybody who is signed in and keep them in memory; ours has its own route.
CLOSED_FOLDER = "/_stcore/upload_file"

SAFE_METHODS = ("GET", "HEAD", "OPTIONS")
WEBSOCKET_RECHECK_S = 3.0  # closed within 5 s of the end, on a busy server too
SIGNED_OUT_CODE = 4401


class Gate:
    """Refuses strangers and foreign pages, and puts the person into `request.state.person`."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await self._http(scope, receive, with_headers(scope["path"], send))
        elif scope["type"] == "websocket":
            await self._websocket(scope, receive, send)
        else:
            await self.app(scope, receive, send)

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            person = _put_person(scope)
        except AllinsamError as error:
            tell = " Tell the study lead." if isinstance(error, StorageError) else ""
            return await PlainTextResponse(by_name(str(error)) + tell, 503)(scope, receive, send)
        if scope["method"] not in SAFE_METHODS and not is_own_page(Headers(scope=scope)):
            where = f" at {public_url()}" if public_url() else ""
            text = f"This request is not from this app's own pages. Open the app anew{where} and try again."
            return await PlainTextResponse(text, 403)(scope, receive, send)
        if scope["path"].startswith(CLOSED_FOLDER):
            refusal = PlainTextResponse("Files are sent on the Import page only.", 403)
            return await refusal(scope, receive, send)
        if person is None and not is_open(scope["path"]):
            return await _turn_away(scope)(scope, receive, send)
        return await self.app(scope, receive, send)

    async def _websocket(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            allowed = _put_person(scope) is not None and is_own_page(Headers(scope=scope))
        except AllinsamError:
            allowed = False
        if not allowed:
            await receive()
            return await send({"type": "websocket.close", "code": SIGNED_OUT_CODE})
        checked = until_signed_out(receive, send, lambda: _still_in(scope))
        return await self.app(scope, checked, send)


def is_open(path: str) -> bool:
    return path in OPEN_PATHS or (path.startswith(OPEN_FOLDER) and ".." not in path)


def until_signed_out(receive: Receive, send: Send, still_in: Callable[[], bool]) -> Receive:
    """A `receive` that ends an open websocket within seconds of the end of its sign-in."""
    checked_at = time.monotonic()

    async def receive_while_signed_in() -> Message:
        nonlocal checked_at
        waiting = asyncio.ensure_future(receive())
        while True:
            # Counted over messages too: a busy page would never leave a gap long enough.
            left_s = checked_at + WEBSOCKET_RECHECK_S - time.monotonic()
            done, _ = await asyncio.wait({waiting}, timeout=max(0.0, left_s))
            if done and left_s > 0:
                return waiting.result()
            checked_at = time.monotonic()
            if not still_in():
                waiting.cancel()
                await send({"type": "websocket.close", "code": SIGNED_OUT_CODE})
                return {"type": "websocket.disconnect", "code": SIGNED_OUT_CODE}

    return receive_while_signed_in


def with_headers(path: str, send: Send) -> Send:
    """Adds the security headers to the answer; a stricter policy that is already there stays."""

    async def send_with_headers(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            headers.setdefault("Content-Security-Policy", app_policy())
            headers["X-Content-Type-Options"] = "nosniff"
            headers["X-Frame-Options"] = "DENY"
            # Not no-referrer: under it browsers send "Origin: null" with forms, and the check of
            # where a POST comes from would refuse our own pages. Nothing leaves for other hosts.
            headers["Referrer-Policy"] = "same-origin"
            headers["Cross-Origin-Opener-Policy"] = "same-origin"
            if path.startswith(PRIVATE_FOLDERS) and "private" not in headers.get("Cache-Control", ""):
                headers["Cache-Control"] = "private, no-store"
        await send(message)

    return send_with_headers


@lru_cache(maxsize=1)
def app_policy() -> str:
    """The content security policy under which Streamlit's own front end works, and nothing foreign."""
    index = Path(streamlit.__file__).parent / "static" / "index.html"
    inline = re.findall(r"<script>(.*?)</script>", index.read_text("utf-8"), flags=re.DOTALL)
    hashes = " ".join(f"'sha256-{_base64_sha256(script)}'" for script in inline)
    rules = {
        "default-src": "'self'",
        "script-src": f"'self' blob: {hashes}",  # components are loaded from blob: URLs
        "style-src": "'self' 'unsafe-inline'",
        "img-src": "'self' data: blob:",
        "font-src": "'self' data:",
        "connect-src": "'self'",
        "worker-src": "'self' blob:",
        "frame-src": "'self'",
        "media-src": "'self' data: blob:",
        "object-src": "'none'",
        "base-uri": "'self'",
        "form-action": "'self'",
        "frame-ancestors": "'none'",
    }
    return "; ".join(f"{name} {value}" for name, value in rules.items())


def _base64_sha256(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _person_of(scope: Scope) -> SignedIn | None:
    token = cookie_token(HTTPConnection(scope).cookies, scope["scheme"])
    return signed_in(study_from_environment(), token)


def _still_in(scope: Scope) -> bool:
    """Whether an open websocket's sign-in holds; a study that cannot be read now does not end it."""
    try:
        return _person_of(scope) is not None
    except AllinsamError:
        return True


def _put_person(scope: Scope) -> SignedIn | None:
    state: dict[str, Any] = scope.setdefault("state", {})
    state["person"] = _person_of(scope)
    return state["person"]


def _turn_away(scope: Scope) -> Response:
    """A browser that opens a page is sent to sign in and back; everything else gets 401."""
    accepts_html = "text/html" in Headers(scope=scope).get("accept", "")
    if scope["method"] == "GET" and accepts_html and not scope["path"].startswith(PRIVATE_FOLDERS):
        return RedirectResponse(f"/sign-in?next={quote(scope['path'], safe='')}", 303)
    return PlainTextResponse("Sign in first.", 401)
