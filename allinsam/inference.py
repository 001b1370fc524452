"""Nuclei of each class from a PAS image alone: a trained run, its probability maps, its instances."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from scipy import ndimage
from skimage.feature import peak_local_max
from skimage.segmentation import watershed

from allinsam.errors import InputError, ModelError
from allinsam.sam.adapter import AdaptedSam
from allinsam.sam.backbones import LoadedBackbone, load_backbone, pick_device
from allinsam.sam.frames import frame_starts
from allinsam.training.networks import NETWORKS, Network

RUN_FILE = "run.json"
WEIGHTS_FILE = "adapter.safetensors"
# Resolution at which the pixel lengths below are given (20x).
REFERENCE_UM_PER_PX = 0.5
# Probabilities of equal classes may differ by as much.
ROUNDING = 1e-5
EIGHT_NEIGHBOURS = np.ones((3, 3), bool)
# Axes of a frame that are turned round: as it is, and nnU-Net's three mirror images.
MIRRORS = ((), (-1,), (-2,), (-2, -1))


@dataclass(frozen=True)
class InstanceSettings:
    """How a probability map becomes nuclei; lengths in pixels at 0.5 um/px, scaled to the patch."""

    threshold: float = 0.5  # probability from which a pixel is foreground (authors)
    min_area_px: float = 10.0  # smaller components are dropped (10 px at 20x)
    split_touching: bool = True  # watershed on the distance transform
    peak_distance_px: float = 5.0  # nearest two nuclei's centres may be
    whole_objects: bool = True  # a nucleus is cut from all classes together, then gets its likeliest class


@dataclass(frozen=True)
class RunModel:
    """A network ready to predict, and what its run says about it."""

    network: Network
    weights_sha256: str | None  # of the backbone; None: the network has none
    settings: dict
    instances: InstanceSettings = InstanceSettings()

    @property
    def class_names(self) -> tuple[str, ...]:
        return self.network.class_names


@dataclass(frozen=True)
class Prediction:
    """probability float32 (H, W); labels int32 (H, W); scores (n,): mean probability of instance i + 1."""

    probability: np.ndarray
    labels: np.ndarray
    scores: np.ndarray


def untrained_model(
    loaded: LoadedBackbone,
    class_names: Sequence[str],
    adapter_width: int | None = None,
    seed: int = 2023,
) -> RunModel:
    """The network a run with this seed starts from: the baseline every trained run is compared with."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = AdaptedSam(loaded, class_names, adapter_width).eval()
    return RunModel(network, loaded.weights_sha256, {})


def load_run(
    folder: Path | str,
    device: str = "cpu",
    weights_dir: Path | str | None = None,
    loaded: LoadedBackbone | None = None,
) -> RunModel:
    """The best network of a finished run. ModelError if files are missing or the backbone is another one."""
    folder = Path(folder)
    try:
        run = json.loads((folder / RUN_FILE).read_text(encoding="utf-8"))
        state = load_file(folder / WEIGHTS_FILE)
    except (OSError, json.JSONDecodeError, SafetensorError) as error:
        raise ModelError(f"{folder} holds no finished training run ({error}). Train one first.") from error
    # Runs made before there were several networks name none.
    row = NETWORKS[run.get("network", "adapter")]
    if not row.needs_backbone:
        loaded = None
    elif loaded is None:
        loaded = load_backbone(run["backbone"], weights_dir=weights_dir, device=device)
    if loaded and loaded.weights_sha256 != run["weights_sha256"]:
        raise ModelError(
            f"Run {folder.name} was trained on {run['backbone']} with weights {run['weights_sha256'][:12]}, "
            f"but {loaded.weights_sha256[:12]} is installed. Restore those weights or train again."
        )
    config = run.get("config") or {"adapter_width": run["adapter_width"]}
    network = row.build(run["class_names"], config, loaded, str(pick_device(device)))
    network.load_trained_state(state)
    instances = InstanceSettings(**run.get("instances", {}))
    return RunModel(network.eval(), run["weights_sha256"], run["settings"], instances)


