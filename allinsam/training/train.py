"""Train a network on labelled patches: adapter stage, then corrective stage. Read from top to bottom.

data -> model -> loop (adapter stage, corrective stage) -> validation -> best weights.
"""

import dataclasses
import json
import logging
import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from allinsam.compute import quick_bf16
from allinsam.errors import InputError, ModelError
from allinsam.inference import (
    RUN_FILE,
    WEIGHTS_FILE,
    InstanceSettings,
    cut_instances,
    frame_zoom,
    predict_probabilities,
)
from allinsam.metrics import METRICS
from allinsam.sam.adapter import AdapterOutput, features_by_class
from allinsam.sam.backbones import LoadedBackbone, load_backbone, pick_device
from allinsam.sam.download import sha256_of_file
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
from allinsam.training.corrective import (
    TypicalWeights,
    annotated_cells,
    corrective_loss,
    corrective_weights,
    trusted_elsewhere,
)
from allinsam.training.dataset import (
    VARIETIES,
    FrameBatch,
    TrainingPatch,
    augment_frame,
    class_names_of,
    frames_per_epoch,
    prepare_patch,
    random_batches,
)
from allinsam.training.frozen_cache import FrozenCache
from allinsam.training.losses import LOSSES, known_loss
from allinsam.training.networks import NETWORKS, Network, patch_facts
from allinsam.training.settings import TrainingSettings

if TYPE_CHECKING:
    from lightning_fabric import Fabric

SETTLED_LEARNING_RATE = 1e-7  # the authors' eta_min
WARM_UP = 0.03  # share of a stage over which the learning rate rises
# Learning rate at a share of the stage, as a factor.
SCHEDULES: dict[str, Callable[[float], float]] = {
    "cosine": lambda share: 0.5 * (1.0 + math.cos(math.pi * share)),
    "poly": lambda share: (1.0 - share) ** 0.9,
}
BAD_STEPS_IN_A_ROW = 5
REPORT_EVERY_SECONDS = 1.0

