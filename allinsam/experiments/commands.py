"""The paper's experiments on the command line: their arguments, and what they run."""

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

from allinsam.errors import InputError

MINUTES = 15.0


def monuseg_arguments(sub: argparse.ArgumentParser) -> None:
    from allinsam.experiments.grid import LABELS, SHARES, TIMERS, GridSettings
    from allinsam.training.methods import METHODS

    grid = GridSettings()
    sub.add_argument("folder", type=Path, help="NAME.png with NAME_inst.png, or MoNuSeg's two folders")
    sub.add_argument(
        "--out", type=Path, required=True, help="folder for runs and tables; goes on if not empty"
    )
    sub.add_argument("--methods", nargs="+", choices=tuple(METHODS), default=list(grid.methods))
    sub.add_argument("--labels", nargs="+", choices=LABELS, default=list(grid.labels))
    sub.add_argument(
        "--data", nargs="+", choices=tuple(SHARES), default=list(grid.data), help="labelled area"
    )
    sub.add_argument("--folds", type=int, default=grid.folds)
    sub.add_argument("--seeds", type=int, nargs="+", default=list(grid.seeds))
    sub.add_argument("--split-seed", type=int, default=grid.split_seed)
    sub.add_argument(
        "--spread", default=grid.spread, help="images with this in their name: one in each fold first"
    )
    sub.add_argument("--um-per-px", type=float, default=grid.um_per_px, help="of the images")
    sub.add_argument("--minutes", type=float, default=MINUTES, help="of each training")
    sub.add_argument(
        "--timer",
        choices=tuple(TIMERS),
        default=grid.timer,
        help="of the minutes; processor: on a busy machine",
    )
    sub.add_argument("--epochs", type=int, default=1000, help="of each training at most")
    sub.add_argument("--backbone", default="compact", help="of the adapter, and of the weak labels")
    sub.add_argument("--device", default="auto")
    sub.add_argument("--part", default="1/1", metavar="I/N", help="which of N processes that share the grid")


def run_monuseg(args: argparse.Namespace, report: Any, should_stop: Any) -> dict[str, Any]:
    """Train and score what is not finished of the grid; write the tables of what is."""
    from allinsam.experiments.fields import read_fields
    from allinsam.experiments.grid import GridSettings, cells_of, run_grid
    from allinsam.experiments.tables import write_tables
    from allinsam.sam.segmenter import open_segmenter
    from allinsam.training.settings import TrainingSettings

    grid = GridSettings(
        tuple(args.methods),
        tuple(args.labels),
        tuple(args.data),
        args.folds,
        tuple(args.seeds),
        args.split_seed,
        args.spread,
        um_per_px=args.um_per_px,
        timer=args.timer,
    )
    settings = replace(
        TrainingSettings(),
        backbone=args.backbone,
        budget_minutes=args.minutes,
        adapter_epochs=args.epochs,
        device=args.device,
    )
    segmenter = open_segmenter(args.backbone, device=args.device)
    fields = read_fields(args.folder)
    done = run_grid(fields, grid, settings, args.out, segmenter, part_of(args.part), report, should_stop)
    files = write_tables(args.out)
    total = sum(1 for _ in cells_of(grid))
    return {"finished": len(done), "of": total, "files": [str(path) for path in files]}


def part_of(text: str) -> tuple[int, int]:
    """ "2/3" as (2, 3)."""
    number, _, processes = text.partition("/")
    if not (number.isdigit() and processes.isdigit() and 1 <= int(number) <= int(processes)):
        raise InputError(f"--part {text!r} is not usable. Give 1/2 and 2/2 to two processes.")
    return int(number), int(processes)


def noise_arguments(sub: argparse.ArgumentParser) -> None:
    from allinsam.experiments.noise import CONDITIONS, NoiseSettings
    from allinsam.training.corrective import MOCL_MODES

    noise = NoiseSettings()
    sub.add_argument("--out", type=Path, required=True, help="for runs and tables; goes on if not empty")
    sub.add_argument("--conditions", nargs="+", choices=tuple(CONDITIONS), default=list(noise.conditions))
    sub.add_argument("--modes", nargs="+", choices=tuple(MOCL_MODES), default=list(noise.modes))
    sub.add_argument("--seeds", type=int, nargs="+", default=list(noise.seeds))
    sub.add_argument("--slides", type=int, default=noise.slides)
    sub.add_argument("--patches", type=int, default=noise.patches_per_slide, help="patches per slide")
    sub.add_argument("--epochs", type=int, default=12, help="before the corrective stage")
    sub.add_argument("--corrective-epochs", type=int, default=12, help="with the weights, and without")
    sub.add_argument("--device", default="auto")
    sub.add_argument("--part", default="1/1", metavar="I/N", help="which of N processes that share the work")


def run_noise_experiment(args: argparse.Namespace, report: Any, should_stop: Any) -> dict[str, Any]:
    """Train and score what is not finished; write the tables of what is."""
    from allinsam.experiments.noise import NoiseSettings, run_noise, write_noise_tables
    from allinsam.sam.segmenter import open_segmenter
    from allinsam.training.settings import TrainingSettings

    noise = NoiseSettings(
        tuple(args.conditions),
        tuple(args.modes),
        tuple(args.seeds),
        slides=args.slides,
        patches_per_slide=args.patches,
    )
    # As released: correcting is the second half, at the rates of the first, and frames are not varied. What
    # augmentation does against faulty labels would hide what the weights do.
    settings = TrainingSettings(
        adapter_epochs=args.epochs,
        corrective_epochs=args.corrective_epochs,
        corrective_factor=1.0,
        augmentation=False,
        device=args.device,
    )
    segmenter = open_segmenter("compact", device=args.device)
    done = run_noise(noise, settings, args.out, segmenter, part_of(args.part), report, should_stop)
    files = write_noise_tables(args.out)
    total = len(noise.conditions) * len(noise.seeds)
    return {"finished": done, "of": total, "files": [str(path) for path in files]}
