"""SAM adapter: small trained layers before frozen encoder blocks, and a decoder trained without prompts.

The layout follows SAM-Adapter (handcrafted high frequencies + patch embedding -> one prompt per block).
Blocks before `first_block` get none, so what they make of a frame never changes: the frozen part.
Classes share everything but their mask token and its hypernetwork: one run gives one binary map per class.
ApartSam holds a network per class instead, as the authors train them. `build_network` makes either.
"""

import copy
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from segment_anything.modeling import PromptEncoder
from segment_anything.modeling.prompt_encoder import PositionEmbeddingRandom
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from allinsam.errors import InputError, ModelError
from allinsam.sam.compact import ConvStem
from allinsam.sam.decoding import split_embedding, upscale

if TYPE_CHECKING:
    from allinsam.sam.backbones import LoadedBackbone

# SAM-Adapter's freq_nums: the centred block holding this share of the spectrum is removed.
LOW_FREQUENCY_SHARE = 0.25
# The authors' scale_factor: adapter width = encoder width // 32.
WIDTH_DIVISOR = 32
# The authors' seed; random positions are drawn anew from it whenever a network is built.
POSITIONS_SEED = 2023


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


class FrozenFeatures(NamedTuple):
    """What no training changes of a batch of frames, with its batch axis first in every tensor.

    tokens (B, h, w, D) as they enter the first adapted block; patches (B, h, w, D), the patch embedding that
    prompts are made of; fine (B, C, h, w), the stem's fine features, None where the encoder has none.
    """

    tokens: Tensor
    patches: Tensor
    fine: Tensor | None = None


def features_by_class(output: AdapterOutput) -> Tensor:
    """(B, C, E, f, f): the features that each class's map was made of; a view where classes share them."""
    if output.embedding.dim() == 5:
        return output.embedding
    return output.embedding[:, None].expand(-1, output.logits.shape[1], -1, -1, -1)


