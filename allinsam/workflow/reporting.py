"""Tables behind the agreement, comparison and export pages."""

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from allinsam.agreement import class_agreement, pairwise_agreement, summarise
from allinsam.comparison import cluster_bootstrap, equivalence_test, holm, paired_test
from allinsam.errors import InputError, NotFoundError
from allinsam.files import write_file
from allinsam.masks import decode_rle, instances_to_labels, rle_area
from allinsam.records import LEARNING_PURPOSES, UNPROMPTED_GUIDANCES, Mask
from allinsam.store import Study, images, learning, runs, settled
from allinsam.store import acts as act_store
from allinsam.store import assignments as queue
from allinsam.store import study as study_store
from allinsam.tables import to_csv
from allinsam.timing import active_seconds, model_wait_seconds, seconds_per_object
from allinsam.training.networks import NETWORKS
from allinsam.workflow.agreed import consensus_table, reliability_table
from allinsam.workflow.annotating import read_patch
from allinsam.workflow.export_columns import COLUMNS
from allinsam.workflow.labels import LabelRecipe, read_labels, split_sentence
from allinsam.workflow.learning import START_SETTINGS, read_prediction
from allinsam.workflow.reviewed import decisions_table, reviews_table
from allinsam.workflow.suggesting import automation_bias_table, suggestions_table
from allinsam.workflow.taught import learning_table

PEOPLES_PURPOSES = ("production",)

# ---------------------------------------------------------------------------------------- agreement


def ratings(study: Study) -> dict[str, dict[str, dict[str, np.ndarray]]]:
    """patch -> person -> class -> label image of finished production work; the truth is nobody's rating.

    Work that began from suggestions is left out: people who were shown the same outlines agree by them.
    """
    with study.science.read() as db:
        claims = [
            row
            for row in queue.finished_classes(db)
            if row["purpose"] in PEOPLES_PURPOSES
            and row["guidance"] in UNPROMPTED_GUIDANCES
            and row["group"] != "truth"
        ]
        objects = act_store.current_annotations(db)
        patches = {patch["id"]: patch for patch in images.list_patches(db)}
    masks: dict[tuple[int, int], list[np.ndarray]] = {}
    wanted = {(claim["assignment_id"], claim["class_id"]) for claim in claims}
    for row in objects:
        key = (row["assignment_id"], row["class_id"])
        if key in wanted:
            masks.setdefault(key, []).append(decode_rle(Mask.from_row(row).as_rle()))
    found: dict[str, dict[str, dict[str, np.ndarray]]] = {}
    for claim in claims:
        patch = patches[claim["patch_id"]]
        mine = masks.get((claim["assignment_id"], claim["class_id"]), [])
        size_hw = (patch["height_px"], patch["width_px"])
        labels = instances_to_labels(mine, np.ones(len(mine))) if mine else np.zeros(size_hw, np.int32)
        found.setdefault(patch["name"], {}).setdefault(claim["person_id"], {})[claim["class_name"]] = labels
    return found


def slide_of_patch(study: Study) -> dict[str, str]:
    with study.science.read() as db:
        return {patch["name"]: patch["slide"] for patch in images.list_patches(db)}


def agreement_tables(study: Study) -> dict[str, pd.DataFrame]:
    """pairwise (a row per patch, class and pair), classes (kappa and AC1 per pair), times (per person)."""
    rated = ratings(study)
    return {
        "pairwise": pairwise_agreement(rated),
        "classes": class_agreement(rated),
        "times": times_by_person(study),
    }


def agreement_by_groups(study: Study, pairwise: pd.DataFrame) -> pd.DataFrame:
    """`pairwise` summarised per class and kind of pair ("student + student", "expert + student"), with
    the 95 % interval of F1 over slides."""
    with study.science.read() as db:
        group_of = {person["id"]: person["group"] for person in study_store.list_people(db)}
    sides = [pairwise[column].map(group_of) for column in ("rater_a", "rater_b")]
    kinds = [" + ".join(sorted(pair)) for pair in zip(*sides, strict=True)]
    return summarise(pairwise.assign(pair=kinds), ["class", "pair"], slide_of_patch(study))


# --------------------------------------------------------------------------------------------- time

TIME_COLUMNS = list(COLUMNS["times"])
OBJECT_TIME_COLUMNS = ["person_id", "group", "patch", "purpose", "object_id", "seconds"]


