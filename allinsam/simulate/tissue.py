"""Simulated PAS + IF patches of kidney with exact instance truth. Not real tissue: label it so."""

from dataclasses import dataclass

import numpy as np

from allinsam.errors import InputError
from allinsam.simulate.fluorescence import draw_channel
from allinsam.simulate.layout import draw_layout
from allinsam.simulate.nuclei import draw_nuclei
from allinsam.simulate.settings import MARKER_OF_CLASS, SlideLook
from allinsam.simulate.staining import PAS, absorb, add_nuclei, focus, level_nuclei, photograph, stain_tissue

SMALLEST_PX = 128


@dataclass(frozen=True)
class SimulatedPatch:
    """One field: PAS, its IF channels in their own frame, and the truth in the PAS frame."""

    pas: np.ndarray  # (H, W, 3) uint8 RGB
    channels: dict[str, np.ndarray]  # marker -> (H, W) uint8
    labels: np.ndarray  # (H, W) int32
    classes: dict[int, str]  # id -> "podocyte" | "mesangial" | "other"
    kinds: dict[int, str]  # id -> where it lives: "podocyte", "endothelial", "tubular", ...
    matrix: np.ndarray  # 2x3, (x, y) of the IF to PAS px
    um_per_px: float

    def class_labels(self, class_name: str) -> np.ndarray:
        """The label image of one class alone, ids kept."""
        ids = [number for number, name in self.classes.items() if name == class_name]
        return np.where(np.isin(self.labels, ids), self.labels, 0).astype(np.int32)


def simulate_patch(
    look: SlideLook, seed: int, markers: tuple[str, ...] = ("WT1", "GATA3"), size_px: int = 512
) -> SimulatedPatch:
    """Draw one patch of a slide. The same look, seed and size always give the same bytes.

    A channel does not depend on which other markers are asked for.
    """
    unknown = sorted(set(markers) - set(look.markers))
    if unknown:
        raise InputError(f"Unknown marker {unknown[0]!r}. Choose from {sorted(look.markers)}.")
    if size_px < SMALLEST_PX or size_px % 2:
        raise InputError(f"Patch size {size_px} px is not usable. Give an even number from {SMALLEST_PX} up.")
    words = [look.settings.stream, look.seed, look.slide_index, seed]
    rng = np.random.default_rng([*words, 0])
    layout = draw_layout(look, rng, size_px)
    drawn = draw_nuclei(rng, layout.nuclei, size_px)
    amounts = stain_tissue(rng, look, layout)
    tissue = amounts[PAS] * 2.0 + amounts.sum(axis=0) * 0.6
    add_nuclei(amounts, drawn)
    light = level_nuclei(look, absorb(look, focus(look, amounts)), drawn)
    matrix = look.matrix(size_px)
    order = {marker: place for place, marker in enumerate(MARKER_OF_CLASS.values(), start=1)}
    channels = {
        marker: draw_channel(
            np.random.default_rng([*words, order[marker]]), look, marker, drawn, tissue, matrix
        )
        for marker in markers
    }
    return SimulatedPatch(
        pas=photograph(rng, look, light),
        channels=channels,
        labels=drawn.labels,
        classes={number: n.class_name for number, n in enumerate(drawn.nuclei, start=1)},
        kinds={number: n.kind for number, n in enumerate(drawn.nuclei, start=1)},
        matrix=matrix,
        um_per_px=look.settings.um_per_px,
    )
