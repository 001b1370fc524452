"""SAM adapter: small trained layers before every frozen encoder block, and a decoder trained without prompts.

The layout follows SAM-Adapter (handcrafted high frequencies + patch embedding -> one prompt per block).
Classes share everything but their mask token and its hypernetwork: one run gives one binary map per class.
"""

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn

from allinsam.errors import InputError, ModelError
from allinsam.sam.compact import ConvStem
from allinsam.sam.decoding import split_embedding, upscale

if TYPE_CHECKING:
    from allinsam.sam.backbones import LoadedBackbone

# SAM-Adapter's freq_nums: the centred block holding this share of the spectrum is removed.
LOW_FREQUENCY_SHARE = 0.25
# The authors' scale_factor: adapter width = encoder width // 32.
WIDTH_DIVISOR = 32


class AdapterOutput(NamedTuple):
    """logits (B, C, f, f), a binary map per class; embedding (B, E, f, f), the decoder's last features.

    coarser: of a network with deep supervision in training, logits (B, C, f/2, f/2), (B, C, f/4, f/4), ...
    weights: of the losses on logits and coarser, in this order; sum 1.
    """

    logits: Tensor
    embedding: Tensor
    coarser: tuple[Tensor, ...] = ()
    weights: tuple[float, ...] = (1.0,)


