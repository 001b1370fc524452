"""The help's example pictures, for every signed-in person. Simulated, so they say nothing of any study."""

import hashlib
import threading
from functools import lru_cache

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from allinsam.errors import NotFoundError
from webapp.guide_pictures import EXAMPLES, draw_all, simulated_tissue
from webapp.image_routes import refusal
from webapp.views import png


def guide_route(request: Request) -> Response:
    """GET /api/guide/{name}.png"""
    name = request.path_params["name"]
    if name not in EXAMPLES:
        return refusal(NotFoundError(f"No example {name!r}. Choose one of {', '.join(EXAMPLES)}."))
    picture = guide_pictures()[name]
    etag = f'"{hashlib.sha256(picture).hexdigest()[:32]}"'
    headers = {"ETag": etag, "Cache-Control": "private, max-age=3600", "Vary": "Cookie"}
    if request.headers.get("if-none-match") == etag:
        return Response(status_code=304, headers=headers)
    return Response(picture, media_type="image/png", headers=headers)


routes: list[Route] = [Route("/api/guide/{name}.png", guide_route)]

_drawing = threading.Lock()


def guide_pictures() -> dict[str, bytes]:
    """Name -> PNG, drawn once in a process."""
    with _drawing:  # a browser asks for all twelve at once
        return _drawn_pictures()


@lru_cache(maxsize=1)
def _drawn_pictures() -> dict[str, bytes]:
    return {name: png(picture) for name, picture in draw_all(simulated_tissue()).items()}
