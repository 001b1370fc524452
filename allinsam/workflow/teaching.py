"""Cards from a study's own gold, for one annotator: never from a patch whose answer they are asked for."""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from sqlite_utils import Database

from allinsam.cards import NEEDS_MARKER, Card, GoldNucleus, GoldPatch, card_candidates, choose_cards
from allinsam.masks import decode_rle, rle_area
from allinsam.records import SHOWN_TO, Mask
from allinsam.store import Study, images, learning, thresholds
from allinsam.store import acts as act_store
from allinsam.store import assignments as queue
from allinsam.store import study as study_store
from allinsam.thresholding import molecular_support
from allinsam.workflow.annotating import marker_evidence, read_patch
from allinsam.workflow.practising import gold_assignment

# Enough for every question; they are read in some seconds when the first person asks.
MOST_PATCHES = 32


def cards_for(study: Study, assignment: Mapping[str, Any]) -> dict[str, Card]:
    """Name -> card for who works on this assignment; a question that no free gold answers is left out.

    Gold comes from patches that this person does not have, or has had as practice and handed in.
    """
    with study.science.read() as db:
        class_ids = tuple(queue.assignment_classes(db, assignment["id"]))
        sources = _sources(db, assignment["person_id"], class_ids)
        states = [_state_of(db, patch_id, gold, class_ids) for patch_id, gold in sources]
    areas = [
        area
        for (_, gold), state in zip(sources, states, strict=True)
        for area in _areas(study, gold, class_ids, state)
    ]
    if not areas:
        return {}
    typical_px = float(round(float(np.median(areas))))
    found = [
        _candidates(study, patch_id, gold, class_ids, typical_px, state)
        for (patch_id, gold), state in zip(sources, states, strict=True)
    ]
    shows_marker = assignment["guidance"] in SHOWN_TO["marker"]
    return choose_cards(
        [card for card in cards if shows_marker or card.name not in NEEDS_MARKER] for cards in found
    )


def note_card(study: Study, person_id: str, card: Card) -> None:
    """Keep, once, that a person has seen some of this patch's gold: it is no test of them any more."""
    with study.science.read() as db:
        if card.patch_id in learning.patches_on_cards(db, person_id):
            return
    with study.science.write() as db:
        if card.patch_id not in learning.patches_on_cards(db, person_id):
            learning.add_lesson(db, person_id, learning.CARD_SHOWN, {"patch_id": card.patch_id})


def _sources(db: Database, person_id: str, class_ids: Sequence[int]) -> list[tuple[int, int]]:
    """Patches that may be shown to a person, each with its gold assignment."""
    finished = queue.finished_classes(db)
    closed = images.patches_on_hold(db)
    closed |= {
        row["patch_id"]
        for row in queue.list_assignments(db, person_id)
        if row["purpose"] != "practice" or row["state"] != "submitted"
    }
    sources = []
    for patch_id in sorted({row["patch_id"] for row in finished if row["purpose"] == "gold"} - closed):
        gold = gold_assignment(finished, patch_id, class_ids)
        if gold is not None:
            sources.append((patch_id, gold))
    return sources[:MOST_PATCHES]


def _state_of(db: Database, patch_id: int, gold: int, class_ids: Sequence[int]) -> tuple[Any, ...]:
    """What a patch's candidates depend on beside its pixels, which never change."""
    patch = images.get_patch(db, patch_id)
    registration = images.current_registration(db, patch_id)
    signed = [
        thresholds.current_threshold(db, patch["slide_id"], row["marker"], patch_id)
        for row in study_store.list_classes(db)
        if row["id"] in class_ids
    ]
    return (
        act_store.act_summary(db, gold),
        registration and registration["id"],
        *(threshold and threshold["id"] for threshold in signed),
    )


@lru_cache(maxsize=256)
def _areas(study: Study, gold: int, class_ids: tuple[int, ...], state: tuple) -> tuple[float, ...]:
    """Of the gold nuclei of a patch, px."""
    with study.science.read() as db:
        rows = act_store.current_annotations(db, gold)
    return tuple(float(rle_area(Mask.from_row(row).as_rle())) for row in rows if row["class_id"] in class_ids)


@lru_cache(maxsize=256)
def _candidates(
    study: Study, patch_id: int, gold: int, class_ids: tuple[int, ...], typical_px: float, state: tuple
) -> tuple[Card, ...]:
    with study.science.read() as db:
        rows = [row for row in act_store.current_annotations(db, gold) if row["class_id"] in class_ids]
        markers = {row["id"]: row["marker"] for row in study_store.list_classes(db) if row["id"] in class_ids}
    evidence = {class_id: marker_evidence(study, patch_id, marker) for class_id, marker in markers.items()}
    bright = {class_id: seen.bright for class_id, seen in evidence.items() if seen is not None}
    nuclei = []
    for row in rows:
        mask = decode_rle(Mask.from_row(row).as_rle()).astype(bool)
        lit = bright.get(row["class_id"])
        support = None if lit is None or not mask.any() else float(molecular_support(mask, lit))
        nuclei.append(GoldNucleus(row["class_id"], mask, support))
    patch = GoldPatch(patch_id, read_patch(study, patch_id), nuclei, bright)
    return tuple(card_candidates(patch, typical_px))
