"""The paper's Table 1 on a study: method x labels x seed, each training a run like any other, and its table.

Every method learns from the same people's patches, with one split, one time budget and one reference. What is
frozen is kept in the output folder: stopped and called again, or shared by several processes, it stays the
same experiment, and nothing that is finished is done twice.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from allinsam.comparison import (
    FEWEST_SLIDES,
    TOO_FEW,
    TOO_FEW_SLIDES,
    compare_to_reference,
    interval_in_words,
)
from allinsam.errors import InputError
from allinsam.experiments.published import IN_HOUSE, IN_HOUSE_COLUMNS, MONUSEG_OTHERS, SLIPS
from allinsam.files import write_file
from allinsam.store import Study, runs
from allinsam.store import study as study_store
from allinsam.tables import to_csv
from allinsam.training.methods import METHODS, RANDOM_BOX_PX, settings_of
from allinsam.training.settings import TrainingSettings
from allinsam.workflow.labels import (
    LabelRecipe,
    freeze_labels,
    make_split,
    recipe_of,
    reference_recipe,
    split_sentence,
)
from allinsam.workflow.learning import (
    Report,
    ShouldStop,
    check_tested,
    evaluate_run,
    never,
    same_run,
    say_nothing,
    study_cache,
    train_run,
)
from allinsam.workflow.scored import means, scores_table

PLAN_FILE = "table1.json"
METHODS_IN_ORDER = ("mocl", "sam_l_tight", "sam_l_random", "nnunet", "all_in_sam", "all_in_sam_mocl")
REFERENCE = ("all_in_sam_mocl", "expert")
METRIC = "f1_instance"
# The paper's names of who annotated.
ANNOTATORS = {"expert": "Expert", "student": "Students"}
CONDITION_ORDER = ("injured", "normal", "unknown", "average")
CSV_COLUMNS = (
    "method", "labels", "condition", "class", "metric", "patches", "slides", "nuclei", "seeds",
    "mean", "low", "high", "by_slide",
)  # fmt: skip
TOOLS_IN_WORDS = {"box_sam": "boxes that SAM filled in", "contour": "outlines by hand"}
# What each row has to have in common: a seed, and which network with which loss, are the row's own.
OWN_SETTINGS = ("seed", "network", "mocl")


@dataclass(frozen=True)
class PaperGrid:
    """What is compared. labels: expert, student, a person's id or adjudicated."""

    methods: tuple[str, ...] = METHODS_IN_ORDER
    labels: tuple[str, ...] = ("expert", "student")
    seeds: tuple[int, ...] = (2023,)
    split_seed: int = 1

    def __post_init__(self) -> None:
        unknown = [name for name in self.methods if name not in METHODS]
        if unknown:
            raise InputError(f"Unknown method {unknown[0]!r}. Choose from {', '.join(METHODS)}.")
        for name in ("methods", "labels", "seeds"):
            values = getattr(self, name)
            if not values or len(set(values)) != len(values):
                raise InputError(f"{name} {list(values)!r} must be at least one, and each one once.")


@dataclass(frozen=True)
class Cell:
    """One training of the table."""

    method: str
    labels: str
    seed: int

    @property
    def recipe(self) -> LabelRecipe:
        return recipe_of(self.labels, masks=METHODS[self.method].masks)

    @property
    def name(self) -> str:
        """How the app calls the run."""
        return f"{recipe_of(self.labels).title}: {METHODS[self.method].title}, seed {self.seed}"


@dataclass(frozen=True)
class Plan:
    """What every cell has in common, frozen when the table was begun."""

    split_id: int
    reference_id: int
    settings: TrainingSettings
    label_sets: Mapping[str, int]  # title of a recipe -> label set


def cells_of(grid: PaperGrid) -> Iterator[Cell]:
    """Every training, those of one seed and method beside each other."""
    for seed in grid.seeds:
        for method in grid.methods:
            for labels in grid.labels:
                yield Cell(method, labels, seed)


