"""What the page of ten minutes shows of each kind of item: a question, two panes, and what each key does."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from allinsam.disputes import REASONS
from allinsam.errors import AllinsamError, NotFoundError, by_name
from allinsam.store import Study, images, thresholds
from allinsam.store import study as study_store
from allinsam.workflow.nuclei_in_doubt import nuclei_of, open_nucleus
from allinsam.workflow.reviewing import review_state
from allinsam.workflow.settling import ACCEPT_REASONS, threshold_start
from allinsam.worth import KINDS, OPEN, Item
from webapp.annotate.bench import rings_of_mask
from webapp.image_routes import View
from webapp.registration_parts import channels_of
from webapp.surfaces.scene import Window, window_at

PANE_PX = 500
STEPS_ACROSS = 100  # nudges of a threshold from black to the brightest pixel
CONTEXT = 4.0  # of a nucleus's size
SMALLEST_SIDE_PX = 80  # of the patch
# The raters' outlines: told apart by their numbers, in colours that no class has; as many as digits.
RATER_COLOURS = (
    "#33d17a", "#ff9f1c", "#00e5d4", "#ff5c5c", "#c6ff4d", "#ff8ad8", "#b39ddb", "#ffd9a0", "#c9c9c9",
)  # fmt: skip
LABEL_STEP_PX = 20

Key = dict[str, Any]


def shown(study: Study, items: Sequence[Item]) -> list[dict[str, Any]]:
    """Items with their pictures; one whose pictures are not there any more says so, and can be put aside."""
    ready = []
    for item in items:
        try:
            ready.append(present(study, item))
        except (AllinsamError, OSError) as error:
            ready.append(_told(item, f"It cannot be shown: {by_name(str(error))}"))
    return ready


def present(study: Study, item: Item) -> dict[str, Any]:
    """An item as the page shows it: a question, two panes, and what each key does."""
    return {**_common(item), **PRESENT[item.kind](study, item)}


def _common(item: Item) -> dict[str, Any]:
    return {
        "name": item.name,
        "kind": item.kind,
        "key": item.key,
        "heading": KINDS[item.kind].title,
        "title": item.title,
        "why": item.why,
        "seconds": round(item.seconds, 1),
    }


def _told(item: Item, text: str) -> dict[str, Any]:
    return {**_common(item), "question": text, "panes": [], "keys": []}


def _key(key: str, label: str, decision: str, **detail: Any) -> Key:
    return {"key": key, "label": label, "decision": decision, "detail": detail}


def _pane(title: str, *layers: str) -> dict[str, Any]:
    return {"title": title, "layers": list(layers)}


def _whole(study: Study, patch_id: int) -> tuple[dict[str, Any], Window]:
    with study.science.read() as db:
        patch = images.get_patch(db, patch_id)
    return patch, window_at((patch["height_px"], patch["width_px"]), PANE_PX, 1.0, (0.0, 0.0))


def _threshold(study: Study, item: Item) -> dict[str, Any]:
    slide_id, marker = item.detail["slide_id"], item.detail["marker"]
    start = threshold_start(study, slide_id, marker)
    patch, window = _whole(study, start.patch_id)
    with study.science.read() as db:
        signed = thresholds.current_threshold(db, slide_id, marker)
    value = signed["value"] if signed else start.value
    outline = View(start.patch_id, "bright", window, marker).url()
    return {
        "question": "Does the white line follow the bright nuclei, and no more?",
        "note": f"Patch {patch['name']} stands for the slide's {item.detail['patches']} with {marker}. "
        f"The start value is {start.method.capitalize()}'s; bright means above it. Arrow keys move it, too.",
        "panes": [
            _pane("Stained tissue", View(start.patch_id, "pas", window).url()),
            _pane(f"{marker} marker", View(start.patch_id, "marker", window, marker).url()),
        ],
        "adjust": {
            "value": value,
            "step": max(1.0, round(start.top / STEPS_ACROSS)),
            "top": start.top,
            "layer": f"{outline}&threshold=",
        },
        "keys": [_key("Enter", "Sign {value}", "sign")],
    }


def _registration(study: Study, item: Item) -> dict[str, Any]:
    patch_id = item.detail["patch_id"]
    patch, window = _whole(study, patch_id)
    with study.science.read() as db:
        newest = images.newest_registrations(db)[patch_id]
    names = channels_of(study, patch_id)
    if not names:
        raise NotFoundError(f"Patch {patch['name']} has no IF channel.")
    matrix = tuple(newest["matrix"].ravel().tolist())
    checker, overlay = (
        View(patch_id, layer, window, names[0], matrix=matrix).url() for layer in ("checker", "overlay")
    )
    return {
        "question": "Does the fluorescence lie on the stain?",
        "note": newest["reason"] or "",
        "panes": [
            _pane("Stain and IF in turn: nuclei go on across the edges", checker),
            _pane(f"{names[0]} in green over the stain: green covers dark nuclei", overlay),
        ],
        "choices": {"name": "reason", "options": list(ACCEPT_REASONS)},
        "keys": [_key("A", "Accept, for the reason marked", "accept"), _key("R", "Keep waiting", "reject")],
    }


def _patch(study: Study, item: Item) -> dict[str, Any]:
    patch_id = item.detail["patch_id"]
    _, window = _whole(study, patch_id)
    panes = [_pane("Stained tissue", View(patch_id, "pas", window).url())]
    if names := channels_of(study, patch_id):
        panes.append(_pane(f"{names[0]} marker", View(patch_id, "marker", window, names[0]).url()))
    minutes = max(1, round(item.seconds / 60))
    return {
        "question": f"Outline this patch? It takes about {minutes} minutes.",
        "note": "It opens on the Annotate page. You can stop there at any time; what you drew is kept.",
        "panes": panes,
        "keys": [_key("Enter", "Open it on Annotate", OPEN)],
    }


def _nucleus(study: Study, item: Item) -> dict[str, Any]:
    """Both panes show the nucleus with some context; every rater's outline in a colour of its own."""
    patch_id = item.detail["patch_id"]
    nucleus = open_nucleus(study, patch_id, item.detail["cluster_id"])
    asked = review_state(study, patch_id).class_ids
    with study.science.read() as db:
        patch, classes = images.get_patch(db, patch_id), study_store.list_classes(db)
        markers = {row["marker"] for row in images.list_channels(db, patch_id)}
    by_id = {row["id"]: row for row in classes}
    window = _window_round(nucleus.box, (patch["height_px"], patch["width_px"]))
    left, top = window.to_pane(np.array(nucleus.box[:2]))
    rings = []
    for place, (member, colour) in enumerate(zip(nucleus.members, RATER_COLOURS, strict=False)):
        drawn = [{"colour": colour, **_ring(ring, window)} for ring in rings_of_mask(member.mask)]
        if drawn:
            at = [round(float(left) + LABEL_STEP_PX * place), round(float(top)) - 8]
            drawn[0] |= {"label": str(place + 1), "at": at}
        rings += drawn
    agreed = [_ring(ring, window) for ring in rings_of_mask(nucleus.mask)]
    if item.kind in ("doubt", "mocl"):
        rings, dashed = [{"colour": by_id[nucleus.class_id]["colour"], **ring} for ring in agreed], []
    else:
        several = len(nucleus.members) > 1
        dashed = [{"colour": "#ffffff", "dashed": True, **ring} for ring in agreed if several]
    marker = by_id[nucleus.class_id]["marker"]
    panes = [{**_pane("Stained tissue", View(patch_id, "pas", window).url()), "rings": rings + dashed}]
    if marker in markers:
        url = View(patch_id, "marker", window, marker).url()
        panes.append({**_pane(f"{marker} marker", url), "rings": rings})
    else:
        panes.append(_pane("The same without lines", View(patch_id, "pas", window).url()))
    as_class = [
        _key(by_id[key]["key"].upper(), by_id[key]["name"], "class", class_id=key)
        | {"colour": by_id[key]["colour"]}
        for key in asked
    ]
    return {
        "panes": panes,
        "hides": True,
        "as_class": {"key": "T", "label": "It is a ... (type, then class)", "then": as_class},
        "votes": f"{nucleus.votes} of {nucleus.n_looked} who looked for it marked it",
        "members": nucleus.members,
        "class_name": nucleus.class_name,
        "reasons": [REASONS[reason] for reason in nucleus.reasons],
    }


