"""The settings of a training run: default, unit and source beside each field."""

import dataclasses
from dataclasses import dataclass
from typing import Any

from allinsam.errors import InputError
from allinsam.records import setting, settings_from
from allinsam.training.corrective import MOCL_MODES, CorrectiveSettings
from allinsam.training.dataset import VARIETIES
from allinsam.training.networks import NETWORKS

PRECISIONS = ("auto", "float32", "bfloat16")


@dataclass(frozen=True)
class TrainingSettings:
    settings_version: int = setting(2, "", "format of this record")
    network: str = setting("adapter", "", "the paper's; unet and dynunet are what it is compared with")
    backbone: str = setting("compact", "name or path of weights", "ours; the paper has vit_h")
    adapter_width: int | None = setting(
        48, "channels, None = the backbone's own", "ours for compact; SAM-Adapter: encoder width // 32"
    )
    first_block: int = setting(0, "block", "authors' code: 0, all are adapted; the paper: the later ones")
    cache_frozen: bool = setting(
        False, "", "ours: what comes before first_block is computed once; frames are then always the same"
    )
    recompute: bool = setting(False, "", "ours: a fraction of the memory for a third more time")
    classes_apart: bool = setting(False, "", "authors: one network per class; ours: all classes share one")
    random_positions: bool = setting(
        False, "", "the authors' load leaves the decoder's positions random; ours reads them"
    )
    train_encoder: bool = setting(
        False, "", "no adapter's limit: the whole encoder learns, an upper bound to compare with"
    )
    adapter_epochs: int = setting(40, "epochs", "ours; the authors have up to 500, patience 50")
    patience: int | None = setting(
        None, "epochs without a better validation Dice, None = never stop early", "authors: 50, on the loss"
    )
    mocl: bool = setting(True, "", "corrective stage after the adapter stage (paper)")
    corrective_epochs: int = setting(10, "epochs", "ours; the authors have 50 of 101")
    mocl_mode: str = setting("average", "average | product | none", "released code | Eq. 5 | a control")
    k: int = setting(100, "native px", "released code, top-k of Eq. 2")
    mocl_base: float = setting(1.5, "", "released code; base of the confidence weight in mode average")
    whole_nuclei: bool = setting(
        True, "", "ours: a nucleus is trusted or doubted as a whole; released code: pixel by pixel"
    )
    relative_weights: bool = setting(
        True, "", "ours: weights are divided by the class's typical one; released code: not"
    )
    shared_doubt: bool = setting(
        True, "", "ours: what is doubted as one class is less surely none of the others; paper: one by one"
    )
    dice_weights_denominator: bool = setting(
        True, "", "ours: what is doubted counts less in Dice; released code: in its numerator only"
    )
    learning_rate: float | None = setting(
        None, "per step, None = the network's own", "ours: 5e-3 for the compact adapter; authors: 2e-4"
    )
    decoder_learning_rate: float | None = setting(
        None, "per step, None = the network's own", "ours: 1e-3 beside the compact adapter; authors: 2e-4"
    )
    corrective_factor: float = setting(0.3, "of the learning rates", "ours: the corrective stage starts warm")
    weight_decay: float | None = setting(None, "per step, None = the network's own", "authors: 0.01")
    batch_size: int | None = setting(
        None, "frames, over all processes; None = the network's own", "authors: 1"
    )
    accumulate: int = setting(1, "batches per step", "ours")
    gradient_clip: float | None = setting(None, "L2 norm, None = the network's own", "ours")
    moving_average: float = setting(
        0.99,
        "share kept per step, 0 = none",
        "ours: the averaged weights are validated and kept; authors: none",
    )
    least_frames: int = setting(0, "frames per epoch: few labels are drawn again", "ours; authors: 0")
    augmentation: bool = setting(
        True, "", "ours: turned, mirrored, scaled, stained otherwise, at times blurred; the authors have none"
    )
    variety: str = setting(
        "study", "study | hospitals", "ours: how much stain, hue and size are varied; nnU-Net has its own"
    )
    separate_touching: bool = setting(
        True, "", "ours: a gap in the targets where two nuclei touch; authors: none"
    )
    calibrate: bool = setting(
        True,
        "",
        "ours: how near and how small nuclei may be is chosen on validation; authors: no splitting",
    )
    budget_minutes: float | None = setting(None, "minutes, None = no limit", "ours")
    corrective_share: float = setting(0.25, "of the budget", "ours; the rest is the adapter stage's")
    seed: int = setting(2023, "", "authors")
    device: str = setting("auto", "auto | cpu | cuda", "ours")
    precision: str = setting(
        "auto", "auto | float32 | bfloat16", "ours: auto = bfloat16 where the chip has it"
    )

    def __post_init__(self) -> None:
        positive = (
            "k",
            "learning_rate",
            "decoder_learning_rate",
            "corrective_factor",
            "batch_size",
            "accumulate",
            "gradient_clip",
            "budget_minutes",
            "patience",
        )
        for name in positive:
            if getattr(self, name) is not None and not getattr(self, name) > 0:
                raise InputError(f"{name} is {getattr(self, name)!r}. It must be above 0.")
        for name in ("adapter_epochs", "corrective_epochs", "first_block", "least_frames"):
            if getattr(self, name) < 0:
                raise InputError(f"{name} is {getattr(self, name)!r}. Give 0 or more.")
        if self.cache_frozen and (self.augmentation or self.train_encoder or self.network != "adapter"):
            raise InputError(
                "cache_frozen keeps frames as they are. Switch augmentation and train_encoder off, and train "
                "the network 'adapter'."
            )
        if not self.stages:
            raise InputError("No stage has an epoch. Give adapter_epochs above 0.")
        if not 0 <= self.moving_average < 1:
            raise InputError(f"moving_average is {self.moving_average!r}. It must be at least 0, below 1.")
        if self.network not in NETWORKS:
            raise InputError(f"Unknown network {self.network!r}. Choose one of {', '.join(NETWORKS)}.")
        if self.variety not in VARIETIES:
            raise InputError(f"Unknown variety {self.variety!r}. Choose one of {', '.join(VARIETIES)}.")
        if self.precision not in PRECISIONS:
            raise InputError(f"Unknown precision {self.precision!r}. Choose one of {PRECISIONS}.")
        if self.mocl_mode not in MOCL_MODES:
            raise InputError(f"Unknown mocl_mode {self.mocl_mode!r}. Choose one of {sorted(MOCL_MODES)}.")

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "TrainingSettings":
        """Settings from plain data; an unknown key is an error, never ignored."""
        return settings_from(cls, values, "training")

    @property
    def stages(self) -> dict[str, int]:
        """Stage -> its epochs, in order."""
        planned = {"adapter": self.adapter_epochs, "corrective": self.corrective_epochs if self.mocl else 0}
        return {stage: epochs for stage, epochs in planned.items() if epochs}

    @property
    def corrective(self) -> CorrectiveSettings:
        return CorrectiveSettings(
            self.mocl_mode,
            self.k,
            self.mocl_base,
            self.dice_weights_denominator,
            self.whole_nuclei,
            self.relative_weights,
            self.shared_doubt,
        )


