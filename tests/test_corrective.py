import math
from dataclasses import replace

import pytest
import torch

from allinsam.sam.adapter import AdapterOutput
from allinsam.training.corrective import (
    MOCL_MODES,
    CorrectiveSettings,
    TypicalWeights,
    adapter_loss,
    annotated_cells,
    by_nucleus,
    corrective_loss,
    corrective_weights,
    grid_k,
    similarity,
    trusted_elsewhere,
    weighted_bce,
    weighted_dice,
)
from allinsam.training.dataset import FrameBatch
from allinsam.training.settings import TrainingSettings
from allinsam.training.train import batch_loss

LN3 = math.log(3.0)


@pytest.fixture
def example() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """4 x 4 cells; the upper left 2 x 2 are annotated, with p = 0.75, 0.5, 0.5, 0.25; p = 0.25 elsewhere.

    Features there: along the prototype, along it, across it, against it; across it elsewhere.
    """
    logits = torch.full((1, 4, 4), -LN3)
    logits[0, :2, :2] = torch.tensor([[LN3, 0.0], [0.0, -LN3]])
    targets = torch.zeros(1, 4, 4)
    targets[0, :2, :2] = 1.0
    features = torch.zeros(1, 2, 4, 4)
    features[:, 1] = 1.0
    features[0, :, :2, :2] = torch.tensor([[[1.0, 2.0], [0.0, -1.0]], [[0.0, 0.0], [3.0, 0.0]]])
    return logits, features, targets


# By hand. k = 4 native px on cells of 2 px: the prototype is the one surest annotated cell, features (1, 0).
# Cosines 1, 1, 0, -1 are scaled to S = 1, 1, 0.5, 0. Cross-entropy: 0.287682, 0.693147, 0.693147, 1.386294,
# and 12 x 0.287682 = 3.452185 outside. sum p = 2 + 12 x 0.25 = 5, sum y = 4, so Dice's denominator is 10.
def test_average_mode_matches_the_hand_computed_example(example):
    logits, features, targets = example
    # Weights 1.5 ** p = 1.355403, 1.224745, 1.224745, 1.106682.
    by_confidence = (0.389925 + 2 * 0.848928 + 1.534186 + 3.452185) / 16 + 1 - 2 * 2.517968 / 10
    by_similarity = (0.287682 + 0.693147 + 0.346574 + 0.0 + 3.452185) / 16 + 1 - 2 * 1.5 / 10
    loss = corrective_loss(logits, features, targets, 2.0, CorrectiveSettings(mode="average", k=4))
    assert loss.item() == pytest.approx(0.5 * (by_confidence + by_similarity), abs=2e-6)
    assert loss.item() == pytest.approx(0.968633, abs=2e-6)


def test_product_mode_matches_the_hand_computed_example(example):
    logits, features, targets = example
    # Weights exp(p) S = 2.117000, 1.648721, 0.824361, 0.
    bce = (0.609023 + 1.142806 + 0.571403 + 0.0 + 3.452185) / 16
    dice = 1 - 2 * (2.117000 * 0.75 + 1.648721 * 0.5 + 0.824361 * 0.5) / 10
    loss = corrective_loss(logits, features, targets, 2.0, CorrectiveSettings(mode="product", k=4))
    assert loss.item() == pytest.approx(bce + dice, abs=2e-6)
    assert loss.item() == pytest.approx(0.796106, abs=2e-6)


def test_similarity_of_the_example(example):
    logits, features, targets = example
    alike = similarity(features, logits.sigmoid(), annotated_cells(targets), k=1)
    assert alike[0, :2, :2].tolist() == [[1.0, 1.0], [0.5, 0.0]]


