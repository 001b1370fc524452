"""The image encoder's attention without its largest tensors: same weights, same result.

SAM writes scores for every pair of tokens, then adds two more tensors of that size for their relative places.
Here a pair's place enters as extra channels of query and key, and scores are made a block at a time.
"""

import torch
from segment_anything.modeling import ImageEncoderViT
from segment_anything.modeling.image_encoder import Attention, get_rel_pos
from torch import Tensor

# Scores held at once on a CPU, about what its cache holds: 1 to 4 million take the same time, 16 longer.
SCORES_AT_ONCE = 2**21


class QuickAttention(Attention):
    """`segment_anything`'s attention with relative positions, computed in blocks."""

    def forward(self, x: Tensor) -> Tensor:
        batch, height, width, _ = x.shape
        heads = (batch, height * width, 3, self.num_heads, -1)
        queries, keys, values = self.qkv(x).reshape(heads).permute(2, 0, 3, 1, 4).flatten(1, 2).unbind(0)
        if self.use_rel_pos:
            placed = queries.unflatten(1, (height, width))
            down = get_rel_pos(height, height, self.rel_pos_h).to(queries.dtype)
            across = get_rel_pos(width, width, self.rel_pos_w).to(queries.dtype)
            by_row = torch.einsum("nhwc,hkc->nhwk", placed, down).flatten(1, 2)
            by_column = torch.einsum("nhwc,wkc->nhwk", placed, across).flatten(1, 2)
            queries = torch.cat([queries * self.scale, by_row, by_column], dim=2)
            # Each key says by a one in which row and in which column it lies.
            row = torch.eye(height, dtype=keys.dtype, device=keys.device).repeat_interleave(width, 0)
            column = torch.eye(width, dtype=keys.dtype, device=keys.device).repeat(height, 1)
            place = torch.cat([row, column], dim=1).expand(len(keys), -1, -1)
            keys = torch.cat([keys, place], dim=2)
        else:
            queries = queries * self.scale
        seen = attend(queries, keys, values).unflatten(0, (batch, self.num_heads))
        return self.proj(seen.transpose(1, 2).reshape(batch, height, width, -1))


def attend(queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """softmax(q k') v for (n, s, c), (n, s, c), (n, s, d): (n, s, d)."""
    if queries.is_cuda:
        return torch.nn.functional.scaled_dot_product_attention(queries, keys, values, scale=1.0)
    count, length, _ = queries.shape
    group = max(1, SCORES_AT_ONCE // length**2)
    rows = max(1, min(length, SCORES_AT_ONCE // length))
    seen = []
    for first in range(0, count, group):
        part = slice(first, first + group)
        keys_across, group_values = keys[part].transpose(1, 2), values[part]
        blocks = [
            (block @ keys_across).softmax(-1) @ group_values for block in queries[part].split(rows, dim=1)
        ]
        seen.append(torch.cat(blocks, dim=1))
    return torch.cat(seen)


def use_quick_attention(encoder: ImageEncoderViT) -> None:
    """Let every block of an encoder compute its attention so; its weights stay as they are."""
    for block in encoder.blocks:
        block.attn.__class__ = QuickAttention
