"""The expert's ten minutes by fetch: what comes next, settled by a key, and the last one taken back."""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from allinsam.accounts import SignedIn, demand
from allinsam.errors import AllinsamError, InputError, NotFoundError
from allinsam.store import Study, images, thresholds
from allinsam.workflow.expert_queue import KINDS, OPEN, Item, open_items
from allinsam.workflow.settling import ACCEPT_REASONS, settle, threshold_start, undo
from webapp.image_routes import View, refusal
from webapp.registration_parts import channels_of
from webapp.session import study_from_environment
from webapp.surfaces.scene import Window, window_at

LARGEST_BODY_BYTES = 200_000
MOST_LEFT_OUT = 5000
MOST_AT_ONCE = 8  # items with their pictures in one answer
LONGEST_NAME = 200
PANE_PX = 500
STEPS_ACROSS = 100  # nudges of a threshold from black to the brightest pixel
# What needs another right than settling items.
NEEDED = {"threshold": "sign_threshold", "registration": "register"}

Key = dict[str, Any]


async def next_route(request: Request) -> Response:
    """POST /api/minutes/next {leave_out: names}: what waits, the most useful first, ready to be shown."""
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
        body = await _body(request)
        answer = await run_in_threadpool(act, study_from_environment(), person, body)
    except AllinsamError as error:
        return refusal(error)
    return JSONResponse(answer, headers={"Cache-Control": "private, no-store"})


async def _body(request: Request) -> dict[str, Any]:
    if request.headers.get("content-type", "").split(";")[0] != "application/json":
        raise InputError("Send JSON.")
    content = bytearray()
    async for chunk in request.stream():
        content += chunk
        if len(content) > LARGEST_BODY_BYTES:
            raise InputError(f"More than {LARGEST_BODY_BYTES} bytes at once are not taken.")
    try:
        body = json.loads(bytes(content))
    except (ValueError, RecursionError) as error:
        raise InputError("This is no JSON. Reload the page.") from error
    if not isinstance(body, dict):
        raise InputError("Send one JSON object.")
    return body


def _text(body: Mapping[str, Any], name: str) -> str:
    value = body.get(name)
    if not isinstance(value, str) or not 1 <= len(value) <= LONGEST_NAME or not value.isprintable():
        raise InputError(f"{name} is missing or not usable. Reload the page.")
    return value


def _seconds(body: Mapping[str, Any]) -> float:
    value = body.get("seconds")
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InputError("seconds is no number. Reload the page.")
    return float(value)


def _next(study: Study, person: SignedIn, body: dict[str, Any]) -> dict[str, Any]:
    left_out = body.get("leave_out", [])
    if not isinstance(left_out, list) or len(left_out) > MOST_LEFT_OUT:
        raise InputError(f"leave_out must be a list of at most {MOST_LEFT_OUT} names.")
    items = open_items(study, person.person_id)
    names = {name for name in left_out if isinstance(name, str)}
    waiting = [item for item in items if item.name not in names]
    return {
        "items": shown(study, waiting[:MOST_AT_ONCE]),
        "waiting": [[item.name, round(item.seconds, 1)] for item in waiting],
    }


def shown(study: Study, items: Sequence[Item]) -> list[dict[str, Any]]:
    """Items with their pictures; one whose pictures are not there any more is left out."""
    ready = []
    for item in items:
        try:
            ready.append(present(study, item))
        except (AllinsamError, OSError) as error:
            ready.append(_told(item, f"It cannot be shown: {error}"))
    return ready


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
    back = [item for item in open_items(study, person.person_id) if item.name == name]
    return {"undone": name, "items": shown(study, back)}


# ---------------------------------------------------------------------------- what the page gets


def present(study: Study, item: Item) -> dict[str, Any]:
    """An item as the page shows it: a question, two panes, and what each key does."""
    return {**_common(item), **PRESENT[item.kind](study, item)}


