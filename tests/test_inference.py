import json

import numpy as np
import pytest
import torch

from allinsam import inference
from allinsam.errors import InputError, ModelError
from allinsam.inference import (
    InstanceSettings,
    cut_instances,
    frame_zoom,
    load_run,
    mean_per_instance,
    predict_patch,
    predict_probabilities,
    untrained_model,
)
from allinsam.sam.adapter import AdaptedSam
from allinsam.sam.frames import frame_starts
from allinsam.training.checkpoints import write_weights
from tests.tiny import tiny_backbone


class Stripes(torch.nn.Module):
    """Stands in for the network: class 0 is sure of dark pixels, class 1 of bright ones."""

    frame_px, whole_patch, um_per_px = 64, False, None
    class_names = ("dark", "bright")

    def normalise(self, frames: torch.Tensor) -> torch.Tensor:
        return frames.permute(0, 3, 1, 2).float()

    def forward(self, frames: torch.Tensor) -> object:
        brightness = torch.nn.functional.avg_pool2d(frames.mean(1, keepdim=True), 2) / 255.0
        logits = 20.0 * (torch.cat([1 - brightness, brightness], 1) - 0.5)
        return type("Output", (), {"logits": logits})


def disc(size_hw: tuple[int, int], centre_yx: tuple[float, float], radius: float) -> np.ndarray:
    y, x = np.mgrid[: size_hw[0], : size_hw[1]]
    return (y - centre_yx[0]) ** 2 + (x - centre_yx[1]) ** 2 <= radius**2


@pytest.mark.parametrize(
    ("length", "overlap", "starts"),
    [
        (50, 0.5, [0]),
        (64, 0.5, [0]),
        (128, 0.0, [0, 64]),
        (128, 0.5, [0, 32, 64]),
        (130, 0.0, [0, 33, 66]),
    ],
)
def test_frame_starts(length, overlap, starts):
    assert frame_starts(length, 64, overlap) == starts


