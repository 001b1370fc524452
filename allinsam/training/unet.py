"""The U-Net of molecular-oriented corrective learning: one body, a head generated anew for each class.

Deng 2023's network after Omni-Seg: a controller reads the image and the class wanted, and writes the weights
of a small head that reads the body's features. So classes share all of the body and differ in 162 numbers.
"""

from collections.abc import Sequence
from itertools import pairwise
from math import gcd

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from allinsam.errors import InputError
from allinsam.sam.adapter import AdapterOutput, check_classes
from allinsam.training.networks import pack_state, restore_state

# Of the released network; channels in units of the base width.
STAGE_WIDTHS = (1, 2, 4, 8, 8)
STAGE_BLOCKS = (1, 2, 2, 2, 2)
DECODER_WIDTHS = (8, 4, 2, 1, 1)
GROUPS = 16
STRIDE = 2 ** (len(STAGE_WIDTHS) - 1)  # between the frame and the deepest stage
# Inputs and outputs of the dynamic head's three 1x1 layers; the two outputs are background and foreground.
HEAD_LAYERS = ((8, 8), (8, 8), (8, 2))
HEAD_PARAMETERS = sum(outputs * inputs + outputs for inputs, outputs in HEAD_LAYERS)
LARGEST_FRAME_PX = {"cpu": 256, "gpu": 512}  # the authors' patches have 512


def frame_px_for(median_size_hw: tuple[int, int], on_gpu: bool) -> int:
    """The largest frame that fits into a median patch and the machine."""
    largest = min(*median_size_hw, LARGEST_FRAME_PX["gpu" if on_gpu else "cpu"])
    return max(STRIDE, largest // STRIDE * STRIDE)


def _norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(gcd(GROUPS, channels), channels)


def _norm_relu_conv(inputs: int, outputs: int, kernel: int, stride: int = 1, bias: bool = False) -> nn.Module:
    conv = nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=bias)
    return nn.Sequential(_norm(inputs), nn.ReLU(), conv)


