"""How a run cuts its probability maps into nuclei: chosen on labels, never on what it is later scored on."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from allinsam.inference import REFERENCE_UM_PER_PX, InstanceSettings, cut_instances, drop_small, split_objects
from allinsam.metrics import METRICS
from allinsam.training.dataset import TrainingPatch

# How near two nuclei's centres may be, px at 0.5 um/px.
PEAK_DISTANCES = (5.0, 4.0, 3.0, 7.0)
# Smallest areas to try, as shares of the area below which only one labelled nucleus in twenty lies.
AREA_SHARES = (0.25, 0.5, 0.75, 0.9)


def labelled_instances(labels: np.ndarray) -> np.ndarray:
    """Label image of a label image or of a mask, whose components then count as nuclei."""
    return split_objects(labels) if labels.dtype == bool else labels


def small_nucleus_px(patches: Sequence[TrainingPatch]) -> float:
    """Fifth percentile of the labelled nuclei's areas, in px at 0.5 um/px; 0 without any nucleus."""
    areas: list[float] = []
    for patch in patches:
        for labels in patch.labels.values():
            found = np.bincount(labelled_instances(labels).ravel())[1:]
            areas += (found[found > 0] * _to_reference(patch)).tolist()
    return float(np.percentile(areas, 5)) if areas else 0.0


def starting_instances(patches: Sequence[TrainingPatch]) -> InstanceSettings:
    """Default settings, but nothing smaller than half a small labelled nucleus."""
    default = InstanceSettings()
    return replace(default, min_area_px=max(default.min_area_px, 0.5 * small_nucleus_px(patches)))


def calibrate(
    start: InstanceSettings,
    small_px: float,
    class_names: Sequence[str],
    patches: Sequence[TrainingPatch],
    probabilities: Sequence[np.ndarray],
) -> InstanceSettings:
    """Peak distance and smallest area with the best instance F1 on validation patches; `start` if none is.

    The threshold stays: between images its best value varies more than a few of them can tell.

    probabilities: one (C, H, W) per patch.
    """

    def cut(settings: InstanceSettings) -> list[list[np.ndarray]]:
        return [
            cut_instances(maps, patch.um_per_px, settings)
            for maps, patch in zip(probabilities, patches, strict=True)
        ]

    best, best_f1 = start, mean_instance_f1(class_names, patches, cut(start))
    for distance in PEAK_DISTANCES:
        # Cut once, then drop what is too small for each of the areas: cutting is what takes time.
        tried = replace(start, peak_distance_px=distance)
        everything = cut(replace(tried, min_area_px=0.0))
        for share in AREA_SHARES:
            area = max(InstanceSettings.min_area_px, share * small_px)
            kept = [
                [drop_small(labels, area / _to_reference(patch)) for labels in found]
                for found, patch in zip(everything, patches, strict=True)
            ]
            f1 = mean_instance_f1(class_names, patches, kept)
            if f1 > best_f1:
                best, best_f1 = replace(tried, min_area_px=area), f1
    return best


def mean_instance_f1(
    class_names: Sequence[str], patches: Sequence[TrainingPatch], found: Sequence[Sequence[np.ndarray]]
) -> float:
    """Mean over classes of the mean over patches where the class was labelled; 0 if it was nowhere."""
    by_class: dict[str, list[float]] = {}
    for patch, instances in zip(patches, found, strict=True):
        for name, labels in zip(class_names, instances, strict=True):
            if name in patch.labels:
                truth = labelled_instances(patch.labels[name])
                by_class.setdefault(name, []).append(METRICS["f1_instance"](labels, truth))
    return float(np.mean([np.mean(values) for values in by_class.values()])) if by_class else 0.0


def _to_reference(patch: TrainingPatch) -> float:
    """Pixels at 0.5 um/px that one pixel of the patch covers."""
    return ((patch.um_per_px or REFERENCE_UM_PER_PX) / REFERENCE_UM_PER_PX) ** 2