def run_table(
    study: Study,
    plan: Plan,
    grid: PaperGrid,
    part: tuple[int, int] = (1, 1),
    report: Report = say_nothing,
    should_stop: ShouldStop = never,
) -> list[Cell]:
    """Train and score the cells that are not finished; returns those that are when this ends.

    part: (number, of how many processes that share the table).
    """
    cells = list(cells_of(grid))
    number, processes = part
    mine = [cell for cell in cells[number - 1 :: processes] if finished_run(study, plan, cell) is None]
    for step, cell in enumerate(mine):
        if should_stop():
            break

        def pass_on(
            done: float,
            total: float,
            message: str,
            detail: Mapping[str, Any],
            step: int = step,
            cell: Cell = cell,
        ) -> None:
            share = done / total if total else 0.0
            report(step + 0.95 * share, len(mine), f"{cell.name}: {message}", dict(detail))

        label_set_id, chosen = plan.label_sets[cell.recipe.title], settings_for(plan, cell)
        earlier = same_run(study, label_set_id, plan.split_id, chosen)
        run_id = train_run(
            study, label_set_id, plan.split_id, chosen, cell.name, pass_on, should_stop, earlier
        )
        if not should_stop():
            evaluate_run(study, run_id, plan.reference_id, should_stop=should_stop)
    return [cell for cell in cells if finished_run(study, plan, cell) is not None]


def settings_for(plan: Plan, cell: Cell) -> TrainingSettings:
    return settings_of(cell.method, plan.settings, {"seed": cell.seed})


def finished_run(study: Study, plan: Plan, cell: Cell) -> int | None:
    """The run of a cell that is trained and scored against the plan's reference."""
    run_id = same_run(study, plan.label_sets[cell.recipe.title], plan.split_id, settings_for(plan, cell))
    if run_id is None:
        return None
    with study.science.read() as db:
        finished = runs.get_run(db, run_id)["state"] == "finished"
        scored = plan.reference_id in runs.references_of_run(db, run_id)
    return run_id if finished and scored else None


def make_plan(study: Study, grid: PaperGrid, settings: TrainingSettings, out: Path) -> Plan:
    """Freeze split, labels and reference, or take what this folder's table was begun with.

    Raises:
        InputError: the folder's table is of another study, or has other settings or another split.
    """
    kept = _kept_plan(out)
    split_id = make_split(study, grid.split_seed)
    with study.science.read() as db:
        known = {row["sha256"]: row["id"] for row in runs.list_label_sets(db)}
    shared = {k: v for k, v in settings.to_dict().items() if k not in OWN_SETTINGS}
    if kept is not None:
        hashes = [kept["reference"], *kept["label_sets"].values()]
        if not all(sha256 in known for sha256 in hashes):
            raise InputError(f"{out} holds the table of another study. Give an empty folder.")
        differing = sorted(name for name in shared if kept["settings"].get(name) != shared[name])
        if kept["split"] != split_id:
            differing.append("split_seed")
        if differing:
            raise InputError(f"{out} holds a table with another {differing[0]}. Give an empty folder.")
    else:
        kept = {"split": split_id, "settings": shared, "reference": None, "label_sets": {}}

    recipes = {cell.recipe.title: cell.recipe for cell in cells_of(grid)}
    missing = {title: recipe for title, recipe in recipes.items() if title not in kept["label_sets"]}
    reference_id = known.get(kept["reference"]) or freeze_labels(study, reference_recipe(study))
    check_tested(study, reference_id, split_id)  # said now, not after the first training
    cache = study_cache(study) if any(recipe.masks != "edited" for recipe in missing.values()) else None
    frozen = {title: freeze_labels(study, recipe, cache) for title, recipe in missing.items()}
    label_sets = {title: known[sha256] for title, sha256 in kept["label_sets"].items()} | frozen
    with study.science.read() as db:
        hash_of = {row["id"]: row["sha256"] for row in runs.list_label_sets(db)}
    kept |= {
        "reference": hash_of[reference_id],
        "label_sets": {title: hash_of[key] for title, key in sorted(label_sets.items())},
    }
    write_file(out / PLAN_FILE, json.dumps(kept, indent=1).encode())
    return Plan(split_id, reference_id, settings, label_sets)


def _kept_plan(out: Path) -> dict[str, Any] | None:
    path = out / PLAN_FILE
    if not path.exists():
        return None
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
        whole = isinstance(kept, dict) and {"split", "settings", "reference", "label_sets"} <= kept.keys()
    except (ValueError, OSError):
        whole = False
    if not whole:
        raise InputError(f"{path} is damaged. Give an empty folder.")
    return kept


# ------------------------------------------------------------------------------------------- the table


