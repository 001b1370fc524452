"""Figures of time and of what it bought, from plain tables; no study, no Streamlit."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from allinsam.pace import Ratio
from webapp.charts import GRID, INK, MUTED, base, colour_of, is_skewed, log_ticks

MOST_POINTS = 400  # in a box; of more its five numbers are sent
MOST_IN_LEGEND = 8
DASHES = ("solid", "dash", "dot", "dashdot", "longdash")
SYMBOLS = ("circle", "diamond", "square", "triangle-up", "cross", "x", "star", "hexagon")


def boxes(table: pd.DataFrame, value: str, by: str, names: Mapping[str, str], unit: str) -> go.Figure:
    """A box for each `by` with n beneath it, experts first; log axis where the values are skewed.

    table: with `by`, group and `value`. names: what a `by` is called.
    """
    figure, table = go.Figure(), table[table[value] > 0]
    for key in in_order(table, by):
        mine = table.loc[table[by] == key, value].to_numpy(float)
        colour = colour_by(table, by, key)
        look = {
            "name": names.get(key, key),
            "marker": {"color": colour, "size": 3, "opacity": 0.35},
            "line": {"color": INK, "width": 1.2},
            "fillcolor": _faint(colour),
            "showlegend": False,
        }
        label = f"{_folded(names.get(key, key))}<br>n = {len(mine):,}"
        if len(mine) <= MOST_POINTS:
            figure.add_box(x=[label] * len(mine), y=mine, boxpoints="all", jitter=0.5, pointpos=0, **look)
        else:
            q1, middle, q3 = np.quantile(mine, [0.25, 0.5, 0.75])
            inside = mine[(mine >= q1 - 1.5 * (q3 - q1)) & (mine <= q3 + 1.5 * (q3 - q1))]
            ends = {"lowerfence": [inside.min()], "upperfence": [inside.max()]}
            figure.add_box(x=[label], q1=[q1], median=[middle], q3=[q3], **ends, **look)
    base(figure, 300)
    _time_axis(figure, table[value], unit)
    return figure


def over_cutoffs(
    medians: pd.DataFrame, by: str, names: Mapping[str, str], chosen_s: float, unit: str
) -> go.Figure:
    """Median at each idle cut-off, a line for each `by`; table: cutoff_s, `by`, group, median."""
    figure, keys = go.Figure(), in_order(medians, by)
    dashes = dash_of(medians, by)
    for key in keys:
        mine = medians[medians[by] == key].sort_values("cutoff_s")
        figure.add_scatter(
            x=mine["cutoff_s"],
            y=mine["median"],
            name=names.get(key, key),
            mode="lines+markers",
            line={"color": colour_by(medians, by, key), "width": 2, "dash": dashes[key]},
            marker={"size": 6},
            showlegend=len(keys) <= MOST_IN_LEGEND,
            hovertemplate=f"{names.get(key, key)}<br>up to %{{x:g}} s: %{{y:.2f}}<extra></extra>",
        )
    base(figure, 300)
    _cutoff_axis(figure, sorted(set(medians["cutoff_s"])), chosen_s)
    figure.update_yaxes(title=unit, rangemode="tozero")
    return figure


def ratios(found: Mapping[float, Ratio], chosen_s: float, a: str, b: str) -> go.Figure:
    """How many times as long a takes as b at each cut-off, with its interval; a line for no difference."""
    figure = go.Figure()
    known = {cutoff: one for cutoff, one in found.items() if not np.isnan(one.ratio)}
    spread = [(0 if np.isnan(one.low) else one.high - one.ratio) for one in known.values()]
    minus = [(0 if np.isnan(one.low) else one.ratio - one.low) for one in known.values()]
    figure.add_scatter(
        x=list(known),
        y=[one.ratio for one in known.values()],
        error_y={"type": "data", "symmetric": False, "array": spread, "arrayminus": minus, "width": 6},
        mode="lines+markers",
        line={"color": "#0d6b7a", "width": 1.5, "dash": "dot"},
        marker={"size": 9, "line": {"color": INK, "width": 1}},
        showlegend=False,
        hovertemplate="up to %{x:g} s: %{y:.2f}<extra></extra>",
    )
    figure.add_hline(y=1, line={"color": MUTED, "width": 1})
    base(figure, 250)
    _cutoff_axis(figure, sorted(found), chosen_s)
    figure.update_yaxes(title=f"{a}<br>/ {b}", type="log")
    shown = [1.0, *(one.ratio + s for one, s in zip(known.values(), spread, strict=True))]
    shown += [one.ratio - m for one, m in zip(known.values(), minus, strict=True)]
    ticks = [tick for tick in RATIO_TICKS if min(shown) / 1.3 <= tick <= max(shown) * 1.3]
    figure.update_yaxes(tickvals=ticks, ticktext=[f"{tick:g}" for tick in ticks])
    figure.update_yaxes(range=[float(np.log10(min(shown) / 1.15)), float(np.log10(max(shown) * 1.15))])
    return figure


RATIO_TICKS = (0.1, 0.2, 0.33, 0.5, 0.67, 0.8, 1.0, 1.25, 1.5, 2.0, 3.0, 5.0, 10.0)


def getting_quicker(curve: pd.DataFrame, arms: Mapping[str, str]) -> go.Figure:
    """Median seconds per nucleus over a person's patches in their order: a line for each arm of each person.

    curve: person_id, group, arm, order, patch, nuclei, median_s. With more than two people the median of
    those in a group is drawn thick, for each arm. arms: what an arm is called.
    """
    figure, curve = go.Figure(), curve[curve["median_s"] > 0]
    groups, known = sorted(curve["group"].unique()), sorted(curve["arm"].unique())
    several, names = curve["person_id"].nunique() > 2, {arm: arms.get(arm, arm) for arm in known}
    looks = {arm: (SYMBOLS[n % len(SYMBOLS)], DASHES[n % len(DASHES)]) for n, arm in enumerate(known)}
    for (person, arm), mine in curve.sort_values("order").groupby(["person_id", "arm"]):
        group = str(mine["group"].iloc[0])
        told = [f"{person}, {row.patch}<br>{row.nuclei} nuclei" for row in mine.itertuples()]
        figure.add_scatter(
            x=mine["order"],
            y=mine["median_s"],
            name=person,
            mode="lines+markers",
            line={"color": colour_of(group, groups), "width": 1, "dash": looks[arm][1]},
            marker={"size": 6, "symbol": looks[arm][0]},
            opacity=0.45 if several else 1.0,
            showlegend=False,
            customdata=told,
            hovertemplate=f"patch %{{x}}: %{{y:.1f}} s<br>%{{customdata}}<br>{names[arm]}<extra></extra>",
        )
    for (group, arm), mine in curve.groupby(["group", "arm"]) if several else ():
        at = mine.groupby("order").agg(median_s=("median_s", "median"), people=("person_id", "nunique"))
        at = at[at["people"] >= 2]
        if at.empty:
            continue
        figure.add_scatter(
            x=at.index,
            y=at["median_s"],
            name=f"{group}s, median",
            mode="lines",
            line={"color": colour_of(group, groups), "width": 3.5, "dash": looks[arm][1]},
            legendgroup=group,
            showlegend=not any(trace.legendgroup == group for trace in figure.data),
            hovertemplate=f"patch %{{x}}: %{{y:.1f}} s, median of people<br>{names[arm]}<extra></extra>",
        )
    for arm in known if len(known) > 1 else ():
        symbol, dash = looks[arm]
        mark = {"symbol": symbol, "size": 8, "color": "white", "line": {"color": INK, "width": 1}}
        line = {"color": MUTED, "width": 1.5, "dash": dash}
        figure.add_scatter(x=[None], y=[None], mode="lines+markers", marker=mark, line=line, name=names[arm])
    base(figure, 320)
    last = int(curve["order"].max()) if len(curve) else 1
    title = "a person's patches in the order in which they were opened"
    figure.update_xaxes(title=title, range=[0.5, last + 0.5], dtick=1 if last <= 20 else None)
    _time_axis(figure, curve["median_s"], "median seconds per nucleus")
    return figure


def score_curve(table: pd.DataFrame, x: str, unit: str, metric: str, title: str = "") -> go.Figure:
    """Mean score of runs, with its interval, over what their labels took; a panel for each class.

    table: class_name, line, run, `x`, mean, low, high. The line goes through the mean of the runs of one
    size; the untrained model stands at 0.
    """
    classes = sorted(table["class_name"].unique())
    lines = sorted(table["line"].unique(), key=lambda name: (name == "untrained", name))
    panels = make_subplots(1, max(1, len(classes)), shared_yaxes=True, subplot_titles=[*classes])
    for column, class_name in enumerate(classes, start=1):
        for line in lines:
            mine = table[(table["class_name"] == class_name) & (table["line"] == line)].sort_values(x)
            at = {"row": 1, "col": column, "legendgroup": line}
            colour = colour_of(line, lines)
            middle = mine.groupby(x)["mean"].mean()
            panels.add_scatter(
                x=middle.index,
                y=middle,
                mode="lines",
                line={"color": colour, "width": 2},
                hoverinfo="skip",
                showlegend=False,
                **at,
            )
            known = mine["low"].notna()
            error = {
                "type": "data",
                "symmetric": False,
                "array": (mine["high"] - mine["mean"]).where(known, 0),
                "arrayminus": (mine["mean"] - mine["low"]).where(known, 0),
                "thickness": 1.2,
                "width": 4,
            }
            panels.add_scatter(
                x=mine[x],
                y=mine["mean"],
                error_y=error,
                mode="markers",
                name=line,
                marker={"size": 9, "color": colour, "line": {"color": INK, "width": 1}},
                showlegend=column == 1,
                customdata=mine["note"],
                hovertemplate="%{customdata}<br>%{y:.3f}<extra></extra>",
                **at,
            )
    base(panels, 360, title)
    panels.update_layout(margin={"t": 70 if title else 48}, legend={"y": 1.09})
    most = float(table[x].max()) or 1.0
    panels.update_xaxes(title=unit, range=[-0.04 * most, 1.06 * most])  # room for the whole mark at 0
    panels.update_yaxes(range=[-0.03, 1.03])
    panels.update_yaxes(title=metric, row=1, col=1)
    return panels


# ------------------------------------------------------------------------------ what figures share


def in_order(table: pd.DataFrame, by: str) -> list[str]:
    """The values of `by`: experts' first, then by name."""
    group_of = table.drop_duplicates(by).set_index(by, drop=False)["group"].to_dict()
    return sorted(group_of, key=lambda key: (str(group_of[key]) if by == "person_id" else "", str(key)))


