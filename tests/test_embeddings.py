import logging
import shutil
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from allinsam.errors import InputError
from allinsam.sam.embeddings import EmbeddingCache
from allinsam.sam.segmenter import Segmenter
from tests.tiny import tiny_backbone

BOXES = [[5, 5, 30, 40], [30, 30, 60, 60]]


def patch(seed=0):
    return np.random.default_rng(seed).integers(0, 256, (70, 90, 3), dtype=np.uint8)


class CountingSegmenter(Segmenter):
    """Counts how often it embeds."""

    embedded = 0
    seconds = 0.0

    def embed(self, image_rgb):
        self.embedded += 1
        time.sleep(self.seconds)
        return super().embed(image_rgb)


@pytest.fixture
def segmenter():
    return CountingSegmenter(tiny_backbone())


@pytest.fixture
def cache(tmp_path, segmenter):
    return EmbeddingCache(tmp_path / "embeddings", segmenter)


def only_file(cache):
    (path,) = cache.folder.iterdir()
    return path


def test_a_patch_is_computed_once_and_then_remembered(cache, segmenter):
    first = cache.get(patch())
    assert cache.get(patch()) is first
    assert segmenter.embedded == 1


def test_another_process_reads_the_file_and_gets_the_same_masks(cache, segmenter):
    first = cache.get(patch())
    later = EmbeddingCache(cache.folder, segmenter)
    again = later.get(patch())
    assert segmenter.embedded == 1
    assert torch.equal(again.features, first.features)
    for one in (first, again):
        np.testing.assert_array_equal(
            segmenter.logits_from_boxes(one, BOXES)[0], segmenter.logits_from_boxes(first, BOXES)[0]
        )


def test_file_holds_half_precision_close_to_the_features(cache, segmenter):
    cache.get(patch())
    stored = load_file(only_file(cache))["features"]
    assert stored.dtype == torch.float16
    torch.testing.assert_close(stored.float(), segmenter.embed(patch()).features, atol=2e-3, rtol=2e-3)


def test_pixels_weights_and_size_all_count(cache, tmp_path):
    image = patch()
    changed = image.copy()
    changed[3, 4, 0] ^= 1
    other = EmbeddingCache(tmp_path, Segmenter(tiny_backbone(seed=1)))
    keys = {cache.key(image), cache.key(changed), cache.key(image.reshape(90, 70, 3)), other.key(image)}
    assert len(keys) == 4


def truncate(path):
    path.write_bytes(path.read_bytes()[:-50])


def scribble(path):
    path.write_bytes(b"no embedding")


def flip_one_bit(path):
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def empty(path):
    path.write_bytes(b"")


@pytest.mark.parametrize("damage", [truncate, scribble, flip_one_bit, empty])
def test_damaged_file_is_made_anew(cache, segmenter, damage, caplog):
    whole = cache.get(patch())
    path = only_file(cache)
    content = path.read_bytes()
    damage(path)
    with caplog.at_level(logging.WARNING):
        again = EmbeddingCache(cache.folder, segmenter).get(patch())
    assert segmenter.embedded == 2
    assert torch.equal(again.features, whole.features)
    assert path.read_bytes() == content
    assert path.name in caplog.text


def test_file_of_another_patch_is_not_believed(cache, segmenter):
    cache.get(patch(1))
    shutil.copy(only_file(cache), cache.path(cache.key(patch(2))))
    again = EmbeddingCache(cache.folder, segmenter).get(patch(2))
    assert torch.equal(again.features, segmenter.embed(patch(2)).features.half())


def test_many_threads_compute_a_patch_once(cache, segmenter):
    segmenter.seconds = 0.1
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(cache.get, [patch()] * 8))
    assert segmenter.embedded == 1
    assert all(embedding is found[0] for embedding in found)


def test_a_failure_reaches_every_waiting_thread_and_is_tried_again(cache, segmenter, monkeypatch):
    def fail(image_rgb):
        time.sleep(0.05)
        raise RuntimeError("out of memory")

    monkeypatch.setattr(segmenter, "embed", fail)
    with ThreadPoolExecutor(3) as pool:
        for answer in [pool.submit(cache.get, patch()) for _ in range(3)]:
            with pytest.raises(RuntimeError, match="out of memory"):
                answer.result()
    monkeypatch.undo()
    assert cache.get(patch()).size_hw == (70, 90)


def test_memory_holds_only_the_patches_used_last(tmp_path, segmenter, monkeypatch):
    cache = EmbeddingCache(tmp_path, segmenter, memory_patches=2)
    first, second = cache.get(patch(0)), cache.get(patch(1))
    assert cache.get(patch(0)) is first
    cache.get(patch(2))
    assert cache.get(patch(0)) is first
    assert cache.get(patch(1)) is not second
    assert segmenter.embedded == 3


def test_folder_that_cannot_be_written_is_no_obstacle(tmp_path, segmenter, caplog):
    (tmp_path / "file").write_text("in the way")
    cache = EmbeddingCache(tmp_path / "file" / "embeddings", segmenter)
    with caplog.at_level(logging.WARNING):
        assert cache.get(patch()).size_hw == (70, 90)
    assert "was not kept on disk" in caplog.text
    cache.get(patch())
    assert segmenter.embedded == 1


def test_image_of_another_kind_is_refused(cache):
    with pytest.raises(InputError, match="RGB as uint8"):
        cache.get(np.zeros((5, 5)))


def test_files_of_other_weights_are_dropped_and_ones_own_kept(cache, tmp_path):
    cache.get(patch())
    other = EmbeddingCache(cache.folder, Segmenter(tiny_backbone(seed=1)))
    other.get(patch())
    assert len(list(cache.folder.iterdir())) == 2
    assert other.drop_stale() == 1
    assert only_file(other) == other.path(other.key(patch()))
    assert EmbeddingCache(tmp_path / "none", cache.segmenter).drop_stale() == 0
