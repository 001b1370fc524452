"""Times and memory of embedding and decoding, for benchmarks.segment."""

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np
import torch

from allinsam.sam import openvino_encoder
from allinsam.sam.attention import use_quick_attention
from allinsam.sam.backbones import BACKBONES, LoadedBackbone
from allinsam.sam.embeddings import EmbeddingCache
from allinsam.sam.segmenter import Segmenter
from benchmarks.report import figure, milliseconds, progress

PATCH_PX = 512
# A process of its own: start Python, load the model, embed a patch, make one mask.
COLD_START = """
import numpy as np
from allinsam.sam.segmenter import open_segmenter
segmenter = open_segmenter({backbone!r})
image = np.random.default_rng(0).integers(0, 256, ({side}, {side}, 3), dtype=np.uint8)
segmenter.masks_from_boxes(segmenter.embed(image), [[100, 100, 130, 130]])
"""
PEAK = """
import torch
torch.set_num_threads({threads})
from benchmarks.segment_speed import {function}, peak_mb
before = peak_mb()
{function}({name!r})
print(peak_mb() - before)
"""


def random_patch() -> tuple[np.ndarray, np.ndarray]:
    """An image and 64 boxes of nuclei's size."""
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (PATCH_PX, PATCH_PX, 3), dtype=np.uint8)
    corners = rng.uniform(0, PATCH_PX - 40, (64, 2))
    return image, np.concatenate([corners, corners + rng.uniform(15, 40, (64, 2))], axis=1).astype(np.float32)


