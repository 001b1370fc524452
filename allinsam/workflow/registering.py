"""Bring the IF of a study's patches onto their stained images."""

from collections.abc import Callable, Iterable
from typing import Any

from allinsam.errors import NotFoundError
from allinsam.imaging import read_channel, read_rgb
from allinsam.registration import Registration, estimate
from allinsam.store import Study, images
from allinsam.store import study as study_store

Report = Callable[[float, float, str, dict[str, Any]], None]


def register_study(
    study: Study,
    patch_names: Iterable[str] | None = None,
    person_id: str | None = None,
    report: Report | None = None,
    should_stop: Callable[[], bool] = lambda: False,
) -> dict[str, Any]:
    """Estimate the registration of patches, all by default, and keep each as a new version.

    The nuclear channel is taken where there is one, else the marker that fits best. A registration that
    fails the gate is kept as not accepted: its patch waits until a later version is accepted.
    """
    with study.science.read() as db:
        if person_id is not None:
            study_store.get_person(db, person_id)
        patches = images.list_patches(db)
    if patch_names is not None:
        known = {patch["name"]: patch for patch in patches}
        missing = [name for name in patch_names if name not in known]
        if missing:
            raise NotFoundError(f"No patch {missing[0]!r} in this study.")
        patches = [known[name] for name in patch_names]
    rows = []
    for done, patch in enumerate(patches):
        if should_stop():
            break
        if report:
            report(done, len(patches), f"registering {patch['name']}", {})
        rows.append(_register_patch(study, patch, person_id))
    if report:
        report(len(rows), len(patches), "done", {})
    waiting = [row["patch"] for row in rows if not row["accepted"]]
    accepted = len(rows) - len(waiting)
    return {"registered": len(rows), "accepted": accepted, "waiting": waiting, "patches": rows}


def _register_patch(study: Study, patch: dict[str, Any], person_id: str | None) -> dict[str, Any]:
    with study.science.read() as db:
        channels = images.list_channels(db, patch["id"])
    if not channels:
        raise NotFoundError(f"Patch {patch['name']} has no IF channel. Import one for it.")
    fixed = read_rgb(study.image_path(patch["image_sha256"]))
    tried: list[tuple[Registration, str]] = []
    for role in ("nuclear", "marker", "other"):
        for row in (row for row in channels if row["role"] == role):
            plane = read_channel(study.image_path(row["image_sha256"]))
            tried.append((estimate(fixed, plane), row["marker"]))
        if any(found.accepted for found, _ in tried):
            break
    found, marker = max(tried, key=lambda one: (one[0].accepted, one[0].credit))
    method = f"grid and ECC on {marker}"
    with study.science.write() as db:
        registration_id = images.add_registration(
            db,
            patch["id"],
            found.matrix,
            method,
            found.accepted,
            round(found.quality, 4),
            person_id,
            found.residual_px,
        )
    return {"patch": patch["name"], "registration": registration_id, "method": method, **found.as_dict()}
