import numpy as np
import pytest
import torch

from allinsam.training.augmentation import (
    NNUNET_COLOURS,
    change_contrast,
    change_gamma,
    change_inverted_gamma,
    nnunet_augment,
    turn_and_scale,
)


def scores(side: int = 24) -> torch.Tensor:
    return torch.randn(3, side, side, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", NNUNET_COLOURS)
def test_each_change_of_colour_changes_the_image_and_nothing_else(name):
    image = scores()
    before = image.clone()
    changed = [NNUNET_COLOURS[name].change(image, np.random.default_rng(seed)) for seed in range(8)]
    assert torch.equal(image, before)
    assert all(each.shape == image.shape and each.dtype == torch.float32 for each in changed)
    assert all(torch.isfinite(each).all() for each in changed)
    # Blur and low resolution leave some channels alone, but not in eight draws.
    assert any(not torch.allclose(each, image) for each in changed)


@pytest.mark.parametrize("change", [change_gamma, change_inverted_gamma])
def test_gamma_keeps_mean_and_deviation(change):
    image = scores()
    bent = change(image, np.random.default_rng(0))
    assert torch.allclose(bent.mean((1, 2)), image.mean((1, 2)), atol=1e-4)
    assert torch.allclose(bent.std((1, 2)), image.std((1, 2)), atol=1e-4)


def test_contrast_stays_within_the_range():
    image = scores()
    for seed in range(4):
        changed = change_contrast(image, np.random.default_rng(seed))
        assert (changed.amax((1, 2)) <= image.amax((1, 2))).all()
        assert (changed.amin((1, 2)) >= image.amin((1, 2))).all()


def test_image_and_masks_turn_together():
    masks = torch.zeros(1, 20, 20, dtype=torch.bool)
    masks[0, 2:6, 8:12] = True
    image = masks.float().repeat(3, 1, 1)
    turned, turned_masks = turn_and_scale(image, masks, 90.0, 1.0)
    assert torch.allclose(turned[0], turned_masks[0].float(), atol=1e-4)
    assert torch.equal(turned_masks, torch.rot90(masks, 1, (1, 2))) or torch.equal(
        turned_masks, torch.rot90(masks, -1, (1, 2))
    )


def test_a_scale_above_one_shows_more_tissue():
    masks = torch.zeros(1, 40, 40, dtype=torch.bool)
    masks[0, 10:30, 10:30] = True
    _, smaller = turn_and_scale(masks.float().repeat(3, 1, 1), masks, 0.0, 1.25)
    _, larger = turn_and_scale(masks.float().repeat(3, 1, 1), masks, 0.0, 0.5)
    assert [int(smaller.sum()), int(larger.sum())] == [16 * 16, 40 * 40]


def test_augmented_frames_are_frames_and_the_seed_decides():
    image = np.random.default_rng(2).integers(0, 256, (24, 24, 3), dtype=np.uint8)
    layers = np.zeros((2, 24, 24), bool)
    layers[0, 4:10, 4:10] = True
    given = image.copy(), layers.copy()
    made = [nnunet_augment(image, layers, np.random.default_rng(seed)) for seed in range(20)]
    assert np.array_equal(image, given[0]) and np.array_equal(layers, given[1])
    for frame, cover in made:
        assert (frame.shape, frame.dtype) == ((24, 24, 3), np.uint8)
        assert (cover.shape, cover.dtype) == ((2, 24, 24), bool)
        assert cover[0].any() and not cover[1].any()
    again = nnunet_augment(image, layers, np.random.default_rng(7))
    assert np.array_equal(made[7][0], again[0]) and np.array_equal(made[7][1], again[1])
    assert len({frame.tobytes() for frame, _ in made}) > 10


def test_a_blank_frame_stays_blank():
    blank, none = np.full((16, 16, 3), 255, np.uint8), np.zeros((1, 16, 16), bool)
    for seed in range(10):
        frame, layers = nnunet_augment(blank, none, np.random.default_rng(seed))
        assert frame.mean() > 250
        assert not layers.any()
