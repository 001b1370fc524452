"""The compiled encoder answers as torch does, is kept, and is never in the way."""

import dataclasses

import numpy as np
import pytest
import torch

from allinsam.errors import ModelError
from allinsam.sam import openvino_encoder
from allinsam.sam.openvino_encoder import compiled_encoder, compiled_path, prepare
from allinsam.sam.segmenter import Segmenter
from tests.tiny import tiny_backbone


@pytest.fixture(scope="module")
def loaded():
    return tiny_backbone(whole_patch=True)


@pytest.fixture(scope="module")
def folder(loaded, tmp_path_factory):
    folder = tmp_path_factory.mktemp("weights")
    prepare(loaded, folder)
    return folder


def test_compiled_encoder_gives_the_same_masks(loaded, folder):
    encode = compiled_encoder(loaded, half=False, weights_dir=folder)
    image = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    plain = Segmenter(loaded, precision="fp32")
    other = Segmenter(loaded, precision="fp32", encoder=encode)
    one, two = plain.embed(image), other.embed(image)
    torch.testing.assert_close(two.features, one.features, atol=1e-4, rtol=1e-3)
    assert not torch.equal(two.features, one.features)
    boxes = [[10, 10, 40, 30], [30, 20, 70, 55]]
    logits, expected = (segmenter.logits_from_boxes(one, boxes)[0] for segmenter in (other, plain))
    np.testing.assert_allclose(logits, expected, atol=1e-4)


def test_it_is_compiled_once_and_nothing_unfinished_stays(loaded, folder):
    path = compiled_path(loaded, folder)
    before = path.stat().st_mtime_ns
    assert prepare(loaded, folder) == path and path.stat().st_mtime_ns == before
    assert sorted(item.suffix for item in path.parent.iterdir()) == [".bin", ".xml"]


def test_other_weights_and_the_compact_model_have_none(loaded, folder):
    other = dataclasses.replace(loaded, weights_sha256="f" * 64)
    assert compiled_encoder(other, half=True, weights_dir=folder) is None
    assert compiled_encoder(tiny_backbone(), half=True, weights_dir=folder) is None
    with pytest.raises(ModelError, match="patches of any size"):
        prepare(tiny_backbone(), folder)


def test_without_openvino_torch_encodes(loaded, folder, monkeypatch, caplog):
    monkeypatch.setattr(openvino_encoder, "is_installed", lambda: False)
    assert compiled_encoder(loaded, half=True, weights_dir=folder) is None
    assert "OpenVINO is not installed" in caplog.text
    with pytest.raises(ModelError, match="pip install openvino"):
        prepare(loaded, folder)


def test_damaged_file_is_told_and_not_used(loaded, tmp_path, caplog):
    path = compiled_path(loaded, tmp_path)
    path.parent.mkdir()
    path.write_text("<net>")
    assert compiled_encoder(loaded, half=True, weights_dir=tmp_path) is None
    assert "torch encodes" in caplog.text
