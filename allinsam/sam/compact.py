"""The compact SAM: segment_anything's own classes, small enough for a laptop's processor (4.1 M parameters).

Nuclei are 8 to 60 px, so a frame of 256 px with tokens of 8 px sees them at full resolution, at a small
part of the cost of a 1,024-px frame.
"""

import torch
from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, Sam, TwoWayTransformer
from torch import nn

FRAME_PX = 256
TOKEN_PX = 8
WIDTH = 192
PROMPT_WIDTH = 128
# SAM's own statistics of a channel, in grey levels.
PIXEL_MEAN = [123.675, 116.28, 103.53]
PIXEL_STD = [58.395, 57.12, 57.375]


class ConvolutionStem(nn.Module):
    """Image (B, 3, H, W) to tokens (B, H/8, W/8, C); ViT's one large convolution learned slower."""

    def __init__(self, width: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for channels_in, channels_out, stride in ((3, 32, 2), (32, 64, 1), (64, 96, 2), (96, width, 2)):
            layers += [
                nn.Conv2d(channels_in, channels_out, kernel_size=3, stride=stride, padding=1),
                nn.GroupNorm(8, channels_out),
                nn.GELU(),
            ]
        self.net = nn.Sequential(*layers, nn.Conv2d(width, width, kernel_size=1))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.net(image).permute(0, 2, 3, 1)


def build_compact() -> Sam:
    """The compact SAM with random weights, in evaluation mode."""
    tokens = FRAME_PX // TOKEN_PX
    encoder = ImageEncoderViT(
        img_size=FRAME_PX,
        patch_size=TOKEN_PX,
        embed_dim=WIDTH,
        depth=6,
        num_heads=3,
        mlp_ratio=4,
        out_chans=PROMPT_WIDTH,
        qkv_bias=True,
        use_rel_pos=True,
        window_size=16,
        global_attn_indexes=(),
    )
    encoder.patch_embed = ConvolutionStem(WIDTH)
    sam = Sam(
        image_encoder=encoder,
        prompt_encoder=PromptEncoder(
            embed_dim=PROMPT_WIDTH,
            image_embedding_size=(tokens, tokens),
            input_image_size=(FRAME_PX, FRAME_PX),
            mask_in_chans=16,
        ),
        mask_decoder=MaskDecoder(
            num_multimask_outputs=3,
            transformer=TwoWayTransformer(depth=2, embedding_dim=PROMPT_WIDTH, mlp_dim=512, num_heads=8),
            transformer_dim=PROMPT_WIDTH,
            iou_head_depth=3,
            iou_head_hidden_dim=PROMPT_WIDTH,
        ),
        pixel_mean=PIXEL_MEAN,
        pixel_std=PIXEL_STD,
    )
    return sam.eval()