def _dispute(study: Study, item: Item) -> dict[str, Any]:
    seen = _nucleus(study, item)
    picks = [
        _key(str(place), f"{member.letter}'s: {member.class_name}", "pick", letter=member.letter)
        | {"colour": colour}
        for place, (member, colour) in enumerate(zip(seen["members"], RATER_COLOURS, strict=False), 1)
    ]
    agreed = _key("C", f"Consensus, {seen['class_name']} (dashed)", "consensus")
    if len(picks) == 1:
        agreed["label"] = f"Keep it, {seen['class_name']}"
    return {
        "question": f"What is right? {'; '.join(seen['reasons']).capitalize()}.",
        "note": f"{seen['votes']}.",
        "panes": seen["panes"],
        "hides": True,
        "keys": [
            *([agreed, *picks] if len(picks) > 1 else [agreed]),
            _key("X", "No such nucleus", "rejected"),
            seen["as_class"],
        ],
    }


def _doubt(study: Study, item: Item) -> dict[str, Any]:
    seen = _nucleus(study, item)
    return {
        "question": f"Is this a {seen['class_name']} nucleus, and its outline right?",
        "note": f"A student kept it, but {item.why}. {seen['votes']}.",
        "panes": seen["panes"],
        "hides": True,
        "keys": [_key("K", "Right", "right"), _key("X", "Wrong", "wrong"), seen["as_class"]],
    }


