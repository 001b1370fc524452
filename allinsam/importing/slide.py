"""Where on a slide patches are cut: squares of a grid that show tissue, or outlined glomeruli."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import shapely
from shapely.geometry import shape
from skimage.filters import threshold_otsu

from allinsam.errors import InputError
from allinsam.importing.records import check_um_per_px
from allinsam.interchange.records import LONGEST_TEXT, read_json
from allinsam.slides import SLACK, Slide, overview

PLACES = ("grid", "centred")
OUTSIDE = ("leave_out", "keep")
OVERVIEW_PX = 2048
# Below this saturation glass is glass, whatever Otsu finds between two kinds of it.
LEAST_SATURATION = 20
MOST_GLOMERULI = 5_000


def _number(default: float, unit: str) -> Any:
    return field(default=default, metadata={"unit": unit})


@dataclass(frozen=True)
class SlideRules:
    """How a slide is cut into patches."""

    um_per_px: float = _number(0.25, "um per px of the patches")
    patch_px: int = _number(512, "px, side of a patch")
    tissue_share: float = _number(0.5, "share of a patch that must be tissue, 0 to 1")
    glomerulus_share: float = _number(0.1, "share of a patch in a glomerulus that gives it its name, 0 to 1")
    place: str = field(default="grid", metadata={"unit": "of glomeruli: grid, or centred: one patch on each"})
    outside: str = field(default="leave_out", metadata={"unit": "patches outside glomeruli: leave_out, keep"})
    most_patches: int = _number(2000, "patches, more are refused")

    def checked(self) -> "SlideRules":
        """These rules; InputError if a slide cannot be cut by them."""
        if check_um_per_px(str(self.um_per_px)) is None or not 64 <= self.patch_px <= 4096:
            raise InputError(f"Patches of {self.patch_px} px cannot be cut. Give 64 to 4096 px.")
        for name in ("tissue_share", "glomerulus_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"{name} {getattr(self, name)!r} is not between 0 and 1. Correct it.")
        for name, choices in (("place", PLACES), ("outside", OUTSIDE)):
            if getattr(self, name) not in choices:
                raise InputError(
                    f"Unknown {name} {getattr(self, name)!r}. Choose one of {', '.join(choices)}."
                )
        return self

    @classmethod
    def names(cls) -> list[str]:
        return [one.name for one in fields(cls)]


@dataclass(frozen=True)
class Glomerulus:
    """An outline on a slide, in px of the slide."""

    name: str
    outline: shapely.Geometry


@dataclass(frozen=True)
class Place:
    """The upper left corner of a patch, px of the slide, and the glomerulus it shows."""

    x0: float
    y0: float
    glomerulus: str | None


def places_on(slide: Slide, um_per_px: float, rules: SlideRules, glomeruli: list[Glomerulus]) -> list[Place]:
    """Where patches are cut, row by row.

    A patch in a glomerulus is taken whatever its tissue; without glomeruli, the tissue decides.

    Args:
        um_per_px: of the slide's finest level.

    Raises:
        InputError: the slide is too coarse or too small, shows no tissue, or there would be too many.
    """
    if rules.um_per_px * SLACK < um_per_px:
        raise InputError(
            f"{slide.path} has {um_per_px:g} um per px; patches of {rules.um_per_px:g} cannot be cut from "
            f"it. Ask for {um_per_px:g} or more."
        )
    side = rules.patch_px * rules.um_per_px / um_per_px
    height, width = slide.size_hw
    if side > min(height, width):
        raise InputError(
            f"{slide.path} is {width}x{height} px; a patch of {rules.patch_px} px at {rules.um_per_px:g} um "
            f"per px needs {math.ceil(side)} of them. Choose smaller patches."
        )
    if glomeruli and rules.place == "centred":
        found = list(_centred(glomeruli, side, (height, width)))
    else:
        found = list(_on_grid(slide, side, rules, glomeruli))
    if not found:
        raise InputError(
            f"{slide.path} shows no patch with so much tissue ({rules.tissue_share:g}). Lower tissue_share."
        )
    if len(found) > rules.most_patches:
        raise InputError(
            f"{slide.path} gives {len(found)} patches, more than {rules.most_patches}. Give glomeruli, a "
            "higher tissue_share, or a higher most_patches."
        )
    return found


def _centred(glomeruli: list[Glomerulus], side: float, size_hw: tuple[int, int]) -> Iterator[Place]:
    for one in glomeruli:
        x, y = one.outline.centroid.coords[0]
        x0 = min(max(0.0, x - side / 2), size_hw[1] - side)
        y0 = min(max(0.0, y - side / 2), size_hw[0] - side)
        yield Place(float(round(x0)), float(round(y0)), one.name)


def _on_grid(slide: Slide, side: float, rules: SlideRules, glomeruli: list[Glomerulus]) -> Iterator[Place]:
    tree = shapely.STRtree([one.outline for one in glomeruli])
    needs_tissue = not glomeruli or rules.outside == "keep"
    tissue, times = tissue_of(slide) if needs_tissue else (None, 1.0)
    height, width = slide.size_hw
    for row in range(int(height / side + 1e-6)):
        for column in range(int(width / side + 1e-6)):
            x0, y0 = column * side, row * side
            square = shapely.box(x0, y0, x0 + side, y0 + side)
            shared = {int(i): glomeruli[i].outline.intersection(square).area for i in tree.query(square)}
            best = max(shared, key=shared.__getitem__, default=None)
            if best is not None and shared[best] >= max(rules.glomerulus_share * side**2, 1e-9):
                yield Place(x0, y0, glomeruli[best].name)
            elif tissue is not None:
                top, left = int(y0 / times), int(x0 / times)
                down, right = math.ceil((y0 + side) / times), math.ceil((x0 + side) / times)
                if tissue[top:down, left:right].mean() >= rules.tissue_share:
                    yield Place(x0, y0, None)


def tissue_of(slide: Slide) -> tuple[np.ndarray, float]:
    """Where a stained slide shows tissue, as a small picture, and how many px of the slide its px stand for.

    Stain is what glass has not, colour: Otsu's threshold on the saturation.
    """
    if not slide.is_stain:
        raise InputError(
            f"{slide.path} has {slide.channels} channel(s) of {slide.dtype}; a stained slide is 8-bit RGB. "
            "Give the stained slide first and the fluorescence with --if."
        )
    small, times = overview(slide, OVERVIEW_PX)
    saturation = cv2.cvtColor(cv2.medianBlur(np.ascontiguousarray(small), 3), cv2.COLOR_RGB2HSV)[..., 1]
    if saturation.min() == saturation.max():
        return np.full(saturation.shape, saturation[0, 0] >= LEAST_SATURATION), times
    return saturation > max(float(threshold_otsu(saturation)), LEAST_SATURATION), times


def read_glomeruli(path: Path, size_hw: tuple[int, int]) -> list[Glomerulus]:
    """Outlines of glomeruli from a GeoJSON (QuPath's or another's) in px of the slide.

    Each takes the name it has in the file; one without a name is called g1, g2, ...

    Raises:
        InputError: it is no GeoJSON of areas, or they lie outside a slide of this size (h, w).
    """
    path = Path(path)
    features = _features(path, read_json(path))
    if not features:
        raise InputError(f"{path} holds no outline. Outline the glomeruli and export them again.")
    if len(features) > MOST_GLOMERULI:
        raise InputError(f"{path} holds {len(features)} outlines, more than {MOST_GLOMERULI}. Export fewer.")
    found: dict[str, Glomerulus] = {}
    height, width = size_hw
    for number, feature in enumerate(features, 1):
        outline = _outline(path, number, feature)
        if not outline.intersects(shapely.box(0, 0, width, height)):
            raise InputError(
                f"{path}: outline {number} lies outside the slide of {width}x{height} px. Give the file of "
                "this slide, in px of its finest level."
            )
        name = _name_of(path, number, feature)
        if name in found:
            raise InputError(f"{path}: the name {name!r} is there twice. Give each glomerulus its own.")
        found[name] = Glomerulus(name, outline)
    return list(found.values())


def _features(path: Path, content: Any) -> list[dict[str, Any]]:
    kind = content.get("type") if isinstance(content, dict) else None
    features = content.get("features") if kind == "FeatureCollection" else content
    features = [features] if isinstance(features, dict) else features
    if not isinstance(features, list) or not all(
        isinstance(one, dict) and one.get("type") == "Feature" for one in features
    ):
        raise InputError(f"{path} is no GeoJSON with features. Export the outlines as GeoJSON.")
    return features


def _outline(path: Path, number: int, feature: dict[str, Any]) -> shapely.Geometry:
    geometry = feature.get("geometry")
    kind = geometry.get("type") if isinstance(geometry, dict) else None
    if kind not in ("Polygon", "MultiPolygon"):
        raise InputError(f"{path}: outline {number} is a {kind}, no area. Draw it as a closed outline.")
    try:
        outline = shapely.make_valid(shape(geometry))
        usable = np.isfinite(outline.bounds).all() and outline.area > 0
    except (shapely.errors.ShapelyError, ValueError, TypeError, IndexError, KeyError, AttributeError):
        usable = False
    if not usable:
        raise InputError(f"{path}: outline {number} has no usable corners. Draw it again.")
    return outline


def _name_of(path: Path, number: int, feature: dict[str, Any]) -> str:
    told = feature.get("properties")
    name = told.get("name") if isinstance(told, dict) else None
    name = f"g{number}" if name in (None, "") else name
    if not isinstance(name, str) or len(name) > LONGEST_TEXT or not name.isprintable():
        raise InputError(f"{path}: the name of outline {number} is no short plain text. Correct it.")
    return name
