"""The image encoder's attention without its largest tensors: same weights, same result, same gradients.

SAM writes scores for every pair of tokens, then adds two more tensors of that size for their relative places.
Here a pair's place enters as extra channels of query and key, and scores are made a block at a time. Training
keeps none of them: on the way back each block is made again.
"""

import torch
from segment_anything.modeling import ImageEncoderViT
from segment_anything.modeling.image_encoder import Attention, get_rel_pos
from torch import Tensor
from torch.nn import functional as F

# Scores held at once on a CPU, about what its cache holds: 1 to 4 million take the same time, 16 longer.
SCORES_AT_ONCE = 2**21
CHANNELS_PER_LOAD = 8  # a GPU's fused attention takes only whole loads of channels


class QuickAttention(Attention):
    """`segment_anything`'s attention with relative positions, computed in blocks."""

    def forward(self, x: Tensor) -> Tensor:
        batch, height, width, _ = x.shape
        heads = (batch, height * width, 3, self.num_heads, -1)
        queries, keys, values = self.qkv(x).reshape(heads).permute(2, 0, 3, 1, 4).flatten(1, 2).unbind(0)
        places = []
        if self.use_rel_pos:
            placed = queries.unflatten(1, (height, width))
            down = get_rel_pos(height, height, self.rel_pos_h).to(queries.dtype)
            across = get_rel_pos(width, width, self.rel_pos_w).to(queries.dtype)
            places.append(torch.einsum("nhwc,hkc->nhwk", placed, down).flatten(1, 2))
            places.append(torch.einsum("nhwc,wkc->nhwk", placed, across).flatten(1, 2))
        seen = attend(queries * self.scale, keys, values, *places).unflatten(0, (batch, self.num_heads))
        return self.proj(seen.transpose(1, 2).reshape(batch, height, width, -1))


def attend(
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    by_row: Tensor | None = None,
    by_column: Tensor | None = None,
) -> Tensor:
    """softmax(q k' + place) v for (n, s, c), (n, s, c), (n, s, d): (n, s, d).

    by_row (n, s, h) and by_column (n, s, w) are what a query adds to the scores of the keys in each row and
    column of the grid, s = h w.
    """
    if queries.is_cuda:
        queries, keys = _with_places(queries, keys, by_row, by_column)
        short = -queries.shape[2] % CHANNELS_PER_LOAD
        queries, keys = F.pad(queries, (0, short)), F.pad(keys, (0, short))
        # Fused kernels take four axes; with three, every score would be written.
        return F.scaled_dot_product_attention(queries[None], keys[None], values[None], scale=1.0)[0]
    if torch.is_grad_enabled():
        return _Blockwise.apply(queries, keys, values, by_row, by_column)
    return _in_blocks(*_with_places(queries, keys, by_row, by_column), values)


def _with_places(
    queries: Tensor, keys: Tensor, by_row: Tensor | None, by_column: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Queries and keys whose product is the scores with what a pair's place adds."""
    if by_row is None or by_column is None:
        return queries, keys
    height, width = by_row.shape[2], by_column.shape[2]
    # Each key says by a one in which row and in which column it lies.
    row = torch.eye(height, dtype=keys.dtype, device=keys.device).repeat_interleave(width, 0)
    column = torch.eye(width, dtype=keys.dtype, device=keys.device).repeat(height, 1)
    place = torch.cat([row, column], dim=1).expand(len(keys), -1, -1)
    return torch.cat([queries, by_row, by_column], dim=2), torch.cat([keys, place], dim=2)


def _block_sizes(length: int) -> tuple[int, int]:
    """How many of the n, and how many queries of each, are computed at once."""
    return max(1, SCORES_AT_ONCE // length**2), max(1, min(length, SCORES_AT_ONCE // length))


def _in_blocks(queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    count, length, _ = queries.shape
    group, rows = _block_sizes(length)
    seen = []
    for first in range(0, count, group):
        part = slice(first, first + group)
        # Contiguous, or each block's product would copy it anew.
        keys_across, group_values = keys[part].transpose(1, 2).contiguous(), values[part]
        blocks = [
            (block @ keys_across).softmax(-1) @ group_values for block in queries[part].split(rows, dim=1)
        ]
        seen.append(torch.cat(blocks, dim=1))
    return torch.cat(seen)


class _Blockwise(torch.autograd.Function):
    """`_in_blocks` that keeps its inputs for the way back, and no scores."""

    @staticmethod
    def forward(ctx, queries, keys, values, by_row, by_column):
        ctx.save_for_backward(queries, keys, values, by_row, by_column)
        return _in_blocks(*_with_places(queries, keys, by_row, by_column), values)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient):
        queries, keys, values, by_row, by_column = ctx.saved_tensors
        placed_queries, placed_keys = _with_places(queries, keys, by_row, by_column)
        to_queries = torch.empty_like(queries)
        # Sums over many blocks, so not in half precision; turned, so that no block of scores has to be.
        to_keys, to_values = (
            torch.zeros_like(each.transpose(1, 2), dtype=torch.promote_types(each.dtype, torch.float32))
            for each in (keys, values)
        )
        to_places = None if by_row is None else (torch.empty_like(by_row), torch.empty_like(by_column))
        count, length, _ = queries.shape
        group, rows = _block_sizes(length)
        for first in range(0, count, group):
            part = slice(first, first + group)
            keys_across = placed_keys[part].transpose(1, 2).contiguous()
            values_across = values[part].transpose(1, 2).contiguous()
            for start in range(0, length, rows):
                block = part, slice(start, start + rows)
                weights = (placed_queries[block] @ keys_across).softmax(-1)
                to_values[part] += gradient[block].transpose(1, 2) @ weights
                # torch's own, as it subtracts near equals in full precision.
                scores = torch.ops.aten._softmax_backward_data(
                    gradient[block] @ values_across, weights, -1, weights.dtype
                )
                to_queries[block] = scores @ keys[part]
                to_keys[part] += queries[block].transpose(1, 2) @ scores
                if to_places:
                    grid = scores.unflatten(2, (by_row.shape[2], by_column.shape[2]))
                    to_places[0][block], to_places[1][block] = grid.sum(3), grid.sum(2)
        to_keys, to_values = (each.transpose(1, 2).to(keys.dtype) for each in (to_keys, to_values))
        return to_queries, to_keys, to_values, *(to_places or (None, None))


def use_quick_attention(encoder: ImageEncoderViT) -> None:
    """Let every block of an encoder compute its attention so; its weights stay as they are."""
    for block in encoder.blocks:
        block.attn.__class__ = QuickAttention
