import json

import cv2
import numpy as np
import pytest

from allinsam.errors import InputError
from allinsam.sam.backbones import BACKBONES
from allinsam.sam.segmenter import Segmenter
from benchmarks import segment, segment_speed
from benchmarks.report import figure, milliseconds, print_report
from benchmarks.segment import dice, draw_boxes, grab_cut, inscribed_ellipse
from tests.tiny import tiny_backbone


def test_figure_is_the_median_with_its_spread():
    assert figure([3.0, 1.23456, 2.0], "ms", 4, "baseline: none") == {
        "value": 2.0,
        "unit": "ms",
        "min": 1.235,
        "max": 3.0,
        "n": 3,
        "baseline": 4.0,
        "note": "baseline: none",
    }


def test_every_repeat_is_timed_but_the_first():
    calls = []
    assert len(milliseconds(lambda: calls.append(1), 3)) == 3
    assert len(calls) == 4


def test_report_is_one_json_object(capsys):
    print_report("segment", {"one_box_ms": figure([1.0], "ms")})
    report = json.loads(capsys.readouterr().out)
    assert report["benchmark"] == "segment"
    assert report["machine"]["cores"] >= 1
    assert report["figures"]["one_box_ms"]["value"] == 1.0


def test_inscribed_ellipse_touches_the_box():
    mask = inscribed_ellipse(np.array([10, 20, 50, 40]), (slice(5, 65), slice(3, 73)))
    rows, columns = np.nonzero(mask)
    assert (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1) == (7, 15, 47, 35)
    assert mask.sum() == pytest.approx(np.pi * 20 * 10, rel=0.02)


def test_dice_by_hand():
    one, other = np.zeros((4, 4), bool), np.zeros((4, 4), bool)
    one[0, :3] = other[0, 1:] = True
    assert dice(one, other) == pytest.approx(2 * 2 / 6)
    assert dice(one & False, other & False) == 1.0


def test_loose_boxes_are_tight_ones_moved_outward_by_up_to_five_px():
    labels = np.zeros((60, 80), np.int32)
    labels[20:31, 30:42], labels[:3, :3] = 1, 2  # the second is too small to be annotated
    ids, boxes = draw_boxes(labels, seed=0)
    assert ids.tolist() == [1] and boxes["tight"].tolist() == [[30, 20, 42, 31]]
    outward = (boxes["loose"] - boxes["tight"]) * [-1, -1, 1, 1]
    assert outward.min() >= 0 and 0 < outward.max() <= 5
    assert np.array_equal(draw_boxes(labels, seed=0)[1]["loose"], boxes["loose"])


def test_grab_cut_finds_a_dark_disc():
    rng = np.random.default_rng(0)
    rgb = np.full((60, 60, 3), 220, np.uint8) - rng.integers(0, 12, (60, 60, 3), dtype=np.uint8)
    disc = np.hypot(*(np.mgrid[:60, :60] - 30)) < 10
    rgb[disc] = 60
    window = slice(100, 160), slice(200, 260)
    mask = grab_cut(rgb, np.array([217, 117, 243, 143], np.float32), window)
    assert dice(mask, disc) > 0.95


def drawn_folder(folder):
    labels = np.zeros((140, 150), np.uint16)
    for number, (x, y) in enumerate([(40, 40), (90, 50), (60, 100)], 1):
        cv2.circle(labels, (x, y), 9, number, -1)
    image = np.full((140, 150, 3), (205, 178, 226), np.uint8)
    image[labels > 0] = (140, 70, 110)
    cv2.imwrite(str(folder / "one.png"), cv2.GaussianBlur(image, (0, 0), 0.8))
    cv2.imwrite(str(folder / "one_inst.png"), labels)
    return folder


def test_segment_scores_any_folder(tmp_path, capsys):
    segment.main(["--images", str(drawn_folder(tmp_path)), "--threads", "1"])
    report = json.loads(capsys.readouterr().out)
    figures = report["figures"]
    assert report["benchmark"] == "segment"
    for name in ("images_tight_dice", "images_loose_dice", "images_tight_dice_ellipse"):
        assert figures[name]["value"] > 0.6 and "3 nuclei" in figures[name]["note"]
    assert figures["images_loose_dice"]["value"] > figures["images_loose_dice_ellipse"]["value"]
    assert {"images_promptless_dice", "images_tight_dice_grabcut", "images_predicted_iou_spearman"} <= set(
        figures
    )
    assert figures["weights_mb"]["value"] < 20


def test_folder_without_labels_is_told(tmp_path):
    with pytest.raises(InputError, match="holds no NAME_inst.png"):
        segment.main(["--images", str(tmp_path)])


def test_reference_agrees_with_itself_and_times_have_their_names(monkeypatch):
    monkeypatch.setattr(segment_speed, "run_python", lambda code: (1.5, "12.0"))
    loaded = tiny_backbone()
    labels = np.zeros((64, 64), np.int32)
    labels[10:26, 10:30] = 1
    rng = np.random.default_rng(0)
    picture = segment.Picture("drawn", rng.integers(0, 256, (64, 64, 3), dtype=np.uint8), labels)
    plain = Segmenter(loaded, precision="fp32", reference=True)
    figures = segment.agreement(plain, plain, [picture])
    assert figures["reference_iou"]["value"] <= 1.0 and figures["reference_dice_loss"]["value"] == 0.0
    speed = segment_speed.compact_speed(Segmenter(loaded), repeats=1)
    assert set(speed) == {"embed_512_s", "one_box_ms", "boxes64_s", "read_embedding_ms", "cold_first_mask_s"}


def test_published_architecture_is_timed_beside_sams_predictor(monkeypatch):
    monkeypatch.setitem(BACKBONES, "tiny", tiny_backbone(whole_patch=True).backbone)
    monkeypatch.setattr(segment_speed, "run_python", lambda code: (1.5, "12.0"))
    figures = segment_speed.published_speed("tiny", repeats=1)
    names = {"tiny_embed_ratio", "tiny_embed_ratio_fp32", "tiny_embed_ratio_optional", "tiny_boxes64_ratio"}
    assert names <= set(figures)
    assert figures["tiny_logits_off"]["value"] < 1e-3
