"""DoRA: lengths are the norms of what they multiply, to the bit, whatever type the base is in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from peft.tuners.lora import LoraLayer

from luthier.models import load
from luthier.models.adapters.peft.lora_forms import Dora
from luthier.models.quantizers import dequantised, is_quantised
from luthier.recipe import Plugin


def lengths(module: Any) -> list[tuple[LoraLayer, torch.Tensor]]:
    layers = [layer for layer in module.modules() if isinstance(layer, LoraLayer)]
    return [(layer, layer.lora_magnitude_vector["default"].weight) for layer in layers]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_lengths_are_norms_in_fp32(dtype: torch.dtype) -> None:
    found = lengths(Dora(r=4).attach(tiny.model(dtype=dtype)))
    assert len(found) == 14
    for layer, length in found:
        assert length.dtype == torch.float32
        weight = layer.get_base_layer().weight.float()
        assert torch.equal(length, torch.linalg.norm(weight, dim=1))


def test_lengths_on_a_base_in_few_bits_are_those_of_the_rounded_weights(tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes")
    model = tiny.folder(tmp_path, **tiny.WHOLE_BLOCKS)
    policy = load(model, [Plugin(name="dora", args={"r": 4})], device="cpu", quantize=Plugin(name="nf4"))
    for layer, length in lengths(policy.module):
        base: Any = layer.get_base_layer()
        assert is_quantised(base.weight)
        assert torch.equal(length, torch.linalg.norm(dequantised(base).float(), dim=1))
