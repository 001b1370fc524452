"""Small drawings of the report, as SVG in the page: an interval on its axis, and scores over minutes."""

import html
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

WIDTH, HEIGHT, EDGE = 150, 18, 4  # px of an interval
INK, PALE = "#0d6b7a", "#b9cdd1"
LINES = ("#0d6b7a", "#b4552d", "#6a3d9a", "#2e7d32", "#8a6d00", "#4d4d4d")
CHART_W, CHART_H, LEFT, RIGHT, TOP, BOTTOM = 520, 250, 44, 12, 26, 40


def interval_line(
    row: Mapping[str, Any] | None,
    first: float,
    last: float,
    rest: float | None = None,
    margin: float | None = None,
) -> str:
    """The value with its interval, or the slides instead, on an axis from first to last.

    rest: where there is no difference. margin: on both sides of it, dashed.
    """
    if row is None or pd.isna(row["value"]):
        return ""

    def x(value: float) -> float:
        share = (min(max(value, first), last) - first) / (last - first)
        return EDGE + share * (WIDTH - 2 * EDGE)

    middle = HEIGHT / 2
    drawn = [f'<path d="M{EDGE} {middle}H{WIDTH - EDGE}" stroke="{PALE}"/>']
    marks = [] if rest is None else [(rest, "")]
    if rest is not None and margin is not None:
        marks += [(rest - margin, "2 2"), (rest + margin, "2 2")]
    for place, dashes in marks:
        if first <= place <= last:
            dashed = f' stroke-dasharray="{dashes}"' if dashes else ""
            drawn.append(f'<path d="M{x(place):.1f} 1V{HEIGHT - 1}" stroke="#777"{dashed}/>')
    if not pd.isna(row["low"]) and not pd.isna(row["high"]):
        low, high = x(row["low"]), x(row["high"])
        ends = "".join(f"M{end:.1f} {middle - 6}V{middle + 6}" for end in (low, high))
        drawn.append(f'<path d="M{low:.1f} {middle}H{high:.1f}{ends}" stroke="{INK}" stroke-width="1.6"/>')
    for point in str(row["by_slide"] or "").split():
        drawn.append(f'<circle cx="{x(float(point)):.1f}" cy="{middle}" r="2.5" fill="none" stroke="{INK}"/>')
    drawn.append(f'<circle cx="{x(row["value"]):.1f}" cy="{middle}" r="3.2" fill="{INK}"/>')
    told = f"{row['value']:.3f} on an axis from {first:.3g} to {last:.3g}"
    return (
        f'<svg width="{WIDTH}" height="{HEIGHT}" role="img" aria-label="{told}"><title>{told}</title>'
        f"{''.join(drawn)}</svg>"
    )


def score_lines(runs: pd.DataFrame, metric: str) -> str:
    """Mean score over people's minutes: a chart for each class, a line for each kind of labels."""
    if runs.empty:
        return ""
    minutes = runs[runs["figure"] == "score_minutes"].set_index("run_a")["value"]
    scores = runs[(runs["figure"] == "mean_score") & (runs["metric"] == metric)]
    scores = scores.assign(minutes=scores["run_a"].map(minutes), line=scores["setting"]).dropna(
        subset=["minutes"]
    )
    colours = {line: LINES[n % len(LINES)] for n, line in enumerate(sorted(scores["line"].unique()))}
    charts = [_chart(name, part, colours) for name, part in scores.groupby("class")]
    legend = "".join(
        f'<span><svg width="18" height="10"><path d="M0 5H18" stroke="{colour}" stroke-width="3"/></svg> '
        f"{html.escape(line)}</span>"
        for line, colour in colours.items()
    )
    note = "A point is a run, its bar the 95 % interval over slides; a line joins runs on the same labels."
    return (
        f'<div class="charts">{"".join(charts)}</div><p class="legend">{legend}</p><p class="note">{note}</p>'
    )


def _chart(title: str, rows: pd.DataFrame, colours: Mapping[str, str]) -> str:
    most = max(float(rows["minutes"].max()), 1.0)

    def x(value: float) -> float:
        return LEFT + value / most * (CHART_W - LEFT - RIGHT)

    def y(value: float) -> float:
        return CHART_H - BOTTOM - value * (CHART_H - TOP - BOTTOM)

    drawn = [f'<text x="{LEFT}" y="15" class="head">{html.escape(title)}: instance F1</text>']
    for tick in (0, 0.25, 0.5, 0.75, 1):
        drawn.append(f'<path d="M{LEFT} {y(tick):.1f}H{CHART_W - RIGHT}" stroke="#ddd"/>')
        drawn.append(f'<text x="{LEFT - 6}" y="{y(tick) + 4:.1f}" text-anchor="end">{tick:g}</text>')
    for tick in (0, 0.25, 0.5, 0.75, 1):
        drawn.append(_label(x(tick * most), CHART_H - BOTTOM + 16, f"{tick * most:.3g}"))
    drawn.append(_label((LEFT + CHART_W - RIGHT) / 2, CHART_H - 6, "active minutes of people"))
    for line, part in rows.groupby("line"):
        drawn += _line(part.sort_values("minutes").to_dict("records"), colours[str(line)], x, y)
    about = f'viewBox="0 0 {CHART_W} {CHART_H}" role="img" aria-label="{html.escape(title)}"'
    return f"<svg {about}>{''.join(drawn)}</svg>"


def _label(x: float, y: float, text: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="middle">{text}</text>'


def _line(points: Sequence[Mapping[str, Any]], colour: str, x: Any, y: Any) -> list[str]:
    path = " ".join(f"{x(p['minutes']):.1f},{y(p['value']):.1f}" for p in points)
    drawn = [f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.5"/>']
    for point in points:
        place = x(point["minutes"])
        if not pd.isna(point["low"]):
            bar = f"M{place:.1f} {y(point['low']):.1f}V{y(point['high']):.1f}"
            drawn.append(f'<path d="{bar}" stroke="{colour}"/>')
        told = f"run {point['run_a']:.0f}, {point['a']}: {point['value']:.3f} for {point['minutes']:.1f} min"
        drawn.append(
            f'<circle cx="{place:.1f}" cy="{y(point["value"]):.1f}" r="4" fill="{colour}">'
            f"<title>{html.escape(told)}</title></circle>"
        )
    return drawn
