"""Plotly figures. Each takes plain tables and gives a figure; no study, no Streamlit."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

INK, GRID, MUTED = "#1b2b30", "#e3eaec", "#5d7077"
# Models and groups; classes have colours of their own in the study.
LABEL_COLOURS = {"expert": "#0d6b7a", "students": "#c2571a", "student": "#c2571a", "untrained": "#8a969b"}
OTHER_COLOURS = ("#5b6bb5", "#7a8c1e", "#8a4f7d", "#4b4b4b")
CONDITION_SYMBOLS = {"normal": "circle", "injured": "diamond", "unknown": "square"}
# From white to a light teal: dark figures stay readable on all of it, also for colour-blind eyes.
HEAT = [[0.0, "#ffffff"], [0.5, "#d3e8eb"], [1.0, "#62b0bc"]]
SKEWED_TAILS = 2.5
NOTE_PX = 16
MANY_RATERS = 9  # a heat map of more has smaller cells
# The bar above a figure has one button, which saves it as a picture.
CONFIG = {"displaylogo": False, "displayModeBar": "hover", "modeBarButtons": [["toImage"]]}


def base(figure: go.Figure, height: int, title: str = "") -> go.Figure:
    """The look all figures share."""
    figure.update_layout(
        template="simple_white",
        height=height,
        margin={"l": 10, "r": 10, "t": 36 if title else 14, "b": 10},
        title={"text": title, "font": {"size": 13, "color": INK}, "x": 0, "xanchor": "left"}
        if title
        else None,
        font={"color": INK, "size": 12},
        paper_bgcolor="white",
        plot_bgcolor="white",
        # Not to the very corner: the camera that saves the figure is there.
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0.95, "xanchor": "right"},
        hoverlabel={"font": {"color": INK}, "bgcolor": "white"},
    )
    figure.update_annotations(font={"size": 12, "color": INK})
    figure.update_xaxes(automargin=True, gridcolor=GRID)
    figure.update_yaxes(automargin=True, gridcolor=GRID, showgrid=True)
    return figure


def with_note(figure: go.Figure, note: str) -> go.Figure:
    """With a line in small letters above it, unless it has a title, which says so itself."""
    if figure.layout.title.text:
        return figure
    title = {"text": note, "font": {"size": 10, "color": MUTED}, "x": 0, "xanchor": "left"}
    title |= {"y": 1, "yref": "container", "yanchor": "top", "pad": {"t": 4}}
    figure.update_layout(
        title=title,
        height=figure.layout.height + NOTE_PX,
        margin={"t": figure.layout.margin.t + NOTE_PX},
    )
    return figure


def colour_of(label: str, known: Sequence[str] = ()) -> str:
    """A label's colour: the same on every page; labels nobody foresaw take the next free one."""
    if label in LABEL_COLOURS:
        return LABEL_COLOURS[label]
    others = [name for name in known if name not in LABEL_COLOURS]
    return OTHER_COLOURS[others.index(label) % len(OTHER_COLOURS)] if label in others else OTHER_COLOURS[-1]


def loss_curves(runs: Mapping[str, pd.DataFrame], live: Mapping[str, Any] | None = None) -> go.Figure:
    """Training loss and validation Dice by epoch, one line per run.

    Each table has epoch, stage, loss and val. `live` is a point of the epoch that is under way: title,
    epoch and loss.
    """
    figure = make_subplots(1, 2, subplot_titles=("Training loss", "Dice on the validation patches"))
    titles = list(runs)
    for title, table in runs.items():
        line = {"color": colour_of(title, titles), "width": 2}
        common = {"name": title, "legendgroup": title, "mode": "lines+markers", "line": line}
        stages = table["stage"] + " stage"
        figure.add_scatter(
            x=table["epoch"], y=table["loss"], text=stages, marker={"size": 5}, **common, row=1, col=1
        )
        figure.add_scatter(
            x=table["epoch"],
            y=table["val"],
            text=stages,
            marker={"size": 5},
            showlegend=False,
            **common,
            row=1,
            col=2,
        )
    if live:
        now = {"symbol": "circle-open", "size": 9, "color": colour_of(live["title"], titles)}
        figure.add_scatter(
            x=[live["epoch"]],
            y=[live["loss"]],
            mode="markers",
            marker=now,
            name="now",
            showlegend=False,
            row=1,
            col=1,
        )
    base(figure, 260)
    figure.update_layout(margin={"t": 48}, legend={"y": 1.14})
    for start in sorted({start for table in runs.values() if (start := corrective_start(table)) is not None}):
        figure.add_vline(x=start, line={"color": MUTED, "dash": "dot", "width": 1})
        note = {"font": {"size": 10, "color": MUTED}, "showarrow": False, "xanchor": "left"}
        figure.add_annotation(x=start, y=1, yref="y domain", xref="x", text="corrective", **note)
    figure.update_xaxes(title="epoch", rangemode="tozero")
    figure.update_yaxes(range=[0, 1], row=1, col=2)
    figure.update_yaxes(rangemode="tozero", row=1, col=1)
    return figure


