"""A SAM of segment_anything's own classes with random weights, small enough to run in a moment."""

import torch

from allinsam.sam.backbones import Backbone, LoadedBackbone, Sam

FRAME_PX = 64
TOKEN_PX = 8
WIDTH = 32


def build_tiny() -> Sam:
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
            use_rel_pos=True,
            window_size=4,
            global_attn_indexes=(1,),
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


def tiny_backbone(seed: int = 0, whole_patch: bool = False, box_as_mask: bool = True) -> LoadedBackbone:
    """The tiny SAM with weights drawn by `seed`; framed as the compact model, or as the published ones."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        sam = build_tiny()
    row = Backbone(
        name="tiny",
        title="Tiny SAM for tests",
        builder=build_tiny,
        frame_px=FRAME_PX,
        patch_px=TOKEN_PX,
        whole_patch=whole_patch,
        um_per_px=None,
        box_as_mask=box_as_mask,
        adapter_width=4,
        weights_file="tiny.safetensors",
        weights_sha256="",
    )
    return LoadedBackbone(row, sam, f"{seed:064x}", torch.device("cpu"))
