"""Scores of models and of people's labels, and what may fairly be compared: the Compare page's tables."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd

from allinsam.comparison import (
    FEWEST_SLIDES,
    TOO_FEW_SLIDES,
    cluster_interval,
    cluster_means,
    equivalence_test,
    holm,
    paired_test,
)
from allinsam.errors import InputError, NotFoundError
from allinsam.store import Study, runs
from allinsam.training.networks import NETWORKS
from allinsam.workflow.analysis_plan import margin as margin_of
from allinsam.workflow.annotating import read_patch
from allinsam.workflow.export_columns import COLUMNS
from allinsam.workflow.labels import LabelRecipe, read_labels, split_sentence
from allinsam.workflow.learning import START_SETTINGS, read_prediction

SCORE_COLUMNS = list(COLUMNS["scores"])
MEAN_COLUMNS = ["mean", "low", "high", "by_slide", "patches", "slides", "nuclei"]
KIND_ID = {"model": "run_id", "people": "label_set_id"}
USUAL_NETWORK = "adapter"


def network_of(run: Mapping[str, Any]) -> str:
    """The key of NETWORKS that a run has trained; runs made before there were several name none."""
    return run["settings"].get("network", USUAL_NETWORK)


def scores_table(study: Study) -> pd.DataFrame:
    """Tidy scores: one row per scored thing, patch, class and metric.

    `kind` is "model" (a run, from PAS alone) or "people" (labels as drawn); `label` says whose labels, and of
    another network than the adapter which.
    `n` is the number of nuclei in the reference. Scored against several references, a thing has rows
    for each.
    """
    with study.science.read() as db:
        stored = runs.list_scores(db)
        known = runs.list_runs(db)
    recipes, networks = (
        {run["id"]: run["recipe"] for run in known},
        {run["id"]: network_of(run) for run in known},
    )
    rows = []
    for row in stored:
        recipe = recipes[row["run_id"]] if row["run_id"] else json.loads(row["label_recipe"])
        label = LabelRecipe.from_dict(recipe).title if recipe else "untrained"
        network = networks.get(row["run_id"], USUAL_NETWORK)
        label += "" if network == USUAL_NETWORK else f", {NETWORKS[network].title}"
        named = {
            "kind": "model" if row["run_id"] else "people",
            "label": label,
            "run": row["run"] or label,
            "reference": LabelRecipe.from_dict(json.loads(row["reference_recipe"])).title,
        }
        rows.append({**row, **named})
    return pd.DataFrame(rows, columns=SCORE_COLUMNS)


def newest_reference(scores: pd.DataFrame) -> pd.DataFrame:
    """Of a thing scored against several references only its newest scores: a patch counts once."""
    keys = ["kind", "run_id", "label_set_id"]
    newest = scores.groupby(keys, dropna=False)["reference_id"].transform("max")
    return scores[scores["reference_id"] == newest]


def newest_scores(scores: pd.DataFrame, kind: str = "model") -> pd.DataFrame:
    """Of several runs on the same kind of labels only the newest one's scores."""
    chosen = newest_reference(scores[scores["kind"] == kind])
    newest = chosen.groupby("label")[KIND_ID[kind]].transform("max")
    return chosen[chosen[KIND_ID[kind]] == newest]


def scored_models(scores: pd.DataFrame) -> list[dict[str, Any]]:
    """What can be compared, newest first: run_id, label, title and the title of the reference.

    A run is called by its name, which usually is its labels'; of one name the older ones by their number too.
    """
    models = newest_reference(scores[scores["kind"] == "model"])
    columns = ["run_id", "label", "run", "reference"]
    rows = models[columns].drop_duplicates().sort_values("run_id", ascending=False).to_dict("records")
    seen: set[str] = set()
    for row in rows:
        row["run_id"] = int(row["run_id"])
        name = row.pop("run")
        row["title"] = f"{name} (run {row['run_id']})" if name in seen else name
        seen.add(name)
    return rows


def newest_experiment(study: Study, scores: pd.DataFrame) -> pd.DataFrame:
    """The scores of the newest runs that may fairly stand side by side: one per label, the same split,
    settings and reference, and the untrained model of that split. Runs of the adapter come first, and runs on
    all labels: those on some of them belong to a curve."""
    models = newest_reference(scores[scores["kind"] == "model"])
    with study.science.read() as db:
        known = [run for run in runs.list_runs(db) if run["id"] in set(models["run_id"])]
    trained = [run for run in known if run["kind"] != "untrained"]
    trained = [run for run in trained if network_of(run) == USUAL_NETWORK] or trained
    trained = [run for run in trained if not LabelRecipe.from_dict(run["recipe"]).is_limited] or trained
    groups: list[list[dict[str, Any]]] = []
    for run in reversed(trained):
        same = next((g for g in groups if not differences(g[0], run)), None)
        groups.append([run]) if same is None else same.append(run)
    # The newest group with two kinds of labels; while its second run is not scored yet, the one before.
    label_of = models.drop_duplicates("run_id").set_index("run_id")["label"]
    titled = [{label_of[run["id"]]: run for run in reversed(group)} for group in groups]
    chosen = next((g for g in titled if len(g) > 1), titled[0] if titled else {})
    run_ids = {run["id"] for run in chosen.values()}
    run_ids |= {run["id"] for run in _baseline_of(list(chosen.values()), known)}
    shown = models[models["run_id"].isin(run_ids)]
    return shown[shown["reference_id"] == shown["reference_id"].max()]


