import pytest
import torch

from allinsam.errors import InputError, ModelError
from allinsam.sam.adapter import AdaptedSam, PromptAdapter, high_frequencies
from allinsam.sam.backbones import load_backbone
from allinsam.sam.compact import decode_crops
from tests.tiny import tiny_backbone

# Embedding linear, high-frequency convolution, block linears, up linear, total: the published sizes.
PUBLISHED = {
    "ViT-B": (768, 12, (18_456, 18_456, 7_200, 19_200), 63_312),
    "ViT-L": (1024, 24, (32_800, 24_608, 25_344, 33_792), 116_544),
    "ViT-H": (1280, 32, (51_240, 30_760, 52_480, 52_480), 186_960),
}


def count(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def frames(model: AdaptedSam, n: int = 2, seed: int = 3) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (n, model.frame_px, model.frame_px, 3), generator=generator)
    return model.normalise(pixels.to(torch.uint8))


@pytest.mark.parametrize("size", PUBLISHED)
def test_adapter_has_the_published_number_of_parameters(size):
    embed_dim, depth, parts, total = PUBLISHED[size]
    adapter = PromptAdapter(embed_dim, depth, token_px=16)
    assert tuple(map(count, (adapter.embedding, adapter.frequencies, adapter.blocks, adapter.up))) == parts
    assert count(adapter) == total


def test_adapter_starts_as_published():
    torch.manual_seed(0)
    adapter = PromptAdapter(768, 12, token_px=16)
    assert adapter.up.weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert adapter.frequencies.weight.std().item() == pytest.approx((2 / (16 * 16 * 24)) ** 0.5, rel=0.05)
    assert all(value.eq(0).all() for name, value in adapter.named_parameters() if name.endswith("bias"))


def test_high_frequencies_of_known_waves():
    x = torch.arange(64).float()
    flat, checks = torch.full((64,), 5.0), (-1.0) ** x
    slow, fast = torch.cos(2 * torch.pi * 10 * x / 64), torch.cos(2 * torch.pi * 20 * x / 64)
    image = torch.stack([flat + slow, checks, slow + fast])[None, :, None].repeat(1, 1, 64, 1)
    # A quarter of the spectrum goes, frequencies below 16 of 32 in both directions; the rest stays as it is.
    expected = torch.stack([torch.zeros(64), torch.ones(64), fast.abs()])[None, :, None].repeat(1, 1, 64, 1)
    assert torch.allclose(high_frequencies(image), expected, atol=1e-5)


