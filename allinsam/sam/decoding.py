"""SAM's mask decoder, quicker: the same sums in another order.

A prompt is a handful of tokens, the image thousands. SAM projects the image anew for every prompt; here the
projections are taken to the tokens' side, (q Wk) x' for q (x Wk)', what all prompts share is computed once,
and masks are brought to full resolution only where somebody looks.
`segment_anything` itself is the reference.
"""

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from segment_anything.modeling import MaskDecoder, Sam
from segment_anything.modeling.transformer import Attention, TwoWayTransformer
from torch import Tensor, nn

SCALE = 4  # cells of a mask per token


@dataclass(frozen=True)
class Decoded:
    """What the transformer made of n prompts: image tokens (n, C, h, w), mask kernels (n, E), IoU (n,)."""

    source: Tensor
    fine: Tensor
    kernels: Tensor
    predicted_iou: Tensor


def split_embedding(decoder: MaskDecoder, embedding: Tensor) -> tuple[Tensor, Tensor]:
    """SAM's tokens (n, C, h, w), and the fine features behind them, which most models lack."""
    return embedding[:, : decoder.transformer_dim], embedding[:, decoder.transformer_dim :]


def upscale(decoder: MaskDecoder, source: Tensor, fine: Tensor) -> Tensor:
    """Features (n, E, 4h, 4w) that masks are read from, of tokens (n, C, h, w)."""
    return decoder.upscale(source, fine) if fine.shape[1] else decoder.output_upscaling(source)


def decode(sam: Sam, embedding: Tensor, position: Tensor, sparse: Tensor, dense: Tensor) -> Decoded:
    """Run the transformer for n prompts, as SAM does with `multimask_output=False`.

    embedding: (1, C', h, w) of all prompts, or (n, C', h, w), one of each; position: (1, C, h, w).
    sparse: (n, k, C) prompt tokens; dense: (1, C, 1, 1) if all are the same, else (n, C, h, w).
    """
    decoder, n = sam.mask_decoder, len(sparse)
    tokens, fine = split_embedding(decoder, embedding)
    own = torch.cat([decoder.iou_token.weight, decoder.mask_tokens.weight]).expand(n, -1, -1)
    source = (tokens + dense).flatten(2).transpose(1, 2)
    place = position.flatten(2).transpose(1, 2)
    found, source = two_way(decoder.transformer, source, place, torch.cat([own, sparse], dim=1))
    source = source.transpose(1, 2).unflatten(2, embedding.shape[2:])
    kernels = decoder.output_hypernetworks_mlps[0](found[:, 1])
    return Decoded(
        source, fine.expand(n, -1, -1, -1), kernels, decoder.iou_prediction_head(found[:, 0])[:, 0]
    )


def mask_logits(sam: Sam, decoded: Decoded, origins: Tensor, size: tuple[int, int]) -> Tensor:
    """Logits (n, 4 * rows, 4 * columns) of each prompt's own rectangle of `size` tokens.

    origins: (n, 2) row and column of the first token. Where a rectangle ends inside the embedding, a cell or
    two at its rim may differ from the whole mask's, as the decoder looks at neighbours: leave a token there.
    """
    kernels = decoded.kernels
    source, fine = (cut_tokens(part, origins, size) for part in (decoded.source, decoded.fine))
    upscaled = upscale(sam.mask_decoder, source, fine)
    return (kernels[:, None] @ upscaled.flatten(2))[:, 0].unflatten(1, upscaled.shape[2:])


def cut_tokens(features: Tensor, origins: Tensor, size: tuple[int, int]) -> Tensor:
    """(n, C, rows, columns): from each of n grids (n, C, h, w) the rectangle that begins at its origin."""
    _, channels, height, width = features.shape
    if size == (height, width):
        return features
    rows = origins[:, :1] + torch.arange(size[0], device=features.device)
    columns = origins[:, 1:] + torch.arange(size[1], device=features.device)
    index = (rows[:, :, None] * width + columns[:, None, :]).flatten(1)
    return features.flatten(2).gather(2, index[:, None].expand(-1, channels, -1)).unflatten(2, size)


