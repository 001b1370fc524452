import dataclasses
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from allinsam.errors import InputError, ModelError
from allinsam.masks import clean_mask
from allinsam.prompts import jitter_boxes, labels_to_boxes
from allinsam.sam import decoding
from allinsam.sam.backbones import load_backbone
from allinsam.sam.prompting import Prompt, grown_window
from allinsam.sam.segmenter import Segmenter, expected_iou
from tests.tiny import tiny_backbone

DATA = Path(os.environ.get("ALLINSAM_SHARED_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))


@pytest.fixture(scope="module")
def tiny():
    return Segmenter(tiny_backbone(), precision="fp32")


@pytest.fixture(scope="module")
def compact():
    return Segmenter(load_backbone("compact"))


def predictor_of(loaded):
    """SAM's own predictor. Imported here: only allinsam.sam makes segment_anything importable everywhere."""
    from segment_anything import SamPredictor

    return SamPredictor(loaded.sam)


def noise(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def nuclei(height, width, count, seed=0):
    """Violet ellipses on a pink ground, and their label image."""
    rng = np.random.default_rng(seed)
    image = np.full((height, width, 3), (226, 178, 205), np.float32) + rng.normal(0, 6, (height, width, 1))
    labels = np.zeros((height, width), np.int32)
    ys, xs = np.mgrid[:height, :width] + 0.5
    tries = 0
    while labels.max() < count and tries < 50 * count:
        tries += 1
        a, b, angle = rng.uniform(8, 14), rng.uniform(7, 11), rng.uniform(0, np.pi)
        x, y = rng.uniform(16, width - 16), rng.uniform(16, height - 16)
        u = (xs - x) * np.cos(angle) + (ys - y) * np.sin(angle)
        v = (ys - y) * np.cos(angle) - (xs - x) * np.sin(angle)
        inside = (u / a) ** 2 + (v / b) ** 2 <= 1
        if not labels[((u / (a + 4)) ** 2 + (v / (b + 4)) ** 2) <= 1].any():
            labels[inside] = labels.max() + 1
            image[inside] = np.array([110, 70, 140]) + rng.normal(0, 8, (inside.sum(), 1))
    return cv2.GaussianBlur(np.clip(image, 0, 255), (0, 0), 0.8).astype(np.uint8), labels


def mean_dice(masks, labels, ids):
    truths = [labels == number for number in ids]
    scores = [2 * (m & t).sum() / (m.sum() + t.sum()) for m, t in zip(masks, truths, strict=True)]
    return float(np.mean(scores))


def fixed_answer(monkeypatch, patch_logits, score=0.8):
    """Make the decoder answer these logits of the whole patch, at its stride of 2, for every prompt."""
    cells = torch.as_tensor(patch_logits, dtype=torch.float32)

    def decode(sam, embedding, position, sparse, dense):
        n = len(sparse)
        return decoding.Decoded(embedding, embedding, torch.zeros(n, 1), torch.full((n,), score))

    def mask_logits(sam, decoded, origins, size):
        rows = [slice(4 * row, 4 * (row + size[0])) for row in origins[:, 0].tolist()]
        columns = [slice(4 * column, 4 * (column + size[1])) for column in origins[:, 1].tolist()]
        return torch.stack([cells[r, c] for r, c in zip(rows, columns, strict=True)])

    monkeypatch.setattr(decoding, "decode", decode)
    monkeypatch.setattr(decoding, "mask_logits", mask_logits)


# ---------------------------------------------------------------- agreement with SAM's own predictor


@pytest.mark.parametrize("size_hw", [(50, 81), (120, 77), (64, 64)])
def test_logits_are_sam_predictors(size_hw):
    loaded = tiny_backbone(whole_patch=True)
    segmenter, predictor = Segmenter(loaded, precision="fp32"), predictor_of(loaded)
    image = noise(*size_hw)
    boxes = np.array([[3, 4, 20, 30], [10.5, 0, 44.25, 49], [0, 0, size_hw[1], size_hw[0]]], np.float32)

    predictor.set_image(image)
    expected, expected_iou, _ = predictor.predict_torch(
        None,
        None,
        predictor.transform.apply_boxes_torch(torch.as_tensor(boxes), size_hw),
        multimask_output=False,
        return_logits=True,
    )
    logits, predicted_iou = segmenter.logits_from_boxes(segmenter.embed(image), boxes)

    assert expected.std() > 0.01
    np.testing.assert_allclose(logits, expected[:, 0].numpy(), atol=1e-4)
    np.testing.assert_allclose(predicted_iou, expected_iou[:, 0].numpy(), atol=1e-4)


def test_masks_are_sam_predictors_within_the_grown_box():
    loaded = tiny_backbone(whole_patch=True)
    segmenter, predictor = Segmenter(loaded, precision="fp32"), predictor_of(loaded)
    image, box = noise(100, 90), np.array([10, 20, 60, 70], np.float32)
    predictor.set_image(image)
    expected = predictor.predict(box=box, multimask_output=False)[0][0]
    expected[:, :5] = expected[:, 65:] = expected[:15] = expected[75:] = False
    assert expected.any()
    found = segmenter.masks_from_boxes(segmenter.embed(image), [box]).masks[0]
    np.testing.assert_array_equal(found, clean_mask(expected, min_area_px=1))


@pytest.mark.parametrize("whole_patch", [True, False])
@pytest.mark.parametrize("size_hw", [(50, 81), (20, 31), (64, 100)])
def test_quick_answers_are_those_of_sams_own_modules(whole_patch, size_hw):
    loaded = tiny_backbone(whole_patch=whole_patch)
    quick, reference = Segmenter(loaded), Segmenter(loaded, reference=True)
    boxes = [[3, 4, 20, 18], [10.5, 0, 24.25, 19], [0, 0, size_hw[1], size_hw[0]], [1, 1, 2, 2]]
    embedding = quick.embed(noise(*size_hw))
    expected, expected_iou = reference.logits_from_boxes(embedding, boxes)
    logits, predicted_iou = quick.logits_from_boxes(embedding, boxes)
    seen = np.isfinite(expected)
    np.testing.assert_array_equal(np.isfinite(logits), seen)
    assert expected[seen].std() > 0.01
    np.testing.assert_allclose(logits[seen], expected[seen], atol=1e-5)
    np.testing.assert_allclose(predicted_iou, expected_iou, atol=1e-5)
    np.testing.assert_array_equal(
        quick.masks_from_boxes(embedding, boxes).masks, reference.masks_from_boxes(embedding, boxes).masks
    )


def test_compact_answers_are_those_of_sams_own_modules(compact):
    reference = Segmenter(load_backbone("compact", reference=True), precision="fp32", reference=True)
    image, labels = nuclei(200, 300, 14)
    boxes = np.concatenate([labels_to_boxes(labels)[1], [[10, 10, 290, 150]]])
    found = Segmenter(compact.loaded, precision="fp32")
    expected, expected_iou = reference.logits_from_boxes(reference.embed(image), boxes)
    logits, predicted_iou = found.logits_from_boxes(found.embed(image), boxes)
    seen = np.isfinite(expected)
    np.testing.assert_allclose(logits[seen], expected[seen], atol=1e-3 * np.ptp(expected[seen]))
    np.testing.assert_allclose(predicted_iou, expected_iou, atol=1e-3)


def test_bf16_changes_masks_little(compact):
    image, labels = nuclei(200, 200, 10)
    boxes = labels_to_boxes(labels)[1]
    full, half = (Segmenter(compact.loaded, precision=precision) for precision in ("fp32", "bf16"))
    one, other = (segmenter.embed(image) for segmenter in (full, half))
    assert not torch.equal(one.features, other.features)
    pairs = zip(
        full.masks_from_boxes(one, boxes).masks, half.masks_from_boxes(other, boxes).masks, strict=True
    )
    assert np.mean([(a & b).sum() / (a | b).sum() for a, b in pairs]) > 0.98


def test_unknown_precision_is_refused():
    with pytest.raises(InputError, match="'fp8'"):
        Segmenter(tiny_backbone(), precision="fp8")


# ---------------------------------------------------------------- points and earlier masks


def test_earlier_mask_is_sams_mask_prompt():
    loaded = tiny_backbone(whole_patch=True)
    segmenter, predictor = Segmenter(loaded, precision="fp32"), predictor_of(loaded)
    image, box = noise(64, 64), np.array([10, 20, 30, 40], np.float32)
    earlier = np.zeros((64, 64), bool)
    earlier[20:40, 10:30] = True
    points, labels = np.array([[15.0, 25.0], [40.0, 41.0]], np.float32), np.array([1, 0], np.float32)
    prompt = torch.full((1, 1, 32, 32), -10.0)
    prompt[..., 10:20, 5:15] = 10.0
    predictor.set_image(image)
    expected, score, _ = predictor.predict_torch(
        torch.tensor(points)[None], torch.tensor(labels)[None], torch.tensor(box)[None], prompt,
        multimask_output=False,
    )  # fmt: skip
    found = segmenter.masks_from_prompts(segmenter.embed(image), [Prompt(box, points, labels, earlier)])
    mask = expected[0, 0].numpy()
    mask[:, :8] = mask[:, 32:] = mask[:18] = mask[42:] = False
    np.testing.assert_array_equal(found.masks[0], clean_mask(mask, min_area_px=1) if mask.any() else mask)
    if mask.any():
        np.testing.assert_allclose(found.predicted_iou, np.clip(score[0].numpy(), 0, 1), atol=1e-4)


def test_compact_corrects_a_mask_by_a_point(compact):
    image, labels = nuclei(160, 160, 5)
    ids, boxes = labels_to_boxes(labels)
    embedding = compact.embed(image)
    for number, box in zip(ids, boxes, strict=True):
        truth = labels == number
        half = truth.copy()
        half[:, int((box[0] + box[2]) / 2) :] = False
        rows, columns = np.nonzero(truth & ~half)
        point = np.array([[np.median(columns), np.median(rows)]])
        found = compact.masks_from_prompts(embedding, [Prompt(box, point, np.ones(1), half)]).masks
        assert mean_dice(found, labels, [number]) > mean_dice(half[None], labels, [number])


def test_compact_finds_a_nucleus_from_a_point(compact):
    image, labels = nuclei(160, 160, 5)
    ids, boxes = labels_to_boxes(labels)
    embedding = compact.embed(image)
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    masks = [
        compact.masks_from_prompts(embedding, [Prompt(points=centre[None])]).masks[0] for centre in centres
    ]
    assert mean_dice(masks, labels, ids) > 0.7


@pytest.mark.parametrize(
    "prompt, message",
    [
        (Prompt(), "asks for nothing"),
        (Prompt(earlier=np.zeros((70, 80), bool)), "asks for nothing"),
        (Prompt(earlier=np.ones((5, 5), bool)), r"\(5, 5\), the patch \(70, 80\)"),
        (Prompt(points=[[80, 3]]), "x 80, y 3"),
        (Prompt(points=[[3, 3]], labels=[2]), r"Labels \[2.0\]"),
        (Prompt(points=[[3, 3]], labels=[1, 0]), "do not fit 1 points"),
    ],
)
def test_prompts_that_say_nothing_or_lie_outside_are_refused(tiny, prompt, message):
    with pytest.raises(InputError, match=message):
        tiny.masks_from_prompts(tiny.embed(noise(70, 80)), [prompt])


# ---------------------------------------------------------------- the compact model finds nuclei


@pytest.mark.parametrize("outward_px, at_least", [(0, 0.88), (5, 0.85)])
def test_compact_finds_drawn_nuclei(compact, outward_px, at_least):
    image, labels = nuclei(270, 256, 18)
    ids, boxes = labels_to_boxes(labels)
    boxes = jitter_boxes(boxes, outward_px, labels.shape, np.random.default_rng(0))
    found = compact.masks_from_boxes(compact.embed(image), boxes)
    assert found.masks.shape == (len(ids), 270, 256) and found.masks.dtype == bool
    assert mean_dice(found.masks, labels, ids) > at_least
    assert found.predicted_iou.dtype == np.float32 and (found.predicted_iou > 0.5).all()


def test_compact_finds_a_nucleus_in_a_patch_smaller_than_a_frame(compact):
    image, labels = nuclei(60, 70, 2)
    ids, boxes = labels_to_boxes(labels)
    assert mean_dice(compact.masks_from_boxes(compact.embed(image), boxes).masks, labels, ids) > 0.8


def test_compact_finds_a_thing_larger_than_a_frame(compact):
    small, labels = nuclei(40, 40, 1)
    image = cv2.resize(small, (384, 384), interpolation=cv2.INTER_CUBIC)
    truth = cv2.resize(labels.astype(np.uint8), (384, 384), interpolation=cv2.INTER_NEAREST).astype(np.int32)
    ids, boxes = labels_to_boxes(truth)
    embedding = compact.embed(image)
    assert (boxes[0, 2:] - boxes[0, :2]).max() > 200
    assert mean_dice(compact.masks_from_boxes(embedding, boxes).masks, truth, ids) > 0.8


@pytest.mark.skipif(not (DATA / "monuseg2018_train").is_dir(), reason=f"real images are not at {DATA}")
def test_compact_on_real_nuclei(compact):
    path = DATA / "monuseg2018_train" / "TCGA-B0-5698-01Z-00-DX1.png"
    image = cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)[300:600, 300:600]
    labels = cv2.imread(str(path).replace(".png", "_inst.png"), cv2.IMREAD_UNCHANGED)[300:600, 300:600]
    ids, boxes = labels_to_boxes(labels.astype(np.int32))
    whole = [i for i, number in enumerate(ids) if (labels == number).sum() >= 100]
    found = compact.masks_from_boxes(compact.embed(image), boxes[whole])
    assert len(whole) > 10
    assert mean_dice(found.masks, labels, ids[whole]) > 0.8


# ---------------------------------------------------------------- masks are clean and stay in their box


def test_mask_stays_in_the_grown_box(tiny, monkeypatch):
    fixed_answer(monkeypatch, np.full((64, 64), 5.0))
    found = tiny.masks_from_boxes(tiny.embed(noise(100, 100)), [[40, 50, 50, 70], [0, 0, 20, 10]])
    for mask, (x0, y0, x1, y1) in zip(found.masks, [(39, 48, 51, 72), (0, 0, 22, 11)], strict=True):
        expected = np.zeros((100, 100), bool)
        expected[y0:y1, x0:x1] = True
        np.testing.assert_array_equal(mask, expected)


def test_mask_keeps_its_largest_part_and_has_no_hole(tiny, monkeypatch):
    logits = np.full((16, 16), -5.0)
    logits[2:9, 2:9] = 5.0
    logits[5, 5] = -5.0
    logits[11:13, 11:13] = 5.0
    fixed_answer(monkeypatch, logits)
    mask = tiny.masks_from_boxes(tiny.embed(noise(32, 32)), [[4, 4, 28, 28]]).masks[0]
    assert mask[9:13, 9:13].all()
    assert not mask[20:28, 20:28].any()
    rows, columns = np.nonzero(mask)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (4, 17, 4, 17)


def test_nothing_found_is_an_empty_mask_with_score_zero(tiny, monkeypatch):
    fixed_answer(monkeypatch, np.full((64, 64), -5.0), score=0.9)
    found = tiny.masks_from_boxes(tiny.embed(noise(64, 64)), [[10, 10, 30, 30]])
    assert not found.masks.any()
    assert found.predicted_iou.tolist() == [0.0]


def test_expected_iou_by_hand():
    logits = np.array([[np.inf, 0.0], [-np.inf, np.log(3.0)]])
    mask = np.array([[True, True], [False, False]])
    # Probabilities 1, 0.5 inside; 0, 0.75 outside.
    assert expected_iou(logits, mask) == pytest.approx(1.5 / (2 + 0.75))
    assert expected_iou(np.full((3, 3), 40.0), np.ones((3, 3), bool)) == pytest.approx(1.0)


def test_threshold_and_certainty_of_the_row(monkeypatch):
    loaded = tiny_backbone()
    row = dataclasses.replace(loaded.backbone, mask_threshold=-1.0, certainty_share=0.25)
    segmenter = Segmenter(dataclasses.replace(loaded, backbone=row), precision="fp32")
    cells = np.full((64, 64), -0.5)
    cells[:8] = -1.5
    fixed_answer(monkeypatch, cells, score=0.8)
    found = segmenter.masks_from_boxes(segmenter.embed(noise(64, 64)), [[10, 4, 30, 26]])
    rows, _ = np.nonzero(found.masks[0])
    assert rows.min() in (15, 16)  # cell 8 begins at px 16
    share = expected_iou(np.full((4, 4), -0.5), np.ones((4, 4), bool))
    assert found.predicted_iou[0] == pytest.approx(0.25 * share + 0.75 * 0.8, abs=0.05)
    assert found.predicted_iou[0] != pytest.approx(0.8, abs=0.02)


@pytest.mark.parametrize(
    "box, window",
    [
        ((10, 20, 30, 30), (8, 19, 32, 31)),
        ((0, 0, 100, 80), (0, 0, 100, 80)),
        ((10.6, 10.6, 12.2, 12.2), (10, 10, 12, 12)),
        ((10.4, 10.4, 12.4, 12.4), (10, 10, 13, 13)),
        ((10.1, 10.1, 10.3, 10.3), (10, 10, 11, 11)),
    ],
)
def test_grown_window(box, window):
    assert grown_window(np.array(box), (80, 100), 1.2) == window


# ---------------------------------------------------------------- input


def test_no_boxes_give_no_masks(tiny):
    embedding = tiny.embed(noise(70, 80))
    for boxes in ([], np.zeros((0, 4))):
        found = tiny.masks_from_boxes(embedding, boxes)
        assert found.masks.shape == (0, 70, 80) and found.masks.dtype == bool
        assert found.predicted_iou.shape == (0,)


@pytest.mark.parametrize(
    "bad, message",
    [
        ([5, 5, np.nan, 20], r"Box 1 \(x0 5, y0 5, x1 nan, y1 20\) holds a value that is no number"),
        ([5, 5, np.inf, 20], "Box 1 .* no number"),
        ([5, 5, 5, 20], "Box 1 .* has no area"),
        ([20, 5, 10, 20], "Box 1 .* has no area"),
        ([80, 5, 90, 20], "Box 1 .* outside the patch of 80 x 70 px"),
        ([-9, -9, 0, 5], "Box 1 .* outside the patch"),
    ],
)
def test_bad_box_is_named(tiny, bad, message):
    embedding = tiny.embed(noise(70, 80))
    with pytest.raises(InputError, match=message):
        tiny.masks_from_boxes(embedding, [[1, 1, 9, 9], bad])


@pytest.mark.parametrize("boxes", [[1, 2, 3, 4], [[1, 2, 3]], [["a", 1, 2, 3]], [[1, 2, 3, 4], [1, 2]]])
def test_boxes_of_another_shape_are_refused(tiny, boxes):
    with pytest.raises(InputError, match="x0, y0, x1, y1"):
        tiny.masks_from_boxes(tiny.embed(noise(70, 80)), boxes)


def test_box_over_the_border_is_cut_at_it(tiny):
    embedding = tiny.embed(noise(64, 64))
    over, cut = tiny.logits_from_boxes(embedding, [[-10, 30, 20, 90], [0, 30, 20, 64]])[0]
    np.testing.assert_array_equal(over, cut)


@pytest.mark.parametrize("image", [np.zeros((5, 5)), np.zeros((5, 5, 3)), np.zeros((5, 5, 4), np.uint8)])
def test_image_of_another_kind_is_refused(tiny, image):
    with pytest.raises(InputError, match="RGB as uint8"):
        tiny.embed(image)


def test_image_without_pixels_is_refused(tiny):
    with pytest.raises(InputError, match=r"\(0, 5, 3\)"):
        tiny.embed(np.zeros((0, 5, 3), np.uint8))


@pytest.mark.parametrize("size_hw", [(1, 1), (1, 200), (63, 65)])
def test_patches_of_any_size(tiny, size_hw):
    found = tiny.masks_from_boxes(tiny.embed(noise(*size_hw)), [[0, 0, size_hw[1], size_hw[0]]])
    assert found.masks.shape == (1, *size_hw)


def test_embedding_of_other_weights_is_refused(tiny):
    other = Segmenter(tiny_backbone(seed=1))
    with pytest.raises(ModelError, match="Embed the patch again"):
        tiny.masks_from_boxes(other.embed(noise(64, 64)), [[1, 1, 9, 9]])


# ---------------------------------------------------------------- order, batches, threads


def test_answers_come_in_the_order_of_the_boxes(tiny):
    embedding = tiny.embed(noise(150, 150))
    rng = np.random.default_rng(3)
    corners = rng.uniform(0, 120, (21, 2))
    boxes = np.concatenate([corners, corners + rng.uniform(5, 28, (21, 2))], axis=1)
    together = tiny.logits_from_boxes(embedding, boxes)[0]
    for index in (0, 7, 20):
        alone = tiny.logits_from_boxes(embedding, boxes[index : index + 1])[0][0]
        np.testing.assert_allclose(together[index], alone, atol=1e-4)


def test_embedding_keeps_its_own_image(tiny):
    image = noise(64, 64)
    embedding = tiny.embed(image)
    image[:] = 0
    assert embedding.image_rgb.any()


def test_threads_share_a_segmenter(tiny):
    images = [noise(80, 80, seed) for seed in range(6)]
    boxes = [[5, 5, 30, 40], [30, 30, 70, 60]]

    def masks(image):
        return tiny.masks_from_boxes(tiny.embed(image), boxes).masks

    expected = [masks(image) for image in images]
    with ThreadPoolExecutor(4) as pool:
        for found, mask in zip(pool.map(masks, images), expected, strict=True):
            np.testing.assert_array_equal(found, mask)
