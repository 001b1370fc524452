"""How wide the compact SAM's adapter should be: python -m benchmarks.adapter_width [--minutes M] [--quick]

Widths 6 (the encoder's width // 32, the authors' rule), 24 and 48, and the whole encoder trained instead,
which no adapter should be expected to beat. Fully labelled MoNuSeg images, the folds of `python -m allinsam
monuseg`, the same minutes for each.
"""

import argparse
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

from allinsam.experiments.fields import read_fields
from allinsam.experiments.grid import GridSettings, image_table, run_grid
from allinsam.sam.segmenter import open_segmenter
from allinsam.training.settings import TrainingSettings
from benchmarks.report import figure, print_report, progress, shared_data

WIDTHS = (6, 24, 48)
# The whole encoder starts from good weights, which an adapter's learning rate would wreck.
ENCODER_RATES = {"learning_rate": 3e-4, "decoder_learning_rate": 3e-4}


def variants(settings: TrainingSettings) -> dict[str, TrainingSettings]:
    """Name -> settings."""
    widths = {f"width_{width}": replace(settings, adapter_width=width) for width in WIDTHS}
    return {**widths, "encoder": replace(settings, train_encoder=True, **ENCODER_RATES)}


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=Path, default=shared_data() / "monuseg2018_train")
    parser.add_argument("--out", type=Path, default=None, help="folder for the runs, to go on where it was")
    parser.add_argument("--minutes", type=float, default=15.0, help="of each training")
    parser.add_argument("--folds", type=int, default=4)
    parser.add_argument("--quick", action="store_true", help="one step of each: a smoke test")
    args = parser.parse_args(arguments)
    if not args.images.is_dir():
        sys.exit(f"{args.images} is not there. Point --images at NAME.png with NAME_inst.png.")
    minutes = 1e-9 if args.quick else args.minutes
    settings = TrainingSettings(budget_minutes=minutes, adapter_epochs=1000)
    grid = GridSettings(("all_in_sam",), ("complete",), ("all",), folds=args.folds, spread="-B0-")
    fields, segmenter = read_fields(args.images), open_segmenter("compact")
    figures = {}
    with tempfile.TemporaryDirectory() as scratch:
        for name, chosen in variants(settings).items():
            progress(name)
            out = (args.out or Path(scratch)) / name
            run_grid(fields, grid, chosen, out, segmenter)
            scores = image_table(out)
            for metric in ("dice", "aji"):
                note = f"mean of {len(scores)} test images, {args.minutes:g} minutes each"
                figures[f"{name}_{metric}"] = figure([scores[metric].mean()], metric, note=note)
    print_report("adapter_width", figures)


if __name__ == "__main__":
    main()
