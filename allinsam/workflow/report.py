"""The report of a study: one HTML page that needs no other file, with every figure, its n and its definition.

It is written from the table of figures and the data card alone, so that no number stands here that is not in
figures.csv.
"""

import html
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from allinsam.files import write_file
from allinsam.metrics import METRIC_TITLES
from allinsam.store import Study, assignments, runs
from allinsam.store import acts as act_store
from allinsam.tables import to_csv
from allinsam.workflow import first_masks, overlapping
from allinsam.workflow.analysis_plan import Margin, margin_sentence
from allinsam.workflow.data_card import Card, data_card, methods_paragraph
from allinsam.workflow.figures import Report, figures_table
from allinsam.workflow.figures.kinds import KINDS
from allinsam.workflow.figures.sources import ordered
from allinsam.workflow.report_charts import interval_line, score_lines
from allinsam.workflow.report_layout import CHAPTERS, Chapter, Table

STYLE = (Path(__file__).parent / "report.css").read_text("utf-8")
MOST_LINES = 60  # of a table; the rest is in figures.csv
MAIN_METRIC = "f1_instance"
CONDITIONS = {"injured": 0, "normal": 1, "unknown": 2, "all": 3}
FIGURES_FILE = "figures.csv"
SIMULATED = "Simulated tissue and people: no evidence for real tissue."
DIGITS = {
    "share": "{:.0%}",
    "seconds": "{:.1f}",
    "minutes": "{:.1f}",
    "hours": "{:.1f}",
    "ratio": "{:.2f}",
    "nuclei": "{:,.0f}",
    "patches": "{:,.0f}",
    "days from today": "{:.0f}",
    "difference": "{:+.3f}",
    "-1 to 1": "{:.2f}",
    "p": "{:.4f}",
}


@dataclass(frozen=True)
class Kept:
    """A report in the study's folder of exports, with figures.csv beside it."""

    page: Path
    written_at: str  # UTC
    n_figures: int
    is_current: bool  # nothing that it tells has changed since

    @property
    def figures(self) -> Path:
        return self.page.with_name(FIGURES_FILE)