def compact_speed(segmenter: Segmenter, repeats: int) -> dict[str, dict]:
    """Embedding a patch, one box and 64 on it, reading it back from disk, a cold start."""
    image, boxes = random_patch()
    embedding = segmenter.embed(image)
    progress("times of a patch")
    embed_ms = milliseconds(lambda: segmenter.embed(image), repeats)
    one_ms = milliseconds(lambda: segmenter.masks_from_boxes(embedding, boxes[:1]), 4 * repeats)
    many_ms = milliseconds(lambda: segmenter.masks_from_boxes(embedding, boxes), repeats)
    single_ms = milliseconds(
        lambda: [segmenter.masks_from_boxes(embedding, box[None]) for box in boxes], max(2, repeats // 3)
    )
    with tempfile.TemporaryDirectory() as folder:
        EmbeddingCache(folder, segmenter).get(image)
        # A new cache each time has nothing in memory.
        read_ms = milliseconds(lambda: EmbeddingCache(folder, segmenter).get(image), repeats)
    name = segmenter.loaded.backbone.name
    progress("cold starts")
    cold_s = [run_python(COLD_START.format(backbone=name, side=PATCH_PX))[0] for _ in range(3)]
    return {
        "embed_512_s": figure([value / 1000 for value in embed_ms], "s"),
        "one_box_ms": figure(one_ms, "ms", note="mask in patch pixels, embedding at hand"),
        "boxes64_s": figure(
            [value / 1000 for value in many_ms],
            "s",
            median(single_ms) / 1000,
            "baseline: the same boxes one at a time",
        ),
        "read_embedding_ms": figure(read_ms, "ms", median(embed_ms), "baseline: embedding the patch"),
        "cold_first_mask_s": figure(cold_s, "s", note="from starting Python to the first mask"),
    }


def published_speed(name: str, repeats: int) -> dict[str, dict]:
    """A published architecture with random weights beside SamPredictor with the same, turn by turn."""
    from segment_anything import SamPredictor

    image, boxes = random_patch()
    reference, plain = random_backbone(name), random_backbone(name)
    use_quick_attention(plain.sam.image_encoder)
    predictor, quick, full = (
        SamPredictor(reference.sam),
        Segmenter(plain),
        Segmenter(plain, precision="fp32"),
    )
    segmenters = {"": quick, "_fp32": full}
    with tempfile.TemporaryDirectory() as folder:
        if openvino_encoder.is_installed():
            progress(f"compiling {name}")
            openvino_encoder.prepare(reference, folder)
            encoder = openvino_encoder.compiled_encoder(plain, quick.half, folder)
            segmenters["_optional"] = Segmenter(plain, encoder=encoder)
        embed_s: dict[str, list[float]] = {key: [] for key in ("predictor", *segmenters)}
        decode_s: dict[str, list[float]] = {key: [] for key in ("predictor", "")}
        embeddings = {}
        for turn in range(repeats + 1):
            progress(f"{name}, turn {turn}")
            times = {"predictor": seconds(lambda: predictor.set_image(image))[0]}
            for key, segmenter in segmenters.items():
                times[key], embeddings[key] = seconds(lambda segmenter=segmenter: segmenter.embed(image))
            decoding = {
                "predictor": seconds(lambda: predict_each(predictor, boxes))[0],
                "": seconds(lambda: quick.masks_from_boxes(embeddings[""], boxes))[0],
            }
            if turn:  # the first is for warming up
                for key, value in times.items():
                    embed_s[key].append(value)
                for key, value in decoding.items():
                    decode_s[key].append(value)
    expected = predictor.predict_torch(
        None,
        None,
        predictor.transform.apply_boxes_torch(torch.from_numpy(boxes[:8]), image.shape[:2]),
        multimask_output=False,
        return_logits=True,
    )[0][:, 0].numpy()
    off = np.abs(full.logits_from_boxes(embeddings["_fp32"], boxes[:8])[0] - expected).max()
    short = name.replace("_", "")
    note = "SamPredictor's time over ours, turn by turn; baseline: SamPredictor's seconds"
    figures = {}
    for key, values in embed_s.items():
        if key != "predictor":
            ratios = [theirs / ours for theirs, ours in zip(embed_s["predictor"], values, strict=True)]
            figures[f"{short}_embed_ratio{key}"] = figure(ratios, "x", median(embed_s["predictor"]), note)
            figures[f"{short}_embed_s{key}"] = figure(values, "s")
    ratios = [theirs / ours for theirs, ours in zip(decode_s["predictor"], decode_s[""], strict=True)]
    figures[f"{short}_boxes64_ratio"] = figure(ratios, "x", median(decode_s["predictor"]), note)
    figures[f"{short}_boxes64_s"] = figure(decode_s[""], "s")
    figures[f"{short}_logits_off"] = figure(
        [float(off / np.ptp(expected))], "of their range", note="fp32, largest difference to SamPredictor's"
    )
    progress("peak memory")
    for key, function in (("", "embed_quickly"), ("_predictor", "embed_by_predictor")):
        code = PEAK.format(threads=torch.get_num_threads(), function=function, name=name)
        figures[f"{short}_embed_peak_mb{key}"] = figure(
            [float(run_python(code)[1])], "MB", note="above start"
        )
    return figures


def random_backbone(name: str, seed: int = 0) -> LoadedBackbone:
    """An architecture with random weights, relative positions and all, as `segment_anything` computes it."""
    row = BACKBONES[name]
    torch.manual_seed(seed)
    sam = row.builder().eval()
    with torch.no_grad():
        for parameter_name, value in sam.image_encoder.named_parameters():
            if "rel_pos" in parameter_name or parameter_name == "pos_embed":
                value.normal_(std=0.02)  # they start as zeros
    return LoadedBackbone(row, sam, f"{seed:064x}", torch.device("cpu"))


def predict_each(predictor: object, boxes: np.ndarray) -> list[np.ndarray]:
    return [predictor.predict(box=box, multimask_output=False)[0] for box in boxes]


def embed_quickly(name: str) -> None:
    """One embedding in the default path, for its peak of memory."""
    loaded = random_backbone(name)
    use_quick_attention(loaded.sam.image_encoder)
    Segmenter(loaded).embed(random_patch()[0])


def embed_by_predictor(name: str) -> None:
    from segment_anything import SamPredictor

    SamPredictor(random_backbone(name).sam).set_image(random_patch()[0])


def peak_mb() -> float:
    """The most memory this process has held, as Linux counts it; 0 elsewhere."""
    # Not getrusage: a child starts from its parent's peak there.
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM")), 0.0)


def seconds(action: Callable[[], object]) -> tuple[float, object]:
    started = time.perf_counter()
    result = action()
    return time.perf_counter() - started, result


def run_python(code: str) -> tuple[float, str]:
    """Seconds and output of a fresh interpreter, started in the repository."""
    root = Path(__file__).resolve().parents[1]
    return seconds(
        lambda: (
            subprocess.run(
                [sys.executable, "-c", code], cwd=root, check=True, capture_output=True, text=True
            ).stdout
        )
    )
