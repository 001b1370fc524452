"""Six good and six bad pictures of boxes and outlines, for people who never saw a nucleus.

Each shows one place twice: stained on the left, marker on the right. The places are searched for in
simulated tissue, by its truth; what it never holds, such as light without a nucleus, is made here.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import cv2
import numpy as np

from allinsam.masks import labels_to_masks
from allinsam.prompts import mask_to_box
from allinsam.simulate import MARKER_OF_CLASS, TissueSettings, simulate_patch, simulate_slide
from allinsam.thresholding import THRESHOLDS
from allinsam.workflow.importing import CLASS_LOOK
from webapp import views
from webapp.surfaces.scene import Window

PANE_PX, GAP_PX = 110, 4
LINE_PX = 2
NEAR_PX, WIDE_PX = 36, 44  # sides of the windows, in px of the patch
TOUCHING_PX = 1.5  # centre to centre of the nearest pixels: side by side or corner to corner
BLUR_PX = 3.0  # standard deviation; nothing of a nucleus's edge is left
BEYOND_GREY = 120  # not the panes' light grey: beside the stain's white that would be no border
GAP_GREY = 255

CLASS_NAME = "mesangial"
# Tissue of its own stream is in no study. These draws hold every case, and clearly.
SETTINGS = TissueSettings(stream=3, cut_share=0.0, shift_px=(0.0, 0.0), rotation_deg=0.0)
SLIDE_SEED, PATCH_SEED, PATCH_PX = 4, 73, 320


@dataclass(frozen=True)
class Tissue:
    """A patch to find examples in."""

    pas: np.ndarray  # (H, W, 3) uint8
    marker: np.ndarray  # (H, W) uint8, in the frame of the PAS
    labels: np.ndarray  # (H, W) int32, every nucleus
    wanted: frozenset[int]  # ids of the class whose marker it is
    threshold: float  # above it the marker is bright
    colour: str

    @cached_property
    def nuclei(self) -> list["Nucleus"]:
        return list_nuclei(self)


@dataclass(frozen=True)
class Example:
    """What one picture shows: boxes (4,) xyxy px and masks bool (H, W) of the patch, in a window of it."""

    pas: np.ndarray
    marker: np.ndarray
    window: Window
    shapes: tuple[np.ndarray, ...]
    sign: str = ""  # written in the middle


@dataclass(frozen=True)
class Nucleus:
    number: int
    mask: np.ndarray  # bool (H, W)
    box: np.ndarray  # tight, xyxy
    free_px: float  # to the nearest other nucleus
    inner_px: float  # to the patch's border
    light: float  # mean of the marker
    contrast: float  # how much darker than its surroundings, grey levels

    @property
    def centre(self) -> np.ndarray:
        return (self.box[:2] + self.box[2:]) / 2

    @property
    def size(self) -> np.ndarray:
        return self.box[2:] - self.box[:2]


def simulated_tissue() -> Tissue:
    """The patch that the help shows: the same bytes every time."""
    look = simulate_slide(SLIDE_SEED, 0, settings=SETTINGS)
    marker = MARKER_OF_CLASS[CLASS_NAME]
    patch = simulate_patch(look, PATCH_SEED, (marker,), PATCH_PX)
    channel = patch.channels[marker]
    return Tissue(
        pas=patch.pas,
        marker=channel,
        labels=patch.labels,
        wanted=frozenset(n for n, name in patch.classes.items() if name == CLASS_NAME),
        threshold=THRESHOLDS["otsu"](channel),
        colour=CLASS_LOOK[CLASS_NAME][0],
    )


# ---------------------------------------------------------------- what to find in the truth


def list_nuclei(tissue: Tissue) -> list[Nucleus]:
    """Every nucleus of the patch, with what makes it a good example."""
    grey = tissue.pas.mean(axis=2)
    height, width = tissue.labels.shape
    nuclei = []
    for number, mask in zip(*labels_to_masks(tissue.labels), strict=True):
        box = mask_to_box(mask)
        away = cv2.distanceTransform((~mask).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
        others = (tissue.labels > 0) & ~mask
        around = (away < 5) & ~mask & ~others
        nuclei.append(
            Nucleus(
                number=int(number),
                mask=mask,
                box=box,
                free_px=float(away[others].min(initial=np.inf)),
                inner_px=float(min(*box[:2], width - box[2], height - box[3])),
                light=float(tissue.marker[mask].mean()),
                contrast=float(grey[around].mean() - grey[mask].mean()),
            )
        )
    return nuclei


def side_by_side(tissue: Tissue) -> tuple[Nucleus, Nucleus]:
    """Two wanted nuclei that touch: well seen, and with boxes that hardly cover each other."""
    wanted = [n for n in tissue.nuclei if n.number in tissue.wanted and n.inner_px > NEAR_PX / 2]
    pairs = [(a, b) for i, a in enumerate(wanted) for b in wanted[i + 1 :] if gap_px(a, b) <= TOUCHING_PX]
    return max(pairs, key=lambda pair: pair[0].contrast + pair[1].contrast - shared_px2(*pair))


def shared_px2(a: Nucleus, b: Nucleus) -> float:
    """Area that the boxes of two nuclei share."""
    sides = np.minimum(a.box[2:], b.box[2:]) - np.maximum(a.box[:2], b.box[:2])
    return float(np.prod(np.maximum(sides, 0.0)))


def gap_px(a: Nucleus, b: Nucleus) -> float:
    """Between the centres of the nearest pixels of two nuclei: 1 is side by side."""
    away = cv2.distanceTransform((~a.mask).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return float(away[b.mask].min())


def clearest(tissue: Tissue) -> list[Nucleus]:
    """Wanted nuclei that stand alone in their window, bright and well seen, the clearest first."""
    found = []
    for nucleus in tissue.nuclei:
        rows, columns = inside(window_round(nucleus.centre, NEAR_PX))
        alone = not set(np.unique(tissue.labels[rows, columns])) & tissue.wanted - {nucleus.number}
        bright = nucleus.light > 1.3 * tissue.threshold
        if nucleus.number in tissue.wanted and nucleus.inner_px > NEAR_PX / 2 and alone and bright:
            found.append(nucleus)
    # Grey levels of the stain count most; the weights were chosen by looking.
    return sorted(found, key=lambda n: n.contrast + 2 * min(n.free_px, 8.0) + 0.2 * n.light, reverse=True)


def bright_and_dark(tissue: Tissue) -> tuple[Nucleus, Nucleus]:
    """A wanted nucleus and one that looks alike on the stain but is dark on the marker, close together."""
    pairs = []
    for bright in clearest(tissue):
        for dark in tissue.nuclei:
            apart = float(np.hypot(*(bright.centre - dark.centre)))
            alike = dark.number not in tissue.wanted and dark.size.min() > 0.75 * bright.size.min()
            # Both whole in one window, and boxes that do not cover each other.
            fits = 16 < apart < 25 and dark.inner_px > 12
            if alike and fits and dark.light < 0.6 * tissue.threshold:
                pairs.append((bright, dark))
    return max(pairs, key=lambda pair: min(n.contrast for n in pair) + 0.2 * pair[0].light)


def cut_by_border(tissue: Tissue) -> Nucleus:
    """A wanted nucleus that the patch's border cuts, the clearest."""
    cut = [n for n in tissue.nuclei if n.number in tissue.wanted and n.inner_px <= 0]
    return max(cut, key=lambda n: n.contrast)


