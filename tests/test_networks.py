import copy
import dataclasses
import json
import subprocess
import sys

import numpy as np
import pytest
import torch

from allinsam.errors import InputError, ModelError
from allinsam.inference import predict_probabilities
from allinsam.training.dataset import TrainingPatch
from allinsam.training.losses import LOSSES, known_loss
from allinsam.training.networks import NETWORKS, Network, PatchFacts, patch_facts
from allinsam.training.nnunet import (
    CPU_BUDGET,
    GPU_BUDGET,
    NnUNetPlan,
    PlannedUNet,
    feature_values,
    plan,
    supervision_weights,
)
from allinsam.training.settings import TrainingSettings
from allinsam.training.unet import HEAD_PARAMETERS, CorrectiveUNet, dynamic_head, frame_px_for
from tests.tiny import tiny_backbone

CLASSES = ("podocyte", "mesangial cell")
SMALL_PLAN = NnUNetPlan(32, 2, (1, 2, 2, 2), (8, 16, 16, 16), (2 / 3, 1 / 3))
FACTS = PatchFacts(0.5, (64, 80), 20, (200.0, 150.0, 180.0), (40.0, 50.0, 45.0))


def small_unet(classes=CLASSES) -> CorrectiveUNet:
    torch.manual_seed(0)
    return CorrectiveUNet(classes, frame_px=32, base_width=8).eval()


def small_nnunet(classes=CLASSES) -> PlannedUNet:
    torch.manual_seed(0)
    return PlannedUNet(classes, SMALL_PLAN, FACTS.channel_mean, FACTS.channel_std).eval()


SMALL = {"unet": small_unet, "dynunet": small_nnunet}


def frames(network: Network, n: int = 2) -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    side = network.frame_px
    return torch.randint(0, 256, (n, side, side, 3), generator=generator).to(torch.uint8)


