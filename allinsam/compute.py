"""How many threads the model may use. More threads than free cores make it many times slower, not faster."""

import os

import torch

from allinsam.errors import InputError

# The first that is set counts.
VARIABLES = ("ALLINSAM_THREADS", "OMP_NUM_THREADS")


def cores() -> int:
    """Cores this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def free_cores() -> int:
    """Cores that nobody keeps busy at the moment, at least one."""
    busy = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    return max(1, round(cores() - busy))


def wanted_threads(default: int) -> int:
    """The setting in one of VARIABLES, else `default`."""
    for variable in VARIABLES:
        text = os.environ.get(variable, "").split(",")[0]  # OpenMP's has one for each level of nesting
        if text.isdigit() and int(text) > 0:
            return int(text)
        if text:
            raise InputError(f"{variable} is {text!r}. Set it to a whole number from 1 up, or not at all.")
    return default


def use_threads(default: int) -> int:
    """Limit torch to the setting in one of VARIABLES, else to `default` threads; returns how many."""
    threads = wanted_threads(default)
    torch.set_num_threads(threads)
    return threads


def quick_bf16(device_type: str) -> bool:
    """Whether this machine multiplies bfloat16 in hardware, at half the time; elsewhere it is emulated."""
    if device_type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
