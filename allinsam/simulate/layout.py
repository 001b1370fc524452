"""Where everything lies in one simulated patch: glomerulus, tubules, stroma and the nuclei in them."""

from dataclasses import dataclass

import numpy as np

from allinsam.simulate.fields import FAR_PX, direction_at, scatter, signed_distance, window_around
from allinsam.simulate.glomerulus import (
    ARTERIOLE_WALL_PX,
    capillary_loops,
    capsule_and_tuft,
    grow_mesangium,
    place_arteriole,
)
from allinsam.simulate.nuclei import Nucleus, ellipse_distance, new_nucleus
from allinsam.simulate.settings import CONDITIONS, Condition, SlideLook
from allinsam.simulate.tubules import pack_tubules


@dataclass
class Layout:
    """Signed distances in px, (H, W) float32, negative inside, and the nuclei."""

    size_px: int
    capsule: np.ndarray
    tuft: np.ndarray  # the envelope of the loops
    loops: np.ndarray  # to the nearest capillary's wall
    loop_gap: np.ndarray  # distance to the second nearest minus distance to the nearest
    loop_id: np.ndarray
    mesangium: np.ndarray
    bodies: np.ndarray  # to the nearest podocyte nucleus, near those only
    arteriole: np.ndarray  # to its outer edge, at the vascular pole
    tubules: np.ndarray
    tubule_id: np.ndarray
    epithelium_px: np.ndarray  # per tubule
    proximal: np.ndarray  # per tubule: tall granular cells with a brush border
    nuclei: list[Nucleus]

    @property
    def solid(self) -> np.ndarray:
        """The tuft's own tissue: loops and mesangium together."""
        return np.minimum(self.loops, self.mesangium)


def draw_layout(look: SlideLook, rng: np.random.Generator, size_px: int) -> Layout:
    """Draw the places of one patch: first the glomerulus, then what fills the rest."""
    settings, condition = look.settings, CONDITIONS[look.condition]
    capsule, tuft, pole = capsule_and_tuft(rng, settings, size_px)
    arteriole = place_arteriole(rng, pole, size_px)
    nuclei: list[Nucleus] = []
    mesangium = grow_mesangium(rng, condition, tuft, pole, nuclei)
    loops, loop_gap, loop_id = capillary_loops(rng, settings, tuft, mesangium)
    layout = Layout(
        size_px,
        capsule,
        tuft,
        loops,
        loop_gap,
        loop_id,
        mesangium,
        np.full_like(tuft, FAR_PX),
        arteriole,
        *pack_tubules(rng, settings, np.minimum(capsule, arteriole)),
        nuclei,
    )
    _add_podocytes(rng, condition, layout)
    _add_endothelium(rng, layout)
    _add_parietal(rng, layout)
    _add_vascular(rng, layout)
    _add_tubular(rng, layout)
    _add_stromal(rng, layout)
    return layout


def _taken(nuclei: list[Nucleus]) -> np.ndarray:
    return np.array([(n.x, n.y, n.long_px) for n in nuclei]).reshape(-1, 3)


def _add(
    rng: np.random.Generator,
    layout: Layout,
    kind: str,
    allowed: np.ndarray,
    count: int,
    clearance_px: float,
    along: np.ndarray,
) -> None:
    """Scatter nuclei of one kind over `allowed`, each lying along the level lines of `along`."""
    points = scatter(rng, allowed, count, clearance_px, _taken(layout.nuclei))
    for point, angle in zip(points, direction_at(along, points), strict=True):
        layout.nuclei.append(new_nucleus(rng, kind, point, angle + rng.normal(0, 0.2)))


def _add_podocytes(rng: np.random.Generator, condition: Condition, layout: Layout) -> None:
    """On the urinary side of the loops; the loops give way so that the wall passes around the nucleus."""
    urinary = signed_distance(layout.solid < 0)
    allowed = (urinary > 3.0) & (urinary < 7.0) & (layout.tuft < 4) & (layout.capsule < -8)
    share = float((layout.tuft < 0).sum()) / (np.pi * 172.0**2)
    wanted = round(rng.integers(condition.podocytes[0], condition.podocytes[1] + 1) * min(share, 1.1))
    before = len(layout.nuclei)
    _add(rng, layout, "podocyte", allowed, wanted, 23.0, urinary)
    for nucleus in layout.nuclei[before:]:
        window = window_around(nucleus.x, nucleus.y, nucleus.long_px + 12, layout.loops.shape)
        distance = ellipse_distance(nucleus, window)
        layout.bodies[window] = np.minimum(layout.bodies[window], distance)
        room = 2.2 - distance
        layout.loops[window] = np.maximum(layout.loops[window], room)
        layout.mesangium[window] = np.maximum(layout.mesangium[window], room)


def _add_endothelium(rng: np.random.Generator, layout: Layout) -> None:
    allowed = (layout.loops < -2.5) & (layout.loops > -4.5) & (layout.loop_gap > 8)
    count = int(rng.integers(12, 20) * max(float((layout.tuft < 0).mean()) * 2.8, 0.2))
    _add(rng, layout, "endothelial", allowed, count, 30.0, layout.loops)


def _add_parietal(rng: np.random.Generator, layout: Layout) -> None:
    allowed = (layout.capsule < -3.2) & (layout.capsule > -4.8)
    _add(rng, layout, "parietal", allowed, int(rng.integers(8, 14)), 46.0, layout.capsule)


def _add_vascular(rng: np.random.Generator, layout: Layout) -> None:
    wall = (layout.arteriole < -3) & (layout.arteriole > 4 - ARTERIOLE_WALL_PX) & (layout.capsule > 4)
    _add(rng, layout, "vascular", wall, int(rng.integers(3, 6)), 17.0, layout.arteriole)


def _add_tubular(rng: np.random.Generator, layout: Layout) -> None:
    height = layout.epithelium_px[layout.tubule_id]
    depth = -layout.tubules
    allowed = (depth > 8.5) & (depth < np.minimum(height - 6, 15)) & (layout.capsule > 10)
    _add(rng, layout, "tubular", allowed, int(rng.integers(30, 42)), 26.0, layout.tubules)


def _add_stromal(rng: np.random.Generator, layout: Layout) -> None:
    stroma = (layout.tubules > 0.5) & (layout.capsule > 5) & (layout.arteriole > 4)
    _add(rng, layout, "stromal", stroma, int(rng.integers(9, 16)), 26.0, layout.tubules)
