"""Routes for images."""

from starlette.routing import Route

routes: list[Route] = []
