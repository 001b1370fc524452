"""How long a step of training takes and what memory it needs: python -m benchmarks.train [--quick]

One step = forward, loss, backward, optimiser, of one frame and one class. Ours is beside the authors'
formulation: segment_anything's own attention, float32, every block steered, nothing run again, nothing kept.
Weights are random, frames noise: neither changes the time. With --quick the compact SAM stands in for ViT-B.
"""

import argparse
import dataclasses
import gc
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch

from allinsam.compute import quick_bf16
from allinsam.inference import RUN_FILE
from allinsam.sam.adapter import AdaptedSam, FrozenFeatures
from allinsam.sam.attention import use_quick_attention
from allinsam.simulate import MARKER_OF_CLASS, simulate_patch, simulate_slide
from allinsam.training.corrective import adapter_loss
from allinsam.training.dataset import TrainingPatch
from allinsam.training.frozen_cache import FrozenCache
from allinsam.training.settings import TrainingSettings
from allinsam.training.train import train
from benchmarks.report import figure, print_report, progress
from benchmarks.segment_speed import peak_mb, random_backbone, run_python

EPOCHS = 20  # over which computing the frozen features once is spread
GPU_BATCH = {"vit_b": 4, "vit_h": 2}
# The corrective stage has other terms than the first, so both are compared.
SHARED_TRAINING = TrainingSettings(
    adapter_epochs=2, corrective_epochs=1, batch_size=4, precision="float32", device="cpu"
)
PEAK = """
import torch
torch.set_num_threads({threads})
from benchmarks.train import peak_of_steps
print(peak_of_steps({name!r}, {options!r}))
"""


class Steps:
    """A network in training on one batch of noise; a call is one step and returns its loss."""

    def __init__(
        self,
        name: str,
        ours: bool = True,
        first_block: int = 0,
        recompute: bool = False,
        device: str = "cpu",
        batch: int = 1,
    ) -> None:
        loaded = random_backbone(name)
        if ours:
            use_quick_attention(loaded.sam.image_encoder)
        loaded = dataclasses.replace(loaded, sam=loaded.sam.to(device), device=torch.device(device))
        self.precision = torch.bfloat16 if ours and quick_bf16(loaded.device.type) else torch.float32
        torch.manual_seed(0)
        self.network = AdaptedSam(loaded, ["nucleus"], first_block=first_block, recompute=recompute)
        self.optimizer = torch.optim.AdamW(self.network.trainable_parameters().values(), lr=2e-4)
        side, grid = self.network.frame_px, self.network.grid_px
        self.frames = torch.randint(0, 256, (batch, side, side, 3), dtype=torch.uint8)
        self.targets = torch.rand(batch, grid, grid, device=device).round()

    def __call__(self, frozen: FrozenFeatures | None = None) -> float:
        network, half = self.network, self.precision == torch.bfloat16
        with torch.autocast(network.device.type, dtype=torch.bfloat16, enabled=half):
            output = network(network.normalise(self.frames), frozen)
        loss = adapter_loss(output.logits[:, 0].float(), self.targets).mean()
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        return loss.item()

    def cache(self) -> FrozenCache:
        return FrozenCache(self.network, "0" * 64, precision=self.precision)


