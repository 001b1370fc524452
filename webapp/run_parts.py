"""A run on the Train page: examples getting better, where MOCL trusts the labels, cards side by side."""

import html
from collections.abc import Sequence
from typing import Any

import pandas as pd
import streamlit as st

from allinsam.errors import AllinsamError
from allinsam.store import Study, images, runs
from allinsam.store.study import list_classes
from allinsam.workflow.mocl_doubts import mapped_patches, read_doubts
from allinsam.workflow.run_cards import run_card, runs_table
from allinsam.workflow.run_examples import example_epochs, first_middle_newest
from allinsam.workflow.scored import run_differences
from webapp.page_parts import LINK_STYLE, METRIC_NAMES, as_typed, figure_note, score_state, scores_of

MOST_CARDS = 2
MAP_PICTURES = {
    "pas": "The stain, with the labels",
    "w": "W: how sure the network is",
    "s": "S: how alike the surest nuclei",
}
HEAT_KEY = (
    '<span style="display:inline-block;width:5rem;height:.7rem;border-radius:2px;vertical-align:middle;'
    'background:linear-gradient(90deg,#00224e,#575d6d,#a59c74,#fee838)"></span>'
)


def show_picture(url: str, name: str) -> None:
    """A picture of ours, by its address; a click shows it large."""
    shown = html.escape(name)
    picture = f'<img src="{url}" alt="{shown}" style="width: 100%; border-radius: 4px">'
    st.html(f'<a href="{url}" target="_blank">{picture}</a><div style="font-size: .85rem">{shown}</div>')


# --- Examples -------------------------------------------------------------------------------------


def show_examples(study: Study, run_id: int, key: str, note: bool = True) -> bool:
    """The first, a middle and the newest epoch on a validation patch; whether there is any."""
    kept = example_epochs(study, run_id)
    if not kept:
        return False
    with study.science.read() as db:
        names = {patch["id"]: patch["name"] for patch in images.list_patches(db)}
        classes = list_classes(db)
    chosen = next(iter(kept))
    if len(kept) > 1:
        chosen = st.segmented_control(
            "Validation patch",
            list(kept),
            default=chosen,
            format_func=lambda one: as_typed(names[one]),
            key=key,
            required=True,
        )
    epochs = first_middle_newest(kept[chosen])
    words = ["First kept", "On the way", "Newest"] if len(epochs) == 3 else ["First kept", "Newest"]
    for place, epoch, word in zip(st.columns(3), epochs, words, strict=False):
        with place:
            show_picture(f"/api/runs/{run_id}/examples/{epoch}/{chosen}.png", f"{word}: epoch {epoch}")
    if note:
        colours = ", ".join(f"{html.escape(row['name'])} {colour_chip(row['colour'])}" for row in classes)
        st.html(
            f'<div style="font-size: .85rem">Found by the model: {colours}. Dashed, white: the labels. '
            "Click to enlarge.</div>"
        )
    return True


def colour_chip(colour: str) -> str:
    style = "display:inline-block;width:.7rem;height:.7rem;border-radius:2px;border:1px solid #555"
    return f'<span style="{style};background:{html.escape(colour)}"></span>'


# --- MOCL -----------------------------------------------------------------------------------------


def show_trust(study: Study, run_id: int, key: str) -> None:
    """W and S of a training patch and class beside the stain, and what they mean."""
    kept, told = mapped_patches(study, run_id), read_doubts(study, run_id)
    if not kept:
        st.markdown(
            "This run kept no maps of W and S: it learnt without corrective learning (MOCL), or before such "
            "maps were kept. Scoring it again makes them."
        )
        return
    with study.science.read() as db:
        names = {patch["id"]: patch["name"] for patch in images.list_patches(db)}
        classes = {row["id"]: row["name"] for row in list_classes(db)}
    left, right = st.columns(2)
    patch_id = left.selectbox("Training patch", list(kept), format_func=names.get, key=f"{key}-patch")
    class_id = right.selectbox(
        "Class", kept[patch_id], format_func=classes.get, key=f"{key}-class-{patch_id}"
    )
    for place, (what, title) in zip(st.columns(3), MAP_PICTURES.items(), strict=True):
        with place:
            show_picture(f"/api/runs/{run_id}/trust/{patch_id}/{class_id}/{what}.png", title)
    st.html(f'<div style="font-size: .85rem">0 {HEAT_KEY} 1. White: the labels this run learnt from.</div>')
    st.markdown(
        "Inside a label, a pixel counts more the surer the network is of it (W) and the more it looks like "
        "the nuclei the network is surest of (S). A label that is dark in both is probably wrong, and "
        "teaches little. **Outside the labels the weight is always 1: corrective learning can play down a "
        "nucleus that was marked wrongly, but it cannot bring back one that nobody marked.**"
    )
    if told:
        st.caption(_doubts_words(told))


def _doubts_words(told: dict[str, Any]) -> str:
    share, waits = f"{100 * told['low_share']:.0f} %", len(told["doubts"])
    if not told["low"]:
        return f"None of {told['nuclei']} labelled nuclei weighs less than {share} of what is usual."
    words = [
        f"{told['low']} of {told['nuclei']} labelled nuclei weigh less than {share} of what is usual for "
        "their class."
    ]
    if told["asked_anyway"]:
        words.append(f"Of these {told['asked_anyway']} are in dispute among raters, or decided.")
    if waits:
        words.append(
            f"The {waits} others that it trusts least wait on the page Ten minutes, for somebody to say "
            "who is right."
        )
    return " ".join(words)


