"""Two people's marks on one patch, and which of them are the same nucleus: what a picture of them shows."""

from dataclasses import dataclass

import numpy as np

from allinsam.agreement import matched_nuclei
from allinsam.errors import NotFoundError
from allinsam.masks import decode_rle, instances_to_labels
from allinsam.metrics import match_instances
from allinsam.store import Study, images
from allinsam.store import acts as act_store
from allinsam.store import study as study_store
from allinsam.workflow.overlapping import finished_looks, students_majority

Labels = dict[str, np.ndarray]  # class -> label image


@dataclass(frozen=True)
class DrawnMark:
    """A nucleus as one of two people drew it."""

    mask: np.ndarray  # bool (H, W)
    class_name: str
    stands_out: bool  # only this one found it, or the two gave it different classes
    tag: str = ""  # both classes, where they differ


def paired_labels(study: Study, key_a: int | None, key_b: int) -> tuple[int, Labels, Labels]:
    """The patch and, for each class that both finished, both label images.

    key_a: None is what most students marked on the patch of the other.

    Raises:
        NotFoundError: one of the assignments takes no part in agreement, they are of two patches, or there
            is no majority.
    """
    if key_a is None:
        return _majority_labels(study, key_b)
    looks = {look["id"]: look for look in finished_looks(study) if look["id"] in (key_a, key_b)}
    for key in (key_a, key_b):
        if key not in looks:
            raise NotFoundError(f"Assignment {key} is not finished work that is compared.")
    a, b = looks[key_a], looks[key_b]
    if a["patch_id"] != b["patch_id"]:
        raise NotFoundError(f"Assignments {key_a} and {key_b} are of two patches. Compare work on one.")
    with study.science.read() as db:
        patch = images.get_patch(db, a["patch_id"])
        names = {row["id"]: row["name"] for row in study_store.list_classes(db)}
        rows = act_store.current_masks(db, {key_a, key_b})
    shared = sorted(set(a["class_ids"]) & set(b["class_ids"]), key=names.get)
    size_hw = (patch["height_px"], patch["width_px"])
    masks: dict[tuple[int, int], list[np.ndarray]] = {}
    for key, class_id, height, width, counts in rows:
        masks.setdefault((key, class_id), []).append(decode_rle({"size": [height, width], "counts": counts}))
    sides = [
        {names[k]: instances_to_labels(masks.get((key, k), []), size_hw=size_hw) for k in shared}
        for key in (key_a, key_b)
    ]
    return a["patch_id"], *sides


def _majority_labels(study: Study, key_b: int) -> tuple[int, Labels, Labels]:
    patch_id, theirs, _ = paired_labels(study, key_b, key_b)
    look = next(look for look in finished_looks(study) if look["id"] == key_b)
    classes, agreed = students_majority(study, patch_id, look["purpose"])
    with study.science.read() as db:
        names = {row["id"]: row["name"] for row in study_store.list_classes(db)}
        patch = images.get_patch(db, patch_id)
    size_hw = (patch["height_px"], patch["width_px"])
    masks = {names[k]: [mask for of, mask in agreed if of == k] for k in classes}
    shared = [name for name in theirs if name in masks]
    majority = {name: instances_to_labels(masks[name], size_hw=size_hw) for name in shared}
    return patch_id, majority, {name: theirs[name] for name in shared}


def paired_marks(
    study: Study,
    key_a: int | None,
    key_b: int,
    class_name: str | None = None,
    by_class: bool = False,
    iou_threshold: float = 0.5,
) -> tuple[int, tuple[list[DrawnMark], list[DrawnMark]]]:
    """The patch, and both people's marks of a class, or of all.

    by_class: matched whatever the class; those stand out whose classes differ, and nuclei that only one found
    do not.
    """
    patch_id, *sides = paired_labels(study, key_a, key_b)
    if class_name is not None and class_name not in sides[0]:
        raise NotFoundError(f"Not both have finished the class {class_name[:40]!r} on this patch.")
    if by_class:
        return patch_id, _by_class(*sides, iou_threshold)
    found: tuple[list[DrawnMark], list[DrawnMark]] = ([], [])
    for name in [class_name] if class_name is not None else sides[0]:
        labels = [side[name] for side in sides]
        matching = match_instances(*labels, iou_threshold)
        for side, of, alone in zip(
            found, labels, (matching.unmatched_pred, matching.unmatched_true), strict=True
        ):
            side += [DrawnMark(of == i, name, bool(np.isin(i, alone))) for i in np.unique(of[of > 0])]
    return patch_id, found


def _by_class(
    labels_a: Labels, labels_b: Labels, iou_threshold: float
) -> tuple[list[DrawnMark], list[DrawnMark]]:
    different: tuple[dict, dict] = ({}, {})
    for a, b, _ in matched_nuclei(labels_a, labels_b, iou_threshold):
        if a[0] != b[0]:
            different[0][a], different[1][b] = f"{a[0]} / {b[0]}", ""
    return tuple(
        [
            DrawnMark(labels == i, name, (name, int(i)) in differing, differing.get((name, int(i)), ""))
            for name, labels in by_class.items()
            for i in np.unique(labels[labels > 0])
        ]
        for by_class, differing in zip((labels_a, labels_b), different, strict=True)
    )
