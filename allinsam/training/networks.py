"""TABLE of the networks that the training loop can train, what they have in common, and how each is trained.

A new network is a module with the members of `Network` and a row of NETWORKS. `configure` turns facts of the
training patches into plain data, kept with the run; `build` makes the network from nothing but that data.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor, nn

from allinsam.errors import InputError, ModelError
from allinsam.sam.adapter import AdapterOutput, build_network, check_names, copies_of, put_back
from allinsam.training.augmentation import nnunet_frame

if TYPE_CHECKING:
    from allinsam.sam.backbones import LoadedBackbone
    from allinsam.training.dataset import Augment, TrainingPatch
    from allinsam.training.settings import TrainingSettings

# What the settings say of the adapter's shape.
ADAPTER_OPTIONS = (
    "adapter_width", "first_block", "recompute", "classes_apart", "random_positions", "train_encoder",
)  # fmt: skip
# Key of the class names, in order, among the tensors of a state.
CLASSES_KEY = "class_names"
Config = dict[str, Any]


@runtime_checkable
class Network(Protocol):
    """What the loop and inference ask of a network; an nn.Module besides."""

    class_names: tuple[str, ...]
    frame_px: int  # side of the square it is given
    grid_px: int  # side of the logits of one frame
    whole_patch: bool  # whether it takes the patch resized to one frame
    um_per_px: float | None  # pixel size that patches are brought to; None: as they come

    def normalise(self, frames_rgb: Tensor) -> Tensor:
        """uint8 (B, F, F, 3) -> float32 (B, 3, F, F) in the network's units, on its device."""
        ...

    def forward(self, frames: Tensor) -> AdapterOutput:
        """Normalised frames -> logits (B, C, g, g), a binary map per class, and features (B, E, g, g)."""
        ...

    def trainable_parameters(self) -> dict[str, nn.Parameter]:
        """Name -> parameter of everything that learns."""
        ...

    def trained_state(self) -> dict[str, Tensor]:
        """Every tensor a run has to keep, on the CPU."""
        ...

    def load_trained_state(self, state: dict[str, Tensor]) -> None:
        """Put `trained_state` back; ModelError if it does not fit to the last tensor."""
        ...


@dataclass(frozen=True)
class PatchFacts:
    """What a network may be planned by: facts of the training patches, at the resolution it will see."""

    um_per_px: float | None  # the median pixel size, None if no patch's is known
    median_size_hw: tuple[int, int]  # px
    n_patches: int
    channel_mean: tuple[float, float, float]  # grey levels 0..255
    channel_std: tuple[float, float, float]


def patch_facts(patches: Sequence["TrainingPatch"]) -> PatchFacts:
    """Facts of the patches of part "train"; every pixel counts the same, whether it was labelled or not."""
    learnt = [patch for patch in patches if patch.part == "train" and patch.labels]
    if not learnt:
        raise InputError("There is no training patch to plan a network by. Put labelled patches in 'train'.")
    known = [patch.um_per_px for patch in learnt if patch.um_per_px is not None]
    um_per_px = float(np.median(known)) if known else None
    zooms = [patch.um_per_px / um_per_px if patch.um_per_px and um_per_px else 1.0 for patch in learnt]
    sizes = [zoom * np.array(patch.image_rgb.shape[:2]) for zoom, patch in zip(zooms, learnt, strict=True)]
    height, width = np.median(sizes, axis=0)
    pixels = sum(patch.image_rgb[..., 0].size for patch in learnt)
    mean = sum(patch.image_rgb.sum((0, 1), dtype=np.float64) for patch in learnt) / pixels
    squares = sum(((patch.image_rgb - mean) ** 2).sum((0, 1)) for patch in learnt)
    return PatchFacts(
        um_per_px=um_per_px,
        median_size_hw=(round(height), round(width)),
        n_patches=len(learnt),
        channel_mean=tuple(mean.tolist()),
        channel_std=tuple(np.sqrt(squares / pixels).tolist()),
    )


def pack_state(tensors: Mapping[str, Tensor], class_names: Sequence[str]) -> dict[str, Tensor]:
    """Copies on the CPU, and the class names: two networks of as many classes have the same shapes."""
    return {**copies_of(tensors), CLASSES_KEY: _as_tensor(class_names)}


def restore_state(
    tensors: Mapping[str, Tensor], state: Mapping[str, Tensor], class_names: Sequence[str]
) -> None:
    """Copy a packed state into `tensors`; ModelError, before anything changes, unless all of it fits."""
    check_names({*tensors, CLASSES_KEY}, state)
    known = bytes(state[CLASSES_KEY].tolist()).decode(errors="replace").split("\n")
    if known != list(class_names):
        raise ModelError(
            f"These weights are for the classes {known}, the model is for {list(class_names)}. "
            "Use the weights of a run with the same classes in the same order."
        )
    put_back(tensors, {name: value for name, value in state.items() if name != CLASSES_KEY})


