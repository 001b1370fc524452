"""QuPath GeoJSON: a FeatureCollection of annotations with classification, colour and id.

QuPath counts px of the image from its upper left corner, pixel 0 from 0 to 1, as this project does. Holes are
inner rings, several parts a MultiPolygon. An id that is no UUID, which QuPath would not take, is kept as the
metadata "object_id".

Not carried: the size of the patch and of its pixels; QuPath takes both from the image.

Source: QuPath 0.4 and later, PathObjectTypeAdapters; RFC 7946.
"""

import uuid
from pathlib import Path
from typing import Any

from allinsam.errors import InputError
from allinsam.interchange.outlines import check_ring, cut_note, mask_of_parts, parts_of_mask, ring_of
from allinsam.interchange.records import (
    AnnotatedObject,
    AnnotationSet,
    check_count,
    checked,
    colour_of,
    json_bytes,
    measured,
    read_json,
    rgb_of,
    with_class,
)
from allinsam.records import Mask

# What QuPath 0.2 wrote as the id of every object.
KINDS_AS_IDS = ("PathAnnotationObject", "PathCellObject", "PathDetectionObject", "PathTileObject")
# Ids that are no UUID become this namespace's UUID of them, the same each time.
NAMESPACE = uuid.UUID("0d9c2c3a-6f0b-5b0e-9d53-2f1c7c1d8a55")


def write_qupath(annotations: AnnotationSet) -> dict[str, bytes]:
    features = [_feature(thing, annotations.colours) for thing in annotations.objects]
    return {".geojson": json_bytes({"type": "FeatureCollection", "features": features})}


def _feature(thing: AnnotatedObject, colours: Any) -> dict[str, Any]:
    parts = [
        [[*ring, ring[0]] for ring in rings]  # GeoJSON repeats the first point
        for rings in parts_of_mask(thing.mask)
    ]
    several = len(parts) > 1
    geometry = {
        "type": "MultiPolygon" if several else "Polygon",
        "coordinates": parts if several else parts[0],
    }
    classification: dict[str, Any] = {"name": with_class(thing)}
    if colour := colours.get(thing.class_name):
        classification["color"] = rgb_of(colour)
    properties: dict[str, Any] = {"objectType": "annotation", "classification": classification}
    if thing.measurements:
        properties["measurements"] = dict(thing.measurements)
    identity = thing.object_id
    if not is_uuid(identity):
        properties["metadata"] = {"object_id": identity}
        identity = str(uuid.uuid5(NAMESPACE, identity))
    return {"type": "Feature", "id": identity, "geometry": geometry, "properties": properties}


def is_uuid(text: str) -> bool:
    """Whether this is a UUID as it is usually written, 8-4-4-4-12."""
    try:
        return str(uuid.UUID(text)) == text.lower()
    except ValueError:
        return False


def read_qupath(path: Path, size_hw: tuple[int, int], name: str = "") -> AnnotationSet:
    """Polygons of a FeatureCollection, of a list of features, or of a single feature.

    Of a cell the nucleus is taken. An object without a classification has no class.

    Raises:
        InputError: not GeoJSON, a geometry without an area, or an outline that cannot be used.
    """
    features = _features(path, read_json(path))
    check_count(path, len(features))
    objects, colours, cut = [], {}, 0
    for number, feature in enumerate(features, start=1):
        where = f"feature {number}"
        if not isinstance(feature, dict):
            raise InputError(f"{path}: {where} is no GeoJSON feature. Export it again.")
        properties = feature.get("properties")
        properties = properties if isinstance(properties, dict) else {}
        mask, was_cut = _mask(path, where, feature.get("nucleusGeometry") or feature.get("geometry"), size_hw)
        cut += was_cut
        class_name, colour = _classification(properties.get("classification"))
        if class_name and colour:
            colours[class_name] = colour
        metadata = properties.get("metadata")
        kept = metadata.get("object_id") if isinstance(metadata, dict) else None
        said = None if feature.get("id") in KINDS_AS_IDS else feature.get("id")
        object_id = str(kept or said or number)
        objects.append(AnnotatedObject(object_id, class_name, mask, measured(properties.get("measurements"))))
    return AnnotationSet(name, size_hw, checked(path, objects), None, colours, cut_note(cut))


def _features(path: Path, content: Any) -> list[Any]:
    if isinstance(content, dict) and content.get("type") == "Feature":
        return [content]
    features = content.get("features") if isinstance(content, dict) else content
    if not isinstance(features, list):
        raise InputError(f"{path} is no FeatureCollection. Export it from QuPath as GeoJSON.")
    return features


def _classification(said: Any) -> tuple[str | None, str | None]:
    if not isinstance(said, dict) or not isinstance(said.get("name"), str):
        return None, None
    rgb = said.get("color")
    if type(said.get("colorRGB")) is int:  # before QuPath 0.4: one signed number
        rgb = [said["colorRGB"] >> shift & 255 for shift in (16, 8, 0)]
    return said["name"] or None, colour_of(rgb)


def _mask(path: Path, where: str, geometry: Any, size_hw: tuple[int, int]) -> tuple[Mask, bool]:
    kind = geometry.get("type") if isinstance(geometry, dict) else None
    if kind not in ("Polygon", "MultiPolygon"):
        raise InputError(
            f"{path}: {where} has the geometry {str(kind)[:40]!r}; only Polygon and MultiPolygon have an "
            "outline. Leave it out."
        )
    said = geometry.get("coordinates")
    parts = said if kind == "MultiPolygon" else [said]
    if not isinstance(parts, list) or not parts or not all(isinstance(part, list) and part for part in parts):
        raise InputError(f"{path}: {where} has no coordinates. Export it again.")
    rings = [[ring_of(path, where, ring) for ring in part] for part in parts]
    for ring in (ring for part in rings for ring in part):
        check_ring(path, where, ring)
    return mask_of_parts(path, where, rings, size_hw)
