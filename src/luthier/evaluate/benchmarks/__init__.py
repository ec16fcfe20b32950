"""Benchmarks: published sets of questions, asked as their authors ask them. A benchmark is a frozen dataclass whose
fields are its YAML keys; what it must give, `benchmark.py` says."""

from __future__ import annotations

from luthier.registry import Registry

ROOM = "luthier.evaluate.benchmarks"
JUDGED = "luthier.evaluate.judging.entries"
BENCHMARKS = Registry(
    "benchmark",
    {
        "alpaca_eval": f"{JUDGED}:AlpacaEval",
        "arc": f"{ROOM}.choices.picking:ARC",
        "arena_hard": f"{JUDGED}:ArenaHard",
        "boolq": f"{ROOM}.choices.picking:BoolQ",
        "ceval": f"{ROOM}.choices.chinese:CEval",
        "cmmlu": f"{ROOM}.choices.chinese:CMMLU",
        "glue": f"{ROOM}.choices.glue:GLUE",
        "gsm8k": f"{ROOM}.sums:GSM8K",
        "hellaswag": f"{ROOM}.choices.picking:HellaSwag",
        "ifeval": f"{ROOM}.ifeval:IFEval",
        "humaneval": f"{ROOM}.programs:HumanEval",
        "lm_eval": f"{ROOM}.harness:LMEval",
        "math500": f"{ROOM}.sums:Math500",
        "mbpp": f"{ROOM}.programs:MBPP",
        "mmlu": f"{ROOM}.choices.mmlu:MMLU",
        "mt_bench": "luthier.evaluate.judging.two_turns:MTBench",
        "perplexity": f"{ROOM}.perplexity:TextPerplexity",
        "piqa": f"{ROOM}.choices.picking:PIQA",
        "recall": f"{ROOM}.recall:Recall",
        "truthfulqa": f"{ROOM}.choices.picking:TruthfulQA",
        "win_rate": f"{JUDGED}:WinRateOf",
        "winogrande": f"{ROOM}.choices.picking:WinoGrande",
    },
)
"""The built-in benchmarks, and those of the entry points `luthier.benchmark`."""
