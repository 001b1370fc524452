"""What is done before people annotate: thresholds signed by a method, embeddings, masks from known boxes."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from allinsam.errors import InputError, NotFoundError
from allinsam.files import write_file
from allinsam.imaging import encode_labels, read_channel
from allinsam.masks import decode_rle, instances_to_labels
from allinsam.metrics import METRICS
from allinsam.prompts import jitter_boxes, labels_to_boxes
from allinsam.sam.embeddings import EmbeddingCache
from allinsam.store import Study, images, thresholds
from allinsam.store import study as study_store
from allinsam.thresholding import THRESHOLDS
from allinsam.workflow.annotating import marker_evidence, masks_for_boxes, read_patch, stored_channel
from allinsam.workflow.learning import study_cache

Report = Callable[[float, float, str, dict[str, Any]], None]


def slide_channel(study: Study, slide_id: int, marker: str) -> np.ndarray:
    """Grey levels of a marker over all patches of a slide, one row per patch (n, pixels)."""
    with study.science.read() as db:
        hashes = [
            channel["image_sha256"]
            for patch in images.list_patches(db, slide_id)
            for channel in images.list_channels(db, patch["id"])
            if channel["role"] == "marker" and channel["marker"] == marker
        ]
    if not hashes:
        raise NotFoundError(f"No patch of this slide has a {marker} channel.")
    return np.concatenate([stored_channel(study.image_path(sha256)).ravel() for sha256 in hashes])[None]


def sign_thresholds(study: Study, method: str, person_id: str) -> list[dict[str, Any]]:
    """Sign a method's threshold for every slide and marker that has none yet."""
    if method not in THRESHOLDS:
        raise InputError(f"Unknown threshold method {method!r}. Choose one of {sorted(THRESHOLDS)}.")
    with study.science.read() as db:
        study_store.get_person(db, person_id)
        wanted = [
            row
            for row in images.slide_markers(db)
            if thresholds.current_threshold(db, row["slide_id"], row["marker"]) is None
        ]
    signed = []
    for row in wanted:
        value = THRESHOLDS[method](slide_channel(study, row["slide_id"], row["marker"]))
        with study.science.write() as db:
            thresholds.add_threshold(db, row["slide_id"], row["marker"], value, method, signed_by=person_id)
        signed.append({"slide": row["slide"], "marker": row["marker"], "value": float(value)})
    return signed


SHORTEST_REASON, LONGEST_REASON = 5, 300  # characters
BY_EYE = "by eye"  # the method of a value that no automatic one gave


def sign_threshold(
    study: Study,
    slide_id: int,
    marker: str,
    value: float,
    method: str,
    person_id: str,
    patch_id: int | None = None,
    reason: str | None = None,
) -> dict[str, Any]:
    """Sign a slide's threshold as a new version; what was annotated under the old one keeps it.

    Args:
        patch_id: sign for this patch of the slide alone, whatever holds for the slide; needs a `reason`.

    Raises:
        InputError: the value is outside the slide's grey levels, or is the one signed already; or a patch's
            reason is too short or too long, or the patch is not on the slide.
    """
    if patch_id is not None:
        reason = _checked_reason(reason)
    brightest = float(slide_channel(study, slide_id, marker).max())
    if not 0 <= value <= brightest:
        raise InputError(f"A threshold of {value:g} is outside the slide's grey levels, 0 to {brightest:g}.")
    with study.science.write() as db:
        study_store.get_person(db, person_id)
        if patch_id is not None and images.get_patch(db, patch_id)["slide_id"] != slide_id:
            raise InputError(f"Patch {patch_id} is not on this slide. Choose one that is.")
        current = thresholds.current_threshold(db, slide_id, marker, patch_id)
        # What holds for the slide may be signed for a patch: it then stays when the slide's changes.
        same_scope = current is not None and current["patch_id"] == patch_id
        if same_scope and current["value"] == value:
            raise InputError(f"{value:g} is signed already, as version {current['version']}. Move it first.")
        thresholds.add_threshold(db, slide_id, marker, value, method, person_id, patch_id, reason)
        return thresholds.current_threshold(db, slide_id, marker, patch_id) or {}


def _checked_reason(reason: str | None) -> str:
    reason = " ".join((reason or "").split())
    if not SHORTEST_REASON <= len(reason) <= LONGEST_REASON:
        raise InputError(
            f"A patch's own threshold needs a reason of {SHORTEST_REASON} to {LONGEST_REASON} characters; "
            f"this one has {len(reason)}."
        )
    return reason


def embed_patches(
    study: Study,
    report: Report,
    should_stop: Callable[[], bool],
    cache: EmbeddingCache | None = None,
) -> dict[str, Any]:
    """Compute and keep the embedding of every patch that has none; drop those of earlier weights."""
    cache = cache or study_cache(study)
    with study.science.read() as db:
        patches = images.list_patches(db)
    for done, patch in enumerate(patches):
        if should_stop():
            return {"embedded": done, "patches": len(patches)}
        report(done, len(patches), f"embedding {patch['name']}", {})
        cache.get(read_patch(study, patch["id"]))
    report(len(patches), len(patches), "done", {})
    return {"embedded": len(patches), "patches": len(patches), "dropped": cache.drop_stale()}


def segment_instances(
    study: Study, patch_name: str, instances: Path, outward_px: float = 0.0, out: Path | None = None
) -> dict[str, Any]:
    """Give SAM the boxes of a label image's instances on a patch; compare its masks with them."""
    with study.science.read() as db:
        patch = next((p for p in images.list_patches(db) if p["name"] == patch_name), None)
        markers = sorted({row["marker"] for row in images.slide_markers(db)})
    if patch is None:
        raise NotFoundError(f"No patch {patch_name!r} in this study.")
    truth = read_channel(instances).astype(np.int32)
    if truth.shape != (patch["height_px"], patch["width_px"]):
        raise InputError(
            f"{instances} is not the patch's size, {patch['height_px']} x {patch['width_px']} px."
        )
    ids, boxes = labels_to_boxes(truth)
    if outward_px:
        boxes = jitter_boxes(boxes, outward_px, truth.shape, np.random.default_rng(0))
    answers = masks_for_boxes(study, study_cache(study), patch["id"], markers[0] if markers else "", boxes)
    masks = [decode_rle(answer["mask"]) for answer in answers]
    scores = np.array([answer["predicted_iou"] for answer in answers])
    dice = [
        METRICS["dice"](mask.astype(np.int32), (truth == number).astype(np.int32))
        for number, mask in zip(ids, masks, strict=True)
    ]
    if out is not None:
        labels = instances_to_labels(masks, scores) if masks else np.zeros(truth.shape, np.int32)
        write_file(out, encode_labels(labels))
    support = {}
    for marker in markers:
        evidence = marker_evidence(study, patch["id"], marker)
        if evidence is not None:
            support[marker] = [evidence.of_mask(truth == number)["molecular_support"] for number in ids]
    return {
        "patch": patch_name,
        "boxes": len(boxes),
        "mean_dice": float(np.mean(dice)) if dice else None,
        "mean_predicted_iou": float(scores.mean()) if len(scores) else None,
        "molecular_support": support,
    }
