"""The panes' pictures. They come by URL, so that no picture travels with a page's script."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import numpy as np
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from allinsam.accounts import SignedIn, may
from allinsam.errors import (
    AllinsamError,
    ConsentMissing,
    InputError,
    NotAllowedError,
    NotFoundError,
    StorageError,
    by_name,
)
from allinsam.records import SHOWN_TO
from allinsam.registration import as_stain, checked_position, checkerboard, identity_matrix, overlay
from allinsam.store import Study, images, thresholds
from allinsam.store.assignments import get_assignment, patch_assignments
from allinsam.workflow.annotating import read_registered_channel, stored_channel, stored_rgb
from allinsam.workflow.consenting import demand_consent
from webapp import views
from webapp.session import study_from_environment
from webapp.surfaces.scene import Window
from webapp.watching import saw_patch

# How a channel lies on the stain: alone and dark on white, over it in green, or in turn with it in squares.
POSITIONS = {
    "if": lambda pas, channel, matrix, square_px: as_stain(channel, matrix, pas.shape[:2]),
    "overlay": lambda pas, channel, matrix, square_px: overlay(pas, channel, matrix),
    "checker": checkerboard,
}
SQUARES_ACROSS = 8
SMALLEST_SQUARE_PX = 32  # of the patch: several nuclei must lie on its edges
# pas: the stained patch. marker: a marker's channel in its place. bright: outline of its bright area.
LAYERS = ("pas", "marker", "bright", *POSITIONS)
# The marker's outline is white: the classes' colours are those of what people draw.
WHITE = "#ffffff"
LARGEST_PANE_PX = 2048
# Raised with every change to what a picture looks like, so that browsers forget the old ones.
PICTURE_VERSION = 1


@dataclass(frozen=True)
class View:
    """One picture that can be asked for."""

    patch_id: int
    layer: str
    window: Window
    marker: str = ""
    contrast: float = 1.0
    tint: str = "grey"
    colour: str = WHITE
    threshold: float | None = None  # None: the signed one
    matrix: tuple[float, ...] | None = (
        None  # of a position, 2x3 row by row; None: the registration that holds
    )

    def url(self, version: str = "", assignment_id: int | None = None) -> str:
        """Path and query; `version` names what the picture depends on beside these, such as a threshold.

        assignment_id: for its annotator. The address tells no patch then, so that a repeat of one looks
        like any other.
        """
        query: dict[str, Any] = {
            "layer": self.layer,
            "x0": self.window.x0,
            "y0": self.window.y0,
            "side": self.window.side_px,
            "px": self.window.pane_px,
        }
        if self.layer != "pas":
            query["marker"] = self.marker
        if self.layer == "marker":
            query |= {"contrast": f"{self.contrast:g}", "tint": self.tint}
        if self.layer == "bright" and self.colour != WHITE:
            query["colour"] = self.colour
        if self.threshold is not None:
            query["threshold"] = f"{self.threshold:g}"
        if self.matrix is not None:
            query["matrix"] = ",".join(f"{value:.9g}" for value in self.matrix)
        if assignment_id is not None and version:
            version = f"-{_salted(version, assignment_id)[:12]}"
        query["v"] = f"{PICTURE_VERSION}{version}"
        of = f"patches/{self.patch_id}" if assignment_id is None else f"assignments/{assignment_id}"
        return f"/api/{of}/view.png?{urlencode(query)}"


# ConsentMissing is told apart: the surface keeps what it could not send and asks the page to show the text.
# Of a StorageError the browser asks again, and keeps meanwhile what it has to send.
STATUS_OF = {ConsentMissing: 428, NotAllowedError: 403, NotFoundError: 404, StorageError: 503}


def refusal(error: AllinsamError) -> Response:
    """Why a request was refused, in words and with the right status."""
    status = next((code for kind, code in STATUS_OF.items() if isinstance(error, kind)), 400)
    return PlainTextResponse(by_name(str(error)), status_code=status)


def view_route(request: Request) -> Response:
    """GET /api/patches/{patch_id}/view.png, or /api/assignments/{assignment_id}/view.png of one's own."""
    try:
        study = study_from_environment()
        patch_id, own = _asked_patch(study, request)
        view = _asked_view(request, patch_id)
        by_threshold = _check_access(study, request.state.person, view, own)
        saw_patch(study, request, patch_id)
        state = f"{_state_of(study, view)}-{by_threshold:d}"
        etag = f'"{state if own is None else _salted(state, own)}"'
        headers = {"ETag": etag, "Cache-Control": "private, max-age=3600", "Vary": "Cookie"}
        if request.headers.get("if-none-match") == etag:
            return Response(status_code=304, headers=headers)
        # Positions are tried by the dozen: they must not drive the annotators' pictures out of the cache.
        if view.layer in POSITIONS:
            picture = _position(study, view)
        else:
            picture = _picture(study, view, state, by_threshold)
    except AllinsamError as error:
        return refusal(error)
    return Response(picture, media_type="image/png", headers=headers)


