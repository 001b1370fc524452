"""W, S and the weight over a whole patch, with a network whose answers are known."""

import numpy as np
import pytest
import torch

from allinsam.sam.adapter import AdapterOutput
from allinsam.training.corrective import CorrectiveSettings
from allinsam.training.dataset import TrainingPatch
from allinsam.training.trust import mean_inside, patch_trust

FRAME, GRID = 128, 64
DARK, PINK = 60, 220


class DarkIsNucleus:
    """Answers +4 on dark pixels and -4 on light ones, for each class; features tell dark from light."""

    class_names = ("podocyte", "mesangial")
    frame_px, grid_px, whole_patch, um_per_px = FRAME, GRID, False, None

    def normalise(self, frames: torch.Tensor) -> torch.Tensor:
        return frames.permute(0, 3, 1, 2).float()

    def __call__(self, frames: torch.Tensor) -> AdapterOutput:
        small = torch.nn.functional.adaptive_avg_pool2d(frames[:, :1], GRID)
        dark = (small < (DARK + PINK) / 2).float()
        logits = (8 * dark - 4).expand(-1, len(self.class_names), -1, -1)
        return AdapterOutput(logits, torch.cat([dark, 1 - dark], dim=1))


def patch(wrong: bool = True, width: int = 150) -> tuple[TrainingPatch, np.ndarray, np.ndarray]:
    """A dark nucleus that is labelled right, and pink tissue that is labelled as a nucleus."""
    image = np.full((100, width, 3), PINK, np.uint8)
    right, mistaken = np.zeros((2, 100, width), bool)
    right[20:40, 24:44], mistaken[60:80, 90:110] = True, True
    image[right] = DARK
    labels = {"podocyte": right | mistaken if wrong else right}
    return TrainingPatch("p", image, labels, um_per_px=0.5), right, mistaken


@pytest.mark.parametrize("mode", ["average", "product"])
def test_a_wrong_label_weighs_less_than_a_right_one(mode: str) -> None:
    labelled, right, mistaken = patch()
    found = patch_trust(DarkIsNucleus(), labelled, CorrectiveSettings(mode=mode))
    assert set(found) == {"podocyte"}  # the other class was not labelled here
    trust = found["podocyte"]
    assert trust.confidence.shape == trust.similarity.shape == trust.weight.shape == (100, 150)
    (w1, s1, weight1), (w2, s2, weight2) = mean_inside(trust, [right, mistaken])
    assert w1 == pytest.approx(1 / (1 + np.exp(-4)), abs=0.08) and w2 < 0.1
    assert s1 > 0.9
    assert weight2 < 0.8 * weight1
    assert 0 <= trust.similarity.min() and trust.similarity.max() <= 1


def test_without_weights_every_label_weighs_one() -> None:
    labelled, right, mistaken = patch()
    trust = patch_trust(DarkIsNucleus(), labelled, CorrectiveSettings(mode="none"))["podocyte"]
    assert [row[2] for row in mean_inside(trust, [right, mistaken])] == pytest.approx([1.0, 1.0])


def test_frames_without_a_label_do_not_brighten_their_neighbours() -> None:
    """Far from every label S says nothing; next to one it tells what is like it."""
    labelled, right, _ = patch(wrong=False, width=400)
    similarity = patch_trust(DarkIsNucleus(), labelled, CorrectiveSettings())["podocyte"].similarity
    beside = np.zeros_like(right)
    beside[44:52, 24:44] = True
    assert similarity[beside].mean() < 0.1 < 0.9 < similarity[right].mean()
