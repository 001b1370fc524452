"""Annotating by fetch: the desk of one patch, gestures in, masks out. Streamlit takes no part in it."""

import json
import threading
import time
from typing import Any

import numpy as np
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from allinsam.accounts import SignedIn, may
from allinsam.acts import LARGEST_NUMBER
from allinsam.errors import AllinsamError, InputError, NotAllowedError, NotFoundError, by_name
from allinsam.masks import mask_to_polygons
from allinsam.practice import mark
from allinsam.records import SHOWN_TO
from allinsam.store import Study, assignments, images, thresholds
from allinsam.workflow.annotating import closed, marker_evidence, why_closed
from allinsam.workflow.consenting import demand_consent
from allinsam.workflow.desk import Desk
from allinsam.workflow.gestures import OBSERVATIONS, Gesture, open_desk, take_gestures
from allinsam.workflow.practising import practice_feedback
from allinsam.workflow.refreshing import Refresh, dismiss_refresh, refresh_for
from allinsam.workflow.suggesting import propose
from webapp.annotate import bench
from webapp.annotate.desk_view import Telling
from webapp.image_routes import LARGEST_PANE_PX, View, refusal
from webapp.resources import embed_ahead, embedding_cache, suggest_ahead
from webapp.session import study_from_environment
from webapp.surfaces.scene import Window
from webapp.views import smoothed
from webapp.watching import saw

LARGEST_BODY_BYTES = 8_000_000
DEEPEST = 20  # lists in lists of a body; ours have 5
MOST_GESTURES = 200  # in one request
LONGEST_CLIENT = 80
# A page that has not been heard of for so long no longer holds its patch.
PRESENT_S = 12.0
SMALLEST_BRIGHT_PX = 3

_telling = Telling()


class Presence:
    """Which page load works on which patch, so that a second one can be told."""

    def __init__(self) -> None:
        self._seen: dict[int, tuple[str, float]] = {}
        self._lock = threading.Lock()

    def holds(self, assignment_id: int, client: str, take_over: bool = False, claim: bool = True) -> bool:
        """Whether this page load works on the patch; the first to come does, until it is silent.

        claim: False asks only, as for a page that may be on its way out.
        """
        now = time.monotonic()
        with self._lock:
            holder, seen = self._seen.get(assignment_id, (client, now))
            if holder != client and now - seen < PRESENT_S and not take_over:
                return False
            if claim:
                self._seen[assignment_id] = (client, now)
            return True

    def leave(self, assignment_id: int, client: str) -> None:
        with self._lock:
            if self._seen.get(assignment_id, ("", 0.0))[0] == client:
                del self._seen[assignment_id]


_presence = Presence()


async def desk_route(request: Request) -> Response:
    """GET /api/assignments/{id}/desk?client=...: everything a page needs to work on a patch."""
    return await _answer(request, _open)


async def acts_route(request: Request) -> Response:
    """POST /api/assignments/{id}/acts {client, knows, gestures}: settled when this answers."""
    return await _answer(request, _take)


async def masks_route(request: Request) -> Response:
    """POST /api/assignments/{id}/masks {client, knows}: the masks that are waited for."""
    return await _answer(request, _fetch)


async def verdicts_route(request: Request) -> Response:
    """GET /api/assignments/{id}/verdicts?client=...: right and wrong, of a practice patch handed in."""
    return await _answer(request, _verdicts)


async def refresh_route(request: Request) -> Response:
    """POST /api/assignments/{id}/refresh {client, refresh, seconds}: the reminder was read."""
    return await _answer(request, _dismiss)


async def here_route(request: Request) -> Response:
    """POST /api/assignments/{id}/here {client, take_over, leave}: I work here, if nobody else does."""
    return await _answer(request, _here)


routes = [
    Route("/api/assignments/{assignment_id:int}/desk", desk_route, methods=["GET"]),
    Route("/api/assignments/{assignment_id:int}/acts", acts_route, methods=["POST"]),
    Route("/api/assignments/{assignment_id:int}/masks", masks_route, methods=["POST"]),
    Route("/api/assignments/{assignment_id:int}/verdicts", verdicts_route, methods=["GET"]),
    Route("/api/assignments/{assignment_id:int}/refresh", refresh_route, methods=["POST"]),
    Route("/api/assignments/{assignment_id:int}/here", here_route, methods=["POST"]),
]