routes: list[Route] = [
    Route("/api/patches/{patch_id:int}/view.png", view_route),
    Route("/api/assignments/{assignment_id:int}/view.png", view_route),
]


def _asked_patch(study: Study, request: Request) -> tuple[int, int | None]:
    """The patch, and the assignment if it was asked for by that."""
    assignment_id = request.path_params.get("assignment_id")
    if assignment_id is None:
        return request.path_params["patch_id"], None
    if assignment_id >= 2**63:
        raise NotFoundError(f"No patch {assignment_id} in this study.")
    with study.science.read() as db:
        assignment = get_assignment(db, assignment_id)
    if not may(request.state.person, "annotate", assignment):
        raise NotAllowedError("This patch is not in your queue. Open one of your own.")
    return assignment["patch_id"], assignment_id


def _salted(text: str, assignment_id: int) -> str:
    """Of two assignments of one patch, something else for each."""
    return hashlib.sha256(f"{assignment_id} {text}".encode()).hexdigest()[:32]


def _asked_view(request: Request, patch_id: int) -> View:
    query = request.query_params
    layer = query.get("layer", "pas")
    if layer not in LAYERS:
        raise InputError(f"Unknown layer {layer!r}. Choose one of {', '.join(LAYERS)}.")
    if patch_id >= 2**63:  # more than the store's numbers hold
        raise NotFoundError(f"No patch {patch_id} in this study.")
    side, px = _number(query, "side", 512, 1, 100_000), _number(query, "px", 512, 1, LARGEST_PANE_PX)
    x0, y0 = (_number(query, name, 0, -100_000, 1_000_000) for name in ("x0", "y0"))
    threshold = _number(query, "threshold", 0.0, 0, 65_535) if "threshold" in query else None
    return View(
        patch_id=patch_id,
        layer=layer,
        window=Window(int(x0), int(y0), int(side), int(px)),
        marker=query.get("marker", ""),
        contrast=_number(query, "contrast", 1.0, 0.1, 20),
        tint=query.get("tint", "grey"),
        colour=query.get("colour", WHITE),
        threshold=threshold,
        matrix=_matrix(query["matrix"], layer) if "matrix" in query else None,
    )


def _matrix(text: str, layer: str) -> tuple[float, ...]:
    """Six numbers, row by row, of a transform that an IF may have."""
    if layer not in POSITIONS:
        raise InputError(f"A matrix can be tried with the layers {', '.join(POSITIONS)}, not with {layer!r}.")
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError as error:
        raise InputError(f"matrix = {text[:100]!r} is not six numbers.") from error
    if len(numbers) != 6:
        raise InputError(f"matrix has {len(numbers)} numbers. Give six, row by row.")
    return tuple(checked_position(np.reshape(numbers, (2, 3))).ravel().tolist())


def _number(query: Mapping[str, str], name: str, default: float, low: float, high: float) -> float:
    try:
        value = float(query.get(name, default))
    except ValueError as error:
        raise InputError(f"{name} = {query[name]!r} is not a number.") from error
    if not low <= value <= high:
        raise InputError(f"{name} = {value:g} is outside {low:g} to {high:g}.")
    return value