def make_report(
    study: Study,
    out: Path | None = None,
    report: Report = lambda done, total, message: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> dict[str, Any]:
    """Write the page, and figures.csv beside it; where they are and how many figures they have.

    out: the study's exports/report.html by default, which the Export page then offers.
    """
    out = out or _kept_page(study)
    state = _state(study)
    overlapping.count_study(study, lambda done, total, text: report(done / 2, total, text), should_stop)
    if should_stop():
        return {"files": [], "figures": 0}
    figures = figures_table(study, None, lambda done, total, text: report(total + done, 2 * total, text))
    card = data_card(study)
    files = {out: report_html(card, figures).encode(), out.with_name(FIGURES_FILE): to_csv(figures)}
    for path, content in files.items():
        write_file(path, content)
    if out == _kept_page(study):
        told = {"state": state, "written_at": card["written_at"], "figures": len(figures)}
        write_file(out.with_suffix(".json"), json.dumps(told).encode())
    report(1, 1, f"{len(figures):,} figures")
    return {"files": [str(path) for path in files], "figures": len(figures)}


def kept_report(study: Study) -> Kept | None:
    """The newest report in the study's folder of exports; None where there is none that can be read."""
    page = _kept_page(study)
    try:
        told = json.loads(page.with_suffix(".json").read_text("utf-8"))
        kept = Kept(page, told["written_at"], int(told["figures"]), told["state"] == _state(study))
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return kept if page.exists() and kept.figures.exists() else None


def _kept_page(study: Study) -> Path:
    return study.folder / "exports" / "report.html"


def _state(study: Study) -> list[int]:
    """Numbers that differ whenever something that the report tells has changed."""
    with study.science.read() as db:
        found = [*act_store.last_change(db), *runs.last_score(db), *assignments.last_assignment(db)]
    return [*found, *first_masks.state_of(study)]


def report_html(card: Card, figures: pd.DataFrame) -> str:
    about = card["study"]
    chapters = [_chapter(number, one, figures, card) for number, one in enumerate(CHAPTERS, start=2)]
    contents = ["Methods", *(one.title for one in CHAPTERS), "What the study holds"]
    links = "".join(
        f'<li><a href="#c{number}">{html.escape(title)}</a></li>'
        for number, title in enumerate(contents, start=1)
    )
    version = card["versions"].get("allinsam", "")
    told = f"Written {card['written_at'][:16].replace('T', ' ')} UTC by allinsam {version}".strip()
    warning = f'<p class="warning">{SIMULATED}</p>' if about["simulated"] else ""
    return f"""<!doctype html><html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{html.escape(about["name"])}: report</title><style>{STYLE}</style></head><body>
<header><h1>{html.escape(about["name"])}</h1><p class="told">{html.escape(told)}. People are pseudonyms. Every
figure of this page is a row of figures.csv.</p>{warning}</header>
<nav><ol>{links}</ol></nav>
<section id="c1"><h2>1. Methods</h2><p>{html.escape(methods_paragraph(card))}</p></section>
{"".join(chapters)}
<section id="c{len(contents)}" class="card"><h2>{len(contents)}. What the study holds</h2>
{_nested({name: facts for name, facts in card.items() if name != "study"})}</section></body></html>
"""


def _chapter(number: int, chapter: Chapter, figures: pd.DataFrame, card: Card) -> str:
    parts = [f"<p>{html.escape(chapter.intro)}</p>" if chapter.intro else ""]
    sections = list(dict.fromkeys(table.section for table in chapter.tables))
    mine = figures[figures["section"].isin(sections)]
    for note in mine.loc[mine["figure"] == "not_counted", "note"]:
        parts.append(f'<p class="warning">{html.escape(note[0].upper() + note[1:])}.</p>')
    if chapter.title == "Models":
        parts.append(_paper_table(figures[figures["section"] == "model_scores"]))
    if chapter.title == "Minutes against score":
        parts.append(score_lines(figures[figures["section"] == "runs"], MAIN_METRIC))
    if chapter.title == "Are students as good as experts?":
        margin = Margin(**card["analysis"]["margin"])
        css = "warning" if margin.after_results else "margin"
        parts.append(f'<p class="{css}">{html.escape(margin_sentence(margin))}</p>')
    parts += [_table(table, mine, card) for table in chapter.tables]
    if not len(mine):
        parts.append(
            "<p class='few'>Nothing yet: too little work or too few scores for any of these figures.</p>"
        )
    earlier = [name for one in CHAPTERS[: CHAPTERS.index(chapter)] for name in _shown(one, figures)]
    new = [name for name in _shown(chapter, figures) if name not in earlier]
    return (
        f'<section id="c{number}"><h2>{number}. {html.escape(chapter.title)}</h2>{"".join(parts)}'
        f"{_definitions(new)}</section>"
    )


def _shown(chapter: Chapter, figures: pd.DataFrame) -> list[str]:
    """The figures of a chapter's tables that there are, each once."""
    known = set(zip(figures["section"], figures["figure"], strict=True))
    names = [name for table in chapter.tables for name in table.figures if (table.section, name) in known]
    return list(dict.fromkeys(names))


# ---------------------------------------------------------------- tables


def _table(table: Table, figures: pd.DataFrame, card: Card) -> str:
    mine = figures[(figures["section"] == table.section) & figures["figure"].isin(table.figures)]
    metrics = sorted(set(mine["metric"].dropna()) - {MAIN_METRIC})
    for column, values in table.only.items():
        mine = mine[mine[column].isin(values)]
    if mine.empty:
        return ""
    used = [name for name in table.figures if name in set(mine["figure"])]
    keys = [key for key in table.keys if mine[key].notna().any() and (mine[key] != "").any()]
    lines: dict[tuple, dict[str, dict[str, Any]]] = {}
    for row in mine.to_dict("records"):
        lines.setdefault(tuple(_text(row[key]) for key in keys), {})[row["figure"]] = row
    bare = _same_n(lines)
    scale = _scale(mine[mine["figure"] == table.plot])
    heads = [table.keys[key] for key in keys]
    heads += [KINDS[name].title for name in used] + ([_interval_head(table.plot)] if scale else [])
    heads += [f"n: {bare}"] if bare else []
    counts = [key for key in ("patches", "slides") if mine[key].notna().any()]
    if bare and "patches" in counts and (mine["patches"] == mine["n"]).all():
        counts.remove("patches")
    heads += [key.capitalize() for key in counts]
    body = []
    for place, (key, cells) in enumerate(lines.items()):
        if place == MOST_LINES:
            break
        row = [f'<th scope="row">{html.escape(text)}</th>' for text in key]
        row += [f"<td>{_cell(cells.get(name), not bare)}</td>" for name in used]
        if scale:
            margin = card["analysis"]["margin"]["value"] if table.section == "comparison" else None
            row.append(f"<td>{interval_line(cells.get(table.plot), *scale, margin)}</td>")
        first = next(iter(cells.values()))
        row += [f"<td>{_count(first['n'])}</td>"] if bare else []
        row += [f"<td>{_count(first[key])}</td>" for key in counts]
        body.append(f"<tr>{''.join(row)}</tr>")
    notes = [table.note]
    if len(lines) > MOST_LINES:
        notes.append(f"The first {MOST_LINES} of {len(lines):,} lines; the others are in figures.csv.")
    if metrics:
        notes.append(f"{METRIC_TITLES[MAIN_METRIC]}; in figures.csv also {', '.join(metrics)}.")
    return _framed(table.title, heads, body, " ".join(filter(None, notes)))


def _framed(title: str, heads: Sequence[str], body: Sequence[str], note: str) -> str:
    head = "".join(f'<th scope="col">{html.escape(text)}</th>' for text in heads)
    under = f'<p class="note">{html.escape(note)}</p>' if note else ""
    return (
        f'<h3>{html.escape(title)}</h3><div class="wide"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(body)}</tbody></table></div>{under}"
    )


def _same_n(lines: Mapping[tuple, Mapping[str, Mapping[str, Any]]]) -> str:
    """What n counts, where it is the same for all figures of a line; else ""."""
    counted = {row["n_of"] for cells in lines.values() for row in cells.values()}
    alike = all(len({row["n"] for row in cells.values()}) == 1 for cells in lines.values())
    return counted.pop() if alike and len(counted) == 1 else ""


def _cell(row: Mapping[str, Any] | None, with_n: bool) -> str:
    """A figure with what belongs to it: interval or slides, n, and why there is none."""
    if row is None:
        return ""
    n = f"<small>n = {_count(row['n'])}</small>" if with_n and not pd.isna(row["n"]) else ""
    if pd.isna(row["value"]):
        ends = f"<small>{_span(row)}</small>" if not pd.isna(row["low"]) else ""
        return f'<span class="few">{html.escape(_text(row["note"]))}</span>{ends}{n}'
    return f"{_digits(row, row['value'])}<small>{_uncertain(row)}</small>{n}"


def _uncertain(row: Mapping[str, Any]) -> str:
    if not pd.isna(row["low"]):
        return _span(row)
    told = html.escape(_text(row["note"])) if row["figure"] not in ("as_good", "score_minutes") else ""
    if row["by_slide"]:
        told += ": " + ", ".join(_digits(row, float(point)) for point in row["by_slide"].split())
    return told


def _span(row: Mapping[str, Any]) -> str:
    high = _digits(row, row["high"]) if not pd.isna(row["high"]) else "more"
    return f"{_digits(row, row['low'])} to {high}"


def _digits(row: Mapping[str, Any], value: float) -> str:
    if row["unit"] == "1 or 0":
        return "yes" if value else "not shown"
    if row["unit"] == "p" and value < 0.0001:
        return "&lt;0.0001"
    return DIGITS.get(row["unit"], "{:.3f}").format(value)


def _count(value: float | None) -> str:
    return "" if value is None or pd.isna(value) else f"{value:,.0f}"


def _text(value: Any) -> str:
    if value is None or (isinstance(value, float) and pd.isna(value)):
        return ""
    return f"{value:g}" if isinstance(value, float) else str(value)


def _interval_head(name: str) -> str:
    return f"{KINDS[name].title}, interval"


def _scale(rows: pd.DataFrame) -> tuple[float, float, float | None] | None:
    """Ends of the axis and where a line stands on it; None without anything to draw."""
    if not (rows["low"].notna().any() or (rows["by_slide"] != "").any()):
        return None
    unit = rows["unit"].iloc[0]
    if unit in ("0 to 1", "share"):
        return 0.0, 1.0, None
    slides = [float(point) for text in rows["by_slide"] for point in str(text).split()]
    ends = [*rows[["value", "low", "high"]].stack().dropna(), *slides]
    rest = {"difference": 0.0, "ratio": 1.0}.get(unit)
    ends += [0.0 if rest is None else rest]
    room = 0.05 * (max(ends) - min(ends)) or 1.0
    return min(ends) - room, max(ends) + room, rest


def _paper_table(scores: pd.DataFrame) -> str:
    """The layout of the source paper's Table 1: class x (injured, normal, average), by labels."""
    mine = scores[scores["metric"] == MAIN_METRIC]
    if mine.empty:
        return ""
    places = mine[["class", "condition"]].drop_duplicates().itertuples(index=False, name=None)
    places = sorted(places, key=lambda place: (place[0], CONDITIONS.get(place[1], 2)))
    cells = {(row["a"], row["class"], row["condition"]): row for row in mine.to_dict("records")}
    body = [
        f'<tr><th scope="row">{html.escape(label)}</th>'
        + "".join(f"<td>{_cell(cells.get((label, *place)), False)}</td>" for place in places)
        + "</tr>"
        for label in ordered(set(mine["a"]))
    ]
    patches = [max(row["patches"] for key, row in cells.items() if key[1:] == place) for place in places]
    body.append(
        '<tr class="sum"><th scope="row">patches (weight)</th>'
        + "".join(f"<td>{_count(n)}</td>" for n in patches)
        + "</tr>"
    )
    heads = ["Labels", *(f"{name}, {'average' if where == 'all' else where}" for name, where in places)]
    against = ", ".join(sorted(set(mine["b"])))
    note = (
        f"{METRIC_TITLES[MAIN_METRIC]} against {against}. Average is the mean over all patches, so that "
        "injured and normal weigh by their numbers of patches in the last line."
    )
    return _framed("Injured and normal", heads, body, note)


def _definitions(names: Sequence[str]) -> str:
    if not names:
        return ""
    told = []
    for name in names:
        kind = KINDS[name]
        more = f" n counts {kind.n_of}." if kind.n_of else ""
        more += f" Interval: {kind.interval}." if kind.interval else ""
        told.append(
            f"<dt>{html.escape(kind.title)} <code>{name}</code></dt>"
            f"<dd>{html.escape(kind.definition + more)} <em>{html.escape(kind.unit)}</em></dd>"
        )
    return f"<details open><summary>What these figures mean</summary><dl>{''.join(told)}</dl></details>"


def _nested(facts: Any) -> str:
    """The data card as a list in lists."""
    if isinstance(facts, Mapping):
        items = [
            f"<li><b>{html.escape(str(name).replace('_', ' '))}</b>: {_nested(value)}</li>"
            for name, value in facts.items()
        ]
        return f"<ul>{''.join(items)}</ul>" if items else "none"
    if isinstance(facts, list):
        if not facts:
            return "none"
        return f"<ul>{''.join(f'<li>{_inline(row)}</li>' for row in facts)}</ul>"
    return _inline(facts)


def _inline(value: Any) -> str:
    if isinstance(value, Mapping):
        return (
            "; ".join(f"{html.escape(str(k).replace('_', ' '))} {_inline(v)}" for k, v in value.items())
            or "none"
        )
    if isinstance(value, list):
        return ", ".join(_inline(entry) for entry in value) or "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return html.escape("none" if value in (None, "") else _text(value))
