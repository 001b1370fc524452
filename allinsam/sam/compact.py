"""The compact SAM, position-free: a patch of any size is encoded once, each prompt decoded on a crop of it.

The embedding holds SAM's tokens and, folded into further channels, features of the stem at stride 4: the
decoder adds them as it brings a mask to stride 2, so that outlines keep what tokens of 8 px blur.

The decoder works on a rectangle of tokens cut from the patch's embedding and placed in SAM's frame of 256 px
(32 x 32 tokens of 8 px): a crop of 16 x 16 tokens sits in the frame's middle, one of 32 x 32 fills it.

Dense input ("prior logits"): what is believed of the mask before looking, clamped to +-4, at stride 2. For a
box it is the signed distance in px to the ellipse inscribed in it; for a correction the earlier logits.
"""

import torch
from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, Sam, TwoWayTransformer
from segment_anything.modeling.common import LayerNorm2d
from torch import Tensor, nn

FRAME_PX = 256
PATCH_PX = 8
MASK_STRIDE_PX = 2
CROP_TOKENS = 16
FINE_WIDTH = 32  # channels at stride 4 that reach the decoder
FINE_STAGE = 6  # layers of the stem before them
PRIOR_LIMIT = 4.0
PIXEL_MEAN = (123.675, 116.28, 103.53)
PIXEL_STD = (58.395, 57.12, 57.375)


