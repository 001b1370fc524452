"""Frozen features are the same numbers whether computed, kept in memory or read from disk."""

import logging

import pytest
import torch

from allinsam.errors import InputError
from allinsam.sam.adapter import build_network
from allinsam.training.frozen_cache import FrozenCache
from tests.tiny import FRAME_PX, TOKEN_PX, WIDTH, tiny_backbone

ENTRY_BYTES = 2 * 2 * (FRAME_PX // TOKEN_PX) ** 2 * WIDTH


def network(first_block=1, **options):
    with torch.random.fork_rng():
        torch.manual_seed(6)
        return build_network(tiny_backbone(whole_patch=True), ["a", "b"], first_block=first_block, **options)


def some_frames(n=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (n, FRAME_PX, FRAME_PX, 3), generator=generator).to(torch.uint8)


def count_frozen_runs(model):
    runs, real = [], model.frozen_part
    model.frozen_part = lambda frames: runs.append(len(frames)) or real(frames)
    return runs


def features_of(frozen):
    return [value for value in (frozen.tokens, frozen.patches, frozen.fine) if value is not None]


def alike(one, other):
    return all(torch.equal(a, b) for a, b in zip(features_of(one), features_of(other), strict=True))


@pytest.mark.parametrize("first_block", [0, 1])
@pytest.mark.parametrize("memory_entries, on_disk", [(9, 0), (2, 1), (0, 3)])
def test_a_frame_is_computed_once(memory_entries, on_disk, first_block, tmp_path):
    model, frames = network(first_block), some_frames()
    runs = count_frozen_runs(model)
    cache = FrozenCache(model, "w", tmp_path / "new", memory_entries * ENTRY_BYTES)
    first, second = cache.get(frames), cache.get(frames.flip(0))
    assert sum(runs) == 3
    assert all(
        torch.equal(a, b.flip(0)) for a, b in zip(features_of(first), features_of(second), strict=True)
    )
    assert len(list(tmp_path.glob("new/*"))) == on_disk
    expected = model.frozen_part(model.normalise(frames))
    assert torch.allclose(first.tokens, expected.tokens, atol=1e-2) and first.tokens.dtype == torch.float32
    assert torch.equal(first.patches, first.patches.half().float())


def test_without_room_every_call_computes_the_same():
    model, frames = network(), some_frames()
    runs = count_frozen_runs(model)
    cache = FrozenCache(model, "w", memory_bytes=0)
    assert alike(cache.get(frames), cache.get(frames))
    assert alike(cache.get(frames), FrozenCache(model, "w").get(frames))
    assert sum(runs) == 12


@pytest.mark.parametrize("options", [{}, {"classes_apart": True}, {"recompute": True}], ids=str)
def test_training_learns_the_same_with_any_budget(options, tmp_path):
    ends = []
    for folder, entries in ((None, 0), (None, 9), (tmp_path, 1)):
        model, frames = network(**options), some_frames()
        cache = FrozenCache(model, "w", folder, entries * ENTRY_BYTES)
        optimizer = torch.optim.AdamW(model.trainable_parameters().values(), lr=1e-2)
        for _ in range(3):
            output = model(model.normalise(frames), cache.get(frames))
            optimizer.zero_grad()
            output.logits.square().mean().backward()
            optimizer.step()
        ends.append(model.trained_state())
    start = network(**options).trained_state()
    assert not any(torch.equal(value, ends[0][name]) for name, value in start.items())
    for end in ends[1:]:
        assert all(torch.equal(value, ends[0][name]) for name, value in end.items())


def test_files_are_found_again_and_belong_to_one_network(tmp_path):
    frames = some_frames(2)
    made = FrozenCache(network(), "w", tmp_path, 0).get(frames)
    model = network()
    runs = count_frozen_runs(model)
    assert alike(FrozenCache(model, "w", tmp_path).get(frames), made)
    assert runs == []
    keys = {
        FrozenCache(network(), "w").key(frames[0]),
        FrozenCache(network(), "w").key(frames[1]),
        FrozenCache(network(), "other").key(frames[0]),
        FrozenCache(network(0), "w").key(frames[0]),
        FrozenCache(network(), "w", precision=torch.bfloat16).key(frames[0]),
    }
    assert len(keys) == 5


@pytest.mark.parametrize("damage", ["cut", "changed", "another"])
def test_a_damaged_file_is_made_anew(damage, tmp_path, caplog):
    model, frames = network(), some_frames(2)
    cache = FrozenCache(model, "w", tmp_path, 0)
    made = cache.get(frames)
    path, other = (cache.path(cache.key(frame)) for frame in frames)
    content = path.read_bytes()
    changed = {"cut": content[:-9], "changed": content[:-1] + bytes([content[-1] ^ 1])}
    path.write_bytes(changed.get(damage) or other.read_bytes())
    with caplog.at_level(logging.WARNING):
        assert alike(cache.get(frames), made)
    assert "computed again" in caplog.text
    assert path.read_bytes() == content


def test_a_folder_that_cannot_be_written_to_is_told_and_done_without(tmp_path, caplog):
    (tmp_path / "file").write_text("in the way")
    model, frames = network(), some_frames(1)
    cache = FrozenCache(model, "w", tmp_path / "file" / "folder", 0)
    with caplog.at_level(logging.WARNING):
        found = cache.get(frames)
    assert "not kept on disk" in caplog.text
    assert alike(found, FrozenCache(model, "w").get(frames))


def test_numbers_too_large_for_float16_stay_numbers():
    model = network()
    with torch.no_grad():
        model.encoder.patch_embed.proj.weight[:, 0, 0, 0] = 1e6
    frozen = FrozenCache(model, "w").get(some_frames(1))
    assert frozen.patches.isfinite().all() and frozen.patches.abs().max() > 1e5


def test_clear_frees_memory_and_disk(tmp_path):
    (tmp_path / "mine.txt").write_text("stays")
    model = network()
    cache = FrozenCache(model, "w", tmp_path, ENTRY_BYTES)
    cache.get(some_frames())
    assert cache.clear() == 2
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"] and cache.memory_left == ENTRY_BYTES
    with pytest.raises(InputError, match="-1"):
        FrozenCache(model, "w", memory_bytes=-1)


def test_bfloat16_computes_under_autocast():
    model, frames = network(), some_frames(1)
    full, half = FrozenCache(model, "w"), FrozenCache(model, "w", precision=torch.bfloat16)
    assert not torch.equal(full.get(frames).tokens, half.get(frames).tokens)
    torch.testing.assert_close(full.get(frames).tokens, half.get(frames).tokens, atol=0.1, rtol=0.1)
