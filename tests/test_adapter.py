import pytest
import torch

from allinsam.errors import InputError, ModelError
from allinsam.sam.adapter import (
    AdaptedSam,
    PromptAdapter,
    build_network,
    features_by_class,
    high_frequencies,
)
from allinsam.sam.backbones import BACKBONES, LoadedBackbone, load_backbone
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


OPTIONS = [
    {},
    {"first_block": 1},
    {"recompute": True},
    {"random_positions": True},
    {"classes_apart": True},
    {"classes_apart": True, "first_block": 1, "recompute": True},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_training_changes_adapter_decoder_and_no_mask_vector_only(options):
    loaded = tiny_backbone(whole_patch=True)
    before = {name: value.clone() for name, value in loaded.sam.state_dict().items()}
    torch.manual_seed(1)
    model = build_network(loaded, ["a", "b"], **options)
    start = model.trained_state()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(3):
        optimizer.zero_grad()
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


def described(name: str) -> LoadedBackbone:
    """A published architecture without numbers in it."""
    row = BACKBONES[name]
    with torch.device("meta"):
        sam = row.builder()
    return LoadedBackbone(row, sam, "", torch.device("meta"))


@pytest.mark.parametrize("name, size", [("vit_b", "ViT-B"), ("vit_l", "ViT-L"), ("vit_h", "ViT-H")])
def test_published_architectures_train_as_many_numbers_as_the_authors_do(name, size):
    """The authors optimise the whole decoder; its quality head and three hypernetworks get no gradient.

    Those are left out here, and what reads mask token 0 there reads a token of the class's own, so its row of
    256 is there twice.
    """
    model = AdaptedSam(described(name), ["nucleus"])
    adapter = PUBLISHED[size][-1]
    assert count(model.adapter) == adapter
    quality_head, hypernetwork = 132_612, 139_808
    assert count(model.decoder) == 4_058_340
    authors = adapter + 4_058_340 + 256
    assert authors == {"vit_b": 4_121_908, "vit_l": 4_175_140, "vit_h": 4_245_556}[name]
    ours = sum(value.numel() for value in model.trainable_parameters().values())
    assert ours == authors - quality_head - 3 * hypernetwork + 256
    later = AdaptedSam(described(name), ["nucleus"], first_block=PUBLISHED[size][1] - 4)
    width = PUBLISHED[size][0] // 32
    assert adapter - count(later.adapter) == (PUBLISHED[size][1] - 4) * (width * width + width)


@pytest.mark.parametrize("first_block", [0, 1])
def test_prompts_are_added_from_the_first_adapted_block_on(first_block):
    torch.manual_seed(2)
    model = AdaptedSam(tiny_backbone(whole_patch=True), ["a"], first_block=first_block)
    torch.nn.init.normal_(model.encoder.pos_embed)
    image, encoder = frames(model), model.encoder
    with torch.no_grad():
        tokens = encoder.patch_embed(image)
        features = model.adapter.features(image, tokens)
        tokens = tokens + encoder.pos_embed
        for number, block in enumerate(encoder.blocks):
            if number >= first_block:
                tokens = tokens + model.adapter.prompt(number - first_block, features)
            tokens = block(tokens)
        assert torch.equal(model.encode(image), encoder.neck(tokens.permute(0, 3, 1, 2)))
        frozen = model.frozen_part(image)
        assert torch.equal(model(image, frozen).logits, model(image).logits)
    assert len(model.adapter.blocks) == 2 - first_block
    assert not frozen.tokens.requires_grad and frozen.fine is None


def test_frozen_part_of_the_compact_model_brings_its_fine_features():
    model = AdaptedSam(load_backbone("compact"), ["nucleus"], first_block=4)
    image = frames(model, 1)
    with torch.no_grad():
        frozen = model.frozen_part(image)
        assert torch.equal(model(image, frozen).logits, model(image).logits)
        other = AdaptedSam(load_backbone("compact"), ["nucleus"]).frozen_part(image)
    assert frozen.tokens.shape == frozen.patches.shape == (1, 32, 32, 192)
    assert frozen.fine.shape == (1, 4 * 32, 32, 32)
    assert torch.equal(frozen.fine, other.fine) and not torch.equal(frozen.tokens, other.tokens)


@pytest.mark.parametrize("first_block", [-1, 2])
def test_first_block_must_be_one_of_the_encoders(first_block):
    with pytest.raises(InputError, match="0 to 1"):
        AdaptedSam(tiny_backbone(), ["a"], first_block=first_block)


def test_running_blocks_again_gives_the_same_gradients():
    gradients = []
    for recompute in (False, True):
        torch.manual_seed(4)
        model = AdaptedSam(tiny_backbone(whole_patch=True), ["a"], recompute=recompute)
        output = model(frames(model)).logits
        output.square().mean().backward()
        gradients.append([output.detach()])
        gradients[-1] += [v.grad for v in model.trainable_parameters().values() if v.grad is not None]
    assert len(gradients[0]) == len(gradients[1]) > 20
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other)


