"""A small study other tests share: drawn tissue, both markers, signed thresholds, somebody with work."""

import shutil
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from allinsam.registration import identity_matrix
from allinsam.sam.prompting import Prompt
from allinsam.sam.segmenter import Segmentation
from allinsam.store import Study, assignments, create_study, images, open_study, study, thresholds
from allinsam.workflow.annotating import write_image

SIZE_PX = 512
RADIUS_PX = 10
BRIGHT, DIM = 200, 30
THRESHOLD = 100.0
# Centres (x, y) of the drawn nuclei, the same on every patch.
PODOCYTES = ((100, 100), (220, 120), (340, 160), (400, 300))
MESANGIAL = ((160, 260), (260, 300), (330, 380))
UNMARKED = ((80, 420), (450, 80))
# Of a crowded study instead: row by row of one class and the other.
CROWD = tuple((36 + 62 * column, 36 + 62 * row) for row in range(8) for column in range(8))
PERSON, LEAD = "p-student", "p-lead"


def box_of(centre: tuple[int, int], margin_px: float = 1.0) -> list[float]:
    """A box round a drawn nucleus, `margin_px` off its edge."""
    reach = RADIUS_PX + margin_px
    return [centre[0] - reach, centre[1] - reach, centre[0] + reach, centre[1] + reach]


def disc(centre: tuple[int, int], radius_px: float = RADIUS_PX) -> np.ndarray:
    rows, columns = np.ogrid[:SIZE_PX, :SIZE_PX]
    rows, columns = rows + 0.5, columns + 0.5
    return (columns - centre[0]) ** 2 + (rows - centre[1]) ** 2 <= radius_px**2


def crowd_class(centre: tuple[int, int]) -> int:
    """1 podocyte, 2 mesangial."""
    return 1 + CROWD.index(centre) // 8 % 2


def draw_patch(seed: int = 0, crowded: bool = False) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """A pink patch with dark discs, and its two marker channels."""
    of_marker = {"WT1": PODOCYTES, "GATA3": MESANGIAL, None: UNMARKED}
    if crowded:
        of_marker = {
            marker: [centre for centre in CROWD if crowd_class(centre) == class_id]
            for class_id, marker in enumerate(("WT1", "GATA3"), 1)
        }
    rng = np.random.default_rng(seed)
    pas = np.full((SIZE_PX, SIZE_PX, 3), (225, 180, 215), np.uint8)
    pas -= rng.integers(0, 12, pas.shape, dtype=np.uint8)
    channels = {name: np.full((SIZE_PX, SIZE_PX), DIM, np.uint8) for name in ("WT1", "GATA3")}
    for marker, centres in of_marker.items():
        for centre in centres:
            pas[disc(centre)] = (95, 70, 140)
            if marker:
                channels[marker][disc(centre)] = BRIGHT
    return pas, channels


@cache
def _templates() -> tempfile.TemporaryDirectory:
    return tempfile.TemporaryDirectory(prefix="allinsam-test-studies-")


def small_study(
    folder: Path,
    slides: int = 2,
    patches_per_slide: int = 1,
    signed: bool = True,
    guidance: str = "threshold",
    tool: str = "box_sam",
    crowded: bool = False,
) -> Study:
    """Slides `slide-1`, ... with patches `slide-1-p1`, ...; PERSON is asked for both classes on each.

    Made once for each choice of arguments and copied from then on.
    """
    choice = f"{slides}-{patches_per_slide}-{signed}-{guidance}-{tool}-{crowded}"
    template = Path(_templates().name) / choice
    if not template.exists():
        _make(template, slides, patches_per_slide, signed, guidance, tool, crowded)
    shutil.copytree(template, folder)
    return open_study(folder)


def _make(
    folder: Path,
    slides: int,
    patches_per_slide: int,
    signed: bool,
    guidance: str,
    tool: str,
    crowded: bool,
) -> None:
    made = create_study(folder, "Small study", "compact", "0" * 64, simulated=True)
    pictures = []
    for number in range(slides * patches_per_slide):
        pas, channels = draw_patch(number, crowded)
        pictures.append((write_image(made, pas), {m: write_image(made, c) for m, c in channels.items()}))
    with made.science.write() as db:
        study.add_person(db, PERSON, "student")
        study.add_person(db, LEAD, "expert")
        class_ids = [
            study.add_class(db, "podocyte", "WT1", "#F0E442", "1"),
            study.add_class(db, "mesangial", "GATA3", "#56B4E9", "2"),
        ]
        for number, (pas_sha256, channels) in enumerate(pictures):
            slide = f"slide-{number // patches_per_slide + 1}"
            if number % patches_per_slide == 0:
                slide_id = images.add_slide(db, slide, "normal", 0.5)
                for marker in channels if signed else ():
                    thresholds.add_threshold(db, slide_id, marker, THRESHOLD, "otsu", LEAD)
            for sha256 in (pas_sha256, *channels.values()):
                images.add_image(db, sha256, SIZE_PX, SIZE_PX, 8, "drawn")
            patch_id = images.add_patch(
                db,
                name=f"{slide}-p{number % patches_per_slide + 1}",
                slide_id=slide_id,
                condition="normal",
                image_sha256=pas_sha256,
                um_per_px=0.5,
            )
            for marker, sha256 in channels.items():
                images.add_channel(db, patch_id, "marker", marker, sha256)
            images.add_registration(db, patch_id, identity_matrix(), "identity", True, 1.0)
            assignments.add_assignment(db, PERSON, patch_id, class_ids, guidance=guidance, tool=tool)


class DiscSegmenter:
    """Answers a box with the ellipse in it: no model, no seconds."""

    loaded = SimpleNamespace(backbone=SimpleNamespace(name="compact"), weights_sha256="0" * 64)

    def __init__(self, predicted_iou: float = 0.9) -> None:
        self.predicted_iou = predicted_iou

    def masks_from_boxes(self, embedding: np.ndarray, boxes: np.ndarray) -> Segmentation:
        rows, columns = np.mgrid[: embedding.shape[0], : embedding.shape[1]] + 0.5
        masks = np.zeros((len(boxes), *embedding.shape[:2]), bool)
        for mask, (x0, y0, x1, y1) in zip(masks, np.asarray(boxes, float), strict=True):
            x = (columns - (x0 + x1) / 2) / ((x1 - x0) / 2)
            y = (rows - (y0 + y1) / 2) / ((y1 - y0) / 2)
            mask[:] = x**2 + y**2 <= 1
        return Segmentation(masks, np.full(len(boxes), self.predicted_iou, np.float32))

    def masks_from_prompts(self, embedding: np.ndarray, prompts: Sequence[Prompt]) -> Segmentation:
        return self.masks_from_boxes(embedding, np.array([prompt.extent() for prompt in prompts]))


class NoCache:
    """Stands in for an EmbeddingCache: the patch is its own embedding."""

    def __init__(self, segmenter: DiscSegmenter | None = None) -> None:
        self.segmenter = segmenter or DiscSegmenter()

    def get(self, image_rgb: np.ndarray) -> np.ndarray:
        return image_rgb