def predict_patch(
    model: RunModel,
    image_rgb: np.ndarray,
    um_per_px: float | None = None,
    overlap: float = 0.5,
    batch_size: int = 4,
    mirrored: bool = False,
) -> dict[str, Prediction]:
    """Probability map, instances and their scores for each class of `model`; `image_rgb` uint8 (H, W, 3)."""
    probabilities = predict_probabilities(model.network, image_rgb, um_per_px, overlap, batch_size, mirrored)
    labels = cut_instances(probabilities, um_per_px, model.instances)
    return {
        name: Prediction(probability, instances, mean_per_instance(probability, instances))
        for name, probability, instances in zip(model.class_names, probabilities, labels, strict=True)
    }


def frame_zoom(network: Network, size_hw: tuple[int, int], um_per_px: float | None = None) -> float:
    """Factor by which an image is enlarged before it is cut into the network's frames."""
    if um_per_px is not None and um_per_px <= 0:
        raise InputError(f"Pixel size {um_per_px!r} um is not positive. Give the size of one pixel in um.")
    if network.whole_patch:
        return network.frame_px / max(size_hw)
    if um_per_px is None or network.um_per_px is None:
        return 1.0
    return um_per_px / network.um_per_px


@torch.inference_mode()
def predict_probabilities(
    network: Network,
    image_rgb: np.ndarray,
    um_per_px: float | None = None,
    overlap: float = 0.5,
    batch_size: int = 4,
    mirrored: bool = False,
) -> np.ndarray:
    """Float32 (C, H, W) in the image's own pixels, blended over frames that share `overlap` of their side.

    mirrored: the mean over each frame and its three mirror images, for four times the work.
    """
    if image_rgb.ndim != 3 or image_rgb.shape[2] != 3 or image_rgb.dtype != np.uint8 or not image_rgb.size:
        raise InputError(
            f"The image is {image_rgb.dtype} {image_rgb.shape}, not uint8 (H, W, 3). Convert it to RGB."
        )
    native_hw = image_rgb.shape[:2]
    zoom = frame_zoom(network, native_hw, um_per_px)
    image = torch.tensor(image_rgb)
    if zoom != 1.0:
        image = resize_image(image, zoom)
    frame, size_hw = network.frame_px, image.shape[:2]
    image = pad_to_frame(image, frame)
    starts = [
        (y, x)
        for y in frame_starts(image.shape[0], frame, overlap)
        for x in frame_starts(image.shape[1], frame, overlap)
    ]
    total = torch.zeros(len(network.class_names), *image.shape[:2])
    weight_sum = torch.zeros(image.shape[:2])
    ramp = torch.minimum(torch.arange(1, frame + 1), torch.arange(frame, 0, -1)).float()
    window = torch.outer(ramp, ramp)
    mirrors = MIRRORS if mirrored else MIRRORS[:1]
    for first in range(0, len(starts), batch_size):
        batch = starts[first : first + batch_size]
        frames = torch.stack([image[y : y + frame, x : x + frame] for y, x in batch])
        given = network.normalise(frames)
        seen = [network(given.flip(axes)).logits.flip(axes) for axes in mirrors]
        grown = [torch.nn.functional.interpolate(one, size=(frame, frame), mode="bilinear") for one in seen]
        probabilities = torch.stack([one.sigmoid().float() for one in grown]).mean(0)
        for (y, x), probability in zip(batch, probabilities.cpu(), strict=True):
            total[:, y : y + frame, x : x + frame] += probability * window
            weight_sum[y : y + frame, x : x + frame] += window
    blended = (total / weight_sum)[:, : size_hw[0], : size_hw[1]]
    if zoom != 1.0:
        blended = torch.nn.functional.interpolate(blended[None], size=native_hw, mode="bilinear")[0]
    return blended.numpy()


