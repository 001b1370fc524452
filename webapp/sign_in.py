"""Sign-in, set-password and sign-out: plain HTML pages that work without JavaScript."""

import html
from collections.abc import Callable
from pathlib import Path
from string import Template
from typing import Any
from urllib.parse import parse_qsl

import anyio
from anyio.to_thread import run_sync
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Route

from allinsam import accounts
from allinsam.accounts import AccountSettings, SignInRefused
from allinsam.errors import InputError
from webapp.address import cookie_name, cookie_token, is_secure
from webapp.session import study_from_environment

PAGE = Template((Path(__file__).parent / "assets" / "page.html").read_text("utf-8"))
POLICY = (
    "default-src 'none'; style-src 'self'; img-src 'self'; form-action 'self'; "
    "base-uri 'none'; frame-ancestors 'none'"
)
FORM_TYPE = "application/x-www-form-urlencoded"
LONGEST_FORM_BYTES = 10_000
MOST_FIELDS = 10
LONGEST_QUEUE = 20
BUSY = "Many people are signing in. Try again in a moment."

SIGN_IN_FORM = Template("""
<h1>Sign in</h1>
<form method="post" action="/sign-in">
  <input type="hidden" name="next" value="$next">
  <label for="name">Name</label>
  <input id="name" name="name" value="$name" required maxlength="100" autocomplete="username"
    autocapitalize="none" spellcheck="false" $focus_name>
  <label for="password">Password</label>
  <input id="password" name="password" type="password" required maxlength="200"
    autocomplete="current-password" $focus_password>
  <button type="submit">Sign in</button>
</form>
<p class="hint">No account yet, or password forgotten? The study lead gives you a one-time link.</p>
""")

SET_PASSWORD_FORM = Template("""
<h1>Set your password</h1>
<form method="post" action="/set-password">
  <input type="hidden" name="token" value="$token">
  <label for="name">Name <small>to sign in with</small></label>
  <input id="name" name="name" value="$name" readonly tabindex="-1" autocomplete="username">
  <label for="password">Password <small>at least $shortest characters</small></label>
  <input id="password" name="password" type="password" required minlength="$shortest" maxlength="200"
    autocomplete="new-password" autofocus>
  <label for="again">The same again</label>
  <input id="again" name="again" type="password" required maxlength="200" autocomplete="new-password">
  <button type="submit">Set password and sign in</button>
</form>
<p class="hint">Three or four unrelated words are easy to keep and hard to guess.</p>
""")

LINK_ENDED = """
<h1>This link has ended</h1>
<p class="lead">It has been used, replaced by a newer one, or is older than a week.</p>
<p>Ask the study lead for a new link. If your password is already set, sign in with it.</p>
<p><a class="button" href="/sign-in">Go to sign-in</a></p>
"""


class Checks:
    """Runs what checks passwords: two at once, a bounded number waiting, the rest turned away."""

    def __init__(self) -> None:
        # Waiting for a check must not hold one of the threads that serve files.
        self.limiter = anyio.CapacityLimiter(2)

    async def run(self, check: Callable[..., str], *arguments: Any) -> str | None:
        """What the check returns; None where too many wait."""
        if self.limiter.statistics().tasks_waiting >= LONGEST_QUEUE:
            return None
        return await run_sync(check, *arguments, limiter=self.limiter)


