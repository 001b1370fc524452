"""Pretraining of the compact SAM: its data, its prompts, its model's conventions, and a few real steps."""

import json
import logging

import cv2
import numpy as np
import pytest
import torch

import allinsam.sam  # noqa: F401  (makes segment_anything importable)
from allinsam.errors import InputError, ModelError
from allinsam.sam.compact import build_compact, crop_origins, decode_crops, ellipse_prior
from allinsam.training import pretrain
from allinsam.training.pretrain import PretrainSettings, RealImage, Run, Window
from allinsam.training.pretraining_tissue import render, simulate_frame


@pytest.fixture(scope="module")
def sam():
    torch.manual_seed(0)
    return build_compact().eval()


@pytest.fixture
def image_folder(tmp_path):
    """Twenty small images of dark discs on a pale ground, with their labels."""
    for index in range(20):
        labels = np.zeros((64, 96), np.uint16)
        for number, centre in enumerate([(20, 20), (60, 30), (30, 48)], start=1):
            cv2.circle(labels, centre, 8 + index % 3, number, -1)
        rgb = np.full((64, 96, 3), 220, np.uint8)
        rgb[labels > 0] = (110, 50, 160)
        cv2.imwrite(str(tmp_path / f"{index:02d}.png"), rgb[..., ::-1])
        cv2.imwrite(str(tmp_path / f"{index:02d}_inst.png"), labels)
    return tmp_path


def test_frame_is_a_function_of_its_seed_with_nuclei_darker_than_their_surroundings():
    frame, again, other = simulate_frame(3), simulate_frame(3), simulate_frame(4)
    assert np.array_equal(frame.labels, again.labels) and np.array_equal(frame.nuclear, again.nuclear)
    assert not np.array_equal(frame.labels, other.labels)
    assert frame.labels.shape == (256, 320) and frame.labels.max() >= 3
    assert frame.nuclear[frame.labels > 0].mean() > 2 * frame.nuclear[frame.labels == 0].mean()


def test_render_without_stain_is_even_light():
    empty = np.zeros((8, 8), np.float32)
    image = render(np.random.default_rng(0), empty, empty, empty)
    assert image.dtype == np.uint8 and image.min() > 170
    assert np.all(image == image[0, 0])


def test_held_back_are_every_18th_image_and_every_pink_one(image_folder):
    images = pretrain.read_images(image_folder)
    pink = np.full((64, 96, 3), (205, 120, 190), np.uint8)
    images[5] = RealImage("05", pink, images[5].labels, images[5].nuclear, images[5].diameter_px)
    train, held_back = pretrain.split_held_back(images)
    assert [image.name for image in held_back] == ["00", "05", "18"]
    assert len(train) == 17


def test_diameter_and_nuclear_amount_of_known_discs(image_folder):
    image = pretrain.read_images(image_folder)[0]
    assert image.diameter_px == pytest.approx(16.2, abs=1.0)
    assert np.median(image.nuclear[image.labels > 0]) == 100
    assert np.all(image.nuclear[image.labels == 0] == 0)


def test_missing_images_are_named(tmp_path):
    with pytest.raises(InputError, match="--dsb"):
        pretrain.read_images(tmp_path)


def test_tight_box_of_a_rectangle_and_its_ellipse_prior():
    labels = np.zeros((128, 256), np.int32)
    labels[40:60, 100:140] = 7
    window = Window(np.zeros((128, 256, 3), np.uint8), labels, np.ones((128, 256), bool))
    ids, boxes = pretrain.draw_prompts(np.random.default_rng(0), window, 5)
    assert ids.tolist() == [7] and boxes.tolist() == [[100, 40, 140, 60]]
    prior = ellipse_prior(torch.tensor([[20.0, 40.0, 60.0, 60.0]]), (64, 64))[0, 0]
    assert prior[25, 20] == 4 and prior[0, 0] == -4
    area_px = 4 * int((prior > 0).sum())
    assert area_px == pytest.approx(np.pi * 20 * 10, rel=0.03)


def test_nuclei_at_mirrored_parts_are_no_prompts():
    labels = np.zeros((128, 256), np.int32)
    labels[40:60, 0:20] = 1
    labels[40:60, 100:120] = 2
    valid = np.ones((128, 256), bool)
    valid[:, :3] = False
    window = Window(np.zeros((128, 256, 3), np.uint8), labels, valid)
    assert pretrain.draw_prompts(np.random.default_rng(0), window, 5)[0].tolist() == [2]


def test_jittered_boxes_are_tight_or_looser_and_inside():
    rng = np.random.default_rng(1)
    tight = np.tile(np.array([[2.0, 50.0, 22.0, 70.0]], np.float32), (400, 1))
    boxes = pretrain.jitter(rng, tight, (128, 256))
    assert boxes.min() >= 0
    untouched = np.all(boxes == tight, axis=1).mean()
    assert 0.45 < untouched < 0.6
    assert np.all(boxes[:, 3] >= 70 - 0.08 * 20) and np.all(boxes[:, 3] <= 70 + 0.28 * 20)


def test_crop_origins_follow_the_box_and_stay_inside():
    boxes = torch.tensor([[0.0, 0.0, 20.0, 20.0], [240.0, 240.0, 272.0, 272.0], [500.0, 500.0, 512.0, 512.0]])
    assert crop_origins(boxes, (64, 64)).tolist() == [[0, 0], [24, 24], [48, 48]]