def test_prototype_uses_annotated_cells_only():
    confidence = torch.tensor([[[0.9, 0.2, 0.1]]])
    annotated = torch.tensor([[[False, True, True]]])
    features = torch.tensor([[[[0.0, 1.0, 1.0]], [[1.0, 0.0, 1.0]]]])
    # k above the number of annotated cells: both make the prototype (1, 0.5), the sure cell outside does not.
    alike = similarity(features, confidence, annotated, k=100)
    cosine = [0.5 / math.sqrt(1.25), 1 / math.sqrt(1.25), 1.5 / math.sqrt(2.5)]
    span = cosine[2] - cosine[0]
    assert alike.flatten().tolist() == pytest.approx([0.0, (cosine[1] - cosine[0]) / span, 1.0], abs=1e-6)


def test_equal_features_and_empty_annotation_are_alike_everywhere():
    features, confidence = torch.ones(1, 3, 4, 4), torch.rand(1, 4, 4)
    some = torch.zeros(1, 4, 4, dtype=torch.bool)
    some[0, 0, 0] = True
    assert similarity(features, confidence, some, k=5).eq(1).all()
    varied = torch.randn(1, 3, 4, 4)
    assert similarity(varied, confidence, torch.zeros_like(some), k=5).eq(1).all()


@pytest.mark.parametrize("mode", MOCL_MODES)
def test_empty_target_has_weight_one(mode):
    logits, features, empty = torch.randn(2, 4, 4), torch.randn(2, 3, 4, 4), torch.zeros(2, 4, 4)
    loss = corrective_loss(logits, features, empty, 2.0, CorrectiveSettings(mode=mode))
    ones = torch.ones_like(empty)
    assert torch.allclose(loss, weighted_bce(logits, empty, ones) + weighted_dice(logits, empty, ones))


@pytest.mark.parametrize("mode", MOCL_MODES)
def test_no_gradient_flows_through_weights_or_prototype(mode, example):
    logits, features, targets = (tensor.clone() for tensor in example)
    logits.requires_grad_(True)
    features.requires_grad_(True)
    settings = CorrectiveSettings(mode=mode, k=4)
    corrective_loss(logits, features, targets, 2.0, settings).sum().backward()
    assert features.grad is None
    fixed = logits.detach().clone().requires_grad_(True)
    confidence = logits.detach().sigmoid()
    alike = similarity(features, confidence, annotated_cells(targets), k=1)
    weights = [
        torch.where(annotated_cells(targets), one, 1.0)
        for one in MOCL_MODES[mode](confidence, alike, settings.base)
    ]
    alone = sum(weighted_bce(fixed, targets, one) + weighted_dice(fixed, targets, one) for one in weights)
    (alone / len(weights)).sum().backward()
    assert torch.equal(logits.grad, fixed.grad)


def test_images_are_scaled_on_their_own(example):
    logits, features, targets = example
    louder = torch.cat([features, torch.randn(1, 2, 4, 4)])
    both = corrective_loss(logits.repeat(2, 1, 1), louder, targets.repeat(2, 1, 1), 2.0, CorrectiveSettings())
    alone = corrective_loss(logits, features, targets, 2.0, CorrectiveSettings())
    assert both[0].item() == pytest.approx(alone.item(), abs=1e-6)


def test_k_counts_native_pixels():
    assert [grid_k(100, stride) for stride in (1, 2, 4, 64)] == [100, 25, 6, 1]


def test_cells_need_half_cover_unless_that_leaves_none():
    coverage = torch.tensor([[[0.5, 0.49], [0.0, 1.0]], [[0.25, 0.1], [0.0, 0.0]], [[0.0, 0.0], [0.0, 0.0]]])
    assert annotated_cells(coverage).tolist() == [
        [[True, False], [False, True]],
        [[True, True], [False, False]],
        [[False, False], [False, False]],
    ]


