"""Settling what waits for an expert: each decision is carried out, and kept with the seconds it took."""

import json
import math
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from allinsam.errors import InputError, NotFoundError
from allinsam.store import Study, images, settled, thresholds
from allinsam.store import assignments as queue
from allinsam.store import study as study_store
from allinsam.thresholding import THRESHOLDS, marker_mask
from allinsam.workflow.annotating import stored_channel
from allinsam.workflow.assigning import asked_classes
from allinsam.workflow.nuclei_in_doubt import decide_nucleus, finish_review, reopen_review, take_back_nucleus
from allinsam.workflow.preparing import BY_EYE, sign_threshold
from allinsam.workflow.registering import accept_estimate
from allinsam.worth import OPEN, SKIP, UNDO

START_METHOD = "otsu"
LONGEST_DETAIL = 2000  # characters
# Asked and carried out by one at a time: a key press that is sent twice at once counts once.
_one_at_a_time = threading.Lock()


@dataclass(frozen=True)
class Settled:
    """What came of a key press. `open_assignment`: the patch that the person goes to now."""

    row_id: int
    open_assignment: int | None = None


# Why a flagged registration may be believed: presets, so that accepting takes one key or two.
ACCEPT_REASONS = (
    "Nuclei go on across the squares all over the patch.",
    "Nuclei fit where they are; the rest of the patch has few.",
    "Small shift, less than half a nucleus everywhere.",
)


def settle(
    study: Study,
    person_id: str,
    client_key: str,
    kind: str,
    key: str,
    decision: str,
    detail: Mapping[str, Any],
    seconds: float,
) -> Settled:
    """Carry out a decision about an item and keep it with the seconds it took. Sent twice, it counts once.

    decision: one of DECISIONS[kind], or "skip", which settles nothing. client_key: names the key press.

    Raises:
        InputError: an unknown decision, or one that does not fit the item any more.
    """
    if kind not in DECISIONS:
        raise InputError(f"Unknown kind of item {kind!r}. Choose one of {', '.join(DECISIONS)}.")
    if decision != SKIP and decision not in DECISIONS[kind]:
        known = ", ".join([*DECISIONS[kind], SKIP])
        raise InputError(f"A {kind} cannot be settled by {decision!r}. Choose one of {known}.")
    # Before anything is done: what is done has to be kept with its row.
    _check_seconds(seconds)
    _check_detail(detail)
    with _one_at_a_time:
        with study.science.read() as db:
            before = settled.find_settled(db, client_key)
        if before is not None:
            return Settled(before["id"], before["detail"].get("assignment_id"))
        kept = {} if decision == SKIP else DECISIONS[kind][decision](study, person_id, key, dict(detail))
        with study.science.write() as db:
            row_id = settled.add_settled(
                db, client_key, person_id, kind, key, decision, {**detail, **kept}, seconds
            )
    return Settled(row_id, kept.get("assignment_id"))


def undo(study: Study, person_id: str, client_key: str, seconds: float) -> dict[str, Any] | None:
    """Take back this person's last decision; returns its row, None where there is none.

    A registration waits again and a nucleus is open again. A signed threshold holds until the next version
    is signed: its item comes back, to be signed anew.

    Raises:
        InputError: somebody has gone on from there since, or the seconds are no time.
    """
    _check_seconds(seconds)
    with _one_at_a_time:
        return _undo(study, person_id, client_key, seconds)


def _undo(study: Study, person_id: str, client_key: str, seconds: float) -> dict[str, Any] | None:
    with study.science.read() as db:
        again = settled.find_settled(db, client_key)
        rows = settled.list_settled(db)
        last = settled.last_standing(db, person_id)
    if again is not None:
        return next(row for row in rows if row["id"] == again["undoes"])
    if last is None:
        return None
    if last["decision"] != SKIP and (last["kind"], last["decision"]) in TAKEN_BACK:
        TAKEN_BACK[last["kind"], last["decision"]](study, person_id, last)
    with study.science.write() as db:
        settled.add_settled(
            db, client_key, person_id, last["kind"], last["key"], UNDO, {}, seconds, last["id"]
        )
    return last


def _check_seconds(seconds: float) -> None:
    if not (math.isfinite(seconds) and seconds >= 0):
        raise InputError(f"{seconds} is no time. Give seconds of 0 or more.")


def _check_detail(detail: Mapping[str, Any]) -> None:
    try:
        length = len(json.dumps(dict(detail), allow_nan=False))
    except ValueError as error:
        raise InputError("The detail has a number that is none. Reload the page.") from error
    if length > LONGEST_DETAIL:
        raise InputError(f"The detail has {length} characters; {LONGEST_DETAIL} are kept. Reload the page.")


def _sign(study: Study, person_id: str, key: str, detail: Mapping[str, Any]) -> dict[str, Any]:
    slide_id, _, marker = key.partition(":")
    value, start = _number(detail, "value"), threshold_start(study, _number_of(slide_id), marker)
    with study.science.read() as db:
        current = thresholds.current_threshold(db, _number_of(slide_id), marker)
    if current is not None and current["value"] == value:
        return {"threshold_id": current["id"], "value": value}  # it holds already: looked at again, and kept
    method = start.method if value == start.value else BY_EYE
    row = sign_threshold(study, _number_of(slide_id), marker, value, method, person_id)
    return {"threshold_id": row["id"], "value": value}


def _accept_registration(study: Study, person_id: str, key: str, detail: Mapping[str, Any]) -> dict[str, Any]:
    patch_id, version = _two_numbers(key)
    reason = str(detail.get("reason") or ACCEPT_REASONS[0])
    return {"registration_id": accept_estimate(study, patch_id, reason, person_id, version)}


