"""Train the adapter on labelled patches: adapter stage, then corrective stage. Read from top to bottom.

data -> model -> loop (adapter stage, corrective stage) -> validation -> best weights.
"""

import dataclasses
import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from allinsam.errors import ModelError
from allinsam.inference import (
    RUN_FILE,
    WEIGHTS_FILE,
    InstanceSettings,
    cut_instances,
    frame_zoom,
    predict_probabilities,
)
from allinsam.metrics import METRICS
from allinsam.sam.adapter import AdaptedSam
from allinsam.sam.backbones import Backbone, LoadedBackbone, load_backbone
from allinsam.training.calibration import (
    calibrate,
    labelled_instances,
    small_nucleus_px,
    starting_instances,
)
from allinsam.training.checkpoints import (
    Progress,
    data_hash,
    load_checkpoint,
    save_checkpoint,
    write_text,
    write_weights,
)
from allinsam.training.corrective import adapter_loss, corrective_loss
from allinsam.training.dataset import (
    FrameBatch,
    TrainingPatch,
    class_names_of,
    frames_per_epoch,
    prepare_patch,
    random_batches,
)
from allinsam.training.settings import TrainingSettings

SETTLED_LEARNING_RATE = 1e-7  # the authors' eta_min
WARM_UP = 0.03  # share of a stage over which the learning rate rises
BAD_STEPS_IN_A_ROW = 5
REPORT_EVERY_SECONDS = 1.0

Report = Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class TrainingResult:
    """state: "done" or "cancelled"; best: row of the epoch whose weights are kept; history: all rows."""

    folder: Path
    state: str
    best: dict[str, Any]
    history: list[dict[str, Any]]
    seconds: float


class _Cancelled(Exception):
    """should_stop() said so: the loop ends, the last epoch's checkpoint stays."""


