"""Tiny models of every shape the packed forward serves, and rows with a common prefix to run through them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import tiny
import torch
from passes import Pass, once
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import AutoModelForCausalLM

from luthier.types import Encoded

VOCABULARY = 97
SIZES = {
    "vocab_size": VOCABULARY,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {},
    "qwen2": {},
    "qwen3": {},
    "mistral": {"sliding_window": 16},
    "gemma3": {"sliding_window": 8, "query_pre_attn_scalar": 8},
    "gemma2": {"sliding_window": 8},
    "gpt2": {},
}


def config(family: str, **keys: Any) -> Any:
    return tiny.config(family, **SIZES, **FAMILIES[family], **keys)


def family_model(family: str, *, lora: bool = False, dtype: torch.dtype = torch.float32, **keys: Any) -> nn.Module:
    """A random model whose attention is far from uniform; LoRA's B is not zero."""
    torch.manual_seed(1)
    model = AutoModelForCausalLM.from_config(config(family, **keys), attn_implementation="eager")
    for parameter in model.parameters():
        if parameter.ndim > 1:
            nn.init.normal_(parameter, std=0.2)
    model = model.to(dtype)
    if lora:
        model = get_peft_model(model, LoraConfig(r=4, lora_alpha=8, target_modules="all-linear"))
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                nn.init.normal_(parameter, std=0.1)
    return model.train()


def rows(count: int = 9, prefix: int = 12, seed: int = 0) -> list[Encoded]:
    """Rows of mixed length that begin alike; the second half of each is scored, with a weight of its own."""
    made = tiny.rows(count, prefix, seed=seed, ids=(0, VOCABULARY), lengths=(1, 20))
    return [replace(row, weights=(row.weights[0] * np.float32(1 + n % 3),)) for n, row in enumerate(made)]


def loss_and_gradients(model: nn.Module, examples: list[Encoded], budget: int = 100_000, **choices: Any) -> Pass:
    """One pass of the examples, part of whose loss is on the whole distribution."""
    return once(model, examples, budget, mean=0.1, **choices)
