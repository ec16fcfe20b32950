"""The task every peer is set: its command line, its rows, and the trainer's settings that make it the same task."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any


def arguments() -> tuple[SimpleNamespace, dict[str, Any], str]:
    """The command line of every peer script: WORKLOAD.json OUTPUT SETTINGS-as-JSON."""
    workload = SimpleNamespace(**json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))
    return workload, json.loads(sys.argv[3]), sys.argv[2]


def rows(workload: SimpleNamespace) -> list[dict[str, Any]]:
    """The training rows: `messages`, and for pairs `chosen` and `rejected`."""
    with Path(workload.train).open(encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def training(workload: SimpleNamespace, output: str, settings: dict[str, Any], rows_at_once: int) -> dict[str, Any]:
    """transformers' TrainingArguments: one epoch in the workload's batches at a constant rate, nothing saved meanwhile.

    `settings` are the contender's own and come last; without its `per_device_train_batch_size` there are
    `rows_at_once`, the tool's default.
    """
    micro = settings.get("per_device_train_batch_size", rows_at_once)
    return {
        "output_dir": output,
        "num_train_epochs": 1,
        "per_device_train_batch_size": micro,
        "gradient_accumulation_steps": workload.batch // micro,
        "learning_rate": workload.lr,
        "lr_scheduler_type": "constant",
        "weight_decay": 0.0,
        "max_grad_norm": 1.0,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "seed": workload.seed,
        **settings,
    }
