"""The expert's ten minutes by fetch: what comes next, settled by a key, and the last one taken back."""

from collections.abc import Callable, Mapping
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from allinsam.accounts import SignedIn, demand
from allinsam.errors import AllinsamError, InputError
from allinsam.store import Study
from allinsam.workflow.expert_queue import open_items
from allinsam.workflow.reviewing import AT_ONCE
from allinsam.workflow.settling import settle, undo
from webapp.desk_routes import json_body
from webapp.image_routes import refusal
from webapp.minutes_parts import shown
from webapp.session import study_from_environment

LARGEST_BODY_BYTES = 200_000
MOST_LEFT_OUT = 5000
MOST_AT_ONCE = 12  # items with their pictures in one answer
LONGEST_NAME = 200
# What needs another right than settling items.
NEEDED = {"threshold": "sign_threshold", "registration": "register"}
NEEDED |= dict.fromkeys(("dispute", "doubt", "mocl", "finish"), "review")


async def next_route(request: Request) -> Response:
    """POST /api/minutes/next {leave_out: names, count}: what waits, most useful first, ready to be shown."""
    return await _answer(request, _next)


async def settle_route(request: Request) -> Response:
    """POST /api/minutes/settle {client_key, kind, key, decision, detail, seconds}: kept when this answers."""
    return await _answer(request, _settle)


async def undo_route(request: Request) -> Response:
    """POST /api/minutes/undo {client_key, seconds}: takes back the last decision of this person."""
    return await _answer(request, _undo)


routes = [
    Route("/api/minutes/next", next_route, methods=["POST"]),
    Route("/api/minutes/settle", settle_route, methods=["POST"]),
    Route("/api/minutes/undo", undo_route, methods=["POST"]),
]


async def _answer(request: Request, act: Callable[[Study, SignedIn, dict], dict[str, Any]]) -> Response:
    """Run `act` in a thread with the body; errors become words."""
    try:
        person = request.state.person
        demand(person, "settle_items")
        body = await json_body(request, LARGEST_BODY_BYTES)
        answer = await run_in_threadpool(act, study_from_environment(), person, body)
    except AllinsamError as error:
        return refusal(error)
    return JSONResponse(answer, headers={"Cache-Control": "private, no-store"})


def _text(body: Mapping[str, Any], name: str) -> str:
    value = body.get(name)
    if not isinstance(value, str) or not 1 <= len(value) <= LONGEST_NAME or not value.isprintable():
        raise InputError(f"{name} is missing or not usable. Reload the page.")
    return value


def _seconds(body: Mapping[str, Any]) -> float:
    value = body.get("seconds")
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InputError("seconds is no number. Reload the page.")
    try:
        return float(value)
    except OverflowError as error:
        raise InputError("seconds is no time. Reload the page.") from error


def _next(study: Study, person: SignedIn, body: dict[str, Any]) -> dict[str, Any]:
    left_out = body.get("leave_out", [])
    if not isinstance(left_out, list) or len(left_out) > MOST_LEFT_OUT:
        raise InputError(f"leave_out must be a list of at most {MOST_LEFT_OUT} names.")
    count = body.get("count", MOST_AT_ONCE)
    if type(count) is not int or not 1 <= count <= MOST_AT_ONCE:
        raise InputError(f"count is {count!r}. Give 1 to {MOST_AT_ONCE}.")
    items = open_items(study, person.person_id, AT_ONCE)
    names = {name for name in left_out if isinstance(name, str)}
    waiting = [item for item in items if item.name not in names]
    return {
        "items": shown(study, waiting[:count]),
        "waiting": [[item.name, round(item.seconds, 1)] for item in waiting],
    }


def _settle(study: Study, person: SignedIn, body: dict[str, Any]) -> dict[str, Any]:
    kind, detail = _text(body, "kind"), body.get("detail", {})
    if not isinstance(detail, dict):
        raise InputError("detail must be an object. Reload the page.")
    if kind in NEEDED:
        demand(person, NEEDED[kind])
    done = settle(
        study,
        person.person_id,
        f"{person.person_id}:{_text(body, 'client_key')}",
        kind,
        _text(body, "key"),
        _text(body, "decision"),
        detail,
        _seconds(body),
    )
    if done.open_assignment is None:
        return {}
    return {"open": f"/annotate?patch={done.open_assignment}"}


def _undo(study: Study, person: SignedIn, body: dict[str, Any]) -> dict[str, Any]:
    client_key = f"{person.person_id}:{_text(body, 'client_key')}"
    last = undo(study, person.person_id, client_key, _seconds(body))
    if last is None:
        return {"undone": None, "items": []}
    name = f"{last['kind']}:{last['key']}"
    back = [item for item in open_items(study, person.person_id, AT_ONCE) if item.name == name]
    return {"undone": name, "decision": last["decision"], "items": shown(study, back)}
