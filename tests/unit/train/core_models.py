"""Tiny models of every shape the packed forward serves, and rows with a common prefix to run through them."""

from __future__ import annotations

import numpy as np
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma3TextConfig,
    GPT2Config,
    LlamaConfig,
    MistralConfig,
    Qwen2Config,
    Qwen3Config,
)

from luthier.train.batches import micro_batches
from luthier.train.forward import Forward
from luthier.types import Encoded

VOCABULARY = 97
SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
CONFIGS = {
    "llama": lambda: LlamaConfig(**SIZES, head_dim=8),
    "qwen2": lambda: Qwen2Config(**SIZES),
    "qwen3": lambda: Qwen3Config(**SIZES, head_dim=8),
    "mistral": lambda: MistralConfig(**SIZES, head_dim=8, sliding_window=16),
    "gemma3": lambda: Gemma3TextConfig(**SIZES, head_dim=8, sliding_window=8, query_pre_attn_scalar=8),
    "gemma2": lambda: Gemma2Config(**SIZES, head_dim=8, sliding_window=8),
    "gpt2": lambda: GPT2Config(
        vocab_size=VOCABULARY,
        n_embd=32,
        n_layer=2,
        n_head=4,
        n_positions=128,
        resid_pdrop=0,
        embd_pdrop=0,
        attn_pdrop=0,
        bos_token_id=1,
        eos_token_id=2,
    ),
}


def tiny(family: str, *, lora: bool = False, dtype: torch.dtype = torch.float32) -> nn.Module:
    """A random model whose attention is far from uniform; LoRA's B is not zero."""
    torch.manual_seed(1)
    model = AutoModelForCausalLM.from_config(CONFIGS[family](), attn_implementation="eager")
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
    generator = np.random.default_rng(seed)
    begin = generator.integers(0, VOCABULARY, prefix)
    examples = []
    for row in range(count):
        asked, answered = generator.integers(1, 20, 2)
        ids = np.concatenate([begin, generator.integers(0, VOCABULARY, asked + answered)]).astype(np.int32)
        weights = np.zeros(len(ids), np.float32)
        weights[-answered:] = 1 + row % 3
        examples.append(Encoded(ids=(ids,), weights=(weights,), row=row))
    return examples


def loss_and_gradients(model: nn.Module, examples: list[Encoded], budget: int = 100_000, **choices: object):
    """(total loss, all gradients end to end, the path taken) of one pass over the examples."""
    model.zero_grad()
    total = 0.0
    with Forward(model, **choices).opened() as forward:
        for batch in micro_batches(examples, budget, share_prefix=forward.share_prefix, layout=forward.layout):
            scored = forward.rows(batch, mean_logp=True)
            loss = -(scored.weight_S * scored.logp_S).sum() - 0.1 * scored.mean_logp_S.sum()
            loss.backward()
            total += loss.item()
    gradients = torch.cat([p.grad.flatten().float() for p in model.parameters() if p.grad is not None])
    return total, gradients, forward.path