def _baseline_of(
    chosen: Sequence[Mapping[str, Any]], known: Sequence[Mapping[str, Any]]
) -> Sequence[Mapping[str, Any]]:
    """The untrained model that these runs of one split began as; else the split's newest; none if there is
    none."""
    untrained = [run for run in known if run["kind"] == "untrained"]
    if not chosen:
        return untrained[-1:]
    of_split = [run for run in untrained if run["split_id"] == chosen[0]["split_id"]]
    start = [chosen[0]["settings"].get(name) for name in START_SETTINGS]
    alike = [run for run in of_split if [run["settings"].get(name) for name in START_SETTINGS] == start]
    return (alike or of_split)[-1:]


def split_sentences(study: Study, run_ids: Sequence[int]) -> str:
    """The split behind these runs' scores, in words; of runs on several splits each of them."""
    with study.science.read() as db:
        of_run = {run["id"]: run["split_id"] for run in runs.list_runs(db)}
    splits = sorted({of_run[int(run_id)] for run_id in run_ids} - {None})
    return " ".join(split_sentence(study, split_id) for split_id in splits)


def run_differences(study: Study, a: int, b: int) -> list[str]:
    """What else than the labels differs between two trained runs; nothing for the untrained model."""
    with study.science.read() as db:
        pair = [runs.get_run(db, run_id) for run_id in (a, b)]
    return [] if any(run["kind"] == "untrained" for run in pair) else differences(*pair)