def work_times(
    study: Study, person_id: str | None = None, idle_cutoff_s: float | None = None
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Time of every assignment that people (not the truth) have worked on, and of every object they touched.

    The first table has active seconds, model wait and objects kept; the second active seconds of each
    object, deleted ones included. `idle_cutoff_s`: the study's plan by default.
    """
    with study.science.read() as db:
        cutoff = idle_cutoff_s or float(study_store.get_study(db)["plan"]["idle_cutoff_s"])
        assignments = [a for a in queue.list_assignments(db, person_id) if a["group"] != "truth"]
        # What came as a file or from a model took nobody's time.
        acts = {
            a["id"]: [
                vars(act)
                for act in act_store.list_acts(db, a["id"])
                if act.surface not in act_store.NOBODYS_SURFACES
            ]
            for a in assignments
        }
        kept: Counter[int] = Counter()
        for (assignment_id, _), count in act_store.object_counts(db).items():
            kept[assignment_id] += count
    by_patch, by_object = [], []
    for assignment in assignments:
        mine = acts[assignment["id"]]
        if not mine:
            continue
        figures = {
            "objects": kept[assignment["id"]],
            "active_s": active_seconds(mine, cutoff),
            "model_wait_s": model_wait_seconds(mine),
            "idle_cutoff_s": cutoff,
        }
        by_patch.append({key: assignment[key] for key in TIME_COLUMNS if key not in figures} | figures)
        who = {key: assignment[key] for key in ("person_id", "group", "patch", "purpose")}
        by_object += [
            {**who, "object_id": object_id, "seconds": seconds}
            for object_id, seconds in seconds_per_object(mine, cutoff).items()
        ]
    return pd.DataFrame(by_patch, columns=TIME_COLUMNS), pd.DataFrame(by_object, columns=OBJECT_TIME_COLUMNS)


def times_by_assignment(study: Study) -> pd.DataFrame:
    return work_times(study)[0]


def times_by_person(study: Study) -> pd.DataFrame:
    """Per person over submitted patches: their number, objects, median seconds per object and minutes.

    Practice and qualification are left out.
    """
    return summarise_times(*work_times(study))


def without_training(times: pd.DataFrame) -> pd.DataFrame:
    """Rows of a table of `work_times` that are work, not practice or qualification."""
    return times[~times["purpose"].isin(LEARNING_PURPOSES)]


def summarise_times(by_patch: pd.DataFrame, by_object: pd.DataFrame) -> pd.DataFrame:
    """The tables of `work_times` per person; a patch that is still open has no time yet.

    Time spent on learning does not count as work.
    """
    columns = ["person_id", "group", "patches", "objects", "median_s_per_object", "median_min_per_patch"]
    by_patch, by_object = without_training(by_patch), without_training(by_object)
    by_patch = by_patch[by_patch["state"] == "submitted"]
    if by_patch.empty:
        return pd.DataFrame(columns=columns)
    keys = ["person_id", "patch", "purpose"]
    by_object = by_object[by_object.set_index(keys).index.isin(by_patch.set_index(keys).index)]
    table = (
        by_patch.groupby(["person_id", "group"])
        .agg(patches=("patch", "nunique"), objects=("objects", "sum"), active=("active_s", "median"))
        .reset_index()
    )
    table["median_s_per_object"] = table["person_id"].map(by_object.groupby("person_id")["seconds"].median())
    table["median_min_per_patch"] = table.pop("active") / 60.0
    return table[columns]


# ------------------------------------------------------------------------------------------- scores


SCORE_COLUMNS = list(COLUMNS["scores"])
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
    settings and reference, and the untrained model of that split. Runs of the adapter come first."""
    models = newest_reference(scores[scores["kind"] == "model"])
    with study.science.read() as db:
        known = [run for run in runs.list_runs(db) if run["id"] in set(models["run_id"])]
    trained = [run for run in known if run["kind"] != "untrained"]
    trained = [run for run in trained if network_of(run) == USUAL_NETWORK] or trained
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
    """Mean over patches with its 95 % interval over slides, and the patches, slides and nuclei behind it."""
    rows = []
    for keys, group in scores.groupby(list(by), dropna=False, sort=True):
        low, high = cluster_bootstrap(group["value"].to_numpy(dtype=float), group["slide"].to_numpy(), seed=0)
        figures = {
            "mean": group["value"].mean(),
            "low": low,
            "high": high,
            "patches": group["patch"].nunique(),
            "slides": group["slide"].nunique(),
            "nuclei": int(group["n"].sum()),
        }
        rows.append({**dict(zip(by, keys, strict=True)), **figures})
    return pd.DataFrame(rows, columns=[*by, "mean", "low", "high", "patches", "slides", "nuclei"])


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

    `a` and `b` are labels of `scores_table` (expert, students, untrained, ...) or run ids. `low` and `high`
    are the 90 % interval, over slides, of the mean difference, and `equivalent` says whether it lies within
    the study's margin (both one-sided tests reject); `p_holm` is corrected over the rows of this table.
    """
    with study.science.read() as db:
        margin = float(study_store.get_study(db)["plan"]["equivalence_margin"])
    first, second = paired_scores(scores_table(study), a, b, metric, kind)
    rows = []
    for name in sorted(set(first["class_name"]) & set(second["class_name"])):
        for condition in ["all", *sorted(set(first["condition"]))]:
            x, y = (_by_patch(table, name, condition) for table in (first, second))
            if x.empty or y.empty:
                continue
            slides = first.drop_duplicates("patch").set_index("patch")["slide"]
            same = equivalence_test(x, y, margin, slides)
            rows.append(
                {
                    "class_name": name,
                    "condition": condition,
                    "mean_a": x.mean(),
                    "mean_b": y.mean(),
                    **asdict(paired_test(x, y)),
                    "low": same.low,
                    "high": same.high,
                    "margin": margin,
                    "equivalent": same.equivalent,
                }
            )
    table = pd.DataFrame(rows)
    if not table.empty:
        table["p_holm"] = holm(table["p_value"].tolist())
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


# ------------------------------------------------------------------------------------------ exports


def objects_table(study: Study) -> pd.DataFrame:
    """Every accepted object: who, where, class, first box, area, origin and molecular support."""
    with study.science.read() as db:
        rows = act_store.current_annotations(db)
        um = {patch["id"]: patch["um_per_px"] for patch in images.list_patches(db)}
    columns = list(COLUMNS["objects"])
    return pd.DataFrame([_object_row(row, um[row["patch_id"]]) for row in rows], columns=columns)


def _object_row(row: dict[str, Any], um_per_px: float | None) -> dict[str, Any]:
    keys = ("object_id", "person_id", "group", "slide", "patch", "condition", "purpose", "guidance", "tool")
    box = json.loads(row["first_box"]) if row["first_box"] else [None] * 4
    area_px = rle_area(Mask.from_row(row).as_rle())
    return {
        **{key: row[key] for key in keys},
        "class": row["class_name"],
        "origin": row["origin"],
        "suggested": bool(row["suggested"]),
        "planted": row["planted"],
        **dict(zip(("x0_px", "y0_px", "x1_px", "y1_px"), box, strict=True)),
        "area_px": area_px,
        "area_um2": round(area_px * um_per_px**2, 3) if um_per_px else None,
        "predicted_iou": row["predicted_iou"],
        "molecular_support": row["molecular_support"],
        "threshold_id": row["threshold_id"],
        "registration_id": row["registration_id"],
        "backbone": row["backbone"],
        "saved_at": row["received_at"],
        "mask_rle": row["mask_counts"],
        "mask_height_px": row["mask_height_px"],
        "mask_width_px": row["mask_width_px"],
    }


def acts_table(study: Study) -> pd.DataFrame:
    with study.science.read() as db:
        return pd.DataFrame(act_store.act_rows(db), columns=list(COLUMNS["acts"]))


def consents_table(study: Study) -> pd.DataFrame:
    """Every answer to every version of the consent text, by pseudonym."""
    with study.science.read() as db:
        return pd.DataFrame(learning.list_consents(db), columns=list(COLUMNS["consents"]))


def settled_table(study: Study) -> pd.DataFrame:
    with study.science.read() as db:
        rows = [{**row, "detail": json.dumps(row["detail"])} for row in settled.list_settled(db)]
    return pd.DataFrame(rows, columns=list(COLUMNS["settled"]))


EXPORTS: dict[str, Callable[[Study], pd.DataFrame]] = {
    "objects": objects_table,
    "acts": acts_table,
    "times": times_by_assignment,
    "agreement": lambda study: pairwise_agreement(ratings(study)),
    "classes": lambda study: class_agreement(ratings(study)),
    "consensus": lambda study: consensus_table(study, ratings(study)),
    "reliability": lambda study: reliability_table(study, ratings(study)),
    "learning": learning_table,
    "consents": consents_table,
    "reviews": reviews_table,
    "decisions": decisions_table,
    "settled": settled_table,
    "scores": scores_table,
    "suggestions": suggestions_table,
    "automation_bias": automation_bias_table,
}


def export_table(study: Study, name: str) -> pd.DataFrame:
    if name not in EXPORTS:
        raise NotFoundError(f"Unknown table {name!r}. Choose one of {sorted(EXPORTS)}.")
    return EXPORTS[name](study)


def export_csv(study: Study, name: str) -> bytes:
    return to_csv(export_table(study, name))


def write_exports(study: Study, folder: Path, names: Sequence[str] | None = None) -> dict[str, str]:
    """Write tables as CSV files; returns name -> path."""
    contents = {name: export_csv(study, name) for name in names or EXPORTS}
    for name, content in contents.items():
        write_file(Path(folder) / f"{name}.csv", content)
    return {name: str(Path(folder) / f"{name}.csv") for name in contents}