class PromptAdapter(nn.Module):
    """One prompt per adapted block: up(GELU(linear_i(high frequencies + patch embedding)))."""

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
        """What is added to the tokens before adapted block number `block`: (B, h, w, embed_dim)."""
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

    Args:
        first_block: blocks from this one on are adapted (the paper's "latter layers"); 0 is all of them, as
            in the authors' code.
        random_positions: the authors' load leaves the decoder's positional encoding and the no-mask vector
            random; with this both are drawn from a fixed seed instead of read from the checkpoint.
        recompute: while training, keep only what enters each block, and run the block again on the way back:
            a fraction of the memory for about a third more time.
        train_encoder: the encoder's blocks and neck learn, too, in a copy: what the adapter is compared with.
    """

    def __init__(
        self,
        loaded: "LoadedBackbone",
        class_names: Sequence[str],
        adapter_width: int | None = None,
        first_block: int = 0,
        random_positions: bool = False,
        recompute: bool = False,
        train_encoder: bool = False,
    ) -> None:
        super().__init__()
        sam = loaded.sam
        self.class_names = check_classes(class_names)
        row = loaded.backbone
        self.frame_px, self.whole_patch, self.um_per_px = row.frame_px, row.whole_patch, row.um_per_px
        self.grid_px = 4 * row.frame_px // row.patch_px
        self.encoder = sam.image_encoder.requires_grad_(False)
        if train_encoder:
            self.encoder = copy.deepcopy(sam.image_encoder)
            self.encoder.neck.requires_grad_(True)
            self.encoder.blocks[first_block:].requires_grad_(True)
        depth, embed_dim = len(self.encoder.blocks), self.encoder.blocks[0].norm1.normalized_shape[0]
        if not 0 <= first_block < depth:
            raise InputError(f"first_block is {first_block!r}. Choose one of {row.name}'s, 0 to {depth - 1}.")
        self.first_block, self.recompute = first_block, recompute
        self.adapter = PromptAdapter(
            embed_dim, depth - first_block, row.patch_px, adapter_width or row.adapter_width
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
        if random_positions:
            position, no_mask = _random_positions(sam.prompt_encoder)
        else:
            with torch.no_grad():
                position = sam.prompt_encoder.get_dense_pe().detach().clone()
            no_mask = sam.prompt_encoder.no_mask_embed.weight.detach().clone()
        self.no_mask = nn.Parameter(no_mask)
        self.register_buffer("position", position, persistent=False)
        self.register_buffer("pixel_mean", sam.pixel_mean.detach().clone()[None], persistent=False)
        self.register_buffer("pixel_std", sam.pixel_std.detach().clone()[None], persistent=False)
        self.to(loaded.device)

    @property
    def device(self) -> torch.device:
        return self.pixel_mean.device

    def normalise(self, frames_rgb: Tensor) -> Tensor:
        """uint8 (B, F, F, 3) -> float32 (B, 3, F, F) in SAM's units, on the model's device."""
        frames = frames_rgb.to(self.device).permute(0, 3, 1, 2).float()
        return (frames - self.pixel_mean) / self.pixel_std

    def forward(self, frames: Tensor, frozen: FrozenFeatures | None = None) -> AdapterOutput:
        """Normalised frames (B, 3, F, F) -> a logit map per class on the decoder's grid, and its features.

        `frozen` are the same frames' frozen features where they are at hand.
        """
        return self.decode(self.encode(frames) if frozen is None else self.encode_from(frozen, frames))

    def encode(self, frames: Tensor) -> Tensor:
        """Image embedding (B, D, h, w), a prompt from the adapter added before every adapted block."""
        return self.encode_from(self.frozen_part(frames), frames)

    @torch.no_grad()
    def frozen_part(self, frames: Tensor) -> FrozenFeatures:
        """What stem, positions and the blocks before `first_block` make of normalised frames (B, 3, F, F)."""
        stem, fine = self.encoder.patch_embed, None
        if isinstance(stem, ConvStem):
            patches, fine = stem.stages(frames)
        else:
            patches = stem(frames)
        tokens = patches if self.encoder.pos_embed is None else patches + self.encoder.pos_embed
        for block in self.encoder.blocks[: self.first_block]:
            tokens = block(tokens)
        return FrozenFeatures(tokens, patches, fine)

    def encode_from(self, frozen: FrozenFeatures, frames: Tensor) -> Tensor:
        """Image embedding (B, D, h, w) from the frozen features of normalised frames (B, 3, F, F)."""
        features, tokens = self.adapter.features(frames, frozen.patches), frozen.tokens
        again = self.recompute and torch.is_grad_enabled()
        for number in range(len(self.adapter.blocks)):
            if again:
                tokens = checkpoint(
                    self._steered, number, tokens, features, use_reentrant=False, preserve_rng_state=False
                )
            else:
                tokens = self._steered(number, tokens, features)
        embedding = self.encoder.neck(tokens.permute(0, 3, 1, 2))
        return embedding if frozen.fine is None else torch.cat([embedding, frozen.fine], dim=1)

    def _steered(self, number: int, tokens: Tensor, features: Tensor) -> Tensor:
        """Tokens after adapted block `number`, before which its prompt is added."""
        block = self.encoder.blocks[self.first_block + number]
        return block(tokens + self.adapter.prompt(number, features))

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
        return _trainable_parameters(self)

    def trained_state(self) -> dict[str, Tensor]:
        """The tensors a run has to keep; the frozen encoder comes back from the backbone's own file."""
        return copies_of(self.trainable_parameters())

    def load_trained_state(self, state: dict[str, Tensor]) -> None:
        """Put `trained_state` back; a missing or foreign tensor is an error, never skipped."""
        put_back(self.trainable_parameters(), state)


class ApartSam(nn.Module):
    """A network of its own for each class, as the authors train them; used as AdaptedSam is.

    Classes share only the frozen encoder, so a class costs an encoder run, an adapter and a decoder. Options
    are AdaptedSam's. The output's embedding is (B, C, E, f, f): `features_by_class` reads either kind.
    """

    def __init__(self, loaded: "LoadedBackbone", class_names: Sequence[str], **options: object) -> None:
        super().__init__()
        self.class_names = check_classes(class_names)
        self.networks = nn.ModuleList(AdaptedSam(loaded, [name], **options) for name in class_names)
        one = self.networks[0]
        self.frame_px, self.whole_patch, self.um_per_px = one.frame_px, one.whole_patch, one.um_per_px
        self.grid_px, self.first_block = one.grid_px, one.first_block

    @property
    def device(self) -> torch.device:
        return self.networks[0].device

    def normalise(self, frames_rgb: Tensor) -> Tensor:
        """uint8 (B, F, F, 3) -> float32 (B, 3, F, F) in SAM's units, on the model's device."""
        return self.networks[0].normalise(frames_rgb)

    def frozen_part(self, frames: Tensor) -> FrozenFeatures:
        """As AdaptedSam's; every class begins with it."""
        return self.networks[0].frozen_part(frames)

    def forward(self, frames: Tensor, frozen: FrozenFeatures | None = None) -> AdapterOutput:
        """Normalised frames (B, 3, F, F) -> a logit map per class on the decoder's grid, and its features."""
        frozen = self.frozen_part(frames) if frozen is None else frozen
        outputs = [network(frames, frozen) for network in self.networks]
        return AdapterOutput(
            logits=torch.cat([output.logits for output in outputs], dim=1),
            embedding=torch.stack([output.embedding for output in outputs], dim=1),
        )

    def trainable_parameters(self) -> dict[str, nn.Parameter]:
        """Name -> parameter of everything that learns, class after class."""
        return _trainable_parameters(self)

    def trained_state(self) -> dict[str, Tensor]:
        """The tensors a run has to keep; the frozen encoder comes back from the backbone's own file."""
        return copies_of(self.trainable_parameters())

    def load_trained_state(self, state: dict[str, Tensor]) -> None:
        """Put `trained_state` back; a missing or foreign tensor is an error, never skipped."""
        put_back(self.trainable_parameters(), state)


def build_network(
    loaded: "LoadedBackbone", class_names: Sequence[str], classes_apart: bool = False, **options: object
) -> AdaptedSam | ApartSam:
    """One network for all classes, or one for each; `options` are AdaptedSam's."""
    return (ApartSam if classes_apart else AdaptedSam)(loaded, class_names, **options)


def check_classes(class_names: Sequence[str]) -> tuple[str, ...]:
    """The names as a tuple. InputError if there is none, or one twice."""
    if not class_names or len(set(class_names)) != len(class_names):
        raise InputError(f"Class names {list(class_names)!r} must be unique and at least one.")
    return tuple(class_names)


def _random_positions(prompts: PromptEncoder) -> tuple[Tensor, Tensor]:
    """Positional encoding (1, C, h, w) and no-mask vector (1, C), drawn as an untrained SAM has them."""
    like = prompts.no_mask_embed.weight
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(POSITIONS_SEED)
        drawn = PositionEmbeddingRandom(like.shape[1] // 2)
        position, no_mask = drawn(prompts.image_embedding_size)[None], torch.randn(like.shape)
    return position.to(like.device), no_mask.to(like.device)


def _trainable_parameters(network: nn.Module) -> dict[str, nn.Parameter]:
    return {name: value for name, value in network.named_parameters() if value.requires_grad}


def copies_of(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors as a file keeps them: on the CPU, contiguous, no longer shared."""
    return {name: value.detach().cpu().clone().contiguous() for name, value in tensors.items()}


def check_names(expected: Collection[str], state: Mapping[str, Tensor]) -> None:
    """Raises ModelError unless the state has a tensor of every name and no other."""
    missing, foreign = sorted(set(expected) - state.keys()), sorted(state.keys() - set(expected))
    if missing or foreign:
        raise ModelError(
            f"These weights do not fit the model: {missing[:3]} missing, {foreign[:3]} unknown. "
            "Use the weights of a run with the same classes, network and settings."
        )


def put_back(tensors: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> None:
    """Copy a kept state into `tensors`; ModelError, before anything changes, unless all of it fits."""
    check_names(tensors, state)
    for name, tensor in tensors.items():
        if tensor.shape != state[name].shape:
            raise ModelError(
                f"Tensor {name} has shape {tuple(state[name].shape)}, the model needs "
                f"{tuple(tensor.shape)}. Use the settings the weights were trained with."
            )
    with torch.no_grad():
        for name, tensor in tensors.items():
            tensor.copy_(state[name])
