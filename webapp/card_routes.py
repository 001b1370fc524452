"""Cards from the study's own gold: which there are for an annotator, and their pictures.

They come under the rights of one's own assignment, and their addresses tell no patch.
"""

import hashlib
from typing import Any

import cv2
import numpy as np
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from allinsam.accounts import SignedIn, may
from allinsam.cards import Card
from allinsam.errors import AllinsamError, NotAllowedError, NotFoundError
from allinsam.records import SHOWN_TO
from allinsam.store import Study, assignments, images, thresholds
from allinsam.store.study import list_classes
from allinsam.workflow.annotating import read_patch, read_registered_channel
from allinsam.workflow.consenting import demand_consent
from allinsam.workflow.teaching import cards_for, note_card
from webapp import views
from webapp.image_routes import refusal
from webapp.session import study_from_environment
from webapp.surfaces.scene import Window
from webapp.watching import saw_patch

PANE_PX, GAP_PX, LINE_PX = 132, 4, 2
SMALLEST_SIDE_PX, ROOM = 28, 2.2  # of the patch; a window is so many times what it is about
BEYOND_GREY = 120  # not the panes' light grey: beside the stain's white that would be no border


def cards_route(request: Request) -> Response:
    """GET /api/assignments/{id}/cards: names and addresses, in their order."""
    try:
        study = study_from_environment()
        assignment = _own_assignment(study, request)
        names = list(cards_for(study, assignment))
    except AllinsamError as error:
        return refusal(error)
    here = f"/api/assignments/{assignment['id']}/cards"
    cards = [{"name": name, "url": f"{here}/{name}.png"} for name in names]
    return JSONResponse({"cards": cards}, headers={"Cache-Control": "private, no-store"})


def picture_route(request: Request) -> Response:
    """GET /api/assignments/{id}/cards/{name}.png: stain, stain with the outline, marker."""
    try:
        study = study_from_environment()
        assignment = _own_assignment(study, request)
        name = request.path_params["name"]
        card = cards_for(study, assignment).get(name)
        if card is None:
            raise NotFoundError(f"There is no card {name[:40]!r} for this patch.")
        picture = views.png(draw(study, card, assignment["guidance"]))
        note_card(study, assignment["person_id"], card)
        saw_patch(study, request, card.patch_id)
    except AllinsamError as error:
        return refusal(error)
    etag = f'"{hashlib.sha256(picture).hexdigest()[:32]}"'
    headers = {"ETag": etag, "Cache-Control": "private, no-cache", "Vary": "Cookie"}
    if request.headers.get("if-none-match") == etag:
        return Response(status_code=304, headers=headers)
    return Response(picture, media_type="image/png", headers=headers)


routes: list[Route] = [
    Route("/api/assignments/{assignment_id:int}/cards", cards_route),
    Route("/api/assignments/{assignment_id:int}/cards/{name}.png", picture_route),
]


def _own_assignment(study: Study, request: Request) -> dict[str, Any]:
    person: SignedIn = request.state.person
    assignment_id = request.path_params["assignment_id"]
    if assignment_id >= 2**63:
        raise NotFoundError(f"No patch {assignment_id} in this study.")
    with study.science.read() as db:
        assignment = assignments.get_assignment(db, assignment_id)
        if not may(person, "annotate", assignment):
            raise NotAllowedError("This patch is not in your queue. Open one of your own.")
        demand_consent(db, person.person_id)
    return assignment


def draw(study: Study, card: Card, guidance: str) -> np.ndarray:
    """Stain | stain with the outlines | marker, RGB uint8; without the marker where it is not shown."""
    x0, y0, x1, y1 = card.box
    side = max(SMALLEST_SIDE_PX, round(ROOM * max(x1 - x0, y1 - y0)))
    window = Window(round((x0 + x1 - side) / 2), round((y0 + y1 - side) / 2), side, PANE_PX)
    with study.science.read() as db:
        row = next(row for row in list_classes(db) if row["id"] == card.class_id)
    plain = views.crop(read_patch(study, card.patch_id), window, BEYOND_GREY)
    panes = [plain, _outlined(plain, card, window, row["colour"])]
    if guidance in SHOWN_TO["marker"]:
        panes.append(_marker_pane(study, card, window, row["marker"], guidance in SHOWN_TO["bright"]))
    gap = np.full((PANE_PX, GAP_PX, 3), 255, np.uint8)
    return np.hstack([part for pane in panes for part in (pane, gap)][:-1])


def _outlined(pane: np.ndarray, card: Card, window: Window, colour: str) -> np.ndarray:
    picture = pane.copy()
    # 4 fractional bits; OpenCV's coordinate 0 is the first pixel's centre, ours its edge.
    paths = [
        np.round((window.to_pane(views.smoothed(ring)) - 0.5) * 16).astype(np.int32)[:, None]
        for ring in card.rings
    ]
    for width, ink in ((LINE_PX + 2, views.HALO), (LINE_PX, views.rgb(colour))):
        cv2.polylines(picture, paths, True, ink, width, cv2.LINE_AA, shift=4)
    return picture


def _marker_pane(study: Study, card: Card, window: Window, marker: str, by_threshold: bool) -> np.ndarray:
    channel, _ = read_registered_channel(study, card.patch_id, marker)
    with study.science.read() as db:
        slide_id = images.get_patch(db, card.patch_id)["slide_id"]
        signed = thresholds.current_threshold(db, slide_id, marker, card.patch_id)
    limits = views.display_range(channel, signed["value"] if signed and by_threshold else None)
    return views.marker_rgb(views.crop(channel, window, fill=0), limits)
