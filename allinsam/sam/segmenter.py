"""Boxes to masks: embed a patch once, then decode any number of prompts on it."""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from allinsam.compute import quick_bf16
from allinsam.errors import InputError, ModelError
from allinsam.masks import clean_mask
from allinsam.sam import decoding
from allinsam.sam.backbones import LoadedBackbone, load_backbone
from allinsam.sam.compact import ellipse_prior
from allinsam.sam.frames import Frame, crop_frame, encoder_input, frame_around, whole_frame
from allinsam.sam.openvino_encoder import compiled_encoder
from allinsam.sam.prompting import (
    Prompt,
    as_image,
    check_boxes,
    check_prompt,
    cut_window,
    earlier_prior,
)

# Change this with anything that changes an embedding: cached ones are then made anew.
PREPROCESSING_VERSION = 2
# On a CPU larger batches take more time per box, not less; on a GPU they fill it.
BOXES_AT_ONCE = {"cpu": 4, "cuda": 64}
CROPS_AT_ONCE = {"cpu": 8, "cuda": 256}


@dataclass(frozen=True)
class PatchEmbedding:
    """What the encoder made of one patch: features (1, C, h, w), and the patch itself."""

    image_rgb: np.ndarray
    features: Tensor
    weights_sha256: str

    @property
    def size_hw(self) -> tuple[int, int]:
        return self.image_rgb.shape[0], self.image_rgb.shape[1]


@dataclass(frozen=True)
class Segmentation:
    """Masks, bool (n, H, W), one for each prompt in its order, and SAM's own estimate of each one's IoU (n,).

    SAM may find nothing in a box: that mask is empty and its `predicted_iou` 0. Tell the user.
    """

    masks: np.ndarray
    predicted_iou: np.ndarray


@dataclass(frozen=True)
class _Found:
    """Logits of one prompt over a window (x0, y0, x1, y1) of the patch, and its predicted IoU."""

    index: int
    window: tuple[int, int, int, int]
    logits: np.ndarray
    predicted_iou: float


def open_segmenter(backbone: str | Path, device: str = "cpu") -> "Segmenter":
    """The segmenter of a row of BACKBONES or of a weights file, with the quickest encoder that is at hand."""
    loaded = load_backbone(backbone, device=device)
    half = quick_bf16(loaded.device.type)
    return Segmenter(loaded, encoder=compiled_encoder(loaded, half))


