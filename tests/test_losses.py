import math

import pytest
import torch

from allinsam.sam.adapter import AdapterOutput
from allinsam.training.losses import deep_supervised, dice_bce, known_loss

LN3 = math.log(3.0)


def test_dice_bce_by_hand():
    # p = 0.75 on the target, 0.25 beside it: cross-entropy -ln 0.75 everywhere.
    logits = torch.tensor([[[LN3, -LN3], [LN3, -LN3]]])
    targets = torch.tensor([[[1.0, 0.0], [1.0, 0.0]]])
    # Dice 1 - 2 x 1.5 / (2 + 2 + 1).
    assert dice_bce(logits, targets).tolist() == pytest.approx([-math.log(0.75) + 0.4])
    half = torch.full_like(targets, 0.5)
    assert dice_bce(logits, targets, weight=half).tolist() == pytest.approx([-0.5 * math.log(0.75) + 0.7])


def test_deep_supervision_by_hand():
    def distance(logits, targets, seen):
        counted = 1.0 if seen is None else seen
        return (counted * (logits - targets).abs()).flatten(1).sum(1)

    targets = torch.zeros(2, 4, 4)
    targets[0, :2, :2] = 1.0
    targets[1, 0, :2] = 1.0
    outputs = [torch.zeros(2, 4, 4), torch.zeros(2, 2, 2), torch.ones(2, 1, 1)]
    # Cells of 2 px: covered whole and by half; of 4 px: by a quarter and an eighth.
    expected = [0.5 * 4 + 0.3 * 1 + 0.2 * 0.75, 0.5 * 2 + 0.3 * 0.5 + 0.2 * 0.875]
    assert deep_supervised(distance, outputs, targets, (0.5, 0.3, 0.2)).tolist() == pytest.approx(expected)
    # Only the left half was labelled: cells of 4 px count half.
    seen = torch.zeros(2, 4, 4)
    seen[:, :, :2] = 1.0
    expected = [0.5 * 4 + 0.3 * 1 + 0.2 * 0.375, 0.5 * 2 + 0.3 * 0.5 + 0.2 * 0.4375]
    found = deep_supervised(distance, outputs, targets, (0.5, 0.3, 0.2), seen)
    assert found.tolist() == pytest.approx(expected)
    with pytest.raises(ValueError):
        deep_supervised(distance, outputs, targets, (0.5, 0.5))


def test_only_what_was_labelled_teaches():
    logits = torch.randn(2, 3, 8, 8, requires_grad=True)
    coarser = torch.randn(2, 3, 4, 4, requires_grad=True)
    targets = (torch.rand(2, 3, 8, 8) > 0.5).float()
    known = torch.tensor([[True, False, True], [False, False, True]])
    output = AdapterOutput(logits, torch.zeros(2, 1, 8, 8), (coarser,), (2 / 3, 1 / 3))
    losses = known_loss(dice_bce, output, targets, known)
    assert losses.shape == (3,)
    losses.sum().backward()
    for given in (logits, coarser):
        assert torch.equal(given.grad.flatten(2).any(2), known)


def test_what_lies_outside_the_labelled_window_teaches_nothing():
    logits = torch.randn(1, 1, 8, 8, requires_grad=True)
    coarser = torch.randn(1, 1, 4, 4, requires_grad=True)
    seen = torch.zeros(1, 1, 8, 8)
    seen[..., :4] = 1.0
    output = AdapterOutput(logits, torch.zeros(1, 1, 8, 8), (coarser,), (2 / 3, 1 / 3))
    targets = (torch.rand(1, 1, 8, 8) > 0.5).float()
    known_loss(dice_bce, output, targets, torch.ones(1, 1, dtype=torch.bool), seen).sum().backward()
    for given in (logits, coarser):
        left, right = given.grad.chunk(2, dim=-1)
        assert left.all() and not right.any()


def test_a_batch_without_labels_has_no_loss_but_gradients():
    logits = torch.randn(1, 2, 8, 8, requires_grad=True)
    coarser = torch.randn(1, 2, 4, 4, requires_grad=True)
    output = AdapterOutput(logits, torch.zeros(1, 1, 8, 8), (coarser,), (2 / 3, 1 / 3))
    none = torch.zeros(1, 2, dtype=torch.bool)
    losses = known_loss(dice_bce, output, torch.zeros(1, 2, 8, 8), none, torch.ones(1, 1, 8, 8))
    assert losses.shape == (0,)
    losses.sum().backward()
    assert not logits.grad.any() and not coarser.grad.any()


def test_a_network_without_coarser_outputs_has_the_plain_loss():
    logits, targets = torch.randn(1, 2, 8, 8), torch.zeros(1, 2, 8, 8)
    plain = AdapterOutput(logits.to(torch.bfloat16), torch.zeros(1, 1, 8, 8))
    losses = known_loss(dice_bce, plain, targets, torch.ones(1, 2, dtype=torch.bool))
    assert losses.dtype == torch.float32
    assert torch.allclose(losses, dice_bce(logits[0], targets[0]), atol=0.01)