@pytest.mark.parametrize("size_hw", [(150, 97), (64, 64), (40, 100), (20, 9)])
def test_blended_probabilities_follow_the_image_at_its_own_size(size_hw):
    image = np.zeros((*size_hw, 3), np.uint8)
    image[:, size_hw[1] // 3 :] = 255
    dark, bright = predict_probabilities(Stripes(), image)
    assert dark.shape == size_hw and dark.dtype == np.float32
    edge = size_hw[1] // 3
    assert (dark[:, : edge - 2] > 0.99).all() and (dark[:, edge + 2 :] < 0.01).all()
    assert np.allclose(dark + bright, 1.0, atol=1e-5)


def test_zoom_is_undone():
    image = np.zeros((100, 100, 3), np.uint8)
    image[30:60, 20:80] = 255
    finer = Stripes()
    finer.um_per_px = 0.25
    _, bright = predict_probabilities(finer, image, um_per_px=0.5)
    assert bright.shape == (100, 100)
    assert ((bright > 0.5) == (image[..., 0] > 0)).mean() > 0.99


def test_mirrored_prediction_does_not_care_which_way_round_the_image_is():
    network = untrained_model(tiny_backbone(), ["a"]).network
    image = np.random.default_rng(1).integers(0, 256, (64, 90, 3), dtype=np.uint8)

    def apart(mirrored: bool, axes: tuple[int, ...]) -> float:
        there, back = (
            predict_probabilities(network, given, mirrored=mirrored)
            for given in (image, np.ascontiguousarray(np.flip(image, axes)))
        )
        return float(np.abs(there[0] - np.flip(back[0], axes)).max())

    for axes in ((0,), (1,), (0, 1)):
        assert apart(True, axes) < 1e-5 < 1e-3 < apart(False, axes)


def test_zoom_of_a_backbone_that_sees_whole_patches_and_of_one_that_does_not():
    whole, in_frames = (AdaptedSam(tiny_backbone(whole_patch=flag), ["a"]) for flag in (True, False))
    assert frame_zoom(whole, (32, 16), 0.5) == 2.0
    assert frame_zoom(in_frames, (32, 16), 0.5) == 1.0
    with pytest.raises(InputError, match="Pixel size 0"):
        frame_zoom(in_frames, (32, 16), 0)


def test_contested_pixel_goes_to_the_surer_class():
    first, second = np.zeros((2, 40, 40), np.float32)
    first[5:20, 5:20], second[5:20, 12:30] = 0.8, 0.9
    one, two = cut_instances(np.stack([first, second]), settings=InstanceSettings(whole_objects=False))
    assert (one > 0).sum() == 15 * 7 and (two > 0).sum() == 15 * 18
    assert not ((one > 0) & (two > 0)).any()


def test_a_nucleus_goes_as_a_whole_to_its_likeliest_class():
    first, second = np.zeros((2, 40, 40), np.float32)
    nucleus = disc((40, 40), (20, 20), 7)
    first[nucleus], second[nucleus] = 0.7, 0.6
    second[:, 24:][nucleus[:, 24:]] = 0.9
    one, two = cut_instances(np.stack([first, second]))
    assert ((one > 0) == nucleus).all() and two.max() == 0
    one, two = cut_instances(np.stack([first, second]), settings=InstanceSettings(whole_objects=False))
    assert one.max() == 1 and two.max() == 1


@pytest.mark.parametrize("whole_objects", [True, False])
def test_classes_that_are_equal_both_get_the_nucleus(whole_objects):
    """An untrained network's maps are the same for every class: its first class is not the better one."""
    probability = np.where(disc((40, 40), (20, 20), 8), 0.9, 0.1).astype(np.float32)
    one, two = cut_instances(
        np.stack([probability, probability + np.float32(1e-7)]),
        settings=InstanceSettings(whole_objects=whole_objects),
    )
    assert one.max() == 1 and np.array_equal(one, two)


def test_touching_nuclei_are_split_and_single_ones_are_not():
    mask = disc((60, 80), (30, 25), 9) | disc((60, 80), (30, 41), 9) | disc((60, 80), (10, 70), 7)
    probability = np.where(mask, 0.9, 0.1).astype(np.float32)[None]
    (labels,) = cut_instances(probability)
    assert labels.dtype == np.int32 and labels.max() == 3
    assert labels[30, 20] != labels[30, 46]
    assert ((labels > 0) == mask).all()
    (joined,) = cut_instances(probability, settings=InstanceSettings(split_touching=False))
    assert joined.max() == 2


def test_nucleus_at_the_border_is_kept():
    probability = np.where(disc((40, 40), (0, 20), 8), 0.9, 0.0).astype(np.float32)[None]
    (labels,) = cut_instances(probability)
    assert labels.max() == 1 and (labels > 0).sum() == (probability > 0.5).sum()


def test_smallest_area_follows_the_pixel_size():
    probability = np.zeros((1, 40, 40), np.float32)
    probability[0, 5:8, 5:8], probability[0, 20:25, 20:25] = 0.9, 0.9  # 9 and 25 px
    found = {um: cut_instances(probability, um)[0].max() for um in (None, 0.5, 0.25, 1.0)}
    # 10 px at 0.5 um/px are 40 px at 0.25 and 2.5 px at 1.0.
    assert found == {None: 1, 0.5: 1, 0.25: 0, 1.0: 2}


def test_ids_run_from_1_and_scores_are_mean_probabilities():
    probability = np.zeros((1, 40, 40), np.float32)
    probability[0, 2:4, 2:4] = 0.9  # too small, must not leave a gap in the ids
    probability[0, 10:20, 10:20] = 0.6
    probability[0, 10:15, 10:20] = 0.8
    probability[0, 30:36, 30:36] = 1.0
    (labels,) = cut_instances(probability)
    assert np.unique(labels).tolist() == [0, 1, 2]
    assert mean_per_instance(probability[0], labels).tolist() == pytest.approx([0.7, 1.0])


def test_nothing_found_is_an_empty_result():
    labels = np.zeros((8, 8), np.int32)
    assert mean_per_instance(np.zeros((8, 8), np.float32), labels).shape == (0,)
    assert cut_instances(np.zeros((1, 8, 8), np.float32))[0].max() == 0


def test_predict_patch_returns_every_class_at_native_size():
    model = untrained_model(tiny_backbone(), ["mesangial", "podocyte"])
    image = np.random.default_rng(0).integers(0, 256, (90, 70, 3), dtype=np.uint8)
    found = predict_patch(model, image, um_per_px=0.5)
    assert list(found) == ["mesangial", "podocyte"]
    for prediction in found.values():
        assert prediction.probability.shape == prediction.labels.shape == (90, 70)
        assert prediction.probability.dtype == np.float32 and prediction.labels.dtype == np.int32
        assert len(prediction.scores) == prediction.labels.max()
    again = predict_patch(model, image, um_per_px=0.5)
    assert all(np.array_equal(found[name].probability, again[name].probability) for name in found)


def test_untrained_model_is_fixed_by_its_seed_and_leaves_the_callers_randomness_alone():
    loaded, before = tiny_backbone(), torch.get_rng_state()
    one, same, other = (untrained_model(loaded, ["a"], seed=seed).network for seed in (1, 1, 2))
    assert torch.equal(one.adapter.up.weight, same.adapter.up.weight)
    assert not torch.equal(one.adapter.up.weight, other.adapter.up.weight)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    "image", [np.zeros((8, 8), np.uint8), np.zeros((8, 8, 3)), np.zeros((0, 8, 3), np.uint8)]
)
def test_an_image_that_is_no_rgb_is_refused(image):
    with pytest.raises(InputError, match="not uint8"):
        predict_probabilities(Stripes(), image)


@pytest.fixture
def run_folder(tmp_path):
    model = untrained_model(tiny_backbone(), ["a", "b"])
    write_weights(tmp_path / inference.WEIGHTS_FILE, model.network.trained_state())
    run = {
        "backbone": "tiny",
        "weights_sha256": model.weights_sha256,
        "class_names": ["a", "b"],
        "adapter_width": None,
        "settings": {},
    }
    (tmp_path / inference.RUN_FILE).write_text(json.dumps(run), encoding="utf-8")
    return tmp_path


def test_load_run_restores_the_network(run_folder):
    model = load_run(run_folder, loaded=tiny_backbone())
    expected = untrained_model(tiny_backbone(), ["a", "b"])
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    got, want = (predict_probabilities(m.network, image) for m in (model, expected))
    assert np.array_equal(got, want)


def test_load_run_refuses_another_backbone(run_folder):
    with pytest.raises(ModelError, match="Restore those weights"):
        load_run(run_folder, loaded=tiny_backbone(seed=7))


@pytest.mark.parametrize("name", [inference.RUN_FILE, inference.WEIGHTS_FILE])
def test_load_run_says_what_is_missing(run_folder, name):
    (run_folder / name).unlink()
    with pytest.raises(ModelError, match="no finished training run"):
        load_run(run_folder, loaded=tiny_backbone())
