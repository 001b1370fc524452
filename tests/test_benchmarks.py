import json

import numpy as np
import pytest

from allinsam.sam.segmenter import Segmenter
from benchmarks.report import figure, milliseconds, print_report
from benchmarks.segment import accuracy, dice, inscribed_ellipse, timings
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
    mask = inscribed_ellipse(np.array([10, 20, 50, 40]), (60, 70))
    rows, columns = np.nonzero(mask)
    assert (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1) == (10, 20, 50, 40)
    assert mask.sum() == pytest.approx(np.pi * 20 * 10, rel=0.02)


def test_dice_by_hand():
    one, other = np.zeros((4, 4), bool), np.zeros((4, 4), bool)
    one[0, :3] = other[0, 1:] = True
    assert dice(one, other) == pytest.approx(2 * 2 / 6)


def test_segment_measures_what_it_names(monkeypatch):
    monkeypatch.setattr("benchmarks.segment.PATCH_PX", 96)
    segmenter = Segmenter(tiny_backbone())
    figures = timings(segmenter, repeats=1)
    assert set(figures) == {"embed_ms", "one_box_ms", "boxes_64_ms", "read_embedding_ms"}
    labels = np.zeros((64, 64), np.int32)
    labels[10:20, 10:30] = 1
    image = np.zeros((64, 64, 3), np.uint8)
    assert "mean over 1 nuclei" in accuracy(segmenter, [(image, labels)], "drawn")["drawn_loose_dice"]["note"]