def corrective_start(table: pd.DataFrame) -> float | None:
    """Where the corrective stage begins on the epoch axis, if it has."""
    corrective = table.loc[table["stage"] == "corrective", "epoch"]
    return float(corrective.min()) - 0.5 if len(corrective) else None


def heat_map(values: pd.DataFrame, counts: pd.DataFrame, few: int, title: str = "") -> go.Figure:
    """Rater x rater figures with n beside each; pairs with fewer than `few` say so instead.

    On the diagonal is each rater with themself, where they looked twice. A heat map's cells cannot be
    selected: an unseen marker lies on each that has figures, with its two raters as custom data.
    """
    raters = list(values.index)
    many = len(raters) > MANY_RATERS
    shown = values.where(counts >= few).to_numpy(dtype=float)
    text = [[heat_text(values, counts, few, a, b) for b in raters] for a in raters]
    figure = go.Figure(
        go.Heatmap(
            z=shown,
            x=raters,
            y=raters,
            text=text,
            texttemplate="%{text}",
            textfont={"color": INK, "size": 10 if many else 12},
            hoverinfo="skip",
            colorscale=HEAT,
            zmin=0,
            zmax=1,
            xgap=2,
            ygap=2,
            colorbar={"thickness": 10, "len": 0.9, "outlinewidth": 0},
        )
    )
    cells = [
        (a, b, cell) for a, row in zip(raters, text, strict=True) for b, cell in zip(raters, row, strict=True)
    ]
    cells = [cell for cell in cells if cell[2]]
    invisible = {"marker": {"opacity": 0}}
    figure.add_scatter(
        x=[b for _, b, _ in cells],
        y=[a for a, *_ in cells],
        customdata=[[a, b] for a, b, _ in cells],
        text=[cell for *_, cell in cells],
        mode="markers",
        marker={"symbol": "square", "size": 30 if many else 52, "opacity": 0, "color": INK},
        selected=invisible,
        unselected=invisible,
        hovertemplate="%{y} and %{x}<br>%{text}<br>click: the patches<extra></extra>",
        showlegend=False,
    )
    base(figure, 120 + (34 if many else 56) * max(3, len(raters)), title)
    figure.update_layout(clickmode="event+select", dragmode=False)
    figure.update_yaxes(autorange="reversed", showgrid=False, ticks="", showline=False, type="category")
    figure.update_xaxes(ticks="", showline=False, type="category")
    return figure


def heat_text(values: pd.DataFrame, counts: pd.DataFrame, few: int, a: str, b: str) -> str:
    if a == b and not counts.loc[a, b] > 0:
        return ""
    return cell_text(values.loc[a, b], counts.loc[a, b], few)


def cell_text(value: float, count: float, few: int) -> str:
    if np.isnan(count) or count == 0:
        return "no shared<br>patch"
    if count < few or np.isnan(value):
        return f"too few<br>n = {count:.0f}"
    return f"<b>{value:.2f}</b><br>n = {count:.0f}"


