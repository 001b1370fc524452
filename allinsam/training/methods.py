"""The paper's methods by name: which network learns, with which loss, from masks made how."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from allinsam.errors import InputError
from allinsam.training.networks import NETWORKS
from allinsam.training.settings import PRESETS, TrainingSettings

# "Random" boxes of the paper, whose amount it does not give: each side this many px further out at most, at
# 0.5 um per px.
RANDOM_BOX_PX = 10


@dataclass(frozen=True)
class Method:
    """One row of the paper's tables.

    masks: "edited" takes the labels as they are; "tight" and "random" make them anew, SAM's masks of the
    labels' boxes, tight or drawn loosely.
    """

    title: str
    network: str
    mocl: bool
    masks: str = "edited"


METHODS: dict[str, Method] = {
    "all_in_sam": Method("All-in-SAM without MOCL", "adapter", mocl=False),
    "all_in_sam_mocl": Method("All-in-SAM", "adapter", mocl=True),
    "nnunet": Method("nnU-Net (DynUNet)", "dynunet", mocl=False),
    "mocl": Method("MOCL (U-Net)", "unet", mocl=True),
    "sam_l_tight": Method("SAM-L, tight boxes (U-Net)", "unet", mocl=False, masks="tight"),
    "sam_l_random": Method("SAM-L, random boxes (U-Net)", "unet", mocl=False, masks="random"),
}


def settings_of(
    method: str, settings: TrainingSettings, changes: Mapping[str, object] | None = None
) -> TrainingSettings:
    """The settings a method trains with: network and loss are its own, budget and seed are everybody's."""
    if method not in METHODS:
        raise InputError(f"Unknown method {method!r}. Choose one of {', '.join(METHODS)}.")
    row = METHODS[method]
    return replace(settings, network=row.network, mocl=row.mocl, **(changes or {}))


def method_of(settings: Mapping[str, object], masks: str = "edited") -> str | None:
    """The method that a run with these settings, on labels with these masks, is; None where it has no name.

    settings: as kept with the run. "weak" masks are labels as they come.
    """
    masks = masks if masks in ("tight", "random") else "edited"
    weighted = bool(settings.get("mocl")) and settings.get("mocl_mode") != "none"
    asked = (settings.get("network", "adapter"), weighted, masks)
    return next((name for name, m in METHODS.items() if (m.network, m.mocl, m.masks) == asked), None)


def preset_of(preset: str, method: str) -> TrainingSettings:
    """A preset for one of the methods. What it says about the SAM adapter alone does not hold for another
    network: that takes its own learning rates, batches and weight decay, and is augmented.
    """
    if preset not in PRESETS:
        raise InputError(f"Unknown preset {preset!r}. Choose one of {', '.join(PRESETS)}.")
    settings = settings_of(method, PRESETS[preset])
    if NETWORKS[settings.network].needs_backbone:
        return settings
    usual = TrainingSettings()
    own = ("learning_rate", "decoder_learning_rate", "weight_decay", "batch_size", "gradient_clip")
    as_usual = {name: getattr(usual, name) for name in (*own, "backbone", "adapter_width", "augmentation")}
    return replace(settings, **as_usual)
