"""MoNuSeg and Aperio ImageScope XML: regions of vertices, only read.

The outlines were drawn by hand and reach over the image's edge or cross themselves: they are filled as drawn
and cut at the edge. A region that holds no pixel is no nucleus: it is left out, and a note says so. The file
has no classes.

Source: Kumar et al., IEEE TMI 2017 (the MoNuSeg data); coordinates are px from the image's upper left corner.
"""

from pathlib import Path
from xml.parsers import expat

from allinsam.errors import InputError
from allinsam.interchange.outlines import crosses_unclearly, cut_note, mask_of_parts, ring_of
from allinsam.interchange.records import AnnotatedObject, AnnotationSet, check_count, checked, read_bytes


def read_monuseg(path: Path, size_hw: tuple[int, int], name: str = "") -> AnnotationSet:
    """Every region with its vertices; its id is "region", or "annotation-region" where there are several.

    Raises:
        InputError: not such XML, a document type (entities are never expanded), a region outside the patch.
    """
    regions = _regions(path)
    check_count(path, len(regions))
    several = len({annotation for annotation, _, _ in regions}) > 1
    objects, left_out, crossed, cut = [], [], 0, 0
    for annotation, region, points in regions:
        object_id = f"{annotation}-{region}" if several else region
        where = f"region {object_id}"
        if len(points) < 3:
            left_out.append(object_id)
            continue
        ring = ring_of(path, where, points)
        crossed += crosses_unclearly(ring)
        try:
            mask, was_cut = mask_of_parts(path, where, [[ring]], size_hw)
        except InputError:
            # Smaller than a pixel, and so nothing; elsewhere than in the patch it is the wrong file.
            if (ring < 0).any() or (ring > size_hw[::-1]).any():
                raise
            left_out.append(object_id)
            continue
        cut += was_cut
        objects.append(AnnotatedObject(object_id, None, mask))
    notes = list(cut_note(cut))
    if left_out:
        notes.append(f"{len(left_out)} region(s) without a pixel were left out: {', '.join(left_out[:10])}.")
    if crossed:
        notes.append(f"{crossed} outline(s) cross themselves and were filled as drawn.")
    return AnnotationSet(name, size_hw, checked(path, objects), None, {}, tuple(notes))


Region = tuple[str, str, list[tuple[float, float]]]


def _regions(path: Path) -> list[Region]:
    """(annotation's id, region's id, vertices) of every region."""
    regions: list[Region] = []
    annotation = "1"

    def doctype(*_: object) -> None:
        raise InputError(f"{path} has a document type, which such files do not need. Remove <!DOCTYPE ...>.")

    def start(tag: str, attributes: dict[str, str]) -> None:
        nonlocal annotation
        if tag == "Annotation":
            annotation = attributes.get("Id", "1")
        elif tag == "Region":
            regions.append((annotation, attributes.get("Id") or str(len(regions) + 1), []))
        elif tag == "Vertex":
            if not regions:
                raise InputError(f"{path} has a vertex outside any region. Export it again.")
            try:
                regions[-1][2].append((float(attributes["X"]), float(attributes["Y"])))
            except (KeyError, ValueError) as error:
                raise InputError(
                    f"{path}: a vertex of region {regions[-1][1][:40]} has no X and Y. Export it again."
                ) from error

    parser = expat.ParserCreate()
    # Entities can only be declared in a document type: with it refused there is none to expand.
    parser.StartDoctypeDeclHandler = doctype
    parser.StartElementHandler = start
    try:
        parser.Parse(read_bytes(path), True)
    except expat.ExpatError as error:
        raise InputError(f"{path} cannot be read as XML: {error}. Export it again.") from error
    return regions
