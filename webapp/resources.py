"""What all visitors share in one process: the segmenter, its embeddings, and what is made ahead for them."""

import logging
import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import Any

from allinsam.errors import AllinsamError
from allinsam.sam.embeddings import EmbeddingCache
from allinsam.sam.segmenter import open_segmenter
from allinsam.store import Study
from allinsam.store.study import get_study
from allinsam.workflow.annotating import read_patch
from allinsam.workflow.suggesting import predict_ahead
from allinsam.workflow.teaching import cards_for

log = logging.getLogger(__name__)

# Patches whose embedding stays in memory: those in front of people now, and the next of each.
EMBEDDINGS_IN_MEMORY = 32


def embedding_cache(study: Study) -> EmbeddingCache:
    """The study's backbone, loaded once. Raises ModelError where its weights are not there."""
    with study.science.read() as db:
        backbone = get_study(db)["backbone"]
    return _embedding_cache(str(study.embeddings_folder), backbone)


_loading = threading.Lock()


def _embedding_cache(folder: str, backbone: str) -> EmbeddingCache:
    with _loading:  # two first visitors must not load it twice
        return _loaded_cache(folder, backbone)


@lru_cache(maxsize=2)
def _loaded_cache(folder: str, backbone: str) -> EmbeddingCache:
    """Segmenter and cache take turns by locks of their own."""
    return EmbeddingCache(folder, open_segmenter(backbone), memory_patches=EMBEDDINGS_IN_MEMORY)


@lru_cache(maxsize=1)
def _background() -> ThreadPoolExecutor:
    """One thread: embedding ahead must not take both cores from people who draw."""
    return ThreadPoolExecutor(max_workers=1, thread_name_prefix="embed-ahead")


_ahead: set[tuple[str, int]] = set()
_ahead_lock = threading.Lock()


def embed_ahead(study: Study, cache: EmbeddingCache, patch_ids: list[int]) -> None:
    """Embed patches in the background, so that their first box is answered at once."""
    for patch_id in patch_ids:
        with _ahead_lock:
            if (str(study.folder), patch_id) in _ahead:
                continue
            _ahead.add((str(study.folder), patch_id))
        _background().submit(_embed, study, cache, patch_id)


def cards_ahead(study: Study, assignment: Mapping[str, Any]) -> None:
    """Choose the cards in the background, so that they are there when the tour comes to them."""
    _background().submit(_choose, study, dict(assignment))


def _choose(study: Study, assignment: Mapping[str, Any]) -> None:
    try:
        cards_for(study, assignment)
    except (AllinsamError, OSError) as error:
        log.warning("Cards could not be chosen ahead: %s", error)


def suggest_ahead(study: Study, assignment_id: int) -> None:
    """Have a run look at a patch in the background, where it is to make its suggestions."""
    _background().submit(_suggest, study, assignment_id)


def _suggest(study: Study, assignment_id: int) -> None:
    try:
        predict_ahead(study, assignment_id)
    except (AllinsamError, OSError, RuntimeError) as error:
        # Opening the patch will tell the person.
        log.warning("Suggestions of assignment %s could not be made ahead: %s", assignment_id, error)


def _embed(study: Study, cache: EmbeddingCache, patch_id: int) -> None:
    try:
        cache.get(read_patch(study, patch_id))
    except (AllinsamError, OSError, RuntimeError) as error:
        # The box that needs it will tell the person; nobody waits for this one.
        log.warning("Patch %s could not be embedded ahead: %s", patch_id, error)
    finally:
        with _ahead_lock:
            _ahead.discard((str(study.folder), patch_id))
