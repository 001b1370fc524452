"""Pictures and cards of training runs, for the lead. By URL: patient tissue never goes through a page."""

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import cv2
import numpy as np
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from allinsam.accounts import demand
from allinsam.errors import NotFoundError
from allinsam.store import Study, runs
from allinsam.store.study import list_classes
from allinsam.workflow.annotating import read_patch
from allinsam.workflow.labels import frozen_masks
from allinsam.workflow.mocl_doubts import read_maps
from allinsam.workflow.run_cards import card_markdown, run_card
from allinsam.workflow.run_examples import read_example
from webapp.export_routes import answering_errors, card_file
from webapp.outlines import outlined_layers
from webapp.session import study_from_environment
from webapp.watching import record, saw_patch

PICTURE_PX = 1024  # a small patch is enlarged to about this
LABEL_COLOUR = "#ffffff"
LARGEST_ID = 2**31
# What a map shows: None is the stained patch itself.
MAPS: dict[str, int | None] = {"pas": None, "w": 0, "s": 1}


@answering_errors
def example_route(request: Request) -> Response:
    """GET /api/runs/{run}/examples/{epoch}/{patch}.png: found solid, labels dashed."""
    demand(request.state.person, "train")
    study, ids = study_from_environment(), _ids(request, "run", "epoch", "patch")
    picture = _example(study, *ids)
    saw_patch(study, request, ids[-1])
    return _png(picture)


@answering_errors
def map_route(request: Request) -> Response:
    """GET /api/runs/{run}/trust/{patch}/{class}/{what}.png: W or S as heat, or the stain; with the labels."""
    demand(request.state.person, "train")
    what = request.path_params["what"]
    if what not in MAPS:
        raise NotFoundError(f"No map {what[:20]!r}. Choose one of {', '.join(MAPS)}.")
    study, ids = study_from_environment(), _ids(request, "run", "patch", "class_id")
    picture = _map(study, *ids, what)
    saw_patch(study, request, ids[1])
    return _png(picture)


@answering_errors
def card_route(request: Request) -> Response:
    """GET /api/runs/{run}/card.json or card.md"""
    demand(request.state.person, "train")
    study, (run_id,) = study_from_environment(), _ids(request, "run")
    suffix = request.path_params["format"]
    answer = card_file(study, f"run-{run_id}", suffix, lambda: run_card(study, run_id), card_markdown)
    record(study, request, "export_run_card", f"run {run_id}", suffix)
    return answer


routes: list[Route] = [
    Route("/api/runs/{run:int}/examples/{epoch:int}/{patch:int}.png", example_route),
    Route("/api/runs/{run:int}/trust/{patch:int}/{class_id:int}/{what}.png", map_route),
    Route("/api/runs/{run:int}/card.{format}", card_route),
]


def _ids(request: Request, *names: str) -> list[int]:
    ids = [request.path_params[name] for name in names]
    if max(ids) >= LARGEST_ID:
        raise NotFoundError(f"No {names[ids.index(max(ids))]} {max(ids)} in this study.")
    return ids


def _png(picture: bytes) -> Response:
    headers = {"Cache-Control": "private, no-store", "Vary": "Cookie"}
    return Response(picture, media_type="image/png", headers=headers)


@lru_cache(maxsize=48)
def _example(study: Study, run_id: int, epoch: int, patch_id: int) -> bytes:
    """What an epoch found never changes."""
    found = read_example(study, run_id, epoch, patch_id)
    classes, image = _classes(study), read_patch(study, patch_id)
    layers = [(labels, classes[class_id]["colour"]) for class_id, labels in found.items()]
    labelled = frozen_masks(study, _run(study, run_id)["label_set_id"], patch_id)
    reference = [_as_labels(masks, image) for masks in labelled.values()]
    return outlined_layers(image, layers, reference, _scale(image))


@lru_cache(maxsize=48)
def _map(study: Study, run_id: int, patch_id: int, class_id: int, what: str) -> bytes:
    """Kept once, at the end of the training."""
    maps, place = read_maps(study, run_id, patch_id, class_id), MAPS[what]
    image, name = read_patch(study, patch_id), _classes(study)[class_id]["name"]
    if place is not None:
        image = heat_rgb(cv2.resize(maps[place], image.shape[1::-1], interpolation=cv2.INTER_LINEAR))
    masks = frozen_masks(study, _run(study, run_id)["label_set_id"], patch_id).get(name, [])
    return outlined_layers(image, [(_as_labels(masks, image), LABEL_COLOUR)], scale=_scale(image))


def heat_rgb(values: np.ndarray) -> np.ndarray:
    """Values 0..1 (H, W) as colours that all eyes can order: dark blue is 0, yellow is 1."""
    levels = (values.clip(0, 1) * 255).round().astype(np.uint8)
    return cv2.cvtColor(cv2.applyColorMap(levels, cv2.COLORMAP_CIVIDIS), cv2.COLOR_BGR2RGB)


def _scale(image: np.ndarray) -> int:
    return max(1, PICTURE_PX // max(image.shape[:2]))


def _as_labels(masks: list[np.ndarray], image: np.ndarray) -> np.ndarray:
    labels = np.zeros(image.shape[:2], np.int32)
    for number, mask in enumerate(masks, start=1):
        labels[mask] = number
    return labels


def _run(study: Study, run_id: int) -> dict[str, Any]:
    with study.science.read() as db:
        return runs.get_run(db, run_id)


def _classes(study: Study) -> Mapping[int, dict[str, Any]]:
    with study.science.read() as db:
        return {row["id"]: row for row in list_classes(db)}