def write_table(study: Study, plan: Plan, grid: PaperGrid, out: Path) -> list[Path]:
    """Write table1.csv, table1_tests.csv and table1.md of what is finished; their paths.

    Nothing is written where no cell is finished.
    """
    found = {
        cell: run_id for cell in cells_of(grid) if (run_id := finished_run(study, plan, cell)) is not None
    }
    if not found:
        return []
    patches = patch_scores(study, plan, found)
    table, tests = summary(patches), tests_against_reference(patches)
    text = markdown(study, plan, found, table, tests, len(list(cells_of(grid))))
    files = {
        "table1.csv": to_csv(table.assign(by_slide=[_listed(points) for points in table["by_slide"]])),
        "table1_tests.csv": to_csv(tests),
        "table1.md": text.encode(),
    }
    for name, content in files.items():
        write_file(out / name, content)
    return [out / name for name in files]


def _listed(points: Sequence[float]) -> str:
    """Means of single slides in one cell."""
    return " ".join(f"{point:.4f}" for point in points)


def patch_scores(study: Study, plan: Plan, found: Mapping[Cell, int]) -> pd.DataFrame:
    """A row for each method, labels, class, metric and test patch: the mean over its seeds."""
    scores = scores_table(study)
    scores = scores[scores["run_id"].isin(found.values()) & (scores["reference_id"] == plan.reference_id)]
    cell_of = {run_id: cell for cell, run_id in found.items()}
    cells = [cell_of[int(run_id)] for run_id in scores["run_id"]]
    scores = scores.assign(
        method=[cell.method for cell in cells],
        labels=[cell.labels for cell in cells],
        seed=[cell.seed for cell in cells],
    )
    keys = ["method", "labels", "class_name", "metric", "patch", "slide", "condition"]
    figures = {"value": ("value", "mean"), "n": ("n", "first"), "seeds": ("seed", "nunique")}
    return scores.groupby(keys, as_index=False, sort=False).agg(**figures)


def summary(patches: pd.DataFrame) -> pd.DataFrame:
    """CSV_COLUMNS: means over patches with their 95 % interval over slides; condition "average" is all.

    Of too few slides there is no interval; by_slide has the mean of each slide instead.
    """
    pooled = pd.concat([patches, patches.assign(condition="average")])
    keys = ["method", "labels", "condition", "class_name", "metric"]
    seeds = pooled.groupby(keys, as_index=False)["seeds"].max()
    table = means(pooled, keys).merge(seeds, on=keys).rename(columns={"class_name": "class"})
    ranks = {
        "method": {name: place for place, name in enumerate(METHODS_IN_ORDER)},
        "labels": {name: place for place, name in enumerate(ANNOTATORS)},
        "condition": {name: place for place, name in enumerate(CONDITION_ORDER)},
    }
    by = [*ranks, "class", "metric"]
    table = table.sort_values(
        by, key=lambda column: column.map(ranks.get(column.name)) if column.name in ranks else column
    )
    return table[list(CSV_COLUMNS)].reset_index(drop=True)


def tests_against_reference(patches: pd.DataFrame, metric: str = METRIC) -> pd.DataFrame:
    """Every row of the table against All-in-SAM by the expert, paired over all test patches, class by class.

    p_holm is corrected over the rows of one class. `note` says where there are too few slides: patches of
    one slide are not independent, so p then says nothing about other slides. Empty while the reference is not
    finished.
    """
    rows = []
    mine = patches[patches["metric"] == metric]
    for name, of_class in mine.groupby("class_name"):
        wide = of_class.pivot(index="patch", columns=["method", "labels"], values="value")
        if REFERENCE not in wide.columns or wide.shape[1] < 2:
            continue
        wide.columns = [" ".join(pair) for pair in wide.columns]
        tested = compare_to_reference(wide, " ".join(REFERENCE))
        tested = tested.rename(columns={"method": "method_of_p"})
        methods, labels = zip(*(text.split(" ", 1) for text in tested.pop("compared")), strict=True)
        tested.insert(0, "class", name)
        tested.insert(1, "method", methods)
        tested.insert(2, "labels", labels)
        slides = of_class["slide"].nunique()
        note = TOO_FEW_SLIDES if slides < FEWEST_SLIDES else ""
        rows.append(tested.assign(metric=metric, slides=slides, note=note))
    return pd.concat(rows, ignore_index=True) if rows else pd.DataFrame(columns=["class", "method", "labels"])