Report = Callable[[dict[str, Any]], None]
# Called with a validation patch and what was found on it: class name -> label image.
Look = Callable[[TrainingPatch, dict[str, np.ndarray]], None]


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
    start: Path | str | None = None,
    look: Look | None = None,
    timer: Callable[[], float] = time.monotonic,
) -> TrainingResult:
    """Train on `patches`; leave run.json and adapter.safetensors in `folder` for `inference.load_run`.

    A folder with a checkpoint of the same settings, data and backbone is continued exactly where its last
    epoch ended. `report` gets a row about once a second and one per epoch; `should_stop` is asked
    at every step. Under `torchrun` every process calls this with the same arguments: they share each batch,
    and the first of them writes and reports.

    start: a finished run of the same network and classes, whose weights this one begins with.
    look: is shown each validation patch at the end of an epoch.
    timer: seconds that the budget and the times of the history are counted with.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    fabric = start_fabric(settings)
    row = NETWORKS[settings.network]
    if not row.needs_backbone:
        loaded = None
    elif loaded is None:
        loaded = load_backbone(settings.backbone, weights_dir=weights_dir, device=str(fabric.device))
    class_names = class_names_of(patches)
    facts = patch_facts(patches)
    on_gpu = fabric.device.type == "cuda"
    identity = {
        "settings": settings.to_dict(),
        "classes": list(class_names),
        "data": data_hash(patches),
        "backbone": loaded.weights_sha256 if loaded else None,
        "start": sha256_of_file(Path(start) / WEIGHTS_FILE) if start else None,
        "network": {
            "name": settings.network,
            # As JSON gives it back, so that a checkpoint's is equal.
            **json.loads(json.dumps(row.configure(settings, facts, on_gpu))),
        },
    }
    with torch.random.fork_rng(devices=[]):
        run = _Run(settings, patches, folder, loaded, fabric, identity, report, should_stop, start)
        run.look, run.timer = look, timer
        if run.progress.history and (folder / RUN_FILE).exists():
            return run.result("done")
        try:
            for stage in settings.stages:
                run.train_stage(stage)
        except _Cancelled:
            return run.result("cancelled")
        run.finish()
        return run.result("done")


def start_fabric(settings: TrainingSettings) -> "Fabric":
    """The processes and devices a run trains on: one, or those that `torchrun` started."""
    from lightning_fabric import Fabric  # slow to import, and only training needs it

    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)  # it tells its precision every time
    device, processes = pick_device(settings.device), int(os.environ.get("WORLD_SIZE", "1"))
    here = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    fabric = Fabric(
        accelerator=device.type,
        devices=[device.index] if device.index is not None and here == 1 else here,
        num_nodes=processes // here,
        strategy="ddp" if processes > 1 else "auto",
        precision="bf16-mixed" if uses_bfloat16(device, settings.precision) else "32-true",
    )
    fabric.launch()
    return fabric


def uses_bfloat16(device: torch.device, precision: str) -> bool:
    """Whether the network computes in bfloat16: if asked for, or if "auto" finds a chip that has it."""
    return precision == "bfloat16" or (precision == "auto" and quick_bf16(device.type))


def batch_loss(
    output: AdapterOutput,
    batch: FrameBatch,
    stage: str,
    settings: TrainingSettings,
    cell_px: float,
    typical: TypicalWeights | None = None,
    add_up: Callable[[Tensor], Tensor] = lambda sums: sums,
) -> Tensor:
    """Mean over the pairs of frame and class that were labelled; an unlabelled class teaches nothing.

    typical: follows the corrective stage's weights, and divides them; `add_up` sums over processes.
    """
    device = output.logits.device
    targets, known, seen = batch.targets.to(device), batch.known.to(device), batch.seen.to(device)
    if stage == "adapter":
        losses = known_loss(LOSSES[NETWORKS[settings.network].loss], output, targets, known, seen)
    else:
        frame, classes = known.nonzero().T
        logits, features = output.logits.float()[known], features_by_class(output).float()[known]
        targets, seen = targets[known], seen[frame, 0]
        weights = corrective_weights(logits, features, targets, cell_px, settings.corrective, seen)
        if typical is not None:
            typical.follow(weights, annotated_cells(targets), classes, add_up)
            usual = typical.of(classes).to(device=logits.device, dtype=logits.dtype)
            weights = [one / usual[:, term, None, None] for term, one in enumerate(weights)]
        if settings.corrective.shared:
            seen = seen * trusted_elsewhere(weights, annotated_cells(targets), frame)
        losses = corrective_loss(logits, features, targets, cell_px, settings.corrective, seen, weights)
    # Where nothing was labelled, the sum still reaches every parameter: processes wait for each other's.
    return losses.sum() / max(batch.pairs, 1.0) + 0.0 * output.logits.float().sum()


class _Run:
    """Data, network and progress of one call of `train`, in each of its processes."""

    def __init__(
        self,
        settings: TrainingSettings,
        patches: Sequence[TrainingPatch],
        folder: Path,
        loaded: LoadedBackbone | None,
        fabric: "Fabric",
        identity: dict[str, Any],
        report: Report | None,
        should_stop: Callable[[], bool] | None,
        start: Path | str | None,
    ) -> None:
        self.settings, self.folder, self.fabric, self.identity = settings, folder, fabric, identity
        self.report, self.should_stop = report or (lambda row: None), should_stop or (lambda: False)
        self.class_names = tuple(identity["classes"])
        self.row = row = NETWORKS[settings.network]

        # Model: the seed fixes its start; a checkpoint replaces it.
        torch.manual_seed(settings.seed)
        self.config = {name: value for name, value in identity["network"].items() if name != "name"}
        self.network = row.build(self.class_names, self.config, loaded, str(fabric.device))
        if start:
            self.network.load_trained_state(load_file(Path(start) / WEIGHTS_FILE))
        self.batch_size = settings.batch_size or row.batch_size or self.network.plan.batch_size
        if self.batch_size % fabric.world_size:
            raise InputError(
                f"batch_size {self.batch_size} cannot be dealt to {fabric.world_size} processes. "
                "Make it a multiple."
            )
        self.progress = Progress()

        # Data: brought to the network's resolution once; frames are cut anew in every epoch.
        self.learnt = [patch for patch in patches if patch.part == "train" and patch.labels]
        self.scored = [patch for patch in patches if patch.part == "val" and patch.labels]
        zooms = [
            frame_zoom(self.network, patch.image_rgb.shape[:2], patch.um_per_px) for patch in self.learnt
        ]
        self.prepared = [
            prepare_patch(patch, self.class_names, self.network.frame_px, zoom, settings.separate_touching)
            for patch, zoom in zip(self.learnt, zooms, strict=True)
        ]
        own = partial(augment_frame, variety=VARIETIES[settings.variety])
        self.augment = (row.augment or own) if settings.augmentation else None
        self.instances = starting_instances(self.learnt) if settings.calibrate else InstanceSettings()
        # Width of a cell of the network's grid in the patches' own pixels, for MOCL's k.
        self.cell_px = self.network.frame_px / self.network.grid_px / float(np.median(zooms))
        frames = max(frames_per_epoch(self.prepared, self.network.frame_px), settings.least_frames)
        self.steps_per_epoch = math.ceil(math.ceil(frames / self.batch_size) / settings.accumulate)

        self.cache = None
        if settings.cache_frozen:
            half = uses_bfloat16(fabric.device, settings.precision)
            precision = torch.bfloat16 if half else torch.float32
            self.cache = FrozenCache(
                self.network, identity["backbone"], folder / "frozen", precision=precision
            )

        checkpoint = load_checkpoint(folder, identity)
        self._set_up()
        if checkpoint is not None:
            self.progress = checkpoint.progress
            self.network.load_trained_state(checkpoint.weights)
            for name, value in checkpoint.average.items():
                self.average[name].copy_(value)
            self.optimizer.load_state_dict(checkpoint.optimizer)
            torch.set_rng_state(checkpoint.random_state)
        relative = settings.relative_weights
        n_classes = len(self.class_names)
        self.typical = TypicalWeights(n_classes, self.progress.typical_weights) if relative else None
        self.validation_seconds = 0.0
        self.bad_steps = 0  # in a row
        self.last_report = -math.inf
        self.look: Look | None = None
        self.timer: Callable[[], float] = time.monotonic

    def _set_up(self) -> None:
        """A fresh optimizer, and the network as the processes share it."""
        parameters = self.network.trainable_parameters()
        adapter = [value for name, value in parameters.items() if "adapter." in name]
        decoder = [value for name, value in parameters.items() if "adapter." not in name]
        settings, row = self.settings, self.row
        top = settings.learning_rate or row.learning_rate
        other = settings.decoder_learning_rate or row.decoder_learning_rate or top
        groups = [{"params": part, "top": rate} for part, rate in ((adapter, top), (decoder, other)) if part]
        decay = row.weight_decay if settings.weight_decay is None else settings.weight_decay
        if row.optimizer == "sgd":
            optimizer = torch.optim.SGD(
                groups, lr=top, momentum=row.momentum, nesterov=True, weight_decay=decay
            )
        else:
            optimizer = torch.optim.AdamW(groups, weight_decay=decay)
        self.trained, self.optimizer = self.fabric.setup(self.network, optimizer)
        self.average = self._parameters()

    def _parameters(self) -> dict[str, Tensor]:
        """A copy of everything that learns, where it is."""
        return {name: value.detach().clone() for name, value in self.network.trainable_parameters().items()}

    def _put(self, values: Mapping[str, Tensor]) -> None:
        """Give everything that learns these values."""
        with torch.no_grad():
            for name, parameter in self.network.trainable_parameters().items():
                parameter.copy_(values[name])

    def train_stage(self, stage: str) -> None:
        """All epochs of a stage that are still to do, or as many as its share of the time allows."""
        progress, stages = self.progress, list(self.settings.stages)
        if progress.stage and stages.index(progress.stage) > stages.index(stage):
            return
        if progress.stage != stage:
            self._enter(stage)
        epochs, limit = self.settings.stages[stage], self._stage_limit(stage)
        started, before = self.timer(), (progress.seconds, progress.stage_seconds)

        def clock() -> float:
            """Update both clocks; seconds in this stage. The first process's clock counts for all."""
            passed = self.fabric.broadcast(self.timer() - started)
            progress.seconds, progress.stage_seconds = before[0] + passed, before[1] + passed
            return progress.stage_seconds

        # However little time there is, a stage takes one step: its result must exist.
        while not self._is_over(stage) and (progress.epoch == 0 or clock() + self.validation_seconds < limit):
            losses = self._train_epoch(stage, epochs, limit, clock)
            progress.epoch += 1
            self._close_epoch(stage, losses, clock, limit)
        clock()

    def _is_over(self, stage: str) -> bool:
        """All epochs done, or the best one is further back than the settings' patience."""
        done, best = self.progress.epoch, self.progress.best.get(stage)
        waited = done - best["epoch"] if best else 0
        return done >= self.settings.stages[stage] or waited >= (self.settings.patience or math.inf)

    def _train_epoch(self, stage: str, epochs: int, limit: float, clock: Callable[[], float]) -> list[float]:
        """The losses of an epoch's steps, fewer where the time is up."""
        settings, progress = self.settings, self.progress
        rng = np.random.default_rng([settings.seed, list(settings.stages).index(stage), progress.epoch])
        batches = random_batches(
            self.prepared,
            self.network.frame_px,
            self.network.grid_px,
            self.batch_size,
            self.augment,
            rng,
            settings.least_frames,
            (self.fabric.global_rank, self.fabric.world_size),
            fixed=self.cache is not None,
        )
        losses: list[float] = []
        self.trained.train()
        groups = iter(lambda: list(islice(batches, settings.accumulate)), [])
        for step, group in enumerate(groups):
            if self.fabric.broadcast(self.should_stop()):
                raise _Cancelled
            done = progress.epoch * self.steps_per_epoch + step
            share = max(done / (epochs * self.steps_per_epoch), clock() / limit)
            loss = self._step(group, stage, share)
            self.bad_steps = 0 if math.isfinite(loss) else self.bad_steps + 1
            if self.bad_steps == BAD_STEPS_IN_A_ROW:
                raise ModelError(
                    f"The loss was no number {self.bad_steps} steps in a row, epoch {progress.epoch + 1}. "
                    f"Lower learning_rate (now {self.optimizer.param_groups[0]['top']:g})."
                )
            losses.append(loss)
            self._report(stage, done + 1, losses, limit)
            if clock() + self.validation_seconds >= limit:
                break
        return losses

    def _enter(self, stage: str) -> None:
        """Start a stage from the best weights of the one before, with a fresh optimizer."""
        previous = self.progress.stage
        if previous in self.progress.best:
            self.network.load_trained_state(load_file(self._best_file(previous)))
            self._set_up()
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

    def _step(self, batches: Sequence[FrameBatch], stage: str, share: float) -> float:
        """One optimizer step at `share` of the stage; its loss. A loss that is no number changes nothing."""
        settings, fabric = self.settings, self.fabric
        factor = 1.0 if stage == "adapter" else settings.corrective_factor
        factor *= min(1.0, share / WARM_UP + 0.02) * SCHEDULES[self.row.schedule](min(1.0, share))
        for group in self.optimizer.param_groups:
            group["lr"] = max(SETTLED_LEARNING_RATE, factor * group["top"])
        self.optimizer.zero_grad(set_to_none=True)
        total = torch.zeros((), device=fabric.device)
        for number, batch in enumerate(batches):
            with fabric.no_backward_sync(self.trained, enabled=number + 1 < len(batches)):
                frames = self.network.normalise(batch.frames)
                output = (
                    self.trained(frames, self.cache.get(batch.frames)) if self.cache else self.trained(frames)
                )
                loss = batch_loss(output, batch, stage, settings, self.cell_px, self.typical, self._add_up)
                fabric.backward(loss / len(batches))
            total += loss.detach() / len(batches)
        total = fabric.all_reduce(total, reduce_op="mean")
        clip = settings.gradient_clip or self.row.gradient_clip
        norm = nn.utils.clip_grad_norm_(self.network.trainable_parameters().values(), clip)
        if torch.isfinite(total) and torch.isfinite(norm):
            self.optimizer.step()
            self._follow(share)
        return total.item() if torch.isfinite(norm) else math.nan

    def _add_up(self, sums: Tensor) -> Tensor:
        return self.fabric.all_reduce(sums, reduce_op="sum")

    def _follow(self, share: float) -> None:
        """Let the averaged weights follow; closely during the warm-up, whose weights are soon outdated."""
        kept = self.settings.moving_average * min(1.0, share / WARM_UP)
        for name, value in self.network.trainable_parameters().items():
            self.average[name].lerp_(value.detach(), 1.0 - kept)

    def _report(self, stage: str, done: int, losses: list[float], limit: float) -> None:
        now = time.monotonic()
        if now - self.last_report < REPORT_EVERY_SECONDS or not self.fabric.is_global_zero:
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
        progress, begun, first = self.progress, self.timer(), self.fabric.is_global_zero
        weights, learning = self.network.trained_state(), self._parameters()
        self._put(self.average)
        averaged = self.network.trained_state()
        scores = validate(self.network.eval(), self.scored, self.instances, self.look) if first else {}
        self._put(learning)
        scores = self.fabric.broadcast(scores)
        self.validation_seconds = self.fabric.broadcast(self.timer() - begun)
        clock()
        row = {
            **self._status(stage, (progress.epoch - 1) * self.steps_per_epoch + len(losses), losses, limit),
            "val": scores.get("dice"),
            "scores": scores,
        }
        # Without validation patches the training loss has to choose.
        row["selection"] = -row["loss"] if row["val"] is None else row["val"]
        progress.history.append(row)
        better = stage not in progress.best or row["selection"] > progress.best[stage]["selection"]
        if better:
            progress.best[stage] = row
        if self.typical is not None:
            progress.typical_weights = self.typical.to_list()
        if first:
            if better:
                write_weights(self._best_file(stage), averaged)
            save_checkpoint(self.folder, self.identity, progress, weights, self.average, self.optimizer)
            self.report({"kind": "epoch", **row})
        self.fabric.barrier()

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
        if not self.fabric.is_global_zero:
            return
        if self.cache:
            self.cache.clear()
        weights = load_file(self._best_file(result.best["stage"]))
        write_weights(self.folder / WEIGHTS_FILE, weights)
        self.network.load_trained_state(weights)
        run = {
            "network": self.settings.network,
            "config": self.config,
            "backbone": self.settings.backbone if self.row.needs_backbone else None,
            "weights_sha256": self.identity["backbone"],
            "class_names": list(self.class_names),
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
            predict_probabilities(self.network, patch.image_rgb, patch.um_per_px) for patch in self.scored
        ]
        return calibrate(self.instances, small_nucleus_px(self.learnt), self.class_names, self.scored, maps)


def validate(
    network: Network,
    patches: Sequence[TrainingPatch],
    instances: InstanceSettings | None = None,
    look: Look | None = None,
) -> dict[str, Any]:
    """Unweighted scores at native size, means over classes: "dice" pooled over patches, "f1" of instances.

    A class is scored only on the patches where it was labelled. No patches: an empty dict.
    """
    counts: dict[str, np.ndarray] = {}
    f1: dict[str, list[float]] = {}
    for patch in patches:
        probabilities = predict_probabilities(network, patch.image_rgb, patch.um_per_px, overlap=0.0)
        found_by_class = cut_instances(probabilities, patch.um_per_px, instances)
        if look is not None:
            look(patch, dict(zip(network.class_names, found_by_class, strict=True)))
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
