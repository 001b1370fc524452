"""The image encoder's attention without its largest tensors: same weights, same result.

SAM writes scores for every pair of tokens, then adds two more tensors of that size for their relative
places; and it fills its last windows up with empty tokens, which it projects like the rest. Here a pair's
place enters as extra channels of query and key, scores are made a block at a time, and the projection of an
empty token is known beforehand: it is the bias.
"""

import torch
from segment_anything.modeling import ImageEncoderViT
from segment_anything.modeling.image_encoder import Attention, Block, get_rel_pos
from torch import Tensor

# Scores held at once on a CPU, about what its cache holds: 1 to 4 million take the same time, 16 longer.
SCORES_AT_ONCE = 2**21


class QuickBlock(Block):
    """`segment_anything`'s block of the encoder; tokens beyond the frame are never projected."""

    def forward(self, x: Tensor) -> Tensor:
        batch, height, width, _ = x.shape
        attention = self.attn
        window = self.window_size
        down, across = (window, window) if window else (height, width)
        below, right = -height % down, -width % across
        projected = attention.qkv(self.norm1(x))
        if right:
            empty = attention.qkv.bias.expand(batch, height, right, -1)
            projected = torch.cat([projected, empty.to(projected.dtype)], dim=2)
        if below:
            empty = attention.qkv.bias.expand(batch, below, width + right, -1)
            projected = torch.cat([projected, empty.to(projected.dtype)], dim=1)
        rows, columns = (height + below) // down, (width + right) // across
        windows = (batch, rows, down, columns, across, 3, attention.num_heads, -1)
        by_head = projected.reshape(windows).permute(5, 0, 1, 3, 6, 2, 4, 7)
        queries, keys, values = by_head.flatten(1, 4).unbind(0)  # (n, down, across, c) each
        seen = self.look(attention, queries, keys, values)
        seen = seen.reshape(batch, rows, columns, attention.num_heads, down, across, -1)
        seen = seen.permute(0, 1, 4, 2, 5, 3, 6).reshape(batch, height + below, width + right, -1)
        x = x + attention.proj(seen[:, :height, :width])
        return x + self.mlp(self.norm2(x))

    @staticmethod
    def look(attention: Attention, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Attention within n groups of (height, width) tokens of c channels each; (n, height * width, c)."""
        height, width = queries.shape[1:3]
        flat = (queries * attention.scale).flatten(1, 2)
        keys, values = keys.flatten(1, 2), values.flatten(1, 2)
        if attention.use_rel_pos:
            by_row, by_column = places(attention, queries)
            flat = torch.cat([flat, by_row.flatten(1, 2), by_column.flatten(1, 2)], dim=2)
            # Each key says by a one in which row and in which column it lies.
            row = torch.eye(height, dtype=keys.dtype, device=keys.device).repeat_interleave(width, 0)
            column = torch.eye(width, dtype=keys.dtype, device=keys.device).repeat(height, 1)
            place = torch.cat([row, column], dim=1).expand(len(keys), -1, -1)
            keys = torch.cat([keys, place], dim=2)
        return attend(flat, keys, values)


class TracedBlock(QuickBlock):
    """The same for a compiler, which makes one step of scores, places and softmax itself."""

    @staticmethod
    def look(attention: Attention, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        height, width = queries.shape[1:3]
        scores = (queries * attention.scale).flatten(1, 2) @ keys.flatten(1, 2).transpose(1, 2)
        if attention.use_rel_pos:
            by_row, by_column = places(attention, queries)
            scores = scores.view(-1, height, width, height, width)
            scores = (scores + by_row[..., :, None] + by_column[..., None, :]).flatten(1, 2).flatten(2, 3)
        return scores.softmax(-1) @ values.flatten(1, 2)


def places(attention: Attention, queries: Tensor) -> tuple[Tensor, Tensor]:
    """What queries (n, height, width, c) add for each row (n, height, width, height) and each column."""
    height, width = queries.shape[1:3]
    down = get_rel_pos(height, height, attention.rel_pos_h).to(queries.dtype)
    across = get_rel_pos(width, width, attention.rel_pos_w).to(queries.dtype)
    by_row = torch.einsum("nhwc,hkc->nhwk", queries, down)
    return by_row, torch.einsum("nhwc,wkc->nhwk", queries, across)


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


def use_quick_attention(encoder: ImageEncoderViT, block: type[QuickBlock] = QuickBlock) -> None:
    """Let every block of an encoder compute so; its weights stay as they are."""
    for old in encoder.blocks:
        old.__class__ = block