def markdown(
    study: Study,
    plan: Plan,
    found: Mapping[Cell, int],
    table: pd.DataFrame,
    tests: pd.DataFrame,
    n_cells: int,
) -> str:
    """Table 1's layout with the measured figures, their intervals, how each came about, and, apart, what the
    paper printed."""
    with study.science.read() as db:
        row = study_store.get_study(db)
        reference = LabelRecipe.from_dict(runs.get_label_set(db, plan.reference_id)["recipe"]).title
        classes = [c["name"] for c in study_store.list_classes(db)]
    scored = table[table["metric"] == METRIC]
    classes = [name for name in classes if name in set(scored["class"])]
    conditions = [name for name in CONDITION_ORDER if name in set(scored["condition"])]
    columns = [(condition, name) for condition in conditions for name in classes]
    tools = _tools(study, plan, found)
    notes = _notes(study, plan, row, reference, len(found), n_cells)
    parts = ["# Measured", notes, _table_1(scored, tests, columns, tools)]
    parts += [f"## 95 % intervals over slides, and the slides where there are fewer than {FEWEST_SLIDES}"]
    parts += [_intervals(scored, columns)]
    parts += ["## How each row was trained", _training_rows(study, plan, found, tools)]
    parts += [
        "# Published (Li et al. 2025, Table 1), on the authors' own slides: not to be mixed in",
        _printed(),
    ]
    others = sorted({name for _, name, _ in MONUSEG_OTHERS})
    parts.append(
        f"{', '.join(others)} are in the paper's Tables 2 and 3 only, on other data; they were not trained "
        f"here, and `python -m allinsam monuseg` prints their published figures. {SLIPS}"
    )
    return "\n\n".join(parts) + "\n"


def _notes(
    study: Study, plan: Plan, row: Mapping[str, Any], reference: str, finished: int, n_cells: int
) -> str:
    minutes = plan.settings.budget_minutes
    budget = "no limit of time" if minutes is None else f"{minutes:g} minutes"
    simulated = (
        "**The study is simulated: its figures are no evidence for real tissue.** "
        if row["simulated"]
        else ""
    )
    unfinished = f"{finished} of {n_cells} trainings are finished. " if finished < n_cells else ""
    lines = [
        f"{simulated}{unfinished}Every training had {budget}, the same split and the same seeds. "
        f"{split_sentence(study, plan.split_id)}",
        "Figures: instance F1 (one-to-one at IoU > 0.5) of each test patch from PAS alone, the mean over "
        f"seeds, then over patches. Average: over all patches. Scored against: {reference}.",
        "p: two-sided Wilcoxon test, paired over all test patches, against All-in-SAM by the expert; "
        "corrected by Holm over the rows of the column. Patches of one slide are not independent: read it "
        f"with the intervals below; of fewer than {FEWEST_SLIDES} slides ({TOO_FEW_SLIDES}) p says nothing "
        "about other slides.",
        "Both annotators' models are scored on the same patches. They may have learnt from different ones: "
        "see the last of these tables.",
    ]
    return "\n".join(f"- {line}" for line in lines)


def _table_1(
    scored: pd.DataFrame,
    tests: pd.DataFrame,
    columns: Sequence[tuple[str, str]],
    tools: Mapping[tuple[str, str], str],
) -> str:
    value = scored.set_index(["method", "labels", "condition", "class"])["mean"].to_dict()
    head = ["Method", "Annotator"]
    for condition, name in columns:
        head += [f"{condition.capitalize()} {name}"] + (["p"] if condition == "average" else [])
    rows = []
    for method, labels in scored[["method", "labels"]].drop_duplicates().itertuples(index=False):
        # The paper's MOCL labels were drawn by hand; what these were made with has to be said.
        made = f" on {tools[method, labels]}" if method == "mocl" else ""
        cells = [METHODS[method].title + made, ANNOTATORS.get(labels, labels)]
        for condition, name in columns:
            cells.append(_digits(value.get((method, labels, condition, name))))
            if condition == "average":
                cells.append(_p_value(tests, method, labels, name))
        rows.append(cells)
    counts = scored.groupby(["condition", "class"])[["patches", "nuclei"]].max()
    last = ["patches / nuclei", ""]
    for condition, name in columns:
        last.append("/".join(str(int(n)) for n in counts.loc[(condition, name)]))
        last += [""] if condition == "average" else []
    return markdown_table(head, [*rows, last])