def test_running_blocks_again_keeps_less():
    def kept_bytes(recompute: bool) -> int:
        model = AdaptedSam(tiny_backbone(whole_patch=True), ["a"], recompute=recompute)
        frozen, image = model.frozen_part(frames(model)), frames(model)
        sizes = {}

        def note(value):
            sizes[value.data_ptr()] = value.nbytes
            return value

        with torch.autograd.graph.saved_tensors_hooks(note, lambda value: value):
            model.encode_from(frozen, image)
        return sum(sizes.values())

    assert kept_bytes(True) < 0.6 * kept_bytes(False)


def test_random_positions_are_drawn_from_a_seed_of_their_own():
    loaded = tiny_backbone()
    torch.manual_seed(0)
    first = AdaptedSam(loaded, ["a"], random_positions=True)
    drawn_next = torch.rand(3)
    torch.manual_seed(0)
    plain = AdaptedSam(loaded, ["a"])
    assert torch.equal(torch.rand(3), drawn_next)
    again = AdaptedSam(loaded, ["a", "b"], random_positions=True)
    assert torch.equal(first.position, again.position) and torch.equal(first.no_mask, again.no_mask)
    assert first.position.shape == plain.position.shape and first.no_mask.shape == plain.no_mask.shape
    assert torch.equal(plain.position, loaded.sam.prompt_encoder.get_dense_pe())
    assert torch.equal(plain.no_mask, loaded.sam.prompt_encoder.no_mask_embed.weight)
    assert not torch.allclose(first.position, plain.position)
    assert not torch.allclose(first.no_mask, plain.no_mask)
    # Sine and cosine of the same angle, a Fourier encoding as SAM's.
    sine, cosine = first.position.chunk(2, dim=1)
    torch.testing.assert_close(sine**2 + cosine**2, torch.ones_like(sine))
    assert set(first.trained_state()) == set(plain.trained_state())


def test_classes_apart_are_networks_of_their_own():
    torch.manual_seed(5)
    loaded = tiny_backbone()
    apart = build_network(loaded, ["a", "b"], classes_apart=True)
    image = frames(apart, 3)
    output = apart(image)
    assert apart.class_names == ("a", "b") and apart.frame_px == 64 and apart.grid_px == 32
    assert output.logits.shape == (3, 2, 32, 32)
    assert output.embedding.shape == features_by_class(output).shape == (3, 2, 4, 32, 32)
    with torch.no_grad():
        for number, network in enumerate(apart.networks):
            alone = network(image)
            assert torch.equal(alone.logits[:, 0], output.logits[:, number])
            assert torch.equal(alone.embedding, features_by_class(output)[:, number])
    output.logits[:, 0].mean().backward()
    told = {name.split(".")[1] for name, value in apart.trainable_parameters().items() if value.grad.any()}
    assert told == {"0"}
    state = apart.trained_state()
    one = AdaptedSam(loaded, ["a"])
    assert len(state) == 2 * len(one.trained_state())
    one.load_trained_state({name[11:]: v for name, v in state.items() if name.startswith("networks.0.")})
    assert torch.equal(one(image).logits[:, 0], output.logits[:, 0])


def test_classes_together_share_their_features():
    model = AdaptedSam(tiny_backbone(), ["a", "b"])
    output = model(frames(model))
    assert model.grid_px == output.logits.shape[-1] == 32
    assert features_by_class(output).shape == (2, 2, 4, 32, 32)
    assert torch.equal(features_by_class(output)[:, 0], output.embedding)
    assert torch.equal(features_by_class(output)[:, 1], output.embedding)


def test_weights_that_do_not_fit_change_nothing():
    model, other = (AdaptedSam(tiny_backbone(), ["a"], first_block=first) for first in (0, 1))
    before = other.trained_state()
    with pytest.raises(ModelError, match="adapter.blocks.1.bias"):
        other.load_trained_state(model.trained_state())
    state = {name: value + 1 for name, value in before.items()}
    state["no_mask"] = state["no_mask"][:, :3]
    with pytest.raises(ModelError, match="shape"):
        other.load_trained_state(state)
    assert all(torch.equal(value, before[name]) for name, value in other.trained_state().items())
