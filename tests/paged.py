"""Tiny models whose every weight counts, and sequences read by a reader over pages."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import tiny
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor
from transformers import AutoModelForCausalLM

from luthier.models.decode.compiled import CompiledReader
from luthier.models.decode.step import OWN, PAGE, Run

SIZES = {"hidden_size": 64, "intermediate_size": 112, "initializer_range": 0.2}
"""Heads of 16 numbers, and widths that are no whole pieces of work."""
WINDOW = 9
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {"tie_word_embeddings": True},
    "mistral": {"sliding_window": WINDOW, "num_attention_heads": 4, "num_key_value_heads": 1},
    "qwen2": {"num_attention_heads": 4, "num_key_value_heads": 4},
    "qwen3": {"head_dim": 32, "num_attention_heads": 6, "num_key_value_heads": 1},
}


def model(family: str, dtype: torch.dtype = torch.float32, **keys: Any) -> Any:
    """A model of a family; biases and norms are drawn, too, so that leaving one out shows."""
    torch.manual_seed(0)
    config = tiny.config(family, **{**SIZES, **FAMILIES[family], **keys})
    module = AutoModelForCausalLM.from_config(config).eval()
    for name, weight in module.named_parameters():
        if weight.dim() == 1:
            weight.data = 0.3 * torch.randn_like(weight) + float("norm" in name)
    return module.to(dtype)


def adapted(module: Any, seed: int = 1, **keys: Any) -> Any:
    """The model with LoRA in fp32 that changes what it says."""
    torch.manual_seed(seed)
    config = LoraConfig(**{"r": 4, "lora_alpha": 8, "target_modules": "all-linear", "init_lora_weights": False, **keys})
    wrapped = get_peft_model(module, config).eval()
    for parameter in wrapped.parameters():
        if parameter.requires_grad:
            parameter.data = 3 * parameter.data.float()
    return wrapped


def reader(module: Any, pages: int = 64) -> CompiledReader:
    """A reader with so many pages; pages that nobody filled hold what is no number."""
    found = CompiledReader.of(module)
    assert isinstance(found, CompiledReader), found
    found.grow(pages)
    for slab in found._pages._slabs:
        slab.fill(255)
    return found


def cut(length: int, parts: Sequence[int]) -> list[tuple[int, int]]:
    """[start, end) of parts of these lengths, over and over."""
    bounds = [0]
    while bounds[-1] < length:
        bounds.append(min(length, bounds[-1] + parts[(len(bounds) - 1) % len(parts)]))
    return list(pairwise(bounds))


def read(
    own: CompiledReader, ids: Sequence[int], first_page: int, parts: Sequence[int] = (1,), adapter: int = OWN
) -> Tensor:
    """The logits after each part of a sequence that is read in parts of these lengths."""
    pages = list(range(first_page, first_page + -(-len(ids) // PAGE)))
    found = [
        own.read([Run(ids[start:end], start, pages[: -(-end // PAGE)], True, adapter)])
        for start, end in cut(len(ids), parts)
    ]
    return torch.cat(found)


def tokens(length: int, seed: int = 0) -> list[int]:
    """Tokens that all models here have."""
    draw = torch.Generator().manual_seed(seed)
    return torch.randint(0, tiny.VOCABULARY, (length,), generator=draw).tolist()
