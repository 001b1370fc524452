"""SAM's masks of first boxes that no act answers: made once, kept in the study's folder.

Nearly every first box was answered while its person drew, and that answer is used as it was shown. Where a
box was moved before its mask came, or another SAM answered, the mask is made afterwards. The files are
derived and may be deleted: one for each image and SAM, a box's mask under its corners.
"""

import json
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from allinsam.errors import InputError
from allinsam.files import write_file
from allinsam.masks import encode_rle
from allinsam.sam.embeddings import EmbeddingCache
from allinsam.store import Study, images
from allinsam.workflow.annotating import read_patch
from allinsam.workflow.learning import never, say_nothing, study_cache

log = logging.getLogger(__name__)

Box = tuple[float, ...]
BOXES_AT_ONCE = 64


def folder_of(study: Study) -> Path:
    return study.folder / "first_masks"


def state_of(study: Study) -> tuple[int, int]:
    """Numbers that differ whenever a file was made or changed."""
    stamps = [path.stat().st_mtime_ns for path in folder_of(study).glob("*.json")]
    return len(stamps), max(stamps, default=0)


def read_masks(study: Study, image_sha256: str, weights_sha256: str) -> dict[Box, dict[str, Any]]:
    """Box -> its mask's run-length code; a file that cannot be read counts as missing."""
    path = _path(study, image_sha256, weights_sha256)
    try:
        stored = json.loads(path.read_text("utf-8"))
        return {tuple(box): {"size": stored["size"], "counts": counts} for box, counts in stored["masks"]}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError) as error:
        log.warning("%s is damaged; its masks are made again: %s", path, error)
        return {}


def _path(study: Study, image_sha256: str, weights_sha256: str) -> Path:
    return folder_of(study) / f"{image_sha256}-{weights_sha256[:16]}.json"


def make_masks(
    study: Study,
    wanted: Mapping[int, Iterable[Box]],
    weights_sha256: str,
    report: Callable[[float, float, str, dict[str, Any]], None] = say_nothing,
    should_stop: Callable[[], bool] = never,
    cache: EmbeddingCache | None = None,
) -> dict[str, int]:
    """Ask SAM for these boxes (patch id -> boxes), patch by patch; those kept already are not asked again.

    Raises:
        InputError: the study's SAM is not the one of `weights_sha256` any more.
    """
    with study.science.read() as db:
        patches = {patch["id"]: patch for patch in images.list_patches(db)}
    made = kept = 0
    todo = {patch_id: boxes for patch_id, boxes in wanted.items() if boxes}
    if not todo:
        return {"made": 0, "kept": 0}
    cache = cache or study_cache(study)
    loaded = cache.segmenter.loaded.weights_sha256
    if loaded != weights_sha256:
        raise InputError(
            f"The study's masks are of the weights {weights_sha256[:12]}, and those here are {loaded[:12]}. "
            "Put the study's own weights back."
        )
    for done, (patch_id, boxes) in enumerate(sorted(todo.items())):
        if should_stop():
            break
        patch = patches[patch_id]
        report(done, len(todo), f"first boxes of {patch['name']}", {})
        stored = read_masks(study, patch["image_sha256"], weights_sha256)
        new = [box for box in dict.fromkeys(boxes) if box not in stored]
        kept += len(set(boxes)) - len(new)
        if new:
            stored |= _ask(study, cache, patch_id, new)
            size_hw = [patch["height_px"], patch["width_px"]]
            masks = [[list(box), rle["counts"]] for box, rle in sorted(stored.items())]
            content = json.dumps({"size": size_hw, "masks": masks}).encode()
            write_file(_path(study, patch["image_sha256"], weights_sha256), content)
            made += len(new)
    else:
        report(len(todo), len(todo), "done", {})
    return {"made": made, "kept": kept}


def _ask(study: Study, cache: EmbeddingCache, patch_id: int, boxes: Sequence[Box]) -> dict[Box, dict]:
    embedding = cache.get(read_patch(study, patch_id))
    found = {}
    for start in range(0, len(boxes), BOXES_AT_ONCE):
        part = boxes[start : start + BOXES_AT_ONCE]
        masks = cache.segmenter.masks_from_boxes(embedding, np.array(part, np.float32)).masks
        found |= {box: encode_rle(mask) for box, mask in zip(part, masks, strict=True)}
    return found