def _common(item: Item) -> dict[str, Any]:
    return {
        "name": item.name,
        "kind": item.kind,
        "key": item.key,
        "heading": KINDS[item.kind].title,
        "title": item.title,
        "why": item.why,
        "seconds": round(item.seconds, 1),
    }


def _told(item: Item, text: str) -> dict[str, Any]:
    return {**_common(item), "question": text, "panes": [], "keys": []}


def _key(key: str, label: str, decision: str, **detail: Any) -> Key:
    return {"key": key, "label": label, "decision": decision, "detail": detail}


def _pane(title: str, *layers: str) -> dict[str, Any]:
    return {"title": title, "layers": list(layers)}


def _whole(study: Study, patch_id: int) -> tuple[dict[str, Any], Window]:
    with study.science.read() as db:
        patch = images.get_patch(db, patch_id)
    return patch, window_at((patch["height_px"], patch["width_px"]), PANE_PX, 1.0, (0.0, 0.0))


def _threshold(study: Study, item: Item) -> dict[str, Any]:
    slide_id, marker = item.detail["slide_id"], item.detail["marker"]
    start = threshold_start(study, slide_id, marker)
    patch, window = _whole(study, start.patch_id)
    with study.science.read() as db:
        signed = thresholds.current_threshold(db, slide_id, marker)
    value = signed["value"] if signed else start.value
    outline = View(start.patch_id, "bright", window, marker).url()
    return {
        "question": "Does the white line follow the bright nuclei, and no more?",
        "note": f"Patch {patch['name']} stands for the slide's {item.detail['patches']} with {marker}. "
        f"The start value is {start.method.capitalize()}'s; bright means above it.",
        "panes": [
            _pane("Stained tissue", View(start.patch_id, "pas", window).url()),
            _pane(f"{marker} marker", View(start.patch_id, "marker", window, marker).url()),
        ],
        "adjust": {
            "value": value,
            "step": max(1.0, round(start.top / STEPS_ACROSS)),
            "top": start.top,
            "layer": f"{outline}&threshold=",
        },
        "keys": [_key("Enter", "Sign {value}", "sign")],
    }


def _registration(study: Study, item: Item) -> dict[str, Any]:
    patch_id = item.detail["patch_id"]
    patch, window = _whole(study, patch_id)
    with study.science.read() as db:
        newest = images.newest_registrations(db)[patch_id]
    names = channels_of(study, patch_id)
    if not names:
        raise NotFoundError(f"Patch {patch['name']} has no IF channel.")
    matrix = tuple(newest["matrix"].ravel().tolist())
    checker, overlay = (
        View(patch_id, layer, window, names[0], matrix=matrix).url() for layer in ("checker", "overlay")
    )
    return {
        "question": "Does the fluorescence lie on the stain?",
        "note": newest["reason"] or "",
        "panes": [
            _pane("Stain and IF in turn: nuclei go on across the edges", checker),
            _pane(f"{names[0]} in green over the stain: green covers dark nuclei", overlay),
        ],
        "choices": {"name": "reason", "options": list(ACCEPT_REASONS)},
        "keys": [_key("A", "Accept, for the reason marked", "accept"), _key("R", "Keep waiting", "reject")],
    }


def _patch(study: Study, item: Item) -> dict[str, Any]:
    patch_id = item.detail["patch_id"]
    _, window = _whole(study, patch_id)
    panes = [_pane("Stained tissue", View(patch_id, "pas", window).url())]
    if names := channels_of(study, patch_id):
        panes.append(_pane(f"{names[0]} marker", View(patch_id, "marker", window, names[0]).url()))
    minutes = max(1, round(item.seconds / 60))
    return {
        "question": f"Outline this patch? It takes about {minutes} minutes.",
        "note": "It opens on the Annotate page. You can stop there at any time; what you drew is kept.",
        "panes": panes,
        "keys": [_key("Enter", "Open it on Annotate", OPEN)],
    }


PRESENT: dict[str, Callable[[Study, Item], dict[str, Any]]] = {
    "threshold": _threshold,
    "registration": _registration,
    "gold": _patch,
    "reference": _patch,
}