def toy_batch(network: Network) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Two frames, noisy, with a dark square of the first class and a red one of the second."""
    images, side = frames(network) // 8 + 200, network.frame_px
    masks = torch.zeros(2, 2, side, side)
    masks[:, 0, 4:14, 4:14] = 1.0
    masks[:, 1, 18:28, 16:30] = 1.0
    images[masks[:, 0] > 0] = torch.tensor([60, 40, 80], dtype=torch.uint8)
    images[masks[:, 1] > 0] = torch.tensor([220, 60, 60], dtype=torch.uint8)
    return images, masks, torch.ones(2, 2, dtype=torch.bool)


# The table.


@pytest.mark.parametrize("name", NETWORKS)
def test_every_row_is_built_from_plain_data_and_gives_what_the_loop_asks_for(name):
    row = NETWORKS[name]
    config = json.loads(json.dumps(row.configure(TrainingSettings(), FACTS, False)))
    loaded = tiny_backbone() if row.needs_backbone else None
    network = row.build(CLASSES, config, loaded, "cpu")
    assert isinstance(network, Network) and isinstance(network, torch.nn.Module)
    assert not network.training
    assert row.needs_backbone or network.um_per_px == FACTS.um_per_px
    with torch.inference_mode():
        normalised = network.normalise(frames(network))
        output = network(normalised)
    assert normalised.dtype == torch.float32
    assert normalised.shape == (2, 3, network.frame_px, network.frame_px)
    assert output.logits.shape == (2, 2, network.grid_px, network.grid_px)
    assert output.embedding.shape[0] == 2 and output.embedding.shape[2:] == output.logits.shape[2:]
    assert row.loss in LOSSES
    image = np.random.default_rng(0).integers(0, 256, (90, 40, 3), dtype=np.uint8)
    found = predict_probabilities(network, image, um_per_px=0.5, overlap=0.0)
    assert found.shape == (2, 90, 40) and (found >= 0).all() and (found <= 1).all()


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_the_loops_fabric_passes_every_output_on(name, precision):
    from lightning_fabric import Fabric

    network = SMALL[name]().train()
    images, masks, known = toy_batch(network)
    fabric = Fabric(accelerator="cpu", devices=1, precision=precision)
    optimizer = torch.optim.SGD(network.trainable_parameters().values(), lr=1e-3)
    trained, optimizer = fabric.setup(network, optimizer)
    output = trained(network.normalise(images))
    assert len(getattr(output, "coarser", ())) == (name == "dynunet")
    fabric.backward(known_loss(LOSSES["dice_bce"], output, masks, known).mean())
    assert all(value.grad is not None for value in network.trainable_parameters().values())


def test_default_networks_have_the_published_embedding_width():
    unet = NETWORKS["unet"].build(
        CLASSES, NETWORKS["unet"].configure(TrainingSettings(), FACTS, False), None, "cpu"
    )
    nnunet = NETWORKS["dynunet"].build(
        CLASSES, NETWORKS["dynunet"].configure(TrainingSettings(), FACTS, False), None, "cpu"
    )
    for network in (unet, nnunet):
        with torch.inference_mode():
            output = network(network.normalise(frames(network, 1)))
        # The shorter side of 64 x 80.
        assert output.embedding.shape == (1, 32, 64, 64)


def test_the_adapter_without_a_backbone_is_refused():
    with pytest.raises(ModelError, match="needs a backbone"):
        NETWORKS["adapter"].build(CLASSES, {"adapter_width": None}, None, "cpu")


def test_the_training_loop_does_not_wait_for_monai():
    modules = "allinsam.training.train, allinsam.training.networks, allinsam.training.nnunet"
    code = f"import sys, {modules}; print('monai' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_facts_of_patches_by_hand():
    def patch(value, height, um_per_px, part="train", labelled=True):
        labels = {"podocyte": np.zeros((height, 20), bool)} if labelled else {}
        image = np.full((height, 20, 3), value, np.uint8)
        return TrainingPatch("p", image, labels, part, um_per_px)

    learnt = [patch(100, 10, 0.25), patch(200, 30, 0.5), patch(200, 30, 0.5)]
    facts = patch_facts([*learnt, patch(0, 90, 1.0, part="val"), patch(0, 90, 1.0, labelled=False)])
    # At 0.5 um a pixel the first has 5 x 10 px.
    assert (facts.um_per_px, facts.median_size_hw, facts.n_patches) == (0.5, (30, 20), 3)
    assert patch_facts(learnt[:1] + [patch(0, 30, None)]).median_size_hw == (20, 20)
    assert patch_facts([patch(0, 30, None)]).um_per_px is None
    # 200 px of 100 and 1200 px of 200: mean 185.714, variance 6/7 x 1/7 x 100^2.
    assert facts.channel_mean == pytest.approx([185.714286] * 3)
    assert facts.channel_std == pytest.approx([34.992711] * 3)
    with pytest.raises(InputError, match="no training patch"):
        patch_facts([])


# Both networks.


@pytest.mark.parametrize("name", SMALL)
def test_a_few_steps_lower_the_loss(name):
    row, network = NETWORKS[name], SMALL[name]().train()
    images, masks, known = toy_batch(network)
    optimizer = torch.optim.SGD(
        network.trainable_parameters().values(),
        lr=0.01,
        momentum=row.momentum,
        nesterov=True,
        weight_decay=row.weight_decay,
    )
    losses = []
    for _ in range(40):
        output = network(network.normalise(images))
        loss = known_loss(LOSSES[row.loss], output, masks, known).mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.trainable_parameters().values(), row.gradient_clip)
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]
    network.eval()
    with torch.inference_mode():
        found = network(network.normalise(images)).logits > 0
    overlap = (found & (masks > 0)).sum((0, 2, 3)) / (found | (masks > 0)).sum((0, 2, 3))
    # Each class has found its own square.
    assert (overlap > 0.3).all()


@pytest.mark.parametrize("name", SMALL)
def test_every_parameter_learns(name):
    network = SMALL[name]().train()
    images, masks, known = toy_batch(network)
    loss = known_loss(LOSSES["dice_bce"], network(network.normalise(images)), masks, known)
    loss.mean().backward()
    still = [
        key
        for key, value in network.trainable_parameters().items()
        if value.grad is None or not value.grad.any()
    ]
    assert still == []


@pytest.mark.parametrize("name", SMALL)
def test_a_network_can_be_copied_after_a_step(name):
    network = SMALL[name]().train()
    network(network.normalise(frames(network))).logits.sum().backward()
    copy.deepcopy(network)


@pytest.mark.parametrize("name", SMALL)
def test_state_comes_back_whole(name):
    network = SMALL[name]()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.01)
        for buffer in network.buffers():
            buffer.add_(1.0)
    state = network.trained_state()
    assert all(tensor.is_contiguous() and tensor.device.type == "cpu" for tensor in state.values())
    again = SMALL[name]()
    images = frames(network)
    with torch.inference_mode():
        before = again(again.normalise(images)).logits
        again.load_trained_state(state)
        after, wanted = again(again.normalise(images)).logits, network(network.normalise(images)).logits
    assert not torch.equal(before, after)
    assert torch.equal(after, wanted)


@pytest.mark.parametrize("name", SMALL)
def test_a_state_that_does_not_fit_changes_nothing(name):
    network = SMALL[name]()
    before = network.trained_state()
    last = list(before)[-2]  # the last but the class names
    bad = {
        "missing, ": {key: value + 1 for key, value in before.items() if key != last},
        "unknown": {**before, "somebody.else": torch.zeros(1)},
        "shape": {**before, last: torch.zeros(5, 6, 7, 8, 9)},
        "for the classes": {**before, "class_names": torch.tensor([255], dtype=torch.uint8)},
    }
    for message, state in bad.items():
        with pytest.raises(ModelError, match=message):
            network.load_trained_state(state)
    assert all(torch.equal(before[key], value) for key, value in network.trained_state().items())


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize(
    "others", [("podocyte", "tubule"), ("mesangial cell", "podocyte"), ("podocyte",)], ids=str
)
def test_weights_of_other_classes_are_refused(name, others):
    with pytest.raises(ModelError, match="for the classes.*same classes in the same order"):
        SMALL[name]().load_trained_state(SMALL[name](others).trained_state())


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("classes", [(), ("a", "a")], ids=str)
def test_class_names_must_be_unique(name, classes):
    with pytest.raises(InputError, match="must be unique"):
        SMALL[name](classes)


# The U-Net of MOCL.


def test_the_dynamic_head_has_the_published_number_of_parameters():
    assert HEAD_PARAMETERS == 162
    assert CorrectiveUNet(CLASSES).controller.out_features == 162
    assert small_unet().head_parameters(torch.zeros(3, 64, 2, 2)).shape == (3, 2, 162)


def test_the_dynamic_head_by_hand():
    parameters = torch.zeros(1, 2, 162)
    first, second, third = 0, 72, 144
    features = torch.zeros(1, 8, 1, 3)
    features[0, 2, 0] = torch.tensor([-1.0, 0.5, 2.0])
    # Class 0: channel 2 goes times 3 to channel 5, there plus 1, then to foreground times 10, plus 7.
    parameters[0, 0, first + 5 * 8 + 2] = 3.0
    parameters[0, 0, first + 64 + 5] = 1.0
    parameters[0, 0, second + 6 * 8 + 5] = 1.0
    parameters[0, 0, third + 1 * 8 + 6] = 10.0
    parameters[0, 0, third + 16 + 1] = 7.0
    # Class 1: nothing but the background's bias.
    parameters[0, 1, third + 16] = 4.0
    both = dynamic_head(features, parameters)
    assert both.shape == (1, 2, 2, 1, 3)
    # relu(3 x + 1) = 0, 2.5, 7.
    assert both[0, 0, 1, 0].tolist() == [7.0, 32.0, 77.0]
    assert both[0, 0, 0, 0].tolist() == [0.0, 0.0, 0.0]
    assert both[0, 1, 0, 0].tolist() == [4.0, 4.0, 4.0]


def test_the_probability_is_the_authors_softmax():
    network = small_unet()
    images = network.normalise(frames(network))
    with torch.inference_mode():
        deepest, embedding = network.body(images)
        both = dynamic_head(network.head(embedding), network.head_parameters(deepest))
        output = network(images)
    assert torch.allclose(output.logits.sigmoid(), both.softmax(dim=2)[:, :, 1], atol=1e-6)
    assert torch.equal(output.embedding, embedding)


def test_classes_share_the_body():
    one, two = small_unet(("podocyte",)), small_unet()
    differing = {
        name
        for name, value in two.trainable_parameters().items()
        if value.shape != one.trainable_parameters()[name].shape
    }
    assert differing == {"controller.weight"}
    # One more class is one more column of the controller.
    assert two.controller.weight.numel() - one.controller.weight.numel() == 162
    calls = []
    two.stem.register_forward_hook(lambda *_: calls.append(1))
    with torch.inference_mode():
        logits = two(two.normalise(frames(two))).logits
    assert len(calls) == 1
    assert not torch.allclose(logits[:, 0], logits[:, 1])


def test_the_unet_has_the_published_stages():
    network = CorrectiveUNet(CLASSES)
    shapes = []
    for stage in network.stages:
        stage.register_forward_hook(lambda module, given, made: shapes.append(tuple(made.shape[1:])))
    with torch.inference_mode():
        network(torch.rand(1, 3, 64, 64))
    assert shapes == [(32, 64, 64), (64, 32, 32), (128, 16, 16), (256, 8, 8), (256, 4, 4)]
    assert [len(stage) for stage in network.stages] == [1, 2, 2, 2, 2]
    assert network.fusion[2].weight.shape == (256, 256, 1, 1)
    assert [block.second[2].out_channels for block in network.decoder] == [128, 64, 32, 32]


def test_the_unet_sees_grey_levels_as_shares():
    network = small_unet()
    white = torch.full((1, 32, 32, 3), 255, dtype=torch.uint8)
    assert torch.equal(network.normalise(white), torch.ones(1, 3, 32, 32))


@pytest.mark.parametrize("frame_px", [0, 8, 40])
def test_a_frame_that_cannot_be_halved_four_times_is_refused(frame_px):
    with pytest.raises(InputError, match="multiple of 16"):
        CorrectiveUNet(CLASSES, frame_px)


@pytest.mark.parametrize(
    ("size_hw", "on_gpu", "expected"),
    [((512, 512), True, 512), ((1000, 1000), False, 256), ((200, 300), True, 192), ((5, 9), False, 16)],
)
def test_the_unets_frame_fits_patch_and_machine(size_hw, on_gpu, expected):
    assert frame_px_for(size_hw, on_gpu) == expected


# nnU-Net.


def test_feature_values_by_hand():
    # 512 px, 8 levels: 5 x (32 x 512^2 + 64 x 256^2 + 128 x 128^2 + 256 x 64^2 + 512 x (32^2 + 16^2 + 8^2))
    # + 2 x 512 x 4^2. nnU-Net's own count, with the outputs, is 83.25 million.
    assert feature_values(512) == 82_100_224
    assert feature_values(256) == 20_496_384


# Halved down to 4 px: 256 six times, 512 seven, 1000 (padded to 1024) eight.
@pytest.mark.parametrize(
    ("size_hw", "n_images", "budget", "patch_px", "batch_size", "depth"),
    [
        # On a processor 2 x feature_values must be within 42 million: 2 x 20.5, but not 2 x 32.0 of 320 px.
        ((1000, 1000), 30, CPU_BUDGET, 256, 2, 6),
        ((512, 512), 100, CPU_BUDGET, 256, 2, 6),
        ((256, 320), 100, CPU_BUDGET, 256, 2, 6),
        # 1020 / 328.5 = 3.1, and 5 % of 30 patches of 1000 px are 1.4 frames of 1024: the least, 2.
        ((1000, 1000), 30, GPU_BUDGET, 1024, 2, 8),
        ((1000, 1000), 1000, GPU_BUDGET, 1024, 3, 8),
        # 1020 / 82.1 = 12.4; 5 % of 100 frames are 5.
        ((512, 512), 100, GPU_BUDGET, 512, 5, 7),
        ((512, 512), 1000, GPU_BUDGET, 512, 12, 7),
        # 1020 / 20.5 = 49.8; 5 % of 300 x 256 x 320 px are 18.75 frames.
        ((256, 320), 300, GPU_BUDGET, 256, 19, 6),
        # 500 is padded to 512: halved 7 times to 4 px, odd sides rounded up.
        ((500, 600), 1000, GPU_BUDGET, 512, 12, 7),
        # A patch smaller than the smallest network.
        ((10, 12), 3, CPU_BUDGET, 16, 2, 2),
    ],
)
def test_plans_by_hand(size_hw, n_images, budget, patch_px, batch_size, depth):
    planned = plan(size_hw, n_images, budget)
    assert (planned.patch_px, planned.batch_size) == (patch_px, batch_size)
    assert planned.strides == (1,) + (2,) * depth
    assert planned.filters == (32, 64, 128, 256, 512, 512, 512, 512, 512)[: depth + 1]
    assert planned.patch_px % 2**depth == 0


def test_a_patch_shrinks_by_the_next_smaller_stride():
    # 512 px is halved 7 times, 448 = 7 x 64 six times: steps of 64, as nnU-Net's own search has them.
    assert plan((512, 512), 100, 2.0 * 82_000_000).patch_px == 448
    assert plan((512, 512), 100, 1.0).patch_px == 16


def test_nothing_to_plan_by_is_refused():
    with pytest.raises(InputError, match="0 images"):
        plan((512, 512), 0)


@pytest.mark.parametrize("depth", range(2, 9))
def test_supervision_weights_sum_to_one(depth):
    weights = supervision_weights(depth)
    assert sum(weights) == pytest.approx(1.0)
    # One output for each decoder level but the deepest.
    assert len(weights) == depth - 1
    assert all(fine == 2 * coarse for fine, coarse in zip(weights, weights[1:], strict=False))


def test_a_plan_survives_json():
    planned = plan((512, 512), 100)
    assert NnUNetPlan.from_dict(json.loads(json.dumps(dataclasses.asdict(planned)))) == planned


def test_coarser_outputs_only_in_training():
    network = small_nnunet()
    images = network.normalise(frames(network))
    with torch.no_grad():
        still = network(images)
        learning = network.train()(images)
    assert still.coarser == () and still.weights == (1.0,)
    assert [tuple(logits.shape) for logits in learning.coarser] == [(2, 2, 16, 16)]
    assert learning.weights == SMALL_PLAN.deep_supervision
    assert torch.allclose(still.logits, learning.logits, atol=1e-6)


def test_every_planned_depth_can_be_built():
    for side in (16, 32, 64):
        planned = plan((side, side), 10)
        network = PlannedUNet(CLASSES, planned, FACTS.channel_mean, FACTS.channel_std).train()
        output = network(network.normalise(frames(network)))
        assert 1 + len(output.coarser) == len(output.weights) == len(planned.strides) - 2


def test_nnunet_normalises_by_the_training_patches():
    network = small_nnunet()
    mean = torch.tensor(FACTS.channel_mean).to(torch.uint8).expand(1, 32, 32, 3).clone()
    mean[0, 0, 0, 0] += 40
    normalised = network.normalise(mean)
    assert normalised[0, 0, 0, 0] == 1.0
    assert normalised.abs().sum() == 1.0
