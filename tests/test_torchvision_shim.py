import subprocess
import sys
from pathlib import Path

import torch

from allinsam.sam.torchvision_shim import ensure_torchvision, non_maximum_suppression


def test_segment_anything_imports_and_a_second_call_changes_nothing():
    assert ensure_torchvision() == ensure_torchvision()
    import segment_anything

    assert "vit_b" in segment_anything.sam_model_registry


def test_models_come_without_torchvision_and_the_predictor_with_it():
    code = """
import sys
import allinsam.sam.segmenter
assert not any(name == "torchvision" or name.startswith("torchvision.") for name in sys.modules)
from segment_anything import SamPredictor, sam_model_registry
assert "torchvision.transforms.functional" in sys.modules
assert "vit_b" in sam_model_registry and SamPredictor(allinsam.sam.compact.build_compact()).model
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).resolve().parents[1])


def test_torchvision_suppresses_overlaps():
    import torchvision.ops

    boxes = torch.tensor([[0, 0, 10, 10], [1, 1, 11, 11], [20, 20, 30, 30]], dtype=torch.float32)
    scores = torch.tensor([0.5, 0.9, 0.3])
    # IoU of the first two is 81 / 119.
    assert torchvision.ops.nms(boxes, scores, 0.5).tolist() == [1, 2]
    assert torchvision.ops.batched_nms(boxes, scores, torch.tensor([0, 1, 1]), 0.5).tolist() == [1, 0, 2]


def test_suppression_in_torch():
    boxes = torch.tensor([[0, 0, 10, 10], [1, 1, 11, 11], [20, 20, 30, 30]], dtype=torch.float32)
    scores = torch.tensor([0.5, 0.9, 0.3])
    assert non_maximum_suppression(boxes, scores, 0.5).tolist() == [1, 2]
    assert non_maximum_suppression(boxes, scores, 0.7).tolist() == [1, 0, 2]
    assert non_maximum_suppression(boxes[:0], scores[:0], 0.5).tolist() == []