# The released recipe, for comparison: the largest encoder, one learning rate, nothing added. MOCL came with
# other code, whose second half of 101 epochs stands for its stage here; nothing released joins the two.
AUTHORS = TrainingSettings(
    backbone="vit_h",
    adapter_width=None,
    adapter_epochs=500,
    corrective_epochs=51,
    learning_rate=2e-4,
    decoder_learning_rate=2e-4,
    weight_decay=0.01,
    batch_size=1,
    patience=50,
    moving_average=0.0,
    dice_weights_denominator=False,
    whole_nuclei=False,
    relative_weights=False,
    shared_doubt=False,
    augmentation=False,
    separate_touching=False,
    calibrate=False,
    precision="float32",
)

# What the Train page offers to begin with; each with why one would.
PRESETS: dict[str, TrainingSettings] = {
    "quick": TrainingSettings(adapter_epochs=8, corrective_epochs=2, budget_minutes=3.0),
    "best": TrainingSettings(adapter_epochs=80, corrective_epochs=20, budget_minutes=60.0),
    "faithful": AUTHORS,
}
PRESET_REASONS = {
    "quick": "Does it run, do the labels teach?",
    "best": "Our defaults, a longer budget: to report.",
    "faithful": "The authors' recipe: ViT-H, for a GPU.",
}
