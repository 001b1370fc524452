"""The encoder's attention in blocks gives what segment_anything's gives."""

import copy

import pytest
import torch

from allinsam.sam import attention
from allinsam.sam.attention import QuickAttention, attend, use_quick_attention
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


@pytest.mark.parametrize("scores_at_once", [1, 100, 3000, 10**7])
def test_same_gradients(scores_at_once, monkeypatch):
    monkeypatch.setattr(attention, "SCORES_AT_ONCE", scores_at_once)
    one = encoder_with_positions()
    other = copy.deepcopy(one)
    use_quick_attention(other)
    pixels = [torch.randn(1, 3, 64, 64, requires_grad=True)]
    pixels.append(pixels[0].detach().clone().requires_grad_())
    for encoder, image in zip((one, other), pixels, strict=True):
        encoder(image).square().sum().backward()
    torch.testing.assert_close(pixels[0].grad, pixels[1].grad, atol=1e-4, rtol=1e-3)
    for (name, expected), found in zip(one.named_parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(found.grad, expected.grad, atol=1e-4, rtol=1e-3, msg=name)


def test_weights_and_their_names_stay():
    encoder = tiny_backbone().sam.image_encoder
    before = encoder.state_dict()
    use_quick_attention(encoder)
    after = encoder.state_dict()
    assert list(before) == list(after) and all(torch.equal(before[k], after[k]) for k in before)


def inputs_of_attention(places=True, dtype=torch.float64, n=3, height=4, width=5, channels=6):
    generator = torch.Generator().manual_seed(7)
    shapes = [(n, height * width, channels)] * 3
    shapes += [(n, height * width, height), (n, height * width, width)] if places else []
    return [torch.randn(shape, generator=generator, dtype=dtype).requires_grad_() for shape in shapes]


@pytest.mark.parametrize("places", [True, False])
@pytest.mark.parametrize("scores_at_once", [1, 24, 80, 10**6])  # a row, 4 of 6 rows, 2 of the 3, all
def test_gradients_of_attention_are_those_of_its_values(places, scores_at_once, monkeypatch):
    monkeypatch.setattr(attention, "SCORES_AT_ONCE", scores_at_once)
    given = inputs_of_attention(places, height=2, width=3, channels=2)
    assert torch.autograd.gradcheck(attend, given, atol=1e-4)


def test_training_keeps_no_scores():
    given = inputs_of_attention(dtype=torch.float32, height=16, width=16)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.numel()) or t, lambda t: t):
        attend(*given)
    assert kept and max(kept) < 3 * 256 * 256


def test_half_precision_gradients_are_near():
    given = inputs_of_attention(dtype=torch.float32, height=8, width=8)
    halves = [value.detach().bfloat16().requires_grad_() for value in given]
    for inputs in (given, halves):
        attend(*inputs).float().square().sum().backward()
    for full, half in zip(given, halves, strict=True):
        assert half.grad.dtype == torch.bfloat16
        difference = (full.grad - half.grad.float()).norm() / full.grad.norm()
        assert difference < 0.03


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_agrees_and_writes_no_scores():
    side, given = 32, inputs_of_attention(dtype=torch.float32, height=32, width=32, channels=64)
    moved = [value.detach().cuda().requires_grad_() for value in given]
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    seen = attend(*moved)
    assert torch.cuda.max_memory_allocated() - before < 4 * 3 * side**4
    torch.testing.assert_close(seen.cpu(), attend(*given), atol=1e-3, rtol=1e-3)
    seen.square().sum().backward()
    attend(*given).square().sum().backward()
    for one, other in zip(given, moved, strict=True):
        torch.testing.assert_close(other.grad.cpu(), one.grad, atol=1e-2, rtol=1e-2)
