"""What every benchmark prints: facts of the machine, and figures with their spread."""

import json
import os
import platform
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median

import torch


def machine() -> dict:
    """The processor, how many cores this process may use and how busy they are, torch and its threads."""
    return {
        "cpu": _cpu_name(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "load": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
    }


def figure(values: Sequence[float], unit: str, baseline: float | None = None, note: str = "") -> dict:
    """One figure: median and spread of `values`, and a baseline in the same unit (`note` says which)."""
    return {
        "value": _rounded(median(values)),
        "unit": unit,
        "min": _rounded(min(values)),
        "max": _rounded(max(values)),
        "n": len(values),
        "baseline": None if baseline is None else _rounded(baseline),
        "note": note,
    }


def milliseconds(action: Callable[[], object], repeats: int) -> list[float]:
    """How long each of `repeats` calls takes, after one that is not counted."""
    action()
    taken = []
    for _ in range(repeats):
        started = time.perf_counter()
        action()
        taken.append(1000 * (time.perf_counter() - started))
    return taken


def progress(text: str) -> None:
    """A line for whoever is watching."""
    print(text, file=sys.stderr, flush=True)


def print_report(benchmark: str, figures: dict[str, dict]) -> None:
    """The benchmark's one JSON object, on standard output."""
    print(json.dumps({"benchmark": benchmark, "machine": machine(), "figures": figures}))


def shared_data() -> Path:
    """Folder of real images to measure on: ALLINSAM_SHARED_DATA, or shared/data beside the checkout."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    return Path(os.environ.get("ALLINSAM_SHARED_DATA", beside))


def _rounded(value: float) -> float:
    return float(f"{value:.4g}")


def _cpu_name() -> str:
    facts = Path("/proc/cpuinfo")
    if facts.exists():
        for line in facts.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