def sign_in_routes(settings: AccountSettings, checks: Checks) -> list[Route]:
    """The routes of this module; `settings` says how passwords are checked."""

    async def show_sign_in(request: Request) -> Response:
        target = local_path(request.query_params.get("next", "/"))
        if request.state.person is not None:
            return RedirectResponse(target, 303)
        return sign_in_page(target)

    async def post_sign_in(request: Request) -> Response:
        form = await read_form(request)
        name, target = form.get("name", ""), local_path(form.get("next", "/"))
        study, password = study_from_environment(), form.get("password", "")
        try:
            token = await checks.run(accounts.sign_in, study, name, password, address_of(request), settings)
        except SignInRefused as refusal:
            refused = sign_in_page(target, name, str(refusal), 429 if refusal.wait_s else 401)
            if refusal.wait_s:
                refused.headers["Retry-After"] = str(round(refusal.wait_s))
            return refused
        if token is None:
            return sign_in_page(target, name, BUSY, 429)
        return with_cookie(RedirectResponse(target, 303), token, request, settings)

    async def show_set_password(request: Request) -> Response:
        token = request.query_params.get("token", "")
        name = accounts.invited_name(study_from_environment(), token)
        return set_password_page(name, token, settings)

    async def post_set_password(request: Request) -> Response:
        form = await read_form(request)
        token, password = form.get("token", ""), form.get("password", "")
        study = study_from_environment()
        name = accounts.invited_name(study, token)
        if name is None:
            return set_password_page(None, token, settings)
        if password != form.get("again", ""):
            return set_password_page(name, token, settings, "The two passwords differ. Type both again.")
        try:
            cookie = await checks.run(accounts.set_password, study, token, password, settings)
        except InputError as error:
            return set_password_page(name, token, settings, str(error))
        if cookie is None:
            return set_password_page(name, token, settings, BUSY, 429)
        return with_cookie(RedirectResponse("/", 303), cookie, request, settings)

    return [
        Route("/sign-in", show_sign_in, methods=["GET"]),
        Route("/sign-in", post_sign_in, methods=["POST"]),
        Route("/set-password", show_set_password, methods=["GET"]),
        Route("/set-password", post_set_password, methods=["POST"]),
        Route("/sign-out", sign_out, methods=["POST"]),
    ]


async def sign_out(request: Request) -> Response:
    accounts.sign_out(study_from_environment(), cookie_token(request.cookies, request.url.scheme) or "")
    return without_cookie(RedirectResponse("/sign-in", 303), request)


def sign_in_page(target: str, name: str = "", error: str = "", status: int = 200) -> Response:
    form = SIGN_IN_FORM.substitute(
        next=html.escape(target),
        name=html.escape(name[: accounts.LONGEST_NAME]),
        focus_name="" if name else "autofocus",
        focus_password="autofocus" if name else "",
    )
    return page("Sign in", form, error, status)


def set_password_page(
    name: str | None, token: str, settings: AccountSettings, error: str = "", status: int = 422
) -> Response:
    """The form for the person the link is for, or what to do with a link that is for nobody."""
    if name is None:
        return page("Link ended", LINK_ENDED, "", 410)
    form = SET_PASSWORD_FORM.substitute(
        name=html.escape(name), token=html.escape(token), shortest=settings.shortest_password
    )
    return page("Set your password", form, error, status if error else 200)


def page(title: str, body: str, error: str = "", status: int = 200) -> Response:
    alert = f'<p class="alert" role="alert">{html.escape(error)}</p>' if error else ""
    text = PAGE.substitute(title=html.escape(title), alert=alert, body=body)
    return HTMLResponse(text, status, {"Content-Security-Policy": POLICY, "Cache-Control": "no-store"})


async def read_form(request: Request) -> dict[str, str]:
    """The fields of a small form as our pages send it; any other, or a large one, counts as empty."""
    if request.headers.get("content-type", "").split(";")[0].strip().lower() != FORM_TYPE:
        return {}
    content = bytearray()
    async for chunk in request.stream():
        content += chunk
        if len(content) > LONGEST_FORM_BYTES:  # whatever its header said
            return {}
    try:
        return dict(parse_qsl(content.decode("utf-8", "replace"), True, max_num_fields=MOST_FIELDS))
    except ValueError:
        return {}


def with_cookie(response: Response, token: str, request: Request, settings: AccountSettings) -> Response:
    response.set_cookie(
        cookie_name(request.url.scheme),
        token,
        max_age=round(settings.sign_in_days * 86_400),
        path="/",
        httponly=True,
        samesite="lax",
        secure=is_secure(request.url.scheme),
    )
    return response


def without_cookie(response: Response, request: Request) -> Response:
    scheme = request.url.scheme
    response.delete_cookie(
        cookie_name(scheme), path="/", httponly=True, samesite="lax", secure=is_secure(scheme)
    )
    return response


def address_of(request: Request) -> str:
    """Where a request comes from: the other end of the connection, or what a trusted proxy says of it."""
    return request.client.host if request.client else "unknown"


def local_path(target: str) -> str:
    """Where to go after signing in, if it is on this site; browsers read // and /\\ as another host."""
    is_local = target.startswith("/") and not target.startswith(("//", "/\\")) and target.isprintable()
    return target if is_local else "/"