def spread_by(table: pd.DataFrame, value: str, by: str, group: str, unit: str, title: str = "") -> go.Figure:
    """A box per person with every point; a log axis where the values are skewed."""
    figure = go.Figure()
    table = table[table[value] > 0]
    groups = sorted(table[group].unique())
    for name in sorted(
        table[by].unique(), key=lambda who: (str(table[table[by] == who][group].iloc[0]), who)
    ):
        mine = table[table[by] == name]
        colour = colour_of(str(mine[group].iloc[0]), groups)
        figure.add_box(
            x=[f"{name}<br>n = {len(mine)}"] * len(mine),
            y=mine[value],
            name=str(name),
            marker={"color": colour, "size": 3, "opacity": 0.35},
            line={"color": INK, "width": 1.2},
            fillcolor=_faint(colour),
            boxpoints="all" if len(mine) <= 400 else "outliers",
            jitter=0.5,
            pointpos=0,
            showlegend=False,
        )
    base(figure, 330, title)
    log = is_skewed(table[value])
    figure.update_yaxes(title=unit + (", log scale" if log else ""), type="log" if log else "linear")
    if log:
        ticks = log_ticks(table[value])
        figure.update_yaxes(tickvals=ticks, ticktext=[f"{tick:g}" for tick in ticks])
    else:
        figure.update_yaxes(rangemode="tozero")
    return figure


def is_skewed(values: pd.Series) -> bool:
    """Whether the upper tail is much longer than the lower: then a linear axis presses the rest together."""
    values = values[values > 0]
    if len(values) < 5:
        return False
    low, middle, high = np.quantile(values, [0.05, 0.5, 0.95])
    return bool(high - middle > SKEWED_TAILS * (middle - low))


def log_ticks(values: pd.Series) -> list[float]:
    """1, 2, 5, 10, ... within the values' range."""
    low, high = float(values.min()), float(values.max())
    steps = [m * 10.0**e for e in range(-3, 6) for m in (1, 2, 5)]
    return [round(step, 6) for step in steps if low / 2 <= step <= high * 2]


def forest(means: pd.DataFrame, labels: Sequence[str], metric: str, title: str = "") -> go.Figure:
    """Mean and 95 % interval per label, one panel per class; `means` are those of `scored.means`.

    Where there are too few slides for an interval, a ring for each slide's mean.
    """
    classes = sorted(means["class_name"].unique())
    figure = make_subplots(1, max(1, len(classes)), shared_yaxes=True, subplot_titles=[*classes])
    for column, name in enumerate(classes, start=1):
        mine = means[means["class_name"] == name].set_index("label")
        for label in reversed(labels):
            if label not in mine.index:
                continue
            row = mine.loc[label]
            known = not np.isnan(row["low"])
            error = {
                "type": "data",
                "symmetric": False,
                "array": [row["high"] - row["mean"] if known else 0],
                "arrayminus": [row["mean"] - row["low"] if known else 0],
                "thickness": 2,
                "width": 6,
            }
            note = f"{row['patches']:.0f} patches, {row['slides']:.0f} slides, {row['nuclei']:.0f} nuclei"
            note += "" if known else ", too few slides for an interval"
            if not known:
                figure.add_scatter(
                    x=row["by_slide"],
                    y=[label] * len(row["by_slide"]),
                    mode="markers",
                    hovertemplate="one slide: %{x:.3f}<extra></extra>",
                    marker={"size": 7, "symbol": "circle-open", "color": INK},
                    showlegend=False,
                    row=1,
                    col=column,
                )
            figure.add_scatter(
                x=[row["mean"]],
                y=[label],
                error_x=error,
                mode="markers+text",
                text=[f"{row['mean']:.2f}"],
                textposition="top center",
                hovertext=[note],
                marker={"size": 10, "color": colour_of(label, labels), "line": {"color": INK, "width": 1}},
                showlegend=False,
                row=1,
                col=column,
            )
    base(figure, 130 + 50 * len(labels), title)
    figure.update_layout(margin={"t": 60 if title else 30})
    figure.update_xaxes(title=metric, range=[-0.04, 1.04])
    figure.update_yaxes(showgrid=False, range=[-0.5, len(labels) - 0.3])
    return figure