def test_dice_weighted_in_both_stays_in_range_and_numerator_only_need_not():
    sure, full = torch.full((1, 8, 8), 20.0), torch.ones(1, 8, 8)
    # 64 cells of p = y = 1 with weight 1.5: 1 - 2 x 96 / 129; with the weights below as well 1 - 192 / 193.
    assert weighted_dice(sure, full, 1.5 * full).item() == pytest.approx(1 - 192 / 129, abs=1e-6)
    assert weighted_dice(sure, full, 1.5 * full, True).item() == pytest.approx(1 / 193, abs=1e-6)


def test_adapter_loss_by_hand():
    logits = torch.tensor([[[LN3, -LN3], [0.0, 0.0]]])
    targets = torch.tensor([[[1.0, 0.0], [1.0, 0.0]]])
    bce = (2 * -math.log(0.75) + 2 * math.log(2)) / 4
    # Overlap 0.75 + 0.5, union 2 + 2 - 1.25.
    assert adapter_loss(logits, targets).item() == pytest.approx(bce + 1 - 1.25 / 2.75, abs=1e-5)


def test_adapter_loss_of_an_empty_target_is_cross_entropy_alone():
    logits = torch.zeros(1, 2, 2, requires_grad=True)
    loss = adapter_loss(logits, torch.zeros(1, 2, 2))
    assert loss.item() == pytest.approx(math.log(2), abs=1e-6)
    loss.sum().backward()
    assert logits.grad.allclose(torch.full((1, 2, 2), 0.125))


@pytest.mark.parametrize("loss_name", ["adapter", *MOCL_MODES])
def test_what_was_not_labelled_teaches_nothing(loss_name, example):
    """A frame of which only the left half was labelled has the loss of that half alone."""

    def loss_of(logits, features, targets, seen=None):
        if loss_name == "adapter":
            return adapter_loss(logits, targets, seen)
        settings = CorrectiveSettings(mode=loss_name, k=4)
        return corrective_loss(logits, features, targets, 2.0, settings, seen)

    logits, features, targets = example
    seen = torch.zeros(1, 4, 8)
    seen[..., :4] = 1.0
    elsewhere = [torch.randn(1, 4, 4), torch.randn(1, 2, 4, 4), torch.ones(1, 4, 4)]
    wide = [torch.cat([one, more], dim=-1) for one, more in zip(example, elsewhere, strict=True)]
    wide[0].requires_grad_(True)
    loss = loss_of(*wide, seen)
    assert loss.item() == pytest.approx(loss_of(logits, features, targets).item(), abs=1e-6)
    loss.backward()
    assert not wide[0].grad[..., 4:].any()


def test_a_nucleus_is_weighted_as_a_whole():
    weights = torch.tensor([[[1.0, 3.0, 9.0], [9.0, 9.0, 9.0], [9.0, 9.0, 5.0]], [[2.0, 4.0, 9.0]] * 3])
    annotated = torch.tensor(
        [
            [[True, True, False], [False, False, False], [False, False, True]],
            [[True, True, False], [False, False, False], [True, False, False]],
        ]
    )
    # Means 2 and 5 in the first frame, 3 and 2 in the second; what is not annotated stays.
    whole = by_nucleus(weights, annotated)
    assert whole[0].tolist() == [[2.0, 2.0, 9.0], [9.0, 9.0, 9.0], [9.0, 9.0, 5.0]]
    assert whole[1].tolist() == [[3.0, 3.0, 9.0], [2.0, 4.0, 9.0], [2.0, 4.0, 9.0]]
    assert by_nucleus(torch.ones(0, 2, 2), torch.zeros(0, 2, 2, dtype=torch.bool)).shape == (0, 2, 2)


def test_whole_nuclei_of_the_example(example):
    logits, features, targets = example
    settings = CorrectiveSettings(mode="product", k=4, whole_nuclei=True)
    (weights,) = corrective_weights(logits, features, targets, 2.0, settings)
    mean = (2.117000 + 1.648721 + 0.824361 + 0.0) / 4
    assert weights[0, :2, :2].flatten().tolist() == pytest.approx([mean] * 4, abs=2e-6)


