"""What this machine is good at, told without importing torch."""

from __future__ import annotations

import ctypes
import os
import platform
import subprocess
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Literal

PRODUCTS = {"avx512_bf16", "amx_bf16", "bf16", "svebf16"}
"""Flags of processors that multiply bf16 numbers; the last two are ARM's."""
AMPERE = 8.0
"""The first compute capability of GPUs that do."""


def best_dtype() -> Literal["bf16", "fp32"]:
    """bf16 where the GPU, or without one the processor, multiplies such numbers; else fp32.

    A processor that cannot is several times slower in bf16 than in fp32: it converts each number.
    """
    capable = _capability() >= AMPERE if uses_gpu() else bool(_flags() & PRODUCTS)
    return "bf16" if capable else "fp32"


def uses_gpu() -> bool:
    """Is there a GPU that torch, as it is installed and told, would use?"""
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES", "all").strip() in ("", "-1", "none", "NoDevFiles")
    return not hidden and not metadata.version("torch").endswith("+cpu") and _capability() > 0


@cache
def _capability() -> float:
    """The lowest compute capability among the GPUs, 0 without one."""
    query = ["nvidia-smi", "--query-gpu=compute_cap", "--format=csv,noheader"]
    try:
        said = subprocess.run(query, check=True, capture_output=True, text=True, timeout=10).stdout
        return min((float(line) for line in said.split()), default=0.0)
    except (OSError, subprocess.SubprocessError, ValueError):
        return 0.0


@cache
def _flags() -> set[str]:
    """What the processor says it can do; nothing where the system does not tell."""
    described = Path("/proc/cpuinfo")
    if not described.is_file():
        return set()
    lines = (line.partition(":") for line in described.read_text(encoding="utf-8", errors="replace").splitlines())
    return next((set(value.split()) for key, _, value in lines if key.strip() in ("flags", "Features")), set())


def glibc() -> ctypes.CDLL | None:
    """The C library, where it is one whose malloc can be told something."""
    if platform.system() != "Linux" or platform.libc_ver()[0] != "glibc":
        return None
    return ctypes.CDLL(None)


def give_back() -> None:
    """Have malloc return to the system what is free."""
    library = glibc()
    if library is not None:
        library.malloc_trim(0)
