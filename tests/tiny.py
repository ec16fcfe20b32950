"""A tiny real model and tiny real data for tests of training: two Llama layers with random weights, random tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import PeftModel
from transformers import LlamaConfig, LlamaForCausalLM

from luthier import models
from luthier.models.adapters import Adapter
from luthier.models.adapters.lora import Lora
from luthier.recipe import Model, Plugin, Recipe, Source, Train, Validate
from luthier.types import Encoded
from luthier.types import Source as Place

VOCABULARY = 64
UNUSED = 64
"""A token the model has and no row holds."""


def model(seed: int = 0, dtype: torch.dtype = torch.float32) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=VOCABULARY + 1,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
    )
    return LlamaForCausalLM(config).to(dtype)


def lora(seed: int = 0, dtype: torch.dtype = torch.float32, dropout: float = 0.0) -> Any:
    """A PEFT model whose B matrices are not zero, so that every gradient flows from the first step."""
    from peft import LoraConfig, get_peft_model

    base = model(seed, dtype)
    torch.manual_seed(seed + 1)
    config = LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", init_lora_weights=False, lora_dropout=dropout)
    module = get_peft_model(base, config)
    for parameter in module.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    return module


class Policy(models.Policy):
    """A real policy around a module that lies in no folder."""

    digest = "tiny"

    def __init__(self, module: Any, tokenizer: Any = None, adapters: Sequence[Adapter] | None = None) -> None:
        cpu, dtype = torch.device("cpu"), next(module.parameters()).dtype
        super().__init__(module, tokenizer, Model(name="tiny"), Path("tiny"), "tiny", cpu, dtype)
        self.adapters = list(adapters or ([Lora()] if isinstance(module, PeftModel) else []))

    def snapshot(self) -> dict[str, torch.Tensor]:
        return {name: weight.detach().clone() for name, weight in self.trainable()}


class Store:
    """Rows in memory: a prompt that does not train and an answer that does, of unequal lengths."""

    def __init__(self, rows: int, seed: int = 0, shortest: int = 6, longest: int = 30) -> None:
        random = np.random.default_rng(seed)
        self.encoded = []
        for row in range(rows):
            length = int(random.integers(shortest, longest + 1))
            # a cycle with a period of its own, so that there is something to learn
            ids = (random.integers(3, VOCABULARY) + np.arange(length) * int(random.integers(1, 4))) % VOCABULARY
            weights = np.ones(length, np.float32)
            weights[: int(random.integers(1, length - 2))] = 0
            self.encoded.append(Encoded((ids.astype(np.int32),), (weights,), row=row))
        self.digest = f"{rows}-{seed}-{shortest}-{longest}"
        self.lengths = np.array([len(each) for each in self.encoded], np.int32)
        self.scored = np.array([np.count_nonzero(each.weights[0]) for each in self.encoded], np.int32)

    def __len__(self) -> int:
        return len(self.encoded)

    def __getitem__(self, index: int) -> Encoded:
        return self.encoded[index]

    def source(self, index: int) -> Place:
        return Place("rows.jsonl", index + 1)


@dataclass
class Prepared:
    train: Store
    validation: Store | None = None


def recipe(folder: Path | str, *, validate: Validate | None = None, seed: int = 0, **train: Any) -> Recipe:
    # one thread: a tiny model gains nothing from two, and loses much when other processes want them
    basis = {"lr": 1e-2, "batch": 8, "micro_tokens": 128, "weight_decay": 0.1, "threads": 1}
    settings: dict[str, Any] = {**basis, **train}
    for key in ("optimizer", "schedule"):
        if isinstance(settings.get(key), str):
            settings[key] = Plugin(name=settings[key])
    return Recipe(
        model=Model(name="tiny"),
        data=(Source(path="rows.jsonl"),),
        train=Train(**settings),
        validate=validate or Validate(),
        output=str(folder),
        seed=seed,
    )
