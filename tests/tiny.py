"""A SAM of segment_anything's own classes with random weights, small enough to run in a moment."""

import torch

from allinsam.sam.backbones import Backbone, LoadedBackbone, Sam

FRAME_PX = 64
TOKEN_PX = 8
WIDTH = 32


def build_tiny(positions: bool = True) -> Sam:
    """SAM for frames of 64 px with 8 x 8 tokens, 32 channels, in evaluation mode."""
    # Imported here, after allinsam.sam has made segment_anything importable, however imports are sorted.
    from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, TwoWayTransformer

    tokens = FRAME_PX // TOKEN_PX
    sam = Sam(
        image_encoder=ImageEncoderViT(
            img_size=FRAME_PX,
            patch_size=TOKEN_PX,
            embed_dim=WIDTH,
            depth=2,
            num_heads=2,
            mlp_ratio=2,
            out_chans=WIDTH,
            use_abs_pos=positions,
            use_rel_pos=True,
            window_size=4,
            global_attn_indexes=(1,) if positions else (),
        ),
        prompt_encoder=PromptEncoder(
            embed_dim=WIDTH,
            image_embedding_size=(tokens, tokens),
            input_image_size=(FRAME_PX, FRAME_PX),
            mask_in_chans=4,
        ),
        mask_decoder=MaskDecoder(
            num_multimask_outputs=3,
            transformer=TwoWayTransformer(depth=2, embedding_dim=WIDTH, mlp_dim=WIDTH, num_heads=4),
            transformer_dim=WIDTH,
            iou_head_depth=2,
            iou_head_hidden_dim=WIDTH,
        ),
        pixel_mean=[123.675, 116.28, 103.53],
        pixel_std=[58.395, 57.12, 57.375],
    )
    return sam.eval()


def build_tiny_anywhere() -> Sam:
    """The same without positions: it takes patches of any size, as the compact model does."""
    return build_tiny(positions=False)


def tiny_backbone(seed: int = 0, whole_patch: bool = False) -> LoadedBackbone:
    """The tiny SAM with weights drawn by `seed`; used as the compact model is, or as the published ones."""
    builder = build_tiny if whole_patch else build_tiny_anywhere
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        sam = builder()
    row = Backbone(
        name="tiny",
        title="Tiny SAM for tests",
        builder=builder,
        frame_px=FRAME_PX,
        patch_px=TOKEN_PX,
        crop_px=None if whole_patch else FRAME_PX // 2,
        um_per_px=None,
        mask_growth=1.2,
        mask_threshold=0.0,
        certainty_share=0.0,
        adapter_width=4,
        weights_file="tiny.safetensors",
        weights_sha256="",
    )
    return LoadedBackbone(row, sam, f"{seed:064x}", torch.device("cpu"))