def test_typical_weights_follow_each_class_apart():
    typical = TypicalWeights(3)
    annotated = torch.tensor([[[True, True]], [[True, False]]])
    typical.follow([torch.tensor([[[1.0, 3.0]], [[8.0, 100.0]]])], annotated, torch.tensor([0, 2]))
    assert typical.of(torch.tensor([0, 1, 2])).flatten().tolist() == [2.0, 1.0, 8.0]
    typical.follow([torch.tensor([[[4.0, 4.0]]])], annotated[:1], torch.tensor([0]))
    assert typical.of(torch.tensor([0, 2])).flatten().tolist() == pytest.approx([0.98 * 2 + 0.02 * 4, 8.0])
    again = TypicalWeights(3, typical.to_list())
    assert torch.equal(again.of(torch.tensor([0, 2])), typical.of(torch.tensor([0, 2])))
    typical.follow([torch.tensor([[[5.0, 5.0]]])], annotated[:1], torch.tensor([1]))
    assert typical.of(torch.tensor([1])).item() == 5.0


def test_typical_weights_of_two_processes_are_those_of_one():
    weights, annotated = torch.rand(4, 3, 3), torch.rand(4, 3, 3) > 0.4
    classes = torch.tensor([0, 1, 1, 0])
    one = TypicalWeights(2)
    one.follow([weights], annotated, classes)
    sums = []
    for part in (slice(0, 2), slice(2, 4)):
        TypicalWeights(2).follow(
            [weights[part]], annotated[part], classes[part], lambda s: sums.append(s.clone()) or s
        )
    two = TypicalWeights(2)
    two.follow([weights[:2]], annotated[:2], classes[:2], lambda _: sums[0] + sums[1])
    assert torch.allclose(one.means, two.means)


def test_a_doubted_nucleus_is_less_surely_background_of_the_other_class():
    annotated = torch.zeros(4, 2, 2, dtype=torch.bool)
    annotated[0, 0, 0] = annotated[1, 1, 1] = annotated[2, 0, 1] = True
    annotated[1, 0, 0] = annotated[3, 0, 0] = True  # a cell with both labels, and a frame of its own
    weights = [torch.full((4, 2, 2), 0.2), torch.full((4, 2, 2), 0.4)]
    weights[0][2] = weights[1][2] = 1.7  # more than usual is no reason to unlearn less
    frame = torch.tensor([0, 0, 0, 1])
    found = trusted_elsewhere(weights, annotated, frame)
    expected = torch.ones(4, 2, 2)
    expected[0, 1, 1] = expected[2, 1, 1] = 0.3  # as the second row's label is doubted
    expected[2, 0, 0] = 0.3 * 0.3  # two labels there, both doubted
    assert torch.allclose(found, expected)


def test_shared_doubt_changes_the_loss_of_the_other_class_only_under_doubted_nuclei():
    torch.manual_seed(0)
    targets = torch.zeros(1, 2, 8, 8)
    targets[0, 0, :3, :3] = 1.0
    logits = torch.randn(1, 2, 8, 8, requires_grad=True)
    output = AdapterOutput(logits, torch.randn(1, 4, 8, 8))
    known, seen = torch.ones(1, 2, dtype=torch.bool), torch.ones(1, 1, 8, 8)
    batch = FrameBatch(torch.zeros(1), targets, known, seen, pairs=2.0)

    def gradient(shared: bool) -> torch.Tensor:
        settings = replace(TrainingSettings(), shared_doubt=shared, relative_weights=False)
        (found,) = torch.autograd.grad(batch_loss(output, batch, "corrective", settings, 1.0), logits)
        return found[0]

    apart, together = gradient(False), gradient(True)
    assert torch.equal(apart[0], together[0])  # the labelled class itself
    less = (together[1].abs() < apart[1].abs())[:3, :3]
    assert less.float().mean() > 0.9
