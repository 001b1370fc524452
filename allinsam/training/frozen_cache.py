"""Frozen features of fixed frames, computed once: the blocks before the first adapted one never change.

An entry is addressed by its content: the sha256 of the frame's pixels, the backbone's weights, the first
adapted block and the precision. It holds half-precision numbers whether it was just computed, is in memory or
comes from disk, so a run learns the same with any budget, and with none.
"""

import hashlib
import json
import logging
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from allinsam.errors import InputError
from allinsam.files import write_file
from allinsam.sam.adapter import AdaptedSam, ApartSam, FrozenFeatures

log = logging.getLogger(__name__)

# Change this with anything that changes frozen features: entries on disk are then made anew.
VERSION = 1
SUFFIX = ".frozen.safetensors"
# Of ViT-B at 1024 px a frame takes 12.6 MB, of ViT-H 21 MB.
MEMORY_BYTES = 2**31


class FrozenCache:
    """Frozen features of `network`'s frames. For one thread; a folder may be shared by processes.

    The first frames fill `memory_bytes`, later ones go to files in `folder`; where it is None or cannot be
    written to, they are computed each time. Nothing that is in memory is given up for another: an epoch meets
    every frame once, so the one met longest ago is the next one wanted.

    Args:
        precision: torch.bfloat16 computes under autocast, torch.float32 does not.
    """

    def __init__(
        self,
        network: AdaptedSam | ApartSam,
        weights_sha256: str,
        folder: Path | str | None = None,
        memory_bytes: int = MEMORY_BYTES,
        precision: torch.dtype = torch.float32,
    ) -> None:
        if memory_bytes < 0:
            raise InputError(f"memory_bytes is {memory_bytes!r}. Give a number of bytes from 0 up.")
        self.network, self.weights_sha256, self.precision = network, weights_sha256, precision
        self.folder = None if folder is None else Path(folder)
        self.memory_left = memory_bytes
        self._kept: dict[str, dict[str, Tensor]] = {}

    def get(self, frames_rgb: Tensor) -> FrozenFeatures:
        """Features of uint8 frames (B, F, F, 3), float32 on the network's device: kept ones, or new."""
        entries = [self._entry(frame) for frame in frames_rgb.cpu()]
        device = self.network.device
        stacked = {
            name: torch.stack([entry[name].to(device).float() for entry in entries]) for name in entries[0]
        }
        return FrozenFeatures(**stacked)

    def key(self, frame_rgb: Tensor) -> str:
        """What the features of a uint8 frame (F, F, 3) are filed under."""
        made_by = (VERSION, self.weights_sha256, self.network.first_block, str(self.precision))
        digest = hashlib.sha256(repr((*made_by, tuple(frame_rgb.shape))).encode())
        digest.update(np.ascontiguousarray(frame_rgb.numpy()))
        return digest.hexdigest()

    def path(self, key: str) -> Path | None:
        """Where an entry lies that does not fit into memory."""
        return None if self.folder is None else self.folder / f"{key}{SUFFIX}"

    def clear(self) -> int:
        """Forget what is in memory and delete every entry of the folder; how many those were."""
        self.memory_left += sum(map(_bytes, self._kept.values()))
        self._kept.clear()
        files = [] if self.folder is None else list(self.folder.glob(f"*{SUFFIX}"))
        for file in files:
            file.unlink(missing_ok=True)
        return len(files)

    def _entry(self, frame_rgb: Tensor) -> dict[str, Tensor]:
        key = self.key(frame_rgb)
        if key in self._kept:
            return self._kept[key]
        path = self.path(key)
        entry = None if path is None else _read(path, key)
        if entry is not None:
            self._remember(key, entry)
            return entry
        entry = self._compute(frame_rgb)
        if not self._remember(key, entry) and path is not None:
            _write(path, key, entry)
        return entry

    def _compute(self, frame_rgb: Tensor) -> dict[str, Tensor]:
        # Alone, because a sum may be rounded differently in a batch.
        network = self.network
        enabled = self.precision == torch.bfloat16
        with torch.autocast(network.device.type, dtype=torch.bfloat16, enabled=enabled):
            frozen = network.frozen_part(network.normalise(frame_rgb[None]))
        parts = {"tokens": frozen.tokens, "patches": frozen.patches, "fine": frozen.fine}
        return {name: _halved(part[0]) for name, part in parts.items() if part is not None}

    def _remember(self, key: str, entry: dict[str, Tensor]) -> bool:
        size = _bytes(entry)
        if size > self.memory_left:
            return False
        self._kept[key] = entry
        self.memory_left -= size
        return True


def _halved(features: Tensor) -> Tensor:
    """On the CPU in float16, or, where a value is too large for that, in the coarser bfloat16."""
    features = features.cpu()
    fits = features.abs().max() <= torch.finfo(torch.float16).max
    return features.to(torch.float16 if fits else torch.bfloat16).contiguous()


def _bytes(entry: Mapping[str, Tensor]) -> int:
    return sum(part.nbytes for part in entry.values())


def _write(path: Path, key: str, entry: dict[str, Tensor]) -> None:
    try:
        write_file(path, save(entry, metadata=_describe(key, entry)))
    except OSError as error:
        log.warning("Frozen features %s were not kept on disk: %s", path, error)


def _read(path: Path, key: str) -> dict[str, Tensor] | None:
    """The entry on disk; None where there is none or it cannot be trusted."""
    try:
        with safe_open(path, framework="pt") as file:
            stored = file.metadata() or {}
            entry = {name: file.get_tensor(name) for name in file.keys()}
    except FileNotFoundError:
        return None
    except (SafetensorError, OSError) as error:
        log.warning("Frozen features %s are damaged and are computed again: %s", path, error)
        return None
    if stored != _describe(key, entry):
        log.warning("Frozen features %s do not fit their frame and are computed again.", path)
        return None
    return entry


def _describe(key: str, entry: Mapping[str, Tensor]) -> dict[str, str]:
    digest = hashlib.sha256()
    for name in sorted(entry):
        digest.update(repr((name, str(entry[name].dtype), tuple(entry[name].shape))).encode())
        digest.update(entry[name].contiguous().view(torch.uint8).numpy())
    # One metadata item only: safetensors writes several in any order, and one frame should give one file.
    return {"frozen": json.dumps({"key": key, "sha256": digest.hexdigest()})}
