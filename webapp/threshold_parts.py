"""The thresholds page in parts: what is signed, the histogram, and the pictures under a threshold."""

import html
from typing import Any

import numpy as np
import plotly.graph_objects as go
import streamlit as st

from allinsam.store import Study, images, thresholds
from allinsam.store import accounts as account_rows
from allinsam.store import acts as act_store
from allinsam.thresholding import THRESHOLDS, histogram, marker_mask
from allinsam.workflow.preparing import BY_EYE, slide_channel
from webapp import charts
from webapp.image_routes import View
from webapp.surfaces.scene import Window, window_at

METHOD_NAMES = {"otsu": "Otsu", "triangle": "Triangle", "percentile_99": "99th percentile"}
UNDER = "Nuclei"  # annotated under a version
BARS = 128
BRIGHT, DARK = "#0d6b7a", "#c3cfd2"


def pairs(study: Study) -> list[dict[str, Any]]:
    """Every slide and marker of the study, with the threshold that holds for it (None: unsigned)."""
    with study.science.read() as db:
        return [
            {**row, "signed": thresholds.current_threshold(db, row["slide_id"], row["marker"])}
            for row in images.slide_markers(db)
        ]


def pair_name(pair: dict[str, Any]) -> str:
    mark = "✓" if pair["signed"] else "○"
    return f"{mark} {pair['slide']}, {pair['marker']}"


def patches_with(study: Study, slide_id: int, marker: str) -> list[dict[str, Any]]:
    """The slide's patches that have this marker."""
    with study.science.read() as db:
        return [
            patch
            for patch in images.list_patches(db, slide_id)
            if any(
                channel["role"] == "marker" and channel["marker"] == marker
                for channel in images.list_channels(db, patch["id"])
            )
        ]


@st.cache_data(max_entries=16, show_spinner="Reading the slide's grey levels ...")
def levels(_study: Study, folder: str, slide_id: int, marker: str, patches: int) -> dict[str, Any]:
    """Histogram and automatic thresholds of a slide's marker; `patches` stands for what was imported."""
    channel = slide_channel(_study, slide_id, marker)
    counts, edges = histogram(channel, bins=BARS)
    methods = {name: float(method(channel)) for name, method in THRESHOLDS.items()}
    share = {float(t): float(marker_mask(channel, t).mean()) for t in np.unique([*edges, *methods.values()])}
    return {"counts": counts, "edges": edges, "methods": methods, "share": share, "top": float(channel.max())}


def share_above(found: dict[str, Any], value: float) -> float:
    """Share of the slide's pixels that are bright at this threshold, read off the histogram."""
    places = np.array(sorted(found["share"]))
    return float(np.interp(value, places, [found["share"][place] for place in places]))


def histogram_figure(found: dict[str, Any], value: float, signed: float | None) -> go.Figure:
    """How many pixels have which grey level (log scale), and where the threshold cuts."""
    edges, counts = np.asarray(found["edges"]), np.asarray(found["counts"])
    middles = (edges[:-1] + edges[1:]) / 2
    figure = go.Figure(
        go.Bar(
            x=middles,
            y=counts,
            width=np.diff(edges),
            marker={
                "color": [BRIGHT if middle > value else DARK for middle in middles],
                "line": {"width": 0},
            },
            hovertemplate="grey level %{x:.0f}: %{y} pixels<extra></extra>",
        )
    )
    charts.base(figure, 200)
    figure.update_layout(bargap=0, showlegend=False, margin={"t": 24})
    figure.update_xaxes(title="grey level of the marker", range=[0, edges[-1]])
    figure.update_yaxes(title="pixels, log scale", type="log", dtick=1)
    figure.add_vline(x=value, line={"color": charts.INK, "width": 2})
    note = {"showarrow": False, "yref": "paper", "y": 1.12, "font": {"size": 11, "color": charts.INK}}
    figure.add_annotation(x=value, text=f"{value:g}", **note)
    if signed is not None and signed != value:
        figure.add_vline(x=signed, line={"color": charts.MUTED, "width": 1, "dash": "dot"})
    return figure


def method_of(value: float, methods: dict[str, float]) -> str:
    """Which automatic method gives this value, if one does."""
    return next((name for name, found in methods.items() if found == value), BY_EYE)


def own_of_patches(study: Study, pair: dict[str, Any]) -> dict[int, dict[str, Any]]:
    """Patch id -> its own signed threshold with the reason, for those patches of the slide that have one."""
    with study.science.read() as db:
        return thresholds.own_thresholds(db, pair["slide_id"], pair["marker"])


def versions(study: Study, pair: dict[str, Any], patch_id: int | None = None) -> list[dict[str, Any]]:
    """Signed versions of one slide and marker, newest first, with who, when and how much is under each.

    Args:
        patch_id: those of this patch alone instead of the slide's.
    """
    with study.science.read() as db:
        rows = [
            row
            for row in thresholds.list_thresholds(db)
            if row["slide_id"] == pair["slide_id"]
            and row["marker"] == pair["marker"]
            and row["patch_id"] == patch_id
        ]
        under = act_store.annotations_by_threshold(db)
    with study.server.read() as db:
        names = {row["person_id"]: row["name"] for row in account_rows.list_accounts(db)}
    return [
        {
            "No.": row["version"],
            "Above": row["value"],
            "How": METHOD_NAMES.get(row["method"], row["method"]),
            "Signed by": names.get(row["signed_by"], row["signed_by"]),
            "When": row["signed_at"],
            UNDER: under.get(row["id"], 0),
        }
        for row in reversed(rows)
    ]


def picture(
    patch: dict[str, Any], marker: str, value: float, pane_px: int, opacity: float, contrast: float
) -> str:
    """Both panes of a patch under a threshold, as HTML; the pictures come by URL."""
    window: Window = window_at((patch["height_px"], patch["width_px"]), pane_px, 1.0, (0.0, 0.0))
    outline = html.escape(View(patch["id"], "bright", window, marker, threshold=value).url())
    size = f'width="{pane_px}" height="{pane_px}"'
    over = f'<img class="t-over" src="{outline}" {size} style="opacity:{opacity:.2f}" alt="">'
    panes = []
    for layer, title in (("pas", "Stained tissue"), ("marker", f"{marker} marker")):
        url = html.escape(View(patch["id"], layer, window, marker, contrast).url())
        name = html.escape(f"{title}, {patch['name']}")
        panes.append(f'<div class="t-pane"><img src="{url}" {size} alt="{name}">{over}</div>')
    return f'{PANES_STYLE}<div class="t-panes">{"".join(panes)}</div>'


PANES_STYLE = """<style>
.t-panes { display: flex; gap: .75rem; }
.t-pane { position: relative; background: #000; line-height: 0; }
.t-pane img { max-width: none; }
.t-over { position: absolute; top: 0; left: 0; }
</style>"""