def _mocl(study: Study, item: Item) -> dict[str, Any]:
    seen = _nucleus(study, item)
    return {
        "question": f"Is this a {seen['class_name']} nucleus, and its outline right?",
        "note": f"A model that learnt from this label trusts it little. {seen['votes']}.",
        "panes": seen["panes"],
        "hides": True,
        "keys": [_key("K", "Right", "right"), _key("X", "Wrong", "wrong"), seen["as_class"]],
    }


def _finish(study: Study, item: Item) -> dict[str, Any]:
    patch_id = item.detail["patch_id"]
    patch, window = _whole(study, patch_id)
    with study.science.read() as db:
        colours = {row["id"]: row["colour"] for row in study_store.list_classes(db)}
    rings = []
    for nucleus in nuclei_of(study, patch_id):
        kept = nucleus.decision or nucleus
        if kept.mask is not None:
            rings += [
                {"colour": colours[kept.class_id], **_ring(ring, window)} for ring in rings_of_mask(kept.mask)
            ]
    pas = View(patch_id, "pas", window).url()
    return {
        "question": "Every dispute on this patch is decided. Finish its review?",
        "note": f"{len(rings)} outlines stand: what you decided, and what the raters were at one about. They "
        "become the adjudicated labels of the patch.",
        "panes": [
            {**_pane(f"What stands on {patch['name']}", pas), "rings": rings},
            _pane("Stained tissue", pas),
        ],
        "hides": True,
        "keys": [_key("Enter", "Finish", "finish")],
    }


def _window_round(box: tuple[int, int, int, int], size_hw: tuple[int, int]) -> Window:
    """A square round a nucleus with CONTEXT times its size, on the patch where that goes."""
    side = round(max(SMALLEST_SIDE_PX, CONTEXT * max(box[2] - box[0], box[3] - box[1])))
    zoom = max(size_hw) / min(side, max(size_hw))
    return window_at(size_hw, PANE_PX, zoom, ((box[0] + box[2]) / 2, (box[1] + box[3]) / 2))


def _ring(ring: np.ndarray, window: Window) -> dict[str, Any]:
    return {"points": np.round(window.to_pane(ring), 1).tolist()}


PRESENT: dict[str, Callable[[Study, Item], dict[str, Any]]] = {
    "threshold": _threshold,
    "registration": _registration,
    "dispute": _dispute,
    "doubt": _doubt,
    "mocl": _mocl,
    "finish": _finish,
    "gold": _patch,
    "reference": _patch,
}