# --- Cards ----------------------------------------------------------------------------------------


def show_cards(study: Study, chosen: Sequence[int], scores: pd.DataFrame) -> None:
    """The cards of one or two runs, and what differs between two."""
    if len(chosen) == MOST_CARDS:
        different = run_differences(study, *chosen)
        st.caption(
            f"Beside the labels these differ in: {', '.join(different)}."
            if different
            else "These differ in nothing but their labels."
        )
    for place, run_id in zip(st.columns(max(1, len(chosen))), chosen, strict=False):
        with place, st.container(border=True):
            try:
                _show_card(study, run_card(study, run_id, scores))
            except AllinsamError as error:
                st.error(str(error))


def _show_card(study: Study, card: dict[str, Any]) -> None:
    links = " ".join(
        f'<a class="download" href="/api/runs/{card["run"]}/card.{kind}" download>{word}</a>'
        for kind, word in (("json", "JSON"), ("md", "Markdown"))
    )
    left, right = st.columns([2.2, 1.3], vertical_alignment="center")
    left.markdown(f"**Run {card['run']}: {as_typed(card['name'])}**")
    right.html(f'{LINK_STYLE}<div style="text-align: right">{links}</div>')
    labels, best = card["labels"], card["best"]
    parts, backbone = labels["patches"], card["backbone"]
    settings = ", ".join(f"{name} = {value}" for name, value in card["settings"].items())
    rows = {
        "Method": f"{card['method']}, seed {card['seed']}",
        "Labels": f"{labels['title']}, set {labels['label_set']}, sha256 {(labels['sha256'] or '')[:12]}",
        "People": ", ".join(labels["people"]) or "nobody",
        "Patches": f"{len(parts['train'])} to learn from, {len(parts['val'])} to validate on",
        "Split": card["split"],
        "Other than default": settings or "nothing",
        "Backbone": f"{backbone['name']}, sha256 {backbone['sha256'][:12]}" if backbone else "none",
        "Weights": f"sha256 {(card['weights_sha256'] or 'unknown')[:12]}",
        "Best epoch": f"{best['epoch']} of the {best['stage']} stage" if best else "unknown",
        "Validation": _validation_words(card),
        "Training": f"{card['seconds']:.0f} s" if card["seconds"] is not None else "unknown",
        "Versions": ", ".join(f"{n} {v}" for n, v in (card["versions"] or {}).items()) or "not kept",
    }
    cells = "".join(
        f'<tr><td style="color:#5d7077;white-space:nowrap;vertical-align:top;padding:.1rem .7rem .1rem 0">'
        f'{html.escape(name)}</td><td style="overflow-wrap:anywhere">{html.escape(str(value))}</td></tr>'
        for name, value in rows.items()
    )
    st.html(f'<table style="font-size:.85rem;border-collapse:collapse">{cells}</table>')
    if card["withdrawn"]:
        st.warning(card["withdrawn"])
    if card["test"] is None:
        st.caption("Not scored on the test patches yet.")
        return
    shown = pd.DataFrame(card["test"]["by_class"]).T.rename_axis("Class").reset_index()
    st.dataframe(shown.rename(columns={**METRIC_NAMES, "patches": "Patches"}), hide_index=True)
    figure_note(study, f"Means over the test patches, from PAS alone, against {card['test']['against']}.")


def _validation_words(card: dict[str, Any]) -> str:
    scores = card["validation"] or {}
    found = [f"{name} {scores[key]:.3f}" for key, name in (("dice", "Dice"), ("f1", "F1")) if key in scores]
    if found:
        return ", ".join(found)
    val = (card["best"] or {}).get("val")
    return f"Dice {val:.3f}" if val is not None else "no validation patch"


# --- All of it ------------------------------------------------------------------------------------


def show_runs(study: Study) -> None:
    """The table of all runs, two cards side by side, examples and maps of one run."""
    scores = scores_of(str(study.folder), score_state(study))
    table = runs_table(study, scores)
    if table.empty:
        return
    st.subheader("Finished runs", anchor=False)
    figures = [name for name in table if name.startswith(("Validation", "Test"))]
    st.dataframe(
        table,
        hide_index=True,
        column_config={name: st.column_config.NumberColumn(format="%.3f") for name in figures},
    )
    figure_note(study, "The Dice chose each run's best epoch; only the test F1 is a figure to report.")
    with study.science.read() as db:
        names = {run["id"]: f"run {run['id']}: {run['name']}" for run in runs.list_runs(db)}
    known = table["Run"].tolist()
    cards, examples, trust = st.tabs(["Run cards", "Getting better", "Where MOCL trusts the labels"])
    with cards:
        chosen = st.multiselect(
            "Cards of one run, or two side by side",
            known,
            default=known[:1],
            max_selections=MOST_CARDS,
            format_func=names.get,
            key="cards",
        )
        show_cards(study, chosen, scores)
    with examples:
        run_id = st.selectbox("Examples of", known, format_func=names.get, key="examples-of")
        if not show_examples(study, run_id, f"examples-{run_id}"):
            st.markdown("This run kept no examples: it had no validation patch, or was trained before.")
    with trust:
        run_id = st.selectbox("Maps of", known, format_func=names.get, key="maps-of")
        show_trust(study, run_id, f"maps-{run_id}")