def high_frequencies(frames: Tensor, removed_share: float = LOW_FREQUENCY_SHARE) -> Tensor:
    """Magnitude of `frames` (B, 3, H, W) after the centred low block of each channel's spectrum is zeroed."""
    height, width = frames.shape[-2:]
    half = int((height * width * removed_share) ** 0.5 // 2)
    spectrum = torch.fft.fftshift(torch.fft.fft2(frames.float(), norm="forward"), dim=(-2, -1))
    rows = slice(height // 2 - half, height // 2 + half)
    columns = slice(width // 2 - half, width // 2 + half)
    spectrum[..., rows, columns] = 0
    return torch.fft.ifft2(torch.fft.ifftshift(spectrum, dim=(-2, -1)), norm="forward").real.abs()


class PromptAdapter(nn.Module):
    """One prompt per encoder block: up(GELU(linear_i(high frequencies + patch embedding)))."""

    def __init__(self, embed_dim: int, depth: int, token_px: int, width: int | None = None) -> None:
        super().__init__()
        width = width or max(1, embed_dim // WIDTH_DIVISOR)
        self.embedding = nn.Linear(embed_dim, width)
        self.frequencies = nn.Conv2d(3, width, kernel_size=token_px, stride=token_px)
        self.blocks = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))
        self.up = nn.Linear(width, embed_dim)
        self.apply(_initialise)

    def features(self, frames: Tensor, tokens: Tensor) -> Tensor:
        """(B, h, w, width) from normalised frames (B, 3, F, F) and patch tokens (B, h, w, embed_dim)."""
        return self.frequencies(high_frequencies(frames)).permute(0, 2, 3, 1) + self.embedding(tokens)

    def prompt(self, block: int, features: Tensor) -> Tensor:
        """What is added to the tokens before block number `block`: (B, h, w, embed_dim)."""
        return self.up(nn.functional.gelu(self.blocks[block](features)))


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)
    elif isinstance(module, nn.Conv2d):
        fan_out = module.kernel_size[0] * module.kernel_size[1] * module.out_channels
        nn.init.normal_(module.weight, std=(2.0 / fan_out) ** 0.5)
        nn.init.zeros_(module.bias)


class AdaptedSam(nn.Module):
    """A SAM whose frozen encoder is steered by a trained adapter and whose trained decoder needs no prompt.

    The encoder is shared with `loaded`; the decoder is a copy, so the prompted SAM stays what it was.
    """

    def __init__(
        self, loaded: "LoadedBackbone", class_names: Sequence[str], adapter_width: int | None = None
    ) -> None:
        super().__init__()
        if not class_names or len(set(class_names)) != len(class_names):
            raise InputError(f"Class names {list(class_names)!r} must be unique and at least one.")
        sam = loaded.sam
        self.class_names = tuple(class_names)
        row = loaded.backbone
        self.frame_px, self.whole_patch, self.um_per_px = row.frame_px, row.whole_patch, row.um_per_px
        self.grid_px = 4 * row.frame_px // row.patch_px
        self.encoder = sam.image_encoder.requires_grad_(False)
        depth, embed_dim = len(self.encoder.blocks), self.encoder.blocks[0].norm1.normalized_shape[0]
        self.adapter = PromptAdapter(
            embed_dim, depth, loaded.backbone.patch_px, adapter_width or loaded.backbone.adapter_width
        )
        self.decoder = copy.deepcopy(sam.mask_decoder).requires_grad_(True)
        single_mask = self.decoder.output_hypernetworks_mlps[0]
        # Only single-mask output is used: the quality head and SAM's own hypernetworks would get no gradient.
        self.decoder.iou_prediction_head.requires_grad_(False)
        self.decoder.output_hypernetworks_mlps.requires_grad_(False)
        self.class_tokens = nn.Parameter(
            self.decoder.mask_tokens.weight.detach()[:1].repeat(len(class_names), 1)
        )
        self.class_hypernetworks = nn.ModuleList(
            copy.deepcopy(single_mask).requires_grad_(True) for _ in class_names
        )
        self.no_mask = nn.Parameter(sam.prompt_encoder.no_mask_embed.weight.detach().clone())
        with torch.no_grad():
            position = sam.prompt_encoder.get_dense_pe().detach().clone()
        self.register_buffer("position", position, persistent=False)
        self.register_buffer("pixel_mean", sam.pixel_mean.detach().clone()[None], persistent=False)
        self.register_buffer("pixel_std", sam.pixel_std.detach().clone()[None], persistent=False)
        self.to(loaded.device)

    def normalise(self, frames_rgb: Tensor) -> Tensor:
        """uint8 (B, F, F, 3) -> float32 (B, 3, F, F) in SAM's units, on the model's device."""
        frames = frames_rgb.to(self.pixel_mean.device).permute(0, 3, 1, 2).float()
        return (frames - self.pixel_mean) / self.pixel_std

    def forward(self, frames: Tensor) -> AdapterOutput:
        """Normalised frames (B, 3, F, F) -> a logit map per class on the decoder's grid, and its features."""
        return self.decode(self.encode(frames))

    def encode(self, frames: Tensor) -> Tensor:
        """Image embedding (B, D, h, w), a prompt from the adapter added before every block."""
        stem, fine = self.encoder.patch_embed, None
        with torch.no_grad():
            if isinstance(stem, ConvStem):
                tokens, fine = stem.stages(frames)
            else:
                tokens = stem(frames)
        features = self.adapter.features(frames, tokens)
        if self.encoder.pos_embed is not None:
            tokens = tokens + self.encoder.pos_embed
        for number, block in enumerate(self.encoder.blocks):
            tokens = block(tokens + self.adapter.prompt(number, features))
        embedding = self.encoder.neck(tokens.permute(0, 3, 1, 2))
        return embedding if fine is None else torch.cat([embedding, fine], dim=1)

    def decode(self, embedding: Tensor) -> AdapterOutput:
        """SAM's mask decoder without prompt; a token and a hypernetwork per class replace mask token 0."""
        decoder, batch = self.decoder, len(embedding)
        tokens = torch.cat([decoder.iou_token.weight, self.class_tokens, decoder.mask_tokens.weight[1:]])
        coarse, fine = split_embedding(decoder, embedding)
        source = coarse + self.no_mask.reshape(1, -1, 1, 1)
        tokens_out, source_out = decoder.transformer(
            source, self.position.expand(batch, -1, -1, -1), tokens.expand(batch, -1, -1)
        )
        upscaled = upscale(decoder, source_out.transpose(1, 2).reshape(source.shape), fine)
        kernels = torch.stack(
            [mlp(tokens_out[:, 1 + i]) for i, mlp in enumerate(self.class_hypernetworks)], dim=1
        )
        logits = torch.einsum("bce,behw->bchw", kernels, upscaled)
        return AdapterOutput(logits=logits, embedding=upscaled)

    def trainable_parameters(self) -> dict[str, nn.Parameter]:
        """Name -> parameter of everything that learns: adapter, decoder, class tokens, no-mask vector."""
        return {name: value for name, value in self.named_parameters() if value.requires_grad}

    def trained_state(self) -> dict[str, Tensor]:
        """The tensors a run has to keep; the frozen encoder comes back from the backbone's own file."""
        return {
            name: value.detach().cpu().clone().contiguous()
            for name, value in self.trainable_parameters().items()
        }

    def load_trained_state(self, state: dict[str, Tensor]) -> None:
        """Put `trained_state` back; a missing or foreign tensor is an error, never skipped."""
        parameters = self.trainable_parameters()
        missing, foreign = sorted(parameters.keys() - state.keys()), sorted(state.keys() - parameters.keys())
        if missing or foreign:
            raise ModelError(
                f"These weights do not fit the model: {missing[:3]} missing, {foreign[:3]} unknown. "
                "Use the weights of a run with the same classes, backbone and adapter width."
            )
        with torch.no_grad():
            for name, parameter in parameters.items():
                if parameter.shape != state[name].shape:
                    raise ModelError(
                        f"Tensor {name} has shape {tuple(state[name].shape)}, the model needs "
                        f"{tuple(parameter.shape)}. Use the settings the weights were trained with."
                    )
                parameter.copy_(state[name])
