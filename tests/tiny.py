"""Tiny real models and tiny real data: two layers with random weights, of Llama if nothing is said; random tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tiny_tokenizers
import torch
from peft import PeftModel
from transformers import (
    Gemma2Config,
    Gemma3TextConfig,
    GPT2Config,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    Qwen2Config,
    Qwen3Config,
)

from luthier import models
from luthier.models.adapters import Adapter
from luthier.models.adapters.peft.lora import Lora
from luthier.recipe import Model, Plugin, Recipe, Source, Train, Validate
from luthier.types import Encoded
from luthier.types import Source as Place

VOCABULARY = 64
UNUSED = 64
"""A token the model has and no row holds."""


SIZES = {
    "vocab_size": VOCABULARY + 1,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
}
FAMILIES: dict[str, Any] = {
    "llama": LlamaConfig,
    "qwen2": Qwen2Config,
    "qwen3": Qwen3Config,
    "mistral": MistralConfig,
    "gemma3": Gemma3TextConfig,
    "gemma2": Gemma2Config,
    "gpt2": GPT2Config,
}
GPT2_NAMES = {
    "hidden_size": "n_embd",
    "num_hidden_layers": "n_layer",
    "num_attention_heads": "n_head",
    "max_position_embeddings": "n_positions",
}


def config(family: str, **keys: Any) -> Any:
    """A configuration of one of the `FAMILIES`, without dropout; `keys` go by Llama's names."""
    sizes = {**SIZES, **keys}
    if family == "gpt2":  # its feed-forward layers are four times as wide, and every head has keys
        named = {GPT2_NAMES.get(key, key): size for key, size in sizes.items()}
        del named["intermediate_size"], named["num_key_value_heads"]
        return GPT2Config(**named, resid_pdrop=0, embd_pdrop=0, attn_pdrop=0)
    if family in ("qwen3", "gemma3", "gemma2"):  # whose heads do not get narrower with the model
        sizes.setdefault("head_dim", sizes["hidden_size"] // sizes["num_attention_heads"])
    return FAMILIES[family](**sizes)


def model(seed: int = 0, dtype: torch.dtype = torch.float32, **keys: Any) -> LlamaForCausalLM:
    """A Llama; `keys` are those of its configuration that differ from `SIZES`."""
    torch.manual_seed(seed)
    return LlamaForCausalLM(config("llama", **keys)).to(dtype)


WHOLE_BLOCKS = {"hidden_size": 64, "intermediate_size": 128, "initializer_range": 0.2}
"""What makes the rows of all matrices whole blocks of 64 weights, as bases in few bits want them."""


def folder(path: Path, module: Any = None, **keys: Any) -> Model:
    """A model folder of `module`, or of a model with these `keys`, with one token a word; as a recipe names it."""
    (model(**keys) if module is None else module).save_pretrained(path)
    tiny_tokenizers.words(VOCABULARY + 1).save_pretrained(path)
    return Model(name=str(path), dtype="fp32")


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


def rows(count: int, prefix: int, *, seed: int, ids: tuple[int, int], lengths: tuple[int, int]) -> list[Encoded]:
    """Rows that begin alike, then ask and answer in so many tokens (at least, less than); answers are scored."""
    draw = np.random.default_rng(seed)
    begin, found = draw.integers(*ids, prefix), []
    for _ in range(count):
        asked, answered = draw.integers(*lengths, 2)
        tokens = np.concatenate([begin, draw.integers(*ids, asked + answered)]).astype(np.int32)
        weights = np.zeros(len(tokens), np.float32)
        weights[-answered:] = 1
        found.append(Encoded(ids=(tokens,), weights=(weights,)))
    return found


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
            self.encoded.append(Encoded((ids.astype(np.int32),), (weights,), source=self.source(row)))
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
