"""Checkpoints that survive a kill at any moment: checkpoint.json always names a whole one."""

import dataclasses
import hashlib
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from allinsam.errors import InputError, ModelError
from allinsam.files import write_file
from allinsam.training.dataset import TrainingPatch

STATE_FILE = "checkpoint.json"


@dataclass
class Progress:
    """Where a run stands: what a checkpoint holds besides weights, optimizer and random state."""

    stage: str = ""
    epoch: int = 0  # epochs finished in this stage
    seconds: float = 0.0  # over every resumption
    stage_seconds: float = 0.0
    history: list[dict[str, Any]] = field(default_factory=list)  # one row per epoch, all stages
    typical_weights: list[list[float]] = field(default_factory=list)  # TypicalWeights of the corrective stage
    best: dict[str, dict[str, Any]] = field(default_factory=dict)  # stage -> row of its best epoch


@dataclass(frozen=True)
class Checkpoint:
    progress: Progress
    weights: dict[str, Tensor]
    average: dict[str, Tensor]
    optimizer: dict[str, Any]
    random_state: Tensor


def write_text(path: Path, text: str) -> None:
    """Write so that `path` holds the old text or the new, never a part."""
    write_file(path, text.encode("utf-8"))


def write_weights(path: Path, weights: dict[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """safetensors, whole or not at all."""
    write_file(path, save(weights, metadata=metadata))


def save_checkpoint(
    folder: Path,
    identity: dict[str, Any],
    progress: Progress,
    weights: dict[str, Tensor],
    average: dict[str, Tensor],
    optimizer: torch.optim.Optimizer,
) -> None:
    """New files under new names first; then checkpoint.json names them; then the old ones go."""
    tag = f"{progress.stage}-{progress.epoch:04d}"
    names = {"weights": f"checkpoint-{tag}.safetensors", "optimizer": f"checkpoint-{tag}.pt"}
    both = {f"weights/{name}": value for name, value in weights.items()}
    both |= {f"average/{name}": value for name, value in average.items()}
    write_weights(folder / names["weights"], both)
    # Tensors and plain numbers only, so that it can be read back without running code from the file.
    content = io.BytesIO()
    torch.save({"optimizer": optimizer.state_dict(), "random_state": torch.get_rng_state()}, content)
    write_file(folder / names["optimizer"], content.getvalue())
    state = {"identity": identity, "files": names, "progress": dataclasses.asdict(progress)}
    write_text(folder / STATE_FILE, json.dumps(state))
    remove_checkpoints(folder, keep=names.values())


def remove_checkpoints(folder: Path, keep: Sequence[str] = ()) -> None:
    """Delete checkpoint files that are not in `keep`."""
    kept = set(keep) | ({STATE_FILE} if keep else set())
    for path in folder.glob("checkpoint*"):
        if path.name not in kept:
            path.unlink()


def load_checkpoint(folder: Path, identity: dict[str, Any]) -> Checkpoint | None:
    """The newest whole checkpoint, None if there is none. InputError if it belongs to another run."""
    path = folder / STATE_FILE
    if not path.exists():
        return None
    state = json.loads(path.read_text(encoding="utf-8"))
    differing = sorted(key for key in identity if state["identity"].get(key) != identity[key])
    if differing:
        raise InputError(
            f"{folder} holds a checkpoint of a run with other {' and '.join(differing)}. "
            "Continue it with what it was started with, or train in an empty folder."
        )
    try:
        both = load_file(folder / state["files"]["weights"])
        rest = torch.load(folder / state["files"]["optimizer"], weights_only=True)
    except (OSError, RuntimeError, SafetensorError) as error:
        raise ModelError(f"The checkpoint in {folder} is damaged ({error}). Empty the folder.") from error
    weights, average = (
        {name.removeprefix(kind): value for name, value in both.items() if name.startswith(kind)}
        for kind in ("weights/", "average/")
    )
    progress = Progress(**state["progress"])
    return Checkpoint(progress, weights, average, rest["optimizer"], rest["random_state"])


def data_hash(patches: Sequence[TrainingPatch]) -> str:
    """sha256 of everything that is learnt from: ids, parts, pixels, labels."""
    digest = hashlib.sha256()
    for patch in patches:
        digest.update(repr((patch.patch_id, patch.part, patch.um_per_px, patch.image_rgb.shape)).encode())
        digest.update(np.ascontiguousarray(patch.image_rgb))
        for name in sorted(patch.labels):
            digest.update(name.encode())
            digest.update(np.ascontiguousarray(patch.labels[name]))
    return digest.hexdigest()