def _check_access(study: Study, person: SignedIn, view: View, assignment_id: int | None) -> bool:
    """Refuse what this person may not see; whether a marker may be shown by what its threshold says."""
    with study.science.read() as db:
        given = patch_assignments(db, view.patch_id)
    if not may(person, "view_patch", {"person_ids": [row["person_id"] for row in given]}):
        raise NotAllowedError(f"Patch {view.patch_id} is not in your queue. Open one of your own.")
    if assignment_id is not None or not may(person, "view_thresholds"):  # who sees it to annotate it
        with study.science.read() as db:
            demand_consent(db, person.person_id)
    if view.layer == "pas" or may(person, "view_thresholds"):
        return True
    if view.layer in POSITIONS:
        raise NotAllowedError("Only who settles registrations may look at positions of the IF.")
    own = [
        row for row in given if row["person_id"] == person.person_id and assignment_id in (None, row["id"])
    ]
    if not any(row["guidance"] in SHOWN_TO[view.layer] for row in own):
        raise NotAllowedError("This patch is annotated without the marker.")
    if view.threshold is not None:
        raise NotAllowedError("Only who signs thresholds may try others.")
    return any(row["guidance"] in SHOWN_TO["bright"] for row in own)


def _state_of(study: Study, view: View) -> str:
    """A hash of everything the picture depends on."""
    with study.science.read() as db:
        patch = images.get_patch(db, view.patch_id)
        parts: list[Any] = [PICTURE_VERSION, view, patch["image_sha256"]]
        if view.layer != "pas":
            registration = images.current_registration(db, view.patch_id)
            current = thresholds.current_threshold(db, patch["slide_id"], view.marker, view.patch_id)
            channels = images.list_channels(db, view.patch_id)
            parts += [registration and registration["id"], current and current["id"], channels]
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:32]


@lru_cache(maxsize=96)
def _picture(study: Study, view: View, state: str, by_threshold: bool) -> bytes:
    """`state` stands for what the picture depends on beside its arguments.

    by_threshold: False where the brightness must not tell the threshold.
    """
    if view.layer == "pas":
        with study.science.read() as db:
            sha256 = images.get_patch(db, view.patch_id)["image_sha256"]
        return views.png(views.crop(_patch_pixels(study.image_path(sha256)), view.window))
    channel, threshold = _channel(study, view.patch_id, view.marker, state)
    if view.layer == "marker":
        limits = views.display_range(channel, threshold if by_threshold else None)
        picture = views.marker_rgb(views.crop(channel, view.window, fill=0), limits, view.contrast, view.tint)
        return views.png(picture)
    value = view.threshold if view.threshold is not None else threshold
    if value is None:
        raise NotFoundError(f"No threshold of {view.marker} is signed for patch {view.patch_id}.")
    return views.png(views.bright_outline(channel, value, view.window, view.colour))


def _position(study: Study, view: View) -> bytes:
    """A channel on its stain as a matrix, or the registration that holds, puts it."""
    with study.science.read() as db:
        patch = images.get_patch(db, view.patch_id)
        channels = [row for row in images.list_channels(db, view.patch_id) if row["marker"] == view.marker]
        registration = images.current_registration(db, view.patch_id)
    if not channels:
        raise NotFoundError(f"Patch {patch['name']} has no {view.marker} channel. Import one for it.")
    matrix = registration["matrix"] if registration else identity_matrix()
    if view.matrix is not None:
        matrix = np.reshape(view.matrix, (2, 3))
    pas = _patch_pixels(study.image_path(patch["image_sha256"]))
    channel = _channel_pixels(study.image_path(channels[0]["image_sha256"]))
    square_px = max(SMALLEST_SQUARE_PX, round(view.window.side_px / SQUARES_ACROSS))
    return views.png(views.crop(POSITIONS[view.layer](pas, channel, matrix, square_px), view.window))


@lru_cache(maxsize=4)
def _channel_pixels(path: Path) -> np.ndarray:
    return stored_channel(path)


@lru_cache(maxsize=16)
def _patch_pixels(path: Path) -> np.ndarray:
    return stored_rgb(path)


@lru_cache(maxsize=16)
def _channel(study: Study, patch_id: int, marker: str, state: str) -> tuple[np.ndarray, float | None]:
    channel, _ = read_registered_channel(study, patch_id, marker)
    with study.science.read() as db:
        patch = images.get_patch(db, patch_id)
        signed = thresholds.current_threshold(db, patch["slide_id"], marker, patch_id)
    return channel, signed["value"] if signed else None