def step_figures(name: str, repeats: int) -> dict[str, dict]:
    """Times of a step with all blocks and with the last third steered, beside the authors', turn by turn."""
    authors, ours = Steps(name, ours=False), Steps(name)
    depth = len(ours.network.encoder.blocks)
    later = Steps(name, first_block=2 * depth // 3)
    taken: dict[str, list[tuple[float, float]]] = {"authors": [], "ours": [], "last_third": []}
    for turn in range(repeats + 1):
        progress(f"{name}, turn {turn} of {repeats}")
        times = {"authors": both_clocks(authors), "ours": both_clocks(ours)}
        cache = later.cache()
        building = both_clocks(lambda cache=cache: cache.get(later.frames))
        cached = both_clocks(lambda cache=cache: later(cache.get(later.frames)))
        times["last_third"] = tuple(once / EPOCHS + step for once, step in zip(building, cached, strict=True))
        if turn:  # the first is for warming up
            for key, value in times.items():
                taken[key].append(value)
    short = name.replace("_", "")
    kept = (
        f"the last {depth - later.network.first_block} with frozen features computed once in {EPOCHS} epochs"
    )
    told = {"ours": f"all {depth} in {precision_name(ours)}", "last_third": kept}
    figures = {}
    for key, label in (("ours", "step"), ("last_third", "last_third")):
        for clock, ending, kind in ((0, "ratio", "seconds"), (1, "cpu_ratio", "processor seconds")):
            theirs = [turn[clock] for turn in taken["authors"]]
            mine = [turn[clock] for turn in taken[key]]
            note = f"the authors' {kind} (all blocks) over ours ({told[key]}), turn by turn; baseline: theirs"
            ratios = [one / other for one, other in zip(theirs, mine, strict=True)]
            figures[f"{short}_{label}_{ending}"] = figure(ratios, "x", median(theirs), note)
        figures[f"{short}_{label}_s"] = figure([turn[0] for turn in taken[key]], "s")
    return figures


def memory_figures(name: str) -> dict[str, dict]:
    """Peak memory of a process that takes two steps, the authors' over ours, each in one of its own."""
    peaks = {}
    ways = {"authors": {"ours": False}, "ours": {}, "recompute": {"recompute": True}}
    for key, options in ways.items():
        progress(f"{name}, peak memory, {key}")
        code = PEAK.format(threads=torch.get_num_threads(), name=name, options=options)
        peaks[key] = float(run_python(code)[1])
    short = name.replace("_", "")
    note = "the authors' peak memory over ours, whole processes; baseline: theirs in MB"
    return {
        f"{short}_step_memory_ratio": figure([peaks["authors"] / peaks["ours"]], "x", peaks["authors"], note),
        f"{short}_step_memory_ratio_recompute": figure(
            [peaks["authors"] / peaks["recompute"]], "x", peaks["authors"], f"{note}; blocks are run again"
        ),
        f"{short}_step_peak_mb": figure([peaks["ours"]], "MB"),
        f"{short}_step_peak_mb_recompute": figure([peaks["recompute"]], "MB"),
    }


def ddp_figure() -> dict[str, dict]:
    """The greatest difference of an epoch's loss between one process and two that share each batch."""
    root = Path(__file__).resolve().parents[1]
    histories = []
    with tempfile.TemporaryDirectory() as scratch:
        for processes in (1, 2):
            progress(f"a small training in {processes} process(es)")
            folder = Path(scratch) / str(processes)
            launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
            command = [sys.executable, *launcher, "-m", "benchmarks.train", "--shared-training", str(folder)]
            environment = os.environ | {"OMP_NUM_THREADS": "1"}
            ended = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True)
            if ended.returncode:
                raise RuntimeError(f"Training in {processes} process(es) failed:\n{ended.stderr[-4000:]}")
            histories.append(json.loads((folder / RUN_FILE).read_text(encoding="utf-8"))["history"])
    one, two = ([row["loss"] for row in history] for history in histories)
    largest = max(abs(a - b) for a, b in zip(one, two, strict=True))
    note = f"{len(one)} epochs of both stages in float32, batches of {SHARED_TRAINING.batch_size}"
    return {"ddp_loss_max_difference": figure([largest], "loss", note=note)}


def shared_training(folder: Path) -> None:
    """Train on two simulated patches, with whatever processes this was started in."""
    torch.set_num_threads(1)
    look = simulate_slide(1, 0)
    patches = []
    for number, part in enumerate(("train", "train", "val")):
        drawn = simulate_patch(look, number, size_px=256)
        labels = {name: drawn.class_labels(name) for name in MARKER_OF_CLASS}
        patches.append(TrainingPatch(f"p{number}", drawn.pas, labels, part, drawn.um_per_px))
    train(SHARED_TRAINING, patches, folder)


def gpu_figures(batches: dict[str, int], repeats: int, device: str = "cuda") -> dict[str, dict]:
    """Frames a second that a device trains on, by backbone; `batches`: frames per step."""
    figures = {}
    for name, batch in batches.items():
        progress(f"{name} on {device}")
        steps = Steps(name, device=device, batch=batch)
        rates = []
        for turn in range(repeats + 1):
            synchronise(device)
            seconds, _ = both_clocks(lambda steps=steps: (steps(), synchronise(device)))
            if turn:
                rates.append(batch / seconds)
        note = f"all blocks steered, batches of {batch}, {precision_name(steps)}"
        figures[f"{name.replace('_', '')}_gpu_images_per_s"] = figure(rates, "images/s", note=note)
        del steps
        gc.collect()
    return figures


def peak_of_steps(name: str, options: dict) -> float:
    """Peak memory of this process in MB after two steps."""
    steps = Steps(name, **options)
    for _ in range(2):
        steps()
    return peak_mb()


def both_clocks(action: Callable[[], object]) -> tuple[float, float]:
    """Seconds that passed, and seconds that processors worked, which other work hardly changes."""
    started, worked = time.perf_counter(), time.process_time()
    action()
    return time.perf_counter() - started, time.process_time() - worked


def synchronise(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize()


def precision_name(steps: Steps) -> str:
    return str(steps.precision).removeprefix("torch.")


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="the compact SAM for ViT-B: a smoke test")
    parser.add_argument("--repeats", type=int, default=3, help="turns that are counted")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--shared-training", type=Path, default=None, help=argparse.SUPPRESS)
    args = parser.parse_args(arguments)
    if args.shared_training:
        shared_training(args.shared_training)
        return
    torch.set_num_threads(args.threads)
    name, repeats = ("compact", 1) if args.quick else ("vit_b", args.repeats)
    figures = memory_figures(name) | step_figures(name, repeats)
    figures |= ddp_figure()
    if torch.cuda.is_available():
        gc.collect()
        figures |= gpu_figures({"compact": 4} if args.quick else GPU_BATCH, 10 * repeats)
    print_report("train", figures)


if __name__ == "__main__":
    main()
