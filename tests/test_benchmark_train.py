"""The benchmark of training names its figures and compares what it says."""

import json

import pytest
import torch

from allinsam.sam.attention import QuickAttention
from allinsam.sam.backbones import BACKBONES
from benchmarks import train
from tests.tiny import tiny_backbone


@pytest.fixture
def tiny(monkeypatch):
    monkeypatch.setitem(BACKBONES, "tiny_b", tiny_backbone(whole_patch=True).backbone)
    return "tiny_b"


def test_both_formulations_take_the_same_steps(tiny, monkeypatch):
    monkeypatch.setattr(train, "quick_bf16", lambda device: False)
    authors, ours, again = (
        train.Steps(tiny, **options) for options in ({"ours": False}, {}, {"recompute": True})
    )
    assert not any(type(block.attn) is QuickAttention for block in authors.network.encoder.blocks)
    assert all(type(block.attn) is QuickAttention for block in ours.network.encoder.blocks)
    losses = [[steps() for _ in range(3)] for steps in (authors, ours, again)]
    assert losses[0][0] != losses[0][2]
    assert losses[1] == pytest.approx(losses[0], abs=1e-4) and losses[2] == pytest.approx(losses[1], abs=1e-5)


def test_a_kept_frame_is_one_step_of_the_same_training(tiny, monkeypatch):
    monkeypatch.setattr(train, "quick_bf16", lambda device: False)
    plain, kept = train.Steps(tiny, first_block=1), train.Steps(tiny, first_block=1)
    assert kept(kept.cache().get(kept.frames)) == pytest.approx(plain(), abs=1e-2)


def test_report_holds_ratios_of_time_and_memory(tiny, monkeypatch, capsys):
    asked = []
    monkeypatch.setattr(train, "run_python", lambda code: asked.append(code) or (1.0, f"{900 / len(asked)}"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setitem(BACKBONES, "compact", BACKBONES[tiny])
    train.main(["--quick", "--threads", "1"])
    figures = json.loads(capsys.readouterr().out)["figures"]
    assert figures["compact_step_memory_ratio"]["value"] == 2.0
    assert figures["compact_step_memory_ratio_recompute"]["value"] == 3.0
    assert "'ours': False" in asked[0] and "'recompute': True" in asked[2]
    for label in ("step", "last_third"):
        assert {f"compact_{label}_{end}" for end in ("ratio", "cpu_ratio", "s")} <= set(figures)
    assert not any("gpu" in name for name in figures)
    assert 0 <= figures["ddp_loss_max_difference"]["value"] < 1e-4


def test_images_per_second_of_a_device(tiny):
    rate = train.gpu_figures({tiny: 2}, repeats=2, device="cpu")["tinyb_gpu_images_per_s"]
    assert rate["value"] > 0 and rate["n"] == 2 and "batches of 2" in rate["note"]


def test_peak_is_this_processes(tiny):
    assert train.peak_of_steps(tiny, {}) > 50
