"""The paper's experiments on a study, on the command line: their arguments, and what they run."""

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

from allinsam.experiments.commands import MINUTES, part_of

Result = dict[str, Any]


def table1_arguments(sub: argparse.ArgumentParser) -> None:
    from allinsam.training.methods import METHODS
    from allinsam.workflow.paper_table import PaperGrid

    grid = PaperGrid()
    sub.add_argument("--out", type=Path, required=True, help="folder of the table; goes on if not empty")
    sub.add_argument("--methods", nargs="+", choices=tuple(METHODS), default=list(grid.methods))
    sub.add_argument(
        "--labels", nargs="+", default=list(grid.labels), help="expert, student, or a person's id"
    )
    sub.add_argument("--seeds", type=int, nargs="+", default=list(grid.seeds))
    sub.add_argument("--split-seed", type=int, default=grid.split_seed)
    sub.add_argument("--minutes", type=float, default=MINUTES, help="of each training")
    sub.add_argument("--epochs", type=int, default=1000, help="of each stage of a training at most")
    sub.add_argument("--backbone", default="compact", help="of the adapter")
    sub.add_argument("--device", default="auto")
    sub.add_argument("--part", default="1/1", metavar="I/N", help="which of N processes that share the table")


def run_table1(args: argparse.Namespace, report: Any, should_stop: Any) -> Result:
    """Train and score what is not finished of the table; write what is."""
    from allinsam.compute import free_cores, use_threads
    from allinsam.store import open_study
    from allinsam.training.settings import TrainingSettings
    from allinsam.workflow.paper_table import PaperGrid, cells_of, make_plan, run_table, write_table

    part = part_of(args.part)
    use_threads(free_cores())
    grid = PaperGrid(tuple(args.methods), tuple(args.labels), tuple(args.seeds), args.split_seed)
    settings = replace(
        TrainingSettings(),
        backbone=args.backbone,
        budget_minutes=args.minutes,
        adapter_epochs=args.epochs,
        corrective_epochs=args.epochs,
        device=args.device,
    )
    study = open_study(args.study)
    plan = make_plan(study, grid, settings, args.out)
    done = run_table(study, plan, grid, part, report, should_stop)
    files = write_table(study, plan, grid, args.out)
    total = sum(1 for _ in cells_of(grid))
    return {"finished": len(done), "of": total, "files": [str(path) for path in files]}


def figure3_arguments(sub: argparse.ArgumentParser) -> None:
    from allinsam.training.methods import METHODS
    from allinsam.workflow.figure import FigureSettings

    figure = FigureSettings()
    sub.add_argument("--out", type=Path, required=True, help="a .png, or a .html that needs no other file")
    sub.add_argument(
        "--patches",
        nargs="+",
        default=[],
        metavar="NAME",
        help="by default the tested ones with most nuclei of each condition",
    )
    sub.add_argument("--methods", nargs="+", choices=tuple(METHODS), default=None, help="finished ones: all")
    sub.add_argument("--labels", nargs="+", choices=figure.labels, default=list(figure.labels))
    sub.add_argument("--split-seed", type=int, default=figure.split_seed)
    sub.add_argument("--picture-px", type=int, default=figure.picture_px, help="width of one picture")
    sub.add_argument("--per-condition", type=int, default=figure.per_condition, help="patches, if none named")


def run_figure3(args: argparse.Namespace) -> Result:
    """Draw the figure."""
    from allinsam.store import open_study
    from allinsam.workflow.figure import FigureSettings, draw_figure

    settings = FigureSettings(
        tuple(args.labels),
        tuple(args.methods) if args.methods else None,
        args.split_seed,
        args.picture_px,
        args.per_condition,
    )
    return draw_figure(open_study(args.study), args.out, args.patches, settings)


def run_bundle(args: argparse.Namespace, recipe: Any, settings: Any) -> Result:
    """Freeze labels and split as a folder that trains without the study."""
    from allinsam.store import open_study
    from allinsam.workflow import labels, learning
    from allinsam.workflow.bundles import bundle_labels

    study = open_study(args.study)
    split_id = labels.make_split(study, args.split_seed)
    cache = learning.study_cache(study) if recipe.masks != "edited" else None
    label_set_id = labels.freeze_labels(study, recipe, cache)
    return bundle_labels(study, label_set_id, split_id, settings, args.out)


def train_bundle_arguments(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("folder", type=Path, help="the bundle")
    sub.add_argument("--out", type=Path, required=True, help="folder of the run; goes on if not empty")
    sub.add_argument("--seeds", type=int, nargs="+", default=None, help="a run for each, in OUT/seed-N")
    sub.add_argument("--device", default=None, help="the bundle's by default: auto, cpu or cuda")
    sub.add_argument(
        "--batch-size", type=int, default=None, help="over all processes; the bundle's by default"
    )


def run_train_bundle(args: argparse.Namespace, report: Any, should_stop: Any) -> Result:
    """Train a bundle; under torchrun in several processes."""
    from allinsam.compute import free_cores, use_threads
    from allinsam.training.bundles import read_bundle, train_bundle

    given = {"device": args.device, "batch_size": args.batch_size}
    changes = {name: value for name, value in given.items() if value is not None}
    use_threads(free_cores())
    bundle = read_bundle(args.folder)
    done = train_bundle(bundle, args.out, args.seeds, changes, report, should_stop)
    return {"finished": [str(folder) for folder in done]}


def import_run_arguments(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("folder", type=Path, help="what train-bundle wrote")
    sub.add_argument("--name", default=None, help="of the runs in the study")


def run_import(args: argparse.Namespace) -> Result:
    """Bring runs into the study that were trained elsewhere."""
    from allinsam.store import open_study
    from allinsam.workflow.bundles import import_runs

    return {"runs": import_runs(open_study(args.study), args.folder, args.name)}