def resize_image(image: torch.Tensor, zoom: float) -> torch.Tensor:
    """uint8 (H, W, 3) enlarged or, with its frequencies cut, reduced by `zoom`."""
    size = [max(1, round(side * zoom)) for side in image.shape[:2]]
    planes = image.permute(2, 0, 1)[None].float()
    resized = torch.nn.functional.interpolate(planes, size=size, mode="bilinear", antialias=True)
    return resized[0].permute(1, 2, 0).round().clamp(0, 255).to(torch.uint8)


def pad_to_frame(image: torch.Tensor, frame: int) -> torch.Tensor:
    """(H, W, ...) continued by its own mirror image to at least one frame: a frame is never part black."""
    for axis in (0, 1):
        length = image.shape[axis]
        if length < frame:
            mirrored = np.pad(np.arange(length), (0, frame - length), mode="symmetric")
            image = image.index_select(axis, torch.from_numpy(mirrored))
    return image


def cut_instances(
    probabilities: np.ndarray, um_per_px: float | None = None, settings: InstanceSettings | None = None
) -> list[np.ndarray]:
    """One int32 label image per class of probabilities (C, H, W), apart from each other.

    With `whole_objects` a nucleus goes as a whole to the class of the highest mean probability; without, each
    contested pixel goes to the surer class, and a nucleus that two classes share falls into parts. Only where
    classes are equal but for rounding, as in an untrained network, does each of them get it: the order of the
    classes must not decide.
    """
    settings = settings or InstanceSettings()
    scale = 1.0 if um_per_px is None else REFERENCE_UM_PER_PX / um_per_px
    peak_distance = settings.peak_distance_px * scale if settings.split_touching else None
    min_area = settings.min_area_px * scale**2
    foreground = probabilities.max(0) >= settings.threshold
    if settings.whole_objects:
        objects = drop_small(split_objects(foreground, peak_distance), min_area)
        means = np.stack([mean_per_instance(probability, objects) for probability in probabilities])
        return [_keep_ids(objects, mean >= means.max(0) - ROUNDING) for mean in means]
    highest = probabilities.max(0) - ROUNDING
    return [
        drop_small(split_objects(foreground & (probability >= highest), peak_distance), min_area)
        for probability in probabilities
    ]


def split_objects(mask: np.ndarray, peak_distance_px: float | None = None) -> np.ndarray:
    """8-connected components of a mask, cut at their waists if `peak_distance_px` is given; ids 1..n."""
    labels, count = ndimage.label(mask, EIGHT_NEIGHBOURS)
    if peak_distance_px is not None and count:
        # The smoothing keeps a ragged outline from making two peaks out of one nucleus.
        depth = ndimage.gaussian_filter(ndimage.distance_transform_edt(mask), peak_distance_px / 5)
        peaks = peak_local_max(
            depth, min_distance=max(1, round(peak_distance_px)), labels=labels, exclude_border=False
        )
        markers = np.zeros_like(labels)
        markers[tuple(peaks.T)] = np.arange(1, len(peaks) + 1)
        labels = watershed(-depth, markers, mask=mask)
    return labels.astype(np.int32)


def drop_small(labels: np.ndarray, min_area_px: float) -> np.ndarray:
    """Instances of at least `min_area_px`, numbered 1..n again."""
    return _keep_ids(labels, np.bincount(labels.ravel())[1:] >= min_area_px)


def _keep_ids(labels: np.ndarray, keep: np.ndarray) -> np.ndarray:
    """Instances i + 1 with keep[i], numbered 1..n again."""
    new_ids = np.concatenate([[0], np.where(keep, keep.cumsum(), 0)]).astype(np.int32)
    return new_ids[labels]


def mean_per_instance(probability: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Float32 (n,): mean probability inside instances 1..n."""
    areas = np.bincount(labels.ravel())[1:]
    sums = np.bincount(labels.ravel(), weights=probability.ravel())[1:]
    return (sums / np.maximum(areas, 1)).astype(np.float32)
