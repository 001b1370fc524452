"""The registration page in parts: where every patch stands, positions of the IF, and their pictures."""

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from allinsam.registration import identity_matrix, nudge
from allinsam.store import Study, images
from allinsam.store import accounts as account_rows
from allinsam.workflow.registering import ASSUMED, BY_ESTIMATE, BY_HAND, Standing, settled_by_a_person
from webapp.image_routes import View
from webapp.surfaces.scene import Window, window_at

STATE_WORDS = {
    "flagged": "⚠ waits",
    "missing": "○ not registered",
    "accepted": "✓ accepted",
    "no_if": "– no IF",
}
NO_REASON = "Why was not kept when it was estimated. Register it again to see."
LOOKS = {"checker": "Checkerboard", "flicker": "Flicker", "overlay": "Overlay"}
LOOK_NOTES = {
    "checker": "Stain and IF in turn. Where it fits, nuclei go on across the edges of the squares.",
    "flicker": "Stain and IF in turn, once a second. Where it fits, nuclei stand still.",
    "overlay": "The IF in green over the stain. Where it fits, green covers dark nuclei.",
}
# Which part of the patch is looked at: its middle as shares of width and height, and how much enlarged.
PLACES = {
    "Whole": (0.5, 0.5, 1.0),
    "Middle": (0.5, 0.5, 3.0),
    "↖": (0.0, 0.0, 3.0),
    "↗": (1.0, 0.0, 3.0),
    "↙": (0.0, 1.0, 3.0),
    "↘": (1.0, 1.0, 3.0),
}


@dataclass(frozen=True)
class Nudge:
    """One way to move the IF by hand."""

    label: str
    start: float
    step: float
    low: float
    high: float
    shown: str


NUDGES = {
    "dx_px": Nudge("Right, px", 0.0, 0.5, -2000.0, 2000.0, "%.1f"),
    "dy_px": Nudge("Down, px", 0.0, 0.5, -2000.0, 2000.0, "%.1f"),
    "rotation_deg": Nudge("Turn, degrees", 0.0, 0.1, -180.0, 180.0, "%.1f"),
    "scale": Nudge("Scale", 1.0, 0.005, 0.5, 2.0, "%.3f"),
}
# Arrow -> which way it moves the IF.
ARROWS = {"←": ("dx_px", -1), "→": ("dx_px", 1), "↑": ("dy_px", -1), "↓": ("dy_px", 1)}
ARROW_STEPS_PX = (0.5, 2.0, 10.0)


def method_words(method: str) -> str:
    if method.startswith(BY_ESTIMATE):
        return f"automatic, {method.removeprefix(BY_ESTIMATE)}"
    return {ASSUMED: "assumed to fit", BY_HAND: "by hand"}.get(method, method)


def why(row: Mapping[str, Any] | None) -> str:
    """Why a version waits, or why somebody accepted it all the same; empty for the others."""
    if row is None:
        return ""
    return row["reason"] or ("" if row["accepted"] else NO_REASON)


def people_names(study: Study) -> dict[str, str]:
    with study.server.read() as db:
        return {row["person_id"]: row["name"] for row in account_rows.list_accounts(db)}


def overview(everything: Sequence[Standing], names: Mapping[str, str]) -> pd.DataFrame:
    """One row per patch in the same order."""
    rows = []
    for one in everything:
        newest = one.newest or {}
        person_id = newest.get("person_id")
        rows.append(
            {
                "Patch": one.patch,
                "State": STATE_WORDS[one.state],
                "Quality": newest.get("quality"),
                "Off, px": newest.get("residual_px"),
                "How": method_words(newest["method"]) if newest else "-",
                "By": names.get(person_id, person_id) if person_id else "-",
                "Why": why(one.newest),
            }
        )
    return pd.DataFrame(rows)


def counts_text(everything: Sequence[Standing]) -> str:
    """How many patches stand where, in one line."""
    count = {state: sum(one.state == state for one in everything) for state in STATE_WORDS}
    parts = [f"**{count['flagged']} {'waits' if count['flagged'] == 1 else 'wait'}**"]
    parts += [f"{count['missing']} not registered"] if count["missing"] else []
    parts += [f"{count['accepted']} accepted"]
    parts += [f"{count['no_if']} without IF"] if count["no_if"] else []
    return " · ".join(parts)


def next_flagged(everything: Sequence[Standing], patch_id: int) -> int | None:
    """The patch that waits after this one, going round; None if no other does."""
    waiting = [one.patch_id for one in everything if one.state == "flagged"]
    if patch_id not in waiting:
        return waiting[0] if waiting else None
    place = waiting.index(patch_id)
    others = waiting[place + 1 :] + waiting[:place]
    return others[0] if others else None


