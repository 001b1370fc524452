"""Routes for downloads."""

from starlette.routing import Route

routes: list[Route] = []