class ContextMixer(nn.Module):
    """Residual 7x7 depthwise mixing of tokens; carries context across the borders of attention windows."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.spatial = nn.Conv2d(width, width, 7, padding=3, groups=width)
        self.norm = LayerNorm2d(width)
        self.expand = nn.Conv2d(width, 2 * width, 1)
        self.project = nn.Conv2d(2 * width, width, 1)
        # Starts as the identity, so a trained stem can be given mixers later.
        nn.init.zeros_(self.project.weight)
        nn.init.zeros_(self.project.bias)

    def forward(self, tokens: Tensor) -> Tensor:
        mixed = self.norm(self.spatial(tokens))
        return tokens + self.project(nn.functional.gelu(self.expand(mixed)))


class ConvStem(nn.Module):
    """Image (B, 3, H, W) to tokens (B, H/8, W/8, width), without any statistics that depend on the crop."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.fine = nn.Conv2d(96, FINE_WIDTH, 1)
        nn.init.zeros_(self.fine.weight)
        nn.init.zeros_(self.fine.bias)
        self.net = nn.Sequential(
            nn.Conv2d(3, 32, 3, stride=2, padding=1),
            nn.GELU(),
            nn.Conv2d(32, 64, 3, padding=1),
            nn.GELU(),
            nn.Conv2d(64, 96, 3, stride=2, padding=1),
            nn.GELU(),
            nn.Conv2d(96, width, 3, stride=2, padding=1),
            nn.GELU(),
            nn.Conv2d(width, width, 1),
            ContextMixer(width),
            ContextMixer(width),
        )

    def forward(self, image: Tensor) -> Tensor:
        return self.stages(image)[0]

    def stages(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens (B, H/8, W/8, width), and fine features folded to their grid (B, 4 x FINE_WIDTH, ...)."""
        halfway = self.net[:FINE_STAGE](image)
        fine = nn.functional.pixel_unshuffle(self.fine(halfway), 2)
        return self.net[FINE_STAGE:](halfway).permute(0, 2, 3, 1), fine


class CompactEncoder(ImageEncoderViT):
    """SAM's encoder whose embedding (B, 256, h, w) also holds the stem's fine features."""

    def forward(self, image: Tensor) -> Tensor:
        tokens, fine = self.patch_embed.stages(image)
        for block in self.blocks:
            tokens = block(tokens)
        return torch.cat([self.neck(tokens.permute(0, 3, 1, 2)), fine], dim=1)


class CompactDecoder(MaskDecoder):
    """SAM's decoder with the fine features added at stride 4; every prompt may bring a crop of its own."""

    def __init__(self, **options: object) -> None:
        super().__init__(**options)
        self.mix_4 = nn.Conv2d(FINE_WIDTH, FINE_WIDTH, 3, padding=1)
        self.mix_2 = nn.Conv2d(FINE_WIDTH // 2, FINE_WIDTH // 2, 3, padding=1)
        for mix in (self.mix_4, self.mix_2):
            nn.init.zeros_(mix.weight)
            nn.init.zeros_(mix.bias)

    def upscale(self, source: Tensor, fine: Tensor) -> Tensor:
        """Features (n, 16, 4h, 4w) at stride 2 from tokens (n, 128, h, w) and folded fine features."""
        first, norm, activation, second, _ = self.output_upscaling
        coarse = activation(norm(first(source) + nn.functional.pixel_shuffle(fine, 2)))
        upscaled = activation(second(coarse + self.mix_4(coarse)))
        return upscaled + self.mix_2(upscaled)

    def predict_masks(
        self,
        image_embeddings: Tensor,
        image_pe: Tensor,
        sparse_prompt_embeddings: Tensor,
        dense_prompt_embeddings: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """As SAM's, for one embedding (1, 256, h, w) of all prompts or one of each (n, 256, h, w)."""
        n = len(sparse_prompt_embeddings)
        tokens = torch.cat([self.iou_token.weight, self.mask_tokens.weight]).expand(n, -1, -1)
        tokens = torch.cat([tokens, sparse_prompt_embeddings], dim=1)
        source = image_embeddings[:, : self.transformer_dim] + dense_prompt_embeddings
        found, source_out = self.transformer(source, image_pe.expand(n, -1, -1, -1), tokens)
        source_out = source_out.transpose(1, 2).reshape(source.shape)
        upscaled = self.upscale(source_out, image_embeddings[:, self.transformer_dim :])
        kernels = torch.stack(
            [mlp(found[:, 1 + number]) for number, mlp in enumerate(self.output_hypernetworks_mlps)], dim=1
        )
        masks = torch.einsum("nkc,nchw->nkhw", kernels, upscaled)
        return masks, self.iou_prediction_head(found[:, 0])


def build_compact() -> Sam:
    """The untrained model; `image_encoder` takes any size that is a multiple of 8 px."""
    encoder = CompactEncoder(
        img_size=FRAME_PX,
        patch_size=PATCH_PX,
        embed_dim=192,
        depth=6,
        num_heads=3,
        mlp_ratio=4,
        qkv_bias=True,
        use_abs_pos=False,
        use_rel_pos=True,
        window_size=16,
        global_attn_indexes=(),
        out_chans=128,
    )
    encoder.patch_embed = ConvStem(192)
    encoder.neck.insert(0, ContextMixer(192))
    frame_tokens = FRAME_PX // PATCH_PX
    prompts = PromptEncoder(
        embed_dim=128,
        image_embedding_size=(frame_tokens, frame_tokens),
        input_image_size=(FRAME_PX, FRAME_PX),
        mask_in_chans=16,
    )
    decoder = CompactDecoder(
        num_multimask_outputs=3,
        transformer=TwoWayTransformer(depth=2, embedding_dim=128, mlp_dim=512, num_heads=8),
        transformer_dim=128,
        iou_head_depth=3,
        iou_head_hidden_dim=128,
    )
    return Sam(encoder, prompts, decoder, list(PIXEL_MEAN), list(PIXEL_STD)).eval()


def ellipse_prior(boxes: Tensor, size_hw: tuple[int, int]) -> Tensor:
    """Prior logits (n, 1, h, w) of boxes (n, 4) in px of the crop; its mask grid at stride 2 is `size_hw`."""
    device = boxes.device
    rows = (torch.arange(size_hw[0], device=device) + 0.5) * MASK_STRIDE_PX
    columns = (torch.arange(size_hw[1], device=device) + 0.5) * MASK_STRIDE_PX
    x0, y0, x1, y1 = boxes.float().unbind(1)
    half_w, half_h = ((x1 - x0) / 2).clamp(min=1.0), ((y1 - y0) / 2).clamp(min=1.0)
    across = (columns[None] - (x0 + x1)[:, None] / 2) / half_w[:, None]
    down = (rows[None] - (y0 + y1)[:, None] / 2) / half_h[:, None]
    radius = (across[:, None, :] ** 2 + down[:, :, None] ** 2).sqrt()
    distance = (1 - radius) * torch.minimum(half_w, half_h)[:, None, None]
    return distance.clamp(-PRIOR_LIMIT, PRIOR_LIMIT)[:, None]


def decode_crops(
    sam: Sam,
    features: Tensor,
    boxes: Tensor | None = None,
    points: tuple[Tensor, Tensor] | None = None,
    prior: Tensor | None = None,
    offset_tokens: tuple[int, int] | None = None,
) -> tuple[Tensor, Tensor]:
    """Mask logits (n, h*4, w*4) at stride 2 and predicted IoU (n,) from one crop of the embedding per prompt.

    features: (n, 256, h, w), each prompt's own crop; h and w at most 32.
    boxes: (n, 4) xyxy px of the CROP; points: coordinates (n, k, 2) px of the crop and labels (n, k).
    prior: (n, 1, 4h, 4w) prior logits, or None. With no prompt at all every nucleus of the crop is meant.
    offset_tokens: (row, column) of the crop in the frame; by default its middle.
    """
    n, _, rows, columns = features.shape
    frame_tokens = FRAME_PX // PATCH_PX
    top, left = offset_tokens or ((frame_tokens - rows) // 2, (frame_tokens - columns) // 2)
    shift = torch.tensor([left, top], device=features.device, dtype=torch.float32) * PATCH_PX
    prompt_encoder = sam.prompt_encoder
    if boxes is not None:
        boxes = boxes.float() + shift.repeat(2)
    if points is not None:
        points = (points[0].float() + shift, points[1])
    if boxes is None and points is None:
        sparse = torch.empty((n, 0, prompt_encoder.embed_dim), device=features.device)
    else:
        sparse, _ = prompt_encoder(points=points, boxes=boxes, masks=None)
    if prior is None:
        dense = prompt_encoder.no_mask_embed.weight.reshape(1, -1, 1, 1).expand(n, -1, rows, columns)
    else:
        dense = prompt_encoder.mask_downscaling(prior)
    position = prompt_encoder.get_dense_pe()[:, :, top : top + rows, left : left + columns]
    logits, iou = sam.mask_decoder(
        image_embeddings=features,
        image_pe=position,
        sparse_prompt_embeddings=sparse,
        dense_prompt_embeddings=dense,
        multimask_output=False,
    )
    return logits[:, 0], iou[:, 0]


def crop_origins(boxes: Tensor, grid_hw: tuple[int, int], tokens: int = CROP_TOKENS) -> Tensor:
    """(n, 2) row and column of the token crop centred on each box and kept inside the grid where it fits."""
    centres = (
        torch.stack([(boxes[:, 1] + boxes[:, 3]) / 2, (boxes[:, 0] + boxes[:, 2]) / 2], dim=1) / PATCH_PX
    )
    origins = torch.round(centres - tokens / 2).long()
    room = torch.tensor(grid_hw, device=boxes.device) - tokens
    return torch.minimum(origins.clamp(min=0), room.clamp(min=0))