def _leave_waiting(study: Study, person_id: str, key: str, detail: Mapping[str, Any]) -> dict[str, Any]:
    """The patch keeps waiting; it is not asked about again before there is a newer version."""
    patch_id, version = _two_numbers(key)
    with study.science.read() as db:
        newest = images.newest_registrations(db).get(patch_id)
    if newest is None or newest["version"] != version or newest["accepted"]:
        raise InputError("This registration was settled meanwhile.")
    return {}


def _hold_again(study: Study, person_id: str, last: Mapping[str, Any]) -> None:
    """A new version like the flagged one: the patch waits as before it was accepted."""
    patch_id, _ = _two_numbers(last["key"])
    with study.science.write() as db:
        newest = images.newest_registrations(db)[patch_id]
        if newest["id"] != last["detail"]["registration_id"]:
            raise InputError("Somebody has settled this registration since. See the Registration page.")
        images.add_registration(
            db,
            patch_id,
            newest["matrix"],
            newest["method"],
            False,
            newest["quality"],
            person_id,
            newest["residual_px"],
            "Accepted and taken back.",
        )


def _open_patch(kind: str) -> "Decide":
    def give(study: Study, person_id: str, key: str, detail: Mapping[str, Any]) -> dict[str, Any]:
        return {"assignment_id": give_patch(study, person_id, kind, _number_of(key))}

    return give


Decide = Callable[[Study, str, str, Mapping[str, Any]], dict[str, Any]]
# Kind -> decision -> what it does; returns what is kept with it.
DECISIONS: dict[str, dict[str, Decide]] = {
    "threshold": {"sign": _sign},
    "registration": {"accept": _accept_registration, "reject": _leave_waiting},
    "dispute": {
        decision: decide_nucleus(decision) for decision in ("pick", "consensus", "rejected", "class")
    },
    **{
        kind: {
            "right": decide_nucleus("consensus"),
            "wrong": decide_nucleus("rejected"),
            "class": decide_nucleus("class"),
        }
        for kind in ("doubt", "mocl")
    },
    "finish": {"finish": finish_review},
    "gold": {OPEN: _open_patch("gold")},
    "reference": {OPEN: _open_patch("reference")},
}
# What has to be taken back in the study itself; of the others the row alone says it.
TAKEN_BACK: dict[tuple[str, str], Callable[[Study, str, Mapping[str, Any]], None]] = {
    ("registration", "accept"): _hold_again,
    ("finish", "finish"): reopen_review,
    **{
        (kind, decision): take_back_nucleus
        for kind in ("dispute", "doubt", "mocl")
        for decision in DECISIONS[kind]
    },
}


def _two_numbers(key: str) -> tuple[int, int]:
    first, _, second = key.partition(":")
    return _number_of(first), _number_of(second)


def _number_of(text: str) -> int:
    if not text.isdecimal() or len(text) > 15:
        raise InputError(f"{text[:40]!r} names no item of this study. Reload the page.")
    return int(text)


def _number(detail: Mapping[str, Any], name: str) -> float:
    value = detail.get(name)
    try:
        number = math.nan if isinstance(value, bool | str) else float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise InputError(f"{name} is {str(value)[:40]!r}. Give a number.")
    return number


@dataclass(frozen=True)
class ThresholdStart:
    """Where signing a slide's threshold starts: an automatic value, and a patch that shows what it means.

    patch_id: of the patches with this marker, the one whose bright share is the median. top: the slide's
    brightest grey level.
    """

    value: float
    method: str
    patch_id: int
    top: float


def threshold_start(study: Study, slide_id: int, marker: str) -> ThresholdStart:
    """Raises NotFoundError for a slide without this marker."""
    with study.science.read() as db:
        files = tuple(
            (patch["id"], study.image_path(channel["image_sha256"]))
            for patch in images.list_patches(db, slide_id)
            for channel in images.list_channels(db, patch["id"])
            if channel["role"] == "marker" and channel["marker"] == marker
        )
    if not files:
        raise NotFoundError(f"No patch of this slide has a {marker} channel.")
    return _start(files)


@lru_cache(maxsize=256)
def _start(files: tuple[tuple[int, Path], ...]) -> ThresholdStart:
    """The file of a hash never changes."""
    channels = {patch_id: stored_channel(path) for patch_id, path in files}
    everything = np.concatenate([channel.ravel() for channel in channels.values()])[None]
    value = THRESHOLDS[START_METHOD](everything)
    share = {patch_id: float(marker_mask(channel, value).mean()) for patch_id, channel in channels.items()}
    middle = sorted(share, key=lambda patch_id: (share[patch_id], patch_id))[(len(share) - 1) // 2]
    return ThresholdStart(float(value), START_METHOD, middle, float(everything.max()))


def give_patch(study: Study, person_id: str, kind: str, patch_id: int) -> int:
    """The assignment by which this person outlines a patch as gold or as a reference; made if needed.

    Raises:
        InputError: the person is no expert, no class of the study has its marker on the patch, or the person
            has handed it in.
    """
    purpose = {"gold": "gold", "reference": "production"}[kind]
    with study.science.write() as db:
        if study_store.get_person(db, person_id)["group"] != "expert":
            raise InputError(f"{person_id!r} is not in the group of experts, whose work gold is.")
        patch = images.get_patch(db, patch_id)
        for row in queue.list_assignments(db, person_id):
            if row["patch_id"] == patch_id:
                if row["state"] == "submitted":
                    raise InputError(f"You have handed in patch {patch['name']} already.")
                return row["id"]
        class_ids = asked_classes(db)[patch_id]
        if not class_ids:
            raise InputError(f"No class has its marker on patch {patch['name']}. Import a marker channel.")
        return queue.add_assignment(db, person_id, patch_id, class_ids, purpose=purpose)
