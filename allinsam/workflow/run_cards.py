"""The card of a run: what it learnt from, how, with what, and how well; and the table of all runs."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import fields
from typing import Any

import pandas as pd

from allinsam.inference import RUN_FILE
from allinsam.store import Study, images, runs
from allinsam.store.withdrawals import work_withdrawn
from allinsam.training.methods import METHODS, method_of
from allinsam.training.networks import NETWORKS
from allinsam.training.settings import TrainingSettings
from allinsam.workflow.labels import LabelRecipe, split_sentence
from allinsam.workflow.learning import VERSIONS_FILE
from allinsam.workflow.mocl_doubts import read_doubts
from allinsam.workflow.scored import newest_reference, scores_table

Card = dict[str, Any]
MADE_WITH = "Made with annotations of a person who has withdrawn."
SCORED_WITH = "Scored against annotations of a person who has withdrawn."
NOT_KNOWN = "not there yet"


def run_card(study: Study, run_id: int, scores: pd.DataFrame | None = None) -> Card:
    """Everything a reader has to know about a trained run, as plain data.

    scores: `scored.scores_table`, where it is at hand.
    """
    with study.science.read() as db:
        run = runs.get_run(db, run_id)
        people = sorted(runs.label_set_people(db, run["label_set_id"])) if run["label_set_id"] else []
        label_set = runs.get_label_set(db, run["label_set_id"]) if run["label_set_id"] else None
        labelled = runs.label_set_patches(db, run["label_set_id"]) if label_set else set()
        parts = runs.split_parts(db, run["split_id"])
        names = {patch["id"]: patch["name"] for patch in images.list_patches(db)}
        epochs = runs.run_epochs(db, run_id)
        withdrawn = work_withdrawn(db)
    recipe = LabelRecipe.from_dict(label_set["recipe"]) if label_set else None
    best = best_epoch(study, run_id, epochs)
    network = run["settings"].get("network", "adapter")
    doubts = read_doubts(study, run_id)
    return {
        "run": run_id,
        "name": run["name"],
        "method": method_title(run["settings"], recipe),
        "state": run["state"],
        "labels": {
            "title": recipe.title if recipe else "none",
            "label_set": run["label_set_id"],
            "sha256": label_set["sha256"] if label_set else None,
            "people": people,
            "patches": {
                part: sorted(names[p] for p in labelled if parts.get(p) == part) for part in ("train", "val")
            },
        },
        "split": split_sentence(study, run["split_id"]),
        "settings": changed_settings(run["settings"]),
        "settings_version": run["settings_version"],
        "seed": run["settings"].get("seed"),
        "backbone": {"name": run["backbone"], "sha256": run["backbone_sha256"]}
        if NETWORKS[network].needs_backbone
        else None,
        "weights_sha256": run["weights_sha256"],
        "best": best,
        "validation": (best or {}).get("scores") or None,
        "test": scores_on_test(study, run_id, scores),
        "seconds": round(epochs[-1]["seconds"], 1) if epochs else None,
        "nuclei_mocl_doubts": len(doubts["doubts"]) if doubts else None,
        "versions": _json_file(study, run_id, VERSIONS_FILE),
        "withdrawn": withdrawn_words(withdrawn, run_id),
        "created_at": run["created_at"],
        "finished_at": run["finished_at"],
    }


def withdrawn_words(withdrawn: Mapping[str, Mapping[int, str]], run_id: int) -> str | None:
    """That a person behind this run has withdrawn, of `work_withdrawn`; None where nobody has."""
    for name, words in (("runs", MADE_WITH), ("scored_runs", SCORED_WITH)):
        if at := withdrawn[name].get(run_id):
            left = " People and patches named here are those that are left." if name == "runs" else ""
            return f"{words} Recorded {at[:10]}.{left}"
    return None


def withdrawn_sentence(study: Study, run_ids: Iterable[int]) -> str:
    """Which of these runs people are behind who have withdrawn; empty where none."""
    with study.science.read() as db:
        withdrawn = work_withdrawn(db)
    told = []
    for name, words in (("runs", MADE_WITH), ("scored_runs", SCORED_WITH)):
        found = [str(run_id) for run_id in sorted({int(one) for one in run_ids}) if run_id in withdrawn[name]]
        if found:
            told.append(f"{'Run' if len(found) == 1 else 'Runs'} {', '.join(found)}: {words.lower()}")
    return " ".join(told)


def method_title(settings: Mapping[str, Any], recipe: LabelRecipe | None) -> str:
    """What a run's method is called: a row of METHODS, else its network."""
    method = method_of(settings, recipe.masks if recipe else "edited")
    if method is not None:
        return METHODS[method].title
    network = NETWORKS[settings.get("network", "adapter")].title
    return f"{network}, {'with' if settings.get('mocl') else 'without'} MOCL"


def changed_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """What differs from the defaults now, the seed apart; of a run of an older version also what it did not
    know yet, or what there is no more."""
    left_out = ("settings_version", "seed")
    usual = {known.name: known.default for known in fields(TrainingSettings) if known.name not in left_out}
    now = {name: settings.get(name, NOT_KNOWN) for name in usual}
    changed = {name: value for name, value in now.items() if value != usual[name]}
    return changed | {name: settings[name] for name in settings if name not in {*usual, *left_out}}


