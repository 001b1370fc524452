"""Pictures of two people's outlines on a patch, behind a figure of agreement. By URL, not with a page."""

import math
from collections.abc import Sequence
from functools import lru_cache

import cv2
import numpy as np
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from allinsam.accounts import demand
from allinsam.errors import InputError, NotFoundError
from allinsam.masks import mask_to_polygons
from allinsam.overlaps import LOWEST_IOU
from allinsam.store import Study
from allinsam.store import acts as act_store
from allinsam.store.assignments import get_assignment
from allinsam.workflow.annotating import read_patch
from allinsam.workflow.paired import DrawnMark, paired_marks
from webapp.export_routes import answering_errors
from webapp.outlines import HALO, dashed
from webapp.session import study_from_environment
from webapp.views import png, rgb
from webapp.watching import saw_patch

COLOURS = ("#F0E442", "#56B4E9")  # of the first person, and of the second
LARGEST_ID = 2**31
PICTURE_PX = 1024  # a small patch is enlarged to about this
THIN_PX, THICK_PX, HALO_PX = 2, 4, 2
FILL = 0.35
FRACTION_BITS = 4


@answering_errors
def pair_route(request: Request) -> Response:
    """GET /api/agreement/{a}/{b}.png?iou=0.5&class=podocyte&by=nucleus: two assignments of one patch.

    /api/agreement/majority/{b}.png: what most students marked there, instead of the first. by=class matches
    nuclei whatever their class, and marks where the classes differ.
    """
    demand(request.state.person, "view_agreement")
    study, query = study_from_environment(), request.query_params
    a, b = request.path_params.get("a"), request.path_params["b"]
    if max(a or 0, b) >= LARGEST_ID:
        raise NotFoundError(f"No assignment {max(a or 0, b)} in this study.")
    by = query.get("by", "nucleus")
    if by not in ("nucleus", "class"):
        raise InputError(f"Nuclei are matched by nucleus or by class, not by {by[:20]!r}.")
    with study.science.read() as db:
        state = act_store.last_change(db)
        patch_id = get_assignment(db, b)["patch_id"]
    picture = _picture(
        study, a, b, query.get("class"), by == "class", read_iou(query.get("iou", "0.5")), state
    )
    saw_patch(study, request, patch_id)
    headers = {"Cache-Control": "private, no-store", "Vary": "Cookie"}
    return Response(picture, media_type="image/png", headers=headers)


routes: list[Route] = [
    Route("/api/agreement/{a:int}/{b:int}.png", pair_route),
    Route("/api/agreement/majority/{b:int}.png", pair_route),
]


def read_iou(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not LOWEST_IOU <= value < 1:
        raise InputError(f"IoU {text[:20]!r} is not usable. Give {LOWEST_IOU:g} up to, not including, 1.")
    return value


@lru_cache(maxsize=48)
def _picture(
    study: Study,
    a: int | None,
    b: int,
    class_name: str | None,
    by_class: bool,
    iou: float,
    state: tuple[int, ...],
) -> bytes:
    """`state` stands for the annotations."""
    patch_id, sides = paired_marks(study, a, b, class_name, by_class, iou)
    return draw_pair(read_patch(study, patch_id), sides)


def draw_pair(image_rgb: np.ndarray, sides: tuple[list[DrawnMark], list[DrawnMark]]) -> bytes:
    """PNG of the patch, enlarged: the first person's outlines solid, the second's dashed, thick where the
    other has none like it."""
    scale = max(1, PICTURE_PX // max(image_rgb.shape[:2]))
    size = (image_rgb.shape[1] * scale, image_rgb.shape[0] * scale)
    picture = cv2.resize(image_rgb, size, interpolation=cv2.INTER_CUBIC)
    for marks, colour in zip(sides, map(rgb, COLOURS), strict=True):
        alone = np.zeros(picture.shape[:2], np.uint8)
        for mark in marks:
            if mark.stands_out and not mark.tag:
                rings = _lines([ring * scale for ring in mask_to_polygons(mark.mask)])
                cv2.fillPoly(alone, rings, 255, cv2.LINE_8, FRACTION_BITS)
        inside = alone > 0
        picture[inside] = ((1 - FILL) * picture[inside] + FILL * np.array(colour)).astype(np.uint8)
    drawn = [
        (mark, [ring * scale for ring in mask_to_polygons(mark.mask)]) for side in sides for mark in side
    ]
    for mark, rings in drawn:
        cv2.polylines(picture, _lines(rings), True, HALO, _width(mark) + HALO_PX, cv2.LINE_AA, FRACTION_BITS)
    for number, (mark, rings) in enumerate(drawn):
        second = number >= len(sides[0])  # over the first's line, which shows between its dashes
        lines = [dash for ring in rings for dash in dashed(ring)] if second else rings
        look = (not second, rgb(COLOURS[second]), _width(mark), cv2.LINE_AA, FRACTION_BITS)
        cv2.polylines(picture, _lines(lines), *look)
    for marks in sides:
        for mark in marks:
            if mark.tag:
                _write(picture, mark, scale)
    return png(picture)


def _lines(paths: Sequence[np.ndarray]) -> list[np.ndarray]:
    """For OpenCV, whose coordinate 0 is the first pixel's centre; ours is its edge."""
    return [np.round((path - 0.5) * 2**FRACTION_BITS).astype(np.int32)[:, None] for path in paths]


def _width(mark: DrawnMark) -> int:
    return THICK_PX if mark.stands_out else THIN_PX


def _write(picture: np.ndarray, mark: DrawnMark, scale: int) -> None:
    rows, columns = np.nonzero(mark.mask)
    text = (mark.tag, cv2.FONT_HERSHEY_SIMPLEX, 0.5)
    (width, height), _ = cv2.getTextSize(*text, 1)
    x = int(np.clip(columns.mean() * scale - width / 2, 2, picture.shape[1] - width - 2))
    y = int(np.clip(rows.min() * scale - 6, height + 2, picture.shape[0] - 2))
    for shade, thick in ((HALO, 4), ((255, 255, 255), 1)):
        cv2.putText(picture, text[0], (x, y), text[1], text[2], shade, thick, cv2.LINE_AA)