def test_correction_points_at_what_an_earlier_mask_got_wrong():
    rng = np.random.default_rng(0)
    truth = np.zeros((64, 64), np.float32)
    truth[20:40, 20:40] = 1
    for earlier, label, columns in (
        (np.where(np.arange(64) < 30, truth, 0), 1, range(30, 40)),
        (np.maximum(truth, (np.arange(64) >= 36) & (truth.max(1, keepdims=True) > 0)), 0, range(40, 64)),
    ):
        point, labels = pretrain.correction(rng, truth, earlier * 8 - 4)
        assert labels.tolist() == [label]
        assert int(point[0] / 2) in columns and 20 <= int(point[1] / 2) < 40
    assert pretrain.correction(rng, truth, truth * 8 - 4)[1].tolist() == [-1]


def test_cut_takes_each_prompt_its_own_place():
    features = torch.arange(2 * 3 * 20 * 24, dtype=torch.float32).view(2, 3, 20, 24)
    crops = pretrain.cut(features, torch.tensor([1, 0]), torch.tensor([[4, 8], [0, 3]]))
    assert torch.equal(crops[0], features[1, :, 4:20, 8:24])
    assert torch.equal(crops[1], features[0, :, 0:16, 3:19])


def test_embedding_of_whole_windows_does_not_depend_on_what_lies_far_away(sam):
    torch.manual_seed(1)
    image = torch.randn(1, 3, 128, 256)
    changed = image.clone()
    changed[..., 224:] = torch.randn(1, 3, 128, 32)
    with torch.no_grad():
        first, second = sam.image_encoder(image), sam.image_encoder(changed)
    assert first.shape == (1, 256, 16, 32)
    assert torch.allclose(first[..., :12], second[..., :12], atol=1e-5)
    assert not torch.allclose(first[..., 28:], second[..., 28:], atol=1e-2)


def test_crop_decode_equals_sams_own_decoder_on_a_full_frame(sam):
    torch.manual_seed(2)
    features = torch.randn(1, 256, 32, 32)
    boxes = torch.tensor([[100.0, 90.0, 130.0, 128.0], [20.0, 30.0, 60.0, 60.0]])
    prior = ellipse_prior(boxes, (128, 128))
    with torch.no_grad():
        logits, iou = decode_crops(sam, features.expand(2, -1, -1, -1), boxes=boxes, prior=prior)
        sparse, dense = sam.prompt_encoder(points=None, boxes=boxes, masks=prior)
        expected, expected_iou = sam.mask_decoder(
            features, sam.prompt_encoder.get_dense_pe(), sparse, dense, multimask_output=False
        )
    assert torch.allclose(logits, expected[:, 0], atol=1e-4)
    assert torch.allclose(iou, expected_iou[:, 0], atol=1e-5)


def test_no_prompt_equals_sams_own_decoder_without_prompts(sam):
    torch.manual_seed(3)
    features = torch.randn(1, 256, 32, 32)
    with torch.no_grad():
        logits, _ = decode_crops(sam, features)
        sparse, dense = sam.prompt_encoder(points=None, boxes=None, masks=None)
        expected, _ = sam.mask_decoder(
            features, sam.prompt_encoder.get_dense_pe(), sparse, dense, multimask_output=False
        )
    assert torch.allclose(logits, expected[:, 0], atol=1e-4)


def test_loss_of_the_truth_is_near_zero_and_of_its_opposite_large():
    truth = torch.zeros(1, 64, 64)
    truth[:, 20:40, 20:40] = 1
    weight = pretrain.box_weight(torch.tensor([[40.0, 40.0, 80.0, 80.0]]))
    assert float(weight.mean()) == pytest.approx(1.0)
    right = pretrain.mask_loss(20 * (2 * truth - 1), torch.ones(1), truth, weight)
    wrong = pretrain.mask_loss(-20 * (2 * truth - 1), torch.ones(1), truth, weight)
    assert float(right) < 1e-3 < 2 < float(wrong)


def test_previous_mask_is_a_clamped_picture_of_the_truth():
    truth = np.zeros((64, 64), np.float32)
    truth[20:40, 20:44] = 1
    prior = pretrain.previous_mask(np.random.default_rng(0), truth)
    assert prior.max() == 4 and prior.min() == -4
    assert 0.6 < pretrain.dice(prior > 0, truth > 0.5) < 1


def test_a_short_run_writes_weights_that_load_and_resumes(image_folder, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    settings = PretrainSettings(minutes=0.01, windows=1, boxes=2, frames=2, threads=torch.get_num_threads())
    run = Run(dsb=image_folder, out=tmp_path / "out" / "weights.safetensors", resume=True, device="cpu")
    run.out.parent.mkdir()
    pretrain.train(settings, run)
    first_step = torch.load(run.checkpoint, weights_only=True)["step"]
    pretrain.train(PretrainSettings(**{**vars(settings), "minutes": 0.012}), run)
    assert torch.load(run.checkpoint, weights_only=True)["step"] > first_step >= 1
    scores = [json.loads(r.message.split(" ", 2)[2]) for r in caplog.records if "held back" in r.message]
    assert len(scores) == 2 and all(0 <= score["tight"] <= 1 for score in scores)
    assert pretrain.load_weights(run.out).image_encoder.neck[1].weight.dtype == torch.float32


def test_weights_of_another_model_are_refused(tmp_path):
    path = tmp_path / "other.safetensors"
    pretrain.save_weights({"layer": torch.zeros(2)}, path, {})
    with pytest.raises(ModelError, match="other.safetensors"):
        pretrain.load_weights(path)
