"""Benchmarks: published sets of questions, asked as their authors ask them. A benchmark is a frozen dataclass whose fields
are its YAML keys; what it must give, `benchmark.py` says."""

from __future__ import annotations

from luthier.registry import Registry

ROOM = "luthier.evaluate.benchmarks"
BENCHMARKS = Registry(
    "benchmark",
    {
        "gsm8k": f"{ROOM}.gsm8k:GSM8K",
        "mmlu": f"{ROOM}.mmlu:MMLU",
    },
)
"""The built-in benchmarks, and those of the entry points `luthier.benchmark`."""
