"""Does the adapter learn from labels? Trained, untrained and trained on shuffled classes, on held-out slides.

python -m benchmarks.adapter_demo [--study DIR] [--quick]: makes the demo study if DIR is not given, trains on
the expert's labels and on the same labels with classes dealt at random (same split, seed and epochs), scores
all from PAS alone against the simulated truth, and prints one JSON object. Simulated tissue: no evidence for
real tissue.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from allinsam.store import open_study
from allinsam.training.settings import TrainingSettings
from allinsam.workflow import labels, learning, scored
from allinsam.workflow.demo import DemoSettings, build_demo
from benchmarks.report import figure, print_report

LABELS = ("expert", "expert, shuffled", "untrained")


def say(done: float, total: float, message: str, detail: Any = None) -> None:
    print(f"{done:.2f} of {total:g}: {message}", file=sys.stderr, flush=True)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--study", type=Path, default=None)
    parser.add_argument("--seed", type=int, default=2023)
    parser.add_argument("--minutes", type=float, default=None, help="budget of each training")
    parser.add_argument("--quick", action="store_true", help="a small study and two epochs: a smoke test")
    args = parser.parse_args(arguments)
    settings = TrainingSettings(seed=args.seed, budget_minutes=args.minutes)
    if args.quick:
        settings = TrainingSettings(seed=args.seed, adapter_epochs=2, corrective_epochs=1)
    with tempfile.TemporaryDirectory() as scratch:
        if args.study is None:
            small = DemoSettings(slides=3, patches_per_slide=1, one_marker_slides=())
            study = build_demo(Path(scratch) / "study", small if args.quick else None, say)
        else:
            study = open_study(args.study)
        begun = time.monotonic()
        recipes = [labels.recipe_of("expert", shuffle_classes=shuffled) for shuffled in (False, True)]
        learning.one_click(study, settings, recipes, report=say)
        minutes = (time.monotonic() - begun) / 60
        means = scored.mean_scores(study)
    chosen = means[(means["metric"] == "f1_instance") & (means["kind"] == "model")]
    figures = {}
    for label in LABELS:
        for row in chosen[chosen["label"] == label].to_dict("records"):
            name = f"f1_{row['class_name']}_{label.replace(', ', '_').replace(' ', '_')}"
            note = f"mean of {row['patches']} held-out patches with {row['nuclei']} nuclei"
            figures[name] = figure([row["mean"]], "F1", note=note)
    figures["minutes"] = figure([minutes], "min", note="both trainings and all scoring")
    print_report("adapter_demo", figures)


if __name__ == "__main__":
    main()