def paired(
    first: pd.DataFrame,
    second: pd.DataFrame,
    names: tuple[str, str],
    metric: str,
    class_colours: Mapping[str, str],
    title: str = "",
) -> go.Figure:
    """Every test patch as a line from its score by a to its score by b, with a box on each side.

    Both tables have patch, class_name, condition and value, on the same patches.
    """
    classes = sorted(set(first["class_name"]) & set(second["class_name"]))
    counts = [first[first["class_name"] == name]["patch"].nunique() for name in classes]
    heads = [f"{name} (n = {count} patches)" for name, count in zip(classes, counts, strict=True)]
    figure = make_subplots(1, max(1, len(classes)), shared_yaxes=True, subplot_titles=heads)
    for column, name in enumerate(classes, start=1):
        a, b = (t[t["class_name"] == name].set_index("patch") for t in (first, second))
        for place, (values, sides) in enumerate(((a, names[0]), (b, names[1]))):
            figure.add_box(
                x=[place * 1.0 + (-0.28 if place == 0 else 0.28)] * len(values),
                y=values["value"],
                name=sides,
                width=0.22,
                boxpoints=False,
                fillcolor=class_colours.get(name, "#cccccc"),
                line={"color": INK, "width": 1.2},
                showlegend=False,
                row=1,
                col=column,
            )
        for patch in a.index:
            condition = a.loc[patch, "condition"]
            figure.add_scatter(
                x=[0, 1],
                y=[a.loc[patch, "value"], b.loc[patch, "value"]],
                mode="lines+markers",
                line={"color": MUTED, "width": 1},
                marker={
                    "symbol": CONDITION_SYMBOLS.get(condition, "square"),
                    "size": 8,
                    "color": class_colours.get(name, "#cccccc"),
                    "line": {"color": INK, "width": 1},
                },
                name=condition,
                legendgroup=condition,
                showlegend=False,
                hovertemplate=f"{patch} ({condition})<br>%{{y:.3f}}<extra></extra>",
                row=1,
                col=column,
            )
    for condition in sorted(set(first["condition"])):
        symbol = {"symbol": CONDITION_SYMBOLS.get(condition, "square"), "size": 8, "color": "white"}
        symbol["line"] = {"color": INK, "width": 1}
        figure.add_scatter(x=[None], y=[None], mode="markers", marker=symbol, name=condition, row=1, col=1)
    base(figure, 380, title)
    figure.update_layout(margin={"t": 66 if title else 44}, legend={"y": 1.1})
    figure.update_xaxes(tickvals=[0, 1], ticktext=list(names), range=[-0.6, 1.6])
    figure.update_yaxes(range=[-0.03, 1.03])
    figure.update_yaxes(title=metric, row=1, col=1)
    return figure


def stacked_shares(
    table: pd.DataFrame, by: str, parts: Mapping[str, tuple[str, str]], few: int, title: str = ""
) -> go.Figure:
    """A bar per row, cut into the shares of its parts; a row whose parts add up to fewer than `few` says so.

    parts: column of counts -> what it is called and its colour.
    """
    figure = go.Figure()
    totals = table[list(parts)].sum(axis=1)
    names = [f"{name}<br>n = {total:,.0f}" for name, total in zip(table[by], totals, strict=True)]
    for column, (label, colour) in parts.items():
        shares = (table[column] / totals).where(totals >= few)
        counts = [f"{count:,.0f} of {total:,.0f}" for count, total in zip(table[column], totals, strict=True)]
        figure.add_bar(
            y=names,
            x=shares,
            orientation="h",
            name=label,
            marker={"color": colour, "line": {"color": INK, "width": 0.6}},
            text=["" if np.isnan(share) or share < 0.05 else f"{share:.0%}" for share in shares],
            textposition="inside",
            insidetextanchor="middle",
            insidetextfont={"color": ink_on(colour)},
            textangle=0,
            hovertext=counts,
            hovertemplate=f"{label}: %{{x:.1%}} (%{{hovertext}})<extra></extra>",
        )
    for name, total in zip(names, totals, strict=True):
        if total < few:
            note = {"showarrow": False, "xanchor": "left", "font": {"color": MUTED}}
            figure.add_annotation(x=0.01, y=name, text="too few", **note)
    bars_px = 46 * max(1, len(table))
    base(figure, bars_px + 116, title)
    figure.update_layout(
        barmode="stack",
        bargap=0.35,
        legend={"y": -34 / bars_px, "yanchor": "top", "x": 0, "xanchor": "left", "traceorder": "normal"},
        margin={"r": 26, "b": 64},
    )
    figure.update_xaxes(range=[0, 1.001], tickformat=".0%", showgrid=True)
    figure.update_yaxes(autorange="reversed", showgrid=False, ticks="", showline=False)
    return figure


def ink_on(colour: str) -> str:
    """Dark or white text, whichever is read on this colour."""
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return INK if 0.299 * red + 0.587 * green + 0.114 * blue > 140 else "#ffffff"


def _faint(colour: str) -> str:
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red}, {green}, {blue}, 0.25)"