def empty_place(tissue: Tissue) -> np.ndarray:
    """(x, y) px of the palest stain far from every nucleus and from the border."""
    free = cv2.distanceTransform((tissue.labels == 0).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    pale = cv2.GaussianBlur(tissue.pas.astype(np.float32).min(axis=2), (0, 0), 4)
    edge = NEAR_PX // 2
    fits = free > 14
    fits[:edge], fits[-edge:], fits[:, :edge], fits[:, -edge:] = False, False, False, False
    row, column = np.unravel_index(int(np.where(fits, pale, -1).argmax()), pale.shape)
    return np.array([column + 0.5, row + 0.5])


def window_round(centre: np.ndarray, side_px: int) -> Window:
    x0, y0 = np.round(np.asarray(centre) - side_px / 2).astype(int).tolist()
    return Window(x0, y0, side_px, PANE_PX)


def inside(window: Window) -> tuple[slice, slice]:
    """Rows and columns of a window's part of the patch."""
    return (
        slice(max(window.y0, 0), max(window.y0 + window.side_px, 0)),
        slice(max(window.x0, 0), max(window.x0 + window.side_px, 0)),
    )


def widened(box: np.ndarray, share: float) -> np.ndarray:
    """A box with each side moved outward (inward if negative) by a share of the box's size."""
    out = share * (box[2:] - box[:2])
    return np.concatenate([box[:2] - out, box[2:] + out]).astype(np.float32)


def joined(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The box round two boxes."""
    return np.concatenate([np.minimum(a[:2], b[:2]), np.maximum(a[2:], b[2:])])


# ---------------------------------------------------------------- the examples


def _shown(tissue: Tissue, window: Window, *shapes: np.ndarray) -> Example:
    return Example(tissue.pas, tissue.marker, window, shapes)


def box_touches(tissue: Tissue) -> Example:
    nucleus = clearest(tissue)[0]
    return _shown(tissue, window_round(nucleus.centre, NEAR_PX), nucleus.box)


def outline_follows(tissue: Tissue) -> Example:
    nucleus = clearest(tissue)[1]
    return _shown(tissue, window_round(nucleus.centre, NEAR_PX), nucleus.mask)


def two_boxes(tissue: Tissue) -> Example:
    a, b = side_by_side(tissue)
    return _shown(tissue, window_round((a.centre + b.centre) / 2, WIDE_PX), a.box, b.box)


def ends_at_border(tissue: Tissue) -> Example:
    nucleus = cut_by_border(tissue)
    return _shown(tissue, window_round(nucleus.centre, NEAR_PX), nucleus.box)


def bright_and_seen(tissue: Tissue) -> Example:
    bright, dark = bright_and_dark(tissue)
    return _shown(tissue, window_round((bright.centre + dark.centre) / 2, WIDE_PX), bright.box)


def too_blurred(tissue: Tissue) -> Example:
    """Out of focus: the simulation has no such place, so a sharp one is blurred."""
    nucleus = clearest(tissue)[2]
    pas = cv2.GaussianBlur(tissue.pas, (0, 0), BLUR_PX)
    dim = cv2.GaussianBlur(tissue.marker, (0, 0), BLUR_PX)
    return Example(pas, dim, window_round(nucleus.centre, WIDE_PX), (), "?")


def too_tight(tissue: Tissue) -> Example:
    nucleus = clearest(tissue)[0]
    return _shown(tissue, window_round(nucleus.centre, NEAR_PX), widened(nucleus.box, -0.25))


def too_loose(tissue: Tissue) -> Example:
    nucleus = clearest(tissue)[0]
    return _shown(tissue, window_round(nucleus.centre, WIDE_PX), widened(nucleus.box, 0.55))


def one_box_over_two(tissue: Tissue) -> Example:
    a, b = side_by_side(tissue)
    return _shown(tissue, window_round((a.centre + b.centre) / 2, WIDE_PX), joined(a.box, b.box))


def light_without_nucleus(tissue: Tissue) -> Example:
    """The simulation never lights up where no nucleus is: a bright nucleus's light is put there."""
    source = clearest(tissue)[0]
    place = empty_place(tissue)
    from_, to = inside(window_round(source.centre, NEAR_PX)), inside(window_round(place, NEAR_PX))
    marker = tissue.marker.copy()
    marker[to] = np.maximum(marker[to], tissue.marker[from_])
    shift = np.array([to[1].start - from_[1].start, to[0].start - from_[0].start] * 2)
    box = (source.box + shift).astype(np.float32)
    return Example(tissue.pas, marker, window_round(place, NEAR_PX), (box,))


def dark_on_the_marker(tissue: Tissue) -> Example:
    bright, dark = bright_and_dark(tissue)
    return _shown(tissue, window_round((bright.centre + dark.centre) / 2, WIDE_PX), dark.box)


def leak_kept(tissue: Tissue) -> Example:
    """An outline that runs on into the tissue beside its nucleus, where that is darkest."""
    nucleus = clearest(tissue)[1]
    return _shown(tissue, window_round(nucleus.centre, NEAR_PX), leaked(nucleus, tissue))


def leaked(nucleus: Nucleus, tissue: Tissue) -> np.ndarray:
    """The nucleus's mask and a lobe beside it, on the darkest tissue that holds no other nucleus."""
    rows, columns = np.indices(tissue.labels.shape) + 0.5
    others = (tissue.labels > 0) & ~nucleus.mask
    reach = float(nucleus.size.mean()) / 2
    best, darkest = nucleus.mask, np.inf
    for angle in np.arange(16) * (np.pi / 8):
        x, y = nucleus.centre + 1.35 * reach * np.array([np.cos(angle), np.sin(angle)])
        lobe = np.hypot(columns - x, rows - y) < 0.8 * reach
        light = float(tissue.pas[lobe & ~nucleus.mask].mean())
        if light < darkest and not (lobe & others).any():
            best, darkest = nucleus.mask | lobe, light
    return best


class Row(NamedTuple):
    good: bool
    find: Callable[[Tissue], Example]
    needs_marker: bool = False  # says nothing to who works without one


# In the order in which they are shown.
EXAMPLES: dict[str, Row] = {
    "good_box": Row(True, box_touches),
    "good_outline": Row(True, outline_follows),
    "good_two_boxes": Row(True, two_boxes),
    "good_border": Row(True, ends_at_border),
    "good_bright": Row(True, bright_and_seen, needs_marker=True),
    "good_unsure": Row(True, too_blurred),
    "bad_tight": Row(False, too_tight),
    "bad_loose": Row(False, too_loose),
    "bad_one_box": Row(False, one_box_over_two),
    "bad_no_nucleus": Row(False, light_without_nucleus, needs_marker=True),
    "bad_dark": Row(False, dark_on_the_marker, needs_marker=True),
    "bad_leak": Row(False, leak_kept),
}


# ---------------------------------------------------------------- drawing


def draw(tissue: Tissue, example: Example) -> np.ndarray:
    """Stain | marker, RGB uint8 (PANE_PX, 2 * PANE_PX + GAP_PX, 3), the shapes on both."""
    limits = views.display_range(tissue.marker, tissue.threshold)
    panes = [
        _pane(image, example, tissue.colour)
        for image in (example.pas, views.marker_rgb(example.marker, limits))
    ]
    gap = np.full((PANE_PX, GAP_PX, 3), GAP_GREY, np.uint8)
    return np.hstack([panes[0], gap, panes[1]])


def draw_all(tissue: Tissue) -> dict[str, np.ndarray]:
    return {name: draw(tissue, row.find(tissue)) for name, row in EXAMPLES.items()}


def _pane(image: np.ndarray, example: Example, colour: str) -> np.ndarray:
    window = example.window
    shapes = [(_in_pane(shape, window), colour) for shape in example.shapes]
    picture = views.outlined(views.crop(image, window, BEYOND_GREY), shapes, scale=1, line_px=LINE_PX)
    if example.sign:
        font, size = cv2.FONT_HERSHEY_SIMPLEX, 2.0
        (width, height), _ = cv2.getTextSize(example.sign, font, size, 3)
        corner = ((PANE_PX - width) // 2, (PANE_PX + height) // 2)
        for line, ink in ((7, views.HALO), (3, views.rgb(colour))):
            cv2.putText(picture, example.sign, corner, font, size, ink, line, cv2.LINE_AA)
    return picture


def _in_pane(shape: np.ndarray, window: Window) -> np.ndarray:
    """A box, or a mask without its stairs, at the size of the pane."""
    if shape.ndim == 1:
        return window.box_to_pane(shape)
    share = views.crop(shape.astype(np.float32), window, fill=0)
    return cv2.GaussianBlur(share, (0, 0), 0.7 * window.scale) > 0.5
