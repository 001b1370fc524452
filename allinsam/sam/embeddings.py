"""Embeddings kept on disk and in memory, so that a patch is encoded once and its boxes answer at once.

A file is addressed by its content: the sha256 of the pixels, the weights and the preprocessing version. It
holds half-precision features and a checksum; a file that is damaged or does not fit is made anew.
"""

import hashlib
import json
import logging
import threading
from collections import OrderedDict
from concurrent.futures import Future
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from allinsam.files import write_file
from allinsam.sam.prompting import as_image
from allinsam.sam.segmenter import PREPROCESSING_VERSION, PatchEmbedding, Segmenter

log = logging.getLogger(__name__)


class EmbeddingCache:
    """Embeddings of patches by their pixels. May be shared by threads: each patch is computed by one of them.

    `folder` is made where missing and may be shared by processes: files appear whole or not at all. The
    `memory_patches` patches used last stay in memory. Where the folder cannot be written to, embeddings are
    still computed and kept in memory.
    """

    def __init__(self, folder: Path | str, segmenter: Segmenter, memory_patches: int = 8) -> None:
        self.folder = Path(folder)
        self.segmenter = segmenter
        self.memory_patches = max(1, memory_patches)
        self._recent: OrderedDict[str, Future[PatchEmbedding]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, image_rgb: np.ndarray) -> PatchEmbedding:
        """The patch's embedding: from memory, from disk, or computed and kept."""
        image_rgb = as_image(image_rgb)
        key = self.key(image_rgb)
        with self._lock:
            future = self._recent.get(key)
            mine = future is None
            if future is None:
                future = self._recent[key] = Future()
            self._recent.move_to_end(key)
            self._forget_oldest()
        if mine:
            self._fulfil(future, key, image_rgb)
        return future.result()

    def key(self, image_rgb: np.ndarray) -> str:
        """What a patch's embedding is filed under."""
        head = f"{PREPROCESSING_VERSION} {self.segmenter.loaded.weights_sha256} {image_rgb.shape}\n"
        digest = hashlib.sha256(head.encode())
        digest.update(np.ascontiguousarray(image_rgb))
        return digest.hexdigest()

    @property
    def stamp(self) -> str:
        """What the files of this backbone and this version of the program begin with."""
        made_by = f"{PREPROCESSING_VERSION} {self.segmenter.loaded.weights_sha256}"
        return hashlib.sha256(made_by.encode()).hexdigest()[:12]

    def path(self, key: str) -> Path:
        return self.folder / f"{self.stamp}-{key}.safetensors"

    def drop_stale(self) -> int:
        """Delete the files of other weights and earlier versions, which nothing reads any more; how many."""
        stale = [path for path in self.folder.glob("*.safetensors") if not path.name.startswith(self.stamp)]
        for path in stale:
            path.unlink(missing_ok=True)
        return len(stale)

    def _forget_oldest(self) -> None:
        done = [key for key, future in self._recent.items() if future.done()]
        for key in done[: max(0, len(self._recent) - self.memory_patches)]:
            del self._recent[key]

    def _fulfil(self, future: Future[PatchEmbedding], key: str, image_rgb: np.ndarray) -> None:
        try:
            future.set_result(self._read(key, image_rgb) or self._compute(key, image_rgb))
        except BaseException as error:
            # Whoever waits must hear of it, and the next call must try again.
            with self._lock:
                self._recent.pop(key, None)
            future.set_exception(error)

    def _compute(self, key: str, image_rgb: np.ndarray) -> PatchEmbedding:
        embedding = self.segmenter.embed(image_rgb)
        # Half precision at once, so that a patch's masks never depend on whether its file was there already.
        halved = embedding.features.to("cpu", torch.float16)
        self._write(key, halved)
        return self._embedding(embedding.image_rgb, halved)

    def _read(self, key: str, image_rgb: np.ndarray) -> PatchEmbedding | None:
        """The embedding on disk; None where there is none or it cannot be trusted."""
        path = self.path(key)
        try:
            with safe_open(path, framework="pt") as file:
                stored, features = file.metadata() or {}, file.get_tensor("features")
        except FileNotFoundError:
            return None
        except (SafetensorError, OSError) as error:
            log.warning("Embedding %s is damaged and is computed again: %s", path, error)
            return None
        if stored != self._describe(key, features):
            log.warning("Embedding %s does not fit its patch and is computed again.", path)
            return None
        return self._embedding(image_rgb, features)

    def _write(self, key: str, halved: torch.Tensor) -> None:
        content = save({"features": halved}, metadata=self._describe(key, halved))
        try:
            write_file(self.path(key), content)
        except OSError as error:
            log.warning("Embedding %s was not kept on disk: %s", self.path(key), error)

    def _embedding(self, image_rgb: np.ndarray, features: torch.Tensor) -> PatchEmbedding:
        loaded = self.segmenter.loaded
        return PatchEmbedding(image_rgb, features.to(loaded.device), loaded.weights_sha256)

    @staticmethod
    def _describe(key: str, features: torch.Tensor) -> dict[str, str]:
        checksum = hashlib.sha256(features.contiguous().numpy()).hexdigest()
        content = {"key": key, "sha256": checksum}
        # One entry only: safetensors writes several in any order, and one patch should give one file.
        return {"embedding": json.dumps(content)}
