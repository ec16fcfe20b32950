"""An adapter whose first weights were taken out of the base's (PiSSA, OLoRA, CorDA, LoRA-GA), as plain LoRA on the base
as it was: W − s B₀ A₀ + s B A = W + s [B, −B₀] [A; A₀], of twice the rank.

Shape suffixes: O = outputs, I = inputs, R = rank.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from luthier.models.adapters.peft.tuner import whole

WEIGHTS = "adapter_model.safetensors"
"""PEFT's name of the file."""


def write_plain(module: Any, started: Mapping[str, Tensor], folder: Path) -> None:
    """Write the adapter of a PEFT model so that it loads on the untouched base. `started`: its weights at the start."""
    from peft import get_peft_model_state_dict

    state = get_peft_model_state_dict(module, save_embedding_layers=False)
    plain = {name: _joined(name, tensor.detach(), started[name]) for name, tensor in state.items()}
    save_file(_apart(plain), folder / WEIGHTS)
    plain_config(module).save_pretrained(str(folder))


def _joined(name: str, now: Tensor, before: Tensor) -> Tensor:
    if ".lora_A." in name or name.endswith(".lora_embedding_A"):
        return torch.cat([now, before.to(now)], 0)
    if ".lora_B." in name or name.endswith(".lora_embedding_B"):
        return torch.cat([now, -before.to(now)], 1)
    return now


def _apart(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Each tensor with memory of its own: a module that trains whole and is tied to another is named twice."""
    found: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, tensor in tensors.items():
        tensor = tensor.cpu().contiguous()
        place = tensor.untyped_storage().data_ptr()
        found[name] = tensor.clone() if place in seen else tensor
        seen.add(place)
    return found


def plain_config(module: Any) -> Any:
    """PEFT's configuration of plain LoRA at twice the rank, each layer with the scale it has."""
    from peft.tuners.lora import LoraLayer

    adapter = module.active_adapter
    config = copy.deepcopy(module.peft_config[adapter])
    layers = {n: layer for n, layer in module.get_base_model().named_modules() if isinstance(layer, LoraLayer)}
    config.r, config.lora_alpha = 2 * config.r, whole(2 * config.r * _scale(config, config.r, config.lora_alpha))
    config.rank_pattern, config.alpha_pattern = {}, {}
    for name, layer in layers.items():
        r, scale = 2 * layer.r[adapter], layer.scaling[adapter]
        if r != config.r:
            config.rank_pattern[name] = r
        if r != config.r or abs(scale * r - config.lora_alpha) > 1e-9:
            config.alpha_pattern[name] = whole(scale * r)
    config.use_rslora, config.init_lora_weights = False, True
    for key in ("corda_config", "eva_config", "lora_ga_config"):
        if getattr(config, key, None) is not None:
            setattr(config, key, None)
    config.inference_mode = True
    return config


def _scale(config: Any, r: int, alpha: float) -> float:
    return float(alpha / r**0.5 if config.use_rslora else alpha / r)