class Segmenter:
    """Prompts to masks with one backbone. May be shared by threads: they take turns.

    Args:
        precision: of the encoder: "bf16", "fp32", or "auto", bf16 where this machine is quicker with it.
            Masks are decoded in fp32, which is as quick.
        reference: decode each prompt alone with `segment_anything`'s own modules, which is slow.
        encoder: stands in for the backbone's image encoder, such as one compiled by another runtime.
    """

    def __init__(
        self,
        loaded: LoadedBackbone,
        precision: str = "auto",
        reference: bool = False,
        encoder: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        if precision not in ("auto", "fp32", "bf16"):
            raise InputError(f"Precision {precision!r} is unknown. Choose auto, fp32 or bf16.")
        self.loaded = loaded
        self.reference = reference
        self.half = precision == "bf16" or (precision == "auto" and quick_bf16(loaded.device.type))
        self._encoder = encoder or loaded.sam.image_encoder
        self._lock = threading.Lock()
        row = loaded.backbone
        # Where a crop lies in the square that SAM's prompts are placed in: its middle.
        self._inset_px = 0 if row.crop_px is None else (row.frame_px - row.crop_px) // 2
        with torch.no_grad():
            positions = loaded.sam.prompt_encoder.get_dense_pe()
        first = self._inset_px // row.patch_px
        self._crop_tokens = row.decoded_px // row.patch_px
        tokens = slice(first, first + self._crop_tokens)
        self._positions = positions[:, :, tokens, tokens]

    def embed(self, image_rgb: np.ndarray) -> PatchEmbedding:
        """Run the encoder over a patch, uint8 (H, W, 3) of any size; prompts come later."""
        image_rgb = as_image(image_rgb)
        height, width = image_rgb.shape[:2]
        row = self.loaded.backbone
        whole = whole_frame(row, (height, width)) if row.whole_patch else Frame(0, 0, *[width, height] * 2)
        return PatchEmbedding(image_rgb, self._encode(image_rgb, whole), self.loaded.weights_sha256)

    def masks_from_boxes(self, embedding: PatchEmbedding, boxes: np.ndarray) -> Segmentation:
        """A mask for each box (xyxy, patch px, (n, 4)), cleaned: its largest part, holes filled.

        Parts of a box outside the patch are ignored. Raises InputError naming the first box that cannot be
        used, and ModelError where the embedding is another backbone's.
        """
        self._check(embedding)
        return self._segment(embedding, [Prompt(box) for box in check_boxes(boxes, embedding.size_hw)])

    def masks_from_prompts(self, embedding: PatchEmbedding, prompts: Sequence[Prompt]) -> Segmentation:
        """A mask for each prompt, any mix of box, points inside and outside the nucleus, and the mask so far.

        Raises InputError where a prompt says nothing or a point lies outside the patch.
        """
        self._check(embedding)
        return self._segment(embedding, [check_prompt(prompt, embedding.size_hw) for prompt in prompts])

    def logits_from_boxes(
        self, embedding: PatchEmbedding, boxes: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """SAM's own answer, neither thresholded nor cleaned: logits (n, H, W) and predicted IoU (n,).

        Pixels outside what the decoder saw of the patch for a box are -inf.
        """
        self._check(embedding)
        boxes = check_boxes(boxes, embedding.size_hw)
        logits = np.full((len(boxes), *embedding.size_hw), -np.inf, np.float32)
        predicted_iou = np.zeros(len(boxes), np.float32)
        for found in self._decoded(embedding, [Prompt(box) for box in boxes], whole=True):
            x0, y0, x1, y1 = found.window
            logits[found.index, y0:y1, x0:x1] = found.logits
            predicted_iou[found.index] = found.predicted_iou
        return logits, predicted_iou

    def _check(self, embedding: PatchEmbedding) -> None:
        if embedding.weights_sha256 != self.loaded.weights_sha256:
            raise ModelError(
                f"This embedding was made with weights {embedding.weights_sha256[:12]}, the segmenter has "
                f"{self.loaded.weights_sha256[:12]}. Embed the patch again."
            )

    def _segment(self, embedding: PatchEmbedding, prompts: list[Prompt]) -> Segmentation:
        masks = np.zeros((len(prompts), *embedding.size_hw), bool)
        predicted_iou = np.zeros(len(prompts), np.float32)
        row = self.loaded.backbone
        for found in self._decoded(embedding, prompts):
            mask = found.logits > row.mask_threshold
            if mask.any():
                mask = clean_mask(mask, min_area_px=1)
                x0, y0, x1, y1 = found.window
                masks[found.index, y0:y1, x0:x1] = mask
                said = row.certainty_share * expected_iou(found.logits, mask)
                said += (1 - row.certainty_share) * found.predicted_iou
                predicted_iou[found.index] = min(max(said, 0.0), 1.0)
        return Segmentation(masks, predicted_iou)

    def _decoded(
        self, embedding: PatchEmbedding, prompts: list[Prompt], whole: bool = False
    ) -> Iterator[_Found]:
        """Answers for all prompts, over their grown boxes, or with `whole` over all that the decoder saw."""
        row, size_hw = self.loaded.backbone, embedding.size_hw
        shared: list[tuple[int, Frame]] = []
        for index, prompt in enumerate(prompts):
            box = prompt.extent()
            frame = whole_frame(row, size_hw) if row.whole_patch else crop_frame(box, row, size_hw)
            if frame is not None:
                shared.append((index, frame))
                continue
            own = frame_around(box, row, size_hw)
            yield from self._decode(self._encode(embedding.image_rgb, own), [(index, own)], prompts, whole)
        device = self.loaded.device.type
        at_once = 1 if self.reference else (BOXES_AT_ONCE if row.whole_patch else CROPS_AT_ONCE)[device]
        # Prompts of one batch bring the same kinds of input.
        shared.sort(key=lambda item: _kind(prompts[item[0]]))
        while shared:
            kind = _kind(prompts[shared[0][0]])
            batch = [item for item in shared[:at_once] if _kind(prompts[item[0]]) == kind]
            shared = shared[len(batch) :]
            features = embedding.features
            if not row.whole_patch:
                origins = torch.tensor([[f.y0 // row.patch_px, f.x0 // row.patch_px] for _, f in batch])
                crop = (self._crop_tokens, self._crop_tokens)
                features = decoding.cut_tokens(
                    features.expand(len(batch), -1, -1, -1), origins.to(features.device), crop
                )
            yield from self._decode(features, batch, prompts, whole)

    def _encode(self, image_rgb: np.ndarray, frame: Frame) -> Tensor:
        pixels = encoder_input(image_rgb, frame, self.loaded.backbone, self.loaded.sam)
        with self._lock, torch.inference_mode(), self._precision():
            return self._encoder(pixels).float()

    def _precision(self) -> AbstractContextManager:
        if not self.half:
            return nullcontext()
        return torch.autocast(self.loaded.device.type, torch.bfloat16)

    def _decode(
        self, features: Tensor, batch: list[tuple[int, Frame]], prompts: list[Prompt], whole: bool
    ) -> Iterator[_Found]:
        """Answers for a batch on features (1 or n, C, h, w)."""
        row = self.loaded.backbone
        windows = [
            frame.extent if whole else cut_window(prompts[index], frame, row.mask_growth)
            for index, frame in batch
        ]
        chosen = [prompts[index] for index, _ in batch]
        frames = [frame for _, frame in batch]
        with self._lock, torch.inference_mode():
            features = features.to(self.loaded.device, torch.float32)
            sparse, dense = self._prompted(chosen, frames)
            if self.reference:
                answers, scores = self._reference(features, sparse, dense, frames, windows)
            else:
                answers, scores = self._quick(features, sparse, dense, frames, windows)
        for (index, _), window, logits, score in zip(batch, windows, answers, scores, strict=True):
            yield _Found(index, window, logits, float(score))

    def _prompted(self, prompts: list[Prompt], frames: list[Frame]) -> tuple[Tensor, Tensor]:
        """Prompt tokens (n, k, C), and what is added to the image: (1, C, 1, 1), or (n, C, h, w)."""
        sam, device = self.loaded.sam, self.loaded.device
        encoder = sam.prompt_encoder
        boxes = points = None
        if prompts[0].box is not None:
            placed = [f.to_frame(p.box[None])[0] for p, f in zip(prompts, frames, strict=True)]
            boxes = torch.from_numpy(np.stack(placed)).to(device)
        if prompts[0].points is not None:
            placed = [f.to_frame(p.points) for p, f in zip(prompts, frames, strict=True)]
            labels = torch.from_numpy(np.stack([p.labels for p in prompts])).to(device)
            points = torch.from_numpy(np.stack(placed)).to(device) + self._inset_px, labels
        sparse = torch.empty((len(prompts), 0, encoder.embed_dim), device=device)
        if boxes is not None or points is not None:
            sparse = encoder(points, None if boxes is None else boxes + self._inset_px, None)[0]
        prior = self._prior(prompts, frames, boxes)
        if prior is None:
            return sparse, encoder.no_mask_embed.weight[..., None, None]
        return sparse, encoder.mask_downscaling(prior)

    def _prior(self, prompts: list[Prompt], frames: list[Frame], boxes: Tensor | None) -> Tensor | None:
        """Dense prompts (n, 1, 4h, 4w): of an earlier mask, else for the compact model the box's ellipse."""
        cells = self._crop_tokens * decoding.SCALE
        row = self.loaded.backbone
        if prompts[0].earlier is not None:
            px_per_cell = row.decoded_px / cells
            priors = [
                earlier_prior(prompt.earlier, frame, cells, px_per_cell, row.whole_patch)
                for prompt, frame in zip(prompts, frames, strict=True)
            ]
            return torch.from_numpy(np.stack(priors)[:, None]).to(self.loaded.device)
        if row.whole_patch or boxes is None:
            return None
        return ellipse_prior(boxes, (cells, cells))

    def _quick(
        self,
        features: Tensor,
        sparse: Tensor,
        dense: Tensor,
        frames: list[Frame],
        windows: list[tuple[int, int, int, int]],
    ) -> tuple[list[np.ndarray], np.ndarray]:
        """Logits over each prompt's window and predicted IoU; masks are made nowhere else."""
        sam, row = self.loaded.sam, self.loaded.backbone
        cells, side_px = self._crop_tokens * decoding.SCALE, row.decoded_px
        rows, columns = [], []
        for frame, (x0, y0, x1, y1) in zip(frames, windows, strict=True):
            down = decoding.upsampling(cells, side_px, frame.scaled_height_px, frame.height_px)
            across = decoding.upsampling(cells, side_px, frame.scaled_width_px, frame.width_px)
            rows.append(down[y0 - frame.y0 : y1 - frame.y0])
            columns.append(across[x0 - frame.x0 : x1 - frame.x0])
        first_row, row_count = decoding.token_ranges(rows, self._crop_tokens)
        first_column, column_count = decoding.token_ranges(columns, self._crop_tokens)
        origins = torch.tensor(np.stack([first_row, first_column], axis=1), device=features.device)
        decoded = decoding.decode(sam, features, self._positions, sparse, dense)
        low = decoding.mask_logits(sam, decoded, origins, (row_count, column_count))
        answers = []
        for number, logits in enumerate(low.cpu().numpy()):
            top, left = first_row[number] * decoding.SCALE, first_column[number] * decoding.SCALE
            down = rows[number][:, top : top + logits.shape[0]]
            across = columns[number][:, left : left + logits.shape[1]]
            answers.append(down @ logits @ across.T)
        return answers, decoded.predicted_iou.cpu().numpy()

    def _reference(
        self,
        features: Tensor,
        sparse: Tensor,
        dense: Tensor,
        frames: list[Frame],
        windows: list[tuple[int, int, int, int]],
    ) -> tuple[list[np.ndarray], np.ndarray]:
        """The same for one prompt by SAM's own decoder and interpolation."""
        row, (frame,), ((x0, y0, x1, y1),) = self.loaded.backbone, frames, windows
        low, score = self.loaded.sam.mask_decoder(
            image_embeddings=features,
            image_pe=self._positions,
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense.expand(-1, -1, *features.shape[2:]),
            multimask_output=False,
        )
        side = row.decoded_px
        logits = torch.nn.functional.interpolate(low, (side, side), mode="bilinear")
        logits = logits[..., : frame.scaled_height_px, : frame.scaled_width_px]
        logits = torch.nn.functional.interpolate(logits, (frame.height_px, frame.width_px), mode="bilinear")
        cut = logits[0, 0, y0 - frame.y0 : y1 - frame.y0, x0 - frame.x0 : x1 - frame.x0]
        return [cut.cpu().numpy()], score[:, 0].cpu().numpy()


def _kind(prompt: Prompt) -> tuple[bool, int, bool]:
    points = 0 if prompt.points is None else len(prompt.points)
    return prompt.box is not None, points, prompt.earlier is not None


def expected_iou(logits: np.ndarray, mask: np.ndarray) -> float:
    """IoU of a mask with the truth, if each pixel is true with the probability its logit says."""
    probability = 1 / (1 + np.exp(-np.clip(logits, -30, 30)))
    inside = probability[mask].sum()
    return float(inside / max(mask.sum() + probability[~mask].sum(), 1e-6))
