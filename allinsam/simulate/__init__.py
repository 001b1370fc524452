"""Simulated kidney tissue with exact truth, and simulated annotators."""

from allinsam.simulate.annotators import ANNOTATOR_HABITS, Habits, SimulatedBox, simulate_boxes
from allinsam.simulate.settings import CONDITIONS, MARKER_OF_CLASS, SlideLook, TissueSettings, simulate_slide
from allinsam.simulate.tissue import SimulatedPatch, simulate_patch

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