def best_epoch(study: Study, run_id: int, epochs: list[dict[str, Any]] | None = None) -> Card | None:
    """Stage, epoch within it, validation Dice and scores of the weights that were kept; None before.

    Without validation patches the Dice is None and the loss decided.
    """
    kept = _json_file(study, run_id, RUN_FILE)
    if kept:
        best = kept["best"]
        return {key: best.get(key) for key in ("stage", "epoch", "val", "loss", "scores")}
    if epochs is None:
        with study.science.read() as db:
            epochs = runs.run_epochs(db, run_id)
    scored = [row for row in epochs if row.get("val") is not None]
    if not scored:
        return None
    best = max(scored, key=lambda row: row["val"])
    before = sum(row["stage"] != best["stage"] for row in epochs if row["epoch"] < best["epoch"])
    return {"epoch": best["epoch"] - before} | {
        key: best.get(key) for key in ("stage", "val", "loss", "scores")
    }


def scores_on_test(study: Study, run_id: int, scores: pd.DataFrame | None = None) -> Card | None:
    """Means over the test patches: class -> metric -> value, with their number, and against whom."""
    table = scores_table(study) if scores is None else scores
    if table.empty:
        return None
    mine = newest_reference(table[(table["kind"] == "model") & (table["run_id"] == run_id)])
    if mine.empty:
        return None
    by_class = {
        name: {metric: round(float(rows["value"].mean()), 4) for metric, rows in of_class.groupby("metric")}
        | {"patches": int(of_class["patch"].nunique())}
        for name, of_class in mine.groupby("class_name")
    }
    return {"against": str(mine["reference"].iloc[0]), "by_class": by_class}


def runs_table(study: Study, scores: pd.DataFrame) -> pd.DataFrame:
    """Every trained run, the newest first: method, labels, seed, best validation Dice, test F1 per class.

    scores: `scored.scores_table`.
    """
    with study.science.read() as db:
        trained = [r for r in runs.list_runs(db) if r["state"] == "finished" and r["kind"] != "untrained"]
        withdrawn = work_withdrawn(db)
    rows = []
    for run in reversed(trained):
        recipe = LabelRecipe.from_dict(run["recipe"]) if run["recipe"] else None
        best, tested = best_epoch(study, run["id"]), scores_on_test(study, run["id"], scores)
        rows.append(
            {
                "Run": run["id"],
                "Method": method_title(run["settings"], recipe),
                "Labels": (recipe.title if recipe else "none")
                + (" (of a person who has withdrawn)" if run["id"] in withdrawn["runs"] else ""),
                "Seed": run["settings"].get("seed"),
                "Validation Dice": best["val"] if best else None,
                **{
                    f"Test F1, {name}": of_class.get("f1_instance")
                    for name, of_class in (tested["by_class"] if tested else {}).items()
                },
                "Finished": (run["finished_at"] or "")[:16].replace("T", " "),
            }
        )
    table = pd.DataFrame(rows)
    return table[[name for name in table if name != "Finished"] + ["Finished"]] if rows else table


def card_markdown(card: Card) -> str:
    """The card for people to read."""
    labels, best, test = card["labels"], card["best"], card["test"]
    parts = labels["patches"]
    lines = [
        f"# Run {card['run']}: {card['name']}",
        "",
        f"- Method: {card['method']}, seed {card['seed']}",
        f"- Labels: {labels['title']}, label set {labels['label_set']}, sha256 `{labels['sha256']}`",
        f"- People: {', '.join(labels['people']) or 'nobody'}",
        f"- Patches: {len(parts['train'])} to learn from, {len(parts['val'])} to validate on",
        f"- {card['split']}",
        f"- Settings that differ from the default: {_settings_words(card['settings'])}",
    ]
    backbone = card["backbone"]
    lines.append(
        f"- Backbone: {backbone['name']}, sha256 `{backbone['sha256']}`" if backbone else "- Backbone: none"
    )
    lines.append(f"- Trained weights: sha256 `{card['weights_sha256']}`")
    if best:
        lines.append(f"- Best epoch: {best['epoch']} of the {best['stage']} stage")
    if card["validation"]:
        lines.append(f"- Validation: {_scores_words(card['validation'])}")
    if card["seconds"] is not None:
        lines.append(f"- Training: {card['seconds']:.0f} s")
    if card["nuclei_mocl_doubts"] is not None:
        lines.append(f"- Nuclei MOCL doubts: {card['nuclei_mocl_doubts']}")
    lines.append(f"- Finished: {card['finished_at']}")
    if card["withdrawn"]:
        lines.append(f"- {card['withdrawn']}")
    known = card["versions"] or {}
    versions = ", ".join(f"{name} {number}" for name, number in known.items())
    lines.append(f"- Versions: {versions or 'not kept'}")
    if test is None:
        return "\n".join([*lines, "", "Not scored on the test patches yet.", ""])
    lines += ["", f"Test patches, from PAS alone, against {test['against']}:", ""]
    metrics = sorted({metric for row in test["by_class"].values() for metric in row})
    lines += [f"| class | {' | '.join(metrics)} |", "|---" * (len(metrics) + 1) + "|"]
    for name, row in test["by_class"].items():
        lines.append(f"| {name} | {' | '.join(str(row.get(metric, '')) for metric in metrics)} |")
    return "\n".join([*lines, ""])


def _settings_words(settings: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} = {value}" for name, value in settings.items()) or "none"


def _scores_words(scores: Mapping[str, Any]) -> str:
    flat = {name: value for name, value in scores.items() if isinstance(value, int | float)}
    return ", ".join(f"{name} {value:.3f}" for name, value in flat.items())


def _json_file(study: Study, run_id: int, name: str) -> Card | None:
    path = study.run_folder(run_id) / name
    return json.loads(path.read_text("utf-8")) if path.exists() else None
