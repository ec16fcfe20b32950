"""A trainer callback that reports a run as one JSON line. All peers train through transformers' Trainer."""

from __future__ import annotations

import json
import os
import time
from importlib.metadata import version
from typing import Any

from transformers import TrainerCallback


def scored_tokens(batch: dict[str, Any]) -> int:
    """How many tokens of a batch train: those with a label, or those of completions. The first of a row never does."""
    if "completion_mask" in batch:
        return int(batch["completion_mask"][..., 1:].sum())
    return int((batch["labels"][..., 1:] != -100).sum())


class Clock(TrainerCallback):
    """Times the steps, collects the logged losses and, after the end, counts what the collator really fed."""

    def __init__(self, tool: str, *packages: str) -> None:
        self.report: dict[str, Any] = {"tool": tool, "losses": [], "step_seconds": []}
        self.report["versions"] = {name: version(name) for name in (*packages, "transformers", "peft", "torch")}
        self.began = 0.0

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.began = time.time()
        self.report.setdefault("first_step_at", self.began)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.report["step_seconds"].append(round(time.time() - self.began, 3))

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        logs = logs or {}
        if "loss" in logs:
            self.report["losses"].append(float(logs["loss"]))
        if "train_runtime" in logs:
            self.report["seconds"] = float(logs["train_runtime"])

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        model, tokens, scored, padded = kwargs["model"], 0, 0, 0
        self.report["trainable"] = sum(p.numel() for p in model.parameters() if p.requires_grad)
        self.report["dtypes"] = sorted({str(p.dtype).removeprefix("torch.") for p in model.parameters()})
        self.report["micro_batch"] = args.per_device_train_batch_size
        for batch in kwargs["train_dataloader"]:
            mask = batch.get("attention_mask")
            padded += batch["input_ids"].numel()
            # a 4-D mask (packing) has no padding to subtract beyond its own unused tail, which no tool here leaves
            tokens += int(mask.sum()) if mask is not None and mask.dim() == 2 else batch["input_ids"].numel()
            scored += scored_tokens(batch)
        self.report |= {"tokens": tokens, "scored": scored, "fed": padded, "threads": os.cpu_count()}
        print("\n" + json.dumps(self.report), flush=True)
