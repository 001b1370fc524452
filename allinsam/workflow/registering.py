"""Bring the IF of a study's patches onto their stained images, by estimate or by hand."""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from allinsam.errors import AllinsamError, InputError, NotFoundError
from allinsam.registration import Registration, checked_position, estimate
from allinsam.store import Study, images
from allinsam.store import acts as act_store
from allinsam.store import study as study_store
from allinsam.workflow.annotating import stored_channel, stored_rgb

Report = Callable[[float, float, str, dict[str, Any]], None]

# Methods of registrations that nobody measured: what an import starts with.
ASSUMED = "assumed identity"
BY_HAND = "by hand"
BY_ESTIMATE = "grid and ECC on "  # and the marker of the channel
# After that: the IF was cut from its slide through the estimate, so that the matrix is the identity.
FROM_SLIDE = " from its slide"
SHORTEST_REASON, LONGEST_REASON = 5, 300  # characters

# Where a patch can stand, what needs a person first.
STATES = ("flagged", "missing", "accepted", "no_if")


@dataclass(frozen=True)
class Standing:
    """How a patch's IF lies on its stain.

    `state`: flagged (its newest registration was not accepted: it waits), missing (nothing was estimated or
    placed yet), accepted, or no_if (it has no IF channel).
    """

    patch_id: int
    patch: str
    slide: str
    state: str
    newest: dict[str, Any] | None  # row of the newest version
    nuclei: int  # drawn under the version that holds now


def settled_by_a_person(row: Mapping[str, Any] | None) -> bool:
    """Whether somebody placed this version by hand or accepted it for a reason of their own."""
    return bool(row and row["accepted"] and (row["method"] == BY_HAND or row["reason"]))


def is_missing(row: Mapping[str, Any] | None) -> bool:
    return row is None or row["method"] == ASSUMED


def standings(study: Study) -> list[Standing]:
    """Every patch, those that need a person first."""
    with study.science.read() as db:
        newest = images.newest_registrations(db)
        with_if = images.channel_counts(db)
        under = act_store.annotations_by_registration(db)
        found = []
        for patch in images.list_patches(db):
            row = newest.get(patch["id"])
            holds = row if row is None or row["accepted"] else images.current_registration(db, patch["id"])
            found.append(
                Standing(
                    patch["id"],
                    patch["name"],
                    patch["slide"],
                    _state(row, patch["id"] in with_if),
                    row,
                    under.get(holds["id"], 0) if holds else 0,
                )
            )
    return sorted(found, key=lambda one: STATES.index(one.state))


def _state(row: Mapping[str, Any] | None, has_if: bool) -> str:
    if not has_if:
        return "no_if"
    if row is not None and not row["accepted"]:
        return "flagged"
    return "missing" if is_missing(row) else "accepted"


# --- By estimate ----------------------------------------------------------------------------------


def register_study(
    study: Study,
    patch_names: Iterable[str] | None = None,
    person_id: str | None = None,
    report: Report | None = None,
    should_stop: Callable[[], bool] = lambda: False,
    only_missing: bool = False,
    done_before: Collection[int] = (),
) -> dict[str, Any]:
    """Estimate the registration of patches, all by default, and keep each as a new version.

    The nuclear channel is taken where there is one, else the marker that fits best. A registration that
    fails the gate is kept as not accepted: its patch waits until a later version is accepted. Unless they
    are named, patches that somebody settled by hand keep what they have, those without IF are left out, and
    one that cannot be read does not hold up the rest.

    Args:
        only_missing: leave out what was estimated or placed before.
        done_before: ids of patches that an earlier attempt at the same job has done.
    """
    with study.science.read() as db:
        if person_id is not None:
            study_store.get_person(db, person_id)
        patches = images.list_patches(db)
        newest = images.newest_registrations(db)
        with_if = images.channel_counts(db)
    kept: list[str] = []
    without_if: list[str] = []
    named = patch_names is not None
    if named:
        patches = _named(patches, patch_names or ())
    else:
        if only_missing:
            patches = [patch for patch in patches if is_missing(newest.get(patch["id"]))]
        kept = [patch["name"] for patch in patches if settled_by_a_person(newest.get(patch["id"]))]
        without_if = [patch["name"] for patch in patches if patch["id"] not in with_if]
        patches = [patch for patch in patches if patch["name"] not in {*kept, *without_if}]
    done, rows, failed = [one["id"] for one in patches if one["id"] in done_before], [], []
    for patch in (one for one in patches if one["id"] not in done_before):
        if should_stop():
            break
        if report:
            report(len(done), len(patches), f"registering {patch['name']}", {"registered": list(done)})
        try:
            rows.append(register_patch(study, patch["id"], person_id))
        except AllinsamError as error:
            if named:
                raise
            failed.append({"patch": patch["name"], "why": str(error)})
        done.append(patch["id"])
    waiting = [row["patch"] for row in rows if not row["accepted"]]
    accepted = len(rows) - len(waiting)
    if report:
        told = f"{accepted} accepted, {len(waiting)} waiting" + (f", {len(failed)} failed" if failed else "")
        report(len(done), len(patches), told, {"registered": list(done)})
    return {
        "registered": len(rows),
        "accepted": accepted,
        "waiting": waiting,
        "kept": kept,
        "without_if": without_if,
        "failed": failed,
        "patches": rows,
    }