def left_alone(everything: Sequence[Standing]) -> int:
    """How many patches registering all again does not touch, because somebody settled them."""
    return sum(settled_by_a_person(one.newest) for one in everything)


# --- One patch ------------------------------------------------------------------------------------


def versions(study: Study, patch_id: int) -> list[dict[str, Any]]:
    """What a person can start from, newest first; where nothing is kept, the images as they are."""
    with study.science.read() as db:
        rows = images.list_registrations(db, patch_id)
    return rows or [{"version": 0, "matrix": identity_matrix(), "method": ASSUMED, "accepted": 1}]


def version_name(row: Mapping[str, Any]) -> str:
    if not row["version"]:
        return "As the images are"
    return f"Version {row['version']}, {method_words(row['method'])}" + ("" if row["accepted"] else ": waits")


def channels_of(study: Study, patch_id: int) -> list[str]:
    """Names of a patch's IF channels, the nuclear ones first: they show most of what the stain shows."""
    roles = ("nuclear", "marker", "other")
    with study.science.read() as db:
        rows = images.list_channels(db, patch_id)
    return list(dict.fromkeys(row["marker"] for row in sorted(rows, key=lambda r: roles.index(r["role"]))))


def size_of(study: Study, patch_id: int) -> tuple[int, int]:
    """Height and width of a patch in px."""
    with study.science.read() as db:
        patch = images.get_patch(db, patch_id)
    return patch["height_px"], patch["width_px"]


def moved(matrix: np.ndarray, size_hw: tuple[int, int], by: Mapping[str, float]) -> np.ndarray:
    """A position moved by hand; `by` has a value for each of NUDGES."""
    return nudge(matrix, size_hw, **by)


def is_moved(by: Mapping[str, float]) -> bool:
    return any(abs(by[name] - one.start) > 1e-9 for name, one in NUDGES.items())


def nuclei_words(nuclei: int, version: int) -> str:
    """What a new version means for what was drawn before."""
    were = "1 nucleus was" if nuclei == 1 else f"{nuclei} nuclei were"
    keep = "It keeps it" if nuclei == 1 else "They keep it"
    return f"{were} drawn under version {version}. {keep}; a new version holds for what is drawn from now on."


# --- Pictures -------------------------------------------------------------------------------------


def window_of(size_hw: tuple[int, int], place: str, pane_px: int) -> Window:
    x, y, zoom = PLACES[place]
    return window_at(size_hw, pane_px, zoom, (x * size_hw[1], y * size_hw[0]))


def picture(
    patch_id: int,
    name: str,
    channel: str,
    matrix: np.ndarray,
    window: Window,
    look: str,
    still: str | None = None,
) -> str:
    """A patch and its IF under a matrix as HTML; the pictures come by URL.

    Args:
        look: one of LOOKS.
        still: of a flicker that was stopped, what is shown: pas or if.
    """
    numbers = tuple(np.ravel(matrix).tolist())

    def tag(layer: str, what: str, kind: str = "") -> str:
        matrix_of = None if layer == "pas" else numbers
        url = html.escape(View(patch_id, layer, window, channel, matrix=matrix_of).url())
        size = f'width="{window.pane_px}" height="{window.pane_px}"'
        return f'<img class="{kind}" src="{url}" {size} alt="{html.escape(f"{what}, {name}")}">'

    stain, fluorescence = "Stained tissue", f"{channel} fluorescence"
    if look == "flicker":
        kinds = {None: "r-over r-flicker", "pas": "r-over r-hidden", "if": "r-over"}
        shown = tag("pas", stain) + tag("if", fluorescence, kinds[still])
    else:
        shown = tag(look, f"{LOOKS[look]} of stain and {fluorescence}")
    side = f"width:{window.pane_px}px;height:{window.pane_px}px"
    return f'{PICTURE_STYLE}<div class="r-pane" style="{side}">{shown}</div>'


# One change each half second; who asked their system for less motion sees both at once, standing still.
PICTURE_STYLE = """<style>
.r-pane { position: relative; background: #ececec; line-height: 0; }
.r-pane img { max-width: none; }
.r-over { position: absolute; top: 0; left: 0; }
.r-hidden { opacity: 0; }
.r-flicker { animation: r-flicker 1s steps(1) infinite; }
@keyframes r-flicker { 0% { opacity: 0; } 50% { opacity: 1; } }
@media (prefers-reduced-motion: reduce) { .r-flicker { animation: none; opacity: .5; } }
</style>"""