async def _answer(request: Request, act: Any) -> Response:
    """Run `act` in a thread, with the person, the assignment's id and the body; errors become words."""
    try:
        body = await json_body(request) if request.method == "POST" else dict(request.query_params)
        client = body.get("client")
        if not isinstance(client, str) or not 8 <= len(client) <= LONGEST_CLIENT or not client.isprintable():
            raise InputError("This page load has no usable name. Reload the page.")
        assignment_id = request.path_params["assignment_id"]
        if assignment_id >= 2**63:
            raise NotFoundError(f"No patch {assignment_id} in this study.")
        study = study_from_environment()
        person = request.state.person
        _demand_own(study, person, assignment_id, opening=act is _open)
        answer = await run_in_threadpool(act, study, person, assignment_id, client, body)
        if act is _open:
            saw(study, request, "view_assignment", f"assignment {assignment_id}")
    except AllinsamError as error:
        return refusal(error)
    return JSONResponse(answer, headers={"Cache-Control": "private, no-store"})


async def json_body(request: Request, most_bytes: int = LARGEST_BODY_BYTES) -> dict[str, Any]:
    if request.headers.get("content-type", "").split(";")[0] != "application/json":
        raise InputError("Send JSON.")
    content = bytearray()
    async for chunk in request.stream():
        content += chunk
        if len(content) > most_bytes:
            raise InputError(f"More than {most_bytes} bytes at once are not taken.")
    try:
        body = json.loads(content.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise InputError("This is no JSON. Reload the page.") from error
    if not isinstance(body, dict):
        raise InputError("Send one JSON object.")
    _check_depth(body)
    return body


def _check_depth(body: dict[str, Any]) -> None:
    """Refuse what is nested so deeply that whoever walks through it, or only shows it, would fail."""
    level: list[Any] = [body]
    for _ in range(DEEPEST):
        inside = (one.values() if isinstance(one, dict) else one for one in level)
        level = [one for values in inside for one in values if isinstance(one, (dict, list))]
    if level:
        raise InputError("This JSON is nested too deeply. Reload the page.")


def _demand_own(study: Study, person: SignedIn, assignment_id: int, opening: bool) -> None:
    with study.science.read() as db:
        assignment = assignments.get_assignment(db, assignment_id)
        # What was begun before is still taken in: nothing that was drawn is lost.
        asks = opening or assignment["state"] == "waiting"
        is_own = assignment["person_id"] == person.person_id
        why = why_closed(db, assignment) if asks and is_own else None
    if not may(person, "annotate", assignment) or assignment["person_id"] != person.person_id:
        raise NotAllowedError("This patch is not in your queue. Open one of your own.")
    with study.science.read() as db:
        demand_consent(db, person.person_id)  # by every route: the browser keeps what is refused
    if why:
        raise NotAllowedError(why)


def _knows(body: dict[str, Any]) -> int | None:
    knows = body.get("knows")
    return knows if type(knows) is int else None


def _open(study: Study, person: SignedIn, assignment_id: int, client: str, body: dict) -> dict[str, Any]:
    propose(study, assignment_id, lambda: embedding_cache(study))
    desk = open_desk(study, assignment_id, person.person_id, client)
    with study.science.read() as db:
        patch = images.get_patch(db, desk.assignment["patch_id"])
    mine = _queue(study, person.person_id)
    following = _following(mine, assignment_id)
    _embed_ahead(study, desk, following)
    pas_url, channels = _pictures(study, desk.assignment)
    return {
        "assignment": {
            "id": assignment_id,
            "width_px": desk.size_hw[1],
            "height_px": desk.size_hw[0],
            "um_per_px": patch["um_per_px"],
            "guidance": desk.assignment["guidance"],
            "tool": desk.assignment["tool"],
            # The other purposes look all alike to whoever annotates.
            "practice": desk.assignment["purpose"] == "practice",
            "pas_url": pas_url,
        },
        "channels": channels,
        # Fetched by the browser while this patch is worked on.
        "following": _picture_urls(study, following),
        "classes": [_class_json(study, desk, row) for row in desk.classes.values()],
        "queue": _queue_json(mine),
        "holds": _presence.holds(assignment_id, client),
        "refresh": _refresh_json(refresh_for(study, assignment_id)),
        **_telling.news(desk, client, None),
    }


def _take(study: Study, person: SignedIn, assignment_id: int, client: str, body: dict) -> dict[str, Any]:
    raw = body.get("gestures")
    if not isinstance(raw, list) or len(raw) > MOST_GESTURES:
        raise InputError(f"Send a list of at most {MOST_GESTURES} gestures.")
    # Gestures of an earlier page load of the same person, left behind by a crash, come under their own name.
    sender = body.get("sender", client)
    if not isinstance(sender, str) or not 8 <= len(sender) <= LONGEST_CLIENT or not sender.isprintable():
        raise InputError("The sender of these gestures has no usable name. Reload the page.")
    gestures = [Gesture.from_json(item) for item in raw]
    only_seen = all(gesture.kind in OBSERVATIONS for gesture in gestures)
    holds = _presence.holds(assignment_id, client, claim=not only_seen)
    # What a crashed page left behind was done while that page held the patch.
    held = holds or (sender != client and _presence.holds(assignment_id, sender, claim=False))
    taken = take_gestures(study, assignment_id, person.person_id, sender, gestures, held)
    handed_in = any(gesture.kind in ("submit", "reopen") for gesture in gestures)
    return {
        "acknowledged": taken.acknowledged,
        "refused": [{"n": n, "why": why} for n, why in taken.refused.items()],
        "holds": holds,
        # Handing in may open what was closed.
        **({"queue": _queue_json(_queue(study, person.person_id))} if handed_in else {}),
        **_telling.news(taken.desk, client, _knows(body)),
    }


def _fetch(study: Study, person: SignedIn, assignment_id: int, client: str, body: dict) -> dict[str, Any]:
    trouble = None
    try:
        cache = embedding_cache(study)
    except AllinsamError as error:
        cache, trouble = None, f"Boxes get no outlines now: {by_name(str(error))}"
    # Masks are the server's acts: they are numbered by a name of their own.
    desk = open_desk(study, assignment_id, person.person_id, f"masks-{time.time_ns():x}-{client[:24]}", cache)
    started = time.perf_counter()
    desk.clock_ms = lambda: 1000 * (time.perf_counter() - started)
    if cache is not None:
        desk.fetch_masks()
    return {"trouble": trouble, **_telling.news(desk, client, _knows(body))}


def _here(study: Study, person: SignedIn, assignment_id: int, client: str, body: dict) -> dict[str, Any]:
    if body.get("leave") is True:
        _presence.leave(assignment_id, client)
        return {"holds": False}
    return {"holds": _presence.holds(assignment_id, client, take_over=body.get("take_over") is True)}


def _dismiss(study: Study, person: SignedIn, assignment_id: int, client: str, body: dict) -> dict[str, Any]:
    number, seconds = body.get("refresh"), body.get("seconds")
    is_time = isinstance(seconds, (int, float)) and not isinstance(seconds, bool)
    if type(number) is not int or not is_time or not abs(seconds) < LARGEST_NUMBER:
        raise InputError("Say which reminder was read, and for how many seconds. Reload the page.")
    dismiss_refresh(study, person.person_id, number, seconds)
    return {"dismissed": number}


def _refresh_json(refresh: Refresh | None) -> dict[str, Any] | None:
    """How often each kind of mistake was made; nothing says on which patches."""
    return None if refresh is None else {"id": refresh.id, "mistakes": refresh.mistakes}


def _verdicts(study: Study, person: SignedIn, assignment_id: int, client: str, body: dict) -> dict[str, Any]:
    verdicts = practice_feedback(study, assignment_id)
    told = []
    for verdict in verdicts:
        # A missed nucleus is shown as the gold has it, any other as it was drawn.
        shown = verdict.drawn or verdict.gold
        told.append(
            {
                "kind": verdict.kind,
                "class_id": shown.class_id,
                "true_class_id": verdict.gold.class_id if verdict.gold else None,
                "rings": [np.round(ring, 1).tolist() for ring in bench.rings_of_mask(shown.mask)],
            }
        )
    found = mark(verdicts)
    return {"verdicts": told, "f1": found.f1, "class_accuracy": found.class_accuracy}


def _queue(study: Study, person_id: str) -> list[dict[str, Any]]:
    """A person's assignments in order, with the state "held" where one must not be opened now."""
    with study.science.read() as db:
        mine = assignments.list_assignments(db, person_id)
        waits = closed(db, mine)
    return [{**row, "state": "held"} if row["id"] in waits else row for row in mine]


def _queue_json(mine: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """By place in the queue: a name of its own would tell a patch that is seen again."""
    return [
        {"id": row["id"], "state": row["state"], "patch": f"Patch {place}"}
        for place, row in enumerate(mine, 1)
    ]


def _following(mine: list[dict[str, Any]], assignment_id: int) -> dict[str, Any] | None:
    """Where the page goes after this patch: to one that was begun, else to one that waits."""
    others = [row for row in mine if row["id"] != assignment_id]
    for state in ("open", "waiting"):
        for row in others:
            if row["state"] == state:
                return row
    return None


def _embed_ahead(study: Study, desk: Desk, following: dict[str, Any] | None) -> None:
    if following and following["guidance"] == "suggestion":
        suggest_ahead(study, following["id"])
    try:
        cache = embedding_cache(study)
    except AllinsamError:
        return  # the first box says so
    embed_ahead(study, cache, [desk.assignment["patch_id"], *([following["patch_id"]] if following else [])])


def _picture_urls(study: Study, assignment: dict[str, Any] | None) -> list[str]:
    if assignment is None:
        return []
    pas_url, channels = _pictures(study, assignment)
    return [pas_url, *(channel["url"] for channel in channels)]


def _pictures(study: Study, assignment: dict[str, Any]) -> tuple[str, list[dict[str, str]]]:
    """Addresses of an assignment's whole patch and of the channels that its annotator may see."""
    patch_id = assignment["patch_id"]
    with study.science.read() as db:
        patch = images.get_patch(db, patch_id)
        channels = images.list_channels(db, patch_id) if assignment["guidance"] in SHOWN_TO["marker"] else []
        # Where the threshold is not shown, a new one must not show in the address either.
        versioned = assignment["guidance"] in SHOWN_TO["bright"]
        registration = images.current_registration(db, patch_id)
        signed = {
            channel["marker"]: thresholds.current_threshold(
                db, patch["slide_id"], channel["marker"], patch_id
            )
            for channel in channels
        }
    side = max(patch["height_px"], patch["width_px"])
    window = Window(0, 0, side, min(side, LARGEST_PANE_PX))
    shown = [
        {
            "name": marker,
            "url": View(patch_id, "marker", window, marker).url(
                (f"-r{registration['id']}" if registration else "")
                + (f"-{threshold['id']}" if threshold and versioned else ""),
                assignment["id"],
            ),
        }
        for marker, threshold in signed.items()
    ]
    return View(patch_id, "pas", window).url(assignment_id=assignment["id"]), shown


def _class_json(study: Study, desk: Desk, row: dict[str, Any]) -> dict[str, Any]:
    shows_marker, shows_bright = (
        desk.assignment["guidance"] in SHOWN_TO[layer] for layer in ("marker", "bright")
    )
    return {
        "id": row["id"],
        "name": row["name"],
        "letter": bench.letters(desk)[row["id"]],
        "key": row["key"],
        "colour": row["colour"],
        "marker": row["marker"] if shows_marker else None,
        "bright": _bright_rings(study, desk, row["marker"]) if shows_bright else None,
    }


def _bright_rings(study: Study, desk: Desk, marker: str) -> list[list[list[float]]] | None:
    """Outlines of where a marker is bright; None where nothing was measured or signed."""
    evidence = marker_evidence(study, desk.assignment["patch_id"], marker)
    if evidence is None:
        return None
    rings = mask_to_polygons(evidence.bright)
    large = [ring for ring in rings if np.ptp(ring, axis=0).min() >= SMALLEST_BRIGHT_PX]
    return [np.round(smoothed(ring), 1).tolist() for ring in large]
