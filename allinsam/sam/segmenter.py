"""Boxes to masks: embed a patch once, then decode any number of boxes on it."""

import threading
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from allinsam.errors import InputError, ModelError
from allinsam.masks import clean_mask
from allinsam.sam.backbones import LoadedBackbone
from allinsam.sam.frames import Frame, cover, cut_frames, frame_around

# Change this with anything that changes an embedding: cached ones are then made anew.
PREPROCESSING_VERSION = 1
# A mask stays within its box grown to this many times its width and height about its centre.
BOX_GROWTH = 1.2
# The box as a mask prompt: logits inside and outside it.
INSIDE_LOGIT, OUTSIDE_LOGIT = 4.0, -4.0
# On a CPU larger batches take more time per box, not less; on a GPU they fill it.
BOXES_AT_ONCE = {"cpu": 8, "cuda": 64}
FRAMES_AT_ONCE = {"cpu": 1, "cuda": 16}


@dataclass(frozen=True)
class PatchEmbedding:
    """What the encoder made of one patch: features (n, C, h, w), one for each frame, and the patch itself."""

    image_rgb: np.ndarray
    frames: tuple[Frame, ...]
    features: torch.Tensor
    weights_sha256: str

    @property
    def size_hw(self) -> tuple[int, int]:
        return self.image_rgb.shape[0], self.image_rgb.shape[1]


@dataclass(frozen=True)
class Segmentation:
    """Masks, bool (n, H, W), one for each box in its order, and SAM's own estimate of each one's IoU (n,).

    SAM may find nothing in a box: that mask is empty and its `predicted_iou` 0. Tell the user.
    """

    masks: np.ndarray
    predicted_iou: np.ndarray


