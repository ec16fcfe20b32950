"""The machine, in words and in one number: how fast it multiplies bf16 matrices of the model's shape.

    python benchmarks/hardware.py

prints one JSON object. The rate varies on shared machines, so a benchmark takes it before and after its runs.
"""

from __future__ import annotations

import json
import os
import platform
import time
from pathlib import Path
from typing import Any

import psutil
import torch


def gflops(rows: int = 2048, inner: int = 576, columns: int = 1536, seconds: float = 2.0) -> float:
    """Best of many short rounds of (rows × inner) · (inner × columns) in bf16, in 10⁹ operations a second."""
    a = torch.randn(rows, inner).bfloat16()
    b = torch.randn(columns, inner).bfloat16()
    best, until = 0.0, time.perf_counter() + seconds
    while time.perf_counter() < until:
        began = time.perf_counter()
        for _ in range(10):
            torch.nn.functional.linear(a, b)
        best = max(best, 10 * 2 * rows * inner * columns / (time.perf_counter() - began))
    return round(best / 1e9, 1)


def hardware() -> dict[str, Any]:
    """Processor, cores, memory, operating system and the measured bf16 rate."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    fields = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    flags = [flag for flag in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if flag in fields.get("flags", "").split()]
    return {
        "cpu": fields.get("model name", platform.processor()),
        "cores": len(os.sched_getaffinity(0)) if platform.system() == "Linux" else os.cpu_count(),
        "flags": flags,
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "system": platform.platform(),
        "bf16_gflops": gflops(),
    }


if __name__ == "__main__":
    print(json.dumps(hardware()))
