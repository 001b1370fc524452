"""The account page, plain HTML as the sign-in pages are: a new password, and signing out everywhere."""

import html
from collections.abc import Callable
from datetime import datetime
from string import Template
from typing import Any

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from allinsam import accounts
from allinsam.accounts import AccountSettings, SignInRefused
from allinsam.errors import InputError
from webapp.address import cookie_token
from webapp.session import study_from_environment
from webapp.sign_in import BUSY, Checks, address_of, page, read_form, with_cookie, without_cookie

BODY = Template("""
<h1>$name</h1>
<p class="lead">$role. <a href="/">Back to the study</a></p>
<form method="post" action="/account/password">
  <h2>New password</h2>
  <input type="hidden" name="username" value="$name" autocomplete="username">
  <label for="password">Present password</label>
  <input id="password" name="password" type="password" required maxlength="200"
    autocomplete="current-password">
  <label for="new">New password <small>at least $shortest characters</small></label>
  <input id="new" name="new" type="password" required minlength="$shortest" maxlength="200"
    autocomplete="new-password">
  <label for="again">The new one again</label>
  <input id="again" name="again" type="password" required maxlength="200" autocomplete="new-password">
  <button type="submit">Change password</button>
  <p class="hint">It signs you out everywhere else.</p>
</form>
<form method="post" action="/account/sign-out-everywhere">
  <h2>Signed in</h2>
  <ul>$sign_ins</ul>
  <button type="submit">Sign out everywhere</button>
  <p class="hint">Here, too. Open pages close within seconds; what you saved stays.</p>
</form>
""")


def account_routes(settings: AccountSettings, checks: Checks) -> list[Route]:
    """The routes of this module; `checks` runs what checks passwords, a few at once."""

    def show_account(request: Request) -> Response:
        return account_page(request, settings)

    async def post_password(request: Request) -> Response:
        form = await read_form(request)
        if form.get("new", "") != form.get("again", ""):
            return account_page(request, settings, "The two new passwords differ. Type both again.", 422)
        change: Callable[..., str] = accounts.change_password
        arguments = (
            study_from_environment(),
            request.state.person,
            form.get("password", ""),
            form.get("new", ""),
            address_of(request),
            settings,
        )
        try:
            token = await checks.run(change, *arguments)
        except InputError as error:
            return account_page(request, settings, str(error), 422)
        except SignInRefused as refusal:
            return account_page(request, settings, str(refusal), 429 if refusal.wait_s else 401)
        if token is None:
            return account_page(request, settings, BUSY, 429)
        return with_cookie(RedirectResponse("/account", 303), token, request, settings)

    return [
        Route("/account", show_account, methods=["GET"]),
        Route("/account/password", post_password, methods=["POST"]),
        Route("/account/sign-out-everywhere", sign_out_everywhere, methods=["POST"]),
    ]


def sign_out_everywhere(request: Request) -> Response:
    me = request.state.person.person_id
    accounts.sign_out_everywhere(study_from_environment(), me, by=me)
    return without_cookie(RedirectResponse("/sign-in", 303), request)


def account_page(request: Request, settings: AccountSettings, error: str = "", status: int = 200) -> Response:
    person = request.state.person
    token = cookie_token(request.cookies, request.url.scheme) or ""
    sign_ins = accounts.open_sign_ins(study_from_environment(), person.person_id, token)
    body = BODY.substitute(
        name=html.escape(person.name),
        role=html.escape(person.role.capitalize()),
        shortest=settings.shortest_password,
        sign_ins="".join(f"<li>{sign_in_in_words(row)}</li>" for row in sign_ins),
    )
    return page("Your account", body, error, status)


def sign_in_in_words(row: dict[str, Any]) -> str:
    since, until = (datetime.fromisoformat(row[name]) for name in ("created_at", "expires_at"))
    here = " <strong>(this browser)</strong>" if row["here"] else ""
    return f"since {since:%-d %b %H:%M}, ends {until:%-d %b %H:%M} UTC{here}"
