"""Simulated kidney tissue with exact truth, and simulated annotators."""

from .annotators import ANNOTATOR_HABITS, Habits, SimulatedBox, simulate_boxes
from .settings import CONDITIONS, MARKER_OF_CLASS, SlideLook, TissueSettings, simulate_slide
from .tissue import SimulatedPatch, simulate_patch

__all__ = [
    "ANNOTATOR_HABITS",
    "CONDITIONS",
    "MARKER_OF_CLASS",
    "Habits",
    "SimulatedBox",
    "SimulatedPatch",
    "SlideLook",
    "TissueSettings",
    "simulate_boxes",
    "simulate_patch",
    "simulate_slide",
]
