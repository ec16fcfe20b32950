"""Adapters of random numbers in PEFT's format: as many as are wanted, each a folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from peft.utils import get_peft_model_state_dict
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModelForCausalLM

STRENGTH = 0.02
"""Standard deviation of B: enough to change what is said, not enough to make it noise."""


def make(folder: Path, model: str, count: int, rank: int = 8, dtype: torch.dtype = torch.float32) -> list[str]:
    """Names of `count` adapters of the model in `folder`; what lies there from before is taken as it is."""
    folder.mkdir(parents=True, exist_ok=True)
    names = [f"a{number:04d}" for number in range(count)]
    shapes: dict[str, torch.Size] | None = None
    for number, name in enumerate(names):
        place = folder / name
        if (place / "adapter_config.json").is_file():  # written last
            continue
        if shapes is None:
            config, shapes = _shapes(model, rank)
        place.mkdir(exist_ok=True)
        generator = torch.Generator().manual_seed(number)
        tensors = {key: _random(key, shape, generator).to(dtype) for key, shape in shapes.items()}
        save_file(tensors, place / "adapter_model.safetensors", {"format": "pt"})
        (place / "adapter_config.json").write_text(json.dumps(config, indent=1), encoding="utf-8")
    return names


def _random(key: str, shape: torch.Size, generator: torch.Generator) -> torch.Tensor:
    scale = STRENGTH if ".lora_B." in key else shape[-1] ** -0.5
    return torch.randn(shape, generator=generator) * scale


def _shapes(model: str, rank: int) -> tuple[dict[str, Any], dict[str, torch.Size]]:
    """PEFT's own configuration and the names and shapes of what it saves, of a model without numbers."""
    with torch.device("meta"):
        module: Any = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(model))
        peft = get_peft_model(module, LoraConfig(r=rank, lora_alpha=2 * rank, target_modules="all-linear"))
    config = peft.peft_config["default"].to_dict()
    config |= {"base_model_name_or_path": model, "inference_mode": True}
    config["target_modules"] = sorted(config["target_modules"])
    plain = {key: value for key, value in config.items() if isinstance(value, str | int | float | list | None)}
    return plain, {key: tensor.shape for key, tensor in get_peft_model_state_dict(peft).items()}