def _as_tensor(class_names: Sequence[str]) -> Tensor:
    return torch.tensor(list("\n".join(class_names).encode()), dtype=torch.uint8)


@dataclass(frozen=True)
class NetworkRow:
    """How one network comes about, and its own defaults for training.

    configure(settings, facts, on_gpu) -> config; build(class_names, config, loaded, device) -> network in
    evaluation mode. `loaded` is the SAM backbone of a network that needs one; it also decides its device.
    """

    title: str
    needs_backbone: bool
    configure: Callable[["TrainingSettings", PatchFacts, bool], Config]
    build: Callable[[Sequence[str], Config, "LoadedBackbone | None", str], Network]
    optimizer: str  # "adamw" | "sgd"; sgd has Nesterov's momentum
    schedule: str  # "cosine" | "poly", (1 - share done) ** 0.9
    learning_rate: float
    decoder_learning_rate: float | None  # of what is no adapter, where the two differ
    batch_size: int | None  # None: as planned, network.plan.batch_size
    momentum: float  # of sgd
    weight_decay: float
    loss: str  # key of LOSSES in losses.py
    gradient_clip: float  # L2 norm
    augment: "Augment | None" = None  # None: the dataset's own


def _configure_adapter(settings: "TrainingSettings", facts: PatchFacts, on_gpu: bool) -> Config:
    names = (
        "adapter_width",
        "first_block",
        "recompute",
        "classes_apart",
        "random_positions",
        "train_encoder",
    )
    return {name: getattr(settings, name) for name in names}


def _build_adapter(
    class_names: Sequence[str], config: Config, loaded: "LoadedBackbone | None", device: str
) -> Network:
    if loaded is None:
        raise ModelError("The SAM adapter needs a backbone. Name one in the settings.")
    return build_network(loaded, class_names, **config).eval()


def _configure_unet(settings: "TrainingSettings", facts: PatchFacts, on_gpu: bool) -> Config:
    from allinsam.training.unet import frame_px_for

    frame_px = frame_px_for(facts.median_size_hw, on_gpu)
    return {"frame_px": frame_px, "base_width": 32, "um_per_px": facts.um_per_px}


def _build_unet(
    class_names: Sequence[str], config: Config, loaded: "LoadedBackbone | None", device: str
) -> Network:
    from allinsam.training.unet import CorrectiveUNet

    return CorrectiveUNet(class_names, **config).to(device).eval()


def _configure_dynunet(settings: "TrainingSettings", facts: PatchFacts, on_gpu: bool) -> Config:
    from allinsam.training.nnunet import CPU_BUDGET, GPU_BUDGET, plan

    planned = plan(facts.median_size_hw, facts.n_patches, GPU_BUDGET if on_gpu else CPU_BUDGET)
    colours = {"channel_mean": list(facts.channel_mean), "channel_std": list(facts.channel_std)}
    return {"plan": dataclasses.asdict(planned), "um_per_px": facts.um_per_px, **colours}


def _build_dynunet(
    class_names: Sequence[str], config: Config, loaded: "LoadedBackbone | None", device: str
) -> Network:
    from allinsam.training.nnunet import NnUNetPlan, PlannedUNet

    config = {**config, "plan": NnUNetPlan.from_dict(config["plan"])}
    return PlannedUNet(class_names, **config).to(device).eval()


NETWORKS: dict[str, NetworkRow] = {
    # Learning rates: ours for the compact backbone; the authors have 2e-4 with vit_h, and batches of 1.
    "adapter": NetworkRow(
        title="SAM adapter",
        needs_backbone=True,
        configure=_configure_adapter,
        build=_build_adapter,
        optimizer="adamw",
        schedule="cosine",
        learning_rate=5e-3,
        decoder_learning_rate=1e-3,
        batch_size=1,
        momentum=0.0,
        weight_decay=0.01,
        loss="bce_iou",
        gradient_clip=1.0,
    ),
    # As released, where the weight decay of 5e-4 never reaches the optimizer. The clipping is ours: without
    # it, momentum 0.99 can drive the dynamic head's ReLUs to where they learn no more.
    "unet": NetworkRow(
        title="U-Net of MOCL",
        needs_backbone=False,
        configure=_configure_unet,
        build=_build_unet,
        optimizer="sgd",
        schedule="poly",
        learning_rate=1e-3,
        decoder_learning_rate=None,
        batch_size=4,
        momentum=0.99,
        weight_decay=0.0,
        loss="dice_bce",
        gradient_clip=1.0,
    ),
    "dynunet": NetworkRow(
        title="nnU-Net",
        needs_backbone=False,
        configure=_configure_dynunet,
        build=_build_dynunet,
        optimizer="sgd",
        schedule="poly",
        learning_rate=1e-2,
        decoder_learning_rate=None,
        batch_size=None,
        momentum=0.99,
        weight_decay=3e-5,
        loss="dice_bce",
        gradient_clip=12.0,
        augment=nnunet_frame,
    ),
}
