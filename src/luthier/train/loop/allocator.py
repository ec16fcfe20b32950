"""Memory that suits training: freed blocks stay in the process, threads as the recipe says.

On Linux torch's CPU tensors come from glibc's malloc, which hands every block above a threshold straight back to the
kernel when it is freed. Training frees and asks for the same large blocks thousands of times, and each return costs
page faults and the zeroing of every page. Telling malloc to keep them is worth a tenth of the time of a CPU run.
"""

from __future__ import annotations

import gc

import torch

from luthier import machine

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD = -1, -2, -3
"""Parameters of mallopt(3), from malloc.h."""
LARGEST_THRESHOLD = (1 << 30, 32 << 20)
"""Blocks up to 1 GiB come from the heap; older glibc refuses more than 32 MiB."""
NEVER = -1
"""As a trim threshold: the heap's top is never given back."""
TOP_PAD = 64 << 20
"""How much the heap grows by at a time."""


def keep_freed_memory() -> str:
    """Set malloc to keep freed blocks. Returns one line that says what was done."""
    library = machine.glibc()
    if library is None:
        return "allocator: as it is (only glibc on Linux can be told to keep freed memory)"
    threshold = next((size for size in LARGEST_THRESHOLD if library.mallopt(M_MMAP_THRESHOLD, size)), 0)
    kept = library.mallopt(M_TRIM_THRESHOLD, NEVER) and library.mallopt(M_TOP_PAD, TOP_PAD)
    if not (threshold and kept):
        return "allocator: as it is (glibc refused the settings)"
    return f"allocator: freed blocks up to {threshold >> 20} MiB stay in the process"


def give_back(device: torch.device) -> None:
    """After an out-of-memory error: drop garbage and return all cached memory to the system."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    machine.give_back()