def colour_by(table: pd.DataFrame, by: str, key: str) -> str:
    """People have their group's colour; arms, which are nobody's, colours of their own."""
    if by == "arm":
        return colour_of(key, sorted(table[by].unique()))
    group = key if by == "group" else str(table.loc[table[by] == key, "group"].iloc[0])
    return colour_of(group, sorted(table["group"].unique()))


def dash_of(table: pd.DataFrame, by: str) -> dict[str, str]:
    """People of one group are told apart by their lines' dashes."""
    used: dict[str, int] = {}
    found = {}
    for key in in_order(table, by):
        group = str(table.loc[table[by] == key, "group"].iloc[0]) if by == "person_id" else key
        found[key] = DASHES[used.get(group, 0) % len(DASHES)]
        used[group] = used.get(group, 0) + 1
    return found


def _cutoff_axis(figure: go.Figure, cutoffs_s: Sequence[float], chosen_s: float) -> None:
    ends = [float(np.log10(min(cutoffs_s) / 1.25)), float(np.log10(max(cutoffs_s) * 1.25))]
    ticks = {"tickvals": list(cutoffs_s), "ticktext": [f"{cutoff:g}" for cutoff in cutoffs_s]}
    figure.update_xaxes(title="a gap counts up to, s", type="log", range=ends, **ticks)
    figure.add_vline(x=chosen_s, line={"color": MUTED, "dash": "dot", "width": 1})


def _time_axis(figure: go.Figure, values: pd.Series, unit: str) -> None:
    log = is_skewed(values)
    figure.update_yaxes(title=unit + (", log scale" if log else ""), type="log" if log else "linear")
    if log:
        ticks = log_ticks(values)
        figure.update_yaxes(tickvals=ticks, ticktext=[f"{tick:g}" for tick in ticks], gridcolor=GRID)
    else:
        figure.update_yaxes(rangemode="tozero")


def _folded(name: str) -> str:
    """A long name on two lines."""
    return name.replace(", ", "<br>")


def _faint(colour: str) -> str:
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red}, {green}, {blue}, 0.25)"