class Segmenter:
    """Boxes to masks with one backbone. May be shared by threads: they take turns."""

    def __init__(self, loaded: LoadedBackbone) -> None:
        self.loaded = loaded
        self._lock = threading.Lock()
        with torch.no_grad():
            self._positions = loaded.sam.prompt_encoder.get_dense_pe()

    def embed(self, image_rgb: np.ndarray) -> PatchEmbedding:
        """Run the encoder over a patch, uint8 (H, W, 3) of any size. Does nothing that boxes would change."""
        image_rgb = as_image(image_rgb)
        frames = cover(self.loaded.backbone, image_rgb.shape[:2])
        return PatchEmbedding(image_rgb, frames, self._encode(image_rgb, frames), self.loaded.weights_sha256)

    def masks_from_boxes(self, embedding: PatchEmbedding, boxes: np.ndarray) -> Segmentation:
        """A mask for each box (xyxy, patch px, (n, 4)), cleaned: its largest part, holes filled.

        Parts of a box outside the patch are ignored. Raises InputError naming the first box that cannot be
        used, and ModelError where the embedding is another backbone's.
        """
        boxes = self._check(embedding, boxes)
        masks = np.zeros((len(boxes), *embedding.size_hw), bool)
        predicted_iou = np.zeros(len(boxes), np.float32)
        for index, frame, logits, score in self._decoded(embedding, boxes):
            if _paste(masks[index], logits > 0, frame, boxes[index]):
                predicted_iou[index] = score
        return Segmentation(masks, predicted_iou)

    def logits_from_boxes(
        self, embedding: PatchEmbedding, boxes: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """SAM's own answer, neither thresholded nor cleaned: logits (n, H, W) and predicted IoU (n,).

        Pixels outside the frame in which a box was decoded are -inf.
        """
        boxes = self._check(embedding, boxes)
        logits = np.full((len(boxes), *embedding.size_hw), -np.inf, np.float32)
        predicted_iou = np.zeros(len(boxes), np.float32)
        for index, frame, found, score in self._decoded(embedding, boxes):
            logits[index][frame.window] = found
            predicted_iou[index] = score
        return logits, predicted_iou

    def _check(self, embedding: PatchEmbedding, boxes: np.ndarray) -> np.ndarray:
        if embedding.weights_sha256 != self.loaded.weights_sha256:
            raise ModelError(
                f"This embedding was made with weights {embedding.weights_sha256[:12]}, the segmenter has "
                f"{self.loaded.weights_sha256[:12]}. Embed the patch again."
            )
        return check_boxes(boxes, embedding.size_hw)

    def _decoded(
        self, embedding: PatchEmbedding, boxes: np.ndarray
    ) -> Iterator[tuple[int, Frame, np.ndarray, float]]:
        """For each box, by frames: its number, the frame, logits over the frame's window, predicted IoU."""
        at_once = BOXES_AT_ONCE[self.loaded.device.type]
        for frame, features, members in self._by_frame(embedding, boxes):
            for batch in (members[i : i + at_once] for i in range(0, len(members), at_once)):
                logits, scores = self._decode(frame, features, boxes[batch])
                for index, logit, score in zip(batch, logits, scores, strict=True):
                    yield index, frame, logit, float(score)

    def _encode(self, image_rgb: np.ndarray, frames: tuple[Frame, ...]) -> torch.Tensor:
        sam, at_once = self.loaded.sam, FRAMES_AT_ONCE[self.loaded.device.type]
        features = []
        for batch in (frames[i : i + at_once] for i in range(0, len(frames), at_once)):
            cut = cut_frames(image_rgb, batch, self.loaded.backbone, sam)
            # Taken anew for each batch: someone's boxes need not wait for all frames of someone else's patch.
            with self._lock, torch.no_grad():
                features.append(sam.image_encoder(cut))
        return torch.cat(features)

    def _by_frame(
        self, embedding: PatchEmbedding, boxes: np.ndarray
    ) -> list[tuple[Frame, torch.Tensor, list[int]]]:
        """Frames in use with their features and the boxes decoded in each."""
        held: dict[int, list[int]] = {}
        work = []
        for index, box in enumerate(boxes):
            number = most_central(embedding.frames, box, embedding.size_hw)
            if number is not None:
                held.setdefault(number, []).append(index)
                continue
            own = frame_around(box, self.loaded.backbone, embedding.size_hw)
            work.append((own, self._encode(embedding.image_rgb, (own,)), [index]))
        for number, members in sorted(held.items()):
            work.append((embedding.frames[number], embedding.features[number : number + 1], members))
        return work

    def _decode(
        self, frame: Frame, features: torch.Tensor, boxes: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Logits (n, h, w) over the frame's window of the patch, and predicted IoU (n,)."""
        sam, device = self.loaded.sam, self.loaded.device
        in_frame = frame.to_frame(boxes)
        with self._lock, torch.no_grad():
            sparse, dense = sam.prompt_encoder(
                points=None,
                boxes=torch.from_numpy(in_frame).to(device),
                masks=self._raster(in_frame) if self.loaded.backbone.box_as_mask else None,
            )
            low_resolution, scores = sam.mask_decoder(
                image_embeddings=features.to(device, torch.float32),
                image_pe=self._positions,
                sparse_prompt_embeddings=sparse,
                dense_prompt_embeddings=dense,
                multimask_output=False,
            )
            logits = sam.postprocess_masks(
                low_resolution,
                (frame.scaled_height_px, frame.scaled_width_px),
                (frame.height_px, frame.width_px),
            )
        return logits[:, 0].cpu().numpy(), scores[:, 0].cpu().numpy()

    def _raster(self, in_frame: np.ndarray) -> torch.Tensor:
        """Boxes (n, 4) in frame px as mask prompts (n, 1, m, m): a cell is inside when its centre is."""
        rows, columns = self.loaded.sam.prompt_encoder.mask_input_size
        px_per_cell = self.loaded.backbone.frame_px / columns
        x, y = ((np.arange(cells) + 0.5) * px_per_cell for cells in (columns, rows))
        across = (x >= in_frame[:, :1]) & (x < in_frame[:, 2:3])
        down = (y >= in_frame[:, 1:2]) & (y < in_frame[:, 3:])
        raster = np.where(down[:, :, None] & across[:, None, :], INSIDE_LOGIT, OUTSIDE_LOGIT)
        return torch.from_numpy(raster[:, None].astype(np.float32)).to(self.loaded.device)


def grown_window(box: np.ndarray, size_hw: tuple[int, int]) -> tuple[int, int, int, int]:
    """Pixels (x0, y0, x1, y1) of the patch, half-open, whose centre lies in the grown box."""
    middle, half = (box[:2] + box[2:]) / 2, (box[2:] - box[:2]) / 2 * BOX_GROWTH
    limit = np.array(size_hw[::-1])
    low = np.clip(np.ceil(middle - half - 0.5), 0, limit).astype(int)
    high = np.clip(np.ceil(middle + half - 0.5), 0, limit).astype(int)
    return int(low[0]), int(low[1]), int(high[0]), int(high[1])


def most_central(frames: tuple[Frame, ...], box: np.ndarray, size_hw: tuple[int, int]) -> int | None:
    """Number of the frame in whose middle the box lies best; None where no frame holds it grown."""
    x0, y0, x1, y1 = grown_window(box, size_hw)
    best, best_distance = None, np.inf
    for number, frame in enumerate(frames):
        right, bottom = frame.x0 + frame.width_px, frame.y0 + frame.height_px
        if x0 < frame.x0 or y0 < frame.y0 or x1 > right or y1 > bottom:
            continue
        off_x = abs(box[0] + box[2] - frame.x0 - right)
        off_y = abs(box[1] + box[3] - frame.y0 - bottom)
        distance = off_x**2 + off_y**2
        if distance < best_distance:
            best, best_distance = number, distance
    return best


def as_image(image_rgb: np.ndarray) -> np.ndarray:
    """A read-only copy of the image; InputError unless it is uint8 (H, W, 3) with at least one pixel."""
    image_rgb = np.asarray(image_rgb)
    if image_rgb.ndim != 3 or image_rgb.shape[2] != 3 or image_rgb.dtype != np.uint8 or image_rgb.size == 0:
        raise InputError(
            f"An image of shape {image_rgb.shape} and type {image_rgb.dtype} is not usable. "
            "Give RGB as uint8 (height, width, 3)."
        )
    # An embedding keeps the image for large boxes: it must not change when the caller's array does.
    image_rgb = np.array(image_rgb, order="C")
    image_rgb.setflags(write=False)
    return image_rgb


def check_boxes(boxes: np.ndarray, size_hw: tuple[int, int]) -> np.ndarray:
    """Boxes as float32 (n, 4), clipped to the patch; InputError naming the first that cannot be used."""
    try:
        boxes = np.asarray(boxes, dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise InputError(
            f"Boxes are not numbers: {error}. Give x0, y0, x1, y1 rows, shape (n, 4)."
        ) from error
    if boxes.size == 0:
        return np.zeros((0, 4), np.float32)
    if boxes.ndim != 2 or boxes.shape[1] != 4:
        raise InputError(
            f"Boxes of shape {boxes.shape} are not usable. Give x0, y0, x1, y1 rows, shape (n, 4)."
        )
    height, width = size_hw
    for number, box in enumerate(boxes):
        x0, y0, x1, y1 = (float(value) for value in box)
        shown = f"Box {number} (x0 {x0:g}, y0 {y0:g}, x1 {x1:g}, y1 {y1:g})"
        if not np.isfinite(box).all():
            raise InputError(f"{shown} holds a value that is no number. Draw it again.")
        if x1 <= x0 or y1 <= y0:
            raise InputError(f"{shown} has no area. Give the upper left corner first, then the lower right.")
        if x0 >= width or y0 >= height or x1 <= 0 or y1 <= 0:
            raise InputError(
                f"{shown} lies outside the patch of {width} x {height} px. Draw it on the patch."
            )
    return np.clip(boxes, 0, np.array([width, height] * 2, dtype=np.float32))


def _paste(mask: np.ndarray, found: np.ndarray, frame: Frame, box: np.ndarray) -> bool:
    """Write what `found` (the frame's window) has in the grown box, cleaned; False where it has nothing."""
    x0, y0, x1, y1 = grown_window(box, mask.shape)
    x0, y0 = max(x0, frame.x0), max(y0, frame.y0)
    part = found[y0 - frame.y0 : y1 - frame.y0, x0 - frame.x0 : x1 - frame.x0]
    if not part.any():
        return False
    mask[y0 : y0 + part.shape[0], x0 : x0 + part.shape[1]] = clean_mask(part, min_area_px=1)
    return True