def differences(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[str]:
    names = sorted(a["settings"].keys() | b["settings"].keys())
    found = [name for name in names if a["settings"].get(name) != b["settings"].get(name)]
    return found + (["split"] if a["split_id"] != b["split_id"] else [])


def means(scores: pd.DataFrame, by: Sequence[str]) -> pd.DataFrame:
    """Mean over patches with its 95 % interval over slides, and the patches, slides and nuclei behind it.

    Of too few slides `low` and `high` are NaN and `by_slide` has the mean of each; else it is empty.
    """
    rows = []
    for keys, group in scores.groupby(list(by), dropna=False, sort=True):
        values, slides = group["value"].to_numpy(dtype=float), group["slide"].to_numpy()
        low, high = cluster_interval(values, slides, bounds=(0, 1))
        figures = {
            "mean": group["value"].mean(),
            "low": low,
            "high": high,
            "by_slide": cluster_means(values, slides) if np.isnan(low) else [],
            "patches": group["patch"].nunique(),
            "slides": group["slide"].nunique(),
            "nuclei": int(group["n"].sum()),
        }
        rows.append({**dict(zip(by, keys, strict=True)), **figures})
    return pd.DataFrame(rows, columns=[*by, *MEAN_COLUMNS])


def mean_scores(study: Study) -> pd.DataFrame:
    """Mean over test patches per run, class and metric, with its n and 95 % interval over slides."""
    keys = ["kind", "label", "run_id", "label_set_id", "reference", "class_name", "metric"]
    return means(newest_reference(scores_table(study)), keys)


def paper_table(scores: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Means laid out as the source paper's Table 1: class x (injured, normal, average) across.

    One row per label; the last row, "patches", has the number of patches each mean is over. The average
    is the mean over patches, so these numbers are its weights.
    """
    chosen = scores[scores["metric"] == metric]
    pooled = pd.concat([chosen, chosen.assign(condition="average")])
    order = {"injured": 0, "normal": 1, "unknown": 2, "average": 3}
    keys = [["class_name", "condition"], ["label"]]
    table = pooled.pivot_table(index=keys[1], columns=keys[0], values="value", aggfunc="mean")
    counts = pooled.groupby(keys[0])["patch"].nunique().rename("patches")
    table = pd.concat([table, counts.to_frame().T])
    columns = sorted(table.columns, key=lambda pair: (pair[0], order[pair[1]]))
    return table[columns] if columns else pd.DataFrame()


def compare(study: Study, a: str, b: str, metric: str = "f1_instance", kind: str = "model") -> pd.DataFrame:
    """Paired test of a against b over the test patches, per class and condition ("all" first).

    `a` and `b` are labels of `scores_table` (expert, students, untrained, ...) or run ids. `p_holm` is
    corrected over the rows of this table, and so is `p_equivalence_holm`, of two one-sided tests against the
    study's margin; `margin_set_at` and `after_results` say whether that margin was chosen before there were
    scores. `low` and `high` are the 90 % interval, over slides, of the mean difference. Of too few slides
    there is none: `note` says so, `by_slide` has the mean difference of each, and whether a is as good as b
    is not known (`equivalent` None), for patches of one slide are not independent.
    """
    margin = margin_of(study)
    first, second = paired_scores(scores_table(study), a, b, metric, kind)
    slide_of = first.drop_duplicates("patch").set_index("patch")["slide"]
    rows = []
    for name in sorted(set(first["class_name"]) & set(second["class_name"])):
        for condition in ["all", *sorted(set(first["condition"]))]:
            x, y = (_by_patch(table, name, condition) for table in (first, second))
            if x.empty or y.empty:
                continue
            same = equivalence_test(x, y, margin.value, slide_of)
            difference = (x - y).dropna()
            slides = slide_of.loc[difference.index]
            few = slides.nunique() < FEWEST_SLIDES
            rows.append(
                {
                    "class_name": name,
                    "condition": condition,
                    "slides": slides.nunique(),
                    "mean_a": x.mean(),
                    "mean_b": y.mean(),
                    **asdict(paired_test(x, y)),
                    "low": same.low,
                    "high": same.high,
                    "by_slide": cluster_means(difference, slides) if few else [],
                    "margin": margin.value,
                    "margin_set_at": margin.set_at,
                    "after_results": margin.after_results,
                    "p_equivalence": same.p_value,
                    "note": TOO_FEW_SLIDES if few else "",
                }
            )
    table = pd.DataFrame(rows)
    if not table.empty:
        table["p_holm"] = holm(table["p_value"].tolist())
        table["p_equivalence_holm"] = holm(table["p_equivalence"].tolist())
        table["equivalent"] = pd.Series(
            [
                None if note or np.isnan(p) else bool(p < 0.05)
                for note, p in zip(table["note"], table["p_equivalence_holm"], strict=True)
            ],
            dtype=object,
        )
    return table


def paired_scores(
    scores: pd.DataFrame, a: str, b: str, metric: str, kind: str = "model"
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The scores of a and of b on the patches and classes that both were scored on, against one reference."""
    scores = scores[scores["metric"] == metric]
    first, second = _scored_as(scores, a, kind), _scored_as(scores, b, kind)
    shared = set(first["reference_id"]) & set(second["reference_id"])
    if not shared:
        raise InputError(
            f"{a!r} and {b!r} were scored against different references. Evaluate both again, then compare."
        )
    pair = [table[table["reference_id"] == max(shared)] for table in (first, second)]
    keys = ["patch", "class_name"]
    both = pd.merge(pair[0][keys], pair[1][keys], on=keys)
    return pair[0].merge(both, on=keys), pair[1].merge(both, on=keys)


def _scored_as(scores: pd.DataFrame, wanted: str, kind: str) -> pd.DataFrame:
    """All scores of a run id, or of the newest run on labels of this title."""
    mine = scores[scores["kind"] == kind]
    if str(wanted).isdigit():
        found = mine[mine[KIND_ID[kind]] == int(wanted)]
    else:
        named = mine[mine["label"] == wanted]
        found = named[named[KIND_ID[kind]] == named[KIND_ID[kind]].max()]
    if found.empty:
        raise InputError(
            f"No scores for {wanted!r}. Choose from {sorted(set(mine['label']))} or a run's id, "
            "or evaluate it first."
        )
    return found


def _by_patch(scores: pd.DataFrame, class_name: str, condition: str) -> pd.Series:
    mine = scores[scores["class_name"] == class_name]
    if condition != "all":
        mine = mine[mine["condition"] == condition]
    return mine.set_index("patch")["value"]


def worst_patches(
    scores: pd.DataFrame, run_id: int, class_name: str, metric: str, count: int = 4
) -> list[dict[str, Any]]:
    """The test patches a run did worst on, those with more nuclei first among equals."""
    mine = newest_reference(scores)
    mine = mine[(mine["run_id"] == run_id) & (mine["class_name"] == class_name) & (mine["metric"] == metric)]
    worst = mine.sort_values(["value", "n"], ascending=[True, False]).head(count)
    return worst[["patch_id", "patch", "slide", "condition", "reference_id", "value", "n"]].to_dict("records")


@dataclass(frozen=True)
class ScoredPatch:
    """What a run found on a test patch, and the reference it was scored against."""

    image_rgb: np.ndarray
    found: np.ndarray
    reference: np.ndarray


def scored_patch(study: Study, run_id: int, patch_id: int, class_name: str) -> ScoredPatch:
    """The picture and both label images behind a run's newest score on a patch.

    Raises:
        NotFoundError: the run was not scored for this class there.
    """
    with study.science.read() as db:
        references = [
            row["reference_id"]
            for row in runs.list_scores(db)
            if (row["run_id"], row["patch_id"], row["class_name"]) == (run_id, patch_id, class_name)
        ]
    if not references:
        raise NotFoundError(f"Run {run_id} has no score for {class_name!r} on patch {patch_id}.")
    return ScoredPatch(
        read_patch(study, patch_id),
        read_prediction(study, run_id, patch_id, class_name),
        read_labels(study, max(references))[patch_id][class_name],
    )