def train(
    settings: TrainingSettings,
    patches: Sequence[TrainingPatch],
    folder: Path | str,
    report: Report | None = None,
    should_stop: Callable[[], bool] | None = None,
    loaded: LoadedBackbone | None = None,
    weights_dir: Path | str | None = None,
) -> TrainingResult:
    """Train on `patches`; leave run.json and adapter.safetensors in `folder` for `inference.load_run`.

    A folder with a checkpoint of the same settings, data and backbone is continued exactly where its last
    epoch ended. `report` gets a row about once a second and one per epoch; `should_stop` is asked
    at every step.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    if loaded is None:
        loaded = load_backbone(settings.backbone, weights_dir=weights_dir, device=settings.device)
    identity = {
        "settings": settings.to_dict(),
        "classes": list(class_names_of(patches)),
        "data": data_hash(patches),
        "backbone": loaded.weights_sha256,
    }
    with torch.random.fork_rng(devices=[]):
        run = _Run(settings, patches, folder, loaded, identity, report, should_stop)
        if run.progress.history and (folder / RUN_FILE).exists():
            return run.result("done")
        try:
            for stage in settings.stages:
                run.train_stage(stage)
        except _Cancelled:
            return run.result("cancelled")
        run.finish()
        return run.result("done")


def batch_loss(
    network: AdaptedSam, batch: FrameBatch, stage: str, settings: TrainingSettings, cell_px: float
) -> Tensor:
    """Mean over the pairs of frame and class that were labelled; an unlabelled class teaches nothing."""
    with mixed_precision(network.no_mask.device, settings.precision):
        output = network(network.normalise(batch.frames))
    known = batch.known.to(output.logits.device)
    logits, targets = output.logits.float()[known], batch.targets.to(output.logits.device)[known]
    if stage == "adapter":
        return adapter_loss(logits, targets).mean()
    features = output.embedding.float()[known.nonzero()[:, 0]]
    return corrective_loss(logits, features, targets, cell_px, settings.corrective).mean()


def mixed_precision(device: torch.device, precision: str) -> torch.autocast:
    """bfloat16 inside the network if asked for, or if "auto" finds a chip that multiplies it natively."""
    if device.type == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        native = torch.cpu.get_capabilities().get("avx512_bf16", False)
    wanted = precision == "bfloat16" or (precision == "auto" and native)
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=wanted)


class _Run:
    """Data, network and progress of one call of `train`."""

    def __init__(
        self,
        settings: TrainingSettings,
        patches: Sequence[TrainingPatch],
        folder: Path,
        loaded: LoadedBackbone,
        identity: dict[str, Any],
        report: Report | None,
        should_stop: Callable[[], bool] | None,
    ) -> None:
        self.settings, self.folder, self.loaded, self.identity = settings, folder, loaded, identity
        self.report, self.should_stop = report or (lambda row: None), should_stop or (lambda: False)
        self.class_names = tuple(identity["classes"])

        # Data: brought to the network's resolution once; frames are cut anew in every epoch.
        row = loaded.backbone
        self.frame_px, self.grid_px = row.frame_px, 4 * row.frame_px // row.patch_px
        learnt = [patch for patch in patches if patch.part == "train" and patch.labels]
        zooms = [frame_zoom(row, patch.image_rgb.shape[:2], patch.um_per_px) for patch in learnt]
        self.prepared = [
            prepare_patch(patch, self.class_names, row.frame_px, zoom)
            for patch, zoom in zip(learnt, zooms, strict=True)
        ]
        self.scored = [patch for patch in patches if patch.part == "val" and patch.labels]
        self.learnt = learnt
        self.instances = starting_instances(learnt) if settings.calibrate else InstanceSettings()
        # Width of a cell of the decoder's grid in the patches' own pixels, for MOCL's k.
        self.cell_px = row.frame_px / self.grid_px / float(np.median(zooms))
        frames = frames_per_epoch(self.prepared, self.frame_px)
        self.steps_per_epoch = math.ceil(frames / settings.batch_size)

        # Model: the seed fixes the adapter's start; a checkpoint replaces it.
        torch.manual_seed(settings.seed)
        self.network = AdaptedSam(loaded, self.class_names, settings.adapter_width).eval()
        self.optimizer = self._new_optimizer()
        self.progress = Progress()
        checkpoint = load_checkpoint(folder, identity)
        if checkpoint is not None:
            self.progress = checkpoint.progress
            self.network.load_trained_state(checkpoint.weights)
            self.optimizer.load_state_dict(checkpoint.optimizer)
            torch.set_rng_state(checkpoint.random_state)
        self.validation_seconds = 0.0
        self.last_report = -math.inf

    def _new_optimizer(self) -> torch.optim.AdamW:
        """The adapter and the rest have learning rates of their own; `_step` sets both."""
        parameters = self.network.trainable_parameters()
        adapter = [value for name, value in parameters.items() if name.startswith("adapter.")]
        decoder = [value for name, value in parameters.items() if not name.startswith("adapter.")]
        groups = [{"params": adapter, "top": self.settings.learning_rate}]
        groups += [{"params": decoder, "top": self.settings.decoder_learning_rate}]
        return torch.optim.AdamW(groups, weight_decay=self.settings.weight_decay)

    def train_stage(self, stage: str) -> None:
        """All epochs of a stage that are still to do, or as many as its share of the time allows."""
        progress, stages = self.progress, list(self.settings.stages)
        if progress.stage and stages.index(progress.stage) > stages.index(stage):
            return
        if progress.stage != stage:
            self._enter(stage)
        epochs, limit = self.settings.stages[stage], self._stage_limit(stage)
        started, before = time.monotonic(), (progress.seconds, progress.stage_seconds)
        bad_steps = 0

        def clock() -> float:
            """Update both clocks; seconds in this stage."""
            passed = time.monotonic() - started
            progress.seconds, progress.stage_seconds = before[0] + passed, before[1] + passed
            return progress.stage_seconds

        # However little time there is, a stage takes one step: its result must exist.
        while progress.epoch < epochs and (progress.epoch == 0 or clock() + self.validation_seconds < limit):
            rng = np.random.default_rng([self.settings.seed, stages.index(stage), progress.epoch])
            losses: list[float] = []
            batches = random_batches(
                self.prepared,
                self.frame_px,
                self.grid_px,
                self.settings.batch_size,
                self.settings.augmentation,
                rng,
            )
            for step, batch in enumerate(batches):
                if self.should_stop():
                    raise _Cancelled
                done = progress.epoch * self.steps_per_epoch + step
                share = max(done / (epochs * self.steps_per_epoch), clock() / limit)
                loss = self._step(batch, stage, share)
                bad_steps = 0 if math.isfinite(loss) else bad_steps + 1
                if bad_steps == BAD_STEPS_IN_A_ROW:
                    raise ModelError(
                        f"The loss was no number {bad_steps} steps in a row, epoch {progress.epoch + 1}. "
                        f"Lower learning_rate (now {self.settings.learning_rate})."
                    )
                losses.append(loss)
                self._report(stage, done + 1, losses, limit)
                if clock() + self.validation_seconds >= limit:
                    break
            progress.epoch += 1
            self._close_epoch(stage, losses, clock, limit)
        clock()

    def _enter(self, stage: str) -> None:
        """Start a stage from the best weights of the one before, with a fresh optimizer."""
        previous = self.progress.stage
        if previous in self.progress.best:
            self.network.load_trained_state(load_file(self._best_file(previous)))
            self.optimizer = self._new_optimizer()
        self.progress.stage, self.progress.epoch, self.progress.stage_seconds = stage, 0, 0.0

    def _best_file(self, stage: str) -> Path:
        return self.folder / f"best-{stage}.safetensors"

    def _stage_limit(self, stage: str) -> float:
        """Seconds this stage may take in all; what the adapter stage leaves goes to the corrective stage."""
        if self.settings.budget_minutes is None:
            return math.inf
        budget = 60.0 * self.settings.budget_minutes
        if stage == "adapter":
            return budget * (1.0 - self.settings.corrective_share if len(self.settings.stages) > 1 else 1.0)
        return budget - (self.progress.seconds - self.progress.stage_seconds)

    def _step(self, batch: FrameBatch, stage: str, share: float) -> float:
        """One optimizer step at `share` of the stage; its loss. A loss that is no number changes nothing."""
        settings = self.settings
        factor = 1.0 if stage == "adapter" else settings.corrective_factor
        # A short warm-up, then half a cosine.
        factor *= min(1.0, share / WARM_UP + 0.02) * 0.5 * (1.0 + math.cos(math.pi * min(1.0, share)))
        for group in self.optimizer.param_groups:
            group["lr"] = max(SETTLED_LEARNING_RATE, factor * group["top"])
        loss = batch_loss(self.network, batch, stage, settings, self.cell_px)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self.network.trainable_parameters().values(), settings.gradient_clip)
        if torch.isfinite(loss) and torch.isfinite(norm):
            self.optimizer.step()
        return loss.item() if torch.isfinite(norm) else math.nan

    def _report(self, stage: str, done: int, losses: list[float], limit: float) -> None:
        now = time.monotonic()
        if now - self.last_report < REPORT_EVERY_SECONDS:
            return
        self.last_report = now
        self.report({"kind": "step", **self._status(stage, done, losses, limit)})

    def _status(self, stage: str, done: int, losses: list[float], limit: float) -> dict[str, Any]:
        progress, total = self.progress, self.settings.stages[stage] * self.steps_per_epoch
        pace = progress.stage_seconds / max(1, done)
        left = min((total - done) * pace, limit - progress.stage_seconds)
        later = list(self.settings.stages)[list(self.settings.stages).index(stage) + 1 :]
        for name in later:
            unlimited = self.settings.stages[name] * self.steps_per_epoch * pace
            budget = self.settings.budget_minutes
            left += unlimited if budget is None else min(unlimited, 60.0 * budget - limit)
        return {
            "stage": stage,
            "epoch": progress.epoch,
            "done": done,
            "total": total,
            "loss": float(np.nanmean(losses)) if np.isfinite(losses).any() else math.nan,
            "val": progress.history[-1]["val"] if progress.history else None,
            "seconds": progress.seconds,
            "seconds_left": max(0.0, left),
        }

    def _close_epoch(self, stage: str, losses: list[float], clock: Callable[[], float], limit: float) -> None:
        """Validate, keep the weights if they are the stage's best, checkpoint, report."""
        progress, begun = self.progress, time.monotonic()
        scores = validate(self.network, self.loaded.backbone, self.scored, self.instances)
        self.validation_seconds = time.monotonic() - begun
        clock()
        row = {
            **self._status(stage, (progress.epoch - 1) * self.steps_per_epoch + len(losses), losses, limit),
            "val": scores.get("dice"),
            "scores": scores,
        }
        # Without validation patches the training loss has to choose.
        row["selection"] = -row["loss"] if row["val"] is None else row["val"]
        progress.history.append(row)
        if stage not in progress.best or row["selection"] > progress.best[stage]["selection"]:
            progress.best[stage] = row
            write_weights(self._best_file(stage), self.network.trained_state())
        save_checkpoint(self.folder, self.identity, progress, self.network.trained_state(), self.optimizer)
        self.report({"kind": "epoch", **row})

    def result(self, state: str) -> TrainingResult:
        best = self.progress.best
        if any(row["val"] is None for row in best.values()):
            # The stages' training losses are no common scale: the last stage has the last word.
            chosen = list(best.values())[-1]
        else:
            chosen = max(best.values(), key=lambda row: row["selection"]) if best else {}
        return TrainingResult(self.folder, state, chosen, self.progress.history, self.progress.seconds)

    def finish(self) -> None:
        """Write the best weights of all stages and what is needed to use them."""
        result = self.result("done")
        weights = load_file(self._best_file(result.best["stage"]))
        write_weights(self.folder / WEIGHTS_FILE, weights)
        self.network.load_trained_state(weights)
        run = {
            "backbone": self.settings.backbone,
            "weights_sha256": self.loaded.weights_sha256,
            "class_names": list(self.class_names),
            "adapter_width": self.settings.adapter_width,
            "settings": self.settings.to_dict(),
            "instances": dataclasses.asdict(self._calibrated()),
            "best": result.best,
            "history": result.history,
            "seconds": result.seconds,
        }
        write_text(self.folder / RUN_FILE, json.dumps(run, indent=1))

    def _calibrated(self) -> InstanceSettings:
        """How the kept network's maps become nuclei, chosen on the validation patches."""
        if not self.settings.calibrate or not self.scored:
            return self.instances
        maps = [
            predict_probabilities(
                self.network,
                patch.image_rgb,
                frame_zoom(self.loaded.backbone, patch.image_rgb.shape[:2], patch.um_per_px),
            )
            for patch in self.scored
        ]
        return calibrate(self.instances, small_nucleus_px(self.learnt), self.class_names, self.scored, maps)


