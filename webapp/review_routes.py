"""Reviewing by fetch: a patch with everybody's outlines, decisions in. Raters are letters here."""

from typing import Any

import numpy as np
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from allinsam.accounts import SignedIn, demand
from allinsam.disputes import REASONS
from allinsam.errors import AllinsamError, InputError, NotFoundError
from allinsam.masks import clean_mask, lasso_mask
from allinsam.records import Mask
from allinsam.store import Study, images, thresholds
from allinsam.store.study import list_classes
from allinsam.workflow.reviewing import Cluster, clusters, decide, review_state, undo
from webapp.annotate.bench import rings_of_mask
from webapp.desk_routes import json_body
from webapp.image_routes import LARGEST_PANE_PX, View, refusal
from webapp.session import study_from_environment
from webapp.surfaces.scene import Window
from webapp.watching import saw_patch

MOST_POINTS = 5000  # of an outline drawn by hand


async def review_route(request: Request) -> Response:
    """GET /api/reviews/{patch_id}: pictures, raters by letter, and every nucleus."""
    return await _answer(request, _open)


async def decide_route(request: Request) -> Response:
    """POST /api/reviews/{patch_id}/decisions {kind, cluster_id, letter, class_id, points, comment, seen}"""
    return await _answer(request, _decide)


async def undo_route(request: Request) -> Response:
    """POST /api/reviews/{patch_id}/undo {cluster_id}: the last decision, of a nucleus if one is named."""
    return await _answer(request, _undo)


routes = [
    Route("/api/reviews/{patch_id:int}", review_route, methods=["GET"]),
    Route("/api/reviews/{patch_id:int}/decisions", decide_route, methods=["POST"]),
    Route("/api/reviews/{patch_id:int}/undo", undo_route, methods=["POST"]),
]


async def _answer(request: Request, act: Any) -> Response:
    try:
        body = await json_body(request) if request.method == "POST" else {}
        patch_id = request.path_params["patch_id"]
        if patch_id >= 2**63:
            raise NotFoundError(f"No patch {patch_id} in this study.")
        person = request.state.person
        demand(person, "review")
        study = study_from_environment()
        answer = await run_in_threadpool(act, study, person, patch_id, body)
        saw_patch(study, request, patch_id)
    except AllinsamError as error:
        return refusal(error)
    return JSONResponse(answer, headers={"Cache-Control": "private, no-store"})


def _open(study: Study, person: SignedIn, patch_id: int, body: dict[str, Any]) -> dict[str, Any]:
    with study.science.read() as db:
        patch = images.get_patch(db, patch_id)
        classes = list_classes(db)
        channels = images.list_channels(db, patch_id)
        registration = images.current_registration(db, patch_id)
        signed = {
            row["marker"]: thresholds.current_threshold(db, patch["slide_id"], row["marker"], patch_id)
            for row in channels
        }
    side = max(patch["height_px"], patch["width_px"])
    window = Window(0, 0, side, min(side, LARGEST_PANE_PX))
    state = review_state(study, patch_id, person.person_id)
    order = {row["marker"]: place for place, row in enumerate(classes)}
    return {
        "patch": {"width_px": patch["width_px"], "height_px": patch["height_px"]},
        "pas_url": View(patch_id, "pas", window).url(),
        "channels": [
            {
                "name": row["marker"],
                "url": View(patch_id, "marker", window, row["marker"]).url(
                    (f"-r{registration['id']}" if registration else "")
                    + (f"-{signed[row['marker']]['id']}" if signed[row["marker"]] else "")
                ),
            }
            for row in sorted(channels, key=lambda row: order.get(row["marker"], len(order)))
        ],
        "classes": [
            {key: row[key] for key in ("id", "name", "colour", "marker")}
            for row in classes
            if row["id"] in state.class_ids
        ],
        "raters": list(state.raters),
        "own": list(state.own_letters),
        **_news(study, patch_id),
    }


def _news(study: Study, patch_id: int) -> dict[str, Any]:
    state, found = review_state(study, patch_id), clusters(study, patch_id)
    return {
        "finished": state.is_finished,
        "version": state.version,
        "open": sum(one.is_open for one in found),
        "clusters": [_cluster_json(one) for one in found],
    }


def _cluster_json(cluster: Cluster) -> dict[str, Any]:
    decision = cluster.decision
    told = None
    if decision is not None:
        told = {
            "id": decision.decision_id,
            "kind": decision.kind,
            "class_id": decision.class_id,
            "rings": _rings(decision.mask) if decision.mask else [],
            "comment": decision.comment,
            "letter": decision.letter,
        }
    return {
        "id": cluster.cluster_id,
        "box": list(cluster.box),
        "votes": cluster.votes,
        "looked": cluster.n_looked,
        "missed_by": list(cluster.missed_by),
        "class_id": cluster.class_id,
        "reasons": [REASONS[reason] for reason in cluster.reasons],
        "open": cluster.is_open,
        "rings": _rings(cluster.mask),
        "members": [
            {"letter": m.letter, "class_id": m.class_id, "rings": _rings(m.mask)} for m in cluster.members
        ],
        "decision": told,
    }


def _rings(mask: Mask) -> list[list[list[float]]]:
    return [np.round(ring, 1).tolist() for ring in rings_of_mask(mask)]


def _decide(study: Study, person: SignedIn, patch_id: int, body: dict[str, Any]) -> dict[str, Any]:
    text = {name: body.get(name) for name in ("kind", "cluster_id", "letter", "comment")}
    if any(value is not None and not isinstance(value, str) for value in text.values()):
        raise InputError("Send kind, cluster_id, letter and comment as text.")
    class_id = body.get("class_id")
    if class_id is not None and type(class_id) is not int:
        raise InputError(f"class_id {class_id!r} is no class's number.")
    seen = body.get("seen")
    if seen is not None and type(seen) is not int:
        raise InputError(f"seen {seen!r} is no decision's number.")
    mask = None
    if body.get("points") is not None:
        with study.science.read() as db:
            patch = images.get_patch(db, patch_id)
        mask = _drawn(body["points"], (patch["height_px"], patch["width_px"]))
    decided = decide(
        study,
        person.person_id,
        patch_id,
        text["cluster_id"],
        text["kind"] or "",
        text["letter"],
        class_id,
        mask,
        text["comment"] or "",
        seen,
    )
    return {"cluster_id": decided, **_news(study, patch_id)}


def _drawn(points: Any, size_hw: tuple[int, int]) -> np.ndarray:
    """What a line drawn by hand encloses, in one piece."""
    try:
        line = np.asarray(points, np.float32)
    except (TypeError, ValueError, OverflowError) as error:
        raise InputError("This outline is no list of points [x, y]. Draw it again.") from error
    if line.ndim != 2 or line.shape[1] != 2 or not 3 <= len(line) <= MOST_POINTS:
        raise InputError(f"An outline has 3 to {MOST_POINTS} points [x, y]. Draw it again.")
    if not np.isfinite(line).all():
        raise InputError("This outline has a point that is no number. Draw it again.")
    mask = lasso_mask(np.clip(line, 0, (size_hw[1], size_hw[0])), size_hw)
    return clean_mask(mask, min_area_px=1) if mask.any() else mask


def _undo(study: Study, person: SignedIn, patch_id: int, body: dict[str, Any]) -> dict[str, Any]:
    cluster_id = body.get("cluster_id")
    if cluster_id is not None and not isinstance(cluster_id, str):
        raise InputError("Send cluster_id as text.")
    undone = undo(study, person.person_id, patch_id, cluster_id)
    return {"cluster_id": undone, **_news(study, patch_id)}
