"""The encoder's attention in blocks gives what segment_anything's gives."""

import copy

import pytest
import torch

from allinsam.sam import attention
from allinsam.sam.attention import QuickAttention, use_quick_attention
from tests.tiny import build_tiny, tiny_backbone


def encoder_with_positions(seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        encoder = build_tiny().image_encoder
        for name, value in encoder.named_parameters():
            if "rel_pos" in name or name == "pos_embed":
                torch.nn.init.normal_(value, std=0.5)
    return encoder


@pytest.mark.parametrize("scores_at_once", [1, 100, 3000, 10**7])
def test_same_embedding_however_small_the_blocks(scores_at_once, monkeypatch):
    monkeypatch.setattr(attention, "SCORES_AT_ONCE", scores_at_once)
    encoder, pixels = encoder_with_positions(), torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        expected = encoder(pixels)
        use_quick_attention(encoder)
        found = encoder(pixels)
    assert all(type(block.attn) is QuickAttention for block in encoder.blocks)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_same_gradients():
    one = encoder_with_positions()
    other = copy.deepcopy(one)
    use_quick_attention(other)
    pixels = torch.randn(1, 3, 64, 64)
    for encoder in (one, other):
        encoder(pixels).square().sum().backward()
    for (name, expected), found in zip(one.named_parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(found.grad, expected.grad, atol=1e-4, rtol=1e-3, msg=name)


def test_weights_and_their_names_stay():
    encoder = tiny_backbone().sam.image_encoder
    before = encoder.state_dict()
    use_quick_attention(encoder)
    after = encoder.state_dict()
    assert list(before) == list(after) and all(torch.equal(before[k], after[k]) for k in before)