class ResidualBlock(nn.Module):
    """Pre-activation: two times GroupNorm, ReLU, 3x3 convolution; a 1x1 shortcut where the shape changes."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.first = _norm_relu_conv(inputs, outputs, 3, stride)
        self.second = _norm_relu_conv(outputs, outputs, 3)
        same = inputs == outputs and stride == 1
        self.shortcut = nn.Identity() if same else _norm_relu_conv(inputs, outputs, 1, stride)

    def forward(self, features: Tensor) -> Tensor:
        return self.second(self.first(features)) + self.shortcut(features)


class CorrectiveUNet(nn.Module):
    """A binary map per class from one pass through the body.

    The authors' head has two outputs per class, background and foreground. The logit given here is foreground
    minus background: its sigmoid equals their softmax's foreground probability, W of Eq. 1. Their loss has a
    sigmoid on each output apart; on the difference, binary cross-entropy is the softmax's cross-entropy.
    """

    def __init__(
        self,
        class_names: Sequence[str],
        frame_px: int = 512,
        base_width: int = 32,
        um_per_px: float | None = None,
    ) -> None:
        super().__init__()
        self.class_names = check_classes(class_names)
        if frame_px < STRIDE or frame_px % STRIDE:
            raise InputError(f"frame_px is {frame_px!r}. It must be a multiple of {STRIDE}.")
        if base_width < 1:
            raise InputError(f"base_width is {base_width!r}. It must be above 0.")
        self.frame_px = self.grid_px = frame_px
        self.whole_patch, self.um_per_px = False, um_per_px
        widths = [base_width * times for times in STAGE_WIDTHS]
        self.stem = nn.Conv2d(3, widths[0], 3, padding=1, bias=False)
        inputs, stages = widths[0], []
        for number, (width, blocks) in enumerate(zip(widths, STAGE_BLOCKS, strict=True)):
            first = ResidualBlock(inputs, width, stride=1 if number == 0 else 2)
            stages.append(nn.Sequential(first, *(ResidualBlock(width, width) for _ in range(blocks - 1))))
            inputs = width
        self.stages = nn.ModuleList(stages)
        self.fusion = _norm_relu_conv(inputs, inputs, 1)
        decoded = [base_width * times for times in DECODER_WIDTHS]
        self.decoder = nn.ModuleList(ResidualBlock(before, after) for before, after in pairwise(decoded))
        self.head = _norm_relu_conv(decoded[-1], HEAD_LAYERS[0][0], 1, bias=True)
        self.summary = nn.Sequential(_norm(inputs), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        # A 1x1 convolution on a map of one pixel is a linear layer.
        self.controller = nn.Linear(inputs + len(self.class_names), HEAD_PARAMETERS)
        self.apply(_initialise)

    def normalise(self, frames_rgb: Tensor) -> Tensor:
        """uint8 (B, F, F, 3) -> float32 (B, 3, F, F) in [0, 1], on the model's device (authors: no more)."""
        return frames_rgb.to(self.stem.weight.device).permute(0, 3, 1, 2).float() / 255.0

    def forward(self, frames: Tensor) -> AdapterOutput:
        """Normalised frames -> logits (B, C, F, F) and the last decoder block's (B, base_width, F, F)."""
        deepest, embedding = self.body(frames)
        parameters = self.head_parameters(deepest)
        both = dynamic_head(self.head(embedding), parameters)
        return AdapterOutput(logits=both[:, :, 1] - both[:, :, 0], embedding=embedding)

    def body(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        """Features of the deepest stage, F / 16 wide, and of the last decoder block, as wide as the frame."""
        features, skips = self.stem(frames), []
        for stage in self.stages:
            features = stage(features)
            skips.append(features)
        deepest = features = self.fusion(features)
        for block, skip in zip(self.decoder, reversed(skips[:-1]), strict=True):
            features = block(F.interpolate(features, scale_factor=2.0, mode="nearest") + skip)
        return deepest, features

    def head_parameters(self, deepest: Tensor) -> Tensor:
        """(B, C, 162): what the controller writes for each class."""
        classes = len(self.class_names)
        image = self.summary(deepest)[:, None].expand(-1, classes, -1)
        wanted = torch.eye(classes, dtype=image.dtype, device=image.device).expand(len(image), -1, -1)
        return self.controller(torch.cat([image, wanted], dim=2))

    def trainable_parameters(self) -> dict[str, nn.Parameter]:
        """Name -> parameter: all of them learn."""
        return dict(self.named_parameters())

    def trained_state(self) -> dict[str, Tensor]:
        """All weights and the class names."""
        return pack_state(self.trainable_parameters(), self.class_names)

    def load_trained_state(self, state: dict[str, Tensor]) -> None:
        """Put `trained_state` back; ModelError for other classes or tensors."""
        restore_state(self.trainable_parameters(), state, self.class_names)


def dynamic_head(features: Tensor, parameters: Tensor) -> Tensor:
    """(B, C, 2, H, W): features (B, 8, H, W) through three 1x1 layers of parameters (B, C, 162)."""
    batch, _, height, width = features.shape
    values, start = features.flatten(2)[:, None], 0
    for number, (inputs, outputs) in enumerate(HEAD_LAYERS):
        weights, biases = parameters[..., start : start + outputs * (inputs + 1)].split(
            [outputs * inputs, outputs], dim=-1
        )
        start += outputs * (inputs + 1)
        values = weights.unflatten(-1, (outputs, inputs)) @ values + biases[..., None]
        if number < len(HEAD_LAYERS) - 1:
            values = values.relu()
    return values.reshape(batch, parameters.shape[1], HEAD_LAYERS[-1][1], height, width)


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        if module.bias is not None:
            nn.init.zeros_(module.bias)
