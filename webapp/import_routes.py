"""Files that the lead sends to be imported: streamed to the study's disk, never kept in memory."""

import os

from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from allinsam.accounts import demand
from allinsam.errors import AllinsamError, InputError
from allinsam.workflow.uploads import demand_room, drop_upload, new_upload
from webapp.image_routes import refusal
from webapp.session import study_from_environment, upload_limit_mb

LONGEST_NUMBER = 20  # digits of a size; what is longer says nothing, and the bytes are counted anyway


class TooLargeError(InputError):
    """More bytes than the server takes at once."""


async def upload_route(request: Request) -> Response:
    """POST /api/import/uploads?name=...: the file as the body; answers with the key it is kept under."""
    key, study = "", None
    try:
        demand(request.state.person, "import_images")
        study = study_from_environment()
        name = request.query_params.get("name", "")
        said = request.headers.get("content-length", "")
        coming_bytes = int(said) if said.isdecimal() and len(said) < LONGEST_NUMBER else 0
        _check_size(name, coming_bytes)
        demand_room(study, coming_bytes)
        key, path = new_upload(study, name)
        written = 0
        with path.open("xb") as file:
            async for chunk in request.stream():
                written += len(chunk)
                _check_size(name, written)
                file.write(chunk)
            file.flush()
            os.fsync(file.fileno())
        if not written:
            raise InputError(f"{name} is empty. Choose another file.")
        return JSONResponse({"key": key, "name": path.name, "bytes": written})
    except BaseException as error:
        if key and study:
            drop_upload(study, key)
        if isinstance(error, TooLargeError):
            return PlainTextResponse(str(error), 413)
        if isinstance(error, AllinsamError):
            return refusal(error)
        if isinstance(error, ClientDisconnect):
            return Response(status_code=400)  # nobody is there to read it
        if isinstance(error, OSError):
            text = f"The file could not be kept: {error.strerror or error}. Make room on the server's disk."
            return PlainTextResponse(text, 507)
        raise


routes = [Route("/api/import/uploads", upload_route, methods=["POST"])]


def _check_size(name: str, size: int) -> None:
    limit_mb = upload_limit_mb()
    if size > limit_mb * 1_000_000:
        raise TooLargeError(
            f"{name[:80]} has more than {limit_mb:g} MB. Put it into the server's inbox folder, or ask who "
            "runs the server for a higher --upload-mb."
        )