def _named(patches: list[dict[str, Any]], names: Iterable[str]) -> list[dict[str, Any]]:
    known = {patch["name"]: patch for patch in patches}
    names = list(dict.fromkeys(names))
    missing = [name for name in names if name not in known]
    if missing:
        raise NotFoundError(f"No patch {missing[0]!r} in this study.")
    return [known[name] for name in names]


def register_patch(study: Study, patch_id: int, person_id: str | None = None) -> dict[str, Any]:
    """Estimate one patch's registration and keep it as a new version; takes a second or two.

    Raises:
        NotFoundError: the patch has no IF channel.
        InputError: somebody settled the patch in these seconds: theirs stays.
    """
    with study.science.read() as db:
        patch = images.get_patch(db, patch_id)
        channels = images.list_channels(db, patch_id)
        seen = _newest_version(db, patch_id)
    if not channels:
        raise NotFoundError(f"Patch {patch['name']} has no IF channel. Import one for it.")
    fixed = stored_rgb(study.image_path(patch["image_sha256"]))
    found, marker = best_estimate(
        [(row["role"], row["marker"]) for row in channels],
        lambda n: estimate(fixed, stored_channel(study.image_path(channels[n]["image_sha256"]))),
    )
    method = f"{BY_ESTIMATE}{marker}"
    with study.science.write() as db:
        _refuse_if_newer(db, patch, seen)
        registration_id = images.add_registration(
            db, patch_id, found.matrix, person_id=person_id, **row_of(found, method)
        )
    return {"patch": patch["name"], "registration": registration_id, "method": method, **found.as_dict()}


def row_of(found: Registration, method: str) -> dict[str, Any]:
    """What a version keeps of an estimate beside its matrix."""
    return {
        "method": method,
        "accepted": found.accepted,
        "quality": round(found.quality, 4),
        "residual_px": found.residual_px,
        "reason": None if found.accepted else " ".join(found.reasons),
    }


def best_estimate(
    channels: Sequence[tuple[str, str]], estimate_on: Callable[[int], Registration]
) -> tuple[Registration, str]:
    """The estimate on the nuclear channel, or on the one that fits best where that is not accepted.

    Args:
        channels: role and marker of each.
        estimate_on: the estimate on the channel of this number, from 0.

    Returns:
        The estimate and the marker of its channel.
    """
    tried: list[tuple[Registration, str]] = []
    for role in ("nuclear", "marker", "other"):
        for number, (of_this, marker) in enumerate(channels):
            if of_this == role:
                tried.append((estimate_on(number), marker))
        if any(found.accepted for found, _ in tried):
            break
    return max(tried, key=lambda one: (one[0].accepted, one[0].credit))


# --- By a person ----------------------------------------------------------------------------------


def accept_position(
    study: Study, patch_id: int, matrix: np.ndarray, person_id: str, seen_version: int
) -> int:
    """Keep where a person put a patch's IF as a new, accepted version; returns its id.

    Args:
        matrix: 2x3, maps (x, y) of the IF to PAS px.
        seen_version: the newest version when the person decided, 0 for none.

    Raises:
        InputError: no IF could lie like that, or there is a newer version than the person saw.
        NotFoundError: the patch has no IF channel.
    """
    matrix = checked_position(matrix)
    with study.science.write() as db:
        patch = _patch_to_settle(db, patch_id, person_id, seen_version)
        return images.add_registration(db, patch["id"], matrix, BY_HAND, True, person_id=person_id)


def accept_estimate(study: Study, patch_id: int, reason: str, person_id: str, seen_version: int) -> int:
    """Accept a patch's flagged estimate as it is, as a new version with the person's reason.

    Raises:
        InputError: the reason is too short or too long, nothing is flagged, or it was settled meanwhile.
    """
    reason = " ".join(reason.split())
    if not SHORTEST_REASON <= len(reason) <= LONGEST_REASON:
        raise InputError(
            f"Give a reason of {SHORTEST_REASON} to {LONGEST_REASON} characters; this one has {len(reason)}."
        )
    with study.science.write() as db:
        patch = _patch_to_settle(db, patch_id, person_id, seen_version)
        flagged = next(iter(images.list_registrations(db, patch_id)), None)
        if flagged is None or flagged["accepted"]:
            raise InputError(f"Nothing of patch {patch['name']} waits to be accepted.")
        return images.add_registration(
            db,
            patch_id,
            flagged["matrix"],
            flagged["method"],
            True,
            flagged["quality"],
            person_id,
            flagged["residual_px"],
            reason,
        )


def _patch_to_settle(db: Any, patch_id: int, person_id: str, seen_version: int) -> dict[str, Any]:
    study_store.get_person(db, person_id)
    patch = images.get_patch(db, patch_id)
    if not images.list_channels(db, patch_id):
        raise NotFoundError(f"Patch {patch['name']} has no IF channel. Import one for it.")
    _refuse_if_newer(db, patch, seen_version)
    return patch


def _newest_version(db: Any, patch_id: int) -> int:
    return next((row["version"] for row in images.list_registrations(db, patch_id)), 0)


def _refuse_if_newer(db: Any, patch: Mapping[str, Any], seen_version: int) -> None:
    newest = _newest_version(db, patch["id"])
    if newest != seen_version:
        raise InputError(f"Patch {patch['name']} got version {newest} meanwhile. Look at that one first.")
