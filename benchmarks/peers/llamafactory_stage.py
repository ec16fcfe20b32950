"""What both stages of LLaMA-Factory are given: the entry point is the one that `llamafactory-cli train` calls."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from clock import Clock
from llamafactory.train.tuner import run_exp
from transformers import TrainingArguments

SYSTEM = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"
"""As the model's own chat template has it; LLaMA-Factory's copy of the template adds a full stop."""


def train(work: SimpleNamespace, settings: dict[str, Any], output: str, stage: dict[str, Any], entry: Any) -> None:
    """Train on the rows that `entry` (a value of dataset_info.json) describes, with the stage's own arguments."""
    folder = Path(output)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "dataset_info.json").write_text(json.dumps({"rows": entry}), encoding="utf-8")
    micro = settings.pop("per_device_train_batch_size", TrainingArguments.per_device_train_batch_size)
    given = {
        "model_name_or_path": work.model,
        "do_train": True,
        "finetuning_type": "lora",
        "lora_rank": work.rank,
        "lora_alpha": work.alpha,
        "lora_dropout": 0.0,
        "lora_target": "all",
        "template": "smollm2",
        "default_system": SYSTEM,
        "cutoff_len": work.max_tokens,
        "dataset_dir": str(folder),
        "dataset": "rows",
        "output_dir": output,
        "num_train_epochs": 1,
        "per_device_train_batch_size": micro,
        "gradient_accumulation_steps": work.batch // micro,
        "learning_rate": work.lr,
        "lr_scheduler_type": "constant",
        "weight_decay": 0.0,
        "max_grad_norm": 1.0,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "seed": work.seed,
    }
    run_exp(given | stage | settings, callbacks=[Clock("llamafactory", "llamafactory", "trl")])
