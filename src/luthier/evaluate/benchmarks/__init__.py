"""Benchmarks: published sets of questions, asked as their authors ask them. A benchmark is a frozen dataclass whose fields
are its YAML keys; what it must give, `benchmark.py` says."""

from __future__ import annotations

from luthier.registry import Registry

ROOM = "luthier.evaluate.benchmarks"
JUDGED = "luthier.evaluate.judging.entries"
BENCHMARKS = Registry(
    "benchmark",
    {
        "alpaca_eval": f"{JUDGED}:AlpacaEval",
        "arc": f"{ROOM}.picking:ARC",
        "arena_hard": f"{JUDGED}:ArenaHard",
        "boolq": f"{ROOM}.picking:BoolQ",
        "ceval": f"{ROOM}.chinese:CEval",
        "cmmlu": f"{ROOM}.chinese:CMMLU",
        "glue": f"{ROOM}.glue:GLUE",
        "gsm8k": f"{ROOM}.sums:GSM8K",
        "hellaswag": f"{ROOM}.picking:HellaSwag",
        "ifeval": f"{ROOM}.ifeval:IFEval",
        "humaneval": f"{ROOM}.programs:HumanEval",
        "math500": f"{ROOM}.sums:Math500",
        "mbpp": f"{ROOM}.programs:MBPP",
        "mmlu": f"{ROOM}.mmlu:MMLU",
        "mt_bench": "luthier.evaluate.judging.two_turns:MTBench",
        "perplexity": f"{ROOM}.perplexity:TextPerplexity",
        "piqa": f"{ROOM}.picking:PIQA",
        "truthfulqa": f"{ROOM}.picking:TruthfulQA",
        "win_rate": f"{JUDGED}:WinRateOf",
        "winogrande": f"{ROOM}.picking:WinoGrande",
    },
)
"""The built-in benchmarks, and those of the entry points `luthier.benchmark`."""
