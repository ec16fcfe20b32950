"""How fast this machine multiplies matrices: measured once for each type, number of threads and size.

It is kept in the cache. It takes a second or two (never more than 20) and is thrown away with the cache.
"""

from __future__ import annotations

import json
import os
import platform
import time
from pathlib import Path

from luthier import cache
from luthier.models.adapters.kit.shape import Shape
from luthier.run import write_atomically

MOST_SECONDS = 20.0
"""All of it."""
EACH_SECONDS = 0.6
"""For each of the two products."""
TOKENS = 1024
WIDEST = 4096
"""Larger matrices are no faster."""


def rate(shape: Shape, dtype: str, threads: int) -> float:
    """Floating-point operations a second of the matrix products of such a model on this processor, from the cache or
    measured now."""
    width, inner = (min(WIDEST, _rounded(size)) for size in (shape.width, shape.inner))
    name = f"{_processor()}, {threads} threads, {dtype}, {width} x {inner}"
    known = rates()
    if name not in known:
        known[name] = _measured(width, inner, dtype, threads)
        path = _path()
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, json.dumps(known, indent=1, sort_keys=True))
    return known[name]


def rates() -> dict[str, float]:
    """What has been measured. A file that cannot be read counts as none: it is written anew."""
    try:
        content = json.loads(_path().read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    if not isinstance(content, dict):
        return {}
    return {str(name): float(value) for name, value in content.items() if isinstance(value, int | float) and value > 0}


def _path() -> Path:
    return cache.root() / "advisor" / "rates.json"


def _rounded(size: int) -> int:
    return size if size < 64 else -(-size // 64) * 64


def _processor() -> str:
    """What this processor is called, as far as the system tells."""
    described = Path("/proc/cpuinfo")
    if described.is_file():
        for line in described.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return f"{line.partition(':')[2].strip()}, {os.cpu_count()} cores"
    return f"{platform.machine()}, {os.cpu_count()} cores"


def _measured(width: int, inner: int, dtype: str, threads: int) -> float:
    """The rate over a product up and one down, each the fastest of a few: what disturbs it only makes it slower."""
    import torch

    kind = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[dtype]
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    began = time.perf_counter()
    try:
        spent = 0.0
        for inputs, outputs in ((width, inner), (inner, width)):
            x, weight = torch.ones(TOKENS, inputs, dtype=kind), torch.ones(outputs, inputs, dtype=kind)
            best, first = float("inf"), time.perf_counter()
            for turn in range(1000):
                start = time.perf_counter()
                x @ weight.T
                now = time.perf_counter()
                best = min(best, now - start)
                enough = turn >= 2 and now - first > EACH_SECONDS
                if enough or now - began > MOST_SECONDS / 2:
                    break
            spent += best
    finally:
        torch.set_num_threads(before)
    return 2 * 2 * TOKENS * width * inner / spent
