"""How much memory a run uses and may use, in bytes: the device's on CUDA, the process's resident set on CPU."""

from __future__ import annotations

import resource
import sys
from pathlib import Path

import psutil
import torch


def used(device: torch.device) -> int:
    """Memory in use now."""
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device)
    return int(psutil.Process().memory_info().rss)


def peak(device: torch.device) -> int:
    """The most that was in use since the process began."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return largest if sys.platform == "darwin" else largest * 1024


def runs_out_with_an_error(device: torch.device) -> bool:
    """Does asking for too much memory raise an error here, instead of having the process killed?

    On a CPU it does so only under a limit on address space (`ulimit -v`) or with strict overcommit; otherwise memory
    is promised first and the process killed later, and there is nothing to learn from a rehearsal.
    """
    if device.type != "cpu":
        return True
    strict = Path("/proc/sys/vm/overcommit_memory")
    if strict.exists() and strict.read_text().strip() == "2":
        return True
    return resource.getrlimit(resource.RLIMIT_AS)[0] != resource.RLIM_INFINITY


def ran_out(error: BaseException) -> bool:
    """Is this error an out-of-memory error, of the device or of the process?"""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    signs = (
        "DefaultCPUAllocator",
        "not enough memory",
        "bad_alloc",
        "out of memory",
        "Cannot allocate memory",
        "ALLOC_FAILED",
    )
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in signs)