def validate(
    network: AdaptedSam,
    backbone: Backbone,
    patches: Sequence[TrainingPatch],
    instances: InstanceSettings | None = None,
) -> dict[str, Any]:
    """Unweighted scores at native size, means over classes: "dice" pooled over patches, "f1" of instances.

    A class is scored only on the patches where it was labelled. No patches: an empty dict.
    """
    counts: dict[str, np.ndarray] = {}
    f1: dict[str, list[float]] = {}
    for patch in patches:
        zoom = frame_zoom(backbone, patch.image_rgb.shape[:2], patch.um_per_px)
        probabilities = predict_probabilities(network, patch.image_rgb, zoom, overlap=0.0)
        found_by_class = cut_instances(probabilities, patch.um_per_px, instances)
        for name, found in zip(network.class_names, found_by_class, strict=True):
            if name not in patch.labels:
                continue
            predicted, true = found > 0, patch.labels[name] != 0
            both, either = int((predicted & true).sum()), int(predicted.sum()) + int(true.sum())
            counts[name] = counts.get(name, np.zeros(2)) + (2 * both, either)
            f1.setdefault(name, []).append(
                METRICS["f1_instance"](found, labelled_instances(patch.labels[name]))
            )
    if not counts:
        return {}
    dice = {name: float(twice / total) if total else 1.0 for name, (twice, total) in counts.items()}
    f1_means = {name: float(np.mean(values)) for name, values in f1.items()}
    return {
        "dice": float(np.mean(list(dice.values()))),
        "f1": float(np.mean(list(f1_means.values()))),
        "dice_by_class": dice,
        "f1_by_class": f1_means,
    }
