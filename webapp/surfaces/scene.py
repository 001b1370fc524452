"""What the annotate page hands to a surface, and what a surface hands back."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Window:
    """The square of a patch that a pane shows, and the pane's size on the screen."""

    x0: int
    y0: int
    side_px: int  # of the patch
    pane_px: int  # of the screen

    @property
    def scale(self) -> float:
        return self.pane_px / self.side_px

    def to_pane(self, xy: np.ndarray) -> np.ndarray:
        """Points (..., 2) of the patch in px of the pane."""
        return (np.asarray(xy, float) - (self.x0, self.y0)) * self.scale

    def to_patch(self, xy: np.ndarray) -> np.ndarray:
        return np.asarray(xy, float) / self.scale + (self.x0, self.y0)

    def box_to_pane(self, box: np.ndarray) -> np.ndarray:
        return self.to_pane(np.reshape(box, (2, 2))).ravel()

    def box_to_patch(self, box: np.ndarray) -> np.ndarray:
        return self.to_patch(np.reshape(box, (2, 2))).ravel()


def window_at(size_hw: tuple[int, int], pane_px: int, zoom: float, centre: tuple[float, float]) -> Window:
    """The window of a zoom (1 = the whole patch) nearest to `centre` (x, y) that stays on the patch.

    A patch that is not square is shown whole with an empty margin.
    """
    longest = max(size_hw)
    side_px = max(8, round(longest / max(1.0, zoom)))
    corner = []
    for middle, length in zip(centre, size_hw[::-1], strict=True):
        free = length - side_px
        corner.append(round(free / 2) if free <= 0 else int(np.clip(round(middle - side_px / 2), 0, free)))
    return Window(corner[0], corner[1], side_px, pane_px)


@dataclass(frozen=True)
class Thing:
    """One nucleus as a surface draws it."""

    object_id: str
    number: int  # counts up as they are drawn on the patch, never reused
    letter: str
    colour: str
    state: str  # proposed, accepted, rejected
    box: tuple[float, ...] | None = None
    rings: tuple[np.ndarray, ...] = ()  # outlines, (n, 2) xy px of the patch
    doubtful: bool = False


# box: a drag makes a new box. redraw: a drag is the new box of the edited nucleus. add, erase: a stroke of
# the brush on its mask. lasso: a stroke round a nucleus. points: handles on its outline.
TOOLS = ("box", "redraw", "add", "erase", "lasso", "points", "none")


@dataclass(frozen=True)
class Scene:
    """Everything a surface shows. `key` changes with the patch and with every page load."""

    key: str
    window: Window
    size_hw: tuple[int, int]
    pas_url: str
    marker_url: str | None  # None: this person works without the marker
    bright_url: str | None  # outline of where the marker is bright
    bright_opacity: float
    things: tuple[Thing, ...]
    tool: str
    colour: str  # of what is drawn now
    selected: str | None = None
    edited: str | None = None  # of redraw, add, erase, points, and of lasso if it replaces an outline
    brush_px: float = 3.0  # width of the brush in px of the patch

    @property
    def edited_thing(self) -> Thing | None:
        return next((thing for thing in self.things if thing.object_id == self.edited), None)


@dataclass(frozen=True)
class BoxDrawn:
    box: tuple[float, ...]


@dataclass(frozen=True)
class BoxMoved:
    object_id: str
    box: tuple[float, ...]


@dataclass(frozen=True)
class BoxRemoved:
    object_id: str


@dataclass(frozen=True)
class Clicked:
    x: float
    y: float


@dataclass(frozen=True)
class Stroked:
    """A line drawn by hand: points (n, 2) xy px of the patch."""

    points: np.ndarray


@dataclass(frozen=True)
class Reshaped:
    """The edited outline with its points moved: (n, 2) xy px of the patch."""

    polygon: np.ndarray


Gesture = BoxDrawn | BoxMoved | BoxRemoved | Clicked | Stroked | Reshaped
# Takes gestures in and gives for each the id of the object it drew or moved; None if it was refused.
Take = Callable[[list[Gesture]], list[str | None]]
Surface = Callable[[Scene, Take], None]