def test_silent_adapter_is_plain_sam_without_prompt():
    loaded = tiny_backbone()
    model = AdaptedSam(loaded, ["podocyte"])
    torch.nn.init.zeros_(model.adapter.up.weight)
    image, sam = frames(model, 1), loaded.sam
    with torch.no_grad():
        sparse, dense = sam.prompt_encoder(points=None, boxes=None, masks=None)
        expected, _ = sam.mask_decoder(
            sam.image_encoder(image), sam.prompt_encoder.get_dense_pe(), sparse, dense, multimask_output=False
        )
        output = model(image)
    assert expected.std() > 1e-3
    assert torch.allclose(output.logits, expected, atol=1e-6)
    assert output.embedding.shape == (1, 32 // 8, 32, 32)


def test_a_frame_does_not_depend_on_its_batch():
    model = AdaptedSam(tiny_backbone(), ["a", "b"])
    batch = frames(model, 3)
    with torch.no_grad():
        assert torch.allclose(model(batch).logits[1:2], model(batch[1:2]).logits, atol=1e-5)


def test_training_changes_adapter_decoder_and_no_mask_vector_only():
    loaded = tiny_backbone()
    before = {name: value.clone() for name, value in loaded.sam.state_dict().items()}
    torch.manual_seed(1)
    model = AdaptedSam(loaded, ["a", "b"])
    start = model.trained_state()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    model(frames(model)).logits.square().mean().backward()
    optimizer.step()
    assert all(torch.equal(value, before[name]) for name, value in loaded.sam.state_dict().items())
    after = model.trained_state()
    unchanged = {name for name in start if torch.equal(start[name], after[name])}
    assert unchanged == set()


def test_quality_head_and_unused_hypernetworks_get_no_gradient():
    model = AdaptedSam(tiny_backbone(), ["a", "b"])
    model(frames(model)).logits.square().mean().backward()
    idle = (model.decoder.iou_prediction_head, model.decoder.output_hypernetworks_mlps)
    assert all(parameter.grad is None for module in idle for parameter in module.parameters())
    assert all(parameter.grad.any() for parameter in model.class_hypernetworks.parameters())
    names = model.trainable_parameters()
    assert not any("iou_prediction_head" in name or "output_hypernetworks_mlps" in name for name in names)


def test_classes_start_as_copies_of_mask_token_0_and_learn_apart():
    loaded = tiny_backbone()
    model = AdaptedSam(loaded, ["a", "b"])
    token = loaded.sam.mask_decoder.mask_tokens.weight[0]
    assert torch.equal(model.class_tokens[0], token) and torch.equal(model.class_tokens[1], token)
    output = model(frames(model)).logits
    assert torch.allclose(output[:, 0], output[:, 1], atol=1e-6)
    output[:, 0].mean().backward()
    assert model.class_hypernetworks[0].layers[0].weight.grad.any()
    assert not model.class_hypernetworks[1].layers[0].weight.grad.any()


def test_fits_the_convolution_stem_of_the_compact_model():
    model = AdaptedSam(load_backbone("compact"), ["podocyte", "mesangial"])
    with torch.no_grad():
        output = model(frames(model, 1))
    assert output.logits.shape == (1, 2, 128, 128)
    assert output.embedding.shape == (1, 16, 128, 128)
    # 192 wide, 6 deep, tokens of 8 px, width 6.
    assert count(model.adapter) == (192 * 6 + 6) + (3 * 64 * 6 + 6) + 6 * (36 + 6) + (6 * 192 + 192)
    names = set(model.trained_state())
    assert "decoder.mix_2.weight" in names and not any(name.startswith("encoder.") for name in names)


def test_normalise_is_sams_own():
    loaded = tiny_backbone()
    model = AdaptedSam(loaded, ["a"])
    pixels = torch.randint(0, 256, (1, 64, 64, 3), dtype=torch.uint8)
    assert torch.allclose(model.normalise(pixels)[0], loaded.sam.preprocess(pixels[0].permute(2, 0, 1)))


def test_weights_go_round_and_foreign_ones_are_refused():
    model = AdaptedSam(tiny_backbone(), ["a", "b"])
    other = AdaptedSam(tiny_backbone(), ["a", "b"])
    other.load_trained_state(model.trained_state())
    image = frames(model)
    with torch.no_grad():
        assert torch.equal(model(image).logits, other(image).logits)
    state = model.trained_state()
    state.pop("no_mask")
    with pytest.raises(ModelError, match="no_mask"):
        other.load_trained_state(state)
    with pytest.raises(ModelError, match="shape"):
        AdaptedSam(tiny_backbone(), ["a", "b"], adapter_width=8).load_trained_state(model.trained_state())


@pytest.mark.parametrize("names", [[], ["a", "a"]])
def test_class_names_must_be_unique_and_present(names):
    with pytest.raises(InputError, match="unique"):
        AdaptedSam(tiny_backbone(), names)


def test_compact_adapter_starts_from_what_the_model_finds_without_prompts():
    loaded = load_backbone("compact", reference=True)
    model = AdaptedSam(loaded, ["nucleus"]).eval()
    torch.nn.init.zeros_(model.adapter.up.weight)
    torch.nn.init.zeros_(model.adapter.up.bias)
    images = frames(model, 1)
    with torch.no_grad():
        output = model(images)
        expected, _ = decode_crops(loaded.sam, loaded.sam.image_encoder(images))
    torch.testing.assert_close(output.logits[:, 0], expected, atol=1e-4, rtol=1e-4)