def _p_value(tests: pd.DataFrame, method: str, labels: str, name: str) -> str:
    if (method, labels) == REFERENCE:
        return "Ref."
    mine = tests[(tests["class"] == name) & (tests["method"] == method) & (tests["labels"] == labels)]
    if mine.empty:
        return "–"
    if mine["method_of_p"].iloc[0] == TOO_FEW:
        return TOO_FEW
    p = mine["p_holm"].iloc[0]
    few = f" ({TOO_FEW_SLIDES})" if mine["note"].iloc[0] else ""
    return ("<0.001" if p < 0.001 else f"{p:.3f}") + few


def _digits(value: float | None) -> str:
    return "–" if value is None or pd.isna(value) else f"{value:.4f}"


def _intervals(scored: pd.DataFrame, columns: Sequence[tuple[str, str]]) -> str:
    keys = ["method", "labels", "condition", "class"]
    ends = scored.set_index(keys)[["low", "high", "by_slide"]].apply(tuple, axis=1).to_dict()
    rows = []
    for method, labels in scored[["method", "labels"]].drop_duplicates().itertuples(index=False):
        cells = [METHODS[method].title, ANNOTATORS.get(labels, labels)]
        for condition, name in columns:
            found = ends.get((method, labels, condition, name))
            cells.append(interval_in_words(*found, "{:.3f}") if found else "–")
        rows.append(cells)
    return markdown_table(["Method", "Annotator", *(f"{c.capitalize()} {n}" for c, n in columns)], rows)


def _tools(study: Study, plan: Plan, found: Mapping[Cell, int]) -> dict[tuple[str, str], str]:
    """(method, labels) -> what its labels were made with."""
    made = {}
    for cell in found:
        with study.science.read() as db:
            tools = runs.label_set_tools(db, plan.label_sets[cell.recipe.title])
        drawn = " and ".join(TOOLS_IN_WORDS.get(tool, tool) for tool in tools)
        masks = {
            "tight": f"{drawn}, their tight boxes filled in by SAM again",
            "random": f"{drawn}, their boxes, up to {RANDOM_BOX_PX} px (at 0.5 um/px) too wide, by SAM again",
        }
        made[cell.method, cell.labels] = masks.get(cell.recipe.masks, drawn)
    return made


def _training_rows(
    study: Study, plan: Plan, found: Mapping[Cell, int], tools: Mapping[tuple[str, str], str]
) -> str:
    rows = []
    with study.science.read() as db:
        parts = runs.split_parts(db, plan.split_id)
        for (method, labels), made in tools.items():
            mine = {
                cell: key for cell, key in found.items() if (cell.method, cell.labels) == (method, labels)
            }
            patches = runs.label_set_patches(db, plan.label_sets[next(iter(mine)).recipe.title])
            seconds = [
                max((e["seconds"] for e in runs.run_epochs(db, key)), default=0.0) for key in mine.values()
            ]
            taught = sum(parts.get(patch) == "train" for patch in patches)
            rows.append(
                [
                    METHODS[method].title,
                    ANNOTATORS.get(labels, labels),
                    made,
                    str(taught),
                    ", ".join(str(cell.seed) for cell in mine),
                    f"{sum(seconds) / len(seconds) / 60:.1f}",
                    ", ".join(str(key) for key in mine.values()),
                ]
            )
    rank = {METHODS[name].title: place for place, name in enumerate(METHODS_IN_ORDER)}
    rows.sort(key=lambda row: (rank[row[0]], row[1]))
    head = ["Method", "Annotator", "Labels made with", "Training patches", "Seeds", "Minutes", "Runs"]
    return markdown_table(head, rows)


def _printed() -> str:
    head = [
        "Method",
        "Annotator",
        *(f"{condition.capitalize()} {name}" for condition, name in IN_HOUSE_COLUMNS),
    ]
    rows = [
        [METHODS[method].title, ANNOTATORS[labels], *(f"{value:.4f}" for value in values)]
        for (method, labels), values in IN_HOUSE.items()
    ]
    return markdown_table(head, rows)


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(text.replace("|", "\\|") for text in line) + " |" for line in lines)