def two_way(
    transformer: TwoWayTransformer, source: Tensor, place: Tensor, tokens: Tensor
) -> tuple[Tensor, Tensor]:
    """SAM's two-way transformer: tokens (n, t, C) and image (m, s, C), m = 1 or n, to the same."""
    queries, keys = tokens, source
    for layer in transformer.layers:
        if layer.skip_first_layer_pe:
            queries = layer.self_attn(q=queries, k=queries, v=queries)
        else:
            placed = queries + tokens
            queries = queries + layer.self_attn(q=placed, k=placed, v=queries)
        queries = layer.norm1(queries)
        placed_keys = keys + place
        seen = tokens_to_image(layer.cross_attn_token_to_image, queries + tokens, placed_keys, keys)
        queries = layer.norm2(queries + seen)
        queries = layer.norm3(queries + layer.mlp(queries))
        told = image_to_tokens(layer.cross_attn_image_to_token, placed_keys, queries + tokens, queries)
        # In place: with thousands of tokens for each prompt, new memory costs as much as the sums.
        keys = layer.norm4(told.add_(keys))
    seen = tokens_to_image(transformer.final_attn_token_to_image, queries + tokens, keys + place, keys)
    return transformer.norm_final_attn(queries + seen), keys


def tokens_to_image(attention: Attention, tokens: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """Tokens (n, t, C) attending to the image (m, s, C): (n, t, C)."""
    n, count, _ = tokens.shape
    queries = _heads(attention, attention.q_proj(tokens))
    # What the keys' bias adds is the same for all of the image, and softmax does not see it.
    asked = torch.einsum("nthd,hdc->nhtc", queries, _per_head(attention, attention.k_proj))
    asked = asked / math.sqrt(queries.shape[-1])
    # Prompts that share the image ask it in one go.
    asked = asked.reshape(len(keys), -1, keys.shape[2])
    weights = (asked @ keys.transpose(1, 2)).softmax(-1)
    got = (weights @ values).view(n, attention.num_heads, count, -1)
    answer = torch.einsum("nhtc,hdc->nthd", got, _per_head(attention, attention.v_proj)).flatten(2)
    return attention.out_proj(answer + attention.v_proj.bias)


def image_to_tokens(attention: Attention, image: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """The image (m, s, C) attending to tokens (n, t, C): (n, s, C)."""
    n, count, _ = keys.shape
    keys, values = _heads(attention, attention.k_proj(keys)), _heads(attention, attention.v_proj(values))
    scale = 1 / math.sqrt(keys.shape[-1])
    bias = attention.q_proj.bias.view(attention.num_heads, -1)
    offset = torch.einsum("nthd,hd->nht", keys, bias).flatten(1)[..., None] * scale
    offered = torch.einsum("nthd,hdc->nhtc", keys, _per_head(attention, attention.q_proj)) * scale
    if len(image) == 1:
        scores = (offered.reshape(-1, image.shape[2]) @ image[0].T).view(n, -1, image.shape[1]) + offset
    else:
        scores = torch.baddbmm(offset, offered.flatten(1, 2), image.transpose(1, 2))
    weights = scores.unflatten(1, (attention.num_heads, count)).softmax(2).flatten(1, 2)
    out = attention.out_proj.weight.view(-1, attention.num_heads, keys.shape[-1])
    told = torch.einsum("nthd,chd->nhtc", values, out).flatten(1, 2)
    return torch.baddbmm(attention.out_proj.bias, weights.transpose(1, 2), told)


def _heads(attention: Attention, projected: Tensor) -> Tensor:
    return projected.unflatten(2, (attention.num_heads, -1))


def _per_head(attention: Attention, projection: nn.Linear) -> Tensor:
    """A projection's weight as (heads, d, C)."""
    return projection.weight.view(attention.num_heads, -1, projection.in_features)


@lru_cache(maxsize=64)
def upsampling(cells: int, side_px: int, scaled_px: int, native_px: int) -> np.ndarray:
    """(native_px, cells): how much of each mask cell a pixel gets, along one axis.

    SAM enlarges a mask to the frame, cuts what was padded, and resizes that to the patch. Both steps are
    linear, so one matrix for the rows and one for the columns do the same to any part of a mask.
    """
    unit = torch.eye(cells)[None, None]
    enlarged = torch.nn.functional.interpolate(unit, (side_px, cells), mode="bilinear")[:, :, :scaled_px]
    return torch.nn.functional.interpolate(enlarged, (native_px, cells), mode="bilinear")[0, 0].numpy()


def token_ranges(weights: list[np.ndarray], tokens: int) -> tuple[np.ndarray, int]:
    """First token of each prompt's range, and how many all get, so that every cell with weight is inside.

    A token more at each end keeps what the decoder does at the rim of a cut out of sight.
    """
    first, last = [], []
    for matrix in weights:
        used = np.flatnonzero(matrix.any(axis=0))
        first.append(max(0, used[0] // SCALE - 1))
        last.append(min(tokens, used[-1] // SCALE + 2))
    count = int(np.max(np.subtract(last, first)))
    return np.minimum(first, tokens - count), count
